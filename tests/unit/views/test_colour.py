"""The palette, held to what eyes need: contrast to the background, and colours that everybody can tell apart."""

from __future__ import annotations

from itertools import combinations

import pytest

from mematlas.views import colour
from mematlas.views.colour import PAPER, TONES, Palette
from mematlas.views.terminal import paint

Rgb = tuple[float, float, float]

STATES = ("own", "shared", "zero", "swapped", "cached", "dirty", "absent")
"""What lies side by side in pictures; unknown and special pages are rare, and have characters that nothing else has."""

# How people see who lack one kind of cone, as matrices over linear sRGB. Source: Machado, Oliveira and Fernandes,
# "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1.0.
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
PALETTES = [(background, depth) for background in PAPER for depth in (1 << 24, 256)]
IDS = [f"{background}-{depth}" for background, depth in PALETTES]


def rgb_of_index(number: int) -> tuple[int, int, int]:
    """Return the colour of an index of the 256 that xterm has, from 16 on."""
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    number -= 16
    return levels[number // 36], levels[number // 6 % 6], levels[number % 6]


def rgb_of_hex(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)


def colour_of(role: str, background: str, depth: int) -> tuple[int, int, int]:
    full, index, _ = TONES[role][background == "light"]
    return rgb_of_hex(full) if depth > 256 else rgb_of_index(index)


def linear(colour: tuple[int, int, int]) -> Rgb:
    """Return sRGB as amounts of light. Source: IEC 61966-2-1."""
    red, green, blue = (part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour)
    return red, green, blue


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Return the ratio of lightness of WCAG 2.1: 3 is the least for what is drawn."""
    low, high = sorted(sum(map(float.__mul__, (0.2126, 0.7152, 0.0722), linear(each))) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: Rgb) -> Rgb:
    """Return light as CIE L*a*b*, in which distances are about as large as they look."""
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    parts = [sum(map(float.__mul__, row, light)) / most for row, most in zip(rows, white, strict=True)]
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in parts)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour: tuple[int, int, int], eyes: str) -> Rgb:
    light = linear(colour)
    red, green, blue = (min(max(sum(a * b for a, b in zip(row, light, strict=True)), 0.0), 1.0) for row in EYES[eyes])
    return lab((red, green, blue))


@pytest.mark.parametrize(("background", "depth"), PALETTES, ids=IDS)
@pytest.mark.parametrize("role", TONES)
def test_every_colour_stands_out_from_its_background(role: str, background: str, depth: int) -> None:
    assert contrast(colour_of(role, background, depth), rgb_of_hex(PAPER[background])) >= 3


@pytest.mark.parametrize(("background", "depth"), PALETTES, ids=IDS)
@pytest.mark.parametrize("eyes", EYES)
def test_everybody_can_tell_the_states_apart(eyes: str, background: str, depth: int) -> None:
    looks = {role: seen(colour_of(role, background, depth), eyes) for role in STATES}
    distances = {
        (one, other): sum((a - b) ** 2 for a, b in zip(looks[one], looks[other], strict=True)) ** 0.5
        for one, other in combinations(STATES, 2)
    }

    # 2.3 is what trained eyes just see between two fields that touch.
    assert min(distances.values()) >= 13, min(distances, key=distances.__getitem__)


@pytest.mark.parametrize("background", PAPER)
def test_sixteen_colours_tell_all_states_apart(background: str) -> None:
    codes = [Palette(16, background == "light")[role] for role in STATES]

    assert len(set(codes)) == len(STATES)


def test_the_terminal_says_how_many_colours_and_which_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "_here", [])
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLORFGBG", "0;15")

    assert paint("s", "swapped", True) == "\x1b[38;2;204;74;12ms\x1b[0m"
    colour.set_background(light=False)
    assert paint("s", "swapped", True, changed=True) == "\x1b[38;2;255;106;61;7ms\x1b[0m"

"""Colours, by what they mean. A terminal without them loses nothing: every state has its own character too.

There is one palette, for dark and for light backgrounds, in as many colours as the terminal has. Every role has a
contrast of 3 or more to its background, and any two can be told apart by people who see red, green or blue otherwise:
`tests/unit/views/test_colour.py` computes both. Nothing is said by colour alone.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PAPER = {"dark": "#0f141b", "light": "#ffffff"}
"""The backgrounds that the palette is made for."""
INK = {"dark": "#e6ebf2", "light": "#1b222c"}
MUTED = {"dark": "#9aa6b5", "light": "#56606d"}
"""What is written on them, and what explains it."""

# What a page is -> (24 bits, of 256 colours, of 16) on a dark background, and on a light one.
TONES = {
    "own": (("#3d97ff", 33, 34), ("#0a4f9e", 25, 34)),
    "shared": (("#35c7a0", 72, 32), ("#00805f", 22, 32)),
    "zero": (("#b3bcc8", 250, 37), ("#4a5460", 239, 30)),
    "swapped": (("#ff6a3d", 209, 31), ("#cc4a0c", 166, 31)),
    "cached": (("#e3bdff", 219, 35), ("#a25bd6", 171, 35)),
    "dirty": (("#f7d35c", 228, 33), ("#5e4500", 137, 33)),
    "absent": (("#5a6675", 241, 90), ("#8a939f", 246, 90)),
    "unknown": (("#f49ac2", 211, 95), ("#a8326f", 125, 35)),
    "good": (("#35c7a0", 72, 32), ("#00805f", 22, 32)),
    "bad": (("#ff6a3d", 209, 31), ("#cc4a0c", 166, 31)),
}
SAME = {"present": "own", "idle": "own", "guard": "zero", "special": "unknown"}
"""Roles that share the colour of another, and differ by their characters."""


class Palette:
    """The colours of one terminal: ``palette["swapped"]`` is what turns the colour of swapped pages on.

    >>> Palette(depth=256)["swapped"], Palette(depth=16, light=True)["zero"]
    ('38;5;209', '30')
    """

    def __init__(self, depth: int = 256, light: bool = False) -> None:
        self.depth = depth
        self.light = light

    def __getitem__(self, role: str) -> str:
        full, of_256, of_16 = TONES[SAME.get(role, role)][self.light]
        if self.depth == 16:
            return str(of_16)
        if self.depth == 256:
            return f"38;5;{of_256}"
        return f"38;2;{int(full[1:3], 16)};{int(full[3:5], 16)};{int(full[5:], 16)}"


def depth_of(environment: Mapping[str, str]) -> int:
    """Return how many colours a terminal has, as its variables tell: 1 << 24, 256 or 16.

    >>> depth_of({"TERM": "xterm-256color"}), depth_of({"TERM": "linux"})
    (256, 16)
    """
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return 1 << 24
    terminal = environment.get("TERM", "")
    return 256 if "256color" in terminal or not terminal else 16


def is_light(environment: Mapping[str, str]) -> bool:
    """Whether a terminal has a light background, as far as it tells (COLORFGBG of rxvt, konsole, iTerm2 and others).

    >>> is_light({"COLORFGBG": "0;15"}), is_light({"COLORFGBG": "15;default;0"}), is_light({})
    (True, False, False)
    """
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "9", "10", "11", "12", "13", "14", "15")


_here: list[Palette] = []


def palette() -> Palette:
    """Return the palette of the terminal that we were started in."""
    if not _here:
        _here.append(Palette(depth_of(os.environ), is_light(os.environ)))
    return _here[0]


def set_background(light: bool) -> None:
    """Say that the terminal has a light background, or a dark one: it was asked, and has answered."""
    _here[:] = [Palette(depth_of(os.environ), light)]

"""Pictures as files: they hold what was meant, whatever stands in names, and everybody can read them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from constructed_recording import MIB, Looks, item, write_looks
from mematlas.arrays import Bytes
from mematlas.frozen import replace
from mematlas.timeline.recording import Recording
from mematlas.timeline.summary import Summary, summary_of
from mematlas.timeline.tracks import Track, tracks_of
from mematlas.views.colour import PAPER
from mematlas.views.figures import png
from mematlas.views.figures.canvas import HATCH, Box, Canvas, Words
from mematlas.views.figures.heatmap import CELL, MOST_ROWS, SHOWN, heatmap_picture
from mematlas.views.figures.lettering import STROKES, Letters, width_of_words
from mematlas.views.figures.page import MARGIN, WIDTH, cut
from mematlas.views.figures.png import SCALE, png_of, rgb_of
from mematlas.views.figures.scale import LEVELS, NONE, end_of_axis, level_of, shade_of, steps_up_to, time_ticks
from mematlas.views.figures.svg import svg_of
from mematlas.views.format import LEFT_OUT, format_path
from pictures import HOSTILE, SVG, pixels_of, texts_of

INK, RED, BLUE, WHITE = "#1b222c", "#ff0000", "#0000ff", "#ffffff"
ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Bytes that are no UTF-8, too, and characters that XML has not."""
DRAWN = {"svg", "defs", "pattern", "rect", "g", "path", "text", "title"}


def svg_root(canvas: Canvas) -> ElementTree.Element:
    return ElementTree.fromstring(b"".join(svg_of(canvas)))


def canvas_of(*shapes: Box | Words, width: int = 60, height: int = 40) -> Canvas:
    return Canvas(width, height, WHITE, "a picture", shapes)


def drawn(canvas: Canvas) -> Bytes:
    return pixels_of(b"".join(png_of(canvas)))


# SVG


@given(ANY_TEXT)
def test_any_name_is_a_text_of_well_formed_svg(name: str) -> None:
    root = svg_root(replace(canvas_of(Words(5, 20, name, 12, INK, whole=name)), title=name))
    (text,) = root.iter(f"{SVG}text")

    expected = format_path(name)
    assert "".join(text.itertext()).replace("\u00a0", " ") == 2 * expected  # as a title, and as a text
    assert [one.tag for one in text] == [f"{SVG}title"] * bool(name)
    assert root.attrib["aria-label"].replace("\u00a0", " ") == expected


@given(st.text(" \u00a0a", max_size=8))
def test_no_blanks_are_left_to_browsers(text: str) -> None:
    shown = next(svg_root(canvas_of(Words(0, 9, text, 12, INK))).iter(f"{SVG}text")).text or ""

    assert "  " not in shown
    assert shown == shown.strip(" ")
    assert shown.replace("\u00a0", " ") == format_path(text).replace("\u00a0", " ")


def test_svg_runs_nothing_and_needs_no_other_file() -> None:
    data = b"".join(svg_of(canvas_of(Box(0, 0, 9, 9, HATCH), Words(0, 9, HOSTILE, 12, INK, whole=HOSTILE))))
    root = ElementTree.fromstring(data)

    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= DRAWN
    assert not {name for one in root.iter() for name in one.attrib if "href" in name or name.startswith("on")}
    assert data.count(b"://") == 1  # the name of SVG
    assert b"<!" not in data


def test_boxes_of_one_colour_are_one_path() -> None:
    root = svg_root(canvas_of(Box(1, 2, 3, 4, RED), Box(10, 2, 3.5, 4, BLUE), Box(20.25, 2, 3, 4, RED)))

    paths = {one.attrib["fill"]: one.attrib["d"] for one in root.iter(f"{SVG}path")}
    assert paths == {RED: "M1 2h3v4h-3zM20.25 2h3v4h-3z", BLUE: "M10 2h3.5v4h-3.5z"}


# PNG


def test_png_has_the_pixels_that_were_meant() -> None:
    pixels = drawn(canvas_of(Box(10, 5, 20, 8, RED), Box(30, 5, 10.5, 8, BLUE)))

    expected = np.full((40 * SCALE, 60 * SCALE, 3), rgb_of(WHITE), np.uint8)
    expected[5 * SCALE : 13 * SCALE, 10 * SCALE : 30 * SCALE] = rgb_of(RED)
    expected[5 * SCALE : 13 * SCALE, 30 * SCALE : round(40.5 * SCALE)] = rgb_of(BLUE)
    assert (pixels == expected).all()


@pytest.mark.parametrize("strip", [1, 7, 33])
def test_a_picture_is_the_same_in_strips_of_any_height(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (
        *(Box(3, 4, 50, 20, HATCH), Box(1, 26, 9, 9, RED)),
        *(Words(30, 20, "gjq|", 12, INK, "middle"), Words(58, 39, "End", 9, RED, "end", bold=True)),
    )
    whole = drawn(canvas_of(*shapes))
    monkeypatch.setattr(png, "STRIP", strip)

    assert (drawn(canvas_of(*shapes)) == whole).all()
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) > 10  # texts are smooth


@pytest.mark.parametrize("seed", range(10))
def test_what_lies_outside_is_left_out(seed: int) -> None:
    random = Random(seed)

    def anywhere() -> float:
        return random.uniform(-80, 120)

    shapes = [Box(anywhere(), anywhere(), random.uniform(0, 200), random.uniform(0, 200), RED) for _ in range(5)]
    words = [
        Words(anywhere(), anywhere(), "Words", 12, INK, random.choice(["start", "middle", "end"])) for _ in "12345"
    ]

    assert drawn(canvas_of(*shapes, *words)).shape == (40 * SCALE, 60 * SCALE, 3)


def ink_of(words: Words) -> tuple[int, int]:
    """Return the first and the last column of pixels that a text is in."""
    columns = np.flatnonzero((drawn(canvas_of(words, width=200)) < 128).all(axis=2).any(axis=0))
    return int(columns[0]), int(columns[-1])


def test_a_text_stands_where_its_anchor_is() -> None:
    start, middle, end = (ink_of(Words(100, 20, "HH", 12, "#000000", anchor)) for anchor in ("start", "middle", "end"))

    width = start[1] - start[0]
    assert start[0] == pytest.approx(100 * SCALE, abs=2)
    assert middle[0] == pytest.approx(100 * SCALE - width / 2, abs=2)
    assert end[1] == pytest.approx(100 * SCALE, abs=2)


# Letters


def test_every_character_of_ascii_has_a_letter_of_its_own() -> None:
    letters = Letters(48)
    shapes = {letters.letter(chr(code)).tobytes() for code in range(33, 127)}

    assert STROKES.keys() == {chr(code) for code in range(33, 127)}
    assert len(shapes) == 94


@pytest.mark.parametrize("bold", [False, True])
def test_no_letter_is_cut_off(bold: bool) -> None:
    letters = Letters(48, bold)
    for character in STROKES:
        covered = letters.letter(character)
        assert covered.max() == 1
        edges = covered[0].max(), covered[-1].max(), covered[:, 0].max(), covered[:, -1].max()
        assert max(edges) == 0, character


def test_numbers_below_one_another_align() -> None:
    assert len({width_of_words(digit * 4, 12) for digit in "0123456789"}) == 1


@given(ANY_TEXT, st.floats(30, 300))
def test_a_text_is_cut_to_its_room_with_a_mark(text: str, room: float) -> None:
    short = cut(text, room, 12)

    assert width_of_words(short, 12) <= room
    assert short == text or LEFT_OUT in short
    head, _, tail = short.partition(LEFT_OUT)
    assert short == text or (text.startswith(head) and text.endswith(tail))


# Scales


def luminance(colour: str) -> float:
    """Return how light a colour is. Source: WCAG 2.1, relative luminance."""
    parts = [part / 255 for part in rgb_of(colour)]
    light = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(map(float.__mul__, (0.2126, 0.7152, 0.0722), light))


def test_shades_go_from_the_background_to_full_and_never_back() -> None:
    lights = [luminance(PAPER["light"]), *(luminance(shade_of(level)) for level in range(LEVELS + 1))]

    assert lights == sorted(set(lights), reverse=True)
    assert (lights[0] + 0.05) / (lights[-1] + 0.05) > 7
    # Whoever sees one of them alone knows whether it is none at all: that has no hue.
    red, _, blue = rgb_of(NONE)
    assert blue - red < 8 < 30 < min(rgb_of(shade_of(level))[2] - rgb_of(shade_of(level))[0] for level in (1, LEVELS))


@given(st.just(5e-324) | st.floats(0, 1e11), st.integers(1, 12))
def test_ticks_are_round_and_lie_in_time(seconds: float, most: int) -> None:
    ticks = time_ticks(seconds, most)

    assert 1 <= len(ticks) <= most + 1
    assert [ticks[0].at, ticks[0].text] == [0, "0"]
    assert all(0 <= tick.at <= seconds * (1 + 1e-9) for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks)


@given(st.floats(0, 1e20), st.integers(1, 8))
def test_an_axis_of_sizes_holds_the_peak(peak: float, most: int) -> None:
    end = end_of_axis(peak, most)

    assert end >= peak * (1 - 1e-9)
    assert steps_up_to(end, most)[-1] == pytest.approx(end)


# Heatmaps

STEPS = 8


def looks() -> Looks:
    """A heap that fills, a file that is not known once, and a second process from the second look to the fifth."""
    found = []
    for number in range(STEPS):
        size = MIB * STEPS
        unknown = item(0x20000000, size, MIB, "/srv/b.so")
        if number == 3:
            unknown = replace(unknown, usage=replace(unknown.usage, rss=None))
        look = {(7, "shop"): [item(0x10000000, size, MIB * number, "[heap]"), unknown]}
        if 2 <= number < 5:
            look[8, "worker"] = [item(0x10000000, size, size // 2, "[heap]")]
        found.append(look)
    return found


def read(path: str) -> tuple[Summary, list[Track]]:
    with Recording(path) as recording:
        return summary_of(recording), list(tracks_of(recording, is_fine=True))


def fill_at(canvas: Canvas, row: int, at: float) -> str | None:
    """Return what a row of a picture is filled with at a part of all its time; None where there is nothing."""
    cells = [shape for shape in canvas.shapes if isinstance(shape, Box) and shape.height == CELL]
    left, right = min(box.x for box in cells), max(box.x + box.width for box in cells)
    top = sorted({box.y for box in cells})[row]
    x = left + (right - left) * at
    found = [box.fill for box in cells if box.y == top and box.x <= x < box.x + box.width]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_heatmap_shows_what_was_recorded(tmp_path: Path) -> None:
    canvas = heatmap_picture(*read(write_looks(tmp_path / "x", looks())), "present", None, ascii_only=False)
    middles = [(number + 0.5) / STEPS for number in range(STEPS)]

    heap, file, worker = ([fill_at(canvas, row, at) for at in middles] for row in range(3))
    assert heap == [shade_of(level_of(number / STEPS)) for number in range(STEPS)]
    assert heap[0] == NONE
    assert file == [HATCH if number == 3 else shade_of(level_of(1 / STEPS)) for number in range(STEPS)]
    assert worker == [shade_of(level_of(0.5)) if 2 <= number < 5 else None for number in range(STEPS)]


def test_a_heatmap_says_what_it_shows_of_whom_and_since_when(tmp_path: Path) -> None:
    canvas = heatmap_picture(*read(write_looks(tmp_path / "x", looks())), "change", None, ascii_only=False)
    texts = texts_of(svg_root(canvas))

    assert texts[0] == "How much of each VMA came or went since the look before"
    assert "2 processes on oak" in texts
    assert any(text.startswith("since 2001-09-") and text.endswith(", 8 looks in 7.0 s") for text in texts)
    assert {"shop, PID 7", "worker, PID 8, ended after 5.0 s", "none", "not known", "peak RSS"} <= set(texts)
    assert {"0", "1 s", "7 s", "after the first look"} <= set(texts)
    assert fill_at(canvas, 1, 3.5 / STEPS) == fill_at(canvas, 1, 4.5 / STEPS) == HATCH


def random_looks(random: Random) -> Looks:
    """Return up to 300 VMAs of up to three processes, of names short and long."""
    names = [
        random.choice(["[heap]", "/a/", HOSTILE, "\u65e5\u672c"]) + "x" * random.randrange(250) for _ in range(100)
    ]
    processes = [(pid, random.choice(names)[:15]) for pid in range(1, random.randrange(2, 5))]
    return [
        {
            process: [
                item(0x10000000 + number * MIB, MIB, random.randrange(256) * 4096, random.choice(names))
                for number in range(random.randrange(1, 100))
            ]
            for process in processes
            if random.random() < 0.9 or process == processes[0]
        }
        for _ in range(random.randrange(1, 12))
    ]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_of_a_heatmap_is_beyond_its_page_or_upon_another(seed: int, ascii_only: bool, tmp_path: Path) -> None:
    random = Random(seed)
    found = read(write_looks(tmp_path / "x", random_looks(random), random.choice([0.05, 1.0, 4000.0])))
    canvas = heatmap_picture(*found, "present", random.choice([None, 1, 500]), ascii_only)
    cells = [shape for shape in canvas.shapes if isinstance(shape, Box) and shape.height == CELL]
    words = [shape for shape in canvas.shapes if isinstance(shape, Words)]
    left, right = min(box.x for box in cells), max(box.x + box.width for box in cells)

    for one in words:
        assert format_path(one.text) == one.text
        assert not ascii_only or one.text.isascii()
        width = width_of_words(one.text, one.size, one.bold)
        start = one.x - {"start": 0, "middle": width / 2, "end": width}[one.anchor]
        assert MARGIN - 1 <= start <= start + width <= WIDTH - MARGIN + 8
        assert 0 < one.y < canvas.height
        beside = [box for box in cells if box.y < one.y - 3 < box.y + box.height]
        assert not beside or start + width < left or start > right
    svg_root(canvas)


def test_one_look_at_one_vma_is_a_picture(tmp_path: Path) -> None:
    found = read(write_looks(tmp_path / "x", [{(7, "shop"): [item(0x10000000, MIB, MIB, "[heap]")]}]))
    canvas = heatmap_picture(*found, "present", None, ascii_only=True)

    assert {fill_at(canvas, 0, at) for at in (0.01, 0.5, 0.99)} == {shade_of(LEVELS)}
    assert any(text.endswith(", 1 look") for text in texts_of(svg_root(canvas)))


def test_a_path_of_any_length_leaves_a_picture_small(tmp_path: Path) -> None:
    vmas = [item(0x10000000, MIB, MIB, "/" + "\x01" * 16_000)]
    canvas = heatmap_picture(*read(write_looks(tmp_path / "x", [{(7, "shop"): vmas}])), "present", None, False)

    assert len(b"".join(svg_of(canvas))) < 20_000
    assert max(len(shape.whole) for shape in canvas.shapes if isinstance(shape, Words)) > 1_000


def test_rows_are_bounded_and_those_left_out_are_said(tmp_path: Path) -> None:
    nr_vmas = MOST_ROWS + 50
    vmas = [item(0x10000000 + number * MIB, MIB, 4096, f"/lib/{number}.so") for number in range(nr_vmas)]
    found = read(write_looks(tmp_path / "x", [{(7, "shop"): vmas}]))

    for limit, nr_rows in ((None, SHOWN), (3, 3), (nr_vmas, MOST_ROWS)):
        canvas = heatmap_picture(*found, "present", limit, ascii_only=False)
        assert len([shape for shape in canvas.shapes if isinstance(shape, Box) and shape.height == CELL]) == nr_rows
        assert f"{nr_vmas - nr_rows:,} more rows, of VMAs that had less (--limit)" in texts_of(svg_root(canvas))

"""Pictures: what a character stands for, and that all of them fit."""

from __future__ import annotations

import pytest

from mematlas.analysis.grid import Cells, Strip
from mematlas.kernel.maps import parse_maps
from mematlas.views.format import fold
from mematlas.views.picture import Previous, cell_that_fits, histogram_view, map_view

PAGE = 4096  # of the machine that these pictures are of
MAPS = b"".join(
    b"%x-%x rw-p 00000000 00:00 0 /lib/a-long-name-of-a-library.so\n" % (at << 32, (at << 32) + (1 << 28 + at % 3))
    for at in range(1, 9)
)
VMAS = parse_maps(MAPS)
SIZES = [(vma.end - vma.start) // PAGE for vma in VMAS]


def column(**pages: int) -> str:
    """Return the character of a column of 100 pages, of which so many are of these classes."""
    cells = Cells(100, 100)
    for name, nr_pages in pages.items():
        if name == "present":
            cells.counted[0] = {0x80: nr_pages}
        else:
            cells.add_hole(0, nr_pages, name)
    (line,) = histogram_view(cells, [(VMAS[0], 0)], PAGE, {}, False, []).lines()
    return line[1]


@pytest.mark.parametrize(
    ("pages", "character"),
    [
        ({}, " "),
        ({"present": 100}, "█"),
        ({"present": 30, "swapped": 60}, "s"),
        ({"present": 60, "swapped": 30}, "▅"),
        ({"present": 10, "swapped": 20, "unknown": 70}, "?"),
        ({"unknown": 1}, "?"),
    ],
    ids=str,
)
def test_column_shows_what_most_of_it_is(pages: dict[str, int], character: str) -> None:
    assert column(**pages) == character


def picture(width: int, cell_pages: int, rows: int | None = None) -> list[str]:
    strips = [Strip(vma, vma.start, vma.end, Cells(size, cell_pages)) for vma, size in zip(VMAS, SIZES, strict=True)]
    for strip in strips:
        for name in ("cached", "unknown", "swapped", "special", "guard"):
            strip.cells.add_hole(0, 1000, name)
    return list(map_view(strips, PAGE, width, {}, False, Previous(), [], rows=rows).lines())


@pytest.mark.parametrize("width", [37, 40, 45, 69, 70, 100, 1000])
def test_no_line_is_wider_than_asked(width: int) -> None:
    lines = picture(width, 1 << 12)

    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("rows", [20, 39, 100])
@pytest.mark.parametrize("width", [70, 100, 300])
def test_cells_are_chosen_so_that_the_whole_fits(width: int, rows: int) -> None:
    cell_pages = cell_that_fits(SIZES, width, rows)

    assert len(picture(width, cell_pages)) <= rows
    assert len(picture(width, cell_pages // 2)) > rows - 9


def test_legend_stays_where_there_are_more_vmas_than_lines() -> None:
    whole, cut = picture(80, 1 << 12), picture(80, 1 << 12, rows=12)

    assert len(cut) == 12
    assert cut[-8:] == whole[-8:]
    assert [line for line in cut if line.startswith("... ")] == [f"... {len(whole) - 11} more lines: pick an AREA"]


def test_folded_text_loses_no_word() -> None:
    assert fold("shared memory in RAM, no entry here", 14) == ["shared memory", "in RAM, no", "entry here"]
    assert fold("present,writable,dirty", 8) == ["present,", "writable,", "dirty"]


def drawn(byte: int, nr_accessed: int, width: int = 100) -> list[str]:
    """Return the picture of one cell of four pages of this state, of which so many were accessed."""
    cells = Cells(4, 4)
    cells.counted[0] = {byte: 4}
    cells.used = {0: (nr_accessed, 0)}
    strip = Strip(VMAS[0], VMAS[0].start, VMAS[0].start + 4 * PAGE, cells)
    return list(map_view([strip], PAGE, width, {}, False, Previous(), []).lines())


@pytest.mark.parametrize(
    ("byte", "nr_accessed", "character"),
    [(0x81, 4, "█"), (0x80, 4, "#"), (0x81, 1, "I"), (0x80, 1, "J"), (0x81, 2, "█")],
)
def test_idle_memory_is_still_told_to_be_shared_or_not(byte: int, nr_accessed: int, character: str) -> None:
    lines = drawn(byte, nr_accessed)

    assert lines[0][-1] == character
    assert any(line.startswith(("iI", "jJ")) for line in lines) == (character in "IJ")


@pytest.mark.parametrize("width", [40, 70])
def test_the_legend_of_use_is_no_wider_than_asked(width: int) -> None:
    assert max(map(len, drawn(0x80, 1, width))) <= width

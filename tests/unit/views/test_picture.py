"""Pictures: what a character stands for, and that all of them fit."""

from __future__ import annotations

import pytest

from helpers import keyed_rows, texts
from mematlas.analysis.grid import Cells, Density, Grid, Stretch, Strip, cut_in_strips
from mematlas.analysis.neighbours import Fit
from mematlas.analysis.results import Reading
from mematlas.kernel.maps import parse_maps
from mematlas.kernel.pagemap import Block
from mematlas.views.format import fold, width_of
from mematlas.views.histogram import histogram_view
from mematlas.views.picture import Previous, fit_of, left_of, map_view

PAGE = 4096  # of the machine that these pictures are of
MAPS = b"".join(
    b"%x-%x rw-p 00000000 00:00 0 /lib/a-long-name-of-a-library.so\n" % (at << 32, (at << 32) + (1 << 28 + at % 3))
    for at in range(1, 9)
)
VMAS = parse_maps(MAPS.split(b"\n"))
SIZES = [(vma.end - vma.start) // PAGE for vma in VMAS]
READING = Reading("pagemap", 0.0, False, ())
WHOLE = Stretch(VMAS[0], VMAS[0].start, VMAS[0].end, 0)


def column(**pages: int) -> str:
    """Return the character of a column of 100 pages, of which so many are of these classes."""
    cells = Cells(100, 100)
    for name, nr_pages in pages.items():
        if name == "present":
            cells.counted[0] = {0x80: nr_pages}
        else:
            cells.add_hole(0, nr_pages, name)
    line, _ = histogram_view(Density(cells, [WHOLE], READING), [], PAGE, {}, False).lines()
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


ALL = [(vma, vma.start, vma.end) for vma in VMAS]


def picture(width: int, cell_pages: int | None, rows: int | None = None, fit: Fit | None = None) -> list[str]:
    strips = cut_in_strips(ALL, [], cell_pages, PAGE, fit)
    for strip in strips:
        for name in ("cached", "unknown", "swapped", "special", "guard"):
            strip.cells.add_hole(0, 1000, name)
    return list(map_view(Grid(strips, READING), PAGE, width, {}, False, Previous(), rows=rows).lines())


@pytest.mark.parametrize("width", [37, 40, 45, 69, 70, 100, 1000])
def test_no_line_is_wider_than_asked(width: int) -> None:
    lines = picture(width, 1 << 12)

    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_cells_begin_in_one_column_however_long_an_address_is(width: int) -> None:
    lines = (b"1000000000-1000001000 rw-p 0 00:00 0", b"ffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]")
    parts = [(vma, vma.start, vma.end) for vma in parse_maps(lines)]
    shown = list(map_view(Grid(cut_in_strips(parts, [], 1, PAGE), READING), PAGE, width, {}, False, Previous()).lines())
    drawn = [line for line in shown if line.startswith("0x")]

    assert len(drawn) == 2
    assert {line.rindex(" ") for line in drawn} == {left_of(width) - 1}


@pytest.mark.parametrize("width", [60, 80])
def test_cells_begin_in_one_column_whatever_the_script_of_a_name(width: int) -> None:
    line = "1000000000-1000001000 rw-p 0 00:00 0 /" + "\u65e5\u672c\u8a9e" * 9
    parts = [(vma, vma.start, vma.end) for vma in parse_maps([line.encode()])]

    shown = map_view(Grid(cut_in_strips(parts, [], 1, PAGE), READING), PAGE, width, {}, False, Previous()).lines()

    (drawn,) = [line for line in shown if line.startswith("0x")]
    assert width_of(drawn[: drawn.rindex(" ") + 1]) == left_of(width)


@pytest.mark.parametrize("rows", [20, 39, 100])
@pytest.mark.parametrize("width", [70, 100, 300])
def test_cells_are_chosen_so_that_the_whole_fits(width: int, rows: int) -> None:
    fit = fit_of(width, rows, is_joined=False)
    cell_pages = cut_in_strips(ALL, [], None, PAGE, fit)[0].cells.cell_pages

    assert len(picture(width, None, fit=fit)) <= rows
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
    vma, end = VMAS[0], VMAS[0].start + 4 * PAGE
    strip = Strip(vma, vma.start, end, cells, (Stretch(vma, vma.start, end, 0),))
    return list(map_view(Grid([strip], READING), PAGE, width, {}, False, Previous()).lines())


@pytest.mark.parametrize(
    ("byte", "nr_accessed", "character"),
    [(0x81, 4, "█"), (0x80, 4, "#"), (0x81, 1, "I"), (0x80, 1, "J"), (0x81, 2, "█")],
)
def test_idle_memory_is_still_shown_as_shared_or_not(byte: int, nr_accessed: int, character: str) -> None:
    lines = drawn(byte, nr_accessed)

    assert lines[0][-1] == character
    assert any(line.startswith(("iI", "jJ")) for line in lines) == (character in "IJ")


@pytest.mark.parametrize("width", [40, 70])
def test_the_legend_of_use_is_no_wider_than_asked(width: int) -> None:
    assert max(map(len, drawn(0x80, 1, width))) <= width


def folded(nr_vmas: int, width: int) -> list[str]:
    """Return the picture of eight VMAs, the first of which are folded, of the last 32 MiB in its middle."""
    runs = [(vma.start, vma.end) for vma in VMAS[:nr_vmas]]
    middle = VMAS[-1].start + (64 << 20)
    runs.append((middle, middle + (32 << 20)))
    strips = cut_in_strips(ALL, runs, 1 << 12, PAGE)
    return list(map_view(Grid(strips, READING), PAGE, width, {}, False, Previous()).lines())


def test_vmas_that_are_folded_share_a_line_and_a_run_stands_among_the_cells() -> None:
    lines = folded(5, 80)

    assert lines[0] == "0x000100000000  3.25 GiB      5 VMAs           [3.25 GiB]"
    assert "0x000800000000     1 GiB rw-p a-long-name-of-~ ····[32 MiB]·····················" in lines
    assert sum(line.startswith("0x") for line in lines) == 4


@pytest.mark.parametrize("width", [40, 69, 70, 100])
def test_what_is_folded_is_said_and_no_line_is_too_wide(width: int) -> None:
    lines = folded(7, width)

    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).endswith("in 8 places; --reserved draws them")


def test_columns_beside_a_fold_have_their_own_addresses() -> None:
    (vma,) = parse_maps([b"100000-a00000 rw-p 00000000 00:00 0"])
    folds = [(0x200000, 0x900000)]
    stretches = [Stretch(vma, 0x100000, 0x200000, 0), Stretch(vma, 0x900000, 0xA00000, 256)]
    view = histogram_view(Density(Cells(512, 256), stretches, READING), folds, PAGE, {}, False)

    assert [(row["start"], row["nr_pages"], row["nr_folded"]) for row in keyed_rows(view)] == [
        (0x100000, 256, 1792),
        (0x900000, 256, 0),
    ]
    assert texts(view.notes) == ["7 MiB of untouched memory in 1 place is left out (~): --reserved shows it"]
    assert list(view.lines()) == ["| ~ | 0/2,304", "      1 MiB a column"]


def test_histogram_of_what_is_used_counts_all_that_was_asked_for() -> None:
    """A bar that is full, of a file that is hardly used, is marked where the rest is."""
    (vma,) = parse_maps([b"100000-a00000 r--s 00000000 fe:00 7 /f"])
    cells = Cells(256, 256)
    cells.add(0, Block(0x100000, memoryview(bytes(256 * 8)), bytes([0x81]) * 256))
    density = Density(cells, [Stretch(vma, 0x100000, 0x200000, 0)], READING)
    view = histogram_view(density, [(0x200000, 0xA00000)], PAGE, {}, False)

    assert list(view.lines()) == ["|█~| 256/2,304", "     1 MiB a column"]


def test_histogram_with_many_folds_has_no_marks_and_says_so() -> None:
    (vma,) = parse_maps([b"0-10000000 rw-p 00000000 00:00 0"])
    stretches = [Stretch(vma, step << 20, (step << 20) + PAGE, step) for step in range(20)]
    folds = [((step << 20) + PAGE, step + 1 << 20) for step in range(20)]
    line, _ = (view := histogram_view(Density(Cells(20, 1), stretches, READING), folds, PAGE, {}, False)).lines()

    assert line == f"|{' ' * 20}| 0/{20 << 8:,}"
    assert "(~)" not in texts(view.notes)[0]


def test_scale_names_what_begins_where_there_is_room() -> None:
    lines = [
        b"1000-11000 rw-p 00000000 00:00 0 [heap]",
        b"20000-28000 r--p 00000000 08:01 5 /lib/libc.so.6",
        b"28000-30000 r-xp 00008000 08:01 5 /lib/libc.so.6",
        b"40000-50000 rw-p 00000000 00:00 0 [stack]",
    ]
    vmas = parse_maps(lines)
    places = (0, 16, 24, 32)
    stretches = [Stretch(vma, vma.start, vma.end, place) for vma, place in zip(vmas, places, strict=True)]

    bars, names = histogram_view(Density(Cells(48, 2), stretches, READING), [], PAGE, {}, False).lines()

    assert bars == "|                        | 0/48"
    assert names == " [heap]  libc.so.6         8 KiB a column"

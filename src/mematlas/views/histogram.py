"""How dense memory is, in one line: all VMAs end to end, and below it which of them is where."""

from __future__ import annotations

from bisect import bisect_right

from mematlas.analysis.grid import nr_present
from mematlas.frozen import record
from mematlas.notes import Note, Notes
from mematlas.views.format import format_size, number_of
from mematlas.views.picture import ASCII_BARS, ASCII_GLYPHS, BARS, GLYPHS, short_name
from mematlas.views.table import Column, Drawn
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mematlas.analysis.grid import Cells, Density, Stretch


@record
class Bar:
    """One column of a histogram."""

    column: int
    start: int
    nr_pages: int
    nr_present: int
    nr_swapped: int
    nr_folded: int


COLUMN_COLUMNS: tuple[Column[Bar], ...] = (
    Column("column", "COLUMN", "count"),
    Column("start", "START", "address"),
    Column("nr_pages", "PAGES", "count"),
    Column("nr_present", "PRESENT", "count"),
    Column("nr_swapped", "SWAPPED", "count"),
    Column("nr_folded", "FOLDED", "count"),
)
FOLDED = "{size} of untouched memory in {places} is left out{mark}: --reserved shows it"
MARK = "~"
MAX_MARKS = 8
"""Places of a histogram at which it is marked that something is left out: of more than that none is."""


LEAST_NAMED = 2
"""Columns of what is named below them: a name that is wider than what it stands for misleads."""


def bar(nr_present: int, nr_pages: int, bars: str) -> str:
    """Return the bar of a share: blank only for none at all, full only for all.

    >>> bar(1, 1000, BARS), bar(999, 1000, BARS), bar(7, 7, BARS)
    ('▁', '▇', '█')
    """
    if nr_present == 0:
        return bars[0]
    if nr_present >= nr_pages:
        return bars[-1]
    return bars[1 + nr_present * (len(bars) - 2) // nr_pages]


def histogram_view(
    density: Density, folds: list[tuple[int, int]], page_size: int, target: dict[str, Any], ascii_only: bool
) -> Drawn:
    """Return the density of present pages over all VMAs, end to end, as one line, and below it what is where."""
    cells, stretches, notes = density.cells, density.stretches, Notes(density.reading.notes)
    counts = [cells.classes(cell) for cell in range(cells.nr_cells)]
    starts = addresses_of(range(0, cells.nr_pages, cells.cell_pages), stretches, page_size)
    rows = bars_of(cells, counts, starts, folded_pages(starts, folds, page_size))
    marked = {bisect_right(starts, low) for low, _ in folds}
    if len(marked) > MAX_MARKS:
        marked = set()
    if folds:
        notes.add(folded_note(folds, bool(marked)))

    def draw(in_bytes: bool, colour: bool, screen: int) -> Iterator[str]:
        bars, glyphs = (ASCII_BARS, ASCII_GLYPHS) if ascii_only else (BARS, GLYPHS)
        parts = []
        mark = paint(MARK, "absent", colour)
        for classes, row in zip(counts, rows, strict=True):
            parts += [mark] * (row.column in marked)
            amounts = classes | {"present": row.nr_present}
            name = max(("present", "swapped", "unknown"), key=amounts.__getitem__)
            character = bar(row.nr_present, row.nr_pages, bars) if name == "present" else glyphs[name][0]
            parts.append(paint(character, name, colour and character != " "))
        parts += [mark] * (len(rows) in marked)
        nr_pages = cells.nr_pages + sum(row.nr_folded for row in rows)
        yield f"|{''.join(parts)}| {sum(row.nr_present for row in rows):,}/{nr_pages:,}"
        names = scale(named(stretches, cells.cell_pages, page_size), cells.nr_cells, marked)
        yield f" {names}  {format_size(cells.cell_pages * page_size)} a column"

    return Drawn("hist/1", COLUMN_COLUMNS, rows, target=target, notes=notes, draw=draw)


def bars_of(cells: Cells, counts: list[dict[str, int]], starts: list[int], folded: list[int]) -> list[Bar]:
    """Return the columns, given the pages of each class in each, where it starts, and its folded pages."""
    return [
        Bar(
            column=cell,
            start=starts[cell],
            nr_pages=cells.size_of(cell),
            nr_present=nr_present(classes),
            nr_swapped=classes["swapped"],
            nr_folded=folded[cell],
        )
        for cell, classes in enumerate(counts)
    ]


def folded_note(folds: list[tuple[int, int]], is_marked: bool) -> Note:
    """Return the note that some memory is left out."""
    size = format_size(sum(high - low for low, high in folds))
    mark = f" ({MARK})" if is_marked else ""
    text = FOLDED.format(size=size, places=number_of(len(folds), "place"), mark=mark)
    return Note("folded", text)


def named(stretches: list[Stretch], cell_pages: int, page_size: int) -> list[tuple[str, int, int]]:
    """Return what the stretches are called, with the first column of each and the one behind its last."""
    names: list[tuple[str, int, int]] = []
    for stretch in stretches:
        name = short_name(stretch.vma)
        first = stretch.index // cell_pages
        end = -(-(stretch.index + (stretch.end - stretch.start) // page_size) // cell_pages)
        if names and names[-1][0] == name:
            first = names.pop()[1]
        names.append((name, first, end))
    return names


def scale(names: list[tuple[str, int, int]], nr_columns: int, marked: set[int]) -> str:
    """Return a line of names below the columns where they begin: the widest first, and no more than there is room for.

    ``marked`` are the columns before which there is a mark.

    >>> scale([("heap", 0, 6), ("ld.so", 6, 7), ("stack", 7, 12)], 12, set())
    'heap   stack'
    """
    line = [" "] * (nr_columns + len(marked))
    for name, first, end in sorted(names, key=lambda item: item[1] - item[2]):
        at = first + sum(mark <= first for mark in marked)
        room = line[max(at - 1, 0) : at + len(name) + 1]
        if at + len(name) <= len(line) and "".join(room).isspace() and end - first >= LEAST_NAMED:
            line[at : at + len(name)] = name
    return "".join(line)


def addresses_of(indices: Iterable[int], stretches: list[Stretch], page_size: int) -> list[int]:
    """Return the addresses of pages, given their ascending indices in stretches that lie end to end."""
    addresses = []
    rest = iter(stretches)
    here = next(rest, None)
    for index in indices:
        while here and here.index + (here.end - here.start) // page_size <= index:
            here = next(rest, None)
        if here:
            addresses.append(here.start + (index - here.index) * page_size)
    return addresses


def folded_pages(starts: list[int], folds: list[tuple[int, int]], page_size: int) -> list[int]:
    """Return how many folded pages belong to each column: those after its start, and the first's before it as well."""
    counts = [0] * len(starts)
    for low, high in folds:
        counts[max(bisect_right(starts, low) - 1, 0)] += (high - low) // page_size
    return counts

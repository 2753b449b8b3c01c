"""Looks at pages that are counted into the cells of a picture, and at what would set its scale."""

from __future__ import annotations

from mematlas.analysis.grid import FOLD_FROM, Density, Grid, choose_folds, cut_in_strips, lay_end_to_end
from mematlas.analysis.kept import Kept
from mematlas.frozen import record
from mematlas.model.page_source import lot_pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.grid import Cells
    from mematlas.analysis.neighbours import Fit, Range
    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.scattered import Scattered
    from mematlas.model.page_source import PageSource
    from mematlas.model.pages import Hole
    from mematlas.observe.pages import PageLook
    from mematlas.words import PagesFrom


@record
class CountedPart:
    """A part of a VMA that is counted into cells."""

    cells: Cells
    vma: Vma
    start: int
    end: int
    index: int
    """Pages in the cells before it."""


class Folds(list["Range"]):
    """Long runs of untouched memory, with what was read to find them, where that is little enough to be kept."""

    def __init__(self, runs: Iterable[Range] = (), kept: KeptLook | None = None) -> None:
        super().__init__(runs)
        self.kept = kept


class KeptLook:
    """A look at pages that is over, with all that was read, so that it need not be read again to be drawn."""

    def __init__(self, look: PageLook, reader: PageSource, pieces: Kept, exclusive: bool) -> None:
        self.look = look
        self.reader = reader
        """Closed by now: it has the notes on what was read."""
        self.pieces = pieces
        self.exclusive = exclusive
        """Whether the states show which pages are mapped once."""

    def serves(self, ranges: list[tuple[Vma, int, int]], exclusive: bool) -> bool:
        """Whether this is all of what is asked for now, and shows as much."""
        return self.look.ranges == ranges and self.exclusive >= exclusive


def find_folds(look: PageLook, source: PagesFrom, max_stall: float, exclusive: bool) -> Folds:
    """Return the long runs of absent pages where they are the greater part of what is looked at, else nothing."""
    is_all = len(look.ranges) == len(look.space.vmas)
    if look.size <= FOLD_FROM or (is_all and 2 * look.sources.nr_bytes() > look.size):
        return Folds()  # known without reading any page
    kept = Kept()
    with look.open(source, max_stall, exclusive=exclusive) as reader:
        runs = choose_folds(keep_all(look, reader, kept), look.page_size)
    return Folds(runs, KeptLook(look, reader, kept, exclusive) if kept.is_whole else None)


def keep_all(
    look: PageLook, reader: PageSource, kept: Kept
) -> Iterator[tuple[int, int, Iterable[Block | Scattered | Hole]]]:
    """Yield the ranges that are looked at, and what is in each, which is kept as it is read."""
    for vma, low, high in look.ranges:
        pieces = lot_pieces(reader, vma, low, high)
        yield low, high, kept.keep(pieces, look.page_size)


def draw_grid(
    look: PageLook,
    source: PagesFrom,
    max_stall: float,
    cell_pages: int | None,
    folds: list[Range] | None,
    fit: Fit | None = None,
) -> Grid:
    """Return what is looked at as cells of ``cell_pages`` pages, VMA by VMA; each fold is one, and is not read."""
    strips = cut_in_strips(look.ranges, folds or [], cell_pages, look.page_size, fit)
    parts = [
        CountedPart(cells=strip.cells, vma=stretch.vma, start=stretch.start, end=stretch.end, index=stretch.index)
        for strip in strips
        if not strip.is_folded
        for stretch in strip.stretches
    ]
    parts.sort(key=lambda part: part.start)  # as they are read
    return Grid(strips, fill(look, parts, source, max_stall, folds, exclusive=True))


def draw_density(
    look: PageLook, source: PagesFrom, max_stall: float, columns: int, folds: list[Range] | None, exclusive: bool
) -> Density:
    """Return what is looked at end to end, without gaps and folds, as at most so many cells."""
    cells, stretches = lay_end_to_end(look.ranges, folds or [], columns, look.page_size)
    parts = [
        CountedPart(cells=cells, vma=part.vma, start=part.start, end=part.end, index=part.index) for part in stretches
    ]
    return Density(cells, stretches, fill(look, parts, source, max_stall, folds, exclusive))


def fill(
    look: PageLook,
    parts: Iterable[CountedPart],
    source: PagesFrom,
    max_stall: float,
    folds: list[Range] | None,
    exclusive: bool,
) -> Reading:
    """Count pages into cells, from what was kept when folds were looked for, or by reading."""
    kept = folds.kept if isinstance(folds, Folds) else None
    if kept and kept.serves(look.ranges, exclusive):
        for part in parts:
            pieces = kept.pieces.between(part.start, part.end, look.page_size)
            part.cells.fill(pieces, part.start, part.index, look.page_size)
        return kept.look.finish(kept.reader)
    with look.open(source, max_stall, exclusive=exclusive) as reader:
        for part in parts:
            pieces = lot_pieces(reader, part.vma, part.start, part.end)
            part.cells.fill(pieces, part.start, part.index, look.page_size)
        return look.finish(reader)

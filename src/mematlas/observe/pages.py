"""Looks at single pages: a block at a time, address by address, or counted into the cells of a picture."""

from __future__ import annotations

import time

from mematlas.analysis.grid import FOLD_FROM, choose_folds, cut_in_strips, lay_end_to_end
from mematlas.analysis.kept import Kept
from mematlas.analysis.results import Density, Grid, Translations
from mematlas.analysis.translating import translate
from mematlas.errors import BadInput
from mematlas.frozen import record
from mematlas.model.address_space import EVERYTHING, Selection
from mematlas.model.pages import lot_pieces, pieces
from mematlas.notes import Notes
from mematlas.observe.sources import cut_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.analysis.grid import Cells, Range
    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.pages import Hole, PageSource
    from mematlas.observe.sources import Sources


class PageLook:
    """One look at the pages of a process: which they are, when it began, and what is to be said of it."""

    def __init__(self, sources: Sources, start: int = 0, end: int = 1 << 64, selection: Selection = EVERYTHING) -> None:
        self.began = time.perf_counter()
        self.sources = sources
        self.page_size = sources.page_size
        self.space = sources.address_space()
        self.ranges = self._ranges(start, end, selection)
        """The parts of VMAs that are looked at, in whole pages."""
        self.notes = Notes()

    def _ranges(self, start: int, end: int, selection: Selection) -> list[tuple[Vma, int, int]]:
        low, high = start - start % self.page_size, -(-end // self.page_size) * self.page_size
        return [piece for piece in self.space.pieces(low, high) if selection.matches(piece[0])]

    @property
    def size(self) -> int:
        """How many bytes are looked at."""
        return sum(high - low for _, low, high in self.ranges)

    def open(self, source: str, max_stall: float, paced: bool = True, exclusive: bool = True) -> PageSource:
        """Choose what is read, and return what reads it."""
        span = (self.ranges[0][1], self.ranges[-1][2]) if self.ranges else (0, 0)
        choice = self.sources.choose(source, max_stall if paced else float("inf"), span)
        self.notes += choice.why
        return self.sources.open_pages(choice.source, span, paced=paced, exclusive=exclusive)

    def finish(self, reader: PageSource) -> Reading:
        """Return how it came about, once all is read."""
        notes = (*self.notes, *reader.notes(), *cut_paths(self.space.vmas))
        return self.sources.reading(reader.name, self.began, self.sources.is_torn(self.space), notes)


class Pages:
    """The pages of a process, read while they are gone through, once: ``(vma, Block | Hole)`` in address order.

    >>> import os, mematlas
    >>> with mematlas.Process(os.getpid()) as process:
    ...     pages = process.pages()
    ...     nr_pages = sum(len(piece) for vma, piece in pages if vma.kind == "stack")
    >>> nr_pages > 0, pages.reading.source
    (True, 'pagemap')
    """

    def __init__(self, look: PageLook, reader: PageSource) -> None:
        self.source = reader.name
        """``pagemap`` or ``tables``."""
        self.reading: Reading | None = None
        """How they were read: None until all were, or no more are asked for."""
        self._look = look
        self._reader: PageSource | None = reader

    def __iter__(self) -> Iterator[tuple[Vma, Block | Hole]]:
        reader, self._reader = self._reader, None
        if reader is None:
            raise BadInput("these pages were gone through already: ask the process for them again")
        with reader:
            try:
                for vma, low, high in self._look.ranges:
                    for piece in pieces(reader, vma, low, high):
                        yield vma, piece
            finally:  # whoever has seen enough wants to know as well
                if not self._look.sources.is_closed:
                    self.reading = self._look.finish(reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was opened for pages that nobody has gone through."""
        reader, self._reader = self._reader, None
        if reader:
            self.reading = self._look.finish(reader)
            reader.close()


def translate_all(sources: Sources, addresses: Iterable[int]) -> Translations:
    """Return where each virtual address is, in the order asked."""
    look = PageLook(sources)
    with sources.open_pages("pagemap", paced=False) as reader:
        found = tuple(translate(address, look.space, reader) for address in addresses)
        return Translations(found, look.finish(reader))


# Pictures


@record
class Part:
    """A part of a VMA that is counted into cells."""

    cells: Cells
    vma: Vma
    start: int
    end: int
    place: int
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
        """Closed by now: it tells what is to be said of what was read."""
        self.pieces = pieces
        self.exclusive = exclusive
        """Whether the states tell which pages are mapped once."""

    def serves(self, ranges: list[tuple[Vma, int, int]], exclusive: bool) -> bool:
        """Whether this is all of what is asked for now, and tells as much."""
        return self.look.ranges == ranges and self.exclusive >= exclusive


def find_folds(look: PageLook, source: str, max_stall: float, exclusive: bool) -> Folds:
    """Return the long runs of absent pages where they are the greater part of what is looked at, else nothing."""
    is_all = len(look.ranges) == len(look.space.vmas)
    if look.size <= FOLD_FROM or (is_all and 2 * look.sources.nr_bytes() > look.size):
        return Folds()  # known without reading any page
    kept = Kept()
    with look.open(source, max_stall, exclusive=exclusive) as reader:
        read = (
            (low, high, kept.keep(lot_pieces(reader, vma, low, high), look.page_size)) for vma, low, high in look.ranges
        )
        runs = choose_folds(read, look.page_size)
    return Folds(runs, KeptLook(look, reader, kept, exclusive) if kept.is_whole else None)


def draw_grid(look: PageLook, source: str, max_stall: float, cell_pages: int | None, folds: list[Range] | None) -> Grid:
    """Return what is looked at as cells of ``cell_pages`` pages, VMA by VMA; each fold is one, and is not read."""
    strips = cut_in_strips(look.ranges, folds or [], cell_pages, look.page_size)
    parts = [Part(strip.cells, strip.vma, strip.start, strip.end, 0) for strip in strips if not strip.is_folded]
    return Grid(strips, fill(look, parts, source, max_stall, folds, exclusive=True))


def draw_density(
    look: PageLook, source: str, max_stall: float, columns: int, folds: list[Range] | None, exclusive: bool
) -> Density:
    """Return what is looked at end to end, without gaps and folds, as at most so many cells."""
    cells, stretches = lay_end_to_end(look.ranges, folds or [], columns, look.page_size)
    parts = [Part(cells, part.vma, part.start, part.end, part.place) for part in stretches]
    return Density(cells, stretches, fill(look, parts, source, max_stall, folds, exclusive))


def fill(
    look: PageLook, parts: Iterable[Part], source: str, max_stall: float, folds: list[Range] | None, exclusive: bool
) -> Reading:
    """Count pages into cells, from what was kept when folds were looked for, or by reading."""
    kept = folds.kept if isinstance(folds, Folds) else None
    if kept and kept.serves(look.ranges, exclusive):
        for part in parts:
            found = kept.pieces.between(part.start, part.end, look.page_size)
            part.cells.fill(found, part.start, part.place, look.page_size)
        return kept.look.finish(kept.reader)
    with look.open(source, max_stall, exclusive=exclusive) as reader:
        for part in parts:
            found = lot_pieces(reader, part.vma, part.start, part.end)
            part.cells.fill(found, part.start, part.place, look.page_size)
        return look.finish(reader)

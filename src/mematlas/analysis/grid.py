"""Many pages as few cells: how many pages of each state lie in each stretch of addresses."""

from __future__ import annotations

from heapq import heappush, heappushpop

from mematlas.analysis.neighbours import (
    SECTIONS,
    by_section,
    cell_that_fits,
    choose_cell_pages,
    cut_at,
    one_by_one,
)
from mematlas.errors import BadInput
from mematlas.frozen import record
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import ACCESSED, DIRTY, EXCLUSIVE, MARK_A, PRESENT, Block, histogram
from mematlas.kernel.scattered import Scattered
from mematlas.model.pages import STATE_OF_BYTE, Hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mematlas.analysis.neighbours import Fit, Neighbours, Range, VmaPart
    from mematlas.analysis.results import Reading


DRAWN_CELLS = 1536
"""Cells that a picture aims at: a screen full."""
MAX_CELLS = 1 << 20

CLASSES = ("own", "shared", "zero", "swapped", "cached", "absent", "guard", "special", "unknown")
"""The states of `mematlas.model.pages.STATES`, with ``present`` split into mapped once and mapped by several."""


def class_of(byte: int) -> str:
    """Return the class of a state byte.

    >>> class_of(0x81), class_of(0x80)
    ('own', 'shared')
    """
    if byte & (PRESENT | MARK_A) == PRESENT:
        return "own" if byte & EXCLUSIVE else "shared"
    return STATE_OF_BYTE[byte]


PRESENT_CLASSES = ("own", "shared", "zero")


def nr_present(classes: Mapping[str, int]) -> int:
    """Return how many pages are present, given the number of each class.

    >>> nr_present({"own": 3, "shared": 2, "zero": 1, "swapped": 9})
    6
    """
    return sum(classes[name] for name in PRESENT_CLASSES)


IS_ACCESSED = bytes(use & ACCESSED for use in range(256))
IS_DIRTY = bytes(use & DIRTY for use in range(256))
CLASS_OF_BYTE = tuple(class_of(byte) for byte in range(256))


class Cells:
    """A stretch of pages cut into cells of equal size; the last may be shorter."""

    def __init__(self, nr_pages: int, cell_pages: int) -> None:
        self.nr_pages = nr_pages
        self.cell_pages = cell_pages
        self.nr_cells = -(-nr_pages // cell_pages)
        self.counted: dict[int, dict[int, int]] = {}
        """Cell -> state byte -> number of pages, for what was read; the rest of a cell is its hole."""
        self.holes: dict[int, dict[str, int]] = {}
        """Cell -> class -> pages that no block showed, where that is not ``absent``."""
        self.used: dict[int, tuple[int, int]] | None = None
        """Cell -> pages accessed, pages dirty, of those present; None unless page tables were read."""

    def fill(self, pieces: Iterable[Block | Scattered | Hole], start: int, index: int, page_size: int) -> None:
        """Count pieces of what begins at ``start``, ``index`` pages into the stretch."""
        for piece in pieces:
            at = index + (piece.address - start) // page_size
            if isinstance(piece, Hole):
                self.add_hole(at, piece.nr_pages, STATE_OF_BYTE[piece.byte])
            elif isinstance(piece, Scattered):
                self.add_scattered(at, piece, page_size)
            else:
                self.add(at, piece)

    def add(self, index: int, block: Block) -> None:
        """Count the pages of a block that begins ``index`` pages into the stretch."""
        size = self.cell_pages
        end = index + len(block)
        at = index
        while at < end:
            cell = at // size
            stop = min(end, (cell + 1) * size)
            whole = stop - at == len(block)
            inside = slice(at - index, stop - index)
            kinds = block.kinds if whole else histogram(block.states[inside])
            use = None if block.use is None else block.use[inside]
            self._count(cell, kinds, use)
            at = stop

    def add_scattered(self, index: int, lot: Scattered, page_size: int) -> None:
        """Count pages that lie apart, the first of them ``index`` pages into the stretch."""
        origin = lot.address - index * page_size
        for part in lot.cut(self.cell_pages * page_size, origin, page_size):
            at = (part.address - origin) // page_size
            if isinstance(part, Block):
                self.add(at, part)
            else:
                self._count(at // self.cell_pages, part.kinds, part.use)

    def _count(self, cell: int, kinds: dict[int, int], use: bytes | None) -> None:
        """Count pages of a cell, given how many of them have which state byte."""
        counts = self.counted.setdefault(cell, {})
        for byte, nr_pages in kinds.items():
            counts[byte] = counts.get(byte, 0) + nr_pages
        if use is not None:
            self._add_use(cell, use)

    def _add_use(self, cell: int, use: bytes) -> None:
        self.used = {} if self.used is None else self.used
        nr_accessed, nr_dirty = self.used.get(cell, (0, 0))
        nr_accessed += len(use) - use.translate(IS_ACCESSED).count(0)
        nr_dirty += len(use) - use.translate(IS_DIRTY).count(0)
        self.used[cell] = nr_accessed, nr_dirty

    def add_hole(self, index: int, nr_pages: int, name: str) -> None:
        """Count pages that no block showed, all of one class."""
        if name == "absent":
            return  # what is not counted otherwise is absent
        at = index
        while at < index + nr_pages:
            cell = at // self.cell_pages
            stop = min(index + nr_pages, (cell + 1) * self.cell_pages)
            holes = self.holes.setdefault(cell, {})
            holes[name] = holes.get(name, 0) + stop - at
            at = stop

    def size_of(self, cell: int) -> int:
        """Return the number of pages in a cell."""
        return min(self.cell_pages, self.nr_pages - cell * self.cell_pages)

    def classes(self, cell: int) -> dict[str, int]:
        """Return the number of pages of each class in a cell; they add up to its size."""
        counts = dict.fromkeys(CLASSES, 0)
        for byte, nr_pages in self.counted.get(cell, NOTHING).items():
            counts[CLASS_OF_BYTE[byte]] += nr_pages
        for name, nr_pages in self.holes.get(cell, {}).items():
            counts[name] += nr_pages
        counts["absent"] += self.size_of(cell) - sum(counts.values())
        return counts


NOTHING: dict[int, int] = {}


@record
class Stretch:
    """A part of a VMA among others that lie end to end."""

    vma: Vma
    start: int
    end: int
    index: int
    """Pages before it."""


@record
class Strip:
    """A VMA, a part of it, or several VMAs end to end, as cells."""

    vma: Vma
    """The first of them."""
    start: int
    end: int
    cells: Cells
    stretches: tuple[Stretch, ...]
    """What lies where in the cells."""
    is_folded: bool = False
    """Whether it is untouched memory, all of it one cell."""
    section: str = ""
    """One of `mematlas.analysis.neighbours.SECTIONS`, where neighbours were taken together."""
    line: int = 0
    """Strips of the same number stand in one line, or begin in one."""
    nr_vmas: int = 1
    """VMAs of which that line is."""

    @property
    def size(self) -> int:
        """Bytes, without the gaps between its parts."""
        return sum(stretch.end - stretch.start for stretch in self.stretches)


FOLD_FROM = 4 << 20
"""Bytes of untouched memory that are long enough to be folded: less than the stack of a thread."""
MAX_FOLDS = 256
"""Runs inside of VMAs that are folded, the longest: more than a screen has lines help nobody."""


@record
class Grid:
    """The address space as cells of as many pages each, VMA by VMA."""

    strips: list[Strip]
    reading: Reading


@record
class Density:
    """All VMAs end to end as cells of equal size."""

    cells: Cells
    stretches: list[Stretch]
    """Which part of which VMA lies where."""
    reading: Reading


def absent_runs(pieces: Iterable[Block | Scattered | Hole], page_size: int) -> Iterator[Range]:
    """Yield the long runs of absent pages among consecutive pieces, by their addresses."""
    least = FOLD_FROM // page_size * page_size
    start, end = 0, 0
    for low, high in absent_parts(pieces, page_size):
        if low != end:
            if end - start >= least:
                yield start, end
            start = low
        end = high
    if end - start >= least:
        yield start, end


def absent_parts(pieces: Iterable[Block | Scattered | Hole], page_size: int) -> Iterator[Range]:
    """Yield what is absent of each piece, by addresses: at its ends, and in long runs between them."""
    least = FOLD_FROM // page_size
    for piece in pieces:
        if isinstance(piece, Scattered):
            # What is absent within a range is short: it ends with pages that are there, less than `FOLD_FROM` apart.
            yield from piece.gaps(page_size, least)
        elif not isinstance(piece, Hole):
            for first, stop in zero_runs(piece.states, least):
                yield piece.address + first * page_size, piece.address + stop * page_size
        elif piece.byte == 0:
            yield piece.address, piece.end(page_size)


def zero_runs(states: bytes, least: int) -> Iterator[Range]:
    """Yield where state bytes are 0: all at the beginning and at the end, and between them runs of ``least`` or more.

    >>> list(zero_runs(bytes((0, 1, 0, 0, 0, 1, 0, 0)), 3)), list(zero_runs(bytes(2), 3))
    ([(0, 1), (2, 5), (6, 8)], [(0, 2)])
    """
    stop = len(states) - len(states.lstrip(b"\0"))
    if stop:
        yield 0, stop
    if stop == len(states):
        return
    last = len(states.rstrip(b"\0"))
    long_run = bytes(least)
    while (first := states.find(long_run, stop, last)) >= 0:
        stop = len(states) - len(states[first:].lstrip(b"\0"))
        yield first, stop
    if last < len(states):
        yield last, len(states)


def choose_folds(read: Iterable[tuple[int, int, Iterable[Block | Scattered | Hole]]], page_size: int) -> list[Range]:
    """Return the runs of untouched memory that are to be folded, given ranges and what is in each.

    None where there would be little to gain: where they are less than the rest, or all there is.
    """
    whole: list[Range] = []
    parts: list[tuple[int, Range]] = []
    size = 0
    for low, high, pieces in read:
        size += high - low
        for run in absent_runs(pieces, page_size):
            if run == (low, high):
                whole.append(run)
                continue
            # No more is kept of a sparse giant than can be drawn.
            keep = heappush if len(parts) < MAX_FOLDS else heappushpop
            keep(parts, (run[1] - run[0], run))
    runs = sorted([*whole, *(run for _, run in parts)])
    folded = sum(high - low for low, high in runs)
    return runs if 2 * folded > size > folded else []


def cut_in_strips(
    chosen: list[tuple[Vma, int, int]],
    folds: list[Range],
    cell_pages: int | None,
    page_size: int,
    fit: Fit | None = None,
) -> list[Strip]:
    """Return parts of VMAs as strips of cells of ``cell_pages`` pages, or of as many as fit, or as make a screen full.

    A fold is one cell. With ``fit`` neighbours are taken together as well, section by section.

    Raises:
        BadInput: cells of no page, or too many cells.
    """
    parts = cut_at(chosen, folds)
    most = fit.lines - len(SECTIONS) if fit and fit.is_joined else None
    groups = one_by_one(parts) if most is None else by_section(parts, most)
    if cell_pages is not None and cell_pages < 1:
        raise BadInput(f"a cell of {cell_pages} pages is too small: 1 page or more")
    sizes = [group.drawn_size // page_size for group in groups]
    if cell_pages is None and fit:
        cell_pages = cell_that_fits(groups, fit, page_size)
    elif cell_pages is None:
        cell_pages = choose_cell_pages(sizes, DRAWN_CELLS)
    nr_cells = sum(-(-size // cell_pages) for size in sizes)
    if nr_cells > MAX_CELLS:
        raise BadInput(f"{nr_cells:,} cells are too many to draw: use larger cells, or a part of the addresses")
    strips: list[Strip] = []
    for line, group in enumerate(groups):
        strips += strips_of(group, line, cell_pages, page_size)
    return strips


def strips_of(group: Neighbours, line: int, cell_pages: int, page_size: int) -> Iterator[Strip]:
    """Yield a group as strips: part by part if it is of one VMA, else what is drawn end to end, then what is folded."""
    if group.nr_vmas == 1 or group.is_folded:
        lots = [[part] for part in group.parts]
    else:
        drawn = [part for part in group.parts if not part.is_folded]
        folded = [part for part in group.parts if part.is_folded]
        lots = [drawn, folded]
    for lot in filter(None, lots):
        stretches = end_to_end(lot, page_size)
        first, last = lot[0], lot[-1]
        nr_pages = stretches[-1].index + (last.end - last.start) // page_size
        cells = Cells(nr_pages, nr_pages if first.is_folded else cell_pages)
        yield Strip(
            vma=first.vma,
            start=first.start,
            end=last.end,
            cells=cells,
            stretches=stretches,
            is_folded=first.is_folded,
            section=group.section,
            line=line,
            nr_vmas=group.nr_vmas,
        )


def end_to_end(parts: Iterable[VmaPart], page_size: int) -> tuple[Stretch, ...]:
    """Return parts of VMAs as stretches that lie end to end."""
    stretches: list[Stretch] = []
    nr_pages = 0
    for part in parts:
        stretches.append(Stretch(vma=part.vma, start=part.start, end=part.end, index=nr_pages))
        nr_pages += (part.end - part.start) // page_size
    return tuple(stretches)


def lay_end_to_end(
    chosen: list[tuple[Vma, int, int]], folds: list[Range], columns: int, page_size: int
) -> tuple[Cells, list[Stretch]]:
    """Return cells for parts of VMAs without the folds, at most so many, and which part lies where.

    Raises:
        BadInput: no columns, or too many.
    """
    if not 1 <= columns <= MAX_CELLS:
        raise BadInput(f"cannot draw {columns} columns: 1 to {MAX_CELLS:,}")
    drawn = (part for part in cut_at(chosen, folds) if not part.is_folded)
    stretches = end_to_end(drawn, page_size)
    nr_pages = sum(stretch.end - stretch.start for stretch in stretches) // page_size
    return Cells(nr_pages, max(1, -(-nr_pages // columns))), list(stretches)

"""VMAs taken together, so that a picture of very many of them fits a screen."""

from __future__ import annotations

from functools import partial
from itertools import groupby

from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.kernel.maps import Vma

    Range = tuple[int, int]

SECTIONS = ("heap", "anon", "stack", "shmem", "hugetlb", "file", "kernel")
"""The parts of a picture: the kinds of VMAs, with what the kernel itself puts there as one."""
SMALL = 64 << 10
"""Bytes of a VMA that is joined to its neighbours before larger ones are."""


def section_of(vma: Vma) -> str:
    return vma.kind if vma.kind in SECTIONS else "kernel"


@record
class VmaPart:
    """A part of a VMA: to be drawn, or a long run of untouched memory."""

    vma: Vma
    start: int
    end: int
    is_folded: bool


@record
class Fit:
    """What a picture has room for."""

    columns: int
    """Cells in a line."""
    lines: int
    is_joined: bool = True
    """Whether neighbours are taken together; else each VMA has a line of its own, however many they are."""


class Neighbours:
    """Parts of one VMA, or of several of one section, in address order."""

    __slots__ = ("is_folded", "nr_vmas", "parts", "section", "size")

    def __init__(self, parts: list[VmaPart], section: str = "", nr_vmas: int = 1) -> None:
        self.parts = parts
        self.section = section
        """One of `SECTIONS`; empty where the picture has none."""
        self.nr_vmas = nr_vmas
        self.size = parts[-1].end - parts[0].start
        """Bytes, the gaps between them not among them."""
        # Most are one part, and there may be very many.
        is_single = len(parts) == 1
        self.is_folded = parts[0].is_folded if is_single else all(part.is_folded for part in parts)
        """Whether nothing of it is drawn."""

    def take(self, other: Neighbours) -> None:
        """Take those that follow as well."""
        self.parts += other.parts
        self.nr_vmas += other.nr_vmas
        self.size += other.size
        self.is_folded = self.is_folded and other.is_folded

    @property
    def drawn_size(self) -> int:
        """Bytes that are drawn as cells."""
        if len(self.parts) == 1:
            return 0 if self.is_folded else self.size
        return sum(part.end - part.start for part in self.parts if not part.is_folded)


def cut_at(pieces: Iterable[tuple[Vma, int, int]], runs: list[Range]) -> Iterator[VmaPart]:
    """Yield parts of VMAs, cut at the runs that are to be folded.

    >>> [(part.start, part.end, part.is_folded) for part in cut_at([(None, 0, 9)], [(2, 5)])]
    [(0, 2, False), (2, 5, True), (5, 9, False)]
    """
    number = 0
    for vma, start, end in pieces:
        address = start
        while address < end:
            while number < len(runs) and runs[number][1] <= address:
                number += 1
            low, high = runs[number] if number < len(runs) else (end, end)
            is_folded = low <= address
            until = min(high if is_folded else low, end)
            yield VmaPart(vma, address, until, is_folded)  # there may be very many: keywords take three times as long
            address = until


def one_by_one(parts: Iterable[VmaPart]) -> list[Neighbours]:
    """Return the parts VMA by VMA, in address order; VMAs that follow one another and are wholly folded are one."""
    groups = of_vmas(parts)
    return join(groups, lambda one, other: one.is_folded and other.is_folded)


def of_vmas(parts: Iterable[VmaPart]) -> list[Neighbours]:
    by_vma = groupby(parts, key=lambda part: part.vma.start)
    return [Neighbours(list(of_vma)) for _, of_vma in by_vma]


def by_section(parts: Iterable[VmaPart], most: int) -> list[Neighbours]:
    """Return the parts section by section, as at most so many groups: what is one thing to a reader is joined first.

    The segments of a program or of a library always are one. Where that is not enough, small neighbours are, then
    larger ones, as far as need be; each section that there is keeps one.
    """
    groups = of_vmas(parts)
    for group in groups:
        group.section = section_of(group.parts[0].vma)
    # A stable sort: by address within a section.
    groups.sort(key=lambda group: SECTIONS.index(group.section))
    groups = join(groups, are_of_one_file)
    total = sum(group.size for group in groups)
    limit = SMALL
    while len(groups) > most and limit < 2 * total:
        groups = join(groups, partial(are_small, limit=limit))
        limit *= 2
    return groups


def join(groups: list[Neighbours], belong: Callable[[Neighbours, Neighbours], bool]) -> list[Neighbours]:
    """Return the groups, each taken together with the next of its section where these belong together."""
    joined = groups[:1]
    for group in groups[1:]:
        last = joined[-1]
        if last.section == group.section and belong(last, group):
            last.take(group)
        else:
            joined.append(group)
    return joined


def are_of_one_file(one: Neighbours, other: Neighbours) -> bool:
    """Whether groups are private mappings of the same file, as the loader makes them of a program or a library."""
    left, right = one.parts[-1].vma, other.parts[0].vma
    are_private = left.perms[3] == right.perms[3] == "p"
    is_same_file = left.path == right.path and left.inode == right.inode
    return are_private and left.kind == "file" and is_same_file


def are_small(one: Neighbours, other: Neighbours, limit: int) -> bool:
    return one.size <= limit and other.size <= limit


def choose_cell_pages(sizes: Iterable[int], max_cells: int) -> int:
    """Return the least power of two of pages a cell with which stretches of these sizes need at most ``max_cells``.

    Each stretch takes a cell at least, so more stretches than that get one each.

    >>> choose_cell_pages([33, 1000], 512)
    4
    """
    sizes = list(sizes)
    room = max(max_cells, len(sizes))
    cell_pages = 1
    while sum(-(-size // cell_pages) for size in sizes) > room and cell_pages < max(sizes):
        cell_pages *= 2
    return cell_pages


def cell_that_fits(groups: list[Neighbours], fit: Fit, page_size: int) -> int:
    """Return the pages a cell with which groups are drawn in the lines that there are; each has one at least."""
    sizes = [max(1, group.drawn_size // page_size) for group in groups]
    # A line is so many cells: what holds for cells of one page holds for lines of that many.
    nr_lines = [-(-size // fit.columns) for size in sizes]
    return choose_cell_pages(nr_lines, fit.lines - nr_heads(groups))


def nr_heads(groups: list[Neighbours]) -> int:
    """Return how many lines the heads of sections take: none where there is one section alone."""
    nr_sections = len({group.section for group in groups})
    return nr_sections if nr_sections > 1 else 0

"""Stretches of addresses in which entries of page tables mean the same: what they do not say, their VMA does.

A VMA that has grown, or was cut in two, means what it did where it was before: its pages need not be looked at again.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from mematlas.arrays import Bytes, np
from mematlas.kernel.backing import ALONE, BEHIND_MARKERS, tables_for
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.pagemap import MARK_A, UNKNOWN
from mematlas.model.pagetables.place_ranges import PlaceRanges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.kernel.backing import Backings
    from mematlas.kernel.maps import Vma
    from mematlas.model.hidden import HiddenVmas
    from mematlas.model.pagetables.kept import KeptTables

    Meaning = tuple[int, int, int, tuple[object, ...]]
    """One of `CLASSES`; a mark of what a file holds, see `mematlas.kernel.backing`; which of `BEHIND` applies it; and
    what lies behind all that.
    """
    Stretch = tuple[int, int, Meaning]
    """Where it begins and ends, and what its entries mean."""

ANON, PRIVATE, SHARED, HUGETLB_PRIVATE, HUGETLB_SHARED = CLASSES = tuple(range(5))
"""What pages can be, as far as entries do not say it: anonymous; private, and of a file until they are written to;
shared; and the last two in a hugetlb pool.
"""
BEHIND = np.array(
    [[np.frombuffer(table, np.uint8) for table in tables] for tables in (ALONE, BEHIND_MARKERS)], np.uint8
)
"""What becomes of a state byte, by which entries say nothing, and by the mark of what the file says."""
NO_MARK, UNKNOWN_MARK = 0, UNKNOWN // MARK_A


def stretches_of(vmas: Iterable[Vma], hidden: HiddenVmas, backings: Backings) -> list[Stretch]:
    """Return the stretches that VMAs make, in order; none where the kernel shows nothing."""
    stretches: list[Stretch] = []
    for vma in vmas:
        if not hidden.is_hidden(vma):
            if vma.kind == "shmem":
                stretches += of_shared_memory(vma, backings)
            else:
                stretches.append((vma.start, vma.end, (class_of(vma), NO_MARK, 0, behind(vma))))
    return stretches


def class_of(vma: Vma) -> int:
    """Return which of `CLASSES` the pages of a VMA are of."""
    is_shared = vma.perms[3:] == "s"
    if vma.kind == "hugetlb":
        return HUGETLB_SHARED if is_shared else HUGETLB_PRIVATE
    if is_shared:
        return SHARED
    return ANON if vma.kind in ANON_KINDS else PRIVATE


def behind(vma: Vma) -> tuple[object, ...]:
    """Return what tells one kind of pages from another where entries are alike: nothing of anonymous memory."""
    if vma.kind in ANON_KINDS:
        return ()
    return vma.kind, vma.dev, vma.inode, vma.offset - vma.start


def of_shared_memory(vma: Vma, backings: Backings) -> Iterator[Stretch]:
    """Yield the stretches of shared memory: by what its file holds of pages that have no entry."""
    tables = int(tables_for(vma) is BEHIND_MARKERS)
    pages, what = class_of(vma), behind(vma)
    backing = backings.of(vma)
    if backing is None:
        yield vma.start, vma.end, (pages, UNKNOWN_MARK, tables, what)
        return
    at = vma.start
    for start, end, mark in backing.ranges:
        low, high = max(start, at), min(end, vma.end)
        if low >= high:
            continue
        if at < low:
            yield at, low, (pages, NO_MARK, tables, what)
        yield low, high, (pages, mark // MARK_A, tables, what)
        at = high
    if at < vma.end:
        yield at, vma.end, (pages, NO_MARK, tables, what)


def differing(before: Sequence[Stretch], now: Sequence[Stretch]) -> list[tuple[int, int, Meaning | None]]:
    """Return the ranges of addresses that mean something else than before, and what; None where they mean nothing now.

    >>> one, other = (1, 0, 0, ()), (0, 0, 0, ())
    >>> differing([(0, 4, one), (8, 9, one)], [(0, 6, one), (8, 9, other)])
    [(4, 6, (1, 0, 0, ())), (8, 9, (0, 0, 0, ()))]
    """
    of_both = set(before).intersection(now)
    was = [stretch for stretch in before if stretch not in of_both]
    now = [stretch for stretch in now if stretch not in of_both]
    edges = sorted({edge for start, end, _ in (*was, *now) for edge in (start, end)})
    starts = [[stretch[0] for stretch in stretches] for stretches in (was, now)]
    found = []
    for low, high in pairwise(edges):
        old, new = (meaning_at(stretches, at, low) for stretches, at in zip((was, now), starts, strict=True))
        if old != new:
            found.append((low, high, new))
    return found


def meaning_at(stretches: Sequence[Stretch], starts: Sequence[int], address: int) -> Meaning | None:
    """Return what an address means; None where that is in no stretch."""
    index = bisect_right(starts, address) - 1
    return stretches[index][2] if index >= 0 and address < stretches[index][1] else None


class StretchTable:
    """Stretches as arrays, to find those of many pages in."""

    def __init__(self, stretches: Sequence[Stretch], tables: KeptTables) -> None:
        starts, ends = (np.array([stretch[index] for stretch in stretches], np.uint64) for index in (0, 1))
        self.ranges = PlaceRanges(tables, starts, ends)
        """Where they are: the number of a range is the place of its stretch in the arrays below."""
        columns = np.array([meaning[:3] for _, _, meaning in stretches], np.uint8).reshape(len(stretches), 3)
        self.classes: Bytes = columns[:, 0]
        self.marks: Bytes = columns[:, 1]
        self.tables: Bytes = columns[:, 2]

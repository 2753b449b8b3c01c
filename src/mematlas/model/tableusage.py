"""RSS, USS and PSS of a process from its page tables and the kernel's struct pages, without any lock on it.

The definitions are the kernel's (fs/proc/task_mmu.c, smaps_account): a page counts when it has a struct page that
is counted (not the zero page, not PFNMAP, not hugetlb); it is private when it is mapped less than twice; its share
is a page divided by its map count, in fixed point.
"""

from __future__ import annotations

import numpy as np

from mematlas.arrays import Counts, Words
from mematlas.kernel.structpage import StructPages
from mematlas.model.pagetable import huge_leaves, walk_parts
from mematlas.model.paging import PRESENT, PROT_NONE, SWAP, PagingMode, address_of, holds, leaf_address, states
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.pagetable import TableSource, Walk

PAGE = 1 << 12
PSS_SHIFT = 12
"""The kernel sums shares in 4096ths of a byte."""
KPF_HUGE, KPF_THP, KPF_ZERO_PAGE, KPF_NOPAGE = 1 << 17, 1 << 22, 1 << 24, 1 << 20
NR_COUNTED = 1 << 12


@record
class TableUsage:
    """What a process uses, in bytes."""

    rss: int
    uss: int
    pss: int
    swap: int
    """Pages of its own in swap. (What shared memory has there is not in the tables.)"""
    hugetlb: int
    thp: int
    """Of the RSS, what huge leaves map."""
    special: int
    """Zero pages, PFNMAP and the like: present, but not counted as resident."""
    tables: int
    unknown: int
    """Resident pages whose map count could not be read: not in USS nor in PSS."""
    nr_torn: int
    """Ranges that kept changing while they were read, and are left out."""


class Tally:
    """The running sums of a usage."""

    def __init__(self) -> None:
        self.rss = self.uss = self.share = self.swap = 0
        self.hugetlb = self.thp = self.special = self.tables = self.unknown = self.nr_torn = 0

    def add_counts(self, counts: Counts) -> None:
        """Add resident pages, by their map counts."""
        nr_single = int(np.count_nonzero((counts == 1) | (counts == 0)))
        self.rss += PAGE * len(counts)
        self.uss += PAGE * nr_single
        self.share += nr_single * (PAGE << PSS_SHIFT)
        if nr_single == len(counts):
            return
        rest = counts[(counts > 1) | (counts < 0)]
        self.unknown += PAGE * int(np.count_nonzero(rest < 0))
        rest = rest[rest > 0]
        few = np.bincount(rest[rest < NR_COUNTED], minlength=2)
        self.share += sum((PAGE << PSS_SHIFT) // count * int(few[count]) for count in np.flatnonzero(few).tolist())
        self.share += sum((PAGE << PSS_SHIFT) // count for count in rest[rest >= NR_COUNTED].tolist())

    def result(self) -> TableUsage:
        return TableUsage(
            rss=self.rss,
            uss=self.uss,
            pss=self.share >> PSS_SHIFT,
            swap=self.swap,
            hugetlb=self.hugetlb,
            thp=self.thp,
            special=self.special,
            tables=self.tables,
            unknown=self.unknown,
            nr_torn=self.nr_torn,
        )


def read_usage(source: TableSource, mode: PagingMode, pgd: int, pages: StructPages, check: bool = True) -> TableUsage:
    """Return what a process uses. ``check`` compares a sample of its own frames with kpagecount first.

    Raises:
        NotSupported: the sample disagrees with kpagecount.

    >>> with memory.open_mm(4211) as mm:  # doctest: +SKIP
    ...     read_usage(memory, mode, mm.pgd, pages).uss
    4295082
    """
    tally = Tally()
    tables: set[int] = set()
    for part in walk_parts(source, mode, pgd):
        add_small(tally, part, pages, check)
        for level in range(len(part.levels) - 1):
            if mode.levels[level].can_map:
                add_huge(tally, part, level, pages)
        tally.nr_torn += len(part.torn)
        # Parts have their upper tables in common.
        tables.update(*(level.tables.tolist() for level in part.levels))
        check = False
    tally.tables = PAGE * len(tables)
    return tally.result()


NR_TABLES = 128
"""Tables whose frames are counted together. Fewer read a page of struct pages more often, more leave the cache."""


def add_small(tally: Tally, part: Walk, pages: StructPages, check: bool) -> None:
    """Add what the last level maps."""
    mode, level = part.mode, part.levels[-1]
    for start in range(0, len(level), NR_TABLES):
        entries = level.entries[start : start + NR_TABLES].reshape(-1)
        pfns = resident_frames(tally, mode, level.level, entries)
        if check and len(pfns):
            pages.check(pfns)
            check = False
        tally.add_counts(pages.map_counts(pfns))


def resident_frames(tally: Tally, mode: PagingMode, depth: int, entries: Words) -> Words:
    """Return the frames of entries that count as resident; swap and special ones are added up on the way."""
    wanted = np.uint64(mode.present[0][0] | mode.special[0][0])
    usual = (entries & wanted) == mode.present[0][1]
    if not usual.all():
        rest = entries[~usual]
        rest = rest[rest != 0]
        codes = states(mode, depth, rest)
        tally.swap += PAGE * int(np.count_nonzero(codes == SWAP))
        shown = (codes == PRESENT) | (codes == PROT_NONE)
        special = np.asarray(holds(rest, mode.special), np.bool_)
        tally.special += PAGE * int(np.count_nonzero(shown & special))
        hidden = (codes == PROT_NONE) & ~special
        entries = entries[usual]
        if hidden.any():
            restored = leaf_address(mode, depth, rest[hidden]) >> np.uint64(mode.page_shift)
            return np.concatenate([address_of(mode, entries) >> np.uint64(mode.page_shift), restored])
    return address_of(mode, entries) >> np.uint64(mode.page_shift)


def add_huge(tally: Tally, part: Walk, level: int, pages: StructPages) -> None:
    """Add what the huge leaves of a level map: THP counts, hugetlb does not, nor does the huge zero page."""
    mode = part.mode
    places, entries = huge_leaves(part, level)
    addresses = part.entry_addresses(level, places)
    entries = entries[(addresses >= part.first) & (addresses <= part.last)]
    if not len(entries):
        return
    size = mode.levels[level].size
    heads = leaf_address(mode, level, entries) >> np.uint64(mode.page_shift)
    flags = read_flags(pages, heads)
    is_hugetlb = flags & KPF_HUGE != 0
    is_special = ~is_hugetlb & (holds(entries, mode.special) | (flags & (KPF_ZERO_PAGE | KPF_NOPAGE) != 0))
    tally.hugetlb += size * int(np.count_nonzero(is_hugetlb))
    tally.special += size * int(np.count_nonzero(is_special))
    heads = heads[~is_hugetlb & ~is_special]
    tally.thp += size * len(heads)
    each = np.arange(size >> mode.page_shift, dtype=np.uint64)
    for start in range(0, len(heads), NR_TABLES):
        pfns = (heads[start : start + NR_TABLES, None] + each).reshape(-1)
        tally.add_counts(pages.map_counts(pfns))


def read_flags(pages: StructPages, pfns: Words) -> Words:
    """Return /proc/kpageflags for some frames; KPF_NOPAGE for one that it does not tell about."""
    flags = np.zeros(len(pfns), np.uint64)
    buffer = flags.data.cast("B")
    file = pages.memory.procfs.open("kpageflags")
    try:
        for place, pfn in enumerate(pfns.tolist()):
            if file.read_into(buffer[8 * place : 8 * place + 8], pfn * 8) != 8:
                flags[place] = KPF_NOPAGE
    finally:
        file.close()
    return flags

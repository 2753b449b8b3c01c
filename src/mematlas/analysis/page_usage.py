"""How much memory, from the entries of pages: what smaps adds up, counted once more.

Who shares a page is read from kpagecount beside pagemap, and by struct pages beside page tables.
"""

from __future__ import annotations

from itertools import compress

from mematlas.analysis.usage import Usage, shown_present, total
from mematlas.frozen import replace
from mematlas.kernel.pagemap import BEHIND_MARKER, EXCLUSIVE, FILE, IS_SHARED, MARK_A, PM_PFRAME, PRESENT, histogram
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.model.sharers import UNREPORTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Entries
    from mematlas.model.pagetables.vma_counts import VmaCounts

PSS_SHIFT = 12  # fs/proc/task_mmu.c: the kernel adds shares of pages in 1/4096 of a byte
NOTHING = total(())


class PageCounts:
    """Counts the pages of one VMA by their state bytes, block after block."""

    def __init__(self) -> None:
        self.by_byte: dict[int, int] = {}

    def add(self, kinds: dict[int, int]) -> None:
        """Count the pages of a block, given how many of them have which state byte."""
        by_byte = self.by_byte
        for byte, nr_pages in kinds.items():
            by_byte[byte] = by_byte.get(byte, 0) + nr_pages

    def nr_with(self, mask: int, value: int) -> int:
        """Return the number of pages whose state byte, under a mask, has a value."""
        return sum(nr_pages for byte, nr_pages in self.by_byte.items() if byte & mask == value)

    def nr_state(self, state: str) -> int:
        """Return the number of pages counted that are in a state, such as ``"swapped"``."""
        by_byte = self.by_byte.items()
        return sum(nr_pages for byte, nr_pages in by_byte if STATE_OF_BYTE[byte] == state)


def usage_of_pages(
    vma: Vma,
    counts: PageCounts,
    page_size: int,
    *,
    zero_known: bool,
    hole: str,
    sharers: dict[int, int] | None,
    thp: int | None,
) -> Usage:
    """Return what the page entries of a VMA add up to.

    ``hole`` is the state of the pages that were not counted. ``sharers`` is how many resident pages have which
    map count, for those that are not exclusive; None when their frames or counts could not be read. A frame with a
    map count of 0 is present without being anybody's: it is no part of RSS.
    """
    if vma.kind == "hugetlb":
        return usage_of_hugetlb(vma, counts, page_size)
    nr_present = counts.nr_with(PRESENT, PRESENT)
    nr_exclusive = counts.nr_with(PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE)
    nr_swapped = nr_swapped_of(vma, counts, hole)
    nr_zero = counts.nr_with(PRESENT | MARK_A, PRESENT | MARK_A)
    nr_unmapped = sharers.get(0, 0) if sharers else 0
    nr_file = counts.nr_with(PRESENT | MARK_A | FILE, PRESENT | FILE)
    nr_resident = nr_present - nr_zero - nr_unmapped
    rss = nr_resident * page_size if zero_known else None
    uss = nr_exclusive * page_size
    pss = None if sharers is None or rss is None else uss + shared_pss(sharers, page_size)
    of_file = nr_file * page_size
    return Usage(
        rss=rss,
        pss=pss,
        uss=uss,
        swap=None if nr_swapped is None else nr_swapped * page_size,
        anon=None if rss is None else rss - of_file,
        file=of_file if vma.kind != "shmem" else 0,
        shmem=of_file if vma.kind == "shmem" else 0,
        hugetlb=0,
        # What was freed since its entries were read is mapped by nobody now, a huge entry too.
        thp=thp if thp is None or rss is None else min(thp, rss),
        zero=nr_zero * page_size if zero_known else None,
        nr_pages=vma.size // page_size,
        nr_present=shown_present(nr_present, hole == "unknown" and vma.kind != "shmem"),
        nr_swapped=nr_swapped,
        nr_exclusive=nr_exclusive,
        lazyfree=None if rss is None or rss > of_file else 0,
        swap_pss=0 if nr_swapped == 0 else None,
    )


def usage_of_hugetlb(vma: Vma, counts: PageCounts, page_size: int) -> Usage:
    """Return what the page entries of a VMA of a hugetlb pool add up to: nothing of it is RSS, nor ever in swap."""
    nr_present = counts.nr_with(PRESENT, PRESENT)
    return replace(
        NOTHING,
        hugetlb=nr_present * page_size,
        nr_pages=vma.size // page_size,
        nr_present=nr_present,
        nr_exclusive=counts.nr_with(PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE),
    )


def nr_swapped_of(vma: Vma, counts: PageCounts, hole: str) -> int | None:
    """Return how many pages are in swap; None where some are of shared memory whose file we may not query."""
    if vma.kind == "shmem" and (hole == "unknown" or counts.nr_state("unknown")):
        return None
    nr_behind_markers = counts.nr_with(PRESENT | BEHIND_MARKER, BEHIND_MARKER)
    return counts.nr_state("swapped") + nr_behind_markers


class AlikeUsages:
    """The amounts of small VMAs by their pages. Most of many are like others, and are added up once."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._of_states: dict[Any, Usage] = {}
        """By the states of the pages, in order: nearly all that there is to do for a VMA of a page or two."""
        self._of_numbers: dict[Any, Usage] = {}
        """By how many pages are in which state, or are mapped how often."""

    def usage(self, vma: Vma, states: bytes, shared: list[int], zero_known: bool) -> Usage:
        """Return what `usage_of_pages` does, given the state of each page and the map counts of the shared ones."""
        key = vma.kind, zero_known, states, tuple(shared)
        usage = self._of_states.get(key)
        if usage is None:
            usage = self._add_up(vma, histogram(states), shared, zero_known)
            keep(self._of_states, key, usage)
        return usage

    def _add_up(self, vma: Vma, kinds: dict[int, int], shared: list[int], zero_known: bool) -> Usage:
        key = vma.kind, zero_known, tuple(sorted(kinds.items())), tuple(sorted(shared))
        usage = self._of_numbers.get(key)
        if usage is None:
            counts = PageCounts()
            counts.add(kinds)
            sharers: dict[int, int] | None = None
            if UNREPORTED not in shared:
                sharers = {count: shared.count(count) for count in set(shared)}
            usage = usage_of_pages(
                vma, counts, self._page_size, zero_known=zero_known, hole="absent", sharers=sharers, thp=0
            )
            keep(self._of_numbers, key, usage)
        return usage


MAX_KEPT = 1 << 10


def keep(kept: dict[Any, Usage], key: object, usage: Usage) -> None:
    """Keep amounts for who has the same, in bounded memory."""
    if len(kept) >= MAX_KEPT:
        kept.clear()
    kept[key] = usage


def usage_of_tables(vma: Vma, sums: VmaCounts, page_size: int, hole: str) -> Usage:
    """Return what the page-table entries of a VMA add up to; see `usage_of_pages`."""
    counts = PageCounts()
    counts.add(sums.by_byte)
    sharers = None if sums.nr_unknown else sums.sharers
    usage = usage_of_pages(vma, counts, page_size, zero_known=True, hole=hole, sharers=sharers, thp=sums.thp)
    if not sums.nr_unknown:
        return usage
    # Pages whose map count could not be read may be the process's own or not; hugetlb pages are no part of USS.
    return replace(usage, uss=usage.uss if vma.kind == "hugetlb" else None, nr_exclusive=None)


def shared_pss(sharers: dict[int, int], page_size: int) -> int:
    """Return the bytes that fall to this process of pages mapped more than once, rounded as the kernel rounds."""
    shares = 0
    for map_count, nr_pages in sharers.items():
        if map_count:
            shares += nr_pages * ((page_size << PSS_SHIFT) // map_count)
    return shares >> PSS_SHIFT


def nr_shared(kinds: dict[int, int]) -> int:
    """Return how many pages of a block are resident and not exclusive, so that their map count matters."""
    mask = PRESENT | EXCLUSIVE | MARK_A
    return sum(nr_pages for byte, nr_pages in kinds.items() if byte & mask == PRESENT)


def shared_frames(block: Entries) -> list[int]:
    """Return the frames of the pages of a block that are resident and not exclusive."""
    if nr_shared(block.kinds) == len(block):
        return [entry & PM_PFRAME for entry in block.entries]
    wanted = block.states.translate(IS_SHARED)
    return [entry & PM_PFRAME for entry in compress(block.entries, wanted)]

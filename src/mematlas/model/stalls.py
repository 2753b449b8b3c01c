"""How long reading smaps of a process would hold it up, estimated without doing it.

The kernel takes about as long for each entry of a page table, however large the page is that it maps.
An entry for a huge page stands for hundreds of them; where others map that page too, each of its small pages is looked
at (fs/proc/task_mmu.c, smaps_account). No counter of the process says how many there are (VmPTE has the tables that
are kept aside for them, too), so samples of its memory are looked at, where the machine has any.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.status import read_memory_counters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.pagemap import Pagemap
    from mematlas.kernel.procfs import ProcessDir

HOLD_PER_PAGE = 82e-9
"""Seconds for which one reading of smaps holds the target's mmap lock, for each resident page."""
NR_SAMPLES = 64
NR_PAGES = 512
"""Pages that are looked at in a sample."""
ENTRY = 8
"""Bytes of an entry of a page table."""
REACH = 1 << 30
"""Addresses that are searched for them: half a millisecond where there is nothing."""
HUGE_COST = 0.02
SHARED_COST = 0.3
"""What a huge page costs, of what its small pages would: one that is mapped once, and one that is not (measured on
6.18: 0.4 and 11 ns for each small page, where one that is mapped by itself takes 41)."""
MACHINE_HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")


def smaps_hold(process: ProcessDir, enough: float = 0.0) -> float:
    """Return for how many seconds one reading of smaps would hold up a process.

    Where that is no more than ``enough`` if all pages are small ones, nobody asks whether they are.
    """
    counters = read_memory_counters(process)
    if counters.rss is None and process.procfs.live and process.is_ending():
        raise ProcessGone(process.pid)
    resident = counters.rss or 0
    hold = hold_by_counters(resident, counters.swap or 0, counters.tables or 0, process.procfs.page_size)
    if hold <= enough or not process.procfs.live:
        return hold
    return hold * cost_of_pages(process, resident)


def hold_by_counters(resident: int, swap: int, tables: int, page_size: int) -> float:
    """Return for how many seconds it holds the lock for a process of these counters, if all pages are small ones."""
    # It looks at more than RSS and swap, with zero pages and in sparse tables: at what the tables have entries for.
    return hold_of(max(resident + swap, tables // ENTRY * page_size), page_size)


def hold_of(size: int, page_size: int) -> float:
    """Return for how many seconds one reading of smaps holds the lock for so many bytes, if all pages are small ones.

    >>> round(hold_of(1 << 30, 4 << 10), 3), round(hold_of(1 << 30, 64 << 10), 3)
    (0.021, 0.001)
    """
    return size // page_size * HOLD_PER_PAGE


def cost_of_pages(process: ProcessDir, resident: int) -> float:
    """Return what its pages cost of what small ones would, by a sample; 1 where few are huge, or it is not known."""
    from mematlas.kernel.hugepage import huge_size
    from mematlas.kernel.meminfo import read_meminfo
    from mematlas.kernel.pagemap import Pagemap

    present = cost = 0.0
    try:
        meminfo = read_meminfo(process.procfs)
        if sum(meminfo.get(name, 0) for name in MACHINE_HUGE) < resident // 2:
            return 1.0
        size = huge_size()
        spans = [(start, end) for start, end in spans_of(process) if end - start >= size]
        with Pagemap(process) as pagemap:
            for start, end in samples_of(spans, NR_SAMPLES, process.procfs.page_size):
                for low, high, part in costs_in(pagemap, start, end):
                    present += high - low
                    cost += part * (high - low)
    except (NotSupported, PermissionDenied):
        return 1.0
    return cost / present if present else 1.0


def costs_in(pagemap: Pagemap, start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """Yield the ranges of the first pages that are present, each with what it costs of what small pages would."""
    from mematlas.kernel.pagemap import PAGE_IS_HUGE, PAGE_IS_PRESENT, PM_MMAP_EXCLUSIVE, SCAN_REGIONS

    reported = PAGE_IS_PRESENT | PAGE_IS_HUGE
    regions, _ = pagemap.scanner.regions_of(start, end, PAGE_IS_PRESENT, reported, SCAN_REGIONS, NR_PAGES)
    words = regions.tolist()
    for low, high, categories in zip(words[::3], words[1::3], words[2::3], strict=True):
        if not categories & PAGE_IS_HUGE:
            yield low, high, 1.0
        else:
            is_single = pagemap.entry(low) & PM_MMAP_EXCLUSIVE
            yield low, high, HUGE_COST if is_single else SHARED_COST


def spans_of(process: ProcessDir) -> list[tuple[int, int]]:
    """Return the addresses of each VMA."""
    heads = (line.partition(b" ")[0].partition(b"-") for line in process.lines("maps") if line)
    return [(int(start, 16), int(end, 16)) for start, _, end in heads]


def samples_of(spans: list[tuple[int, int]], number: int, page_size: int) -> list[tuple[int, int]]:
    """Return ranges to search, that begin evenly spread over the spans as if these lay end to end.

    >>> samples_of([(0, 8), (100, 108)], 4, 2)
    [(0, 8), (4, 8), (100, 108), (104, 108)]
    """
    step = sum(end - start for start, end in spans) // number // page_size * page_size
    samples: list[tuple[int, int]] = []
    passed = 0
    for start, end in spans if step else ():
        while len(samples) < number and len(samples) * step < passed + end - start:
            at = start + len(samples) * step - passed
            samples.append((at, min(end, at + REACH)))
        passed += end - start
    return samples

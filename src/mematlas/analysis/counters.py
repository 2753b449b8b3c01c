"""What the kernel counts of the machine's memory, as far as a recording has it: each with its unit and its meaning."""

from __future__ import annotations

from mematlas.frozen import Record, record

SIZE, COUNT, MICROSECONDS = "size", "count", "us"


@record
class Counter(Record):
    """One counter."""

    unit: str
    """``size`` in bytes, ``count``, or ``us``: microseconds."""
    is_total: bool
    """Whether it counts up since the machine was started: what it has grown by is what matters."""
    about: str


def amount(about: str) -> Counter:
    """Return what there is of something at a time."""
    return Counter(SIZE, False, about)


def moved(about: str) -> Counter:
    """Return bytes that have gone somewhere since the machine was started."""
    return Counter(SIZE, True, about)


def times(about: str) -> Counter:
    """Return how often something has happened since then."""
    return Counter(COUNT, True, about)


COUNTERS = {
    "MemTotal": amount("all RAM that the kernel manages"),
    "MemAvailable": amount("what programs can have without swapping"),
    "MemFree": amount("nobody's"),
    "Buffers": amount("page cache of block devices"),
    "Cached": amount("page cache of files, shared memory"),
    "SwapCached": amount("in RAM and in swap"),
    "AnonPages": amount("memory of processes"),
    "Mapped": amount("of files, mapped"),
    "Shmem": amount("shared memory, tmpfs"),
    "Hugetlb": amount("pools of huge pages, used or not"),
    "Dirty": amount("to be written"),
    "Writeback": amount("being written"),
    "SReclaimable": amount("caches of the kernel"),
    "SUnreclaim": amount("objects of the kernel"),
    "KernelStack": amount("stacks of threads"),
    "PageTables": amount("page tables of processes"),
    "Committed_AS": amount("promised to programs"),
    "SwapTotal": amount("swap space"),
    "SwapFree": amount("of that unused"),
    "pgfault": times("page faults"),
    "pgmajfault": times("page faults that read from a disk"),
    "pswpin": moved("read from swap"),
    "pswpout": moved("written to swap"),
    "pgscan_kswapd": moved("looked at by kswapd, to free memory"),
    "pgscan_direct": moved("looked at by programs that had to wait"),
    "pgsteal_kswapd": moved("freed by kswapd"),
    "pgsteal_direct": moved("freed by programs that had to wait"),
    "allocstall": times("allocations that had to free memory first"),
    "workingset_refault_anon": moved("came back from swap soon"),
    "workingset_refault_file": moved("page cache that came back soon"),
    "thp_fault_alloc": times("huge pages at a fault"),
    "thp_fault_fallback": times("huge pages that were not to be had"),
    "thp_split_page": times("huge pages that were split"),
    "compact_stall": times("allocations that had to compact memory first"),
    "compact_fail": times("compactions that did not help"),
    "oom_kill": times("processes killed for lack of memory"),
    "pressure_some": Counter(MICROSECONDS, True, "somebody waited for memory"),
    "pressure_full": Counter(MICROSECONDS, True, "nobody could work for lack of memory"),
}
"""By the names that the kernel has for them; ``allocstall`` is of all zones, and ``pressure_...`` is PSI."""

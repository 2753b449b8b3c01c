"""How much memory by the kernel's own sums over all VMAs: what a look at many processes, again and again, can afford.

Reading smaps_rollup takes half of what smaps takes, and there is a tenth to parse. It does not tell zero pages, nor how
many VMAs there are; what is of files and what is shared memory it tells only together.
"""

from __future__ import annotations

import time

from mematlas.analysis.ram import total_of
from mematlas.analysis.results import Counters, UsageResult
from mematlas.analysis.usage import THP_FIELDS, Usage
from mematlas.errors import ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.procfs import Hold
from mematlas.kernel.smaps_rollup import RollupReader
from mematlas.kernel.status import amount_of, has_memory, line_of, parse_memory_counters, read_of
from mematlas.model.stalls import hold_by_counters
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.results import Reading
    from mematlas.kernel.status import MemoryCounters
    from mematlas.observe.sources import Sources

SUMS = "smaps_rollup"
"""The source of a reading."""
MOST_OLD = 8
"""Looks after which at the latest the sums of a process that does nothing are read again."""
IN_TURN = Note(
    "counts-in-turn",
    "how often pages of a process that has done nothing are mapped by others may be as of up to"
    f" {MOST_OLD} looks before, and with it PSS and USS: many processes are watched",
)


class SumsReader:
    """Reads the sums of a process again and again. Most processes sleep: what says the same as before is not parsed."""

    def __init__(self) -> None:
        self._rollups = RollupReader()
        self._last: tuple[bytes, dict[str, int], UsageResult] | None = None
        self._stat: bytes | None = None
        self._age = 0
        """Looks since the sums were read."""

    def read(self, sources: Sources, max_stall: float, stat: bytes | None = None) -> UsageResult | None:
        """Return what the kernel's sums say of a process; None where that could hold it up for longer.

        With its ``stat``, the sums of a process that has done nothing since the look before are read in turn: see
        `IN_TURN`.

        Raises:
            ProcessGone: it has ended, or is just ending.
            PermissionDenied: another user's process needs CAP_SYS_PTRACE.
        """
        began = time.perf_counter()
        status = read_of(sources.dir, "status", bytes)
        if not has_memory(status):
            sources.raise_gone()
        last = self._last
        is_new = last is None or status != last[0]
        did_nothing = not is_new and stat is not None and stat == self._stat
        self._stat = stat
        self._age += 1
        if last and did_nothing and self._age < MOST_OLD:
            return replace(last[2], reading=sources.reading(SUMS, began, torn=False, notes=(IN_TURN,)))
        # Those that were seen first together have their turns one after the other.
        self._age = sources.dir.pid % MOST_OLD if last is None else 0
        if is_new:
            counters = parse_memory_counters(status)
            sizes = counters.rss or 0, counters.swap or 0, counters.tables or 0
            if hold_by_counters(*sizes, sources.page_size) > max_stall:
                return None
        hold = Hold()
        before = time.perf_counter()
        sums = self._rollups.read(sources.dir).fields
        hold.add(time.perf_counter() - before)
        if not sums:
            raise ProcessGone(sources.dir.pid)
        reading = sources.reading(SUMS, began, torn=False, notes=(), hold=hold)
        if last and not is_new and sums == last[1]:
            return replace(last[2], reading=reading)
        result = result_of(sums, status, sources.page_size, reading)
        self._last = status, sums, result
        return result


def result_of(sums: dict[str, int], status: bytes, page_size: int, reading: Reading) -> UsageResult:
    """Return what the sums and a status file tell."""
    counters = parse_memory_counters(status)
    size = of_status(status, b"VmSize")
    return UsageResult(
        usage=usage_of_sums(sums, counters, size, page_size),
        tables=counters.tables,
        reading=reading,
        counters=Counters(
            nr_vmas=None,
            size=size,
            peak_size=of_status(status, b"VmPeak"),
            peak_rss=of_status(status, b"VmHWM"),
            locked=of_status(status, b"VmLck"),
            pinned=of_status(status, b"VmPin"),
            ksm=sums.get("KSM"),  # since Linux 6.7: "proc/ksm: add ksm stats to /proc/pid/smaps"
        ),
    )


def of_status(status: bytes, name: bytes) -> int | None:
    """Return an amount of a status file; None where it has no such line."""
    return amount_of(line_of(status, name), name)


def usage_of_sums(sums: dict[str, int], counters: MemoryCounters, size: int | None, page_size: int) -> Usage:
    """Return the amounts that the sums over all VMAs tell.

    >>> from mematlas.kernel.status import MemoryCounters
    >>> sums = {"Rss": 12288, "Pss": 8192, "Private_Clean": 0, "Private_Dirty": 4096, "Anonymous": 4096, "Swap": 0}
    >>> agreeing = MemoryCounters(0, 12288, 4096, 8192, 0, 0, 0, 4096)
    >>> usage = usage_of_sums(sums, agreeing, 40960, 4096)
    >>> usage.uss, usage.anon, usage.file, usage.shmem, usage.zero
    (4096, 4096, 8192, 0, None)
    """
    get = sums.get
    rss, anon, swap = get("Rss"), get("Anonymous"), get("Swap")
    uss = total_of(get("Private_Clean"), get("Private_Dirty"))
    exclusive = total_of(uss, get("Private_Hugetlb"))
    # The counters are of each CPU's own, and may lag behind (before Linux 6.16, commit 82241a83cd15): what they say of
    # files is taken where they agree with what was counted.
    parts = total_of(counters.anon, counters.file, counters.shmem)
    agree = rss == counters.rss == parts and anon == counters.anon
    return Usage(
        rss=rss,
        pss=get("Pss"),
        uss=uss,
        swap=swap,
        anon=anon,
        file=counters.file if agree else None,
        shmem=counters.shmem if agree else None,
        hugetlb=total_of(get("Private_Hugetlb"), get("Shared_Hugetlb")),
        thp=sum(get(name, 0) for name in THP_FIELDS),
        zero=None,
        nr_pages=(size or 0) // page_size,
        nr_present=None,
        nr_swapped=None if swap is None else swap // page_size,
        nr_exclusive=None if exclusive is None else exclusive // page_size,
        lazyfree=get("LazyFree"),
        swap_pss=get("SwapPss"),
    )

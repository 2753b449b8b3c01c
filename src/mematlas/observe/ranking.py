"""Who uses the most: groups of processes measured, those first that can be the largest, and no more than it takes.

What reads more of a process than its counters may wait for ever, so children of ours do, which can be left behind: see
docs/design.md, "The ideas".
"""

from __future__ import annotations

import os
import time
from collections import Counter

from mematlas.analysis.overview import Facts, Measured
from mematlas.analysis.ranking import WORTH_A_ROW, Search
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import as_dict
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.cgroups import read_cgroups
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.rights import may_read_kernel
from mematlas.kernel.status import read_memory_counters
from mematlas.model.processes import ENDED, REFUSED, SKIPPED, left_out
from mematlas.model.shared_mm import find_alike
from mematlas.notes import Note
from mematlas.observe.measuring import cost_of, measure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.analysis.overview import Census, Group
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.status import Stat

MOST_ALIKE = 32
"""Processes of the same counters of which it is asked whether their memory is the same: each costs an open directory
and some calls, and thousands of forks, which are alike too, must not take the time of all others. Of more, the rest is
measured one by one, and memory that they share (CLONE_VM) counts once for each."""
SILENCE = 0.1
"""Seconds after which the next process is measured beside one that takes its time."""
SWAP_SECONDS = 0.3
"""For finding who has what is in swap and in no counter, once the largest are known."""
NR_TOGETHER = 1 << 10
"""Processes that are asked about together: the answer is one message."""


# Who there is


def facts_of(process: ProcessDir, stat: Stat) -> Facts | None:
    """Return the counters of a process; None when it has no memory."""
    counters = read_memory_counters(process)
    if counters.rss is None:
        return None
    return Facts(
        pid=process.pid,
        start_time=stat.start_time,
        name=stat.name,
        uid=counters.uid,
        cgroup=read_cgroups(process) or "",
        rss=counters.rss,
        anon=counters.anon,
        file=counters.file,
        shmem=counters.shmem,
        swap=counters.swap,
        hugetlb=counters.hugetlb,
    )


def in_shared_memory(facts: Sequence[Facts], procfs: ProcFS, deadline: float) -> dict[int, int]:
    """Return who runs in the address space of another one (CLONE_VM, vfork), and of which: it exists once.

    Whose counters differ does not; of many whose counters are the same, as a program's idle children, some are asked.
    """
    by_counters: dict[tuple[int | None, ...], list[int]] = {}
    for process in facts:
        if process.most >= WORTH_A_ROW:
            counters = (process.rss, process.anon, process.shmem, process.swap, process.hugetlb)
            by_counters.setdefault(counters, []).append(process.pid)
    alike = [pids[:MOST_ALIKE] for pids in by_counters.values() if len(pids) > 1]

    return find_alike(alike, procfs, deadline)


def find_refused(census: Census, procfs: ProcFS, deadline: float) -> tuple[int, ...] | None:
    """Return the processes that we may not look at; None where finding out takes too long."""
    pids = [facts.pid for facts in census]
    parts = [pids[low : low + NR_TOGETHER] for low in range(0, len(pids), NR_TOGETHER)]
    inquiry = Inquiry(lambda part: (refused_of(part, procfs), -1), parts, deadline=deadline)
    refused = [pid for _, pids_refused, _ in inquiry for pid in pids_refused]
    is_whole = not (inquiry.unanswered or inquiry.unasked or census.nr_late)
    return tuple(sorted([*refused, *census.skipped[REFUSED]])) if is_whole else None


def refused_of(pids: Sequence[int], procfs: ProcFS) -> list[int]:
    """Return those of some processes whose VMAs the kernel does not let us see."""
    refused = []
    for pid in pids:
        try:
            with procfs.process(pid) as process:
                os.close(process.open_fd("maps"))
        except PermissionDenied:
            refused.append(pid)
        except SKIPPED:
            continue  # it has ended meanwhile
    return refused


# How much they use


def in_swap(procfs: ProcFS) -> int | None:
    """Return the bytes that are in swap and not in RAM as well; None where that is not known."""
    try:
        meminfo = read_meminfo(procfs)
        return meminfo["SwapTotal"] - meminfo["SwapFree"] - meminfo.get("SwapCached", 0)
    except (NotSupported, PermissionDenied, KeyError):
        return None


def to_measure(groups: Sequence[Group], page_size: int) -> dict[int, tuple[int, Facts]]:
    """Return the processes to measure, in this order, by PID: each with the index of its group."""
    counts_in_kernel = is_x86_64() and may_read_kernel()
    return {
        member.pid: (index, member)
        for index, group in enumerate(groups)
        for member in group.sample([cost_of(each, page_size, counts_in_kernel) for each in group.members])
    }


def measure_groups(
    groups: Sequence[Group],
    procfs: ProcFS,
    deadline: float,
    limit: int,
    by: str | None = None,
    swapped: int | None = None,
) -> list[Note]:
    """Measure the groups that may be among the largest, as far as there is time; return who could not be looked at.

    ``swapped`` is what the machine has in swap, see `in_swap`.
    """
    wanted = to_measure(groups, procfs.page_size)
    waiting = Counter(index for index, _ in wanted.values())

    def ask(pid: int) -> tuple[dict[str, object] | str, int]:
        answer = measure(wanted[pid][1], procfs)
        return as_dict(answer) if isinstance(answer, Measured) else answer, -1

    search = Search(groups, limit, by, swapped)
    inquiry = Inquiry(ask, list(wanted), deadline=deadline, silence=SILENCE)
    is_ranked = False
    for pid, answer, _ in inquiry:
        index, _ = wanted[pid]
        if isinstance(answer, dict):
            groups[index].measured[pid] = Measured(**answer)
        elif answer == ENDED:
            groups[index].forget(pid)
        waiting[index] -= 1
        if waiting[index]:
            continue
        search.settle(index)
        if search.is_decided:
            break
        if not is_ranked and search.is_ranked:
            is_ranked = True
            inquiry.deadline = min(deadline, time.monotonic() + SWAP_SECONDS)
    if is_ranked:
        inquiry.unasked.clear()  # what they may have is said below
    notes = list(left_out(inquiry, procfs))
    if is_ranked and not search.is_decided:
        text = "in swap are of shared memory or files of tmpfs: who maps them was not found out in time"
        notes.append(Note("swap-unseen", f"{search.unseen >> 10:,} KiB {text}"))
    return notes

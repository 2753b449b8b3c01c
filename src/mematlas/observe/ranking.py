"""Who uses the most: groups of processes measured, those first that can be the largest, and no more than it takes.

What reads more of a process than its counters may wait for ever, so children of ours do, which can be left behind: see
docs/design.md, "The ideas".
"""

from __future__ import annotations

import os

from mematlas.analysis.overview import WORTH_A_ROW, Facts, Measured, is_decided, known_sum
from mematlas.analysis.ram import total_of
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import as_dict
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.rights import parse_id
from mematlas.kernel.smaps import read_rollup
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.processes import ENDED, REFUSED, SKIPPED, Processes, left_out, opened
from mematlas.model.shared_mm import AddressSpaces
from mematlas.model.stalls import hold_of
from mematlas.model.target import open_process
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.analysis.overview import Group
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.notes import Note

MOST_ALIKE = 32
"""Processes of the same counters of which it is asked whether their memory is the same: each costs an open directory
and some calls, and thousands of forks, which are alike too, must not take the time of all others. Of more, the rest is
measured one by one, and memory that they share (CLONE_VM) counts once for each."""
SILENCE = 0.1
"""Seconds after which the next process is measured beside one that takes its time."""
OPENING = 0.0005
"""Seconds that measuring any process takes."""
PER_SHARED_PAGE, PER_OWN_PAGE = 1.7e-6, 38e-9
"""Seconds for counting pages by pagemap: those that others map are looked up in kpagecount, one by one."""
NR_TOGETHER = 1 << 10
"""Processes that are asked about together: the answer is one message."""


# Who there is


def facts_of(process: ProcessDir, name: str) -> Facts | None:
    """Return the counters of a process; None when it has no memory."""
    status = read_status(process)
    rss = status_bytes(status, "VmRSS")
    if rss is None:
        return None
    uid = parse_id(status.get("Uid", "").split("\t", 1)[0])
    try:
        cgroup = process.read("cgroup").decode("utf-8", "surrogateescape")
    except NotSupported:
        cgroup = ""
    return Facts(
        pid=process.pid,
        name=name,
        uid=uid,
        cgroup=cgroup,
        rss=rss,
        anon=status_bytes(status, "RssAnon"),
        file=status_bytes(status, "RssFile"),
        shmem=status_bytes(status, "RssShmem"),
        swap=status_bytes(status, "VmSwap"),
        hugetlb=status_bytes(status, "HugetlbPages"),
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

    def ask(pids: list[int]) -> tuple[dict[int, int], int]:
        spaces = AddressSpaces(procfs)
        for process in opened(pids, procfs):
            with process:
                spaces.is_met_again(process)
        return spaces.earlier, -1

    if not alike:
        return {}
    sharing: dict[int, int] = {}
    for _, first_of, _ in Inquiry(ask, alike, deadline=deadline):
        sharing |= first_of
    return sharing


def find_refused(procfs: ProcFS, deadline: float) -> tuple[int, ...] | None:
    """Return the processes that we may not look at; None where finding out takes too long."""
    pids = Processes(procfs).pids
    parts = [pids[low : low + NR_TOGETHER] for low in range(0, len(pids), NR_TOGETHER)]
    inquiry = Inquiry(lambda part: (refused_of(part, procfs), -1), parts, deadline=deadline)
    refused = [pid for _, pids_refused, _ in inquiry for pid in pids_refused]
    return None if inquiry.unanswered or inquiry.unasked else tuple(refused)


def refused_of(pids: Sequence[int], procfs: ProcFS) -> list[int]:
    """Return those of some processes whose VMAs the kernel does not let us see."""
    processes = Processes(procfs, pids, without=())
    refused = []
    for process, _ in processes:
        try:
            os.close(process.open_fd("maps"))
        except PermissionDenied:
            refused.append(process.pid)
        except SKIPPED:
            continue  # it has ended meanwhile
    return sorted([*refused, *processes.skipped[REFUSED]])


# How much they use


def measure_groups(
    groups: Sequence[Group], procfs: ProcFS, deadline: float, limit: int, by: str | None = None
) -> list[Note]:
    """Measure the groups that may be among the largest, as far as there is time; return who could not be looked at."""
    index_of: dict[int, int] = {}
    facts: dict[int, Facts] = {}
    waiting: dict[int, int] = {}
    for index, group in enumerate(groups):
        members = group.sample([cost_of(member, procfs.page_size) for member in group.members])
        waiting[index] = len(members)
        for member in members:
            index_of[member.pid] = index
            facts[member.pid] = member

    def ask(pid: int) -> tuple[dict[str, int | None] | str, int]:
        answer = measure(facts[pid], procfs)
        return as_dict(answer) if isinstance(answer, Measured) else answer, -1

    inquiry = Inquiry(ask, list(facts), deadline=deadline, silence=SILENCE)
    for pid, answer, _ in inquiry:
        index = index_of[pid]
        if isinstance(answer, dict):
            groups[index].measured[pid] = Measured(**answer)
        elif answer == ENDED:
            groups[index].forget(pid)
        waiting[index] -= 1
        if not waiting[index]:
            del waiting[index]
            if is_decided(groups, waiting, limit, by):
                break
    return list(left_out(inquiry, procfs))


def cost_of(facts: Facts, page_size: int) -> float:
    """Return the seconds that measuring a process will take."""
    hold = hold_of(facts.rss, page_size)
    if hold <= MAX_STALL:
        return OPENING + hold
    anon = known_sum(facts.anon)
    return OPENING + (anon * PER_OWN_PAGE + (facts.rss - anon) * PER_SHARED_PAGE) / page_size


def measure(facts: Facts, procfs: ProcFS) -> Measured | str:
    """Return what the pages of a process come to, or why that is not known. It may wait for ever."""
    try:
        process = open_process(facts.pid, procfs)[0]
        if hold_of(facts.rss, procfs.page_size) <= MAX_STALL:
            with process:
                return of_rollup(read_rollup(process))
        with Process(process) as whole:
            usage = whole.usage(max_stall=MAX_STALL)
            return Measured(
                pss=usage.pss, uss=usage.uss, swap=usage.swap, swap_pss=None, own_hugetlb=None, shared_hugetlb=None
            )
    except PermissionDenied:
        return REFUSED
    except SKIPPED:
        return ENDED


def of_rollup(sums: dict[str, int]) -> Measured:
    """Return what the pages of a process come to by the kernel's own sums."""
    return Measured(
        pss=sums.get("Pss"),
        uss=total_of(sums.get("Private_Clean"), sums.get("Private_Dirty")),
        swap=sums.get("Swap"),
        swap_pss=sums.get("SwapPss"),
        own_hugetlb=sums.get("Private_Hugetlb"),
        shared_hugetlb=sums.get("Shared_Hugetlb"),
    )

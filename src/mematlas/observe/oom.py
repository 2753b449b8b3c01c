"""Whom the OOM killer would take first, if a limit of memory were hit, or if RAM ran out.

It is who uses the most of RAM, swap and page tables, after oom_score_adj thousandths of the limit that is hit are added
(mm/oom_kill.c, select_bad_process() and oom_badness()). So the score that /proc shows does not rank the processes of a
group: it is for the whole machine.
"""

from __future__ import annotations

from mematlas.analysis.charge import HARD, NEVER, Oom, Victim, badness, tightest_of
from mematlas.analysis.ram import total_of
from mematlas.errors import CgroupGone, FormatError, NotSupported, PermissionDenied, TargetNotFound
from mematlas.kernel.memcg import VERSION_1, is_within, open_in, parse_number
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.status import read_memory_status, status_bytes
from mematlas.model.holders import is_inside
from mematlas.model.processes import ENDED, SKIPPED, Processes, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.kernel.memcg import Limit, MemoryCgroup
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.status import Stat

INIT = 1
"""The process that is never killed (mm/oom_kill.c, is_global_init()); in another PID namespace, that is any number."""


def foresee(group: MemoryCgroup, limits: Sequence[Limit], procfs: ProcFS) -> Oom:
    """Return whom the OOM killer would take first when the tightest limit is hit; without one, when RAM is used up.

    It looks at the processes of the group that has the limit. Without one, only those of this group are ranked. We
    ourselves are left out.
    """
    limit = tightest_of(limits, HARD)
    domain = limit.path if limit else group.cgroup
    spared = unknown = 0
    ranked: list[tuple[int, str, Victim]] = []
    most = all_there_is(limit, limits, procfs)
    init = None if is_inside(procfs) else INIT
    for process, stat in Processes(procfs):
        try:
            cgroup = group.of_process(process)
            if stat.pid == init or cgroup is None or not is_within(cgroup, domain):
                continue
            adjustment = process.parsed("oom_score_adj", parse_score)
            if adjustment == NEVER:
                spared += 1
            elif victim := victim_of(process, stat, adjustment, most):
                ranked.append((victim.badness, cgroup, victim))
            else:
                unknown += 1
        except SKIPPED as error:
            unknown += reason(error) != ENDED
    first = max(ranked, key=lambda item: item[0], default=None)
    return Oom(
        limit=limit,
        victim=first[2] if first else None,
        nr_spared=spared,
        nr_unknown=unknown,
        group=killed_whole(group, first[1], domain) if first else None,
        is_off=is_off(group, domain),
    )


def victim_of(process: ProcessDir, stat: Stat, adjustment: int, most: int | None) -> Victim | None:
    """Return how bad a process is where there are ``most`` bytes; None where that is not known."""
    status = read_memory_status(process)
    held = total_of(*(status_bytes(status, name) for name in ("VmRSS", "VmSwap", "VmPTE")))
    rank = badness(held, adjustment, most)
    if rank is None:
        return None
    return Victim(
        pid=stat.pid,
        name=stat.name,
        badness=rank,
        oom_score=process.parsed("oom_score", parse_score),
        oom_score_adj=adjustment,
    )


def parse_score(data: bytes) -> int:
    """Return the number that a score is, which may be below 0."""
    number = parse_number(data.strip().removeprefix(b"-"))
    if number is None:
        raise FormatError("score", data[:200].decode("utf-8", "replace"), expected="a number")
    return -number if data.startswith(b"-") else number


def all_there_is(limit: Limit | None, limits: Sequence[Limit], procfs: ProcFS) -> int | None:
    """Return the bytes of memory and swap that there are for who shares a limit, or the machine; None if unknown.

    mm/memcontrol.c, mem_cgroup_get_max(); where swappiness is 0, the kernel leaves swap out.
    """
    try:
        meminfo = read_meminfo(procfs)
    except (NotSupported, PermissionDenied):
        return None
    swap = meminfo.get("SwapTotal")
    if limit is None:
        return total_of(meminfo.get("MemTotal"), swap)
    own = {one.name: one.size for one in limits if one.path == limit.path}
    memory = own.get("memory.max", own.get("memory.limit_in_bytes", limit.size))
    if swap is None:
        return None
    both = own.get("memory.memsw.limit_in_bytes", memory + swap)
    return memory + min(own.get("memory.swap.max", swap), both - memory, swap)


def killed_whole(group: MemoryCgroup, cgroup: str, domain: str) -> str | None:
    """Return the highest group, from that of a victim up to that of the limit, that is killed as a whole with it."""
    found = None
    try:
        with open_in([group.mount], cgroup) as own:
            for level in own.lineage():
                if not is_within(level.cgroup, domain):
                    break
                if level.number("memory.oom.group") == 1:
                    found = level.cgroup
    except (TargetNotFound, CgroupGone, PermissionDenied, FormatError):
        return found
    return found


def is_off(group: MemoryCgroup, domain: str) -> bool:
    """Whether the OOM killer leaves a group alone, which only version 1 can be told; then who needs memory waits."""
    if group.version is not VERSION_1:
        return False
    for level in group.lineage():
        if level.cgroup == domain:
            return level.numbers("memory.oom_control").get("oom_kill_disable") == 1
    return False

"""The processes of a machine with what each uses, and what they come to in groups."""

from __future__ import annotations

from mematlas.analysis.file_parts import together
from mematlas.analysis.ram import largest_of, total_of
from mematlas.frozen import Record, Tabular, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.charge import Nearness
    from mematlas.analysis.file_parts import Part
    from mematlas.notes import Note

    KeyOf = Callable[[Any], str | None]

BY = ("name", "exe", "user", "cgroup", "container", "pod", "unit", "tree")
"""What processes can have in common."""
NONE = "(none)"
"""The name of the group of processes that are in no container, or in no pod or unit."""
UNANSWERED, LATE = "unanswered", "late"
"""Why there is no more of a process than its counters, besides `mematlas.model.processes.REFUSED`."""


@record
class ProcessUsage(Record):
    """One process with what it uses, in bytes. None is "not known"."""

    pid: int
    name: str
    start_time: int | None
    """Clock ticks after boot, where that was asked for. With the PID it names one process and no other."""
    parent: int
    uid: int | None
    user: str | None
    cgroup: str | None
    """Its path in the hierarchy that charges memory."""
    container: str | None
    """The ID or name of the container that it runs in, as the path tells; None where it is in none."""
    pod: str | None
    unit: str | None
    """The unit of systemd that it belongs to."""
    exe: str | None
    """The program that it runs, where that was asked for."""
    rss: int | None
    pss: int | None
    uss: int | None
    swap: int | None
    """Swapped pages, shared or not. Without `source`, private ones alone."""
    swap_pss: int | None
    """The same with each private page divided by how often it is mapped, and without shared memory."""
    own_swap: int | None
    """Swapped pages of private memory, but those in ``swap_parts``."""
    thp: int | None
    hugetlb: int | None
    """Pages of the hugetlb pools, which RSS leaves out."""
    own_hugetlb: int | None
    """Those of them that are not in ``hugetlb_parts``."""
    tables: int | None
    source: str | None
    """From which its pages were counted; None where there are but the counters that the kernel keeps."""
    swap_parts: tuple[Part, ...] = ()
    """What is in swap of the files of memory that it maps. Where ``swap_pss`` is not told, the other slots as well."""
    hugetlb_parts: tuple[Part, ...] = ()
    """What it has of the files of huge pages that it maps."""
    is_estimate: bool = False
    """Whether ``pss`` and ``uss`` are estimated from a sample: the truth lies between the ends below 95 times of 100.
    Of what is known exactly, these are equal. ``swap`` is then that of private memory alone.
    """
    pss_low: int | None = None
    pss_high: int | None = None
    uss_low: int | None = None
    uss_high: int | None = None

    @property
    def shared(self) -> int | None:
        """Resident pages that are mapped more than once."""
        return None if self.rss is None or self.uss is None else self.rss - self.uss


@record
class DistinctFrames(Record):
    """What processes have together, in bytes: each frame once, each slot once."""

    rss: int
    uss: int
    """What nobody else maps."""
    swap: int | None
    hugetlb: int


@record
class ProcessGroup(Record):
    """Processes that have something in common, with what they come to: each page counts once."""

    by: str
    name: str | None
    """What they have in common; None where that is not known of them."""
    pids: tuple[int, ...]
    nr_measured: int
    """How many of them ``pss``, ``uss`` and ``thp`` are of: the others were not to be counted."""
    rss: int | None
    """The resident frames that any of them maps, where frames were counted."""
    rss_sum: int | None
    """The sum of their RSS, in which what they share counts for each of them."""
    pss: int | None
    uss: int | None
    """What nobody else maps, where frames were counted; else what one of them alone maps."""
    swap: int | None
    """Each slot once."""
    hugetlb: int | None
    """Each page once."""
    thp_sum: int | None
    tables: int | None
    nearness: Nearness | None = None
    """What the one cgroup that they are is charged, and how far its limit is; None where they are none, or it is not
    known."""

    @property
    def nr_processes(self) -> int:
        """How many they are."""
        return len(self.pids)


@record
class ProcessesResult(Tabular, Record):
    """Processes with what each uses, in the order of PIDs."""

    processes: tuple[ProcessUsage, ...]
    skipped: dict[str, tuple[int, ...]]
    """The PIDs of those that are left out, or of which there are counters alone, by the reason: ``ended``,
    ``kernel thread``, ``refused``, ``unreadable``; ``unanswered`` and ``late``."""
    sharing: dict[int, int]
    """Those that run in the address space of another one, and of which: that memory is counted once."""
    is_whole: bool
    """Whether all processes were asked for: then their PSS adds up to each page once."""
    duration_s: float
    notes: tuple[Note, ...]
    distinct: DistinctFrames | None = None
    """What they have together, where frames were counted."""

    def __iter__(self) -> Iterator[ProcessUsage]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)

    @property
    def pss(self) -> int | None:
        """The sum of their PSS, as far as it is known."""
        return sum_known(one.pss for one in self.processes)


@record
class GroupsResult(Tabular, Record):
    """Processes in groups of what they have in common."""

    by: str
    """What that is: one of `BY`."""
    groups: tuple[ProcessGroup, ...]
    processes: ProcessesResult
    """The processes themselves, and who is left out."""

    def __iter__(self) -> Iterator[ProcessGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


def members_by(by: str, processes: Sequence[ProcessUsage]) -> dict[str | None, list[ProcessUsage]]:
    """Return processes by what they have in common, see `BY`, in the order in which each comes first."""
    key_of = key_by_root(processes) if by == "tree" else KEY_OF[by]
    members: dict[str | None, list[ProcessUsage]] = {}
    for one in processes:
        members.setdefault(key_of(one), []).append(one)
    return members


def group_of(
    by: str, name: str | None, processes: Sequence[ProcessUsage], frames: DistinctFrames | None = None
) -> ProcessGroup:
    """Return what processes come to together; by their ``frames``, where these were counted."""
    swap, hugetlb = swap_once(processes), hugetlb_once(processes)
    return ProcessGroup(
        by=by,
        name=name,
        pids=tuple(one.pid for one in processes),
        nr_measured=sum(one.pss is not None for one in processes),
        rss=frames.rss if frames else None,
        rss_sum=total_of(*(one.rss for one in processes)),
        pss=sum_known(one.pss for one in processes),
        uss=frames.uss if frames else sum_known(one.uss for one in processes),
        swap=frames.swap if frames and frames.swap is not None else swap,
        hugetlb=frames.hugetlb if frames else hugetlb,
        thp_sum=sum_known(one.thp for one in processes),
        tables=total_of(*(one.tables for one in processes)),
    )


def sum_known(sizes: Iterable[int | None]) -> int | None:
    """Return the sum of those that are known; None where none is.

    >>> sum_known([1, None, 2]), sum_known([None]), sum_known([])
    (3, None, None)
    """
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def swap_once(processes: Sequence[ProcessUsage]) -> int | None:
    """Return what processes have in swap, each slot once.

    Private slots that a fork shares are divided like pages in PSS; where that is not told, each counts for all who have
    it.
    """
    private = [one.own_swap if one.swap_pss is None else one.swap_pss for one in processes]
    return total_of(together(part for one in processes for part in one.swap_parts), *private)


def hugetlb_once(processes: Sequence[ProcessUsage]) -> int | None:
    """Return what processes hold of the pools of huge pages, each page once; of those that were not measured, what the
    one has that has most."""
    own = [0 if one.own_hugetlb is None else one.own_hugetlb for one in processes]
    counted = largest_of(one.hugetlb for one in processes if one.own_hugetlb is None)
    return total_of(counted, together(part for one in processes for part in one.hugetlb_parts), *own)


# What they have in common


def key_by_root(processes: Sequence[ProcessUsage]) -> KeyOf:
    """Return what tells the tree of a process: the highest of its ancestors below PID 1, by name and PID."""
    by_pid = {one.pid: one for one in processes}
    roots: dict[int, str] = {}

    def root_of(one: ProcessUsage) -> str:
        way: list[int] = []
        seen = {one.pid}
        while one.pid not in roots:
            way.append(one.pid)
            parent = by_pid.get(one.parent)
            if parent is None or parent.pid == 1 or parent.pid in seen:
                roots[one.pid] = f"{one.name} {one.pid}"
                break
            seen.add(parent.pid)
            one = parent
        for pid in way:
            roots[pid] = roots[one.pid]
        return roots[one.pid]

    return root_of


def in_some(name: str) -> KeyOf:
    """Return what tells the container, pod or unit of a process."""

    def key_of(one: ProcessUsage) -> str | None:
        return None if one.cgroup is None else getattr(one, name) or NONE

    return key_of


KEY_OF: dict[str, KeyOf] = {
    "name": lambda one: one.name,
    "exe": lambda one: one.exe,
    "user": lambda one: one.user,
    "cgroup": lambda one: one.cgroup,
    **{name: in_some(name) for name in ("container", "pod", "unit")},
}
"""By each of `BY` but ``tree``: what tells the group of a process, of whatever has these attributes of one."""

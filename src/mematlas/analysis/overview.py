"""Groups of processes, and how much they use together, with what they share counted once.

The counters that the kernel keeps of a process are read at once, and say how large it may be. How large it is, with
what is shared divided among those who share it, only a look at the pages shows.
"""

from __future__ import annotations

from mematlas.analysis.file_parts import together
from mematlas.analysis.ram import known_sum as known_sum
from mematlas.analysis.ram import largest_of as largest_of
from mematlas.analysis.ram import total_of
from mematlas.frozen import Record, Tabular, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.file_parts import Part
    from mematlas.analysis.ram import Ram
    from mematlas.kernel.memcg import Limit, Pressure
    from mematlas.model.containers import Level
    from mematlas.notes import Note

SHARE = 0.2
"""Seconds that the measuring of one group may take, as far as is known before."""


@record
class Facts(Record):
    """The counters of a process, in bytes. RSS and its parts, the swap of its private memory, and hugetlb.

    None is "not reported": of the lines of status a kernel has those that it was built for.
    """

    pid: int
    start_time: int
    """Clock ticks after boot: with the PID it names one process and no other."""
    name: str
    uid: int | None
    cgroup: str
    """The lines of its file of that name."""
    rss: int
    anon: int | None
    file: int | None
    shmem: int | None
    swap: int | None
    hugetlb: int | None

    @property
    def most(self) -> int:
        """More than this it cannot use, as far as is reported."""
        return self.rss + known_sum(self.swap, self.hugetlb)


@record
class Measured:
    """What the pages of a process came to, in bytes. None is "not reported"."""

    pss: int | None
    uss: int | None
    swap_pss: int | None
    """Each page of private memory in swap divided by how often it is mapped."""
    own_hugetlb: int | None
    """Huge pages, but those in ``hugetlb_parts``."""
    swap_parts: tuple[Part, ...] = ()
    """What is in swap of the files of memory that it maps."""
    hugetlb_parts: tuple[Part, ...] = ()
    """What it has of the files of huge pages that it maps."""


class Group:
    """The processes of one name, such as the backends of a database; or those of one container."""

    def __init__(self, members: Iterable[Facts], container: Level | None = None) -> None:
        self.members = sorted(members, key=lambda facts: facts.most, reverse=True)
        self.container = container
        self.measured: dict[int, Measured] = {}
        """By PID."""

    def to_plain(self) -> dict[str, object]:
        """Return its members and amounts by name."""
        pids = [facts.pid for facts in self.members]
        plain: dict[str, object] = {"name": self.name, "container": self.container and self.container.name}
        plain |= {"pids": pids, "nr_measured": len(self.measured)}
        for name in ("rss", "pss", "uss", "swap", "hugetlb"):
            plain[name] = getattr(self, name)
        return {**plain, **self.parts()}

    @property
    def pid(self) -> int:
        """The PID of its largest process."""
        return self.members[0].pid

    @property
    def name(self) -> str:
        """The name that all its processes have; of a container, its short ID or its name."""
        return self.container.short if self.container else self.members[0].name

    @property
    def uid(self) -> int | None:
        """The user that all its processes run as; None where they are several, or it is not known."""
        users = {facts.uid for facts in self.members}
        return users.pop() if len(users) == 1 else None

    @property
    def rss(self) -> int:
        """The sum of their RSS, in which what they share counts for each of them."""
        return sum(facts.rss for facts in self.members)

    @property
    def most(self) -> int:
        """More than this it cannot use."""
        return sum(facts.most for facts in self.members)

    def rank(self, by: str | None) -> int:
        """Return by what it is ranked, as far as it is known: one of `SORTS`, or ``amount``."""
        if by is None or (by == "pss" and self.pss is None):
            return self.amount
        return known_sum(getattr(self, by))

    def bound(self, by: str | None) -> int:
        """Return what `rank` will be at the most when all of it is measured."""
        if by in ("uss", "pss"):
            return self.rss
        return self.most if by is None else self.rank(by)

    def sample(self, costs: Sequence[float]) -> list[Facts]:
        """Return the members to measure: all, or as many as there is time for, small ones and large ones.

        ``costs`` are the seconds for each member.
        """
        nr, cost = len(self.members), sum(costs)
        if cost <= SHARE:
            return list(self.members)
        nr_taken = max(int(nr * SHARE / cost), 1)
        return [self.members[(2 * number + 1) * nr // (2 * nr_taken)] for number in range(nr_taken)]

    def forget(self, pid: int) -> None:
        """Leave out a process that has ended."""
        self.members = [facts for facts in self.members if facts.pid != pid]

    @property
    def pss(self) -> int | None:
        """The sum of their PSS; estimated where not all were measured."""
        return self._estimated("pss")

    @property
    def uss(self) -> int | None:
        """The sum of their USS; estimated where not all were measured."""
        return self._estimated("uss")

    def _estimated(self, name: str, counter: str = "rss") -> int | None:
        """Return the sum of what was measured of each; where not all were, by how much of a counter these have."""
        measured = self.measured_facts
        amounts = [getattr(self.measured[facts.pid], name) for facts in measured]
        if not amounts or None in amounts:
            return None
        amount: int = sum(amounts)
        if self.is_measured:
            return amount
        whole, part = (total_of(*(getattr(facts, counter) for facts in some)) for some in (self.members, measured))
        if whole is None or part is None:
            return None
        return amount * whole // part if part else amount + whole

    @property
    def is_measured(self) -> bool:
        """Whether all its processes were measured."""
        return len(self.measured) == len(self.members)

    @property
    def swap(self) -> int | None:
        """What they have in swap, each page once, as far as is reported."""
        own = self._estimated("swap_pss", "swap")
        if own is None:
            own = total_of(*(facts.swap for facts in self.members))
        return total_of(own, together(part for pages in self.measured.values() for part in pages.swap_parts))

    @property
    def hugetlb(self) -> int | None:
        """What they hold of the pools of huge pages, each page once, as far as is known."""
        own = total_of(*(pages.own_hugetlb for pages in self.measured.values()))
        found = total_of(own, together(part for pages in self.measured.values() for part in pages.hugetlb_parts))
        if self.is_measured and found is not None:
            return found
        most = largest_of(facts.hugetlb for facts in self.members)
        return most if most is None or found is None else max(most, found)

    @property
    def amount(self) -> int:
        """By what it is ranked: PSS, swap and hugetlb. Where nothing was measured, what is shared counts once."""
        pss = self.pss
        mapped = self.parts().values() if pss is None else [pss]
        return known_sum(*mapped, self.swap, self.hugetlb)

    @property
    def top_kind(self) -> tuple[str, float] | None:
        """What most of it is, and the part that this is of all; None where a part of it is not known.

        What can be shared is taken to be shared by all.
        """
        sizes = {**self.parts(), "hugetlb": self.hugetlb, "swap": self.swap}
        whole = total_of(*sizes.values())
        if whole is None:
            return None
        name = max(sizes, key=lambda kind: known_sum(sizes[kind]))
        return name, known_sum(sizes[name]) / (whole or 1)

    def parts(self) -> dict[str, int | None]:
        """Return the parts of their RSS. Of what can be shared, what one of them has, as if shared by all."""
        return {
            "anon": total_of(*(facts.anon for facts in self.members)),
            "file": largest_of(facts.file for facts in self.members),
            "shmem": largest_of(facts.shmem for facts in self.members),
        }

    @property
    def measured_facts(self) -> list[Facts]:
        """The counters of those that were measured."""
        return [facts for facts in self.members if facts.pid in self.measured]


@record
class OtherProcesses(Record):
    """The processes that are not among those shown, together; we ourselves are one."""

    nr_processes: int
    rss: int
    """The sum of their RSS, in which what they share counts for each of them."""
    pss: int | None
    """What all processes of the machine map, less the PSS of those shown, as far as that is known."""
    nr_unknown: int
    """The processes that are shown without their PSS, which is in ``pss`` as well."""
    has_more: bool
    """Whether ``pss`` is also that of processes outside our PID namespace, which we do not see."""


@record
class Census(Tabular, Record):
    """The processes of a machine that have memory of their own."""

    processes: tuple[Facts, ...]
    skipped: dict[str, tuple[int, ...]]
    """The PIDs of the others by why they are left out: ``ended``, ``kernel thread``, ``refused`` or ``unreadable``."""
    nr_late: int
    """How many there was no time for."""

    def __iter__(self) -> Iterator[Facts]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)


@record
class MachineUsage(Tabular, Record):
    """Who uses the memory of a machine."""

    ram: Ram
    groups: tuple[Group, ...]
    """The largest groups of processes, the largest first."""
    others: OtherProcesses
    refused: tuple[int, ...] | None
    """The processes whose memory we may not look at, by PID; None where finding out would have taken too long."""
    missing: tuple[str, ...]
    """The capabilities that we lack to see all of every process."""
    sharing: dict[int, int]
    """The processes that run in the address space of another, and of which: that memory counts once."""
    pressure: Pressure | None
    """The time that was lost by waiting for memory; None where the kernel does not measure it."""
    tightest: Limit | None
    """The limit of a memory cgroup that is hit first; None where none of a process that we see has any."""
    notes: tuple[Note, ...]

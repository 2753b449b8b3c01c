"""Groups of processes by how much they use, found without measuring all of them.

The counters that the kernel keeps of a process are read at once, and say who may be large. How large they are, with
what is shared divided among those who share it, only a look at the pages shows.
"""

from __future__ import annotations

from mematlas.analysis.ram import less, total_of
from mematlas.frozen import Record, Tabular, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mematlas.analysis.ram import Ram
    from mematlas.notes import Note

SORTS = ("uss", "pss", "rss", "swap")
"""What groups can be ranked by, beside the sum of PSS, swap and huge pages that they are ranked by otherwise."""
WORTH_A_ROW = 1 << 20
"""Bytes in swap, or of huge pages, from which on who has the most of them is shown."""
SHARE = 0.2
"""Seconds that the measuring of one group may take, as far as is known before."""


@record
class Facts(Record):
    """The counters of a process, in bytes. RSS and its parts, the swap of its private memory, and hugetlb.

    None is "not reported": of the lines of status a kernel has those that it was built for.
    """

    pid: int
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


def known_sum(*sizes: int | None) -> int:
    """Return the sum of what is known: to put things in order by, not to show."""
    return sum(size for size in sizes if size is not None)


def largest_of(sizes: Iterable[int | None]) -> int | None:
    """Return the largest, 0 of none; None where one is not known."""
    sizes = list(sizes)
    return None if None in sizes else max([0, *filter(None, sizes)])


@record
class Measured:
    """What the pages of a process came to, in bytes. None is "not reported"."""

    pss: int | None
    uss: int | None
    swap: int | None
    """Swapped pages, shared or not."""
    swap_pss: int | None
    """The same with each private page divided by how often it is mapped, and without shared memory."""
    own_hugetlb: int | None
    shared_hugetlb: int | None


class Group:
    """The processes of one name, user and cgroup, such as the backends of a database."""

    def __init__(self, members: Iterable[Facts]) -> None:
        self.members = sorted(members, key=lambda facts: facts.most, reverse=True)
        self.measured: dict[int, Measured] = {}
        """By PID."""

    def to_plain(self) -> dict[str, object]:
        """Return its members and amounts by name."""
        pids = [facts.pid for facts in self.members]
        plain: dict[str, object] = {"name": self.name, "pids": pids, "nr_measured": len(self.measured)}
        for name in ("rss", "pss", "uss", "swap", "hugetlb"):
            plain[name] = getattr(self, name)
        return {**plain, **self.parts()}

    @property
    def pid(self) -> int:
        """The PID of its largest process."""
        return self.members[0].pid

    @property
    def name(self) -> str:
        """The name that all its processes have."""
        return self.members[0].name

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

    def _estimated(self, name: str) -> int | None:
        measured = self.measured_facts
        amounts = [getattr(self.measured[facts.pid], name) for facts in measured]
        if not amounts or None in amounts:
            return None
        amount: int = sum(amounts)
        if len(measured) == len(self.members):
            return amount
        rss = sum(facts.rss for facts in measured)
        return amount * self.rss // rss if rss else amount

    @property
    def is_measured(self) -> bool:
        """Whether all its processes were measured."""
        return len(self.measured) == len(self.members)

    @property
    def swap(self) -> int | None:
        """What they have in swap, each page once, as far as is reported: of shared memory what one of them has."""
        measured = [self.measured[facts.pid] for facts in self.measured_facts]
        if not self.is_measured or any(None in (pages.swap, pages.swap_pss) for pages in measured):
            return total_of(*(facts.swap for facts in self.members))
        # Counters are of private memory alone.
        counters = [facts.swap for facts in self.measured_facts]
        shared = [
            None if private is None else known_sum(pages.swap) - private
            for private, pages in zip(counters, measured, strict=True)
        ]
        return total_of(largest_of(shared), *(pages.swap_pss for pages in measured))

    @property
    def hugetlb(self) -> int | None:
        """What they hold of the pools of huge pages, each page once: of what is shared, what one of them maps."""
        measured = [self.measured[facts.pid] for facts in self.measured_facts]
        own = [pages.own_hugetlb for pages in measured]
        shared = [pages.shared_hugetlb for pages in measured]
        if not self.is_measured or None in own or None in shared:
            return largest_of(facts.hugetlb for facts in self.members)
        return total_of(largest_of(shared), *own)

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


def grouped(facts: Iterable[Facts], by: str | None = None) -> list[Group]:
    """Return the groups: those that have a row in any case, and then those first that can use the most."""
    members: dict[tuple[str, int | None, str], list[Facts]] = {}
    for process in facts:
        members.setdefault((process.name, process.uid, process.cgroup), []).append(process)
    groups = [Group(processes) for processes in members.values()]
    first = holders(groups) if by is None else []
    return sorted(groups, key=lambda group: (group not in first, -group.bound(by)))


def holders(groups: Iterable[Group]) -> list[Group]:
    """Return who has the most in swap, and of the huge pages: people look for them, however small the rest is."""
    groups = list(groups)
    largest_holders = []
    for name in ("swap", "hugetlb"):
        best = max(groups, key=lambda group: known_sum(getattr(group, name)), default=None)
        if best and known_sum(getattr(best, name)) >= WORTH_A_ROW:
            largest_holders.append(best)
    return largest_holders


def is_decided(groups: Sequence[Group], waiting: Collection[int], count: int, by: str | None = None) -> bool:
    """Whether the ``count`` largest groups are known: none of those waited for, by index, can be one of them."""
    nr_first = len(holders(groups)) if by is None else 0
    if any(index in waiting for index in range(nr_first)):
        return False
    done = [group.rank(by) for index, group in enumerate(groups) if index not in waiting]
    if len(done) < count:
        return False
    least = sorted(done, reverse=True)[count - 1]
    return all(groups[index].bound(by) < least for index in waiting)


def largest(groups: Iterable[Group], count: int, by: str | None = None) -> list[Group]:
    """Return the groups that use the most; among them, unless ranked otherwise, who has the most in swap or the pools.

    That one replaces the last of them, but never the first.
    """
    alive = [group for group in groups if group.members]
    ranked = sorted(alive, key=lambda group: group.rank(by), reverse=True)
    first = [*ranked[:1], *holders(ranked)] if by is None else []
    shown = list(dict.fromkeys([*first, *ranked]))[:count]
    return [group for group in ranked if group in shown]


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


def others_of(groups: Iterable[Group], shown: Sequence[Group], ram: Ram, has_more: bool) -> OtherProcesses:
    """Return what there is beside the groups that are shown."""
    hidden = [group for group in groups if group not in shown]
    nr_hidden = sum(len(group.members) for group in hidden)
    rest = less(ram.pss, known_sum(*(group.pss for group in shown)))
    if rest is not None:
        rest = max(rest, 0)  # counters of the machine lag behind, and processes went on meanwhile
    nr_unknown = sum(len(group.members) for group in shown if group.pss is None)
    rss = sum(group.rss for group in hidden)
    return OtherProcesses(nr_processes=nr_hidden + 1, rss=rss, pss=rest, nr_unknown=nr_unknown, has_more=has_more)


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
    notes: tuple[Note, ...]

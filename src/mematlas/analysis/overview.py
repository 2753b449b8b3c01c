"""Groups of processes by how much they use, found without measuring all of them.

What the kernel tells of a process at once, its counters, says who may be large; how large they are, with what is shared
divided among those who share it, only a look at the pages does.
"""

from __future__ import annotations

from mematlas.analysis.ram import less
from mematlas.frozen import Record, Tabular, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mematlas.analysis.ram import Ram
    from mematlas.notes import Note

SORTS = ("uss", "pss", "rss", "swap")
"""What groups can be ranked by, beside the sum of PSS, swap and huge pages that they are ranked by unless told."""
WORTH_A_ROW = 1 << 20
"""Bytes in swap, or of huge pages, from which on who has the most of them is shown."""
SHARE = 0.2
"""Seconds that the measuring of one group may take, as far as can be told before."""


@record
class Facts(Record):
    """The counters of a process, in bytes. RSS and its parts, the swap of its private memory, and hugetlb.

    None is "not told": of the lines of status a kernel has those that it was built for.
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
        """More than this it cannot use, as far as is told."""
        return self.rss + told(self.swap, self.hugetlb)


def told(*sizes: int | None) -> int:
    """Return the sum of what is known: to put things in order by, not to show."""
    return sum(size for size in sizes if size is not None)


def total(sizes: Iterable[int | None]) -> int | None:
    """Return the sum; None where a part of it is not known.

    >>> total([1, 2]), total([1, None])
    (3, None)
    """
    sizes = list(sizes)
    return None if None in sizes else told(*sizes)


def largest_of(sizes: Iterable[int | None]) -> int | None:
    """Return the largest, 0 of none; None where one is not known."""
    sizes = list(sizes)
    return None if None in sizes else max([0, *filter(None, sizes)])


@record
class Measured:
    """What the pages of a process came to, in bytes. None is "not told"."""

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
        self.members = sorted(members, key=lambda each: each.most, reverse=True)
        self.measured: dict[int, Measured] = {}
        """By PID."""

    def to_plain(self) -> dict[str, object]:
        """Return its members and amounts by name."""
        amounts = {name: getattr(self, name) for name in ("rss", "pss", "uss", "swap", "hugetlb")}
        pids = [each.pid for each in self.members]
        return {"name": self.name, "pids": pids, "nr_measured": len(self.measured), **amounts, **self.parts()}

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
        return sum(each.rss for each in self.members)

    @property
    def most(self) -> int:
        """More than this it cannot use."""
        return sum(each.most for each in self.members)

    def rank(self, by: str | None) -> int:
        """Return by what it is ranked, as far as it is known: one of `SORTS`, or ``amount``."""
        if by is None or (by == "pss" and self.pss is None):
            return self.amount
        return told(getattr(self, by))

    def bound(self, by: str | None) -> int:
        """Return what `rank` will be at the most when all of it is measured."""
        if by in ("uss", "pss"):
            return self.rss
        return self.most if by is None else self.rank(by)

    def sample(self, costs: Sequence[float]) -> list[Facts]:
        """Return the members to measure: all, or as many as there is time for, small ones and large ones.

        ``costs`` are the seconds that each will take.
        """
        nr, cost = len(self.members), sum(costs)
        if cost <= SHARE:
            return list(self.members)
        nr_taken = max(int(nr * SHARE / cost), 1)
        return [self.members[(2 * number + 1) * nr // (2 * nr_taken)] for number in range(nr_taken)]

    def forget(self, pid: int) -> None:
        """Leave out a process that has ended."""
        self.members = [each for each in self.members if each.pid != pid]

    @property
    def pss(self) -> int | None:
        """The sum of their PSS; estimated where not all were measured."""
        return self._estimated("pss")

    @property
    def uss(self) -> int | None:
        """The sum of their USS; estimated where not all were measured."""
        return self._estimated("uss")

    def _estimated(self, name: str) -> int | None:
        found = [(each.rss, getattr(self.measured[each.pid], name)) for each in self._told()]
        if not found or any(value is None for _, value in found):
            return None
        amount: int = sum(value for _, value in found)
        if len(found) == len(self.members):
            return amount
        rss = sum(size for size, _ in found)
        return amount * sum(each.rss for each in self.members) // rss if rss else amount

    @property
    def is_measured(self) -> bool:
        """Whether all its processes were measured."""
        return len(self.measured) == len(self.members)

    @property
    def swap(self) -> int | None:
        """What they have in swap, each page once, as far as is told: of shared memory what one of them has."""
        measured = [(each.swap, self.measured[each.pid]) for each in self._told()]
        if not self.is_measured or any(None in (each.swap, each.swap_pss) for _, each in measured):
            return total(each.swap for each in self.members)
        # Counters are of private memory alone.
        shared = largest_of(None if private is None else told(each.swap) - private for private, each in measured)
        return total([shared, *(each.swap_pss for _, each in measured)])

    @property
    def hugetlb(self) -> int | None:
        """What they hold of the pools of huge pages, each page once: of what is shared, what one of them maps."""
        measured = [self.measured[each.pid] for each in self._told()]
        if not self.is_measured or any(None in (each.own_hugetlb, each.shared_hugetlb) for each in measured):
            return largest_of(each.hugetlb for each in self.members)
        return total([largest_of(each.shared_hugetlb for each in measured), *(each.own_hugetlb for each in measured)])

    @property
    def amount(self) -> int:
        """By what it is ranked: PSS, swap and hugetlb. Where nothing was measured, what is shared counts once."""
        pss = self.pss
        return told(*(self.parts().values() if pss is None else [pss]), self.swap, self.hugetlb)

    @property
    def top_kind(self) -> tuple[str, float] | None:
        """What most of it is, and the part that this is of all; None where a part of it is not known.

        What can be shared is taken to be shared by all.
        """
        sizes = {**self.parts(), "hugetlb": self.hugetlb, "swap": self.swap}
        if (whole := total(sizes.values())) is None:
            return None
        name = max(sizes, key=lambda each: told(sizes[each]))
        return name, told(sizes[name]) / (whole or 1)

    def parts(self) -> dict[str, int | None]:
        """Return the parts of their RSS. Of what can be shared, what one of them has, as if shared by all."""
        return {
            "anon": total(each.anon for each in self.members),
            "file": largest_of(each.file for each in self.members),
            "shmem": largest_of(each.shmem for each in self.members),
        }

    def _told(self) -> list[Facts]:
        return [each for each in self.members if each.pid in self.measured]


def grouped(facts: Iterable[Facts], by: str | None = None) -> list[Group]:
    """Return the groups: those that have a row in any case, and then those first that can use the most."""
    members: dict[tuple[str, int | None, str], list[Facts]] = {}
    for each in facts:
        members.setdefault((each.name, each.uid, each.cgroup), []).append(each)
    groups = [Group(each) for each in members.values()]
    first = holders(groups) if by is None else []
    return sorted(groups, key=lambda group: (group not in first, -group.bound(by)))


def holders(groups: Iterable[Group]) -> list[Group]:
    """Return who has the most in swap, and of the huge pages: people look for them, however small the rest is."""
    groups = list(groups)
    found = []
    for name in ("swap", "hugetlb"):
        best = max(groups, key=lambda group: told(getattr(group, name)), default=None)
        if best and told(getattr(best, name)) >= WORTH_A_ROW:
            found.append(best)
    return found


def is_decided(groups: Sequence[Group], waiting: Collection[int], count: int, by: str | None = None) -> bool:
    """Whether the ``count`` largest groups are known: none of those waited for, by index, can be one of them."""
    nr_first = len(holders(groups)) if by is None else 0
    if any(index in waiting for index in range(nr_first)):
        return False
    done = sorted((group.rank(by) for index, group in enumerate(groups) if index not in waiting), reverse=True)
    return len(done) >= count and all(groups[index].bound(by) < done[count - 1] for index in waiting)


def largest(groups: Iterable[Group], count: int, by: str | None = None) -> list[Group]:
    """Return the groups that use the most; among them, unless ranked otherwise, who has the most in swap or the pools.

    That one takes the place of the last of them, but never that of the first.
    """
    ranked = sorted((group for group in groups if group.members), key=lambda group: group.rank(by), reverse=True)
    first = [*ranked[:1], *holders(ranked)] if by is None else []
    shown = list(dict.fromkeys([*first, *ranked]))[:count]
    return [group for group in ranked if group in shown]


@record
class Others(Record):
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


def others_of(groups: Iterable[Group], shown: Sequence[Group], ram: Ram, has_more: bool) -> Others:
    """Return what there is beside the groups that are shown."""
    members = [each for group in groups if group not in shown for each in group.members]
    rest = less(ram.pss, told(*(group.pss for group in shown)))
    if rest is not None:
        rest = max(rest, 0)  # counters of the machine lag behind, and processes went on meanwhile
    nr_unknown = sum(len(group.members) for group in shown if group.pss is None)
    return Others(len(members) + 1, sum(each.rss for each in members), rest, nr_unknown, has_more)


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
    others: Others
    refused: tuple[int, ...] | None
    """The processes whose memory we may not look at, by PID; None where finding out would have taken too long."""
    missing: tuple[str, ...]
    """The capabilities that we lack to see all of every process."""
    sharing: dict[int, int]
    """The processes that run in the address space of another, and of which: that memory counts once."""
    notes: tuple[Note, ...]

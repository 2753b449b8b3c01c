"""Which groups of processes are the largest, found without measuring all of them."""

from __future__ import annotations

from mematlas.analysis.overview import Group, OtherProcesses, known_sum
from mematlas.analysis.ram import less
from mematlas.model.containers import place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mematlas.analysis.overview import Facts
    from mematlas.analysis.ram import Ram
    from mematlas.model.containers import Level

SORTS = ("uss", "pss", "rss", "swap")
"""What groups can be ranked by, beside the sum of PSS, swap and huge pages that they are ranked by otherwise."""
WORTH_A_ROW = 1 << 20
"""Bytes in swap, or of huge pages, from which on who has the most of them is shown."""


def grouped(facts: Iterable[Facts], by: str | None = None) -> list[Group]:
    """Return the groups: those that have a row in any case, and then those first that can use the most."""
    containers: dict[str, Level | None] = {}
    """By the text of a process's cgroups: many have the same."""
    members: dict[object, list[Facts]] = {}
    for process in facts:
        if process.cgroup not in containers:
            containers[process.cgroup] = (place_of(process.cgroup).containers or (None,))[-1]
        container = containers[process.cgroup]
        members.setdefault((container.runtime, container.name) if container else process.name, []).append(process)
    groups = [Group(processes, containers[processes[0].cgroup]) for processes in members.values()]
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


class Search:
    """Tells when the largest groups are known, while they are measured one after the other.

    ``groups`` are as `grouped` puts them, and go by their index. ``in_swap`` is what the machine has there: no counter
    of a process has what is shared memory, so whoever was not measured may have what nobody is known to have.
    """

    def __init__(self, groups: Sequence[Group], count: int, by: str | None = None, in_swap: int | None = None) -> None:
        self.groups = groups
        self.count = count
        self.by = by
        self._bounds = [group.bound(by) for group in groups]
        self._waiting = set(range(len(groups)))
        self._largest_first = sorted(self._waiting, key=self._bounds.__getitem__)
        """In ascending order: the end of it is the largest that may be waited for."""
        self._first = set(range(len(holders(groups)))) if by is None else set()
        self._ranks: list[int] = []
        """Of the largest that are measured, in ascending order."""
        # What is shared within a group may be in each counter: of it one at least is there.
        self._in_swap = [max(known_sum(facts.swap) for facts in group.members) for group in groups]
        self._most_swap = 0
        self.unseen = known_sum(in_swap) - sum(self._in_swap) if by in (None, "swap") else 0
        """Bytes in swap that are of nobody who is known to have them."""

    def settle(self, index: int) -> None:
        """Take over what a group is known to use, which will not change any more."""
        from bisect import insort

        group = self.groups[index]
        self._waiting.discard(index)
        insort(self._ranks, group.rank(self.by))
        del self._ranks[: -self.count]
        swap = known_sum(group.swap)
        self.unseen -= swap - self._in_swap[index]
        self._most_swap = max(self._most_swap, swap)

    @property
    def is_ranked(self) -> bool:
        """Whether the largest are known by what counters tell: nobody waited for can be one of them."""
        return self._is_known(0)

    @property
    def is_decided(self) -> bool:
        """Whether that is so, and nobody waited for can be one of them for shared memory that is in swap."""
        unseen = self.unseen if self.unseen >= WORTH_A_ROW else 0
        may_have_most = self.by is None and unseen > self._most_swap
        return not self._waiting or (not may_have_most and self._is_known(unseen))

    def _is_known(self, more: int) -> bool:
        """Whether nobody waited for can be one of the largest with so many bytes more than by its counters."""
        return not self._waiting or (not self._first & self._waiting and self._bound + more < self._least)

    @property
    def _bound(self) -> int:
        """What the largest of those waited for may come to."""
        while self._largest_first[-1] not in self._waiting:
            self._largest_first.pop()
        return self._bounds[self._largest_first[-1]]

    @property
    def _least(self) -> int:
        """What the last of the largest comes to; nothing while there are too few."""
        return self._ranks[0] if len(self._ranks) == self.count else -1


def largest(groups: Iterable[Group], count: int, by: str | None = None) -> list[Group]:
    """Return the groups that use the most; among them, unless ranked otherwise, who has the most in swap or the pools.

    That one replaces the last of them, but never the first.
    """
    alive = [group for group in groups if group.members]
    ranked = sorted(alive, key=lambda group: group.rank(by), reverse=True)
    first = [*ranked[:1], *holders(ranked)] if by is None else []
    shown = set(list(dict.fromkeys([*first, *ranked]))[:count])
    return [group for group in ranked if group in shown]


def with_more(rest: OtherProcesses, groups: Collection[Group]) -> OtherProcesses:
    """Return the processes beside those shown when some groups that were are not."""
    return OtherProcesses(
        nr_processes=rest.nr_processes + sum(len(group.members) for group in groups),
        rss=rest.rss + sum(group.rss for group in groups),
        pss=None if rest.pss is None else rest.pss + known_sum(*(group.pss for group in groups)),
        nr_unknown=rest.nr_unknown - sum(len(group.members) for group in groups if group.pss is None),
        has_more=rest.has_more,
    )


def others_of(groups: Iterable[Group], shown: Sequence[Group], ram: Ram, has_more: bool) -> OtherProcesses:
    """Return what there is beside the groups that are shown."""
    hidden = set(groups).difference(shown)
    nr_hidden = sum(len(group.members) for group in hidden)
    rest = less(ram.pss, known_sum(*(group.pss for group in shown)))
    if rest is not None:
        rest = max(rest, 0)  # counters of the machine lag behind, and processes went on meanwhile
    nr_unknown = sum(len(group.members) for group in shown if group.pss is None)
    rss = sum(group.rss for group in hidden)
    return OtherProcesses(nr_processes=nr_hidden + 1, rss=rss, pss=rest, nr_unknown=nr_unknown, has_more=has_more)

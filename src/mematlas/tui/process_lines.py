"""The lines of the list of processes: a process each, or with those below it, or a group of those that have something
in common."""

from __future__ import annotations

from mematlas.analysis.listing import KEY_OF, sum_known
from mematlas.views.format import format_id, format_share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.timeline.timeline import Amounts
    from mematlas.timeline.watch import Seen

    Key = tuple[int, int] | tuple[str, str | None]
    """The PID and the start of a process; or by what a group is made, and its name."""

SIZES = ("uss", "pss", "rss", "swap")
CHANGE = "change"
KINDS = ("anon", "file", "shmem", "hugetlb")
FILE_OR_SHMEM = "file+shm"
"""What is of files or shared memory, where the kernel does not tell which."""
UNKNOWN_GROUP = "?"


class ProcessLine:
    """A line. A process is a line of one; what several come to is in one line as well.

    PSS adds up truly. The sum of USS is what they have at least, since what they share among themselves is in it for
    none of them; those of RSS and swap have that for each.
    """

    __slots__ = ("is_ended", "is_group", "is_new", "is_open", "key", "lead", "members", "name", "sizes", "whole")

    def __init__(self, key: Key, name: str, members: Sequence[Seen]) -> None:
        self.key = key
        self.name = name
        self.members = members
        self.lead = ""
        """What stands before the name."""
        self.is_group = isinstance(key[0], str)
        self.is_open: bool | None = None
        """Whether what is below it is listed; None where there is nothing."""
        self.is_new = self.is_ended = False
        """Since the moment that is compared with."""
        if len(members) == 1:
            usage = members[0].usage.usage
            self.sizes: dict[str, int | None] = {size: getattr(usage, size) for size in SIZES}
        else:
            self.sizes = {size: sum_known(getattr(one.usage.usage, size) for one in members) for size in SIZES}
        self.sizes[CHANGE] = None
        self.whole = self.sizes
        """What it comes to with all that is below it."""

    @property
    def keys(self) -> list[tuple[int, int]]:
        """The PID and the start of each process that it is of."""
        return [(one.pid, one.start_time) for one in self.members]

    @property
    def change(self) -> int | None:
        """By how much the measure has changed that was asked for."""
        return self.sizes[CHANGE]

    @property
    def pid(self) -> int:
        """The PID, of several the first one."""
        return self.members[0].pid

    def measure(self, before: Amounts | None, name: str, is_compared: bool) -> None:
        """Find out by how much an amount has changed since it was that of each process."""
        if self.is_ended:
            self.sizes[CHANGE] = None if (size := self.sizes[name]) is None else -size
        elif before is not None:
            changes = [change_of(one, before, name) for one in self.members]
            self.sizes[CHANGE] = sum_known(changes)
            self.is_new = is_compared and not any(key in before for key in self.keys)


def change_of(one: Seen, before: Amounts, name: str) -> int | None:
    """Return by how much an amount of a process has changed: who was not there before has grown from nothing."""
    now, was = getattr(one.usage.usage, name), before.get((one.pid, one.start_time), 0)
    return None if now is None or was is None else now - was


def what_of(members: Sequence[Seen]) -> tuple[str, float] | None:
    """Return of which kind most of what processes have is, and its share of all of that; None where that is not known.

    Of several, what they share counts for each, as in the sum of their RSS.
    """
    usages = [one.usage.usage for one in members]
    amounts = {kind: sum_known(getattr(usage, kind) for usage in usages) for kind in KINDS}
    rss, anon = sum_known(usage.rss for usage in usages), amounts["anon"]
    if rss is None or anon is None:
        return None
    if None in (amounts["file"], amounts["shmem"]) or any(usage.file is None for usage in usages):
        amounts = {"anon": anon, FILE_OR_SHMEM: rss - anon, "hugetlb": amounts["hugetlb"]}
    known = {kind: size for kind, size in amounts.items() if size}
    total = rss + (amounts["hugetlb"] or 0)
    if not known or total <= 0:
        return None
    kind = max(known, key=known.__getitem__)
    return kind, known[kind] / total


def words_of_kind(what: tuple[str, float] | None) -> str:
    """Return such a kind in words.

    >>> words_of_kind(("anon", 0.97)), words_of_kind(None)
    ('anon 97%', '-')
    """
    return "-" if what is None else f"{what[0]} {format_share(what[1])}"


def user_of(one: Seen) -> str:
    """Return whose a process is."""
    return "-" if one.who.user is None else one.who.user


def place_of_line(one: Seen) -> str:
    """Return where a process runs: its container, else its unit, else its cgroup."""
    who = one.who
    if who.container is not None:
        return format_id(who.container)
    return who.unit or who.cgroup or "-"


def group_of_process(one: Seen, by: str) -> str | None:
    """Return the group of a process: by its name, or by who it is; None where that is not known."""
    found: str | None = one.name if by == "name" else KEY_OF[by](one.who)
    return found


# Shapes


class Lines:
    """Makes the lines of processes in one of three shapes, those of each level in order."""

    def __init__(
        self, before: Amounts | None, measure: str, is_compared: bool, order: Callable[[ProcessLine], Any]
    ) -> None:
        """``before`` is what a measure was that the change is of."""
        self._before, self._measure, self._is_compared = before, measure, is_compared
        self._order = order

    def _line(self, key: Key, name: str, members: Sequence[Seen]) -> ProcessLine:
        line = ProcessLine(key, name, members)
        line.measure(self._before, self._measure, self._is_compared)
        return line

    def _line_of(self, one: Seen) -> ProcessLine:
        return self._line((one.pid, one.start_time), one.name, (one,))

    def ended(self, some: Iterable[Seen]) -> Iterator[ProcessLine]:
        """Yield the lines of processes that are no more."""
        for one in some:
            line = ProcessLine((one.pid, one.start_time), one.name, (one,))
            line.is_ended = True
            line.measure(None, self._measure, self._is_compared)
            yield line

    def flat(self, everybody: Sequence[Seen], ended: Iterable[Seen] = ()) -> list[ProcessLine]:
        """Return a line for each process."""
        return sorted([*map(self._line_of, everybody), *self.ended(ended)], key=self._order)

    def groups(self, everybody: Sequence[Seen], by: str, opened: Collection[Any]) -> Iterator[ProcessLine]:
        """Yield a line for each group, each followed by its members where it is open."""
        members: dict[str | None, list[Seen]] = {}
        for one in everybody:
            members.setdefault(group_of_process(one, by), []).append(one)
        groups = [self._line((by, name), name_of_group(name, by), some) for name, some in members.items()]
        for group in sorted(groups, key=self._order):
            group.is_open = group.key in opened
            yield group
            for line in self.flat(group.members) if group.is_open else ():
                line.lead = "  "
                yield line

    def tree(self, everybody: Sequence[Seen], folded: Collection[Any]) -> Iterator[ProcessLine]:
        """Yield a line for each process, each followed by its children; of one that is folded, one for all of them.

        Each is in order by what it comes to with all that are below it.
        """
        below, roots = children_of(everybody)
        lines = {one.pid: self._line_of(one) for one in everybody}
        by_pid = {one.pid: one for one in everybody}
        downwards = [one for pid in roots for one in all_below(by_pid[pid], below)]
        for one in reversed(downwards):
            if children := below.get(one.pid):
                whole = [lines[one.pid].sizes, *(lines[child.pid].whole for child in children)]
                lines[one.pid].whole = {size: sum_known(some[size] for some in whole) for size in (*SIZES, CHANGE)}
        # Nothing calls itself here: a tree may be deeper than calls can be.
        top = sorted((lines[pid] for pid in roots), key=self._order, reverse=True)
        todo = [(line, "", "") for line in top]
        while todo:
            line, lead, further = todo.pop()
            children = below.get(line.pid, [])
            if children and line.key in folded:
                line = self._line(line.key, line.name, list(all_below(line.members[0], below)))
            line.lead, line.is_open = lead, len(line.members) == 1 if children else None
            yield line
            if line.is_open:
                ordered = sorted((lines[one.pid] for one in children), key=self._order, reverse=True)
                for index, child in enumerate(ordered):
                    # The last of them comes first off the list.
                    branch, beyond = ("└─", "  ") if index == 0 else ("├─", "│ ")
                    todo.append((child, further + branch, further + beyond))


def name_of_group(name: str | None, by: str) -> str:
    """Return what a group is called."""
    if name is None:
        return UNKNOWN_GROUP
    return format_id(name) if by == "container" else name


def children_of(everybody: Sequence[Seen]) -> tuple[dict[int, list[Seen]], set[int]]:
    """Return the children of each process by its PID, and the PIDs of those whose parents are not there.

    A parent has not started after its child: else it is another one, who has the number by now. What a recording says
    may go round; whoever nobody would come to is taken for one without a parent.
    """
    by_pid = {one.pid: one for one in everybody}
    below: dict[int, list[Seen]] = {}
    roots: set[int] = set()
    for one in everybody:
        parent = by_pid.get(one.who.parent or 0)
        if parent is None or parent is one or parent.start_time > one.start_time:
            roots.add(one.pid)
        else:
            below.setdefault(parent.pid, []).append(one)
    reached: set[int] = set()
    for pid in roots:
        reached.update(one.pid for one in all_below(by_pid[pid], below))
    for one in everybody:
        if one.pid not in reached:
            above = by_pid[one.who.parent or 0]
            below[above.pid] = [child for child in below[above.pid] if child is not one]
            roots.add(one.pid)
            reached.update(found.pid for found in all_below(one, below))
    return below, roots


def all_below(one: Seen, below: dict[int, list[Seen]]) -> Iterator[Seen]:
    """Yield a process, and all that are below it."""
    todo = [one]
    while todo:
        here = todo.pop()
        yield here
        todo += below.get(here.pid, ())

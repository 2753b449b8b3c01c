"""A machine as a whole: which processes there are, who uses the most, and what its RAM is used for."""

from __future__ import annotations

import time

from mematlas.errors import BadInput, NotSupported, PermissionDenied
from mematlas.kernel.procfs import MAX_STALL, ProcFS
from mematlas.model.processes import Processes
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.listing import GroupsResult, ProcessesResult
    from mematlas.analysis.overview import Census, MachineUsage
    from mematlas.analysis.ram import Ram
    from mematlas.analysis.sharing import ShareResult
    from mematlas.model.target import Target
    from mematlas.observe.process_set import ProcessSet

PAIRS = 20
"""Pairs of processes, and sets of them, that are looked for by default."""
SECONDS = 30.0
"""For reading what all processes share."""
TOP = 5
"""Groups of processes that are looked for by default."""
LOOK_RIGHTS = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")
"""What it takes to see all that processes have, with the frames that it lies in."""

LIST_SECONDS = 15.0
"""After which no more is found out about any process, by default."""
FIND_SECONDS, MEASURE_SECONDS, COUNT_SECONDS = 0.9, 1.4, 1.6
"""After the start: when no more processes are looked for, none is measured, and nothing waited for."""


class Machine:
    """All processes of a machine.

    >>> import os
    >>> machine = Machine()
    >>> any(one.pid == os.getppid() for one in machine.census())
    True
    >>> 0 < machine.ram().anon < machine.ram().total
    True
    """

    def __init__(self, procfs: ProcFS | None = None) -> None:
        self.procfs = procfs or ProcFS()

    def __repr__(self) -> str:
        return f"<Machine at {self.procfs.root}>"

    def census(self, deadline: float = float("inf")) -> Census:
        """Return every process that has memory of its own, with its counters. They wait for nobody.

        We ourselves are left out. ``deadline`` is a time of `time.monotonic` after which no more are looked at.
        """
        from mematlas.analysis.overview import Census
        from mematlas.observe.ranking import facts_of

        everybody = Processes(self.procfs, deadline=deadline)
        known = [facts_of(process, stat.name) for process, stat in everybody]
        skipped = {why: tuple(pids) for why, pids in everybody.skipped.items()}
        return Census(tuple(filter(None, known)), skipped, everybody.nr_late)

    def processes(
        self,
        targets: Iterable[int | str | Target] | None = None,
        *,
        max_stall: float = MAX_STALL,
        seconds: float = LIST_SECONDS,
        details: Iterable[str] = ("cgroup", "start_time"),
        distinct: bool = False,
    ) -> ProcessesResult:
        """Return every process that has memory of its own, or some, with what each uses.

        ``targets`` are PIDs, texts as the command line takes them, or processes that were found. A process is held up
        for no longer than ``max_stall`` seconds, see `Process.usage`. Who does not answer is left without amounts, and
        after ``seconds`` all are. Processes in one address space are one. ``details`` may have ``exe`` as well.
        ``distinct`` counts what they have together by frames.

        >>> Machine().processes().pss   # doctest: +SKIP
        1468675418

        Raises:
            TargetNotFound: no process is called so.
            ProcessGone: all of them have ended.
            PermissionDenied: frames are asked for, and hidden.
        """
        from mematlas.observe.listing import Wanted, look_at

        return look_at(self.procfs, targets, Wanted(max_stall, seconds, frozenset(details), distinct))

    def groups(
        self,
        by: str,
        targets: Iterable[int | str | Target] | None = None,
        *,
        max_stall: float = MAX_STALL,
        seconds: float = LIST_SECONDS,
        distinct: bool = False,
    ) -> GroupsResult:
        """Return the same in groups of one ``name``, ``exe``, ``user``, ``cgroup``, ``container``, ``pod`` or ``unit``,
        or by ``tree``.

        >>> [(group.name, group.nr_processes) for group in Machine().groups("user")]   # doctest: +SKIP
        [('root', 41), ('postgres', 6)]
        """
        from mematlas.observe.listing import Wanted, look_at_groups

        details = frozenset(("cgroup", "start_time", "exe") if by == "exe" else ("cgroup", "start_time"))
        return look_at_groups(self.procfs, by, targets, Wanted(max_stall, seconds, details, distinct))

    def ram(self) -> Ram:
        """Return what the RAM is used for. All of it is unknown where this /proc has no such file (subset=pid)."""
        from mematlas.analysis.ram import account
        from mematlas.kernel.hugepools import read_free
        from mematlas.kernel.meminfo import read_meminfo
        from mematlas.kernel.zoneinfo import read_cpu_free

        try:
            meminfo = read_meminfo(self.procfs)
        except (NotSupported, PermissionDenied):
            return account({})
        try:
            cpu_free = read_cpu_free(self.procfs)
        except (NotSupported, PermissionDenied):
            cpu_free = None
        return account(meminfo, cpu_free, read_free() if self.procfs.live else None)

    def usage(self, limit: int = TOP, by: str | None = None) -> MachineUsage:
        """Return who uses the most, in groups of one name or of one container. It takes two seconds at the most.

        Groups are ranked by PSS, swap and huge pages together, or ``by`` one of ``uss``, ``pss``, ``rss``, ``swap``.
        As few of them are measured as it takes to find the largest.

        >>> Machine().usage().groups[0].name   # doctest: +SKIP
        'postgres'
        """
        from mematlas.analysis.overview import MachineUsage
        from mematlas.analysis.ranking import SORTS, grouped, largest, others_of
        from mematlas.kernel.rights import CAPABILITIES, effective_capabilities
        from mematlas.model.holders import is_inside
        from mematlas.observe.limits import read_pressure, tightest_for
        from mematlas.observe.ranking import find_refused, in_shared_memory, in_swap, measure_groups

        if limit < 1:
            raise BadInput(f"{limit} groups: 1 or more")
        if by not in (None, *SORTS):
            raise BadInput(f"cannot rank groups by {by!r}: choose from {', '.join(SORTS)}")
        start = time.monotonic()
        census = self.census(start + FIND_SECONDS)
        sharing = in_shared_memory(census.processes, self.procfs, start + FIND_SECONDS)
        groups = grouped((facts for facts in census if facts.pid not in sharing), by)
        notes = Notes()
        if census.nr_late:
            notes.add(Note("unasked", f"time ran out: {census.nr_late:,} processes were skipped"))
        tightest, too_little_time = tightest_for(census if self.procfs.live else ())
        notes += too_little_time
        notes += measure_groups(groups, self.procfs, start + MEASURE_SECONDS, limit, by, in_swap(self.procfs))
        held = effective_capabilities()
        missing = tuple(name for name in CAPABILITIES if name in LOOK_RIGHTS and name not in held)
        refused = find_refused(census, self.procfs, start + COUNT_SECONDS)
        ram = self.ram()
        shown = largest(groups, limit, by)
        others = others_of(groups, shown, ram, is_inside(self.procfs))
        return MachineUsage(
            ram=ram,
            groups=tuple(shown),
            others=others,
            refused=refused,
            missing=missing,
            sharing=sharing,
            pressure=read_pressure(self.procfs),
            tightest=tightest,
            notes=tuple(notes),
        )

    def share(
        self, targets: Iterable[int | str | ProcessSet] | None = None, limit: int = PAIRS, seconds: float = SECONDS
    ) -> ShareResult:
        """Return who shares how many bytes with whom, and through what: of all processes, or of those named alone.

        Of several targets each is one, be it a process or a group such as ``name:postgres``; of one group its processes
        are. Of two processes there is what they share by VMA as well. Up to ``limit`` pairs and sets are returned, the
        largest; of few processes all pairs are. What is not read after so many ``seconds`` is left out.

        >>> Machine().share(["name:postgres", "name:pgbouncer"]).pairs[0].size   # doctest: +SKIP
        1953792

        Raises:
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.observe.sharing import find_sharing, share_of_sets

        if limit < 1:
            raise BadInput(f"{limit} pairs: 1 or more")
        end = time.monotonic() + seconds
        if targets is None:
            return find_sharing(Processes(self.procfs), limit=limit, deadline=end)
        from contextlib import ExitStack

        from mematlas.observe.process_set import ProcessSet

        with ExitStack() as ours:
            sets = [
                one if isinstance(one, ProcessSet) else ours.enter_context(ProcessSet(one, self.procfs))
                for one in targets
            ]
            if not sets:
                raise BadInput("who shares memory with whom? Give one process at the least, or none for all")
            return share_of_sets(sets, limit, end)

"""A machine as a whole: which processes there are, who uses the most, and what its RAM is used for."""

from __future__ import annotations

import time

from mematlas.errors import BadInput, NotSupported, PermissionDenied
from mematlas.kernel.procfs import MAX_STALL, ProcFS
from mematlas.model.processes import Processes, ourselves
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.cached import CacheResult
    from mematlas.analysis.frame_owners import FrameOwners
    from mematlas.analysis.frames import FramesResult
    from mematlas.analysis.kernel_memory import KernelResult
    from mematlas.analysis.listing import GroupsResult, ProcessesResult
    from mematlas.analysis.overview import Census, MachineUsage
    from mematlas.analysis.ram import Ram
    from mematlas.analysis.sharing import ShareResult
    from mematlas.model.target import Target
    from mematlas.observe.frame_list import FrameList
    from mematlas.observe.process_set import ProcessSet

PAIRS = 20
"""Pairs of processes, and sets of them, that are looked for by default."""
SECONDS = 30.0
"""For reading what all processes share, or where they have frames."""
TOP = 5
"""Groups of processes that are looked for by default."""
LOOK_RIGHTS = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")
"""What it takes to see all that processes have, with the frames that it lies in."""

FILES = 20
"""Files of which it is found out who maps them, by default."""
CACHE_SECONDS = 60.0
"""For walking trees of files."""
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

    def census(self, deadline: float = float("inf"), without: Iterable[int] = ()) -> Census:
        """Return every process that has memory of its own, with its counters. They wait for nobody.

        We ourselves are left out, and who is in ``without``. ``deadline`` is a time of `time.monotonic` after which no
        more are looked at.
        """
        from mematlas.analysis.overview import Census
        from mematlas.observe.ranking import facts_of

        everybody = Processes(self.procfs, without={*ourselves(self.procfs), *without}, deadline=deadline)
        known = [facts_of(process, stat) for process, stat in everybody]
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
        sample: float | None = None,
        seed: int | None = None,
    ) -> ProcessesResult:
        """Return every process that has memory of its own, or some, with what each uses.

        ``targets`` are PIDs, texts as the command line takes them, or processes that were found. A process is held up
        for no longer than ``max_stall`` seconds, see `Process.usage`. Who does not answer is left without amounts, and
        after ``seconds`` all are. Processes in one address space are one. ``details`` may have ``exe`` as well.
        ``distinct`` counts what they have together by frames. With ``sample`` PSS and USS of large processes are
        estimated from so large a part of their page tables, chosen at random: by ``seed`` always the same ones.

        >>> Machine().processes().pss   # doctest: +SKIP
        1468675418

        Raises:
            TargetNotFound: no process is called so.
            ProcessGone: all of them have ended.
            PermissionDenied: frames are asked for, and hidden.
        """
        from mematlas.observe.listing import Wanted, look_at

        if sample is not None and not 0 < sample <= 1:
            raise BadInput(f"a sample of {sample}: more than 0, and 1 at most")
        return look_at(self.procfs, targets, Wanted(max_stall, seconds, frozenset(details), distinct, sample, seed))

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

    def frames(
        self, by: str = "kind", source: str = "auto", sample: float | None = None, seed: int | None = None
    ) -> FramesResult:
        """Return what every frame of RAM is used for, in sizes that add up to all of it.

        Rows are kinds of frames, or ``by`` one of ``zone``, ``node``, ``order`` (how large what they are part of is)
        and ``mapped``. Where frames may not be looked up, what meminfo adds up is returned. Whoever looks again and
        again holds a `Frames` open. With ``sample`` so large a part of RAM is looked at, in blocks chosen at random
        (by ``seed`` always the same ones): amounts by kind are then estimates, each with an interval that the truth
        lies in 95 times of 100.

        >>> {use.kind: use.size for use in Machine().frames().uses}["anon"]   # doctest: +SKIP
        763363328

        Raises:
            PermissionDenied, NotSupported: frames may not be looked up, and are asked for in other rows than kinds.
        """
        from mematlas.observe.frames import Frames

        with Frames(self.procfs, source) as frames:
            return frames.look(by, sample, seed)

    def kernel_memory(self, seconds: float = SECONDS) -> KernelResult:
        """Return what the kernel has memory for, in parts that add up to the frames that are its own.

        Each part has what it is made of, the largest first: caches of objects, functions that asked for vmalloc memory,
        processes with their stacks and page tables. Beside these are buffers that drivers share, and clients of
        graphics drivers. What is not read after so many ``seconds`` is left out.

        >>> {part.part: part.size for part in Machine().kernel_memory().parts}["slab"]   # doctest: +SKIP
        1182113792
        """
        from mematlas.observe.kernel_memory import find_kernel_memory

        return find_kernel_memory(self.procfs, seconds)

    def list_frames(
        self,
        flags: str = "",
        spans: Iterable[tuple[int, int]] | None = None,
        limit: int | None = None,
    ) -> FrameList:
        """Return what lists frames of RAM, one by one, in runs, or counted by their flags.

        ``flags`` are those of kpageflags that they must have, with ``!`` those that they may not: ``anon,!dirty``;
        kinds of frames may be among them. ``spans`` are the first frames and the first after the last. No more than
        ``limit`` rows are listed.

        >>> Machine().list_frames("anon,unevictable").count().size   # doctest: +SKIP
        13905920

        Raises:
            BadInput: there is no such flag.
            TargetNotFound: there are no such frames.
            PermissionDenied: kpageflags may not be read (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.analysis.frame_list import EVERY_FRAME, parse_frame_flags
        from mematlas.observe.frame_list import FrameList

        wanted = parse_frame_flags(flags) if flags else EVERY_FRAME
        return FrameList(self.procfs, wanted, spans, limit)

    def usage(self, limit: int = TOP, by: str | None = None, without: Iterable[int] = ()) -> MachineUsage:
        """Return who uses the most, in groups of one name or of one container. It takes two seconds at the most.

        Groups are ranked by PSS, swap and huge pages together, or ``by`` one of ``uss``, ``pss``, ``rss``, ``swap``.
        As few of them are measured as it takes to find the largest. Processes of ``without`` are
        left out, as we ourselves are.

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
        census = self.census(start + FIND_SECONDS, without)
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

    def cache(
        self,
        paths: Iterable[str] = (),
        targets: Iterable[int | str | Target] = (),
        *,
        sort: str = "resident",
        limit: int = FILES,
        details: Iterable[str] = ("path", "mappers"),
        seconds: float = CACHE_SECONDS,
    ) -> CacheResult:
        """Return what the page cache has of files: of all, or of those at or below paths, and of those of processes.

        No link is followed, no other file system entered, no file read. Files are in the order of ``sort``, an amount
        or ``path``; of the first ``limit`` there is who maps them. What is not found after so many ``seconds`` is left
        out. ``details`` may leave out ``mappers``.

        Of the whole page cache the first ``limit`` files are listed, and the others added up. It is read from struct
        pages; where these cannot be read it is of the files that processes map or have open, and a note says so.
        ``details`` may leave out ``path`` then; with ``places`` the first 100 files have where in them they are in RAM,
        and what was evicted; ``cgroup`` alone gives ``charged``, the page cache by the cgroup that is charged for it.

        >>> [file.resident for file in Machine().cache(["/etc/hostname"]).files]   # doctest: +SKIP
        [4096]

        Raises:
            TargetNotFound: nothing is called so.
            PermissionDenied: a file may not be opened, or a process not be looked at.
        """
        from mematlas.observe.cache import Wanted, find_cached

        wanted = Wanted(sort, limit, frozenset(details), seconds)
        things = [*paths], [*targets]
        if any(things):
            return find_cached(self.procfs, *things, wanted)
        from mematlas.observe.whole_cache import find_everything

        return find_everything(self.procfs, wanted)

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

    def owners(self, frames: Iterable[int | tuple[int, int]], seconds: float = SECONDS) -> FrameOwners:
        """Return what frames are, and who has them: processes that map them, and where; the page table of which
        process, a slab of which cache, in which free block, of which file they are.

        ``frames`` are numbers, or pairs of the first and the first after the last. Who is not read after so many
        ``seconds`` is left out.

        >>> for row in Machine().owners([0x1a2b3c]):   # doctest: +SKIP
        ...     row.kind, row.mapper.pid, hex(row.address), row.mapper.vma.path
        ('file', 4211, '0x7f8fad600000', '/usr/lib/x86_64-linux-gnu/libc.so.6')

        Raises:
            TargetNotFound: there is no such frame.
            PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their flags (needs CAP_DAC_READ_SEARCH).
        """
        from mematlas.observe.frame_owners import find_owners

        spans = [(frame, frame + 1) if isinstance(frame, int) else frame for frame in frames]
        return find_owners(self.procfs, spans, seconds)

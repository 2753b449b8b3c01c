"""One memory cgroup: what it is charged, beside what its processes hold, and how far its limits are."""

from __future__ import annotations

import os
import time
from itertools import islice

from mematlas.analysis.charge import Charge, Held, parts_of, unsure_of
from mematlas.analysis.results import Reading
from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.cgroups import MOUNTINFO, read_mounts
from mematlas.kernel.memcg import (
    VERSION_1,
    MemoryCgroup,
    cgroup_of,
    charging_mounts,
    is_within,
    open_cgroup,
    open_in,
)
from mematlas.kernel.procfs import ProcFS
from mematlas.model.processes import SKIPPED
from mematlas.notes import Note
from mematlas.observe.oom import foresee
from mematlas.observe.together import ANON, FILE, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from mematlas.model.containers import Level
    from mematlas.observe.process import Process

    Frames = Mapping[tuple[int, int], int]
    """Numbers of frames by whose they are and the inode of whom they are charged to."""

MOST_COUNTED = 8
"""Groups below one that are counted: more add nothing to what a CPU may have charged ahead."""
MOST_BELOW = 1 << 16
"""Groups below one of which it is found out what is charged to them."""
MOST_NAMED = 1 << 14
"""Groups of the machine that are looked at for the name of another one."""
EVENTS = {"memory.failcnt": "max", "memory.memsw.failcnt": "memsw_max"}
"""Files of version 1 that count what memory.events does in version 2, by the name that it has, or would have, there."""


class Cgroup:
    """A memory cgroup, held by its directory: another one that is given its name is never taken for it.

    The path is that of /proc/PID/cgroup, or its directory: ``/system.slice/ssh.service``,
    ``/sys/fs/cgroup/system.slice``.

    >>> with Cgroup("/shop") as cgroup:   # doctest: +SKIP
    ...     charge = cgroup.charge()
    >>> charge.charged, charge.headroom, charge.oom.victim.pid   # doctest: +SKIP
    (431702016, 105168896, 4211)

    Raises:
        TargetNotFound: there is no such cgroup.
        NotSupported: memory is charged in another hierarchy, or this kernel has no memory cgroups.
    """

    def __init__(
        self, path: str | os.PathLike[str] | MemoryCgroup, procfs: ProcFS | None = None, mountinfo: str = MOUNTINFO
    ) -> None:
        """Open the cgroup that is meant; or take over one that is held open."""
        self.procfs = procfs or ProcFS()
        if not self.procfs.live:
            raise NotSupported("the charge of a cgroup", "a running machine: a capture has none of its files")
        self.dir = path if isinstance(path, MemoryCgroup) else open_cgroup(os.fspath(path), mountinfo)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cgroup {self.path!r}>"

    def close(self) -> None:
        """Let go of the cgroup."""
        self.dir.close()

    @property
    def path(self) -> str:
        """Its path, as /proc/PID/cgroup has it."""
        return self.dir.cgroup

    def charge(self) -> Charge:
        """Return what it is charged, with the groups below it, and its limits.

        What its processes map is told from what none of them does, as far as we may see frames.

        Raises:
            CgroupGone: it was removed.
            NotSupported: nothing is charged to it alone, since the memory controller ends above it.
        """
        self._charged()  # before anybody is looked for
        processes = self._members()
        try:
            return self.charge_beside(len(processes), frames_of(processes))
        finally:
            for process in processes:
                process.close()

    def charge_beside(self, nr_processes: int, frames: Frames | Note) -> Charge:
        """Return the same, given the frames of its processes, or why they are not known."""
        start = time.perf_counter()
        before = self.dir.amounts()
        charged = self._charged()
        after = self.dir.amounts()
        seen = frames if isinstance(frames, Note) else self._held(frames)
        held, notes = (None, (seen,)) if isinstance(seen, Note) else (seen, ())
        limits = tuple(self.dir.limits())
        return Charge(
            cgroup=self.path,
            version=self.dir.version.number,
            charged=charged,
            swap=self._swap(after),
            peak=self._peak(),
            parts=parts_of(after, held),
            mapped_file=after.get("mapped_file"),
            unsure=self._unsure(before, after),
            nr_processes=nr_processes,
            held=held,
            limits=limits,
            events=self._events(),
            pressure=self.dir.pressure(),
            oom=foresee(self.dir, limits, self.procfs),
            reading=Reading("memory.stat", time.perf_counter() - start, False, notes),
        )

    def _charged(self) -> int | None:
        if self.dir.is_root:
            return None  # version 1 shows a sum of parts there, without those of the kernel
        charged = self.dir.number(self.dir.version.usage)
        if charged is not None:
            return charged
        for level in self.dir.lineage():
            if level.is_root or level.has(level.version.usage):
                raise NotSupported(
                    f"the charge of {self.path} alone", f"the memory controller, which ends at {level.cgroup}"
                )
        raise NotSupported(f"the charge of {self.path}", "the memory controller")

    def _swap(self, amounts: Mapping[str, int]) -> int | None:
        """Return the bytes in swap; None where they are not counted, as for the root of version 2."""
        return amounts["swap"] if "swap" in amounts else self.dir.number("memory.swap.current")

    def _peak(self) -> int | None:
        """Return the most that was charged."""
        if self.dir.is_root:
            return None
        return self.dir.number("memory.max_usage_in_bytes" if self.dir.version is VERSION_1 else "memory.peak")

    def _unsure(self, before: Mapping[str, int], after: Mapping[str, int]) -> int:
        nr_groups = 1 + sum(1 for _ in islice(self.dir.below(), MOST_COUNTED))
        return unsure_of(before, after, nr_groups, os.cpu_count() or 1, self.procfs.page_size)

    def _events(self) -> dict[str, int]:
        """Return how often what happened to it or a group below it; in version 1, to itself."""
        if self.dir.version is not VERSION_1:
            return self.dir.numbers("memory.events")
        counts = {name: self.dir.number(file) for file, name in EVENTS.items()}
        counts["oom_kill"] = self.dir.numbers("memory.oom_control").get("oom_kill")
        return {name: count for name, count in counts.items() if count is not None}

    # What its processes hold

    def _members(self) -> list[Process]:
        """Return its processes, and those of the groups below, that can be looked at without waiting for ever."""
        from mematlas.model.search import answering, resolve_all
        from mematlas.observe.process import Process

        try:
            targets = answering(resolve_all(f"cgroup:{self.dir.path}", self.procfs).targets)
        except TargetNotFound:
            return []
        processes = []
        for target in targets:
            try:
                processes.append(Process(target.dir))
            except SKIPPED:
                continue
        return processes

    def _held(self, frames: Frames) -> Held | Note:
        """Return numbers of frames as bytes: those charged to it, to others, and to none."""
        here = {os.fstat(self.dir.fd).st_ino, *(inode for inode, _ in islice(self.dir.below(), MOST_BELOW))}
        if len(here) > MOST_BELOW:
            return unseen(f"more than {MOST_BELOW:,} groups are below it")
        sizes = {ANON: 0, FILE: 0, SHMEM: 0}
        elsewhere: dict[int, int] = {}
        for (owner, inode), number in frames.items():
            if owner not in sizes:
                continue  # the hugetlb pools have accounts of their own
            size = number * self.procfs.page_size
            if inode in here:
                sizes[owner] += size
            else:
                elsewhere[inode] = elsewhere.get(inode, 0) + size
        uncharged = elsewhere.pop(0, 0)
        names = self._names() if elsewhere else {}
        largest = sorted(elsewhere.items(), key=lambda item: item[1], reverse=True)
        return Held(
            anon=sizes[ANON],
            shmem=sizes[SHMEM],
            file=sizes[FILE],
            elsewhere=tuple((names.get(inode), size) for inode, size in largest),
            uncharged=uncharged,
        )

    def _names(self) -> dict[int, str]:
        """Return the cgroups that are mounted here, by inode."""
        with open_in([self.dir.mount], self.dir.mount.root) as highest:
            return {os.fstat(highest.fd).st_ino: highest.cgroup, **dict(islice(highest.below(), MOST_NAMED))}


def frames_of(processes: Sequence[Process]) -> Frames | Note:
    """Return the frames that processes map, by whose they are and whom they are charged to; or why they are unknown."""
    from mematlas.observe.together import count_together

    if not processes:
        return {}
    try:
        charged_to = count_together(processes, charges=True).charged_to
        return unseen(NO_CHARGES) if charged_to is None else charged_to
    except ProcessGone:
        return {}  # all of them have ended
    except (PermissionDenied, NotSupported) as error:
        return unseen(str(error))


NO_CHARGES = "this kernel has no /proc/kpagecgroup (needs CONFIG_MEMCG)"


def unseen(why: str) -> Note:
    """Return the note that says why it is not known what of a charge the processes map."""
    return Note("held-unknown", f"which of it its processes map is unknown: {why}")


def charge_of_level(level: Level, processes: Sequence[Process], frames: Frames | Note) -> Charge | Note:
    """Return what the one cgroup is charged that processes are, or why it is not known."""
    try:
        with Cgroup(open_level(level, processes), processes[0].procfs) as cgroup:
            return cgroup.charge_beside(len(processes), frames)
    except Error as error:
        return Note("charge-unknown", f"what the cgroup is charged is unknown: {error}")


def open_level(level: Level, processes: Sequence[Process]) -> MemoryCgroup:
    """Return the memory cgroup that processes are, which are known by their cgroup in any hierarchy.

    Raises:
        NotSupported: their memory is charged together with that of others.
    """
    charged = charging_mounts(read_mounts())
    if level.controllers not in (None, charged[0].controllers):
        for process in processes:
            theirs = cgroup_of(process.dir, charged[0].controllers)
            if theirs is None or not is_within(theirs, level.path):
                raise NotSupported(
                    f"the charge of {level.name} alone", f"to be that of {theirs}, of which it is a part"
                )
    return open_in(charged, level.path)

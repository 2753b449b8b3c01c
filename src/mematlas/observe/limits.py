"""How near the machine is to having too little memory: the time that is lost to waiting, and the tightest limit."""

from __future__ import annotations

import time

from mematlas.analysis.charge import HARD, Nearness, tightest_of
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.cgroups import read_mounts
from mematlas.kernel.memcg import charging_mounts, open_in, parse_pressure
from mematlas.model.containers import CONTAINER, POD, UNIT, place_of
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.listing import GroupsResult
    from mematlas.analysis.overview import Facts
    from mematlas.kernel.memcg import Limit, MemoryCgroup, Pressure
    from mematlas.kernel.procfs import ProcFS

CGROUP = "cgroup"
CGROUPS = (CGROUP, CONTAINER, POD, UNIT)
"""What groups are by that are a cgroup each."""
SECONDS = 0.2
"""For all cgroups of a machine: a quarter of a millisecond for each."""


def read_pressure(procfs: ProcFS) -> Pressure | None:
    """Return the time that the whole machine has lost: /proc/pressure/memory. None where the kernel does not tell.

    That is without CONFIG_PSI, or booted with psi=0; and of a capture, which has no such file.
    """
    try:
        return procfs.parsed("pressure/memory", parse_pressure) if procfs.live else None
    except (NotSupported, PermissionDenied):
        return None


def unseen_limits(number: int) -> Note:
    """Return the note on cgroups that there was no time for."""
    return Note("limits-unseen", f"time ran out: of {number:,} cgroups it is not known how far their limits are")


def tightest_for(processes: Iterable[Facts], seconds: float = SECONDS) -> tuple[Limit | None, list[Note]]:
    """Return the limit that is hit first, of the memory cgroups of processes, and a note when time ran out.

    None when there is none.
    """
    # Of many processes in the same cgroup one is enough.
    texts = dict.fromkeys(facts.cgroup for facts in processes)
    limit, nr_left = find_tightest(dict.fromkeys(place_of(text).path for text in texts), time.monotonic() + seconds)
    return limit, [unseen_limits(nr_left)] if nr_left else []


def find_tightest(cgroups: Iterable[str], deadline: float) -> tuple[Limit | None, int]:
    """Return the limit that is hit first, of some memory cgroups and those above them, and how many were left out.

    After ``deadline``, a time of `time.monotonic`, no more are looked at.
    """
    reader = LimitReader(deadline)
    found = [nearness.limit for path in cgroups if (nearness := reader.of(path)) and nearness.limit]
    return tightest_of(found, HARD), reader.nr_left


def with_nearness(result: GroupsResult, seconds: float = SECONDS) -> GroupsResult:
    """Return groups with what the cgroup of each is charged, as far as they are cgroups: see `CGROUPS`."""
    if result.by not in CGROUPS:
        return result
    cgroups = {one.pid: one.cgroup for one in result.processes}
    reader = LimitReader(time.monotonic() + seconds)
    groups = []
    for group in result.groups:
        paths = {level_of(cgroups[pid], result.by, group.name) for pid in group.pids}
        path = paths.pop() if len(paths) == 1 else None
        groups.append(replace(group, nearness=reader.of(path) if path else None))
    processes = result.processes
    if reader.nr_left:
        processes = replace(processes, notes=(*processes.notes, unseen_limits(reader.nr_left)))
    return replace(result, groups=tuple(groups), processes=processes)


def level_of(cgroup: str | None, kind: str, name: str | None) -> str | None:
    """Return the cgroup that is a container, pod or unit of this name, given one in it; None when it is in none.

    >>> level_of("/docker/3d1f/init", "cgroup", "/docker/3d1f/init")
    '/docker/3d1f/init'
    >>> level_of("/system.slice/ssh.service/a", "unit", "ssh.service")
    '/system.slice/ssh.service'
    """
    if cgroup is None or kind == CGROUP:
        return cgroup
    place = place_of(f"0::{cgroup}")
    levels = {CONTAINER: place.containers, POD: place.pods, UNIT: place.units}[kind]
    return next((level.path for level in levels if level.name == name), None)


class LimitReader:
    """Reads how near memory cgroups are to their limits: the limits of one that is above several are read once."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """A time of `time.monotonic` after which no more are looked at."""
        self.nr_left = 0
        """How many there was no time for."""
        self._limits: dict[str, tuple[Limit, ...]] = {}
        """Those that hold for a cgroup, its own and those of the ones above it."""
        try:
            self._mounts = charging_mounts(read_mounts())
        except NotSupported:
            self._mounts = []

    def of(self, path: str) -> Nearness | None:
        """Return how near a cgroup is; None where it was removed meanwhile, or is not to be seen from here."""
        if not self._mounts:
            return None
        if time.monotonic() > self.deadline:
            self.nr_left += 1
            return None
        try:
            with open_in(self._mounts, path) as cgroup:
                charged = None if cgroup.is_root else cgroup.number(cgroup.version.usage)
                return Nearness(charged, tightest_of(self._limits_of(cgroup), HARD))
        except Error:
            return None

    def _limits_of(self, cgroup: MemoryCgroup) -> tuple[Limit, ...]:
        levels: list[tuple[str, tuple[Limit, ...]]] = []
        limits: tuple[Limit, ...] = ()
        for level in cgroup.lineage():
            if level.cgroup in self._limits:
                limits = self._limits[level.cgroup]
                break
            levels.append((level.cgroup, tuple(level.own_limits())))
        for path, own in reversed(levels):
            limits = self._limits[path] = own + limits
        return limits

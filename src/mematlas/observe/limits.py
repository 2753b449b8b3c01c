"""How near the machine is to having too little memory: the time that is lost to waiting, and the tightest limit."""

from __future__ import annotations

import time

from mematlas.analysis.charge import HARD, Nearness, tightest_of
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.cgroups import read_mounts
from mematlas.kernel.memcg import charging_mounts, open_in, parse_pressure
from mematlas.model.containers import place_of
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.overview import Facts
    from mematlas.kernel.memcg import Limit, MemoryCgroup, Pressure
    from mematlas.kernel.procfs import ProcFS

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


def tightest_for(processes: Iterable[Facts], seconds: float = SECONDS) -> tuple[Limit | None, list[Note]]:
    """Return the limit that is hit first, of the memory cgroups of processes, and a note when time ran out.

    None when there is none.
    """
    # Of many processes in the same cgroup one is enough.
    texts = dict.fromkeys(facts.cgroup for facts in processes)
    limit, nr_left = find_tightest(dict.fromkeys(place_of(text).path for text in texts), time.monotonic() + seconds)
    text = f"time ran out: of {nr_left:,} cgroups it is not known how far their limits are"
    return limit, [Note("limits-unseen", text)] if nr_left else []


def find_tightest(cgroups: Iterable[str], deadline: float) -> tuple[Limit | None, int]:
    """Return the limit that is hit first, of some memory cgroups and those above them, and how many were left out.

    After ``deadline``, a time of `time.monotonic`, no more are looked at.
    """
    reader = LimitReader(deadline)
    found = [nearness.limit for path in cgroups if (nearness := reader.of(path)) and nearness.limit]
    return tightest_of(found, HARD), reader.nr_left


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

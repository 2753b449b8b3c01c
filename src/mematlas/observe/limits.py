"""How near the machine is to having too little memory: the time that is lost to waiting, and the tightest limit."""

from __future__ import annotations

import time

from mematlas.analysis.charge import HARD, tightest_of
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.cgroups import read_mounts
from mematlas.kernel.memcg import charging_mounts, open_in, parse_pressure
from mematlas.model.containers import place_of
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.analysis.overview import Facts
    from mematlas.kernel.memcg import Limit, Pressure
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
    try:
        mounts = charging_mounts(read_mounts())
    except NotSupported:
        return None, 0
    limits: list[Limit] = []
    seen: set[str] = set()
    nr_left = 0
    for path in cgroups:
        if time.monotonic() > deadline:
            nr_left += 1
            continue
        try:
            with open_in(mounts, path) as cgroup:
                for level in cgroup.lineage():
                    if level.cgroup in seen:
                        break
                    seen.add(level.cgroup)
                    limits += level.own_limits()
        except Error:
            continue  # removed meanwhile, or not to be seen from here
    return tightest_of(limits, HARD), nr_left

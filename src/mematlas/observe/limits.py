"""How near the machine is to having too little memory: the time that is lost to waiting, and the tightest limit."""

from __future__ import annotations

import time

from mematlas.analysis.charge import HARD, tightest_of
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.cgroups import read_mounts
from mematlas.kernel.memcg import charging_mounts, open_in, parse_pressure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.memcg import Limit, Pressure
    from mematlas.kernel.procfs import ProcFS


def read_pressure(procfs: ProcFS) -> Pressure | None:
    """Return the time that the whole machine has lost: /proc/pressure/memory. None where the kernel does not tell.

    That is without CONFIG_PSI, or booted with psi=0; and of a capture, which has no such file.
    """
    try:
        return procfs.parsed("pressure/memory", parse_pressure) if procfs.live else None
    except (NotSupported, PermissionDenied):
        return None


def find_tightest(cgroups: Iterable[str], deadline: float) -> Limit | None:
    """Return the limit that is hit first, of some memory cgroups and those above them; None when there is none.

    After ``deadline``, a time of `time.monotonic`, no more are looked at.
    """
    try:
        mounts = charging_mounts(read_mounts())
    except NotSupported:
        return None
    limits: list[Limit] = []
    seen: set[str] = set()
    for path in cgroups:
        if time.monotonic() > deadline:
            break
        try:
            with open_in(mounts, path) as cgroup:
                for level in cgroup.lineage():
                    if level.cgroup in seen:
                        break
                    seen.add(level.cgroup)
                    limits += level.own_limits()
        except Error:
            continue  # removed meanwhile, or not to be seen from here
    return tightest_of(limits, HARD)

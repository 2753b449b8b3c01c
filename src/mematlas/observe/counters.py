"""The machine's own counters at a moment: meminfo, vmstat, and how long programs have waited for memory (PSI)."""

from __future__ import annotations

from mematlas.analysis.counters import COUNTERS, SIZE
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.memcg import parse_pressure
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.vmstat import read_vmstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.procfs import ProcFS

ALLOCSTALL = "allocstall"
PRESSURE = "pressure/memory"


def read_counters(procfs: ProcFS) -> dict[str, int]:
    """Return what this kernel has of `mematlas.analysis.counters.COUNTERS`; what it has not is missing.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> counters = read_counters(ProcFS())
    >>> 0 < counters["MemAvailable"] < counters["MemTotal"], counters["pgfault"] > 0
    (True, True)
    """
    found = dict(read_all(procfs))
    return {name: found[name] for name in COUNTERS if found.get(name, -1) >= 0}


def read_all(procfs: ProcFS) -> Iterator[tuple[str, int]]:
    """Yield the counters with their names, amounts in bytes."""
    try:
        yield from read_meminfo(procfs).items()
    except NotSupported:
        pass  # a /proc of processes alone
    try:
        vmstat = read_vmstat(procfs)
    except NotSupported:
        vmstat = {}
    for name, number in vmstat.items():
        is_size = name in COUNTERS and COUNTERS[name].unit == SIZE
        yield name, number * procfs.page_size if is_size else number
    stalls = [number for name, number in vmstat.items() if name.startswith(f"{ALLOCSTALL}_")]
    if stalls:
        yield ALLOCSTALL, sum(stalls)  # there is one for each zone
    try:
        pressure = procfs.parsed_short(PRESSURE, parse_pressure)
    except (NotSupported, PermissionDenied):
        return  # CONFIG_PSI is off, or psi=0
    yield "pressure_some", pressure.some_us
    yield "pressure_full", pressure.full_us

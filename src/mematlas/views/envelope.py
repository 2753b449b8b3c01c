"""What stands around the rows of any result: the machine, and who was looked at."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.results import Reading
    from mematlas.kernel.procfs import ProcFS
    from mematlas.kernel.status import Stat


def machine_of(procfs: ProcFS, huge_size: int | None) -> dict[str, Any]:
    """Return the ``machine`` of a result: that of the capture where it is read from one.

    ``huge_size`` is how many bytes a huge page has here; None where there are none.
    """
    if procfs.machine is not None:
        return {key: procfs.machine.get(key) for key in ("host", "kernel", "arch", "page_size", "huge_size")}
    system = os.uname()
    return {
        "host": system.nodename,
        "kernel": system.release,
        "arch": system.machine,
        "page_size": procfs.page_size,
        "huge_size": huge_size,
    }


def target_of(stat: Stat, reading: Reading | None = None) -> dict[str, Any]:
    """Return the ``target`` of a result: who, and how the reading went."""
    target: dict[str, Any] = {"pid": stat.pid, "name": stat.name, "start_time": stat.start_time}
    if reading:
        target |= {
            "source": reading.source,
            "duration_s": round(reading.duration_s, 6),
            "torn": reading.torn,
        }
        if reading.reader:
            target["reader"] = reading.reader
    return target

"""The machine that a result is of, by name."""

from __future__ import annotations

import os

from mematlas.kernel.hugepage import read_huge_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.kernel.procfs import ProcFS

KEYS = ("host", "kernel", "arch", "page_size", "huge_size")


def machine_of(procfs: ProcFS) -> dict[str, Any]:
    """Return the ``machine`` of a result: that of the capture where it is read from one."""
    if procfs.machine is not None:
        return {key: procfs.machine.get(key) for key in KEYS}
    system = os.uname()
    values = (system.nodename, system.release, system.machine, procfs.page_size, read_huge_size())
    return dict(zip(KEYS, values, strict=True))

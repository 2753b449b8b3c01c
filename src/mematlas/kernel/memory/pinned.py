"""/proc/PID/mem, held open: it keeps the address space of a process, and with it the top table, from being given away.

Source: fs/proc/base.c, mem_open(); kernel/fork.c, mmput() and mmdrop().
"""

from __future__ import annotations

import os

from mematlas.kernel.status import open_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mematlas.kernel.procfs import ProcessDir


class PinnedMm:
    """The address space of a process, held by an open /proc/PID/mem: its top table stays while this is open.

    When the process ends, or executes another program, its tables empty; they are not given to anybody else.
    """

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.forget: Callable[[int], None] | None = None
        """Has whoever gives out its tables let go of the top one, when this is closed."""
        self.address = 0
        """Where its mm_struct is."""
        self.pgd = 0
        """Physical address of the top table."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the address space."""
        if self.forget:
            self.forget(self.pgd)
            self.forget = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_mem(directory: ProcessDir) -> PinnedMm:
    """Return the address space of a process, held open; its mm_struct and its tables are not looked for yet."""
    return PinnedMm(directory.tid, open_memory(directory))

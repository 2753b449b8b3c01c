"""/proc/PID/cmdline: the words that a program was started with, or has put in their place since.

Format: proc_pid_cmdline(5); fs/proc/base.c, get_mm_cmdline(). The kernel copies whatever memory the program says its
words lie in (prctl(2), PR_SET_MM_MAP, needs no right): that may be terabytes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

MAX_COMMAND = 128 << 10
"""Bytes that are read: as long as one word may be (MAX_ARG_STRLEN)."""


def read_command(process: ProcessDir, size: int = MAX_COMMAND) -> str:
    """Return the beginning of a command line, its words ended by zeros."""
    return process.read_start("cmdline", size).decode("utf-8", "surrogateescape")

"""/proc/sysvipc/shm: the System V segments of an IPC namespace, and whether they outlive whoever attached them.

Format: proc_pid_sysvipc(5), shmctl(2); ipc/shm.c, sysvipc_shm_proc_show(). The file shows the reader's own namespace.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, FormatError
from mematlas.frozen import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir, ProcFS

SHM_DEST = 0o1000  # include/linux/shm.h: removed by shmctl(IPC_RMID), and goes with the last that is attached
PERMS_BASE = 8


@record
class ShmSegment:
    """One System V segment."""

    is_doomed: bool
    """Whether it goes with the last attachment; else it stays until somebody removes it."""
    nr_attached: int
    """VMAs that show it, in all processes together."""


def read_segments(procfs: ProcFS) -> dict[int, ShmSegment]:
    """Return the segments of our IPC namespace by their identifiers."""
    segments = parse_segments(procfs.read("sysvipc/shm"))
    # kernel.shm_rmid_forced (commit b34a6b1da371, v3.1): all of them go with the last attachment.
    try:
        forced = int(procfs.read("sys/kernel/shm_rmid_forced")) != 0
    except (Error, ValueError):
        forced = False
    if not forced:
        return segments
    return {shmid: replace(segment, is_doomed=True) for shmid, segment in segments.items()}


def parse_segments(data: bytes) -> dict[int, ShmSegment]:
    """Return the segments in the text of the file.

    >>> parse_segments(b"key shmid perms size cpid lpid nattch\\n 0 3 1600 4096 7 7 2\\n")
    {3: ShmSegment(is_doomed=True, nr_attached=2)}
    """
    segments = {}
    for line in data.split(b"\n")[1:]:
        fields = line.split(None, 7)
        if not fields:
            continue
        try:
            is_removed = bool(int(fields[2], PERMS_BASE) & SHM_DEST)
            segments[int(fields[1])] = ShmSegment(is_removed, int(fields[6]))
        except (IndexError, ValueError):
            raise FormatError("sysvipc/shm", line.decode("utf-8", "replace")) from None
    return segments


def is_in_our_namespace(process: ProcessDir) -> bool:
    """Whether a process has our IPC namespace, whose segments we can read."""
    try:
        return process.readlink("ns/ipc") == os.readlink(f"{process.procfs.root}/self/ns/ipc")
    except (Error, OSError):
        return False

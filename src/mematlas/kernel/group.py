"""A process whose first thread has ended while others live on.

``/proc/PID`` is the directory of the first thread. What that gave up at its end, its files no longer show: the address
space, the command line, the mounts (kernel/exit.c, do_exit()). The process has all of it still, and the directory of a
thread that lives shows it. Who the process is, its PID, name and start, stays with the first.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, NoAddressSpace, NotSupported, PermissionDenied
from mematlas.kernel.directory import MAX_FILE, SHORT
from mematlas.kernel.procfs import START_FIELD, ProcessDir
from mematlas.kernel.status import parse_status, read_stat, read_status

ZOMBIE = "has ended (a zombie): its memory is freed already"


class LiveThread(ProcessDir):
    """A process seen through one of its threads, for want of the first one's view; it is what it was in every file."""

    def __init__(self, first: ProcessDir, tid: int) -> None:
        super().__init__(first.procfs, tid)
        self.first = first
        self.pid = first.pid

    def close(self) -> None:
        """Let go of the process."""
        super().close()
        self.first.close()

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """Return a file of the process, with the PID and the name of the process in it."""
        if name == "comm":
            return self.first.read(name, limit)
        data = super().read(name, limit)
        if name == "stat":
            return stat_of_process(data, self.first.read(name, limit))
        return status_of_process(data, self.first.read(name, limit)) if name == "status" else data

    def read_short(self, name: str, size: int = SHORT) -> bytes:
        """Return the same."""
        return self.read(name)


def seen_whole(first: ProcessDir) -> ProcessDir:
    """Return a directory that shows all of a process: its own, unless the thread that this is of has ended.

    Raises:
        NoAddressSpace: all its threads have ended.
    """
    stat = read_stat(first)
    if not stat.is_zombie:
        return first
    for tid in threads(first):
        try:
            thread = LiveThread(first, tid)
        except Error:
            continue
        if is_alive(thread):
            return thread
        ProcessDir.close(thread)  # and not the first
    raise NoAddressSpace(first.pid, stat.name, ZOMBIE)


def first_fd(process: ProcessDir) -> int:
    """Return the descriptor of the directory of a process's first thread."""
    return process.first.fd if isinstance(process, LiveThread) else process.fd


def is_alive(thread: LiveThread) -> bool:
    """Whether a thread lives and is of that process: its number may be another's by now."""
    try:
        tgid = parse_status(ProcessDir.read(thread, "status")).get("Tgid")
        # As long as the first thread has not been reaped, which is after all others are gone, its number is its own.
        first = read_status(thread.first).get("Tgid")
        return tgid == first and not read_stat(thread).is_zombie
    except Error:
        return False


def threads(first: ProcessDir) -> list[int]:
    """Return the other threads of a process."""
    try:
        fd = first.open_fd("task")
    except (NotSupported, PermissionDenied):
        return []  # a capture has none
    try:
        tids = (int(name) for name in os.listdir(fd) if name.isdigit())
        return sorted(tid for tid in tids if tid != first.pid)
    except OSError:
        return []
    finally:
        os.close(fd)


def stat_of_process(thread: bytes, first: bytes) -> bytes:
    """Return a stat file with who the process is from its first thread, and how it is from one that lives.

    >>> stat_of_process(b"8 (worker) S 1", b"7 (main) Z 1")
    b'7 (main) S 1'
    """
    head, sign, _ = first.rpartition(b")")
    fields = thread.rpartition(b")")[2].split(b" ")
    starts = first.rpartition(b")")[2].split(b" ")
    # The first of these fields is the blank after the name.
    if len(fields) > START_FIELD + 1 < len(starts):
        fields[START_FIELD + 1] = starts[START_FIELD + 1]
    return head + sign + b" ".join(fields)


def status_of_process(thread: bytes, first: bytes) -> bytes:
    """Return a status file with who the process is from its first thread, and how it is from one that lives.

    >>> status_of_process(b"Name:\\tworker\\nPid:\\t8\\nVmRSS:\\t4 kB\\n", b"Name:\\tmain\\nPid:\\t7\\n")
    b'Name:\\tmain\\nPid:\\t7\\nVmRSS:\\t4 kB\\n'
    """
    wanted = (b"Name", b"Pid", b"NSpid")
    kept = {line.partition(b":")[0]: line for line in first.split(b"\n")}
    lines = thread.split(b"\n")
    for index, line in enumerate(lines):
        name = line.partition(b":")[0]
        if name in wanted:
            lines[index] = kept.get(name, line)
    return b"\n".join(lines)

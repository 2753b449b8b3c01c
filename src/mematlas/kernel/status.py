"""/proc/PID/stat and status: who a process is, and the kernel's running counters of its memory.

Format: proc_pid_stat(5), proc_pid_status(5); fs/proc/array.c. Neither takes the target's mmap lock.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, FormatError, ProcessGone
from mematlas.kernel.procfs import PF_EXITING
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir, ProcFS

PF_KTHREAD = 0x00200000
"""A process flag: include/linux/sched.h."""


@record
class Stat:
    """What identifies a process, from ``/proc/PID/stat``."""

    pid: int
    name: str
    """The command name: at most 15 bytes, set by the program, may hold anything."""
    state: str
    parent: int
    flags: int
    """Kernel-internal PF_* bits."""
    start_time: int
    """Clock ticks after boot. With the PID it names one process and no other."""

    @property
    def is_kernel_thread(self) -> bool:
        """Whether this is a thread of the kernel, without an address space of its own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and waits for its parent to notice; its memory is gone."""
        return self.state in "ZXx"

    @property
    def is_ending(self) -> bool:
        """Whether it is on its way out, or has ended."""
        return self.is_zombie or bool(self.flags & PF_EXITING)


def read_stat(process: ProcessDir) -> Stat:
    """Return who the process is.

    >>> import os
    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:
    ...     read_stat(process).pid == os.getpid()
    True
    """
    try:
        return parse_stat(read_of(process, "stat"))
    except FormatError:
        read_of(process, "stat")  # of a process that has ended this is the error: what was read was cut short
        raise


def read_of(process: ProcessDir, name: str) -> bytes:
    """Return stat or status. The kernel writes either whole or not at all: an empty one is of a process that ended."""
    data = process.read(name)
    if not data and process.procfs.live:
        raise ProcessGone(process.pid)
    return data


def parse_stat(data: bytes) -> Stat:
    """Return the fields of a stat file. The name may hold blanks and parentheses; the last ``)`` ends it."""
    head, _, tail = data.rpartition(b")")
    pid, _, name = head.partition(b" (")
    fields = tail.split()
    try:
        return Stat(
            pid=int(pid),
            name=name.decode("utf-8", "surrogateescape"),
            state=fields[0].decode("ascii"),
            parent=int(fields[1]),
            flags=int(fields[6]),
            start_time=int(fields[19]),
        )
    except (IndexError, ValueError):
        raise FormatError("stat", data.decode("utf-8", "replace")) from None


@record
class Faults:
    """How often a process had to wait for a page so far, from ``/proc/PID/stat``."""

    minor: int
    """The page was in RAM already, or had only to be filled with zeros."""
    major: int
    """The page had to be read from a disk."""


def read_faults(process: ProcessDir) -> Faults:
    """Return the page faults of a process, all its threads together."""
    return parse_faults(read_of(process, "stat"))


def parse_faults(data: bytes) -> Faults:
    """Return the counts of page faults in a stat file; see `parse_stat` for its form."""
    fields = data.rpartition(b")")[2].split()
    try:
        return Faults(minor=int(fields[7]), major=int(fields[9]))
    except (IndexError, ValueError):
        raise FormatError("stat", data.decode("utf-8", "replace")) from None


def read_status(process: ProcessDir) -> dict[str, str]:
    """Return the lines of ``/proc/PID/status`` by name: ``{"Name": "cat", "VmRSS": "920 kB", ...}``."""
    return parse_status(read_of(process, "status"))


def read_memory_status(process: ProcessDir) -> dict[str, str]:
    """Return the lines of status of a process that has memory.

    Raises:
        ProcessGone: it has none any more. The kernel leaves the lines of it out then (fs/proc/array.c,
            proc_pid_status).
    """
    status = read_status(process)
    if "VmRSS" not in status and process.procfs.live and process.is_ending():
        raise ProcessGone(process.pid)
    return status


def parse_status(data: bytes) -> dict[str, str]:
    """Return the lines of a status file by name."""
    text = data.decode("utf-8", "surrogateescape")
    pairs = (line.partition(":") for line in text.split("\n") if line)
    return {name: value.strip() for name, _, value in pairs}


def status_bytes(status: dict[str, str], name: str) -> int | None:
    """Return a ``kB`` line of a status file in bytes; None when the file has no such line."""
    value = status.get(name, "")
    return int(value[:-3]) * 1024 if value.endswith(" kB") else None


def numbers_of(status: dict[str, str]) -> list[int]:
    """Return the PID of a process in each PID namespace, from that which its /proc was mounted in down to its own.

    They are those of the whole process, also where the lines are of a thread. A kernel without namespaces
    (CONFIG_PID_NS) has no line of them: there is but one number. (The line is of Linux 4.1, older than what else we
    need.)

    >>> numbers_of({"Tgid": "812", "NStgid": "812 7"}), numbers_of({"Tgid": "812"})
    ([812, 7], [812])
    """
    try:
        return list(map(int, status.get("NStgid", status.get("Tgid", "")).split()))
    except ValueError:
        raise FormatError("status", status.get("NStgid", "")) from None


def own_numbers(procfs: ProcFS) -> list[int]:
    """Return what `numbers_of` says of ourselves; nothing where this /proc does not know us."""
    try:
        return numbers_of(parse_status(procfs.read("self/status")))
    except Error:
        return []


def counts_as_we_do(procfs: ProcFS) -> bool:
    """Whether the PIDs of this /proc are the numbers that our system calls take: it is of our own PID namespace.

    An equal number alone may be chance; but of another namespace there would be more than one.
    """
    return own_numbers(procfs) == [os.getpid()]

"""/proc/PID/stat and status: who a process is, and the kernel's running counters of its memory.

Format: proc_pid_stat(5), proc_pid_status(5); fs/proc/array.c. Neither takes the target's mmap lock.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, FormatError, NoAddressSpace, ProcessGone
from mematlas.frozen import record
from mematlas.kernel.procfs import PF_EXITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from mematlas.kernel.procfs import ProcessDir, ProcFS

    T = TypeVar("T")

PF_FORKNOEXEC = 0x00000040
PF_KTHREAD = 0x00200000
"""Process flags: include/linux/sched.h."""
UTIME, CSTIME = 11, 14
"""The first and the last of the processor times in stat, as numbered behind the name: fs/proc/array.c."""


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
    def is_fork(self) -> bool:
        """Whether it runs the program of its parent still: it was forked, and started none."""
        return bool(self.flags & PF_FORKNOEXEC)

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
        return read_of(process, "stat", parse_stat)
    except FormatError:
        # What was read was cut short, perhaps, and the process has ended: then that is the error.
        read_of(process, "stat", bytes)
        raise


def read_of(process: ProcessDir, name: str, parse: Callable[[bytes], T]) -> T:
    """Return a file, parsed, that the kernel writes whole or not at all: an empty one is of a process that ended."""

    def parse_some(data: bytes) -> T:
        if not data and process.procfs.live:
            raise ProcessGone(process.pid)
        return parse(data)

    return process.parsed_short(name, parse_some)


def parse_stat(data: bytes) -> Stat:
    """Return the fields of a stat file. The name may hold blanks and parentheses; the last ``)`` ends it."""
    head, _, tail = data.rpartition(b")")
    pid, _, name = head.partition(b" (")
    fields = tail.split()
    try:
        if len(name) > MAX_NAME:
            raise ValueError
        return Stat(
            pid=number(pid),
            name=name.decode("utf-8", "surrogateescape"),
            state=fields[0][:1].decode("ascii"),
            parent=number(fields[1]),
            flags=number(fields[6]),
            start_time=number(fields[19]),
        )
    except (IndexError, ValueError):
        raise not_stat(data) from None


MAX_NAME = 64
"""Bytes of a command name: 15, but a kernel worker says what it works on as well (fs/proc/array.c, proc_task_name)."""


def number(digits: bytes) -> int:
    """Return a number of 64 bits. Raises ValueError: it is none."""
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError
    return int(digits)


def not_stat(data: bytes) -> FormatError:
    """Return what is to be said of such a stat file."""
    text = data[:200].decode("utf-8", "replace")
    return FormatError("stat", text, expected="PID (NAME) STATE and 49 numbers")


LAYOUT_FIELDS = (23, 24, 25, *range(42, 49))
"""startcode, endcode, startstack; start_data to env_end: counted behind the name."""


def read_layout(process: ProcessDir) -> tuple[bytes, ...]:
    """Return where the parts of a process's program lie; see `parse_layout`."""
    return parse_layout(ask_stat(process))


def ask_stat(process: ProcessDir) -> bytes:
    """Return a stat file as who has our rights is shown it, be that a broker.

    Raises:
        ProcessGone: it has ended.
    """
    try:
        return process.procfs.ask(read_stat_whole, process)
    except ProcessLookupError:  # a broker has looked for it in vain
        raise ProcessGone(process.pid) from None


def read_stat_whole(process: ProcessDir) -> bytes:
    """Return a stat file. Who reads it, not who opened it, is shown where the program lies, or zeros."""
    return read_of(process, "stat", bytes)


def parse_layout(data: bytes) -> tuple[bytes, ...]:
    """Return where the code, data, stack, heap and arguments of a program lie, out of a stat file.

    The same in two processes that have one address space, or are forks. Where we may not know, 1 for the code and 0 for
    the rest (fs/proc/array.c, do_task_stat()).
    """
    fields = data.rpartition(b")")[2].split()
    try:
        return tuple(fields[index] for index in LAYOUT_FIELDS)
    except IndexError:
        raise not_stat(data) from None


PROGRAM = slice(0, 3)
"""Of a layout, what another program has elsewhere, or another of the same."""
DATA_END_FIELD = 43
"""The index of end_data among the fields behind the name."""


def parse_data_end(data: bytes) -> int:
    """Return where the data ends that the program's file holds, out of a stat file; 0 where we may not know.

    >>> parse_data_end(b"7 (sh) S" + b" 0" * 42 + b" 4096 0")
    4096
    """
    fields = data.rpartition(b")")[2].split()
    try:
        return number(fields[DATA_END_FIELD]) if len(fields) > DATA_END_FIELD else 0
    except ValueError:
        raise not_stat(data) from None


@record
class Faults:
    """How often a process had to wait for a page so far, from ``/proc/PID/stat``."""

    minor: int
    """The page was in RAM already, or had only to be filled with zeros."""
    major: int
    """The page had to be read from a disk."""


def read_processor_seconds(procfs: ProcFS, pid: int) -> float:
    """Return the processor seconds of a process, and of its children that have ended; 0 where it has ended itself."""
    try:
        fields = procfs.read(f"{pid}/stat").rpartition(b")")[2].split()
        return sum(map(int, fields[UTIME : CSTIME + 1])) / os.sysconf("SC_CLK_TCK")
    except (Error, ValueError):
        return 0.0


def read_faults(process: ProcessDir) -> Faults:
    """Return the page faults of a process, all its threads together."""
    return read_of(process, "stat", parse_faults)


def parse_faults(data: bytes) -> Faults:
    """Return the counts of page faults in a stat file; see `parse_stat` for its form."""
    fields = data.rpartition(b")")[2].split()
    try:
        return Faults(minor=number(fields[7]), major=number(fields[9]))
    except (IndexError, ValueError):
        raise not_stat(data) from None


def read_status(process: ProcessDir) -> dict[str, str]:
    """Return the lines of ``/proc/PID/status`` by name: ``{"Name": "cat", "VmRSS": "920 kB", ...}``."""
    return read_of(process, "status", parse_status)


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
    global _last_status
    last = _last_status  # other threads parse as well
    if data != last[0]:
        last = _last_status = data, parsed_status(data)
    return last[1].copy()


_last_status: tuple[bytes, dict[str, str]] = b"", {}
"""The text that was parsed last, and what it says: one look asks more than once, and mostly the same is said again."""


def parsed_status(data: bytes) -> dict[str, str]:
    """Return the lines of a text that is not known."""
    status: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if line:
            name, _, value = line.partition(":")
            status[name] = value = value.strip()
            if value.endswith(UNIT) and name != "Name" and not is_amount(value):
                raise FormatError("status", line, expected="NAME: NUMBER kB")
    return status


UNIT = " kB"
MAX_AMOUNT = 17
"""Digits of a number of kB, of 64 bits in bytes."""


def is_amount(value: str) -> bool:
    """Whether this is a number of kB."""
    digits = value[: -len(UNIT)]
    return digits.isascii() and digits.isdigit() and len(digits) <= MAX_AMOUNT


def status_bytes(status: dict[str, str], name: str) -> int | None:
    """Return a ``kB`` line of a status file in bytes; None when the file has no such line."""
    value = status.get(name, "")
    return int(value[: -len(UNIT)]) * 1024 if value.endswith(UNIT) and is_amount(value) else None


COUNTERS = (b"VmRSS", b"RssAnon", b"RssFile", b"RssShmem", b"VmSwap", b"HugetlbPages", b"VmPTE")
"""The lines of a status file that say how much memory a process has."""


@record
class MemoryCounters:
    """Who owns a process, and the counters of its memory, in bytes; None is "not reported"."""

    uid: int | None
    rss: int | None
    anon: int | None
    file: int | None
    shmem: int | None
    swap: int | None
    hugetlb: int | None
    tables: int | None


def read_memory_counters(process: ProcessDir) -> MemoryCounters:
    """Return the counters of a process, of a status file of which no other line is looked at: all have one to read."""
    return read_of(process, "status", parse_memory_counters)


def parse_memory_counters(data: bytes) -> MemoryCounters:
    r"""Return the counters in a status file, in a tenth of the time that `parse_status` takes.

    >>> parse_memory_counters(b"Name:\tcat\nUid:\t0\t0\t0\t0\nVmRSS:\t     920 kB\n").rss
    942080
    """
    return MemoryCounters(parse_user(data), *(amount_of(line_of(data, name), name) for name in COUNTERS))


def parse_user(data: bytes) -> int | None:
    r"""Return who runs a process, the real user, in a status file; None where it does not tell.

    >>> parse_user(b"Name:\tcat\nUid:\t1000\t0\t0\t0\n")
    1000
    """
    from mematlas.kernel.rights import parse_id  # light commands need it not

    return parse_id(line_of(data, b"Uid").partition(b"\t")[0].decode("ascii", "replace"))


def line_of(data: bytes, name: bytes) -> bytes:
    """Return what a line of a status file says; nothing where it has no such line.

    The name of the process, which may hold anything, stands in the first line, its newlines escaped.
    """
    start = data.find(b"\n%b:\t" % name)
    if start < 0:
        return b""
    start += len(name) + 3
    end = data.find(b"\n", start)
    return data[start:] if end < 0 else data[start:end]


def amount_of(value: bytes, name: bytes) -> int | None:
    """Return an amount of a status file in bytes; None of an empty one."""
    if not value:
        return None
    digits = value.removesuffix(b" kB").lstrip()
    if not digits.isdigit() or len(digits) > MAX_AMOUNT or not value.endswith(b" kB"):
        line = (name + b":" + value)[:200].decode("utf-8", "replace")
        raise FormatError("status", line, expected="NAME: NUMBER kB")
    return int(digits) * 1024


def has_memory(data: bytes) -> bool:
    """Whether a status file is of a process that has memory: no thread of the kernel, and none that has ended."""
    return b"\nVmRSS:\t" in data


def is_kernel_thread(data: bytes) -> bool:
    """Whether a status file says that it is of a thread of the kernel (fs/proc/array.c, task_state()).

    Older kernels have no such line: False is "perhaps not".
    """
    return b"\nKthread:\t1\n" in data


def has_parent(data: bytes) -> bool:
    """Whether a status file tells the parent: one without names does not."""
    return b"\nPPid:\t" in data


def parse_parent(data: bytes) -> int:
    r"""Return the PID of the parent in a status file; 0 where that is none, or of another PID namespace.

    >>> parse_parent(b"Name:\tcat\nPPid:\t7\n")
    7
    """
    digits = line_of(data, b"PPid")
    try:
        return number(digits) if digits else 0
    except ValueError:
        raise FormatError("status", digits.decode("utf-8", "replace"), expected="PPid: NUMBER") from None


def parse_name(data: bytes) -> str:
    r"""Return the command name in a status file: there newlines and backslashes are escaped (fs/proc/array.c,
    proc_task_name()).

    >>> parse_name(b"Name:\ta\\nb\\\\n\nUmask:\t0022\n")
    'a\nb\\n'
    """
    head, _, name = data.partition(b"\n")[0].partition(b"\t")
    if head != b"Name:" or len(name) > 2 * MAX_NAME:
        raise FormatError("status", data[:MAX_NAME].decode("utf-8", "replace"), expected="Name: NAME")
    if b"\\" in name:
        name = b"\\".join(part.replace(b"\\n", b"\n") for part in name.split(b"\\\\"))
    return name.decode("utf-8", "surrogateescape")


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
    """Return what `numbers_of` says of ourselves; nothing where this /proc does not know us. They stay."""
    pid = os.getpid()
    # Who is the first of a namespace, and forks into one of its own, has a child of the same number.
    if procfs.ourselves[0] != pid or pid == 1:
        try:
            procfs.ourselves = pid, numbers_of(procfs.parsed("self/status", parse_status))
        except Error:
            return []
    return procfs.ourselves[1]


def counts_as_we_do(procfs: ProcFS) -> bool:
    """Whether the PIDs of this /proc are the numbers that our system calls take: it is of our own PID namespace.

    An equal number alone may be chance; but of another namespace there would be more than one.
    """
    return own_numbers(procfs) == [os.getpid()]


def open_memory(process: ProcessDir) -> int:
    """Return a descriptor of the memory of a process, which holds its address space.

    Raises:
        PermissionDenied: the kernel's own ptrace check refuses it.
        NoAddressSpace: it is a kernel thread.
    """
    stat = read_stat(process)
    if stat.is_kernel_thread:
        raise NoAddressSpace(process.pid, stat.name)
    return process.open_fd("mem")

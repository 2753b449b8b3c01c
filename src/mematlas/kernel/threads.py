"""/proc/PID/task: the threads of a process, with what shows where the stack of each lies.

Of each thread ``task/TID/comm`` has the name (proc_pid_comm(5)), and ``task/TID/syscall`` the stack pointer while it
waits (fs/proc/base.c, proc_pid_syscall()). get_robust_list(2) returns where a thread keeps its list of robust mutexes,
which the C library puts into the control block of the thread, at the top of its stack. That is known of a thread that
runs as well, and takes no more rights than reading maps.
"""

from __future__ import annotations

import errno
import os
from itertools import islice

from mematlas.errors import FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import record
from mematlas.kernel.directory import translate_error
from mematlas.kernel.status import counts_as_we_do

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

MOST_THREADS = 1 << 16
"""Threads that are looked at. The kernel allows 4 million of all processes together (pid_max)."""
MAX_COMM = 64
"""Bytes of a name that are read: it has 15, and a newline."""
MAX_SYSCALL = 256
LOOKS = 3
"""How often a thread that runs is asked where it is, unless that is known otherwise."""
SYS_GET_ROBUST_LIST = {
    "x86_64": 274,
    "i686": 312,
    "armv7l": 339,
    "ppc64le": 299,
    "s390x": 305,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 100),  # include/uapi/asm-generic/unistd.h
}
MAX_REASON = 1024
SAVED = "threads"
"""The file of a capture that has them."""


@record
class Thread:
    """One thread."""

    tid: int
    name: str
    """At most 15 bytes, set by the program; it may hold anything."""
    stack_pointer: int | None
    """None while it runs, and where we may not know."""
    robust_list: int | None
    """Where the head of its list of robust mutexes is; None where it has none, or we may not know."""


@record
class Threads:
    """The threads of a process."""

    threads: tuple[Thread, ...]
    refused: str = ""
    """Why no stack pointer is known."""
    nr_more: int = 0
    """Those that were not looked at: there are too many."""


def read_threads(process: ProcessDir) -> Threads:
    """Return the threads of a process; those that end meanwhile are left out.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:
    ...     [thread.tid for thread in read_threads(process).threads][0] == os.getpid()
    True

    Raises:
        NotHeld: a capture was made without them.
    """
    if process.captured:
        return process.parsed(SAVED, parse_threads)
    reader = ThreadReader(process)
    fd = process.open_fd("task", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            names = (int(entry.name) for entry in entries if entry.name.isdigit())
            found = [thread for tid in islice(names, MOST_THREADS) if (thread := reader.read(tid))]
            nr_more = sum(1 for _ in names)
    except OSError as error:
        raise translate_error(error, f"{process.path}/task", process.pid) from None
    finally:
        os.close(fd)
    return Threads(tuple(found), reader.refused, nr_more)


class ThreadReader:
    """Reads the threads of one process."""

    def __init__(self, process: ProcessDir) -> None:
        self.process = process
        self.refused = ""
        self._may_ask = counts_as_we_do(process.procfs)
        """Whether the call is worth trying: it takes numbers of our own PID namespace."""

    def read(self, tid: int) -> Thread | None:
        """Return a thread; None where it has ended."""
        robust_list = self._robust_list(tid)
        stack_pointer = self._stack_pointer(tid, 1 if robust_list else LOOKS)
        try:
            # It is looked up among the threads of this process. What was read before was of this thread, then: as long
            # as it lives nobody else is given its number.
            name = self.process.read(f"task/{tid}/comm", MAX_COMM)
        except (NotSupported, ProcessGone):
            return None
        return Thread(tid, os.fsdecode(name.removesuffix(b"\n")), stack_pointer, robust_list)

    def _stack_pointer(self, tid: int, nr_looks: int) -> int | None:
        if self.refused:
            return None
        try:
            for _ in range(nr_looks):
                found = parse_syscall(self.process.procfs.ask(read_syscall, self.process, tid))
                if found is not None:
                    return found or None
        except PermissionDenied as error:
            self.refused = str(error)
        except (NotSupported, ProcessGone):
            pass  # it has ended; or a kernel without CONFIG_HAVE_ARCH_TRACEHOOK
        return None

    def _robust_list(self, tid: int) -> int | None:
        if not self._may_ask:
            return None
        try:
            return self.process.procfs.ask(robust_list_of, self.process, tid)
        except ProcessGone:
            return None
        except (PermissionDenied, NotSupported):
            self._may_ask = False
            return None


def parse_syscall(data: bytes) -> int | None:
    """Return the stack pointer in a ``syscall`` file, 0 where the thread has ended; None of one that runs.

    >>> hex(parse_syscall(b"202 0x7f01 0x80 0x0 0x0 0x0 0x0 0x7f0010 0x7f0020\\n"))
    '0x7f0010'
    >>> hex(parse_syscall(b"-1 0x7f0010 0x7f0020\\n")), parse_syscall(b"running\\n")
    ('0x7f0010', None)
    """
    words = data.split()
    if words == [b"running"]:
        return None
    try:
        address = int(words[-2], 16)
    except (IndexError, ValueError):
        address = -1
    if not (0 <= address < 1 << 64 and len(words[-2]) <= 18):
        text = data[:MAX_SYSCALL].decode("ascii", "replace")
        raise FormatError("syscall", text, expected="running, or NUMBER ... STACK-POINTER PROGRAM-COUNTER")
    return address


def read_syscall(process: ProcessDir, tid: int) -> bytes:
    """Return the ``syscall`` file of a thread: it is who reads it that needs the right, not who opened it."""
    return process.read(f"task/{tid}/syscall", MAX_SYSCALL)


def robust_list_of(process: ProcessDir, tid: int) -> int | None:
    """Return what `get_robust_list` does, of a thread of a process."""
    if not counts_as_we_do(process.procfs):
        raise NotSupported("get_robust_list", "a /proc of our own PID namespace")
    process.read_start(f"task/{tid}/comm", 1)
    found = get_robust_list(tid)
    process.read_start(f"task/{tid}/comm", 1)  # it is a thread of this process still
    return found


def get_robust_list(tid: int) -> int | None:
    """Return where a thread has the head of its list of robust mutexes; None where it has none.

    Raises:
        PermissionDenied: it is not ours to look at: needs CAP_SYS_PTRACE.
        ProcessGone: it has ended.
        NotSupported: a kernel without CONFIG_FUTEX, or a filter of system calls.
    """
    import ctypes

    from mematlas.kernel.libc import libc

    number = SYS_GET_ROBUST_LIST.get(os.uname().machine)
    if number is None:
        raise NotSupported("get_robust_list", "a machine whose number of the call is known")
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    if libc().syscall(ctypes.c_long(number), ctypes.c_long(tid), ctypes.byref(head), ctypes.byref(size)) == 0:
        return head.value
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.EACCES):
        raise PermissionDenied("get_robust_list", "CAP_SYS_PTRACE")
    if code == errno.ESRCH:
        raise ProcessGone(tid)
    raise NotSupported("get_robust_list", "CONFIG_FUTEX")


def to_save(threads: Threads) -> bytes:
    """Return threads as a capture has them; see `parse_threads`."""
    import json

    rows = [[thread.tid, thread.name, thread.stack_pointer, thread.robust_list] for thread in threads.threads]
    saved = {"threads": rows, "refused": threads.refused, "nr_more": threads.nr_more}
    return (json.dumps(saved) + "\n").encode("ascii")


def parse_threads(data: bytes) -> Threads:
    """Return the threads in a file of a capture: of each its number, name, stack pointer and list of robust mutexes.

    >>> parse_threads(b'{"threads": [[7, "main", null, 4096]], "refused": "", "nr_more": 0}').threads
    (Thread(tid=7, name='main', stack_pointer=None, robust_list=4096),)
    """
    import json

    try:
        saved = json.loads(data)
        threads = [thread_of(*row) for row in saved["threads"]]
        refused, nr_more = saved["refused"], saved["nr_more"]
        if len(threads) > MOST_THREADS or not (is_text(refused, MAX_REASON) and is_natural(nr_more)):
            raise ValueError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise FormatError(SAVED, expected="threads as they are saved") from None
    return Threads(tuple(threads), refused, nr_more)


def thread_of(tid: object, name: object, *addresses: object) -> Thread:
    """Return a thread of saved values. Raises ValueError: they are none of a thread."""
    if not (is_natural(tid) and is_text(name, MAX_COMM)):
        raise ValueError
    pointer, robust_list = addresses
    if not all(address is None or is_natural(address) for address in addresses):
        raise ValueError
    return Thread(tid, name, pointer, robust_list)  # type: ignore[arg-type]


def is_text(value: object, most: int) -> bool:
    """Whether this is a text of so many characters at the most."""
    return isinstance(value, str) and len(value) <= most


def is_natural(value: object) -> bool:
    """Whether this is a whole number of 64 bits."""
    return type(value) is int and 0 <= value < 1 << 64

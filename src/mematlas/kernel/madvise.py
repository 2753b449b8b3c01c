"""process_madvise(2): advice about the memory of another process, held by a pidfd.

Format: process_madvise(2), madvise(2), pidfd_open(2); mm/madvise.c. For other processes the kernel takes exactly
four: MADV_COLD and MADV_PAGEOUT since Linux 5.10 (commit ecb8ac8b1f14), MADV_WILLNEED since 5.15 (commit
d5fffc5aff26), MADV_COLLAPSE since 6.1 (commit 876b4a189666). It asks for PTRACE_MODE_READ and CAP_SYS_NICE.

What a call returns is how much was advised, never how much moved: most pages that the kernel would not touch are
passed over without a word. Measure the pages afterwards.
"""

from __future__ import annotations

import errno
import mmap
import os
import time

from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.group import threads
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.libc import libc
from mematlas.kernel.status import numbers_of, own_numbers, parse_status, read_stat, read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from typing import Literal, NoReturn, Self

    from mematlas.kernel.procfs import ProcessDir

    Range = tuple[int, int]
    AdviceName = Literal["pageout", "cold", "willneed", "collapse"]

SYS_PROCESS_MADVISE = 440  # the same number on every architecture but alpha

# Source: include/uapi/asm-generic/mman-common.h
MADV_WILLNEED = 3
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
MADV_COLD = 20
MADV_PAGEOUT = 21
MADV_COLLAPSE = 25
MADV_GUARD_INSTALL = 102  # commit 662df3e5c376, v6.13; of one's own memory

ADVICE: dict[AdviceName, int] = {
    "pageout": MADV_PAGEOUT,
    "cold": MADV_COLD,
    "willneed": MADV_WILLNEED,
    "collapse": MADV_COLLAPSE,
}
SINCE = {MADV_WILLNEED: "Linux 5.15", MADV_COLD: "Linux 5.10", MADV_PAGEOUT: "Linux 5.10"}
SINCE_COLLAPSE = "Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE"

MAX_RANGES = 1024
"""Ranges in one call: UIO_MAXIOV."""


class Advisor:
    """Gives advice about one process, and no other: the pidfd is checked against the directory we hold.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(4211) as process, Advisor(process) as advisor:   # doctest: +SKIP
    ...     advisor.advise([(0x7f3c1a200000, 0x7f3c1a400000)], MADV_PAGEOUT)
    (2097152, [])

    Raises:
        NotSupported: a kernel before 5.10, a capture, or a /proc that does not show who is meant by our own numbers.
        ProcessGone: the process has ended.
    """

    def __init__(self, process: ProcessDir) -> None:
        if not process.procfs.live:
            raise NotSupported("process_madvise", "a running process, not a capture")
        check_first_thread(process)
        self.process = process
        numbers = numbers_of(read_status(process))
        self.pid = numbers[0]
        self.seconds = 0.0
        """Spent in the system call so far."""
        self.pidfd = open_pidfd(process, numbers) if process.procfs.lender is None else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def advise(self, ranges: Sequence[Range], advice: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Advise the ranges in order; return the bytes taken, and the ranges refused with their errno.

        A refused range does not hold up those behind it. One with a hole in it is refused with ENOMEM, after what
        lies around the hole has been advised.

        Raises:
            PermissionDenied: needs CAP_SYS_NICE, and PTRACE_MODE_READ for the process of another user.
            NotSupported: the kernel does not take this advice for another process.
            ProcessGone: the process has ended.
        """
        todo = [span for span in ranges if span[0] < span[1]]
        refused: list[tuple[int, int, int]] = []
        size = 0
        index = 0
        while index < len(todo):
            done = self._advise(todo[index : index + MAX_RANGES], advice)
            if done == -errno.EINTR:
                continue
            if done <= 0:
                self._raise(-done, advice)
                refused.append((*todo[index], -done))
                index += 1
                continue
            size += done
            while index < len(todo) and done >= todo[index][1] - todo[index][0]:
                done -= todo[index][1] - todo[index][0]
                index += 1
            if done:
                todo[index] = (todo[index][0] + done, todo[index][1])
        return size, refused

    def _raise_gone(self) -> NoReturn:
        stat = read_stat(self.process)
        if not stat.is_ending or threads(self.process):
            raise no_first_thread(self.pid)
        raise ProcessGone(self.pid)

    def _advise(self, ranges: Sequence[Range], advice: int) -> int:
        """Call the kernel once; return the bytes, or the negated errno."""
        from array import array

        vector = array("Q", [number for start, end in ranges for number in (start, end - start)])
        before = time.perf_counter()
        if self.pidfd < 0:
            done = self.process.procfs.ask(give_advice, self.process, advice, vector.tobytes())
        else:
            done = call_madvise(self.pidfd, vector, advice)
        self.seconds += time.perf_counter() - before
        return done

    def _raise(self, code: int, advice: int) -> None:
        """Raise what concerns the whole process; return when it is about the one range."""
        if code == errno.ESRCH:
            self._raise_gone()
        if code == errno.EPERM:
            raise PermissionDenied(f"process_madvise of {self.pid}", "CAP_SYS_NICE")
        if code == errno.EACCES:
            raise PermissionDenied(f"process_madvise of {self.pid}", "CAP_SYS_PTRACE", "CAP_SYS_NICE")
        if code == errno.ENOSYS:
            raise NotSupported("process_madvise", "Linux 5.10")
        if code == errno.EINVAL:
            check_taken(advice)


_madvise: Callable[..., int] | None = None


def call_madvise(pidfd: int, ranges: array[int], advice: int) -> int:
    """Call the kernel once, with the start and the size of each range; return the bytes, or the negated errno."""
    global _madvise
    import ctypes

    if _madvise is None:
        # A function object of our own, so that these types are ours alone.
        call = libc()["syscall"]
        call.restype = ctypes.c_long
        pointer, number = ctypes.c_void_p, ctypes.c_int
        call.argtypes = (ctypes.c_long, number, pointer, ctypes.c_size_t, number, ctypes.c_uint)
        _madvise = call
    address, _ = ranges.buffer_info()
    done = _madvise(SYS_PROCESS_MADVISE, pidfd, address, len(ranges) // 2, advice, 0)
    return done if done >= 0 else -ctypes.get_errno()


def give_advice(process: ProcessDir, advice: int, ranges: bytes) -> int:
    """Do the same to a process by its directory, whose pidfd is opened anew."""
    from array import array

    pidfd = open_pidfd(process, numbers_of(read_status(process)))
    try:
        return call_madvise(pidfd, array("Q", ranges), advice)
    finally:
        os.close(pidfd)


def touch_pages(process: ProcessDir, addresses: bytes) -> None:
    """Read a byte at each address, so that its page comes in whole; what is read is let go.

    Raises:
        PermissionDenied: the memory may not be read.
        ProcessGone: it has no memory any more.
    """
    fd = process.open_fd("mem")
    try:
        for address in memoryview(addresses).cast("Q"):
            try:
                if not os.pread(fd, 1, address):
                    raise ProcessGone(process.pid)
            except OSError:
                continue  # unmapped meanwhile, or its swap slot cannot be read
    finally:
        os.close(fd)


def check_first_thread(process: ProcessDir) -> None:
    """Raise `NotSupported` for a process whose first thread has ended: no advice reaches it.

    The kernel asks the first thread for the memory: it takes the pidfd of no other (kernel/pid.c, pidfd_get_task()).
    """
    if process.tid != process.pid:
        raise no_first_thread(process.pid)


def no_first_thread(pid: int) -> NotSupported:
    """Return the error for a process whose first thread has ended."""
    return NotSupported(f"process_madvise of {pid}", "its first thread, which has ended, to be alive")


def open_pidfd(process: ProcessDir, numbers: list[int]) -> int:
    """Return a pidfd of just the process whose directory we hold.

    A number means another process in each PID namespace: /proc counts as that which it was mounted in, pidfd_open(2)
    as ours. Which process a pidfd is, the same /proc says in our own fdinfo; what is not verified is not used.
    """
    ours = own_numbers(process.procfs)
    # A /proc that does not know us has none of our own; what is in no namespace of ours has fewer.
    if not 0 < len(ours) <= len(numbers):
        raise not_ours(process)
    number = numbers[len(ours) - 1]
    try:
        pidfd = os.pidfd_open(number)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise NotSupported("pidfd_open", "Linux 5.3") from None
        process.read("stat")
        raise not_ours(process) from None
    try:
        shown = parse_status(process.procfs.read(f"self/fdinfo/{pidfd}")).get("Pid")
        # The directory was opened before the pidfd. If its process still lives, its PID was not given away.
        process.read("stat")
        if shown != str(numbers[0]):
            raise not_ours(process)
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def not_ours(process: ProcessDir) -> NotSupported:
    """Return the error for a process that our own PID namespace does not have, or not under a number we can find."""
    return NotSupported(f"process_madvise of {process.pid}", f"a {process.procfs.root} of our own PID namespace")


def name_of(advice: int) -> str:
    """Return the kernel's name of an advice.

    >>> name_of(21)
    'MADV_PAGEOUT'
    """
    names = (f"MADV_{name.upper()}" for name, number in ADVICE.items() if number == advice)
    return next(names, str(advice))


def check_taken(advice: int) -> None:
    """Raise `NotSupported` where this kernel does not take an advice for another process."""
    if not takes(advice):
        raise NotSupported(f"process_madvise({name_of(advice)})", SINCE.get(advice, SINCE_COLLAPSE))


def takes(advice: int) -> bool:
    """Whether this kernel takes an advice at all, found by giving it about memory of our own.

    EINVAL says both "no such advice" and "not in this range": MADV_COLLAPSE answers so wherever no aligned huge
    page fits. So the probe is an aligned, touched range of just that size.
    """
    import ctypes

    size = huge_size()
    with mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # What from_buffer() returns pins the mmap: it must die with this line.
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = -(-address // size) * size
        memory[start - address] = 1
        vector = (ctypes.c_uint64 * 2)(start, size)
        pidfd = os.pidfd_open(os.getpid())
        try:
            done = libc().syscall(SYS_PROCESS_MADVISE, pidfd, vector, ctypes.c_size_t(1), advice, 0)
        finally:
            os.close(pidfd)
        # The advice is checked before the right to give it: EPERM, ENOMEM and the rest mean that it is known.
        return done != -1 or ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS)


def drain_batches() -> None:
    """Have every CPU that we may run on put the pages of its batch onto the LRU lists.

    A page that was touched just now waits in a batch of its CPU, up to 31 of them, where reclaim does not see it.
    madvise drains the batch of the CPU that it runs on (mm/madvise.c, lru_add_drain()), so we give harmless
    advice about a page of our own on one after the other.
    """
    before = os.sched_getaffinity(0)
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            for cpu in range(os.cpu_count() or 1):
                try:
                    os.sched_setaffinity(0, {cpu})
                    memory.madvise(MADV_COLD)
                except OSError:
                    continue  # not one of ours, or not running
        finally:
            os.sched_setaffinity(0, before)

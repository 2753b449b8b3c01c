"""What the probes of `mematlas.doctor.probes` work on: memory and files of our own, settings of the machine."""

from __future__ import annotations

import errno
import os

from mematlas.errors import FormatError, ProcessGone
from mematlas.frozen import record
from mematlas.kernel.hugepage import HUGE_SIZE_FILE
from mematlas.kernel.libc import libc
from mematlas.kernel.pagemap import ENTRY_SIZE, Scanner
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import SYSFS_MAGIC, magic_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    Probing = Callable[["Bench"], "Reason | None"]
    """Tries one interface."""

WORKS, NEEDED, MISSING, UNTRIED = "works", "needs", "missing", "unknown"
"""It does; a right or a setting would do; the kernel has it not; it cannot be tried as things are."""

MAX_TEXT = 1 << 16
"""Bytes of a setting that are read."""
MAX_DIGITS = 20
"""Of a number: 64 bits."""

# include/uapi/asm-generic/mman-common.h
PROT_READ_WRITE = 3
MAP_SHARED_ANON = 0x21
MAP_PRIVATE_ANON = 0x22
MAP_NORESERVE = 0x4000

# Calls that the C library has no function for have the numbers of asm-generic/unistd.h, except where an architecture
# is older than that file.
GENERIC = ("aarch64", "riscv64", "loongarch64")
SYS_PERF_EVENT_OPEN = {"x86_64": 298, **dict.fromkeys(GENERIC, 241)}
SYS_USERFAULTFD = {"x86_64": 323, **dict.fromkeys(GENERIC, 282)}


@record
class Reason:
    """Why an interface is as it is, or what more is known of it. Its words are in `mematlas.views.doctor`."""

    code: str
    """``kernel``: what a kernel needs to have it; ``type``: a setting, and the line that sets it; and many more."""
    values: Sequence[object] = ()


class Missing(Exception):
    """Raised by a probe that knows itself what is missing."""

    def __init__(self, status: str, reason: Reason | None, needs: Sequence[str] = ()) -> None:
        self.status = status
        self.reason = reason
        self.needs = needs
        """The capabilities that would do."""
        super().__init__(status)


class Bench:
    """What the probes work on: memory of our own, our own files. Leaving it unmaps and closes everything."""

    def __init__(self) -> None:
        self.procfs = ProcFS()
        self.process = self.procfs.process(os.getpid())
        self.page_size = self.procfs.page_size
        self.fds: list[int] = []
        self.mapped: list[tuple[int, int]] = []
        self.page = self.map(self.page_size)
        self.touch(self.page)
        self._pagemap = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self.fds:
            os.close(fd)
        for address, size in self.mapped:
            self.call("munmap", address, size)
        self.process.close()

    def map(self, size: int, flags: int = MAP_PRIVATE_ANON | MAP_NORESERVE) -> int:
        """Return the address of new memory."""
        import ctypes

        function = libc().mmap
        function.restype = ctypes.c_void_p
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        address = function(None, size, PROT_READ_WRITE, flags, -1, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self.mapped.append((address, size))
        return int(address)

    def touch(self, address: int) -> None:
        """Write to a byte."""
        import ctypes

        ctypes.memset(address, 1, 1)

    def call(self, name: str, *numbers: int) -> int:
        """Call the C library with integers; raise the error it reports."""
        import ctypes

        result: int = libc()[name](*map(ctypes.c_ulong, numbers))
        if result == -1:
            raise OSError(ctypes.get_errno(), name)
        return result

    def system_call(self, by_machine: dict[str, int], *numbers: int) -> int:
        """Make a system call that the C library has no function for, by its number on each machine."""
        machine = os.uname().machine
        if machine not in by_machine:
            raise Missing(MISSING, Reason("no-number", (machine,)))
        return self.call("syscall", by_machine[machine], *numbers)

    def keep(self, fd: int) -> int:
        """Return a descriptor that is closed with the bench."""
        self.fds.append(fd)
        return fd

    def open(self, path: str) -> int:
        """Return a descriptor of a file that is read, closed with the bench."""
        check_mounted(path)
        return self.keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def pagemap(self) -> int:
        """Our own pagemap, open."""
        if self._pagemap < 0:
            self._pagemap = self.open("/proc/self/pagemap")
        return self._pagemap

    def entry(self, address: int) -> int:
        """Return the pagemap entry of a page of ours."""
        word = os.pread(self.pagemap, ENTRY_SIZE, address // self.page_size * ENTRY_SIZE)
        return int.from_bytes(word, "little")

    def scan(self, address: int, size: int, categories: int) -> int | None:
        """Return the first page in one of these categories, by PAGEMAP_SCAN."""
        return Scanner(self.pagemap, lambda: ProcessGone(os.getpid())).first(address, address + size, categories)

    def map_huge(self) -> tuple[int, int]:
        """Return the address of new memory that one huge entry could map, and its size."""
        size = read_number(HUGE_SIZE_FILE)
        address = self.map(2 * size)
        return -(-address // size) * size, size


def read_text(path: str) -> str:
    """Return the text of a setting, of /sys or /proc.

    Raises:
        FileNotFoundError: there is none, or no sysfs that it could be in.
    """
    check_mounted(path)
    with open(path, "rb") as file:
        return file.read(MAX_TEXT).decode("utf-8", "replace").strip()


def read_number(path: str) -> int:
    """Return a setting that is a number. Raises `FormatError` where it is something else."""
    text = read_text(path)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
        raise FormatError(path, text, expected="a number")
    return int(text)


def in_sysfs(path: str) -> bool:
    """Whether sysfs has a file.

    Raises:
        FileNotFoundError: there is no sysfs, so that nothing is known of its files.
    """
    check_mounted(path)
    return os.path.exists(path)


def names_in(path: str) -> list[str]:
    """Return the names in a directory of sysfs. Raises as `in_sysfs` does."""
    check_mounted(path)
    return sorted(os.listdir(path))


def check_mounted(path: str) -> None:
    """Raise `FileNotFoundError` for a file of /sys where that is no sysfs: whatever lies there says nothing."""
    if path.startswith("/sys/") and not has_sysfs():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def has_sysfs() -> bool:
    """Whether sysfs is mounted on /sys: files of an image may lie there as well."""
    try:
        fd = os.open("/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return magic_of(fd) == SYSFS_MAGIC
    finally:
        os.close(fd)


def chosen(text: str) -> str:
    """Return the choice in effect.

    >>> chosen("always [madvise] never")
    'madvise'
    """
    return text.partition("[")[2].partition("]")[0]

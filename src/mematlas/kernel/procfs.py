"""/proc, or a captured process: the only place that opens its files.

A `ProcFS` is a directory to read from. The live one is ``/proc``; a captured one is a directory of the same
shape, made by ``mematlas capture``, whose ``machine.json`` says what machine it came from. A `ProcessDir` is
one process in it. It holds the directory ``/proc/PID`` open, and everything is opened relative to that: when
the process ends and its PID is given to another, the old directory answers with an error, never with the
files of the newcomer (fs/proc/base.c: the directory's inode holds a struct pid).
"""

from __future__ import annotations

import errno
import os

from mematlas.errors import Error, FormatError, NotHeld, NotSupported, PermissionDenied, ProcessGone, TargetNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    class WordFile(Protocol):
        """A file of 64-bit words that is read by position: /proc/PID/pagemap, /proc/kpagecount, ..."""

        def read_into(self, buffer: memoryview, offset: int) -> int:
            """Fill ``buffer`` from byte ``offset``; return the number of bytes read, 0 at the end."""

        def next_data(self, offset: int) -> int | None:
            """Return the next offset that may hold something; None when there is nothing more."""

        def close(self) -> None: ...


READ_SIZE = 1 << 18
PF_EXITING = 0x00000004
"""A process flag: include/linux/sched.h."""
MIN_PAGE_SIZE, MAX_PAGE_SIZE = 1 << 9, 1 << 30

# What opens each file of another process, and of the machine. Source: fs/proc/base.c (PTRACE_MODE_READ for the
# first group; pagemap is a 0400 file of the process's owner on top of that), fs/proc/page.c (0400, root's).
NEEDS = {
    "maps": "CAP_SYS_PTRACE",
    "smaps": "CAP_SYS_PTRACE",
    "smaps_rollup": "CAP_SYS_PTRACE",
    "numa_maps": "CAP_SYS_PTRACE",
    "map_files": "CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE",
    "pagemap": "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
    "mem": "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
    "kpagecount": "CAP_DAC_READ_SEARCH",
    "kpageflags": "CAP_DAC_READ_SEARCH",
    "kpagecgroup": "CAP_DAC_READ_SEARCH",
}

BY_VMA = frozenset(("maps", "smaps", "numa_maps"))
"""Files that the kernel writes VMA by VMA. Where the address space ends meanwhile, they just stop, without an error
(fs/proc/task_mmu.c, m_start)."""


class LiveFile:
    """A file of the live /proc, read by position. Descriptors are closed with it."""

    __slots__ = ("fd", "path", "pid")

    def __init__(self, fd: int, path: str, pid: int | None) -> None:
        self.fd = fd
        self.path = path
        self.pid = pid

    def read_into(self, buffer: memoryview, offset: int) -> int:
        # np.fromfile and whole-file reads believe st_size, which is 0 in /proc, and return nothing: preadv it is.
        try:
            return os.preadv(self.fd, [buffer], offset)
        except OSError as error:
            # Past the end of the address space, or of memory, the kernel answers EINVAL or EFAULT on some versions.
            if error.errno in (errno.EINVAL, errno.EFAULT, errno.ENXIO, errno.EOVERFLOW):
                return 0
            raise translate_error(error, self.path, self.pid) from None

    def next_data(self, offset: int) -> int | None:
        return offset

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def translate_error(error: OSError, path: str, pid: int | None = None) -> Exception:
    """Return our error for what the kernel said about ``path``."""
    name = path.rsplit("/", 1)[-1]
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(path, NEEDS.get(name) or ("CAP_SYS_PTRACE" if pid else None))
    if pid is not None and error.errno in (errno.ESRCH, errno.ENOENT):
        return ProcessGone(pid)
    if error.errno in (errno.ENOENT, errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP):
        return NotSupported(path)
    return Error(f"{path}: {os.strerror(error.errno or 0)}")


class ProcFS:
    """A place to read processes from: ``/proc``, another procfs mount, or a captured process.

    ``page_size`` is the machine's, or what the capture recorded; give it to read a directory that records none.

    >>> ProcFS().live
    True
    """

    def __init__(self, root: str = "/proc", page_size: int | None = None) -> None:
        self.root = root.rstrip("/") or "/"
        self.machine: dict[str, Any] | None = None
        """What ``machine.json`` says, for a capture; None for a live one."""
        path = f"{self.root}/machine.json"
        try:
            with open(path, encoding="utf-8") as file:
                import json

                self.machine = Machine(path, json.load(file))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise translate_error(error, path) from None
        except (ValueError, RecursionError) as error:
            raise FormatError(path, str(error)) from None
        if page_size is None:
            page_size = os.sysconf("SC_PAGESIZE") if self.machine is None else self.machine["page_size"]
        self.page_size = page_size

    def __repr__(self) -> str:
        return f"ProcFS({self.root!r}, page_size={self.page_size})"

    @property
    def live(self) -> bool:
        """Whether processes here run now, so that system calls can ask about them too."""
        return self.machine is None

    def pids(self) -> list[int]:
        """Return every PID here, in order. Any of them may be gone by the time you look."""
        try:
            return sorted(int(name) for name in os.listdir(self.root) if name.isdigit())
        except FileNotFoundError:
            raise TargetNotFound(f"{self.root}: no such directory") from None
        except OSError as error:
            raise translate_error(error, self.root) from None

    def read(self, name: str) -> bytes:
        """Return a machine-wide file, such as ``swaps``, whole."""
        path = f"{self.root}/{name}"
        try:
            return read_all(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.ENOENT and not self.live:
                raise NotHeld(path) from None
            raise translate_error(error, path) from None

    def open(self, name: str) -> WordFile:
        """Open a machine-wide file of words: ``kpagecount``, ``kpageflags``."""
        path = f"{self.root}/{name}"
        if not self.live:
            return open_packed(path)
        try:
            return LiveFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, None)
        except OSError as error:
            raise translate_error(error, path) from None

    def process(self, pid: int) -> ProcessDir:
        """Return the process ``pid``, held open. Raises `TargetNotFound` when there is none."""
        return ProcessDir(self, pid)


class ProcessDir:
    """One process: the directory ``/proc/PID``, held open, so that a reused PID cannot be taken for it."""

    def __init__(self, procfs: ProcFS, pid: int) -> None:
        self.procfs = procfs
        self.pid = pid
        self.tid = pid
        """The thread whose directory it is: the first one of the process, unless that has ended."""
        self.path = f"{procfs.root}/{pid}"
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            raise TargetNotFound(f"no process {pid}" + ("" if procfs.live else f" in {procfs.root}")) from None
        except OSError as error:
            raise translate_error(error, self.path, pid) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ProcessDir({self.path!r})"

    def close(self) -> None:
        """Let go of the process."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open_fd(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file of the process; return its descriptor."""
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise self._error(error, name) from None

    def open(self, name: str) -> WordFile:
        """Open a file of words: ``pagemap``."""
        if not self.procfs.live:
            return open_packed(f"{self.path}/{name}")
        return LiveFile(self.open_fd(name), f"{self.path}/{name}", self.pid)

    def read(self, name: str) -> bytes:
        """Return a file of the process, whole, as it was at one time or nearly so.

        Raises:
            ProcessGone: the process ended, or started another program, before the end of it was read.
        """
        # Of the same address space as the file, or of one before it: who reads it after an exec has been too late.
        watched = self.open_fd("maps") if self.procfs.live and name in BY_VMA else -1
        try:
            data = read_all(self.open_fd(name))
            if data and watched >= 0 and not os.pread(watched, 1, 0):
                raise ProcessGone(self.pid, "ended" if self.is_ending() else "runs another program now")
            return data
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            if watched >= 0:
                os.close(watched)

    def is_ending(self) -> bool:
        """Whether the process is on its way out, or has ended: its files are missing, empty or refused then."""
        try:
            fields = self.read("stat").rpartition(b")")[2].split()
            return not fields or fields[0] in (b"Z", b"X", b"x") or bool(int(fields[6]) & PF_EXITING)
        except ProcessGone:
            return True
        except (IndexError, ValueError):
            return False

    def readlink(self, name: str) -> str:
        """Return where a link of the process points: ``exe``, ``map_files/START-END``."""
        try:
            return os.readlink(name, dir_fd=self.fd)
        except OSError as error:
            raise self._error(error, name) from None

    def _error(self, error: OSError, name: str) -> Exception:
        path = f"{self.path}/{name}"
        if error.errno == errno.ENOENT and not self.procfs.live:
            return NotHeld(path)
        if error.errno == errno.ENOENT and name != "stat":
            # A missing file is a kernel without it, unless the whole process is missing.
            return ProcessGone(self.pid) if self.is_ending() else NotSupported(path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return PermissionDenied(path, NEEDS.get(name.split("/", 1)[0]))
        if self.procfs.live and name != "stat" and self.is_ending():
            return ProcessGone(self.pid)  # such as EINVAL for the mountinfo of a task that is just ending
        return translate_error(error, path, self.pid)


class Machine(dict[str, "Any"]):
    """What ``machine.json`` says. It may come from a stranger: what we compute with is checked here, once.

    >>> Machine("machine.json", {"page_size": 4096})["devices"]
    Traceback (most recent call last):
    mematlas.errors.FormatError: machine.json: cannot understand 'no devices'
    """

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise FormatError(path, repr(value))
        super().__init__(value)
        self.path = path
        size = self["page_size"]
        self._check("page_size", type(size) is int and MIN_PAGE_SIZE <= size <= MAX_PAGE_SIZE and not size & size - 1)
        if "devices" in self:
            devices = self["devices"]
            self._check(
                "devices",
                isinstance(devices, dict) and all(are_strings(devices.get(kind)) for kind in ("shmem", "hugetlb")),
            )
        for key in ("paths", "unknown_backings"):
            if key in self:
                texts = self[key]
                self._check(key, isinstance(texts, dict) and are_strings(list(texts.values())))
        if "uncertain" in self:
            self._check("uncertain", are_strings(self["uncertain"]))
        if "soft_dirty" in self:
            self._check("soft_dirty", self["soft_dirty"] in (True, False, None))

    def __missing__(self, key: str) -> Any:
        raise FormatError(self.path, f"no {key}")

    def _check(self, key: str, is_good: bool) -> None:
        if not is_good:
            raise FormatError(self.path, f"{key}: {self[key]!r}")


def are_strings(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def open_packed(path: str) -> WordFile:
    """Open a capture's stand-in for a file of words."""
    from mematlas.kernel.packed import PackedFile

    return PackedFile.open(f"{path}.packed")


def read_all(fd: int) -> bytes:
    """Read a descriptor to its end, and close it. /proc reports sizes of 0, so the end is an empty read."""
    try:
        parts = []
        while part := os.read(fd, READ_SIZE):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)

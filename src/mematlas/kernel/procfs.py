"""/proc, or a captured process: the only place that opens its files.

A `ProcFS` is a directory to read from. The live one is ``/proc``; a captured one is a directory of the same shape, made
by ``mematlas capture``, whose ``machine.json`` says what machine it came from. A `ProcessDir` is one process in it.
Both hold their directory open, and everything is opened relative to that: when a process ends and its PID is given to
another, the old directory answers with an error, never with the files of the newcomer (fs/proc/base.c: the directory's
inode holds a struct pid); and what somebody puts in the place of a capture is not read.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import chain, islice, repeat
from time import perf_counter

from mematlas.errors import (
    Error,
    FormatError,
    NotHeld,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
    TooLarge,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Self, TypeVar

    T = TypeVar("T")

    class WordFile(Protocol):
        """A file of 64-bit words that is read by position: /proc/PID/pagemap, /proc/kpagecount, ..."""

        def read_into(self, buffer: memoryview, offset: int) -> int:
            """Fill ``buffer`` from byte ``offset``; return the number of bytes read, 0 at the end."""

        def next_data(self, offset: int) -> int | None:
            """Return the next offset that may hold something; None when there is nothing more."""

        def close(self) -> None: ...


MACHINE = "machine.json"
READ_SIZE = 1 << 18
PF_EXITING = 0x00000004
"""A process flag: include/linux/sched.h."""
MAX_FILE = 16 << 20
"""Bytes of a file that is read whole. The longest are of the machine: zoneinfo, iomem."""
BATCH_SIZE = 1 << 19
"""Bytes of a long text that are held at a time."""
MAX_LINE = 1 << 14
MAX_TEXT = 4 << 30
"""Bytes of a live text that is read line by line: smaps of a million VMAs is under one GiB, but a program can make the
paths in it as long as it likes."""
MAX_CAPTURED = 512 << 20
"""Bytes of any file of a capture."""
MAX_ENTRIES = 1 << 16
"""Files in a capture's directory, of one process each or of the machine."""
PID_DIGITS = 10
GZIPPED = frozenset(("smaps",))
"""What a capture holds packed: some 700 bytes for each VMA, much the same in all."""
GZIP = 31
"""What zlib calls the format of gzip(1)."""

# What opens each file of another process, and of the machine. Source: fs/proc/base.c (PTRACE_MODE_READ for the
# first group; pagemap is a 0400 file of the process's owner on top of that), fs/proc/page.c (0400, root's).
NEEDS = {
    "maps": ("CAP_SYS_PTRACE",),
    "smaps": ("CAP_SYS_PTRACE",),
    "smaps_rollup": ("CAP_SYS_PTRACE",),
    "numa_maps": ("CAP_SYS_PTRACE",),
    "ksm_stat": ("CAP_DAC_READ_SEARCH",),
    "ksm_merging_pages": ("CAP_DAC_READ_SEARCH",),
    "map_files": ("CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE"),
    "pagemap": ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
    "mem": ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
    "kpagecount": ("CAP_DAC_READ_SEARCH",),
    "kpageflags": ("CAP_DAC_READ_SEARCH",),
    "kpagecgroup": ("CAP_DAC_READ_SEARCH",),
}

WHOLE_PROC = "a /proc without subset=pid: as root, mount -t proc proc /proc; for a unit of systemd, ProcSubset=all"
"""An option of Linux 5.8."""
MOUNTED_PROC = "proc mounted there: as root, mount -t proc proc /proc"

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

    def read_each(self, offsets: list[int], sizes: list[int]) -> bytes:
        """Return what lies at some places, one after the other; less where there is nothing."""
        try:
            return b"".join(map(os.pread, repeat(self.fd), sizes, offsets))
        except OSError as error:
            raise translate_error(error, self.path, self.pid) from None

    def next_data(self, offset: int) -> int | None:
        return offset

    def __del__(self) -> None:
        # Pages that nobody begins to look at are held by a generator that never runs.
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def translate_error(error: OSError, path: str, pid: int | None = None) -> Exception:
    """Return our error for what the kernel said about ``path``."""
    name = path.rsplit("/", 1)[-1]
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(path, *NEEDS.get(name, ("CAP_SYS_PTRACE",) if pid else ()))
    if pid is not None and error.errno in (errno.ESRCH, errno.ENOENT):
        return ProcessGone(pid)
    if error.errno in (errno.ENOENT, errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP):
        return NotSupported(path)
    # A cgroup is held open whole: it may have more processes than we are allowed files.
    hint = " (ulimit -Hn is the limit: raise it, or look at fewer processes)" if error.errno == errno.EMFILE else ""
    return Error(f"{path}: {os.strerror(error.errno or 0)}{hint}")


class Directory:
    """A directory of /proc or of a capture, held open: everything in it is opened relative to that.

    A capture may come from a stranger, and the directory of a process is full of what that process said. So nothing is
    read without a bound, and in a capture only regular files are opened, and no link is followed.
    """

    fd = -1

    def __init__(self, name: str, path: str, captured: bool, pid: int | None = None, below: int | None = None) -> None:
        self.path = path
        self.captured = captured
        """Whether it is not the kernel that answers."""
        self.pid = pid
        # The way to a capture is the caller's own, and may lead over links.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if below is None else os.O_NOFOLLOW)
        self.fd = os.open(name, flags, dir_fd=below)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def close(self) -> None:
        """Let go of the directory."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open_fd(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file; return its descriptor."""
        try:
            if self.captured:
                return open_regular(name, f"{self.path}/{name}", self.fd)
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise self._error(error, name) from None

    def open(self, name: str) -> WordFile:
        """Open a file of words: ``pagemap``, ``kpagecount``."""
        if self.captured:
            from mematlas.kernel.packed import PackedFile

            try:
                return PackedFile(self.open_fd(f"{name}.packed"), f"{self.path}/{name}.packed")
            except NotHeld:
                raise NotHeld(f"{self.path}/{name}") from None
        return LiveFile(self.open_fd(name), f"{self.path}/{name}", self.pid)

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """Return a file whole, as it was at one time or nearly so.

        Raises:
            TooLarge: it has more than ``limit`` bytes.
        """
        return b"".join(self._pieces(name, limit))

    def read_start(self, name: str, size: int) -> bytes:
        """Return the first bytes of a file, all of it where it has no more."""
        fd = self.open_fd(name)
        try:
            return read_piece(fd, size)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            os.close(fd)

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a file, which may be a very long one. Memory holds no more than `BATCH_SIZE` of it.

        A line longer than `MAX_LINE` may lack its middle. It then begins and ends as it does in the file, with at least
        half of that.

        Raises:
            TooLarge: the text does not end.
        """
        # One call of C for each line; a generator of our own would cost as much as reading it.
        return chain.from_iterable(self.batches(name))

    def batches(self, name: str) -> Iterator[list[bytes]]:
        """Yield the same lines in lists."""
        # Not splitlines(): a path may hold a carriage return or a form feed, which that would split at. The kernel
        # escapes the newline alone.
        return (text.split(b"\n") for text in self.texts(name))

    def texts(self, name: str) -> Iterator[bytes]:
        """Yield the same lines in pieces of the text, each without its last newline."""
        rest = b""
        for piece in self._pieces(name, MAX_CAPTURED if self.captured else MAX_TEXT):
            end = piece.rfind(b"\n")
            if end >= 0:
                yield rest + piece[:end]
                rest = b""
            rest += piece[end + 1 :]
            if len(rest) > MAX_LINE:
                rest = rest[: MAX_LINE // 2] + rest[-MAX_LINE // 2 :]
        if rest:
            yield rest

    def _piece(self, name: str, fd: int, size: int) -> bytes:
        return read_piece(fd, size)

    def _pieces(self, name: str, limit: int) -> Iterator[bytes]:
        try:
            fd = self.open_fd(name)
        except NotHeld:
            if name not in GZIPPED:
                raise
            yield from self._unpacked_pieces(name, limit)
            return
        try:
            is_at_end = False
            while not is_at_end and (piece := self._piece(name, fd, min(BATCH_SIZE, limit + 1))):
                limit -= len(piece)
                if limit < 0:
                    raise TooLarge(f"{self.path}/{name}")
                is_at_end = len(piece) < BATCH_SIZE
                yield piece
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            os.close(fd)

    def _unpacked_pieces(self, name: str, limit: int) -> Iterator[bytes]:
        import zlib

        path = f"{self.path}/{name}"
        try:
            fd = self.open_fd(f"{name}.gz")
        except NotHeld:
            raise NotHeld(path) from None
        unpacker = zlib.decompressobj(GZIP)
        try:
            while not unpacker.eof:
                packed = unpacker.unconsumed_tail or os.read(fd, READ_SIZE)
                piece = unpacker.decompress(packed, BATCH_SIZE)
                limit -= len(piece)
                if limit < 0:
                    raise TooLarge(path)
                if not packed:
                    raise FormatError(f"{path}.gz", expected="more: it is cut short")
                yield piece
        except zlib.error:
            raise FormatError(f"{path}.gz", expected="gzip") from None
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            os.close(fd)

    def parsed(self, name: str, parse: Callable[[bytes], T], limit: int = MAX_FILE) -> T:
        """Return what a parser makes of a file."""
        try:
            return parse(self.read(name, limit))
        except FormatError as error:
            raise self._named(error, name) from None

    def parsed_lines(self, name: str, parse: Callable[[Iterator[bytes]], T]) -> T:
        """Return what a parser makes of the lines of a file."""
        try:
            return parse(self.lines(name))
        except FormatError as error:
            raise self._named(error, name) from None

    def parsed_texts(self, name: str, parse: Callable[[Iterator[bytes]], Iterator[T]]) -> Iterator[T]:
        """Yield what a parser makes of the pieces of a file, one after the other."""
        try:
            yield from parse(self.texts(name))
        except FormatError as error:
            raise self._named(error, name) from None

    def _named(self, error: FormatError, name: str) -> FormatError:
        # What stands in a capture is not shown: a link in it could lead to a file of another's, and a bug report on.
        text = "" if self.captured else error.text
        return FormatError(f"{self.path}/{name}", text, error.place, error.expected)

    def _error(self, error: OSError, name: str) -> Exception:
        path = f"{self.path}/{name}"
        if self.captured:
            if error.errno == errno.ENOENT:
                return NotHeld(path)
            if error.errno == errno.EACCES:
                return PermissionDenied(path)
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
                return FormatError(path, expected="a regular file")
        return translate_error(error, path, self.pid)


class ProcFS(Directory):
    """A place to read processes from: ``/proc``, another procfs mount, or a captured process.

    ``page_size`` is the machine's, or what the capture recorded; give it to read a directory that records none.

    >>> ProcFS().live
    True
    """

    def __init__(self, root: str = "/proc", page_size: int | None = None) -> None:
        self.root = root.rstrip("/") or "/"
        self.machine: dict[str, Any] | None = None
        """What ``machine.json`` says, for a capture; None for a live one."""
        try:
            super().__init__(self.root, self.root, captured=True)
        except (FileNotFoundError, NotADirectoryError):
            raise TargetNotFound(f"{self.root}: no such directory") from None
        except OSError as error:
            raise translate_error(error, self.root) from None
        try:
            fd = open_regular(MACHINE, f"{self.root}/{MACHINE}", self.fd)
        except FileNotFoundError:
            self.captured = False
        except OSError as error:
            raise self._error(error, MACHINE) from None
        else:
            os.close(fd)
            from mematlas.kernel.machine import MAX_SIZE, parse_machine

            machine = self.parsed(MACHINE, parse_machine, MAX_SIZE)
            machine.path = f"{self.root}/{MACHINE}"
            self.machine = machine
        if page_size is None:
            page_size = os.sysconf("SC_PAGESIZE") if self.machine is None else self.machine["page_size"]
        self.page_size = page_size

    def __del__(self) -> None:
        # Nobody closes the place that all processes are read from.
        self.close()

    def __repr__(self) -> str:
        return f"ProcFS({self.root!r}, page_size={self.page_size})"

    @property
    def live(self) -> bool:
        """Whether processes here run now, so that system calls can ask about them too."""
        return not self.captured

    def pids(self) -> list[int]:
        """Return every PID here, in order. Any of them may be gone by the time you look."""
        try:
            return sorted(map(int, filter(is_number, self.names())))
        except OSError as error:
            raise translate_error(error, self.root) from None

    def names(self) -> list[str]:
        """Return the names in the directory."""
        if not self.captured:
            return os.listdir(self.fd)
        with os.scandir(self.fd) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(names) > MAX_ENTRIES:
            raise FormatError(self.root, expected=f"at most {MAX_ENTRIES} files")
        return names

    @property
    def is_mounted(self) -> bool:
        """Whether this is a /proc at all, not the directory that one belongs on."""
        try:
            os.stat("self", dir_fd=self.fd, follow_symlinks=False)  # there even where we have no number
        except FileNotFoundError:
            return False
        return True

    @property
    def is_subset(self) -> bool:
        """Whether this /proc has processes alone: it was mounted with subset=pid, as systemd's ProcSubset does."""
        from mematlas.kernel.mounts import format_device, parse_options

        if self.captured:
            return False
        try:
            options = self.parsed_lines("self/mountinfo", parse_options)
        except Error:
            return False
        return "subset=pid" in options.get(format_device(os.fstat(self.fd).st_dev), ())

    def hides(self, pid: int) -> bool:
        """Whether a process that is not here exists all the same: with hidepid=2 only those that we may trace are."""
        try:
            os.kill(pid, 0)
        except PermissionError:
            pass
        except (ProcessLookupError, OverflowError):
            return False
        else:
            return False
        try:  # of another PID namespace we would have two numbers, or another one
            return b"\nNStgid:\t%d\n" % os.getpid() in self.read("self/status")
        except Error:
            return False

    def _error(self, error: OSError, name: str) -> Exception:
        if error.errno == errno.ENOENT and "/" not in name and self.is_subset:
            return NotSupported(f"{self.path}/{name}", WHOLE_PROC)
        return super()._error(error, name)

    def process(self, pid: int) -> ProcessDir:
        """Return the process ``pid``, held open. Raises `TargetNotFound` when there is none."""
        return ProcessDir(self, pid)


class Hold:
    """For how long reading a file held a process's mmap lock, as its reads took: a little more than the truth."""

    __slots__ = ("longest_s", "total_s")

    def __init__(self) -> None:
        self.total_s = self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a read."""
        self.total_s += seconds
        self.longest_s = max(self.longest_s, seconds)

    def __repr__(self) -> str:
        return f"Hold(total_s={self.total_s:.6f}, longest_s={self.longest_s:.6f})"

    def to_plain(self) -> dict[str, float]:
        """Return the times by name: what stands for it in a dictionary of a result."""
        return {name: getattr(self, name) for name in self.__slots__}


class ProcessDir(Directory):
    """One process: the directory ``/proc/PID``, held open, so that a reused PID cannot be taken for it."""

    pid: int

    def __init__(self, procfs: ProcFS, pid: int, fd: int = -1) -> None:
        """Open the directory of a process, by its number or by a descriptor of it."""
        self.procfs = procfs
        self.holds: dict[str, Hold] = {}
        """For how long the last reading of each file held the target's mmap lock."""
        self.tid = pid
        """The thread whose directory it is: the first one of the process, unless that has ended."""
        path = f"{procfs.root}/{pid}"
        try:
            name, below = (".", fd) if fd >= 0 else (str(pid), procfs.fd)
            super().__init__(name, path, procfs.captured, pid, below)
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            if procfs.live and procfs.hides(pid):
                raise PermissionDenied(
                    path, "CAP_SYS_PTRACE", text="CAP_SYS_PTRACE in a /proc mounted with hidepid"
                ) from None
            if procfs.live and not procfs.is_mounted:
                raise NotSupported(procfs.root, MOUNTED_PROC) from None
            where = "" if procfs.live else f" in {procfs.root}"
            raise TargetNotFound(f"no process {pid}{where}") from None
        except OSError as error:
            raise translate_error(error, path, pid) from None

    def _pieces(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield the pieces of a file.

        Raises:
            ProcessGone: the process ended, or started another program, before the end of it was read.
        """
        if self.captured or name not in BY_VMA:
            yield from super()._pieces(name, limit)
            return
        # Of the same address space as the file, or of one before it: who reads it after an exec has been too late.
        watched = self.open_fd("maps")
        self.holds[name] = Hold()
        try:
            is_empty = True
            for piece in super()._pieces(name, limit):
                is_empty = False
                yield piece
            # Nothing at all is the text of a kernel thread and of a zombie, which have no address space now either.
            if self.read_start("maps", 1) if is_empty else not os.pread(watched, 1, 0):
                what = "ended" if self.is_ending() else "runs another program now"
                raise ProcessGone(self.pid, what)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            os.close(watched)

    def _piece(self, name: str, fd: int, size: int) -> bytes:
        if self.captured or name not in BY_VMA:
            return read_piece(fd, size)
        # Each read(2) is one hold of the target's mmap lock.
        hold = self.holds[name]
        parts = []
        while size > 0:
            before = perf_counter()
            part = os.read(fd, min(READ_SIZE, size))
            hold.add(perf_counter() - before)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

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
        if self.captured:
            return super()._error(error, name)
        path = f"{self.path}/{name}"
        if error.errno == errno.ENOENT and name != "stat":
            # A missing file is a kernel without it, unless the whole process is missing.
            return ProcessGone(self.pid) if self.is_ending() else NotSupported(path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return PermissionDenied(path, *NEEDS.get(name.split("/", 1)[0], ()))
        if name != "stat" and self.is_ending():
            return ProcessGone(self.pid)  # such as EINVAL for the mountinfo of a task that is just ending
        return translate_error(error, path, self.pid)


def is_number(name: str) -> bool:
    """Whether a name is a PID, as the kernel writes it: 007 in a capture is none, and names no directory by its number.

    isdigit() alone takes the digits of other scripts, some of which int() does not.
    """
    return name.isdigit() and name.isascii() and len(name) <= PID_DIGITS and name[0] != "0"


def open_regular(name: str, path: str, dir_fd: int) -> int:
    """Open a regular file in a directory; return its descriptor. No link is followed, and no FIFO waited for.

    Raises:
        FormatError: it is something else.
        TooLarge: no capture has such a file.
    """
    if "/" in name:
        raise NotHeld(path)
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise FormatError(path, expected="a regular file")
    if status.st_size > MAX_CAPTURED:
        os.close(fd)
        raise TooLarge(path)
    return fd


def read_piece(fd: int, size: int) -> bytes:
    """Read a descriptor on, at most so many bytes. /proc reports sizes of 0, so the end is an empty read."""
    parts = []
    while size > 0 and (part := os.read(fd, min(READ_SIZE, size))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

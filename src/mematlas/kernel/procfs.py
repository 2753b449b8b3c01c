"""/proc, or a captured process: what opens its files.

A `ProcFS` is a directory to read from. The live one is ``/proc``; a captured one is a directory of the same shape, made
by ``mematlas capture``, whose ``machine.json`` says what machine it came from. A `ProcessDir` is one process in it.
Both hold their directory open, and everything is opened relative to that: when a process ends and its PID is given to
another, the old directory answers with an error, never with the files of the newcomer (fs/proc/base.c: the directory's
inode holds a struct pid); and what somebody puts in the place of a capture is not read.
"""

from __future__ import annotations

import errno
import os
from itertools import islice
from time import perf_counter, thread_time

from mematlas.errors import (
    Error,
    FormatError,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.kernel.directory import (
    NEEDS,
    READ_SIZE,
    Directory,
    open_directory,
    open_regular,
    read_piece,
    translate_error,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

    class Lending(Protocol):
        """What is asked where a right is needed that we do not have: `mematlas.kernel.brokered.Lender`."""

        def ask(self, name: str, *parts: object) -> tuple[Any, int]:
            """Return the answer to a question, and the descriptor that came with it, or -1."""

        def each(self, name: str, *parts: object) -> Iterator[Any]:
            """Yield the answers to a question that has any number of them."""

        def tell(self, name: str, *parts: object) -> None:
            """Say what gets no answer."""

    P = ParamSpec("P")
    T = TypeVar("T")

MACHINE = "machine.json"
PAGE_FILES = frozenset(("kpagecount", "kpageflags", "kpagecgroup"))
"""Files that have a word for each frame."""
PF_EXITING = 0x00000004
"""A process flag: include/linux/sched.h."""
MAX_ENTRIES = 1 << 16
"""Files in a capture's directory, of one process each or of the machine."""
PID_DIGITS = 10
OPEN_TO_ALL = ("hidepid=0", "hidepid=off")
START_FIELD = 19
"""The index of the start time among the fields of a stat file after the name."""

WHOLE_PROC = "a /proc without subset=pid: as root, mount -t proc proc /proc; for a unit of systemd, ProcSubset=all"
"""An option of Linux 5.8."""
MOUNTED_PROC = "proc mounted there: as root, mount -t proc proc /proc"

BY_VMA = frozenset(("maps", "smaps", "numa_maps"))
"""Files that the kernel writes VMA by VMA. Where the address space ends meanwhile, they just stop, without an error
(fs/proc/task_mmu.c, m_start)."""


class ProcFS(Directory):
    """What processes are read from: ``/proc``, another procfs mount, or a captured process.

    ``page_size`` is the machine's, or what the capture recorded; give it to read a directory that records none.

    >>> ProcFS().live
    True
    """

    def __init__(self, root: str = "/proc", page_size: int | None = None) -> None:
        self.root = root.rstrip("/") or "/"
        try:
            super().__init__(open_directory(self.root), self.root, captured=True)
        except (FileNotFoundError, NotADirectoryError):
            raise TargetNotFound(f"{self.root}: no such directory") from None
        except OSError as error:
            raise translate_error(error, self.root) from None
        self.ourselves: tuple[int, list[int]] = 0, []
        """Our PID, by our own count, and our numbers here, once these were asked for: `own_numbers`."""
        self.machine = self._read_machine()
        """What ``machine.json`` says, for a capture; None for a live one."""
        self.captured = self.machine is not None
        if self.machine is not None:
            self.lacks = self.machine.get("lacks", {})
        if page_size is not None:
            self.page_size = page_size
        elif self.machine is not None:
            self.page_size = self.machine["page_size"]
        else:
            self.page_size = os.sysconf("SC_PAGESIZE")

    def _read_machine(self) -> dict[str, Any] | None:
        path = f"{self.root}/{MACHINE}"
        try:
            os.close(open_regular(MACHINE, path, self.fd))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise translate_error(error, self.root) from None  # whether there is such a file is not known
            raise self._error(error, MACHINE) from None
        from mematlas.kernel.machine import MAX_SIZE, parse_machine

        machine = self.parsed(MACHINE, parse_machine, MAX_SIZE)
        machine.path = path
        return machine

    def __del__(self) -> None:
        # Nobody closes what all processes are read from.
        self.close()

    def __repr__(self) -> str:
        return f"ProcFS({self.root!r}, page_size={self.page_size})"

    def _open(self, name: str, flags: int) -> int:
        return self.open_of(self, name, flags)

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
        return "subset=pid" in self._options()

    @property
    def hides_others(self) -> bool:
        """Whether this /proc keeps processes of others from who has no right to them: mounted with hidepid."""
        return any(option.startswith("hidepid=") and option not in OPEN_TO_ALL for option in self._options())

    def _options(self) -> Collection[str]:
        """Return the options that it was mounted with."""
        from mematlas.kernel.mounts import format_device, parse_options

        if self.captured:
            return ()
        try:
            options = self.parsed_lines("self/mountinfo", parse_options)
        except Error:
            return ()
        return options.get(format_device(os.fstat(self.fd).st_dev), ())

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

    lender: Lending | None = None
    """What is asked for what takes a right, where we have none."""

    @property
    def helpers(self) -> frozenset[int]:
        """The PIDs of those that work for us beside ourselves."""
        return frozenset()

    def seconds(self) -> float:
        """Return the processor seconds that this thread has taken, and what works for it alone."""
        return thread_time()

    # What may take a right: done here, or by whoever has it

    def open_directory(self, pid: int) -> int:
        """Return a descriptor of the directory of a process. Raises OSError."""
        return open_directory(str(pid), self.fd)

    def open_of(self, directory: Directory, name: str, flags: int) -> int:
        """Return a descriptor of a file in one of these directories. Raises OSError."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=directory.fd)

    def ask(
        self, function: Callable[Concatenate[ProcessDir, P], T], process: ProcessDir, *args: P.args, **more: P.kwargs
    ) -> T:
        """Return what a function finds out about a process, which may take a right."""
        return function(process, *args, **more)


MAX_STALL = 0.005
"""Seconds for which looking may hold up a process, by default."""


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
        self._identity: tuple[int, int] | None = None
        path = f"{procfs.root}/{pid}"
        try:
            held = open_directory(".", fd) if fd >= 0 else procfs.open_directory(pid)
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            raise no_process(procfs, pid) from None
        except OSError as error:
            raise translate_error(error, path, pid) from None
        super().__init__(held, path, procfs.captured, pid)
        self.lacks = procfs.lacks

    @property
    def identity(self) -> tuple[int, int]:
        """What names this process, or the thread that it is seen through, and no other: its number and its start.

        Both stay what they are when it starts another program, in whichever thread (fs/exec.c, de_thread()).
        """
        if self._identity is None:
            data = Directory.read(self, "stat")
            self._identity = self.tid, int(data.rpartition(b")")[2].split()[START_FIELD])
        return self._identity

    def _open(self, name: str, flags: int) -> int:
        return self.procfs.open_of(self, name, flags)

    def link(self, name: str) -> str:
        """Return where a link of the process points: ``fd/3``, ``exe``. Raises OSError, as `readlink` does not."""
        return self.procfs.ask(read_link, self, name)

    def status(self, name: str) -> os.stat_result:
        """Return what stat(2) says of the file that a link of the process leads to. Raises OSError."""
        return os.stat_result(*self.procfs.ask(stat_link, self, name))

    def statuses_of_mapped(self, spans: list[str]) -> dict[str, os.stat_result]:
        """Return the same of the files that VMAs map, by ``START-END``; those of which it cannot be had are missing."""
        found = self.procfs.ask(stat_mapped, self, ",".join(spans)) if spans else []
        return {span: os.stat_result(*status) for span, status in zip(spans, found, strict=True) if status}

    def _pieces(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield the pieces of a file.

        Raises:
            ProcessGone: the process ended, or started another program, before the end of it was read.
        """
        if self.captured or name not in BY_VMA:
            yield from super()._pieces(name, limit)
            return
        # Of the same address space as the file, or of one before it: who reads it after an exec has been too late.
        watched = fd = self.open_fd("maps")
        self.holds[name] = Hold()
        try:
            if name != "maps":
                fd = self.open_fd(name)
            is_empty = True
            for piece in self._pieces_of(fd, name, limit):
                is_empty = False
                yield piece
            # Nothing at all is the text of a kernel thread and of a zombie, which have no address space now either.
            if self.read_start("maps", 1) if is_empty else not os.pread(watched, 1, 0):
                what = "ended" if self.is_ending() else "runs another program now"
                raise ProcessGone(self.pid, what)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            for opened in {watched, fd}:
                os.close(opened)

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
            if not fields or fields[0] in (b"Z", b"X", b"x"):
                return True
            return bool(int(fields[6]) & PF_EXITING)
        except ProcessGone:
            return True
        except (IndexError, ValueError):
            return False

    def readlink(self, name: str) -> str:
        """Return where a link of the process points: ``exe``, ``map_files/START-END``."""
        try:
            return self.link(name)
        except OSError as error:
            raise self._error(error, name) from None

    def stat(self, name: str) -> os.stat_result:
        """Return what `status` does, with errors of ours."""
        try:
            return self.status(name)
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


def read_link(process: ProcessDir, name: str) -> str:
    """Return where a link of a process points. Raises OSError."""
    return os.readlink(name, dir_fd=process.fd)


def stat_link(process: ProcessDir, name: str) -> tuple[Any, ...]:
    """Return what makes the `os.stat_result` of the file that a link of a process leads to. Raises OSError."""
    status = os.stat(name, dir_fd=process.fd).__reduce__()
    return status[1]  # type: ignore[return-value]


def stat_mapped(process: ProcessDir, spans: str) -> list[tuple[Any, ...] | None]:
    """Return the same of the files that VMAs map, given as ``START-END`` with commas between them; None of others."""
    found: list[tuple[Any, ...] | None] = []
    for span in spans.split(","):
        try:
            found.append(stat_link(process, f"map_files/{span}"))
        except OSError:
            found.append(None)
    return found


def no_process(procfs: ProcFS, pid: int) -> Error:
    """Return the error for a PID that has no directory."""
    if not procfs.live:
        return TargetNotFound(f"no process {pid} in {procfs.root}")
    if procfs.hides(pid):
        text = "CAP_SYS_PTRACE in a /proc mounted with hidepid"
        return PermissionDenied(f"{procfs.root}/{pid}", "CAP_SYS_PTRACE", text=text)
    if not procfs.is_mounted:
        return NotSupported(procfs.root, MOUNTED_PROC)
    return TargetNotFound(f"no process {pid}")


def is_number(name: str) -> bool:
    """Whether a name is a PID, as the kernel writes it: 007 in a capture is none, and names no directory by its number.

    isdigit() alone takes the digits of other scripts, some of which int() does not.
    """
    return name.isdigit() and name.isascii() and len(name) <= PID_DIGITS and name[0] != "0"


def started_by(pid: int, procfs: ProcFS) -> list[int]:
    """Return the children of a process that has one thread; none where the kernel does not list them."""
    try:
        return list(map(int, procfs.read(f"{pid}/task/{pid}/children").split()))
    except (Error, ValueError):
        return []  # needs CONFIG_PROC_CHILDREN

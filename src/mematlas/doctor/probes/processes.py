"""Probes for files and calls of a process, our own and others."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

from mematlas.doctor.bench import MAP_SHARED_ANON, MISSING, NEEDED, Bench, Missing, Reason, read_number
from mematlas.errors import NotSupported
from mematlas.kernel.directory import NEEDS
from mematlas.kernel.libc import PR_SET_PDEATHSIG, PR_SET_VMA, PR_SET_VMA_ANON_NAME, libc
from mematlas.kernel.madvise import SYS_PROCESS_MADVISE
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import read_status, status_bytes
from mematlas.kernel.vmfile import PROCMAP_QUERY
from mematlas.model.processes import Processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.doctor.bench import Probing

PROCMAP_QUERY_ARGUMENT = struct.Struct("9Q4I2Q")


def reads(name: str) -> Probing:
    """Return a probe that reads a file of ours."""

    def probe(bench: Bench) -> Reason | None:
        if not bench.process.read(name):
            raise Missing(MISSING, Reason("empty"))
        return None

    return probe


def tables(bench: Bench) -> Reason | None:
    if status_bytes(read_status(bench.process), "VmPTE") is None:
        raise NotSupported("VmPTE")
    return None


def procmap_query(bench: Bench) -> Reason | None:
    size = PROCMAP_QUERY_ARGUMENT.size
    argument = bytearray(PROCMAP_QUERY_ARGUMENT.pack(size, 0, bench.page, *(0,) * 12))
    fd = bench.keep(os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC))
    fcntl.ioctl(fd, PROCMAP_QUERY, argument)
    start, end = PROCMAP_QUERY_ARGUMENT.unpack(argument)[3:5]
    if not start <= bench.page < end:
        raise Missing(MISSING, Reason("another-vma"))
    return None


def map_files(bench: Bench) -> Reason | None:
    start = bench.map(bench.page_size, MAP_SHARED_ANON)
    bench.keep(bench.process.open_fd(f"map_files/{start:x}-{start + bench.page_size:x}"))
    return None


def names(bench: Bench) -> Reason | None:
    import ctypes

    name = ctypes.create_string_buffer(b"mematlas")
    page = bench.map(bench.page_size)
    address = ctypes.addressof(name)
    bench.call("prctl", PR_SET_VMA, PR_SET_VMA_ANON_NAME, page, bench.page_size, address)
    return None


FILES = ("maps", "smaps", "pagemap")
"""What shows the memory of a process."""


def opens_all(pid: int) -> Reason | None:
    """Open what shows a process's memory; raise what is refused."""
    refused = []
    for name in FILES:
        try:
            os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except PermissionError:
            refused.append(name)
    if not refused:
        return None
    opened = [name for name in FILES if name not in refused]
    raise Missing(NEEDED, Reason("files", (refused, opened)), NEEDS[refused[-1]])


def first(bench: Bench) -> Reason | None:
    return opens_all(1)


def others(bench: Bench) -> Reason | None:
    user = os.geteuid()
    for pid, owner in sorted(other_processes(bench.procfs), key=lambda process: process[1] == user):
        try:
            opens_all(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        return Reason("tried-on" if owner != user else "tried-on-own", (pid,))
    return Reason("alone")


def other_processes(procfs: ProcFS) -> Iterator[tuple[int, int]]:
    """Yield each process but PID 1 and ourselves, with the user it belongs to."""
    for process, _ in Processes(procfs):
        try:
            owner = os.stat("stat", dir_fd=process.fd).st_uid
        except OSError:
            continue  # it has ended
        if process.pid != 1:
            yield process.pid, owner


def advises(advice: int) -> Probing:
    """Return a probe that advises on a page of a child of ours: what works there needs no more for others."""

    def probe(bench: Bench) -> Reason | None:
        import ctypes

        pid = start_child()
        try:
            pidfd = bench.keep(os.pidfd_open(pid))
            vector = (ctypes.c_size_t * 2)(bench.page, bench.page_size)
            ranges = ctypes.addressof(vector)
            bench.call("syscall", SYS_PROCESS_MADVISE, pidfd, ranges, 1, advice, 0)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return None

    return probe


def start_child() -> int:
    """Start a process that has our memory and waits to be killed."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            while os.getppid() == parent:
                signal.pause()
        finally:
            # Whatever happens, such as Ctrl-C: nothing of the parent's work may go on here.
            os._exit(0)
    return pid


def ptrace(bench: Bench) -> Reason | None:
    """Have a child read our memory: we are of its user, and no child of it, as any process of one's own."""
    code = read_memory_from_child(bench)
    try:
        scope: int | None = read_number("/proc/sys/kernel/yama/ptrace_scope")
    except FileNotFoundError:
        scope = None
    if code == 0:
        return Reason("no-yama") if scope is None else Reason("yama", (scope,))
    if scope and code in (errno.EPERM, errno.EACCES):
        # Yama lets 1 parents, 2 those with the right, 3 nobody until the next boot.
        if scope == 3:
            raise Missing(MISSING, Reason("yama-for-good"))
        raise Missing(NEEDED, Reason("type", ("yama",)), ("CAP_SYS_PTRACE",))
    raise OSError(code, os.strerror(code))


def read_memory_from_child(bench: Bench) -> int:
    """Return the error that a child gets when it reads our memory by /proc/PID/mem; 0 when it gets none."""
    path = f"/proc/{os.getpid()}/mem"
    pid = os.fork()
    if pid == 0:
        code = errno.EIO
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            code = 0 if os.pread(fd, 1, bench.page) == b"\1" else errno.EIO
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

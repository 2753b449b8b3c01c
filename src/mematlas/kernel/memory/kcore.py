"""/proc/kcore: kernel memory as an ELF core file.

Format: fs/proc/kcore.c. Each PT_LOAD segment is a stretch of kernel addresses and where in the file it lies; those
of RAM also have the physical address, so the direct map's base can be read off. It needs no BPF, but CONFIG_PROC_KCORE,
CAP_SYS_RAWIO, and a kernel that is not locked down.
"""

from __future__ import annotations

import os
import struct

from mematlas.arrays import np
from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.kernel.lockdown import read_lockdown
from mematlas.kernel.memory.btf import FITTING
from mematlas.kernel.memory.x86 import GIB, PAGE, U64
from mematlas.kernel.rights import INITIAL_PID_NAMESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Bools, Words
    from mematlas.kernel.memory.btf import StructLayout

KCORE_PATH = "/proc/kcore"
KALLSYMS_PATH = "/proc/kallsyms"
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
PT_LOAD = 1
MAX_OFFSET = (1 << 63) - 1
"""The last offset in a file that a system call takes."""
NR_TASKS_MAX = 1 << 22
"""PID_MAX_LIMIT: a list of tasks that is longer was changed while it was followed."""


class LoadSegment:
    """One PT_LOAD segment: kernel addresses ``start`` to ``end``, at ``offset`` in the file."""

    __slots__ = ("end", "offset", "phys_address", "start")

    def __init__(self, start: int, end: int, offset: int, phys_address: int) -> None:
        self.start = start
        self.end = end
        self.offset = offset
        self.phys_address = phys_address


def parse_segments(fd: int, path: str = KCORE_PATH) -> list[LoadSegment]:
    """Return the loadable segments of an ELF core file, by address."""
    header = os.pread(fd, ELF_HEADER.size, 0)
    if len(header) < ELF_HEADER.size:
        # Containers are often given an empty file in its place.
        raise NotSupported(path, "the real /proc/kcore, not an empty file over it")
    ident, kind, _, _, _, table_offset, _, _, _, size, nr, _, _, _ = ELF_HEADER.unpack(header)
    if ident[:6] != b"\x7fELF\x02\x01" or kind != 4 or size != PROGRAM_HEADER.size:
        raise FormatError(path, repr(header[:20]))
    table = os.pread(fd, nr * size, table_offset) if table_offset + nr * size <= MAX_OFFSET else b""
    if len(table) < nr * size:
        raise FormatError(path, f"{len(table)} bytes of {nr} program headers")
    segments = []
    for kind, _, offset, start, phys_address, _, length, _ in PROGRAM_HEADER.iter_unpack(table):
        if kind == PT_LOAD and length:
            if start + length > U64 + 1 or offset + length > MAX_OFFSET:
                raise FormatError(path, f"a segment of {length} bytes at {offset:#x}")
            segment = LoadSegment(start=start, end=start + length, offset=offset, phys_address=phys_address)
            segments.append(segment)
    return sorted(segments, key=lambda segment: segment.start)


class KcoreReader:
    """Copies kernel memory out of a core file; a read for each address.

    >>> KcoreReader.open()  # doctest: +SKIP
    <KcoreReader of 39 segments>
    """

    name = "kcore"
    batch_size = 64

    def __init__(self, fd: int, segments: list[LoadSegment], kallsyms: str = KALLSYMS_PATH) -> None:
        self.fd = fd
        self.segments = segments
        self.kallsyms = kallsyms
        self._tasks: dict[tuple[int, int, int], int] = {}
        """Where our own task_struct is: by our PID, for a child of ours has another, and by how it was found."""
        self._starts = np.array([segment.start for segment in segments], np.uint64)
        self._data = np.zeros((self.batch_size, PAGE // 8), np.uint64)
        self._bytes = self._data.data.cast("B")

    @classmethod
    def open(cls, path: str = KCORE_PATH, kallsyms: str = KALLSYMS_PATH) -> KcoreReader:
        """Open a core file.

        Raises:
            NotSupported: no CONFIG_PROC_KCORE, or a container's empty file, or a kernel that is locked down.
            PermissionDenied: without CAP_SYS_RAWIO.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotSupported(path, "CONFIG_PROC_KCORE") from None
        except PermissionError:
            # Under lockdown no right helps (fs/proc/kcore.c, open_kcore).
            if read_lockdown() == "confidentiality":
                raise NotSupported(path, "a kernel that is not locked down to confidentiality") from None
            raise PermissionDenied(
                path, "CAP_SYS_RAWIO", text="CAP_SYS_RAWIO and no lockdown to confidentiality"
            ) from None
        try:
            segments = parse_segments(fd, path)
            if not segments:
                raise FormatError(path, "no loadable segments")
            return cls(fd, segments, kallsyms)
        except BaseException:
            os.close(fd)
            raise

    def __repr__(self) -> str:
        return f"<KcoreReader of {len(self.segments)} segments>"

    def close(self) -> None:
        """Close the core file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read_batch(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        """Return what lies at up to `batch_size` addresses, and which of them could be read.

        The words are a view that holds until the next call.
        """
        indexes = (np.searchsorted(self._starts, addresses, side="right") - 1).tolist()
        rows = zip(range(len(indexes)), addresses.tolist(), indexes, strict=True)
        good = [self._read_row(row, address, index, size) for row, address, index in rows]
        return self._data[: len(good), : size // 8], np.array(good, np.bool_)

    def _read_row(self, row: int, address: int, index: int, size: int) -> bool:
        segment = self.segments[index]
        if index < 0 or address + size > segment.end:
            return False
        target = self._bytes[row * PAGE : row * PAGE + size]
        try:
            return os.preadv(self.fd, [target], segment.offset + address - segment.start) == size
        except OSError:
            return False

    def direct_map_bases(self) -> list[int]:
        """Return where the direct map may begin: virtual minus physical address, as most segments have it."""
        # Segments of no RAM have 0 or -1 for a physical address, and kernel text another distance.
        segments = (segment for segment in self.segments if segment.phys_address not in (0, U64))
        distances = [segment.start - segment.phys_address & U64 for segment in segments]
        bases = {distance for distance in distances if distance % GIB == 0}
        return sorted(bases, key=distances.count, reverse=True)

    def mm_address(self, pid: int, mem_fd: int, layout: StructLayout) -> int:
        """Return the address of the mm_struct behind our own descriptor of /proc/PID/mem.

        Not the one that the task of ``pid`` has: that may be another by now, which nobody holds in its place.
        """
        return self.private_data(mem_fd, layout)

    def forget(self, pgd: int) -> None:
        """Nothing is held."""

    def private_data(self, fd: int, layout: StructLayout) -> int:
        """Return what our own open file ``fd`` is made of: for a pipe, the address of its pipe_inode_info."""
        at = self._own_task(layout)
        for step in (layout["task_struct.files"], layout["files_struct.fdt"], layout["fdtable.fd"]):
            at = self._word(at + step)
        return self._word(self._word(at + 8 * fd) + layout["file.private_data"])

    def _own_task(self, layout: StructLayout) -> int:
        """Return the address of our own task_struct: the list of all tasks is followed from init_task.

        The PIDs in it are those of the first PID namespace, so this reader is for that one alone.
        """
        pid, next_at, pid_at = os.getpid(), layout["task_struct.tasks"], layout["task_struct.pid"]
        key = (pid, next_at, pid_at)
        if key in self._tasks:
            return self._tasks[key]
        if os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE:
            raise NotSupported("finding processes in /proc/kcore from a container", "the initial PID namespace")
        first = task = find_symbol("init_task", self.kallsyms)
        for _ in range(NR_TASKS_MAX):
            if self._word(task + pid_at) & 0xFFFFFFFF == pid:
                self._tasks = {key: task}
                return task
            task = self._word(task + next_at) - next_at
            if task == first:
                break
        raise NotSupported("finding ourselves in the list of tasks in /proc/kcore", FITTING)

    def _word(self, address: int) -> int:
        data, good = self.read_batch(np.array([address & U64], np.uint64), 8)
        if not good[0]:
            # Neither the address nor what was read is said: they are the kernel's.
            raise NotSupported(f"following the kernel's structures in {KCORE_PATH}", FITTING)
        return int(data[0, 0])


def find_symbol(name: str, path: str = KALLSYMS_PATH) -> int:
    """Return the address of a kernel symbol.

    Raises:
        NotSupported: the kernel does not list it: data symbols need CONFIG_KALLSYMS_ALL.
        PermissionDenied: every address is shown as 0, by sysctl kernel.kptr_restrict.
    """
    line = symbol_line(name, path)
    if line is None:
        raise NotSupported(f"{name} in {path}", "CONFIG_KALLSYMS_ALL")
    try:
        address = int(line.split(None, 1)[0], 16)
    except ValueError:
        raise FormatError(path, line) from None
    if not address:
        raise PermissionDenied(path, "CAP_SYSLOG", text="CAP_SYSLOG, or sysctl kernel.kptr_restrict=0")
    return address


def symbol_line(name: str, path: str) -> str | None:
    """Return the line of a symbol: address, type, name; None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.split(None, 3)[2:3] == [name]), None)
    except OSError:
        return None

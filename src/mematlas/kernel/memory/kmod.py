"""/sys/kernel/debug/mematlas: page tables, copied by our own kernel module (native/kmod).

The module does not read memory by its address: it is given a virtual address and a level, walks there from the top
table under the kernel's locks, and copies the table that it finds. So this reader remembers how it came to each table:
of one that it has read, it knows where every entry leads. What it was never led to it cannot read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from mematlas.arrays import np
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.lockdown import read_lockdown
from mematlas.kernel.memory.x86 import PAGE, PAGE_SHIFT, TABLE_BITS, U64, X86_HUGE, X86_PRESENT
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import counts_as_we_do

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Bools, Words
    from mematlas.kernel.memory.btf import StructLayout

MODULE_PATH = "/sys/kernel/debug/mematlas"
ABI_VERSION = 1

# native/kmod/mematlas.c: struct mematlas_select, mematlas_request, mematlas_copy
MEMATLAS_SELECT = 0xC0106D01  # _IOWR('m', 1, struct mematlas_select)
MEMATLAS_COPY = 0xC0186D02  # _IOWR('m', 2, struct mematlas_copy)
SELECT = struct.Struct("=iIQ")
COPY = struct.Struct("=QQII")
REQUEST = np.dtype(
    [("address", "u8"), ("level", "u4"), ("flags", "u4"), ("frame", "u8"), ("error", "i4"), ("reserved", "u4")]
)
REQUEST_USER_PGD = 1
NOTHING = np.array([(0, U64 >> 32, 0, 0, -errno.ENODATA, 0)], REQUEST)
"""Asks for a level that there is not."""

NR_REQUESTS = 64


def check_numbers(mem_fd: int) -> None:
    """Refuse a process's file in a /proc whose numbers are not those that our system calls take."""
    try:
        ours = os.stat("/proc").st_dev == os.fstat(mem_fd).st_dev and counts_as_we_do(ProcFS())
    except (OSError, Error):
        ours = False
    if not ours:
        raise NotSupported("choosing a process for the module", "a /proc of our own PID namespace")


def check_same(pid: int, mem_fd: int) -> None:
    """Raise `ProcessGone` unless the open ``mem`` is still that of the process with this number.

    The inode of an open file in /proc belongs to one process for good: another with its number has another.
    """
    try:
        same = os.stat(f"/proc/{pid}/mem").st_ino == os.fstat(mem_fd).st_ino
    except OSError:
        same = False
    if not same:
        raise ProcessGone(pid)
    try:
        # There is nothing to see at address 0: reading ends there once the address space has.
        gone = os.pread(mem_fd, 1, 0) == b""
    except OSError:
        gone = False
    if gone:
        raise ProcessGone(pid, "has ended or executed a program")


class ModuleReader:
    """Copies page tables, and nothing else. Not for two threads at once.

    Raises:
        NotSupported: the module is not loaded, or is another version than this reader.
        PermissionDenied: debugfs is for root alone.
    """

    name = "module"
    batch_size = NR_REQUESTS

    def __init__(self, path: str = MODULE_PATH) -> None:
        self.path = path
        info = self._read_info()
        # Under lockdown=integrity that may be read, and this may not be opened.
        os.close(self._open())
        self.levels = info["levels"]
        self.page_offset = info["page_offset"]
        self.isolated = bool(info["pti"])
        self.address_mask = info["address_mask"]
        """The bits of an entry that are an address: not the one that says encrypted."""
        self._fds: dict[int, int] = {}
        """By the physical address of its top table, the open file that stands for an address space and pins it."""
        self._known: dict[int, tuple[int, int, int, int]] = {}
        """By the physical address of a table: top table, virtual address, level, flags, which led to it last."""
        self._pointers: dict[int, int] = {}
        """What is to be read where `mm_address` says that an mm_struct is."""
        self._requests = np.zeros(NR_REQUESTS, REQUEST)
        self._tables = np.zeros((NR_REQUESTS, PAGE // 8), np.uint64)

    def __repr__(self) -> str:
        return f"<ModuleReader at {self.path}>"

    def close(self) -> None:
        """Let go of all address spaces, and of the module."""
        for pgd in list(self._fds):
            self.forget(pgd)

    def forget(self, pgd: int) -> None:
        """Let go of an address space that nobody walks any more."""
        if pgd in self._fds:
            os.close(self._fds.pop(pgd))
            self._known = {table: way for table, way in self._known.items() if way[0] != pgd}

    def mm_address(self, pid: int, mem_fd: int, layout: StructLayout) -> int:
        """Return a name for the address space of ``pid``: that of its top table, for the module reports no other.

        The caller's open descriptor has passed the kernel's check; the module asks for CAP_SYS_ADMIN. It takes a
        number, so what it has chosen is ours only if the number still is that of the process whose file we hold.

        Raises:
            NotSupported: the file is of a /proc that counts processes in another way than our system calls do.
            ProcessGone: the process has ended or executed a program.
        """
        check_numbers(mem_fd)
        fd = self._open()
        try:
            argument = bytearray(SELECT.pack(pid, 0, 0))
            fcntl.ioctl(fd, MEMATLAS_SELECT, argument)
            pgd = SELECT.unpack(argument)[2]
            check_same(pid, mem_fd)
            self._hold(pgd, fd)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.ESRCH:
                raise ProcessGone(pid) from None
            raise NotSupported(f"selecting process {pid} ({error.strerror})", "the module of this version") from None
        except BaseException:
            os.close(fd)
            raise
        address: int = self.page_offset + pgd
        self._pointers = {address + layout["mm_struct.pgd"]: address}
        return address

    def _hold(self, pgd: int, fd: int) -> None:
        """Remember an address space by the open file that stands for it."""
        old = self._fds.pop(pgd, -1)
        # Two that are open at once are not alike: as long as ours is open, its top table is not given to another.
        self._fds[pgd] = fd if old < 0 else old
        self._known[pgd] = (pgd, 0, self.levels - 1, 0)
        if self.isolated:
            self._known[pgd + PAGE] = (pgd, 0, self.levels - 1, REQUEST_USER_PGD)
        if old >= 0:
            os.close(fd)

    def private_data(self, fd: int, layout: StructLayout) -> int:
        """Refuse: only tables are read."""
        raise NotSupported("finding an open file with the module", "the bpf reader")

    def direct_map_bases(self) -> list[int]:
        """Return where the direct map begins: the module says so."""
        return [self.page_offset]

    def read_batch(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        """Return what lies at addresses of the direct map, and which of them lie in tables that we were led to.

        The words are a view that holds until the next call.
        """
        wanted: list[int] = addresses.tolist()
        in_tables = (address for address in wanted if address not in self._pointers)
        pages = list(dict.fromkeys(address & -PAGE for address in in_tables))
        rows = self._read_tables(pages)
        if size == PAGE and len(pages) == len(wanted):
            return self._tables[: len(pages)], np.array([page in rows for page in pages], np.bool_)
        data = np.zeros((len(wanted), size // 8), np.uint64)
        good = np.zeros(len(wanted), np.bool_)
        for index, address in enumerate(wanted):
            if size == 8 and address in self._pointers:
                data[index, 0], good[index] = self._pointers[address], True
            elif (row := rows.get(address & -PAGE)) is not None:
                first = address % PAGE // 8
                data[index] = self._tables[row, first : first + size // 8]
                good[index] = True
        return data, good

    def _read_tables(self, pages: list[int]) -> dict[int, int]:
        """Copy tables, and return the row of each that is there: those of one address space in one call."""
        members: dict[int, list[tuple[int, int]]] = {}
        self._requests[: len(pages)] = NOTHING
        for row, page in enumerate(pages):
            if way := self._known.get(page - self.page_offset):
                self._requests[row] = (*way[1:], 0, -errno.ENODATA, 0)
                members.setdefault(way[0], []).append((row, page))
        good: dict[int, int] = {}
        for pgd, wanted in members.items():
            if len(members) == 1:
                self._copy(self._fds[pgd], 0, len(pages))
            else:
                for row, _ in wanted:
                    self._copy(self._fds[pgd], row, row + 1)
            for row, page in wanted:
                # The way may lead to another table by now.
                request = self._requests[row]
                if request["error"] == 0 and int(request["frame"]) == page - self.page_offset:
                    good[page] = row
        for page, row in good.items():
            self._learn(page - self.page_offset, self._tables[row])
        return good

    def _copy(self, fd: int, first: int, end: int) -> None:
        """Have the rows from ``first`` to ``end`` copied."""
        requests, tables = self._requests[first:end], self._tables[first:end]
        argument = bytearray(COPY.pack(requests.ctypes.data, tables.ctypes.data, end - first, 0))
        try:
            fcntl.ioctl(fd, MEMATLAS_COPY, argument)
        except OSError as error:
            raise NotSupported(f"copying tables ({error.strerror})", "the module of this version") from None

    def _learn(self, table: int, entries: Words) -> None:
        """Remember where the entries of a table lead."""
        pgd, address, level, flags = self._known[table]
        if level == 0:
            return
        (indices,) = np.nonzero(entries & np.uint64(X86_PRESENT | X86_HUGE) == X86_PRESENT)
        shift = PAGE_SHIFT + TABLE_BITS * level
        children = (entries[indices] & np.uint64(self.address_mask)).tolist()
        for index, child in zip(indices.tolist(), children, strict=True):
            self._known[child] = (pgd, address | index << shift, level - 1, flags)

    def _open(self) -> int:
        try:
            return os.open(f"{self.path}/tables", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._refusal(error) from None

    def _read_info(self) -> dict[str, int]:
        try:
            with open(f"{self.path}/info", "rb") as file:
                text = file.read().decode("ascii", "replace")
        except OSError as error:
            raise self._refusal(error) from None
        try:
            pairs = (line.split() for line in text.splitlines())
            info = {name: int(value, 0) for name, value in pairs}
            if info["abi"] != ABI_VERSION:
                raise NotSupported(f"version {info['abi']} of the mematlas module", f"version {ABI_VERSION}")
            return {name: info[name] for name in ("levels", "page_offset", "pti", "address_mask")}
        except (ValueError, KeyError):
            raise FormatError(f"{self.path}/info", text) from None

    def _refusal(self, error: OSError) -> PermissionDenied | NotSupported:
        # debugfs lets nothing be opened that takes an ioctl (fs/debugfs/file.c, debugfs_locked_down).
        if error.errno == errno.EPERM and (mode := read_lockdown()) not in (None, "none"):
            return NotSupported(self.path, f"a kernel without lockdown={mode}")
        if error.errno in (errno.EACCES, errno.EPERM):
            return PermissionDenied(self.path, "CAP_SYS_ADMIN", text="root with CAP_SYS_ADMIN")
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):
            return NotSupported(self.path, "the mematlas module loaded, and debugfs mounted")
        return NotSupported(f"{self.path} ({error.strerror})")

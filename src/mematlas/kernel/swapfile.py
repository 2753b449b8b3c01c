"""A swap file of our own, for a while: what mkswap(8), swapon(8) and swapoff(8) do.

Format: union swap_header in include/linux/swap.h; swapon(2); mm/swapfile.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys

from mematlas.errors import BadInput, Error, NotSupported, PermissionDenied
from mematlas.kernel.libc import libc
from mematlas.kernel.newdir import NEW, open_made
from mematlas.kernel.signals import ENDING, signals_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

SWAP_FLAG_PREFER = 0x8000
SWAP_PRIORITY_MAX = 0x7FFF

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_NOCOW_FL = 0x00800000
"""btrfs takes a swap file only when it is not copied on write."""

FILE = "swap"
PARENTS = ("/var/tmp", "/var/lib", "/")
"""The directories in which a swap file is tried, in this order: on a disk, and out of others' way."""
LEFT_FREE = 1 << 30
"""Bytes of the file system that are left alone."""
PIECE = 1 << 20


class TemporarySwap:
    """Swap space before all other, until closed: the kernel then brings back what is in it.

    A child of ours takes it away again, as soon as we close our end of a pipe or end in whatever way, SIGKILL
    included: the kernel cannot forget a swap file, and its blocks would be lost until the next start.

    Raises:
        PermissionDenied: needs CAP_SYS_ADMIN.
        NotSupported: no file system here has the room and takes a swap file; the message says which were tried.
    """

    def __init__(self, size: int, parents: tuple[str, ...] = PARENTS) -> None:
        page_size = os.sysconf("SC_PAGESIZE")
        self.size = size // page_size * page_size
        if self.size < 16 * page_size:
            raise BadInput(f"a swap file of {size:,} B is too small: at least 16 pages")
        self.path = ""
        self._pipe = -1
        self._keeper = 0
        reasons: dict[str, list[str]] = {}
        for parent in parents:
            try:
                self._make(parent)
                return
            except OSError as error:
                if error.errno == errno.EPERM:
                    raise PermissionDenied("swapon", "CAP_SYS_ADMIN") from None
                reasons.setdefault(error.strerror or "", []).append(parent)
        tried = "; ".join(f"{', '.join(where)}: {why}" for why, where in reasons.items())
        room = f"{self.size + LEFT_FREE >> 20} MiB free where swap files work"
        raise NotSupported(f"a swap file of {self.size >> 20} MiB", f"{room}; {tried}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the swap space away.

        Raises:
            Error: the kernel will not, most likely for want of memory; the message says how to try again.
        """
        if self._pipe < 0:
            return
        os.close(self._pipe)
        self._pipe = -1
        try:
            code = wait_for(self._keeper)
        except KeyboardInterrupt:
            wait_for(self._keeper)  # one more ends our waiting, and never the keeper
            raise
        if code:
            raise Error(f"swapoff {self.path}: {os.strerror(code)}; later: swapoff {self.path} && rm {self.path}")

    def _make(self, parent: str) -> None:
        room = os.statvfs(parent)
        free = room.f_bavail * room.f_frsize
        if free < self.size + LEFT_FREE:
            raise OSError(errno.ENOSPC, f"{free >> 20} MiB free")
        try:
            with signals_held():
                name, inode, self._pipe, self._keeper = start_keeper(parent)
            self.path = os.path.join(parent, name, FILE)
            file = make_swap_file(parent, name, inode)
            try:
                self._switch_on(file)
            finally:
                os.close(file)
        except BaseException:
            self.close()
            raise

    def _switch_on(self, file: int) -> None:
        # The first try takes the blocks without writing to them, which most file systems allow.
        for filled in (False, True):
            write_swap_area(file, self.size, filled)
            code = swapon(file)
            if code != errno.EINVAL:
                break
        if code:
            raise OSError(code, os.strerror(code))


def swapon(fd: int) -> int:
    """Swap to a file before all others; return the errno, 0 when it went well."""
    import ctypes

    flags = SWAP_FLAG_PREFER | SWAP_PRIORITY_MAX
    return ctypes.get_errno() if libc().swapon(link_to(fd), flags) else 0


def link_to(fd: int) -> bytes:
    """Return a path that leads to the very file that is open, whatever stands where it was opened."""
    return b"/proc/self/fd/%d" % fd


def swapoff(fd: int) -> int:
    """Stop swapping to a file; return the errno, 0 when it went well."""
    import ctypes

    while libc().swapoff(link_to(fd)):
        if ctypes.get_errno() != errno.EINTR:
            return ctypes.get_errno()
    return 0


def make_swap_file(parent: str, name: str, inode: int) -> int:
    """Make the file in the directory that the keeper has made; return its descriptor."""
    with contextlib.ExitStack() as stack:
        held = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, held)
        directory = open_made(name, held)
        stack.callback(os.close, directory)
        if os.fstat(directory).st_ino != inode:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.open(FILE, os.O_RDWR | NEW, 0o600, dir_fd=directory)


def write_swap_area(fd: int, size: int, filled: bool) -> None:
    """Make an empty swap area of a file, with blocks for all of it: the kernel refuses a file with holes."""
    page_size = os.sysconf("SC_PAGESIZE")
    os.ftruncate(fd, 0)
    forbid_copy_on_write(fd)
    if filled:
        for offset in range(0, size, PIECE):
            write_whole(fd, bytes(min(PIECE, size - offset)), offset)
    else:
        os.posix_fallocate(fd, 0, size)
    # Version 1, the number of the last page, no bad pages; the magic ends the first page.
    header = b"".join(number.to_bytes(4, sys.byteorder) for number in (1, size // page_size - 1, 0))
    write_whole(fd, header, 1024)
    write_whole(fd, b"SWAPSPACE2", page_size - 10)
    os.fsync(fd)


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all of some bytes at an offset."""
    while data:
        nr_written = os.pwrite(fd, data, offset)
        data, offset = data[nr_written:], offset + nr_written


def forbid_copy_on_write(fd: int) -> None:
    """Set the flag that btrfs wants; other file systems refuse it or do not care."""
    from array import array

    flags = array("l", (0,))
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_NOCOW_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
    except OSError:
        return


def start_keeper(parent: str) -> tuple[str, int, int, int]:
    """Start the child that takes a swap file away; return the name and inode of the directory that it has made for one,
    our end of its pipe, and its PID.

    Raises:
        OSError: no directory can be made there.
    """
    wait, pipe = os.pipe()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(pipe)
        os.close(reader)
        keep(parent, wait, writer)
    os.close(wait)
    os.close(writer)
    with open(reader, "rb") as file:
        name, _, inode = file.read().decode().partition(" ")
    if not name:
        os.close(pipe)
        code = wait_for(pid)
        raise OSError(code, os.strerror(code))
    return name, int(inode), pipe, pid


def keep(parent: str, wait: int, report: int) -> NoReturn:
    """Make a directory, report its name and inode, and clear it away once the other end of the pipe is closed."""
    # In the child: nothing here may return. A session of our own, so that a terminal's signals do not reach us.
    # Whoever makes the directory takes it away, so that there is no moment in which nobody would.
    code = errno.EIO
    try:
        os.setsid()
        for number in (*ENDING, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        name = f"mematlas-swap-{os.urandom(8).hex()}"
        held = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.mkdir(name, 0o700, dir_fd=held)
        directory = open_made(name, held)
        with contextlib.suppress(BrokenPipeError), open(report, "wb", buffering=0) as file:
            file.write(f"{name} {os.fstat(directory).st_ino}".encode())
        os.read(wait, 1)
        code = clear(directory)
        if code == 0:
            with contextlib.suppress(OSError):  # somebody has moved it away, empty
                os.rmdir(name, dir_fd=held)
    except OSError as error:
        code = error.errno or code
    finally:
        os._exit(code)


def clear(directory: int) -> int:
    """End the swap area in a directory and remove its file; return the errno, 0 when it went well."""
    try:
        file = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return 0
    code = swapoff(file)
    # Making it failed: it is no swap area (EINVAL), or we may not make one, and so not end one either (EPERM).
    if code not in (0, errno.EINVAL, errno.EPERM):
        return code
    os.unlink(FILE, dir_fd=directory)
    return 0


def wait_for(pid: int) -> int:
    """Return the exit code of the child, once it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

"""A directory of /proc or of a capture: how what is in it is opened and read, whoever wrote it.

Nothing is read without a bound. In a capture, which may come from a stranger, only regular files are opened, and no
link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import chain, repeat

from mematlas.errors import (
    Error,
    FormatError,
    NotHeld,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TooLarge,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Protocol, Self, TypeVar

    T = TypeVar("T")

    class WordFile(Protocol):
        """A file of 64-bit words that is read by position: /proc/PID/pagemap, /proc/kpagecount, ..."""

        def read_into(self, buffer: memoryview, offset: int) -> int:
            """Fill ``buffer`` from byte ``offset``; return the number of bytes read, 0 at the end."""

        def next_data(self, offset: int) -> int | None:
            """Return the next offset that may hold something; None when there is nothing more."""

        def close(self) -> None: ...


NOTHING: Mapping[str, str] = {}
READ_SIZE = 1 << 18
"""Bytes of one read(2)."""
MAX_FILE = 16 << 20
"""Bytes of a file that is read whole. The longest are of the machine: zoneinfo, iomem."""
SHORT = 1 << 14
"""Bytes of a file that is called short."""
BATCH_SIZE = 1 << 19
"""Bytes of a long text that are held at a time."""
MAX_LINE = 1 << 14
"""Bytes of a line that is kept whole."""
MAX_TEXT = 4 << 30
"""Bytes of a live text that is read line by line: smaps of a million VMAs is under one GiB, but a program can make the
paths in it as long as it likes."""
MAX_CAPTURED = 512 << 20
"""Bytes of any file of a capture."""
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
    "task": ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
    "kpagecount": ("CAP_DAC_READ_SEARCH",),
    "kpageflags": ("CAP_DAC_READ_SEARCH",),
    "kpagecgroup": ("CAP_DAC_READ_SEARCH",),
    "slabinfo": ("CAP_DAC_READ_SEARCH",),
    "vmallocinfo": ("CAP_DAC_READ_SEARCH",),
    "fd": ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
    "fdinfo": ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
}


class LiveFile:
    """A file of the live /proc, read by position. Its descriptor is closed with it."""

    __slots__ = ("fd", "path", "pid")

    def __init__(self, fd: int, path: str, pid: int | None) -> None:
        self.fd = fd
        self.path = path
        self.pid = pid

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from an offset on; return how many bytes there were, 0 behind the end."""
        # np.fromfile and whole-file reads believe st_size, which is 0 in /proc, and return nothing: preadv it is.
        try:
            return os.preadv(self.fd, [buffer], offset)
        except OSError as error:
            # Past the end of the address space, or of memory, the kernel answers EINVAL or EFAULT on some versions.
            if error.errno in (errno.EINVAL, errno.EFAULT, errno.ENXIO, errno.EOVERFLOW):
                return 0
            raise translate_error(error, self.path, self.pid) from None

    def read_ranges(self, offsets: list[int], sizes: list[int]) -> bytes:
        """Return the bytes of some ranges, one after the other; fewer where the file ends."""
        try:
            return b"".join(map(os.pread, repeat(self.fd), sizes, offsets))
        except OSError as error:
            raise translate_error(error, self.path, self.pid) from None

    def next_data(self, offset: int) -> int | None:
        """Return the offset itself: the kernel does not say where holes end."""
        return offset

    def __del__(self) -> None:
        # Pages that nobody begins to look at are held by a generator that never runs.
        self.close()

    def close(self) -> None:
        """Let go of the file."""
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
    text = f"{path}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EMFILE:
        # A cgroup is held open whole: it may have more processes than we are allowed files.
        text += " (ulimit -Hn is the limit: raise it, or look at fewer processes)"
    return Error(text)


class Directory:
    """A directory of /proc or of a capture, held open: everything in it is opened relative to that.

    A capture may come from a stranger, and the directory of a process is full of what that process said. So nothing is
    read without a bound, and in a capture only regular files are opened, and no link is followed.
    """

    fd = -1
    lacks = NOTHING
    """Of files that are not in it, by their names, why."""

    def __init__(self, fd: int, path: str, captured: bool, pid: int | None = None) -> None:
        """Take over a descriptor of the directory."""
        self.fd = fd
        self.path = path
        self.captured = captured
        """Whether it is not the kernel that answers."""
        self.pid = pid

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
            return self._open(name, flags)
        except OSError as error:
            raise self._error(error, name) from None

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)

    def open(self, name: str) -> WordFile:
        """Open a file of words: ``pagemap``, ``kpagecount``."""
        if self.captured:
            from mematlas.kernel.packed import PackedFile

            try:
                return PackedFile(self.open_fd(f"{name}.packed"), f"{self.path}/{name}.packed")
            except NotHeld:
                raise self._not_held(name) from None
        return LiveFile(self.open_fd(name), f"{self.path}/{name}", self.pid)

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """Return a file whole, as it was at one time or nearly so.

        Raises:
            TooLarge: it has more than ``limit`` bytes.
        """
        return b"".join(self._pieces(name, limit))

    def read_short(self, name: str, size: int = SHORT) -> bytes:
        """Return a file whole; at half the cost where it has fewer bytes than these, which the kernel writes in one go.

        Raises:
            TooLarge: it has more than `MAX_FILE` bytes.
        """
        fd = self.open_fd(name)
        try:
            data = os.read(fd, size)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            os.close(fd)
        return data if len(data) < size else self.read(name)

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
            yield from self._pieces_of(fd, name, limit)
        finally:
            os.close(fd)

    def _pieces_of(self, fd: int, name: str, limit: int) -> Iterator[bytes]:
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

    def _unpacked_pieces(self, name: str, limit: int) -> Iterator[bytes]:
        import zlib

        path = f"{self.path}/{name}"
        try:
            fd = self.open_fd(f"{name}.gz")
        except NotHeld:
            raise self._not_held(name) from None
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

    def parsed_short(self, name: str, parse: Callable[[bytes], T]) -> T:
        """Return what a parser makes of a file that is short most likely."""
        try:
            return parse(self.read_short(name))
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

    def _not_held(self, name: str) -> NotHeld:
        return NotHeld(f"{self.path}/{name}", self.lacks.get(name, ""))

    def _error(self, error: OSError, name: str) -> Exception:
        path = f"{self.path}/{name}"
        if self.captured:
            if error.errno == errno.ENOENT:
                return self._not_held(name)
            if error.errno == errno.EACCES:
                return PermissionDenied(path)
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
                return FormatError(path, expected="a regular file")
        return translate_error(error, path, self.pid)


def open_directory(name: str, below: int | None = None) -> int:
    """Open a directory, or one in another that is held; return its descriptor."""
    # The way to a capture is the caller's own, and may lead over links.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return os.open(name, flags if below is None else flags | os.O_NOFOLLOW, dir_fd=below)


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

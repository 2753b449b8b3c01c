"""What a child does with files, one after the other: looks what an advice could do, or gives it and measures.

Sources: mm/fadvise.c, generic_fadvise(); mm/truncate.c, mapping_try_invalidate(). POSIX_FADV_DONTNEED takes out what is
clean and held by nobody; POSIX_FADV_WILLNEED begins to read, and returns.
"""

from __future__ import annotations

import os

from mematlas.analysis.movable import add_counts
from mematlas.errors import Error, PermissionDenied, taken_apart
from mematlas.frozen import record
from mematlas.kernel.cachestat import call_mincore, count_cached, may_see, name_in_maps, refuse_endless
from mematlas.kernel.mounts import format_device
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.tree import Tree, reopened
from mematlas.kernel.vmfile import KIND_OF_MAGIC, is_renamed
from mematlas.observe.cache import FAILED, rows_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from mematlas.actions.options import Options

FILE_ADVICE = ("pageout", "willneed")
MINCORE_PAGES = 1 << 16
LOWEST_BIT = bytes(byte & 1 for byte in range(256))
STAYS = {"shmem": "memory", "hugetlb": "hugetlb"}
"""Why pages of files on some file systems never go."""


@record
class FileRow:
    """A file that was looked at, or acted on."""

    device: int
    number: int
    """Device and inode, as stat(2) has them."""
    path: str
    name: tuple[str, int]
    """Device and inode as maps has them."""
    size: int
    nr_requested: int
    nr_advised: int
    nr_movable: int
    """What can move, or has moved."""
    nr_dirty: int | None
    nr_reading: int | None
    reasons: dict[str, int]
    passes: int


def find(path: str) -> Iterator[tuple[int, Any]]:
    """Yield why a path that was named is not to be had, if it is not."""
    try:
        next(iter(Tree(path)), None)
    except Error as error:
        yield FAILED, taken_apart(error)


def look_at(path: str, advice: str, page_size: int) -> Iterator[tuple[int, Any]]:
    """Yield what an advice could do to files at or below a path, in the pieces of `mematlas.observe.cache.rows_at`."""
    return each_file(path, page_size, lambda file: file.plan(advice))


def act_on(path: str, advice: str, page_size: int, options: Options) -> Iterator[tuple[int, Any]]:
    """Yield what an advice did to them."""

    def act(file: OpenFile) -> FileRow:
        return file.pageout(options.passes) if advice == "pageout" else file.willneed(options.touch)

    return each_file(path, page_size, act)


def each_file(path: str, page_size: int, work: Callable[[OpenFile], FileRow]) -> Iterator[tuple[int, Any]]:
    """Yield what comes of each file, as plain values."""

    def row_of(name: str, place: int, status: os.stat_result, magic: int) -> tuple[Any, ...] | None:
        kind = KIND_OF_MAGIC.get(magic)
        if kind == "special":
            return None  # one of the kernel's own, which has no page cache
        try:
            fd = reopened(place)
        except PermissionError:
            raise PermissionDenied(name, "CAP_DAC_READ_SEARCH") from None
        with OpenFile(name, fd, status, kind, page_size, is_renamed(magic)) as file:
            row = work(file)
        return tuple(getattr(row, field) for field in FileRow.__match_args__)

    # What was done is to be known, whatever ends us.
    return rows_at(path, row_of, at_once=True)


class OpenFile:
    """A regular file, held open."""

    def __init__(
        self, path: str, fd: int, status: os.stat_result, kind: str | None, page_size: int, is_renamed: bool
    ) -> None:
        self.path = path
        self.fd = fd
        self.status = status
        self.kind = kind
        self.page_size = page_size
        self.nr_pages = -(-status.st_size // page_size)
        self._is_renamed = is_renamed
        """Whether maps calls it by another device and inode than stat(2)."""

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    def count(self) -> tuple[int, int | None]:
        """Return how many pages of it are in the page cache, and how many of these are to be written, or are being."""
        try:
            (nr_cached, nr_dirty, nr_writeback, *_), _, _ = count_cached(
                self.fd, self.status, self.kind, self.page_size
            )
        except PermissionDenied as error:
            raise PermissionDenied(self.path, *error.needs, text=error.text) from None
        if nr_dirty is None or nr_writeback is None:
            return nr_cached, None
        return nr_cached, nr_dirty + nr_writeback

    def row(
        self,
        nr_requested: int,
        nr_movable: int,
        *,
        nr_dirty: int | None = None,
        nr_reading: int | None = 0,
        nr_advised: int = 0,
        reasons: dict[str, int] | None = None,
        passes: int = 0,
    ) -> FileRow:
        """Return what came of it."""
        name: tuple[str, int] | None = format_device(self.status.st_dev), self.status.st_ino
        if self._is_renamed and nr_requested:
            name = name_in_maps(ProcFS(), self.fd) or name
        assert name
        return FileRow(
            device=self.status.st_dev,
            number=self.status.st_ino,
            path=self.path,
            name=name,
            size=self.status.st_size,
            nr_requested=nr_requested,
            nr_advised=nr_advised,
            nr_movable=nr_movable,
            nr_dirty=nr_dirty,
            nr_reading=nr_reading,
            reasons={key: number for key, number in (reasons or {}).items() if number},
            passes=passes,
        )

    def plan(self, advice: str) -> FileRow:
        """Return what an advice could do."""
        if advice == "willneed":
            refuse_endless(self.nr_pages)
        nr_cached, nr_dirty = self.count()
        if advice == "willneed":
            nr_out = max(self.nr_pages - nr_cached, 0)
            return self.row(nr_out, nr_out)
        if why := STAYS.get(self.kind or ""):
            return self.row(nr_cached, 0, reasons={why: nr_cached})
        return self.row(nr_cached, nr_cached, nr_dirty=nr_dirty)

    def pageout(self, passes: int) -> FileRow:
        """Have what is in the page cache written, and taken out of it, until no more of it goes."""
        nr_before, nr_dirty = self.count()
        if not nr_before:
            return self.row(0, 0)
        if why := STAYS.get(self.kind or ""):
            return self.row(nr_before, 0, reasons={why: nr_before})
        nr_left, nr_passes = nr_before, 0
        while nr_left and nr_passes < passes:
            if nr_dirty != 0 and not self._is_written():
                # The kernel takes pages that it failed to write for clean: they would be dropped.
                return self.row(nr_before, nr_before - nr_left, reasons={"unwritten": nr_left}, passes=nr_passes)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            nr_passes += 1
            nr_still, nr_dirty = self.count()
            if nr_still >= nr_left:
                break
            nr_left = nr_still
        nr_left = min(nr_left, nr_before)  # somebody may have read more of it meanwhile
        reasons = {"dirty": min(nr_dirty or 0, nr_left)}
        return self.row(
            nr_before,
            nr_before - nr_left,
            nr_dirty=nr_dirty,
            nr_advised=nr_before,
            reasons=reasons,
            passes=nr_passes,
        )

    def _is_written(self) -> bool:
        """Have it written to the disk; return whether it was."""
        try:
            os.fdatasync(self.fd)
        except OSError:
            return False
        return True

    def willneed(self, touch: bool) -> FileRow:
        """Have what is not in the page cache read, and wait for it if it is to be touched."""
        refuse_endless(self.nr_pages)
        nr_cached, _ = self.count()
        nr_out = max(self.nr_pages - nr_cached, 0)
        if not nr_out:
            return self.row(0, 0)
        size = self.status.st_size
        for offset in range(0, size, CHUNK):
            os.posix_fadvise(self.fd, offset, min(CHUNK, size - offset), os.POSIX_FADV_WILLNEED)
            if touch:
                self._touch(offset, min(offset + CHUNK, size))
        nr_cached, _ = self.count()
        nr_moved = min(max(nr_out - max(self.nr_pages - nr_cached, 0), 0), nr_out)
        reasons: dict[str, int] = {}
        add_counts(reasons, {"unread": nr_out - nr_moved})
        nr_reading = min(self._nr_reading(nr_cached), nr_moved) if may_see(self.fd) else None
        return self.row(nr_out, nr_moved, nr_reading=nr_reading, nr_advised=nr_out, reasons=reasons, passes=1)

    def _touch(self, low: int, high: int) -> None:
        """Read a byte of each page of a range, which waits until it is there."""
        for offset in range(low, high, self.page_size):
            try:
                if not os.pread(self.fd, 1, offset):
                    return  # it is shorter now
            except OSError:
                continue  # it cannot be read: that shows in what is there afterwards

    def _nr_reading(self, nr_cached: int) -> int:
        """Return how many pages that have a place in the page cache are not read yet: mincore tells those that are."""
        nr_read = 0
        for first in range(0, self.nr_pages, MINCORE_PAGES):
            nr_pages = min(MINCORE_PAGES, self.nr_pages - first)
            there = call_mincore(self.fd, first * self.page_size, nr_pages * self.page_size, self.page_size)
            nr_read += there.translate(LOWEST_BIT).count(1)
        return max(nr_cached - nr_read, 0)


CHUNK = 2 << 20
"""Bytes that are asked for together: about what the kernel reads ahead in one go."""

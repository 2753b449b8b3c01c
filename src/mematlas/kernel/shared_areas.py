"""Memory in which a broker hands over long answers: used again, since new pages cost more than what is put into them.

The broker's worker writes, and reads nothing back; whoever asks maps the same pages, and says when nothing looks at
them any more (`mematlas.kernel.broker`, `mematlas.kernel.brokered`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

from mematlas.arrays import np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

NR_AREAS = 2
"""Of each worker: one that is looked at, and one for what is asked meanwhile."""
MOST_KEPT = 16 << 20
"""Bytes of an area that is kept."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Whoever gets the memory cannot take pages away from under the writer, nor make it larger."""
LINE = 64
"""Bytes that small arrays begin at a multiple of."""
NO_AREA = NR_AREAS
"""The number of memory that is not used again."""


def places(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Return from where to where arrays of such sizes lie, one after the other: large ones begin where a page does.

    What lies across words is slow to read, and what begins a bit further into its page than what is copied there
    is slow to write (`mematlas.kernel.memory.memory.room_for_rows`).

    >>> places([24, 8, mmap.PAGESIZE]) == [(0, 24), (64, 72), (mmap.PAGESIZE, 2 * mmap.PAGESIZE)]
    True
    """
    found, end = [], 0
    for size in sizes:
        edge = mmap.PAGESIZE if size >= mmap.PAGESIZE else LINE
        start = -end // edge * -edge
        end = start + size
        found.append((start, end))
    return found


class Area:
    """Memory of a worker's, for one answer at a time."""

    def __init__(self, size: int) -> None:
        self.size = -size // mmap.PAGESIZE * -mmap.PAGESIZE
        self.fd = os.memfd_create("mematlas", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            self.memory = mmap.mmap(self.fd, self.size)
        except BaseException:
            os.close(self.fd)
            raise
        self.is_looked_at = False

    def close(self) -> None:
        """Let go of it."""
        self.memory.close()
        os.close(self.fd)

    def fill(self, buffers: Sequence[memoryview]) -> None:
        """Put an answer into it."""
        for (start, end), buffer in zip(places(map(len, buffers)), buffers, strict=True):
            self.memory[start:end] = buffer


class Areas:
    """What a worker hands over long answers in."""

    def __init__(self) -> None:
        self._areas: list[Area] = []

    def area_for(self, size: int) -> tuple[int, Area, bool]:
        """Return an area that nobody looks at, its number, and whether it is new."""
        free = [number for number, area in enumerate(self._areas) if not area.is_looked_at]
        for number in free:
            if self._areas[number].size >= size:
                return number, self._areas[number], False
        if size > MOST_KEPT or not (free or len(self._areas) < NR_AREAS):
            return NO_AREA, Area(size), True
        if len(self._areas) < NR_AREAS:
            self._areas.append(Area(size))
            return len(self._areas) - 1, self._areas[-1], True
        made = Area(size)
        self._areas[free[0]].close()
        self._areas[free[0]] = made
        return free[0], made, True

    def take_back(self, number: int) -> bool:
        """Have an area that nobody looks at any more used again; return whether there is one that was."""
        if number >= len(self._areas) or not self._areas[number].is_looked_at:
            return False
        self._areas[number].is_looked_at = False
        return True


class Looked:
    """An area, as it is looked at by who has asked."""

    def __init__(self, fd: int, size: int) -> None:
        try:
            self._memory = np.frombuffer(mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE), np.uint8)
        finally:
            os.close(fd)
        self._parts: list[weakref.ref[Any]] = []

    def parts(self, sizes: Iterable[int]) -> list[memoryview]:
        """Return parts of it, one after the other. What is made of one holds it; but in a child that is forked it may
        change once we have let go of it.

        An array of a part of an array would hold the whole of it alone.
        """
        made = [self._memory[start:end] for start, end in places(sizes)]
        self._parts = [weakref.ref(part) for part in made]
        return [part.data for part in made]

    def let_go(self) -> bool:
        """Return whether it was looked at, and nothing looks at it any more."""
        if not self._parts or any(part() is not None for part in self._parts):
            return False
        self._parts = []
        return True

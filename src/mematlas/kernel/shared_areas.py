"""Memory in which a broker hands over long answers: used again, since new pages cost more than what is put into them.

The broker's worker writes, and concludes nothing from what is there; whoever asks maps the same pages, may write into
them too, sees at once what is written, and says when nothing looks at them any more (`mematlas.kernel.broker`,
`mematlas.kernel.brokered`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

from mematlas.arrays import np
from mematlas.kernel.memory.memory import room_for_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from mematlas.arrays import Words

    Places = list[tuple[int, int]]

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


def places(sizes: Iterable[int], end: int = 0) -> Places:
    """Return from where to where arrays of such sizes lie, one after the other: large ones begin where a page does.

    What lies across words is slow to read, and what begins a bit further into its page than what is copied there
    is slow to write (`mematlas.kernel.memory.memory.room_for_rows`).

    >>> places([24, 8, mmap.PAGESIZE]) == [(0, 24), (64, 72), (mmap.PAGESIZE, 2 * mmap.PAGESIZE)]
    True
    """
    found = []
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
            self.memory = np.frombuffer(mmap.mmap(self.fd, self.size), np.uint8)
        except BaseException:
            os.close(self.fd)
            raise
        self.is_looked_at = False

    def close(self) -> None:
        """Let go of it; it goes with the last array that lies in it."""
        del self.memory
        os.close(self.fd)

    def place_of(self, buffer: memoryview) -> int | None:
        """Return where in it a part of it lies; None for what is not."""
        at: int = np.frombuffer(buffer, np.uint8).ctypes.data - self.memory.ctypes.data
        return at if 0 <= at < self.size else None

    def complete(self, buffers: Sequence[memoryview]) -> Places | None:
        """Put the rest of an answer behind those parts of it that lie here; return from where to where each lies.

        None: no part lies here, or there is no room for the rest.
        """
        starts = [self.place_of(buffer) if len(buffer) >= mmap.PAGESIZE else None for buffer in buffers]
        ends = [at + len(buffer) for at, buffer in zip(starts, buffers, strict=True) if at is not None]
        rest = [buffer for at, buffer in zip(starts, buffers, strict=True) if at is None]
        behind = places(map(len, rest), max(ends, default=self.size))
        if not ends or (behind and behind[-1][1] > self.size):
            return None
        self._put(rest, behind)
        others = iter(behind)
        return [
            next(others) if at is None else (at, at + len(buffer)) for at, buffer in zip(starts, buffers, strict=True)
        ]

    def fill(self, buffers: Sequence[memoryview]) -> Places:
        """Put an answer into it; return from where to where each part of it lies."""
        found = places(map(len, buffers))
        self._put(buffers, found)
        return found

    def _put(self, buffers: Sequence[memoryview], where: Places) -> None:
        for (start, end), buffer in zip(where, buffers, strict=True):
            self.memory[start:end] = np.frombuffer(buffer, np.uint8)


class Areas:
    """What a worker hands over long answers in."""

    def __init__(self) -> None:
        self._areas: list[Area] = []

    def offer(self) -> Callable[[int, int], Words]:
        """Return what gives memory for so many rows of so many words of the next answer: once in an area, from where
        they are handed over without a copy, if there is one with that much room that nobody looks at.
        """
        offered = [area.memory for area in self._areas if not area.is_looked_at]

        def rows(nr: int, nr_words: int) -> Words:
            size = 8 * nr * nr_words
            fitting = [memory for memory in offered if len(memory) >= size]
            offered.clear()
            return fitting[0][:size].view(np.uint64).reshape(nr, nr_words) if fitting else room_for_rows(nr, nr_words)

        return rows

    def hand_over(self, buffers: Sequence[memoryview]) -> tuple[int, Area, bool, Places]:
        """Put an answer into an area that nobody looks at, with what already lies there left where it is.

        Return the number of the area, the area, whether it is new, and from where to where each part lies.
        """
        for number, area in enumerate(self._areas):
            if not area.is_looked_at and (found := area.complete(buffers)):
                return number, area, False, found
        # What lies in an area, and has to go to another place, might be written over before it is copied.
        held = [memoryview(bytes(buffer)) if self._holds(buffer) else buffer for buffer in buffers]
        number, area, is_new = self.area_for(places(map(len, held))[-1][1])
        return number, area, is_new, area.fill(held)

    def _holds(self, buffer: memoryview) -> bool:
        return any(area.place_of(buffer) is not None for area in self._areas)

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

    def parts(self, where: Places) -> list[memoryview]:
        """Return parts of it, each from where to where it lies. What is made of one holds it; but in a child that is
        forked it may change once we have let go of it.

        An array of a part of an array would hold the whole of it alone.
        """
        made = [self._memory[start:end] for start, end in where]
        self._parts = [weakref.ref(part) for part in made]
        return [part.data for part in made]

    def let_go(self) -> bool:
        """Return whether it was looked at, and nothing looks at it any more."""
        if not self._parts or any(part() is not None for part in self._parts):
            return False
        self._parts = []
        return True

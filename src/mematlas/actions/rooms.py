"""Where pages can go: swap space and what the memory cgroup allows of it, and the memory that is free."""

from __future__ import annotations

import os

from mematlas.errors import NotSupported
from mematlas.frozen import record, replace
from mematlas.kernel.memcg import read_room
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.swaps import SwapArea, free_swap, read_swaps, zram_ratio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mematlas.kernel.procfs import ProcessDir

SPARE = 8
"""One part in so many of the free memory is left alone when pages are brought in."""
SPARE_PAGES = 64
"""At least so many, for each CPU: a cgroup is charged in such batches (mm/memcontrol.c, MEMCG_CHARGE_BATCH)."""
NO_LIMIT = 1 << 63


@record
class SwapRoom:
    """Where memory without a file can go, as it was when it was looked at.

    >>> room = SwapRoom((SwapArea("/swap", "file", 8 << 20, 2 << 20, -2),), {}, 4 << 20)
    >>> room.free >> 20, room.size >> 20, room.lacking
    (6, 4, 'cgroup')
    """

    areas: tuple[SwapArea, ...]
    ratios: Mapping[str, float]
    """Of zram devices that hold something, by path: how many bytes in one byte of memory."""
    allowed: int | None
    """Bytes that the memory cgroup of the process allows; None without a limit."""

    @property
    def free(self) -> int:
        """Bytes of swap space that are free, whoever may use them."""
        return free_swap(self.areas)

    @property
    def size(self) -> int:
        """Bytes that can go to swap."""
        return self.free if self.allowed is None else min(self.free, self.allowed)

    @property
    def lacking(self) -> str:
        """Why more would not find room, as in `mematlas.analysis.movable.REASONS`."""
        return "no swap" if self.size == self.free else "cgroup"

    def with_more(self, size: int) -> SwapRoom:
        """Return what it would be with a temporary swap file of so many bytes."""
        if not size:
            return self
        area = SwapArea(path="a temporary file", kind="file", size=size, used=0, priority=0)
        return replace(self, areas=(*self.areas, area))

    def with_less(self, size: int) -> SwapRoom:
        """Return what it would be if so many bytes of it were taken; what a cgroup allows is not touched.

        >>> room = SwapRoom((SwapArea("/a", "file", 8, 6, -2), SwapArea("/b", "file", 8, 0, -3)), {}, None)
        >>> room.with_less(3).free, room.with_less(99).free
        (7, 0)
        """
        areas: list[SwapArea] = []
        for area in self.areas:
            taken = min(size, area.size - area.used)
            areas.append(replace(area, used=area.used + taken))
            size -= taken
        return replace(self, areas=tuple(areas))


NO_SWAP = SwapRoom((), {}, None)


def read_swap_room(process: ProcessDir) -> SwapRoom:
    """Return where the memory of a process can go that has no file."""
    try:
        areas = tuple(read_swaps(process.procfs))
    except NotSupported:
        if process.procfs.is_subset:
            raise  # there may be swap: this /proc does not say
        areas = ()  # a kernel without CONFIG_SWAP has no such file
    if not process.procfs.live:
        return SwapRoom(areas, {}, None)  # what this machine says of its devices and groups is of others
    ratios = {area.path: ratio for area in areas if (ratio := zram_ratio(area.path)) is not None}
    return SwapRoom(areas, ratios, read_room(process).swap)


@record
class MemoryRoom:
    """How many pages can be brought in, and what sets the limit, as in `mematlas.analysis.movable.REASONS`."""

    nr_pages: int
    lacking: str


def read_memory_room(process: ProcessDir) -> MemoryRoom:
    """Return how much of a process can be brought back into RAM.

    Bringing in more than fits would have the kernel kill the target, or another, for want of memory.
    """
    if not process.procfs.live:
        return MemoryRoom(NO_LIMIT, "no memory")
    room, lacking = read_meminfo(process.procfs).get("MemAvailable", NO_LIMIT), "no memory"
    allowed = read_room(process).memory
    if allowed is not None and allowed < room:
        room, lacking = allowed, "cgroup"
    page_size = process.procfs.page_size
    spare = max(room // SPARE, SPARE_PAGES * (os.cpu_count() or 1) * page_size)
    return MemoryRoom(max(room - spare, 0) // page_size, lacking)

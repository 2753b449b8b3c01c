"""Numbers for frames of memory: arrays where memory is, and nothing where the physical address space has holes.

A page table of our own, with frames for addresses: the upper bits of a frame lead to a region of 2^20, those below to a
leaf of 64 frames, which has its numbers side by side. So neither a machine of few frames with high numbers (arm64,
hot-plugged memory) nor few frames all over a large one take much: 12 bytes a frame, in leaves of which any is known.
"""

from __future__ import annotations

from mematlas.arrays import Counts, NDArray, Words, np
from mematlas.errors import FormatError, TooLarge

LEAF_BITS, REGION_BITS = 6, 14
"""Of a frame's number: those within a leaf, and those that lead from a region to one."""
LEAF, REGION = 1 << LEAF_BITS, 1 << REGION_BITS
FRAME_BITS = 40
"""Of any frame's number: 4 PiB of memory in pages of 4 KiB."""
LEAST_GROWTH = 1 << 12
"""Leaves that arrays grow by at the least."""


class FrameTable:
    """A set number, a map count, and how much of that is not explained yet, for each frame that was asked for.

    >>> table = FrameTable()
    >>> places = table.places(np.array([7, 1 << 39, 7], np.uint64))
    >>> table.counts[places] = [3, 1, 3]
    >>> table.counts[table.places(np.array([1 << 39, 8], np.uint64))].tolist()
    [1, 0]
    """

    def __init__(self, most_leaves: int | None = None) -> None:
        """``most_leaves`` bounds it where a stranger says which frames there are."""
        self._most = most_leaves
        # Of these 4 MiB, as of all zeros here, what is not written to takes no memory.
        self._regions = np.zeros(1 << FRAME_BITS - LEAF_BITS - REGION_BITS, np.int32)
        self._leaves = np.zeros(0, np.int32)
        self._nr_regions = self._nr_leaves = 0
        self.sets, self.counts, self.left = (np.zeros(0, np.int32) for _ in range(3))

    @property
    def nr_used(self) -> int:
        """The places in use; the arrays may have more."""
        return self._nr_leaves * LEAF

    def places(self, frames: Words) -> NDArray[np.int64]:
        """Return where in the arrays the numbers of frames are. They are 0 until they are set.

        Raises:
            FormatError: no machine has such a frame.
            TooLarge: they are of more leaves than are allowed.
        """
        if len(frames) and int(frames.max()) >> FRAME_BITS:
            raise FormatError("pagemap", f"frame {int(frames.max()):#x}")
        numbers = frames.astype(np.int64)
        parts = numbers >> LEAF_BITS
        regions = self._regions[parts >> REGION_BITS]
        if not regions.all():
            self._add_regions(np.unique(parts[regions == 0] >> REGION_BITS))
            regions = self._regions[parts >> REGION_BITS]
        at = (regions.astype(np.int64) - 1) * REGION + (parts & REGION - 1)
        leaves = self._leaves[at]
        if not leaves.all():
            self._add_leaves(np.unique(at[leaves == 0]))
            leaves = self._leaves[at]
        places: NDArray[np.int64] = (leaves.astype(np.int64) - 1) * LEAF + (numbers & LEAF - 1)
        return places

    def _add_regions(self, regions: NDArray[np.int64]) -> None:
        first = self._nr_regions + 1
        self._nr_regions += len(regions)
        self._leaves.resize(self._nr_regions * REGION, refcheck=False)
        self._regions[regions] = np.arange(first, self._nr_regions + 1)

    def _add_leaves(self, places: NDArray[np.int64]) -> None:
        first = self._nr_leaves + 1
        self._nr_leaves += len(places)
        if self._most is not None and self._nr_leaves > self._most:
            raise TooLarge("frames of pagemap")
        if self.nr_used > len(self.sets):
            # realloc(3) moves pages, not what is in them: growing takes no second copy.
            size = self.nr_used + max(self.nr_used // 8, LEAST_GROWTH * LEAF)
            for column in (self.sets, self.counts, self.left):
                column.resize(size, refcheck=False)
        self._leaves[places] = np.arange(first, self._nr_leaves + 1)

    def used(self, column: Counts) -> Counts:
        """Return the part of an array that is in use."""
        return column[: self.nr_used]

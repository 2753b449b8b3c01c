"""Blocks of frames, some of them chosen at random."""

from __future__ import annotations

from math import ceil

from mematlas.arrays import NDArray, Words, np
from mematlas.frozen import record
from mematlas.model.random_blocks import blocks_of, choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random

    Spans = list[tuple[int, int]]


@record
class Blocks:
    """Blocks that were chosen."""

    numbers: NDArray[np.int64]
    """Ascending."""
    nr_all: int
    shift: int
    """A block is ``1 << shift`` frames."""

    def frames_in(self, spans: Spans) -> Words:
        """Return the frames of these blocks that are in some ranges, ascending."""
        frames = np.add.outer(self.numbers << self.shift, np.arange(1 << self.shift)).reshape(-1)
        inside = np.zeros(len(frames), np.bool_)
        for first, end in spans:
            low, high = np.searchsorted(frames, (first, end))
            inside[low:high] = True
        chosen: Words = frames[inside].astype(np.uint64)
        return chosen


def choose_blocks(spans: Spans, shift: int, fraction: float, random: Random) -> Blocks:
    """Return so large a part of the blocks that have some of the frames, one at least; each is as likely as any other.

    >>> from random import Random
    >>> choose_blocks([(0, 128), (250, 270)], 6, 0.7, Random(3)).nr_all
    4
    """
    ranges = blocks_of(spans, 1 << shift)
    nr_all = sum(map(len, ranges))
    numbers = choose(ranges, min(ceil(fraction * nr_all), nr_all), random)
    return Blocks(np.array(numbers, np.int64), nr_all, shift)

"""Blocks of equal size, some of them chosen at random: of addresses, or of frames."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random


def blocks_of(spans: Iterable[tuple[int, int]], size: int) -> list[range]:
    """Return the numbers of the blocks that ranges, which are in order, have anything in, each once.

    >>> blocks_of([(0, 8), (8, 25), (50, 60)], 10)
    [range(0, 1), range(1, 3), range(5, 6)]
    """
    ranges: list[range] = []
    after = 0
    for start, end in spans:
        some = range(max(start // size, after), -(-end // size))
        if some:
            ranges.append(some)
            after = some.stop
    return ranges


def choose(ranges: Sequence[range], nr: int, random: Random) -> list[int]:
    """Return the numbers of so many blocks, ascending; each is as likely as any other."""
    return list(nth_of(ranges, sorted(random.sample(range(sum(map(len, ranges))), nr))))


def nth_of(ranges: Sequence[range], indexes: Iterable[int]) -> Iterator[int]:
    """Yield the numbers that have some places, counted through all ranges.

    >>> list(nth_of([range(5, 7), range(10, 20)], [0, 2, 3]))
    [5, 10, 11]
    """
    ends = list(accumulate(map(len, ranges)))
    for index in indexes:
        place = bisect_right(ends, index)
        yield ranges[place][index - ends[place]]

"""What a process had at moments of a timeline, one for each column of a picture: nothing is asked for twice."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from itertools import pairwise
from statistics import median

from mematlas.analysis.vma_amounts import VmaAmounts
from mematlas.arrays import np
from mematlas.errors import TargetNotFound
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.analysis.results import VmaUsage
    from mematlas.arrays import NDArray
    from mematlas.timeline.timeline import Key, Moments

    Amounts = dict[str, int | None]
    RowKey = tuple[str, str, int]
    """What VMAs of one row share: their kind, path and inode; without a path, the GiB that they end in."""

MEASURES = ("rss", "uss", "pss", "swap", "anon", "file", "shmem")
OF_ROWS = ("size", "rss", "swap", "nr_accessed")
"""What is added up of the VMAs of a row."""
REGION = 30
"""Bits of an address within which unnamed memory is one row: 1 GiB."""
MOST_KEPT = 4000
"""Moments of which is kept what they had."""
MOST_ROWS = 1 << 16
FEW = 200
"""Moments that tell how far apart they usually are."""
APART = 4
"""Times as far as usual, from which on nobody knows what was in between."""
TINY = 1e-9


@record
class Fold:
    """VMAs of a moment, added up by row."""

    rows: NDArray[np.int64]
    """Numbers of rows, ascending."""
    sums: NDArray[np.float64]
    """`OF_ROWS` of each; NaN is not known."""


NOTHING = Fold(np.zeros(0, np.int64), np.zeros((len(OF_ROWS), 0), np.float64))


class Samples:
    """What a process had, at moments that were asked for."""

    def __init__(self, timeline: Moments, who: Key) -> None:
        self.timeline = timeline
        self.who = who
        self.times: Sequence[float] = ()
        """When its moments are that there are just now."""
        self.keys: list[RowKey] = []
        """Rows, by their number."""
        self.starts: list[int] = []
        """The first address of each that was seen."""
        self.has_vmas: bool | None = None
        """Whether VMAs are known at any moment that was asked for; None before."""
        self._numbers: dict[RowKey, int] = {}
        self._amounts: dict[float, Amounts] = {}
        self._folds: dict[float, Fold] = {}
        self._last: tuple[VmaAmounts, Fold] | None = None
        """VMAs that were added up last, and to what."""
        self._newest: tuple[float, tuple[VmaAmounts, Fold] | None] = (float("-inf"), None)
        """The same of the latest moment of which they were: what comes next is like it."""
        self._usual = 0.0
        self._of_times = (0, 0.0)

    def look(self) -> None:
        """See which moments there are."""
        self.times = self.timeline.times
        seen = (len(self.times), self.times[-1] if self.times else 0.0)
        if seen != self._of_times:
            self._of_times = seen
            some = [self.times[max(len(self.times) - FEW, 0) + at] for at in range(min(FEW, len(self.times)))]
            self._usual = median([later - earlier for earlier, later in pairwise(some)] or [0.0])
        for kept in (self._amounts, self._folds):
            if len(kept) > MOST_KEPT:
                kept.clear()
        if len(self.keys) > MOST_ROWS:
            self.keys, self.starts, self._numbers, self._last = [], [], {}, None
            self._newest = float("-inf"), None
            self._folds.clear()

    def moment(self, first: float, end: float) -> float | None:
        """Return the moment that stands for a stretch of time: its last one, or what still held of the one before; None
        where nobody looked.
        """
        place = bisect_left(self.times, end - TINY) - 1
        if place < 0:
            return None
        at = self.times[place]
        if at >= first - TINY:
            return at
        if place + 1 == len(self.times):
            return None
        return at if self.times[place + 1] - at <= max(APART * self._usual, 2 * (end - first)) else None

    def at_or_before(self, at: float) -> float | None:
        """Return the last moment at or before a time; None where there is none."""
        place = bisect_right(self.times, at + TINY)
        return self.times[place - 1] if place else None

    def after(self, at: float) -> float | None:
        """Return the first moment at or after a time; None where there is none."""
        place = bisect_left(self.times, at - TINY)
        return self.times[place] if place < len(self.times) else None

    def amounts(self, times: Iterable[float]) -> list[Amounts]:
        """Return what the process had at some moments."""
        wanted = list(times)
        missing = [at for at in dict.fromkeys(wanted) if at not in self._amounts]
        if missing:
            series = self.timeline.series(self.who, MEASURES, missing)
            for place, at in enumerate(missing):
                self._amounts[at] = {name: series[name][place] for name in MEASURES}
        return [self._amounts[at] for at in wanted]

    def fill(self, times: Iterable[float], seconds: float) -> int:
        """Add up the VMAs of moments, for so many seconds at the most, but of one at the least; return how many of them
        are still to be done.
        """
        missing = [at for at in dict.fromkeys(times) if at not in self._folds]
        end = time.perf_counter() + seconds
        for done, at in enumerate(missing):
            if done and time.perf_counter() > end:
                return len(missing) - done
            self._folds[at] = self._made(at)
        return 0

    def fold(self, at: float | None) -> Fold | None:
        """Return the VMAs of a moment added up; None where that is not done yet."""
        return None if at is None else self._folds.get(at)

    def _made(self, at: float) -> Fold:
        try:
            vmas = self.timeline.vmas(at, self.who)
        except TargetNotFound:
            vmas = None  # it was let go of meanwhile
        if vmas is None:
            return NOTHING
        self.has_vmas = True
        is_newest = at > self._newest[0]
        nearby = self._newest[1] if is_newest else self._last
        if nearby is None or nearby[0].vmas is not vmas:
            amounts = VmaAmounts(vmas, nearby[0] if nearby else None, self._number_of)
            rows = np.flatnonzero(np.bincount(amounts.codes, minlength=len(self.keys)))
            sums = np.array([amounts.sums(name, amounts.codes, len(self.keys))[rows] for name in OF_ROWS])
            nearby = amounts, Fold(rows, sums)
        self._last = nearby
        if is_newest:
            self._newest = at, nearby
        return nearby[1]

    def _number_of(self, item: VmaUsage) -> int:
        """Return the number of the row that a VMA is in."""
        key = key_of(item)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.keys)
            self.keys.append(key)
            self.starts.append(item.start)
        return number

    def row_of(self, item: VmaUsage) -> int | None:
        """Return the number of the row that a VMA is in; None where none is."""
        return self._numbers.get(key_of(item))


def key_of(item: VmaUsage) -> RowKey:
    """Return what a VMA shares with those of its row. Unnamed memory grows downwards, so its end is what stays."""
    vma = item.vma
    return vma.kind, vma.path, vma.inode if vma.path else (vma.end - 1) >> REGION

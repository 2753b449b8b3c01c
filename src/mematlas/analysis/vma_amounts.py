"""Amounts of many VMAs at a moment as columns, made of those of a moment nearby: what both have is not looked at again.

A timeline holds what is the same at two moments once (`mematlas.timeline.timeline`), so it is known by its identity.
"""

from __future__ import annotations

from itertools import repeat
from operator import attrgetter

from mematlas.analysis.difference import matched
from mematlas.arrays import np
from mematlas.kernel.maps import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mematlas.analysis.results import VmaUsage
    from mematlas.arrays import NDArray
    from mematlas.kernel.maps import Vma

    Numbers = NDArray[np.int64]

USE = ("nr_dirty", "nr_accessed")
MEASURES = ("size", "rss", "pss", "uss", "swap", *USE)
NOT_KNOWN = -1
"""What stands for an amount that is not known."""
KIND, CODE = len(MEASURES), len(MEASURES) + 1
"""Rows of the table behind those of the amounts: the number of the kind, and that of the group."""


class VmaAmounts:
    """What each of some VMAs has, side by side."""

    def __init__(
        self,
        vmas: Sequence[VmaUsage],
        nearby: VmaAmounts | None = None,
        code_of: Callable[[VmaUsage], int] | None = None,
    ) -> None:
        """``nearby`` has VMAs of another moment, and the same ``code_of``, which numbers the group of a VMA."""
        self.vmas = vmas
        ids = list(map(id, vmas))
        self._places = dict(zip(ids, range(len(ids)), strict=True))
        if nearby is None:
            where = np.full(len(ids), -1, np.int64)
            self._table = np.zeros((CODE + 1, len(ids)), np.int64)
            self.starts = np.zeros(len(ids), np.uint64)
        else:
            where = np.fromiter(map(nearby._places.get, ids, repeat(-1)), np.int64, len(ids))
            at = np.maximum(where, 0) if len(nearby.vmas) else np.zeros(0, np.int64)
            is_same = len(at) == len(ids)
            self._table = nearby._table[:, at] if is_same else np.zeros((CODE + 1, len(ids)), np.int64)
            self.starts = nearby.starts[at] if is_same else np.zeros(len(ids), np.uint64)
        self._fill(np.flatnonzero(where < 0), code_of)

    def _fill(self, places: Numbers, code_of: Callable[[VmaUsage], int] | None) -> None:
        """Look at the VMAs in some places."""
        numbers = {kind: number for number, kind in enumerate(KINDS)}
        some = [self.vmas[place] for place in places.tolist()]
        if not some:
            return
        vmas, usages = [item.vma for item in some], [item.usage for item in some]
        self._table[0, places] = [vma.end - vma.start for vma in vmas]
        for row, measure in enumerate(MEASURES[1:], 1):
            values = map(attrgetter(measure), some if measure in USE else usages)
            self._table[row, places] = [NOT_KNOWN if value is None else value for value in values]
        self._table[KIND, places] = [numbers[vma.kind] for vma in vmas]
        if code_of is not None:
            self._table[CODE, places] = [code_of(item) for item in some]
        self.starts[places] = np.array([vma.start for vma in vmas], np.uint64)

    def __len__(self) -> int:
        return len(self.vmas)

    def of(self, measure: str) -> Numbers:
        """Return an amount of each VMA; `NOT_KNOWN` where it is not known."""
        column: Numbers = self._table[MEASURES.index(measure)]
        return column

    @property
    def kinds(self) -> Numbers:
        """Of each VMA, the number of its kind in `KINDS`."""
        column: Numbers = self._table[KIND]
        return column

    @property
    def codes(self) -> Numbers:
        """Of each VMA, the number of its group."""
        column: Numbers = self._table[CODE]
        return column

    def place(self, address: int) -> int | None:
        """Return the place of the VMA that an address is in; None where there is none."""
        place = int(np.searchsorted(self.starts, np.uint64(address), side="right")) - 1
        return place if place >= 0 and address < self.vmas[place].end else None

    def place_of(self, item: VmaUsage) -> int | None:
        """Return the place of a VMA; None where it is not one of these."""
        return self._places.get(id(item))

    def places_not_in(self, others: VmaAmounts) -> Numbers:
        """Return the places of the VMAs that are not among others."""
        there = np.fromiter(map(others._places.get, self._places, repeat(-1)), np.int64, len(self._places))
        places: Numbers = np.flatnonzero(there < 0)
        return places

    def sums(self, measure: str, codes: Numbers, nr: int) -> NDArray[np.float64]:
        """Return an amount by group; NaN where it is not known of one in it.

        >>> VmaAmounts([]).sums("rss", np.zeros(0, np.int64), 2).tolist()
        [0.0, 0.0]
        """
        column = self.of(measure)
        sums = np.bincount(codes, column, nr).astype(np.float64)
        is_unknown = column < 0
        if is_unknown.any():
            sums[np.unique(codes[is_unknown])] = np.nan
        return sums


def is_one_object(one: Vma, other: Vma) -> bool:
    """Whether two VMAs are of the same object and rights."""
    if one is other:
        return True
    return one.path == other.path and one.perms == other.perms and one.inode == other.inode and one.dev == other.dev


class VmaChanges:
    """How VMAs have changed from one moment to another."""

    def __init__(self, before: VmaAmounts, now: VmaAmounts) -> None:
        self.of_rss: Numbers = np.zeros(len(now), np.int64)
        """By how many bytes, of each VMA of now: all that it has, if it is new."""
        self.is_known = now.of("rss") >= 0
        self.new: set[int] = set()
        """The first addresses of those that were not there before."""
        self.gone: list[VmaUsage] = []
        """Those that are not there any more, as they were."""
        if before.vmas is now.vmas:
            return
        # What is the same needs no comparing, and what is where it was goes on from that: the rest is matched.
        rest, left = self._compare(before, now)
        for old, new in matched([before.vmas[place] for place in left], [now.vmas[place] for place in rest]):
            self._add(now, old, new)

    def _compare(self, before: VmaAmounts, now: VmaAmounts) -> tuple[list[int], list[int]]:
        """Compare the VMAs of the same object that are where they were; return the places of all others, of now and of
        before.
        """
        later, earlier = now.places_not_in(before), before.places_not_in(now)
        if not len(later) or not len(earlier):
            return later.tolist(), earlier.tolist()
        nearest = np.minimum(np.searchsorted(before.starts[earlier], now.starts[later]), len(earlier) - 1)
        others = earlier[nearest]
        is_there = (before.starts[others] == now.starts[later]) & (before.of("size")[others] == now.of("size")[later])
        pairs = zip(later[is_there].tolist(), others[is_there].tolist(), strict=True)
        is_there[is_there] = [is_one_object(now.vmas[place].vma, before.vmas[other].vma) for place, other in pairs]
        ones, others = later[is_there], others[is_there]
        was = before.of("rss")[others]
        self.is_known[ones] &= was >= 0
        self.of_rss[ones] = np.where(self.is_known[ones], now.of("rss")[ones] - was, 0)
        return later[~is_there].tolist(), np.setdiff1d(earlier, others).tolist()

    def _add(self, now: VmaAmounts, old: VmaUsage | None, new: VmaUsage | None) -> None:
        """Take in what has become of a VMA."""
        if new is None:
            self.gone += [old] if old else []
            return
        place = now.place_of(new) or 0
        if old is None:
            self.new.add(new.start)
        was = old.usage.rss if old else 0
        self.is_known[place] &= was is not None
        self.of_rss[place] = (new.usage.rss or 0) - (was or 0)

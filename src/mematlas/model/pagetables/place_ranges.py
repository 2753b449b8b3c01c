"""Ranges of addresses as ranges of places in a copy of page tables: in which of them places are, many at a time."""

from __future__ import annotations

from mematlas.arrays import NDArray, Words, np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.pagetables.kept import KeptTables, Places


class PlaceRanges:
    """Ranges of addresses, ascending, that do not overlap, as far as there are places for them."""

    def __init__(self, tables: KeptTables, starts: Words, ends: Words) -> None:
        self.nr_regions = len(tables.regions)
        """How many regions the copy had: with more there are other places."""
        parts = [of_region(tables, number, starts, ends) for number in tables.regions]
        none: Places = np.zeros(0, np.intp)
        lows, highs, numbers = (
            (np.concatenate([none, *column]) for column in zip(*parts, strict=True)) if parts else ((none, none, none))
        )
        self._lows, self._highs, self._numbers = lows, highs, numbers
        self._edges = np.stack((lows, highs), axis=1).reshape(-1)
        labels = np.stack((numbers, np.full(len(numbers), -1)), axis=1).reshape(-1)
        self._labels: NDArray[np.intp] = np.concatenate((np.full(1, -1), labels))

    def find(self, places: Places) -> NDArray[np.intp]:
        """Return for each of some places, which ascend, the number of the range that it is in; -1 for none."""
        cuts = np.searchsorted(places, self._edges)
        lengths = np.diff(cuts, prepend=0, append=len(places))
        found: NDArray[np.intp] = np.repeat(self._labels, lengths)
        return found

    def with_any(self, places: Places) -> list[int]:
        """Return the numbers of the ranges that any of some places, which ascend, is in."""
        has_any = np.searchsorted(places, self._lows) < np.searchsorted(places, self._highs)
        numbers: list[int] = self._numbers[has_any].tolist()
        return numbers


def of_region(tables: KeptTables, number: int, starts: Words, ends: Words) -> tuple[Places, Places, Places]:
    """Return where in a region ranges begin and end, as places, and which they are."""
    base, last = number << tables.region_shift, (number + 1 << tables.region_shift) - 1
    first = int(np.searchsorted(ends, np.uint64(base), side="right"))
    behind = int(np.searchsorted(starts, np.uint64(last), side="right"))
    shift = np.uint64(tables.mode.page_shift)
    lows = (np.maximum(starts[first:behind], np.uint64(base)) - np.uint64(base)) >> shift
    # By the last address: the end of the last VMA may be that of 64 bits.
    lasts = (np.minimum(ends[first:behind] - np.uint64(1), np.uint64(last)) - np.uint64(base)) >> shift
    at = tables.regions[number] * tables.region_pages
    return lows.astype(np.intp) + at, lasts.astype(np.intp) + at + 1, np.arange(first, behind)

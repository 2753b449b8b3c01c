"""How many pages of each row of a copy of page tables are in which state, kept up: what VMAs add up to, quickly."""

from __future__ import annotations

from mematlas.arrays import Bytes, NDArray, Words, np
from mematlas.kernel.pagemap import ACCESSED, DIRTY
from mematlas.model.pages import IS_HUGE, WITHOUT_HUGE
from mematlas.model.pagetables.kept import grown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.model.pagetables.kept import Places
    from mematlas.model.pagetables.vma_counts import VmaCounts

DEVICE, ASKED = 4, 8
"""Beside the use of a page: its entry maps memory of a device, which is shown as absent; and how often it is mapped is
to be asked at each look, or in turn."""
OF_USE = (ACCESSED, DIRTY, DEVICE, ASKED)
HELD = np.uint64(56)
"""Where the state byte is in a word."""


class RowSums:
    """How many pages of each row have which state byte, and which use."""

    def __init__(self, row_pages: int) -> None:
        self.row_pages = row_pages
        self._sums: NDArray[np.int32] = np.zeros((0, len(OF_USE)), np.int32)
        self._bytes: list[int] = []
        """The state bytes that there are, one a column behind those of use."""
        self._columns: NDArray[np.intp] = np.full(256, -1, np.intp)
        """The column of each state byte."""

    def grow(self, nr_rows: int, used: Places) -> None:
        """Have so many rows."""
        width = self._sums.shape[1]
        self._sums = grown(self._sums.reshape(-1), nr_rows * width, used, width).reshape(nr_rows, width)

    def move(self, places: Places, was: tuple[Bytes, Bytes], are: tuple[Bytes, Bytes]) -> None:
        """Take note that pages at some places have other state bytes, and another use."""
        differ = np.flatnonzero((was[0] != are[0]) | (was[1] != are[1]))
        rows = places[differ] // self.row_pages
        for (held, use), sign in ((was, -1), (are, 1)):
            self._change(rows, held[differ], use[differ], np.int32(sign))

    def _change(self, rows: Places, held: Bytes, use: Bytes, by: np.int32) -> None:
        there = np.flatnonzero(held)
        columns = self._columns_of(held[there])
        np.add.at(self._sums, (rows[there], columns), by)
        for column, bit in enumerate(OF_USE):
            used = rows[use & bit != 0]
            if len(used):
                np.add.at(self._sums[:, column], used, by)

    def _columns_of(self, held: Bytes) -> Places:
        columns = self._columns[held]
        if (columns < 0).any():
            fresh = [
                byte for byte in np.flatnonzero(np.bincount(held, minlength=256)).tolist() if byte not in self._bytes
            ]
            self._columns[fresh] = np.arange(len(fresh)) + self._sums.shape[1]
            self._bytes += fresh
            more = np.zeros((len(self._sums), len(fresh)), np.int32)
            self._sums = np.concatenate((self._sums, more), axis=1)
            columns = self._columns[held]
        return columns

    def add_to(self, counts: VmaCounts, low: int, high: int, words: Words, use: Bytes, page_size: int) -> None:
        """Add the pages of a range of places to those of a VMA; ``words`` and ``use`` are those of all places."""
        first, end = -(-low // self.row_pages), high // self.row_pages
        if first >= end:
            self._add_single(counts, words[low:high], use[low:high], page_size)
            return
        self._add(counts, self._sums[first:end].sum(axis=0).tolist(), page_size)
        for part in (slice(low, first * self.row_pages), slice(end * self.row_pages, high)):
            if part.start < part.stop:
                self._add_single(counts, words[part], use[part], page_size)

    def _add_single(self, counts: VmaCounts, words: Words, use: Bytes, page_size: int) -> None:
        held = state_bytes(words)
        if not (held.any() or use.any()):
            return
        self._columns_of(held[held != 0])
        by_byte = np.bincount(held, minlength=256)
        of_use = [int(np.count_nonzero(use & bit)) for bit in OF_USE]
        self._add(counts, of_use + by_byte[self._bytes].tolist(), page_size)

    def _add(self, counts: VmaCounts, sums: list[int], page_size: int) -> None:
        counts.nr_accessed += sums[0]
        counts.nr_dirty += sums[1]
        for byte, nr_pages in zip(self._bytes, sums[len(OF_USE) :], strict=True):
            counts.add(WITHOUT_HUGE[byte], nr_pages)
            if IS_HUGE[byte]:
                counts.thp += nr_pages * page_size

    @property
    def nr_asked(self) -> NDArray[np.int32]:
        """How many pages of each row are to be asked about."""
        return self._sums[:, OF_USE.index(ASKED)]

    @property
    def nr_device(self) -> int:
        """How many pages of devices there are."""
        return int(self._sums[:, OF_USE.index(DEVICE)].sum())


def state_bytes(words: Words) -> Bytes:
    """Return the state bytes in words.

    >>> state_bytes(np.array([0x81 << 56 | 4711], np.uint64)).tolist()
    [129]
    """
    return (words >> HELD).astype(np.uint8)

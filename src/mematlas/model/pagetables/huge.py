"""Huge leaves of page tables: THP, hugetlb and the huge zero page, distinguished by their frames."""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bools, Counts, NDArray, Words, np
from mematlas.frozen import record
from mematlas.kernel.kpage import KPF_HUGE, KPF_ZERO_PAGE, read_frame_words
from mematlas.model.pagetables.entries import leaf_address, maps_memory
from mematlas.model.pagetables.walk import upper_entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.walk import Walk

NR_HUGE_PAGES = 1 << 16
"""Pages decoded together: their entries stay in the cache."""


@record
class HugePieces:
    """Parts of huge leaves, equally long."""

    lows: Words
    """The first address of each."""
    lengths: Words
    """Pages."""
    begins: Words
    """The first frame of each."""
    entries: Words
    is_zero: Bools
    is_hugetlb: Bools
    shares: Counts
    """How many more processes the table of each is part of; -1 where unknown."""


@record
class Others:
    """What stands in the place of a huge leaf and maps nothing."""

    address: int
    state: int
    entry: int
    size: int
    """Bytes that a leaf would map there."""

    def pages(self, first: int, last: int, page_shift: int) -> range:
        """Return which of its pages, counted from its first, lie in a range."""
        low, high = max(first - self.address, 0), min(last - self.address, self.size - 1)
        return range(low >> page_shift, (high >> page_shift) + 1)


class HugeLeaves:
    """The huge leaves of one part of a walk: of each the address, the size, and what its frames are."""

    def __init__(self, access: PageTableAccess, part: Walk) -> None:
        mode = access.mode
        columns: list[tuple[Words, ...]] = []
        others: list[Others] = []
        for level in range(len(part.levels) - 1):
            indexes, entries, codes = upper_entries(part, level)
            size = np.uint64(mode.levels[level].size)
            addresses = part.entry_addresses(level, indexes)
            inside = (addresses <= part.last) & (addresses + (size - np.uint64(1)) >= part.first)
            mapped = inside & maps_memory(codes)
            leaves = entries[mapped]
            sizes = np.full(len(leaves), size)
            nr_entries = part.levels[level].entries.shape[1]
            tables = part.levels[level].tables[indexes[mapped] // nr_entries]
            columns.append((addresses[mapped], sizes, leaves, leaf_address(mode, level, leaves), tables))
            for index in np.flatnonzero(inside & ~mapped).tolist():
                address, state, entry = addresses[index], codes[index], entries[index]
                others.append(Others(address=int(address), state=int(state), entry=int(entry), size=int(size)))
        self.others = sorted(others, key=lambda run: run.address)
        """What stands in the place of a huge leaf: migration entries and markers."""
        joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
        order = np.argsort(joined[0])
        self.addresses, self.sizes, self.entries, phys, tables = (column[order] for column in joined)
        self.heads = phys >> np.uint64(mode.page_shift)
        flags, _ = read_frame_words(access.memory.procfs, "kpageflags", self.heads)
        self.is_zero = flags & np.uint64(KPF_ZERO_PAGE) != 0
        self.is_hugetlb = flags & np.uint64(KPF_HUGE) != 0
        self.shares = np.zeros(len(tables), np.int32)
        """How many more processes the table of each is part of: hugetlb alone has such; -1 where unknown."""
        if self.is_hugetlb.any():
            unique, which = np.unique(tables[self.is_hugetlb], return_inverse=True)
            self.shares[self.is_hugetlb] = access.frames.table_shares(unique)[which]

    def between(self, first: int, last: int) -> NDArray[np.intp]:
        """Return the indexes of the leaves that reach into a range."""
        if not len(self.addresses):
            return np.empty(0, np.intp)  # asked for each VMA: most processes have none
        low = int(np.searchsorted(self.addresses, np.uint64(first)))
        if low and int(self.addresses[low - 1]) + int(self.sizes[low - 1]) > first:
            low -= 1
        return np.arange(low, int(np.searchsorted(self.addresses, np.uint64(last), side="right")))

    def pieces(self, first: int, last: int, page_shift: int) -> Iterator[HugePieces]:
        """Yield the parts of leaves that lie in a range, in order; leaves of one length come together."""
        indexes = self.between(first, last)
        if not len(indexes):
            return
        # A range ends inside a leaf only where the process changed it after its VMAs were read.
        addresses = self.addresses[indexes]
        lows = np.maximum(addresses, np.uint64(first))
        highs = np.minimum(addresses + (self.sizes[indexes] - np.uint64(1)), np.uint64(last))
        lengths = ((highs - lows) >> np.uint64(page_shift)) + np.uint64(1)
        begins = self.heads[indexes] + ((lows - addresses) >> np.uint64(page_shift))
        cuts = (np.flatnonzero(np.diff(lengths)) + 1).tolist()
        for start, stop in pairwise([0, *cuts, len(indexes)]):
            if start == stop:
                continue
            step = max(1, NR_HUGE_PAGES // int(lengths[start]))
            for low in range(start, stop, step):
                rows = slice(low, min(low + step, stop))
                few = indexes[rows]
                yield HugePieces(
                    lows=lows[rows],
                    lengths=lengths[rows],
                    begins=begins[rows],
                    entries=self.entries[few],
                    is_zero=self.is_zero[few],
                    is_hugetlb=self.is_hugetlb[few],
                    shares=self.shares[few],
                )

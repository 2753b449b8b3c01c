"""Pages that lie far apart in /proc/PID/pagemap: PAGEMAP_SCAN finds hundreds at a time, then each entry is read alone.

A read of a whole table's entries for one page costs the kernel three times what that page alone does, and to handle a
block of entries costs us more than either. Where every page has a table to itself, nearly all that is left is what the
kernel takes to walk the tables, which smaps takes as well.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise

from mematlas.errors import NotSupported, ProcessGone
from mematlas.kernel.pagemap import (
    ENTRY_SIZE,
    LAST_ADDRESS,
    MARK_A,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PRESENT,
    SCAN_REGIONS,
    Block,
    Entries,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mematlas.kernel.pagemap import Pagemap

SPAN = 1 << 31
"""Addresses searched under one hold of the target's lock: two thirds of a millisecond where their tables are empty, and
less with pages of more than 4 KiB."""
MOST_READ = 1 << 8
"""Regions found at a time where the entry of each is read: some 0.4 ms, in which the target hardly gets its lock."""
NR_FEW = 64
"""Pages of a block that are few, and"""
NR_LONELY = 4
"""such blocks in a row after which pages are taken to lie apart."""
MOST_PAGES = 1 << 14
"""Pages found under one hold, where they come to lie near each other: a third of a millisecond."""
FIRST_REGIONS = 1 << 5
"""Regions asked for at first, before it is known whether pages go on lying apart."""
NEAR = 1 << 21
"""Addresses whose entries are read at once: what a table of pages of 4 KiB maps, and a part of that of larger ones."""
MAX_NEAR = 100
"""Regions among them from which on they are better read as a block."""
SAMPLE = 32
"""One region in so many shows whether regions lie near each other."""
STRIDE = 16
"""Ranges that are looked at together for a wide gap among them."""
ANYTHING = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
REPORTED = ANYTHING | PAGE_IS_PFNZERO | PAGE_IS_HUGE


class Scattered(Entries):
    """The entries of ranges of pages that lie apart, one range after the other.

    Between the ranges there is nothing. None of the pages was mapped by a huge entry when they were found.
    """

    __slots__ = ("lengths", "starts", "zeros")

    def __init__(
        self, starts: list[int], lengths: list[int], raw: memoryview, states: bytes, use: bytes | None = None
    ) -> None:
        super().__init__(raw, states, use)
        self.starts = starts
        """The address of each range, ascending."""
        self.lengths = lengths
        """The number of pages of each."""
        self.zeros = b""
        """One byte a page, `MARK_A` for each that PAGEMAP_SCAN called the zero page; empty where there is none."""

    @property
    def address(self) -> int:
        """The address of the first page."""
        return self.starts[0]

    def end(self, page_size: int) -> int:
        """Return where the last range ends."""
        return self.starts[-1] + self.lengths[-1] * page_size

    def blocks(self) -> Iterator[Block]:
        """Yield the ranges as blocks."""
        at = 0
        for start, length in zip(self.starts, self.lengths, strict=True):
            yield self._block(start, at, at + length)
            at += length

    def gaps(self, page_size: int, least: int) -> list[tuple[int, int]]:
        """Return the gaps between the ranges that are of so many pages at least, by their addresses."""
        starts, size = self.starts, (least + 1) * page_size
        wide: list[int] = []
        for first in range(0, len(starts) - 1, STRIDE):
            some = starts[first : first + STRIDE + 1]
            if some[-1] - some[0] >= size:
                pairs = enumerate(pairwise(some), first)
                wide += [index for index, (low, high) in pairs if high - low >= size]
        ends = [starts[index] + self.lengths[index] * page_size for index in wide]
        gaps = [(end, starts[index + 1]) for index, end in zip(wide, ends, strict=True)]
        return [(low, high) for low, high in gaps if high - low >= least * page_size]

    def cut(self, step: int, origin: int, page_size: int) -> Iterator[Block | Scattered]:
        """Yield parts that lie between multiples of ``step`` bytes from ``origin`` on, or blocks that lie across."""
        low = at = 0
        while low < len(self.starts):
            edge = self.starts[low] - (self.starts[low] - origin) % step + step
            high = bisect_left(self.starts, edge, low)
            if self.starts[high - 1] + self.lengths[high - 1] * page_size > edge:
                high -= 1
            if low < high:
                after = at + sum(self.lengths[low:high])
                yield self._part(low, high, at, after)
            else:
                high, after = low + 1, at + self.lengths[low]
                yield self._block(self.starts[low], at, after)
            low, at = high, after

    def between(self, low: int, high: int) -> Scattered | None:
        """Return the ranges with these indexes; None when there is none."""
        at = sum(self.lengths[:low])
        return self._part(low, high, at, at + sum(self.lengths[low:high])) if low < high else None

    def _part(self, low: int, high: int, at: int, after: int) -> Scattered:
        if after - at == len(self):
            return self
        return Scattered(
            starts=self.starts[low:high],
            lengths=self.lengths[low:high],
            raw=self.raw[at * ENTRY_SIZE : after * ENTRY_SIZE],
            states=self.states[at:after],
            use=None if self.use is None else self.use[at:after],
        )

    def _block(self, start: int, at: int, after: int) -> Block:
        raw = self.raw[at * ENTRY_SIZE : after * ENTRY_SIZE]
        use = None if self.use is None else self.use[at:after]
        return Block(start, raw, self.states[at:after], use)


def lots(pagemap: Pagemap, start: int, end: int, exclusive: bool = True) -> Iterator[Block | Scattered]:
    """Yield what `Pagemap.blocks` yields, but where pages lie far apart, hundreds of them at a time.

    Without ``exclusive`` the entries of such pages are read only where the scan does not report their state: then those
    that are present have no entry, and their states no other bit.
    """
    end = min(end, LAST_ADDRESS)
    while start < end:
        nr_lonely = 0
        for block in pagemap.blocks(start, end):
            nr_lonely = nr_lonely + 1 if len(block) - block.kinds.get(0, 0) <= NR_FEW else 0
            start = block.end(pagemap.page_size)
            yield block
            if nr_lonely == NR_LONELY and pagemap.can_scan:
                break
        else:
            return
        start = yield from read_scattered(pagemap, start, end, exclusive)


def read_scattered(pagemap: Pagemap, start: int, end: int, exclusive: bool) -> Generator[Scattered, None, int]:
    """Yield what lies between ``start`` and ``end`` for as long as it lies apart; return where it no longer does."""
    most = FIRST_REGIONS
    while start < end:
        until = min(end, start + SPAN)
        before = time.perf_counter()
        try:
            words, after = pagemap.scanner.regions_of(start, until, ANYTHING, REPORTED, most, MOST_PAGES)
        except NotSupported:
            pagemap.can_scan = False
            return start
        scanned = ScannedRanges(words, pagemap.page_size)
        lot = read_lot(pagemap, scanned, exclusive) if scanned.starts else None
        if pagemap.pacer:
            pagemap.pacer.spend(time.perf_counter() - before)
        if lot:
            yield lot
        if scanned.dense is not None:
            return scanned.dense
        if scanned.is_crowded:
            return after
        start, most = after, min(2 * most, MOST_READ if exclusive else SCAN_REGIONS)
    pagemap.check()
    return end


class ScannedRanges:
    """Ranges to read, made of what one call of PAGEMAP_SCAN found.

    Nearly always each region is a single page, which is seen at once. Where many lie near each other, one range is made
    of those, and no region is looked at by itself.
    """

    def __init__(self, words: memoryview, page_size: int) -> None:
        self.words = words
        self.page_size = page_size
        self.starts: list[int] = []
        self.lengths: list[int] = []
        """The pages of each range."""
        self.kinds = frozenset(bytes(words.cast("B")[16::24]))
        """The categories of all."""
        self.dense: int | None = None
        """Where something begins that is long, or mapped by a huge entry: from there on nothing is taken."""
        self.is_crowded = False
        """Whether so many regions lie near each other that blocks are the better way."""
        sample, following = words[:: 3 * SAMPLE].tolist(), words[3 :: 3 * SAMPLE].tolist()
        nr_near = sum(low + NEAR > high for low, high in zip(sample, following, strict=False))
        self.are_near = 4 * nr_near > len(sample)
        if any(kind & PAGE_IS_HUGE for kind in self.kinds):
            kinds = words[2::3].tolist()
            nr_taken = next(index for index, kind in enumerate(kinds) if kind & PAGE_IS_HUGE)
            self.dense = words[3 * nr_taken]
            self.words = words[: 3 * nr_taken]
        if self.are_near:
            self._join()
        else:
            self._take()

    def _take(self) -> None:
        """Make a range of each region."""
        words = self.words
        self.starts = words[0::3].tolist()
        # All regions at once: two long numbers, with a word for each region.
        low, high = (int.from_bytes(words[at::3].tobytes(), "little") for at in (0, 1))
        page = self.page_size.to_bytes(ENTRY_SIZE, "little")
        if high - low == int.from_bytes(page * len(self.starts), "little"):
            self.lengths = [1] * len(self.starts)
            return
        pairs = zip(self.starts, words[1::3].tolist(), strict=True)
        self.lengths = [(end - start) // self.page_size for start, end in pairs]
        self._leave_out_long()

    def _join(self) -> None:
        """Make a range of those regions that begin near each other."""
        words = self.words
        starts, ends = words[0::3], words[1::3]
        low = 0
        while low < len(starts):
            start = starts[low]
            high = bisect_left(starts, start - start % NEAR + NEAR, low + 1)
            self.starts.append(start)
            self.lengths.append((ends[high - 1] - start) // self.page_size)
            low = high
        self.is_crowded = len(starts) > MAX_NEAR * len(self.starts)
        self._leave_out_long()

    def _leave_out_long(self) -> None:
        """Take nothing from the first range on that fills what counts as near: a region in it may be as long."""
        limit = NEAR // self.page_size
        if max(self.lengths, default=0) >= limit:
            index = next(index for index, length in enumerate(self.lengths) if length >= limit)
            self.dense = self.starts[index]
            self.starts, self.lengths = self.starts[:index], self.lengths[:index]

    def zeros(self) -> bytes:
        """Return a byte for each page, `MARK_A` for a zero page; nothing where there is none."""
        if not self.starts or not any(kind & PAGE_IS_PFNZERO for kind in self.kinds):
            return b""
        marks = bytearray(sum(self.lengths))
        edges = [0, *accumulate(self.lengths)]
        for low, high, kind in zip(*(self.words[at::3].tolist() for at in range(3)), strict=True):
            if kind & PAGE_IS_PFNZERO:
                number = bisect_right(self.starts, low) - 1
                at = edges[number] + (low - self.starts[number]) // self.page_size
                length = (high - low) // self.page_size
                marks[at : at + length] = bytes((MARK_A,)) * length
        return bytes(marks[: edges[-1]])


def read_lot(pagemap: Pagemap, scanned: ScannedRanges, exclusive: bool) -> Scattered:
    """Return the pages that were found."""
    zeros = scanned.zeros()
    if exclusive or scanned.are_near or any(kind & PAGE_IS_SWAPPED for kind in scanned.kinds):
        raw = read_entries(pagemap, scanned.starts, scanned.lengths)
        states = raw[ENTRY_SIZE - 1 :: ENTRY_SIZE]
        lot = Scattered(scanned.starts, scanned.lengths, memoryview(raw), states)
        lot.zeros = zeros
        return lot
    states = zeros.translate(AS_PRESENT) if zeros else PRESENT_BYTE * sum(scanned.lengths)
    return Scattered(scanned.starts, scanned.lengths, memoryview(b""), states)


AS_PRESENT = bytes(byte | PRESENT for byte in range(256))
PRESENT_BYTE = bytes((PRESENT,))


def read_entries(pagemap: Pagemap, starts: list[int], lengths: list[int]) -> bytes:
    """Return the entries of ranges, one after the other."""
    ratio = pagemap.page_size // ENTRY_SIZE
    offsets = [start // ratio for start in starts]
    sizes = [length * ENTRY_SIZE for length in lengths]
    raw = pagemap.live_file.read_ranges(offsets, sizes)
    if len(raw) != sum(sizes):
        pagemap.check()
        raise ProcessGone(pagemap.process.pid)
    return raw

"""The array of struct pages, gone through from end to end: what the kernel has noted of every frame of RAM.

One struct page says of its frame what it is (flags, type, mapping), how often it is mapped, and who is charged. Three
things are not in it: what lies inside a free block (its first frame alone says so, with the order of the block; of one
that is not accepted yet, without), what a tail of a folio is (its head says so), and that there is no RAM. A
`FrameBatch` puts these right.

Sources: include/linux/mm_types.h, include/linux/page-flags.h (enum pageflags, enum pagetype); mm/page_alloc.c
(set_buddy_order).
"""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, Counts, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.kernel.memory.compound import head_word, heads_of
from mematlas.kernel.memory.memory_blocks import read_memory_blocks
from mematlas.kernel.memory.x86 import PAGE, PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.kernel.memory.structpage import StructPages

NOWHERE = np.zeros(0, np.intp)
BLOCK_SHIFT = 9
"""Blocks of 512 frames are peeked at first; most of a machine that is not full lies in free blocks as large."""
GRANULE_SHIFT = 10
"""Frames that are always read together: no folio, but of gigantic pages, nor free block reaches beyond one
(MAX_PAGE_ORDER).
"""
MOST_ORDER = 30
"""More than the order of any folio."""
NO_TYPE, LOWEST_TYPE = 0xFF, 0xF0
"""The top byte of a page_type that is the count of a frame nobody maps; and the lowest that is a type."""
FOLIO_PAGES_MAPPED = 0x7FFFFF
"""Of _nr_pages_mapped the pages that are mapped as such, not with the whole folio: include/linux/mm.h."""


class FrameArray:
    """The struct pages of all RAM.

    >>> array = FrameArray(open_struct_pages(memory))  # doctest: +SKIP
    >>> sum(int(batch.nr_frames.sum()) for batch in array.batches())  # doctest: +SKIP
    6291358

    Raises:
        NotSupported: the type information of this kernel does not have what it takes.
    """

    def __init__(self, struct_pages: StructPages, online: list[tuple[int, int]] | None = None) -> None:
        memory = struct_pages.memory
        layout = memory.layout
        self.memory = memory
        self.struct_pages = struct_pages
        self.base = struct_pages.base
        self.size = struct_pages.size
        self.nr_words = self.size // 8
        self.shift = struct_pages.nr_per_page.bit_length() - 1
        """A page of the array is about 1 << shift frames."""
        self.bits = numbers_of(layout.values, "pageflags.")
        """The bit of each flag of a frame, by its name."""
        self.types = numbers_of(layout.values, "pagetype.")
        """The top byte of page_type of each type, by its name."""
        self.unaccepted = self.types.get("PGTY_unaccepted", NO_TYPE)
        """That of memory that the hypervisor is still to give: blocks of the largest order (__free_unaccepted())."""
        for name in ("PG_head", "PG_reserved", "PG_swapbacked"):
            if name not in self.bits:
                raise NotSupported(f"flags of frames without {name} in the kernel's type information")
        if "PGTY_buddy" not in self.types:
            # GOOD: since Linux commit 4ffca5a96678 ("mm: support only one page_type per page") (in v6.12).
            raise NotSupported("types of frames that are no enumeration", "Linux 6.12")
        self.at = {name: layout[f"page.{name}"] for name in ("flags", "page_type", "private", "_refcount")}
        self.at["mapping"] = layout["folio.mapping" if "folio.mapping" in layout else "page.mapping"]
        self.at["head"] = head_word(layout)
        # Of the struct page after the head's.
        self.entire_at = layout["folio._entire_mapcount"] - self.size
        self.nr_mapped_at = after_head(layout.values.get("folio._nr_pages_mapped"), self.size)
        self.order_at = after_head(layout.values.get("folio._flags_1"), self.size)
        self.spans, self.offline = spans_of(memory.ram.ranges, read_memory_blocks() if online is None else online)
        self.pages = self._pages_of(self.spans)
        """The pages of the array that are about RAM, ascending: where in it a frame's struct page is, is its place."""
        self.edges = self._find_edges()
        self.nr_frames = sum(end - first for first, end in self.spans)
        """Frames of RAM that is online."""
        self.nr_unread = 0
        """Those of them whose struct pages could not be read, the last time that all were."""

    def __repr__(self) -> str:
        return f"<FrameArray of {self.nr_frames:,} frames>"

    def _pages_of(self, spans: list[tuple[int, int]]) -> Words:
        last = (1 << self.shift) - 1
        parts = [np.arange(first >> self.shift, (end + last) >> self.shift, dtype=np.uint64) for first, end in spans]
        pages = np.concatenate([np.empty(0, np.uint64), *parts])
        # Ranges ascend, and two may meet in a page. (np.unique takes 30 ms here, most of which are imports.)
        is_new: Bools = np.concatenate((np.ones(min(len(pages), 1), np.bool_), pages[1:] != pages[:-1]))
        different: Words = pages[is_new]
        return different

    def _find_edges(self) -> dict[int, Bools]:
        """Return which rows are RAM, of the pages of the array where it begins or ends, by their places."""
        nr = 1 << self.shift
        edges: dict[int, Bools] = {}
        for frame in {frame for span in self.spans for frame in span if frame % nr}:
            place = int(np.searchsorted(self.pages, np.uint64(frame >> self.shift)))
            frames = range(frame & -nr, (frame & -nr) + nr)
            inside = [any(first <= one < end for first, end in self.spans) for one in frames]
            edges[place] = np.array(inside, np.bool_)
        return edges

    def ram_rows(self, places: NDArray[np.intp]) -> Bools | None:
        """Return which rows of some pages of the array are RAM; None where all are."""
        found = [place for place in self.edges if places[0] <= place <= places[-1]] if len(places) else []
        if not found:
            return None
        rows = np.ones((len(places), 1 << self.shift), np.bool_)
        for place in found:
            rows[places == place] = self.edges[place]
        result: Bools = rows.reshape(-1)
        return result

    def address_of(self, pfns: Words) -> Words:
        """Return where the struct pages of frames are."""
        return np.uint64(self.base) + pfns * np.uint64(self.size)

    def frames_of(self, addresses: Words) -> tuple[Words, Bools]:
        """Return the frames that struct pages are about, and which of the addresses can be those of one."""
        checked, good = self.struct_pages.checked(addresses)
        return (checked - np.uint64(self.base)) // np.uint64(self.size), good

    def batches(self, skip: bool = False) -> Iterator[FrameBatch]:
        """Yield the struct pages of all RAM, some thousand at a time, ascending.

        With ``skip`` what is alike over a page of the array or more is not read: first come rows that stand for ranges,
        free blocks and folios of which no page is mapped by itself; then, ascending, what is left.
        """
        self.nr_unread = 0
        left = np.arange(len(self.pages))
        if skip:
            for step in (BLOCK_SHIFT, self.shift):
                batch, left = self._peek(left, step)
                yield batch
        yield from self.read(left)

    def batch_of(self, pfns: Words) -> FrameBatch:
        """Return the struct pages of some frames, in their order, each with the one behind it."""
        data = np.zeros((len(pfns), 2 * self.nr_words), np.uint64)
        good = self.memory.ram.contain(pfns << np.uint64(PAGE_SHIFT))
        addresses = np.where(good, self.address_of(pfns), np.uint64(0))
        for part, (at, size) in enumerate(((0, self.size), (self.size, self.size))):
            for rows, words, read in self.memory.frame_pages(addresses + np.uint64(at), size):
                data[rows, part * self.nr_words : (part + 1) * self.nr_words] = words
                if part == 0:
                    good[rows] &= read
        data[~good] = 0
        return FrameBatch(self, pfns, data, good)

    # What is alike

    def _peek(self, left: NDArray[np.intp], step: int) -> tuple[FrameBatch, NDArray[np.intp]]:
        """Return rows for what is alike over ``1 << step`` frames and more, and the places that these leave."""
        per_step = 1 << step - self.shift
        pages = self.pages[left]
        places = left[pages & np.uint64(per_step - 1) == 0]
        pfns = self.pages[places] << np.uint64(self.shift)
        data = np.zeros((len(places), 2 * self.nr_words), np.uint64)
        good = np.zeros(len(places), np.bool_)
        for rows, words, read in self.memory.frame_pages(self.address_of(pfns), 2 * self.size):
            data[rows], good[rows] = words, read
        batch = FrameBatch(self, pfns, data, good)
        chosen = np.flatnonzero(batch.are_alike & good)
        orders = batch.orders_of(chosen)
        chosen, orders = chosen[orders >= step], orders[orders >= step]
        ends = np.searchsorted(self.pages, (pfns[chosen] >> np.uint64(self.shift)) + (1 << orders - self.shift))
        starts = places[chosen]
        # What begins inside another was read when that was no more, or not yet: what was seen first stands.
        covered = np.maximum.accumulate(np.concatenate(([0], ends[:-1]))) if len(ends) else ends
        apart = starts >= covered
        chosen, starts, ends = chosen[apart], starts[apart], ends[apart]
        depth = np.zeros(len(self.pages) + 1, np.int8)
        depth[starts] += 1
        depth[ends] -= 1
        is_covered = np.cumsum(depth[:-1]).astype(np.bool_)
        return batch.chosen(chosen, starts, ends), left[~is_covered[left]]

    # What is not

    def read(self, places: NDArray[np.intp]) -> Iterator[FrameBatch]:
        """Yield pages of the array by their places, ascending. Where a granule is not whole, the beginning of a free
        block may be missing.
        """
        pages = self.pages[places]
        for low, high in self._lots(pages):
            some = places[low:high]
            addresses = np.uint64(self.base) + (pages[low:high] << np.uint64(PAGE_SHIFT))
            for _, data, good in self.memory.frame_pages(addresses):
                in_ram = self.ram_rows(some)
                if not good.all():
                    in_ram = np.repeat(good, 1 << self.shift) & (True if in_ram is None else in_ram)
                    self.nr_unread += self._nr_in_ram(some[~good])
                yield FrameBatch(self, pages[low:high], data.reshape(-1, self.nr_words), in_ram, some)

    def _nr_in_ram(self, places: NDArray[np.intp]) -> int:
        rows = self.ram_rows(places)
        return len(places) << self.shift if rows is None else int(np.count_nonzero(rows))

    def frames_at(self, places: NDArray[np.intp]) -> Words:
        """Return the frames that some pages of the array are about."""
        return frames_of_pages(self.pages[places], self.shift)

    def lots(self, places: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Yield places in lots, each of which `read` yields as one batch."""
        for low, high in self._lots(self.pages[places]):
            yield places[low:high]

    def granules(self, nr: int, pfns: Sequence[int] = ()) -> NDArray[np.intp]:
        """Return the places of the pages of about so many granules, evenly from the first to the last, and of those
        that some frames are in.
        """
        granules = self.pages >> np.uint64(GRANULE_SHIFT - self.shift)
        numbers = np.cumsum(np.concatenate(([False], granules[1:] != granules[:-1])))
        step = max(1, -(-(int(numbers[-1]) + 1) // nr)) if len(numbers) else 1
        wanted = np.array([pfn >> GRANULE_SHIFT for pfn in pfns], np.uint64)
        return np.flatnonzero((numbers % step == 0) | np.isin(granules, wanted))

    def _lots(self, pages: Words) -> Iterator[tuple[int, int]]:
        """Yield from where to where pages of the array are read in one call: granules are kept whole."""
        if not len(pages):
            return
        granules = pages >> np.uint64(GRANULE_SHIFT - self.shift)
        ends = np.append(np.flatnonzero(granules[1:] != granules[:-1]) + 1, len(pages))
        low, step = 0, max(self.memory.reader.batch_size, 1)
        while low < len(pages):
            index = int(np.searchsorted(ends, low + step, side="right")) - 1
            high = int(ends[index]) if index >= 0 and ends[index] > low else min(low + step, len(pages))
            yield low, high
            low = high


class FrameBatch:
    """Struct pages, as rows: whole pages of the array, or some that were picked out.

    All arrays have an item for each row, and are views that hold until the next batch.
    """

    def __init__(
        self,
        array: FrameArray,
        numbers: Words,
        words: Words,
        good: Bools | None,
        places: NDArray[np.intp] | None = None,
        ends: NDArray[np.intp] | None = None,
    ) -> None:
        self.array = array
        self.words = words
        """Of each row the words of a struct page; of rows that were picked out those of the one behind it as well."""
        self.good = good
        """Which rows are of RAM, and could be read; None where all are."""
        self.places = places
        """Where in `FrameArray.pages` the pages are, or the range that a row stands for begins."""
        self.ends = ends
        """Where that range ends, of rows that stand for ranges."""
        self._numbers = numbers
        self._bytes = words.view(np.uint8)
        self._starts: Bools | None = None
        self._parts: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
        self._tails: Bools | None = None
        self._types: Bytes | None = None

    def __len__(self) -> int:
        return len(self.words)

    def chosen(self, rows: NDArray[np.intp], places: NDArray[np.intp], ends: NDArray[np.intp]) -> FrameBatch:
        """Return some of the rows, which stand for ranges."""
        return FrameBatch(self.array, self._numbers[rows], self.words[rows], None, places, ends)

    @property
    def is_whole(self) -> bool:
        """Whether its rows are whole pages of the array, each about one frame."""
        return self.places is not None and self.ends is None

    @property
    def pfns(self) -> Words:
        """The frame of each row."""
        if not self.is_whole:
            return self._numbers
        return frames_of_pages(self._numbers, self.array.shift)

    @property
    def flags(self) -> Words:
        """The flags, as the kernel has them; `FrameArray.bits` says which bit is which."""
        return self.words[:, self.array.at["flags"] // 8]

    @property
    def mapping(self) -> Words:
        """Whose it is. The lowest bits are 1 of anonymous memory, 3 of KSM, 2 a driver's, 0 a file's or nobody's."""
        return self.words[:, self.array.at["mapping"] // 8]

    @property
    def head_words(self) -> Words:
        """The word that leads a tail to its head; bit 0 is set in a tail's."""
        return self.words[:, self.array.at["head"] // 8]

    @property
    def types(self) -> NDArray[np.uint32]:
        """The type of a frame that nobody maps; of another its count less one."""
        return self.words.view(np.uint32)[:, self.array.at["page_type"] // 4]

    @property
    def type_bytes(self) -> Bytes:
        """The upper byte of the type; `FrameArray.types` says which is which."""
        if self._types is None:
            self._types = self._bytes[:, self.array.at["page_type"] + 3].copy()
        return self._types

    @property
    def mapping_bytes(self) -> tuple[Bytes, Bytes]:
        """The lowest and the highest byte of the mapping."""
        at = self.array.at["mapping"]
        return self._bytes[:, at], self._bytes[:, at + 7]

    @property
    def map_counts(self) -> Counts:
        """How often each frame is mapped by itself; 0 of those that have a type."""
        counts: Counts = self.types.view(np.int32) + np.int32(1)
        # In place, on what is no view: a column of struct pages is slow to go through.
        np.maximum(counts, 0, out=counts)
        return counts

    @property
    def refcounts(self) -> Counts:
        """The references to each frame, or to the folio that it is the head of."""
        return self.words.view(np.int32)[:, self.array.at["_refcount"] // 4]

    @property
    def are_tails(self) -> Bools:
        """Which frames are of a folio and not its first."""
        if self._tails is None:
            self._tails = (self._bytes[:, self.array.at["head"]] & 1).view(np.bool_)
            self._tails[self._copies_of_heads()] = True
        return self._tails

    def _copies_of_heads(self) -> NDArray[np.intp]:
        """Return the rows that look like a head, and are no multiple of its size.

        Pages of the array that are all alike share one, in a hugetlb folio (HVO, mm/hugetlb_vmemmap.c).
        """
        hugetlb = self.array.types.get("PGTY_hugetlb")
        if hugetlb is None or self.array.order_at is None:
            return NOWHERE
        rows = np.flatnonzero(self.type_bytes == hugetlb)
        if not rows.size:
            return NOWHERE
        orders = (self.word_after(rows, self.array.order_at) & np.uint64(0xFF)).astype(np.int64)
        copies: NDArray[np.intp] = rows[~is_multiple(self.frames_of(rows), orders)]
        return copies

    def are_heads(self, rows: NDArray[np.intp]) -> Bools:
        """Which of some rows are the first of a folio of several."""
        place, bit = divmod(self.array.bits["PG_head"], 8)
        flagged = self._bytes[rows, self.array.at["flags"] + place] >> bit & 1
        heads: Bools = flagged.view(np.bool_) & ~self.are_tails[rows]
        return heads

    @property
    def heads(self) -> Words:
        """The frame of the head of each folio; the frame itself where it is no tail, or its head is no frame."""
        pfns = self.pfns.copy()
        tails = np.flatnonzero(self.are_tails)
        pfns[tails] = self.heads_of(tails)
        return pfns

    def heads_of(self, tails: NDArray[np.intp]) -> Words:
        """Return the frames of the heads of some tails; of one whose head is no frame, the tail's own."""
        own = self.frames_of(tails)
        words = self.head_words[tails]
        copies = words & np.uint64(1) == 0
        words[copies] = self.word_after(tails[copies], self.array.at["head"])
        frames, good = self.array.frames_of(heads_of(self.array.address_of(own), words))
        heads: Words = np.where(good, frames, own)
        return heads

    def word_after(self, rows: NDArray[np.intp], at: int) -> Words:
        """Return a word of the struct page behind each of some rows, at an offset in bytes; 0 behind the last."""
        if not self.is_whole:
            picked: Words = self.words[rows, self.array.nr_words + at // 8]
            return picked
        behind = np.minimum(rows + 1, len(self) - 1)
        words: Words = np.where(rows + 1 < len(self), self.words[behind, at // 8], np.uint64(0))
        return words

    def orders_of(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the orders of the free blocks and folios that begin at some rows; 0 of all else."""
        array = self.array
        orders = np.zeros(len(rows), np.int64)
        are_free = self.type_bytes[rows] == array.types["PGTY_buddy"]
        private = self.words[rows[are_free], array.at["private"] // 8]
        orders[are_free] = np.minimum(private, np.uint64(MOST_ORDER + 1)).astype(np.int64)
        if array.unaccepted != NO_TYPE:
            orders[self.type_bytes[rows] == array.unaccepted] = GRANULE_SHIFT
        if array.order_at is not None and not are_free.all():
            large = np.flatnonzero(self.are_heads(rows) & ~are_free)
            orders[large] = (self.word_after(rows[large], array.order_at) & np.uint64(0xFF)).astype(np.int64)
        # What is no multiple of its size is none: it has changed meanwhile, or is the copy of a head.
        orders[(orders > MOST_ORDER) | ~is_multiple(self.frames_of(rows), orders)] = 0
        return orders

    def frames_of(self, rows: NDArray[np.intp]) -> Words:
        """Return the frames of some rows."""
        if not self.is_whole:
            picked: Words = self._numbers[rows]
            return picked
        shift = self.array.shift
        inside = (rows & (1 << shift) - 1).astype(np.uint64)
        frames: Words = (self._numbers[rows >> shift] << np.uint64(shift)) + inside
        return frames

    @property
    def orders(self) -> NDArray[np.int64]:
        """The orders of the free blocks and folios that begin at each row; 0 of all else."""
        return self.orders_of(np.arange(len(self)))

    @property
    def are_alike(self) -> Bools:
        """Which rows are the first of a free block, or the head of a folio no page of which is mapped by itself.

        Then all that lies behind them is as they are.
        """
        alike = self._are_blocks
        at = self.array.nr_mapped_at
        if at is not None:
            rows = np.flatnonzero(self.are_heads(np.arange(len(self))))
            numbers = self.word_after(rows, at & ~7) >> np.uint64(8 * (at & 7))
            alike[rows] = numbers & np.uint64(FOLIO_PAGES_MAPPED) == 0
        return alike

    @property
    def _are_blocks(self) -> Bools:
        """Which rows are the first of a block: of a free one, or of one that is not accepted yet."""
        types, array = self.type_bytes, self.array
        blocks: Bools = types == array.types["PGTY_buddy"]
        if array.unaccepted != NO_TYPE:
            blocks |= types == array.unaccepted
        return blocks

    @property
    def starts(self) -> Bools:
        """Which rows begin something: a single page, a folio, a free block, or what is not RAM."""
        if self._starts is None:
            self._starts = self._find_starts() if self.is_whole else np.ones(len(self), np.bool_)
        return self._starts

    def _find_starts(self) -> Bools:
        array, nr = self.array, len(self)
        starts = ~self.are_tails
        # Where pages of the array are left out, what came before them does not go on.
        gaps = NOWHERE
        if int(self._numbers[-1] - self._numbers[0]) != len(self._numbers) - 1:
            gaps = np.flatnonzero(self._numbers[1:] - self._numbers[:-1] != 1) + 1 << array.shift
        # Inside a block nothing says so.
        rows = np.flatnonzero(self._are_blocks)
        if rows.size:
            orders = self.orders_of(rows)
            rows, orders = rows[orders > 0], orders[orders > 0]
            limits = np.append(gaps, nr)[np.searchsorted(gaps, rows, side="right")]
            depth = np.zeros(nr + 1, np.int32)
            depth[rows + 1] += 1
            depth -= np.bincount(np.minimum(rows + (1 << orders), limits), minlength=nr + 1)
            starts &= np.cumsum(depth[:-1]) == 0
        starts[gaps] = True
        starts[:1] = True
        if self.good is not None:
            starts |= ~self.good
            starts[1:] |= ~self.good[:-1]
        return starts

    @property
    def parts(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The rows that begin something, and how many rows each is."""
        if self._parts is None:
            rows = np.flatnonzero(self.starts)
            lengths = np.empty(len(rows), np.intp)
            np.subtract(rows[1:], rows[:-1], out=lengths[:-1])
            lengths[-1:] = len(self) - rows[-1:]
            self._parts = rows, lengths
        return self._parts

    @property
    def nr_frames(self) -> NDArray[np.int64]:
        """How many frames each row speaks for: all of a folio or free block at its first, 0 at its others."""
        numbers = np.zeros(len(self), np.int64)
        if self.ends is not None:
            return 1 << self.orders
        rows, lengths = self.parts
        numbers[rows] = lengths
        # A gigantic page goes on in the next batch, whose tails speak for none.
        numbers[rows[-1:]] = np.maximum(numbers[rows[-1:]], 1 << self.orders_of(rows[-1:]))
        numbers[self.are_tails] = 0
        if self.good is not None:
            numbers[~self.good] = 0
        return numbers


def numbers_of(values: dict[str, int], prefix: str) -> dict[str, int]:
    """Return the numbers of an enumeration, by name."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def frames_of_pages(pages: Words, shift: int) -> Words:
    """Return the frames that pages of the array are about, ``1 << shift`` each.

    >>> frames_of_pages(np.array([3, 5], np.uint64), 1).tolist()
    [6, 7, 10, 11]
    """
    inside = np.arange(1 << shift, dtype=np.uint64)
    frames: Words = np.add.outer(pages << np.uint64(shift), inside).reshape(-1)
    return frames


def is_multiple(pfns: Words, orders: NDArray[np.int64]) -> Bools:
    """Return which frames are at a multiple of a size."""
    sizes = np.left_shift(np.uint64(1), np.minimum(orders, MOST_ORDER).astype(np.uint64))
    aligned: Bools = pfns & (sizes - np.uint64(1)) == 0
    return aligned


def after_head(offset: int | None, size: int) -> int | None:
    """Return where a member of a folio is in the struct page behind the head's; None where it is not there."""
    return offset - size if offset is not None and size <= offset < 2 * size else None


def spans_of(
    ram: list[tuple[int, int]], online: list[tuple[int, int]], page_size: int = PAGE
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the whole frames of RAM that is online, and of RAM that is not, as ranges.

    Without blocks of memory, which a kernel without memory hotplug has not, all is online.

    >>> spans_of([(0x1000, 0x9FC00), (0x100000, 0x300000)], [(0, 0x200000)])
    ([(1, 159), (256, 512)], [(512, 768)])
    """
    whole = [(-(-start // page_size), end // page_size) for start, end in ram]
    whole = [(first, end) for first, end in whole if first < end]
    if not online:
        return whole, []
    blocks = [(start // page_size, end // page_size) for start, end in sorted(online)]
    here = [(max(a, c), min(b, d)) for a, b in whole for c, d in blocks if max(a, c) < min(b, d)]
    away: list[tuple[int, int]] = []
    for first, end in whole:
        at = first
        for low, high in [*(span for span in here if first <= span[0] < end), (end, end)]:
            if at < low:
                away.append((at, low))
            at = max(at, high)
    return here, away

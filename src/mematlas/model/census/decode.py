"""What the struct page of a frame says that the frame is.

Type first, then reserved, then the mapping: a type shares its place with the map count, and what has one has no
mapping. No number here is of one kernel: bits and types are those of its own type information.
"""

from __future__ import annotations

from mematlas.arrays import Bytes, Counts, NDArray, np
from mematlas.kernel.memory.compound import heads_of
from mematlas.kernel.memory.framearray import LOWEST_TYPE, NO_TYPE
from mematlas.kernel.memory.tellcode import HIGH_BITS, LOW_BITS, UNTYPED
from mematlas.kernel.memory.tellprogram import TellTables
from mematlas.model.census.kinds import (
    CACHE_KINDS,
    KIND_MASK,
    MAPPED_MORE,
    START,
    STATE_SHIFT,
    Kind,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.framearray import FrameArray, FrameBatch

TYPES = {
    "PGTY_buddy": Kind.FREE,
    "PGTY_offline": Kind.OFFLINE,
    "PGTY_table": Kind.TABLE,
    "PGTY_guard": Kind.GUARD,
    "PGTY_hugetlb": Kind.HUGETLB,
    "PGTY_slab": Kind.SLAB,
    "PGTY_zsmalloc": Kind.ZSMALLOC,
    "PGTY_unaccepted": Kind.UNACCEPTED,
    "PGTY_large_kmalloc": Kind.LARGE_KMALLOC,
}
FLAGS = (
    *("PG_writeback", "PG_dirty", "PG_reserved", "PG_swapbacked", "PG_swapcache"),
    *("PG_lru", "PG_uptodate", "PG_hwpoison"),
)
"""What is looked at of the flags. A kernel that has no memory failures has no PG_hwpoison."""
OF_A_FILE = ("PG_writeback", "PG_swapbacked", "PG_lru", "PG_uptodate")
"""Those that the kernel has no use for in what is its own. (Its pages may be mapped, and so become dirty.)"""
ANON, DRIVER, KSM = 1, 2, 3
"""The lowest two bits of a mapping."""
NR_FLAG_BITS = len(FLAGS)
IS_POINTER, IS_REFERENCED = 1 << 2, 1 << 3
ALL = slice(None)
MOST_FLAG_BIT = 26


class Decoder:
    """Tells what frames are by their struct pages.

    >>> decoder = Decoder(array)  # doctest: +SKIP
    >>> [Kind(kind).name for kind in decoder.kinds(array.batch_of(pfns))]  # doctest: +SKIP
    ['ANON', 'FILE']
    """

    def __init__(self, array: FrameArray) -> None:
        self.array = array
        self.is_cache = np.zeros(KIND_MASK + 1, np.bool_)
        """Which kinds are in the page cache."""
        self.is_cache[list(CACHE_KINDS)] = True
        self._kinds_of_types = np.full(256, UNTYPED, np.uint8)
        self._kinds_of_types[LOWEST_TYPE:NO_TYPE] = Kind.KERNEL  # a type that we do not know
        for name, kind in TYPES.items():
            if name in array.types:
                self._kinds_of_types[array.types[name]] = kind
        bits = [array.bits.get(name) for name in FLAGS]
        known = [(place, bit) for place, bit in enumerate(bits) if bit is not None and bit <= MOST_FLAG_BIT]
        self._flag_mask = np.uint64(sum(1 << bit for _, bit in known))
        self._flags = self._table_of_flags(known)
        self._kinds = kinds_of_keys()
        self._has_poison = bits[-1] is not None

    @staticmethod
    def _table_of_flags(known: list[tuple[int, int]]) -> NDArray[np.uint16]:
        """Return a table that brings the bits that we look at together; hardly any of it is ever touched."""
        table = np.zeros(2 << max(bit for _, bit in known), np.uint16)
        for number in range(1 << len(known)):
            chosen = [pair for index, pair in enumerate(known) if number >> index & 1]
            table[sum(1 << bit for _, bit in chosen)] = sum(1 << place for place, _ in chosen)
        return table

    def tables(self) -> TellTables:
        """Return the same tables for the program that tells frames in the kernel."""
        mask = self._flag_mask.astype(np.int64)
        low, high = (
            self._flags.take((np.arange(1 << nr_bits) << shift) & mask).astype(np.uint8)
            for nr_bits, shift in ((LOW_BITS, 0), (HIGH_BITS, LOW_BITS))
        )
        return TellTables(self._kinds_of_types, low, high, self._kinds, Kind.POISONED, Kind.CPU_FREE, Kind.UNTOUCHED)

    def kinds(self, batch: FrameBatch, rows: NDArray[np.intp] | slice = ALL) -> Bytes:
        """Return the kind of each row by what stands in it: of tails, and inside free blocks, that is nothing."""
        flags = self._flags.take((batch.flags[rows] & self._flag_mask).view(np.int64))
        lowest, highest = batch.mapping_bytes
        sort = lowest[rows] & 3 | highest[rows] >> 7 << 2 | (batch.refcounts[rows] != 0).view(np.uint8) << 3
        kinds = self._kinds.take(flags | sort.astype(np.uint16) << NR_FLAG_BITS)
        typed = self._kinds_of_types.take(batch.type_bytes[rows])
        if self._has_poison:
            typed[kinds == Kind.POISONED] = UNTYPED
        result: Bytes = np.where(typed != UNTYPED, typed, kinds)
        # What is free is mapped by nobody: a count of one is a zero where there should be -1.
        result[(result == Kind.CPU_FREE) & (batch.map_counts[rows] == 1)] = Kind.UNTOUCHED
        return result

    def bytes_of(self, batch: FrameBatch) -> Bytes:
        """Return of each frame of a batch its kind, its map state and whether something begins there, as one byte."""
        starts, counts = batch.starts, batch.map_counts
        if batch.ends is None and starts.all():
            kinds = self.kinds(batch)
        else:
            kinds = self._as_owners(batch, counts)
            starts = starts & ~batch.are_tails
        states = map_states(np.where(kinds == Kind.UNTOUCHED, np.int32(0), counts))
        result: Bytes = kinds | states << np.uint8(STATE_SHIFT) | starts.view(np.uint8) * np.uint8(START)
        if batch.good is not None:
            result[~batch.good] = Kind.UNREAD | START
        return result

    def _as_owners(self, batch: FrameBatch, counts: Counts) -> Bytes:
        """Return of each frame what the folio or free block is that it is part of, and correct its count by that."""
        rows, lengths = batch.parts
        kinds = self.kinds(batch, rows)
        folios = np.flatnonzero(batch.are_heads(rows))
        if batch.ends is not None:
            counts[folios] += self.entire_counts(batch, folios)
            return kinds
        kinds = np.repeat(kinds, lengths)
        if folios.size:
            entire = self.entire_counts(batch, rows[folios])
            if entire.any():
                whole = np.zeros(len(rows), np.int32)
                whole[folios] = entire
                counts += np.repeat(whole, lengths)
        lost = self._lost_tails(batch, folios)
        # A tail that stands inside a free block is what was left there.
        lost = lost[kinds[lost] != Kind.FREE]
        if lost.size:
            self._ask_heads(batch, lost, kinds, counts)
        return kinds

    def _lost_tails(self, batch: FrameBatch, folios: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the tails that lie behind something else than their head: it is in another batch, or gone.

        All tails of a folio have the same word, so the first of each is looked at closely.
        """
        if not batch.are_tails.any():
            return folios[:0]
        rows, lengths = batch.parts
        expected = np.zeros(len(rows), np.uint64)
        folios = folios[lengths[folios] > 1]
        heads = rows[folios]
        words = batch.head_words.copy()
        word = words[heads + 1]
        own = self.array.address_of(batch.frames_of(heads))
        expected[folios] = np.where(heads_of(own + np.uint64(self.array.size), word) == own, word, np.uint64(0))
        behind = np.repeat(expected, lengths)
        lost: NDArray[np.intp] = np.flatnonzero(batch.are_tails & ((words != behind) | (behind == 0)))
        return lost

    def entire_counts(self, batch: FrameBatch, heads: NDArray[np.intp]) -> Counts:
        """Return how often some folios are mapped as a whole."""
        at = self.array.entire_at
        words = batch.word_after(heads, at & ~7) >> np.uint64(8 * (at & 7))
        counts: Counts = np.maximum(words.astype(np.uint32).view(np.int32), -1) + np.int32(1)
        return counts

    def _ask_heads(self, batch: FrameBatch, lost: NDArray[np.intp], kinds: Bytes, counts: Counts) -> None:
        """Ask the heads of some tails what these are, and correct it. A tail without a head is none."""
        asked, which = np.unique(batch.heads_of(lost), return_inverse=True)
        there = self.array.batch_of(asked)
        found, entire = self.kinds(there), self.entire_counts(there, np.arange(len(there)))
        found[~there.are_heads(np.arange(len(there)))] = Kind.CHANGED
        sizes = np.left_shift(np.uint64(1), there.orders.astype(np.uint64))
        is_inside = batch.frames_of(lost) - asked[which] < sizes[which]
        kinds[lost] = np.where(is_inside, found[which], np.uint8(Kind.CHANGED))
        counts[lost] = batch.map_counts[lost] + entire[which]


def map_states(counts: Counts) -> Bytes:
    """Return none, one or more of counts."""
    states: Bytes = np.minimum(counts, MAPPED_MORE).astype(np.uint8)
    return states


def kinds_of_keys() -> Bytes:
    """Return the kind for each key: the flags of `FLAGS`, then the lowest bits of the mapping, whether it is an
    address, and whether there are references.
    """
    keys = np.arange(1 << NR_FLAG_BITS + 4)
    flags = {name: keys >> place & 1 == 1 for place, name in enumerate(FLAGS)}
    sort = keys >> NR_FLAG_BITS
    low, is_pointer, is_referenced = sort & 3, sort & IS_POINTER != 0, sort & IS_REFERENCED != 0
    is_file = (low == 0) & is_pointer
    is_none = (low == 0) & ~is_pointer
    swapbacked = flags["PG_swapbacked"]
    rules = (
        (flags["PG_hwpoison"], Kind.POISONED),
        (flags["PG_reserved"], Kind.RESERVED),
        (low == KSM, Kind.KSM),
        (low == ANON, Kind.ANON),
        (low == DRIVER, Kind.MOVABLE),
        (is_file & swapbacked, Kind.SHMEM),
        (is_file & flags["PG_writeback"], Kind.FILE_WRITEBACK),
        (is_file & flags["PG_dirty"], Kind.FILE_DIRTY),
        (is_file, Kind.FILE),
        (is_none & ~is_referenced, Kind.CPU_FREE),
        (is_none & swapbacked & flags["PG_swapcache"], Kind.SWAPCACHE),
        (is_none & np.logical_or.reduce([flags[name] for name in OF_A_FILE]), Kind.ORPHAN),
    )
    conditions = [condition for condition, _ in rules]
    kinds: Bytes = np.select(conditions, [np.uint8(kind) for _, kind in rules], np.uint8(Kind.KERNEL)).astype(np.uint8)
    return kinds

"""A copy of the page tables of a process that is brought up to date: what has changed is found by comparing.

To read all entries again and to compare them takes a twentieth of what it takes to find out what they mean. So who
looks again and again keeps the copy, and asks about those alone that are others than before.

The copy is dense: each table of the level above the last makes a *region*, with room for all entries below it, and a
*row* for each of its own entries: a table of the last level, or a huge leaf, repeated for each of its pages. The
*place* of an entry, and of its page, is its index in the copy. TableRoom of which nothing is used takes no memory.
"""

from __future__ import annotations

import contextlib
import mmap
from itertools import pairwise

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.pagemap import ENTRY_SIZE
from mematlas.model.pagetables.entries import address_of, any_bit, holds, is_table, leaf_address, maps_memory, states
from mematlas.model.pagetables.walk import (
    NR_RETRIES,
    NR_ROWS,
    Span,
    TableLevel,
    Walk,
    Walker,
    WalkingSource,
    merge_spans,
    upper_entries,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.model.pagetables.room import TableRoom
    from mematlas.model.pagetables.walk import PageTableSource

    Places = NDArray[np.intp]
    """Indexes in the copy, of entries or of rows."""

NOTHING, TABLE, LEAF, OTHER = range(4)
"""What a row is: LEAF maps memory, OTHER stands in the place of a leaf, as a migration entry does."""
NR_KINDS = 4
NOWHERE: NDArray[np.intp] = np.zeros(0, np.intp)
FIRST_REGIONS = 16
LARGE = 1 << 20
"""Bytes of a column from which on only what is used of it is to take memory."""
MOST_WALKED = 1 << 14
"""Tables of the last level that are walked at once: 64 MiB that are handed over, of 32 GiB of memory."""


@record
class UpperRows:
    """Rows of the copy as the levels above the last have them now."""

    rows: Places
    kinds: Bytes
    entries: Words
    """What stands for each in the level above."""
    heads: Words
    """The frame of the first page of each, of leaves."""
    firsts: Words
    """Which page of a leaf that is."""
    states: Bytes
    """What the entry is; see `mematlas.model.pagetables.entries.STATE_NAMES`."""
    stand_in: Words
    """The physical address of the table that each entry stands in."""


class KeptTables:
    """The page tables of the user half of an address space, as they were when `read` was called last."""

    def __init__(self, source: PageTableSource | WalkingSource, mode: PagingMode, pgd: int, room: TableRoom) -> None:
        self.source = source
        self.mode = mode
        self.pgd = pgd
        self.room = room
        above, last = mode.levels[-2:]
        self.row_pages = last.nr_entries
        self.region_rows = above.nr_entries
        self.region_pages = above.nr_entries * last.nr_entries
        self.region_shift = above.shift + log2(above.nr_entries)
        # By shifts: dividing takes longer than all else that is done to a place.
        self._page_bits, self._row_bits = log2(last.nr_entries), log2(above.nr_entries)
        self.regions: dict[int, int] = {}
        """Which region of the copy has which addresses: by their upper bits, from ``region_shift`` on."""
        self.numbers: Words = np.zeros(0, np.uint64)
        """These upper bits, by region."""
        self.entries: Words = np.zeros(0, np.uint64)
        """The entries of the last level; in rows of huge leaves the leaf."""
        self.kinds: Bytes = np.zeros(0, np.uint8)
        """What each row is."""
        self.uppers: Words = np.zeros(0, np.uint64)
        """Of each row the entry of the level above."""
        self.heads: Words = np.zeros(0, np.uint64)
        self.firsts: Words = np.zeros(0, np.uint64)
        self.states: Bytes = np.zeros(0, np.uint8)
        self.stand_in: Words = np.zeros(0, np.uint64)
        """Of each row what `UpperRows` says of it."""
        self._is_fresh: Bools = np.zeros(0, np.bool_)
        """Which rows are tables that were not there before, or elsewhere."""
        self.torn: list[Span] = []
        """Ranges that changed each time they were read: nothing of them is in the copy."""
        # Of a source that walks by itself it is asked no more than where memory ends.
        self._walker = Walker(source, mode, pgd, len(mode.levels) - 1)  # type: ignore[arg-type]
        self._span: Span = (0, mode.user_end - 1)
        self._meaning = self._walker.meaning
        bits = any_bit(mode.accessed), any_bit(mode.dirty)
        self._use_mask = np.uint64(0) if bits[0] is None or bits[1] is None else bits[0] | bits[1]

    # Where things are

    def grow(self, numbers: list[int]) -> None:
        """Have regions for addresses with these upper bits.

        Raises:
            NotSupported: they are too many.
        """
        fresh = [number for number in dict.fromkeys(numbers) if number not in self.regions]
        if not fresh:
            return
        nr_regions = len(self.regions) + len(fresh)
        self.room.take(self, nr_regions)
        self.regions |= {number: len(self.regions) + index for index, number in enumerate(fresh)}
        self.numbers = np.array(list(self.regions), np.uint64)
        nr_room = len(self.kinds) // self.region_rows
        if nr_regions <= nr_room:
            return
        nr_rows = max(2 * nr_room, FIRST_REGIONS, nr_regions) * self.region_rows
        used = np.flatnonzero(self.kinds)
        self.entries = grown(self.entries, nr_rows * self.row_pages, used, self.row_pages)
        for name in ("kinds", "uppers", "heads", "firsts", "states", "stand_in"):
            setattr(self, name, grown(getattr(self, name), nr_rows, used, 1))

    def pages_at(self, places: Places) -> Words:
        """Return the numbers of the pages (address / page size) at some places."""
        bits = self._page_bits + self._row_bits
        within = (places & (1 << bits) - 1).astype(np.uint64)
        pages: Words = (self.numbers[places >> bits] << np.uint64(bits)) + within
        return pages

    def split(self, places: Places) -> tuple[Places, Places]:
        """Return the rows that places are in, and where in their rows they are.

        >>> KeptTables.split(kept, np.array([3, 515]))  # doctest: +SKIP
        (array([0, 1]), array([3, 3]))
        """
        return places >> self._page_bits, places & self.row_pages - 1

    def pieces(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return where the pages of a range of addresses are, as ranges of places, in order; only of regions kept."""
        pieces = []
        page_shift = self.mode.page_shift
        for number in range(start >> self.region_shift, (end - 1 >> self.region_shift) + 1):
            region = self.regions.get(number)
            if region is not None:
                base = number << self.region_shift
                low = max(start - base, 0) >> page_shift
                high = min(end - base, 1 << self.region_shift) >> page_shift
                pieces.append((region * self.region_pages + low, region * self.region_pages + high))
        return pieces

    def holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return where, from one address to another, pages may have no entry that maps memory: but for whole rows of
        pages that have one.
        """
        holes = []
        for first, behind in self.pieces(start, end):
            low, high = -(-first // self.row_pages), behind // self.row_pages
            if low >= high:
                continue
            maps = np.asarray(holds(self._rows_of(self.entries)[low:high], self.mode.present), np.bool_)
            full = low + np.flatnonzero(maps.all(axis=1))
            cuts = np.flatnonzero(np.diff(full, prepend=-2, append=-2) != 1)
            addresses = self._addresses_of(full)
            for index, until in pairwise(cuts.tolist()):
                address = int(addresses[index])
                if start < address:
                    holes.append((start, address))
                start = address + (until - index) * self.mode.levels[-2].size
        if start < end:
            holes.append((start, end))
        return holes

    def frames_at(self, places: Places, entries: Words) -> Words:
        """Return the frames of entries at some places, all of which map memory."""
        pfns: Words = leaf_address(self.mode, len(self.mode.levels) - 1, entries) >> np.uint64(self.mode.page_shift)
        rows, within = self.split(places)
        huge = np.flatnonzero(self.kinds[rows] == LEAF)
        if len(huge):
            pfns[huge] = self.heads[rows[huge]] + within[huge].astype(np.uint64)
        return pfns

    # Reading

    def read(self) -> tuple[Places, Places]:
        """Read all tables again; return the places of what is different, and of that of which the use alone is: the
        accessed and the dirty bit of an entry that maps memory. Both ascend; each place is in one of them, once.

        Raises:
            NotSupported: there is not room for all of them.
        """
        if isinstance(self.source, WalkingSource):
            return self._read_walked(self.source)
        changed: list[Places] = []
        used: list[Places] = []
        broken: list[Span] = []
        for attempt in range(1 + NR_RETRIES):
            levels, unread = self._walker.descend(self._span)
            found = self._upper_rows(levels)
            changed.append(self._take_rows(found))
            others, used_alone, bad = self._read_tables(found, None if attempt == 0 else broken)
            changed.append(others)
            used.append(used_alone)
            last = self._last_level(found)
            broken = merge_spans([*unread, *bad, *self._walker.changed([*levels, last])])
            if not broken:
                break
        return self._put_together(changed, used, broken)

    def _put_together(self, changed: list[Places], used: list[Places], broken: list[Span]) -> tuple[Places, Places]:
        """Return what `read` does, with what could not be read left out."""
        for span in broken:
            changed.append(self._leave_out(span))
        self.torn = broken
        every = ascending(np.concatenate(changed))
        used_alone = ascending(np.concatenate(used))
        if len(changed) > 2 or len(changed[0]):  # else each place was looked at once
            used_alone = used_alone[~are_in(used_alone, every)]
        return every, used_alone

    def _read_walked(self, source: WalkingSource) -> tuple[Places, Places]:
        """Read all tables by one walk, which somebody else makes, and which proves each: see `read`."""
        walked = source.walk(self.pgd, *self._span, len(self.mode.levels))
        last = walked.levels[-1]
        if len(last) > MOST_WALKED:
            raise NotSupported(f"following {len(last):,} page tables through a broker", f"{MOST_WALKED:,} at the most")
        gone = self._take_rows(self._upper_rows(list(walked.levels[:-1])))
        rows = self._rows_at(last.addresses)
        kept = self._rows_of(self.entries)
        places, entries = [NOWHERE], [self.entries[:0]]
        for start in range(0, len(rows), NR_ROWS):
            at, data = rows[start : start + NR_ROWS], last.entries[start : start + NR_ROWS]
            differ = np.flatnonzero(data != kept[at])
            which, within = self.split(differ)
            places.append(at[which] * self.row_pages + within)
            entries.append(data.reshape(-1)[differ])
        others, used_alone, bad = self._take(np.concatenate(places), np.concatenate(entries), NOWHERE)
        return self._put_together([gone, others], [used_alone], merge_spans([*walked.torn, *bad]))

    def _rows_at(self, addresses: Words) -> Places:
        """Return the rows of the tables that translate addresses, the first of each."""
        numbers = (addresses >> np.uint64(self.region_shift)).tolist()
        regions = np.array([self.regions[number] for number in numbers], np.intp)
        within = (addresses >> np.uint64(self.mode.levels[-2].shift)).astype(np.intp) & self.region_rows - 1
        return regions * self.region_rows + within

    def entries_now(self, places: Places) -> tuple[Words, Bools]:
        """Return the entries at some places as they are just now, and which of them could be read."""
        if isinstance(self.source, WalkingSource):
            last = len(self.mode.levels) - 1
            addresses = (self.pages_at(places) << np.uint64(self.mode.page_shift)).tolist()
            steps = [self.source.walk_address(self.pgd, address) for address in addresses]
            found = [way[last].entry if len(way) > last else 0 for way in steps]
            return np.array(found, np.uint64), np.array([len(way) > last for way in steps], np.bool_)
        rows, within = self.split(places)
        tables = address_of(self.mode, self.uppers[rows])
        return self.source.entries(tables + within.astype(np.uint64) * np.uint64(ENTRY_SIZE))

    def _upper_rows(self, levels: list[TableLevel]) -> UpperRows:
        """Return the rows that there are now."""
        further_up = range(len(levels) - 1)
        parts = [self._leaf_rows(levels, depth) for depth in further_up if self.mode.levels[depth].can_map]
        above = levels[-1]
        numbers = (above.addresses >> np.uint64(self.region_shift)).tolist()
        entries = above.entries.reshape(-1)
        there = np.flatnonzero(entries)
        entries = entries[there]
        which, index = there >> self._row_bits, there & self.region_rows - 1
        self.grow(numbers)
        regions = np.array([self.regions[number] for number in numbers], np.intp)
        kinds, heads, codes = self._kinds_of(above.level, entries)
        parts.append(
            UpperRows(
                rows=regions[which] * self.region_rows + index,
                kinds=kinds,
                entries=entries,
                heads=heads,
                firsts=np.zeros(len(entries), np.uint64),
                states=codes,
                stand_in=above.tables[which],
            )
        )
        full = [part for part in parts if len(part.rows)]
        if len(full) == 1:
            return full[0]
        names = UpperRows.__match_args__
        return UpperRows(*(np.concatenate([getattr(part, name) for part in full or parts]) for name in names))

    def _kinds_of(self, depth: int, entries: Words) -> tuple[Bytes, Words, Bytes]:
        """Return what rows with these entries of a level are, the frames that leaves begin with, and their states."""
        kinds = np.full(len(entries), TABLE, np.uint8)
        heads = np.zeros(len(entries), np.uint64)
        codes = np.zeros(len(entries), np.uint8)
        rest = np.flatnonzero(~np.asarray(is_table(self.mode, depth, entries), np.bool_))
        if len(rest):
            some = entries[rest]
            codes[rest] = states(self.mode, depth, some)
            kinds[rest] = np.where(maps_memory(codes[rest]), LEAF, OTHER)
            heads[rest] = leaf_address(self.mode, depth, some) >> np.uint64(self.mode.page_shift)
        return kinds, heads, codes

    def _leaf_rows(self, levels: list[TableLevel], depth: int) -> UpperRows:
        """Return the rows that leaves of a level further up make: all those of a region each."""
        walked = Walk(self.mode, 0, *self._span, tuple(levels), (), 0)
        indexes, entries, _ = upper_entries(walked, depth)
        nr_rows = self.mode.levels[depth].size >> self.mode.levels[-2].shift
        addresses = walked.entry_addresses(depth, indexes)
        inside = addresses <= np.uint64(self._span[1])
        indexes, entries, addresses = indexes[inside], entries[inside], addresses[inside]
        bases = (addresses >> np.uint64(self.region_shift)).tolist()
        per_leaf = range(nr_rows // self.region_rows)
        self.grow([base + more for base in bases for more in per_leaf])
        rows = [
            np.arange(self.region_rows) + self.regions[base + more] * self.region_rows
            for base in bases
            for more in per_leaf
        ]
        kinds, heads, codes = self._kinds_of(depth, entries)
        firsts = np.tile(np.arange(nr_rows, dtype=np.uint64) * np.uint64(self.row_pages), len(entries))
        tables = levels[depth].tables[indexes // levels[depth].entries.shape[1]]
        return UpperRows(
            rows=np.concatenate(rows) if rows else np.zeros(0, np.intp),
            kinds=np.repeat(kinds, nr_rows),
            entries=np.repeat(entries, nr_rows),
            heads=np.repeat(heads, nr_rows) + firsts,
            firsts=firsts,
            states=np.repeat(codes, nr_rows),
            stand_in=np.repeat(tables, nr_rows),
        )

    def _take_rows(self, found: UpperRows) -> Places:
        """Take what rows are now, but for the entries of tables; return the places of what that has changed."""
        kinds = np.zeros(len(self.kinds), np.uint8)
        kinds[found.rows] = found.kinds
        changed = [NOWHERE]
        gone = np.flatnonzero((self.kinds == TABLE) & (kinds == NOTHING))
        if len(gone):
            entries = self._rows_of(self.entries)
            rows, within = np.nonzero(entries[gone])
            changed.append(gone[rows] * self.row_pages + within)
            entries[gone] = 0
        huge = np.flatnonzero((self.kinds > TABLE) | (kinds > TABLE))
        if len(huge):
            uppers = np.zeros(len(self.kinds), np.uint64)
            uppers[found.rows] = found.entries
            others = huge[(self.kinds[huge] != kinds[huge]) | (self.uppers[huge] != uppers[huge])]
            fill = np.where(kinds[others] > TABLE, uppers[others], np.uint64(0))
            self._rows_of(self.entries)[others] = fill[:, None]
            changed.append((others[:, None] * self.row_pages + np.arange(self.row_pages)).reshape(-1))
        moved = (self.uppers[found.rows] ^ found.entries) & self._meaning != 0
        self._is_fresh = np.zeros(len(kinds), np.bool_)
        self._is_fresh[found.rows] = moved | (self.kinds[found.rows] != TABLE)
        self.kinds = kinds
        self.uppers[found.rows] = found.entries
        self.heads[found.rows], self.firsts[found.rows] = found.heads, found.firsts
        self.states[found.rows], self.stand_in[found.rows] = found.states, found.stand_in
        return np.concatenate(changed)

    def _rows_of(self, column: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return column.reshape(-1, self.row_pages)

    def _read_tables(self, found: UpperRows, again: list[Span] | None) -> tuple[Places, Places, list[Span]]:
        """Read the tables of the last level; return the places of what is different, of that of which the use alone
        is, and the spans of what is none. With ``again`` those alone that lie in some spans, or were not there before.
        """
        is_wanted = found.kinds == TABLE
        rows, phys = found.rows[is_wanted], address_of(self.mode, found.entries[is_wanted])
        if again is not None:
            chosen = self._lie_in(rows, again) | self._is_fresh[rows]
            rows, phys = rows[chosen], phys[chosen]
        kept = self._rows_of(self.entries)
        places, entries, unread = [NOWHERE], [self.entries[:0]], [NOWHERE]
        assert not isinstance(self.source, WalkingSource)
        for part, data, good in self.source.table_batches(phys):
            at = rows[part]
            first, nr = int(at[0]), len(at)
            follow_on = int(at[-1]) - first == nr - 1 and bool((np.diff(at) == 1).all())
            differ = np.flatnonzero(data != (kept[first : first + nr] if follow_on else kept[at]))
            if len(differ):
                which, within = self.split(differ)
                places.append(at[which] * self.row_pages + within)
                entries.append(data.reshape(-1)[differ])
            if not good.all():
                unread.append(at[~good])
        return self._take(np.concatenate(places), np.concatenate(entries), np.concatenate(unread))

    def _take(self, places: Places, entries: Words, unread: Places) -> tuple[Places, Places, list[Span]]:
        """Take entries that are different, but for those of rows that are none, or were not read."""
        before = self.entries[places]
        self.entries[places] = entries
        maps = np.asarray(holds(before & entries, self.mode.present), np.bool_)
        is_use = maps & ((before ^ entries) & ~self._use_mask == 0)
        rows, _ = self.split(places)
        # What is no table any more has other entries than accesses make.
        suspect = rows[~is_use]
        suspect = suspect[np.flatnonzero(np.diff(suspect, prepend=-1))]
        bad = self._walker.is_junk(len(self.mode.levels) - 1, self._rows_of(self.entries)[suspect], self._span)
        wrong = np.concatenate((unread, suspect[bad]))
        if len(wrong):
            is_wrong = np.isin(rows, wrong)
            self.entries[places[is_wrong]] = before[is_wrong]
            places, is_use = places[~is_wrong], is_use[~is_wrong]
        return places[~is_use], places[is_use], [self._span_of(row) for row in wrong.tolist()]

    def _addresses_of(self, rows: Places) -> Words:
        regions, within = rows >> self._row_bits, rows & self.region_rows - 1
        shift = np.uint64(self.mode.levels[-2].shift)
        addresses: Words = (self.numbers[regions] << np.uint64(self.region_shift)) + (within.astype(np.uint64) << shift)
        return addresses

    def _span_of(self, row: int) -> Span:
        (address,) = self._addresses_of(np.array([row], np.intp)).tolist()
        return address, address + self.mode.levels[-2].size - 1

    def _lie_in(self, rows: Places, spans: list[Span]) -> Bools:
        addresses = self._addresses_of(rows)
        chosen = np.zeros(len(rows), np.bool_)
        size = np.uint64(self.mode.levels[-2].size - 1)
        for first, last in spans:
            chosen |= (addresses <= np.uint64(last)) & (addresses + size >= np.uint64(first))
        return chosen

    def _last_level(self, found: UpperRows) -> TableLevel:
        """Return the tables that were read as a level, without their entries."""
        rows = found.rows[found.kinds == TABLE]
        none = np.zeros((0, self.row_pages), np.uint64)
        addresses = np.sort(self._addresses_of(rows))
        return TableLevel(len(self.mode.levels) - 1, addresses, addresses, none, np.zeros(0, np.uint8))

    def _leave_out(self, span: Span) -> Places:
        """Forget what is known of a span; return the places of what was."""
        rows = np.flatnonzero(self.kinds)
        rows = rows[self._lie_in(rows, [span])]
        entries = self._rows_of(self.entries)
        number, within = np.nonzero(entries[rows])
        entries[rows] = 0
        self.kinds[rows] = NOTHING
        return rows[number] * self.row_pages + within


def ascending(places: Places) -> Places:
    """Return places in ascending order, each once."""
    if (places[1:] > places[:-1]).all():
        return places
    places = np.sort(places)
    return places[np.flatnonzero(np.diff(places, prepend=-1))]


def are_in(some: Places, places: Places) -> Bools:
    """Return which of some places are among others, which ascend.

    >>> are_in(np.array([1, 5, 9]), np.array([2, 5])).tolist()
    [False, True, False]
    """
    if not len(places):
        return np.zeros(len(some), np.bool_)
    at = np.minimum(np.searchsorted(places, some), len(places) - 1)
    found: Bools = places[at] == some
    return found


def nothing_yet(size: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Return so many zeros, which take memory page by page, where they are written to.

    In huge pages, as numpy asks for where there are many, a single row would take one.
    """
    nr_bytes = size * kind.itemsize
    if nr_bytes < LARGE:
        return np.zeros(size, kind)
    memory = mmap.mmap(-1, nr_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind)


def log2(number: int) -> int:
    """Return the logarithm of a power of two."""
    return number.bit_length() - 1


def grown(column: NDArray[Any], size: int, used: Places, row_size: int) -> NDArray[Any]:
    """Return a larger column with the same in the rows that are used: what is not takes no memory.

    >>> grown(np.array([1, 2, 3, 4]), 6, np.array([1]), 2).tolist()
    [0, 0, 3, 4, 0, 0]
    """
    larger = nothing_yet(size, column.dtype)
    larger.reshape(-1, row_size)[used] = column.reshape(-1, row_size)[used]
    return larger

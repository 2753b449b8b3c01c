"""All pages of a process, followed from look to look: what an entry means is found out once, until it changes.

Beside the entry of a page (`mematlas.model.pagetables.kept`) its word is kept, as pagemap has it, with our marks; its
use; and how often its frame is mapped, where that can change while the entry stays as it is. It cannot where the entry
of a private mapping may be written through: such a page is anonymous and nobody else's, or copying on write would fail
(since v5.19 PageAnonExclusive says so of it, include/linux/page-flags.h). That is tried out on some of them each time.
All others are asked about at each look, as long as they are few; else in turn, which `FollowedPages.notes` says.
"""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, Counts, NDArray, Words, np
from mematlas.errors import FormatError, NotSupported, ProcessGone
from mematlas.kernel.backing import Backings, HoleBackings
from mematlas.kernel.kpage import KPF_ZERO_PAGE, read_frame_words
from mematlas.kernel.memory.structpage import UNKNOWN_COUNT
from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    FILE,
    MARK_A,
    MARK_B,
    PM_MMAP_EXCLUSIVE,
    PM_PRESENT,
    PRESENT,
    UNKNOWN,
)
from mematlas.model.hidden import HiddenVmas
from mematlas.model.pagetables import entries as paging
from mematlas.model.pagetables.convert import EntryConverter
from mematlas.model.pagetables.entries import holds, maps_memory
from mematlas.model.pagetables.kept import LEAF, NOTHING, NOWHERE, NR_KINDS, TABLE, KeptTables, are_in, grown
from mematlas.model.pagetables.place_ranges import PlaceRanges
from mematlas.model.pagetables.row_sums import ASKED, DEVICE, HELD, RowSums, state_bytes
from mematlas.model.pagetables.stretches import (
    ANON,
    BEHIND,
    CLASSES,
    HUGETLB_PRIVATE,
    HUGETLB_SHARED,
    NO_MARK,
    PRIVATE,
    UNKNOWN_MARK,
    StretchTable,
    differing,
    stretches_of,
)
from mematlas.model.pagetables.vma_counts import VmaCounts, left_out
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.kept import Places
    from mematlas.model.pagetables.room import TableRoom
    from mematlas.model.pagetables.stretches import Stretch

MOST_ASKED = 1 << 14
"""Pages that are asked about at each look. More are asked about in turn, so that a look takes no longer."""
MOST_OLD = 32
"""Looks after which at the latest a page is asked about again."""
TRY_EACH, NR_TRIED = 8, 16
"""In each of so many looks it is tried, on so many pages, that what may be written through is nobody else's."""
WHY_IN_TURN = f"more than {MOST_ASKED:,} pages may be shared, and are asked about in turn"
IN_TURN = Note(
    "counts-in-turn",
    f"how often pages are mapped may be as of up to {MOST_OLD} looks before, and with it PSS, USS and which pages are"
    f" exclusive: {WHY_IN_TURN}",
)
PAGES_IN_TURN = Note(
    "counts-in-turn",
    f"which single pages are exclusive may be as of up to {MOST_OLD} looks before: {WHY_IN_TURN}",
)
NR_TRIES = 3
NR_TOGETHER = 1 << 15
"""Pages of which it is found out together what they are: what that takes stays in the cache."""
LOW = np.uint64((1 << 56) - 1)
EXCLUSIVE, FILE_BIT = np.uint64(PM_MMAP_EXCLUSIVE), np.uint64(FILE << 56)


class FollowedPages:
    """The pages of one process, as they were at the last `look`."""

    def __init__(self, process: ProcessDir, access: PageTableAccess, room: TableRoom, cached: bool) -> None:
        """``cached`` is for `Backings`.

        Raises:
            PermissionDenied: they may not be looked at.
            NotSupported: they cannot be looked at, or there is no room.
        """
        self.process = process
        self.access = access
        self.frames = access.frames
        self.mode = access.mode
        self.page_size = process.procfs.page_size
        self.words: Words = np.zeros(0, np.uint64)
        """The word of each page, by its place in ``tables``; 0 where there is nothing, or no VMA."""
        self.touched: tuple[Places, ...] = ()
        """The places of pages of which anything but their use alone is other than at the look before; each ascends."""
        self.used: tuple[Places, Bytes, Bytes] = (NOWHERE, np.zeros(0, np.uint8), np.zeros(0, np.uint8))
        """The places of pages of which their use alone is, with the use that they had, and have."""
        self.changed = NOWHERE
        """The places of pages of which the word is."""
        self.before: Words = self.words
        """The words that these had."""
        self.hidden = HiddenVmas(process)
        self.backings: Backings = HoleBackings(process, cached, lambda start, end: [(start, end)])
        """What shows nothing, and what is behind shared memory, at the last look."""
        self._cached = cached
        self._converter = EntryConverter(access)
        self._use: Bytes = np.zeros(0, np.uint8)
        self._counts: Counts = np.zeros(0, np.int32)
        self._asked_at: NDArray[np.int32] = np.zeros(0, np.int32)
        """At which look each row was asked about last, where that goes in turn; 0 for never."""
        self._is_used: Bools = np.zeros(0, np.bool_)
        """Which rows had anything in them at the look before."""
        self._is_marked: Bools = np.zeros(0, np.bool_)
        """Which rows have pages of shared memory that their file holds, whether they have entries or not."""
        self._nr_looks, self._nr_asked = 1, 0
        self._can_trust = True
        """Whether what may be written through is nobody else's, as far as was tried."""
        self._stretches: list[Stretch] = []
        self.mm = access.memory.open_mm(process.pid, process)
        self.tables = KeptTables(access.memory, self.mode, self.mm.pgd, room)
        self._table = StretchTable([], self.tables)
        self._sums = RowSums(self.tables.row_pages)
        self._ranges: tuple[Sequence[Vma], PlaceRanges] = ((), self._table.ranges)

    def close(self) -> None:
        """Let go of the address space, and of the room."""
        self.mm.close()
        self.tables.room.give_back(self.tables)

    def notes(self, are_counted: bool = True) -> list[Note]:
        """Return what is to be said about what was read; about pages alone, unless they ``are_counted``."""
        notes = self.backings.notes()
        if self.access.note:
            notes.append(self.access.note)
        if self._nr_asked > MOST_ASKED:
            notes.append(IN_TURN if are_counted else PAGES_IN_TURN)
        return notes + left_out(self._sums.nr_device, len(self.tables.torn))

    # A look

    def look(self, vmas: Sequence[Vma]) -> None:
        """Bring everything up to date, given the VMAs.

        Raises:
            ProcessGone: the process has ended, or started another program.
            NotSupported: there are more page tables than there is room for.
        """
        try:
            self._look(vmas)
        except (NotSupported, FormatError):
            # What could not be understood may have been tables that were just taken down.
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if not self.access.memory.is_current(self.mm):
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def _look(self, vmas: Sequence[Vma]) -> None:
        changed, used = self.tables.read()
        self._grow()
        self.hidden = HiddenVmas(self.process)
        self.backings = HoleBackings(self.process, self._cached, self.tables.holes)
        stretches = stretches_of(vmas, self.hidden, self.backings)
        self.used = self._take_use(used)
        changed = merged(changed, self._meant_otherwise(stretches))
        turn = self._next_turn()
        places = merged(changed, self._to_renew(turn))
        before = self._columns_at(places)
        if not self._convert(places):
            # What may be written through is somebody else's after all: all that was taken for granted is asked about.
            every = merged(places, self._in_use(0, len(self.words)))
            columns = self._columns_at(every)
            for index, known in enumerate(before):
                columns[index][np.searchsorted(every, places)] = known
            places, before = every, columns
            self._convert(places)
        flipped, told = self._ask(places, turn)
        now = self._columns_at(places)
        differ = before[0] != now[0]
        self.changed = np.concatenate((places[differ], flipped))
        self.before = np.concatenate((before[0][differ], self.words[flipped] ^ EXCLUSIVE))
        for was, column in zip(before[1:], now[1:], strict=True):
            differ |= was != column
        self.touched = (places[differ], told)
        self._is_used = (self.tables.kinds != 0) | self._is_marked
        self._nr_looks += 1

    def _columns_at(self, places: Places) -> tuple[NDArray[Any], ...]:
        """Return what is known of pages: the word, the use and the map count of each."""
        return self.words[places], self._use[places], self._counts[places]

    def _grow(self) -> None:
        """Have room for as much as there is of tables."""
        nr_rows, row_pages = len(self.tables.kinds), self.tables.row_pages
        if len(self._is_used) == nr_rows:
            return
        used = np.flatnonzero(self._is_used)
        size = nr_rows * row_pages
        self.words, self._use = grown(self.words, size, used, row_pages), grown(self._use, size, used, row_pages)
        self._counts = grown(self._counts, size, used, row_pages)
        self._sums.grow(nr_rows, used)
        self._asked_at = grown(self._asked_at, nr_rows, used, 1)
        self._is_used = grown(self._is_used, nr_rows, used, 1)
        self._is_marked = grown(self._is_marked, nr_rows, used, 1)

    # Which pages are looked at

    def _meant_otherwise(self, stretches: list[Stretch]) -> Places:
        """Return the places of the pages of which the VMA, or the file behind it, is not what it was."""
        if stretches == self._stretches:
            if self._table.ranges.nr_regions != len(self.tables.regions):
                self._table = StretchTable(stretches, self.tables)
            return NOWHERE
        # At first there was nothing: all that has an entry is other than before.
        is_first = not self._stretches
        ranges = differing(self._stretches, stretches)
        self._stretches = stretches
        self._mark_rows()
        self._table = StretchTable(stretches, self.tables)
        parts = [NOWHERE]
        for low, high, meaning in ranges:
            for first, end in self.tables.pieces(low, high):
                if meaning is not None and is_held(meaning[1]):
                    parts.append(np.arange(first, end))
                elif not is_first:
                    parts.append(self._in_use(first, end))
        return merged(*parts)

    def _mark_rows(self) -> None:
        """Find the rows of shared memory of which the file holds pages, whether they have entries or not."""
        tables = self.tables
        held = [(start, end) for start, end, meaning in self._stretches if is_held(meaning[1])]
        shift = tables.region_shift
        tables.grow([number for start, end in held for number in range(start >> shift, (end - 1 >> shift) + 1)])
        self._grow()
        self._is_marked[:] = False
        for start, end in held:
            for first, behind in tables.pieces(start, end):
                self._is_marked[first // tables.row_pages : -(-behind // tables.row_pages)] = True

    def _in_use(self, first: int, end: int) -> Places:
        """Return the places from one to another where there is, or was, anything."""
        row_pages = self.tables.row_pages
        rows = slice(first // row_pages, -(-end // row_pages))
        used = np.flatnonzero((self.tables.kinds[rows] != 0) | self._is_used[rows] | self._is_marked[rows]) + rows.start
        entries, words = self.tables.entries.reshape(-1, row_pages), self.words.reshape(-1, row_pages)
        number, within = np.nonzero((entries[used] | words[used]) != 0)
        places: Places = used[number] * row_pages + within
        return places[(places >= first) & (places < end)]

    def _next_turn(self) -> Places:
        """Return the places of the pages to be asked about of which it is the turn: all where they are few, else those
        of the rows that were not asked about for longest.
        """
        nr_asked = self._sums.nr_asked
        rows = np.flatnonzero(nr_asked)
        self._nr_asked = int(nr_asked[rows].sum())
        if self._nr_asked > MOST_ASKED:
            rows = self._due(rows, nr_asked[rows])
            self._asked_at[rows] = self._nr_looks
        use = self._use.reshape(-1, self.tables.row_pages)[rows]
        number, within = self.tables.split(np.flatnonzero(use & ASKED))
        places: Places = rows[number] * self.tables.row_pages + within
        return places

    def _due(self, rows: Places, lengths: NDArray[np.int32]) -> Places:
        """Return which of the rows, with so many pages each, are to be asked about now; they ascend."""
        order = np.argsort(self._asked_at[rows], kind="stable")
        enough = max(-(-self._nr_asked // (MOST_OLD - 1)), MOST_ASKED)
        nr_rows = int(np.searchsorted(np.cumsum(lengths[order]), enough)) + 1
        is_due = self._asked_at[rows] <= self._nr_looks - MOST_OLD + 1
        is_due[order[:nr_rows]] = True
        chosen: Places = rows[is_due]
        return chosen

    def _to_renew(self, turn: Places) -> Places:
        """Return the places of those pages of which it may be another kind of page too that they map: of private files,
        once in a while.
        """
        if self._nr_asked <= MOST_ASKED and self._nr_looks % MOST_OLD != MOST_OLD - 1:
            return NOWHERE
        found = self._table.ranges.find(turn)
        classes = self._table.classes[found]
        chosen: Places = turn[(found >= 0) & ((classes == PRIVATE) | (classes == HUGETLB_PRIVATE))]
        return chosen

    # What they are

    def _convert(self, places: Places) -> bool:
        """Find out what pages at some places are, but for how often those to be asked about are mapped.

        False where something was taken for granted that turned out wrong: then all of it is to be found out again.
        """
        for start in range(0, len(places), NR_TOGETHER):
            self._convert_some(places[start : start + NR_TOGETHER])
        if self._nr_looks % TRY_EACH != 1:
            return True
        held, is_asked = state_bytes(self.words[places]), self._use[places] & ASKED != 0
        granted = places[(held & (PRESENT | MARK_A | MARK_B) == PRESENT) & ~is_asked]
        return self._is_granted_rightly(granted[:: max(1, len(granted) // NR_TRIED)])

    def _convert_some(self, places: Places) -> None:
        rows, _ = self.tables.split(places)
        entries, kinds = self.tables.entries[places], self.tables.kinds[rows]
        found = self._table.ranges.find(places)
        raw: Words = np.zeros(len(places), np.uint64)
        held, use = np.zeros(len(places), np.uint8), np.zeros(len(places), np.uint8)
        for number, kind, chosen in self._alike(found, kinds):
            columns = self._pages_of(number, kind, places[chosen], entries[chosen])
            raw[chosen], held[chosen], use[chosen] = columns
        marked = np.flatnonzero((found >= 0) & (self._table.marks[found] != NO_MARK)) if self._stretches else NOWHERE
        if len(marked):
            of = found[marked]
            held[marked] = BEHIND[self._table.tables[of], self._table.marks[of], held[marked]]
        # What is unknown is so of a whole VMA, holes and all.
        held[held == UNKNOWN] = 0
        self._sums.move(places, (state_bytes(self.words[places]), self._use[places]), (held, use))
        self.words[places] = np.where(held == 0, np.uint64(0), raw & LOW | held.astype(np.uint64) << HELD)
        self._use[places] = use
        self._counts[places] = 0

    def _take_use(self, places: Places) -> tuple[Places, Bytes, Bytes]:
        """Take the use of pages of which that alone is different; return the places, and the use before and now."""
        is_shown = self.words[places] & np.uint64(PM_PRESENT) != 0
        places = places[is_shown]
        was, held = self._use[places], state_bytes(self.words[places])
        use = self._converter.use_of(self.tables.entries[places], np.ones(len(places), np.bool_))
        use |= was & np.uint8(ASKED)
        self._sums.move(places, (held, was), (held, use))
        self._use[places] = use
        return places, was, use

    def _alike(self, found: NDArray[np.intp], kinds: Bytes) -> Iterator[tuple[int, int, NDArray[np.intp] | slice]]:
        """Yield which pages are of one class, in rows of one kind, with these two; but for those in no stretch."""
        if not self._stretches:
            return
        codes = self._table.classes[found].astype(np.intp) * NR_KINDS + kinds
        codes[(found < 0) | (kinds == NOTHING)] = len(CLASSES) * NR_KINDS
        for code in np.flatnonzero(np.bincount(codes)).tolist():
            if code < len(CLASSES) * NR_KINDS:
                chosen = codes == code
                yield *divmod(code, NR_KINDS), slice(None) if chosen.all() else np.flatnonzero(chosen)

    def _pages_of(self, number: int, kind: int, places: Places, entries: Words) -> tuple[Words, Bytes, Bytes]:
        """Return what pages of one class in rows of one kind are: in the form of pagemap, their state bytes, and their
        use, with whether they are to be asked about.
        """
        tables, mode = self.tables, self.mode
        rows, within = tables.split(places)
        zero = numbers = None
        pfns = np.zeros(len(places), np.uint64)
        if kind == TABLE:
            codes = paging.states(mode, len(mode.levels) - 1, entries)
            shown = maps_memory(codes)
            pfns = np.where(shown, tables.frames_at(places, entries), np.uint64(0))
        elif kind == LEAF:
            codes = np.full(len(places), paging.PRESENT, np.uint8)
            pfns = tables.heads[rows] + within.astype(np.uint64)
            zero = self._are_huge_zero(rows)
        else:
            codes = tables.states[rows]
            numbers = tables.firsts[rows] + within.astype(np.uint64)
        is_asked = np.zeros(len(places), np.bool_)

        def bits_of(chosen: slice | NDArray[np.intp]) -> Words:
            is_own = self._are_own(number, entries[chosen])
            is_asked[chosen] = ~is_own
            bits = np.where(is_own, EXCLUSIVE, np.uint64(0))
            rest = np.flatnonzero(~is_own)
            if len(rest):
                bits[rest[~self._are_anonymous(number, pfns[chosen][rest])]] = FILE_BIT
            return bits

        is_hugetlb = number in (HUGETLB_PRIVATE, HUGETLB_SHARED)
        raw, held, use = self._converter.convert(entries, codes, pfns, bits_of, is_hugetlb, zero, numbers)
        if kind == LEAF:
            held[held & PRESENT != 0] |= MARK_B
        use[maps_memory(codes) & (held & PRESENT == 0)] = DEVICE
        use[is_asked] |= ASKED
        return raw, held, use

    def _are_own(self, number: int, entries: Words) -> Bools:
        """Return which entries that map memory say by themselves that it is anonymous, and nobody else's."""
        if number not in (ANON, PRIVATE) or not self._can_trust:
            return np.zeros(len(entries), np.bool_)
        own: Bools = holds(entries, self.mode.writable) & holds(entries, self.mode.present)
        return own

    def _are_anonymous(self, number: int, pfns: Words) -> Bools:
        if number in (PRIVATE, HUGETLB_PRIVATE):
            return self.frames.are_anonymous(pfns)
        return np.full(len(pfns), number == ANON)

    def _are_huge_zero(self, rows: Places) -> Bools:
        """Return which rows are of the huge zero page."""
        heads = self.tables.heads[rows] - self.tables.firsts[rows]
        unique, which = np.unique(heads, return_inverse=True)
        flags, _ = read_frame_words(self.access.memory.procfs, "kpageflags", unique)
        found: Bools = (flags & np.uint64(KPF_ZERO_PAGE) != 0)[which]
        return found

    def _is_granted_rightly(self, places: Places) -> bool:
        """Whether pages that were not asked about are what they are taken for; all are asked about from now on if not.

        What has another entry now was changed meanwhile.
        """
        tables = self.tables
        for _ in range(NR_TRIES):
            if not len(places):
                return True
            entries = tables.entries[places]
            pfns = tables.frames_at(places, entries)
            wrong = (self.frames.map_counts(pfns) != 1) | ~self.frames.are_anonymous(pfns)
            now, good = tables.entries_now(places[wrong])
            places = places[wrong][good & (now == entries[wrong])]
        self._can_trust = False
        return False

    def _ask(self, places: Places, turn: Places) -> tuple[Places, Places]:
        """Ask how often pages are mapped: those of which it is the turn, and of ``places`` those that are to be asked
        about. Return the places of others than these that turned out exclusive, or no longer, and of those with another
        count.
        """
        asked = merged(*(some[self._use[some] & ASKED != 0] for some in (turn, places)))
        if not len(asked):
            return NOWHERE, NOWHERE
        rows, _ = self.tables.split(asked)
        self._asked_at[rows[self._asked_at[rows] == 0]] = self._nr_looks
        counts = self._map_counts(asked)
        told = asked[self._counts[asked] != counts]
        self._counts[asked] = counts
        words, use = self.words[asked], self._use[asked]
        right = np.where(counts == 1, words | EXCLUSIVE, words & ~EXCLUSIVE)
        differ = words != right
        flipped = asked[differ]
        was, are = state_bytes(words[differ]), state_bytes(right[differ])
        self._sums.move(flipped, (was, use[differ]), (are, use[differ]))
        self.words[flipped] = right[differ]
        return flipped[~are_in(flipped, places)], told

    def _map_counts(self, places: Places) -> Counts:
        """Return how often pages are mapped, -1 where that is unknown; in a table of several processes, by each."""
        tables = self.tables
        counts = self.access.map_counts(tables.frames_at(places, tables.entries[places]))
        rows, _ = tables.split(places)
        huge = np.flatnonzero(tables.kinds[rows] == LEAF)
        if len(huge):
            found = self._table.ranges.find(places[huge])
            in_pool = (found >= 0) & (self._table.classes[found] >= HUGETLB_PRIVATE)
            huge = huge[in_pool]
            unique, which = np.unique(tables.stand_in[rows[huge]], return_inverse=True)
            shares = self.frames.table_shares(unique)[which]
            unknown = (shares < 0) | (counts[huge] < 0)
            counts[huge] = np.where(unknown, np.int32(UNKNOWN_COUNT), counts[huge] + shares)
        return counts

    # What is known then

    def with_touched(self, vmas: Sequence[Vma]) -> set[int]:
        """Return the indexes of the VMAs with pages of which anything but their use alone is other than at the look
        before.
        """
        ranges = self._ranges_of(vmas)
        return {number for places in self.touched for number in ranges.with_any(places)}

    def with_use(self, vmas: Sequence[Vma]) -> dict[int, tuple[int, int]]:
        """Return the indexes of VMAs with pages of which the use alone is other than before, each with how many more of
        them are accessed, and how many more dirty.
        """
        places, was, use = self.used
        found = self._ranges_of(vmas).find(places)
        inside = found >= 0
        found, was, use = found[inside], was[inside], use[inside]

        def nr_more(bit: int) -> NDArray[np.intp]:
            now, then = (np.bincount(found[some & bit != 0], minlength=len(vmas)) for some in (use, was))
            return now - then

        accessed, dirty = nr_more(ACCESSED), nr_more(DIRTY)
        changed = np.flatnonzero((accessed != 0) | (dirty != 0))
        return {number: (int(accessed[number]), int(dirty[number])) for number in changed.tolist()}

    def _ranges_of(self, vmas: Sequence[Vma]) -> PlaceRanges:
        known, ranges = self._ranges
        if known is not vmas or ranges.nr_regions != len(self.tables.regions):
            starts, ends = (np.array([getattr(vma, name) for vma in vmas], np.uint64) for name in ("start", "end"))
            ranges = PlaceRanges(self.tables, starts, ends)
            self._ranges = vmas, ranges
        return ranges

    def hole(self, vma: Vma) -> int:
        """Return the state byte of the pages of a VMA of which nothing is known."""
        if self.hidden.is_hidden(vma):
            return UNKNOWN
        return UNKNOWN if vma.kind == "shmem" and self.backings.of(vma) is None else 0

    def count(self, vma: Vma) -> VmaCounts:
        """Return the pages of a VMA, counted."""
        result = VmaCounts()
        if self.hidden.is_hidden(vma):
            return result
        for first, end in self.tables.pieces(vma.start, vma.end):
            self._sums.add_to(result, first, end, self.words, self._use, self.page_size)
            for counts in self._counts_in(first, end):
                result.add_sharers(counts)
        if vma.kind == "hugetlb":
            result.thp = 0
        return result

    def _counts_in(self, first: int, end: int) -> Iterator[Counts]:
        """Yield how often pages from one place to another are mapped; 0 for those that nobody asks about."""
        row_pages = self.tables.row_pages
        low, high = -(-first // row_pages), end // row_pages
        if low >= high:
            edges = [(first, end)]
        else:
            edges = [(first, low * row_pages), (high * row_pages, end)]
            rows = low + np.flatnonzero(self._sums.nr_asked[low:high])
            if len(rows):
                yield self._counts.reshape(-1, row_pages)[rows].reshape(-1)
        for start, stop in edges:
            if self._sums.nr_asked[start // row_pages : -(-stop // row_pages)].any():
                yield self._counts[start:stop]

    def changes(self) -> tuple[Words, Words, Words]:
        """Return the pages of which the word is other than at the look before: their numbers, which ascend (address /
        page size), and their words before and now.
        """
        pages = self.tables.pages_at(self.changed)
        order = np.argsort(pages, kind="stable")
        return pages[order], self.before[order], self.words[self.changed[order]]

    def every(self) -> tuple[Words, Words]:
        """Return all pages that have a word: their numbers, which ascend, and these words."""
        row_pages = self.tables.row_pages
        rows = np.flatnonzero(self._is_used)
        firsts = self.tables.pages_at(rows * row_pages)
        order = np.argsort(firsts)
        words = self.words.reshape(-1, row_pages)[rows[order]].reshape(-1)
        there = np.flatnonzero(words)
        number, within = self.tables.split(there)
        return firsts[order][number] + within.astype(np.uint64), words[there]

    def accessed(self) -> Words:
        """Return the numbers of the pages that are marked as accessed where they are mapped, ascending."""
        row_pages = self.tables.row_pages
        rows = np.flatnonzero(self._is_used)
        firsts = self.tables.pages_at(rows * row_pages)
        order = np.argsort(firsts)
        number, within = np.nonzero(self._use.reshape(-1, row_pages)[rows[order]] & ACCESSED)
        return firsts[order][number] + within.astype(np.uint64)


def is_held(mark: int) -> bool:
    """Whether a mark says of pages without an entry what they are."""
    return mark not in (NO_MARK, UNKNOWN_MARK)


def merged(*parts: Places) -> Places:
    """Return all places of some, which ascend, each once, ascending.

    >>> merged(np.array([2, 5]), np.array([1, 5])).tolist()
    [1, 2, 5]
    """
    every = NOWHERE
    for part in parts:
        if len(every) and len(part):
            more = part[~are_in(part, every)]
            every = np.insert(every, np.searchsorted(every, more), more)
        elif len(part):
            every = part
    return every

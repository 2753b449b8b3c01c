"""A copy of page tables that is brought up to date is what is there, and knows what has changed: constructed ones."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from constructed_pagetables import MODE, ConstructedTables, hidden_entry, swap_entry
from mematlas.errors import NotSupported
from mematlas.model.pagetables.kept import LEAF, OTHER, TABLE, KeptTables
from mematlas.model.pagetables.modes import x86_64
from mematlas.model.pagetables.place_ranges import PlaceRanges
from mematlas.model.pagetables.room import TableRoom
from mematlas.model.pagetables.row_sums import RowSums
from mematlas.model.pagetables.stretches import differing
from mematlas.model.pagetables.vma_counts import VmaCounts

PGD = 0x1000
TABLE_BITS, DATA, READ, HUGE = 0x67, 0x67 | 1 << 63, 0x25 | 1 << 63, 0xE7 | 1 << 63
ACCESSED, DIRTY = 1 << 5, 1 << 6
PAGE, SMALL_TABLE, REGION = 1 << 12, 1 << 21, 1 << 30


class Space:
    """An address space of which each table is made when it is needed."""

    def __init__(self) -> None:
        self.tables = ConstructedTables(MODE)
        self.tables.by_address[PGD] = np.zeros(512, np.uint64)
        self.at: dict[tuple[int, int], int] = {}
        self.nr_made = 0

    def table(self, level: int, address: int) -> int:
        """Return the table of a level that translates an address."""
        if level == 0:
            return PGD
        key = level, address >> MODE.levels[level - 1].shift
        if key not in self.at:
            self.nr_made += 1
            self.at[key] = 0x10000 + self.nr_made * PAGE
            self.tables.by_address[self.at[key]] = np.zeros(512, np.uint64)
            self.put(level - 1, address, self.at[key] | TABLE_BITS)
        return self.at[key]

    def put(self, level: int, address: int, entry: int) -> None:
        """Set the entry of a level for an address."""
        index = address >> MODE.levels[level].shift & 511
        self.tables.by_address[self.table(level, address)][index] = entry

    def free(self, address: int) -> None:
        """Take away the table of the last level."""
        table = self.at.pop((3, address >> 21), None)
        if table is not None:
            del self.tables.by_address[table]
        self.put(2, address, 0)

    def entries(self) -> dict[int, int]:
        """Return the entry of each page, by its number; that of a huge leaf for each of its pages."""
        found = {}
        for (level, number), table in self.at.items():
            entries = self.tables.by_address[table]
            for index in np.flatnonzero(entries).tolist():
                entry = int(entries[index])
                if level == 3:
                    found[(number << 9) + index] = entry
                elif level == 2 and (entry & 0x81) != 1:
                    found |= dict.fromkeys(
                        range((number << 18) + (index << 9), (number << 18) + (index + 1 << 9)), entry
                    )
                elif level == 1 and (entry & 0x81) != 1:
                    found |= dict.fromkeys(
                        range((number << 27) + (index << 18), (number << 27) + (index + 1 << 18)), entry
                    )
        return found


def kept_entries(kept: KeptTables) -> dict[int, int]:
    places = np.flatnonzero(kept.entries)
    return dict(zip(kept.pages_at(places).tolist(), kept.entries[places].tolist(), strict=True))


def follow(space: Space, most: int = 16) -> KeptTables:
    return KeptTables(space.tables, MODE, PGD, TableRoom(most))


PLACES = [region * REGION + table * SMALL_TABLE for region in (1, 2, 7) for table in (0, 1, 200, 511)]


def change(random: Random, space: Space) -> None:
    """Change something, as a process does."""
    at = random.choice(PLACES)
    match random.randrange(8):
        case 0:
            space.free(at)
        case 1:
            space.free(at)
            space.put(2, at, (random.randrange(1, 99) << 21) | HUGE)
        case 2:
            space.free(at)
            space.put(2, at, swap_entry(29, random.randrange(99)))
        case 3:
            for page in random.sample(range(512), random.choice([1, 40])):
                put_small(space, at + page * PAGE, random.randrange(1, 99) << 12 | random.choice([DATA, READ]))
        case 4:
            put_small(space, at + random.randrange(512) * PAGE, swap_entry(0, random.randrange(99)))
        case 5:
            put_small(space, at + random.randrange(512) * PAGE, random.choice([0, hidden_entry(5)]))
        case 6:
            put_small(
                space, at, random.randrange(1, 3) << 12 | 0x1 | 0x4 | random.choice([0, ACCESSED, ACCESSED | DIRTY])
            )
        case 7:
            put_small(space, at + 5 * PAGE, 7 << 12 | 5 | random.choice([0, ACCESSED, ACCESSED | DIRTY, 1 << 58]))


def put_small(space: Space, address: int, entry: int) -> None:
    if int(space.tables.by_address[space.table(2, address)][address >> 21 & 511]) & 0x81 != 1:
        space.at.pop((3, address >> 21), None)  # a leaf is where the table would be
    space.put(3, address, entry)


def of_use_alone(before: int, now: int) -> bool:
    return bool(before & now & 1) and (before ^ now) & ~(ACCESSED | DIRTY | 1 << 58) == 0


@pytest.mark.parametrize("seed", range(8))
def test_the_copy_is_what_is_there_and_knows_what_has_changed(seed: int) -> None:
    random, space = Random(seed), Space()
    kept = follow(space)
    for _ in range(25):
        before = kept_entries(kept)
        for _ in range(random.randrange(4)):
            change(random, space)
        found = kept.read()
        assert all((np.diff(places) > 0).all() for places in found)
        changed, used = (kept.pages_at(places).tolist() for places in found)
        now = space.entries()
        assert kept_entries(kept) == now
        assert not set(changed) & set(used)
        differ = {page for page in before.keys() | now.keys() if before.get(page) != now.get(page)}
        assert differ <= {*changed, *used}
        assert all(of_use_alone(before[page], now[page]) for page in used)
        assert {page for page in differ if not of_use_alone(before.get(page, 0), now.get(page, 0))} <= set(changed)


def test_rows_say_what_stands_in_the_level_above() -> None:
    space = Space()
    space.put(3, REGION, 5 << 12 | DATA)
    space.put(2, REGION + SMALL_TABLE, 3 << 21 | HUGE)
    space.put(2, REGION + 2 * SMALL_TABLE, swap_entry(29, 0x1234))
    space.put(1, 3 * REGION, 7 << 30 | HUGE)
    kept = follow(space)
    kept.read()

    ((first, _),) = kept.pieces(REGION, 2 * REGION)
    assert kept.kinds[first >> 9 :][:3].tolist() == [TABLE, LEAF, OTHER]
    ((first, end),) = kept.pieces(3 * REGION, 4 * REGION)
    rows = kept.kinds[first >> 9 : end >> 9]
    assert set(rows.tolist()) == {LEAF}
    places = np.array([first, first + 700, end - 1])
    assert kept.frames_at(places, kept.entries[places]).tolist() == [7 << 18, (7 << 18) + 700, (8 << 18) - 1]


def test_a_table_that_changes_while_it_is_read_is_read_again() -> None:
    space = Space()
    put_small(space, REGION, 5 << 12 | DATA)
    kept = follow(space)
    kept.read()

    def move() -> None:
        """Have the table be elsewhere: what was read of it may be anything."""
        space.free(REGION)
        put_small(space, REGION, 6 << 12 | DATA)

    space.tables.script = [None, None, None, move]  # behind the three levels above, before the last is read
    changed, _ = kept.read()
    assert kept.torn == []
    assert kept_entries(kept) == space.entries() == {REGION >> 12: 6 << 12 | DATA}
    assert kept.pages_at(changed).tolist() == [REGION >> 12]


def test_what_changes_each_time_it_is_read_is_left_out() -> None:
    space = Space()
    put_small(space, REGION, 5 << 12 | DATA)
    put_small(space, 2 * REGION, 5 << 12 | DATA)
    kept = follow(space)
    kept.read()
    frames = iter(range(6, 99))

    def move() -> None:
        space.free(REGION)
        put_small(space, REGION, next(frames) << 12 | DATA)

    space.tables.script = [move] * 60
    changed, _ = kept.read()
    space.tables.script = []
    assert kept.torn == [(REGION, REGION + SMALL_TABLE - 1)]
    assert kept_entries(kept) == {2 * REGION >> 12: 5 << 12 | DATA}
    assert kept.pages_at(changed).tolist() == [REGION >> 12]

    kept.read()
    assert kept.torn == []
    assert kept_entries(kept) == space.entries()


def test_what_is_no_table_is_not_taken_for_one() -> None:
    space = Space()
    put_small(space, REGION, 5 << 12 | DATA)
    kept = follow(space)
    kept.read()
    table = space.at[3, REGION >> 21]
    space.tables.by_address[table][:] = 0xDEAD_BEEF_0000_0001 | np.arange(512, dtype=np.uint64) << np.uint64(3)

    kept.read()
    assert kept.torn == [(REGION, REGION + SMALL_TABLE - 1)]
    assert kept_entries(kept) == {}


def test_five_levels_are_followed_as_well() -> None:
    mode = x86_64(5)
    tables = ConstructedTables(mode)
    at = 0x00F1237F3C1A2000
    tables.map(at, [0x1000, 0x2000, 0x3000, 0x4000, 0x5000], TABLE_BITS, 9 << 12 | DATA)
    kept = KeptTables(tables, mode, 0x1000, TableRoom(2))
    changed, _ = kept.read()
    assert kept.pages_at(changed).tolist() == [at >> 12]


def test_no_more_is_kept_than_there_is_room_for() -> None:
    space, room = Space(), TableRoom(3)
    kept = KeptTables(space.tables, MODE, PGD, room)
    for number in range(1, 4):
        put_small(space, number * REGION, 5 << 12 | DATA)
    kept.read()
    put_small(space, 9 * REGION, 5 << 12 | DATA)
    with pytest.raises(NotSupported, match="room for 4, of 3"):
        kept.read()
    room.give_back(kept)
    KeptTables(ConstructedTables(MODE), MODE, PGD, room)
    room.take(kept, 3)


@pytest.mark.parametrize("seed", range(10))
def test_holes_are_where_not_all_of_a_table_is_memory(seed: int) -> None:
    random, space = Random(seed), Space()
    for at in PLACES:
        match random.randrange(5):
            case 0:
                space.put(2, at, 9 << 21 | HUGE)
            case 1:
                put_small(space, at + 3 * PAGE, swap_entry(0, 5))
            case 2 | 3:
                for page in range(512):
                    put_small(space, at + page * PAGE, page + 1 << 12 | DATA)
    if random.randrange(2):
        put_small(space, PLACES[0] + 511 * PAGE, swap_entry(0, 5))
    kept = follow(space)
    kept.read()
    start, end = random.choice([(0, 9 * REGION), (REGION + 5 * PAGE, 2 * REGION + SMALL_TABLE + PAGE)])
    holes = kept.holes(start, end)
    edges = [edge for hole in holes for edge in hole]
    assert edges == sorted(set(edges))
    assert all(start <= edge <= end for edge in edges)
    present = {page for page, entry in space.entries().items() if entry & 1}
    for table in range(start - start % SMALL_TABLE, end, SMALL_TABLE):
        low, high = max(table, start), min(table + SMALL_TABLE, end)
        is_full = high - low == SMALL_TABLE and all((low >> 12) + page in present for page in range(512))
        assert any(first <= low and high <= behind for first, behind in holes) != is_full
        assert any(first < high and low < behind for first, behind in holes) != is_full


# --- where things are, and what they add up to


@pytest.mark.parametrize("seed", range(10))
def test_places_are_found_in_ranges_of_addresses(seed: int) -> None:
    random, space = Random(seed), Space()
    for at in random.sample(PLACES, 5):
        put_small(space, at, 5 << 12 | DATA)
    kept = follow(space)
    kept.read()
    edges = [*sorted(random.sample(range(0, 9 * REGION, PAGE), 12)), (1 << 64) - 2 * PAGE, (1 << 64) - PAGE]
    starts, ends = (np.array(edges[which::2], np.uint64) for which in (0, 1))
    ranges = PlaceRanges(kept, starts, ends)
    places = np.array(sorted(random.sample(range(len(kept.regions) << 18), 2000)))
    addresses = (kept.pages_at(places) * np.uint64(PAGE)).tolist()
    pairs = list(zip(starts.tolist(), ends.tolist(), strict=True))
    expected = [next((n for n, (low, high) in enumerate(pairs) if low <= at < high), -1) for at in addresses]

    assert ranges.find(places).tolist() == expected
    assert sorted(set(ranges.with_any(places))) == sorted(set(expected) - {-1})


@pytest.mark.parametrize("seed", range(10))
def test_sums_of_rows_are_those_of_their_pages(seed: int) -> None:
    random = Random(seed)
    sums, nr_rows, size = RowSums(512), 4, 4 * 512
    sums.grow(nr_rows, np.zeros(0, np.intp))
    held, use = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for _ in range(20):
        places = np.array(sorted(random.sample(range(size), random.randrange(1, 600))))
        now = np.array(random.choices([0, 0x81, 0x91, 0x98, 0x40, 0xA0], k=len(places)), np.uint8)
        used = np.array(random.choices(range(8), k=len(places)), np.uint8)
        sums.move(places, (held[places], use[places]), (now, used))
        held[places], use[places] = now, used
        low, high = sorted(random.sample(range(size + 1), 2))
        counts = VmaCounts()
        sums.add_to(counts, low, high, held.astype(np.uint64) << np.uint64(56), use, PAGE)
        part = held[low:high]
        assert counts.by_byte.get(0x81, 0) == np.count_nonzero((part == 0x81) | (part == 0x91))
        assert counts.by_byte.get(0x88, 0) == np.count_nonzero(part == 0x98)
        assert counts.by_byte.get(0x40, 0) == np.count_nonzero(part == 0x40)
        assert counts.thp == PAGE * np.count_nonzero(part == 0x91)
        assert counts.nr_accessed == np.count_nonzero(use[low:high] & 1)
        assert counts.nr_dirty == np.count_nonzero(use[low:high] & 2)
    assert sums.nr_device == np.count_nonzero(use & 4)


@pytest.mark.parametrize("seed", range(30))
def test_what_means_something_else_is_found(seed: int) -> None:
    random = Random(seed)

    def stretches() -> list[tuple[int, int, tuple[int, int, int, tuple[object, ...]]]]:
        edges = sorted(random.sample(range(60), 2 * random.randrange(6)))
        meanings = [(random.randrange(2), random.randrange(2), 0, ()) for _ in edges]
        return list(zip(edges[::2], edges[1::2], meanings, strict=False))

    before, now = stretches(), stretches()

    def at(some: list[tuple[int, int, tuple[int, int, int, tuple[object, ...]]]], place: int) -> object:
        return next((meaning for low, high, meaning in some if low <= place < high), None)

    found = {place: meaning for low, high, meaning in differing(before, now) for place in range(low, high)}
    assert found == {place: at(now, place) for place in range(60) if at(before, place) != at(now, place)}

"""Proven walks: what is given away was a table while it was read, whatever was put in its place meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from constructed_pagetables import CODE, DATA, MODE, PATH, START, ConstructedTables, Words, map_page, plain_tables
from mematlas.errors import NotSupported
from mematlas.model.pagetables.proof import prove, prove_address
from mematlas.model.pagetables.walk import walk, walk_address

SECRET = 0x666000
USER_END = MODE.user_end - 1


class Together(ConstructedTables):
    """Tables of which some can be read together. ``changes`` are made once a table has been read, by its address."""

    most_together = 8
    changes: dict[int, Callable[[], None]]
    read_together: list[list[int]]

    def together(self, phys_addresses: Words, new: slice) -> tuple[Words, Any]:
        self.read_together.append(phys_addresses.tolist())
        assert 0 < len(phys_addresses) <= self.most_together
        return self.tables(phys_addresses)

    def tables(self, phys_addresses: Words, nr_entries: int = 512) -> tuple[Words, Any]:
        return self.changed(phys_addresses, super().tables(phys_addresses, nr_entries))

    def entries(self, phys_addresses: Words) -> tuple[Words, Any]:
        return self.changed(phys_addresses, super().entries(phys_addresses))

    def changed(self, phys_addresses: Words, found: tuple[Words, Any]) -> tuple[Words, Any]:
        for address in phys_addresses.tolist():
            self.changes.pop(address & ~0xFFF, lambda: None)()
        return found


def together(made: ConstructedTables) -> Any:
    found = Together(made.mode, made.memory_end)
    found.by_address = made.by_address
    found.read_together, found.changes = [], {}
    return found


def many() -> Any:
    """Many tables below several of each level."""
    made = plain_tables()
    for number in range(40):
        tables = [PATH[0], PATH[1], 0x100000 + (number // 20 << 12), 0x200000 + (number << 12)]
        made.map((1 << 31) + (number // 20 << 30) + (number % 20 << 21), tables, 0x67, 0x800000 | DATA)
    return together(made)


def test_what_stands_still_is_what_a_walk_finds() -> None:
    made = many()
    proven, found = prove(made, MODE, PATH[0], (0, USER_END), 4), walk(made, MODE, PATH[0])
    assert not proven.torn
    for ours, theirs in zip(proven.levels, found.levels, strict=True):
        assert (ours.addresses == theirs.addresses).all()
        assert (ours.tables == theirs.tables).all()
        assert (ours.entries == theirs.entries).all()
        assert (ours.rights == theirs.rights).all()


def test_each_table_is_read_between_those_above_it() -> None:
    made = many()
    prove(made, MODE, PATH[0], (0, USER_END), 4)
    for asked in made.read_together:
        nr = {PATH[0]: 0}.get(asked[-1], 0)
        above = [table for table in asked if asked.count(table) == 2]
        nr = len(above) // 2
        assert asked[:nr] == asked[len(asked) - nr :]
        assert nr == 0 or asked[0] == PATH[0]


def forge(made: Any, seen: int, unlinked_in: int) -> None:
    """Once a table has been read, unlink what it leads to, or itself, and put what is somebody's into that page."""

    def change() -> None:
        below = PATH[PATH.index(seen) + 1]
        made.by_address[unlinked_in][:3] = 0
        made.put(below, 3, 0, 0x1234567)
        made.put(below, 2, 5, SECRET | 0x67)

    made.put(SECRET, 3, 0, 0x1234567)
    made.changes[seen] = change


FORGED = [(PATH[level], PATH[above]) for level in range(3) for above in range(level + 1)]


@pytest.mark.parametrize(("seen", "unlinked_in"), FORGED)
def test_a_page_that_was_a_table_and_is_none_leads_nowhere(seen: int, unlinked_in: int) -> None:
    made = many()
    forge(made, seen, unlinked_in)
    found = prove(made, MODE, PATH[0], (START, START + (1 << 30) - 1), 4)
    told = [entry for level in found.levels for entry in level.entries.reshape(-1).tolist()]
    assert not made.changes
    assert 0x1234567 not in told
    assert SECRET | 0x67 not in told
    assert not any(SECRET in asked for asked in made.read_together)


def test_an_address_is_not_translated_by_a_page_that_is_no_table() -> None:
    made, control, address = many(), many(), START + 5 * (1 << 21)
    for tables in (made, control):
        forge(tables, PATH[1], PATH[1])
    assert walk_address(control, MODE, PATH[0], address)[-1].table == SECRET
    steps = prove_address(made, MODE, PATH[0], address)
    assert [step.level for step in steps] == ["pgd", "pud"]
    assert steps[-1].state == "empty"


@pytest.mark.parametrize(
    "address", [START, START + 0x10000, START + 0x20000, START + 0x400000, START + 0x600000, 1 << 40]
)
def test_an_address_is_translated_as_without_a_proof(address: int) -> None:
    made = many()
    proven = prove_address(made, MODE, PATH[0], address)
    assert proven == walk_address(made, MODE, PATH[0], address)


def test_a_table_that_changes_in_the_middle_of_reading_together_is_left_out() -> None:
    made = many()
    plain = made.together

    def moved(phys_addresses: Words, new: slice) -> tuple[Words, Any]:
        rows, good = plain(phys_addresses, new)
        if len(phys_addresses) > 2:
            rows[-1] = 0  # behind it, the one above leads to it no more
        return rows, good

    made.together = moved
    found = prove(made, MODE, PATH[0], (0, USER_END), 4)
    assert [len(level) for level in found.levels] == [1, 0, 0, 0]
    assert found.torn
    assert not found.levels[0].entries[0, 0]  # nothing that nobody can follow


@pytest.mark.parametrize(("seen", "unlinked_in"), [(PATH[2], PATH[above]) for above in range(3)])
def test_nothing_is_put_where_others_may_look_that_is_not_proven(seen: int, unlinked_in: int) -> None:
    made = many()
    forge(made, seen, unlinked_in)
    rooms: list[Words] = []

    def rows_for(nr: int, nr_words: int) -> Words:
        rooms.append(np.full((nr, nr_words), 7, np.uint64))
        return rooms[-1]

    found = prove(made, MODE, PATH[0], (0, USER_END), 4, rows_for)
    assert not made.changes
    assert sum(len(room) for room in rooms) > len(found.levels[3])
    assert 0x1234567 not in np.concatenate(rooms)


def test_tables_of_the_last_level_are_left_where_there_was_room_for_them() -> None:
    made, rooms = many(), []

    def rows_for(nr: int, nr_words: int) -> Words:
        rooms.append(np.zeros((nr, nr_words), np.uint64))
        return rooms[-1]

    found = prove(made, MODE, PATH[0], (0, USER_END), 4, rows_for)
    assert [room.shape for room in rooms] == [found.levels[3].entries.shape]
    assert np.shares_memory(rooms[0], found.levels[3].entries)
    assert (rooms[0] == walk(made, MODE, PATH[0]).levels[3].entries).all()


def test_a_table_that_is_new_since_that_above_it_was_read_is_not_spoken_of() -> None:
    made = many()
    path = [*PATH[:3], 0x555000]
    made.changes[PATH[2]] = lambda: made.map(START + (7 << 21), path, 0x67, 0x700000 | CODE)
    found = prove(made, MODE, PATH[0], (START, START + (1 << 30) - 1), 4)
    assert 0x555067 not in found.levels[2].entries
    assert not found.torn


@pytest.mark.parametrize("most", [7, 8, 9, 16, 40])
def test_tables_of_many_parents_are_read_together(most: int) -> None:
    made = many()
    made.most_together = most
    found = prove(made, MODE, PATH[0], (0, USER_END), 4)
    assert found.levels[3].tables.tolist() == walk(made, MODE, PATH[0]).levels[3].tables.tolist()
    assert max(map(len, made.read_together)) > most - 3


def test_where_nothing_proves_it_nothing_is_given() -> None:
    made = many()
    made.most_together = 0
    with pytest.raises(NotSupported, match="run under RCU"):
        prove(made, MODE, PATH[0], (0, USER_END), 4)


def test_a_page_mapped_alone_is_proven() -> None:
    made = together(ConstructedTables(MODE))
    map_page(made, START, 0x700000 | CODE)
    steps = prove_address(made, MODE, PATH[0], START)
    assert [step.entry for step in steps][-1] == 0x700000 | CODE

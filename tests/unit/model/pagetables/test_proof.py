"""Proven walks: what is given away was a table while it was read, whatever was put in its place meanwhile."""

from __future__ import annotations

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
    """Tables of which some can be read together. ``truth`` are those that are there then; by default the same."""

    most_together = 8
    truth: dict[int, Words] | None = None
    read_together: list[list[int]]

    def together(self, phys_addresses: Words) -> tuple[Words, Any]:
        self.read_together.append(phys_addresses.tolist())
        assert 0 < len(phys_addresses) <= self.most_together
        here = self.by_address if self.truth is None else self.truth
        rows = [here.get(address, np.zeros(512, np.uint64)) for address in phys_addresses.tolist()]
        good = [address in here for address in phys_addresses.tolist()]
        return np.array(rows), np.array(good)


def together(made: ConstructedTables) -> Any:
    found = Together(made.mode, made.memory_end)
    found.by_address = made.by_address
    found.read_together = []
    return found


def copied(made: ConstructedTables) -> dict[int, Words]:
    return {address: words.copy() for address, words in made.by_address.items()}


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


def forged(made: Any) -> Any:
    """Have a walk find a PMD whose page is somebody's by then, with an entry that leads to a secret."""
    made.truth = copied(made)
    made.by_address = copied(made)
    made.put(SECRET, 3, 0, 0x1234567)
    made.put(PATH[2], 2, 5, SECRET | 0x67)
    return made


@pytest.mark.parametrize("has_pud", [True, False])
def test_a_page_that_was_a_table_and_is_none_leads_nowhere(has_pud: bool) -> None:
    made = forged(many())
    assert made.truth
    if not has_pud:
        # The table itself is not linked any more, and its page still says what it did.
        made.truth[PATH[1]][1] = 0
        made.truth[PATH[2]] = made.by_address[PATH[2]]
        made.truth[SECRET] = made.by_address[SECRET]
    found = prove(made, MODE, PATH[0], (START, START + (1 << 30) - 1), 4)
    told = [entry for level in found.levels for entry in level.entries.reshape(-1).tolist()]
    assert 0x1234567 not in told
    assert SECRET | 0x67 not in told
    assert SECRET not in [table for level in found.levels for table in level.tables.tolist()]


def test_an_address_is_not_translated_by_a_page_that_is_no_table() -> None:
    made = forged(many())
    forged_steps = walk_address(made, MODE, PATH[0], START + 5 * (1 << 21))
    steps = prove_address(made, MODE, PATH[0], START + 5 * (1 << 21))
    assert forged_steps[-1].table == SECRET  # the control
    assert [step.level for step in steps] == ["pgd", "pud", "pmd"]
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

    def moved(phys_addresses: Words) -> tuple[Words, Any]:
        rows, good = plain(phys_addresses)
        if len(phys_addresses) > 2:
            rows[-1] = 0  # behind it, the one above leads to it no more
        return rows, good

    made.together = moved
    found = prove(made, MODE, PATH[0], (0, USER_END), 4)
    assert [len(level) for level in found.levels] == [1, 0, 0, 0]
    assert found.torn
    assert not found.levels[0].entries[0, 0]  # nothing that nobody can follow


def test_a_table_that_is_new_since_the_walk_is_not_spoken_of() -> None:
    made = many()
    made.truth = copied(made)
    extra = Together(MODE)
    extra.by_address = made.truth
    extra.map(START + (7 << 21), [*PATH[:3], 0x555000], 0x67, 0x700000 | CODE)
    found = prove(made, MODE, PATH[0], (START, START + (1 << 30) - 1), 4)
    assert 0x555067 not in found.levels[2].entries
    assert not found.torn


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

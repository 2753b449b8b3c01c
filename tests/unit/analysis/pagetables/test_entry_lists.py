"""Entries of constructed tables: listed, chosen by their flags, in runs, and as a tree."""

from __future__ import annotations

from typing import Any

import pytest

from constructed_pagetables import MODE, NX, PATH, ConstructedTables, hide_pages, marked_tables, plain_tables
from mematlas.analysis.pagetables.decoded import EntryDecoder
from mematlas.analysis.pagetables.entries import (
    EntryFilter,
    entry_runs,
    entry_targets,
    list_entries,
    parse_flags,
    whole_table,
)
from mematlas.analysis.pagetables.tables import tree_of
from mematlas.errors import BadInput
from mematlas.frozen import as_dict
from mematlas.model.pagetables.entries import STATE_NAMES
from mematlas.model.pagetables.walk import Walk, walk, walk_parts


@pytest.fixture
def tables() -> ConstructedTables:
    return marked_tables()


def rows_of(
    tables: ConstructedTables, flags: str = "", levels: frozenset[int] | None = None, nr_tables: int = 64
) -> list[dict[str, Any]]:
    """Return what is said of each entry that is asked for."""
    parts = walk_parts(tables, MODE, 0x1000, nr_tables=nr_tables)
    wanted = EntryFilter(levels, parse_flags(flags, MODE) if flags else ())
    rows = []
    for found in EntryDecoder(MODE).decode_all(list_entries(parts, wanted)):
        columns = as_dict(found)
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows


def test_entries_are_listed_each_below_its_table(tables: ConstructedTables) -> None:
    rows = rows_of(tables)
    last = rows[-1]

    assert [row["levels"] for row in rows] == ["pgd", "pud", "pmd", *["pte"] * 12, "pmd"]
    assert [hex(row["addresses"]) for row in rows[:4]] == ["0x0", "0x40000000", "0x40000000", "0x40000000"]
    assert (last["levels"], last["indices"], last["addresses"]) == ("pmd", 2, 0x40400000)
    assert (last["entries"], last["phys"], last["leaves"]) == (0x40000000 | 0xE7 | NX, 0x40000000, True)


def test_what_is_not_present_is_decoded(tables: ConstructedTables) -> None:
    by_address = {row["addresses"]: row for row in rows_of(tables, levels=frozenset([3]))}
    swapped, guard, migration, hidden = (by_address[0x40020000 + page * 4096] for page in (1, 4, 5, 6))

    assert (swapped["states"], swapped["swap_types"], swapped["swap_offsets"]) == ("swap", 0, 78)
    assert (swapped["phys"], swapped["leaves"], swapped["flags"]) == (None, False, ("swap",))
    assert (guard["states"], guard["swap_types"], guard["flags"]) == ("guard", None, ("guard",))
    assert (migration["states"], migration["phys"], migration["leaves"]) == ("migration", 0x1234000, False)
    # PROT_NONE stores the frame flipped.
    assert (hidden["states"], hidden["phys"], hidden["leaves"]) == ("prot-none", 0xA00000, True)
    assert "prot-none" in hidden["flags"]


@pytest.mark.parametrize(
    ("flags", "addresses"),
    [
        ("w", [0x40010000, 0x40011000, 0x40400000]),
        ("w,!a", [0x40011000]),
        ("x", [0x40000000, 0x40001000, 0x40002000]),
        ("!nx,present", [0x40000000, 0x40001000, 0x40002000]),
        ("guard", [0x40024000]),
        ("swap", [0x40020000, 0x40021000, 0x40022000, 0x40023000]),
        ("huge", [0x40400000]),
        ("prot-none", [0x40026000]),
        ("table,u", [0, 0x40000000, 0x40000000]),
    ],
)
def test_flags_choose_entries(flags: str, addresses: list[int], tables: ConstructedTables) -> None:
    assert [row["addresses"] for row in rows_of(tables, flags)] == addresses


def test_unknown_flag_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadInput, match=r"no flag 'foo'.*accessed.*guard"):
        parse_flags("w,foo", MODE)


def test_parts_list_the_same_as_the_whole(tables: ConstructedTables) -> None:
    for number in range(5):
        tables.map(0x80000000 + (number << 21), [*PATH[:2], 0x5000, 0x6000 + (number << 12)], 0x67, 0xB00000 | 0x67)

    assert rows_of(tables, nr_tables=1) == rows_of(tables) != []


def test_runs_join_what_says_the_same(tables: ConstructedTables) -> None:
    found = list(entry_runs(MODE, list_entries([walk(tables, MODE, 0x1000)], EntryFilter())))

    assert [(run.start, run.size >> 12, STATE_NAMES[run.state], run.contiguous) for run in found] == [
        (0x40000000, 3, "present", True),
        (0x40010000, 2, "present", False),
        (0x40020000, 4, "swap", True),
        (0x40024000, 1, "guard", True),
        (0x40025000, 1, "migration", True),
        (0x40026000, 1, "prot-none", True),
        (0x40400000, 512, "present", True),
    ]
    assert [(run.nr_accessed, run.nr_dirty) for run in found[:2]] == [(3, 0), (1, 2)]


def test_runs_are_joined_where_a_part_ends() -> None:
    tables = ConstructedTables(MODE)
    for number in range(3 * 512):
        address = 0x40000000 + number * 4096
        tables.map(address, [*PATH[:3], 0x4000 + (number >> 9 << 12)], 0x67, 0x800000 + number * 4096 | 0x67)
    parts = walk_parts(tables, MODE, 0x1000, nr_tables=1)
    (run,) = entry_runs(MODE, list_entries(parts, EntryFilter()))

    assert (run.size, run.nr_entries, run.contiguous) == (3 << 21, 1536, True)


@pytest.mark.parametrize("nr_tables", [1, 64])
def test_the_tree_sums_what_is_below(nr_tables: int, tables: ConstructedTables) -> None:
    tables.map(0x80000000, [0x1000, 0x2000, 0x5000, 0x6000], 0x67, 0xB00000 | 0x67)
    nodes = tree_of(walk_parts(tables, MODE, 0x1000, nr_tables=nr_tables))

    assert [(node.level, node.address, node.nr_used, node.nr_tables, node.mapped) for node in nodes] == [
        (0, 0, 1, 5, (2 << 20) + 7 * 4096),
        (1, 0, 2, 4, (2 << 20) + 7 * 4096),
        (2, 0x40000000, 2, 1, (2 << 20) + 6 * 4096),
        (3, 0x40000000, 12, 0, 6 * 4096),
        (2, 0x80000000, 1, 1, 4096),
        (3, 0x80000000, 1, 0, 4096),
    ]


def test_a_whole_table_has_all_its_entries(tables: ConstructedTables) -> None:
    found = whole_table(MODE, 0, 0, tables.by_address[0x1000])

    assert len(found) == 512
    assert [hex(address) for address in found.addresses[255:257].tolist()] == ["0x7f8000000000", "0xffff800000000000"]
    assert entry_targets(MODE, found)[0][0] == 0x2000


@pytest.fixture
def hiding() -> Walk:
    """The memory of `plain_tables`, with 7 pages under PROT_NONE, two of them of frames that are mapped for writing."""
    tables = plain_tables()
    hide_pages(tables)
    return walk(tables, MODE, 0x1000)


def test_a_list_of_what_is_executable_leaves_out_what_is_hidden(hiding: Walk) -> None:
    listed = {
        name: sum(len(each) for each in list_entries([hiding], EntryFilter(frozenset([3]), ((True, name),))))
        for name in ("executable", "global", "prot-none", "accessed")
    }
    assert listed == {"executable": 3, "global": 0, "prot-none": 7, "accessed": 16}

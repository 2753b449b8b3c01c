"""The walk, over constructed tables of every architecture."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_pagetables import Bools, ConstructedTables, Words
from mematlas.analysis.pagetables.tables import tree_of
from mematlas.model.pagetables.blocks import page_blocks
from mematlas.model.pagetables.entries import PRESENT, PROT_NONE, PagingMode
from mematlas.model.pagetables.modes import arm64, riscv64, x86_64
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, walk, walk_address, walk_parts

ADDRESS = 0x7F3C1A2B4000


def mapped(mode: PagingMode, address: int, table_bits: int, leaf_bits: int, frame: int = 0x1A2B3) -> ConstructedTables:
    tables = ConstructedTables(mode)
    places = [0x100000 + level * 0x100000 for level in range(len(mode.levels))]
    tables.map(address, places, table_bits, tables.pointer(frame << mode.page_shift) | leaf_bits)
    return tables


@pytest.mark.parametrize(
    ("mode", "address", "table_bits", "leaf_bits"),
    [
        (x86_64(4), ADDRESS, 0x67, 0x67),
        (x86_64(5), 0x00F1237F3C1A2000, 0x67, 0x67),
        (arm64(4096), ADDRESS, 3, 3 | 1 << 6 | 1 << 10),
        (arm64(16384), 0x7F3C1A2B4000, 3, 3 | 1 << 6 | 1 << 10),
        (arm64(65536), 0x7F3C1A2B0000, 3, 3 | 1 << 6 | 1 << 10),
        (arm64(4096, 39), 0x3C1A2B4000, 3, 3 | 1 << 6 | 1 << 10),
        (arm64(4096, 52, wide=True), 0x7F3C1A2B4000, 3, 3 | 1 << 6),
        (riscv64(39), 0x3C1A2B4000, 1, 0xD7),
        (riscv64(48), ADDRESS, 1, 0xD7),
        (riscv64(57), ADDRESS, 1, 0xD7),
    ],
    ids=lambda value: value.name if isinstance(value, PagingMode) else "",
)
def test_one_page_is_found_on_every_architecture(
    mode: PagingMode, address: int, table_bits: int, leaf_bits: int
) -> None:
    tables = mapped(mode, address, table_bits, leaf_bits)
    found = walk(tables, mode, 0x100000)
    assert [len(level) for level in found.levels] == [1] * len(mode.levels)
    (page,) = [
        (block.start + (int(place) << mode.page_shift), int(block.pfns[place]))
        for block in page_blocks(found)
        for place in np.flatnonzero(block.states == PRESENT)
    ]
    assert page == (address, 0x1A2B3)
    steps = walk_address(tables, mode, 0x100000, address + 0x123)
    assert [step.level for step in steps] == [level.name for level in mode.levels]
    assert steps[-1].phys == (0x1A2B3 << mode.page_shift) + 0x123


def test_the_kernel_half_has_addresses_with_all_upper_bits_set() -> None:
    mode = x86_64()
    tables = mapped(mode, 0xFFFFFFFF81234000, 0x63, 0x163)
    found = walk(tables, mode, 0x100000, mode.kernel_start, 1 << 64)
    assert int(found.levels[-1].addresses[0]) == 0xFFFFFFFF81200000
    assert not len(walk(tables, mode, 0x100000).levels[1])


@pytest.mark.parametrize("address", [0x0000FFFFF7A01000, 0x1000, 0xFFFF800081234000, 0xFFFFFFFFFFFFF000])
def test_halves_with_tables_of_their_own_translate_all_their_addresses(address: int) -> None:
    # A stack or a library of arm64 lies in the upper half of what TTBR0 translates.
    mode = arm64()
    tables = mapped(mode, address & (1 << 48) - 1, 3, 3 | 1 << 6 | 1 << 10)
    low, high = (0, None) if address < 1 << 48 else (mode.kernel_start, 1 << 64)
    found = walk(tables, mode, 0x100000, low, high)
    (block,) = [each for each in page_blocks(found) if (each.states == PRESENT).any()]
    assert block.start + 4096 * int(np.flatnonzero(block.states == PRESENT)[0]) == address
    assert [step.state for step in walk_address(tables, mode, 0x100000, address)] == ["table"] * 3 + ["present"]
    assert tree_of([found])[0].nr_tables == 3


def test_a_huge_leaf_ends_the_walk() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(0x40200000, [0x1000, 0x2000, 0x3000], 0x67, 0x80000000 | 0xE7)
    found = walk(tables, mode, 0x1000)
    assert [len(level) for level in found.levels] == [1, 1, 1, 0]
    (block,) = page_blocks(found)
    assert (block.start, len(block), int(block.pfns[0]), int(block.pfns[511])) == (0x40200000, 512, 0x80000, 0x801FF)
    steps = walk_address(tables, mode, 0x1000, 0x40212345)
    assert (steps[-1].level, steps[-1].phys) == ("pmd", 0x80012345)


def test_a_gigabyte_leaf_ends_the_walk_one_level_above() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(0x40000000, [0x1000, 0x2000], 0x67, 0x80000000 | 0xE7)
    assert walk_address(tables, mode, 0x1000, 0x41234567)[-1].phys == 0x81234567


def test_blocks_are_cut_to_what_is_asked_for() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(0x40200000, [0x1000, 0x2000, 0x3000], 0x67, 0x80000000 | 0xE7)
    tables.map(0x40400000, [0x1000, 0x2000, 0x3000, 0x4000], 0x67, 0x90000067)
    found = walk(tables, mode, 0x1000)
    (block,) = page_blocks(found, 0x403FF000, 0x40403000)
    assert (block.start, len(block)) == (0x403FF000, 4)
    assert block.pfns.tolist() == [0x801FF, 0x90000, 0, 0]
    assert list(page_blocks(found, 0x10000, 0x20000)) == []


def test_a_huge_prot_none_leaf_has_its_frames() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(0x40200000, [0x1000, 0x2000, 0x3000], 0x67, (~0x80000000 & 0x000FFFFFFFE00000) | 0x180)
    (block,) = page_blocks(walk(tables, mode, 0x1000))
    assert set(block.states.tolist()) == {PROT_NONE}
    assert int(block.pfns[3]) == 0x80003


def test_riscv_napot_pages_are_told_apart_by_where_they_stand() -> None:
    mode = riscv64(39)
    tables = ConstructedTables(mode)
    entry = 1 << 63 | 0x12348 << 10 | 0xD7
    for page in range(16):
        tables.map(0x3C1A2B0000 + page * 4096, [0x1000, 0x2000, 0x3000], 1, entry)
    (block,) = page_blocks(walk(tables, mode, 0x1000), 0x3C1A2B0000, 0x3C1A2C0000)
    assert block.pfns.tolist() == list(range(0x12340, 0x12350))
    assert walk_address(tables, mode, 0x1000, 0x3C1A2B3456)[-1].phys == 0x12343456


def test_rights_of_tables_hold_for_all_below() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(ADDRESS, [0x1000, 0x2000, 0x3000, 0x4000], 0x67, 0x5067)
    index = ADDRESS >> 30 & 511
    tables.by_address[0x2000][index] = 0x3000 | 0x65 | 1 << 63
    assert int(walk(tables, mode, 0x1000).levels[-1].rights[0]) == USER


def test_the_no_execute_of_page_table_isolation_is_not_the_users() -> None:
    mode = x86_64()
    tables = ConstructedTables(mode)
    tables.map(ADDRESS, [0x1000, 0x2000, 0x3000, 0x4000], 0x67, 0x5067)
    tables.by_address[0x1000][ADDRESS >> 39 & 511] |= np.uint64(1 << 63)
    assert int(walk(tables, mode, 0x1000).levels[-1].rights[0]) == WRITABLE | USER | EXECUTABLE


def full(mode: PagingMode) -> ConstructedTables:
    """Three tables of the last level, two pages in each."""
    tables = ConstructedTables(mode)
    for number in range(3):
        for page in range(2):
            address = 0x40000000 + number * 0x200000 + page * 0x1000
            tables.map(address, [0x1000, 0x2000, 0x3000, 0x4000 + 0x1000 * number], 0x67, 0x100067 + page * 0x1000)
    return tables


def test_a_table_that_is_freed_meanwhile_is_left_out_without_complaint() -> None:
    mode, tables = x86_64(), full(x86_64())

    def free() -> None:
        tables.by_address[0x5000] = np.full(512, 0x6D656D61746C6173, np.uint64)
        tables.put(0x3000, 2, 1, 0)

    # Read: pgd, pud, pmd; before the last level is, the second table is freed and given to somebody else.
    tables.script = [None, None, None, free]
    found = walk(tables, mode, 0x1000)
    assert found.levels[-1].tables.tolist() == [0x4000, 0x6000]
    assert (found.torn, found.nr_retries) == ((), 1)
    assert int(found.levels[2].entries[0, 1]) == 0


def test_a_table_that_is_replaced_meanwhile_is_read_again() -> None:
    mode, tables = x86_64(), full(x86_64())

    def replace() -> None:
        tables.map(0x40200000, [0x1000, 0x2000, 0x3000, 0x9000], 0x67, 0x777067)

    tables.script = [None, None, None, None, replace]
    found = walk(tables, mode, 0x1000)
    assert found.levels[-1].tables.tolist() == [0x4000, 0x9000, 0x6000]
    assert int(found.levels[-1].entries[1, 0]) == 0x777067
    assert found.torn == ()


def test_junk_that_stays_is_reported_as_torn_and_not_shown() -> None:
    mode, tables = x86_64(phys_bits=46), full(x86_64())
    tables.by_address[0x5000] = np.full(512, 0x6D656D61746C6173, np.uint64)
    found = walk(tables, mode, 0x1000)
    assert found.torn == ((0x40200000, 0x403FFFFF),)
    assert found.levels[-1].tables.tolist() == [0x4000, 0x6000]


@pytest.mark.parametrize(
    "entry", [1 << 50 | 0x1067, (1 << 45) + 0x1067, 0x1063], ids=["reserved", "beyond-memory", "not-user"]
)
def test_an_entry_that_cannot_be_makes_its_table_junk(entry: int) -> None:
    tables = full(x86_64())
    tables.put(0x5000, 3, 77, entry)
    assert walk(tables, x86_64(phys_bits=46), 0x1000).torn == ((0x40200000, 0x403FFFFF),)


@pytest.mark.parametrize("phys", [0x640000000, 0x650000000, 0x7FF000000, 0x800000000])
@pytest.mark.parametrize("mode", [x86_64(phys_bits=48), x86_64(5), riscv64(48)], ids=lambda mode: mode.name)
def test_a_frame_beyond_memory_is_not_believed(mode: PagingMode, phys: int) -> None:
    tables = ConstructedTables(mode, memory_end=0x640000000)
    places = [0x1000 * (level + 1) for level in range(len(mode.levels))]
    bits, leaf = (1, 0xD7) if mode.napot else (0x67, 0x67)
    tables.map(0x40000000, places, bits, tables.pointer(0x63FFFF000) | leaf)
    assert walk(tables, mode, 0x1000).torn == ()
    tables.map(0x40001000, places, bits, tables.pointer(phys) | leaf)
    assert walk(tables, mode, 0x1000).torn == ((0x40000000, 0x401FFFFF),)


def test_swap_slots_of_any_number_are_no_junk() -> None:
    tables = full(x86_64())
    for number, entry in enumerate((3 << 59 | 0x00FFFFFFFFFFFE00, 0x00FFFFFFFFFFF000, 1 << 51)):
        tables.put(0x5000, 3, 77 + number, entry)
    assert walk(tables, x86_64(phys_bits=46), 0x1000).torn == ()


def test_a_device_page_beyond_memory_is_no_junk() -> None:
    tables = full(x86_64())
    tables.put(0x5000, 3, 77, (1 << 45) + 0x1067 | 1 << 9)
    assert walk(tables, x86_64(phys_bits=46), 0x1000).torn == ()


def test_a_table_that_cannot_be_read_is_torn() -> None:
    tables = full(x86_64())
    del tables.by_address[0x5000]
    assert walk(tables, x86_64(), 0x1000).torn == ((0x40200000, 0x403FFFFF),)


def test_a_range_reads_only_what_translates_it() -> None:
    found = walk(full(x86_64()), x86_64(), 0x1000, 0x40200000, 0x40201000)
    assert found.levels[-1].tables.tolist() == [0x5000]


@pytest.mark.parametrize("nr_tables", [1, 2, 3, 4])
def test_parts_are_the_whole(nr_tables: int) -> None:
    tables = full(x86_64())
    parts = list(walk_parts(tables, x86_64(), 0x1000, nr_tables=nr_tables))
    assert [table for part in parts for table in part.levels[-1].tables.tolist()] == [0x4000, 0x5000, 0x6000]
    assert len(parts) == -(-3 // nr_tables)
    assert parts[0].first == 0
    assert parts[-1].last == x86_64().user_end - 1


def test_an_empty_address_space_is_an_answer() -> None:
    tables = ConstructedTables(x86_64())
    tables.by_address[0x1000] = np.zeros(512, np.uint64)
    found = walk(tables, x86_64(), 0x1000)
    assert (found.nr_tables, found.torn, list(page_blocks(found))) == (1, (), [])
    assert [part.nr_tables for part in walk_parts(tables, x86_64(), 0x1000)] == [1]


def test_nothing_but_tables_is_read() -> None:
    mode, tables = x86_64(), full(x86_64())
    tables.map(0x40800000, [0x1000, 0x2000, 0x3000], 0x67, 0x80000000 | 0xE7)
    tables.put(0x4000, 3, 9, 3 << 59 | 0x5000)
    asked: list[int] = []
    plain = tables.tables

    def noted(phys_addresses: Words, nr_entries: int = 512) -> tuple[Words, Bools]:
        asked.extend(phys_addresses.tolist())
        return plain(phys_addresses, nr_entries)

    tables.tables = noted  # type: ignore[method-assign]
    walk(tables, mode, 0x1000)
    assert set(asked) == {0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000}


def test_accessed_and_dirty_bits_that_change_are_no_reason_to_read_again() -> None:
    mode, tables = x86_64(), full(x86_64())

    def touch() -> None:
        tables.put(0x3000, 2, 1, 0x5047)

    tables.script = [None, None, None, touch]
    assert walk(tables, mode, 0x1000).nr_retries == 0

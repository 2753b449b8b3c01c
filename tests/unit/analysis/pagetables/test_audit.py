"""What is dangerous in constructed tables."""

from __future__ import annotations

import pytest

from constructed_pagetables import DATA, MODE, NX, PATH, READ, ConstructedTables, hide_pages, map_page, plain_tables
from mematlas.analysis.pagetables.audit import Finding, aliases, audit, join_neighbours
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, Walk, walk


@pytest.fixture
def tables() -> ConstructedTables:
    return plain_tables()


@pytest.fixture
def found(tables: ConstructedTables) -> Walk:
    return walk(tables, MODE, 0x1000)


@pytest.fixture
def hiding(tables: ConstructedTables) -> Walk:
    """The memory of `plain_tables`, with 7 pages under PROT_NONE, two of them of frames that are mapped for writing."""
    hide_pages(tables)
    return walk(tables, MODE, 0x1000)


def test_what_is_writable_and_executable_is_found(tables: ConstructedTables) -> None:
    for number in range(7):
        map_page(tables, 0x40030000 + number * 4096, 0xA00000 + number * 4096 | 0x67)
    (finding,) = audit(walk(tables, MODE, 0x1000))
    assert (finding.kind, finding.start, finding.size) == ("writable-executable", 0x40030000, 7 * 4096)


def test_a_table_above_that_forbids_writing_makes_it_harmless(tables: ConstructedTables) -> None:
    map_page(tables, 0x40030000, 0xA00000 | 0x67)
    tables.by_address[0x3000][0] = 0x4065
    assert audit(walk(tables, MODE, 0x1000)) == []


def test_executable_data_is_found_where_data_is(found: Walk) -> None:
    assert audit(found) == []
    (finding,) = audit(found, [(0x40001000, 0x40001FFF)])
    assert (finding.kind, finding.start, finding.size) == ("executable-data", 0x40001000, 4096)


def test_a_kernel_page_open_to_users_is_found() -> None:
    tables = ConstructedTables(MODE)
    tables.map(0xFFFFC90000000000, PATH, 0x67, 0x800000 | 0x165 | NX)
    tables.map(0xFFFFC90000001000, PATH, 0x67, 0x801000 | 0x161 | NX)
    (finding,) = audit(walk(tables, MODE, 0x1000, MODE.kernel_start, 1 << 64))
    assert (finding.kind, finding.start, finding.size) == ("user-in-kernel", 0xFFFFC90000000000, 4096)


def test_the_same_frame_with_other_rights_is_found(tables: ConstructedTables) -> None:
    map_page(tables, 0x40050000, 0x701000 | DATA)
    map_page(tables, 0x40051000, 0x802000 | READ)
    map_page(tables, 0x40052000, 0x804000 | DATA)
    findings = aliases(walk(tables, MODE, 0x1000))
    assert {(each.kind, each.phys, frozenset((each.start, each.other))) for each in findings} == {
        ("writable-alias", 0x701000, frozenset((0x40001000, 0x40050000))),
        ("alias", 0x802000, frozenset((0x40011000, 0x40051000))),
    }


def test_a_page_inside_of_a_huge_one_is_the_same_frame(tables: ConstructedTables) -> None:
    map_page(tables, 0x40050000, 0x40123000 | READ)
    (finding,) = aliases(walk(tables, MODE, 0x1000))
    assert (finding.phys, finding.size) == (0x40123000, 4096)
    assert {finding.start, finding.other} == {0x40050000, 0x40523000}


def test_an_audit_finds_nothing_in_what_is_hidden(hiding: Walk) -> None:
    assert audit(hiding, [(0x40030000, 0x40037FFF)]) == []
    assert aliases(hiding) == []


def test_code_that_may_be_written_to_and_read_elsewhere_is_one_finding(tables: ConstructedTables) -> None:
    map_page(tables, 0x40040000, 0xA00000 | 0x67)
    map_page(tables, 0x40050000, 0xA00000 | READ)
    found = walk(tables, MODE, 0x1000)
    assert [each.kind for each in audit(found)] == ["writable-executable"]
    assert [each.kind for each in aliases(found)] == ["alias"]


@pytest.mark.parametrize(
    ("kind", "rights", "other", "start", "harmless"),
    [
        ("alias", USER, USER | EXECUTABLE, 0x1000, True),
        ("alias", USER, USER | WRITABLE, 0x1000, False),
        ("alias", 0, WRITABLE, 0xFFFF888000000000, True),
        ("writable-alias", WRITABLE, EXECUTABLE, 0x1000, False),
    ],
)
def test_harmless_is_what_nobody_can_write(kind: str, rights: int, other: int, start: int, harmless: bool) -> None:
    assert Finding(kind, start, 4096, rights, 0, 0, other).is_harmless == harmless


def test_neighbours_are_joined_only_where_both_addresses_go_on() -> None:
    def alias(start: int, other: int, rights: int = USER, size: int = 1) -> Finding:
        return Finding("alias", start << 12, size << 12, rights, 7, other << 12, USER | WRITABLE)

    # Two aliases of the same pages lie among each other.
    given = [
        alias(1, 101),
        alias(1, 201),
        alias(2, 102),
        alias(2, 202),
        alias(3, 104),
        alias(3, 203, USER | EXECUTABLE),
    ]
    assert join_neighbours(reversed(given)) == [
        alias(1, 201, size=2),
        alias(1, 101, size=2),
        alias(3, 203, USER | EXECUTABLE),
        alias(3, 104),
    ]
    alone = [Finding("writable-executable", 0x1000, 0x2000, 7, 5), Finding("writable-executable", 0x3000, 0x1000, 7, 9)]
    assert join_neighbours(alone) == [Finding("writable-executable", 0x1000, 0x3000, 7, 5)]

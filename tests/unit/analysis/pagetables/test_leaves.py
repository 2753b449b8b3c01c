"""The leaves of constructed tables."""

from __future__ import annotations

import pytest

from constructed_pagetables import MODE, ConstructedTables, plain_tables
from mematlas.analysis.pagetables.leaves import leaf_runs, leaves_of
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, Walk, walk


@pytest.fixture
def tables() -> ConstructedTables:
    return plain_tables()


@pytest.fixture
def found(tables: ConstructedTables) -> Walk:
    return walk(tables, MODE, 0x1000)


def test_runs_merge_like_neighbours(found: Walk) -> None:
    by_level = [leaf_runs(MODE, leaves_of(found, level)) for level in (2, 3)]
    assert [(run.level, hex(run.start), run.size >> 12, run.rights) for runs in by_level for run in runs] == [
        ("pmd", "0x40400000", 512, WRITABLE | USER),
        ("pte", "0x40000000", 3, USER | EXECUTABLE),
        ("pte", "0x40010000", 5, WRITABLE | USER),
        ("pte", "0x40022000", 1, USER),
    ]


def test_a_range_shows_its_own_leaves_only(tables: ConstructedTables) -> None:
    part = walk(tables, MODE, 0x1000, 0x40001000, 0x40011000)
    assert leaves_of(part, 3).addresses.tolist() == [0x40001000, 0x40002000, 0x40010000]

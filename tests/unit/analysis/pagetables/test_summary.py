"""How big constructed tables are, and what they map: the answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_pagetables import MODE, ConstructedTables, hide_pages, plain_tables
from mematlas.analysis.pagetables.summary import summarize
from mematlas.model.pagetables.walk import Walk, walk, walk_parts


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


def test_the_summary_counts_tables_and_leaves(found: Walk) -> None:
    summary = summarize([found])
    assert [(level.name, level.nr_tables, level.size, level.nr_used) for level in summary.levels] == [
        ("pgd", 1, 4096, 1), ("pud", 1, 4096, 1), ("pmd", 1, 4096, 2), ("pte", 1, 4096, 11)]  # fmt: skip
    huge, small = summary.leaves[1], summary.leaves[2]
    assert (huge.nr_leaves, huge.nr_writable, huge.nr_executable, huge.mapped) == (1, 1, 0, 2 << 20)
    assert (small.nr_leaves, small.nr_writable, small.nr_user) == (9, 5, 9)
    assert (small.nr_executable, small.nr_accessed, small.nr_dirty, small.nr_special) == (3, 9, 5, 1)
    assert summary.nr_others == {"swap": 1, "guard": 1}
    assert summary.mapped == (2 << 20) + 9 * 4096
    assert summary.table_bytes_per_mib == pytest.approx(16384 * (1 << 20) / summary.mapped)


def test_nearly_empty_tables_are_counted(found: Walk) -> None:
    assert [level.nr_few for level in summarize([found]).levels] == [1, 1, 1, 1]


def test_nothing_mapped_has_no_ratio() -> None:
    empty = ConstructedTables(MODE)
    empty.by_address[0x1000] = np.zeros(512, np.uint64)
    assert summarize(walk_parts(empty, MODE, 0x1000)).table_bytes_per_mib is None


def test_hidden_leaves_have_no_rights_and_are_not_global(found: Walk, hiding: Walk) -> None:
    before, after = summarize([found]).leaves[2], summarize([hiding]).leaves[2]
    assert (after.nr_leaves, after.nr_hidden) == (before.nr_leaves + 7, 7)
    assert (after.nr_executable, after.nr_user, after.nr_writable) == (3, 9, 5)
    assert after.nr_global == before.nr_global == 0
    assert after.nr_accessed == before.nr_accessed + 7


def test_hidden_leaves_are_counted_as_leaves_alone(hiding: Walk) -> None:
    summary = summarize([hiding])
    assert summary.nr_others == {"swap": 1, "guard": 1}
    assert summary.nr_hidden == 7

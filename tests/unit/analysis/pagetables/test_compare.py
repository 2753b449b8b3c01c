"""Constructed tables beside what pagemap says of the same pages."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_pagetables import MODE, ConstructedTables, plain_tables
from mematlas.analysis.pagetables.compare import differing_pages, nr_hidden
from mematlas.arrays import Words
from mematlas.model.pagetables.blocks import page_blocks
from mematlas.model.pagetables.walk import Walk, walk


@pytest.fixture
def tables() -> ConstructedTables:
    return plain_tables()


@pytest.fixture
def found(tables: ConstructedTables) -> Walk:
    return walk(tables, MODE, 0x1000)


def words(found: Walk) -> Words:
    """Return what pagemap says of the block at 1 GiB, when all is well."""
    block = next(iter(page_blocks(found)))
    said = np.zeros(len(block), np.uint64)
    said[:3] = [1 << 63 | 0x700 + number for number in range(3)]
    said[16:21] = [1 << 63 | 0x800 + 2 * number for number in range(5)]
    said[0x20], said[0x21] = 1 << 62 | 77 << 5, 1 << 62 | 1 << 58 | 4 << 5 | 31
    said[0x22] = 1 << 63 | 0x900
    return said


def test_tables_and_pagemap_agree(found: Walk) -> None:
    block = next(iter(page_blocks(found)))
    assert differing_pages(MODE, block, words(found)) == []


@pytest.mark.parametrize(
    ("place", "word", "reason"),
    [
        (0, 0, "presence"),
        (0, 1 << 63 | 0x999, "frame"),
        (0x20, 1 << 62 | 78 << 5, "slot"),
        (0x20, 0, "swap"),
        (0x22, 0, "special"),
        (0x30, 1 << 63 | 5, "presence"),
    ],
)
def test_each_disagreement_has_its_reason(found: Walk, place: int, word: int, reason: str) -> None:
    block = next(iter(page_blocks(found)))
    said = words(found)
    said[place] = word
    (each,) = differing_pages(MODE, block, said)
    assert (each.address, each.reason, each.pagemap) == (0x40000000 + place * 4096, reason, word)


def test_hidden_frames_are_no_disagreement(found: Walk) -> None:
    block = next(iter(page_blocks(found)))
    said = words(found)
    said[:3] = 1 << 63
    assert differing_pages(MODE, block, said) == []


def test_entries_whose_place_is_hidden_are_counted(found: Walk) -> None:
    said = words(found)
    assert nr_hidden(said) == 0
    said[:3], said[0x20] = 1 << 63, 1 << 62
    assert nr_hidden(said) == 4

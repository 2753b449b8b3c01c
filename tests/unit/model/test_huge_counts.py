"""Where PAGEMAP_SCAN cannot be asked, what may be a huge page is guessed, whatever the size of a page is."""

from __future__ import annotations

import struct

import pytest

from mematlas.kernel.pagemap import PM_MMAP_EXCLUSIVE, PM_PRESENT, Block
from mematlas.model.hugecounts import guessed_ranges

PAGE_SIZES = [4 << 10, 16 << 10, 64 << 10]


def block_of(page: int, entries: list[int], page_size: int) -> Block:
    """Return a block that begins with a page of this number."""
    raw = memoryview(bytearray(struct.pack(f"={len(entries)}Q", *entries)))
    return Block(page * page_size, raw, bytes(raw[7::8]))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("nr_read", [512, 8192])
def test_frames_in_a_row_that_are_aligned_as_their_addresses_may_be_huge(page_size: int, nr_read: int) -> None:
    per_table = page_size // 8
    aligned = [PM_PRESENT | frame for frame in range(3 * per_table, 3 * per_table + nr_read)]
    shifted = [entry + 1 for entry in aligned]

    pieces = list(guessed_ranges(block_of(8192, aligned, page_size), page_size))
    assert (pieces[0][0], pieces[-1][1]) == (0, nr_read)
    assert {high - low for low, high in pieces} == {min(per_table, nr_read)}
    assert list(guessed_ranges(block_of(8192, shifted, page_size), page_size)) == []


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_hidden_frames_may_be_huge_in_blocks_of_any_length(page_size: int) -> None:
    entries = [PM_PRESENT | PM_MMAP_EXCLUSIVE] * 512

    assert list(guessed_ranges(block_of(8192, entries, page_size), page_size)) == [(0, 512)]
    assert list(guessed_ranges(block_of(8192, [*entries[:-1], PM_PRESENT], page_size), page_size)) == []
    assert list(guessed_ranges(block_of(8192, entries[:511], page_size), page_size)) == []

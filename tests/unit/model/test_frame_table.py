"""Numbers for frames, wherever these are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.errors import FormatError, TooLarge
from mematlas.model.frame_table import FRAME_BITS, LEAF, FrameTable

FRAMES = st.lists(st.integers(0, (1 << FRAME_BITS) - 1) | st.integers(0, 200), min_size=1, max_size=60)


@given(st.lists(FRAMES, min_size=1, max_size=4))
def test_what_was_put_down_for_a_frame_stays_there(lots: list[list[int]]) -> None:
    table, known = FrameTable(), dict[int, int]()
    for number, frames in enumerate(lots, 1):
        known |= dict.fromkeys(frames, number)
        table.sets[table.places(np.array(frames, np.uint64))] = number

    every = np.array(list(known), np.uint64)
    assert table.sets[table.places(every)].tolist() == list(known.values())
    assert int(np.count_nonzero(table.used(table.sets))) == len(known)


def test_frames_at_the_end_of_the_address_space_take_no_more_than_others() -> None:
    table = FrameTable()
    table.places(np.array([0, (1 << FRAME_BITS) - 1], np.uint64))

    assert table.nr_used == 2 * LEAF
    assert table.sets.nbytes < 4 << 20


def test_a_frame_takes_12_bytes_where_all_of_memory_is_shared() -> None:
    table, nr_frames = FrameTable(), 1 << 20
    for first in range(0, nr_frames, 1 << 16):
        table.places(np.arange(first, first + (1 << 16), dtype=np.uint64))

    taken = sum(column.nbytes for column in (table.sets, table.counts, table.left))
    assert taken <= nr_frames * 12 * 1.3


def test_frame_that_no_machine_has_is_refused() -> None:
    with pytest.raises(FormatError, match="frame 0x10000000000"):
        FrameTable().places(np.array([1 << FRAME_BITS], np.uint64))


def test_no_more_is_taken_than_a_stranger_is_allowed() -> None:
    table = FrameTable(most_leaves=2)
    table.places(np.array([1, 2, LEAF], np.uint64))

    with pytest.raises(TooLarge):
        table.places(np.array([2 * LEAF], np.uint64))

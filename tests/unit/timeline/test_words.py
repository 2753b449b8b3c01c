"""Files of words at one moment after another: what is put together from changes is what was there."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.errors import FormatError
from mematlas.kernel.pagemap import PM_PFRAME, PM_PRESENT
from mematlas.timeline import words as module
from mematlas.timeline.words import Sparse, changed, changes, empty, from_parts, pack, parts_of, unpack, without_frames

WORD = st.one_of(st.integers(1, 3), st.integers(1, (1 << 64) - 1))
NEAR = st.dictionaries(st.integers(0, 3000), WORD, max_size=400)
"""Words that lie close together, in some rows."""
FILE = st.dictionaries(st.one_of(st.integers(0, 40), st.integers(0, (1 << 60) - 1)), WORD, max_size=40)


def sparse(file: dict[int, int]) -> Sparse:
    at = sorted(file)
    return Sparse(np.array(at, np.uint64), np.array([file[index] for index in at], np.uint64))


def as_dict(file: Sparse) -> dict[int, int]:
    indexes = file.indexes.tolist()
    assert indexes == sorted(set(indexes))
    return dict(zip(indexes, file.words.tolist(), strict=True))


@given(st.one_of(FILE, NEAR))
def test_a_file_is_what_was_packed(file: dict[int, int]) -> None:
    assert as_dict(unpack(pack(sparse(file)))) == file
    assert as_dict(from_parts(parts_of(sparse(file)))) == file


@given(st.lists(st.one_of(FILE, NEAR), min_size=1, max_size=12))
def test_changes_one_after_the_other_make_what_was_there(history: list[dict[int, int]]) -> None:
    before, told = empty(), empty()
    for now in map(sparse, history):
        delta = changes(before, now)
        told = changed(told, unpack(pack(delta)))
        before = now
        assert as_dict(told) == as_dict(now)


@given(st.one_of(st.tuples(FILE, FILE), st.tuples(NEAR, NEAR)))
def test_changes_are_no_more_than_there_are(two: tuple[dict[int, int], dict[int, int]]) -> None:
    one, other = two
    differ = {index for index in one.keys() | other.keys() if one.get(index) != other.get(index)}
    assert as_dict(changes(sparse(one), sparse(other))).keys() == differ


def test_of_pages_that_are_present_frames_can_be_left_out() -> None:
    entries = {3: PM_PRESENT | 1 << 56 | 4711, 9: 1 << 62 | 77}
    assert as_dict(without_frames(sparse(entries))) == {3: PM_PRESENT | 1 << 56, 9: 1 << 62 | 77}
    assert without_frames(sparse(entries)).words[0] & np.uint64(PM_PFRAME) == 0


def packed(head: tuple[int, int], *arrays: bytes) -> bytes:
    return zlib.compress(struct.pack("<IQ", *head) + b"".join(arrays))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 50,
        zlib.compress(b"x"),
        packed((1, 0)),
        packed((1, 2), bytes(8), struct.pack("<I", 1), bytes(16)),
        packed((1, 1), bytes(8), struct.pack("<I", 0), bytes(8)),
        packed((1, 1), struct.pack("<Q", 1 << 63), struct.pack("<I", 1), bytes(8)),
        packed((2, 2), struct.pack("<2Q", (1 << 61) - 1, (1 << 61) - 1), struct.pack("<2I", 1, 1), bytes(16)),
        packed((1, 1), bytes(8), struct.pack("<I", 1), bytes(9)),
        packed((0, module.MOST_WORDS + 1)),
    ],
)
def test_what_is_no_file_of_words_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        unpack(data)


def test_no_more_is_unpacked_than_the_head_says() -> None:
    with pytest.raises(FormatError, match="20 bytes"):
        unpack(zlib.compress(struct.pack("<IQ", 1, 1) + bytes(1 << 26)))

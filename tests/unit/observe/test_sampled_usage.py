"""Blocks of addresses, and the parts of VMAs in them."""

from __future__ import annotations

from mematlas.kernel.maps import Vma
from mematlas.model.random_blocks import blocks_of, nth_of
from mematlas.observe.sampled_usage import pieces_in

SIZE = 1 << 21


def vma(start: int, end: int, offset: int = 0, inode: int = 0) -> Vma:
    return Vma(start, end, "rw-p", offset, "08:01" if inode else "00:00", inode, "", "file" if inode else "anon")


VMAS = [
    vma(0x1000, 0x3000),
    vma(0x5000, 3 * SIZE, 0x7000, 9),
    vma(3 * SIZE, 3 * SIZE + 0x1000),
    vma(9 * SIZE, 11 * SIZE),
]
SPANS = [(one.start, one.end) for one in VMAS]


def test_every_address_is_in_one_block() -> None:
    assert [list(some) for some in blocks_of(SPANS, SIZE)] == [[0], [1, 2], [3], [9, 10]]


def test_blocks_of_all_places_have_all_of_every_vma() -> None:
    ranges = blocks_of(SPANS, SIZE)
    pieces = list(pieces_in(VMAS, nth_of(ranges, range(6)), SIZE))
    assert sum(piece.size for piece in pieces) == sum(one.size for one in VMAS)
    assert all(piece.start // SIZE == (piece.end - 1) // SIZE for piece in pieces)


def test_part_of_a_file_begins_where_it_lies_in_the_file() -> None:
    (piece,) = pieces_in(VMAS, [2], SIZE)
    assert (piece.start, piece.end, piece.offset) == (2 * SIZE, 3 * SIZE, 0x7000 + 2 * SIZE - 0x5000)


def test_blocks_that_were_not_chosen_are_left_out() -> None:
    assert [(piece.start, piece.end) for piece in pieces_in(VMAS, [0, 10], SIZE)] == [
        (0x1000, 0x3000),
        (0x5000, SIZE),
        (10 * SIZE, 11 * SIZE),
    ]

"""Cells count every page once, wherever blocks and holes end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.analysis.grid import (
    CLASS_OF_BYTE,
    CLASSES,
    FOLD_FROM,
    MAX_FOLDS,
    Cells,
    absent_runs,
    choose_folds,
    class_of,
)
from mematlas.analysis.neighbours import choose_cell_pages, cut_at
from mematlas.kernel.maps import parse_maps
from mematlas.kernel.pagemap import Block
from mematlas.model.pages import STATES, Hole

BYTES = (0x00, 0x81, 0x80, 0xA0, 0x88, 0x40, 0x44, 0x48, 0x08, 0x10, 0x18)
pieces = st.lists(
    st.one_of(
        st.lists(st.sampled_from(BYTES), min_size=1, max_size=40).map(bytes),
        st.builds(Hole, st.just(0), st.integers(1, 3000), st.sampled_from([0x00, 0x18])),
    ),
    max_size=8,
)


@given(pieces, st.integers(1, 70))
def test_cells_hold_what_a_count_page_by_page_finds(parts: list[bytes | Hole], cell_pages: int) -> None:
    every = [byte for part in parts for byte in (part if isinstance(part, bytes) else [part.byte] * len(part))]
    cells = Cells(len(every), cell_pages)
    place = 0
    for part in parts:
        if isinstance(part, bytes):
            cells.add(place, Block(0, memoryview(bytes(8 * len(part))), part))
        else:
            cells.add_hole(place, len(part), CLASS_OF_BYTE[part.byte])
        place += len(part)

    for cell in range(cells.nr_cells):
        slowly = Counter(CLASS_OF_BYTE[byte] for byte in every[cell * cell_pages : (cell + 1) * cell_pages])
        assert {name: nr for name, nr in cells.classes(cell).items() if nr} == slowly
        assert sum(cells.classes(cell).values()) == cells.size_of(cell)


def test_cell_that_nobody_counted_is_absent() -> None:
    cells = Cells(10, 4)

    assert (cells.nr_cells, cells.size_of(2)) == (3, 2)
    assert cells.classes(2) == dict.fromkeys(CLASSES, 0) | {"absent": 2}


@given(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=50), st.integers(1, 2000))
def test_pages_a_cell_are_the_least_power_of_two_that_fits(sizes: list[int], room: int) -> None:
    cell_pages = choose_cell_pages(sizes, room)

    def needed(pages: int) -> int:
        return sum(-(-size // pages) for size in sizes)

    assert cell_pages & (cell_pages - 1) == 0
    assert needed(cell_pages) <= max(room, len(sizes))
    assert cell_pages == 1 or needed(cell_pages // 2) > max(room, len(sizes))


def test_no_pages_at_all_need_no_cell() -> None:
    assert choose_cell_pages([], 100) == 1
    assert Cells(0, 1).nr_cells == 0


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_has_one_class(byte: int) -> None:
    assert class_of(byte) in CLASSES
    assert set(CLASSES) - {"own", "shared"} == set(STATES) - {"present"}


PAGE = 1 << 20  # large pages, so that a few of them are a long run
LEAST = FOLD_FROM // PAGE
VMA_A, VMA_B = parse_maps([b"100000-a00000 ---p 0 00:00 0", b"a00000-2000000 rw-p 0 00:00 0"])
mostly_absent = st.lists(
    st.one_of(
        st.lists(st.sampled_from([0x00, 0x00, 0x00, 0x81]), min_size=1, max_size=40).map(bytes),
        st.builds(Hole, st.just(0), st.integers(1, 9), st.sampled_from([0x00, 0x00, 0x18])),
    ),
    max_size=9,
)


def laid_out(parts: list[bytes | Hole]) -> Iterator[Block | Hole]:
    """Yield pieces one after the other, from address 0."""
    place = 0
    for part in parts:
        if isinstance(part, bytes):
            yield Block(place * PAGE, memoryview(bytes(8 * len(part))), part)
        else:
            yield Hole(place * PAGE, part.nr_pages, part.byte)
        place += len(part)


@given(mostly_absent)
def test_long_runs_are_those_that_a_look_at_every_page_finds(parts: list[bytes | Hole]) -> None:
    every = b"".join(part if isinstance(part, bytes) else bytes((part.byte,)) * len(part) for part in parts)

    runs = [(low // PAGE, high // PAGE) for low, high in absent_runs(laid_out(parts), PAGE)]
    assert runs == [found.span() for found in re.finditer(b"\0{%d,}" % LEAST, every)]


def folds_of(*parts: bytes | Hole) -> list[tuple[int, int]]:
    nr_pages = sum(map(len, parts))
    found = choose_folds([(0, nr_pages * PAGE, laid_out(list(parts)))], PAGE)
    return [(low // PAGE, high // PAGE) for low, high in found]


def test_runs_are_folded_where_they_are_the_greater_part_but_not_all() -> None:
    used = bytes((0x81,)) * 100

    assert folds_of(used, Hole(0, 101, 0x00)) == [(100, 201)]
    assert folds_of(used, Hole(0, 100, 0x00)) == []
    assert folds_of(Hole(0, 101, 0x00)) == []
    assert folds_of(used, Hole(0, 101, 0x18)) == []


def test_of_a_sparse_giant_the_longest_runs_are_folded() -> None:
    parts = [part for number in range(2 * MAX_FOLDS) for part in (b"\x81", Hole(0, LEAST + 9 * (number % 2), 0x00))]

    found = folds_of(*parts)
    assert len(found) == MAX_FOLDS
    assert {high - low for low, high in found} == {LEAST + 9}


@given(st.lists(st.integers(0, 40), max_size=8).map(sorted))
def test_parts_are_all_there_cut_where_something_is_folded(edges: list[int]) -> None:
    runs = [(low * PAGE, high * PAGE) for low, high in zip(edges[::2], edges[1::2], strict=False) if low < high]
    whole = [(VMA_A, VMA_A.start, VMA_A.end), (VMA_B, VMA_B.start, VMA_B.end)]

    parts = list(cut_at(whole, runs))
    assert [(part.start, part.end) for part in parts] == sorted((part.start, part.end) for part in parts)
    for page in range(1, 32):
        (part,) = (part for part in parts if part.start <= page * PAGE < part.end)
        assert part.is_folded == any(low <= page * PAGE < high for low, high in runs)
        assert part.vma.start <= part.start < part.end <= part.vma.end

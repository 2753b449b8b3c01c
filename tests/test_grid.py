"""Cells count every page once, wherever blocks and holes end."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.analysis.grid import CLASS_OF_BYTE, CLASSES, Cells, choose_cell_pages, class_of
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

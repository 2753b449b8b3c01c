"""Rows of cells: all of them stand somewhere, no row is too wide, and what stands where is known both ways."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from mematlas.analysis.page_cells import PageSpace, space_of
from mematlas.tui.page_rows import MARK, SEPARATOR, PageRows, rows_that_fit


def random_space(random: Random) -> tuple[PageSpace, np.ndarray]:
    """Return a space of VMAs and their names, as numbers."""
    firsts, ends, pages, at = [], [], [], 0
    for _ in range(random.randrange(1, 30)):
        at += random.choice([0, 0, 4, 1000])
        firsts.append(at)
        at += random.choice([1, 3, 30, 200, 900])
        ends.append(at)
        pages += [page for page in range(firsts[-1], at) if random.random() < 0.02]
    names = np.array([random.randrange(3) for _ in firsts])
    return space_of(np.array(firsts), np.array(ends), np.array(pages, np.uint64)), names


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_what_stands_where_is_known_both_ways(seed: int, is_dense: bool) -> None:
    random = Random(seed)
    space, names = random_space(random)
    for columns in (8, 17, 64):
        rows = PageRows(space, names, random.choice([1, 2, 32]), columns, is_dense)
        drawn = []
        for number in range(rows.nr_rows):
            parts = rows.row(number)
            widths = [end - first + (MARK if is_marked else SEPARATOR) for _, first, end, is_marked in parts]
            assert 0 < sum(widths) <= columns + (not parts[-1][3])
            column = 0
            for (word, first, end, is_marked), width in zip(parts, widths, strict=True):
                for cell in range(first, end):
                    drawn.append((word, cell))
                    assert rows.where((word, cell)) == (number, column + cell - first)
                    assert rows.at(number, column + cell - first) == (word, cell)
                if is_marked:
                    drawn.append((word, rows.cells[word]))
                    assert rows.where(drawn[-1]) == (number, column + end - first)
                    assert rows.at(number, column + end - first + MARK - 1) == drawn[-1]
                column += width
        # All cells and all marks, each once and in order; and so goes the cursor.
        every = [(word, cell) for word, nr in enumerate(rows.cells) for cell in range(nr + rows.has_mark[word])]
        assert drawn == every
        assert [rows.step(place, 1) for place in every] == [*every[1:], every[-1]]
        assert [rows.step(place, -1) for place in every] == [every[0], *every[:-1]]
        assert all(rows.place_of(rows.page_of(place)) == place for place in every)


@pytest.mark.parametrize("seed", range(20))
def test_all_fits_in_the_rows_that_there_are(seed: int) -> None:
    space, names = random_space(Random(seed))
    for columns, height in ((16, 3), (64, 20), (120, 50)):
        rows = rows_that_fit(space, names, columns, height, None)

        assert rows.nr_rows <= height
        if rows.cell_pages > 1:
            assert PageRows(space, names, rows.cell_pages // 2, columns, is_dense=True).nr_rows > height


def test_cells_stay_as_large_as_they_were_where_that_is_not_far_off() -> None:
    names = np.array([0])
    grown = space_of(np.array([0]), np.array([5000]), np.arange(640, dtype=np.uint64))
    before = rows_that_fit(grown, names, 16, 20, None)
    shrunk = space_of(np.array([0]), np.array([5000]), np.arange(300, dtype=np.uint64))

    assert (before.cell_pages, rows_that_fit(shrunk, names, 16, 20, None).cell_pages) == (4, 1)
    assert rows_that_fit(shrunk, names, 16, 20, before).cell_pages == 1
    little_less = space_of(np.array([0]), np.array([5000]), np.arange(600, dtype=np.uint64))
    assert rows_that_fit(little_less, names, 16, 40, None).cell_pages == 1


def test_a_word_of_another_name_begins_a_row_unless_rows_are_dense() -> None:
    space = space_of(np.array([0, 10]), np.array([4, 14]), np.arange(14, dtype=np.uint64))
    for names, is_dense, nr_rows in (([0, 1], False, 2), ([0, 0], False, 1), ([0, 1], True, 1)):
        assert PageRows(space, np.array(names), 1, 64, is_dense).nr_rows == nr_rows


def test_rows_of_a_sparse_tebibyte_are_not_held() -> None:
    pages = np.arange(0, 1 << 28, 1 << 12, dtype=np.uint64)  # more runs than are folded
    rows = PageRows(space_of(np.array([0]), np.array([1 << 28]), pages), np.array([0]), 1, 64, is_dense=False)

    last = rows.place_of((1 << 28) - 1)
    assert rows.nr_rows > 1_000_000
    assert rows.where(last)[0] == rows.nr_rows - 1
    assert rows.at(*rows.where(last)) == last

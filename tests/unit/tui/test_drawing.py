"""Rows of spans: they fill the columns there are, and what is cut has a mark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.tui.drawing import (
    MARK,
    bar,
    cell,
    fitted,
    marked,
    name_cell,
    sentence,
    spark,
    stacked,
    start_of,
    width_of_row,
)
from mematlas.views.format import width_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.tui.drawing import Row

ROLES = ("text", "own", "muted")
rows = st.lists(st.tuples(st.text("aé中 ", max_size=9), st.sampled_from(ROLES)), max_size=7)


def text_of(row: Row) -> str:
    return "".join(text for text, _ in row)


@given(row=rows, width=st.integers(0, 40))
def test_a_row_takes_the_columns_there_are(row: Row, width: int) -> None:
    made = fitted(row, width)
    assert width_of_row(made) == width
    whole = text_of(row)
    if width_of(whole) > width > 0:
        assert MARK in text_of(made)
        assert whole.startswith(text_of(made).rstrip().removesuffix(MARK).rstrip())
    elif width:
        assert text_of(made).rstrip() == whole.rstrip()


@given(text=st.text("aé中", max_size=20), width=st.integers(0, 20))
def test_a_beginning_is_no_wider_than_its_room(text: str, width: int) -> None:
    assert text.startswith(start_of(text, width))
    assert width_of(start_of(text, width)) <= width
    assert width_of(cell(text, width)) == width


@given(part=st.floats(0, 1.5), width=st.integers(1, 30))
def test_something_is_never_drawn_as_nothing_and_no_bar_is_too_long(part: float, width: int) -> None:
    drawn = bar(part, width)
    assert len(drawn) == width
    assert (drawn.strip() == "") == (part == 0)
    assert (drawn.count("█") == width) == (round(part * width * 8) >= width * 8)


def test_names_cannot_move_the_terminal() -> None:
    assert "\x1b" not in name_cell("evil\x1b[2Jname", 30)
    assert width_of(name_cell("中" * 40, 11)) == 11


def test_parts_that_are_rounded_end_where_their_sum_does() -> None:
    row = stacked([(1 / 3, "own"), (1 / 3, "shared"), (1 / 3, "cached")], 10)
    assert [(len(text), role) for text, role in row] == [(3, "own"), (4, "shared"), (3, "cached")]


def test_a_curve_ends_with_the_newest_and_leaves_out_what_is_unknown() -> None:
    assert spark([1.0, None, 8.0], 4) == " ▂ █"
    assert spark([], 3) == "   "
    assert spark([0.0, 0.0], 2) == "▁▁"


def test_a_marked_row_says_so_once() -> None:
    assert marked([("a", "own+changed")], "row") == [("a", "own+row")]


@pytest.mark.parametrize(("width", "height"), [(80, 20), (20, 4), (10, 1)])
def test_a_sentence_fits_its_screen(width: int, height: int) -> None:
    made = sentence("not recorded: mematlas record --what pages does\nand goes on", width, height)
    assert len(made) <= height
    if width >= 20:
        assert all(width_of_row(row) <= width for row in made)

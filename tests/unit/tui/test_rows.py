"""Lists: the cursor stays on its item, what is in sight is drawn, and keys move it."""

from __future__ import annotations

import pytest

from mematlas.tui.rows import Heading, RowList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.tui.drawing import Row

COLUMNS = (("pid", "PID", 6, True), ("name", "NAME", 8, False), ("rss", "RSS", 8, True))


@pytest.fixture
def numbers() -> RowList[int]:
    made: RowList[int] = RowList(lambda number: number)
    made.put(range(100))
    return made


def row_of(number: int) -> Row:
    return [(str(number), "text")]


def drawn(of: RowList[int], height: int = 10) -> list[str]:
    return ["".join(text for text, _ in row).strip() for row in of.draw(height, 20, row_of)]


def test_the_cursor_stays_on_its_item_when_the_order_is_another(numbers: RowList[int]) -> None:
    numbers.go_to(7)
    numbers.put(range(99, -1, -1))
    assert numbers.current == 7
    assert "7" in drawn(numbers)


def test_the_cursor_goes_to_the_first_of_a_list_that_is_sorted_anew(numbers: RowList[int]) -> None:
    numbers.go_to(70)
    numbers.is_sorted_anew = True
    numbers.put(range(99, -1, -1))
    assert numbers.current == 99
    numbers.put(range(100))
    assert numbers.current == 99  # once, and then it stays on its item


def test_the_cursor_stays_in_its_place_when_its_item_is_gone(numbers: RowList[int]) -> None:
    numbers.go_to(7)
    numbers.put([number for number in range(100) if number != 7])
    assert numbers.current == 8
    numbers.put([])
    assert not numbers.items
    numbers.put([5])
    assert numbers.current == 5


@pytest.mark.parametrize(
    ("keys", "current"),
    [
        ("down down up", 1),
        ("end", 99),
        ("end home", 0),
        ("pagedown", 10),
        ("end pageup", 89),
        ("j j j k", 2),
        ("up", 0),
    ],
)
def test_keys_move_the_cursor(keys: str, current: int, numbers: RowList[int]) -> None:
    drawn(numbers)
    assert all(numbers.press(key) for key in keys.split())
    assert numbers.current == current
    assert str(current) in drawn(numbers)
    assert not numbers.press("x")


def test_what_is_in_sight_is_drawn_and_nothing_else(numbers: RowList[int]) -> None:
    seen: list[int] = []
    numbers.go_to(50)
    numbers.draw(10, 20, lambda number: (seen.append(number), row_of(number))[1])  # type: ignore[func-returns-value]
    assert len(seen) == 10
    assert 50 in seen


def test_a_click_is_on_the_item_that_is_there(numbers: RowList[int]) -> None:
    numbers.go_to(95)
    first = int(drawn(numbers)[0])
    assert numbers.at_row(3)
    assert numbers.current == first + 3
    assert not numbers.at_row(10)


def test_a_search_goes_round_the_end(numbers: RowList[int]) -> None:
    numbers.go_to(98)
    assert numbers.search("7", str, 1)
    assert numbers.current == 7
    assert numbers.search("7", str, -1)
    assert numbers.current == 97
    assert not numbers.search("x", str, 1)


def test_tags_stay_with_their_items(numbers: RowList[int]) -> None:
    numbers.go_to(3)
    numbers.tag()
    assert (numbers.tagged, numbers.current) == ({3}, 4)
    numbers.put(range(50, 0, -1))
    numbers.go_to(0)
    rows = numbers.draw(60, 20, row_of)
    assert [row[0][0] for row in rows if row[0][1] == "text+tagged"] == ["3"]


def test_a_list_is_sorted_by_the_next_column_or_the_other_way_round() -> None:
    heading = Heading(COLUMNS, "pid")
    assert heading.press(">")
    assert (heading.sort, heading.is_up) == ("name", False)
    assert heading.press("I")
    assert heading.is_up
    assert heading.press("<")
    assert heading.press("<")
    assert heading.sort == "rss"
    assert heading.click(8)
    assert heading.sort == "name"
    assert heading.click(8)
    assert heading.is_up
    assert not heading.click(60)
    assert [role for text, role in heading.draw() if text.strip()] == ["muted", "title", "muted"]


def test_what_has_no_columns_yet_is_sorted_as_it_was() -> None:
    heading = Heading([], "uss")
    assert [heading.press(key) for key in "><"] == [True, True]
    assert heading.sort == "uss"

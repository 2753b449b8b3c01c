"""Memory of long answers: used again when nobody looks at it, and not before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mematlas.kernel.shared_areas import MOST_KEPT, NO_AREA, NR_AREAS, Area, Areas, Looked

SIZE = 1031


@pytest.fixture
def areas() -> Iterator[Areas]:
    made = Areas()
    yield made
    for area in made._areas:
        area.close()


def lend(areas: Areas, size: int) -> tuple[int, bool]:
    """Put an answer of a size into an area that is looked at from then on; return its number, and whether it is new."""
    number, area, is_new = areas.area_for(size)
    area.fill([memoryview(bytes([size % 251]) * size)])
    area.is_looked_at = True
    if number == NO_AREA:
        area.close()
    return number, is_new


def test_an_area_is_used_again_when_nobody_looks_at_it(areas: Areas) -> None:
    assert lend(areas, SIZE) == (0, True)
    assert areas.take_back(0)
    assert lend(areas, SIZE - 7) == (0, False)


def test_an_answer_that_is_looked_at_is_left_alone(areas: Areas) -> None:
    number, area, _ = areas.area_for(SIZE)
    area.is_looked_at = True
    area.fill([memoryview(b"first")])
    numbers = [lend(areas, SIZE)[0] for _ in range(NR_AREAS + 2)]

    assert number == 0
    assert numbers == [*range(1, NR_AREAS), *[NO_AREA] * 3]
    assert area.memory[:5].tobytes() == b"first"


def test_an_answer_that_is_too_long_for_an_area_gets_a_larger_one_in_its_place(areas: Areas) -> None:
    for _ in range(NR_AREAS):
        lend(areas, SIZE)
    areas.take_back(1)

    assert lend(areas, 1 << 20) == (1, True)
    areas.take_back(0)
    assert lend(areas, MOST_KEPT + 1) == (NO_AREA, True)


@pytest.mark.parametrize("number", [0, 1, NO_AREA, 1 << 40])
def test_what_was_not_handed_over_cannot_be_given_back(number: int, areas: Areas) -> None:
    areas.area_for(SIZE)
    assert not areas.take_back(number)


def test_memory_of_answers_cannot_be_made_smaller() -> None:
    area = Area(SIZE)
    fd = os.dup(area.fd)
    try:
        for size in (0, area.size - 1, area.size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)
        area.close()


def test_parts_are_what_was_put_in_and_are_let_go_of_with_the_last_look() -> None:
    area = Area(SIZE)
    where = area.fill([memoryview(b"abc"), memoryview(b"de")])
    looked = Looked(os.dup(area.fd), area.size)
    assert not looked.let_go()
    first, second = (np.frombuffer(part, np.uint8) for part in looked.parts(where))
    of_first = first[1:]

    assert (first.tobytes(), second.tobytes()) == (b"abc", b"de")
    del first, second
    assert not looked.let_go()
    del of_first
    assert looked.let_go()
    assert not looked.let_go()
    area.close()


ROWS, WORDS = 37, 512


def parts_of(areas: Areas, parts: list[Any]) -> tuple[int, bool, list[bytes]]:
    """Hand parts over; return the number of the area, whether it is new, and what lies where each is said to."""
    number, area, is_new, where = areas.hand_over([memoryview(part).cast("B") for part in parts])
    return number, is_new, [area.memory[start:end].tobytes() for start, end in where]


def filled(areas: Areas, rows: int = ROWS) -> Any:
    """Return rows of the next answer, filled."""
    made = areas.offer()(rows, WORDS)
    made[:] = np.arange(rows * WORDS, dtype=np.uint64).reshape(rows, WORDS)
    return made


def test_what_was_put_into_an_area_is_handed_over_from_there(areas: Areas) -> None:
    lend(areas, 8 * ROWS * WORDS + 20 * SIZE)
    areas.take_back(0)
    made, before = filled(areas), areas._areas[0].memory
    parts = [b"first" * 1000, made, b"last"]

    assert np.shares_memory(made, before)
    assert parts_of(areas, parts) == (0, False, [b"first" * 1000, made.tobytes(), b"last"])
    assert made[ROWS - 1, WORDS - 1] == ROWS * WORDS - 1


def test_where_there_is_no_room_behind_it_all_is_moved_whole(areas: Areas) -> None:
    lend(areas, 8 * ROWS * WORDS)
    areas.take_back(0)
    made = filled(areas)
    whole, rest = made.tobytes(), b"rest" * 5000

    number, is_new, parts = parts_of(areas, [rest, made])
    assert (number, is_new) == (1, True)
    assert parts == [rest, whole]


def test_in_one_area_parts_that_have_to_move_do_not_write_over_each_other(areas: Areas) -> None:
    for _ in range(NR_AREAS):
        lend(areas, 8 * ROWS * WORDS)
    areas.take_back(0)
    made = filled(areas)
    whole, rest = made.tobytes(), b"rest" * 5000

    number, is_new, parts = parts_of(areas, [rest, made])
    assert (number, is_new) == (0, True)
    assert parts == [rest, whole]


def test_nothing_is_offered_that_is_looked_at_and_nothing_twice(areas: Areas) -> None:
    lend(areas, 8 * ROWS * WORDS)
    looked_at = areas._areas[0].memory
    assert not np.shares_memory(filled(areas), looked_at)
    areas.take_back(0)
    rows = areas.offer()
    assert np.shares_memory(rows(1, WORDS), looked_at)
    assert not np.shares_memory(rows(1, WORDS), looked_at)
    assert areas.offer()(0, WORDS).shape == (0, WORDS)
    assert not np.shares_memory(areas.offer()(ROWS + 1, WORDS), looked_at)

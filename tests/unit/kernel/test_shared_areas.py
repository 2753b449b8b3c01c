"""Memory of long answers: used again when nobody looks at it, and not before."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
    assert area.memory[:5] == b"first"


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
    area.fill([memoryview(b"abc"), memoryview(b"de")])
    looked = Looked(os.dup(area.fd), area.size)
    assert not looked.let_go()
    first, second = (np.frombuffer(part, np.uint8) for part in looked.parts([3, 2]))
    of_first = first[1:]

    assert (first.tobytes(), second.tobytes()) == (b"abc", b"de")
    del first, second
    assert not looked.let_go()
    del of_first
    assert looked.let_go()
    assert not looked.let_go()
    area.close()

"""Records behave as frozen, slotted dataclasses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from mematlas.frozen import WORTH_COMPILING, as_dict, record, replace
from mematlas.model.address_space import Selection


@record
class Point:
    """A place."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


@pytest.fixture(params=["few", "many"], scope="module", autouse=True)
def made(request: pytest.FixtureRequest) -> None:
    """Have what makes records compiled, or not."""
    for _ in range(WORTH_COMPILING if request.param == "many" else 0):
        Point(0)


def test_fields_come_by_place_name_and_default() -> None:
    assert (Point(1), Point(1, 2), Point(y=2, x=1)) == (Point(1, 0), Point(x=1, y=2), Point(1, 2))
    assert (Point(1, 2).sum, repr(Point(1))) == (3, "Point(x=1, y=0)")
    assert Point.__doc__ == "A place."


def test_records_are_values() -> None:
    assert Point(1) == Point(1)
    assert Point(1) != Point(2)
    other: object = (1, 0)
    assert Point(1) != other
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_records_cannot_be_changed() -> None:
    point: Any = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 5)
    with pytest.raises(AttributeError):
        del point.x
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), {}), ((), {"y": 1}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1, 2), {"y": 1}), ((1,), {"z": 1})],
)
def test_wrong_arguments_are_refused(arguments: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*arguments, **named)


def test_records_can_be_copied_and_pickled() -> None:
    for copied in (copy.copy(Point(1, 2)), copy.deepcopy(Point(1, 2)), pickle.loads(pickle.dumps(Point(1, 2)))):
        assert (type(copied), copied) == (Point, Point(1, 2))


def test_replace_and_as_dict_keep_the_order() -> None:
    assert as_dict(replace(Point(1), y=7)) == {"x": 1, "y": 7}
    assert list(as_dict(Selection())) == ["perms", "kinds", "path", "name", "span"]


def test_records_match_patterns() -> None:
    match Point(3, 4):
        case Point(x, 4):
            assert x == 3
        case _:
            pytest.fail("no match")

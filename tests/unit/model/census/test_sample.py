"""Frames beside what the kernel's files say of them, while they change."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mematlas.model.census.kinds import START, Kind
from mematlas.model.census.sample import Comparison

NR = 8


def compared(others: Sequence[int | None]) -> tuple[int, int, int, int | None]:
    """Return what comes of a lot of anonymous frames, one of which, in each look, the files say is free."""
    looks = iter(others)

    def of(pfns: Any) -> tuple[Any, Any]:
        kinds = np.full(NR, Kind.ANON, np.uint8)
        if (other := next(looks)) is not None:
            kinds[other] = Kind.FREE
        return kinds, np.zeros(NR, np.uint8)

    def rows(lot: Any) -> Any:
        return np.full((1, NR), Kind.ANON | START, np.uint8)

    array = SimpleNamespace(frames_at=lambda lot: np.arange(NR, dtype=np.uint64) + np.uint64(100))
    teller: Any = SimpleNamespace(array=array, rows=rows)
    words: Any = SimpleNamespace(of=of, has_ksm=True)
    found = Comparison(teller, words).of(np.arange(1))
    return found.nr_frames, found.nr_left_out, found.nr_kinds_differ, found.first


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([None], (8, 0, 0, None)),
        ([3, None], (8, 0, 0, None)),
        ([3, 5], (7, 1, 0, None)),
        ([3, 3, 5], (7, 1, 0, None)),
        ([3] * 20, (8, 0, 1, 103)),
    ],
    ids=["never", "once", "each once", "one twice", "one every time"],
)
def test_only_a_frame_that_differs_every_time_is_another(
    others: list[int | None], expected: tuple[int, int, int, int | None]
) -> None:
    assert compared(others) == expected

"""Rows of a recording that anybody may have written: what is no VMA is refused."""

from __future__ import annotations

import pytest

from mematlas.errors import FormatError
from mematlas.timeline.recorded_rows import MOST_SIZE, vma_of
from mematlas.timeline.schema import AMOUNTS_OF_VMA, USE

NOTHING = [None] * (len(AMOUNTS_OF_VMA) + len(USE))


def row(start: int, end: int) -> list[object]:
    """Return the row of a VMA; in a recording numbers of 64 bits are signed."""
    return [start, end, 0, 0, "rw-p", "00:00", "", "anon", *NOTHING]


def test_a_vma_is_where_its_row_says() -> None:
    assert vma_of("x", row(4096, 8192)).vma.size == 4096
    assert vma_of("x", row(-8192, -4096)).start == (1 << 64) - 8192
    assert vma_of("x", row(1, -(1 << 63))).vma.size == MOST_SIZE


@pytest.mark.parametrize(("start", "end"), [(4096, 4096), (8192, 4096), (-1, 4096), (4096, -4096), (0, -(1 << 63))])
def test_what_ends_before_it_starts_or_is_larger_than_any_is_none(start: int, end: int) -> None:
    with pytest.raises(FormatError, match="a VMA"):
        vma_of("x", row(start, end))

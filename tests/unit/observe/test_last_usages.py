"""What amounts are kept of, from one look to the next."""

from __future__ import annotations

from typing import Any

from mematlas.observe.sources import MOST_USAGES, LastUsages


def batch(nr: int) -> Any:
    entries: list[Any] = [(object(), {})] * nr
    return entries, [0] * nr, [False] * nr, []


def test_entries_are_known_at_the_next_look_and_at_none_after_it() -> None:
    last, known = LastUsages(), batch(2)
    entries = known[0]
    last.begin()
    last.keep(known)
    assert last.batch_of(entries) is None
    last.begin()
    assert last.batch_of(entries) is known
    assert last.batch_of(list(entries)) is None, "other entries, which only look alike"
    last.begin()
    assert last.batch_of(entries) is None


def test_no_more_is_kept_than_there_is_room_for() -> None:
    last, small, large = LastUsages(), batch(1), batch(MOST_USAGES)
    last.begin()
    for one in (small, large):
        last.keep(one)
    last.begin()
    assert [last.batch_of(one[0]) is one for one in (small, large)] == [True, False]

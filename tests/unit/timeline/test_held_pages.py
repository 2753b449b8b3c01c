"""Pages as they were: what each look has changed leads back to what there was before it."""

from __future__ import annotations

from copy import copy
from functools import partial
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from mematlas.timeline.held_pages import HeldPages, words_at
from mematlas.timeline.words import Followed, Sparse, changes


def sparse(pages: dict[int, int]) -> Sparse:
    """Return pages, by their number, with a word each."""
    numbers = sorted(pages)
    return Sparse(np.array(numbers, np.uint64), np.array([pages[number] for number in numbers], np.uint64))


def plain(file: Sparse) -> dict[int, int]:
    return dict(zip(file.indexes.tolist(), file.words.tolist(), strict=True))


def history(random: Random) -> list[dict[int, int]]:
    """Return pages at one moment after another: some come, some go, some are others."""
    pages: dict[int, int] = {random.randrange(97): random.randrange(1, 5) for _ in range(31)}
    found = []
    for _ in range(random.randrange(1, 13)):
        for number in random.sample(range(97), random.randrange(11)):
            pages[number] = random.randrange(1, 5)
        for number in random.sample(sorted(pages), random.randrange(min(7, len(pages) + 1))):
            del pages[number]
        found.append(dict(pages))
    return found


def look_at(held: HeldPages, moments: list[dict[int, int]], is_followed: bool) -> None:
    """Take in moments, a second apart: whole, or with what has changed alone."""
    for number, pages in enumerate(moments):
        whole = sparse(pages)
        if not is_followed:
            held.add(float(number), whole)
            continue
        before = sparse(moments[number - 1]) if number else sparse({})
        held.add(float(number), Followed(number, changes(before, whole), partial(copy, whole)))


@pytest.mark.parametrize("is_followed", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_each_moment_is_as_it_was(seed: int, is_followed: bool) -> None:
    moments = history(Random(seed))
    held = HeldPages()
    look_at(held, moments, is_followed)
    assert [plain(held.at(number + 0.5)) for number in range(len(moments))] == moments
    for first, last in ((0, len(moments) - 1), (0, len(moments) // 2)):
        changed = set()
        for number in range(first + 1, last + 1):
            was, now = moments[number - 1], moments[number]
            changed |= {page for page in was.keys() | now.keys() if was.get(page) != now.get(page)}
        assert held.changed(first, last).tolist() == sorted(changed)


@pytest.mark.parametrize("seed", range(10))
def test_when_a_page_changed_last_is_the_last_look_that_changed_it(seed: int) -> None:
    moments = history(Random(seed))
    held = HeldPages()
    look_at(held, moments, is_followed=False)
    when: dict[int, float] = {}
    for number, (was, now) in enumerate(pairwise(moments), 1):
        when |= {page: float(number) for page in was.keys() | now.keys() if was.get(page) != now.get(page)}
    pages, times = held.changed_at(len(moments))
    assert dict(zip(pages.tolist(), times.tolist(), strict=True)) == when


def test_what_is_too_old_is_let_go_of_and_the_rest_stays_as_it_was() -> None:
    moments = [{1: 1}, {1: 2}, {1: 2, 2: 3}, {2: 4}]
    held = HeldPages()
    look_at(held, moments, is_followed=False)
    held.let_go_before(2.0)
    assert held.first == 2.0
    assert [plain(held.at(at)) for at in (2.0, 3.0)] == moments[2:]
    assert held.changed(0.0, 3.0).tolist() == [1, 2]


def test_no_more_changes_are_held_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.timeline.held_pages.MOST_CHANGES", 5)
    held = HeldPages()
    look_at(held, [dict.fromkeys(range(at, at + 3), 1) for at in range(0, 60, 3)], is_followed=False)
    assert held.first == 19.0
    assert plain(held.at(0.0)) == {57: 1, 58: 1, 59: 1}


def test_a_look_that_was_missed_is_made_up_for_by_all_there_is() -> None:
    held = HeldPages()
    held.add(0.0, Followed(4, sparse({}), lambda: sparse({1: 1, 2: 2})))
    held.add(1.0, Followed(6, sparse({9: 9}), lambda: sparse({1: 1, 3: 3})))
    assert plain(held.at(1.0)) == {1: 1, 3: 3}
    assert plain(held.at(0.0)) == {1: 1, 2: 2}
    assert words_at(held.now, np.array([1, 2, 3], np.uint64)).tolist() == [1, 0, 3]

"""Sets of processes that share frames: against sets of Python's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PAGE
from mematlas.analysis.sharing import FEW, FrameSets, Holding, Sharing, Through, TooManySets, largest_in

FILES = [Through("file", "/bin/sh"), Through("shmem", "/memfd:x"), Through("cow", ""), Through("hugetlb", "/huge")]
HUGETLB = 3

MAPPINGS = st.lists(st.lists(st.integers(0, 40), max_size=60), min_size=1, max_size=9)
"""Of each process, the frames that it maps: any of them any number of times."""
OTHERS = st.dictionaries(st.integers(0, 40), st.integers(1, 3), max_size=20)
"""How often others map frames."""


def through_of(frame: int) -> int:
    return frame % len(FILES)


def sets_of(
    mappings: Sequence[Sequence[int]], others: Mapping[int, int], most_sets: int = 1000
) -> tuple[FrameSets, list[Holding]]:
    """Put all frames into sets, as many at a time as there are fingers."""
    sets = FrameSets(most_sets=most_sets)
    numbers = [sets.number_of(through) for through in FILES]
    counts = Counter(frame for frames in mappings for frame in frames) + Counter(others)
    rows = []
    for process, mapped in enumerate(mappings):
        nr_resident, nr_parts = 0, 0.0
        for low in range(0, len(mapped), 10):
            frames = np.array(mapped[low : low + 10], np.uint64)
            places = sets.places(frames)
            new = sets.unknown(frames, places)
            known = np.array([counts[frame] for frame in frames[new].tolist()], np.uint64)
            throughs = np.array([numbers[through_of(frame)] for frame in frames[new].tolist()], np.int64)
            sets.learn(places[new], known, throughs)
            added = sets.add(process, places)
            nr_resident += added.nr_resident
            nr_parts += added.nr_parts
        rows.append(Holding(str(process), (process,), 1 << process, nr_resident, nr_parts, 0))
    return sets, rows


@given(MAPPINGS, OTHERS)
def test_sums_are_those_of_sets(mappings: list[list[int]], others: dict[int, int]) -> None:
    sharing = Sharing(*sets_of(mappings, others), PAGE)
    small = [{frame for frame in frames if through_of(frame) != HUGETLB} for frames in mappings]
    huge = [set(frames) - own for frames, own in zip(mappings, small, strict=True)]

    for index, sharer in enumerate(sharing.sharers):
        rest = set[int]().union(*small[:index], *small[index + 1 :])
        own, outside = small[index], others.keys() & small[index]
        counts = Counter(frame for frames in mappings for frame in frames) + Counter(others)
        assert sharer.rss == sum(through_of(frame) != HUGETLB for frame in mappings[index]) * PAGE
        parts = sum(1 / counts[frame] for frame in mappings[index] if through_of(frame) != HUGETLB)
        assert sharer.pss == pytest.approx(parts * PAGE, abs=1)
        assert sharer.alone == len(own - rest - outside) * PAGE
        assert sharer.shared == len(own & rest) * PAGE
        assert sharer.others == len(outside) * PAGE
        assert sharer.others_only == len(outside - rest) * PAGE
        assert sharer.distinct == len(own) * PAGE
        assert sharer.hugetlb == len(huge[index]) * PAGE


@given(MAPPINGS)
def test_pairs_are_the_frames_of_both(mappings: list[list[int]]) -> None:
    sharing = Sharing(*sets_of(mappings, {}), PAGE)
    pairs, nr_pairs = sharing.pairs(100)

    expected = {}
    for one, frames in enumerate(mappings):
        for other in range(one + 1, len(mappings)):
            if both := set(frames) & set(mappings[other]):
                expected[one, other] = both
    assert {(pair.one.pids[0], pair.other.pids[0]) for pair in pairs} == expected.keys()
    assert nr_pairs == len(expected)
    for pair in pairs:
        both = expected[pair.one.pids[0], pair.other.pids[0]]
        by_file = Counter(map(through_of, both))
        assert (pair.size + pair.hugetlb, pair.hugetlb) == (len(both) * PAGE, by_file[HUGETLB] * PAGE)
        meant = {file: number for file, number in by_file.items() if file != HUGETLB} or by_file
        assert pair.most == max(meant.values()) * PAGE
    assert [sum(pair.kinds) for pair in pairs] == sorted((sum(pair.kinds) for pair in pairs), reverse=True)
    assert sharing.pairs(1)[0] == (pairs if len(mappings) <= FEW else pairs[:1])


def test_of_many_the_largest_pairs_are_found_and_all_are_counted() -> None:
    mappings = [list(range(number, 40)) for number in range(12)]
    pairs, nr_pairs = Sharing(*sets_of(mappings, {}), PAGE).pairs(3)

    assert [(pair.one.pids[0], pair.other.pids[0]) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert nr_pairs == 66


@given(MAPPINGS)
def test_sets_add_up_to_what_is_mapped_by_more_than_one(mappings: list[list[int]]) -> None:
    found, nr_sets = Sharing(*sets_of(mappings, {}), PAGE).sets(1000)

    members = Counter(frame for frames in mappings for frame in set(frames))
    assert sum(each.size for each in found) == sum(nr > 1 for nr in members.values()) * PAGE
    assert len(found) == nr_sets == len({(each.sharers, each.through) for each in found})
    assert all(len(each.sharers) > 1 for each in found)


@given(MAPPINGS, OTHERS)
def test_a_group_has_what_any_of_it_maps(mappings: list[list[int]], others: dict[int, int]) -> None:
    sets, rows = sets_of(mappings, others)
    middle = len(rows) // 2 or 1
    groups = [part for part in (rows[:middle], rows[middle:]) if part]
    sharing = Sharing(sets, [Holding("", (), sum(row.members for row in part), 0, 0.0, 0) for part in groups], PAGE)

    parts = [mappings[:middle], mappings[middle:]][: len(groups)]
    frames = [{frame for own in part for frame in own} for part in parts]
    assert [sharer.distinct + sharer.hugetlb for sharer in sharing.sharers] == [len(own) * PAGE for own in frames]
    pairs, _ = sharing.pairs(1)
    both = frames[0] & frames[1] if len(frames) > 1 else set[int]()
    assert sum(sum(pair.kinds) for pair in pairs) == len(both) * PAGE


def test_whoever_was_read_in_part_is_one_of_the_others() -> None:
    sets, rows = sets_of([[1, 2, 5], *([[1, 2]] * 11)], {})
    (alone,) = Sharing(sets, rows[:1], PAGE).sharers

    assert (alone.distinct, alone.alone, alone.others_only) == (3 * PAGE, PAGE, 2 * PAGE)


@given(MAPPINGS)
def test_empty_sets_are_dropped_and_nothing_else(mappings: list[list[int]]) -> None:
    usual = [(found.members, found.nr_frames, FILES[found.through]) for found in sets_of(mappings, {})[0].found()]
    try:
        sets, _ = sets_of(mappings, {}, most_sets=30)
    except TooManySets:
        return
    assert sorted(usual, key=str) == sorted(
        ((found.members, found.nr_frames, FILES[found.through]) for found in sets.found()), key=str
    )


def test_more_sets_than_are_kept_are_an_error() -> None:
    mappings = [[frame for frame in range(40) if frame >> bit & 1] for bit in range(6)]
    with pytest.raises(TooManySets):
        sets_of(mappings, {}, most_sets=20)


def test_frames_that_the_kernel_counts_for_nobody_are_in_no_sum() -> None:
    sets = FrameSets()
    places = sets.places(np.array([3, 4], np.uint64))
    sets.learn(places, np.array([0, 2], np.uint64), np.full(2, sets.number_of(FILES[0])))
    added = sets.add(0, places)

    assert (added.nr_resident, added.nr_parts) == (1, 0.5)
    assert [found.nr_frames for found in sets.found()] == [1]


def test_pair_shares_the_most_through_a_part_of_what_it_shares() -> None:
    """Huge pages are no part of it, unless there is nothing else."""
    both = [HUGETLB, HUGETLB + 4, HUGETLB + 8]
    (with_file,), _ = Sharing(*sets_of([[0, *both], [0, *both]], {}), PAGE).pairs(1)
    (without,), _ = Sharing(*sets_of([both, both], {}), PAGE).pairs(1)

    assert (with_file.through, with_file.most, with_file.size) == (FILES[0], PAGE, PAGE)
    assert (without.through, without.most, without.size) == (FILES[HUGETLB], 3 * PAGE, 0)


def test_the_first_of_equal_pairs_are_taken() -> None:
    assert largest_in(np.full((2, 3), 7.0), 4) == [(0, 0), (0, 1), (0, 2), (1, 0)]

"""Intervals of samples: the truth lies inside 95 times of 100, however it is spread."""

from __future__ import annotations

import functools
from random import Random

import pytest

from mematlas.analysis.estimates import Sample, nr_at_most
from mematlas.observe.sampled_usage import part_of

NR_PARTS, SIZE = 1499, 64
WHOLES = {
    "one giant block": [SIZE] * 31 + [0] * (NR_PARTS - 31),
    "all but one giant block": [0] * 31 + [SIZE] * (NR_PARTS - 31),
    "a part of a giant block in each": [SIZE // 2] * NR_PARTS,
    "spread evenly": [3] * NR_PARTS,
    "a little everywhere, and a giant block": [1] * (NR_PARTS - 23) + [SIZE] * 23,
    "one page": [1] + [0] * (NR_PARTS - 1),
    "one block": [SIZE] + [0] * (NR_PARTS - 1),
    "every other block": [SIZE, 0] * (NR_PARTS // 2) + [SIZE],
    "of every size": [number % (SIZE + 1) for number in range(NR_PARTS)],
    "nothing": [0] * NR_PARTS,
    "everything": [SIZE] * NR_PARTS,
}
SEEDS = range(1000)
ENOUGH = 930


def sample(nr_seen: int) -> Sample:
    return Sample(NR_PARTS, nr_seen, SIZE, NR_PARTS * SIZE, nr_seen * SIZE)


@pytest.mark.parametrize("nr_seen", [15, 149, 1340])
def test_truth_lies_inside_930_times_of_1000(nr_seen: int) -> None:
    interval = functools.cache(sample(nr_seen).interval)
    inside = dict.fromkeys(WHOLES, 0)
    for seed in SEEDS:
        chosen = Random(seed).sample(range(NR_PARTS), nr_seen)
        for name, whole in WHOLES.items():
            low, high = interval(sum(map(whole.__getitem__, chosen)))
            inside[name] += low <= sum(whole) <= high
    assert {name: nr for name, nr in inside.items() if nr < ENOUGH} == {}


def test_an_interval_that_knows_of_no_blocks_would_fail() -> None:
    # The control: pages taken one by one, as many as there are in the blocks.
    nr_seen = 149
    whole = WHOLES["one giant block"]
    of_pages = Sample(NR_PARTS * SIZE, nr_seen * SIZE, 1, NR_PARTS * SIZE, nr_seen * SIZE)
    inside = 0
    for seed in SEEDS[:100]:
        low, high = of_pages.interval(sum(map(whole.__getitem__, Random(seed).sample(range(NR_PARTS), nr_seen))))
        inside += low <= sum(whole) <= high
    assert inside < ENOUGH // 10


def test_what_was_not_seen_has_an_upper_end() -> None:
    low, high = sample(149).interval(0)
    # With so many blocks of it, one would have been seen in 97.5 of 100 samples.
    assert (low, high) == (0, nr_at_most(0, NR_PARTS, 149, 0.025) * SIZE)
    assert 34 <= high // SIZE <= 36


def test_of_all_that_there_is_nothing_is_left_to_chance() -> None:
    for whole in WHOLES.values():
        assert sample(NR_PARTS).interval(sum(whole)) == (sum(whole), sum(whole))


def test_estimates_add_up_and_lie_inside() -> None:
    found = Sample(1000, 37, 64, 63_999, 2_365).estimates([1000, 0, 1, 700, 664])
    assert sum(one.value for one in found) == 63_999
    assert all(one.low <= one.value <= one.high for one in found)


def test_there_is_as_much_as_was_seen_and_no_more_than_is_left() -> None:
    assert sample(1490).interval(1490 * SIZE - 5)[1] == NR_PARTS * SIZE - 5
    assert sample(10).interval(5)[0] == 5


OWN = {
    "all its own": ([512] * 700, [512] * 700),
    "half-full tables, all its own": ([256] * 700, [256] * 700),
    "a giant block that others map": ([512] * 700, [0] * 41 + [512] * 659),
    "nothing its own": ([512] * 700, [0] * 700),
    "a third everywhere": ([300] * 700, [100] * 700),
    "empty tables": ([512] * 200 + [0] * 500, [512] * 100 + [0] * 600),
}


@pytest.mark.parametrize("nr_seen", [35, 140])
def test_part_of_rss_lies_inside_930_times_of_1000(nr_seen: int) -> None:
    blocks = Sample(700, nr_seen, 512, 700 * 512, nr_seen * 512)
    estimate = functools.cache(lambda name, own, rss: part_of(sum(OWN[name][0]), own, rss, blocks, 0))
    inside = dict.fromkeys(OWN, 0)
    for seed in SEEDS:
        chosen = Random(seed).sample(range(700), nr_seen)
        for name, (rss, own) in OWN.items():
            found = estimate(name, sum(map(own.__getitem__, chosen)), sum(map(rss.__getitem__, chosen)))
            inside[name] += found.low <= sum(own) <= found.high
    assert {name: nr for name, nr in inside.items() if nr < ENOUGH} == {}


def test_what_is_all_its_own_is_known_closely() -> None:
    blocks = Sample(700, 140, 512, 700 * 512, 140 * 512)
    found = part_of(700 * 256, 140 * 256, 140 * 256, blocks, 0)
    assert (found.value, found.high) == (700 * 256, 700 * 256)
    assert found.low > 0.9 * found.value

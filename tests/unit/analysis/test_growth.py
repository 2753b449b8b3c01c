"""How an amount grows: the slope with its interval, and the manner, of shapes that are known."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from random import Random
from statistics import median

import pytest

from mematlas.analysis.growth import LABELS, LEAST_LOOKS, Slope, growth_of, slope_of

MIB = 1 << 20
SEEDS = range(5)
LEVEL = 200 * MIB
NR_LOOKS = (60, 600)


def stepwise(random: Random, nr_steps: int = 12) -> Callable[[float], float]:
    steps = [(number + random.uniform(0.1, 0.9)) / nr_steps for number in range(nr_steps)]
    return lambda time: LEVEL + 8 * MIB * sum(step <= time for step in steps)


def sawtooth(random: Random, rise: float) -> Callable[[float], float]:
    period = random.uniform(0.14, 0.19)
    return lambda time: LEVEL + 100 * MIB * (time % period) / period + rise * (time // period)


SHAPES: dict[str, tuple[str, Callable[[Random], Callable[[float], float]]]] = {
    "linear leak": ("leak", lambda _: lambda time: LEVEL + 50 * MIB * time),
    "stepwise leak": ("leak", stepwise),
    "sawtooth with flat minima": ("sawtooth", lambda random: sawtooth(random, 0)),
    "sawtooth with rising minima": ("leak", lambda random: sawtooth(random, 8 * MIB)),
    "filling cache": ("filling", lambda _: lambda time: LEVEL + 150 * MIB * (1 - exp(-6 * time))),
    "noise": ("steady", lambda _: lambda _: LEVEL),
    "what is given back": ("falling", lambda _: lambda time: LEVEL - 50 * MIB * time),
}


def looks(random: Random, shape: Callable[[float], float], nr: int, noise: float) -> tuple[list[float], list[int]]:
    times = sorted(number + random.uniform(0, 0.2) for number in range(nr))
    return times, [int(shape(time / nr) + random.gauss(0, noise)) for time in times]


@pytest.mark.parametrize("nr", NR_LOOKS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("noise", [0, MIB])
def test_a_known_shape_has_its_label(name: str, seed: int, nr: int, noise: float) -> None:
    label, make = SHAPES[name]
    random = Random(f"{seed} {name} {nr}")
    growth = growth_of(*looks(random, make(random), nr, noise))
    assert growth
    assert growth.label == label
    assert label in LABELS


def test_a_spike_is_no_growth() -> None:
    amounts = [LEVEL] * 60
    amounts[50] = 4 * LEVEL
    growth = growth_of(range(60), amounts)
    assert growth
    assert (growth.slope.value, growth.label, growth.most) == (0, "steady", 4 * LEVEL)


def test_what_does_not_change_has_a_slope_of_exactly_nothing() -> None:
    growth = growth_of([0, 1.5, 2, 3, 7], [LEVEL] * LEAST_LOOKS)
    assert growth
    assert (growth.slope, growth.label) == (Slope(0, 0, 0), "steady")


def test_of_fewer_looks_nothing_is_said() -> None:
    assert growth_of(range(LEAST_LOOKS - 1), [1, 2, 3, 4]) is None


def test_the_interval_has_the_slope_95_times_of_100() -> None:
    inside = 0
    for seed in range(400):
        random = Random(seed)
        points = [(float(time), 3 * time + random.gauss(0, 100)) for time in range(40)]
        slope = slope_of(points)
        inside += slope.low <= 3 <= slope.high
    assert 370 <= inside <= 395


def test_the_slope_is_that_of_all_pairs_of_looks() -> None:
    random = Random(7)
    points = [(float(time), float(random.randrange(1000))) for time in range(31)]
    slopes = [(b - a) / (t - s) for i, (s, a) in enumerate(points) for t, b in points[i + 1 :]]
    assert slope_of(points).value == pytest.approx(median(slopes))


def test_many_looks_say_what_few_of_them_would() -> None:
    many = growth_of(range(10_000), range(0, 10_000 * 4096, 4096))
    assert many
    assert many.slope.value == pytest.approx(4096)
    assert (many.nr_looks, many.seconds, many.first, many.last) == (10_000, 9_999, 0, 9_999 * 4096)


@pytest.mark.parametrize("growth", ["0 MiB", "30 MiB"])
def test_noise_of_most_kinds_is_no_sawtooth(growth: str) -> None:
    rise = float(growth.split()[0]) * MIB
    kinds: dict[str, Callable[[Random], float]] = {
        "normal": lambda random: random.gauss(0, MIB),
        "even": lambda random: random.uniform(0, MIB),
        "two levels": lambda random: random.choice((0, MIB)),
        "spikes": lambda random: random.expovariate(1 / MIB),
    }
    wrong = []
    for name, kind in kinds.items():
        for seed in range(50):
            random = Random(seed)
            amounts = [int(LEVEL + rise * look / 120 + kind(random)) for look in range(120)]
            found = growth_of(range(120), amounts)
            if found and found.label == "sawtooth":
                wrong.append((name, seed))
    assert len(wrong) <= 4

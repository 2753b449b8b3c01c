"""Looks at even intervals that keep to their budget, with a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mematlas.analysis.results import Reading, UsageResult
from mematlas.analysis.usage import Usage
from mematlas.errors import ProcessGone
from mematlas.kernel.procfs import Hold
from mematlas.timeline import sampler
from mematlas.timeline.sampler import SAVED, Sampler

ROUNDING = 1e-6


class Clock:
    """Time, ours and the processor's, that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.cpu = 0.0
        monkeypatch.setattr(sampler, "now", lambda: self.now)
        monkeypatch.setattr(sampler, "processor_seconds", lambda: self.cpu)

    def rest(self, seconds: float) -> None:
        self.now += seconds


def usage(rss: int = 4096, stall: float = 0.0) -> UsageResult:
    hold = Hold()
    hold.add(stall)
    amounts: dict[str, Any] = dict.fromkeys(Usage.__match_args__, 0) | {"rss": rss}
    return UsageResult(Usage(**amounts), 0, Reading("smaps", 0.0, torn=False, notes=(), hold=hold))


def times_of(clock: Clock, duration: float, *, cpu: float = 0.0, stall: float = 0.0, seconds: float = 0.0) -> Any:
    """Return when looks are made that cost so much, and what made them."""

    def look() -> UsageResult:
        clock.cpu += cpu
        clock.now += seconds
        return usage(stall=stall)

    made = Sampler(look, 1.0, duration, budget=0.02, rest=clock.rest)
    return [round(snapshot.elapsed, 6) for snapshot in made], made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_looks_are_even_and_the_last_is_at_the_end(clock: Clock) -> None:
    times, made = times_of(clock, 5.0, cpu=0.01)
    assert times == [0, 1, 2, 3, 4, 5]
    assert (made.nr_expected, made.nr_looks, made.seconds) == (6, 6, 5)
    assert made.notes() == []


def test_without_a_duration_there_is_one_look(clock: Clock) -> None:
    assert times_of(clock, 0.0)[0] == [0]


def test_a_look_that_takes_longer_than_an_interval_delays_no_other(clock: Clock) -> None:
    assert times_of(clock, 6.0, seconds=1.25)[0] == [0, 2, 4, 6]


def test_looks_that_cost_too_much_become_rarer_and_it_is_said(clock: Clock) -> None:
    times, made = times_of(clock, 600.0, cpu=0.1)
    costs = len(times) * 0.1
    assert costs <= 600 * 0.02 + 2 * 0.1 + ROUNDING
    assert costs >= 600 * 0.02 * 0.9
    assert times[:3] == [0, 1, 5]  # what is opened at the start is not held against it
    assert all(time == int(time) for time in times)
    (note,) = made.notes()
    assert note.code == "slowed-down"
    assert "100 ms of a processor" in note.text


def test_what_was_not_spent_for_long_is_not_spent_at_once(clock: Clock) -> None:
    def look() -> UsageResult:
        clock.cpu += 0.0001 if clock.now < 1000 + 3600 else 0.5
        return usage()

    made = Sampler(look, 1.0, 3660.0, budget=0.02, rest=clock.rest)
    times = [snapshot.elapsed for snapshot in made]
    dear = [at for at in times if at >= 3600]
    assert len(times) - len(dear) == 3600
    assert 60 * 0.02 <= len(dear) * 0.5 <= (60 + SAVED) * 0.02 + 2 * 0.5


def test_looks_that_take_long_are_not_said_to_have_cost_too_much(clock: Clock) -> None:
    _, made = times_of(clock, 60.0, seconds=2.5)
    (note,) = made.notes()
    assert note.code == "slowed-down"
    assert note.text == "looked every 3 s in place of 1 s: looking took that long, or the machine was asleep"


def test_the_time_of_the_target_has_a_budget_too(clock: Clock) -> None:
    times, made = times_of(clock, 600.0, stall=0.1)
    assert len(times) * 0.1 <= 600 * 0.02 + 2 * 0.1 + ROUNDING
    assert "100 ms of the target's time" in made.notes()[0].text


def test_the_cost_of_each_look_and_of_all_is_known(clock: Clock) -> None:
    def look() -> UsageResult:
        clock.cpu += 0.25
        return usage(stall=0.5)

    made = Sampler(look, 1.0, 1.0, budget=1.0, rest=clock.rest)
    costs = [snapshot.cost for snapshot in made]
    assert [(cost.cpu_s, cost.stall_s) for cost in costs] == [(0.25, 0.5)] * 2
    assert (made.cost.cpu_s, made.cost.stall_s) == (0.5, 1.0)


def test_what_is_done_with_what_was_found_is_a_part_of_the_cost(clock: Clock) -> None:
    def look() -> UsageResult:
        clock.cpu += 0.001
        return usage()

    made = Sampler(look, 1.0, 600.0, budget=0.02, rest=clock.rest)
    times, costs = [], []
    for snapshot in made:
        clock.cpu += 5.0 if made.nr_looks == 1 else 0.099
        times.append(snapshot.elapsed)
        costs.append(snapshot.cost.cpu_s)
    assert {round(cost, 9) for cost in costs} == {0.001}
    assert made.cost.cpu_s == pytest.approx(5.0 + 0.1 * (len(times) - 1) - 0.099 + 0.001)
    assert times[:3] == [0, 1, 2]  # nor is what is done with the first held against it
    assert len(times) * 0.1 <= 600 * 0.02 + 3 * 0.1


def test_a_target_that_ends_is_an_error_behind_what_was_seen(clock: Clock) -> None:
    looks = iter((usage(1), usage(2)))

    def look() -> UsageResult:
        for one in looks:
            return one
        raise ProcessGone(7)

    made = iter(Sampler(look, 1.0, 9.0, rest=clock.rest))
    assert [next(made).found.rss, next(made).found.rss] == [1, 2]
    with pytest.raises(ProcessGone):
        next(made)


def test_resting_may_be_ended(clock: Clock) -> None:
    made = Sampler(usage, 1.0, rest=lambda seconds: True)
    assert len(list(made)) == 1


@pytest.mark.parametrize(("takes", "looks"), [(1, [0, 4, 8, 12]), (5, [0, 8, 16, 24]), (400, [0, 404, 808, 1212])])
def test_looks_that_were_missed_are_left_out(takes: int, looks: list[int], clock: Clock) -> None:
    began = clock.now
    seen = []
    for snapshot in Sampler(lambda: "text", 4, rest=clock.rest, count=4, budget=1):
        assert snapshot.found == "text"
        seen.append(clock.now - began)
        clock.now += takes
    assert seen == looks


def test_what_looks_take_of_a_processor_is_of_those_after_the_first(clock: Clock) -> None:
    costs = iter([5.0, 0.5, 0.5])

    def look() -> str:
        clock.cpu += next(costs)
        return "text"

    made = Sampler(look, 10, rest=clock.rest, count=3, budget=1)
    assert [made.part for _ in made] == [None, 0.05, 0.05]

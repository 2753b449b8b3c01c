"""Timelines: what was seen and what was recorded of it answer alike; a ring holds no more than it may."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from histories import as_utf8, random_history, seen, vma_at, write
from mematlas.errors import BadInput, NotSupported, TargetNotFound
from mematlas.frozen import replace
from mematlas.kernel.procfs import ProcFS
from mematlas.timeline import timeline as module
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.recorded_timeline import MOST_LAST, RecordedTimeline
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.timeline import LiveTimeline, changes, seen_of
from mematlas.timeline.watch import EXIT, Happening, Look, Watch


class Scripted(Watch):
    """What is watched, as it was thought out."""

    def __init__(self, looks: list[Look]) -> None:
        self.looks = list(looks)
        self.at = 0

    def look(self) -> Look:
        self.at += 1
        return self.looks[self.at - 1]

    @property
    def is_over(self) -> bool:
        return self.at == len(self.looks)


def looks_of(seed: int) -> list[Look]:
    """Return looks at processes that come and go, with a counter of the machine."""
    random = Random(seed)
    looks = []
    before: set[int] = set()
    for number, moment in enumerate(random_history(random).moments):
        there = [seen(pid, [as_utf8(item) for item in vmas], files=None) for pid, vmas in sorted(moment.items())]
        ended = tuple(Happening(pid, 77, EXIT, "ended") for pid in sorted(before - moment.keys()))
        before = set(moment)
        looks.append(Look(tuple(there), ended, {"pgfault": random.randrange(1 << 63), "MemTotal": 1 << 34 + number}))
    return looks


def both(looks: list[Look], path: Path) -> Iterator[LiveTimeline | RecordedTimeline]:
    """Yield a live timeline that has seen looks, and one of a recording of them."""
    live = LiveTimeline(Scripted(looks), interval=0.001, budget=1, rest=lambda _: None)
    encoder = Encoder()
    rows = [encoder.rows_of(moment) for moment in live]
    yield live
    with Recording(str(write(path / "x.mematlas", rows))) as recording:
        recording.facts["what"] = '["usage", "vmas"]'
        yield RecordedTimeline(recording)


def plain(moment: Snapshot[Look]) -> object:
    """Return what is asked of a moment."""
    look = moment.found
    people = [(one.pid, one.name, one.usage.usage, one.usage.counters, one.faults, one.vmas) for one in look.seen]
    happenings = [(one.pid, one.kind, one.text) for one in look.happenings]
    return round(moment.elapsed, 6), sorted(people, key=lambda one: one[0]), happenings, look.counters


@pytest.mark.parametrize("seed", range(30))
def test_what_was_recorded_answers_as_what_was_seen(seed: int, tmp_path: Path) -> None:
    looks = looks_of(seed)
    answers = []
    for timeline in both(looks, tmp_path):
        times = timeline.times
        assert len(times) == len(looks)
        answer = [plain(timeline.at(time)) for time in times]
        answer += [plain(timeline.at((one + other) / 2)) for one, other in itertools.pairwise(times)]
        answer += [len(list(timeline.between(times[0], time))) for time in times]
        answer += timeline.amounts("uss", [-1.0, *times, times[-1] + 1])
        found = changes(timeline, times[0], times[-1])
        answer += [[row.to_dict() for row in found.processes], found.counters]
        answer += [[one.pid for one in some] for some in (found.came, found.ended, found.happenings)]
        answers.append(answer)
    assert answers[0] == answers[1]


def test_an_amount_that_is_not_recorded_is_refused(tmp_path: Path) -> None:
    for timeline in both(looks_of(3), tmp_path):
        if isinstance(timeline, RecordedTimeline):
            with pytest.raises(NotSupported, match="weight in recordings"):
                timeline.amounts("weight", [0.0])


def test_what_changed_adds_up_to_what_was_and_is(tmp_path: Path) -> None:
    vmas = [replace(vma_at(Random(1), number), usage=replace(seen(7, []).usage.usage, rss=4096)) for number in (1, 2)]
    more = [vmas[0], replace(vmas[1], usage=replace(vmas[1].usage, rss=3 * 4096))]
    looks = [
        Look((seen(7, vmas), seen(8, vmas)), (), {"pgfault": 3}),
        Look((seen(7, more), seen(9, [])), (Happening(8, 77, EXIT, "ended"),), {"pgfault": 8}),
    ]
    for timeline in both(looks, tmp_path):
        found = changes(timeline, timeline.times[0], timeline.times[1])
        (process,) = found.processes
        assert (process.changes["rss"], [row.changes["rss"] for row in process.rows]) == (8192, [8192])
        assert ([one.pid for one in found.came], [one.pid for one in found.ended]) == ([9], [8])
        assert found.counters == {"pgfault": 5}


def test_times_outside_are_refused(tmp_path: Path) -> None:
    for timeline in both(looks_of(3), tmp_path):
        for outside in (-1.0, timeline.times[-1] + 1):
            with pytest.raises(TargetNotFound, match="outside"):
                timeline.at(outside)
        with pytest.raises(BadInput, match="before the first"):
            changes(timeline, timeline.times[1], timeline.times[0])


def test_an_empty_timeline_says_so() -> None:
    with pytest.raises(TargetNotFound, match="holds nothing yet"):
        LiveTimeline(Scripted([])).at(0)


def test_a_ring_holds_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveTimeline(Scripted([]), keep=10)
    for number in range(100):
        live._hold(Snapshot(0.0, float(number), Look((), (), {}), Cost(0.0, 0.0)))
    assert live.times == [float(number) for number in range(89, 100)]


def test_a_ring_holds_no_more_vmas_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 30)
    live = LiveTimeline(Scripted([]))
    for number in range(50):
        vmas = [vma_at(Random(number), where) for where in (1, 2, 3)]
        live._hold(Snapshot(0.0, float(number), Look((seen(7, vmas),), (), {}), Cost(0.0, 0.0)))
        assert sum(nr for _, nr in live._moments) == live._nr_held <= 30
    assert live.times[-1] == 49.0


def test_what_stays_the_same_is_held_once() -> None:
    live = LiveTimeline(Scripted([]))
    for number in range(5):
        vmas = [vma_at(Random(1), 1), vma_at(Random(number), 2)]
        live._hold(Snapshot(0.0, float(number), Look((seen(7, vmas),), (), {}), Cost(0.0, 0.0)))
    held = [live.at(float(number)).found.seen[0].vmas or [] for number in range(5)]
    assert len({id(vmas[0]) for vmas in held}) == 1
    assert [vmas[1] for vmas in held] == [vma_at(Random(number), 2) for number in range(5)]


def test_lists_of_many_vmas_count_though_few_of_these_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 4 * 360)
    live = LiveTimeline(Scripted([]))
    same = [vma_at(Random(1), where) for where in range(1, 361)]
    for number in range(100):
        vmas = [vma_at(Random(number), 0), *same]
        live._hold(Snapshot(0.0, float(number), Look((seen(7, vmas),), (), {}), Cost(0.0, 0.0)))
    of_a_look = module.OF_PROCESS + 1 + len(vmas) // module.IN_LIST
    assert len(live.times) == 4 * 360 // of_a_look


def test_details_are_of_the_last_moment_alone() -> None:
    with Watch([str(os.getpid())], ProcFS(), what=["vmas"]) as watch:
        live = LiveTimeline(watch, interval=0.05, duration=0.1, budget=1)
        first, *_, last = list(live)
        address = next(item.start for item in last.found.seen[0].vmas or [] if item.rss)
        detail = live.details(last, os.getpid(), address)
        assert detail.translation.address == address
        assert (detail.walk is None) == any(note.code == "no-tables" for note in detail.notes)
        with pytest.raises(NotSupported, match="record --what frames"):
            live.details(first, os.getpid(), address)
        with pytest.raises(TargetNotFound):
            live.details(last, 1 << 22, address)


@pytest.mark.parametrize("seed", range(10))
def test_amounts_and_vmas_at_many_times_are_those_of_the_moments(seed: int, tmp_path: Path) -> None:
    for timeline in both(looks_of(seed), tmp_path):
        moments = [timeline.at(at) for at in timeline.times]
        for who in {(one.pid, one.start_time) for moment in moments for one in moment.found.seen}:
            there = [seen_of(moment, who) for moment in moments]
            series = timeline.series(who, ("rss", "uss"), [-1.0, *timeline.times, 1e9])
            assert series["rss"][1:-1] == [one.usage.rss if one else None for one in there]
            assert series["uss"][1:-1] == [one.usage.uss if one else None for one in there]
            assert series["rss"][0] is None
            assert series["rss"][-1] == series["rss"][-2]
            found = [timeline.vmas(at, who) for at in timeline.times]
            assert found == [one.vmas if one else None for one in there]


@pytest.mark.parametrize("seed", range(10))
def test_what_has_happened_to_a_process_has_its_time(seed: int, tmp_path: Path) -> None:
    for timeline in both(looks_of(seed), tmp_path):
        moments = [timeline.at(at) for at in timeline.times]
        every = [(moment.elapsed, one) for moment in moments for one in moment.found.happenings]
        for who in {(one.pid, one.start_time) for _, one in every}:
            assert timeline.events(who) == [(at, one) for at, one in every if (one.pid, one.start_time) == who]


def test_moments_of_a_recording_that_were_asked_for_last_are_kept(tmp_path: Path) -> None:
    _, timeline = itertools.islice(timelines := both(looks_of(2), tmp_path), 2)
    assert isinstance(timeline, RecordedTimeline)
    assert timeline.at(timeline.times[0]) is timeline.at(timeline.times[0])
    for at in timeline.times:
        timeline.at(at)
    assert len(timeline._last) <= MOST_LAST
    assert list(timelines) == []

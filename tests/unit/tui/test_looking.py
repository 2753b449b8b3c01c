"""The threads that look: what is asked is answered between two looks, and who is not wanted rests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from mematlas.errors import NotSupported, ProcessGone, TargetNotFound
from mematlas.tui.looking import Looker, Purse, last_moment
from screens import ScriptedWatch, look_of, shop
from victim import wait_until

LOOKS = [look_of(shop(11, seed=number)) for number in range(1, 4)]


class Heard:
    """What a thread that looks has told."""

    def __init__(self) -> None:
        self.nr_told = 0
        self.answers: dict[str, Any] = {}

    def tell(self, _: Looker) -> None:
        self.nr_told += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def looker(heard: Heard) -> Iterator[Looker]:
    made = Looker(lambda: ScriptedWatch(LOOKS), 0.01, 1.0, Purse(), heard.tell, heard.answers.__setitem__)
    made.start()
    wait_until(lambda: heard.nr_told >= 3, "three looks")
    yield made
    made.stop()
    made.join(5)
    assert not made._thread.is_alive()


def test_what_is_asked_is_answered_by_the_thread_that_looks(looker: Looker, heard: Heard) -> None:
    looker.ask("who", lambda timeline: (threading.get_ident(), last_moment(timeline).found.seen[0].pid))
    wait_until(lambda: "who" in heard.answers, "an answer")
    thread, pid = heard.answers["who"]
    assert (thread != threading.get_ident(), pid) == (True, 11)


def test_an_error_is_an_answer(looker: Looker, heard: Heard) -> None:
    def fail(_: object) -> None:
        raise NotSupported("this")

    looker.ask("it", fail)
    wait_until(lambda: isinstance(heard.answers.get("it"), NotSupported), "an error")
    before = heard.nr_told
    wait_until(lambda: heard.nr_told > before, "another look")


def test_who_is_not_wanted_looks_no_more_but_answers(looker: Looker, heard: Heard) -> None:
    looker.want(False)
    looker.ask("done", lambda timeline: len(timeline.times))
    wait_until(lambda: "done" in heard.answers, "an answer")
    nr_looks = looker.timeline and looker.timeline.sampler.nr_looks
    looker.ask("again", lambda timeline: len(timeline.times))
    wait_until(lambda: "again" in heard.answers, "an answer")
    assert looker.timeline
    assert looker.timeline.sampler.nr_looks == nr_looks
    looker.want(True)
    wait_until(lambda: looker.timeline is not None and looker.timeline.sampler.nr_looks > (nr_looks or 0), "more looks")


def test_of_what_is_asked_under_one_name_the_last_counts(heard: Heard) -> None:
    looker = Looker(lambda: ScriptedWatch(LOOKS), 0.01, 1.0, Purse(), heard.tell, heard.answers.__setitem__)
    asked: list[int] = []
    for number in range(5):
        looker.ask("it", partial(lambda number, _: asked.append(number), number))
    looker.start()
    wait_until(lambda: bool(asked), "an answer")
    looker.stop()
    looker.join(5)
    assert asked == [4]


def test_why_nothing_can_be_opened_is_told(heard: Heard) -> None:
    def refused() -> Any:
        raise ProcessGone(11)

    looker = Looker(refused, 0.01, 1.0, Purse(), heard.tell, heard.answers.__setitem__)
    looker.start()
    wait_until(lambda: looker.is_over, "the end")
    assert isinstance(looker.error, ProcessGone)
    assert heard.nr_told == 1
    looker.join(5)


def test_what_looking_takes_is_the_thread_s_own(looker: Looker) -> None:
    assert looker.timeline
    busy = sum(range(3_000_000))  # of this thread, not of that
    assert busy
    assert looker.timeline.sampler.cost.cpu_s < 1


def test_once_all_has_ended_what_is_asked_is_answered_by_that(heard: Heard) -> None:
    looker = Looker(lambda: ScriptedWatch(LOOKS, ends=True), 0.01, 1.0, Purse(), heard.tell, heard.answers.__setitem__)
    looker.start()
    looker.join(5)
    assert looker.is_over

    looker.ask("it", last_moment)

    assert isinstance(heard.answers["it"], TargetNotFound)


def test_what_waits_is_answered_where_nothing_can_be_opened(heard: Heard) -> None:
    def refused() -> Any:
        raise ProcessGone(11)

    looker = Looker(refused, 0.01, 1.0, Purse(), heard.tell, heard.answers.__setitem__)
    looker.ask("it", last_moment)
    looker.start()
    looker.join(5)
    assert isinstance(heard.answers["it"], ProcessGone)


def test_what_others_spend_of_the_purse_makes_looks_rarer(heard: Heard) -> None:
    purse = Purse()
    looker = Looker(lambda: ScriptedWatch(LOOKS), 0.01, 0.5, purse, heard.tell, heard.answers.__setitem__)
    looker.start()
    wait_until(lambda: heard.nr_told >= 3, "three looks")
    assert looker.pause < 5

    purse.take(100.0)

    wait_until(lambda: looker.pause > 100, "a pause that is paid for")
    looker.stop()
    looker.join(5)


def test_the_purse_has_what_looks_have_spent_but_for_the_first(heard: Heard) -> None:
    class Dear(ScriptedWatch):
        def seconds(self) -> float:
            return 100.0 + self.at

    purse = Purse()
    looker = Looker(lambda: Dear(LOOKS, ends=True), 0.0, 1.0, purse, heard.tell, heard.answers.__setitem__)
    looker.start()
    looker.join(5)
    assert heard.nr_told >= len(LOOKS)
    assert purse.take(0.0) == len(LOOKS) - 1


@pytest.mark.parametrize("is_each_time", [False, True])
def test_what_is_asked_after_each_look_counts_against_the_budget(heard: Heard, is_each_time: bool) -> None:
    class Dear(ScriptedWatch):
        spent = 0.0

        def seconds(self) -> float:
            return self.spent

    watch, purse = Dear(LOOKS), Purse()
    looker = Looker(lambda: watch, 0.01, 1.0, purse, heard.tell, heard.answers.__setitem__)
    looker.start()
    wait_until(lambda: heard.nr_told >= 3, "three looks")

    looker.ask("it", lambda _: setattr(watch, "spent", 0.5), is_each_time)

    wait_until(lambda: "it" in heard.answers, "an answer")
    before = heard.nr_told
    wait_until(lambda: heard.nr_told > before + 1, "two looks more")
    assert purse.take(0.0) == (0.5 if is_each_time else 0.0)
    looker.stop()
    looker.join(5)

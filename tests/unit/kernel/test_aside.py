"""Questions to a thread: answers in order, up to who does not answer; and no second thread beside one that waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mematlas.kernel import aside
from mematlas.kernel.aside import ask_aside
from victim import DEADLINE, wait_until

FOREVER = float("inf")


@pytest.fixture
def held() -> Iterator[Callable[[int], int]]:
    """A question that is answered with its double, but 3 only once the test is over."""
    waits, ends = os.pipe()

    def ask(number: int) -> int:
        if number == 3:
            os.read(waits, 1)
        return 2 * number

    yield ask
    os.close(ends)
    wait_until(lambda: not any(thread.done.locked() for thread in aside._left_behind), "the thread has ended")
    aside._left_behind.clear()
    os.close(waits)


def test_answers_come_in_order() -> None:
    assert ask_aside(lambda number: number * number, range(211), DEADLINE, FOREVER) == [n * n for n in range(211)]


def test_who_does_not_answer_ends_the_answers(held: Callable[[int], int]) -> None:
    assert ask_aside(held, range(9), 0.1, FOREVER) == [0, 2, 4]


def test_no_thread_is_started_beside_one_that_waits(held: Callable[[int], int]) -> None:
    ask_aside(held, [3], 0.1, FOREVER)

    assert ask_aside(held, [1], DEADLINE, FOREVER) == []


def test_who_is_slow_but_goes_on_is_waited_for() -> None:
    def ask(number: int) -> int:
        time.sleep(0.05)
        return number

    assert ask_aside(ask, range(9), 0.3, FOREVER) == list(range(9))


def test_thread_is_left_behind_where_we_are_interrupted(held: Callable[[int], int]) -> None:
    asked = []

    def ask(number: int) -> int:
        asked.append(number)
        if number == 3:
            time.sleep(0.05)  # a signal just before who waits begins to is heard at the end of that
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return held(number)

    with pytest.raises(KeyboardInterrupt):
        ask_aside(ask, range(9), DEADLINE, FOREVER)
    assert [thread.is_left for thread in aside._left_behind] == [True]
    assert asked == [0, 1, 2, 3]


def test_all_ends_in_time(held: Callable[[int], int]) -> None:
    assert ask_aside(held, range(9), DEADLINE, time.monotonic() + 0.1) == [0, 2, 4]


def test_mistake_of_ours_is_shown() -> None:
    with pytest.raises(ZeroDivisionError):
        ask_aside(lambda number: 1 // number, [1, 0], DEADLINE, FOREVER)
    assert ask_aside(abs, [-1], DEADLINE, FOREVER) == [1]

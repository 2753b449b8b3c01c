"""Questions to children that can be left behind: answers, descriptors, silence, death, and how little is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import alone, children
from mematlas.kernel import abandon
from mematlas.kernel.abandon import Inquiry, Reports
from victim import DEADLINE, wait_until

NR_THINGS = 211
FOREVER = 1000.0


def hang_at(*places: int, seconds: float = FOREVER) -> abandon.Ask:
    """Return a question that is answered with its double, but at some places not for long."""

    def ask(number: int) -> tuple[int, int]:
        if number in places:
            time.sleep(seconds)
        return 2 * number, -1

    return ask


def test_each_answer_comes_with_what_was_asked() -> None:
    inquiry = Inquiry(hang_at(), range(NR_THINGS))
    before = children()

    assert list(inquiry) == [(number, 2 * number, -1) for number in range(NR_THINGS)]
    assert (inquiry.unanswered, inquiry.unasked) == ([], [])
    assert children() <= before


def hold_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have children that are silent count as waiting in the kernel, until they are ended.

    tests/live/test_stuck.py has real ones.
    """
    monkeypatch.setattr(abandon.Child, "waits", lambda self: self._socket.fileno() >= 0)


def test_what_never_answers_is_named_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_up(monkeypatch)
    silent = [0, 5, 6, NR_THINGS - 1]
    # On a busy machine a child may be silent for want of a processor.
    inquiry = Inquiry(hang_at(*silent), range(NR_THINGS), deadline=time.monotonic() + 3, silence=0.25)
    before, fds = children(), os.listdir("/proc/self/fd")

    assert sorted(number for number, _, _ in inquiry) == [n for n in range(NR_THINGS) if n not in silent]
    assert (sorted(inquiry.unanswered), inquiry.unasked) == (silent, [])
    assert os.listdir("/proc/self/fd") == fds
    assert children() <= before


def test_late_answer_counts() -> None:
    inquiry = Inquiry(hang_at(3, seconds=3 * abandon.SILENCE), range(7), patience=DEADLINE)

    assert sorted(inquiry) == [(number, 2 * number, -1) for number in range(7)]


def test_who_pauses_still_at_the_end_was_not_held_up() -> None:
    inquiry = Inquiry(hang_at(1), range(3), deadline=time.monotonic() + 1)

    assert sorted(number for number, _, _ in inquiry) == [0, 2]
    assert (inquiry.unanswered, inquiry.unasked) == ([], [1])


def test_all_ends_in_time_and_says_what_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_up(monkeypatch)
    inquiry = Inquiry(hang_at(*range(1, 1000)), range(1000), patience=FOREVER, deadline=time.monotonic() + 0.3)
    answered = [number for number, _, _ in inquiry]

    assert 1 in inquiry.unanswered
    assert inquiry.unasked[-1:] == [999]
    assert sorted([*answered, *inquiry.unanswered, *inquiry.unasked]) == list(range(1000))


def test_child_that_is_killed_has_not_answered() -> None:
    def ask(number: int) -> tuple[int, int]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, -1

    inquiry = Inquiry(ask, range(5))
    # Where the machine is busy one may be silent, and others answer before it.
    assert sorted(number for number, _, _ in inquiry) == [0, 1, 3, 4]
    assert (inquiry.unanswered, inquiry.unasked) == ([], [2])


def test_descriptor_arrives_as_what_it_was(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    inquiry = Inquiry(lambda name: (len(name), os.open(tmp_path / name, os.O_RDONLY)), ["one", "two"])

    for name, length, fd in inquiry:
        assert (length, os.read(fd, 99).decode(), os.get_inheritable(fd)) == (3, name, False)
        os.close(fd)


def test_child_holds_none_of_our_streams() -> None:
    for _, streams, _ in Inquiry(lambda _: ([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)], -1), [1]):
        assert streams == [os.devnull] * 3


def test_mistake_in_a_child_is_shown_whole_and_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    inquiry = Inquiry(lambda number: (1 // number, -1), [1, 0, 1])

    assert [number for number, _, _ in inquiry] == [1, 1]
    assert inquiry.unasked == [0]
    assert capsys.readouterr().err.splitlines()[-1] == "ZeroDivisionError: integer division or modulo by zero"


def test_who_has_enough_leaves_nothing_behind() -> None:
    before, fds = children(), os.listdir("/proc/self/fd")
    answers = iter(Inquiry(hang_at(2), range(NR_THINGS)))
    assert next(answers)[0] == 0
    answers.close()  # type: ignore[attr-defined]

    assert os.listdir("/proc/self/fd") == fds
    assert children() <= before


ORPHAN = """
import os, sys, time
sys.path.append(sys.argv[1])
from mematlas.kernel.abandon import Inquiry, Reports
told = os.dup(1)
def ask(_):
    os.write(told, b"%d\\n" % os.getpid())
    time.sleep(1000)
for _ in Inquiry(ask, [1], patience=1000):
    pass
"""


def test_child_ends_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(Path(abandon.__file__).parents[2])], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    wait_until(lambda: not Path(f"/proc/{child}/comm").exists(), "the child ends")


# --- answers in pieces


def pieces_of(number: int) -> list[int]:
    return list(range(number))


def reports(hanging: Callable[[int], Iterator[int]] | None = None, **more: float) -> Reports:
    settings = {"patience": 0.3, "deadline": time.monotonic() + DEADLINE} | more
    return Reports(hanging or pieces_of, [3, 0, 2], settings["patience"], settings["deadline"])


def test_pieces_come_with_what_they_are_of() -> None:
    asked = reports()
    before = children()

    assert list(asked) == [(3, 0), (3, 1), (3, 2), (2, 0), (2, 1)]
    assert (asked.unanswered, asked.unasked) == ([], [])
    assert children() <= before


def test_pieces_from_before_a_silence_are_kept_and_the_next_thing_is_asked_about() -> None:
    def hanging(number: int) -> Iterator[int]:
        yield 7
        if number == 3:
            time.sleep(FOREVER)
        yield 8

    asked = reports(hanging)

    assert list(asked) == [(3, 7), (0, 7), (0, 8), (2, 7), (2, 8)]
    assert (asked.unanswered, asked.unasked) == ([3], [])


def test_who_works_for_long_is_waited_for_until_time_is_out() -> None:
    def working(number: int) -> Iterator[int]:
        yield 7
        while number == 0:
            pass

    asked = reports(working, patience=0.05, deadline=time.monotonic() + 1)

    assert list(asked) == [(3, 7), (0, 7)]
    assert (asked.unanswered, asked.unasked) == ([], [0, 2])


def test_death_of_the_child_that_reports_is_noticed() -> None:
    def dying(number: int) -> Iterator[int]:
        yield number
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    asked = reports(dying)

    assert list(asked) == [(3, 3), (0, 0), (2, 2)]
    assert (asked.unanswered, asked.unasked) == ([], [0])


@alone
def test_where_there_is_room_for_one_child_the_others_are_asked_after_it() -> None:
    def ask(number: int) -> tuple[int, int]:
        if number == 1:
            time.sleep(0.3)
        return number, -1

    # A child takes two descriptors of ours for good, and four while it is made.
    highest = max(map(int, os.listdir("/proc/self/fd")))
    while (fd := os.dup(2)) < highest:
        pass  # a hole would be room too
    os.close(fd)
    free = max(fd, highest)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, most))
    try:
        inquiry = Inquiry(ask, range(5), silence=0.05)
        assert sorted(number for number, _, _ in inquiry) == [0, 1, 2, 3, 4]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert inquiry.unanswered == inquiry.unasked == []

"""A view that repeats: what a terminal shows of it, and what it gets back."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import pytest

from mematlas.views import live
from mematlas.views.terminal import screen_size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def numbers(made: list[int]) -> Iterator[str]:
    for number in itertools.count():
        made.append(number)
        yield f"line {number}"


def test_no_more_lines_are_made_than_a_screen_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    out = Terminal()
    monkeypatch.setattr(live, "screen_size", lambda _: (80, 5))

    live.Screen(out).show(numbers(made))

    assert made == [0, 1, 2, 3, 4]
    assert out.getvalue().replace(live.CLEAR_LINE, "").split("\n")[1:4] == ["line 1", "line 2", live.MORE]


def test_lines_that_fit_are_all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(live, "screen_size", lambda _: (80, 5))

    live.Screen(out).show(["a", "b", "c", "d"])

    assert "d" in out.getvalue()
    assert live.MORE not in out.getvalue()


def test_frames_into_a_pipe_are_written_as_they_come() -> None:
    out = io.StringIO()
    written: list[str] = []

    def frame() -> Iterator[str]:
        yield "first"
        written.append(out.getvalue())
        yield "second"

    live.repeat(frame, out, 0, 2)

    assert written == ["first\n", "first\nsecond\n\nfirst\n"]
    assert out.getvalue() == "first\nsecond\n\nfirst\nsecond\n"


def test_what_is_no_terminal_has_no_size() -> None:
    assert screen_size(io.StringIO()) is None


@pytest.mark.parametrize(("takes", "looks"), [(1, [0, 4, 8, 12]), (5, [0, 8, 16, 24]), (400, [0, 404, 808, 1212])])
def test_looks_that_were_missed_are_left_out(takes: int, looks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds > 0
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    seen = []
    for number in live.ticks(4, 4):
        seen.append((number, now))
        now += takes
    assert seen == list(enumerate(looks))

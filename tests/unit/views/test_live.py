"""A view that repeats: what a terminal shows of it, and what it gets back."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from datetime import datetime

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


def test_line_that_fills_the_screen_keeps_its_last_character(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(live, "screen_size", lambda _: (4, 5))

    live.Screen(out).show(["full"])

    # Without wrapping the cursor stays on the last column: what is cleared after the line is that character.
    assert f"{live.CLEAR_LINE}full\n" in out.getvalue()


def test_lines_that_fit_are_all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(live, "screen_size", lambda _: (80, 5))

    live.Screen(out).show(["a", "b", "c", "d"])

    assert "d" in out.getvalue()
    assert live.MORE not in out.getvalue()


def test_frames_into_a_pipe_are_written_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    written: list[str] = []

    def frame(room: int) -> Iterator[str]:
        assert room == 0
        yield "first"
        written.append(out.getvalue())
        yield "second"

    monkeypatch.setattr(live, "STAMP", "now")
    live.repeat(frame, out, 0, 2)

    assert written == ["now\nfirst\n", "now\nfirst\nsecond\n\nnow\nfirst\n"]
    assert out.getvalue() == "now\nfirst\nsecond\n\nnow\nfirst\nsecond\n"


def test_time_of_each_view_in_a_file_is_a_date() -> None:
    out = io.StringIO()
    live.repeat(lambda room: ["line"], out, 0, 1)

    assert datetime.strptime(out.getvalue().splitlines()[0], "%Y-%m-%d %H:%M:%S").year >= 2026


@pytest.mark.parametrize(("interval", "often"), [(1, "every 1 s"), (0.25, "every 250 ms"), (90, "every 90 s")])
def test_heading_says_when_how_often_and_how_to_end(interval: float, often: str) -> None:
    clock, *words = live.heading(interval, quits=True).split(", ")

    assert len(clock) == len("14:02:10")
    assert words == [often, "q quits"]
    assert live.heading(interval, quits=False, part=0.0125).split(", ")[1:] == [often, "1.2 % of a processor"]


def test_what_is_no_terminal_has_no_size() -> None:
    assert screen_size(io.StringIO()) is None


def test_cells_that_changed_are_marked_and_rows_that_are_new() -> None:
    changes = live.Changes()
    first = ["program, PID 7, in 3 ms", "RSS    4 MiB  resident", "USS    1 MiB  alone"]
    second = ["program, PID 7, in 4 ms", "RSS    5 MiB  resident", "USS    1 MiB  alone", "swap  12 KiB  paged out"]

    assert list(changes.marked(first)) == first
    heading, rss, uss, swap = changes.marked(second)
    assert (heading, uss) == (second[0], second[2])
    assert rss == "RSS    \x1b[7m5 MiB\x1b[0m  resident"
    assert swap == "\x1b[7mswap  12 KiB  paged out\x1b[0m"
    assert list(changes.marked(second)) == second

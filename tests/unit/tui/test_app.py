"""The screen: what keys mean everywhere, and what is looked at for what is seen."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
from textual.events import Key, MouseDown, MouseScrollDown, MouseUp

from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.timeline.timeline import LiveTimeline
from mematlas.tui.app import Top
from mematlas.tui.frame import Status, foot_row, machine_row
from mematlas.tui.help import HelpPage
from mematlas.tui.help_texts import KEYS, MEANINGS
from mematlas.tui.viewing import Viewing
from recorded_screens import press as press_keys
from recorded_screens import settle, type_in
from screens import SIZES, look_of, played, seen_on, shop, shown, text_of, top_of

STATUS = Status("oak", {}, "uid 0", "", "live", "")
LOOKS = [look_of(shop(11, name="shop"), shop(12, name="till", seed=number)) for number in range(1, 4)]


def press(app: Top, *keys: str, size: tuple[int, int] = (120, 40)) -> list[str]:
    """Return what is on the screen after some keys."""
    found: list[str] = []

    async def play(pilot: Any) -> None:
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        app.draw()
        found.extend(shown(app))

    played(app, play, size)
    return found


@pytest.mark.parametrize("size", SIZES[:4])
def test_every_page_is_shown_in_every_size(size: tuple[int, int]) -> None:
    app = top_of(LOOKS, 11)
    for number, page in enumerate(app.pages, 1):
        lines = press(top_of(LOOKS, 11), str(number), size=size)
        assert len(lines) == size[1]
        assert max(map(len, lines)) <= size[0]
        if size[0] >= 80:
            assert f"{number} {page.name}" in lines[1]


def test_tab_goes_round_the_pages() -> None:
    app = top_of(LOOKS)
    nr = len(app.pages)
    press(app, *["tab"] * nr)
    assert app.page is app.pages[0]
    press(again := top_of(LOOKS), "shift+tab")
    assert again.page is again.pages[nr - 1]


@pytest.mark.parametrize("key", ["q", "f10"])
def test_it_ends(key: str) -> None:
    app = top_of(LOOKS)
    press(app, key)
    assert app.return_value == 0


@pytest.mark.parametrize("key", ["?", "f1"])
def test_help_lies_over_the_page_and_goes_away(key: str) -> None:
    lines = press(top_of(LOOKS), key)
    assert any("Keys of Processes" in line for line in lines)
    assert not any("Keys of Processes" in line for line in press(top_of(LOOKS), key, "escape"))


@pytest.mark.parametrize("key", ["z"])
def test_what_is_frozen_stays_until_it_goes_on(key: str) -> None:
    app = top_of(LOOKS)
    assert "frozen" in press(app, key)[1]
    assert app.viewing.at is not None
    assert "live" in press(app := top_of(LOOKS), key, key)[1]
    assert app.viewing.at is None


def test_moments_before_are_looked_at_and_the_newest_again() -> None:
    viewing = Viewing()
    viewing.everybody = top_timeline()
    first, last = viewing.reach
    viewing.move(-1e9)
    assert viewing.clock == first
    viewing.move(1e9)
    assert viewing.at is None
    assert viewing.clock == last


def top_timeline() -> Any:
    from screens import timeline_of

    return timeline_of(LOOKS)


def test_a_snapshot_is_compared_with_until_that_is_enough() -> None:
    assert "nothing to compare with" in press(top_of(LOOKS), "d")[-1]
    app = top_of(LOOKS)
    assert " vs " in press(app, "s")[1]
    assert app.viewing.compared is not None
    assert " vs " not in press(top_of(LOOKS), "s", "d")[1]


def test_the_command_line_for_what_is_seen_is_copied() -> None:
    app = top_of(LOOKS, 11)
    line = press(app, "y")[-1]
    assert line.strip().startswith("copied: mematlas ")
    assert app.clipboard.startswith("mematlas ")


@pytest.mark.parametrize("key", ["/", "f3", "\\", "f4"])
def test_a_text_is_asked_for_and_asked_no_more(key: str) -> None:
    app = top_of(LOOKS)

    async def play(pilot: Any) -> None:
        await pilot.press(key)
        await pilot.pause()
        assert len(app.query("#prompt")) == 1
        await pilot.press("q")  # is a letter of the text
        await pilot.press("escape")
        await pilot.pause()
        assert not len(app.query("#prompt"))
        await pilot.press(key, *"zzz", "enter")
        await pilot.pause()
        assert app.return_value is None

    played(app, play)


def test_what_may_not_be_done_says_why() -> None:
    app = top_of(LOOKS, 11)
    app.viewing.why_no_act = "nothing is done here"
    assert "nothing is done here" in press(app, "a")[-1]
    assert "nothing goes on" in press(top_of(LOOKS), "r")[-1]
    assert "nothing to search for" in press(top_of(LOOKS), "n")[-1]


class Recorder:
    """Records nothing."""

    def __init__(self) -> None:
        self.is_recording, self.why_not, self.told = False, "", [0]

    def begin(self, pid: int) -> None:
        self.is_recording = True
        self.told.append(pid)

    def end(self) -> None:
        self.is_recording, self.why_not = False, "not whole yet"

    def heard(self) -> str:
        return ""


def test_nothing_is_recorded_while_what_was_before_is_made_whole() -> None:
    app = top_of(LOOKS, 11)
    app._recorder = recorder = Recorder()
    assert "recording, " in press(app, "r")[1]
    app = top_of(LOOKS, 11)
    app._recorder = recorder
    lines = press(app, "r", "r")
    assert "not whole yet" in lines[-1]
    assert recorder.told == [0, 11]


def test_what_has_ended_stays_and_is_said() -> None:
    app = top_of(LOOKS, 11, ends=True)

    async def play(pilot: Any) -> None:
        await pilot.press("2")
        await seen_on(app, pilot, lambda: "has ended" in app.viewing.said)
        assert app.is_running
        assert app.viewing.seen() is not None

    played(app, play)


@pytest.mark.parametrize("error", [PermissionDenied("/proc/1/maps"), NotSupported("this")])
def test_what_cannot_be_opened_is_said_and_the_screen_stays(error: Exception) -> None:
    app = top_of(LOOKS, 11)

    def refused() -> Any:
        raise error

    app._open_closely = lambda _: refused
    app.page = app.pages[0]

    async def play(pilot: Any) -> None:
        await pilot.press("2")
        await seen_on(app, pilot, lambda: str(error) in app.viewing.said)
        await pilot.press("1")
        assert app.is_running

    played(app, play)


def test_only_what_a_page_needs_is_looked_at() -> None:
    app = top_of(LOOKS, 11)
    app.page = app.pages[0]

    async def play(pilot: Any) -> None:
        assert set(app._lookers) == {"everybody"}
        await pilot.press("2")
        await seen_on(app, pilot, lambda: app.viewing.closely is not None)
        assert set(app._lookers) == {"everybody", "closely"}
        assert [looker._is_wanted for looker in app._lookers.values()] == [False, True]

    played(app, play)


def test_another_process_is_looked_at_when_it_is_in_focus() -> None:
    app = top_of(LOOKS, 11)

    async def play(pilot: Any) -> None:
        await pilot.press("2")
        await seen_on(app, pilot, lambda: app.viewing.closely is not None)
        first, timeline = app._lookers["closely"], app.viewing.closely
        app.viewing.focus = 12, 77
        app.follow()
        assert app.viewing.closely is not timeline
        assert app._lookers["closely"] is not first
        await asyncio.to_thread(first.join, 5.0)
        assert not first._thread.is_alive()

    played(app, play)


def test_no_thread_is_left_behind() -> None:
    app = top_of(LOOKS, 11)
    press(app, "2", "3", "q")
    assert not any(looker._thread.is_alive() for looker in app._lookers.values())


def test_a_process_that_is_named_begins_with_its_map() -> None:
    assert top_of(LOOKS, 11).page.name == "Map"
    assert top_of(LOOKS).page.name == "Processes"


def test_keys_that_lead_to_help_and_out_are_shown_however_many_there_are() -> None:
    for page in top_of(LOOKS, 11).pages:
        line = foot_row(page, STATUS, 80)
        assert text_of([line])[0].endswith(" ? help  q quit"), page.name
        assert page.keys[0][1] in text_of([line])[0]


def test_what_lies_over_a_page_shows_its_own_keys_alone() -> None:
    app = top_of(LOOKS, 11)
    lines = press(app, "?", size=(80, 24))
    assert lines[-1] == " ↑ ↓ scroll  Esc back"
    assert "q quit" not in press(top_of(LOOKS, 11), "a")[-1]


def test_who_goes_back_in_time_is_told_where_that_is_and_how_to_return() -> None:
    app = top_of(LOOKS, 11)

    async def play(pilot: Any) -> None:
        await seen_on(app, pilot, lambda: app.viewing.reach[1] - app.viewing.reach[0] > 1.5)
        await pilot.press("[")
        await pilot.pause()
        lines = shown(app)
        assert re.search(r"\d\.\d of \d\.\d s$", lines[1])
        assert "z twice the newest" in lines[-1]
        await pilot.press("z", "z")
        await pilot.pause()
        assert shown(app)[1].endswith("live")

    played(app, play)


def test_a_recording_that_goes_on_is_said_in_whatever_moment_is_seen() -> None:
    app = top_of(LOOKS, 11)
    app._recorder = FakeRecorder()
    lines = press(app, "r", "z")
    assert "recording, frozen at" in lines[1]


def test_where_a_recording_is_and_how_to_open_it_has_room_on_a_narrow_screen() -> None:
    app = top_of(LOOKS, 11)
    name = "28578-20261130-185005.mematlas"
    app._recorder = FakeRecorder(f"{name}: 104 KiB; next: mematlas report {name}")
    line = press(app, "z", size=(80, 24))[-1]
    assert line.split() == ["recorded", f"{name}:", "104", "KiB;", "mematlas", "top", "opens", "it"]


@pytest.mark.parametrize("width", [70, 80, 100, 120])
@pytest.mark.parametrize("place", ["oak", "oak · 6.18.44-a-long-release", "28578-20261130-185005.mematlas"])
def test_what_is_free_and_with_which_rights_is_never_cut(width: int, place: str) -> None:
    counters = {"MemTotal": 24 << 30, "MemFree": 20 << 30, "AnonPages": 1 << 30}
    status = Status(place, counters, "root, apart, no act", "", "live", "")
    row = "".join(text for text, _ in machine_row(status, width))
    assert len(row) == width
    assert "free 20 GiB" in row
    assert row.endswith(" root, apart, no act ")
    assert place[:3] in row


class FakeRecorder:
    """Records nothing, and says what it is given."""

    def __init__(self, text: str = "") -> None:
        self.is_recording, self.why_not = False, ""
        self.text = text

    def begin(self, pid: int) -> None:
        self.is_recording = True

    def end(self) -> None:
        self.is_recording = False

    def heard(self) -> str:
        text, self.text = self.text, ""
        return text


def test_keys_of_all_pages_stand_behind_the_own_ones_where_there_is_room() -> None:
    page = top_of(LOOKS).pages[0]

    def keys(cost: str, width: int) -> str:
        status = Status("oak", {}, "uid 0", cost, "live", "")
        return "".join(text for text, _ in foot_row(page, status, width)).strip()

    assert keys("0.5 s", 200).endswith("s snapshot  [ ] time  r record  a act  ? help  q quit")
    assert keys("", 200).endswith("s snapshot  [ ] time  ? help  q quit")
    assert "snapshot" not in keys("0.5 s", 80)


def test_help_explains_every_key_and_more_of_each_page() -> None:
    for page in top_of(LOOKS, 11).pages:
        explained = {key for key, _ in KEYS[page.name]} | {word for key, _ in KEYS[page.name] for word in key.split()}
        assert {key for key, _ in page.keys} <= explained, page.name
        assert MEANINGS[page.name]


@pytest.mark.parametrize("size", SIZES)
def test_help_is_read_to_its_end_in_every_size(size: tuple[int, int]) -> None:
    for page in top_of(LOOKS, 11).pages:
        sheet = HelpPage(page.viewing, page)
        lines: list[str] = []
        for _ in range(200):
            rows = sheet.draw(*size)
            assert len(rows) <= size[1]
            lines += text_of(rows)
            if not lines[-1].endswith("more"):
                break
            sheet.press("down")
        assert lines[-1].strip()
    assert any("quit" in line for line in lines)


def test_a_key_that_help_has_shown_is_pressed_right_there() -> None:
    app = top_of(LOOKS, 11)
    press(app, "?", "3")
    assert (app.sheet, app.page.name) == (None, "VMAs")
    app = top_of(LOOKS, 11)
    press(app, "?", "q")
    assert (app.sheet, app.page.name, app.return_value) == (None, "Map", None)


def test_the_second_line_says_how_often_is_looked_at_what_is_shown() -> None:
    app = top_of(LOOKS, 11)

    async def play(pilot: Any) -> None:
        await pilot.press("1")
        await seen_on(app, pilot, lambda: app.viewing.everybody is not None)
        assert app.status().cost.startswith("0.2 s · ")
        app._lookers["everybody"].stop()  # it says no more how long it waits
        app._lookers["everybody"].pause = 24.04
        assert app.status().cost.startswith("24 s · ")

    played(app, play)


def damaged(*_: Any) -> Any:
    raise FormatError("x.mematlas", expected="a VMA")


def test_what_is_wrong_at_a_moment_is_said_and_the_screen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    app = top_of(LOOKS, 11)

    async def play(pilot: Any) -> None:
        for name in ("at", "between", "counters", "vmas", "pages", "series", "amounts"):
            monkeypatch.setattr(LiveTimeline, name, damaged)
        for number in "123456":
            for key in (number, "down", "enter", "right", "+", "g", "s", "[", "]", "escape"):
                await press_keys(app, key)
        app.post_message(MouseDown(None, 5, 5, 0, 0, 1, False, False, False, 5, 5))
        app.post_message(MouseUp(None, 5, 5, 0, 0, 1, False, False, False, 5, 5))
        app.post_message(MouseScrollDown(None, 5, 5, 0, 0, 0, False, False, False, 5, 5))
        await type_in(app, "/", "shop")
        await press_keys(app, "2")
        assert any("expected a VMA" in line for line in shown(app))
        assert app.is_running

    played(app, play)


def test_what_is_drawn_counts_against_the_budget_unless_keys_have_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app = top_of(LOOKS)
    clock, drawn = iter((10.0, 20.0, 30.0)), iter((1.0, 3.0, 99.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "thread_time", lambda: next(drawn))
    app._beat_at = 0.0
    app._pay()
    assert app._purse.take(0.0) == 1.0
    app._is_used = True
    app._pay()
    assert app._purse.take(0.0) == 1.0
    app._pay()
    assert app._purse.take(0.0) == 1.0 + 10 * app._budget / 2  # at the most


def test_a_moment_that_is_let_go_of_while_it_is_asked_for_is_the_first_that_is_left() -> None:
    timeline = top_timeline()
    viewing = Viewing()
    viewing.everybody = timeline
    viewing.at = 0.0
    times = timeline.times
    while len(timeline._moments) > 1:
        timeline._moments.popleft()
    with patch.object(type(timeline), "times", PropertyMock(side_effect=[times, timeline.times])):
        moment = viewing.moment(timeline)
    assert moment
    assert moment.elapsed == times[-1]


def test_a_click_is_where_the_page_is_when_nothing_stands_around_it() -> None:
    app = top_of(LOOKS)
    clicked: list[tuple[int, int]] = []

    async def play(pilot: Any) -> None:
        app.page.click = lambda x, y, is_double: clicked.append((x, y))  # type: ignore[method-assign]
        for y in (0, 1, 4):
            await pilot.click(offset=(20, y))
        assert app.page is app.pages[0]

    played(app, play, (40, 5))
    assert clicked == [(20, 0), (20, 1), (20, 4)]


def test_a_press_begins_no_selection() -> None:
    # Textual looks up what is selected, and falls over a prompt that has just been taken away.
    app = top_of(LOOKS)

    async def play(pilot: Any) -> None:
        await press_keys(app, "/")
        for y in (5, 39):
            app.post_message(MouseDown(None, 3, y, 0, 0, 1, False, False, False, 3, y))
            await settle(app)
            assert getattr(app.screen, "_select_state", None) is None

    played(app, play)


def test_a_prompt_has_what_is_typed_until_a_click_takes_it_away() -> None:
    app = top_of(LOOKS)

    async def play(pilot: Any) -> None:
        await pilot.press("/", "tab", "z", "shift+tab", "z", "enter")
        await pilot.pause()
        assert "no 'zz' here" in app.viewing.said
        await pilot.press("/")
        await pilot.click(offset=(5, 5))
        await pilot.pause()
        assert not app.query("#prompt")
        await pilot.press("z")
        assert app.viewing.is_frozen

    played(app, play)


@pytest.mark.parametrize("key", ["/", "\\"])
def test_what_is_typed_before_the_prompt_has_the_keys_is_meant_for_it(key: str) -> None:
    app = top_of(LOOKS)

    async def play(pilot: Any) -> None:
        for one in (key, "q", "4", "z", "enter"):
            app.post_message(Key(one, one if len(one) == 1 else None))
        await settle(app)
        assert not app.query("#prompt")
        app.draw()
        assert any("'q4z'" in line for line in shown(app))
        assert app.page is app.pages[0]
        assert not app.viewing.is_frozen

    played(app, play)

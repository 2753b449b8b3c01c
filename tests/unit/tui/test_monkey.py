"""Whoever presses any key and clicks anywhere, in a terminal of any size, sees rows that fit, and never an exception.

MEMATLAS_MONKEYS=N plays so many times more, each time by another seed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from textual import events
from textual.geometry import Size

from mematlas.errors import Error
from mematlas.frozen import replace
from mematlas.timeline.watch import EXEC, EXIT, Happening, Look
from mematlas.tui.app import Top
from mematlas.tui.colours import Colours
from mematlas.tui.drawing import width_of_row
from mematlas.tui.pages import all_pages
from mematlas.tui.viewing import Viewing
from mematlas.views.format import width_of
from recorded_screens import NAME, played_on, settle
from screens import ScriptedWatch
from scripted_recording import NR_MOMENTS, PROCESSES, SHOP, START_TIMES, look_at, seen_at, write_scripted

MORE = int(os.environ.get("MEMATLAS_MONKEYS", "0"))
SEEDS = range(1, 2 + MORE)
NR_DEEDS, AT_A_TIME = 270, 9
KEYS = (
    *"123456" * 3,
    *(chr(code) for code in range(0x20, 0x7F) if chr(code) != "q"),
    *("up", "down", "left", "right", "pageup", "pagedown", "home", "end", "enter", "escape", "tab", "shift+tab") * 4,
    *("space", "backspace", "delete", "insert", "f1", "f3", "f4", "f5", "f9", "ctrl+a", "ctrl+up", "ctrl+z", "é", "²"),
    *("中", "٣", "\x1b", "\x00", "\ue000", "\u202e"),
)
SIZES = (
    (1, 1),
    (2, 1),
    (1, 9),
    (3, 3),
    (7, 5),
    (20, 4),
    (20, 10),
    (40, 300),
    (80, 24),
    (120, 40),
    (200, 60),
    (300, 100),
)
TEXTS = (
    "",
    "shop",
    "SHOP",
    "[",
    "*",
    "\\",
    "^(",
    "%",
    "0x7f",
    "7f1240000000",
    "-1",
    "9" * 40,
    "uid:0",
    "中",
    "\x1b[2J",
    "a b",
)
NAMES = ("shop", "", "\x1b[2J\x07", "日本語の店" * 5, "\udcff\u202e", "a\nb\tc", "x" * 300, "[red]x[/]", "\u0301" * 9)
VALUES = (
    None,
    -1,
    0,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
    0.5,
    float("inf"),
    "",
    "\x1b[2J",
    "9" * 99,
    b"",
    b"\xff" * 99,
)
LEAST = 80
MISTAKE = "mistake of ours"


class Monkey:
    """Does anything, the same for the same seed."""

    def __init__(self, app: Top, seed: int) -> None:
        self.app = app
        self.random = Random(seed)
        self.done: list[object] = []
        draw = app.rows

        def rows(width: int, height: int) -> list[Any]:
            found = draw(width, height)
            assert len(found) <= height, (width, height)
            # What is narrower than any terminal is cut by the stage, with a mark.
            widest = max(map(width_of_row, found), default=0)
            assert widest <= width or width < LEAST, (width, height, app.page.name)
            return found

        app.rows = rows  # type: ignore[method-assign]

    async def play(self, nr: int = NR_DEEDS) -> None:
        """Do so many things; what was done before is said where one goes wrong."""
        deeds = (self.press,) * 12 + (self.click,) * 3 + (self.wheel,) * 2 + (self.resize, self.ask_for)
        try:
            for _ in range(nr // AT_A_TIME):
                for deed in self.random.choices(deeds, k=AT_A_TIME):
                    deed()
                await settle(self.app)
                self.check()
        except BaseException as error:
            error.add_note(f"after {self.done[-30:]}")
            raise

    def press(self) -> None:
        for key in self.random.choices(KEYS, k=self.random.randrange(1, 4)):
            self.press_key(key)

    def press_key(self, key: str) -> None:
        self.done.append(key)
        self.app.post_message(events.Key(key, " " if key == "space" else key if len(key) == 1 else None))

    def ask_for(self) -> None:
        self.press_key(self.random.choice("/\\"))
        for character in self.random.choice(TEXTS):
            self.press_key(character)
        self.press_key(self.random.choice(("enter", "enter", "enter", "escape", "tab")))

    def click(self) -> None:
        x, y = self.place()
        self.done.append(("click", x, y))
        # As a driver does: the app makes a click of a press and a release at one place, and a second one of two.
        for kind in (events.MouseDown, events.MouseUp) * self.random.choice((1, 1, 2)):
            self.app.post_message(kind(None, x, y, 0, 0, 1, False, False, False, x, y))

    def wheel(self) -> None:
        x, y = self.place()
        kind = self.random.choice((events.MouseScrollUp, events.MouseScrollDown))
        self.done.append((kind.__name__, x, y))
        for _ in range(self.random.randrange(1, 9)):
            self.app.post_message(kind(None, x, y, 0, 0, 0, False, False, False, x, y))

    def place(self) -> tuple[int, int]:
        width, height = self.app.size
        return self.random.randrange(width), self.random.choice((0, 1, height - 1, self.random.randrange(height)))

    def resize(self) -> None:
        size = Size(*self.random.choice(SIZES))
        self.done.append(size)
        self.app.post_message(events.Resize(size, size))

    def check(self) -> None:
        """Hold what is on the screen against what is promised."""
        app = self.app
        assert app._exception is None, repr(app._exception)
        assert app.return_value is None
        app.draw()
        for y in range(app.stage.size.height):
            strip = app.stage.render_line(y)
            assert strip.cell_length == width_of(strip.text) == app.stage.size.width, strip
            assert strip.text.isprintable(), strip
            assert MISTAKE not in strip.text, strip


class ChangingWatch(ScriptedWatch):
    """Looks that are seen one after the other: those of one process, if one is named."""

    def __init__(self, looks: Sequence[Look], pid: int | None = None) -> None:
        chosen = [replace(look, seen=tuple(one for one in look.seen if pid in (None, one.pid))) for look in looks]
        super().__init__(chosen)


def looks_of(seed: int) -> list[Look]:
    """Return looks at processes that come, go and become others, of names that nobody would give."""
    random = Random(seed)
    looks = []
    there: dict[int, str] = {}
    for moment in range(NR_MOMENTS):
        look = look_at(moment)
        happenings = list(look.happenings)
        for pid in list(there):
            if random.random() < 0.1:
                del there[pid]
                happenings.append(Happening(pid, 77, EXIT, "ended"))
            elif random.random() < 0.1:
                there[pid] = random.choice(NAMES)
                happenings.append(Happening(pid, 77, EXEC, f"became {there[pid]}"))
        for _ in range(random.randrange(3)):
            there[random.randrange(100, 140)] = random.choice(NAMES)
        more = [
            replace(
                seen_at(random.choice(list(PROCESSES)), random.randrange(NR_MOMENTS)), pid=pid, start_time=77, name=name
            )
            for pid, name in there.items()
        ]
        looks.append(replace(look, seen=(*look.seen, *more), happenings=tuple(happenings)))
    return looks


def live_top(seed: int) -> Top:
    looks = looks_of(seed)
    viewing = Viewing()
    viewing.place = "oak"
    viewing.why_no_act = "nothing is done here" if seed % 2 else ""
    if seed % 3:
        viewing.focus = SHOP, START_TIMES[SHOP]
    openers = {name: (lambda: ChangingWatch(looks), 0.2) for name in ("everybody", "machine")}
    colours = Colours((1 << 24, 256, 16, 0)[seed % 4], light=False)
    return Top(
        viewing, all_pages(viewing), colours, openers,
        lambda pid: lambda: ChangingWatch(looks, pid), 0.2, 1.0, "uid 0", lambda: 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_anything_may_be_done_to_a_live_screen(seed: int) -> None:
    app = live_top(seed)

    async def run() -> None:
        async with app.run_test(size=(120, 40)):
            await Monkey(app, seed).play()

    asyncio.run(run())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("recorded")
    write_scripted(made / NAME)
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_anything_may_be_done_to_the_screen_of_a_recording(seed: int, place: Path) -> None:
    async def play(_: Any, app: Top) -> None:
        await Monkey(app, seed).play()

    played_on(place, play)


def damage(path: Path, random: Random) -> None:
    """Change some values of a recording to what should not be there."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for _ in range(random.randrange(1, 4)):
            table = random.choice(tables)
            column = random.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
            some = f"abs(random()) % {random.choice((1, 3, 50))} = 0"
            with suppress(sqlite3.Error):  # refused, or no such number of a row
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {some}", [random.choice(VALUES)])


@pytest.mark.parametrize("seed", range(1, 4 + MORE))
def test_anything_may_be_in_a_recording(seed: int, place: Path, tmp_path: Path) -> None:
    shutil.copy(place / NAME, tmp_path / NAME)
    damage(tmp_path / NAME, Random(seed))
    is_open = False

    async def play(_: Any, app: Top) -> None:
        nonlocal is_open
        is_open = True
        await Monkey(app, seed).play(AT_A_TIME * 4)

    try:
        played_on(tmp_path, play, (80, 24))
    except Error:
        assert not is_open, "what can be opened is shown to its end"

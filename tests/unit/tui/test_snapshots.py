"""What every page shows of a recording, in three sizes, compared whole with what was looked at.

MEMATLAS_RECORD=1 writes the texts in `expected` anew: look at the difference.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mematlas.tui.app import Top
from recorded_screens import FULL, NAME, painted, played_on, press, type_in, whole
from scripted_recording import write_scripted

EXPECTED = Path(__file__).parent / "expected"
SIZES = ((80, 24), (120, 40), (200, 60))
PAGES = {"2": "map", "3": "vmas", "4": "time", "5": "tables", "6": "ram"}
WAYS = {
    "processes-tree": ("t",),
    "processes-groups": ("t", "g", "g", "+"),
    "processes-tagged": ("g", "g", "g", "space", "<", "I"),
    "processes-ended": (">", "{", "{", "s", "}"),
    "map-against-a-snapshot": ("home", "enter"),
    "vmas-against-a-snapshot": ("3",),
    "map-single-pages": ("d", "2", "+", "+", "+", "pagedown"),
    "map-changed": ("w", "c"),
    "map-accessed": ("c",),
    "map-shared": ("c",),
    "map-huge": ("c",),
    "map-node": ("c",),
    "map-folded": ("c", "f", "f", "up", "end", "left"),
    "vmas-by-path": ("3", "g"),
    "vmas-by-kind": ("g", "down", "down"),
    "vmas-in-a-kind": ("enter",),
    "vmas-sorted": ("escape", "g", "<", "I"),
    "time-by-kind": ("4", "c", "v"),
    "time-changes": ("c", "v", "+", "left", "left", "down"),
    "time-swap": ("c", "c", "c", "v", "-"),
    "ram-uses": ("6", "v"),
    "ram-files": ("v", ">", ">", ">", "I", "end"),
    "time-of-an-exec": ("v", "1", "[", "end", "enter", "4", "c", "v"),
    "tables-not-recorded": ("5",),
    "map-before-an-exec": ("{", "{", "2"),
    "time-of-one-that-ends": ("1", "end", "up", "enter", "4"),
    "vmas-of-one-that-has-ended": ("}", "}", "3"),
    "help": ("?",),
}
"""Further looks, each from the one before, and the keys that lead there."""
LOOKS = {"full": (FULL, False), "light": (FULL, True), "256": (256, False), "16": (16, False), "none": (0, False)}
Shots = dict[str, list[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the recording."""
    path: Path = tmp_path_factory.mktemp("recorded")
    write_scripted(path / NAME)
    return path


def quiet(app: Top) -> list[str]:
    """Return what is on the screen, with its keys, not with what there was to say."""
    app.viewing.said = ""
    return whole(app)


def shots_of(place: Path, size: tuple[int, int]) -> Shots:
    """Return each page in a size: of all processes, of nobody, of one."""
    shots: Shots = {}

    async def play(pilot: Any, app: Top) -> None:
        shots["processes"] = quiet(app)
        for key, name in PAGES.items():
            await press(app, key)
            if name in ("map", "time"):
                shots[f"{name}-of-nobody"] = quiet(app)
        await press(app, "1", "enter")
        for key, name in PAGES.items():
            await press(app, key)
            shots[name] = quiet(app)

    played_on(place, play, size)
    return shots


def ways(place: Path) -> Shots:
    shots: Shots = {}

    async def play(pilot: Any, app: Top) -> None:
        for name, keys in WAYS.items():
            await press(app, *keys)
            shots[name] = quiet(app)
        await press(app, "escape", "1", "home", "enter", "3")
        await type_in(app, "\\", "SHOP")
        shots["vmas-filtered"] = quiet(app)

    played_on(place, play)
    return shots


def looks(place: Path) -> Shots:
    """Return pages with how their characters look, in as many colours as there may be."""
    shots: Shots = {}

    async def play(name: str, pilot: Any, app: Top) -> None:
        await press(app, "enter", "right")
        app.viewing.said = ""
        shots[f"map-in-{name}"] = painted(app)
        await press(app, "3")
        shots[f"vmas-in-{name}"] = painted(app)

    for name, (depth, light) in LOOKS.items():
        played_on(place, partial(play, name), (80, 24), depth, light)
    return shots


def compare(shots: Shots, suffix: str) -> None:
    """Compare screens with those that were looked at."""
    if os.environ.get("MEMATLAS_RECORD"):
        EXPECTED.mkdir(exist_ok=True)
        for name, lines in shots.items():
            (EXPECTED / f"{name}{suffix}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    for name, lines in shots.items():
        assert lines == (EXPECTED / f"{name}{suffix}.txt").read_text("utf-8").splitlines(), name


@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_as_it_was_looked_at(size: tuple[int, int], place: Path) -> None:
    compare(shots_of(place, size), f"-{size[0]}x{size[1]}")


def test_every_way_to_look_is_as_it_was_looked_at(place: Path) -> None:
    compare(ways(place), "")


def test_every_look_is_as_it_was_looked_at_in_all_colours_in_few_and_in_none(place: Path) -> None:
    compare(looks(place), "")


def test_in_no_colours_there_are_none_and_the_text_is_the_same() -> None:
    texts = {name: (EXPECTED / f"map-in-{name}.txt").read_text("utf-8").splitlines() for name in LOOKS}
    assert {line[2:] for line in texts["none"][49:]} <= {"plain", "bold", "dim", "reverse", "bold reverse"}
    assert any("#" in line for line in texts["full"][49:])
    assert all(lines[:48:2] == texts["full"][:48:2] for lines in texts.values())


def test_nothing_is_kept_that_is_not_compared() -> None:
    names = {f"{name}-{width}x{height}" for width, height in SIZES for name in ("processes", *PAGES.values())}
    names |= {f"{name}-of-nobody-{width}x{height}" for width, height in SIZES for name in ("map", "time")}
    names |= {*WAYS, "vmas-filtered"} | {f"{page}-in-{name}" for name in LOOKS for page in ("map", "vmas")}
    assert {path.stem for path in EXPECTED.iterdir()} == names

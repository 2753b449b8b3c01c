"""The screen on a recording, as `mematlas top FILE` opens it, without a terminal: played with, and told as text."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from textual.events import Key

from mematlas.cli import opening, top
from mematlas.cli.arguments import Namespace
from mematlas.cli.session import Session
from mematlas.kernel.procfs import ProcFS
from mematlas.tui import frame
from mematlas.tui.app import Top
from mematlas.views import colour
from mematlas.views.colour import Palette

if TYPE_CHECKING:
    from rich.style import Style
    from textual.pilot import Pilot

NAME = "shop.mematlas"
FULL = 1 << 24
SO_FAR = " so far"
"""What the page of time says while it has not added up all columns: that is done a part at each draw."""
LETTERS = ".abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@contextmanager
def anywhere(directory: Path, depth: int, light: bool) -> Iterator[None]:
    """Have all that differs from machine to machine and terminal to terminal be the same: the path and the version,
    that there is a terminal and how many colours it has, and that we have no rights which would be given up.
    """
    before = os.getcwd()
    os.chdir(directory)
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    try:
        with (
            patch.dict(os.environ, environment | ({} if depth else {"NO_COLOR": "1"}), clear=True),
            patch.object(os, "isatty", lambda _: True),
            patch.object(opening, "has_rights", lambda: False),
            patch.object(frame, "__version__", "0.0.0"),
            patch.object(colour, "_here", [Palette(depth or 16, light)]),
        ):
            yield
    finally:
        os.chdir(before)


def played_on(
    directory: Path,
    play: Callable[[Pilot[int], Top], Awaitable[None]],
    size: tuple[int, int] = (120, 40),
    depth: int = FULL,
    light: bool = False,
) -> Top:
    """Open the recording in a directory on a screen of a size, and play with it until it ends."""
    apps: list[Top] = []

    async def run(app: Top) -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await play(pilot, app)

    def without_a_terminal(app: Top) -> int | None:
        apps.append(app)
        asyncio.run(run(app))
        return app.return_value

    args: Any = Namespace()
    args.words, args.every, args.budget, args.read_only = [NAME], top.INTERVAL, top.BUDGET, False
    session = Session(ProcFS(), io.StringIO(), io.StringIO(), None)
    with anywhere(directory, depth, light), patch.object(Top, "run", without_a_terminal):
        assert top.run(args, session) == 0
    session.procfs.close()
    return apps[0]


async def press(app: Top, *keys: str) -> list[str]:
    """Press keys, one after the other; return what is on the screen then."""
    for key in keys:
        app.post_message(Key(key, key if len(key) == 1 else " " if key == "space" else None))
        await settle(app)
    return whole(app)


async def settle(app: Top) -> None:
    """Wait until all messages are dealt with, and those that they lead to: sooner than a pilot, which waits until
    nothing is computed any more.
    """
    for _ in range(3):
        for one in (app, app.screen, *app.screen.children):
            done = asyncio.Event()
            if one.is_running and one.call_later(done.set):
                await asyncio.wait_for(done.wait(), 5.0)


async def type_in(app: Top, key: str, text: str) -> list[str]:
    """Press a key that asks for a text, and give it; return what is on the screen then."""
    await press(app, key)
    assert app.query("#prompt")
    await press(app, *text, "enter")
    for _ in range(500):
        if app.stage.size == app.size:  # the prompt has a row as long as it is there
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the prompt stays")
    return whole(app)


def whole(app: Top) -> list[str]:
    """Return what is on the screen once all of it is drawn; every line fits."""
    from mematlas.views.format import width_of

    for _ in range(100):
        app.draw()
        lines = [app.stage.render_line(y).text for y in range(app.stage.size.height)]
        if not any(SO_FAR in line for line in lines):
            break
    else:
        raise AssertionError(f"still not all of it is added up: {lines}")
    assert {width_of(line) for line in lines} == {app.stage.size.width}, lines
    return [line.rstrip() for line in lines]


def painted(app: Top) -> list[str]:
    """Return the same with a row of letters below each, one for each look that a character can have, and what these
    mean at the end.
    """
    text = whole(app)
    looks: dict[str, str] = {}
    lines = []
    for y, line in enumerate(text):
        letters = ""
        for segment in app.stage.render_line(y):
            look = look_of_style(segment.style)
            letters += looks.setdefault(look, LETTERS[len(looks)]) * segment.cell_length
        lines += [line, letters.rstrip()]
    return [*lines, "", *(f"{letter} {look}" for look, letter in looks.items())]


def look_of_style(style: Style | None) -> str:
    """Return what a style looks like, in words."""
    if style is None:
        return "plain"
    words = [name for name in ("bold", "dim", "reverse") if getattr(style, name)]
    words += [style.color.name] if style.color else []
    words += [f"on {style.bgcolor.name}"] if style.bgcolor else []
    return " ".join(words) or "plain"

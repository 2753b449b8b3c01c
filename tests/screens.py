"""Screens without a kernel: timelines that were thought out, and what an app shows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from histories import as_utf8, seen, vma_at
from mematlas.kernel.procfs import ProcFS
from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import Look, Seen, Watch
from mematlas.tui.app import Top
from mematlas.tui.colours import Colours
from mematlas.tui.drawing import width_of_row
from mematlas.tui.page import Page
from mematlas.tui.pages import all_pages
from mematlas.tui.viewing import Viewing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from textual.pilot import Pilot

    from mematlas.tui.drawing import Row

MACHINE = {"MemTotal": 1 << 34, "MemFree": 1 << 33, "AnonPages": 1 << 32, "Shmem": 1 << 20, "Cached": 1 << 30}
SIZES = ((80, 24), (120, 40), (200, 60), (20, 10), (20, 4))


class ScriptedWatch(Watch):
    """What is watched, as it was thought out; after the last look that is seen again and again, or all has ended."""

    def __init__(self, looks: Sequence[Look], ends: bool = False) -> None:
        self.looks = list(looks)
        self.ends = ends
        self.at = 0
        self.procfs = ProcFS()
        self._watched = {}

    def look(self) -> Look:
        self.at += 1
        return self.looks[min(self.at, len(self.looks)) - 1]

    def seconds(self) -> float:
        return self.procfs.seconds()

    def close(self) -> None:
        self.procfs.close()

    @property
    def is_over(self) -> bool:
        return self.ends and self.at >= len(self.looks)


def shop(pid: int, nr_vmas: int = 7, name: str = "shop", seed: int = 0) -> Seen:
    """Return a process with VMAs, the same for the same seed."""
    random = Random(seed or pid)
    return seen(pid, [as_utf8(vma_at(random, number)) for number in range(1, nr_vmas + 1)], name)


def look_of(*there: Seen) -> Look:
    return Look(there, (), MACHINE)


def timeline_of(looks: Sequence[Look]) -> LiveTimeline:
    """Return a timeline that has seen looks, a second apart."""
    timeline = LiveTimeline(ScriptedWatch(looks, ends=True), interval=0.001, budget=1, rest=lambda _: None)
    for _ in timeline:
        pass
    return timeline


def viewing_of(looks: Sequence[Look], pid: int | None = None) -> Viewing:
    """Return a view of looks at everybody, that of one closely."""
    viewing = Viewing()
    viewing.everybody = viewing.closely = viewing.machine = timeline_of(looks)
    if pid is not None:
        viewing.focus = pid, 77
    return viewing


def text_of(rows: Sequence[Row]) -> list[str]:
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def assert_fits(page: Page) -> None:
    """Have a page drawn in all sizes: no row is too wide, and there are not too many."""
    for width, height in SIZES:
        rows = page.draw(width, height)
        assert len(rows) <= height, (width, height)
        assert max(map(width_of_row, rows), default=0) <= width, (width, height)


def top_of(
    looks: Sequence[Look],
    pid: int | None = None,
    ends: bool = False,
    pages: Callable[[Viewing], list[Page]] = all_pages,
) -> Top:
    """Return an app that watches what was thought out."""
    viewing = Viewing()
    viewing.place = "oak"
    if pid is not None:
        viewing.focus = pid, 77

    def opened() -> Watch:
        return ScriptedWatch(looks, ends)

    openers = dict.fromkeys(("everybody", "machine"), (opened, 0.2))
    colours = Colours(1 << 24, light=False)
    return Top(viewing, pages(viewing), colours, openers, lambda _: opened, 0.2, 1.0, "uid 0", lambda: 0.0)


def played(app: Top, play: Callable[[Pilot[int]], Awaitable[None]], size: tuple[int, int] = (120, 40)) -> None:
    """Run an app without a terminal, and play with it."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await seen_on(app, pilot, lambda: app.viewing.everybody is not None or app.viewing.closely is not None)
            await play(pilot)

    asyncio.run(run())


async def seen_on(app: Top, pilot: Pilot[int], is_so: Callable[[], bool]) -> None:
    """Wait until something is so, and what is to be seen of it is drawn."""
    for _ in range(500):
        if is_so():
            await pilot.pause()
            app.draw()
            return
        await pilot.pause(0.01)
    raise AssertionError("nothing of the kind was seen in 5 s")


def shown(app: Top) -> list[str]:
    """Return what is on the screen of an app."""
    return [app.stage.render_line(y).text.rstrip() for y in range(app.stage.size.height)]

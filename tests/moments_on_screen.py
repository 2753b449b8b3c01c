"""Made-up moments of one process, as a live timeline has seen them and as a recording tells them, for pages to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histories import NOTHING, seen, write
from mematlas.analysis.results import VmaUsage
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.recorded_timeline import RecordedTimeline
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import Happening, Look, Watch
from mematlas.tui.drawing import width_of_row
from mematlas.tui.page import Page
from mematlas.tui.viewing import Viewing
from mematlas.words import Kind

PAGE = 4096
WHO = (7, 77)
SIZES = ((80, 21), (120, 37), (200, 57), (20, 6), (20, 3), (40, 12))
"""Columns and rows that pages are drawn in."""


class NoWatch(Watch):
    """Looks at nothing: moments are handed over."""

    def __init__(self) -> None:
        pass


def vma(
    start: int, nr_pages: int, rss: int = 0, swap: int = 0, path: str = "", kind: Kind = "anon", **more: int | None
) -> VmaUsage:
    """Return a VMA of so many pages, of which some are in RAM and some in swap."""
    usage = replace(
        NOTHING, rss=rss * PAGE, pss=rss * PAGE, uss=rss * PAGE, swap=swap * PAGE, anon=rss * PAGE, nr_pages=nr_pages
    )
    made = Vma(start, start + nr_pages * PAGE, "rw-p", 0, "00:00", 0, path, kind)
    return VmaUsage(made, usage, None, None, more.get("nr_accessed"), more.get("nr_dirty"))


def look(vmas: list[VmaUsage] | None, *happenings: Happening) -> Look:
    """Return a look at one process: None where it was not there."""
    if vmas is None:
        return Look((), happenings, {})
    one = seen(*WHO[:1], vmas)
    total = replace(
        NOTHING,
        rss=sum(item.rss or 0 for item in vmas),
        uss=sum(item.uss or 0 for item in vmas),
        swap=sum(item.swap or 0 for item in vmas),
        anon=sum(item.rss or 0 for item in vmas),
    )
    return Look((replace(one, usage=replace(one.usage, usage=total)),), happenings, {})


def held(looks: Sequence[Look], every: float = 1.0) -> LiveTimeline:
    """Return a live timeline that has seen looks, so many seconds apart."""
    timeline = LiveTimeline(NoWatch(), keep=1e9)
    for number, one in enumerate(looks):
        timeline._hold(Snapshot(1e9 + number * every, number * every, one, Cost(0.0, 0.0)))
    return timeline


@contextmanager
def recorded(timeline: LiveTimeline, path: Path, what: str = '["usage", "vmas"]') -> Iterator[RecordedTimeline]:
    """Return a timeline of a recording of the same moments."""
    encoder = Encoder()
    rows = [encoder.rows_of(moment) for moment in timeline.between(float("-inf"), float("inf"))]
    with Recording(str(write(path / "x.mematlas", rows))) as recording:
        recording.facts["what"] = what
        yield RecordedTimeline(recording)


def viewing_of(timeline: LiveTimeline | RecordedTimeline | None) -> Viewing:
    """Return what looks at the process of a timeline."""
    viewing = Viewing()
    viewing.closely = timeline
    viewing.focus = WHO
    viewing.is_live = not isinstance(timeline, RecordedTimeline)
    viewing.place = "x.mematlas"
    return viewing


def texts(page: Page, width: int = 120, height: int = 37) -> list[str]:
    """Return what a page draws, without roles; each row fits."""
    rows = page.draw(width, height)
    assert len(rows) <= height
    assert all(width_of_row(row) <= width for row in rows)
    return ["".join(text for text, _ in row) for row in rows]


def roles(page: Page, mark: str, width: int = 120, height: int = 37) -> list[str]:
    """Return the texts that are marked in some way, a row each that has any."""
    rows = page.draw(width, height)
    marked = ["".join(text for text, role in row if role.endswith(mark)) for row in rows]
    return [text for text in marked if text]

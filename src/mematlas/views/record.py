"""What is said while something is recorded, and at the end."""

from __future__ import annotations

import shlex
import time

from mematlas.views.format import format_path, format_seconds, format_size, format_span, number_of
from mematlas.views.live import CLEAR_LINE, WRAP_OFF, WRAP_ON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self, TextIO

    from mematlas.timeline.recorder import RecordResult
    from mematlas.timeline.ring import Kept
    from mematlas.timeline.writing import RecordingWriter

OFTEN = 0.5


class Line:
    """A line that says how far it is: on standard error, and only when that is a terminal."""

    def __init__(self, out: TextIO, doing: str = "recording") -> None:
        self.out = out
        self.doing = doing
        self.on = out.isatty()
        self.drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.drawn:
            self.out.write(f"\r{CLEAR_LINE}")
            self.out.flush()

    def __call__(self, nr_moments: int, seconds: float) -> None:
        now = time.monotonic()
        if not self.on or now - self.drawn < OFTEN:
            return
        self.drawn = now
        text = f"{self.doing}: {number_of(nr_moments, 'look')}, {format_seconds(seconds)} (Ctrl-C ends it)"
        self.out.write(f"\r{WRAP_OFF}{text}{CLEAR_LINE}{WRAP_ON}")
        self.out.flush()


def result_lines(result: RecordResult, writer: RecordingWriter | None = None) -> Iterator[str]:
    """Yield what was recorded, what that cost, also who has written it, and what to type next."""
    who = f"{result.nr_processes:,} process{'' if result.nr_processes == 1 else 'es'}"
    cpu_s = result.cost.cpu_s + (writer.cpu_s if writer else 0.0)
    part = f" ({100 * cpu_s / result.watched_s:.1f} %)" if result.watched_s else ""
    cost = f"recording took {format_seconds(cpu_s)} of a processor{part}"
    held = f", and held up the target for {format_seconds(result.cost.stall_s)} in all" if result.cost.stall_s else ""
    moments = f"{number_of(result.nr_moments, 'moment')} of {who} in {format_seconds(result.seconds)}"
    if not result.nr_moments:
        moments = f"nothing in {format_seconds(result.watched_s)}"
    yield f"recorded {moments}; {cost}{held}"
    kept = kept_text(result.kept)
    yield from (f"no longer looked at: {text}" for text in result.hidden)
    if writer and not result.nr_moments:
        yield f"no file: {kept}" if kept else "no file"
    elif writer:
        path = writer.path
        size_text = format_size(writer.size) + (f", {kept}" if kept else "")
        yield f"{format_path(path)}: {size_text}; {next_line(path)}"
        if not writer.is_one_file:
            from mematlas.timeline.writing import LOG

            yield f"a part of it is in {format_path(path + LOG)}: somebody reads it; the next report puts that in"
    elif kept:
        yield kept


def cut_short_lines(writer: RecordingWriter | None) -> Iterator[str]:
    """Yield what there is of a recording that was ended in the middle of a look."""
    if writer is None:
        yield "ended at once"
        return
    size = f": {format_size(writer.size)}" if writer.size else ""
    yield f"ended at once; what was recorded before is in {format_path(writer.path)}{size}; {next_line(writer.path)}"


def next_line(path: str) -> str:
    """Return what to type next, with a recording.

    >>> next_line("a b.mematlas")
    "next: mematlas report 'a b.mematlas'"
    """
    return f"next: mematlas report {shlex.quote(format_path(path))}"


def kept_text(kept: Kept) -> str:
    """Return what of all moments is kept; nothing where all are.

    >>> from mematlas.timeline.ring import Kept
    >>> kept_text(Kept(600.0)), kept_text(Kept(600.0, "rss > 2GiB", 700.0)), kept_text(Kept(None, "rss > 2GiB", 0.0))
    ('a ring: the last 10 min', 'a ring: the 10 min before rss > 2GiB held, and all since', 'all since rss > 2GiB held')
    """
    held = f"{format_path(kept.condition)} held" if kept.held_at is not None else ""
    if kept.keep is None:
        ring = ""
    elif held:
        return f"a ring: the {format_span(kept.keep)} before {held}, and all since"
    else:
        ring = f"a ring: the last {format_span(kept.keep)}"
    if not kept.condition:
        return ring
    if held:
        return f"all since {held}"
    return f"{ring}{ring and '; '}{format_path(kept.condition)} has not held"

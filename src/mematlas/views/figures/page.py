"""What the pictures of a recording have in common: their page, what stands above, and texts that fit."""

from __future__ import annotations

import time

from mematlas.views.colour import INK, MUTED, PAPER
from mematlas.views.figures.canvas import Words
from mematlas.views.figures.lettering import width_of_words
from mematlas.views.figures.scale import format_duration
from mematlas.views.format import LEFT_OUT, format_path, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.timeline.recorded_rows import RecordedProcess
    from mematlas.timeline.summary import Summary

WIDTH, MARGIN = 960, 24
ROW = 18
"""How far lines are apart."""
BIG, PLAIN, SMALL = 16, 12, 11
"""Sizes of letters."""
PAGE_INK, PAGE_MUTED, BACKGROUND = INK["light"], MUTED["light"], PAPER["light"]
LINE = "#d5dae1"
"""What lines at times, and at amounts, are drawn with."""
PER_TICK = 84
"""Room for a time, with what is left free beside it."""
WIDER = 1.08
"""By how much the fonts of others are wider than our letters, at the most."""


def heading_of(
    summary: Summary, title: str, processes: Sequence[RecordedProcess], ends: dict[RecordedProcess, float | None]
) -> Iterator[str]:
    """Yield what is shown, of whom, and since when."""
    yield title
    host, kernel = (format_path(str(summary.machine[key] or "")) for key in ("host", "kernel"))
    whom, ended = f"{len(processes)} processes", ""
    if len(processes) == 1:
        whom, ended = name_of(processes[0]), end_of(processes[0], ends)
    yield whom + (f" on {host}" if host else "") + (f", Linux {kernel}" if kernel else "") + ended
    since = time.strftime("since %Y-%m-%d %H:%M:%S, ", time.localtime(summary.began)) if summary.began else ""
    looks = number_of(summary.nr_moments, "look")
    yield f"{since}{looks} in {format_duration(summary.seconds)}" if summary.seconds else f"{since}{looks}"


def name_of_process(process: RecordedProcess, ends: dict[RecordedProcess, float | None]) -> str:
    """Return the name of a process, and when it ended."""
    return name_of(process) + end_of(process, ends)


def name_of(process: RecordedProcess) -> str:
    """Return the name of a process."""
    return f"{format_path(process.name)}, PID {process.pid}"


def end_of(process: RecordedProcess, ends: dict[RecordedProcess, float | None]) -> str:
    """Return when a process ended; nothing where it had not."""
    ended = ends.get(process)
    return "" if ended is None else f", ended after {format_duration(ended)}"


def ends_of(summary: Summary) -> dict[RecordedProcess, float | None]:
    """Return when each process had ended; None of those that had not."""
    return {story.process: story.ended for story in summary.stories}


def in_letters(text: str, ascii_only: bool) -> str:
    """Return a text in the letters that there are.

    >>> in_letters("na\\u00efve", True), in_letters("a\\0b", False)
    ('na\\\\xefve', 'a\\\\x00b')
    """
    text = format_path(text)
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else text


def words_at(x: float, y: float, text: str, size: float, ink: str, anchor: str, bold: bool) -> Words:
    """Return a text that is no wider than the page."""
    room = WIDTH - MARGIN - x if anchor == "start" else WIDTH
    return Words(x, y, cut(text, room, size, bold), size, ink, anchor, bold)


def cut(text: str, room: float, size: float, bold: bool = False) -> str:
    """Return a text that is no wider than the room: of one that is, its middle left out.

    >>> cut("libcrypto.so.3", 500, 12), cut("libjavascriptcoregtk-4.1.so.0", 120, 12)
    ('libcrypto.so.3', 'libjavasc...-4.1.so.0')
    """
    room /= WIDER
    if width_of_words(text, size, bold) <= room:
        return text
    room -= width_of_words(LEFT_OUT, size, bold)
    head = tail = ""
    # From its end and its beginning by turns: some characters are left between the two, since it has no room.
    while True:
        longer_tail = text[len(text) - len(tail) - 1] + tail
        longer_head = head + text[len(head)]
        is_tail = len(tail) <= len(head)
        longer = (head, longer_tail) if is_tail else (longer_head, tail)
        if width_of_words("".join(longer), size, bold) > room:
            return head + LEFT_OUT + tail
        head, tail = longer

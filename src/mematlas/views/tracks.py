"""What a recording tells over time: curves of amounts, a heatmap of VMAs, what grows, and what comes and goes."""

from __future__ import annotations

from mematlas.analysis.growth import LEAST_LOOKS
from mematlas.timeline.tracks import churning, growing
from mematlas.views.format import fold_message, format_path, format_seconds, format_size, padded, shorten, width_of
from mematlas.views.histogram import bar
from mematlas.views.picture import ASCII_BARS, BARS
from mematlas.views.report import heading, target_of
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.timeline.summary import Summary
    from mematlas.timeline.tracks import Churn, Curve, Point, Track, TrackGrowth

WIDTH = 60
"""Columns of a curve where there is no screen."""
LEAST = 10
MOST_NAME = 30
"""Columns of a name in the heatmap."""
FINE = 1000
SHADES = " ·░▒▓█"
ASCII_SHADES = " .:+#@"
SHOWN = 20
"""Rows that text has, unless somebody says otherwise."""
NO_VMA = "no VMA is recorded (record --what vmas)"
NOT_ACCESSED = "accessed pages are not recorded (record --source tables)"
WHAT = {
    "present": "how much of each is in RAM",
    "change": "how much of each has come or gone since the column before",
    "accessed": "how much of each was used since the kernel last aged it",
}

CURVE_COLUMNS: tuple[Column[Curve], ...] = (
    Column("pid", "PID", "count", lambda item: item.process.pid),
    Column("name", "NAME", value=lambda item: item.process.name),
    Column("measure", "MEASURE"),
    Column("first", "FIRST", "size", lambda item: item.amounts[0]),
    Column("last", "LAST", "size", lambda item: item.amounts[-1]),
    Column("peak", "PEAK", "size"),
    Column("times", "TIMES", "json", lambda item: list(item.times), shown=False),
    Column("amounts", "AMOUNTS", "json", lambda item: list(item.amounts), shown=False),
)
GROWTH_COLUMNS: tuple[Column[TrackGrowth], ...] = (
    Column("growth", "GROWTH", "rate", lambda item: item.growth.slope.value),
    Column("low", "LEAST", "rate", lambda item: item.growth.slope.low, rank=4),
    Column("high", "MOST", "rate", lambda item: item.growth.slope.high, rank=4),
    Column("label", "HOW", value=lambda item: item.growth.label),
    Column("first", "FIRST", "size", lambda item: item.growth.first, rank=3),
    Column("last", "LAST", "size", lambda item: item.growth.last, rank=1),
    Column("pid", "PID", "count", lambda item: item.track.process.pid, rank=2),
    Column("name", "NAME", value=lambda item: item.track.process.name, rank=2),
    Column("kind", "KIND", value=lambda item: item.track.kind),
    Column("path", "PATH", "path", lambda item: item.track.path, width=24),
)
CHURN_COLUMNS: tuple[Column[Churn], ...] = (
    *(Column(name, name.upper(), "size", total=total) for name, total in (("came", sum), ("went", sum))),
    *(Column(name, name.upper(), "size", total=total) for name, total in (("out", sum), ("back", sum))),
    Column("pid", "PID", "count", lambda item: item.track.process.pid, rank=2),
    Column("name", "NAME", value=lambda item: item.track.process.name, rank=2),
    Column("kind", "KIND", value=lambda item: item.track.kind),
    Column("path", "PATH", "path", lambda item: item.track.path, width=24),
)
TRACK_COLUMNS: tuple[Column[Track], ...] = (
    Column("pid", "PID", "count", lambda item: item.process.pid),
    Column("name", "NAME", value=lambda item: item.process.name),
    Column("kind", "KIND"),
    Column("path", "PATH", "path"),
    Column("times", "TIMES", "json", lambda item: list(item.times)),
    Column("sizes", "SIZES", "json", lambda item: [point.size for point in item.points]),
    Column("rss", "RSS", "json", lambda item: [point.rss for point in item.points]),
    Column("swap", "SWAP", "json", lambda item: [point.swap for point in item.points]),
    Column("nr_accessed", "ACCESSED", "json", lambda item: [point.nr_accessed for point in item.points]),
)


def growth_table(summary: Summary, tracks: Sequence[Track], limit: int | None) -> Table:
    """Return which VMAs grow, and how fast."""
    rows = growing(tracks)
    nr_looks = max((len(track.levels) for track in tracks), default=0)
    nothing = "nothing has grown" if tracks else NO_VMA
    if tracks and nr_looks < LEAST_LOOKS:
        nothing = f"growth takes {LEAST_LOOKS} looks at a process, and there are {nr_looks}: record longer, or with -i"
    return headed(summary, "report-growth/1", GROWTH_COLUMNS, rows, limit, nothing)


def churn_table(summary: Summary, tracks: Sequence[Track], limit: int | None) -> Table:
    """Return how much came and went in VMAs."""
    note = "At the least: what came and went between two looks is not seen."
    nothing = "nothing has come or gone between two looks" if tracks else NO_VMA
    return headed(summary, "report-churn/1", CHURN_COLUMNS, churning(tracks), limit, nothing, note)


def headed(
    summary: Summary,
    schema: str,
    columns: Sequence[Column[Any]],
    rows: Sequence[Any],
    limit: int | None,
    nothing: str,
    note: str = "",
) -> Table:
    """Return a table below what was recorded."""
    rows = rows[:limit]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(summary):
            yield from fold_message(line, width)
        if not rows:
            yield from fold_message(nothing, width)
            return
        if note:
            yield from fold_message(note, width)
        table = Table(schema, columns, rows, limit=limit or SHOWN)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn(schema, columns, rows, target=target_of(summary), draw=draw)


# Curves


def curves_table(summary: Summary, curves: Sequence[Curve], limit: int | None, ascii_only: bool) -> Table:
    """Return measures over time, each as a line of its own."""
    bars = ASCII_BARS if ascii_only else BARS
    shown = curves if limit is None else curves[:limit]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(summary):
            yield from fold_message(line, width)
        process = None
        for curve in shown:
            if curve.process != process:
                process = curve.process
                yield ""
                yield f"{format_path(process.name)}, PID {process.pid}, {span_of(curve.times)}"
            head = f"  {curve.measure:<6}|"
            tail = f"| {change_text(curve, in_bytes)}, peak {size_text(curve.peak, in_bytes)}"
            room = max((width or WIDTH + len(head) + len(tail)) - len(head) - len(tail), LEAST)
            yield head + curve_line(curve.amounts, curve.peak, room, bars) + tail

    return Drawn("report-curves/1", CURVE_COLUMNS, shown, target=target_of(summary), draw=draw)


def span_of(times: Sequence[float]) -> str:
    """Return from when to when something was seen."""
    began = "the beginning" if times[0] == 0 else format_seconds(times[0])
    return f"from {began} to {format_seconds(times[-1])}"


def size_text(size: int, in_bytes: bool) -> str:
    """Return a size."""
    return str(size) if in_bytes else format_size(size)


def change_text(curve: Curve, in_bytes: bool) -> str:
    """Return what a measure was at first and at last."""
    ends = [size_text(one, in_bytes) if one is not None else "-" for one in (curve.amounts[0], curve.amounts[-1])]
    return "first {}, last {}".format(*ends)


def curve_line(amounts: Sequence[int | None], peak: int, room: int, bars: str) -> str:
    """Return amounts as so many bars: of each stretch of time the highest.

    >>> curve_line([0, 1, 2, 4], 4, 4, ASCII_BARS), curve_line([4, None], 4, 4, ASCII_BARS)
    (' :=@', '@@??')
    """
    columns = [amounts[low:high] for low, high in stretches(len(amounts), room)]
    return "".join(
        bar(round((max(known) if peak else 0) * FINE / (peak or 1)), FINE, bars)
        if (known := [one for one in column if one is not None])
        else "?"
        for column in columns
    )


def stretches(nr: int, room: int) -> Iterator[tuple[int, int]]:
    """Yield which of some moments each of so many columns has: each of them some, the last one to the end."""
    for column in range(room):
        low = column * nr // room
        yield low, max((column + 1) * nr // room, low + 1)


# The heatmap


def heatmap_table(summary: Summary, tracks: Sequence[Track], what: str, limit: int | None, ascii_only: bool) -> Table:
    """Return VMAs over time, a row each, shaded by how much of them is there, has changed, or was used."""
    shades = ASCII_SHADES if ascii_only else SHADES
    rows = largest(tracks)[:limit]
    shown = rows[:SHOWN] if limit is None else rows

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(summary):
            yield from fold_message(line, width)
        if not shown:
            yield NO_VMA
            return
        names = [name_of(track, several=len({one.process for one in shown}) > 1) for track in shown]
        head = min(max(map(width_of, names)), MOST_NAME)
        names = padded([shorten(name, head) for name in names], head, right=False)
        room = max((width or WIDTH + head + 13) - head - 13, LEAST)
        yield from fold_message(f"{span_of((0.0, summary.seconds))}: {WHAT[what]}", width)
        for name, track in zip(names, shown, strict=True):
            shares = cells_of(track, what, room, page_size_of(summary), summary.seconds)
            cells = "".join(shade(share, shades) for share in shares)
            yield f"{name} |{cells}| {size_text(track.peak, in_bytes)}"
        marks = " ".join(f"{mark}={share}" for mark, share in zip(shades[1:], SHARES, strict=True))
        yield from fold_message(f"{marks} of its largest size, ?=not known; on the right its peak RSS", width)
        if len(rows) > len(shown):
            yield f"{len(rows) - len(shown):,} more (--limit)"

    return Drawn("report-heatmap/1", TRACK_COLUMNS, rows, target=target_of(summary) | {"what": what}, draw=draw)


def largest(tracks: Iterable[Track]) -> list[Track]:
    """Return what ever had something in RAM, that first which had the most."""
    return sorted((track for track in tracks if track.peak), key=lambda one: -one.peak)


def use_is_missing(tracks: Iterable[Track]) -> bool:
    """Whether something was in RAM, and nothing is known of which pages of it were used."""
    rows = largest(tracks)
    return bool(rows) and all(point.nr_accessed is None for track in rows for point in track.points)


SHARES = ("<25%", "<50%", "<75%", "<100%", "all")


def page_size_of(summary: Summary) -> int | None:
    """Return the bytes of a page of the machine that was recorded; None where they are not known."""
    size = summary.machine.get("page_size")
    return size if isinstance(size, int) and 0 < size < 1 << 32 else None


def name_of(track: Track, several: bool) -> str:
    """Return what to call VMAs: by the last part of their path, or their kind; with the PID where there are several."""
    name = format_path(track.path.rsplit("/", 1)[-1] or track.kind)
    return f"{track.process.pid} {name}" if several else name


def cells_of(track: Track, what: str, room: int, page_size: int | None, seconds: float) -> Iterator[float | None]:
    """Yield the shares of a track in so many columns of all the time; 0 before it began and after it has ended.

    In a column without a look it is as it was at the look before, but for changes.
    """
    values = list(shares_of(track.points, what, page_size))
    places = [min(int(at / seconds * room), room - 1) if seconds else 0 for at in track.times]
    last = room - 1 if track.process.end is None else places[-1]
    before: float | None = 0.0
    for column in range(room):
        found = [value for value, place in zip(values, places, strict=True) if place == column]
        known = [value for value in found if value is not None]
        if found:
            before = max(known) if known else None
        elif column < places[0] or column > last or what == "change":
            yield 0.0
            continue
        yield before


def shares_of(points: Sequence[Point], what: str, page_size: int | None) -> Iterator[float | None]:
    """Yield which share of its address space a track has in RAM, has changed, or used, at each moment."""
    before: Point | None = None
    size = max((point.size for point in points), default=0)
    for point in points:
        amount: int | None
        if what == "present":
            amount = point.rss
        elif what == "accessed":
            is_known = point.nr_accessed is not None and page_size is not None
            amount = (point.nr_accessed or 0) * (page_size or 0) if is_known else None if point.size else 0
        elif before is None:
            amount = 0  # nothing is known of before the first look
        else:
            amount = None if point.rss is None or before.rss is None else abs(point.rss - before.rss)
        before = point
        yield None if amount is None else min(amount / size, 1.0) if size else 0.0


def shade(share: float | None, shades: str) -> str:
    """Return the mark of a share: blank only for none at all, full only for all.

    >>> [shade(share, ASCII_SHADES) for share in (0, 0.01, 0.3, 0.6, 0.99, 1, None)]
    [' ', '.', ':', '+', '#', '@', '?']
    """
    if share is None:
        return "?"
    if share <= 0:
        return shades[0]
    return shades[-1] if share >= 1 else shades[1 + int(share * (len(shades) - 2))]

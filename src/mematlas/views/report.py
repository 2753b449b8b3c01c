"""What a recording tells, as a table."""

from __future__ import annotations

import time

from mematlas.views.format import fold_message, format_path, format_seconds, number_of
from mematlas.views.record import kept_text
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from mematlas.timeline.summary import Grown, ProcessSummary, Summary


def amount(where: str, key: str) -> Callable[[ProcessSummary], int | None]:
    """Return what gets an amount of a story."""
    return lambda item: getattr(item, where)[key]


def change(key: str) -> Callable[[ProcessSummary], int | None]:
    """Return what gets by how much an amount changed."""

    def change_of(item: ProcessSummary) -> int | None:
        first, last = item.first[key], item.last[key]
        return None if first is None or last is None else last - first

    return change_of


COLUMNS: tuple[Column[ProcessSummary], ...] = (
    Column("pid", "PID", "count", lambda item: item.process.pid),
    Column("name", "NAME", value=lambda item: item.process.name),
    Column("uss", "USS", "size", amount("last", "uss")),
    Column("change", "CHANGE", "change", change("uss")),
    Column("growth", "GROWTH", "rate", lambda item: item.growth and item.growth.slope.value),
    Column("label", "HOW", value=lambda item: item.growth and item.growth.label),
    Column("rss", "RSS", "size", amount("last", "rss"), rank=1),
    Column("peak_rss", "PEAK RSS", "size", rank=2),
    Column("peak_at", "AFTER", "seconds", rank=3),
    Column("swap", "SWAP", "size", amount("last", "swap"), rank=4),
    Column("ended", "ENDED", "seconds", rank=5),
    Column("low", "LOW", "number", lambda item: item.growth and item.growth.slope.low, shown=False),
    Column("high", "HIGH", "number", lambda item: item.growth and item.growth.slope.high, shown=False),
    Column("began", "BEGAN", "number", shown=False),
    Column("start_time", "START", "count", lambda item: item.process.start_time, shown=False),
    Column("grown", "GROWN", "json", lambda item: [one.to_dict() for one in item.grown], shown=False),
    Column("target", "TARGET", value=lambda item: item.process.target, shown=False),
)


GROWN_COLUMNS: tuple[Column[Grown], ...] = (
    Column("change", "CHANGE", "change"),
    Column("kind", "KIND"),
    Column("path", "PATH", "path"),
)


def summary_table(summary: Summary, limit: int | None = None) -> Table:
    """Return what a recording tells of each process, a row each."""
    shown = summary.stories[:limit]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(summary):
            yield from fold_message(line, width)
        yield from Table("report/1", COLUMNS, shown).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield from grown_lines(shown, width)
        if nr_more := summary.nr_processes - len(shown):
            yield f"{nr_more:,} more {'process' if nr_more == 1 else 'processes'}"

    return Drawn("report/1", COLUMNS, shown, target=target_of(summary), draw=draw)


def grown_lines(stories: Sequence[ProcessSummary], width: int) -> Iterator[str]:
    """Yield what changed the most, in the process that did so the most."""
    grown = [story for story in stories if story.grown]
    if not grown:
        return
    story = max(grown, key=lambda one: (abs(change("uss")(one) or 0), abs(one.grown[0].change)))
    yield ""
    whom = f"{format_path(story.process.name)}, PID {story.process.pid}"
    yield from fold_message(f"What changed in {whom} (RSS and swap; CHANGE above is of USS):", width)
    yield from Table("report/1", GROWN_COLUMNS, story.grown).lines(width=width)


def heading(summary: Summary) -> Iterator[str]:
    """Yield what was recorded, when, where, and at what cost."""
    host, kernel = (str(summary.machine[key] or "") for key in ("host", "kernel"))
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.began)) if summary.began else ""
    where = f" on {format_path(host)}" if host else ""
    yield f"{format_path(summary.path)}: {when}{where}, Linux {format_path(kernel)}"
    part = f", {100 * summary.cpu_s / summary.seconds:.1f} % of a processor" if summary.seconds else ""
    looks = number_of(summary.nr_moments, "moment")
    yield f"{looks} in {format_seconds(summary.seconds)}; looking took {format_seconds(summary.cpu_s)}{part}"
    if kept := kept_text(summary.kept):
        held_at = summary.kept.held_at
        yield f"{kept}; it held after {format_seconds(held_at)}" if held_at else kept


def target_of(summary: Summary) -> dict[str, Any]:
    """Return the ``target`` of a result."""
    return {
        "recording": summary.path,
        "nr_moments": summary.nr_moments,
        "seconds": round(summary.seconds, 6),
        "cpu_s": round(summary.cpu_s, 6),
        "began": summary.began,
        "keep": summary.kept.keep,
        "when": summary.kept.condition or None,
        "held_at": summary.kept.held_at,
    }

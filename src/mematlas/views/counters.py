"""The machine over time: amounts of memory, and what was reclaimed, swapped and waited for."""

from __future__ import annotations

from mematlas.analysis.counters import COUNTERS, MICROSECONDS, SIZE
from mematlas.views.format import decimals_of, fold_message, format_rate, format_seconds, format_size
from mematlas.views.report import heading, target_of
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.timeline.counters import CounterStory
    from mematlas.timeline.summary import Summary

SCHEMA = "report-machine/1"
TROUBLE = frozenset(
    name for name, counter in COUNTERS.items() if counter.is_total and name not in ("pgfault", "thp_fault_alloc")
)
"""What counts where memory is short."""
COLUMNS: tuple[Column[CounterStory], ...] = (
    Column("name", "COUNTER"),
    Column("unit", "UNIT", value=lambda item: item.counter.unit),
    Column("is_total", "TOTAL", "flag", lambda item: item.counter.is_total),
    Column("first", "FIRST", "number"),
    Column("last", "LAST", "number"),
    Column("change", "CHANGE", "number"),
    Column("rate", "RATE", "number"),
    Column("most_at", "MOST AT", "number"),
    Column("times", "TIMES", "json", lambda item: list(item.times)),
    Column("values", "VALUES", "json", lambda item: list(item.values)),
)
AMOUNT_COLUMNS: tuple[Column[CounterStory], ...] = (
    Column("name", "AMOUNT"),
    Column("last", "LAST", "size"),
    Column("change", "CHANGE", "change"),
    Column("least", "LEAST", "size", rank=2),
    Column("most", "MOST", "size", rank=1),
    Column("about", "WHAT IT IS", value=lambda item: item.counter.about, rank=3),
)
EVENT_COLUMNS: tuple[Column[CounterStory], ...] = (
    Column("name", "COUNTER"),
    Column("change", "HOW MUCH", "number", lambda item: amount_text(item, item.change)),
    Column("rate", "RATE", "number", lambda item: rate_text(item)),
    Column("most_at", "MOST AT", "seconds", rank=2),
    Column("about", "WHAT IT IS", value=lambda item: item.counter.about, rank=1),
)


def machine_table(summary: Summary, stories: Sequence[CounterStory], limit: int | None = None) -> Table:
    """Return the counters of the machine; text leaves out what was nothing all the time."""
    amounts = [story for story in stories if not story.counter.is_total and any(story.values)]
    events = [story for story in stories if story.counter.is_total and story.change]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(summary):
            yield from fold_message(line, width)
        if not stories:
            yield "nothing is recorded of the machine"
            return
        yield from Table(SCHEMA, AMOUNT_COLUMNS, amounts[:limit]).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        if len(stories[0].times) < 2:
            yield "One moment: what was swapped, reclaimed and waited for takes two."
            return
        if not any(story.name in TROUBLE for story in events):
            known = any(story.name in TROUBLE for story in stories)
            yield f"{'Nothing was' if known else 'It is not recorded what was'} swapped, reclaimed, or waited for."
        if not events:
            return
        yield from Table(SCHEMA, EVENT_COLUMNS, events[:limit]).lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn(SCHEMA, COLUMNS, stories[:limit], target=target_of(summary), draw=draw)


def amount_text(story: CounterStory, value: float) -> str:
    """Return an amount in its unit."""
    if story.counter.unit == SIZE:
        return format_size(round(value))
    if story.counter.unit == MICROSECONDS:
        return format_seconds(value / 1e6)
    return f"{value:,.0f}"


def rate_text(story: CounterStory) -> str | None:
    """Return how much there was of it in a second."""
    if story.rate is None:
        return None
    if story.counter.unit == SIZE:
        return format_rate(story.rate).removeprefix("+")
    if story.counter.unit == MICROSECONDS:
        return f"{story.rate / 1e4:.1f}%"
    return f"{story.rate:,.{decimals_of(story.rate)}f}/s"

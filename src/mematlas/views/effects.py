"""What an act did: one row, in text as lines with their meaning; and what followed it."""

from __future__ import annotations

from mematlas.analysis.movable import REASONS, add_counts, in_order
from mematlas.frozen import as_dict, record
from mematlas.views.format import fold_message, format_counts, format_path, format_seconds, format_size
from mematlas.views.plans import in_size
from mematlas.views.refaults import refault_lines, refaults_object
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.actions.effects import Effect
    from mematlas.actions.groups import GroupEffect, ProcessEffect
    from mematlas.actions.refaults import Refaults
    from mematlas.kernel.madvise import AdviceName

WHAT: dict[AdviceName, tuple[str, str]] = {
    "pageout": ("selected pages in RAM", "out of the process now"),
    "cold": ("selected pages in RAM", "no longer referenced: first to go when memory is short"),
    "willneed": ("selected pages out of RAM", "in RAM now"),
    "collapse": ("selected pages in RAM", "part of a huge page now"),
}
"""What is asked for and what is reached, by advice."""

FREED = "of these, out of RAM too: their frames are free"
SWAP_CACHED = "in swap or on the way there, still in RAM until the frame is needed"
PAGE_CACHED = "of files, still in RAM: not yet written, or in use elsewhere"
GIVEN_UP = "freed, kept nowhere: the process had given them up (MADV_FREE, MAP_DROPPABLE)"
SEE_NOTES = "unknown: see the notes"


@record
class Report:
    """An act, and what followed it."""

    effect: Effect
    page_size: int
    refaults: Refaults | None = None
    undo: Effect | None = None

    @property
    def size_moved(self) -> int:
        """Bytes that moved."""
        return self.effect.nr_moved * self.page_size

    @property
    def rate(self) -> int | None:
        """Bytes moved in a second; None where what is still being read will take longer."""
        effect = self.effect
        if not effect.seconds or effect.nr_reading != 0:
            return None
        return round(self.size_moved / effect.seconds)


@record
class PageLine:
    """One measure of an act in pages, for people."""

    measure: str
    nr_pages: int | None
    meaning: str


COLUMNS: tuple[Column[Report], ...] = (
    Column("nr_requested", "REQUESTED", "count", lambda item: item.effect.nr_requested),
    Column("nr_advised", "ADVISED", "count", lambda item: item.effect.nr_advised),
    Column("nr_moved", "MOVED", "count", lambda item: item.effect.nr_moved),
    Column("nr_stayed", "STAYED", "count", lambda item: item.effect.nr_stayed),
    Column("reasons", "REASONS", "counts", lambda item: item.effect.reasons),
    Column("passes", "PASSES", "count", lambda item: item.effect.passes),
    Column("seconds", "SECONDS", "number", lambda item: round(item.effect.seconds, 6)),
    Column("advise_s", "IN THE CALL", "number", lambda item: round(item.effect.advise_s, 6)),
    Column("size_moved", "SIZE", "size"),
    Column("swap", "SWAP", "size", lambda item: item.effect.swap),
    Column("swap_cached", "SWAP CACHE", "size", lambda item: item.effect.swap_cached),
    Column("page_cached", "PAGE CACHE", "size", lambda item: item.effect.page_cached),
    Column("nr_given_up", "GIVEN UP", "count", lambda item: item.effect.nr_given_up),
    Column("nr_reading", "BEING READ", "count", lambda item: item.effect.nr_reading),
    Column("nr_freed", "LEFT RAM", "count", lambda item: nr_freed(item.effect)),
    Column("free", "FREE", value=lambda item: item.effect.freed and as_dict(item.effect.freed)),
    Column("rate", "BYTES/S", "number"),
    Column("stopped", "STOPPED", value=lambda item: item.effect.stopped or None),
    Column("refaults", "REFAULTS", value=lambda item: item.refaults and refaults_object(item.refaults)),
    Column("undo", "UNDO", value=lambda item: item.undo and undo_object(item.undo)),
)


def line_columns(page_size: int) -> tuple[Column[PageLine], ...]:
    """Return the columns of the lines for people."""

    def size_of(line: PageLine) -> int | None:
        return None if line.nr_pages is None else line.nr_pages * page_size

    return (
        Column("measure", "MEASURE"),
        Column("nr_pages", "PAGES", "count"),
        Column("size", "SIZE", "size", size_of),
        Column("meaning", "MEANING"),
    )


def effect_table(report: Report, target: dict[str, Any]) -> Table:
    """Return what an act did, and what followed."""
    effect, page_size = report.effect, report.page_size

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield f"{effect.advice} of {format_path(target['name'])}, PID {target['pid']}: {summary(report)}"
        if effect.stopped:
            yield from fold_message(f"stopped early: {effect.stopped}", width)
        lines = Table("", line_columns(page_size), lines_of(report))
        yield from lines.lines(in_bytes=in_bytes, colour=colour, width=width)
        if report.refaults:
            yield ""
            yield from refault_lines(report.refaults, page_size, in_bytes, colour, width)
        if report.undo:
            yield ""
            yield undo_line(report.undo, page_size)

    notes = [*effect.notes, *(report.undo.notes if report.undo else ())]
    return Drawn(f"{effect.advice}/1", COLUMNS, [report], target=target, notes=notes, draw=draw)


def summary(report: Report) -> str:
    """Return how much moved, in which time."""
    effect = report.effect
    passes = "1 pass" if effect.passes == 1 else f"{effect.passes} passes"
    took = f"{format_seconds(effect.seconds)}, {passes}"
    speed = f" ({format_size(report.rate)}/s)" if report.rate and effect.advice != "cold" else ""
    return f"{format_size(report.size_moved)} in {took}{speed}"


def nr_freed(effect: Effect) -> int | None:
    """Return how many pages left RAM, which only a pageout is about."""
    return effect.nr_freed if effect.advice == "pageout" else None


def lines_of(report: Report) -> Iterator[PageLine]:
    """Yield the measures of an act."""
    effect = report.effect
    selected, reached = WHAT[effect.advice]
    yield PageLine("requested", effect.nr_requested, selected)
    yield PageLine("advised", effect.nr_advised, "of these, the kernel took the advice")
    yield PageLine("moved", effect.nr_moved, reached if effect.nr_reading == 0 else "in RAM, or being read")
    if effect.nr_reading:
        yield PageLine("  reading", effect.nr_reading, "of files, not read yet: the disk is busy with it")
    if effect.advice == "pageout":
        yield from whereabouts(effect, report.page_size)
    yield PageLine("stayed", effect.nr_stayed, "because:" if effect.reasons else "")
    for reason, nr_pages in effect.reasons.items():
        yield PageLine(f"  {reason}", nr_pages, REASONS[reason])


def whereabouts(effect: Effect, page_size: int) -> Iterator[PageLine]:
    """Yield where the pages are that were paged out."""
    in_swap = pages(effect.swap, page_size)
    yield PageLine("  to swap", in_swap, SEE_NOTES if in_swap is None else "the rest, if any, went back to its files")
    if effect.nr_given_up:
        yield PageLine("  given up", effect.nr_given_up, GIVEN_UP)
    yield PageLine("left RAM", effect.nr_freed, SEE_NOTES if effect.nr_freed is None else FREED)
    for name, size, meaning in (
        ("  swap cache", effect.swap_cached, SWAP_CACHED),
        ("  page cache", effect.page_cached, PAGE_CACHED),
    ):
        if size or (size is None and effect.nr_moved):
            yield PageLine(name, pages(size, page_size), SEE_NOTES if size is None else meaning)
    if effect.freed:
        text = f"of {effect.freed.nr_kept} in the swap cache: read back, and paged out once more"
        yield PageLine("  by --free", effect.freed.nr_freed, text)


def pages(size: int | None, page_size: int) -> int | None:
    """Return bytes as pages; unknown stays unknown."""
    return None if size is None else size // page_size


def undo_line(undo: Effect, page_size: int) -> str:
    """Return what bringing back came to."""
    if not undo.nr_requested:
        return "undo: nothing to bring back"
    size = format_size(undo.nr_moved * page_size)
    text = f"undo: {undo.nr_moved} of {undo.nr_requested} pages ({size}) brought back in {format_seconds(undo.seconds)}"
    if undo.nr_reading:
        text += f", {undo.nr_reading} of them not read yet"
    if undo.reasons:
        text += f"; not back: {format_counts(undo.reasons)}"
    if undo.stopped:
        text += f"; stopped: {undo.stopped}"
    return text


def undo_object(undo: Effect) -> dict[str, Any]:
    """Return an undo for JSON."""
    return {
        "nr_requested": undo.nr_requested,
        "nr_moved": undo.nr_moved,
        "nr_stayed": undo.nr_stayed,
        "nr_reading": undo.nr_reading,
        "reasons": undo.reasons,
        "seconds": round(undo.seconds, 6),
        "stopped": undo.stopped or None,
    }


# Of a group

DONE: dict[AdviceName, str] = {
    "pageout": "MOVED",
    "cold": "MARKED",
    "willneed": "RETURNED",
    "collapse": "JOINED",
}
"""What the column of what was done is called."""


def group_effect_table(effect: GroupEffect, target: dict[str, Any]) -> Table:
    """Return what an act did to each process."""
    columns = group_effect_columns(effect)
    return Table(f"{effect.advice}-group/1", columns, effect.processes, target=target, notes=effect.notes)


def group_effect_columns(effect: GroupEffect) -> tuple[Column[ProcessEffect], ...]:
    """Return the columns: sizes in text, pages as well in JSON and CSV."""
    size = effect.page_size
    is_pageout = effect.advice == "pageout"
    is_stopped = any(item.effect.stopped for item in effect.processes)

    def freed(item: ProcessEffect) -> int | None:
        number = nr_freed(item.effect)
        return None if number is None else number * size

    def staying(items: Sequence[ProcessEffect]) -> dict[str, int]:
        total: dict[str, int] = {}
        for item in items:
            add_counts(total, item.effect.reasons)
        return in_size(in_order(total), size)

    return (
        Column("pid", "PID", "count"),
        Column("name", "NAME"),
        Column("nr_requested", "PAGES", "count", lambda item: item.effect.nr_requested, sum, shown=False),
        Column("nr_advised", "ADVISED", "count", lambda item: item.effect.nr_advised, sum, shown=False),
        Column("nr_moved", "PAGES MOVED", "count", lambda item: item.effect.nr_moved, sum, shown=False),
        Column("nr_stayed", "PAGES STAYED", "count", lambda item: item.effect.nr_stayed, sum, shown=False),
        Column("reasons", "REASONS", "counts", lambda item: item.effect.reasons, shown=False),
        Column("size_requested", "SELECTED", "size", lambda item: item.effect.nr_requested * size, sum),
        Column("size_moved", DONE[effect.advice], "size", lambda item: item.effect.nr_moved * size, sum),
        Column("size_freed", "LEFT RAM", "size", freed, sum, rank=3, shown=is_pageout),
        Column("swap", "TO SWAP", "size", lambda item: item.effect.swap, sum, rank=2, shown=is_pageout),
        Column("staying", "STAYED", "amounts", lambda item: staying([item]), staying, rank=1),
        Column("passes", "PASSES", "count", lambda item: item.effect.passes, rank=5, shown=False),
        Column("seconds", "SECONDS", "number", lambda item: round(item.effect.seconds, 6), shown=False),
        Column("stopped", "STOPPED", value=lambda item: item.effect.stopped or None, rank=4, shown=is_stopped),
    )

"""Acts on files, as tables: a row for each file, what could move or has moved, and why the rest stays."""

from __future__ import annotations

from mematlas.analysis.movable import add_counts, in_order
from mematlas.notes import Note, Notes
from mematlas.views.format import first_of, fold_message, format_amounts, format_seconds, format_size, number_of
from mematlas.views.plans import in_size, reason_note
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.actions.files import FileEffect, FilePlan, FilesEffect, PlannedFile

    Mapped = PlannedFile | FileEffect

DO = {"pageout": "page out", "willneed": "read in"}
CAN = {"pageout": "CAN MOVE", "willneed": "CAN READ"}
DONE = {"pageout": "MOVED", "willneed": "READ IN"}
"""What an advice does, in words; what the columns of what could be done, and of what was done, are called."""
UNSEEN = frozenset(("files-refused", "files-hidden", "files-failed", "unanswered", "unasked"))
"""The codes of notes on files that were left out."""
FEW = 20
"""Files that a screen shows where nothing else is said; the others are one row."""


def file_plan_table(plan: FilePlan, limit: int | None = None) -> Table:
    """Return what an advice would do, the largest gain first."""
    items = sorted(plan.files, key=lambda file: (-file.nr_movable, -file.nr_requested, file.path))
    columns = plan_columns(plan)
    notes = Notes((*plan.notes, *map(reason_note, plan.reasons)))
    nr_dirty = [file.nr_dirty for file in plan.files if file.nr_dirty]
    if nr_dirty:
        text = f"{number_of(sum(nr_dirty), 'page')} to be written to the disk before they can go"
        notes.add(Note("dirty", text))

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from fold_message(verdict(plan, in_bytes), width)
        if items:
            rows = limit or (FEW if width else None)
            yield from Table("", columns, items, limit=rows).lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn(f"{plan.advice}-files-plan/1", columns, items, notes=notes, draw=draw, limit=limit)


def verdict(plan: FilePlan, in_bytes: bool = False) -> str:
    """Return the answer: how much could be done, and why the rest stays."""
    sized = str if in_bytes else format_size
    if not plan.nr_requested:
        what = "none of it is in the page cache" if plan.advice == "pageout" else "all of it is in the page cache"
        seen = "of what can be looked at, " if UNSEEN & {note.code for note in plan.notes} else ""
        return f"nothing to {DO[plan.advice]}: {seen}{what}"
    movable, requested = plan.nr_movable * plan.page_size, plan.nr_requested * plan.page_size
    where = "in the page cache" if plan.advice == "pageout" else "that is not in the page cache"
    text = f"could {DO[plan.advice]} {sized(movable)} of {sized(requested)} {where}"
    if not plan.reasons:
        return text
    return f"{text}; the rest stays: {format_amounts(in_size(plan.reasons, plan.page_size), sized)}"


def plan_columns(plan: FilePlan) -> tuple[Column[PlannedFile], ...]:
    """Return the columns of a plan."""
    size = plan.page_size

    def staying(items: Sequence[PlannedFile]) -> dict[str, int]:
        total: dict[str, int] = {}
        for item in items:
            add_counts(total, item.reasons)
        return in_size(in_order(total), size)

    def dirty(item: PlannedFile) -> int | None:
        return None if item.nr_dirty is None else item.nr_dirty * size

    is_pageout = plan.advice == "pageout"
    can = CAN[plan.advice]
    selected = "CACHED" if is_pageout else "NOT CACHED"
    return (
        Column("size", "SIZE", "size", total=sum, rank=3),
        Column("nr_requested", selected, "count", shown=False),
        Column("nr_movable", can, "count", shown=False),
        Column("nr_dirty", "DIRTY", "count", shown=False),
        Column("reasons", "STAYS", "counts", shown=False),
        Column("size_requested", selected, "size", lambda item: item.nr_requested * size, sum),
        Column("size_movable", can, "size", lambda item: item.nr_movable * size, sum),
        Column("size_dirty", "DIRTY", "size", dirty, sum, rank=4, shown=is_pageout),
        Column("staying", "STAYS", "amounts", lambda item: staying([item]), staying, rank=1),
        *mappers_columns(plan.files),
        Column("path", "PATH", "path", total=lambda items: number_of(len(items), "file")),
    )


def mappers_columns(items: Sequence[PlannedFile] | Sequence[FileEffect]) -> tuple[Column[Mapped], Column[Mapped]]:
    """Return the columns of who maps files, for programs and for people, who have it where anybody does."""
    are_mapped = any(item.mappers for item in items)

    def who(item: Mapped) -> str | None:
        return first_of(item.mappers) if item.mappers else None

    return (
        Column("mappers", "PIDS", "list", shown=False),
        Column("mapped_by", "MAPPED BY", value=who, rank=2, shown=are_mapped),
    )


def files_effect_table(effect: FilesEffect, limit: int | None = None) -> Table:
    """Return what an act did, the largest first."""
    items = sorted(effect.files, key=lambda file: (-file.nr_moved, -file.nr_requested, file.path))
    columns = effect_columns(effect)

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from fold_message(summary(effect), width)
        if effect.stopped:
            yield from fold_message(f"stopped early: {effect.stopped}", width)
        rows = limit or (FEW if width else None)
        yield from Table("", columns, items, limit=rows).lines(in_bytes=in_bytes, colour=colour, width=width)

    notes = [*effect.notes, *map(reason_note, effect.reasons)]
    target = {"seconds": round(effect.seconds, 6), "stopped": effect.stopped or None}
    return Drawn(f"{effect.advice}-files/1", columns, items, target=target, notes=notes, draw=draw, limit=limit)


def summary(effect: FilesEffect) -> str:
    """Return how much moved, in which time."""
    size = format_size(effect.nr_moved * effect.page_size)
    which = first_of([file.path for file in effect.files]) if len(effect.files) == 1 else f"{len(effect.files):,} files"
    return f"{effect.advice} of {which}: {size} in {format_seconds(effect.seconds)}"


def effect_columns(effect: FilesEffect) -> tuple[Column[FileEffect], ...]:
    """Return the columns of what was done."""
    size = effect.page_size

    def staying(items: Sequence[FileEffect]) -> dict[str, int]:
        total: dict[str, int] = {}
        for item in items:
            add_counts(total, item.reasons)
        return in_size(in_order(total), size)

    def reading(item: FileEffect) -> int | None:
        return None if item.nr_reading is None else item.nr_reading * size

    is_reading = any(item.nr_reading for item in effect.files)
    selected = "CACHED" if effect.advice == "pageout" else "NOT CACHED"
    return (
        Column("size", "SIZE", "size", total=sum, rank=3),
        Column("nr_requested", selected, "count", shown=False),
        Column("nr_advised", "ADVISED", "count", shown=False),
        Column("nr_moved", DONE[effect.advice], "count", shown=False),
        Column("nr_stayed", "STAYED", "count", shown=False),
        Column("nr_reading", "BEING READ", "count", shown=False),
        Column("reasons", "STAYED", "counts", shown=False),
        Column("passes", "PASSES", "count", shown=False),
        Column("size_requested", selected, "size", lambda item: item.nr_requested * size, sum),
        Column("size_moved", DONE[effect.advice], "size", lambda item: item.nr_moved * size, sum),
        Column("size_reading", "BEING READ", "size", reading, sum, shown=is_reading),
        Column("staying", "STAYED", "amounts", lambda item: staying([item]), staying, rank=1),
        *mappers_columns(effect.files),
        Column("path", "PATH", "path", total=lambda items: number_of(len(items), "file")),
    )

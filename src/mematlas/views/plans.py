"""What an act would do: the answer in a line, then a row per VMA, the largest gain first."""

from __future__ import annotations

from mematlas.analysis.movable import REASONS, add_counts, in_order
from mematlas.notes import Note
from mematlas.views.format import fold_message, format_amounts, format_path, format_size, number_of
from mematlas.views.swap import size_of, swap_file_line
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.actions.groups import GroupPlan, PlannedProcess
    from mematlas.actions.plans import Plan, PlannedVma
    from mematlas.kernel.madvise import AdviceName

DO: dict[AdviceName, str] = {
    "pageout": "page out",
    "cold": "mark as cold",
    "willneed": "bring back",
    "collapse": "collapse",
}
"""What an advice does, in words."""
CAN: dict[AdviceName, str] = {
    "pageout": "CAN MOVE",
    "cold": "CAN MARK",
    "willneed": "CAN RETURN",
    "collapse": "CAN JOIN",
}
"""What the column of that is called."""

DIRTY_NEEDS = "CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH"

MEANINGFUL = 1 << 20
"""Bytes in a zram device from which on its ratio says something."""


def plan_table(plan: Plan, target: dict[str, Any], limit: int | None = None) -> Table:
    """Return what an advice would do, with where the memory would go as notes; ``limit`` is how many VMAs are shown."""
    items = sorted(plan.vmas, key=lambda item: (-item.nr_movable, -item.nr_requested, item.start))
    columns = columns_of(plan.page_size, plan.advice)
    lacking = lacking_swap(plan)
    explained = [reason for reason in plan.reasons if not lacking or reason != plan.room.lacking]
    notes = [*plan.notes, *map(reason_note, explained)]
    if plan.advice == "pageout":
        notes += [*given_up_notes(plan), *dirty_notes(plan), *room_notes(plan), *lacking]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from fold_message(verdict(plan, in_bytes), width)
        if items:
            rows = limit if limit or not width else rows_worth_a_line(items)
            yield from Table("", columns, items, limit=rows).lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn(f"{plan.advice}-plan/1", columns, items, target=target, notes=notes, draw=draw, limit=limit)


def rows_worth_a_line(items: Sequence[PlannedVma]) -> int:
    """Return how many VMAs a screen shows, of those sorted by gain: all that have any, and a few that have not."""
    nr_gaining = sum(item.nr_movable > 0 for item in items)
    return max(nr_gaining, FEW)


FEW = 5
"""VMAs that a plan shows on a screen although nothing can be done with them; the others are one row."""


def verdict(plan: Plan | GroupPlan, in_bytes: bool = False) -> str:
    """Return the answer: how much could be done of what was selected, and why the rest stays."""
    sized = str if in_bytes else format_size
    if not plan.nr_requested:
        return f"nothing to {DO[plan.advice]}"
    movable, requested = plan.nr_movable * plan.page_size, plan.nr_requested * plan.page_size
    text = f"could {DO[plan.advice]} {sized(movable)} of {sized(requested)} selected"
    if not plan.reasons:
        return text
    sizes = in_size(plan.reasons, plan.page_size)
    largest_first = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    why = next(iter(sizes)) if len(sizes) == 1 else format_amounts(largest_first, sized)
    return f"{text}; {sized(requested - movable)} stays: {why}"


def columns_of(page_size: int, advice: AdviceName) -> tuple[Column[PlannedVma], ...]:
    """Return the columns for pages of a size: text has sizes, JSON and CSV have the pages as well."""

    def staying(items: Sequence[PlannedVma]) -> dict[str, int]:
        total: dict[str, int] = {}
        for item in items:
            add_counts(total, item.reasons)
        return in_size(in_order(total), page_size)

    def size_needs_swap(item: PlannedVma) -> int:
        return item.nr_needs_swap * page_size

    def number_of_vmas(items: Sequence[PlannedVma]) -> str:
        return number_of(len(items), "VMA")

    is_pageout = advice == "pageout"
    return (
        Column("start", "START", "address"),
        Column("end", "END", "address", shown=False),
        Column("size", "SIZE", "size", lambda item: item.end - item.start, sum, rank=4),
        Column("perms", "PERM", value=lambda item: item.vma.perms, rank=3),
        Column("nr_requested", "PAGES", "count", shown=False),
        Column("nr_movable", CAN[advice], "count", shown=False),
        Column("nr_needs_swap", "TO SWAP", "count", shown=False),
        Column("nr_dirty", "DIRTY", "count", shown=False),
        Column("nr_given_up", "GIVEN UP", "count", shown=False),
        Column("reasons", "STAYS", "counts", shown=False),
        Column("size_requested", "SELECTED", "size", lambda item: item.nr_requested * page_size, sum),
        Column("size_movable", CAN[advice], "size", lambda item: item.nr_movable * page_size, sum),
        Column("size_needs_swap", "TO SWAP", "size", size_needs_swap, sum, rank=2, shown=is_pageout),
        Column("staying", "STAYS", "amounts", lambda item: staying([item]), staying, rank=1),
        Column("kind", "KIND", value=lambda item: item.vma.kind, rank=5),
        Column("path", "PATH", "path", lambda item: item.vma.path, number_of_vmas, fallback="kind"),
    )


def in_size(counts: dict[str, int], page_size: int) -> dict[str, int]:
    """Return counts of pages as bytes."""
    return {name: nr_pages * page_size for name, nr_pages in counts.items()}


def reason_note(reason: str) -> Note:
    """Return what a reason means."""
    return Note(f"stays-{reason.replace(' ', '-')}", f"{reason}: {REASONS[reason]}")


def given_up_notes(plan: Plan) -> list[Note]:
    """Return what is known of pages that the process has given up."""
    if plan.nr_given_up is None:
        text = "pages that the process gave up (MADV_FREE) are freed, not swapped; only kpageflags shows which: needs "
        return [Note("given-up-unknown", text + DIRTY_NEEDS)]
    if not plan.nr_given_up:
        return []
    text = "given up by the process (MADV_FREE, MAP_DROPPABLE): to be freed, not swapped, unless written to since"
    return [Note("given-up", f"{number_of(plan.nr_given_up, 'page')} {text}")]


def dirty_notes(plan: Plan) -> list[Note]:
    """Return what is known of pages of files that are not written yet."""
    if plan.nr_dirty is None:
        text = "dirty pages of files leave the process, but stay in RAM; only kpageflags shows which: needs "
        return [Note("dirty-unknown", text + DIRTY_NEEDS)]
    if not plan.nr_dirty:
        return []
    which = "1 page of a file is" if plan.nr_dirty == 1 else f"{plan.nr_dirty} pages of files are"
    return [Note("dirty", f"{which} dirty: they would leave the process, but stay in RAM until written to disk")]


def room_notes(plan: Plan | GroupPlan) -> list[Note]:
    """Return where memory without a file would go."""
    lines = []
    for area in plan.room.areas:
        free = format_size(area.size - area.used)
        line = f"swap: {format_path(area.path)}, {free} free of {format_size(area.size)}"
        ratio = plan.room.ratios.get(area.path, 0)
        # What little an empty device holds is smaller than its own tables.
        if ratio > 1 and area.used >= MEANINGFUL:
            line += f", {ratio:.0f}:1 so far"
        lines.append(line)
    if plan.room.allowed is not None:
        lines.append(f"swap: the memory cgroup allows {format_size(plan.room.allowed)} more")
    return [Note("swap", line) for line in lines]


def lacking_swap(plan: Plan | GroupPlan) -> list[Note]:
    """Return what to know and what to type when memory has nowhere to go; nothing when it has."""
    if not plan.nr_without_swap:
        return []
    lacking = format_size(plan.nr_without_swap * plan.page_size)
    if plan.room.lacking == "cgroup":
        text = f"the memory cgroup of the process allows too little swap: {lacking} of memory has nowhere to go"
        return [Note("no-swap", text)]
    # Twice as much as is needed, as a power of two.
    nr_pages = plan.nr_needs_swap + plan.nr_without_swap
    mib = 1 << max(nr_pages * plan.page_size >> 19, 63).bit_length()
    amount = "too little" if plan.room.areas else "no"
    text = (
        f"{amount} swap space: {lacking} of memory without a file has nowhere to go;"
        f" for this run alone, as root: --temporary-swap {size_of(mib)}"
    )
    return [Note("no-swap", text), Note("make-swap", f"swap space that stays, as root: {swap_file_line(mib)}")]


# Of a group


def group_plan_table(plan: GroupPlan, target: dict[str, Any], limit: int | None = None) -> Table:
    """Return what an advice would do to each process; ``limit`` is how many of them text shows."""
    columns = group_plan_columns(plan)
    lacking = lacking_swap(plan)
    explained = [reason for reason in plan.reasons if not lacking or reason != plan.room.lacking]
    notes = [*plan.notes, *map(reason_note, explained)]
    if plan.advice == "pageout":
        notes += [*room_notes(plan), *lacking]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        number = len(plan.processes)
        of_whom = f" in {number:,} process{'' if number == 1 else 'es'} of {format_path(target['group'])}"
        yield from fold_message(verdict(plan, in_bytes).replace(" selected", f" selected{of_whom}", 1), width)
        table = Table("", columns, plan.processes, limit=limit)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)

    schema = f"{plan.advice}-group-plan/1"
    return Drawn(schema, columns, plan.processes, target=target, notes=notes, draw=draw, limit=limit)


def group_plan_columns(plan: GroupPlan) -> tuple[Column[PlannedProcess], ...]:
    """Return the columns: sizes in text, pages as well in JSON and CSV."""
    size = plan.page_size

    def staying(items: Sequence[PlannedProcess]) -> dict[str, int]:
        total: dict[str, int] = {}
        for item in items:
            add_counts(total, item.plan.reasons)
        return in_size(in_order(total), size)

    return (
        Column("pid", "PID", "count"),
        Column("name", "NAME"),
        Column("nr_requested", "PAGES", "count", lambda item: item.plan.nr_requested, sum, shown=False),
        Column("nr_movable", "MOVABLE", "count", lambda item: item.plan.nr_movable, sum, shown=False),
        Column("reasons", "REASONS", "counts", lambda item: item.plan.reasons, shown=False),
        Column("size_requested", "SELECTED", "size", lambda item: item.plan.nr_requested * size, sum),
        Column("size_movable", CAN[plan.advice], "size", lambda item: item.plan.nr_movable * size, sum),
        Column(
            "size_needs_swap",
            "TO SWAP",
            "size",
            lambda item: item.plan.nr_needs_swap * size,
            sum,
            rank=2,
            shown=plan.advice == "pageout",
        ),
        Column("staying", "STAYS", "amounts", lambda item: staying([item]), staying, rank=1),
    )

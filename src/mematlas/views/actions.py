"""What an act would do, what it did, and which pages came back: as tables, and as lines with their meaning."""

from __future__ import annotations

from mematlas.analysis.movable import REASONS
from mematlas.frozen import as_dict
from mematlas.notes import Note
from mematlas.views.format import fold_message, format_path, format_seconds, format_size, number_of
from mematlas.views.swap import size_of, swap_file_line
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.actions.effects import Effect
    from mematlas.actions.plans import Plan, PlannedVma
    from mematlas.actions.refaults import Refaults
    from mematlas.kernel.maps import Vma

WHAT = {
    "pageout": ("in RAM, of what you chose", "out of the process now"),
    "cold": ("in RAM, of what you chose", "no longer referenced: first to go when memory is short"),
    "willneed": ("not in RAM, of what you chose", "in RAM now"),
    "collapse": ("in RAM, of what you chose", "part of a huge page now"),
}
"""What is asked for and what is reached, by advice."""

FREED = "of these, out of RAM too: their frames are free"
SWAP_CACHED = "in swap, or on the way there, and still in RAM until that is needed"
PAGE_CACHED = "of files, and still in RAM: not yet written, or in use elsewhere"
GIVEN_UP = "freed, and kept nowhere: the process had given them up (MADV_FREE, MAP_DROPPABLE)"
NOT_TOLD = "not told: see the notes"

DIRTY_NEEDS = "CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH"

MAX_VMAS = 12
MAX_POINTS = 10
MEANINGFUL = 1 << 20
"""Bytes in a zram device from which on its ratio says something."""

PLAN_COLUMNS = (
    Column("start", "START", "address"),
    Column("end", "END", "address", shown=False),
    Column("size", "SIZE", "size"),
    Column("perms", "PERMS"),
    Column("nr_requested", "ASKED FOR", "count"),
    Column("nr_movable", "CAN MOVE", "count"),
    Column("nr_needs_swap", "TO SWAP", "count"),
    Column("nr_dirty", "DIRTY", "count", shown=False),
    Column("nr_given_up", "GIVEN UP", "count", shown=False),
    Column("reasons", "CANNOT", "counts"),
    Column("kind", "KIND"),
    Column("path", "PATH", "path"),
)

EFFECT_COLUMNS = (
    Column("nr_requested", "REQUESTED", "count"),
    Column("nr_advised", "ADVISED", "count"),
    Column("nr_moved", "MOVED", "count"),
    Column("nr_stayed", "STAYED", "count"),
    Column("reasons", "REASONS", "counts"),
    Column("passes", "PASSES", "count"),
    Column("seconds", "SECONDS", "number"),
    Column("advise_s", "IN THE CALL", "number"),
    Column("size_moved", "SIZE", "size"),
    Column("swap", "SWAP", "size"),
    Column("swap_cached", "SWAP CACHE", "size"),
    Column("page_cached", "PAGE CACHE", "size"),
    Column("nr_given_up", "GIVEN UP", "count"),
    Column("nr_reading", "BEING READ", "count"),
    Column("nr_freed", "LEFT RAM", "count"),
    Column("free", "FREE"),
    Column("rate", "BYTES/S", "number"),
    Column("stopped", "STOPPED"),
    Column("refaults", "REFAULTS"),
    Column("undo", "UNDO"),
)

LINE_COLUMNS = (
    Column("measure", "MEASURE"),
    Column("nr_pages", "PAGES", "count"),
    Column("size", "SIZE", "size"),
    Column("meaning", "MEANING"),
)

CURVE_COLUMNS = (
    Column("seconds", "SECONDS", "number"),
    Column("nr_returned", "BACK", "count"),
    Column("size", "SIZE", "size"),
)

REFAULT_COLUMNS = (
    Column("start", "START", "address"),
    Column("nr_moved", "MOVED", "count"),
    Column("nr_returned", "BACK", "count"),
    Column("nr_never", "NOT BACK", "count"),
    Column("nr_gone", "GONE", "count"),
    Column("first_s", "FIRST AT", "number"),
    Column("last_s", "LAST AT", "number"),
    Column("kind", "KIND"),
    Column("path", "PATH", "path"),
)


def plan_table(plan: Plan, target: dict[str, Any]) -> Table:
    """Return what an advice would do, a row per VMA, with where the memory would go as notes."""
    rows = [plan_row(item) for item in plan.vmas]
    total = (plan.nr_requested, plan.nr_movable, plan.nr_needs_swap, plan.nr_dirty, plan.nr_given_up, plan.reasons)
    whole = f"{len(rows)} VMA{'s' * (len(rows) != 1)}"
    footer = (None, None, sum(row[2] for row in rows), None, *total, None, whole)
    notes = [*plan.notes, *map(reason_note, plan.reasons)]
    if plan.advice == "pageout":
        notes += given_up_notes(plan)
        notes += dirty_notes(plan)
        notes += places(plan)
        notes += lacking_swap(plan)
    return Table(f"{plan.advice}-plan/1", PLAN_COLUMNS, rows, target=target, notes=notes, footer=footer)


def reason_note(reason: str) -> Note:
    """Return what a reason means."""
    return Note(f"stays-{reason.replace(' ', '-')}", f"{reason}: {REASONS[reason]}")


def plan_row(item: PlannedVma) -> tuple[Any, ...]:
    """Return the row of one VMA."""
    counts = (item.nr_requested, item.nr_movable, item.nr_needs_swap, item.nr_dirty, item.nr_given_up)
    where = (item.start, item.end, item.end - item.start, item.vma.perms)
    return (*where, *counts, item.reasons, item.vma.kind, item.vma.path)


def given_up_notes(plan: Plan) -> list[Note]:
    """Return what is known of pages that the process has given up."""
    if plan.nr_given_up is None:
        text = "pages that the process has given up (MADV_FREE) are freed, not swapped; which, kpageflags tells: needs "
        return [Note("given-up-unknown", text + DIRTY_NEEDS)]
    if not plan.nr_given_up:
        return []
    text = "given up by the process (MADV_FREE, MAP_DROPPABLE): to be freed, not swapped, unless written to since"
    return [Note("given-up", f"{number_of(plan.nr_given_up, 'page')} {text}")]


def dirty_notes(plan: Plan) -> list[Note]:
    """Return what is known of pages of files that are not written yet."""
    if plan.nr_dirty is None:
        text = "dirty pages of files leave the process, and stay in RAM; which, kpageflags tells: needs "
        return [Note("dirty-unknown", text + DIRTY_NEEDS)]
    if not plan.nr_dirty:
        return []
    which = "1 page of a file is" if plan.nr_dirty == 1 else f"{plan.nr_dirty} pages of files are"
    return [Note("dirty", f"{which} dirty: to leave the process, and to stay in RAM until written to disk")]


def places(plan: Plan) -> list[Note]:
    """Return where memory without a file would go."""
    lines = []
    for area in plan.room.areas:
        ratio = plan.room.ratios.get(area.path, 0)
        text = f"swap: {format_path(area.path)}, {format_size(area.size - area.used)} free of {format_size(area.size)}"
        # What little an empty device holds is smaller than its own tables.
        lines.append(text + (f", {ratio:.0f}:1 so far" if ratio > 1 and area.used >= MEANINGFUL else ""))
    if plan.room.allowed is not None:
        lines.append(f"swap: the memory cgroup allows {format_size(plan.room.allowed)} more")
    if not lines and plan.nr_without_swap:
        lines.append("swap: none")
    return [Note("swap", line) for line in lines]


def lacking_swap(plan: Plan) -> list[Note]:
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


def effect_table(
    effect: Effect, target: dict[str, Any], page_size: int, refaults: Refaults | None = None, undo: Effect | None = None
) -> Table:
    """Return what an act did: one row, in text as lines with their meaning."""

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Iterator[str]:
        who = f"{format_path(target['name'])}, PID {target['pid']}"
        yield f"{effect.advice} of {who}: {summary(effect, page_size)}"
        if effect.stopped:
            yield from fold_message(f"stopped early: {effect.stopped}", width)
        lines = [(name, nr, in_size(nr, page_size), text) for name, nr, text in effect_lines(effect, page_size)]
        yield from Table("", LINE_COLUMNS, lines).lines(in_bytes=in_bytes, colour=colour, width=width)
        if refaults:
            yield ""
            yield from refault_lines(refaults, page_size, in_bytes, colour, width)
        if undo:
            yield ""
            yield undo_line(undo, page_size)

    row = effect_row(effect, page_size, refaults, undo)
    notes = [*effect.notes, *(undo.notes if undo else ())]
    return Drawn(f"{effect.advice}/1", EFFECT_COLUMNS, [row], target=target, notes=notes, draw=draw)


def effect_row(effect: Effect, page_size: int, refaults: Refaults | None, undo: Effect | None) -> tuple[Any, ...]:
    """Return the row of an act."""
    speed = rate(effect, page_size)
    return (
        effect.nr_requested,
        effect.nr_advised,
        effect.nr_moved,
        effect.nr_stayed,
        effect.reasons,
        effect.passes,
        round(effect.seconds, 6),
        round(effect.advise_s, 6),
        effect.nr_moved * page_size,
        effect.swap,
        effect.swap_cached,
        effect.page_cached,
        effect.nr_given_up,
        effect.nr_reading,
        effect.nr_freed if effect.advice == "pageout" else None,
        effect.freed and as_dict(effect.freed),
        None if speed is None else round(speed),
        effect.stopped or None,
        refaults and refaults_object(refaults),
        undo and undo_object(undo),
    )


def summary(effect: Effect, page_size: int) -> str:
    """Return how much moved, in which time."""
    speed = rate(effect, page_size)
    took = f"{format_seconds(effect.seconds)}, {effect.passes} pass{'es' if effect.passes > 1 else ''}"
    at_speed = f" ({format_size(round(speed))}/s)" if speed and effect.advice != "cold" else ""
    return f"{format_size(effect.nr_moved * page_size)} in {took}{at_speed}"


def rate(effect: Effect, page_size: int) -> float | None:
    """Return the bytes moved in a second; None where what is still being read will take longer."""
    return effect.nr_moved * page_size / effect.seconds if effect.seconds and effect.nr_reading == 0 else None


def in_size(nr_pages: int | None, page_size: int) -> int | None:
    """Return pages as bytes; unknown stays unknown."""
    return None if nr_pages is None else nr_pages * page_size


def effect_lines(effect: Effect, page_size: int) -> Iterator[tuple[str, int | None, str]]:
    """Yield the measures of an act: name, pages, meaning."""
    asked, reached = WHAT[effect.advice]
    yield "requested", effect.nr_requested, asked
    yield "advised", effect.nr_advised, "of these, the kernel took the advice"
    yield "moved", effect.nr_moved, reached if effect.nr_reading == 0 else "in RAM, or being read"
    if effect.nr_reading:
        yield "  reading", effect.nr_reading, "of files, and not read yet: the disk is at it"
    if effect.advice == "pageout":
        yield from whereabouts(effect, page_size)
    yield "stayed", effect.nr_stayed, "for these reasons:" if effect.reasons else "none"
    for key, nr_pages in effect.reasons.items():
        yield f"  {key}", nr_pages, REASONS[key]


def whereabouts(effect: Effect, page_size: int) -> Iterator[tuple[str, int | None, str]]:
    """Yield where the pages are that were paged out."""
    in_swap = pages(effect.swap, page_size)
    yield "  to swap", in_swap, NOT_TOLD if in_swap is None else "the rest, if any, went back to its files"
    if effect.nr_given_up:
        yield "  given up", effect.nr_given_up, GIVEN_UP
    yield "left RAM", effect.nr_freed, NOT_TOLD if effect.nr_freed is None else FREED
    for name, size, meaning in (
        ("  swap cache", effect.swap_cached, SWAP_CACHED),
        ("  page cache", effect.page_cached, PAGE_CACHED),
    ):
        if size or (size is None and effect.nr_moved):
            yield name, pages(size, page_size), NOT_TOLD if size is None else meaning
    if effect.freed:
        text = f"of {effect.freed.nr_kept} in the swap cache: read back, and paged out once more"
        yield "  by --free", effect.freed.nr_freed, text


def pages(size: int | None, page_size: int) -> int | None:
    """Return bytes as pages; unknown stays unknown."""
    return None if size is None else size // page_size


def refault_lines(refaults: Refaults, page_size: int, in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
    """Yield the curve of the pages that came back, and the VMAs that they belong to."""
    share = f" ({refaults.nr_returned / refaults.nr_moved:.1%})" if refaults.nr_moved else ""
    watched = f"watched for {refaults.seconds:.1f} s" + (f" ({refaults.stopped})" if refaults.stopped else "")
    yield f"{watched}: {refaults.nr_returned} of {refaults.nr_moved} pages came back{share}"
    if refaults.nr_never:
        # What did not come back in a shorter time than was asked for is not called cold.
        size = format_size(refaults.nr_never * page_size)
        cold = f": {size} of cold memory" if refaults.is_whole else ""
        yield f"{refaults.nr_never} did not come back in {refaults.seconds:.1f} s{cold}"
    if refaults.nr_gone:
        why = "went with the process" if refaults.gone else "are gone: given back or unmapped by the process"
        yield f"{refaults.nr_gone} {why}"
    if refaults.curve:
        rows = [(round(seconds, 3), nr, nr * page_size) for seconds, nr in thin(refaults.curve)]
        yield from Table("", CURVE_COLUMNS, rows).lines(in_bytes=in_bytes, colour=colour, width=width)
    items = sorted(refaults.vmas, key=lambda item: (-item.nr_returned, -item.nr_moved))
    table = [
        (
            *place(item.vma)[:1],
            *(item.nr_moved, item.nr_returned, item.nr_moved - item.nr_returned - item.nr_gone, item.nr_gone),
            *(rounded(item.first_s), rounded(item.last_s)),
            *place(item.vma)[1:],
        )
        for item in items[:MAX_VMAS]
    ]
    if table:
        yield from Table("", REFAULT_COLUMNS, table).lines(in_bytes=in_bytes, colour=colour, width=width)
    if len(items) > MAX_VMAS:
        nr_more = len(items) - MAX_VMAS
        yield f"... {nr_more} more VMA{'s' * (nr_more != 1)}"


def thin(curve: tuple[tuple[float, int], ...]) -> list[tuple[float, int]]:
    """Return a few points of a curve, the last one among them."""
    step = -(-len(curve) // MAX_POINTS)
    return [point for place, point in enumerate(curve) if (len(curve) - 1 - place) % step == 0]


def place(vma: Vma | None) -> tuple[int | None, str | None, str | None]:
    """Return start, kind and path of a VMA; all unknown when it is gone."""
    return (None, None, None) if vma is None else (vma.start, vma.kind, vma.path)


def rounded(seconds: float | None) -> float | None:
    """Return a time to the millisecond."""
    return None if seconds is None else round(seconds, 3)


def undo_line(undo: Effect, page_size: int) -> str:
    """Return what bringing back came to."""
    stayed = ", ".join(f"{nr_pages} {key}" for key, nr_pages in undo.reasons.items())
    size = format_size(undo.nr_moved * page_size)
    text = f"undo: {undo.nr_moved} of {undo.nr_requested} pages ({size}) brought back in {format_seconds(undo.seconds)}"
    if undo.nr_reading:
        text += f", {undo.nr_reading} of them not read yet"
    if not undo.nr_requested:
        text = "undo: nothing to bring back"
    return text + (f"; not back: {stayed}" if stayed else "") + (f"; stopped: {undo.stopped}" if undo.stopped else "")


def refaults_object(refaults: Refaults) -> dict[str, Any]:
    """Return a watch for JSON."""
    return {
        "seconds": round(refaults.seconds, 3),
        "nr_moved": refaults.nr_moved,
        "nr_returned": refaults.nr_returned,
        "nr_never": refaults.nr_never,
        "nr_gone": refaults.nr_gone,
        "curve": [[round(seconds, 3), nr_pages] for seconds, nr_pages in refaults.curve],
        "vmas": [
            {
                "start": None if item.vma is None else f"{item.vma.start:#x}",
                "path": None if item.vma is None else item.vma.path,
                "nr_moved": item.nr_moved,
                "nr_returned": item.nr_returned,
                "nr_gone": item.nr_gone,
                "first_s": rounded(item.first_s),
                "last_s": rounded(item.last_s),
            }
            for item in refaults.vmas
        ],
        "never": [[f"{start:#x}", f"{end:#x}"] for start, end in refaults.never.ranges()],
        "stopped": refaults.stopped or None,
    }


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

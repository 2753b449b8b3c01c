"""What all frames of RAM are used for, as tables: by kind, by node or size of folio, and beside meminfo."""

from __future__ import annotations

from mematlas.analysis.estimates import RISK
from mematlas.frozen import replace
from mematlas.notes import Note, Notes
from mematlas.views.format import format_size
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.analysis.frames import Balance, FrameGroup, FramesCheck, FramesResult, FrameUse

ABOUT = {
    "free": "nobody's",
    "cpu_free": "nobody's, kept by a CPU for itself: no part of MemFree",
    "untouched": "nobody's ever since the start: not set up yet",
    "anon": "memory of processes",
    "ksm": "equal pages of processes, put together",
    "swapcache": "on its way to or from swap",
    "file": "page cache: clean, can be dropped",
    "file_dirty": "page cache: to be written first",
    "file_writeback": "page cache: being written",
    "shmem": "tmpfs, memfd, shared memory",
    "hugetlb": "pools of huge pages, used or not",
    "zero": "the page of zeros, huge or not",
    "slab": "objects of the kernel",
    "large_kmalloc": "large objects of the kernel",
    "table": "page tables",
    "zsmalloc": "compressed swap",
    "movable": "a driver's, movable",
    "kernel": "of the kernel, without a type: stacks, vmalloc, drivers, network",
    "guard": "guard pages of the kernel",
    "offline": "taken away by a balloon, or switched off",
    "unaccepted": "not yet accepted from the hypervisor",
    "reserved": "the kernel itself, and what firmware keeps",
    "poisoned": "broken",
    "orphan": "taken from its file, and still referred to",
    "changed": "became something else meanwhile",
    "unread": "could not be read",
    "reclaimable": "caches of the kernel",
    "other": "what no line of meminfo has",
}
"""What each kind is, for people."""
IN_MEMINFO = {"kernel": "slabs, page tables, stacks, vmalloc, memory of each CPU"}
"""The same, where it is a sum of meminfo."""
HEADINGS = {
    "free": "FREE",
    "anon": "ANON",
    "file": "FILE",
    "shmem": "SHMEM",
    "hugetlb": "HUGETLB",
    "slab": "SLAB",
    "table": "TABLES",
    "zsmalloc": "ZSMALLOC",
    "kernel": "KERNEL",
    "reserved": "RESERVED",
    "away": "AWAY",
    "unknown": "UNKNOWN",
}
"""Of the columns of uses."""


def ram_table(result: FramesResult, line: str = "", limit: int | None = None, *, only_seen: bool = False) -> Table:
    """Return what frames are used for, in rows of what was asked for; ``line`` is what shows single frames.

    Of more rows than ``limit`` the others are added up. With ``only_seen`` kinds of which a sample has nothing are in
    a note together.
    """
    notes = [*sampled(result), *fragmentation(result), *result.reading.notes]
    if line and result.uses_meminfo:
        notes = [replace(note, text=f"{note.text}; to see them: {line}") for note in notes]
    if result.by == "kind":
        uses, unseen = parted(result.uses) if only_seen and result.sample else (result.uses, [])
        notes += unseen
        return Table("ram/1", use_columns(result), uses, target=target_of(result), notes=notes, limit=limit)
    columns = group_columns(result)
    schema = f"ram-{result.by}/1"
    return Table(schema, columns, result.groups, target=target_of(result), notes=notes, limit=limit)


def use_columns(result: FramesResult) -> tuple[Column[FrameUse], ...]:
    """Return the columns of kinds."""
    texts = ABOUT | IN_MEMINFO if result.uses_meminfo else ABOUT
    is_exact = result.sample is None

    def about(use: FrameUse) -> str:
        return texts.get(use.kind, "")

    return (
        Column("kind", "KIND"),
        Column("size", "SIZE", "size", total=sum),
        *(() if is_exact else (Column("size_low", "LOW", "size"), Column("size_high", "HIGH", "size"))),
        Column("share", "OF RAM", "share", lambda use: use.size / result.size if result.size else None, rank=2),
        Column("nr_pages", "PAGES", "count", total=sum, rank=6),
        Column("mapped", "MAPPED", "size", total=sum, rank=4, shown=is_exact),
        Column("shared", "MORE THAN ONCE", "size", total=sum, rank=5, shown=is_exact),
        *(() if is_exact else (Column(name, name.upper(), "size", shown=False) for name in BOUNDS)),
        Column("about", "WHAT IT IS", value=about, width=30, rank=3),
    )


BOUNDS = ("mapped_low", "mapped_high", "shared_low", "shared_high")
"""Of estimates, for programs: for people those of sizes are enough."""


def group_columns(result: FramesResult) -> tuple[Column[FrameGroup], ...]:
    """Return the columns of rows that are no kinds: a column for each use that there is."""
    by_order = result.by == "order"
    used = [use for use in result.groups[0].uses if any(group.uses[use] for group in result.groups)]
    heading = {"order": "ORDER", "mapped": "MAPPED BY"}.get(result.by, result.by.upper())

    def of_use(use: str) -> Column[FrameGroup]:
        return Column(use, HEADINGS[use], "size", lambda group: group.uses[use], sum, rank=RANKS.get(use, 1))

    def free_blocks(group: FrameGroup) -> int | None:
        blocks = result.free_blocks
        return None if blocks is None or group.order is None else sum(blocks[group.order :][:1])

    def folio_size(group: FrameGroup) -> int | None:
        return None if group.order is None else result.page_size << group.order

    first: tuple[Column[FrameGroup], ...] = (Column(result.by, heading, value=lambda group: group.name),)
    last: tuple[Column[FrameGroup], ...] = ()
    if by_order:
        first = (Column("order", "ORDER", "count"), Column("folio_size", "FOLIO", "size", folio_size))
    elif result.by == "cgroup":
        first = (Column("inode", "INODE", "count", lambda group: group.inode, shown=False),)
        last = (Column("cgroup", "CGROUP", "path", lambda group: group.name),)
    elif result.by == "zone":
        first = (Column("node", "NODE", "count"), Column("zone", "ZONE", value=lambda group: group.name))
    return (
        *first,
        Column("size", "SIZE", "size", total=sum),
        Column("nr_pages", "PAGES", "count", total=sum, shown=False),
        *((Column("nr_free_blocks", "FREE BLOCKS", "count", free_blocks, rank=1),) if by_order else ()),
        *map(of_use, used),
        *last,
    )


RANKS = {"free": 0, "anon": 0, "file": 0, "shmem": 2, "slab": 2, "kernel": 2, "table": 4, "reserved": 5, "unknown": 3}
"""Which columns of uses a narrow screen gives up first: those of the highest rank."""


def fragmentation(result: FramesResult) -> Iterator[Note]:
    """Yield how much of free memory lies in blocks that a huge page fits in."""
    if result.free_blocks is None or result.by not in ("kind", "order"):
        return
    pages = [nr << order for order, nr in enumerate(result.free_blocks)]
    huge = result.huge_size
    fitting = sum(pages[(huge // result.page_size).bit_length() - 1 :]) * result.page_size
    total = sum(pages) * result.page_size
    room = f"{format_size(fitting)} lies in blocks of {format_size(huge)} and more: {fitting // huge:,} huge pages"
    text = f"of {format_size(total)} free, {room}"
    yield Note("free-blocks", text)


def sampled(result: FramesResult) -> Iterator[Note]:
    """Yield what the amounts are estimated from."""
    if sample := result.sample:
        blocks = f"{sample.nr_seen:,} random blocks of {sample.nr_parts:,}"
        seen = f"{format_size(sample.seen_size * result.page_size)}, {blocks}"
        text = f"estimates from {seen}: the truth lies between LOW and HIGH 95 times of 100"
        yield Note("estimates", text)


def parted(uses: Sequence[FrameUse]) -> tuple[list[FrameUse], list[Note]]:
    """Return the uses that a sample has something of, and a note on how much there may be of the others."""
    seen, unseen = ([use for use in uses if bool(use.size) is has_any] for has_any in (True, False))
    if not unseen:
        return seen, []
    most = format_size(max(use.size_high or 0 for use in unseen))
    if len(unseen) == 1:
        text = f"none seen of 1 more kind: there may be up to {most} of it (--wide lists it)"
    else:
        text = f"none seen of {len(unseen)} more kinds: there may be up to {most} of each (--wide lists them)"
    return seen, [Note("kinds-unseen", text)]


def sample_of(result: FramesResult) -> dict[str, Any] | None:
    """Return what JSON has of the sample."""
    sample = result.sample
    if sample is None:
        return None
    page = result.page_size
    sizes = {"block_size": sample.part_size * page, "size": sample.seen_size * page, "confidence": 1 - RISK}
    return {"nr_blocks": sample.nr_parts, "nr_seen": sample.nr_seen, **sizes}


def target_of(result: FramesResult) -> dict[str, Any]:
    """Return what JSON has of the machine as a whole."""
    return {
        "nr_pages": result.nr_frames,
        "size": result.size,
        "source": result.reading.source,
        "duration_s": round(result.reading.duration_s, 6),
        "torn": result.reading.torn,
        "sample": sample_of(result),
        "free_blocks": None if result.free_blocks is None else list(result.free_blocks),
    }


BALANCE_COLUMNS: tuple[Column[Balance], ...] = (
    Column("name", "MEMINFO"),
    Column("meminfo", "SIZE", "size"),
    Column("frames", "FRAMES", "size"),
    Column("difference", "DIFFERENCE", "change"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
)


def check_table(check: FramesCheck) -> Table:
    """Return frames beside meminfo, and how many agree with kpageflags; a difference without a reason fails."""
    names = [balance.name for balance in check.balances if not balance.explained]
    failures = [f"frames and meminfo differ without a reason: {', '.join(names)}"] if names else []
    notes = Notes(check.reading.notes)
    agreement = check.agreement
    target: dict[str, Any] = {
        "source": check.reading.source,
        "duration_s": round(check.reading.duration_s, 6),
        "agreement": None,
    }
    if agreement is not None:
        differ = agreement.nr_kinds_differ + agreement.nr_states_differ
        text = f"{agreement.nr_frames:,} frames compared with kpageflags and kpagecount, {differ:,} differ"
        notes.add(Note("frames-compared", f"{text}; {agreement.nr_left_out:,} changed meanwhile, and are left out"))
        if differ:
            what = "1 frame is" if differ == 1 else f"{differ:,} frames are"
            see = f"; see mematlas owner pfn:{agreement.first:#x}" if agreement.first is not None else ""
            failures.append(f"{what} something else in kpageflags or kpagecount{see}")
        target["agreement"] = {
            "nr_frames": agreement.nr_frames,
            "nr_left_out": agreement.nr_left_out,
            "nr_kinds_differ": agreement.nr_kinds_differ,
            "nr_states_differ": agreement.nr_states_differ,
            "kinds": [
                {"kind": ours.name.lower(), "kpageflags": theirs.name.lower(), "nr_frames": nr}
                for (ours, theirs), nr in sorted(agreement.kinds.items())
            ],
        }
    return Table("ram-verify/1", BALANCE_COLUMNS, check.balances, target=target, notes=notes, failures=failures)

"""What RAM is used for, as rows: by kind, by zone, how free memory is cut up, and how short of it programs are."""

from __future__ import annotations

from itertools import pairwise

from mematlas.tui.drawing import bar, cell, fitted, spark, stacked, width_of_row
from mematlas.tui.frame import split
from mematlas.views.format import format_change, format_rate, format_share, format_size, number_of
from mematlas.views.ram import ABOUT, IN_MEMINFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mematlas.analysis.frames import FrameGroup, FramesResult
    from mematlas.timeline.timeline import Counted
    from mematlas.timeline.watch import Look
    from mematlas.tui.drawing import Row

ROLE_OF = {
    **dict.fromkeys(("anon", "ksm", "swapcache", "processes"), "own"),
    **dict.fromkeys(("shmem", "hugetlb"), "shared"),
    **dict.fromkeys(("file", "cache", "reclaimable"), "cached"),
    **dict.fromkeys(("file_dirty", "file_writeback"), "dirty"),
    **dict.fromkeys(("free", "cpu_free", "untouched"), "absent"),
    **dict.fromkeys(("poisoned", "unread", "changed", "unaccepted", "offline", "orphan", "guard", "other"), "unknown"),
}
"""How a kind is coloured; the kernel's own are grey."""
KERNEL = "zero"
FILLS = {"own": "█", "shared": "▓", "cached": "▒", "dirty": "d", KERNEL: "░", "unknown": "?", "absent": "·"}
"""What stands for the same without colours, in the order in which it is drawn."""
KIND, SIZE, SHARE, BAR, CHANGE = 15, 9, 6, 10, 10
LEAST_ABOUT = 30
MAPPED = 9
ORDER = 5
"""Columns of the blocks of one size."""


def role_of(kind: str) -> str:
    """Return how a kind is coloured."""
    return ROLE_OF.get(kind, KERNEL)


def sums_of(uses: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Return what kinds add up to, by how they are coloured."""
    sums = dict.fromkeys(FILLS, 0)
    for kind, size in uses:
        sums[role_of(kind)] += size
    return sums


def whole_bar(uses: Sequence[tuple[str, int]], total: int, width: int) -> Row:
    """Return all of RAM as one bar: each sort of use beside the next, free memory last."""
    parts = [(size / total if total else 0, role) for role, size in sums_of(uses).items() if role != "absent"]
    row = stacked(parts, max(width - 2, 0))
    return [(" ", "text"), *((FILLS[role] * len(text), role) for text, role in row), (" ", "text")]


def heading(width: int, has_mapped: bool) -> Row:
    """Return the headings of kinds; ``has_mapped`` is whether it is known what of them is mapped."""
    text = f"   {cell('KIND', KIND)} {cell('SIZE', SIZE, right=True)} {cell('OF RAM', SHARE, right=True)} "
    text += f"{cell('', BAR)} {cell('CHANGE', CHANGE, right=True)}"
    if has_mapped and width - len(text) > MAPPED:
        text += " " + cell("MAPPED", MAPPED, right=True)
    return fitted([(text + "  WHAT IT IS" if width - len(text) >= LEAST_ABOUT else text, "muted")], width)


def kind_row(kind: str, size: int, change: int | None, mapped: int | None, total: int, about: str, width: int) -> Row:
    """Return one kind."""
    role = role_of(kind)
    share = size / total if total else 0
    moved = "" if change is None else format_change(change)
    row: Row = [
        (f" {FILLS[role]} ", role),
        (cell(kind, KIND), "text"),
        (" " + cell(format_size(size), SIZE, right=True), "title"),
        (" " + cell(format_share(share), SHARE, right=True), "muted"),
        (" " + bar(share, BAR), role),
        (" " + cell(moved, CHANGE, right=True), "text" if change else "muted"),
    ]
    if mapped is not None and width - width_of_row(row) > MAPPED:
        row.append((" " + cell(format_size(mapped), MAPPED, right=True), "muted"))
    if width - width_of_row(row) >= LEAST_ABOUT:
        row.append(("  " + about, "muted"))
    return fitted(row, width)


def uses_of(ram: FramesResult | None, counters: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the kinds that there are, the largest first; of counters alone, what these tell apart."""
    if ram is not None:
        return [(use.kind, use.size) for use in ram.uses]
    return sorted(((word, size) for word, size, _ in split(counters)), key=lambda one: -one[1])


def total_of(ram: FramesResult | None, counters: Mapping[str, int]) -> int:
    """Return the bytes of all RAM."""
    return ram.size if ram is not None else counters.get("MemTotal", 0)


def kind_rows(now: Look, before: Look | None, most: int, width: int) -> list[Row]:
    """Return a row for each kind, no more than so many: those that there is no room for are added up."""
    uses, total = uses_of(now.ram, now.counters), total_of(now.ram, now.counters)
    was: dict[str, int] | None = None
    if before is not None and (before.ram is None) == (now.ram is None):
        was = dict(uses_of(before.ram, before.counters))
    texts = ABOUT | IN_MEMINFO if now.ram is not None and now.ram.uses_meminfo else ABOUT
    mapped = {use.kind: use.mapped for use in now.ram.uses} if now.ram else {}
    rows = []
    shown = uses if len(uses) <= most else uses[: max(most - 1, 0)]
    for kind, size in shown:
        change = None if was is None else size - was.get(kind, 0)
        rows.append(kind_row(kind, size, change, mapped.get(kind), total, texts.get(kind, ""), width))
    if rest := uses[len(shown) :]:
        size = sum(size for _, size in rest)
        change = None if was is None else size - sum(was.get(kind, 0) for kind, _ in rest)
        text = f"   {cell(f'{len(rest)} more', KIND)} {cell(format_size(size), SIZE, right=True)}"
        text += f" {cell(format_share(size / total if total else 0), SHARE, right=True)} {cell('', BAR)}"
        text += f" {cell('' if change is None else format_change(change), CHANGE, right=True)}"
        rows.append(fitted([(text, "muted")], width))
    return rows


def zone_rows(groups: Sequence[FrameGroup], width: int) -> list[Row]:
    """Return a row for each zone of each node: how large it is, what of it is free, what it is used for."""
    rows = []
    for group in groups:
        node = "" if group.node is None else f"node {group.node} "
        free = group.uses.get("free", 0)
        row: Row = [(f" {cell(node + group.name, KIND + 2)}", "text")]
        row += [(" " + cell(format_size(group.size), SIZE, right=True), "title")]
        row += [(" " + cell(format_size(free), SIZE, right=True), "text"), (" free ", "muted")]
        room = min(width - width_of_row(row) - 1, 40)
        if room > 4:
            row += whole_bar([*group.uses.items()], group.size, room + 2)[1:-1]
        rows.append(fitted(row, width))
    return rows


def block_rows(ram: FramesResult, width: int) -> list[Row]:
    """Return how free memory is cut up: which part of it lies in blocks of each size."""
    blocks = ram.free_blocks
    if not blocks:
        return []
    sizes = [nr * (ram.page_size << order) for order, nr in enumerate(blocks)]
    total, most = sum(sizes), max(sizes)
    shown = max((width - 2) // ORDER, 0)
    first = max(len(blocks) - shown, 0)
    labels, amounts, bars = "", "", ""
    for order, size in list(enumerate(sizes))[first:]:
        labels += f"{short(ram.page_size << order):>{ORDER}}"
        amounts += f"{format_share(size / total if total else 0):>{ORDER}}"
        mark = spark([size], 1, most) if size else " "
        bars += " " + mark * (ORDER - 1)
    huge = sum(sizes[(ram.huge_size // ram.page_size).bit_length() - 1 :])
    head: Row = [(" FREE BLOCKS ", "muted"), (format_size(total), "title")]
    head.append((f", room for {number_of(huge // ram.huge_size, 'huge page')}", "muted"))
    rows: list[Row] = [head, [(" " + labels, "muted")], [(" " + bars, "absent")], [(" " + amounts, "text")]]
    return [fitted(row, width) for row in rows]


def block_line(ram: FramesResult, width: int) -> Row:
    """Return the same in one row."""
    blocks = ram.free_blocks or ()
    sizes = [nr * (ram.page_size << order) for order, nr in enumerate(blocks)]
    if not sizes:
        return []
    row: Row = [(" FREE BLOCKS ", "muted"), (short(ram.page_size), "muted"), (f" {spark(sizes, len(sizes))} ", "text")]
    row.append((short(ram.page_size << (len(sizes) - 1)), "muted"))
    huge = sum(sizes[(ram.huge_size // ram.page_size).bit_length() - 1 :])
    row.append((f"  room for {number_of(huge // ram.huge_size, 'huge page')}", "text"))
    return fitted(row, width)


def short(size: int) -> str:
    """Return a power of two bytes in at most four columns.

    >>> short(4096), short(2 << 20)
    ('4K', '2M')
    """
    text = format_size(size)
    return text.replace("iB", "").replace(" ", "")


def rates_of(counted: Sequence[Counted], name: str) -> list[float | None]:
    """Return by how much a counter grew each second, from each moment to the next; None where it is not known."""
    rates: list[float | None] = []
    for (began, before), (ended, now) in pairwise(counted):
        first, last = before.get(name), now.get(name)
        seconds = ended - began
        rates.append(None if first is None or last is None or seconds <= 0 else max(last - first, 0) / seconds)
    return rates


def last_rate(counted: Sequence[Counted], *names: str) -> float | None:
    """Return by how much counters grow each second together, as of late; None where that is not known."""
    rates = [(rates_of(counted[-2:], name) or [None])[-1] for name in names]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def pressure_rows(counted: Sequence[Counted], width: int) -> list[Row]:
    """Return how long programs wait for memory, what is swapped, and what is reclaimed."""
    if not counted:
        return []
    counters = counted[-1][1]
    rows: list[Row] = []
    if "pressure_some" not in counters:
        rows.append([(" PRESSURE ", "muted"), ("not counted by this kernel (psi=1)", "muted")])
    else:
        some, full = (last_rate(counted, f"pressure_{name}") for name in ("some", "full"))
        role = "bad" if some else "text"
        row: Row = [(" PRESSURE ", "muted"), (cell(part(some), 6, right=True), role), (" some, ", "muted")]
        row += [(cell(part(full), 6, right=True), "bad" if full else "text"), (" all wait  ", "muted")]
        row.append((spark(rates_of(counted, "pressure_some"), 20, 1e6), role))
        rows.append(row)
    total, free = counters.get("SwapTotal"), counters.get("SwapFree")
    if total is not None and free is not None:
        words = "no swap" if not total else f"{format_size(total - free)} of {format_size(total)}"
        row = [(" SWAP     ", "muted"), (words, "swapped" if total > free else "text")]
        for name, word in (("pswpin", "in"), ("pswpout", "out")) if total else ():
            rate = last_rate(counted, name)
            row.append((f"  {word} {'-' if rate is None else format_rate(rate).removeprefix('+')}", "text"))
        rows.append(row)
    freed = last_rate(counted, "pgsteal_kswapd", "pgsteal_direct")
    waited = last_rate(counted, "allocstall")
    if freed is not None:
        row = [(" RECLAIM  ", "muted"), (format_rate(freed).removeprefix("+"), "text")]
        if waited is not None:
            row.append((f"  allocations that waited: {waited:,.0f}/s", "muted"))
        rows.append(row)
    return [fitted(row, width) for row in rows]


def part(rate: float | None) -> str:
    """Return a part of the time, given microseconds a second.

    >>> part(0), part(125000), part(None)
    ('0%', '12%', '-')
    """
    return "-" if rate is None else format_share(min(rate / 1e6, 1))

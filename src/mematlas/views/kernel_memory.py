"""What the kernel has memory for, as a table: parts, and below each what it is made of."""

from __future__ import annotations

from mematlas.frozen import record, replace
from mematlas.notes import Note
from mematlas.views.format import first_of, format_size, number_of
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mematlas.analysis.kernel_memory import KernelItem, KernelPart, KernelResult
    from mematlas.kernel.fdinfo import DrmRegion

ABOUT = {
    "slab": "objects, by cache",
    "vmalloc": "by who asked for it",
    "stack": "of tasks, by process",
    "table": "page tables, by process",
    "percpu": "what each CPU has itself",
    "memmap": "struct pages added later",
    "zswap": "compressed swap",
    "reserved": "taken at the start",
    "other": "of drivers and the network",
    "dmabuf": "not in the total: shared",
    "drm": "not in the total: graphics",
}
OTHER_OF_MEMINFO = "drivers, network, swap cache"
REST = {
    "slab": "objects too large for any",
    "vmalloc": "changed meanwhile",
    "stack": "not seen here, or new",
    "table": "of the kernel, of guests",
    "reserved": "firmware, early kernel",
}
"""What text says of what no item has; it is to fit a screen."""
MAY_BE_NONE = ("memmap", "zswap", "dmabuf", "drm")
"""Parts that most machines have nothing of: text leaves them out then."""
NR_ALIASES = 4


@record
class Row:
    """A line: a part, one of its items, or what no item has."""

    part: str
    name: str | None
    """None of the part itself."""
    size: int | None
    used: int | None = None
    nr: int | None = None
    pids: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    regions: tuple[DrmRegion, ...] = ()
    about: str = ""


def rows_of(result: KernelResult, limit: int | None) -> Iterator[Row]:
    """Yield the lines of all parts; of more items than ``limit`` the others are added up."""
    for part in result.parts:
        about = ABOUT[part.part]
        if part.part == "other" and not result.is_by_frames:
            about = OTHER_OF_MEMINFO
        yield Row(part.part, None, part.size, part.used, part.nr, about=about)
        yield from items_of(part, limit)


def items_of(part: KernelPart, limit: int | None) -> Iterator[Row]:
    """Yield the lines of the items of a part."""
    shown, others = part.items[:limit], part.items[len(part.items[:limit]) :]
    for item in shown:
        about = about_of(item)
        yield Row(part.part, item.name, item.size, item.used, item.nr, item.pids, item.aliases, item.regions, about)
    if others:
        nr = sum(item.nr for item in others if item.nr is not None) if any(item.nr for item in others) else None
        used = sum(item.used or 0 for item in others) if any(item.used for item in others) else None
        yield Row(part.part, number_of(len(others), "other"), sum(item.size for item in others), used, nr)
    if part.rest and part.part in REST:
        yield Row(part.part, "rest", part.rest, about=REST[part.part])


def about_of(item: KernelItem) -> str:
    """Return what there is to say of an item."""
    if item.aliases:
        more = len(item.aliases) - NR_ALIASES
        return f"also {', '.join(item.aliases[:NR_ALIASES])}" + (f" and {more} more" if more > 0 else "")
    if item.regions:
        return "; ".join(map(text_of_region, item.regions))
    return f"PID {first_of(item.pids)}" if item.pids else ""


def text_of_region(region: DrmRegion) -> str:
    """Return what a client has in one sort of memory.

    >>> from mematlas.kernel.fdinfo import DrmRegion
    >>> text_of_region(DrmRegion("vram0", 3 << 20, None, 2 << 20))
    'vram0: 2 MiB resident, 3 MiB total'
    """
    amounts = [
        f"{format_size(size)} {name}"
        for name, size in (("resident", region.resident), ("total", region.total), ("shared", region.shared))
        if size is not None
    ]
    return f"{region.name}: {', '.join(amounts)}" if amounts else region.name


def regions_of(row: Row) -> dict[str, dict[str, int | None]] | None:
    """Return the same for programs."""
    if not row.regions:
        return None
    return {
        region.name: {"total": region.total, "shared": region.shared, "resident": region.resident}
        for region in row.regions
    }


def is_nothing(part: KernelPart) -> bool:
    """Whether there is nothing of a part, or nothing that counts it."""
    return part.size == 0 or (part.is_summed and part.size is None)


COLUMNS: tuple[Column[Row], ...] = (
    Column("part", "PART"),
    Column("name", "NAME"),
    Column("size", "SIZE", "size"),
    Column("used", "IN USE", "size"),
    Column("nr", "NUMBER", "count"),
    Column("pids", "PIDS", "json", lambda row: list(row.pids)),
    Column("aliases", "ALIASES", "json", lambda row: list(row.aliases)),
    Column("regions", "REGIONS", "json", regions_of),
    Column("about", "WHAT IT IS"),
)
TEXT_COLUMNS: tuple[Column[Row], ...] = (
    Column("name", "PART", value=lambda row: row.part if row.name is None else f"  {row.name}"),
    Column("size", "SIZE", "size"),
    Column("used", "IN USE", "size", rank=1),
    Column("nr", "NUMBER", "count", rank=2),
    Column("about", "WHAT IT IS", rank=3),
)


def kernel_table(result: KernelResult, limit: int | None, line: str = "") -> Table:
    """Return what the kernel has memory for; ``line`` is what shows what was refused."""
    rows = list(rows_of(result, limit))
    notes = list(result.reading.notes)
    if line and not result.is_by_frames:
        notes.append(Note("more-rights", f"to see all of it: {line}"))
    target = {
        "size": result.size,
        "source": result.reading.source,
        "duration_s": round(result.reading.duration_s, 6),
        "torn": result.reading.torn,
    }

    def total(_: Iterable[Any]) -> int | None:
        return result.size

    def summed(columns: Iterable[Column[Row]]) -> list[Column[Row]]:
        return [replace(column, total=total) if column.key == "size" else column for column in columns]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        empty = {part.part for part in result.parts if part.part in MAY_BE_NONE and is_nothing(part)}
        shown = [row for row in rows if row.part not in empty]
        return Table("ram-kernel/1", summed(TEXT_COLUMNS), shown).lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn("ram-kernel/1", summed(COLUMNS), rows, target=target, notes=notes, draw=draw)

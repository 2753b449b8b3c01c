"""How single addresses are translated, level by level, beside what pagemap says of their pages."""

from __future__ import annotations

from mematlas.frozen import record, replace
from mematlas.model.entry_flags import entry_flags
from mematlas.model.pages import decode_place
from mematlas.views.columns import Column
from mematlas.views.format import format_address, format_path, format_size, shorten
from mematlas.views.pagetables.heading import MEANINGS, folded, heading, walk_target
from mematlas.views.table import Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.pagetables.results import WalkedAddress, WalkedAddresses
    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.model.pagetables.walk import WalkStep
    from mematlas.views.pagetables.heading import Lines


@record
class StepRow:
    """One step of the translation of an address; what pagemap says stands beside the last."""

    address: int
    step: WalkStep
    pagemap: int | None = None
    agrees: bool | None = None
    """Whether pagemap says the same; None where it was not compared, or could not be."""


WALK_COLUMNS: tuple[Column[StepRow], ...] = (
    Column("level", "LEVEL", value=lambda row: row.step.level),
    Column("index", "INDEX", "count", lambda row: row.step.index, rank=2),
    Column("address", "ADDRESS", "address", shown=False),
    # The one before leads to it, and to the first the heading.
    Column("table", "TABLE AT", "address", lambda row: row.step.table, shown=False),
    Column("entry", "ENTRY", "entry", lambda row: row.step.entry),
    Column("state", "STATE", value=lambda row: row.step.state, shown=False),
    Column("phys", "LEADS TO", "hex", lambda row: row.step.phys),
    Column("leaf", "LEAF", "flag", lambda row: row.step.is_leaf, shown=False),
    Column("pagemap", "PAGEMAP", "entry", shown=False),
    Column("agrees", "AGREES", "flag", shown=False),
    Column("flags", "FLAGS", "list", lambda row: row.step.flags),
)


def walk_view(walked: WalkedAddresses, who: dict[str, Any]) -> Drawn:
    """Return each level's entry on the way from an address to its byte, and what pagemap says of it."""
    mode = walked.reading.origin.mode
    target = walk_target(who, walked.reading)
    halves = {"kernel" if item.address >= mode.kernel_start else "user" for item in walked.items}

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        yield from heading(target, sorted(halves, reverse=True), width)
        for item in walked.items:
            yield ""
            yield area_line(item, width)
            table = Table("tables/1", WALK_COLUMNS, step_rows(item))
            yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)
            for line in end_lines(item, mode):
                yield from folded(line, width)

    rows = [row for item in walked.items for row in step_rows(item)]
    return Drawn("tables/1", WALK_COLUMNS, rows, target=target, notes=walked.reading.notes, draw=draw)


def area_line(item: WalkedAddress, width: int) -> str:
    """Return the address, and in what it lies."""
    address = format_address(item.address)
    if not item.area:
        return f"{address} in no VMA and no region"
    path = format_path(item.area)
    if width:
        path = shorten(path, width - len(address) - len(" in "))
    return f"{address} in {path}"


def step_rows(item: WalkedAddress) -> list[StepRow]:
    """Return the steps of one address."""
    agrees = None if item.reason in (None, "hidden") else not item.reason
    rows = [StepRow(address=item.address, step=step) for step in item.steps]
    if rows:
        rows[-1] = replace(rows[-1], pagemap=item.pagemap, agrees=agrees)
    return rows


def end_lines(item: WalkedAddress, mode: PagingMode) -> Lines:
    """Yield where the walk ends, and what pagemap says."""
    last = item.steps[-1] if item.steps else None
    if last is None:
        yield "the top table could not be read"
    elif last.phys is not None and last.is_leaf:
        page = format_size(last.size)
        inside = item.address & (last.size - 1)
        yield f"byte {inside:#x} of a {page} page: physical {last.phys:#x}, frame {last.phys >> mode.page_shift}"
    else:
        yield f"ends at the {last.level}: {last.state}"
    if item.pagemap is not None:
        yield f"pagemap {item.pagemap:#018x}: {pagemap_words(item.pagemap)}: {verdict(item.reason)}"


def pagemap_words(entry: int) -> str:
    """Return what an entry of pagemap says.

    >>> pagemap_words(1 << 63 | 1 << 56 | 74565), pagemap_words(0)
    ('present,exclusive, frame 74565', 'empty')
    """
    byte = entry >> 56
    pfn, swap_type, slot = decode_place(byte, entry)
    names = ",".join(entry_flags(byte, entry)) or "empty"
    if pfn:
        return f"{names}, frame {pfn}"
    return names if slot is None else f"{names}, swap {swap_type} slot {slot:#x}"


def verdict(reason: str | None) -> str:
    """Return whether pagemap says the same."""
    if reason == "hidden":
        return MEANINGS["hidden"]
    return f"DIFFERS: {MEANINGS.get(reason, reason)}" if reason else "the same"

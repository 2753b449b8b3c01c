"""The VMAs of a process as a table."""

from __future__ import annotations

from mematlas.analysis.results import TORN
from mematlas.analysis.usage import total, total_by_node
from mematlas.frozen import replace
from mematlas.notes import Note, Notes
from mematlas.views.table import HIDDEN, Column, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.results import MapsResult, VmaUsage

COLUMNS = (
    Column("start", "START", "address"),
    Column("end", "END", "address", shown=False),
    Column("size", "SIZE", "size"),
    Column("perms", "PERMS"),
    Column("offset", "OFFSET", "hex", shown=False),
    Column("dev", "DEV", shown=False),
    Column("inode", "INODE", "count", shown=False),
    Column("nr_present", "PRESENT", "count"),
    Column("nr_pages", "PAGES", "count"),
    Column("nr_swapped", "SWAPPED", "count"),
    Column("nr_exclusive", "EXCLUSIVE", "count", shown=False),
    Column("nr_accessed", "ACCESSED", "count", shown=False),
    Column("nr_dirty", "DIRTY", "count", shown=False),
    Column("rss", "RSS", "size"),
    Column("pss", "PSS", "size"),
    Column("uss", "USS", "size"),
    Column("swap", "SWAP", "size", shown=False),
    Column("first_state", "FIRST PAGE", shown=False),
    Column("phys", "FIRST FRAME AT", "address"),
    Column("path_cut", "CUT", "flag", shown=False),
    Column("kind", "KIND"),
    Column("path", "PATH", "path"),
)


def maps_table(result: MapsResult, target: dict[str, Any], gaps: bool) -> Table:
    """Return a row per VMA, and per gap when asked, with totals."""
    usages = [item.usage for item in result.vmas]
    rows = list(map(vma_row, result.vmas))
    columns = list(COLUMNS)
    nodes = [item.nodes or {} for item in result.vmas]
    on_nodes = total_by_node(nodes, result.nodes)
    added = node_columns([on_nodes]) if result.nodes else {}
    if added:
        columns[BY_NODE:BY_NODE] = added.values()
        rows = [
            (*row[:BY_NODE], *(sizes.get(node, 0) for node in added), *row[BY_NODE:])
            for row, sizes in zip(rows, nodes, strict=True)
        ]
    if gaps:
        rows = with_gaps(rows)
    sums = total(usages)
    footer: list[Any] = [None] * len(columns)
    for place, column in enumerate(columns):
        if column.key in ("nr_pages", "nr_swapped", "rss", "pss", "uss"):
            footer[place] = getattr(sums, column.key)
        elif column.key == "size":
            footer[place] = sum(item.vma.size for item in result.vmas)
        elif column.key == "nr_present":
            counted = [item.usage.nr_present for item in result.vmas if not is_hidden(item)]
            footer[place] = None if None in counted else sum(nr or 0 for nr in counted)
        elif column in added.values():
            footer[place] = on_nodes.get(list(added)[place - BY_NODE], 0)
        elif column.key == "path":
            footer[place] = f"{len(usages)} VMA{'s' if len(usages) > 1 else ''}"
    notes = Notes(result.reading.notes)
    if result.reading.torn:
        notes.add(TORN)
    if any(map(is_hidden, result.vmas)):
        notes.add(HIDDEN_PAGES)
    if result.reading.source == "tables":
        for place, column in enumerate(columns):
            if column.key in ("nr_accessed", "nr_dirty"):
                columns[place] = replace(column, shown=True)
                footer[place] = sum(getattr(item, column.key) or 0 for item in result.vmas)
    return Table("maps/1", columns, rows, target=target, notes=notes, footer=tuple(footer))


BY_NODE = next(place for place, column in enumerate(COLUMNS) if column.key == "uss") + 1
"""Where the columns of nodes go."""
UNSHOWN_KINDS = frozenset(("vvar", "vsyscall", "special"))
HIDDEN_PAGES = Note(
    "hidden-pages", "pages of [vvar], [vsyscall] and devices are not shown by pagemap, and no count includes them"
)


def is_hidden(item: VmaUsage) -> bool:
    """Whether pages of a VMA are in no count, since nothing shows them."""
    return item.vma.kind in UNSHOWN_KINDS and item.usage.nr_present is None


def vma_row(item: VmaUsage) -> tuple[Any, ...]:
    """Return the row of one VMA."""
    vma, usage = item.vma, item.usage
    return (
        vma.start,
        vma.end,
        vma.size,
        vma.perms,
        vma.offset,
        vma.dev,
        vma.inode,
        usage.nr_present,
        usage.nr_pages,
        usage.nr_swapped,
        usage.nr_exclusive,
        item.nr_accessed,
        item.nr_dirty,
        usage.rss,
        usage.pss,
        usage.uss,
        usage.swap,
        item.first_state,
        HIDDEN if item.phys is None and item.first_state in ("present", "zero") else item.phys,
        vma.path_cut,
        vma.kind,
        vma.path,
    )


def with_gaps(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the rows with one for each gap between them."""
    filled: list[tuple[Any, ...]] = []
    for row in rows:
        if filled and filled[-1][1] < row[0]:
            low, high = filled[-1][1], row[0]
            filled.append((low, high, high - low, "----", *(None,) * (len(row) - 6), "gap", ""))
        filled.append(row)
    return filled

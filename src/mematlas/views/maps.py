"""The VMAs of a process as a table."""

from __future__ import annotations

from mematlas.analysis.usage import total_by_node
from mematlas.frozen import replace
from mematlas.notes import Note, Notes
from mematlas.views.format import number_of
from mematlas.views.table import HIDDEN, Aside, Column, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from typing import Any

    from mematlas.analysis.results import MapsResult, VmaUsage
    from mematlas.model.nodes import Sizes
    from mematlas.views.columns import AnItem
    from mematlas.views.since import Since


def share_here(item: VmaUsage) -> float | None:
    """Return how much of the pages of a VMA is present."""
    usage = item.usage
    return None if usage.nr_present is None else usage.nr_present / usage.nr_pages


def share_of_all(items: list[VmaUsage]) -> float | None:
    """Return how much of all pages is present."""
    present = present_of(items)
    return None if present is None else present / sum(item.usage.nr_pages for item in items)


def present_of(items: list[VmaUsage]) -> int | None:
    """Return how many pages are present; those that nothing shows are in no count, and alone are not known."""
    counts = [item.usage.nr_present for item in items]
    if None in counts:
        counts = [item.usage.nr_present for item in items if not is_hidden(item)]
    return None if None in counts or not counts else sum(nr or 0 for nr in counts)


def is_hidden(item: VmaUsage) -> bool:
    """Whether pages of a VMA are in no count, since nothing shows them."""
    return item.kind in UNSHOWN_KINDS and item.usage.nr_present is None


def first_frame(item: VmaUsage) -> Any:
    """Return the physical address of the first page."""
    return HIDDEN if item.is_phys_hidden else item.phys


UNSHOWN_KINDS = frozenset(("vvar", "vsyscall", "special"))
HIDDEN_PAGES = Note(
    "hidden-pages", "pages of [vvar], [vsyscall] and devices are not shown by pagemap, and no count includes them"
)

COLUMNS: tuple[Column[VmaUsage], ...] = (
    Column("start", "START", "address"),
    Column("end", "END", "address", shown=False),
    Column("size", "SIZE", "size", total=sum),
    Column("perms", "PERM", rank=2),
    Column("offset", "OFFSET", "hex", lambda item: item.vma.offset, shown=False),
    Column("dev", "DEV", value=lambda item: item.vma.dev, shown=False),
    Column("inode", "INODE", "count", lambda item: item.vma.inode, shown=False),
    Column("nr_present", "PRESENT", "count", lambda item: item.usage.nr_present, present_of, rank=8),
    Column("nr_pages", "PAGES", "count", lambda item: item.usage.nr_pages, sum, rank=8),
    Column("nr_swapped", "SWAPPED", "count", lambda item: item.usage.nr_swapped, sum, rank=5),
    Column("nr_exclusive", "EXCLUSIVE", "count", lambda item: item.usage.nr_exclusive, sum, shown=False),
    Column("nr_accessed", "ACCESSED", "count", total=sum, rank=6, shown=False),
    Column("nr_dirty", "DIRTY", "count", total=sum, rank=6, shown=False),
    Column("rss", "RSS", "size", lambda item: item.usage.rss, sum),
    Column("pss", "PSS", "size", lambda item: item.usage.pss, sum, rank=6),
    Column("uss", "USS", "size", lambda item: item.usage.uss, sum, rank=3),
    Column("swap", "SWAP", "size", lambda item: item.usage.swap, sum, shown=False),
    Column("here", "HERE", "share", share_here, share_of_all, rank=4),
    Column("first_state", "FIRST PAGE", shown=False),
    Column("phys", "FIRST FRAME AT", "address", first_frame, rank=9),
    Column("path_cut", "CUT", "flag", lambda item: item.vma.path_cut, shown=False),
    Column("kind", "KIND", rank=7),
    Column("path", "PATH", "path", total=lambda items: number_of(len(items), "VMA"), width=16, fallback="kind"),
)
BY_TABLES = ("nr_accessed", "nr_dirty")
"""Columns that page tables fill, and hardly anything else."""
SORTS = ("start", *(column.key for column in COLUMNS if column.kind in ("size", "share")), "change")
"""What VMAs can be sorted by."""
BY = ("kind", "path", "perms", "owner")
"""What they can be added up by."""


def maps_table(
    result: MapsResult,
    target: dict[str, Any],
    gaps: bool = False,
    sort: str | None = None,
    limit: int | None = None,
    since: Since | None = None,
) -> Table:
    """Return a row per VMA, and per gap when asked, with totals; with what has changed ``since`` the first look."""
    items = with_gaps(result.vmas) if gaps else result.vmas
    columns = with_changes(list(columns_of(result)), since, lambda item: item.vma.start)
    return Table("maps/1", columns, items, target=target, notes=notes_of(result), sort=sort, limit=limit)


def with_changes(
    columns: list[Column[AnItem]], since: Since | None, key_of: Callable[[AnItem], Hashable]
) -> list[Column[AnItem]]:
    """Return the columns with that of how RSS has changed, where one looks again and again."""
    if since is None:
        return columns
    from mematlas.views.since import after_rss, change_column

    since.look()
    # A narrow screen rather does without the sizes, which it could show at any time.
    columns = [replace(column, rank=1) if column.key == "size" else column for column in columns]
    return after_rss(columns, change_column(since, key_of, lambda item: item.usage.rss))


def notes_of(result: MapsResult) -> Notes:
    """Return what there is to say about the amounts of VMAs."""
    notes = Notes(result.reading.notes)
    if any(map(is_hidden, result.vmas)):
        notes.add(HIDDEN_PAGES)
    return notes


def columns_of(result: MapsResult) -> Iterator[Column[VmaUsage]]:
    """Yield the columns: those of NUMA nodes when they were asked for, and what the source tells shown."""
    for column in COLUMNS:
        yield shown_if_known(column, result)
        if column.key == "uss" and result.nodes:
            amounts = total_by_node((item.nodes or {} for item in result.vmas), result.nodes)
            yield from node_columns([amounts], nodes_of)


def shown_if_known(column: Column[AnItem], result: MapsResult) -> Column[AnItem]:
    """Return a column, shown where the source tells what stands in it."""
    is_known = column.key in BY_TABLES and (
        result.reading.source == "tables" or any(getattr(item, column.key) is not None for item in result.vmas)
    )
    return replace(column, shown=True) if is_known else column


def nodes_of(item: VmaUsage) -> Sizes | None:
    """Return the bytes by node."""
    return item.nodes or {}


def with_gaps(items: Iterable[VmaUsage]) -> Iterator[VmaUsage | Aside]:
    """Yield the VMAs with a row for each gap between them."""
    end: int | None = None
    for item in items:
        start = item.vma.start
        if end is not None and end < start:
            yield Aside({"start": end, "end": start, "size": start - end, "perms": "----", "kind": "gap", "path": ""})
        end = item.vma.end
        yield item

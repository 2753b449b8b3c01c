"""Pages as a table: a row per page, or per run of like pages."""

from __future__ import annotations

from mematlas.frozen import replace
from mematlas.views.table import HIDDEN, Column, Table, batch_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.page_batches import Hidden, PageBatch
    from mematlas.analysis.page_runs import PageRun
    from mematlas.observe.page_list import PageList
    from mematlas.views.columns import Batch

PAGE_COLUMNS = (
    Column("address", "ADDRESS", "address", width=14),
    Column("state", "STATE", width=7),
    Column("pfn", "PFN", "count", width=8, rank=2),
    Column("phys", "PHYSICAL", "address", width=14, rank=4),
    Column("node", "NODE", "count", shown=False, rank=3),
    Column("count", "COUNT", "count", width=5, rank=1),
    Column("swap_type", "SWAP", "count", width=4, rank=6),
    Column("swap_offset", "SLOT", "hex", width=8, rank=6),
    Column("flags", "FLAGS", "list", rank=5),
    Column("frame_flags", "FRAME", "list", width=44, rank=7),
    Column("path", "PATH", "path"),
)
RUN_COLUMNS = (
    Column("start", "START", "address", width=14),
    Column("end", "END", "address", width=14, rank=2),
    Column("nr_pages", "PAGES", "count", width=8),
    Column("state", "STATE", width=7),
    Column("pfn", "FIRST PFN", "count", width=9, rank=1),
    Column("phys", "FIRST FRAME AT", "address", width=14, rank=6),
    Column("node", "NODE", "count", shown=False, rank=3),
    Column("contiguous", "CONTIGUOUS", "flag", rank=5),
    Column("swap_type", "SWAP", "count", width=4, rank=7),
    Column("swap_offset", "FIRST SLOT", "hex", width=10, rank=7),
    Column("flags", "FLAGS", "list", rank=4),
    Column("path", "PATH", "path"),
)


def pages_table(pages: PageList, target: Callable[[], dict[str, Any]], flags_width: int) -> Table:
    """Return the pages that are listed, as a table that streams; ``flags_width`` is for the flags of their entries."""
    columns = fitted(PAGE_COLUMNS, pages, flags_width)
    return Table("pages/1", columns, batches=map(page_columns, pages.batches()), target=target, notes=pages.notes)


def runs_table(pages: PageList, target: Callable[[], dict[str, Any]], flags_width: int) -> Table:
    """Return runs of like pages, as a table that streams."""
    columns = fitted(RUN_COLUMNS, pages, flags_width)
    batches = (batch_of([run_row(run, pages.page_size) for run in runs]) for runs in pages.runs())
    return Table("runs/1", columns, batches=batches, target=target, notes=pages.notes)


def width_of_flags(source: str, has_soft_dirty: bool) -> int:
    """Return the width that the flags of a page take: page tables tell more of them, and not every kernel all.

    >>> width_of_flags("pagemap", False), width_of_flags("tables", True)
    (22, 48)
    """
    names = ["present", "exclusive", *["soft-dirty"] * has_soft_dirty, "file"]
    names += ["accessed", "dirty"] if source == "tables" else []
    return len(",".join(names))


def fitted(columns: Iterable[Column], pages: PageList, flags_width: int) -> Iterator[Column]:
    """Yield columns with room for the flags, and with the node in text where there are several."""
    for column in columns:
        if column.key == "flags":
            yield replace(column, width=flags_width)
        elif column.key == "node":
            yield replace(column, shown=pages.has_nodes)
        else:
            yield column


def page_columns(pages: PageBatch) -> Batch:
    """Return what stands in the columns of pages."""
    return (
        pages.addresses,
        pages.states,
        shown(pages.pfns, pages.hidden, "frame"),
        shown(pages.phys, pages.hidden, "frame"),
        pages.nodes,
        pages.counts,
        shown(pages.swap_types, pages.hidden, "slot"),
        shown(pages.swap_offsets, pages.hidden, "slot"),
        pages.flags,
        pages.frame_flags,
        [pages.vma.path or pages.vma.kind] * len(pages),
    )


def shown(values: Sequence[Any], hidden: Sequence[Hidden] | None, what: str) -> Sequence[Any]:
    """Return the values of a column, with `HIDDEN` where one exists and may not be known.

    >>> shown([7, None], [None, "frame"], "frame")[1] is HIDDEN
    True
    """
    if hidden is None:
        return values
    return [HIDDEN if kept == what else value for value, kept in zip(values, hidden, strict=True)]


def run_row(run: PageRun, page_size: int) -> tuple[Any, ...]:
    """Return the row of a run: where its first page lies, and whether the others follow it."""
    no_frame = HIDDEN if run.hidden == "frame" else None
    no_slot = HIDDEN if run.hidden == "slot" else None
    return (
        run.address,
        run.end(page_size),
        run.nr_pages,
        run.state,
        no_frame if run.pfn is None else run.pfn,
        no_frame if run.pfn is None else run.pfn * page_size,
        run.node,
        HIDDEN if run.hidden else run.follows_on,
        no_slot if run.swap_type is None else run.swap_type,
        no_slot if run.swap_offset is None else run.swap_offset,
        run.flags,
        run.vma.path or run.vma.kind,
    )

"""Pages as a table: a row per page, or per run of like pages."""

from __future__ import annotations

from mematlas.frozen import replace
from mematlas.views.table import HIDDEN, Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from mematlas.analysis.page_batches import PageBatch
    from mematlas.analysis.page_runs import PageRun
    from mematlas.observe.page_list import PageList
    from mematlas.views.columns import AnItem


def of_batch(name: str, what: str) -> Callable[[PageBatch], Sequence[Any]]:
    """Return what gets a column of pages, with `HIDDEN` where a ``frame`` or ``slot`` exists and may not be known."""

    def get(pages: PageBatch) -> Sequence[Any]:
        values: Sequence[Any] = getattr(pages, name)
        if pages.hidden is None:
            return values
        pairs = zip(values, pages.hidden, strict=True)
        return [HIDDEN if hidden == what else value for value, hidden in pairs]

    return get


def of_run(name: str, what: str) -> Callable[[PageRun], Any]:
    """Return what gets a value of a run, or `HIDDEN`."""
    return lambda run: HIDDEN if run.hidden == what else getattr(run, name)


PAGE_COLUMNS: tuple[Column[PageBatch], ...] = (
    Column("address", "ADDRESS", "address", lambda pages: pages.addresses, width=14),
    Column("state", "STATE", value=lambda pages: pages.states, width=7),
    Column("pfn", "PFN", "count", of_batch("pfns", "frame"), width=8, rank=2),
    Column("phys", "PHYSICAL", "address", of_batch("phys", "frame"), width=14, rank=4),
    Column("node", "NODE", "count", lambda pages: pages.nodes, shown=False, rank=3),
    Column("count", "COUNT", "count", lambda pages: pages.counts, width=5, rank=1),
    Column("swap_type", "SWAP", "count", of_batch("swap_types", "slot"), width=4, rank=6),
    Column("swap_offset", "SLOT", "hex", of_batch("swap_offsets", "slot"), width=8, rank=6),
    Column("flags", "FLAGS", "list", lambda pages: pages.flags, rank=5),
    Column("frame_flags", "FRAME", "list", lambda pages: pages.frame_flags, width=44, rank=7),
    Column("path", "PATH", "path", lambda pages: [pages.vma.path or pages.vma.kind] * len(pages)),
)
"""Of pages that were read together: each gets the values of all."""
RUN_COLUMNS: tuple[Column[PageRun], ...] = (
    Column("start", "START", "address", width=14),
    Column("end", "END", "address", width=14, rank=2),
    Column("nr_pages", "PAGES", "count", width=8),
    Column("state", "STATE", width=7),
    Column("pfn", "FIRST PFN", "count", of_run("pfn", "frame"), width=9, rank=1),
    Column("phys", "FIRST FRAME AT", "address", of_run("phys", "frame"), width=14, rank=6),
    Column("node", "NODE", "count", shown=False, rank=3),
    Column("contiguous", "CONTIGUOUS", "flag", lambda run: HIDDEN if run.hidden else run.follows_on, rank=5),
    Column("swap_type", "SWAP", "count", of_run("swap_type", "slot"), width=4, rank=7),
    Column("swap_offset", "FIRST SLOT", "hex", of_run("swap_offset", "slot"), width=10, rank=7),
    Column("flags", "FLAGS", "list", rank=4),
    Column("path", "PATH", "path", lambda run: run.vma.path or run.vma.kind),
)


def pages_table(pages: PageList, target: Callable[[], dict[str, Any]], flags_width: int) -> Table:
    """Return the pages that are listed, as a table that streams; ``flags_width`` is for the flags of their entries."""
    columns = fitted(PAGE_COLUMNS, pages, flags_width)
    batches = ([column.get(batch) for column in columns] for batch in pages.batches())
    return Table("pages/1", columns, batches=batches, target=target, notes=pages.notes)


def runs_table(pages: PageList, target: Callable[[], dict[str, Any]], flags_width: int) -> Table:
    """Return runs of like pages, as a table that streams."""
    columns = fitted(RUN_COLUMNS, pages, flags_width)
    batches = ([column.values(runs) for column in columns] for runs in pages.runs())
    return Table("runs/1", columns, batches=batches, target=target, notes=pages.notes)


def width_of_flags(source: str, has_soft_dirty: bool, has_accessed: bool = False) -> int:
    """Return the width that the flags of a page take: page tables tell more of them, and not every kernel all.

    >>> width_of_flags("pagemap", False), width_of_flags("tables", True)
    (22, 48)
    """
    names = ["present", "exclusive", *["soft-dirty"] * has_soft_dirty, "file"]
    names += ["accessed", "dirty"] if source == "tables" else ["accessed"] * has_accessed
    return len(",".join(names))


def fitted(columns: Iterable[Column[AnItem]], pages: PageList, flags_width: int) -> list[Column[AnItem]]:
    """Return columns with room for the flags, and with the node in text where there are several."""
    settings: dict[str, dict[str, Any]] = {"flags": {"width": flags_width}, "node": {"shown": pages.has_nodes}}
    return [replace(column, **settings.get(column.key, {})) for column in columns]

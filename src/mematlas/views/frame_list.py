"""Frames of RAM as tables: one by one, in runs of like ones, and counted by their flags."""

from __future__ import annotations

from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.analysis.frame_list import FlagsResult, FlagsUse, FrameRows
    from mematlas.analysis.results import Reading
    from mematlas.observe.frame_list import FrameList

FLAGS_COLUMNS: tuple[Column[FlagsUse], ...] = (
    Column("word", "WORD", value=lambda use: f"{use.word:#x}", rank=1),
    Column("nr_pages", "PAGES", "count", total=sum),
    Column("size", "SIZE", "size", total=sum),
    Column("flags", "FLAGS", "list"),
)


def addresses(page_size: int) -> Any:
    """Return what gets the physical addresses of rows."""

    def get(rows: FrameRows) -> Sequence[int]:
        return [pfn * page_size for pfn in rows.pfns]

    return get


def list_columns(page_size: int, has_nodes: bool) -> tuple[Column[FrameRows], ...]:
    """Return the columns of single frames."""
    return (
        Column("pfn", "PFN", "count", lambda rows: rows.pfns, width=8),
        Column("phys", "PHYSICAL", "address", addresses(page_size), width=14, rank=3),
        Column("kind", "KIND", value=lambda rows: rows.kinds, width=14, rank=2),
        Column("count", "COUNT", "count", lambda rows: rows.counts, width=5, rank=1),
        Column("node", "NODE", "count", lambda rows: rows.nodes, shown=has_nodes, rank=4),
        Column("cgroup_inode", "CGROUP INODE", "count", lambda rows: rows.cgroup_inodes, shown=False),
        Column("flags", "FLAGS", "list", lambda rows: rows.flags, width=36),
        Column("cgroup", "CGROUP", "path", lambda rows: rows.cgroups, rank=5),
    )


def run_columns(page_size: int) -> tuple[Column[FrameRows], ...]:
    """Return the columns of runs."""
    return (
        Column("pfn", "FIRST PFN", "count", lambda rows: rows.pfns, width=9),
        Column("phys", "FIRST AT", "address", addresses(page_size), width=14, rank=3),
        Column("nr_pages", "PAGES", "count", lambda rows: rows.nr_pages, width=8),
        Column("size", "SIZE", "size", lambda rows: [nr * page_size for nr in rows.nr_pages], width=8, rank=2),
        Column("kind", "KIND", value=lambda rows: rows.kinds, width=14, rank=1),
        Column("flags", "FLAGS", "list", lambda rows: rows.flags),
    )


def target_of(reading: Reading, nr_frames: int, size: int) -> dict[str, Any]:
    """Return what JSON has of all frames that were found."""
    return {
        "nr_pages": nr_frames,
        "size": size,
        "source": reading.source,
        "duration_s": round(reading.duration_s, 6),
        "torn": reading.torn,
    }


def flags_table(result: FlagsResult, limit: int | None = None) -> Table:
    """Return a row for each combination of flags."""
    target = target_of(result.reading, result.nr_frames, result.size)
    return Table("ram-flags/1", FLAGS_COLUMNS, result.uses, target=target, notes=result.reading.notes, limit=limit)


def frames_table(listed: FrameList, in_runs: bool) -> Table:
    """Return frames, or runs of them, as a table that streams."""
    size = listed.procfs.page_size
    columns = run_columns(size) if in_runs else list_columns(size, listed.has_nodes)
    found = listed.runs() if in_runs else listed.batches()
    batches = ([column.get(rows) for column in columns] for rows in found)

    def target() -> dict[str, Any]:
        return target_of(listed.reading, listed.nr_frames, listed.nr_frames * size)

    return Table("ram-runs/1" if in_runs else "ram-list/1", columns, batches=batches, target=target, notes=listed.notes)

"""What frames are and who has them, as a table."""

from __future__ import annotations

from mematlas.kernel.maps import NO_FILE
from mematlas.notes import Note, Notes
from mematlas.views.ram import ABOUT
from mematlas.views.table import Column, Table
from mematlas.views.usage import sharing_notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.frame_owners import FrameOwners, OwnedFrames

UNTOLD = {
    "cpu_free": "free, and kept by a CPU",
    "untouched": "free, and never used since the start",
    "table": "in no tree: new, or set aside",
    "kernel": "stacks, vmalloc, drivers, network",
}
"""What text says of frames of which nothing but their kind is known, where it is not what that is."""
BY_PROCESSES = ("anon", "ksm", "file", "file_dirty", "file_writeback", "shmem", "hugetlb")
"""Kinds of frames that processes map, most of them."""


def vma_of(row: OwnedFrames) -> str | None:
    """Return the VMA where frames are mapped, in short."""
    vma = row.mapper and row.mapper.vma
    return f"{vma.start:#x}-{vma.end:#x} {vma.perms}" if vma else None


def path_of(row: OwnedFrames) -> str | None:
    """Return the path of what maps frames, as the process has it, else of their file; None where there is none."""
    vma = row.mapper and row.mapper.vma
    return (vma.path or None) if vma else row.detail.path


def what_of(row: OwnedFrames) -> str:
    """Return what frames are, for people: what maps them, or what the kernel has them for.

    The path of a file that nobody maps is as `maps` has it: with a word behind it where it is deleted.
    """
    mapper, detail = row.mapper, row.detail
    if mapper and mapper.vma:
        return mapper.vma.path or mapper.vma.kind
    if mapper:
        return f"its {mapper.level} table"
    if detail.slab:
        return f"objects of {detail.slab}"
    if detail.block is not None and detail.order is not None:
        return f"free block of {1 << detail.order:,} from {detail.block}"
    if detail.path is not None:
        return f"{detail.path} (deleted)" if detail.is_deleted else detail.path
    if detail.file:
        dev, inode = detail.file
        return f"inode {inode} on {dev}"
    if row.count:
        return "mapped by nobody that was found"
    return UNTOLD.get(row.kind) or ("mapped by nobody" if row.kind in BY_PROCESSES else ABOUT[row.kind])


def detail_of(name: str) -> Any:
    """Return what gets a detail of a row."""

    def get(row: OwnedFrames) -> Any:
        return getattr(row.detail, name)

    return get


def file_of(row: OwnedFrames, index: int) -> Any:
    """Return the device, or the inode, of the file that frames are of, or that their VMA is of."""
    vma = row.mapper and row.mapper.vma
    if vma and vma.dev != NO_FILE:
        return (vma.dev, vma.inode)[index]
    return row.detail.file[index] if row.detail.file else None


def columns_of(result: FrameOwners) -> Iterator[Column[OwnedFrames]]:
    """Yield the columns; text has those that tell frames apart."""
    rows, size = result.items, result.page_size
    nodes = {row.node for row in rows}
    yield Column("pfn", "PFN", "count")
    yield Column("phys", "PHYSICAL", "address", lambda row: row.pfn * size, rank=8)
    yield Column("nr_pages", "PAGES", "count", shown=any(row.nr_pages > 1 for row in rows))
    yield Column("kind", "KIND")
    yield Column("count", "COUNT", "count", rank=3)
    yield Column("pid", "PID", "count", lambda row: row.mapper and row.mapper.pid)
    yield Column("name", "NAME", value=lambda row: row.mapper and row.mapper.name)
    yield Column("address", "ADDRESS", "address")
    yield Column("file_offset", "OFFSET", "hex", rank=4)
    yield Column("vma", "VMA", value=vma_of, rank=7)
    yield Column("node", "NODE", "count", rank=6, shown=len(nodes) > 1)
    yield Column("cgroup", "CGROUP", "path", rank=9)
    yield Column("cgroup_inode", "CGROUP INODE", "count", shown=False)
    yield Column("flags", "FLAGS", "list", rank=10)
    yield Column("dev", "DEVICE", value=lambda row: file_of(row, 0), shown=False)
    yield Column("inode", "INODE", "count", lambda row: file_of(row, 1), shown=False)
    yield Column("deleted", "DELETED", value=detail_of("is_deleted"), shown=False)
    yield Column("slab", "SLAB", value=detail_of("slab"), shown=False)
    yield Column("block", "BLOCK", "count", detail_of("block"), shown=False)
    yield Column("order", "ORDER", "count", detail_of("order"), shown=False)
    yield Column("level", "LEVEL", value=lambda row: row.mapper and row.mapper.level, shown=False)
    yield Column("path", "PATH", "path", path_of, shown=False)
    yield Column("what", "WHAT", value=what_of, width=24)


def owners_table(result: FrameOwners, limit: int | None = None) -> Table:
    """Return a row for each who has frames that lie side by side and are alike."""
    notes = Notes((*sharing_notes(result.sharing), *result.reading.notes))
    if result.nr_missing:
        notes.add(Note("no-such-frames", f"{result.nr_missing:,} of the frames do not exist"))
    rows = result.items[:limit]
    if len(rows) < len(result.items):
        nr_left = len(result.items) - len(rows)
        notes.add(Note("rows-left-out", f"{nr_left:,} of {len(result.items):,} rows are left out (--limit)"))
    target = {"source": result.reading.source, "duration_s": round(result.reading.duration_s, 6)}
    return Table("owner/1", columns_of(result), rows, target=target, notes=notes)

"""Where virtual addresses are, as a table."""

from __future__ import annotations

from mematlas.model.pages import HIDDEN_FRAMES
from mematlas.notes import Note, Notes
from mematlas.views.table import HIDDEN, Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.analysis.results import Translation

COLUMNS = (
    Column("address", "ADDRESS", "address"),
    Column("state", "STATE"),
    Column("pfn", "PFN", "count"),
    Column("phys", "PHYSICAL", "address"),
    Column("file_offset", "FILE OFFSET", "hex"),
    Column("swap_type", "SWAP TYPE", "count", shown=False),
    Column("swap_offset", "SWAP OFFSET", "hex", shown=False),
    Column("flags", "FLAGS", "list"),
    Column("vma", "VMA"),
    Column("path", "PATH", "path"),
)
NOT_MAPPED = Note("not-mapped", "an address outside every VMA has no state: touching it is a segmentation fault")


def translate_table(found: Iterable[Translation], target: dict[str, Any], notes: Notes) -> Table:
    """Return a row per address asked, in order."""
    return Table("translate/1", COLUMNS, [row_of(item, notes) for item in found], target=target, notes=notes)


def row_of(item: Translation, notes: Notes) -> tuple[Any, ...]:
    """Return the row of one address; what is missing in it is explained in the notes."""
    pfn: Any = item.pfn
    phys: Any = item.phys
    swap_type: Any = item.swap_type
    swap_offset: Any = item.swap_offset
    if item.hidden:
        notes.add(HIDDEN_FRAMES)
        if "present" in item.flags:
            pfn = phys = HIDDEN
        else:
            swap_type = swap_offset = HIDDEN
    if item.vma is None:
        notes.add(NOT_MAPPED)
    area = None if item.vma is None else f"{item.vma.start:#x}-{item.vma.end:#x} {item.vma.perms}"
    path = None if item.vma is None else item.vma.path or item.vma.kind
    return (
        item.address,
        item.state,
        pfn,
        phys,
        item.file_offset,
        swap_type,
        swap_offset,
        item.flags,
        area,
        path,
    )

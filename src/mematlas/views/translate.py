"""Where virtual addresses are, as a table."""

from __future__ import annotations

from mematlas.model.pages import HIDDEN_FRAMES
from mematlas.notes import Note, Notes
from mematlas.views.table import HIDDEN, Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.translation import Translation, Translations


def of_frame(item: Translation, number: int | None) -> Any:
    """Return a number that tells a frame; ``hidden`` where there is one that we may not know."""
    return HIDDEN if item.hidden and "present" in item.flags else number


def of_slot(item: Translation, number: int | None) -> Any:
    """Return a number that tells a swap slot; ``hidden`` where there is one that we may not know."""
    return HIDDEN if item.hidden and "present" not in item.flags else number


def vma_of(item: Translation) -> str | None:
    """Return the VMA of an address in short."""
    return None if item.vma is None else f"{item.vma.start:#x}-{item.vma.end:#x} {item.vma.perms}"


def path_of(item: Translation) -> str | None:
    """Return what is mapped at an address: a path, or the kind of memory."""
    return None if item.vma is None else item.vma.path or item.vma.kind


COLUMNS: tuple[Column[Translation], ...] = (
    Column("address", "ADDRESS", "address"),
    Column("state", "STATE"),
    Column("pfn", "PFN", "count", lambda item: of_frame(item, item.pfn), rank=1),
    Column("phys", "PHYSICAL", "address", lambda item: of_frame(item, item.phys)),
    Column("file_offset", "FILE OFFSET", "hex", rank=2),
    Column("swap_type", "SWAP TYPE", "count", lambda item: of_slot(item, item.swap_type), shown=False),
    Column("swap_offset", "SWAP OFFSET", "hex", lambda item: of_slot(item, item.swap_offset), shown=False),
    Column("flags", "FLAGS", "list", rank=3),
    Column("vma", "VMA", value=vma_of, rank=4),
    Column("path", "PATH", "path", path_of),
)
NOT_MAPPED = Note("not-mapped", "an address outside every VMA has no state: touching it is a segmentation fault")


def translate_table(result: Translations, target: dict[str, Any]) -> Table:
    """Return a row per address asked, in order."""
    notes = Notes(result.reading.notes)
    if any(item.hidden for item in result):
        notes.add(HIDDEN_FRAMES)
    if any(item.vma is None for item in result):
        notes.add(NOT_MAPPED)
    return Table("translate/1", COLUMNS, result, target=target, notes=notes)

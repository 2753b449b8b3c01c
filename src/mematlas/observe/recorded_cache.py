"""What the page cache had of its largest files at a moment, as a text that a recording holds."""

from __future__ import annotations

from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult
from mematlas.analysis.results import Reading
from mematlas.errors import FormatError
from mematlas.kernel.procfs import ProcFS
from mematlas.notes import Note
from mematlas.observe.recorded import MOST_NOTES, is_amount
from mematlas.observe.recorded_ram import MOST_BYTES, is_number, is_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "files"
FILES = 100
"""Of so many, the largest, each is recorded; of the others what they have together."""
AMOUNTS = ("resident", "dirty", "writeback", "evicted", "recently_evicted", "swap", "mapped")
OF_FILE = ("path", "dev", "inode", "fs", "size", "is_deleted", *AMOUNTS)
OF_OTHERS = ("nr_files", "size", *AMOUNTS)
MOST_FILES = 1 << 14


def to_save(result: CacheResult) -> bytes:
    """Return what there is of files as a text."""
    import json

    value = {
        "files": [[getattr(file, name) for name in OF_FILE] for file in result.files],
        "others": result.others and [getattr(result.others, name) for name in OF_OTHERS],
        "source": result.reading.source,
        "notes": [[note.code, note.text] for note in result.reading.notes],
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_cache(directory: str) -> CacheResult:
    """Return what was recorded, out of a directory that a moment was unpacked to."""
    with ProcFS(directory) as files:
        return files.parsed(NAME, parse_cache, MOST_BYTES)


def parse_cache(data: bytes) -> CacheResult:
    """Return what there is of files in such a text.

    >>> file = CachedFile("/srv/db", "fd:00", 7, "ext4", 8192, 4096, 0, 0, mapped=0)
    >>> saved = CacheResult((file,), Reading("struct pages", 0.0, torn=False, notes=()))
    >>> parse_cache(to_save(saved)) == saved
    True

    Raises:
        FormatError: it has none, or ones that cannot be.
    """
    import json

    try:
        value: dict[str, Any] = json.loads(data)
        rows = [dict(zip(OF_FILE, row, strict=True)) for row in value["files"]]
        others = value["others"] and dict(zip(OF_OTHERS, value["others"], strict=True))
        notes = tuple(Note.again(code, text) for code, text in value["notes"])
        source = value["source"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(NAME, expected="files of the page cache") from None
    are_notes = len(notes) <= MOST_NOTES and all(is_text(text) for note in notes for text in (note.code, note.text))
    is_other = not others or (is_number(others["nr_files"]) and are_amounts(others))
    if len(rows) > MOST_FILES or not (all(map(is_file, rows)) and is_other and are_notes and is_text(source)):
        raise FormatError(NAME, expected="files of the page cache")
    return CacheResult(
        files=tuple(CachedFile(**row) for row in rows),
        reading=Reading(source, 0.0, torn=False, notes=notes),
        others=CachedGroup(name=None, **others) if others else None,
    )


def is_file(row: dict[str, Any]) -> bool:
    """Whether this is what there may be of a file."""
    texts = all(row[name] is None or is_text(row[name]) for name in ("path", "fs"))
    is_told = is_text(row["dev"]) and is_number(row["inode"]) and type(row["is_deleted"]) is bool
    return texts and is_told and are_amounts(row)


def are_amounts(row: dict[str, Any]) -> bool:
    """Whether the amounts of a file, or of several, are ones."""
    return is_number(row["resident"]) and all(is_amount(row[name]) for name in ("size", *AMOUNTS))

"""What every frame of RAM was used for at a moment, as a text that a recording holds."""

from __future__ import annotations

from mematlas.analysis.frames import FILES, MEMINFO, STRUCTS, FramesResult, FrameUse
from mematlas.analysis.results import Reading
from mematlas.errors import FormatError
from mematlas.kernel.procfs import ProcFS
from mematlas.notes import Note
from mematlas.observe.recorded import MOST_NOTES, MOST_TEXT, is_amount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "ram"
SOURCES = (STRUCTS, FILES, MEMINFO)
COLUMNS = ("kind", "nr_pages", "size", "mapped", "shared")
NUMBERS = ("nr_frames", "size", "page_size", "huge_size")
MOST_USES = 100
MOST_ORDERS = 64
MOST_BYTES = 1 << 20


def to_save(result: FramesResult) -> bytes:
    """Return the uses of frames, by kind, as a text."""
    import json

    value = {
        "uses": [[getattr(use, name) for name in COLUMNS] for use in result.uses],
        **{name: getattr(result, name) for name in NUMBERS},
        "free_blocks": result.free_blocks,
        "source": result.reading.source,
        "notes": [[note.code, note.text] for note in result.reading.notes],
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_ram(directory: str) -> FramesResult:
    """Return what was recorded, out of a directory that a moment was unpacked to."""
    with ProcFS(directory) as files:
        return files.parsed(NAME, parse_ram, MOST_BYTES)


def parse_ram(data: bytes) -> FramesResult:
    """Return the uses of frames that such a text has.

    >>> use = FrameUse("free", 2, 8192, 0, 0)
    >>> reading = Reading("meminfo", 0.0, torn=False, notes=())
    >>> saved = FramesResult("kind", (use,), (), 2, 8192, None, 4096, 2 << 20, reading)
    >>> parse_ram(to_save(saved)) == saved
    True

    Raises:
        FormatError: it has none, or ones that cannot be.
    """
    import json

    try:
        value: dict[str, Any] = json.loads(data)
        uses = tuple(FrameUse(*use) for use in value["uses"])
        notes = tuple(Note.again(code, text) for code, text in value["notes"])
        blocks = None if value["free_blocks"] is None else tuple(value["free_blocks"])
        numbers = {name: value[name] for name in NUMBERS}
        source = value["source"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(NAME, expected="what frames were used for") from None
    are_uses = all(is_text(use.kind) and are_amounts(use) for use in uses) and len(uses) <= MOST_USES
    are_texts = all(is_text(text) for note in notes for text in (note.code, note.text)) and len(notes) <= MOST_NOTES
    are_blocks = blocks is None or (len(blocks) <= MOST_ORDERS and all(map(is_number, blocks)))
    if (
        type(source) is not str
        or source not in SOURCES
        or not (are_uses and are_texts and are_blocks and all(map(is_number, numbers.values())))
    ):
        raise FormatError(NAME, expected="what frames were used for")
    if not numbers["page_size"]:
        raise FormatError(NAME, expected="a page_size")
    reading = Reading(source, 0.0, torn=False, notes=notes)
    return FramesResult(by="kind", uses=uses, groups=(), free_blocks=blocks, reading=reading, **numbers)


def are_amounts(use: FrameUse) -> bool:
    """Whether the amounts of a use are ones."""
    return is_number(use.nr_pages) and is_number(use.size) and is_amount(use.mapped) and is_amount(use.shared)


def is_number(value: object) -> bool:
    """Whether this is an amount that is known."""
    return value is not None and is_amount(value)


def is_text(value: object) -> bool:
    """Whether this is a text, and no longer than it may be."""
    return type(value) is str and len(value) <= MOST_TEXT

"""How many page tables a process had at a moment, how full they were and what they mapped, as a text of a recording."""

from __future__ import annotations

from mematlas.analysis.pagetables.results import Origin, SummaryResult, WalkReading
from mematlas.analysis.pagetables.summary import LeafSummary, LevelSummary, Summary
from mematlas.errors import FormatError
from mematlas.frozen import fields_of
from mematlas.model.pagetables.modes import mode_named
from mematlas.notes import Note
from mematlas.observe.recorded import MOST_NOTES
from mematlas.observe.recorded_ram import MOST_BYTES, is_number, is_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.kernel.directory import Directory

NAME = "tables"
LEVEL, LEAF = fields_of(LevelSummary), fields_of(LeafSummary)
MOST_STATES = 100
BAD = "the page tables of a process"


def to_save(result: SummaryResult) -> bytes:
    """Return a summary of the user half as a text. Where the tables were is left out."""
    import json

    counted, reading = result.counted, result.reading
    value = {
        "reader": reading.origin.reader,
        "paging": reading.origin.mode.name,
        "torn": reading.torn,
        "levels": [[getattr(level, name) for name in LEVEL] for level in counted.levels],
        "leaves": [[getattr(leaf, name) for name in LEAF] for leaf in counted.leaves],
        "others": counted.nr_others,
        "reserve": result.reserve,
        "notes": [[note.code, note.text] for note in reading.notes],
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_tables(process: Directory) -> SummaryResult:
    """Return what was recorded of the page tables of a process.

    Raises:
        NotHeld: nothing was.
    """
    return process.parsed(NAME, parse_tables, MOST_BYTES)


def parse_tables(data: bytes) -> SummaryResult:
    """Return the summary that such a text has.

    Raises:
        FormatError: it has none, or one that cannot be.
    """
    import json

    try:
        value: dict[str, Any] = json.loads(data)
        levels = tuple(LevelSummary(*level) for level in value["levels"])
        leaves = tuple(LeafSummary(*leaf) for leaf in value["leaves"])
        others = dict(value["others"])
        notes = tuple(Note.again(code, text) for code, text in value["notes"])
        reader, paging, torn, reserve = (value[name] for name in ("reader", "paging", "torn", "reserve"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(NAME, expected=BAD) from None
    mode = mode_named(paging) if type(paging) is str else None
    if mode is None:
        raise FormatError(NAME, expected="a paging mode")
    fit = (
        [level.name for level in levels] == [level.name for level in mode.levels]
        and [leaf.size for leaf in leaves] == [level.size for level in mode.levels if level.can_map]
        and all(is_number(getattr(level, name)) for level in levels for name in LEVEL if name != "name")
        and all(is_number(getattr(leaf, name)) for leaf in leaves for name in LEAF)
        and len(others) <= MOST_STATES
        and all(is_text(name) and is_number(nr) for name, nr in others.items())
        and (reserve is None or is_number(reserve))
    )
    are_texts = all(is_text(text) for note in notes for text in (note.code, note.text)) and len(notes) <= MOST_NOTES
    if not (fit and are_texts and is_text(reader) and type(torn) is bool):
        raise FormatError(NAME, expected=BAD)
    return SummaryResult(
        counted=Summary(levels=levels, leaves=leaves, nr_others=others, torn=()),
        reserve=reserve,
        kernel=None,
        reading=WalkReading(Origin(reader, mode, "user", None, 0), 0.0, torn, notes),
    )

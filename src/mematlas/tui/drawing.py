"""What a screen is made of: rows of spans, each a text and the role that it has, which colours are given to later.

A role is one of `mematlas.views.colour.TONES`, or of `ROLES`. After it may stand how it is marked: ``own+changed``.
"""

from __future__ import annotations

from mematlas.views.format import format_message, format_path, padded, shorten, width_of
from mematlas.views.picture import BARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Span = tuple[str, str]
    Row = list[Span]

ROLES = ("text", "muted", "title", "bar")
"""Roles besides those of pages: what is written, what explains it, what heads it, and the lines between parts."""
MARKS = ("changed", "faded", "cursor", "row", "tagged")
"""How a span is marked: what has just changed and the cursor are reversed, what had changed before that and what is
tagged are bold, the row that the cursor is in has another ground.
"""
MARK = "~"
"""What stands where text was cut."""
SPARKS = BARS[1:]
BLOCKS = " ▏▎▍▌▋▊▉█"
NARROW = frozenset(BLOCKS + SPARKS + "░▒▓·│▸" + "".join(map(chr, range(0x20, 0x7F))))
"""Characters of one column, of which whole rows are."""


def width_of_row(row: Row) -> int:
    """Return the columns of a row.

    >>> width_of_row([("a", "text"), ("bc", "own")])
    3
    """
    return sum(columns_of(text) for text, _ in row)


def columns_of(text: str) -> int:
    """Return the columns of a text; what cells and bars are made of is known to take one each.

    >>> columns_of("ab"), columns_of("▓░"), columns_of("中")
    (2, 2, 2)
    """
    return len(text) if text.isascii() or NARROW.issuperset(text) else width_of(text)


def fitted(row: Row, width: int) -> Row:
    """Return a row that takes so many columns: filled up with blanks, or cut with a mark.

    >>> fitted([("abc", "own"), ("def", "text")], 5), fitted([("a", "own")], 3)
    ([('abc', 'own'), ('d~', 'text')], [('a', 'own'), ('  ', 'text')])
    """
    left = width
    made: Row = []
    taken = width_of_row(row)
    if taken <= width:
        return [*row, (" " * (width - taken), "text")] if taken < width else row
    for text, role in row:
        size = columns_of(text)
        if size < left:
            made.append((text, role))
            left -= size
            continue
        # What follows, or a part of this, has to go: the last column is the mark's.
        kept = start_of(text, left - 1)
        made.append((kept + MARK + " " * (left - 1 - width_of(kept)), role))
        break
    return made if width else []


def printable(row: Row) -> Row:
    """Return a row that is safe on a terminal, whatever names are in it: what could move that is escaped.

    >>> printable([("a", "own"), (chr(27) + "[2J", "text")])
    [('a', 'own'), ('\\\\x1b[2J', 'text')]
    """
    if all(text.isprintable() for text, _ in row):
        return row
    return [(format_path(text), role) for text, role in row]


def start_of(text: str, width: int) -> str:
    """Return as much of the beginning of a text as so many columns have room for.

    >>> start_of("abc", 2), start_of("中中", 3)
    ('ab', '中')
    """
    if text.isascii():
        return text[: max(width, 0)]
    taken = 0
    for index, character in enumerate(text):
        taken += width_of(character)
        if taken > width:
            return text[:index]
    return text


def marked(row: Row, mark: str) -> Row:
    """Return a row of which every span is marked.

    >>> marked([("a", "own")], "cursor")
    [('a', 'own+cursor')]
    """
    return [(text, f"{role.partition('+')[0]}+{mark}") for text, role in row]


def cell(text: str, width: int, right: bool = False) -> str:
    """Return a text in so many columns: filled up, or cut with a mark.

    >>> cell("abcdef", 4), cell("ab", 4, right=True)
    ('abc~', '  ab')
    """
    if width_of(text) > width:
        text = start_of(text, width - 1) + MARK if width else ""
    return padded([text], width, right)[0]


def name_cell(name: str, width: int) -> str:
    """Return a name from outside in so many columns: what could move the terminal is escaped, the middle is cut."""
    return padded([shorten(format_path(name), width)], width, right=False)[0]


def spark(values: Sequence[float | None], width: int, most: float | None = None) -> str:
    """Return a curve in so many columns, the last of the values at its end; a blank where a value is not known.

    The lowest mark is that of 0; the highest that of ``most``, or of the largest value.

    >>> spark([0, 1, None, 4], 5)
    ' ▁▃ █'
    """
    shown = values[-width:] if width else []
    top = most or max((value for value in shown if value is not None), default=0) or 1
    marks = "".join(
        " " if value is None else SPARKS[min(int(value / top * len(SPARKS)), len(SPARKS) - 1)] for value in shown
    )
    return marks.rjust(width)


def bar(part: float, width: int, blocks: str = BLOCKS) -> str:
    """Return a bar of so many columns, filled up to a part of it.

    >>> bar(0.5, 4), bar(1.5, 2), bar(0.01, 3)
    ('██  ', '██', '▏  ')
    """
    steps = len(blocks) - 1
    eighths = min(round(part * width * steps), width * steps)
    if part > 0:
        eighths = max(eighths, 1)  # something is never nothing
    whole, rest = divmod(eighths, steps)
    return (blocks[-1] * whole + (blocks[rest] if rest else "")).ljust(width)[:width]


def stacked(parts: Iterable[tuple[float, str]], width: int, blocks: str = "█") -> Row:
    """Return parts of a whole side by side, each in its role: all together take no more than so many columns.

    Rounding is such that the ends are where they should be, whatever lies before them.

    >>> stacked([(0.5, "own"), (0.25, "swapped")], 8)
    [('████', 'own'), ('██', 'swapped'), ('··', 'absent')]
    """
    row: Row = []
    total, done = 0.0, 0
    for part, role in parts:
        total += part
        end = min(round(total * width), width)
        if end > done:
            row.append((blocks * (end - done), role))
            done = end
    if done < width:
        row.append(("·" * (width - done), "absent"))
    return row


def cut_to(rows: list[Row], height: int) -> list[Row]:
    """Return so many rows: filled up, or cut with a mark."""
    if len(rows) > height:
        return [*rows[: max(height - 1, 0)], [(MARK, "muted")]][:height]
    return rows + [[] for _ in range(height - len(rows))]


def sentence(text: str, width: int, height: int) -> list[Row]:
    """Return a sentence as a screen of nothing else has it: why it is empty, and what to do."""
    from mematlas.views.format import fold

    lines = [line for part in text.split("\n") for line in fold(format_message(part), max(width - 4, 10))]
    rows: list[Row] = [[] for _ in range(max((height - len(lines)) // 3, 0))]
    rows += [[("  " + line, "muted")] for line in lines]
    return rows[:height]

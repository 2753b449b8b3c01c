"""Tables: rows under named columns, written as text, JSON, JSON lines or CSV. All commands but the pictures give one.

Rows are formatted a column at a time, many rows together: a value that stands throughout, or comes again, is formatted
once, and what is left for each row are loops in C.

JSON is one object, written as it comes, so that a table of any length streams::

    {"schema": "mematlas.maps/1", "machine": {...}, "rows": [...], "target": {...}, "notes": [...]}

JSON lines has the head first, then a row a line, then the target and the notes. CSV has the rows alone.
"""

from __future__ import annotations

from itertools import compress, repeat

from mematlas.frozen import as_dict, record
from mematlas.notes import Note, Notes
from mematlas.views.format import (
    fold,
    format_address,
    format_counts,
    format_exact,
    format_hex,
    format_list,
    format_path,
    format_size,
)
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TextIO

    from mematlas.model.nodes import Sizes

    Row = tuple[Any, ...]
    Batch = Sequence[Sequence[Any]]
    """Rows that came together: their columns, each as long as there are rows."""
    Form = tuple[str, Callable[[Any], str], Callable[[int], str]]
    """How a column is written: its kind, what writes any value of it, and what writes an integer, faster."""


class Hidden:
    """The value of a cell that exists and may not be read: ``hidden`` in text, null in JSON."""


HIDDEN = Hidden()


@record
class Column:
    """One column: its JSON key, its heading, and what its values are."""

    key: str
    title: str
    kind: str = "text"
    """``text``, ``path``, ``size`` (bytes), ``count``, ``address``, ``hex``, ``entry`` (64 bits), ``list`` (a tuple),
    ``counts`` (by name), ``sizes`` (bytes by a size), ``flag`` or ``number``."""
    shown: bool = True
    """Whether text shows it; JSON and CSV always do."""
    width: int = 0
    """Least width, for tables that stream and cannot look ahead."""

    @property
    def right(self) -> bool:
        """Whether text is aligned to the right."""
        return self.kind in ("size", "count", "number")


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": lambda value: format_path(str(value)),
    "path": format_path,
    "size": format_size,
    "count": str,
    "address": format_address,
    "hex": format_hex,
    "entry": lambda value: f"{value:#018x}",
    "list": format_list,
    "counts": format_counts,
    "sizes": lambda sizes: ", ".join(f"{format_size(size)}: {format_size(amount)}" for size, amount in sizes.items()),
    "flag": lambda value: "yes" if value else "no",
    "number": lambda value: f"{value:.3f}" if isinstance(value, float) else str(value),
}


def node_columns(nodes: Iterable[Sizes]) -> dict[int | None, Column]:
    """Return the columns of bytes by NUMA node, by the node; text shows that of no known node only if it is needed.

    >>> [column.key for column in node_columns([{0: 4096, 2: 0}]).values()]
    ['n0', 'n2', 'n_unknown']
    """
    found = {node: size for sizes in nodes for node, size in sizes.items() if size or node is not None}
    columns: dict[int | None, Column] = {
        node: Column(f"n{node}", f"N{node}", "size") for node in sorted(node for node in found if node is not None)
    }
    columns[None] = Column("n_unknown", "N?", "size", shown=None in found)
    return columns


NO_TARGET: dict[str, Any] = {}

LEAST_ROOM = 8
"""Columns that a last column is folded to at the least."""
NR_TOGETHER = 1024
"""Rows formatted together at the most, so that their texts take little memory."""
IN_HEX = ("address", "hex", "entry")
RECURRING = ("text", "path", "list", "size")
"""Kinds of which there are few different values."""


def batch_of(rows: Sequence[Row]) -> Batch:
    """Return rows, one at least, as their columns."""
    return tuple(zip(*rows, strict=True))


def pieces_of(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches in pieces of `NR_TOGETHER` rows at most, none of them empty."""
    for batch in batches:
        for low in range(0, len(batch[0]), NR_TOGETHER):
            yield [values[low : low + NR_TOGETHER] for values in batch]


def texts_of(piece: Batch, forms: Sequence[Form]) -> list[Sequence[str]]:
    """Return the cells of columns."""
    return [cells_of(values, *form) for values, form in zip(piece, forms, strict=True)]


def cells_of(
    values: Sequence[Any], kind: str, of_any: Callable[[Any], str], of_int: Callable[[int], str]
) -> Sequence[str]:
    """Return the cells of a column, whose values are one at least.

    >>> cells_of([8, 9], "hex", repr, hex), cells_of([8, None], "hex", repr, hex)
    (['0x8', '0x9'], ['8', 'None'])
    """
    first = values[0]
    if kind != "number" and values.count(first) == len(values):  # numbers: 2 equals 2.0, and is written otherwise
        return [of_any(first)] * len(values)
    form = of_int if set(map(type, values)) == {int} else of_any
    if kind in RECURRING:
        known = {value: form(value) for value in set(values)}
        return [known[value] for value in values]
    return list(map(form, values))


def text_form(column: Column, in_bytes: bool) -> Form:
    """Return how text writes a column."""
    form = FORMATS["count" if in_bytes and column.kind == "size" else column.kind]
    return column.kind, lambda value: "-" if value is None else "hidden" if value is HIDDEN else form(value), form


def json_form(column: Column) -> Form:
    """Return how JSON writes a column."""
    from json import dumps

    in_hex = column.kind in IN_HEX
    return (
        column.kind,
        lambda value: dumps(to_json(value, column.kind)),
        (lambda number: f'"{hex(number)}"') if in_hex else str,
    )


def csv_form(column: Column) -> Form:
    """Return how CSV writes a column."""
    return column.kind, lambda value: to_csv(to_json(value, column.kind)), hex if column.kind in IN_HEX else str


INDENT = 4
"""Columns by which the further lines of a row stand out from its first."""


class Layout:
    """How the cells of a row stand on a screen: in one line, the last one folded; or in several, where they must."""

    def __init__(self, columns: list[Column], widths: list[int], width: int, last: Iterable[str]) -> None:
        """``last`` are the cells of the last column, as far as they are known."""
        self.pads = [
            (str.rjust if column.right else str.ljust, each) for column, each in zip(columns, widths, strict=True)
        ]
        self.is_open = not width
        """Whether each row is one line, however long."""
        folds = columns[-1].kind != "path"
        words = max((len(word) for cell in last for word in fold(cell, 1)), default=0) if folds and width else 0
        least = min(max(words, LEAST_ROOM), widths[-1])
        self.groups = in_groups([*widths[:-1], least], width) if width else [range(len(widths))]
        """The places of the columns of each line."""
        self.patterns = [
            "  ".join(f"{{:{'>' if columns[place].right else '<'}{widths[place]}}}" for place in group)
            for group in self.groups
        ]
        taken = sum(widths[place] + 2 for place in self.groups[-1][:-1]) + INDENT * (len(self.groups) > 1)
        self.room = max(width - taken, LEAST_ROOM) if width and folds else 0
        self.width = 0 if folds else width
        """Columns beyond which the last cell, a path, gets a line of its own; 0 for any."""

    def lines(self, cells: Sequence[Sequence[str]]) -> Iterator[str]:
        """Yield the lines of rows, given as columns of cells."""
        if not self.is_open:
            return (line for row in zip(*cells, strict=True) for line in self._lines_of(list(row)))
        padded = [[pad(cell, width) for cell in column] for column, (pad, width) in zip(cells, self.pads, strict=True)]
        return map(str.rstrip, map("  ".join, zip(*padded, strict=True)))

    def _lines_of(self, row: list[str]) -> Iterator[str]:
        """Yield the lines of one row. What would say nothing but that something is not known is left out."""
        parts = fold(row[-1], self.room) if self.room and len(row[-1]) > self.room else row[-1:]
        if len(self.groups) == 1 and len(parts) == 1:
            line = self.patterns[0].format(*row).rstrip()
            yield from self._without_path(line, row[-1], 1)
            return
        for number, group in enumerate(self.groups):
            cells = [row[place] for place in group]
            indent = " " * INDENT if number else ""
            if number and NOTHING.issuperset(cells):
                continue
            if group is not self.groups[-1]:
                yield (indent + self.patterns[number].format(*cells)).rstrip()
                continue
            for part in parts:
                line = (indent + self.patterns[number].format(*cells[:-1], part)).rstrip()
                yield from self._without_path(line, part, number + 1)
                cells = [""] * len(cells)

    def _without_path(self, line: str, path: str, depth: int) -> Iterator[str]:
        before = line[: len(line) - len(path)].rstrip() if self.width and len(line) > self.width else ""
        if not before:
            yield line
            return
        if depth == 1 or not NOTHING.issuperset(before.split()):
            # Of rows that stream the cells may be longer than could be known.
            head, gap, cell = before.rpartition("  ")
            head += gap
            first, *others = fold(cell, self.width - len(head)) if len(before) > self.width else [cell]
            yield head + first
            yield from (" " * len(head) + part for part in others)
        yield " " * INDENT * depth + path


NOTHING = frozenset(("-", ""))


def in_groups(widths: list[int], width: int) -> list[range]:
    """Return which columns stand in a line together, where all of them are wider than the screen.

    >>> in_groups([30, 30, 30], 80), in_groups([30, 30, 16], 80)
    ([range(0, 2), range(2, 3)], [range(0, 3)])
    """
    groups: list[range] = []
    first = taken = 0
    for place, each in enumerate(widths):
        if place > first and taken + 2 + each > width:
            groups.append(range(first, place))
            first, taken = place, INDENT + each
        else:
            taken += each + 2 * (place > first)
    return [*groups, range(first, len(widths))]


class Table:
    """Rows under columns, with what they are about.

    Rows that are still being read are ``batches`` instead; ``target`` and ``notes`` are then complete at their end.
    """

    def __init__(
        self,
        schema: str,
        columns: Iterable[Column],
        rows: Iterable[Row] = (),
        *,
        batches: Iterable[Batch] | None = None,
        target: dict[str, Any] | None = None,
        notes: Iterable[Note] = (),
        footer: Row | None = None,
        fine_print: Iterable[Note] = (),
    ) -> None:
        self.schema = f"mematlas.{schema}"
        self.columns = tuple(columns)
        self.rows = list(rows)
        self.batches = batches
        """Rows as they come, written as soon as they are there; None when all are in ``rows``."""
        self.target = target
        self.notes = notes if isinstance(notes, Notes) else Notes(notes)
        self.fine_print = fine_print
        """Notes on what text does not show; JSON has them among the others."""
        self.footer = footer
        """A row of totals, for text only."""

    def _pieces(self) -> Iterator[Batch]:
        if self.batches is not None:
            return pieces_of(self.batches)
        return (batch_of(self.rows[low : low + NR_TOGETHER]) for low in range(0, len(self.rows), NR_TOGETHER))

    def lines(
        self, *, in_bytes: bool = False, colour: bool = False, before: set[str] | None = None, width: int = 0
    ) -> Iterator[str]:
        """Yield the lines of the text form. Lines not among ``before`` are marked, when that is given.

        No line is wider than ``width``, the columns of the screen, unless a single word is; 0 is for any screen.
        """
        columns = [column for column in self.columns if column.shown]
        forms = [text_form(column, in_bytes) for column in columns]
        shown = [column.shown for column in self.columns]

        def texts(piece: Batch) -> list[Sequence[str]]:
            return texts_of(list(compress(piece, shown)), forms)

        pieces: Iterable[list[Sequence[str]]] = map(texts, self._pieces())
        footer = None if self.footer is None else texts(batch_of([self.footer]))
        widths = [max(len(column.title), column.width) for column in columns]
        last: Iterable[str] = ()
        if self.batches is None:
            pieces = list(pieces)
            for piece in pieces if footer is None else [*pieces, footer]:
                widths = [max(least, *map(len, cells)) for least, cells in zip(widths, piece, strict=True)]
            last = (cell for piece in pieces for cell in piece[-1])
        layout = Layout(columns, widths, width, last)
        for line in layout.lines([[column.title] for column in columns]):
            yield paint(line, "title", colour)
        for piece in pieces:
            lines = layout.lines(piece)
            if before is None:
                yield from lines
            else:
                yield from (line if line in before else paint(line, "changed", colour) for line in lines)
        for line in layout.lines(footer) if footer else ():
            yield paint(line, "title", colour)

    def write_json(self, out: TextIO, machine: dict[str, Any]) -> None:
        """Write one JSON object, a row a line."""
        import json

        out.write(f'{{"schema": {json.dumps(self.schema)},\n "machine": {json.dumps(machine)},\n "rows": [')
        separator = "\n  "
        for rows in self._json_rows():
            out.write(separator + ",\n  ".join(rows))
            separator = ",\n  "
        out.write(f'],\n "target": {json.dumps(self.target)},\n "notes": {json.dumps(self._json_notes())}}}\n')

    def write_jsonl(self, out: TextIO, machine: dict[str, Any]) -> None:
        """Write JSON lines: the head, the rows, the end."""
        import json

        out.write(json.dumps({"schema": self.schema, "machine": machine}) + "\n")
        for rows in self._json_rows():
            out.write("\n".join(rows) + "\n")
        out.write(json.dumps({"target": self.target, "notes": self._json_notes()}) + "\n")

    def _json_rows(self) -> Iterator[Iterator[str]]:
        """Yield the rows of each piece as JSON objects."""
        import json

        forms = [json_form(column) for column in self.columns]
        keys = [f"{', ' if number else '{'}{json.dumps(column.key)}: " for number, column in enumerate(self.columns)]
        for piece in self._pieces():
            parts: list[Iterable[str]] = []
            for key, texts in zip(keys, texts_of(piece, forms), strict=True):
                parts += [repeat(key), texts]
            yield map("".join, zip(*parts, repeat("}"), strict=False))

    def _json_notes(self) -> list[dict[str, str]]:
        return [as_dict(note) for note in Notes((*self.notes, *self.fine_print))]

    def write_csv(self, out: TextIO) -> None:
        """Write the rows as CSV under a line of keys; what is not known is empty."""
        forms = [csv_form(column) for column in self.columns]
        out.write(",".join(column.key for column in self.columns) + "\n")
        for piece in self._pieces():
            out.write("\n".join(map(",".join, zip(*texts_of(piece, forms), strict=True))) + "\n")


class Drawn(Table):
    """A table that text shows in a form of its own: ``draw`` gives the lines, JSON and CSV have the rows."""

    def __init__(
        self, *args: Any, draw: Callable[[bool, bool, set[str] | None, int], Iterable[str]], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.draw = draw

    def lines(
        self, *, in_bytes: bool = False, colour: bool = False, before: set[str] | None = None, width: int = 0
    ) -> Iterator[str]:
        return iter(self.draw(in_bytes, colour, before, width))


def to_json(value: Any, kind: str) -> Any:
    """Return a value as JSON has it: addresses as strings, since JSON numbers lose bits past 2^53."""
    if value is None or value is HIDDEN:
        return None
    if kind in IN_HEX:
        return hex(value)
    if kind == "sizes":
        return {str(size): amount for size, amount in value.items()}
    return list(value) if kind == "list" else value


def to_csv(value: Any) -> str:
    """Return a cell of CSV, of a value as JSON has it. Whoever prints it to a terminal is safe: text has escapes that
    can be undone.

    >>> to_csv(["r", "w"]), to_csv({"shared": 3}), to_csv({}), to_csv("a,b"), to_csv(None)
    ('r w', '"{""shared"": 3}"', '', '"a,b"', '')
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        import json

        text = json.dumps(value) if value else ""
    elif isinstance(value, list):
        text = format_exact(" ".join(map(str, value)))
    else:
        text = format_exact(value) if isinstance(value, str) else str(value)
    # Nothing else needs quotes: the ends of lines are escaped by now.
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text

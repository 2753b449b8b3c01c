"""Tables: rows under named columns, written as text, JSON, JSON lines or CSV. All commands but the pictures give one.

JSON is one object, written as it comes, so that a table of any length streams::

    {"schema": "mematlas.maps/1", "machine": {...}, "rows": [...], "target": {...}, "notes": [...]}

JSON lines has the head first, then a row a line, then the target and the notes. CSV has the rows alone.
"""

from __future__ import annotations

from mematlas.record import record
from mematlas.views.colour import paint
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TextIO

    from mematlas.model.nodes import Sizes


class Hidden:
    """The value of a cell that exists and may not be read: ``hidden`` in text, null in JSON."""


HIDDEN = Hidden()


@record
class Column:
    """One column: its JSON key, its heading, and what its values are."""

    key: str
    title: str
    kind: str = "text"
    """``text``, ``path``, ``size`` (bytes), ``count``, ``address``, ``hex``, ``entry`` (64 bits), ``list``,
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


INDENT = 4
"""Columns by which the further lines of a row stand out from its first."""


class Layout:
    """How the cells of a row stand on a screen: in one line, the last one folded; or in several, where they must."""

    def __init__(self, columns: list[Column], widths: list[int], width: int, last: Iterable[str]) -> None:
        """``last`` are the cells of the last column, as far as they are known."""
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

    def lines(self, row: list[str]) -> Iterator[str]:
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

    ``rows`` may be an iterator that is still reading; ``target`` and ``notes`` are then complete at its end.
    """

    def __init__(
        self,
        schema: str,
        columns: Iterable[Column],
        rows: Iterable[tuple[Any, ...]],
        *,
        target: dict[str, Any] | None = None,
        notes: list[str] | None = None,
        footer: tuple[Any, ...] | None = None,
        stream: bool = False,
        fine_print: Iterable[str] = (),
    ) -> None:
        self.schema = f"mematlas.{schema}"
        self.columns = tuple(columns)
        self.rows = rows if stream else list(rows)
        self.target = target
        self.notes = [] if notes is None else notes
        self.fine_print = fine_print
        """Notes on what text does not show; JSON has them among the others."""
        self.footer = footer
        """A row of totals, for text only."""
        self.stream = stream

    def lines(
        self, *, in_bytes: bool = False, colour: bool = False, before: set[str] | None = None, width: int = 0
    ) -> Iterator[str]:
        """Yield the lines of the text form. Lines not among ``before`` are marked, when that is given.

        No line is wider than ``width``, the columns of the screen, unless a single word is; 0 is for any screen.
        """
        shown = [i for i, column in enumerate(self.columns) if column.shown]
        columns = [self.columns[i] for i in shown]
        formats = [FORMATS["count" if in_bytes and column.kind == "size" else column.kind] for column in columns]

        def cells(row: tuple[Any, ...]) -> list[str]:
            return [
                "-" if (value := row[i]) is None else "hidden" if value is HIDDEN else form(value)
                for i, form in zip(shown, formats, strict=True)
            ]

        titles = [column.title for column in columns]
        rows: Iterable[list[str]] = map(cells, self.rows)
        footer = None if self.footer is None else cells(self.footer)
        widths = [max(len(column.title), column.width) for column in columns]
        if not self.stream:
            rows = list(rows)
            for row in rows if footer is None else [*rows, footer]:
                widths = list(map(max, widths, map(len, row)))
        layout = Layout(columns, widths, width, () if self.stream else [row[-1] for row in rows])
        for line in layout.lines(titles):
            yield paint(line, "title", colour)
        for row in rows:
            for line in layout.lines(row):
                yield paint(line, "changed", colour) if before is not None and line not in before else line
        if footer is not None:
            for line in layout.lines(footer):
                yield paint(line, "title", colour)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dictionary ready for JSON: addresses are strings, lists are lists."""
        keys = [(column.key, column.kind) for column in self.columns]
        for row in self.rows:
            yield {key: to_json(value, kind) for (key, kind), value in zip(keys, row, strict=True)}

    def write_json(self, out: TextIO, machine: dict[str, Any]) -> None:
        """Write one JSON object, a row a line."""
        import json

        out.write(f'{{"schema": {json.dumps(self.schema)},\n "machine": {json.dumps(machine)},\n "rows": [')
        separator = "\n  "
        for row in self.objects():
            out.write(separator + json.dumps(row))
            separator = ",\n  "
        out.write(f'],\n "target": {json.dumps(self.target)},\n "notes": {json.dumps(self._all_notes())}}}\n')

    def write_jsonl(self, out: TextIO, machine: dict[str, Any]) -> None:
        """Write JSON lines: the head, the rows, the end."""
        import json

        out.write(json.dumps({"schema": self.schema, "machine": machine}) + "\n")
        for row in self.objects():
            out.write(json.dumps(row) + "\n")
        out.write(json.dumps({"target": self.target, "notes": self._all_notes()}) + "\n")

    def _all_notes(self) -> list[str]:
        return [*self.notes, *dict.fromkeys(self.fine_print)]

    def write_csv(self, out: TextIO) -> None:
        """Write the rows as CSV under a line of keys; what is not known is empty."""
        import csv

        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.objects():
            writer.writerow(map(to_csv, row.values()))


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
    if kind in ("address", "hex", "entry"):
        return f"{value:#x}"
    if kind == "sizes":
        return {str(size): amount for size, amount in value.items()}
    return list(value) if kind == "list" else value


def to_csv(value: Any) -> Any:
    """Return a value for a cell of CSV. Whoever prints it to a terminal is safe: text has escapes that can be undone.

    >>> to_csv(["r", "w"]), to_csv({"shared": 3}), to_csv({})
    ('r w', '{"shared": 3}', '')
    """
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, dict):
        import json

        return json.dumps(value) if value else ""
    return format_exact(value) if isinstance(value, str) else value

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
        width: int = 0,
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
        self.width = width
        """Columns of the screen in which the last column of the text is folded; 0 for as long as it is."""

    def lines(self, *, in_bytes: bool = False, colour: bool = False, before: set[str] | None = None) -> Iterator[str]:
        """Yield the lines of the text form. Lines not among ``before`` are marked, when that is given."""
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
        pattern = "  ".join(
            f"{{:{'>' if column.right else '<'}{width}}}" for column, width in zip(columns, widths, strict=True)
        )
        yield paint(pattern.format(*titles).rstrip(), "title", colour)
        room = max(self.width - sum(widths[:-1]) - 2 * len(widths[:-1]), LEAST_ROOM) if self.width else 0
        for row in rows:
            parts = fold(row[-1], room) if room and len(row[-1]) > room else row[-1:]
            for number, part in enumerate(parts):
                line = pattern.format(*((row if number == 0 else [""] * len(row))[:-1]), part).rstrip()
                yield paint(line, "changed", colour) if before is not None and line not in before else line
        if footer is not None:
            yield paint(pattern.format(*footer).rstrip(), "title", colour)

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
        self, *args: Any, draw: Callable[[bool, bool, set[str] | None], Iterable[str]], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.draw = draw

    def lines(self, *, in_bytes: bool = False, colour: bool = False, before: set[str] | None = None) -> Iterator[str]:
        return iter(self.draw(in_bytes, colour, before))


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

"""Tables for programs.

JSON is one object, written as it comes, so that a table of any length streams::

    {"schema": "mematlas.maps/1", "machine": {...}, "rows": [...], "total": {...}, "target": {...}, "notes": [...]}

JSON lines has the head first, then a row a line, then the rest. CSV has the rows alone.
"""

from __future__ import annotations

import json
from itertools import repeat

from mematlas.frozen import as_dict
from mematlas.views.columns import HIDDEN, texts_of
from mematlas.views.format import format_exact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

    from mematlas.views.columns import Column, Form
    from mematlas.views.table import Table

IN_HEX = ("address", "hex", "entry")


def format_time() -> str:
    """Return the time of now as programs read it (RFC 3339, to the millisecond)."""
    import time

    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 10**6:03}Z"


def write(
    table: Table, form: str, out: TextIO, machine: dict[str, Any], is_first: bool = True, time: str | None = None
) -> None:
    """Write a table as ``json``, ``jsonl`` or ``csv``; ``time`` is that of one look among several, and in each row."""
    if form == "json":
        write_json(table, out, machine, time)
    elif form == "jsonl":
        write_jsonl(table, out, machine, time)
    else:
        write_csv(table, out, is_first, time)


def write_json(table: Table, out: TextIO, machine: dict[str, Any], time: str | None = None) -> None:
    """Write one JSON object, a row a line."""
    out.write(f'{{"schema": {json.dumps(table.schema)},\n "machine": {json.dumps(machine)},\n "rows": [')
    separator = "\n  "
    for rows in json_rows(table, time):
        out.write(separator + ",\n  ".join(rows))
        separator = ",\n  "
    out.write("]")
    for key, value in end_of(table).items():
        out.write(f',\n "{key}": {json.dumps(value)}')
    out.write("}\n")


def write_jsonl(table: Table, out: TextIO, machine: dict[str, Any], time: str | None = None) -> None:
    """Write JSON lines: the head, the rows, the end."""
    out.write(json.dumps({"schema": table.schema, "machine": machine}) + "\n")
    for rows in json_rows(table, time):
        out.write("\n".join(rows) + "\n")
    out.write(json.dumps(end_of(table)) + "\n")


def end_of(table: Table) -> dict[str, Any]:
    """Return what follows the rows: their sums where there are any, who was looked at, and what there is to say."""
    sums = table.total_record()
    kinds = {column.key: column.kind for column in table.columns}
    end: dict[str, Any] = {}
    if sums is not None:
        end["total"] = {key: to_json(value, kinds[key]) for key, value in sums.items()}
    return end | {"target": table.target, "notes": list(map(as_dict, table.all_notes()))}


def json_rows(table: Table, time: str | None = None) -> Iterator[Iterator[str]]:
    """Yield the rows of each piece as JSON objects, with their time first where they have one."""
    forms = [json_form(column) for column in table.columns]
    head = "{" if time is None else f'{{"time": "{time}", '
    first, *others = [json.dumps(column.key) for column in table.columns]
    keys = [f"{head}{first}: ", *(f", {key}: " for key in others)]
    for piece in table.pieces(table.columns):
        parts: list[Iterable[str]] = []
        for key, texts in zip(keys, texts_of(piece, forms), strict=True):
            parts += [repeat(key), texts]
        yield map("".join, zip(*parts, repeat("}"), strict=False))


def write_csv(table: Table, out: TextIO, has_keys: bool = True, time: str | None = None) -> None:
    """Write the rows as CSV under a line of keys; what is not known is empty."""
    forms = [csv_form(column) for column in table.columns]
    if has_keys:
        keys = [column.key for column in table.columns]
        out.write(",".join(keys if time is None else ["time", *keys]) + "\n")
    head = "" if time is None else f"{time},"
    for piece in table.pieces(table.columns):
        rows = map(",".join, zip(*texts_of(piece, forms), strict=True))
        out.write(head + f"\n{head}".join(rows) + "\n")


def json_form(column: Column[Any]) -> Form:
    """Return how JSON writes a column."""
    in_hex = column.kind in IN_HEX
    return (
        column.kind,
        lambda value: json.dumps(to_json(value, column.kind)),
        (lambda number: f'"{hex(number)}"') if in_hex else str,
    )


def csv_form(column: Column[Any]) -> Form:
    """Return how CSV writes a column."""

    def form_any(value: Any) -> str:
        return to_csv(to_json(value, column.kind))

    return column.kind, form_any, hex if column.kind in IN_HEX else str


def to_json(value: Any, kind: str) -> Any:
    """Return a value as JSON has it: addresses as strings, since JSON numbers lose bits past 2^53."""
    if value is None or value is HIDDEN:
        return None
    if kind in IN_HEX:
        return hex(value)
    if kind == "sizes":
        return {str(size): amount for size, amount in value.items()}
    if kind == "share":
        return round(value, 4)
    return list(value) if isinstance(value, tuple) else value


def to_csv(value: Any) -> str:
    """Return a cell of CSV, of a value as JSON has it. Whoever prints it to a terminal is safe: text has escapes that
    can be undone.

    >>> to_csv(["r", "w"]), to_csv({"shared": 3}), to_csv({}), to_csv("a,b"), to_csv(None)
    ('r w', '"{""shared"": 3}"', '', '"a,b"', '')
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        text = json.dumps(value) if value else ""
    elif isinstance(value, list):
        text = format_exact(" ".join(map(str, value)))
    else:
        text = format_exact(value) if isinstance(value, str) else str(value)
    # Nothing else needs quotes: the ends of lines are escaped by now.
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text

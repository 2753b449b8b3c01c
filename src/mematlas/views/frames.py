"""Results as tables of pyarrow, pandas and polars, where these are installed, and as HTML for notebooks."""

from __future__ import annotations

import json
from itertools import islice

from mematlas.analysis.frame_list import FlagsResult
from mematlas.analysis.frame_owners import FrameOwners
from mematlas.analysis.frames import FramesResult
from mematlas.analysis.listing import GroupsResult, ProcessesResult
from mematlas.analysis.overview import Census, MachineUsage
from mematlas.analysis.results import MapsResult
from mematlas.analysis.set_usage import SetUsage
from mematlas.analysis.translation import Translations
from mematlas.errors import NotSupported
from mematlas.views.columns import is_known
from mematlas.views.format import escape
from mematlas.views.frame_list import flags_table
from mematlas.views.frame_owners import owners_table
from mematlas.views.maps import maps_table
from mematlas.views.overview import census_table, groups_table
from mematlas.views.processes import Wanted, processes_table
from mematlas.views.processes import groups_table as process_groups_table
from mematlas.views.ram import ram_table
from mematlas.views.set_usage import group_table
from mematlas.views.table import Table
from mematlas.views.translate import translate_table
from mematlas.views.usage import LINE_COLUMNS, WHO, Subject, columns_of, heading, lines_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.results import UsageResult
    from mematlas.views.columns import Column

NR_SHOWN = 200
"""Rows that a notebook shows of a table at the most."""
BEYOND_INT64 = 1 << 63


def table_of(
    result: MapsResult
    | Translations
    | UsageResult
    | SetUsage
    | Census
    | MachineUsage
    | ProcessesResult
    | GroupsResult
    | FlagsResult
    | FrameOwners
    | FramesResult,
) -> Table:
    """Return the table of a result: a row per item, the amounts of one process as a single row."""
    if isinstance(result, Census):
        return census_table(result)
    if isinstance(result, MachineUsage):
        return groups_table(result)
    if isinstance(result, SetUsage):
        return group_table([result])
    if isinstance(result, ProcessesResult):
        return processes_table(result, Wanted())
    if isinstance(result, GroupsResult):
        return process_groups_table(result, Wanted())
    if isinstance(result, FrameOwners):
        return owners_table(result)
    if isinstance(result, FlagsResult):
        return flags_table(result)
    if isinstance(result, MapsResult):
        return maps_table(result, {})
    if isinstance(result, Translations):
        return translate_table(result, {})
    if isinstance(result, FramesResult):
        return ram_table(result)
    item = Subject({}, result)
    has_distinct = result.distinct is not None
    columns = [column for column in columns_of([item], has_distinct) if column not in WHO]
    return Table("usage/1", columns, [item], notes=result.reading.notes)


def needed(package: str) -> Any:
    """Return a package that we do not depend on.

    Raises:
        NotSupported: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise NotSupported(f"a table of {package}", f"the package {package}: pip install {package}") from error


def columns_with_values(table: Table) -> Iterator[tuple[Column[Any], list[Any]]]:
    """Yield the columns with their values: None for what is not known, text without bytes that are no text."""
    pieces = list(table.pieces(table.columns))
    for index, column in enumerate(table.columns):
        yield column, [plain(value, column.kind) for piece in pieces for value in piece[index]]


def plain(value: Any, kind: str) -> Any:
    """Return a value as other libraries take it.

    >>> from mematlas.views.columns import HIDDEN
    >>> plain("/a\\udcff", "path"), plain(HIDDEN, "address"), plain(("x",), "list")
    ('/a\\\\xff', None, ['x'])
    """
    if not is_known(value):
        return None
    if kind in ("text", "path"):
        return "".join(escape(c) if "\ud800" <= c <= "\udfff" else c for c in str(value))
    if kind == "json":
        return json.dumps(value)
    if kind in ("counts", "amounts", "sizes"):
        return list(value.items())
    if kind in ("share", "number"):
        return float(value)
    return list(value) if kind == "list" else value


def is_unsigned(kind: str, values: Iterable[int | None]) -> bool:
    """Whether whole numbers need 64 bits without a sign: addresses always, so that all tables have the same type."""
    if kind in ("address", "hex", "entry"):
        return True
    return any(value is not None and value >= BEYOND_INT64 for value in values)


FLOATS, TEXTS, WHOLE = ("share", "number"), ("text", "path", "json"), ("size", "count", "address", "hex", "entry")


def to_arrow(table: Table) -> Any:
    """Return a `pyarrow.Table`."""
    pa = needed("pyarrow")
    types = {
        **dict.fromkeys(FLOATS, pa.float64()),
        **dict.fromkeys(TEXTS, pa.string()),
        "flag": pa.bool_(),
        "list": pa.list_(pa.string()),
        "counts": pa.map_(pa.string(), pa.int64()),
        "amounts": pa.map_(pa.string(), pa.int64()),
        "sizes": pa.map_(pa.int64(), pa.int64()),
    }
    arrays = {}
    for column, values in columns_with_values(table):
        kind = types.get(column.kind)
        if kind is None:
            kind = pa.uint64() if is_unsigned(column.kind, values) else pa.int64()
        arrays[column.key] = pa.array(values, kind)
    return pa.table(arrays)


def to_pandas(table: Table) -> Any:
    """Return a `pandas.DataFrame`. Its types know a missing value, so whole numbers stay whole."""
    pd = needed("pandas")
    types = {**dict.fromkeys(FLOATS, "Float64"), **dict.fromkeys(TEXTS, "string"), "flag": "boolean"}
    series = {}
    for column, values in columns_with_values(table):
        kind = types.get(column.kind, "object")
        if column.kind in WHOLE:
            kind = "UInt64" if is_unsigned(column.kind, values) else "Int64"
        series[column.key] = pd.Series(values, dtype=kind)
    return pd.DataFrame(series)


def to_polars(table: Table) -> Any:
    """Return a `polars.DataFrame`."""
    pl = needed("polars")
    types = {
        **dict.fromkeys(FLOATS, pl.Float64),
        **dict.fromkeys(TEXTS, pl.String),
        "flag": pl.Boolean,
        "list": pl.List(pl.String),
        "counts": pl.List(pl.Struct({"name": pl.String, "number": pl.Int64})),
        "amounts": pl.List(pl.Struct({"name": pl.String, "number": pl.Int64})),
        "sizes": pl.List(pl.Struct({"size": pl.Int64, "bytes": pl.Int64})),
    }
    series = []
    for column, values in columns_with_values(table):
        kind = types.get(column.kind)
        if kind is None:
            kind = pl.UInt64 if is_unsigned(column.kind, values) else pl.Int64
        if column.kind in ("counts", "amounts", "sizes"):
            names = [field.name for field in kind.inner.fields]
            values = [pairs and structs_of(names, pairs) for pairs in values]
        series.append(pl.Series(column.key, values, dtype=kind))
    return pl.DataFrame(series)


def structs_of(names: Sequence[str], pairs: Iterable[tuple[Any, int]]) -> list[dict[str, Any]]:
    """Return pairs with the names of their two fields."""
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


def to_html(result: MapsResult | Translations | UsageResult | SetUsage | Census | MachineUsage | FrameOwners) -> str:
    """Return what a notebook shows of a result."""
    from html import escape as escape_html

    if isinstance(result, MapsResult | Translations | SetUsage | Census | MachineUsage | FrameOwners):
        table, head = table_of(result), ""
    else:
        item = Subject({}, result)
        head = heading(item)
        table = Table("usage/1", LINE_COLUMNS, lines_of(item, result.distinct is not None))
    sides = ["right" if column.right else "left" for column in table.columns if column.shown]

    def row(cells: Iterable[str], tag: str) -> str:
        parts = (
            f'<{tag} style="text-align:{side};white-space:pre">{escape_html(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = [row(cells, "td") for cells in islice(table.cells(), NR_SHOWN)]
    left = len(table.items) - len(body)
    totals = table.totals()
    parts = [f"<p>{escape_html(head)}</p>"] if head else []
    parts += ["<table><thead>", row(table.headings, "th"), "</thead><tbody>", *body, "</tbody>"]
    parts += ["<tfoot>", row(totals, "th"), "</tfoot>"] if totals else []
    parts.append("</table>")
    if left > 0:
        parts.append(f"<p>{left:,} more rows: to_pandas(), to_polars() or to_arrow() has all</p>")
    parts += [f"<p>note: {escape_html(str(note))}</p>" for note in table.notes]
    return "\n".join(parts)

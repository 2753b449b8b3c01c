"""What is different between two looks, as two tables: amounts before and after, and what became of which VMA."""

from __future__ import annotations

from mematlas.analysis.difference import AMOUNTS, OF_OTHERS, DiffRow, less
from mematlas.frozen import record
from mematlas.views.format import fold_message, format_path, format_seconds, number_of
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mematlas.analysis.difference import DiffResult, Side

SCHEMA = "diff/1"
SHOWN = 20
"""Rows that text has, unless somebody says otherwise."""
ALWAYS = ("rss", "uss", "swap")
OF_PAGES = frozenset(("came", "went", "out", "back", "copied", "moved"))
OF_ONE = ("start", "end", "perms")
LEFT_OUT = {"vma": {"nr_vmas"}, "path": {*OF_ONE}, "kind": {*OF_ONE, "path"}}
"""Columns that say nothing of rows of some things."""


@record
class Amount:
    """An amount before and after."""

    name: str
    before: int | None
    after: int | None

    @property
    def change(self) -> int | None:
        """By how much it has changed."""
        return less(self.after, self.before)


AMOUNT_COLUMNS: tuple[Column[Amount], ...] = (
    Column("name", "MEASURE"),
    Column("before", "BEFORE", "size"),
    Column("after", "AFTER", "size"),
    Column("change", "CHANGE", "change"),
)


def amount(name: str) -> Callable[[DiffRow], int | None]:
    """Return what gets the change of an amount."""
    return lambda row: row.changes[name]


def sum_of(name: str) -> Callable[[Iterable[DiffRow]], int | None]:
    """Return what adds up the changes of an amount; not known where one of them is not."""

    def added(rows: Iterable[DiffRow]) -> int | None:
        changes = [row.changes[name] for row in rows]
        return None if None in changes else sum(change for change in changes if change is not None)

    return added


def pages(name: str) -> Callable[[DiffRow], int | None]:
    """Return what gets how many pages went one way."""
    return lambda row: getattr(row.pages, name) if row.pages else None


def sum_of_pages(name: str) -> Callable[[Iterable[DiffRow]], int | None]:
    """Return what adds these up."""

    def added(rows: Iterable[DiffRow]) -> int | None:
        numbers = [pages(name)(row) for row in rows]
        return None if None in numbers else sum(number for number in numbers if number is not None)

    return added


def page_column(name: str, heading: str, rank: int) -> Column[DiffRow]:
    """Return the column of one way that pages went."""
    return Column(name, heading, "count", pages(name), total=sum_of_pages(name), rank=rank)


COLUMNS: tuple[Column[DiffRow], ...] = (
    Column("how", "HOW"),
    Column("start", "START", "address", rank=7),
    Column("end", "END", "address", shown=False),
    Column("nr_vmas", "VMAS", "count", rank=5),
    Column("size", "SIZE", "change", total=lambda rows: sum(row.size for row in rows), rank=3),
    *(
        Column(
            name,
            name.upper(),
            "change",
            amount(name),
            total=None if name == OF_OTHERS else sum_of(name),
            shown=name in ALWAYS,
            rank=1 if name == "swap" else 0,
        )
        for name in AMOUNTS
    ),
    page_column("came", "CAME", 5),
    page_column("went", "WENT", 5),
    page_column("out", "OUT", 4),
    page_column("back", "BACK", 4),
    page_column("copied", "COPIED", 5),
    page_column("moved", "MOVED", 6),
    Column("perms", "PERM", rank=8),
    Column("kind", "KIND"),
    Column("path", "PATH", "path", width=24, rank=2),
)


def diff_table(result: DiffResult, limit: int | None = None) -> Table:
    """Return what is different, a row for each VMA, path or kind of which something is."""
    of_one = result.by == "vma"
    columns = [column for column in COLUMNS if column.key not in LEFT_OUT[result.by]]
    if not result.is_same:
        columns = [column for column in columns if column.key not in OF_PAGES]
    amounts = [Amount(name, result.before.amounts[name], result.after.amounts[name]) for name in AMOUNTS]
    shown = [one for one in amounts if one.before or one.after or one.name in ALWAYS]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        for line in heading(result):
            yield from fold_message(line, width)
        yield from Table(SCHEMA, AMOUNT_COLUMNS, shown).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        if not result.rows:
            yield f"Nothing is different in {number_of(result.nr_same, 'VMA' if of_one else result.by)}."
            return
        table = Table(SCHEMA, columns, result.rows, limit=limit or SHOWN)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn(SCHEMA, columns, result.rows, target=target_of(result), notes=result.notes, draw=draw)


def heading(result: DiffResult) -> Iterator[str]:
    """Yield what was compared with what."""
    before, after = result.before, result.after
    if not result.is_same:
        yield f"{told(before)}, against {told(after)}: addresses of two processes are not compared"
        return
    name = format_path(after.name)
    if before.name != after.name:
        name = f"{format_path(before.name)}, now {name}"
    if result.seconds is not None:
        yield f"{name}, PID {after.pid}: what changed in {format_seconds(result.seconds)}"
    else:
        yield f"{name}, PID {after.pid}: {format_path(before.at)}, then {format_path(after.at)}"


def told(side: Side) -> str:
    """Return who one of the two is."""
    return f"{format_path(side.name)}, PID {side.pid} ({format_path(side.at)})"


def target_of(result: DiffResult) -> dict[str, Any]:
    """Return the ``target`` of a result."""
    return {
        "before": result.before.to_dict(),
        "after": result.after.to_dict(),
        "is_same": result.is_same,
        "by": result.by,
        "nr_same": result.nr_same,
        "seconds": result.seconds and round(result.seconds, 6),
        "changes": result.changes,
    }

"""The memory of a group of processes as a few lines with their meaning; of several groups as a row each."""

from __future__ import annotations

from mematlas.frozen import replace
from mematlas.notes import Note, Notes
from mematlas.views.charge import charge_notes, charge_record, charge_text
from mematlas.views.format import format_path, format_seconds
from mematlas.views.table import Column, Drawn, Table
from mematlas.views.usage import Line, lines_drawn, sharing_notes, with_change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.charge import Charge
    from mematlas.analysis.set_usage import SetUsage
    from mematlas.views.since import Since

    Draw = Callable[[bool, bool, int], Iterable[str]]

SCHEMA = "group/1"
LINES = (
    ("rss", "RSS", 0, "resident: in RAM and mapped by any of them"),
    ("anon", "  anon", 4, "private, no file behind it"),
    ("file", "  file", 4, "file-backed, devices, kernel pages"),
    ("shmem", "  shmem", 4, "shared memory, memfd, tmpfs"),
    ("pss", "PSS", 2, "each page divided by its map count"),
    ("uss", "USS", 0, "mapped by nobody else"),
    ("swap", "swap", 1, "paged out"),
    ("hugetlb", "hugetlb", 3, "pages of the hugetlb pools, not RSS"),
    ("tables", "tables", 6, "page tables of all of them"),
    ("rss_sum", "sum of RSS", 5, "what adding up the RSS of each claims"),
)
"""Amounts: the key, what a line and a column are called, the rank of the column, and what it means."""
CHARGE_KEYS = ("charged", "limit", "headroom")
"""Columns of what cgroups are charged."""
COLUMNS: tuple[Column[SetUsage], ...] = (
    Column("group", "GROUP", "path", lambda item: item.name),
    Column("nr_processes", "PROCESSES", "count"),
    *(Column(key, title.strip(), "size", rank=rank) for key, title, rank, _ in LINES),
    Column("nr_unseen", "UNSEEN", "count", lambda item: len(item.unseen), shown=False),
    Column("cgroup", "CGROUP", "path", shown=False),
    Column("charged", "CHARGED", "size", lambda item: item.charge and item.charge.charged, rank=2),
    Column("limit", "LIMIT", "size", lambda item: item.charge and limit_of(item.charge), rank=4),
    Column("headroom", "HEADROOM", "size", lambda item: item.charge and item.charge.headroom, rank=3),
    Column("charge", "CHARGE", "json", lambda item: item.charge and charge_record(item.charge), shown=False),
    Column("source", "SOURCE", value=lambda item: item.reading.source, rank=8),
)


def group_table(
    results: Sequence[SetUsage], total: SetUsage | None = None, more: Iterable[Note] = (), since: Since | None = None
) -> Table:
    """Return the usage of one group as lines; of several a row each, and what they have together.

    With ``since``, the first of several looks, there is what has changed as well.
    """
    notes = Notes(more)
    for item in (*results, *([total] if total else [])):
        notes += item.reading.notes
        notes += sharing_notes(item.same_memory or {})
        notes += charge_notes(item.charge) if item.charge else ()
    if since:
        since.look()
    if total is not None:
        has_charge = any(item.charge for item in results)
        columns = [with_total(column, total) for column in COLUMNS]
        columns = [column if has_charge or column.key not in CHARGE_KEYS else hidden(column) for column in columns]
        target = {"nr_processes": total.nr_processes}
        return Table(SCHEMA, columns, results, target=target, notes=notes)
    (item,) = results
    lines = list(lines_of(item))
    if since:
        lines = [with_change(line, since) for line in lines]
    draw = with_charge(lines_drawn(SCHEMA, heading(item), lines, has_changes=since is not None), item)
    return Drawn(SCHEMA, COLUMNS, results, target=target_of_set(item), notes=notes, draw=draw)


def with_charge(draw: Draw, item: SetUsage) -> Draw:
    """Return what draws the lines of a group, and below them what it is charged; of nobody, that alone."""
    charge = item.charge
    if charge is None:
        return draw

    def draw_both(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        if item.pids:
            yield from draw(in_bytes, colour, width)
            yield ""
        yield from charge_text(charge, in_bytes, colour, width)

    return draw_both


def limit_of(charge: Charge) -> int | None:
    """Return the limit that is hit first."""
    return charge.tightest.size if charge.tightest else None


def hidden(column: Column[SetUsage]) -> Column[SetUsage]:
    """Return a column that text leaves out."""
    return replace(column, shown=False)


def with_total(column: Column[SetUsage], total: SetUsage) -> Column[SetUsage]:
    """Return a column with what several groups have together of it: whoever is in two of them counts once."""
    if column.kind not in ("size", "count") or column.key in CHARGE_KEYS:
        return column
    return replace(column, total=lambda _: column.get(total))


def lines_of(item: SetUsage) -> Iterator[Line]:
    """Yield the amounts of a group with their meaning."""
    for key, title, _, meaning in LINES:
        yield Line(title, getattr(item, key), meaning)


def heading(item: SetUsage) -> str:
    """Return which processes were looked at, and how.

    >>> from mematlas.analysis.results import Reading
    >>> reading = Reading("pagemap", 0.04, False, ())
    >>> from mematlas.analysis.set_usage import SetUsage
    >>> heading(SetUsage("name:shop", (7, 8), *(0,) * 10, reading=reading))
    'name:shop, 2 processes, from pagemap in 40 ms'
    """
    # Where there is a charge, its own heading says of which cgroup.
    is_said = item.charge is not None or item.name.startswith("cgroup:")
    where = f"cgroup {format_path(item.cgroup)}, " if item.cgroup and not is_said else ""
    number = "1 process" if item.nr_processes == 1 else f"{item.nr_processes:,} processes"
    seconds = format_seconds(item.reading.duration_s)
    return f"{format_path(item.name)}, {where}{number}, from {item.reading.source} in {seconds}"


def target_of_set(item: SetUsage) -> dict[str, Any]:
    """Return the ``target`` of a result: which processes, and how the reading went."""
    return {
        "group": item.name,
        "cgroup": item.cgroup,
        "nr_processes": item.nr_processes,
        "pids": list(item.pids),
        "source": item.reading.source,
        "duration_s": round(item.reading.duration_s, 6),
        "torn": item.reading.torn,
    }

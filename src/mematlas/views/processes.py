"""The processes of a machine as a table: a row each, or one for those that have something in common."""

from __future__ import annotations

from mematlas.analysis.listing import LATE, UNANSWERED, hugetlb_once, sum_known, swap_once
from mematlas.frozen import record, replace
from mematlas.model.processes import ENDED, KERNEL_THREAD, REFUSED, UNREADABLE
from mematlas.notes import Note, Notes
from mematlas.views.columns import Column
from mematlas.views.format import first_of
from mematlas.views.table import Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.listing import DistinctFrames, GroupsResult, ProcessesResult, ProcessGroup, ProcessUsage
    from mematlas.views.since import Since

SCHEMA = "ps/1"


def sum_of(key: str) -> Callable[[Iterable[Any]], int | None]:
    """Return what adds up an amount of rows, as far as it is known."""
    return lambda items: sum_known(getattr(item, key) for item in items)


COLUMNS: tuple[Column[ProcessUsage], ...] = (
    Column("pid", "PID", "count"),
    Column("user", "USER", rank=4),
    Column("uid", "UID", "count", shown=False),
    Column("name", "NAME"),
    Column("parent", "PARENT", "count", shown=False),
    Column("start_time", "START TIME", "count", shown=False),
    Column("rss", "RSS", "size", rank=1),
    Column("pss", "PSS", "size", total=sum_of("pss")),
    Column("pss_low", "LOW", "size", total=sum_of("pss_low"), shown=False),
    Column("pss_high", "HIGH", "size", total=sum_of("pss_high"), shown=False),
    Column("uss", "USS", "size", total=sum_of("uss"), rank=2),
    Column("uss_low", "LOW", "size", total=sum_of("uss_low"), rank=2, shown=False),
    Column("uss_high", "HIGH", "size", total=sum_of("uss_high"), rank=2, shown=False),
    Column("swap", "SWAP", "size", total=swap_once, rank=3),
    Column("shared", "SHARED", "size", rank=7),
    Column("thp", "THP", "size", rank=9),
    Column("hugetlb", "HUGETLB", "size", total=hugetlb_once, rank=5),
    Column("tables", "TABLES", "size", total=sum_of("tables"), rank=8),
    Column("swap_pss", "SWAP PSS", "size", shown=False),
    Column("exe", "EXE", "path", shown=False),
    Column("container", "CONTAINER", "id", shown=False),
    Column("pod", "POD", shown=False),
    Column("unit", "UNIT", shown=False),
    Column("source", "SOURCE", shown=False),
    Column("is_estimate", "ESTIMATE", "flag", shown=False),
    Column("cgroup", "CGROUP", "path", rank=10),
)
BOUNDS = frozenset(("pss_low", "pss_high", "uss_low", "uss_high"))
"""The ends of intervals, which are of interest where there are estimates."""
RSS = next(column for column in COLUMNS if column.key == "rss")


def nearness_of(key: str) -> Callable[[ProcessGroup], int | None]:
    """Return what gets an amount of the cgroup that a group is; None of one that is none."""
    return lambda item: getattr(item.nearness, key, None)


def limit_of(key: str) -> Callable[[ProcessGroup], Any]:
    """Return what gets something of the limit that the cgroup of a group hits first."""
    return lambda item: getattr(item.nearness and item.nearness.limit, key, None)


GROUP_COLUMNS: tuple[Column[ProcessGroup], ...] = (
    Column("pid", "PID", "count", lambda item: item.pids[0]),
    Column("nr_processes", "PROCS", "count", total=sum),
    Column("rss", "RSS", "size", rank=1, shown=False),
    Column("pss", "PSS", "size", total=sum_of("pss")),
    Column("uss", "USS", "size", total=sum_of("uss"), rank=2),
    Column("swap", "SWAP", "size", rank=3),
    Column("hugetlb", "HUGETLB", "size", rank=5),
    Column("tables", "TABLES", "size", total=sum_of("tables"), rank=8),
    Column("charged", "CHARGED", "size", nearness_of("charged"), rank=4),
    Column("limit", "LIMIT", "size", limit_of("size"), rank=7),
    Column("headroom", "HEADROOM", "size", limit_of("headroom"), rank=5),
    Column("limit_of", "LIMIT OF", "path", limit_of("path"), shown=False),
    Column("thp_sum", "SUM OF THP", "size", shown=False),
    Column("rss_sum", "SUM OF RSS", "size", rank=6),
    Column("nr_measured", "MEASURED", "count", shown=False),
    Column("pids", "PIDS", "list", shown=False),
    Column("by", "BY", shown=False),
    Column("name", "NAME"),
)
KINDS = {"exe": "path", "cgroup": "path", "container": "id"}
"""What the name of a group is, where it is more than a text."""
IN_FRAMES = frozenset(("rss", "uss", "swap", "hugetlb"))
"""Amounts that are known of all rows together where frames were counted."""
LEFT_OUT = {ENDED: "they ended", KERNEL_THREAD: "threads of the kernel have no memory of their own"}
"""Why some of those that were asked for have no row."""
SOMETIMES = ("hugetlb", "exe", "charged", "limit", "headroom")
"""Columns that are shown where there is something in them."""


@record
class Wanted:
    """What a table is to have: which columns in which order, by what its rows are sorted, how many there are."""

    columns: tuple[str, ...] = ()
    """Their keys; those that there are, where none is given."""
    sort: str = "pss"
    limit: int | None = None
    since: Since | None = None
    """The first of several looks: there is then what has changed as well."""


def processes_table(result: ProcessesResult, wanted: Wanted, more: str = "") -> Table:
    """Return a row for each process. ``more`` is what to type where the right to look at some is missing."""
    columns: list[Column[Any]] = list(COLUMNS)
    if wanted.since:
        from mematlas.views.since import after, change_column

        wanted.since.look()
        change = change_column(wanted.since, lambda one: (one.pid, one.start_time), lambda one: one.rss)
        columns = after("rss", columns, change)
    if any(one.is_estimate for one in result):
        columns = [replace(column, shown=True) if column.key in BOUNDS else column for column in columns]
    rows = list(result.processes)
    if wanted.sort != "pid":
        rows = RSS.in_order(rows)  # those of which the rest is not known
    return table_of(result, columns, rows, wanted, more)


def groups_table(result: GroupsResult, wanted: Wanted, more: str = "") -> Table:
    """Return a row for each group of processes that have something in common."""
    kind = KINDS.get(result.by, "text")
    columns = [*GROUP_COLUMNS[:-1], replace(GROUP_COLUMNS[-1], heading=result.by.upper(), kind=kind)]
    if wanted.since:
        from mematlas.views.since import after, change_column

        wanted.since.look()
        change = change_column(wanted.since, lambda one: one.name, lambda one: one.pss)
        columns = after("pss", columns, replace(change, total=lambda items: sum_known(change.values(items))))
    return table_of(result.processes, columns, list(result.groups), wanted, more)


def table_of(
    result: ProcessesResult, columns: Sequence[Column[Any]], rows: list[Any], wanted: Wanted, more: str
) -> Table:
    """Return rows in the order that is wanted, under the columns that are."""
    by_key = {column.key: with_frames(column, result.distinct, len(rows)) for column in columns}
    if wanted.sort != "pid":
        rows = by_key[wanted.sort].in_order(rows)
        by_key[wanted.sort] = replace(by_key[wanted.sort], shown=True, rank=0)
    for key in SOMETIMES:
        if key in by_key and not any(by_key[key].values(rows)):
            by_key[key] = replace(by_key[key], shown=False)
    shown = list(by_key.values())
    if wanted.columns:
        shown = [replace(by_key[key], shown=True, rank=0) for key in dict.fromkeys(wanted.columns)]
    nr_added = len(rows) if any(column.total for column in shown if column.shown) else 0
    target = {
        "nr_processes": len(result),
        "is_whole": result.is_whole,
        "duration_s": round(result.duration_s, 6),
        "skipped": {why: list(pids) for why, pids in result.skipped.items()},
    }
    return Table(SCHEMA, shown, rows, target=target, notes=Notes(notes_of(result, more, nr_added)), limit=wanted.limit)


def with_frames(column: Column[Any], together: DistinctFrames | None, nr_rows: int) -> Column[Any]:
    """Return a column whose total is what was counted by frames, of all rows; of fewer it is not known."""
    if together is None or column.key not in IN_FRAMES:
        return column
    amount = getattr(together, column.key)
    return (
        column
        if amount is None
        else replace(column, shown=True, total=lambda items: amount if len(items) == nr_rows else None)
    )


def notes_of(result: ProcessesResult, more: str, nr_rows: int) -> Iterator[Note]:
    """Yield what there is to say of the amounts: who is not in them, and what the sum of so many rows is then."""
    yield from result.notes
    if nr := sum(one.is_estimate for one in result):
        whose = "1 process" if nr == 1 else f"{nr:,} processes"
        text = f"PSS and USS of {whose} are estimates: the truth lies between LOW and HIGH 95 times of 100"
        yield Note("estimates", text)
    if not result.is_whole:
        yield from left_out(result)
    if result.sharing:
        from mematlas.views.usage import sharing_notes

        yield from sharing_notes(result.sharing)
    refused = result.skipped.get(REFUSED, ())
    if refused:
        whose = "1 process" if len(refused) == 1 else f"{len(refused):,} processes"
        what = f"PSS and USS of {whose} are hidden from you"
        yield Note("hidden-processes", f"{what}; to see all: {more}" if more else what)
    if unanswered := result.skipped.get(UNANSWERED):
        yield Note("unanswered", f"{named(unanswered, result)}: PSS and USS unknown: reading their memory blocks")
    if late := result.skipped.get(LATE):
        yield Note("unasked", f"{named(late, result)}: PSS and USS unknown: no time left, or no room for a child")
    if unreadable := result.skipped.get(UNREADABLE):
        text = "unknown, in part or all of it: a file of /proc is not as mematlas knows it (usage PID says which)"
        yield Note("unreadable", f"{named(unreadable, result)}: {text}")
    if not nr_rows:
        return
    nr_summed = sum(one.pss is not None for one in result)
    if nr_summed < len(result):
        yield Note("sum-of-some", f"the totals are of {nr_summed:,} of {len(result):,} processes")
    if not result.is_whole and nr_rows > 1:
        text = "the totals are of these processes alone: of a page that others map too, PSS is a part"
        yield Note("sum-of-chosen", text)


def left_out(result: ProcessesResult) -> Iterator[Note]:
    """Yield who was asked for by name or number, and has no memory."""
    for why, text in LEFT_OUT.items():
        if pids := result.skipped.get(why):
            yield Note("left-out", f"left out, since {text}: PID {first_of(pids)}")


def named(pids: Sequence[int], result: ProcessesResult) -> str:
    """Return the first of some processes by PID and name, and how many more there are."""
    names = {one.pid: one.name for one in result}
    return first_of([f"{pid} ({names[pid]})" if pid in names else pid for pid in pids])

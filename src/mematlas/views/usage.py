"""The memory of a process as a few lines with their meaning, of several as a row each."""

from __future__ import annotations

from mematlas.analysis.results import Counters
from mematlas.analysis.usage import Usage
from mematlas.frozen import record, replace
from mematlas.notes import Note, Notes
from mematlas.views.format import first_of, fold_message, format_path, format_seconds, format_size, number_of
from mematlas.views.table import Column, Drawn, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Generic, TypeVar

    from mematlas.analysis.results import UsageResult
    from mematlas.model.folio_sizes import FolioSizes
    from mematlas.observe.together import Together
    from mematlas.views.since import Since

    Result = TypeVar("Result")
else:
    Result, Generic = None, {None: object}  # as in mematlas.views.columns


@record
class Subject(Generic[Result]):
    """A result of one of several processes, and the ``target`` that says which."""

    target: dict[str, Any]
    result: Result


WHO: tuple[Column[Subject[Any]], ...] = (
    Column("pid", "PID", "count", lambda item: item.target["pid"]),
    Column("name", "NAME", value=lambda item: item.target["name"]),
)

LINES = (
    ("rss", "RSS", 0, "resident: in RAM and mapped here"),
    ("anon", "  anon", 4, "private, no file behind it"),
    ("file", "  file", 4, "file-backed, devices, kernel pages"),
    ("shmem", "  shmem", 4, "shared memory, memfd, tmpfs"),
    ("pss", "PSS", 2, "each page divided by its map count"),
    ("uss", "USS", 0, "mapped here alone"),
    ("swap", "swap", 1, "paged out"),
    ("hugetlb", "hugetlb", 3, "pages of the hugetlb pools, not RSS"),
    ("thp", "THP", 5, "of RSS, mapped as huge pages"),
    ("zero", "zero", 7, "mapped to the zero page, not RSS"),
    ("tables", "tables", 6, "page tables of this process"),
)
"""Amounts: the key, what a line and a column are called, the rank of the column, and what it means."""
MORE = (
    ("lazyfree", "lazyfree", "of anon, given up (MADV_FREE), not yet reclaimed"),
    ("swap_pss", "swap PSS", "each page in swap divided by its map count"),
    ("ksm", "KSM", "of RSS, merged with equal pages"),
    ("locked", "locked", "held in RAM by mlock, in addresses"),
    ("pinned", "pinned", "held in place by drivers or io_uring: cannot move"),
    ("peak_rss", "peak", "the highest RSS so far"),
)
"""Amounts that most processes have nothing of: text leaves those of nothing, and of what is unknown, out."""

DISTINCT = "resident, each frame counted once"
"""What the line means that is there when asked for."""
FROM_USAGE = frozenset(Usage.__match_args__)
FROM_COUNTERS = frozenset(Counters.__match_args__)


def amount(key: str) -> Callable[[Subject[UsageResult]], Any]:
    """Return what gets an amount of a result: of its usage, of the kernel's counters, or of itself."""
    if key in FROM_USAGE:
        return lambda item: getattr(item.result.usage, key)
    if key in FROM_COUNTERS:
        return lambda item: getattr(item.result.counters, key, None)
    return lambda item: getattr(item.result, key)


COLUMNS: tuple[Column[Subject[UsageResult]], ...] = (
    *WHO,
    *(Column(key, title.strip(), "size", amount(key), rank=rank) for key, title, rank, _ in LINES),
    *(Column(key, title, "size", amount(key), shown=False) for key, title, _ in MORE),
    Column("size", "SIZE", "size", amount("size"), shown=False),
    Column("peak_size", "PEAK SIZE", "size", amount("peak_size"), shown=False),
    Column("nr_vmas", "VMAS", "count", amount("nr_vmas"), shown=False),
)
SOURCE: Column[Subject[UsageResult]] = Column("source", "SOURCE", value=lambda item: item.result.reading.source, rank=8)
DISTINCT_COLUMN: Column[Subject[UsageResult]] = Column("distinct", "DISTINCT", "size", amount("distinct"))
FOLIO_COLUMNS: tuple[Column[Subject[UsageResult]], ...] = (
    Column("folios", "FOLIOS", "sizes", lambda item: item.result.folios and item.result.folios.by_size),
    Column("held", "HELD", "size", lambda item: item.result.folios and item.result.folios.held),
)
SMAPS_ALONE = "{keys} unknown with this source: only smaps has them (--source smaps)"
KSM_UNKNOWN = Note(
    "ksm-unknown",
    "ksm unknown: needs Linux 5.19 with CONFIG_KSM, and CAP_DAC_READ_SEARCH for another user's process",
)


@record
class Line:
    """An amount with its meaning."""

    measure: str
    size: int | None
    meaning: str
    change: int | None = None
    """Since the first look."""
    rate: float | None = None


LINE_COLUMNS = (Column("measure", "MEASURE"), Column("size", "SIZE", "size"), Column("meaning", "MEANING"))
CHANGE_COLUMNS = (Column("change", "CHANGE", "change"), Column("rate", "RATE", "rate"))
"""What stands before the meaning where one looks again and again."""
LIVE_MEANING = 72
"""Columns of a screen that has room for changes and meanings: on a narrower one the lines, folded, would not fit."""


def usage_table(
    results: list[Subject[UsageResult]],
    more: Iterable[Note] = (),
    has_distinct: bool = False,
    together: Together | None = None,
    is_list: bool = False,
    since: Since | None = None,
) -> Table:
    """Return the usage of one process as lines; of several, or of a list, a row each, and what they have together.

    With ``since``, the first of several looks, there is what has changed as well.
    """
    notes, fine_print = Notes(more), Notes()
    for item in results:
        notes += item.result.reading.notes
        fine_print += unknown_amounts(item.result)
    columns = columns_of(results, has_distinct)
    if since:
        since.look()
    if is_list or len(results) != 1:
        if since:
            columns = with_changes(columns, since)
        columns = [with_total(column, together) for column in columns]
        target = {"nr_processes": len(results)}
        return Table("usage/1", columns, results, target=target, notes=notes, fine_print=fine_print)
    (item,) = results
    lines = list(lines_of(item, has_distinct))
    if since:
        lines = [with_change(line, since) for line in lines]
    draw = lines_drawn("usage/1", heading(item), lines, has_changes=since is not None)
    return Drawn("usage/1", columns, results, target=item.target, notes=notes, fine_print=fine_print, draw=draw)


def lines_drawn(
    schema: str, head: str, lines: Sequence[Line], has_changes: bool
) -> Callable[[bool, bool, int], Iterator[str]]:
    """Return what draws amounts as lines with their meaning, below a heading."""
    shown: tuple[Column[Line], ...] = LINE_COLUMNS
    if has_changes:
        shown = (*LINE_COLUMNS[:2], *CHANGE_COLUMNS, *LINE_COLUMNS[2:])

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from fold_message(head, width)
        fitting = shown[:-1] if has_changes and 0 < width < LIVE_MEANING else shown
        yield from Table(schema, fitting, lines).lines(in_bytes=in_bytes, colour=colour, width=width)

    return draw


def with_change(line: Line, since: Since) -> Line:
    """Return a line with how its amount has changed since the first look."""
    change = since.change(line.measure, line.size)
    return replace(line, change=change, rate=since.rate(change))


def with_changes(columns: list[Column[Subject[UsageResult]]], since: Since) -> list[Column[Subject[UsageResult]]]:
    """Return the columns with that of how RSS has changed since the first look."""
    from mematlas.views.since import after_rss, change_column

    def pid_of(item: Subject[UsageResult]) -> int:
        pid: int = item.target["pid"]
        return pid

    return after_rss(columns, change_column(since, pid_of, amount("rss")))


def columns_of(results: list[Subject[UsageResult]], has_distinct: bool) -> list[Column[Subject[UsageResult]]]:
    """Return the columns: those of what was asked for among them."""
    columns = list(COLUMNS)
    if has_distinct:
        columns.append(DISTINCT_COLUMN)
    nodes = [item.result.nodes for item in results if item.result.nodes is not None]
    if nodes:
        columns += node_columns(nodes, lambda item: item.result.nodes)
    if any(item.result.folios for item in results):
        columns += FOLIO_COLUMNS
    return [*columns, SOURCE]


def with_total(column: Column[Subject[UsageResult]], together: Together | None) -> Column[Subject[UsageResult]]:
    """Return a column with what several processes have together of it, where that is known.

    What they share is in each of their amounts: these are not added up, but counted once more, by frame. Each PSS has
    its share of a page, and each process its own tables.
    """
    key = "rss" if column.key == "distinct" else column.key
    if column.key in ("pss", "tables"):
        return replace(column, total=sum)
    if key in TOGETHER and together:
        return replace(column, total=lambda _: getattr(together, key))
    if key == "swap":
        return replace(column, total=lambda items: sum_of_one(column.values(items)))
    if key in TOGETHER:
        return replace(column, total=lambda _: None)
    return replace(column, total=None)


TOGETHER = ("rss", "anon", "file", "shmem", "hugetlb", "uss", "swap")


def sum_of_one(sizes: list[int | None]) -> int | None:
    """Return a sum that cannot count anything twice; None where more than one has any.

    >>> sum_of_one([0, 8192, 0]), sum_of_one([4096, 8192]), sum_of_one([0, None])
    (8192, None, None)
    """
    parts = [size for size in sizes if size != 0]
    if not parts:
        return 0
    return parts[0] if len(parts) == 1 else None


def unknown_amounts(result: UsageResult) -> Iterator[Note]:
    """Yield why amounts are not known that text leaves out."""
    if unknown := [key for key in ("lazyfree", "swap_pss") if getattr(result.usage, key) is None]:
        yield Note("smaps-alone-tells", SMAPS_ALONE.format(keys=" and ".join(unknown)))
    if result.counters is None or result.counters.ksm is None:
        yield KSM_UNKNOWN


def heading(item: Subject[UsageResult]) -> str:
    """Return who was looked at, and how."""
    reading = item.result.reading
    source = reading.source + (f" ({reading.reader})" if reading.reader else "")
    counters = item.result.counters
    nr_vmas = counters.nr_vmas if counters else None
    vmas = "" if nr_vmas is None else number_of(nr_vmas, "VMA") + ", "
    who = f"{format_path(item.target['name'])}, PID {item.target['pid']}, " if item.target else ""
    return f"{who}{vmas}from {source} in {format_seconds(reading.duration_s)}"


def lines_of(item: Subject[UsageResult], has_distinct: bool) -> Iterator[Line]:
    """Yield the amounts of one process with their meaning."""
    for key, title, _, meaning in LINES:
        yield Line(title, amount(key)(item), meaning)
    if has_distinct:
        yield Line("distinct", item.result.distinct, DISTINCT)
    for key, title, meaning in MORE:
        if size := amount(key)(item):
            yield Line(title, size, meaning)
    nodes = item.result.nodes or {}
    for node in sorted(node for node in nodes if node is not None):
        yield Line(f"node {node}", nodes[node], f"in the RAM of NUMA node {node}: of RSS and hugetlb")
    if nowhere := nodes.get(None):
        yield Line("node ?", nowhere, "on an unknown NUMA node")
    if item.result.folios:
        yield from folio_lines(item.result.folios)


def folio_lines(folios: FolioSizes) -> Iterator[Line]:
    """Yield a line for each size of folios."""
    for size, amount in folios.by_size.items():
        yield Line(format_size(size), amount, "of RSS, in folios of this size")
    yield Line("held", folios.held, "by its large folios, but mapped by nobody: partly freed with it")


def sharing_notes(earlier: dict[int, int]) -> list[Note]:
    """Return what there is to say of processes that run in the address space of another one, which is said of each.

    >>> print(*sharing_notes({8: 7}))
    PID 8 runs in the address space of 7 (CLONE_VM, vfork): that memory exists once, and is freed with the last of them
    >>> sharing_notes({}), sharing_notes({pid: 7 for pid in range(8, 20)})[0].text[:60]
    ([], 'PID 8, 9, 10 and 9 more run in the address space of 7 (CLONE')
    """
    if not earlier:
        return []
    firsts = list(dict.fromkeys(earlier.values()))
    whose = f"the address space of {firsts[0]}"
    if len(firsts) > 1:
        whose = f"address spaces of others, such as {firsts[0]}"
    who = f"PID {first_of(list(earlier))} {'runs' if len(earlier) == 1 else 'run'}"
    text = f"{who} in {whose} (CLONE_VM, vfork): that memory exists once, and is freed with the last of them"
    return [Note("shared-address-space", text)]

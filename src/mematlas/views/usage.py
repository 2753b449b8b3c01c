"""The memory of a process as a few lines with their meaning, and two sources side by side."""

from __future__ import annotations

from mematlas.record import as_dict
from mematlas.views.format import format_path, format_seconds
from mematlas.views.table import Column, Drawn, Table, node_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mematlas.analysis.results import UsageResult
    from mematlas.analysis.verify import Comparison

LINES = (
    ("rss", "RSS", "resident: in RAM and mapped here"),
    ("anon", "  anon", "its own, of no file"),
    ("file", "  file", "parts of files, devices and the kernel"),
    ("shmem", "  shmem", "shared memory, memfd, tmpfs"),
    ("pss", "PSS", "each page divided by its number of mappings"),
    ("uss", "USS", "mapped here alone"),
    ("swap", "swap", "paged out"),
    ("hugetlb", "hugetlb", "huge pages of the pools, no part of RSS"),
    ("thp", "THP", "the part of RSS in transparent huge pages"),
    ("zero", "zero", "addresses that show the zero page, no part of RSS"),
    ("tables", "tables", "page tables of this process"),
)

DISTINCT = ("distinct", "distinct", "resident, each frame counted once")
"""The line of what is only counted when asked for."""

COLUMNS = (
    Column("pid", "PID", "count"),
    Column("name", "NAME"),
    *(Column(key, title.strip(), "size") for key, title, _ in LINES),
    Column("source", "SOURCE"),
)

LINE_COLUMNS = (Column("measure", "MEASURE"), Column("size", "SIZE", "size"), Column("meaning", "MEANING"))


def usage_table(
    results: list[tuple[dict[str, Any], UsageResult]], notes: list[str], has_distinct: bool = False
) -> Table:
    """Return the usage of one process as lines, of several as a row each."""
    rows = []
    has_nodes = any(result.nodes is not None for _, result in results)
    added = node_columns(result.nodes or {} for _, result in results) if has_nodes else {}
    asked = [Column("distinct", "DISTINCT", "size")] if has_distinct else []
    columns = (*COLUMNS[:-1], *asked, *added.values(), COLUMNS[-1])
    for target, result in results:
        amounts = as_dict(result.usage) | {"tables": result.tables}
        sizes = (amounts[key] for key, _, _ in LINES)
        distinct = [result.distinct] if has_distinct else []
        by_node = ((result.nodes or {}).get(node, 0) for node in added)
        rows.append((target["pid"], target["name"], *sizes, *distinct, *by_node, result.reading.source))
        notes += result.reading.notes
        if result.reading.torn:
            notes.append("the address space changed during the reading: these are numbers of no one moment")
    if len(results) != 1:
        return Table("usage/1", columns, rows, notes=notes)
    target, result = results[0]
    row = rows[0]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None) -> Iterator[str]:
        took = format_seconds(result.reading.duration_s)
        source = result.reading.source + (f" ({result.reading.reader})" if result.reading.reader else "")
        yield f"{format_path(target['name'])}, PID {target['pid']}, from {source} in {took}"
        texts = [(title, text, True) for _, title, text in (*LINES, *([DISTINCT] if has_distinct else ()))]
        texts += [(*node_line(node), column.shown) for node, column in added.items()]
        lines = [(title, size, text) for (title, text, shown), size in zip(texts, row[2:-1], strict=True) if shown]
        yield from Table("usage/1", LINE_COLUMNS, lines).lines(in_bytes=in_bytes, colour=colour, before=before)

    return Drawn("usage/1", columns, rows, target=target, notes=notes, draw=draw)


def sharing_notes(pid: int, others: Iterable[int]) -> list[str]:
    """Return a note for processes that run in the address space of another one.

    >>> sharing_notes(7, [8])
    ['PID 8 runs in the address space of 7 (CLONE_VM, vfork): that memory exists once, and goes with the last of them']
    """
    names = ", ".join(map(str, others))
    if not names:
        return []
    run = "run" if "," in names else "runs"
    return [
        f"PID {names} {run} in the address space of {pid} (CLONE_VM, vfork): that memory exists once,"
        " and goes with the last of them"
    ]


def node_line(node: int | None) -> tuple[str, str]:
    """Return the title and the meaning of the line of a NUMA node."""
    if node is None:
        return "node ?", "on a NUMA node that cannot be told"
    return f"node {node}", f"in the RAM of NUMA node {node}: of RSS and hugetlb"


VERIFY_COLUMNS = (
    Column("measure", "MEASURE"),
    Column("smaps", "SMAPS", "size"),
    Column("pagemap", "PAGEMAP", "size"),
    Column("tables", "TABLES", "size"),
    Column("difference", "DIFFERENCE", "size"),
    Column("explained", "OK", "flag"),
    Column("reason", "REASON"),
)


def verify_table(comparisons: list[Comparison], target: dict[str, Any], notes: list[str]) -> Table:
    """Return the sources side by side."""
    rows = [
        (row.measure, row.first, row.second, row.third, row.difference, row.explained, row.reason)
        for row in comparisons
    ]
    return Table("verify/1", VERIFY_COLUMNS, rows, target=target, notes=notes)

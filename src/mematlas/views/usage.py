"""The memory of a process as a few lines with their meaning, and two sources side by side."""

from __future__ import annotations

from mematlas.record import as_dict
from mematlas.views.format import format_path, format_seconds
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.verify import Comparison
    from mematlas.process import UsageResult

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

COLUMNS = (
    Column("pid", "PID", "count"),
    Column("name", "NAME"),
    *(Column(key, title.strip(), "size") for key, title, _ in LINES),
    Column("source", "SOURCE"),
)

LINE_COLUMNS = (Column("measure", "MEASURE"), Column("size", "SIZE", "size"), Column("meaning", "MEANING"))


def usage_table(results: list[tuple[dict[str, Any], UsageResult]], notes: list[str]) -> Table:
    """Return the usage of one process as lines, of several as a row each."""
    rows = []
    for target, result in results:
        amounts = as_dict(result.usage) | {"tables": result.tables}
        sizes = (amounts[key] for key, _, _ in LINES)
        rows.append((target["pid"], target["name"], *sizes, result.reading.source))
        notes += result.reading.notes
        if result.reading.torn:
            notes.append("the address space changed during the reading: these are numbers of no one moment")
    if len(results) != 1:
        return Table("usage/1", COLUMNS, rows, notes=notes)
    target, result = results[0]
    row = rows[0]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None) -> Iterator[str]:
        took = format_seconds(result.reading.duration_s)
        source = result.reading.source + (f" ({result.reading.reader})" if result.reading.reader else "")
        yield f"{format_path(target['name'])}, PID {target['pid']}, from {source} in {took}"
        lines = [(title, size, text) for (_, title, text), size in zip(LINES, row[2:-1], strict=True)]
        yield from Table("usage/1", LINE_COLUMNS, lines).lines(in_bytes=in_bytes, colour=colour, before=before)

    return Drawn("usage/1", COLUMNS, rows, target=target, notes=notes, draw=draw)


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

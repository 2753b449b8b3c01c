"""Files in the page cache as a table: how much of each is there, where in it, and who maps it."""

from __future__ import annotations

from mematlas.analysis.listing import sum_known
from mematlas.frozen import replace
from mematlas.notes import Note
from mematlas.views.columns import Column
from mematlas.views.format import first_of
from mematlas.views.histogram import bar
from mematlas.views.picture import ASCII_BARS, BARS
from mematlas.views.table import Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult

FINE = 1000
"""In how many steps the share of a part is drawn."""


class Bar(tuple[float, ...]):
    """Which share of each part of a file is in RAM: text draws it, JSON has the numbers.

    >>> str(Bar((1.0, 0.5, 0.0))), str(AsciiBar((1.0, 0.001))), str(Bar())
    ('|█▄ |', '|@.|', '-')
    """

    bars = BARS

    def __str__(self) -> str:
        return f"|{''.join(bar(round(share * FINE), FINE, self.bars) for share in self)}|" if self else "-"


class AsciiBar(Bar):
    """The same for an output that has no blocks."""

    bars = ASCII_BARS


class Mappers(tuple[int, ...]):
    """The processes that map a file: text has the first of them.

    >>> str(Mappers((7, 8, 9, 10))), str(Mappers())
    ('7, 8, 9 and 1 more', 'nobody')
    """

    nobody = "nobody"

    def __str__(self) -> str:
        return first_of(self) or self.nobody


class SeenMappers(Mappers):
    """The same where others may map it that could not be looked at."""

    nobody = "nobody seen"


def sum_of(key: str) -> Callable[[Iterable[Any]], int | None]:
    """Return what adds up an amount of rows, as far as it is known."""
    return lambda items: sum_known(getattr(item, key) for item in items)


def share_of(item: CachedFile | CachedGroup) -> float | None:
    """Return which share of a file is in RAM; None of an empty one."""
    return min(item.resident / item.size, 1.0) if item.size else None  # a cgroup has no size either


def share_of_all(items: Iterable[CachedFile | CachedGroup]) -> float | None:
    """Return the same of several together."""
    pairs = [(item.resident, item.size or 0) for item in items]
    resident, size = map(sum, zip(*pairs, strict=True))
    return min(resident / size, 1.0) if size else None


def mappers_of(file: CachedFile) -> Mappers | None:
    """Return who maps a file; None where it was not asked for, or cannot be known."""
    if file.mappers is None:
        return None
    return Mappers(file.mappers) if file.all_seen else SeenMappers(file.mappers)


AMOUNT_COLUMNS: tuple[Column[Any], ...] = (
    Column("resident", "RESIDENT", "size", total=sum),
    Column("size", "SIZE", "size", total=sum_of("size"), rank=2),
    Column("share", "IN RAM", "share", share_of, total=share_of_all, rank=3),
    Column("mapped", "MAPPED", "size", total=sum_of("mapped"), rank=7),
    Column("dirty", "DIRTY", "size", total=sum_of("dirty"), rank=4),
    Column("writeback", "WRITEBACK", "size", total=sum_of("writeback"), rank=8),
    Column("evicted", "EVICTED", "size", total=sum_of("evicted"), rank=6),
    Column("recently_evicted", "RECENTLY", "size", total=sum_of("recently_evicted"), rank=9),
    Column("swap", "SWAP", "size", total=sum_of("swap"), rank=7),
)
FILE_COLUMNS: tuple[Column[CachedFile], ...] = (
    *AMOUNT_COLUMNS,
    Column("mappers", "MAPPED BY", "json", mappers_of, rank=5),
    Column("all_seen", "ALL SEEN", "flag", shown=False),
    Column("cells", "WHERE", "json", lambda file: Bar(file.cells), rank=3),
    Column("fs", "FS", rank=10),
    Column("dev", "DEV", shown=False),
    Column("inode", "INODE", "count", shown=False),
    Column("deleted", "DELETED", "flag", lambda file: file.is_deleted, shown=False),
    Column("overlay_path", "SEEN AT", "path", rank=4),
    Column("path", "PATH", "path", width=32),
)
GROUP_COLUMNS: tuple[Column[CachedGroup], ...] = (
    *AMOUNT_COLUMNS,
    Column("nr_files", "FILES", "count", total=sum),
    Column("name", "NAME", "path", width=32),
)
HEADINGS = {"directory": "DIRECTORY", "fs": "FS", "cgroup": "CGROUP"}
SOMETIMES = frozenset(("overlay_path", "mapped", "writeback", "evicted", "recently_evicted", "swap", "cells"))
"""Columns that are shown where there is something in them."""

OF_FILES_ALONE = frozenset(("size", "share", "evicted", "recently_evicted", "swap"))
OF_SOME = ("evicted", "recently_evicted", "swap")
"""What is known of few of the files of the whole page cache."""

OF_RIGHTS = frozenset(("cache-of-processes", "left-out", "files-refused", "files-hidden"))
"""The codes of notes on what we may not see."""

IN_PLACE_OF_PATHS = frozenset(("dev", "inode"))
"""What tells a file whose path is not known."""


def cache_table(result: CacheResult, sort: str, limit: int, ascii_only: bool, line: str = "") -> Table:
    """Return a row for each file; ``line`` is what shows those that we may not see."""
    columns: list[Column[Any]] = list(FILE_COLUMNS)
    if ascii_only:
        where = next(index for index, column in enumerate(columns) if column.key == "cells")
        columns[where] = replace(columns[where], value=lambda file: AsciiBar(file.cells))
    if any(file.path is None for file in result.files[:limit]):
        columns = [replace(column, shown=column.shown or column.key in IN_PLACE_OF_PATHS) for column in columns]
    return table_of(result, "cache/1", columns, list(result.files), sort, limit, line)


def cache_groups_table(result: CacheResult, by: str, sort: str, limit: int, line: str = "") -> Table:
    """Return a row for all files of a directory, or of a file system; or for all that a cgroup is charged for."""
    columns: list[Column[Any]] = [*GROUP_COLUMNS[:-1], replace(GROUP_COLUMNS[-1], heading=HEADINGS[by])]
    if by == "cgroup":
        # Pages are charged: a file has no one size there, and may be charged to several.
        columns = [column for column in columns if column.key not in OF_FILES_ALONE]
        columns = [replace(column, total=None) if column.key == "nr_files" else column for column in columns]
        columns.append(Column("inode", "INODE", "count", shown=False))
    sort = "name" if sort == "path" else sort
    return table_of(result, "cache-groups/1", columns, result.grouped(by), sort, limit, line)


def table_of(
    result: CacheResult, schema: str, columns: list[Column[Any]], rows: list[Any], sort: str, limit: int, line: str
) -> Table:
    """Return rows in the order that is wanted, the others summed up; without columns that have nothing in them."""
    if result.others:
        columns = [replace(column, total=None) if column.key in OF_SOME else column for column in columns]
    shown = [
        replace(column, shown=False) if column.key in SOMETIMES and not any(map(column.get, rows)) else column
        for column in columns
    ]
    target = {
        "nr_files": result.nr_files,
        "source": result.reading.source,
        "duration_s": round(result.reading.duration_s, 6),
    }
    notes = list(result.reading.notes)
    if line and any(note.code in OF_RIGHTS for note in notes):
        notes.append(Note("more-rights", f"to see all of it: {line}"))
    table = FilesTable(schema, shown, rows, target=target, notes=notes, sort=sort, limit=limit)
    if result.others and rows and result.files and rows[0] is result.files[0]:
        table.others.append(result.others)
    return table


class FilesTable(Table):
    """A table beyond whose rows there may be files that are added up."""

    @property
    def nr_others(self) -> int:
        return sum(getattr(other, "nr_files", 1) for other in self.others)

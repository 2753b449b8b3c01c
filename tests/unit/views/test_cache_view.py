"""Files in the page cache, as text and as rows."""

from __future__ import annotations

import io
import json

from helpers import PAGE
from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult
from mematlas.analysis.results import Reading
from mematlas.frozen import replace
from mematlas.notes import Note
from mematlas.views.cache import cache_groups_table, cache_table
from mematlas.views.writers import write

READING = Reading("cachestat", 0.25, False, (Note("files-refused", "some are left out"),))
WHOLE = CachedFile(
    path="/srv/shop/all",
    dev="fe:00",
    inode=7,
    fs="ext4",
    size=3 << 20,
    resident=3 << 20,
    dirty=64 << 10,
    writeback=0,
    evicted=0,
    recently_evicted=0,
    swap=0,
    cells=(1.0,) * 16,
    mappers=(11, 12, 13, 14),
    all_seen=True,
)
PART = replace(WHOLE, path="/srv/part\n", inode=8, resident=1 << 20, dirty=0, cells=(1.0, 0.5, 0.01, 0.0), mappers=())
UNKNOWN = replace(PART, path="/mnt/x", inode=9, fs=None, resident=0, dirty=None, writeback=None, cells=(), mappers=None)
EVICTED = replace(WHOLE, path="/srv/gone", resident=0, evicted=2 << 20, recently_evicted=1 << 20, swap=None)


def lines_of(*files: CachedFile, limit: int = 9, ascii_only: bool = False) -> list[str]:
    return list(cache_table(CacheResult(files, READING), "resident", limit, ascii_only).lines())


def test_text_draws_where_and_names_who() -> None:
    assert lines_of(PART, WHOLE, UNKNOWN) == [
        "RESIDENT   SIZE  IN RAM   DIRTY  MAPPED BY              WHERE               FS    PATH",
        "   3 MiB  3 MiB    100%  64 KiB  11, 12, 13 and 1 more  |████████████████|  ext4  /srv/shop/all",
        "   1 MiB  3 MiB     33%       0  nobody                 |█▄▁ |              ext4  /srv/part\\n",
        "       0  3 MiB      0%       -  -                      -                   -     /mnt/x",
        "   4 MiB  9 MiB     44%  64 KiB",
    ] or lines_of(PART, WHOLE, UNKNOWN)[-1].split() == ["4", "MiB", "9", "MiB", "44%", "64", "KiB", "total"]


def test_ascii_draws_without_blocks() -> None:
    assert "|@= |" in lines_of(replace(PART, cells=(1.0, 0.5, 0.0)), ascii_only=True)[1]


def test_columns_that_have_something_are_shown() -> None:
    assert not {"EVICTED", "RECENTLY", "WRITEBACK", "SWAP"} & set(lines_of(WHOLE)[0].split())
    assert {"EVICTED", "RECENTLY"} < set(lines_of(EVICTED)[0].split())


def test_sorting_shows_what_it_sorts_by() -> None:
    table = cache_table(CacheResult((WHOLE, PART), READING), "evicted", 9, False)

    assert "EVICTED" in next(table.lines())


def test_rows_are_numbers_and_the_total_is_of_all() -> None:
    out = io.StringIO()
    write(cache_table(CacheResult((WHOLE, PART, UNKNOWN), READING), "resident", 1, False), "json", out, {})
    result = json.loads(out.getvalue())
    (row,) = result["rows"]

    assert (row["cells"], row["mappers"], row["share"]) == ([1.0] * 16, [11, 12, 13, 14], 1.0)
    assert (result["total"]["resident"], result["total"]["dirty"], result["target"]["nr_files"]) == (
        4 << 20,
        64 << 10,
        3,
    )
    assert [note["code"] for note in result["notes"]] == ["files-refused", "rows-left-out"]


def test_nobody_is_said_to_map_a_file_only_if_all_were_seen() -> None:
    lines = [lines_of(replace(PART, all_seen=seen))[1] for seen in (True, False, None)]

    assert ["nobody seen" in line for line in lines] == [False, True, True]


def test_total_of_what_is_known_of_some_files_is_not_shown() -> None:
    result = CacheResult((EVICTED,), READING, CachedGroup(None, 7, 70 << 20, 7 << 20, 0, 0))
    out = io.StringIO()
    write(cache_table(result, "resident", 9, False), "json", out, {})
    total = json.loads(out.getvalue())["total"]

    assert total["resident"] == 7 << 20
    assert total.get("evicted") is None


def test_cgroups_have_pages_and_no_sizes_of_files() -> None:
    groups = (
        CachedGroup("/shop", 7, None, 5 << 20, 0, 0, mapped=1 << 20, inode=4211),
        CachedGroup("-", 2, None, 1 << 20, 0, 0, mapped=0, inode=0),
    )
    result = CacheResult((), READING, CachedGroup(None, 8, None, 6 << 20, 0, 0), groups)

    assert list(cache_groups_table(result, "cgroup", "resident", 9).lines()) == [
        "RESIDENT  MAPPED  DIRTY  FILES  CGROUP",
        "   5 MiB   1 MiB      0      7  /shop",
        "   1 MiB       0      0      2  -",
        "   6 MiB   1 MiB      0         total",
    ]


def test_groups_add_up_what_is_known() -> None:
    result = CacheResult((WHOLE, PART, UNKNOWN), READING)
    by_fs = {group.name: (group.nr_files, group.resident, group.dirty) for group in result.grouped("fs")}
    names = [group.name for group in result.grouped("directory")]

    assert by_fs == {"ext4": (2, 4 << 20, 64 << 10), None: (1, 0, None)}
    assert names == ["/srv/shop", "/srv", "/mnt"]
    assert next(cache_groups_table(result, "fs", "resident", 9).lines()).split()[-2:] == ["FILES", "FS"]


def test_pages_of_an_empty_file_are_no_share_of_it() -> None:
    assert lines_of(replace(WHOLE, size=0, resident=0, cells=()))[1].split()[2] == "-"
    assert PAGE

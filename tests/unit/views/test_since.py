"""What has changed since the first of several looks."""

from __future__ import annotations

import pytest

from mematlas.frozen import record
from mematlas.views.since import Since, after_rss, change_column
from mematlas.views.table import Column, Table


@record
class Row:
    name: str
    rss: int
    pss: int | None = None


def test_changes_are_since_the_first_look_and_what_is_new_has_grown_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter((100.0, 102.0, 104.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    since = Since()

    since.look()
    assert [since.change("rss", 8192), since.change("pss", None)] == [0, None]
    assert since.rate(0) is None
    since.look()
    assert [since.change("rss", 4096), since.change("new", 4096), since.change("pss", 1)] == [-4096, 4096, None]
    since.look()
    assert since.rate(since.change("rss", 16384)) == 2048
    assert since.rate(None) is None


def test_column_of_changes_stands_behind_rss_and_adds_up() -> None:
    columns = [Column("name", "NAME"), Column("rss", "RSS", "size", total=sum), Column("pss", "PSS", "size")]
    since = Since()
    looks = ([Row("a", 4096), Row("b", 8192)], [Row("a", 12288), Row("c", 4096)])
    shown = []
    for rows in looks:
        since.look()
        change = change_column(since, lambda row: row.name, lambda row: row.rss)
        shown.append(list(Table("test/1", after_rss(columns, change), rows).lines()))

    assert shown[0][1:] == ["a       4 KiB       0    -", "b       8 KiB       0    -", "total  12 KiB       0"]
    assert shown[1][1:] == ["a      12 KiB   +8 KiB    -", "c       4 KiB   +4 KiB    -", "total  16 KiB  +12 KiB"]


def test_columns_stay_where_they_are_when_the_first_change_comes() -> None:
    columns = [Column("name", "NAME"), Column("rss", "RSS", "size"), Column("pss", "PSS", "size", rank=5)]
    since = Since()
    heads = []
    for rows in ([Row("a" * 12, 4096, 4096)], [Row("a" * 12, 8192, 4096)]):
        since.look()
        change = change_column(since, lambda row: row.name, lambda row: row.rss)
        heads.append(next(Table("test/1", after_rss(columns, change), rows).lines(width=31)).split())

    assert heads == [["NAME", "RSS", "CHANGE"]] * 2

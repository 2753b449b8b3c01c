"""One table in four forms."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import pytest

from mematlas.frozen import record, replace
from mematlas.notes import Note
from mematlas.views import writers
from mematlas.views.format import format_exact, width_of
from mematlas.views.table import HIDDEN, NR_TOGETHER, Aside, Column, Table, batch_of

COLUMNS = (
    Column("address", "ADDRESS", "address"),
    Column("size", "SIZE", "size"),
    Column("dev", "DEV", shown=False),
    Column("phys", "PHYSICAL", "address"),
    Column("flags", "FLAGS", "list"),
    Column("share", "SHARE", "number"),
    Column("path", "PATH", "path"),
)
ROWS: list[tuple[Any, ...]] = [
    (0x1000, 4096, "fe:00", 1 << 54, ("present", "file"), 0.5, "/a\nb,\udcff"),
    (0xFFFFFFFFFF600000, 1 << 30, "00:00", HIDDEN, (), 2, ""),
    (0x2000, None, "00:00", None, (), 0.25, 'x "y"'),
]
NOTES = [Note("hidden-frames", "physical addresses hidden")]
JSON_NOTES = [{"code": "hidden-frames", "text": "physical addresses hidden"}]


def by_index(columns: Iterable[Column[Any]]) -> list[Column[Any]]:
    """Return columns whose values are those of tuples, one after the other."""
    return [replace(column, value=itemgetter(index)) for index, column in enumerate(columns)]


def make_table(rows: Any = ROWS, **more: Any) -> Table:
    return Table("test/1", by_index(COLUMNS), rows, target={"pid": 7}, notes=NOTES, **more)


def text(table: Table, **how: Any) -> list[str]:
    return list(table.lines(**how))


def test_text_is_aligned_and_says_what_is_hidden_and_what_is_not_there() -> None:
    assert text(make_table()) == [
        "ADDRESS              SIZE  PHYSICAL          FLAGS         SHARE  PATH",
        "0x000000001000      4 KiB  0x40000000000000  present,file  0.500  /a\\nb,\\xff",
        "0xffffffffff600000  1 GiB  hidden            -                 2",
        '0x000000002000          -  -                 -             0.250  x "y"',
    ]


WIDE = [
    "ADDRESS              SIZE  PHYSICAL",
    "    FLAGS         SHARE  PATH",
    "0x000000001000      4 KiB  0x40000000000000",
    "    present,file  0.500  /a\\nb,\\xff",
    "0xffffffffff600000  1 GiB  hidden",
    "    -                 2",
    "0x000000002000          -  -",
    '    -             0.250  x "y"',
]


def test_row_that_is_wider_than_the_screen_goes_on_in_the_next_line() -> None:
    assert text(make_table(), width=45) == WIDE
    assert text(make_table(), width=80) == text(make_table())


def test_path_that_is_longer_than_the_screen_is_shortened_in_the_middle() -> None:
    columns = (Column("size", "SIZE", "size"), Column("path", "PATH", "path"))
    rows = [(4096, "/usr/lib/x86_64-linux-gnu/libc.so.6"), (8192, "/b")]

    assert list(Table("test/1", by_index(columns), rows).lines(width=31)) == [
        " SIZE  PATH",
        "4 KiB  /usr/lib/x8.../libc.so.6",
        "8 KiB  /b",
    ]


@record
class Thing:
    start: int
    size: int | None
    count: int
    kind: str
    path: str


THINGS = [Thing(0x1000, 4096, 0, "anon", ""), Thing(0x4000, 8192, 0, "file", "/lib/libc.so.6")]
OF_THINGS: tuple[Column[Thing], ...] = (
    Column("start", "START", "address"),
    Column("bytes", "SIZE", "size", lambda thing: thing.size, sum),
    Column("share", "SHARE", "share", lambda thing: (thing.size or 0) / 8192, rank=2),
    Column("count", "COUNT", "count", total=sum, rank=1),
    Column("kind", "KIND", rank=3),
    Column("path", "PATH", "path", total=lambda things: f"{len(things)} things", fallback="kind"),
)


def test_columns_get_their_values_and_totals_of_the_items() -> None:
    assert text(Table("test/1", OF_THINGS, THINGS)) == [
        "START             SIZE  SHARE  COUNT  KIND  PATH",
        "0x000000001000   4 KiB    50%      0  anon",
        "0x000000004000   8 KiB   100%      0  file  /lib/libc.so.6",
        "total           12 KiB             0        2 things",
    ]
    assert Table("test/1", OF_THINGS, THINGS[:1]).totals() is None


def test_total_of_which_a_part_is_unknown_is_unknown() -> None:
    table = Table("test/1", OF_THINGS, [*THINGS, Thing(0x8000, None, 3, "anon", "")])

    assert table.totals() == ["total", "-", "", "3", "", "3 things"]


def test_row_aside_is_in_no_total() -> None:
    rows: list[Thing | Aside] = [THINGS[0], Aside({"start": 0x2000, "bytes": 8192}), THINGS[1]]
    table = Table("test/1", OF_THINGS, rows)

    assert list(table.cells())[1] == ["0x000000002000", "8 KiB", "-", "-", "-", "-"]
    assert table.totals() == ["total", "12 KiB", "", "0", "", "2 things"]


@pytest.mark.parametrize(("limit", "others"), [(1, [["others", "5"]]), (2, [["others", "5"]]), (3, [])])
def test_row_aside_beyond_the_limit_is_in_no_sum_of_others(limit: int, others: list[list[str]]) -> None:
    name: Column[int] = Column("name", "NAME", value=str)
    rss: Column[int] = Column("rss", "RSS", "count", int, sum)
    rows: list[int | Aside] = [3, Aside({"name": "gap", "rss": 9}), 5, Aside({"name": "end"})]
    table = Table("test/1", [name, rss], rows, limit=limit)

    sums = [line.split() for line in text(table) if line.startswith(("others", "total"))]
    assert sums == [*others, ["total", "8"]]


@pytest.mark.parametrize(
    ("width", "headings", "lost"),
    [
        (60, "START SIZE SHARE COUNT KIND PATH", None),
        (52, "START SIZE SHARE KIND PATH", "not shown: COUNT (--wide)"),
        (46, "START SIZE SHARE PATH", "not shown: COUNT, KIND (--wide)"),
        (38, "START SIZE PATH", "not shown: SHARE, COUNT, KIND (--wide)"),
        (37, "START SIZE PATH", "3 columns not shown: --wide"),
    ],
)
def test_columns_fall_by_rank_and_those_that_say_nothing_first(width: int, headings: str, lost: str | None) -> None:
    lines = text(Table("test/1", OF_THINGS, THINGS), width=width)

    assert lines[0].split() == headings.split()
    assert (lines[4] if len(lines) > 4 else None) == lost
    assert max(map(len, lines)) <= width


def test_column_that_fell_comes_back_where_a_wider_one_that_fell_later_leaves_room() -> None:
    wide = Column("note", "WIDE", value=lambda thing: thing.path * 3, rank=1)
    narrow = Column("count", "COUNT", "count", rank=2)
    columns = (OF_THINGS[0], wide, narrow, OF_THINGS[1])

    lines = text(Table("test/1", columns, THINGS), width=50)

    assert lines[0].split() == ["START", "COUNT", "SIZE"]
    assert lines[-1] == "not shown: WIDE (--wide)"


@pytest.mark.parametrize(("length", "is_shown"), [(52, True), (53, False)])
def test_paths_keep_three_tenths_of_the_screen_before_lesser_columns_stay(length: int, is_shown: bool) -> None:
    columns = (OF_THINGS[0], replace(OF_THINGS[4], rank=1), OF_THINGS[5])
    path = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30"
    lines = text(Table("test/1", columns, [Thing(0x1000, 0, 0, "x" * length, path)]), width=100)

    assert lines[0].split() == ["START", *["KIND"] * is_shown, "PATH"]
    assert lines[1].endswith("/usr/li.../libstdc++.so.6.0.30" if is_shown else path)


def test_address_of_the_kernel_among_others_stands_in_the_blanks_of_the_next_column() -> None:
    things = [*THINGS * 2, replace(THINGS[0], size=4097 << 10), replace(THINGS[0], start=0xFFFFFFFFFF600000)]
    lines = text(Table("test/1", OF_THINGS[:2], things), width=60)

    assert lines[4:7] == ["0x000000004000     8 KiB", "0x000000001000  4.00 MiB", "0xffffffffff600000 4 KiB"]


def test_kind_stands_where_a_path_is_blank_once_its_column_has_fallen() -> None:
    lines = text(Table("test/1", OF_THINGS, THINGS), width=40)

    assert [line.split()[-1] for line in lines[1:3]] == ["anon", "/lib/libc.so.6"]
    assert text(Table("test/1", OF_THINGS, THINGS))[1].endswith("anon")


def test_screen_that_is_too_low_keeps_the_totals() -> None:
    table = Table("test/1", OF_THINGS, THINGS * 10)

    assert text(table, width=60, height=5)[2:] == [
        "0x000000004000    8 KiB   100%      0  file  /lib/libc.so.6",
        "... 18 more lines",
        text(table)[-1],
    ]


@pytest.mark.parametrize("width", [0, 24, 40, 60])
def test_characters_two_columns_wide_take_two_columns(width: int) -> None:
    rows = [("\u65e5\u672c", 7, "/\u8a9e" * 20), ("ascii", 7, "/e\u0301" * 4)]
    columns = [Column("name", "NAME"), Column("nr", "NR", "count"), Column("path", "PATH", "path")]

    lines = text(Table("test/1", by_index(columns), rows), width=width)

    assert {width_of(line.partition(" 7 ")[0]) for line in lines[1:]} == {7}
    assert not width or max(map(width_of, lines)) <= width


def test_numbers_are_never_shortened() -> None:
    columns: tuple[Column[Any], ...] = (Column("count", "COUNT", "count"), Column("path", "PATH", "path"))
    batches = [batch_of([(1, "/a")]), batch_of([(10**30, "/b")])]

    assert text(Table("test/1", columns, batches=batches), width=20)[2] == f"{10**30}  /b"


@pytest.mark.parametrize("stream", [False, True])
def test_last_cell_is_folded_below_itself(stream: bool) -> None:
    columns = (Column("size", "SIZE", "size", width=5), Column("why", "WHY"))
    rows = [(4096, "mapped by somebody else")]
    table = Table("test/1", columns, batches=[batch_of(rows)]) if stream else Table("test/1", by_index(columns), rows)

    assert list(table.lines(width=24)) == [" SIZE  WHY", "4 KiB  mapped by", "       somebody else"]


def test_line_of_which_nothing_is_known_is_left_out() -> None:
    columns = tuple(Column(name, name.upper() * 5) for name in "abc")
    table = Table("test/1", by_index(columns), [("x", "y", None), ("x", "y", "z")])

    assert list(table.lines(width=14)) == ["AAAAA  BBBBB", "    CCCCC", "x      y", "x      y", "    z"]


def test_bytes_are_integers() -> None:
    assert text(make_table(), in_bytes=True)[2].split()[1] == str(1 << 30)


def read_json(table: Table) -> dict[str, Any]:
    out = io.StringIO()
    writers.write(table, "json", out, {"host": "h"})
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_json_has_every_column_and_no_number_beyond_2_to_the_53() -> None:
    found = read_json(make_table())

    assert (found["schema"], found["machine"], found["target"]) == ("mematlas.test/1", {"host": "h"}, {"pid": 7})
    assert found["notes"] == JSON_NOTES
    first, second, third = found["rows"]
    assert first == {
        "address": "0x1000",
        "size": 4096,
        "dev": "fe:00",
        "phys": "0x40000000000000",
        "flags": ["present", "file"],
        "share": 0.5,
        "path": "/a\nb,\udcff",
    }
    assert (second["address"], second["phys"], second["flags"]) == ("0xffffffffff600000", None, [])
    assert (third["size"], third["phys"]) == (None, None)


def test_json_of_no_rows_is_json() -> None:
    assert read_json(make_table([]))["rows"] == []


def test_json_lines_have_a_head_rows_and_an_end() -> None:
    out = io.StringIO()
    writers.write(make_table(), "jsonl", out, {"host": "h"})

    head, *rows, end = map(json.loads, out.getvalue().splitlines())
    assert head == {"schema": "mematlas.test/1", "machine": {"host": "h"}}
    assert rows == read_json(make_table())["rows"]
    assert end == {"target": {"pid": 7}, "notes": JSON_NOTES}


def test_csv_can_be_read_and_printed_anywhere() -> None:
    out = io.StringIO()
    writers.write(make_table(), "csv", out, {})

    head, *rows = csv.reader(io.StringIO(out.getvalue()))
    assert head == [column.key for column in COLUMNS]
    assert rows[0] == ["0x1000", "4096", "fe:00", "0x40000000000000", "present file", "0.5", "/a\\nb,\\xff"]
    assert rows[1][3] == rows[2][1] == ""
    assert out.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_rows_that_stream_are_written_as_they_come(form: str) -> None:
    seen: list[int] = []

    def batches() -> Iterator[Any]:
        for _ in range(3):
            seen.append(out.tell())
            yield batch_of(ROWS)

    out = io.StringIO()
    table = make_table((), batches=batches())
    assert seen == []
    write(table, form, out)
    assert seen[0] < seen[1] < seen[2]


def write(table: Table, form: str, out: io.StringIO) -> None:
    if form == "text":
        out.writelines(line + "\n" for line in table.lines())
    else:
        writers.write(table, form, out, {})


def cell(value: Any, kind: str) -> Any:
    """Return what JSON and CSV have for a value."""
    if value is None or value is HIDDEN:
        return None
    return f"{value:#x}" if kind == "address" else list(value) if kind == "list" else value


MIXED = [
    tuple(rng.choice([row[place] for row in ROWS] + [None] * (place in (1, 3))) for place in range(len(COLUMNS)))
    for rng in [random.Random(13)]
    for _ in range(NR_TOGETHER * 2 + 7)
]
"""Every value under every neighbour, over the edges of what is formatted together."""


@pytest.mark.parametrize(
    "rows", [MIXED, ROWS[:1] * 5, ROWS[1:2] * 5, [(1, 1, "", 1, (), value, "") for value in (2, 2.0, True)]]
)
@pytest.mark.parametrize("as_batches", [False, True])
def test_rows_formatted_together_are_as_each_alone(rows: list[tuple[Any, ...]], as_batches: bool) -> None:
    def made() -> Table:
        return make_table((), batches=[batch_of(rows)]) if as_batches else make_table(rows)

    plain = [[cell(value, column.kind) for column, value in zip(COLUMNS, row, strict=True)] for row in rows]
    found = {form: io.StringIO() for form in ("csv", "jsonl", "json")}
    for form, out in found.items():
        write(made(), form, out)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(column.key for column in COLUMNS)
    for row in plain:
        cells = [" ".join(value) if isinstance(value, list) else value for value in row]
        writer.writerow([format_exact(value) if isinstance(value, str) else value for value in cells])
    keys = [column.key for column in COLUMNS]
    objects = [json.dumps(dict(zip(keys, row, strict=True))) for row in plain]

    assert found["csv"].getvalue() == written.getvalue()
    assert found["jsonl"].getvalue().splitlines()[1:-1] == objects
    assert ",\n  ".join(objects) in found["json"].getvalue()
    alone = [text(make_table([row]), in_bytes=True)[1].split() for row in rows]
    assert [line.split() for line in text(made(), in_bytes=True)[1:]] == alone

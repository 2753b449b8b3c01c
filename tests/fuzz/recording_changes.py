"""What a stranger may have done to a recording: to its bytes, its rows, its tables, what is packed in it, its files.

A change is a verb, the file that it is about, and what else it takes: made by `changes`, done by `change`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import sqlite3
import stat
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from made_recordings import NAME, SHARED, Base, sealed
from mematlas.observe.moments import WORDS
from mematlas.timeline.schema import INDEXES, KEYS, TABLES
from mematlas.timeline.stream import MAGIC, SIZE
from mematlas.timeline.words import HEAD, MOST_WORDS
from mematlas.timeline.writing import LOG
from mutated_captures import Change, device, drop, folder, hard, link, mode, other_value, pipe, sparse
from mutation import ANY, BINARY, BORDERS, TEXT, Mutation, mutate

PAGE = 4096
HEADER = 100
"""Bytes of a database before the first of its tables."""
STEPS = 5_000_000
"""Of SQLite's, after which a statement has taken long enough."""
MOST_PAGES = 1 << 15
"""Of SQLite's, some 128 MiB, after which a file has grown enough."""
LARGEST = 1 << 24
"""Bytes of a file of which something inside is changed."""


# --- what is done to a recording


def edit(path: Path, place: int, nr_bytes: int, fresh: str) -> None:
    """Have other bytes, in hexadecimal, in the place of some."""
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes.fromhex(fresh) + data[place + nr_bytes :])


def exchange(path: Path, place: int, other: int) -> None:
    """Have two pages in the place of each other."""
    data = path.read_bytes()
    edit(path, place, PAGE, data[other : other + PAGE].hex())
    edit(path, other, PAGE, data[place : place + PAGE].hex())


def edit_log(path: Path, place: int, nr_bytes: int, fresh: str) -> None:
    """Have other bytes in a log, with checksums that are right."""
    edit(path, place, nr_bytes, fresh)
    path.write_bytes(sealed(path.read_bytes()))


def cut(path: Path, size: int) -> None:
    """Be so long."""
    os.truncate(path, size)


def sql(path: Path, *statements: str) -> None:
    """Have had some statements run in it; its log stays a log."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as database:
        database.set_progress_handler(lambda: True, STEPS)
        with contextlib.suppress(sqlite3.Error):
            database.execute(f"PRAGMA max_page_count = {MOST_PAGES}").fetchall()  # for this connection alone
        for statement in statements:
            # A name in it that is no text is in what is wrong with it, which is no text then.
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                database.execute(statement).fetchall()
        files = [path, path.with_name(NAME + LOG)]
        kept = {file: file.read_bytes() for file in files if is_plain(file)}
    if len(kept) == len(files):
        for file, data in kept.items():
            file.write_bytes(data)


def swell(path: Path, row: list[Any], nr_words: int, is_text: bool) -> None:
    """Have something in it that is very many bytes when it is unpacked."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as database:
        statement = f"UPDATE file SET data = ? WHERE {' AND '.join(f'{key} = ?' for key in KEYS['file'])}"
        database.execute(statement, (swollen(nr_words, is_text), *row))


@functools.cache
def swollen(nr_words: int, is_text: bool) -> bytes:
    """Return a text, or a file of one run of words, all of them 0, packed."""
    head = b"" if is_text else HEAD.pack(1, nr_words) + bytes(8) + nr_words.to_bytes(4, "little")
    return zlib.compress(head + bytes(nr_words * 8), 9)


INSIDE: dict[str, Callable[..., None]] = {
    verb.__name__: verb for verb in (edit, exchange, edit_log, cut, sql, swell, mode)
}
"""Verbs about what is in a file, which follow a link."""
VERBS = INSIDE | {verb.__name__: verb for verb in (drop, link, hard, pipe, folder, device, sparse)}


def change(place: Path, verb: str, suffix: str, rest: list[Any]) -> None:
    """Do one change, unless an earlier one made something else of the file."""
    path = place / (NAME + suffix)
    if verb in INSIDE and not is_plain(path):
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        VERBS[verb](path, *rest)


def is_plain(path: Path) -> bool:
    """Whether there is a file, and none that is very large."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST


# --- making changes


def changes(random: Random, base: Base) -> list[Change]:
    """Return some changes to a recording."""
    makers = OF_STREAM if base.is_stream else OF_RECORDING
    chosen = random.choices(list(makers), list(makers.values()), k=random.choice((1, 1, 1, 2, 3)))
    return [maker(random, base) for maker in chosen]


def other_bytes(random: Random, base: Base) -> Change:
    """Change bytes where SQLite has what it goes by: the header, the head of a page, its cells."""
    suffix = random.choice([suffix for suffix in base.files if suffix != SHARED or random.random() < 0.1])
    data = base.files[suffix]
    page = random.randrange(max(len(data) // PAGE, 1)) * PAGE
    places = (
        random.randrange(len(data)),
        random.randrange(min(HEADER, len(data))),
        page + (HEADER if page == 0 else 0) + random.randrange(12),
        page + 8 + random.randrange(40),
        page + PAGE - 1 - random.randrange(300),
    )
    place = min(random.choice(places), len(data) - 1)
    if random.random() < 0.1:
        return ["exchange", suffix, page, random.randrange(max(len(data) // PAGE, 1)) * PAGE]
    nr_bytes = random.choice((1, 1, 1, 2, 4, 8, 40))
    fresh = other_than(random, data[place : place + nr_bytes], BINARY)
    if suffix and random.random() < 0.8:
        return ["edit_log", suffix, place, nr_bytes, fresh[:400].hex()]
    if random.random() < 0.9:
        fresh = fresh[:nr_bytes].ljust(nr_bytes, b"\0")  # else all that follows is somewhere else
    return ["edit", suffix, place, nr_bytes, fresh[:400].hex()]


def other_than(random: Random, data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """Return some bytes, changed: most mutations are of more than a few."""
    changed = mutate(random, [data], mutations)
    return changed if changed != data else bytes((data[0] ^ (1 << random.randrange(8)),)) + data[1:]


def shorter(random: Random, base: Base) -> Change:
    """Cut a file, or have it longer, to whole pages or not."""
    suffix = random.choice(list(base.files))
    size = random.choice((random.randrange(len(base.files[suffix]) + 1), random.randrange(100), 1 << 20))
    return ["cut", suffix, size // PAGE * PAGE if random.random() < 0.4 else size]


def something_else(random: Random, base: Base) -> Change:
    """Have something else in the place of a file."""
    suffix = random.choice(("", "", *base.files, *(() if base.is_stream else (LOG, SHARED))))
    to = random.choice(("/dev/zero", "SECRET", "SECRET", "/proc/self/mem", "nosuch", ".", NAME, NAME + LOG, "/"))
    ways: list[Change] = [
        ["drop", suffix],
        ["link", suffix, to],
        ["hard", suffix, NAME + random.choice(("", LOG, SHARED))],
        ["folder", suffix],
        ["device", suffix, random.choice((5, 7))],
        ["sparse", suffix, random.choice((0, 1 << 20, 4 << 30, 1 << 40, (1 << 40) + PAGE))],
        ["mode", suffix, random.choice((0, 0o777, 0o4755, 0o200))],
        ["pipe", suffix],
    ]
    return random.choice(ways)


# Rows

VALUES = (
    *("NULL", "''", "'x'", "x''", "x'00'", "x'789c'", "'9'", "'[heap]'", "'[]'", "'{}'", "'null'", "'1e999'", "'NaN'"),
    *("9e999", "-9e999", "1e308", "0.5", "-0.0", "1.0", "-1", "-9223372036854775808", "'rwxs'", "'ff:ff'", "'shmem'"),
    *("zeroblob(1048576)", "zeroblob(1114112)", "printf('%.*c', 16385, 'x')", "printf('%.*c', 10000, '[')"),
    *("char(27) || '[2J' || char(8238)", "char(0)", "char(10)", "char(55357)", "CAST(x'ff80' AS TEXT)", "char(155)"),
)
"""What may stand in a column, in SQL."""
OPERATIONS = (" + 1", " - 1", " * 2", " * 4096", " * -1", " || 'x'", " || char(27)", " / 2", " + 0.5", " % 7")


def row_of(random: Random, base: Base, table: str) -> str:
    """Return what one row of a table is found by."""
    keys = ", ".join(KEYS.get(table, ("rowid",)))
    nr = random.randrange(max(base.nr_rows[table], 1))
    return f"({keys}) IN (SELECT {keys} FROM {table} LIMIT 1 OFFSET {nr})"


def other_sql(random: Random, base: Base, table: str, column: str) -> str:
    """Return another value for a column."""
    pick = random.random()
    if pick < 0.35:
        return random.choice(VALUES)
    if pick < 0.55:
        return str(random.choice(BORDERS) * random.choice((1, 1, -1)))
    if pick < 0.7:
        return f'"{column}"{random.choice(OPERATIONS)}'
    if pick < 0.9:
        return f'(SELECT "{column}" FROM {table} LIMIT 1 OFFSET {random.randrange(max(base.nr_rows[table], 1))})'
    other = random.choice(list(TABLES))
    return f'(SELECT "{random.choice(list(TABLES[other]))}" FROM {other} LIMIT 1 OFFSET {random.randrange(9)})'


def other_rows(random: Random, base: Base) -> Change:
    """Change, double, or take away rows, or add many."""
    there = [table for table in TABLES if base.nr_rows[table]] or list(TABLES)
    table = random.choice(there if random.random() < 0.95 else list(TABLES))
    columns = list(TABLES[table])
    column = random.choice(columns)
    value, row = other_sql(random, base, table, column), row_of(random, base, table)
    with_value = ", ".join(value if name == column else f'"{name}"' for name in columns)
    pick = random.random()
    if pick < 0.5:
        return ["sql", "", f'UPDATE OR REPLACE {table} SET "{column}" = {value} WHERE {row}']
    if pick < 0.65:
        return ["sql", "", f'UPDATE OR IGNORE {table} SET "{column}" = {value}']
    if pick < 0.72:
        return ["sql", "", f"DELETE FROM {table} WHERE {row}"]
    if pick < 0.75:
        return ["sql", "", f"DELETE FROM {table}"]
    if pick < 0.93:
        return ["sql", "", f"INSERT OR REPLACE INTO {table} SELECT {with_value} FROM {table} WHERE {row}"]
    key = random.choice(KEYS.get(table, columns[:1]))
    counted = ", ".join(f'"{name}" + i' if name == key else f'"{name}"' for name in columns)
    many = f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {random.choice((40, 300, 3000))})"
    return [
        "sql",
        "",
        f"INSERT OR IGNORE INTO {table} {many} SELECT {counted} FROM n, (SELECT * FROM {table} WHERE {row})",
    ]


def other_tables(random: Random, base: Base) -> Change:
    """Have tables, indexes, views, triggers that no recording has, or others in their place."""
    table, other = random.sample(list(TABLES), 2)
    column = random.choice(list(TABLES[table]))
    everywhere = "PRAGMA writable_schema = ON"
    view = f"CREATE VIEW {table} AS SELECT * FROM kept"
    ways: tuple[tuple[str, ...], ...] = (
        ("CREATE TABLE more (a)",),
        ("CREATE VIEW more AS SELECT 1",),
        (f"ALTER TABLE {table} RENAME TO kept", view),
        (f"CREATE TRIGGER more AFTER INSERT ON {table} BEGIN DELETE FROM {other}; END",),
        *(
            (f"CREATE VIRTUAL TABLE more USING {module}",)
            for module in ("fts5(a)", "fts3(a)", "rtree(a, b, c)", "dbstat")
        ),
        (f"CREATE INDEX more ON {table} ({column})",),
        (f"DROP TABLE {table}",),
        (f"DROP TABLE {table}", f"CREATE TABLE {table} ({column})"),
        (f"DROP INDEX {random.choice(list(INDEXES))}",),
        (f"ALTER TABLE {table} ADD COLUMN more",),
        (f"ALTER TABLE {table} DROP COLUMN {column}",),
        ("ANALYZE",),
        (f"PRAGMA application_id = {random.choice(BORDERS[:12])}",),
        (f"PRAGMA user_version = {random.choice(BORDERS[:12])}",),
        ("PRAGMA journal_mode = WAL",),
        *((f"PRAGMA page_size = {1 << random.randrange(9, 17)}", "PRAGMA journal_mode = DELETE", "VACUUM"),) * 2,
        (f"PRAGMA auto_vacuum = {random.randrange(1, 3)}", "VACUUM"),
        (
            everywhere,
            f"UPDATE sqlite_master SET rootpage = {random.choice((0, 1, 2, 3, 7, 99))} WHERE name = '{table}'",
        ),
        *(
            (
                everywhere,
                f"UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = '{one}')"
                f" WHERE name = '{table}'",
            )
            for one in (other, random.choice(list(INDEXES)), f"sqlite_autoindex_{other}_1")
        ),
        (everywhere, f"UPDATE sqlite_master SET name = '{other}' WHERE name = '{table}'"),
        (everywhere, f"UPDATE sqlite_master SET type = 'view' WHERE name = '{table}'"),
        (everywhere, f"UPDATE sqlite_master SET sql = NULL WHERE name = '{table}'"),
        (everywhere, f"UPDATE sqlite_master SET sql = replace(sql, 'INTEGER', 'REAL') WHERE name = '{table}'"),
        (everywhere, f"UPDATE sqlite_master SET sql = sql || ' STRICT' WHERE name = '{table}'"),
        (everywhere, f"UPDATE sqlite_master SET sql = replace(sql, 'moment', 'Moment') WHERE name = '{table}'"),
        (everywhere, f"DELETE FROM sqlite_master WHERE name = '{table}'"),
        (
            everywhere,
            "INSERT INTO sqlite_master SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master LIMIT 1",
        ),
    )
    return ["sql", "", *random.choice(ways)]


# What is packed


def other_packed(random: Random, base: Base) -> Change:
    """Change what a file of a process, or of the machine, is when it is unpacked."""
    if not base.packed:
        return other_rows(random, base)
    row = random.choice(base.packed)
    process, name, moment, part, _, data = row
    if random.random() < 0.05:
        return [
            "swell",
            "",
            [process, name, moment, part],
            random.choice((1 << 20, 9 << 20, MOST_WORDS)),
            name not in WORDS,
        ]
    if random.random() < 0.15:
        return blob(row, random.choice(base.packed)[-1])
    if random.random() < 0.1:
        return blob(row, mutate(random, [data], ANY))
    plain = zlib.decompress(data) if data else b""
    if name in WORDS:
        return blob(row, zlib.compress(other_words(random, plain), 1))
    if plain[:1] == b"{" and random.random() < 0.8:
        return blob(row, zlib.compress(json.dumps(other_value(random, json.loads(plain), 0)).encode(), 1))
    return blob(row, zlib.compress(mutate(random, [plain], TEXT), 1))


def blob(row: Sequence[Any], data: bytes) -> Change:
    """Return what puts other data into a row."""
    process, name, moment, part, *_ = row
    found = f"process = {process} AND name = '{name}' AND moment = {moment} AND part = {part}"
    return ["sql", "", f"UPDATE file SET data = x'{data.hex()}' WHERE {found}"]


def other_words(random: Random, plain: bytes) -> bytes:
    """Return words with another head, gaps, lengths, or bytes."""
    nr_runs, _ = HEAD.unpack_from(plain)
    ends = [HEAD.size, HEAD.size + nr_runs * 8, HEAD.size + nr_runs * 12, len(plain)]
    which = random.randrange(len(ends))
    low, high = ends[which - 1] if which else 0, ends[which]
    changed = mutate(random, [plain[low:high]], BINARY[-6:] if random.random() < 0.7 else BINARY)
    return plain[:low] + changed + plain[high:]


# Streams


def other_stream_bytes(random: Random, base: Base) -> Change:
    """Change bytes of a stream."""
    data = base.files[""]
    place = random.choice((random.randrange(len(data)), random.randrange(len(MAGIC) + SIZE)))
    nr_bytes = random.choice((1, 1, 2, 4, 8))
    fresh = other_than(random, data[place : place + nr_bytes], (*BINARY, *TEXT))
    return ["edit", "", place, nr_bytes, fresh[:400].hex()]


def other_frame(random: Random, base: Base) -> Change:
    """Change, drop, double or exchange a frame, or what it says."""
    data = base.files[""]
    places = frames_in(data)
    start, end = random.choice(places)
    pick = random.random()
    if pick < 0.1:
        return ["edit", "", start, end - start, ""]
    if pick < 0.25:
        low, high = random.choice(places)
        return ["edit", "", start, random.choice((0, end - start)), data[low:high].hex()]
    rows = json.loads(data[start + SIZE : end])
    rows = other_row(random, rows) if pick < 0.85 else other_value(random, rows, 0)
    text = json.dumps(rows).encode()
    size = len(text) if random.random() < 0.95 else random.choice(BORDERS) % (1 << 32)
    return ["edit", "", start, end - start, (size.to_bytes(SIZE, "little") + text).hex()]


def other_row(random: Random, rows: Any) -> Any:
    """Return the rows of a frame with another value in one of them."""
    there = [table for table in rows if rows[table]]
    if not there:
        return {}
    table = random.choice(there)
    number = random.randrange(len(rows[table]))
    row = list(rows[table][number])
    place = random.randrange(len(row))
    row[place] = random.choice((other_value(random, row[place], 1), random.choice(BORDERS), random.choice(row)))
    if table == "file" and random.random() < 0.5:
        row[-1] = base64.b64encode(mutate(random, [base64.b64decode(rows[table][number][-1])], ANY)).decode()
    some = [*rows[table][:number], row, *rows[table][number + 1 :]]
    if random.random() < 0.1:
        some.append(row)
    return rows | {table: some}


def frames_in(data: bytes) -> list[tuple[int, int]]:
    """Return where the frames of a stream begin and end."""
    places, start = [], len(MAGIC)
    while start < len(data):
        end = start + SIZE + int.from_bytes(data[start : start + SIZE], "little")
        places.append((start, end))
        start = end
    return places


Maker = Callable[[Random, Base], Change]
OF_RECORDING: dict[Maker, int] = {
    other_bytes: 25,
    shorter: 4,
    something_else: 8,
    other_rows: 35,
    other_tables: 8,
    other_packed: 20,
}
"""What makes a change to a recording, and how often."""
OF_STREAM: dict[Maker, int] = {other_stream_bytes: 30, shorter: 5, something_else: 10, other_frame: 55}

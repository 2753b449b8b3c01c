"""Recordings that others are made of: what `mematlas record` wrote once of a small program, made-up histories, rings,
what a killed writer leaves, and streams. They are the same every time, log and all.

A log: sqlite.org/walformat.html.
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from histories import FACTS, Rows, random_history, write, write_ring
from mematlas.timeline import writing
from mematlas.timeline.schema import TABLES
from mematlas.timeline.stream import MAGIC, frame_of, frames
from mematlas.timeline.writing import BESIDE, LOG

STREAMS = Path(__file__).with_name("corpus") / "recordings"
"""Streams that `record -o -` wrote, with --what usage,vmas,pages,frames,tables,ram,files."""
NAME = "x.mematlas"
SHARED = BESIDE[1]
WHAT = FACTS | {"what": '["usage", "vmas", "pages"]', "interval": "1.0", "targets": '["name:shop"]'}
OWN = ("stat", "status")
SALTS = b"saltsalt"
LOOKS = (
    "SELECT elapsed - (SELECT min(elapsed) FROM moment), pid FROM usage"
    " JOIN moment ON moment.id = usage.moment JOIN process ON process.id = usage.process"
)
LOG_HEADER, FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")
LITTLE = 0x377F0682
"""The magic of a log whose checksums are of little-endian words; that of others has its last bit set."""
PAGES = (512, 65536)
"""Bytes of the least and the largest page."""


@dataclass(frozen=True)
class Base:
    """A recording, or a stream."""

    files: dict[str, bytes]
    """What stands in its files, by what their names have behind that of the recording."""
    is_stream: bool = False
    nr_rows: dict[str, int] = field(default_factory=dict)
    """Of each table."""
    packed: tuple[tuple[Any, ...], ...] = ()
    """The rows of ``file``."""
    looks: tuple[tuple[float, int], ...] = ()
    """When which process was looked at, by its PID."""
    seconds: float = 0.0


def all_bases() -> dict[str, Base]:
    """Return recordings of every kind, by name."""
    bases: dict[str, Base] = {}
    recorded = {path.stem: list(moments_of(path)) for path in sorted(STREAMS.iterdir())}
    made = {f"history-{seed}": [facts_of(WHAT), *moments_made(seed, 12)] for seed in (1, 10, 36)}
    with tempfile.TemporaryDirectory(prefix="mematlas-fuzz-bases-") as directory:
        place = Path(directory)
        for name, rows in (recorded | made).items():
            facts: dict[str, str] = dict(rows[0]["recording"])
            moments = rows[1:]
            bases[name] = base_of(write(place / name, moments, facts))
            bases[f"{name}-killed"] = base_of(write(place / f"{name}-all", moments, facts), left_by(place, rows))
            bases[f"{name}-stream"] = Base({"": MAGIC + b"".join(map(frame_of, rows))}, is_stream=True)
        bases["ring"] = base_of(write_ring(place / "ring", moments_made(5, 40), 8.0, WHAT))
    return bases


def facts_of(facts: dict[str, str]) -> Rows:
    return {"recording": list(facts.items())}


def moments_made(seed: int, most: int) -> list[Rows]:
    """Return a made-up history, without the files that say which process it is: that is another."""
    rows = random_history(Random(seed), most).rows
    return [
        moment | {"file": [row for row in moment.get("file", ()) if row[1] not in ("stat", "status")]}
        for moment in rows
    ]


def moments_of(path: Path) -> Iterator[Rows]:
    """Yield what a stream says of itself, and its moments."""
    with open(path, "rb") as file:
        for rows in frames(file, path.name):
            yield {table: list(map(tuple, some)) for table, some in rows.items()}


def base_of(path: Path, files: dict[str, bytes] | None = None) -> Base:
    """Return a recording as what changes are made to; ``files`` are what there is of it, if not that one alone."""
    with closing(sqlite3.connect(path)) as database:
        nr_rows = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
        return Base(
            files or {"": path.read_bytes()},
            nr_rows=nr_rows,
            packed=tuple(database.execute("SELECT * FROM file")),
            looks=tuple(database.execute(LOOKS)),
            seconds=database.execute("SELECT max(elapsed) - min(elapsed) FROM moment").fetchone()[0],
        )


def left_by(place: Path, rows: Sequence[Rows]) -> dict[str, bytes]:
    """Return the files that a writer leaves which is killed when half of the moments are in its log alone."""
    path = place / NAME
    writing.make(str(path), force=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        writing.prepare(database)
        for number, moment in enumerate(rows):
            writing.add(database, moment)
            if number == len(rows) // 2:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        files = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", *BESIDE)}
    # What is shared by those that have it open is made anew by the first of them.
    return {"": files[""], LOG: sealed(files[LOG][:16] + SALTS + files[LOG][24:]), SHARED: bytes(len(files[SHARED]))}


def sealed(log: bytes) -> bytes:
    """Return a log whose pages are all of it, with checksums that are right: changed pages are read.

    >>> sealed(bytes(7)), len(sealed(bytes(32 + 24 + 512)))
    (b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00', 568)
    """
    if len(log) < LOG_HEADER.size:
        return log
    magic, version, size, *rest = LOG_HEADER.unpack_from(log)
    order = "<" if magic == LITTLE else ">"
    size = size if PAGES[0] <= size <= PAGES[1] and size % 8 == 0 else PAGES[0]
    salts = log[16:24]
    sums = summed(log[:24], order, (0, 0))
    made = [LOG_HEADER.pack(magic, version, size, *rest[:3], *sums)]
    for start in range(LOG_HEADER.size, len(log) - FRAME_HEADER.size - size + 1, FRAME_HEADER.size + size):
        page = log[start + FRAME_HEADER.size : start + FRAME_HEADER.size + size]
        sums = summed(page, order, summed(log[start : start + 8], order, sums))
        made += [log[start : start + 8], salts, struct.pack(">2I", *sums), page]
    whole = b"".join(made)
    return whole + log[len(whole) :]


def summed(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of a log after some more of it."""
    one, other = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + other) & 0xFFFFFFFF
        other = (other + second + one) & 0xFFFFFFFF
    return one, other

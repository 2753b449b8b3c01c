"""A recording as a stream: what a writer is fed, and what ``record -o -`` writes.

::

    magic   17 bytes   b"mematlas-stream\\n" and the version, 1
    frames             each a size (u32, little-endian) and so many bytes of JSON: {"TABLE": [[VALUE, ...], ...], ...}

A moment is a frame: the rows that it adds to the tables of `mematlas.timeline.schema`, each in the order of its
columns, bytes as base64. A large one is several, of which the last has its row of ``moment``. The first frame has the
table ``recording`` alone. A stream that ends in the middle of a moment is whole up to that.
"""

from __future__ import annotations

import base64
import json

from mematlas.errors import FormatError
from mematlas.timeline.schema import TABLES, VERSION, fits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from mematlas.timeline.encoding import Rows

MAGIC = b"mematlas-stream\n" + bytes((VERSION,))
SIZE = 4
MOST_FRAME = 64 << 20
"""Bytes of one. JSON takes many times that in memory."""
LARGE = 16 << 20
"""Bytes from which on a moment is several."""


def frame_of(rows: Rows) -> bytes:
    """Return a moment as a frame.

    >>> frame_of({"vma_end": [(7, 3)]})
    b'\\x14\\x00\\x00\\x00{"vma_end":[[7,3]]}\\n'
    """
    data = json.dumps(rows, separators=(",", ":"), allow_nan=False, default=as_base64).encode("ascii") + b"\n"
    return len(data).to_bytes(SIZE, "little") + data


def frames_of(rows: Rows) -> Iterator[bytes]:
    """Yield a moment as frames.

    >>> rows = {"moment": [(1, 0.0, 0.0, 0.0, 0.0)], "vma_end": [(7, 3), (8, 3)]}
    >>> list(frames_of(rows)) == [frame_of(rows)]
    True
    """
    frame = frame_of(rows)
    if len(frame) <= LARGE or sum(map(len, rows.values())) < 2:
        yield frame
        return
    del frame
    for half in halves(rows):
        yield from frames_of(half)


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows of a moment in two parts, with what says that it is one in the second."""
    every = [(table, row) for table in sorted(rows, key="moment".__eq__) for row in rows[table]]
    parts: tuple[Rows, Rows] = ({}, {})
    for number, (table, row) in enumerate(every):
        parts[number >= len(every) // 2].setdefault(table, []).append(row)
    return parts


def is_moment(rows: Rows) -> bool:
    """Whether these rows are the last of a moment, or what a recording says of itself."""
    return "moment" in rows or "recording" in rows


def as_base64(value: object) -> str:
    """Return bytes as a text."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} in a recording")
    return base64.b64encode(value).decode("ascii")


def frames(file: BinaryIO, name: str) -> Iterator[Rows]:
    """Yield the moments of a stream, which may be anybody's.

    Raises:
        FormatError: it is no such stream, or a frame is none.
    """
    head = file.read(len(MAGIC))
    if head != MAGIC:
        hint = "; this is a recording already" if head.startswith(b"SQLite") else ""
        raise FormatError(name, expected=f"a stream of version {VERSION} of mematlas{hint}")
    number = 0
    while len(head := file.read(SIZE)) == SIZE:
        number += 1
        size = int.from_bytes(head, "little")
        if size > MOST_FRAME:
            raise FormatError(name, place=f"frame {number}", expected=f"at most {MOST_FRAME} bytes")
        data = file.read(size)
        if len(data) < size:
            return
        rows = parse_frame(data)
        if rows is None:
            raise FormatError(name, place=f"frame {number}", expected="rows of a recording's tables")
        yield rows


def parse_frame(data: bytes) -> Rows | None:
    """Return the rows of a frame; None where it is none.

    >>> parse_frame(b'{"vma_end": [[7, 3]]}'), parse_frame(b'{"vma_end": [[7]]}')
    ({'vma_end': [[7, 3]]}, None)
    """
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, dict) or not all(table in TABLES and isinstance(rows[table], list) for table in rows):
        return None
    for row in rows.get("file", ()):
        if not (isinstance(row, list) and row and isinstance(row[-1], str)):
            return None
        try:
            row[-1] = base64.b64decode(row[-1], validate=True)
        except ValueError:
            return None
    return rows if all(fits(table, row) for table in rows for row in rows[table]) else None

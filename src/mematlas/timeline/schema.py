"""What a recording holds: tables that rows are only ever added to, so that whatever was written stays true. Of a ring,
what is old is taken away (`mematlas.timeline.ring`).

A recording is one SQLite file. What is the same as at the moment before has no row: the amounts of a process at a
moment are those of its last row up to then, and a VMA is there from the moment in ``vma`` to that in ``vma_end``.
Numbers of 64 bits without a sign, as addresses are, are kept with the same bits as SQLite's, which have one.
"""

from __future__ import annotations

from math import isfinite

from mematlas.analysis.measures import OF_PROCESS
from mematlas.analysis.usage import Usage
from mematlas.frozen import fields_of

VERSION = 1
APPLICATION_ID = 0x6D656D61
"""``mema``, in the header of the file: what ``PRAGMA application_id`` says."""
KEY, INTEGER, REAL, TEXT, BLOB = "INTEGER PRIMARY KEY", "INTEGER", "REAL", "TEXT", "BLOB"
FAULTS = ("minor_faults", "major_faults")
AMOUNTS = (*OF_PROCESS, *FAULTS)
"""Columns of the amounts of a process."""
AMOUNTS_OF_VMA = fields_of(Usage)
USE = ("nr_accessed", "nr_dirty")
OF_A_LOOK = ("torn", "smaps-instead", "pagemap-instead")
"""Codes of notes that are of one look, not of all since."""
PEAK_EVERY = 64
"""Moments of which the most RSS is recorded together, so that who looks for the most need not go through all."""
OF_MACHINE = 0
"""In the place of a process, with a file that is of the whole machine."""

TABLES: dict[str, dict[str, str]] = {
    "recording": {"key": "TEXT PRIMARY KEY", "value": TEXT},
    "moment": {"id": KEY, "time": REAL, "elapsed": REAL, "cpu_s": REAL, "stall_s": REAL},
    "process": {"id": KEY, "pid": INTEGER, "start_time": INTEGER, "name": TEXT, "target": TEXT, "moment": INTEGER},
    "process_end": {"process": KEY, "moment": INTEGER, "why": TEXT},
    "usage": {
        "process": INTEGER,
        "moment": INTEGER,
        **dict.fromkeys(AMOUNTS, INTEGER),
        "source": TEXT,
        "duration_s": REAL,
        "torn": INTEGER,
    },
    "vma": {
        "id": KEY,
        "process": INTEGER,
        "moment": INTEGER,
        "start": INTEGER,
        "end": INTEGER,
        "perms": TEXT,
        "offset": INTEGER,
        "dev": TEXT,
        "inode": INTEGER,
        "path": TEXT,
        "kind": TEXT,
    },
    "vma_end": {"vma": KEY, "moment": INTEGER},
    "vma_usage": {"vma": INTEGER, "moment": INTEGER, **dict.fromkeys((*AMOUNTS_OF_VMA, *USE), INTEGER)},
    "event": {"moment": INTEGER, "process": INTEGER, "kind": TEXT, "text": TEXT},
    "file": {
        "process": INTEGER,
        "name": TEXT,
        "moment": INTEGER,
        "part": INTEGER,
        "base": INTEGER,
        "data": BLOB,
    },
    "note": {"moment": INTEGER, "process": INTEGER, "code": TEXT, "text": TEXT},
    "counter": {"name": TEXT, "moment": INTEGER, "value": INTEGER},
    "peak": {"process": INTEGER, "moment": INTEGER, "rss": INTEGER, "at": INTEGER},
}
"""Each table with its columns, and what these hold."""
KEYS = {
    "usage": ("process", "moment"),
    "vma_usage": ("vma", "moment"),
    "file": ("process", "name", "moment", "part"),
    "counter": ("name", "moment"),
    "peak": ("process", "moment"),
}
"""What the rows of a table are in order of, where they have no number."""
INDEXES = {"vma_process": ("vma", "process"), "event_moment": ("event", "moment")}

KINDS_OF_VALUES: dict[str, tuple[type, ...]] = {
    KEY: (int,),
    INTEGER: (int, type(None)),
    REAL: (float, int, type(None)),
    TEXT: (str, type(None)),
    BLOB: (bytes,),
    "TEXT PRIMARY KEY": (str,),
}
"""What may stand in a column."""


def statements() -> list[str]:
    """Return what makes the tables: exactly what a recording has of them, see `mematlas.timeline.recording`."""
    made = []
    for name, columns in TABLES.items():
        parts = [f'"{column}" {kind}' for column, kind in columns.items()]
        if name in KEYS:
            parts.append(f"PRIMARY KEY ({', '.join(KEYS[name])})")
        made.append(f"CREATE TABLE {name} ({', '.join(parts)})" + (" WITHOUT ROWID" if name in KEYS else ""))
    made += [f"CREATE INDEX {name} ON {table} ({column})" for name, (table, column) in INDEXES.items()]
    return made


def insertion(table: str) -> str:
    """Return what adds a row to a table."""
    return f"INSERT INTO {table} VALUES ({', '.join('?' * len(TABLES[table]))})"


def fits(table: str, row: object) -> bool:
    """Whether something is a row of a table.

    >>> fits("vma_end", (7, 3)), fits("vma_end", (7, "x")), fits("vma_end", (None, 3)), fits("vma_end", (7,))
    (True, False, False, False)
    """
    kinds = list(TABLES[table].values())
    if not isinstance(row, list | tuple) or len(row) != len(kinds):
        return False
    return all(
        type(value) in KINDS_OF_VALUES[kind] and can_be_kept(value) for value, kind in zip(row, kinds, strict=True)
    )


def can_be_kept(value: object) -> bool:
    """Whether SQLite keeps a value as it is: numbers of 64 bits, finite ones, texts that UTF-8 can have."""
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 63
    if type(value) is float:
        return isfinite(value)
    if type(value) is str:
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    return True


def signed(number: int) -> int:
    """Return a number of 64 bits without a sign as SQLite has it.

    >>> signed(0xFFFFFFFFFF600000), unsigned(signed(0xFFFFFFFFFF600000)) == 0xFFFFFFFFFF600000
    (-10485760, True)
    """
    return number - (1 << 64) if number >> 63 else number


def unsigned(number: int) -> int:
    """Return a number as it was before `signed`."""
    return number % (1 << 64)

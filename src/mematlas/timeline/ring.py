"""A ring: a recording that is being written, of which the last seconds alone are kept.

A row says what is other than at the moment before, and holds until the next one does. So where all before a moment is
taken away, the last row of each thing up to that moment stays, and is of it from then on; files of words, which are
changes one after the other, are whole there. Of every moment that is left all is as it was.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from mematlas.frozen import Record, record
from mematlas.timeline.encoding import add_file
from mematlas.timeline.schema import KEYS, OF_A_LOOK, TABLES, insertion
from mematlas.timeline.watch import HELD
from mematlas.timeline.words import changed, empty, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from mematlas.timeline.encoding import Row, Rows

SLACK = 1.1
"""How much longer than asked for a ring becomes before what is too old is taken away: that is dear, and seldom done."""
ELAPSED, KIND, BASE = (
    list(TABLES[table]).index(column) for table, column in (("moment", "elapsed"), ("event", "kind"), ("file", "base"))
)
ENDED = "SELECT process FROM process_end WHERE moment <= :first"
GONE = "SELECT vma FROM vma_end WHERE moment <= :first"
"""Processes and VMAs that were no more at the moment that is to be the first."""
BETWEEN = "FROM file WHERE process = ? AND name = ? AND moment BETWEEN ? AND ?"


@record
class Kept(Record):
    """What of all moments is kept: all, the last ones, or those from some time before a condition held."""

    keep: float | None = None
    """Seconds that a ring has; None where none of them is taken away."""
    condition: str = ""
    """What was waited for."""
    held_at: float | None = None
    """When it was found to hold, in seconds after the first moment; None while it has not."""


class Ring:
    """Keeps a recording as long as was asked for, in seconds: between that and a tenth more.

    From the moment on at which a condition was found to hold (`mematlas.timeline.watch.HELD`), nothing is taken away.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.first = 1
        """The first moment that is there."""
        self.keeps_all = False
        self._began = 0.0
        """When that was."""

    def based(self, rows: Rows) -> Rows:
        """Return the rows that a moment adds as they stand in a ring: changes since a moment that is no more are since
        the first, which has all that held then.

        >>> ring = Ring(60.0)
        >>> ring.first = 7
        >>> ring.based({"file": [(1, "pagemap", 9, 0, 3, b""), (1, "stat", 9, 0, None, b"")]})
        {'file': [(1, 'pagemap', 9, 0, 7, b''), (1, 'stat', 9, 0, None, b'')]}
        """
        if "file" not in rows:
            return rows
        return rows | {"file": [self._based(row) for row in rows["file"]]}

    def _based(self, row: Row) -> Row:
        base = row[BASE]
        return row if base is None or base >= self.first else (*row[:BASE], self.first, *row[BASE + 1 :])

    def advance(self, database: sqlite3.Connection, rows: Rows) -> None:
        """Take away what has become too old with a moment that was added, as one transaction."""
        self.keeps_all |= any(row[KIND] == HELD for row in rows.get("event", ()))
        now = max((row[ELAPSED] for row in rows.get("moment", ())), default=0.0)
        if self.keeps_all or now - self._began < self.keep * SLACK:
            return
        first, began = database.execute(
            "SELECT id, elapsed FROM moment WHERE elapsed <= ? ORDER BY id DESC LIMIT 1", (now - self.keep,)
        ).fetchone()
        if first > self.first:
            with database:
                database.execute("BEGIN")
                take_away_before(database, first)
            self.first, self._began = first, began


def take_away_before(database: sqlite3.Connection, first: int) -> None:
    """Take away all before a moment but what held then, which is of that moment from then on."""
    for statement in ENDING:
        database.execute(statement, {"first": first})
    make_whole(database, first)
    for statement in MOVING:
        database.execute(statement, {"first": first})


def superseding(table: str) -> Iterator[str]:
    """Yield what leaves, of rows up to a moment, the last of each thing, and makes it one of that moment."""
    thing = KEYS[table][: KEYS[table].index("moment")]
    is_same = " AND ".join(f"later.{column} = {table}.{column}" for column in thing)
    later = f"SELECT 1 FROM {table} AS later WHERE {is_same} AND later.moment > {table}.moment"
    yield f"DELETE FROM {table} WHERE moment < :first AND EXISTS ({later} AND later.moment <= :first)"
    yield f"UPDATE {table} SET moment = :first WHERE moment < :first"


ENDING = (
    f"DELETE FROM vma_usage WHERE vma IN ({GONE})",
    f"DELETE FROM vma WHERE id IN ({GONE})",
    "DELETE FROM vma_end WHERE moment <= :first",
    *(f"DELETE FROM {table} WHERE process IN ({ENDED})" for table in ("usage", "file", "note")),
    f"DELETE FROM process WHERE id IN ({ENDED})",
    "DELETE FROM process_end WHERE moment <= :first",
    "DELETE FROM event WHERE moment <= :first",
    f"DELETE FROM note WHERE moment <= :first AND code IN ({', '.join(map(repr, OF_A_LOOK))}) AND moment <>"
    " (SELECT max(moment) FROM usage WHERE usage.process = note.process AND usage.moment <= :first)",
    "DELETE FROM moment WHERE id < :first",
)
"""What takes away all that was over by a moment."""
MOVING = (
    *(statement for table in KEYS for statement in superseding(table)),
    "UPDATE file SET base = :first WHERE base < :first",
    *(f"UPDATE {table} SET moment = :first WHERE moment < :first" for table in ("process", "vma", "note")),
)
"""What leaves of all else what held at a moment."""


def make_whole(database: sqlite3.Connection, first: int) -> None:
    """Have each file that had changed by a moment whole at it, in place of what it was and its changes since then."""
    changing = database.execute(
        "SELECT process, name, max(moment) FILTER (WHERE base IS NULL) AS whole, max(moment) AS last FROM file"
        " WHERE moment <= ? GROUP BY process, name HAVING whole < last",
        (first,),
    ).fetchall()
    for process, name, whole, _ in changing:
        of_file = (process, name, whole, first)
        parts = database.execute(f"SELECT moment, data {BETWEEN} ORDER BY moment, part", of_file)
        words = empty()
        for _, rows in groupby(parts, itemgetter(0)):
            words = changed(words, unpack(b"".join(data for _, data in rows)))
        made: Rows = {}
        add_file(made, (process, name, first), None, pack(words))
        database.execute(f"DELETE {BETWEEN}", of_file)
        database.executemany(insertion("file"), made["file"])

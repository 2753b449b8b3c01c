"""Reading a recording, which may be anybody's: nothing in it is run, and what it takes is bounded.

It is opened once, by descriptor, and read only; a schema that is not ours to the letter is refused, and so are views,
triggers and virtual tables, which could run what somebody has put into them (sqlite.org/security.html, wal.html).
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
import zlib
from heapq import merge
from operator import itemgetter

from mematlas.analysis.results import VmaUsage
from mematlas.errors import Error, FormatError, TargetNotFound
from mematlas.kernel.maps import KINDS
from mematlas.kernel.procfs import MACHINE
from mematlas.kernel.threads import SAVED
from mematlas.model.machine import KEYS
from mematlas.notes import Note
from mematlas.observe.moments import TEXTS, WORDS
from mematlas.observe.recorded import SOURCES
from mematlas.timeline.encoding import MOST_DELTAS
from mematlas.timeline.recorded_rows import (
    LAST_PEAK,
    MOST_RSS,
    PROCESSES,
    VMAS_AT,
    RecordedProcess,
    RecordedUsage,
    amount_at,
    column,
    vma_of,
)
from mematlas.timeline.recording_files import MOST_TEXT, RecordingFiles, connect, copy_of_now, settle
from mematlas.timeline.ring import Kept
from mematlas.timeline.schema import (
    AMOUNTS,
    APPLICATION_ID,
    FAULTS,
    OF_A_LOOK,
    OF_MACHINE,
    VERSION,
    statements,
    unsigned,
)
from mematlas.timeline.watch import HELD, TABLES
from mematlas.timeline.words import changed, changes, empty, together, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Self

    from mematlas.arrays import Words
    from mematlas.timeline.words import Sparse

MOST_SECONDS = 1e11
"""Beyond which no time is one: 3,000 years."""
MOST_HELD = 256 << 20
"""Bytes of texts and data that a question is answered with."""
FEW = 64
"""Rows that are fetched together."""
MOST_PROCESSES = 1 << 16
MOST_MOMENTS = 1 << 22
MOST_VMAS = 1 << 18
MOST_PARTS = 1 << 10
"""Of one file: 1 GiB, packed."""
MOST_FILE = 64 << 20
"""Bytes of a text."""
FILES = frozenset((*TEXTS, *WORDS, SAVED, MACHINE, TABLES))
"""Files that are recorded as a capture has them."""
STEPS = 100_000
"""Instructions of SQLite's between two looks at the clock."""
DEADLINE = 60.0
"""Seconds that all questions together may take."""
MOST_NOTES = 1000
ALWAYS = ("nr_pages", *FAULTS)
"""Amounts that are always known."""
NEARLY = 0.05
"""Seconds by which a look may be after a time in tenths, as times are shown: who names one of these means that look."""
TINY = 1e-6
"""Seconds that are lost where a time is written in microseconds, or parsed."""
END = float("inf")


class Recording:
    """A recording, open.

    >>> with Recording("shop.mematlas") as recording:  # doctest: +SKIP
    ...     [process.name for process in recording.processes()]
    ['redis-server']

    Raises:
        TargetNotFound: there is no such file.
        FormatError: it is no recording, or one of another version.
    """

    def __init__(self, path: str | RecordingFiles, is_private: bool = False) -> None:
        """Open a recording by its path, or by its files, which are taken over.

        With ``is_private`` a copy of it is read, for who could not open the files again, unless they are connected to.
        """
        files = RecordingFiles(path) if isinstance(path, str) else path
        self.path = files.path
        self._files = files
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._database: sqlite3.Connection | None = None
        self._spent = self._start = 0.0
        self._elapsed: dict[int, float] = {}
        """When moments were that were asked for: most are asked for of each process."""
        try:
            self._settle(is_private)
            self._database = files.database or connect(files.fd, self.path)
            self._check()
            self.facts = dict(self._rows("SELECT key, value FROM recording LIMIT 1000"))
            """What was said of it at its start: the machine, what was asked for."""
            (row,) = self._rows("SELECT count(*), min(id), max(id), max(elapsed), sum(cpu_s) FROM moment")
            self.nr_moments, self.first, self.last = row[0], row[1] or 1, row[2] or 0
            """How many moments there are, and the numbers of the first and the last: of a ring not from 1 on."""
            keep = self.fact("keep")
            is_ring = isinstance(keep, int | float) and 0 < keep < MOST_SECONDS
            least = self.first if is_ring and self.first > 0 else 1
            if self.nr_moments != self.last - least + 1:
                raise FormatError(self.path, expected="moments that are numbered")
            last, self.cpu_s = (self._seconds(value or 0.0) for value in row[3:])
            self.began = self.when(self.first)[1] if self.nr_moments else 0.0
            """When it began, in seconds after 1970; and what looking took of processors."""
            self._start = self.elapsed(self.first) if self.nr_moments else 0.0
            self.seconds = self._since(last)
            """How long it is."""
            self.kept = self._kept(float(keep) if is_ring else None)
            """What of all moments it has."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._database:
            self._database.close()
            self._database = None
        self._files.close()
        if self._copies:
            self._copies.cleanup()
            self._copies = None

    def _settle(self, is_private: bool) -> None:
        """Have all in one file: of one whose writer was killed a part is beside it, and is put into it, or a copy."""
        files = self._files
        if files.database or (files.log < 0 and not is_private):
            return
        path = self.path
        if files.log >= 0 and not files.are_of_a_recording:
            # Of another program's database nothing is changed, be it to find out what it is.
            raise FormatError(self.path, expected="a recording of mematlas")
        if is_private or not files.are_ours or not settle(path, self.path):
            # It is not ours to change, or is being written: what is read is of one time.
            try:
                self._copies = tempfile.TemporaryDirectory(prefix="mematlas-")
            except OSError as error:
                raise Error(f"{self.path}: a temporary directory for a copy: {error.strerror} (TMPDIR)") from None
            path = f"{self._copies.name}/copy"
            copy_of_now(files, path, is_private)
        files.reopen(path)

    def _check(self) -> None:
        """Refuse what is no recording of ours."""
        numbers = [self._rows(f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version")]
        if numbers[0] != APPLICATION_ID:
            raise FormatError(self.path, expected="a recording of mematlas")
        if numbers[1] != VERSION:
            raise FormatError(self.path, expected=f"a recording of version {VERSION}")
        found = self._rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 100")
        if sorted(sql for (sql,) in found) != sorted(statements()):
            raise FormatError(self.path, expected="the tables of a recording, and no others")

    def _rows(self, sql: str, *values: object) -> list[Any]:
        """Return the rows that a statement of ours selects.

        Raises:
            FormatError: the file is not what it should be.
            Error: that took too long.
        """
        return list(self._stream(sql, *values))

    def _stream(self, sql: str, *values: object) -> Iterator[Any]:
        """Yield the rows that a statement of ours selects; of what they hold no more is in memory than `MOST_HELD`.

        Raises:
            FormatError: the file is not what it should be, or has more of it.
            Error: that took too long.
        """
        assert self._database
        began = time.monotonic()
        end = began + DEADLINE - self._spent
        self._database.set_progress_handler(lambda: time.monotonic() > end, STEPS)
        held = 0
        try:
            cursor = self._database.execute(sql, values)
            while rows := cursor.fetchmany(FEW if held else 1):
                held += sum(len(value) for row in rows for value in row if type(value) in (str, bytes))
                if held > MOST_HELD:
                    raise FormatError(self.path, expected=f"at most {MOST_HELD >> 20} MiB of names")
                held = held or 1
                yield from rows
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise Error(f"{self.path}: reading it took longer than {DEADLINE:.0f} s") from None
            raise FormatError(self.path, expected=f"a recording ({error})") from None
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise FormatError(self.path, expected=f"a recording ({error})") from None
        finally:
            self._spent += time.monotonic() - began

    # What is in it

    def fact(self, key: str) -> Any:
        """Return what it says of itself: a text, a number, or None."""
        import json

        try:
            value = json.loads(self.facts.get(key) or "null", parse_constant=lambda _: None)
        except (ValueError, RecursionError, TypeError):
            return None
        if isinstance(value, str):
            return value[:MOST_TEXT]
        return value if isinstance(value, int | float) else None

    @property
    def machine(self) -> dict[str, Any]:
        """The machine that it is of, by name."""
        return {key: self.fact(key) for key in KEYS}

    def processes(self, most: int = MOST_PROCESSES) -> list[RecordedProcess]:
        """Return the processes, those first that had the most RSS; so many at the most."""
        rows = self._rows(f"{PROCESSES} ORDER BY {MOST_RSS} DESC, id LIMIT ?", most)
        return [self._process(row) for row in rows]

    @property
    def nr_processes(self) -> int:
        """How many processes there are in it."""
        nr: int = self._rows("SELECT count(*) FROM process")[0][0]
        return nr

    def _process(self, row: Sequence[Any]) -> RecordedProcess:
        kinds = ((int,), (int,), (int,), (str,), (str,), (int,), (int, type(None)))
        fits = all(type(value) in kind for value, kind in zip(row, kinds, strict=True))
        if not fits or max(map(len, row[3:5])) > MOST_TEXT or not self._are_moments(*row[5:]):
            raise FormatError(self.path, expected="a process")
        return RecordedProcess(*row)

    def _are_moments(self, first: int, end: int | None) -> bool:
        """Whether these are moments that a process was first seen at, and was no more at."""
        return self.first <= first <= self.last and (end is None or first < end <= self.last)

    def elapsed(self, moment: int) -> float:
        """Return how long after the first moment another one was."""
        if moment not in self._elapsed:
            rows = self._rows("SELECT elapsed FROM moment WHERE id = ?", moment)
            if not rows:
                raise FormatError(self.path, expected=f"a moment {moment}")
            self._elapsed[moment] = self._seconds(rows[0][0])
        return self._since(self._elapsed[moment])

    def _since(self, value: object) -> float:
        """Return how long after the first moment that is there a time is that was recorded."""
        return self._seconds(self._seconds(value) - self._start)

    def _kept(self, keep: float | None) -> Kept:
        """Return what of all moments is in it, which is a ring with ``keep``."""
        condition = self.fact("when")
        if not isinstance(condition, str):
            return Kept(keep)
        rows = self._rows("SELECT min(moment) FROM event WHERE kind = ?", HELD)
        return Kept(keep, condition, None if rows[0][0] is None else self.elapsed(rows[0][0]))

    def _seconds(self, value: object) -> float:
        """Return a time that was recorded."""
        if not isinstance(value, int | float) or not 0 <= value < MOST_SECONDS:
            raise FormatError(self.path, expected="a time in seconds")
        return float(value)

    def _amount(self, value: object) -> int:
        """Return an amount that was recorded: SQLite would take anything in its place."""
        if type(value) is not int or value < 0:
            raise FormatError(self.path, expected="a number where an amount should stand")
        return value

    def peak_rss(self, process: RecordedProcess) -> tuple[int, float] | None:
        """Return the most RSS, and when it first was that much; None where it was never known."""
        rows = self._rows(
            f"SELECT rss, at FROM peak WHERE process = ?1 UNION ALL SELECT rss, moment FROM usage"
            f" WHERE process = ?1 AND moment > {LAST_PEAK.format('?1')} AND rss IS NOT NULL"
            " ORDER BY rss DESC, 2 LIMIT 1",
            process.number,
        )
        return (self._amount(rows[0][0]), self.elapsed(rows[0][1])) if rows else None

    def most(self, process: RecordedProcess, measure: str) -> int | None:
        """Return the most of a measure at any moment; None where it was never known."""
        if measure == "rss":
            peak = self.peak_rss(process)
            return peak[0] if peak else None
        name = column(measure)
        rows = self._rows(f'SELECT max("{name}") FROM usage WHERE process = ?', process.number)
        return None if rows[0][0] is None else self._amount(rows[0][0])

    def last_moment(self, process: RecordedProcess) -> int:
        """Return the last moment that a process was seen at."""
        return process.end - 1 if process.end else self.last

    def vmas_at(self, process: RecordedProcess, moment: int) -> list[VmaUsage]:
        """Return the VMAs of a process at a moment, in address order; none where they were not recorded."""
        rows = self._rows(VMAS_AT, moment, process.number, moment, moment, MOST_VMAS + 1)
        if len(rows) > MOST_VMAS:
            raise FormatError(self.path, expected=f"at most {MOST_VMAS:,} VMAs of a process")
        vmas = [vma_of(self.path, row) for row in rows]
        return sorted(vmas, key=lambda item: item.start)

    def vmas_of(self, process: RecordedProcess) -> dict[int, tuple[str, str, int]]:
        """Return the kind, the path and the size of each VMA that a process had at any moment, by its number."""
        found = {}
        for number, start, end, kind, path in self._stream(
            'SELECT id, start, "end", kind, path FROM vma WHERE process = ?', process.number
        ):
            are_numbers = type(start) is int and type(end) is int and unsigned(start) < unsigned(end)
            if not are_numbers or kind not in KINDS or type(path) is not str or len(path) > MOST_TEXT:
                raise FormatError(self.path, expected="a VMA")
            found[number] = kind, path, unsigned(end) - unsigned(start)
        return found

    def vma_changes(self, process: RecordedProcess) -> Iterator[tuple[int, int, tuple[int | None, ...] | None]]:
        """Yield what has changed of the VMAs of a process, in order: the moment, the number of the VMA, and its RSS,
        its swap and its accessed pages from then on; None where it is no more.
        """
        of_process = "JOIN vma ON vma.id = vma WHERE process = ?"
        columns = ", ".join(f'"{name}"' for name in ("rss", "swap", "nr_accessed"))
        ends = self._stream(
            f"SELECT vma_end.moment, vma FROM vma_end {of_process} ORDER BY vma_end.moment", process.number
        )
        amounts = self._stream(
            f"SELECT vma_usage.moment, vma, {columns} FROM vma_usage {of_process} ORDER BY vma_usage.moment",
            process.number,
        )
        for moment, number, *values in merge(*map(self._with_moments, (ends, amounts)), key=itemgetter(0)):
            known = tuple(None if value is None else self._amount(value) for value in values)
            yield moment, number, known or None

    def _with_moments(self, rows: Iterator[Any]) -> Iterator[Any]:
        """Yield rows that begin with a moment, and can be put in order."""
        for row in rows:
            if type(row[0]) is not int:
                raise FormatError(self.path, expected="a moment")
            yield row

    def moment_at(self, seconds: float) -> int:
        """Return the last moment at or before so many seconds after the first; `END` is the last of all.

        Raises:
            TargetNotFound: that is outside the recording.
        """
        if not self.nr_moments:
            raise TargetNotFound(f"{self.path} holds no moment")
        is_in_tenths = seconds != END and abs(seconds * 10 - round(seconds * 10)) < TINY
        nearly = NEARLY if is_in_tenths else TINY
        if not 0 <= seconds <= self.seconds + nearly and seconds != END:
            text = f"{seconds:.10g} s is outside: {self.path} is {self.seconds:.1f} s long"
            raise TargetNotFound(f"{text}; try @0s to @{self.seconds:.1f}s, or @end")
        # Not the look after, where looks come that fast.
        late = min(nearly, self.seconds / max(self.nr_moments - 1, 1) / 4)
        rows = self._rows("SELECT max(id) FROM moment WHERE elapsed <= ?", self._start + seconds + late)
        if type(rows[0][0]) is not int:
            raise FormatError(self.path, expected="a first moment")
        return int(rows[0][0])

    def processes_at(self, moment: int) -> list[RecordedProcess]:
        """Return the processes that there were at a moment, by their PIDs."""
        rows = self._rows(
            f"{PROCESSES} WHERE process.moment <= ? AND (process_end.moment IS NULL OR process_end.moment > ?)"
            " ORDER BY pid LIMIT ?",
            moment,
            moment,
            MOST_PROCESSES,
        )
        return [self._process(row) for row in rows]

    def when(self, moment: int) -> tuple[float, float]:
        """Return when a moment was: seconds after the first, and after 1970."""
        rows = self._rows("SELECT elapsed, time FROM moment WHERE id = ?", moment)
        if not rows:
            raise FormatError(self.path, expected=f"a moment {moment}")
        return self._since(rows[0][0]), self._seconds(rows[0][1])

    def times(self) -> list[float]:
        """Return when each moment was: seconds after the first."""
        rows = self._rows("SELECT id, elapsed FROM moment ORDER BY id LIMIT ?", MOST_MOMENTS)
        times = [self._since(row[1]) for row in rows]
        if times != sorted(times):
            raise FormatError(self.path, expected="moments one after the other")
        return times

    def cost_at(self, moment: int) -> tuple[float, float]:
        """Return what a look took of processors, and of the target's time, in seconds."""
        rows = self._rows("SELECT cpu_s, stall_s FROM moment WHERE id = ?", moment)
        if not rows:
            raise FormatError(self.path, expected=f"a moment {moment}")
        return self._seconds(rows[0][0]), self._seconds(rows[0][1])

    def holds(self, what: str) -> bool:
        """Whether something was to be recorded, such as ``vmas``."""
        import json

        try:
            return what in json.loads(self.facts.get("what") or "[]")
        except (ValueError, RecursionError, TypeError):
            return False

    def events(self, first: int, last: int) -> list[tuple[int, RecordedProcess | None, str, str]]:
        """Return what has happened by the moments from one to another: at which, and to which process."""
        rows = self._rows(
            "SELECT moment, process, kind, text FROM event WHERE moment BETWEEN ? AND ? ORDER BY moment LIMIT ?",
            first,
            last,
            MOST_PROCESSES,
        )
        processes = {one.number: one for one in self.processes()} if rows else {}
        for _, _, kind, text in rows:
            if type(kind) is not str or type(text) is not str or max(len(kind), len(text)) > MOST_TEXT:
                raise FormatError(self.path, expected="an event")
        return [(moment, processes.get(number), kind, text) for moment, number, kind, text in rows]

    def usage_at(self, process: RecordedProcess, moment: int) -> RecordedUsage | None:
        """Return what was known of a process at a moment; None where it was not there yet."""
        columns = ", ".join(f'"{name}"' for name in (*AMOUNTS, "source", "duration_s", "torn", "moment"))
        rows = self._rows(
            f"SELECT {columns} FROM usage WHERE process = ? AND moment <= ? ORDER BY moment DESC LIMIT 1",
            process.number,
            moment,
        )
        if not rows:
            return None
        *amounts, source, seconds, torn, at = rows[0]
        known = {
            name: None if size is None else self._amount(size) for name, size in zip(AMOUNTS, amounts, strict=True)
        }
        if (
            source not in SOURCES
            or torn not in (0, 1)
            or type(at) is not int
            or None in (known[name] for name in ALWAYS)
        ):
            raise FormatError(self.path, expected="how a process was read")
        return RecordedUsage(source, self._seconds(seconds), bool(torn), known, tuple(self._notes(process, moment, at)))

    def amounts_at(self, measure: str, moments: Sequence[int]) -> dict[int, dict[tuple[int, int], int | None]]:
        """Return an amount of each process at some moments, by the moment, the PID and the start."""
        found: dict[int, dict[tuple[int, int], int | None]] = {}
        for moment in dict.fromkeys(moments):
            rows = self._stream(amount_at(measure), moment, MOST_PROCESSES)
            found[moment] = {(pid, start): None if size is None else self._amount(size) for pid, start, size in rows}
        return found

    # Files

    def names_at(self, process: RecordedProcess, moment: int) -> list[str]:
        """Return the names of the files that were recorded of a process up to a moment."""
        rows = self._rows(
            "SELECT DISTINCT name FROM file WHERE process = ? AND moment <= ? LIMIT 100", process.number, moment
        )
        if not all(name in FILES for (name,) in rows):
            raise FormatError(self.path, expected="files of a capture")
        return [name for (name,) in rows]

    def text_at(self, process: RecordedProcess | None, name: str, moment: int) -> bytes | None:
        """Return a text as it was at a moment, of a process or of the machine; None where there was none then."""
        number = process.number if process else OF_MACHINE
        rows = self._rows(
            "SELECT max(moment) FROM file WHERE process = ? AND name = ? AND moment <= ?", number, name, moment
        )
        if (at := rows[0][0]) is None:
            return None
        packed = self._data(number, name, at)
        if not packed:
            return None
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(packed, MOST_FILE + 1)
        except zlib.error:
            raise FormatError(self.path, expected=f"{name}, packed") from None
        if len(text) > MOST_FILE or not unpacker.eof:
            raise FormatError(self.path, expected=f"a {name} of at most {MOST_FILE >> 20} MiB")
        return text

    def words_at(self, process: RecordedProcess, name: str, moment: int) -> Sparse | None:
        """Return a file of words as it was at a moment; None where it was not recorded by then."""
        of_file = (process.number, name)
        rows = self._rows(
            "SELECT max(moment) FROM file WHERE process = ? AND name = ? AND base IS NULL AND moment <= ?",
            *of_file,
            moment,
        )
        if (first := rows[0][0]) is None:
            if name in self.names_at(process, moment):
                raise FormatError(self.path, expected=f"a {name} that is whole")
            return None
        steps = self._rows(
            "SELECT moment, base FROM file WHERE process = ? AND name = ? AND part = 0 AND moment BETWEEN ? AND ?"
            " ORDER BY moment LIMIT ?",
            *of_file,
            first,
            moment,
            MOST_DELTAS + 2,
        )
        whole, delta, before = empty(), empty(), None
        for at, base in steps:
            if base != before or len(steps) > MOST_DELTAS + 1:
                raise FormatError(self.path, expected="changes one after the other")
            try:
                found = unpack(self._data(process.number, name, at))
            except FormatError as error:
                raise FormatError(self.path, place=f"{name}, moment {at}", expected=error.expected) from None
            # All of it is gone through once: what has changed is little, and put together first.
            whole, delta = (found, delta) if before is None else (whole, together(delta, found))
            before = at
        return changed(whole, delta)

    def changed_words(self, process: RecordedProcess, name: str, after: int, last: int) -> Iterator[tuple[int, Words]]:
        """Yield at which moments after one, and up to another, words of a file have changed, and where."""
        sql = "SELECT moment, base FROM file WHERE process = ? AND name = ? AND part = 0 AND moment > ? AND moment <= ?"
        for moment, base in self._rows(f"{sql} ORDER BY moment", process.number, name, after, last):
            if base is not None:
                yield moment, unpack(self._data(process.number, name, moment)).indexes
            elif before := self.words_at(process, name, moment - 1):
                yield moment, changes(before, unpack(self._data(process.number, name, moment))).indexes

    def _data(self, number: int, name: str, moment: int) -> bytes:
        """Return what was recorded of a file, of the process of a number, at a moment."""
        rows = self._rows(
            "SELECT part, data FROM file WHERE process = ? AND name = ? AND moment = ? ORDER BY part LIMIT ?",
            number,
            name,
            moment,
            MOST_PARTS + 1,
        )
        are_parts = all(row[0] == number and type(row[1]) is bytes for number, row in enumerate(rows))
        if not are_parts or len(rows) > MOST_PARTS:
            raise FormatError(self.path, expected=f"{name} in parts")
        return b"".join(data for _, data in rows)

    # Of the machine

    def counter_at(self, name: str, moment: int) -> int | None:
        """Return a counter of the machine at a moment; None where there was none by then."""
        rows = self._rows(
            "SELECT value FROM counter WHERE name = ? AND moment <= ? ORDER BY moment DESC LIMIT 1", name, moment
        )
        return self._counter(rows[0][0]) if rows else None

    def counter_changes(self, name: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield at which moments after one, and up to another, a counter of the machine has changed, and to what."""
        sql = "SELECT moment, value FROM counter WHERE name = ? AND moment > ? AND moment <= ?"
        for moment, value in self._rows(sql, name, first, last):
            yield moment, self._counter(value)

    def counter_range(self, name: str) -> tuple[int, int]:
        """Return the least and the most that a counter was at any moment."""
        ((least, most),) = self._rows("SELECT min(value), max(value) FROM counter WHERE name = ?", name)
        return self._counter(least), self._counter(most)

    def _counter(self, value: object) -> int:
        if type(value) is not int:
            raise FormatError(self.path, expected="a counter")
        return unsigned(value)

    # Amounts

    def _notes(self, process: RecordedProcess, moment: int, looked: int) -> Iterator[Note]:
        """Yield what was said of a process up to a moment: of single looks at that which its amounts are of."""
        sql = "SELECT moment, code, text FROM note WHERE process = ? AND moment <= ? LIMIT ?"
        for at, code, text in self._rows(sql, process.number, moment, MOST_NOTES):
            if code in OF_A_LOOK and at != looked:
                continue
            if type(code) is not str or type(text) is not str or max(len(code), len(text)) > MOST_TEXT:
                raise FormatError(self.path, expected="a note")
            yield Note.again(code, text)

    def row_at(self, process: RecordedProcess, measures: Sequence[str], moment: int) -> tuple[int | None, ...] | None:
        """Return amounts of a process at a moment; None where it was not there yet."""
        names = ", ".join(f'"{column(measure)}"' for measure in measures)
        sql = f"SELECT {names} FROM usage WHERE process = ? AND moment <= ? ORDER BY moment DESC LIMIT 1"
        rows = self._rows(sql, process.number, moment)
        return tuple(None if amount is None else self._amount(amount) for amount in rows[0]) if rows else None

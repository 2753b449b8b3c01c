"""Moments as rows of `mematlas.timeline.schema`: what is the same as before is left out."""

from __future__ import annotations

import os
import zlib

from mematlas.analysis.measures import amounts_of
from mematlas.frozen import as_dict
from mematlas.timeline.schema import AMOUNTS, AMOUNTS_OF_VMA, OF_MACHINE, PEAK_EVERY, signed
from mematlas.timeline.watch import EXIT, HIDDEN
from mematlas.timeline.words import Followed, changes, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.results import VmaUsage
    from mematlas.kernel.maps import Vma
    from mematlas.timeline.sampler import Snapshot
    from mematlas.timeline.watch import Files, Happening, Look, Seen
    from mematlas.timeline.words import Sparse

    Row = tuple[Any, ...]
    Rows = dict[str, list[Row]]

MOST_DELTAS = 31
"""How often what has changed is recorded, before all of a file is again: whoever reads it goes through these."""
PART = 1 << 20
"""Bytes of a file in one row."""
ENDS = (EXIT, HIDDEN)
"""What happens to a process of which nothing more is known then."""


def as_text(text: str) -> str:
    """Return a text as UTF-8 can have it: bytes of a name that are none stand as U+FFFD."""
    return os.fsencode(text).decode("utf-8", "replace")


class Known:
    """What was recorded of a process so far."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.amounts: Row = ()
        self.vmas: dict[Row, tuple[int, Row]] = {}
        """Each VMA that is there, by what it is: its number, and what is in it."""
        self.items: dict[int, tuple[VmaUsage, Row]] = {}
        """Each as it was seen last, by its start, with what it is."""
        self.notes: set[tuple[str, str]] = set()
        self.texts: dict[str, bytes] = {}
        """The texts of its files, by their names."""
        self.words: dict[str, Chain] = {}
        self.peak: tuple[int, int] | None = None
        """The most RSS since that was recorded, and at which moment; None where it is not known."""


class Chain:
    """A file of words, as it was at the last moment that it has changed at."""

    def __init__(self, moment: int, words: Sparse | Followed) -> None:
        self.moment = moment
        self.words = words
        self.nr_deltas = 0
        """Since it was recorded as a whole."""

    def changes(self, words: Sparse | Followed) -> Sparse | None:
        """Return what has changed since; None where that is not known."""
        if isinstance(words, Followed):
            # Of what has followed on one another all that has changed was recorded.
            follows_on = isinstance(self.words, Followed) and self.words.number == words.number - 1
            return words.delta if follows_on else None
        return None if isinstance(self.words, Followed) else changes(self.words, words)


class Encoder:
    """Turns moments into rows. It keeps what was at the moment before, and no more.

    A VMA that is other than before in anything but what is in it, as a heap that grows, is another VMA.
    """

    def __init__(self, with_peaks: bool = True) -> None:
        """Without ``with_peaks`` no moment is told of together with others, for who takes single ones away."""
        self._with_peaks = with_peaks
        self.nr_moments = 0
        self.nr_processes = 0
        """How many were there, one after the other."""
        self._nr_names = 0
        self._nr_vmas = 0
        self._known: dict[tuple[int, int], Known] = {}
        self._counters: dict[str, int] = {}
        self._texts: dict[str, bytes] = {}
        """Of the machine, by their names."""

    def rows_of(self, snapshot: Snapshot[Look]) -> Rows:
        """Return the rows that a moment adds, by table."""
        self.nr_moments += 1
        moment = self.nr_moments
        rows: Rows = {}
        cost = snapshot.cost
        add(rows, "moment", (moment, snapshot.time, snapshot.elapsed, cost.cpu_s, cost.stall_s))
        self._add_machine(rows, moment, snapshot.found)
        for seen in snapshot.found.seen:
            self._add_process(rows, moment, seen)
        for happening in snapshot.found.happenings:
            self._add_happening(rows, moment, happening)
        if self._with_peaks and moment % PEAK_EVERY == 0:
            self._add_peaks(rows, moment)
        return rows

    def _add_peaks(self, rows: Rows, moment: int) -> None:
        """Add the most RSS of each process since that was last recorded."""
        for known in self._known.values():
            if known.peak:
                add(rows, "peak", (known.number, moment, *known.peak))
            known.peak = None

    def _add_machine(self, rows: Rows, moment: int, look: Look) -> None:
        before, self._counters = self._counters, look.counters
        for name, value in look.counters.items():
            if before.get(name) != value:
                add(rows, "counter", (name, moment, signed(value)))
        if look.ram is not None:
            from mematlas.observe import recorded_ram

            self._add_text(rows, moment, recorded_ram.NAME, recorded_ram.to_save(look.ram))
        if look.cache is not None:
            from mematlas.observe import recorded_cache

            self._add_text(rows, moment, recorded_cache.NAME, recorded_cache.to_save(look.cache))

    def _add_text(self, rows: Rows, moment: int, name: str, text: bytes) -> None:
        """Add a text that is of the machine, unless it is as it was."""
        if self._texts.get(name) != text:
            self._texts[name] = text
            add_file(rows, (OF_MACHINE, name, moment), None, zlib.compress(text))

    def _add_process(self, rows: Rows, moment: int, seen: Seen) -> None:
        key = seen.pid, seen.start_time
        known = self._known.get(key)
        if known is None or known.name != seen.name:
            # An exec changes the name: what it was is over, and the process goes on as another row.
            if known:
                self._end(rows, moment, known, "has another name now")
            else:
                self.nr_processes += 1
            self._nr_names += 1
            known = self._known[key] = Known(self._nr_names, seen.name)
            names = as_text(seen.name), as_text(seen.target)
            add(rows, "process", (known.number, seen.pid, seen.start_time, *names, moment))
        amounts = amounts_of(seen.usage) | {"minor_faults": seen.faults.minor, "major_faults": seen.faults.major}
        rss = seen.usage.rss
        if rss is not None and (known.peak is None or rss > known.peak[0]):
            known.peak = rss, moment
        reading = seen.usage.reading
        row = (*map(amounts.get, AMOUNTS), reading.source)
        if (*row, reading.torn) != known.amounts:
            known.amounts = (*row, reading.torn)
            add(rows, "usage", (known.number, moment, *row, reading.duration_s, int(reading.torn)))
        for note in reading.notes:
            if (note.code, note.text) not in known.notes:
                known.notes.add((note.code, note.text))
                add(rows, "note", (moment, known.number, note.code, as_text(note.text)))
        if seen.vmas is not None:
            self._add_vmas(rows, moment, known, seen.vmas)
        if seen.files is not None:
            self._add_files(rows, moment, known, seen.files)

    def _add_vmas(self, rows: Rows, moment: int, known: Known, vmas: list[VmaUsage]) -> None:
        before, known.vmas = known.vmas, {}
        items, known.items = known.items, {}
        for item in vmas:
            seen, what = items.get(item.vma.start, (None, ()))
            if seen is item and what in before:  # nobody has looked at it again: it is not even read
                known.vmas[what], known.items[item.vma.start] = before.pop(what), (item, what)
                continue
            what = what_is(item.vma)
            amounts = as_dict(item.usage)
            content = (*map(amounts.get, AMOUNTS_OF_VMA), item.nr_accessed, item.nr_dirty)
            number, content_before = before.pop(what, (0, ()))
            if not number:
                self._nr_vmas += 1
                number = self._nr_vmas
                add(rows, "vma", (number, known.number, moment, *what))
            if content != content_before:
                add(rows, "vma_usage", (number, moment, *content))
            known.vmas[what], known.items[item.vma.start] = (number, content), (item, what)
        for number, _ in before.values():
            add(rows, "vma_end", (number, moment))

    def _add_files(self, rows: Rows, moment: int, known: Known, files: Files) -> None:
        """Add what has changed of files: of texts all, of words those that have changed."""
        for name, text in files.texts.items():
            if known.texts.get(name) != text:
                known.texts[name] = text
                add_file(rows, (known.number, name, moment), None, zlib.compress(text))
        for name in known.texts.keys() - files.texts.keys():
            del known.texts[name]
            add_file(rows, (known.number, name, moment), None, b"")
        for name, words in files.words.items():
            chain = known.words.get(name)
            delta = None if chain is None or chain.nr_deltas == MOST_DELTAS else chain.changes(words)
            if chain is None or delta is None:
                known.words[name] = Chain(moment, words)
                whole = words.whole() if isinstance(words, Followed) else words
                add_file(rows, (known.number, name, moment), None, pack(whole))
                continue
            chain.words = words
            if len(delta):
                add_file(rows, (known.number, name, moment), chain.moment, pack(delta))
                chain.moment = moment
                chain.nr_deltas += 1

    def _add_happening(self, rows: Rows, moment: int, happening: Happening) -> None:
        known = self._known.get((happening.pid, happening.start_time))
        add(rows, "event", (moment, known.number if known else None, happening.kind, as_text(happening.text)))
        if known and happening.kind in ENDS:
            self._end(rows, moment, known, happening.text)
            del self._known[happening.pid, happening.start_time]

    def _end(self, rows: Rows, moment: int, known: Known, why: str) -> None:
        add(rows, "process_end", (known.number, moment, as_text(why)))
        for number, _ in known.vmas.values():
            add(rows, "vma_end", (number, moment))


def what_is(vma: Vma) -> Row:
    """Return the columns that say what a VMA is."""
    return (
        *(signed(vma.start), signed(vma.end), vma.perms, signed(vma.offset), vma.dev, signed(vma.inode)),
        *(as_text(vma.path), vma.kind),
    )


def add_file(rows: Rows, key: tuple[int, str, int], base: int | None, data: bytes) -> None:
    """Add a file, in parts that a reader takes."""
    for part in range(max(-(-len(data) // PART), 1)):
        add(rows, "file", (*key, part, base, data[part * PART : (part + 1) * PART]))


def add(rows: Rows, table: str, row: Row) -> None:
    """Add a row of a table."""
    rows.setdefault(table, []).append(row)

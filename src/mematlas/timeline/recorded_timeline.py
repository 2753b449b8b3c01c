"""A recording, asked as what is watched live is: with the same answers, see `mematlas.timeline.timeline`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from mematlas.analysis.counters import COUNTERS
from mematlas.analysis.measures import result_of
from mematlas.analysis.results import Reading
from mematlas.errors import NotSupported
from mematlas.kernel.status import Faults
from mematlas.model.who import NOT_KNOWN, WhoFinder
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.schema import FAULTS
from mematlas.timeline.timeline import PAGEMAP, WITH_PAGES, WITH_TABLES, last_before
from mematlas.timeline.watch import Happening, Look, Seen
from mematlas.timeline.words import Sparse, last_of_each
from mematlas.timeline.words import changes as changes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.analysis.cached import CacheResult
    from mematlas.analysis.frames import FramesResult
    from mematlas.analysis.pagetables.results import SummaryResult
    from mematlas.analysis.results import VmaUsage
    from mematlas.arrays import NDArray, Words, np
    from mematlas.model.who import Who
    from mematlas.timeline.recorded_rows import RecordedProcess
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.timeline import Amounts, Counted, Key

MOST_LAST = 4
"""Moments of a recording that are held."""
MOST_CGROUPS = 1 << 16
"""Bytes of the cgroups of a process that are looked at: a path has 4,096 at the most, of some ten hierarchies."""
MOST_LOOKED_BACK = 128
"""Moments of a recording in which is looked for when pages have changed last."""


class RecordedTimeline:
    """A recording, asked as what is watched live is.

    >>> with Recording("shop.mematlas") as recording:  # doctest: +SKIP
    ...     changes(RecordedTimeline(recording), 0, 30).processes[0].changes["rss"]
    8388608
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.times = recording.times()
        """When the moments are: seconds after the first."""
        self._last_pages: tuple[tuple[int, int], Sparse] | None = None
        """Of which process and moment pages were asked for last, and what they were."""
        self._last: dict[int, Snapshot[Look]] = {}
        """The moments that were asked for last, by their indexes: who draws them asks again."""
        self._finder = WhoFinder(are_ours=False)
        self._processes: dict[Key, list[RecordedProcess]] = {}

    def at(self, seconds: float) -> Snapshot[Look]:
        """Return the last moment at or before a time.

        Raises:
            TargetNotFound: that is outside.
        """
        index = last_before(self.times, seconds)
        moment = self._last.pop(index, None) or self._moment(index)
        self._last[index] = moment
        if len(self._last) > MOST_LAST:
            del self._last[next(iter(self._last))]
        return moment

    def between(self, first: float, last: float) -> Iterator[Snapshot[Look]]:
        """Yield the moments from one time to another, both included."""
        for index, elapsed in enumerate(self.times):
            if first <= elapsed <= last:
                yield self._moment(index)

    def counters(self, first: float, last: float) -> list[Counted]:
        """Return the counters of the machine at the moments from one time to another, each with when that was."""
        low, high = bisect_left(self.times, first), bisect_right(self.times, last)
        counted: list[Counted] = [(elapsed, {}) for elapsed in self.times[low:high]]
        start, end = self.recording.first + low, self.recording.first + high - 1
        for name in COUNTERS if counted else ():
            value = self.recording.counter_at(name, start)
            later = dict(self.recording.counter_changes(name, start, end))
            for number, (_, known) in enumerate(counted, start):
                value = later.get(number, value)
                if value is not None:
                    known[name] = value
        return counted

    def amounts(self, measure: str, times: Sequence[float]) -> list[Amounts]:
        """Return an amount of each process at some times, such as its ``uss``; of a time before the first, of none.

        Raises:
            NotSupported: no such amount is recorded.
        """
        moments = [self.recording.first + bisect_right(self.times, seconds) - 1 for seconds in times]
        known = self.recording.amounts_at(measure, [one for one in moments if one >= self.recording.first])
        return [known.get(moment, {}) for moment in moments]

    def happened(self, after: float, last: float) -> Iterator[Happening]:
        """Yield what has happened after one time, and up to another."""
        first, end = bisect_right(self.times, after), bisect_right(self.times, last)
        if first < end:
            yield from self._happenings(self.recording.first + first, self.recording.first + end - 1)

    def pages(self, seconds: float, pid: int) -> Sparse:
        """Return the pages of a process as they were at a time: entries of pagemap with our state bytes.

        Raises:
            TargetNotFound: that is outside.
            NotSupported: they are not recorded, or the process was not there.
        """
        number = self.recording.first + last_before(self.times, seconds)
        for process in self.recording.processes_at(number):
            if process.pid != pid:
                continue
            key = process.number, number
            if self._last_pages is None or self._last_pages[0] != key:
                words = self.recording.words_at(process, PAGEMAP, number)
                if words is None:
                    break
                self._last_pages = key, words
            return self._last_pages[1]
        raise NotSupported(f"single pages of process {pid}", WITH_PAGES)

    def changed_pages(self, pid: int, after: float, last: float) -> Words:
        """Return the numbers of the pages of a process that have changed after one time, and up to another, ascending.

        Raises:
            TargetNotFound, NotSupported: as `pages` does.
        """
        return changes_of(self.pages(after, pid), self.pages(last, pid)).indexes

    def tables_at(self, seconds: float, pid: int) -> SummaryResult:
        """Return how many page tables a process had at a time, and what they mapped.

        Raises:
            TargetNotFound: that is outside.
            NotSupported: they are not recorded, or the process was not there.
        """
        from mematlas.observe.recorded_tables import NAME, parse_tables

        number = self.recording.first + last_before(self.times, seconds)
        for process in self.recording.processes_at(number):
            if process.pid == pid and (text := self.recording.text_at(process, NAME, number)) is not None:
                return parse_tables(text)
        raise NotSupported(f"page tables of process {pid}", WITH_TABLES)

    def changed_at(self, pid: int, last: float) -> tuple[Words, NDArray[np.float64]]:
        """Return which pages of a process have changed up to a time, ascending, and when last: of so many moments back.

        Raises:
            TargetNotFound, NotSupported: as `pages` does.
        """
        end = last_before(self.times, last)
        number = self.recording.first + end
        self.pages(last, pid)
        process = next(one for one in self.recording.processes_at(number) if one.pid == pid)
        after = max(number - MOST_LOOKED_BACK, self.recording.first)
        parts = [
            (pages, self.times[moment - self.recording.first])
            for moment, pages in self.recording.changed_words(process, PAGEMAP, after, number)
        ]
        return last_of_each(parts)

    def series(self, who: Key, measures: Sequence[str], times: Sequence[float]) -> dict[str, list[int | None]]:
        """Return amounts of a process at the last moments at or before some times, by measure.

        None is what is not known, and what was when there was no such process, or no moment yet.
        """
        amounts: dict[str, list[int | None]] = {name: [] for name in measures}
        for at in times:
            number = self.recording.first + bisect_right(self.times, at) - 1
            process = self._process_at(who, number)
            row = self.recording.row_at(process, measures, number) if process else None
            for name, amount in zip(measures, row or [None] * len(measures), strict=True):
                amounts[name].append(amount)
        return amounts

    def vmas(self, seconds: float, who: Key) -> list[VmaUsage] | None:
        """Return the VMAs of a process as they were at a time; None where they are not recorded, or it was not there.

        Raises:
            TargetNotFound: that is outside.
        """
        number = self.recording.first + last_before(self.times, seconds)
        process = self._process_at(who, number) if self.recording.holds("vmas") else None
        return self.recording.vmas_at(process, number) if process else None

    def events(self, who: Key) -> list[tuple[float, Happening]]:
        """Return what has happened to a process in the recording, and when."""
        return [
            (self.recording.elapsed(moment), one)
            for moment, one in self._dated(self.recording.first, self.recording.last)
            if (one.pid, one.start_time) == who
        ]

    def _process_at(self, who: Key, number: int) -> RecordedProcess | None:
        """Return a process, if it was there at the moment of a number. One that was lost and found again is several."""
        if not self._processes:
            for process in self.recording.processes():
                self._processes.setdefault((process.pid, process.start_time), []).append(process)
        there = (one for one in self._processes.get(who, ()) if one.first <= number < (one.end or number + 1))
        return next(there, None)

    def _moment(self, index: int) -> Snapshot[Look]:
        """Return a moment."""
        recording = self.recording
        number = recording.first + index
        elapsed, at = recording.when(number)
        seen = [self._seen(process, number) for process in recording.processes_at(number)]
        counters = {name: value for name in COUNTERS if (value := recording.counter_at(name, number)) is not None}
        look = Look(
            tuple(filter(None, seen)),
            tuple(self._happenings(number, number)),
            counters,
            self._ram(number),
            self._cache(number),
        )
        return Snapshot(at, elapsed, look, Cost(*recording.cost_at(number)))

    def _seen(self, process: RecordedProcess, number: int) -> Seen | None:
        recording = self.recording
        found = recording.usage_at(process, number)
        if found is None:
            return None
        reading = Reading(found.source, found.duration_s, found.torn, found.notes)
        minor, major = (found.amounts[name] or 0 for name in FAULTS)  # never None, see `usage_at`
        vmas = recording.vmas_at(process, number) if recording.holds("vmas") else None
        return Seen(
            pid=process.pid,
            start_time=process.start_time,
            name=process.name,
            target=process.target,
            usage=result_of(found.amounts, reading),
            faults=Faults(minor, major),
            vmas=vmas,
            who=self._who(process, number),
        )

    def _who(self, process: RecordedProcess, number: int) -> Who:
        """Return who a process was, as far as its files tell that were recorded."""
        if not self.recording.holds("pages"):
            return NOT_KNOWN
        status, cgroups = (self.recording.text_at(process, name, number) for name in ("status", "cgroup"))
        text = None if cgroups is None else cgroups[:MOST_CGROUPS].decode("utf-8", "surrogateescape")
        return self._finder.of_status(status or b"", text)

    def _happenings(self, first: int, last: int) -> Iterator[Happening]:
        return (happening for _, happening in self._dated(first, last))

    def _dated(self, first: int, last: int) -> Iterator[tuple[int, Happening]]:
        """Yield what has happened by the moments from one to another, and at which."""
        for moment, process, kind, text in self.recording.events(first, last):
            if process is not None:
                yield moment, Happening(process.pid, process.start_time, kind, text)

    def _ram(self, number: int) -> FramesResult | None:
        from mematlas.observe.recorded_ram import NAME, parse_ram

        text = self.recording.text_at(None, NAME, number)
        return None if text is None else parse_ram(text)

    def _cache(self, number: int) -> CacheResult | None:
        from mematlas.observe.recorded_cache import NAME, parse_cache

        text = self.recording.text_at(None, NAME, number)
        return None if text is None else parse_cache(text)

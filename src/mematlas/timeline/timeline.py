"""Moments one after the other, as they are seen or as they were recorded: asked in the same way, with the same answers.
A recording answers in `mematlas.timeline.recorded_timeline`.

A live timeline holds what it has seen in a ring in memory. What is the same as at the moment before is held once. One
thread may look, while others ask.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from bisect import bisect_right
from collections import deque

from mematlas.analysis.difference import AMOUNTS, DiffResult, Side, matched, row_of, weight
from mematlas.errors import BadInput, NotSupported, PermissionDenied, TargetNotFound
from mematlas.frozen import Record, record, replace
from mematlas.notes import Note
from mematlas.timeline.sampler import BUDGET, Sampler, Snapshot
from mematlas.timeline.watch import Happening, Look, Seen
from mematlas.timeline.words import Sparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Protocol

    from mematlas.analysis.frame_owners import FrameOwners
    from mematlas.analysis.pagetables.results import MappedTables, RawTable, SummaryResult, WalkedAddress
    from mematlas.analysis.results import VmaUsage
    from mematlas.analysis.translation import Translation
    from mematlas.arrays import NDArray, Words, np
    from mematlas.timeline.held_pages import HeldPages
    from mematlas.timeline.watch import Watch

    Amounts = dict[tuple[int, int], int | None]
    """An amount of each process, by its PID and its start; None is "not known"."""
    Counted = tuple[float, dict[str, int]]
    """When a moment was, and the counters of the machine at it."""
    Key = tuple[int, int]
    """The PID of a process, and when it was started."""

    class Moments(Protocol):
        """What is asked of a timeline, be it `LiveTimeline` or `RecordedTimeline`."""

        @property
        def times(self) -> Sequence[float]:
            """When the moments are that it has: seconds after the first one that there was."""

        def at(self, seconds: float) -> Snapshot[Look]:
            """Return the last moment at or before a time."""

        def between(self, first: float, last: float) -> Iterator[Snapshot[Look]]:
            """Yield the moments from one time to another, both included."""

        def counters(self, first: float, last: float) -> list[Counted]:
            """Return the counters of the machine at the moments from one time to another, each with when that was."""

        def happened(self, after: float, last: float) -> Iterator[Happening]:
            """Yield what has happened after one time, and up to another."""

        def amounts(self, measure: str, times: Sequence[float]) -> list[Amounts]:
            """Return an amount of each process at some times; of a time before the first, of none."""

        def series(self, who: Key, measures: Sequence[str], times: Sequence[float]) -> dict[str, list[int | None]]:
            """Return amounts of a process at some times, by measure."""

        def vmas(self, seconds: float, who: Key) -> list[VmaUsage] | None:
            """Return the VMAs of a process as they were at a time."""

        def events(self, who: Key) -> list[tuple[float, Happening]]:
            """Return what has happened to a process, and when."""

        def pages(self, seconds: float, pid: int) -> Sparse:
            """Return the pages of a process as they were at a time."""

        def changed_pages(self, pid: int, after: float, last: float) -> Words:
            """Return the numbers of the pages of a process that have changed after one time, and up to another."""

        def tables_at(self, seconds: float, pid: int) -> SummaryResult:
            """Return how many page tables a process had at a time, and what they mapped."""

        def changed_at(self, pid: int, last: float) -> tuple[Words, NDArray[np.float64]]:
            """Return which pages of a process have changed up to a time, ascending, and when last."""


KEEP = 600.0
"""Seconds that are held, where nobody says otherwise."""
MOST_HELD = 1_000_000
"""Of all moments that are held: VMAs that have changed, of some 300 bytes each, and as much of anything else."""
IN_LIST = 36
"""VMAs whose places in a list take as much: a list with a single VMA that is another is another list."""
PAGEMAP = "pagemap"
WITH_PAGES, WITH_TABLES = "record --what pages", "record --what tables"
MOST_TABLES = 1 << 20
"""Of the last level that are looked at: 4 TiB of memory in full tables, and 80 MB of columns."""
OF_PROCESS = 5
"""What a process takes at a moment, be it as it was, in such amounts."""


@record
class Changes(Record):
    """What is different between two moments."""

    processes: tuple[DiffResult, ...]
    """Of each process that was there at both: single pages are not compared."""
    came: tuple[Seen, ...]
    """Those that were not there at the first, as they are at the second."""
    ended: tuple[Seen, ...]
    """Those that are not there at the second, as they were at the first."""
    happenings: tuple[Happening, ...]
    """What has happened in between, up to the second."""
    counters: dict[str, int]
    """By how much the counters of the machine have changed."""


@record
class Detail(Record):
    """What an address of a process is just now."""

    translation: Translation
    walk: WalkedAddress | None
    """How page tables lead there; None where they cannot be read."""
    owners: FrameOwners | None
    """Who has the frame; None where there is none, or frames are hidden."""
    notes: tuple[Note, ...]
    """Why something is not known."""


def changes(timeline: Moments, first: float, last: float) -> Changes:
    """Return what is different between the moments at two times, of a timeline of either sort.

    Raises:
        TargetNotFound: one of them is outside.
        BadInput: the second is before the first.
    """
    if last < first:
        raise BadInput(f"from {first:g} s to {last:g} s: the second is before the first")
    before, after = timeline.at(first), timeline.at(last)
    was, now = ({(one.pid, one.start_time): one for one in moment.found.seen} for moment in (before, after))
    counters = before.found.counters
    return Changes(
        processes=tuple(
            difference_of(was[key], one, after.elapsed - before.elapsed) for key, one in now.items() if key in was
        ),
        came=tuple(one for key, one in now.items() if key not in was),
        ended=tuple(one for key, one in was.items() if key not in now),
        happenings=tuple(timeline.happened(before.elapsed, after.elapsed)),
        counters={name: value - counters[name] for name, value in after.found.counters.items() if name in counters},
    )


def difference_of(before: Seen, after: Seen, seconds: float) -> DiffResult:
    """Return what is different of a process."""
    pairs = matched(before.vmas or [], after.vmas or [])
    rows = [row_of([one] if one else [], [other] if other else [], "vma", None) for one, other in pairs]
    different = sorted(filter(None, rows), key=weight, reverse=True)
    return DiffResult(
        before=side_of(before),
        after=side_of(after),
        is_same=True,
        by="vma",
        rows=tuple(different),
        nr_same=len(rows) - len(different),
        seconds=seconds,
        notes=after.usage.reading.notes,
    )


def side_of(seen: Seen) -> Side:
    """Return a process at a moment as one side of a comparison."""
    amounts = {name: getattr(seen.usage, name) for name in AMOUNTS}
    return Side(seen.pid, seen.name, seen.start_time, seen.target, amounts, seen.usage.reading.source)


def last_before(times: Sequence[float], seconds: float) -> int:
    """Return the number of the last of some times that is not after another.

    >>> last_before([0.0, 1.0, 2.0], 1.5)
    1

    Raises:
        TargetNotFound: there is none, or it is after the last.
    """
    if not times or not times[0] <= seconds <= times[-1]:
        has = f"it holds {times[0]:.1f} s to {times[-1]:.1f} s" if times else "it holds nothing yet"
        raise TargetNotFound(f"{seconds:g} s is outside: {has}")
    return bisect_right(times, seconds) - 1


def elapsed_of(moment: Snapshot[Look]) -> float:
    """Return when a moment was."""
    return moment.elapsed


def seen_of(moment: Snapshot[Look], who: Key) -> Seen | None:
    """Return a process as it was at a moment; None where it was not there."""
    return next((one for one in moment.found.seen if (one.pid, one.start_time) == who), None)


class LiveTimeline:
    """What is watched, as far back as a ring in memory reaches.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with Watch(["self"], ProcFS()) as watch:  # doctest: +SKIP
    ...     timeline = LiveTimeline(watch, interval=0.5)
    ...     for moment in timeline:
    ...         print(moment.elapsed, changes(timeline, 0, moment.elapsed).processes[0].changes["rss"])
    """

    def __init__(
        self,
        watch: Watch,
        interval: float = 1.0,
        duration: float | None = None,
        budget: float = BUDGET,
        keep: float = KEEP,
        rest: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Look as a `Sampler` does, each time that it is iterated, and hold ``keep`` seconds of it."""
        self.watch = watch
        self.keep = keep
        self.sampler: Sampler[Look] = Sampler(watch.look, interval, duration, budget, rest, clock=clock)
        self._moments: deque[tuple[Snapshot[Look], int]] = deque()
        """With how much each has that the one before has not."""
        self._nr_held = 0
        self._pages: dict[tuple[int, int], HeldPages] = {}
        """Of each process of which single pages are watched."""
        self._lock = allocate_lock()

    def __iter__(self) -> Iterator[Snapshot[Look]]:
        """Look again and again; yield each moment once it is held."""
        for snapshot in self.sampler:
            yield self._hold(snapshot)
            if self.watch.is_over:
                return

    def _hold(self, snapshot: Snapshot[Look]) -> Snapshot[Look]:
        """Hold a moment, and let go of those that are too old, or too many."""
        before = self._moments[-1][0].found if self._moments else None
        self._hold_pages(snapshot)
        look, nr_new = with_shared(snapshot.found, before)
        snapshot = replace(snapshot, found=look)
        with self._lock:
            self._moments.append((snapshot, nr_new))
            self._nr_held += nr_new
            while len(self._moments) > 1 and (
                self._nr_held > MOST_HELD or self._moments[0][0].elapsed < snapshot.elapsed - self.keep
            ):
                self._nr_held -= self._moments.popleft()[1]
            first = self._moments[0][0].elapsed
        for key, pages in list(self._pages.items()):
            pages.let_go_before(first)
            if pages.last < first:
                del self._pages[key]
        return snapshot

    def _hold_pages(self, snapshot: Snapshot[Look]) -> None:
        for one in snapshot.found.seen:
            words = one.files.words.get(PAGEMAP) if one.files else None
            if words is not None:
                from mematlas.timeline.held_pages import HeldPages

                self._pages.setdefault((one.pid, one.start_time), HeldPages()).add(snapshot.elapsed, words)

    @property
    def times(self) -> list[float]:
        """When the moments are that it holds: seconds after the first look."""
        with self._lock:
            return [snapshot.elapsed for snapshot, _ in self._moments]

    def pages(self, seconds: float, pid: int) -> Sparse:
        """Return the pages of a process as they were at a time: entries of pagemap with our state bytes.

        Raises:
            NotSupported: single pages are not watched, or not known; or the process was not there.
        """
        return self.held_pages(pid).at(seconds)

    def changed_pages(self, pid: int, after: float, last: float) -> Words:
        """Return the numbers of the pages of a process that have changed after one time, and up to another, ascending.

        Raises:
            NotSupported: as `pages` does.
        """
        return self.held_pages(pid).changed(after, last)

    def changed_at(self, pid: int, last: float) -> tuple[Words, NDArray[np.float64]]:
        """Return which pages of a process have changed since the first look that is held, up to a time, ascending, and
        when last.

        Raises:
            NotSupported: as `pages` does.
        """
        return self.held_pages(pid).changed_at(last)

    def held_pages(self, pid: int) -> HeldPages:
        """Return the pages of a process, as far back as they are held.

        Raises:
            NotSupported: as `pages` does.
        """
        found = [pages for (number, _), pages in list(self._pages.items()) if number == pid]
        if not found:
            raise NotSupported(f"single pages of process {pid}", "watched with its pages, by who may see them")
        return found[-1]

    def at(self, seconds: float) -> Snapshot[Look]:
        """Return the last moment at or before a time.

        Raises:
            TargetNotFound: that is before what is held, or after it.
        """
        with self._lock:
            moments = [snapshot for snapshot, _ in self._moments]
        return moments[last_before([snapshot.elapsed for snapshot in moments], seconds)]

    def between(self, first: float, last: float) -> Iterator[Snapshot[Look]]:
        """Yield the moments from one time to another, both included."""
        with self._lock:
            found = [snapshot for snapshot, _ in self._moments if first <= snapshot.elapsed <= last]
        yield from found

    def counters(self, first: float, last: float) -> list[Counted]:
        """Return the counters of the machine at the moments from one time to another, each with when that was."""
        return [(snapshot.elapsed, snapshot.found.counters) for snapshot in self.between(first, last)]

    def amounts(self, measure: str, times: Sequence[float]) -> list[Amounts]:
        """Return an amount of each process at some times, such as its ``uss``; of a time before the first, of none."""
        with self._lock:
            moments = [snapshot for snapshot, _ in self._moments]
        found = []
        for seconds in times:
            index = bisect_right(moments, seconds, key=elapsed_of)
            seen = moments[index - 1].found.seen if index else ()
            found.append({(one.pid, one.start_time): getattr(one.usage, measure) for one in seen})
        return found

    def happened(self, after: float, last: float) -> Iterator[Happening]:
        """Yield what has happened after one time, and up to another."""
        for moment in self.between(after, last):
            if moment.elapsed > after:
                yield from moment.found.happenings

    def accessed(self, pid: int) -> tuple[float, Words]:
        """Return when the last look was, and the numbers of the pages of a process that were accessed then, ascending.

        Raises:
            TargetNotFound, PermissionDenied, NotSupported, FormatError, ProcessGone: as `Watch.followed` does.
        """
        return self.times[-1], self.watch.followed(pid).accessed()

    def frames(self, pid: int) -> tuple[float, Sparse]:
        """Return when the last look was, and the pages of a process as they were then, with the numbers of frames.

        Raises:
            TargetNotFound, PermissionDenied, NotSupported, FormatError, ProcessGone: as `Watch.followed` does.
        """
        from mematlas.timeline.words import Sparse

        return self.times[-1], Sparse(*self.watch.followed(pid).every())

    def tables(self, pid: int) -> MappedTables:
        """Return the page tables of a process as they are just now.

        Raises:
            TargetNotFound: no such process is watched.
            PermissionDenied, NotSupported: they cannot be read.
            ProcessGone: it has ended meanwhile.
        """
        from mematlas.observe.pagetables import PageTables

        with PageTables(self.watch.process(pid)) as tables:
            return tables.table_map(MOST_TABLES)

    def raw_tables(self, pid: int, addresses: Iterable[int]) -> dict[int, RawTable]:
        """Return the tables of the last level that translate some addresses, as they are just now: those there are.

        Raises:
            TargetNotFound, PermissionDenied, NotSupported, ProcessGone: as `tables` does.
        """
        from mematlas.observe.pagetables import PageTables

        found = {}
        with PageTables(self.watch.process(pid)) as tables:
            for address in addresses:
                try:
                    found[address] = next(iter(tables.raw(len(tables.mode.levels) - 1, address=address)))
                except BadInput:
                    continue  # it is there no longer
        return found

    def tables_at(self, seconds: float, pid: int) -> SummaryResult:
        """Raise `NotSupported`: nobody has kept the page tables of earlier moments; `tables` has those of just now."""
        raise NotSupported(f"page tables of process {pid} at an earlier moment", WITH_TABLES)

    def series(self, who: Key, measures: Sequence[str], times: Sequence[float]) -> dict[str, list[int | None]]:
        """Return amounts of a process at the last moments at or before some times, by measure.

        None is what is not known, and what was when there was no such process, or no moment yet.
        """
        with self._lock:
            moments = [snapshot for snapshot, _ in self._moments]
        elapsed = [snapshot.elapsed for snapshot in moments]
        places = [bisect_right(elapsed, at) for at in times]
        found = [seen_of(moments[place - 1], who) if place else None for place in places]
        return {name: [getattr(one.usage, name) if one else None for one in found] for name in measures}

    def vmas(self, seconds: float, who: Key) -> list[VmaUsage] | None:
        """Return the VMAs of a process as they were at a time; None where they are not watched, or it was not there.

        What is the same list was the same at every moment in between that has it.

        Raises:
            TargetNotFound: that is before what is held, or after it.
        """
        one = seen_of(self.at(seconds), who)
        return one.vmas if one else None

    def events(self, who: Key) -> list[tuple[float, Happening]]:
        """Return what has happened to a process as far back as is held, and when."""
        return [
            (moment.elapsed, one)
            for moment in self.between(float("-inf"), float("inf"))
            for one in moment.found.happenings
            if (one.pid, one.start_time) == who
        ]

    def owners(self, pfn: int) -> FrameOwners:
        """Return what a frame is just now, and who has it; any thread may ask, since that takes all processes.

        Raises:
            PermissionDenied, NotSupported: that may not be known here.
            TargetNotFound: there is no such frame.
        """
        from mematlas.observe.machine import Machine

        return Machine(self.watch.procfs).owners([pfn])

    def details(self, moment: Snapshot[Look], pid: int, address: int, with_owners: bool = True) -> Detail:
        """Return what an address of a process is just now: where, how page tables lead there, and who else has it.

        To look for those may take as long as going through all processes.

        Raises:
            NotSupported: the moment is not the last one: nobody has kept that.
            TargetNotFound: no such process is watched.
            ProcessGone: it has ended meanwhile.
        """
        times = self.times
        if not times or moment.elapsed != times[-1]:
            raise NotSupported("what an address was at an earlier moment", "record --what frames")
        from mematlas.observe.pagetables import PageTables

        process = self.watch.process(pid)
        (translation,) = process.translate([address])
        walk = owners = None
        notes: list[Note] = []
        try:
            with PageTables(process) as tables:
                (walk,) = tables.walk([address]).items
        except (PermissionDenied, NotSupported) as error:
            notes.append(Note("no-tables", f"page tables cannot be read: {error}"))
        if with_owners and translation.pfn is not None:
            try:
                owners = self.owners(translation.pfn)
            except (PermissionDenied, NotSupported, TargetNotFound) as error:
                notes.append(Note("owners-unknown", f"who has the frame is not known: {error}"))
        return Detail(translation, walk, owners, tuple(notes))


def with_shared(look: Look, before: Look | None) -> tuple[Look, int]:
    """Return a look with what is the same as in one before held once, and how much is not: see `MOST_HELD`.

    Single pages are held apart, by `HeldPages`.
    """
    was = {(one.pid, one.start_time): one for one in before.seen} if before else {}
    seen, nr_new = [], OF_PROCESS * len(look.seen)
    for one in look.seen:
        sooner = was.get((one.pid, one.start_time))
        vmas = one.vmas
        if vmas is not None:
            known: dict[int, VmaUsage] = {item.start: item for item in (sooner.vmas or ())} if sooner else {}
            vmas = [same if (same := known.get(item.start)) == item and same else item for item in vmas]
            nr_new += sum(known.get(item.start) is not item for item in vmas)
            if sooner and sooner.vmas is not None and list(map(id, vmas)) == list(map(id, sooner.vmas)):
                vmas = sooner.vmas
            else:
                nr_new += len(vmas) // IN_LIST
        seen.append(replace(one, vmas=vmas, files=None))
    return replace(look, seen=tuple(seen)), nr_new

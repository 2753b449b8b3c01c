"""What a recording tells of VMAs over time: a track for those of one kind and path together."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from mematlas.analysis.growth import growth_of
from mematlas.errors import FormatError
from mematlas.frozen import Record, record
from mematlas.timeline.recorded_rows import some_of
from mematlas.timeline.series import several_series

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.growth import Growth
    from mematlas.timeline.recorded_rows import RecordedProcess
    from mematlas.timeline.recording import Recording

    Amounts = tuple[int | None, ...]
    """RSS, swap and accessed pages of a VMA."""

MOST_COLUMNS = 60
"""Moments that are looked at, of more than these: all that lie between two are passed over."""
MOST_FINE_COLUMNS = 240
"""The same of a picture, where few processes are looked at: the moments of all together take that much time."""
MOST_PROCESSES = 20
"""Processes that are looked at: of more, those that had the most RSS."""
MOST_LEVELS = 300
"""Moments that growth is of, where there are more."""
CURVES = ("rss", "anon", "file", "shmem", "swap")


@record
class Point(Record):
    """What VMAs had at a moment, together, in bytes; None is "not known"."""

    size: int
    rss: int | None
    swap: int | None
    nr_accessed: int | None
    """Pages whose entry had the accessed bit: used since the kernel last aged it."""

    @property
    def held(self) -> int | None:
        """RSS and swap."""
        return None if self.rss is None or self.swap is None else self.rss + self.swap


NOTHING = Point(0, 0, 0, None)


@record
class Track(Record):
    """VMAs of one kind and path of a process, over time."""

    process: RecordedProcess
    kind: str
    path: str
    times: tuple[float, ...]
    points: tuple[Point, ...]
    """What they had at each of these times."""
    peak: int
    """The most RSS, at whatever moment."""
    moved: tuple[int, ...]
    """Bytes that came, went, were paged out and came back, from each moment to the next."""
    levels: tuple[tuple[float, int], ...]
    """RSS and swap over time, at more moments than there are points: where they are known."""


@record
class TrackGrowth(Record):
    """How VMAs have grown."""

    track: Track
    growth: Growth
    """Of RSS and swap."""


@record
class Churn(Record):
    """How much came and went in VMAs, from one moment to the next, in bytes."""

    track: Track
    came: int
    """More RSS, and none of it from swap."""
    went: int
    """Less RSS, and none of it to swap."""
    out: int
    """More in swap."""
    back: int
    """Less in swap."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.came + self.went + self.out + self.back


@record
class Curve(Record):
    """A measure of a process over time."""

    process: RecordedProcess
    measure: str
    times: tuple[float, ...]
    amounts: tuple[int | None, ...]
    peak: int
    """The most of it, at whatever moment."""


def tracks_of(recording: Recording, is_fine: bool = False) -> Iterator[Track]:
    """Yield what VMAs had over time, of the processes that had the most; with ``is_fine`` at more moments, as a picture
    has room for.
    """
    processes = recording.processes(MOST_PROCESSES)
    most = MOST_COLUMNS
    if is_fine:
        most = min(max(MOST_PROCESSES * MOST_COLUMNS // max(len(processes), 1), most), MOST_FINE_COLUMNS)
    for process in processes:
        yield from Tracer(recording, process, most).tracks()


class Tracer:
    """Goes through all that has changed of the VMAs of a process, once."""

    def __init__(self, recording: Recording, process: RecordedProcess, most: int) -> None:
        """``most`` says at how many moments a track has points."""
        self.recording = recording
        self.process = process
        last = recording.last_moment(process)
        self._drawn = some_of(process.first, last, most)
        self._levels = some_of(process.first, last, MOST_LEVELS)
        self._groups: dict[tuple[str, str], Group] = {}

    def tracks(self) -> Iterator[Track]:
        """Yield the tracks of the VMAs of each kind and path."""
        vmas = self.recording.vmas_of(self.process)
        held: dict[int, Amounts] = {}
        is_first = True
        for moment, changes in groupby(self.recording.vma_changes(self.process), itemgetter(0)):
            before: dict[Group, Point] = {}
            for _, number, amounts in changes:
                if number not in vmas:
                    raise FormatError(self.recording.path, expected="changes of VMAs")
                kind, path, size = vmas[number]
                group = self._groups.get((kind, path)) or self._groups.setdefault((kind, path), Group())
                before.setdefault(group, group.point)
                if number in held:
                    group.add(-1, size, held.pop(number))
                if amounts is not None:
                    held[number] = amounts
                    group.add(1, size, amounts)
            for group, point in before.items():
                group.changed(moment, None if is_first else point)
            is_first = False
        times, level_times = (list(map(self.recording.elapsed, some)) for some in (self._drawn, self._levels))
        for (kind, path), group in self._groups.items():
            points = tuple(at_moments(group.steps, self._drawn, NOTHING))
            levels = tuple(point.held for point in at_moments(group.steps, self._levels, NOTHING))
            known = tuple((at, level) for at, level in zip(level_times, levels, strict=True) if level is not None)
            yield Track(self.process, kind, path, tuple(times), points, group.peak, tuple(group.moved), known)


class Group:
    """The VMAs of one kind and path, while what has changed is gone through."""

    def __init__(self) -> None:
        self._size = self._nr = 0
        self._sums, self._nr_unknown = [0, 0, 0], [0, 0, 0]
        self.peak = 0
        self.moved = [0, 0, 0, 0]
        """Bytes that came, went, were paged out and came back."""
        self.steps: list[tuple[int, Point]] = []
        """From which moment on there was how much: of very many changes those alone that are far enough apart."""

    @property
    def point(self) -> Point:
        """How much there is now."""
        sums = [None if nr else total for total, nr in zip(self._sums, self._nr_unknown, strict=True)]
        return Point(self._size, sums[0], sums[1], sums[2] if self._nr else None)

    def add(self, sign: int, size: int, amounts: Amounts) -> None:
        """Add a VMA with what it has, or take it away."""
        self._size += sign * size
        self._nr += sign
        for index, amount in enumerate(amounts):
            if amount is None:
                self._nr_unknown[index] += sign
            else:
                self._sums[index] += sign * amount

    def changed(self, moment: int, before: Point | None) -> None:
        """Take note of what is other than at the moment before; of the first moment nothing came."""
        now = self.point
        self.peak = max(self.peak, now.rss or 0)
        self.steps.append((moment, now))
        if before is None or None in (before.rss, before.swap, now.rss, now.swap):
            return
        swap, rss = (now.swap or 0) - (before.swap or 0), (now.rss or 0) - (before.rss or 0)
        moves = max(rss - max(-swap, 0), 0), max(-rss - max(swap, 0), 0), max(swap, 0), max(-swap, 0)
        self.moved = [total + move for total, move in zip(self.moved, moves, strict=True)]


def at_moments(steps: Sequence[tuple[int, Point]], moments: Iterable[int], nothing: Point) -> Iterator[Point]:
    """Yield what there was at some moments, given from when on there was how much."""
    index, now = 0, nothing
    for moment in moments:
        while index < len(steps) and steps[index][0] <= moment:
            now = steps[index][1]
            index += 1
        yield now


def growing(tracks: Iterable[Track]) -> list[TrackGrowth]:
    """Return how VMAs have grown, those that do so the fastest first; without those that always had the same."""
    found = []
    for track in tracks:
        if len({held for _, held in track.levels}) < 2:
            continue
        times, amounts = zip(*track.levels, strict=True)
        if growth := growth_of(times, amounts):
            found.append(TrackGrowth(track, growth))
    return sorted(found, key=lambda one: -one.growth.slope.value)


def churning(tracks: Iterable[Track]) -> list[Churn]:
    """Return how much came and went in VMAs, those with the most first; without those in which nothing did."""
    found = [Churn(track, *track.moved) for track in tracks]
    return sorted((one for one in found if one.total), key=lambda one: -one.total)


def curves_of(recording: Recording) -> list[Curve]:
    """Return measures of processes over time, those of the processes that had the most first."""
    curves = []
    for process in recording.processes(MOST_PROCESSES):
        times, series = several_series(recording, process, CURVES)
        for measure, amounts in series.items():
            peak = recording.most(process, measure)
            if times and (peak or None in amounts):
                curves.append(Curve(process, measure, tuple(times), tuple(amounts), peak or 0))
    return curves

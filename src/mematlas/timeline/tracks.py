"""What a recording tells of VMAs over time: a track for those of one kind and path together."""

from __future__ import annotations

from itertools import pairwise

from mematlas.analysis.growth import growth_of
from mematlas.frozen import Record, record
from mematlas.timeline.recording import some_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.growth import Growth
    from mematlas.timeline.recording import RecordedProcess, Recording

MOST_COLUMNS = 60
"""Moments that are looked at, of more than these: all that lie between two are passed over."""
MOST_FINE_COLUMNS = 240
"""The same of a picture, where few processes are looked at: the moments of all together take that much time."""
MOST_PROCESSES = 20
"""Processes that are looked at: of more, those that had the most RSS."""
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


NOTHING = Point(0, 0, 0, 0)


@record
class Track(Record):
    """VMAs of one kind and path of a process, over time."""

    process: RecordedProcess
    kind: str
    path: str
    times: tuple[float, ...]
    points: tuple[Point, ...]
    """What they had at each of these times."""

    @property
    def peak(self) -> int:
        """The most RSS."""
        return max((point.rss or 0 for point in self.points), default=0)


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

    @property
    def peak(self) -> int:
        """The most of it."""
        return max(filter(None, self.amounts), default=0)


def tracks_of(recording: Recording, is_fine: bool = False) -> Iterator[Track]:
    """Yield what VMAs had over time, of the processes that had the most; with ``is_fine`` at more moments, as a picture
    has room for.
    """
    processes = recording.processes(MOST_PROCESSES)
    most = MOST_COLUMNS
    if is_fine:
        most = min(max(MOST_PROCESSES * MOST_COLUMNS // max(len(processes), 1), most), MOST_FINE_COLUMNS)
    for process in processes:
        moments = some_of(process.first, recording.last_moment(process), most)
        times = [recording.elapsed(moment) for moment in moments]
        found: dict[tuple[str, str], list[Point]] = {}
        for number, moment in enumerate(moments):
            for key, point in points_at(recording, process, moment).items():
                points = found.setdefault(key, [])
                points += [NOTHING] * (number - len(points))
                points.append(point)
        for (kind, path), points in found.items():
            points += [NOTHING] * (len(times) - len(points))
            yield Track(process, kind, path, tuple(times), tuple(points))


def points_at(recording: Recording, process: RecordedProcess, moment: int) -> dict[tuple[str, str], Point]:
    """Return what the VMAs of each kind and path had at a moment."""
    found: dict[tuple[str, str], Point] = {}
    for item in recording.vmas_at(process, moment):
        key = item.kind, item.path
        before = found.get(key, NOTHING)
        found[key] = Point(
            before.size + item.size,
            add(before.rss, item.rss),
            add(before.swap, item.swap),
            add(before.nr_accessed, item.nr_accessed),
        )
    return found


def add(one: int | None, other: int | None) -> int | None:
    """Return a sum; None where it is not known."""
    return None if one is None or other is None else one + other


def growing(tracks: Iterable[Track]) -> list[TrackGrowth]:
    """Return how VMAs have grown, those that do so the fastest first; without those that always had the same."""
    found = []
    for track in tracks:
        known = [
            (at, point.held) for at, point in zip(track.times, track.points, strict=True) if point.held is not None
        ]
        if not known or len({held for _, held in known}) == 1:
            continue
        times, amounts = zip(*known, strict=True)
        if growth := growth_of(times, amounts):
            found.append(TrackGrowth(track, growth))
    return sorted(found, key=lambda one: -one.growth.slope.value)


def churning(tracks: Iterable[Track]) -> list[Churn]:
    """Return how much came and went in VMAs, those with the most first; without those in which nothing did."""
    found = [churn_of(track) for track in tracks]
    return sorted((one for one in found if one.total), key=lambda one: -one.total)


def churn_of(track: Track) -> Churn:
    """Return how much came and went.

    >>> one = Churn(None, 4096, 0, 0, 0)  # type: ignore[arg-type]
    >>> one.total
    4096
    """
    came = went = out = back = 0
    for before, now in pairwise(track.points):
        if before.rss is None or now.rss is None or before.swap is None or now.swap is None:
            continue
        swap, rss = now.swap - before.swap, now.rss - before.rss
        out += max(swap, 0)
        back += max(-swap, 0)
        came += max(rss - max(-swap, 0), 0)
        went += max(-rss - max(swap, 0), 0)
    return Churn(track, came, went, out, back)


def curves_of(recording: Recording) -> list[Curve]:
    """Return measures of processes over time, those of the processes that had the most first."""
    curves = []
    for process in recording.processes(MOST_PROCESSES):
        times, series = recording.several_series(process, CURVES)
        for measure, amounts in series.items():
            if any(amounts):
                curves.append(Curve(process, measure, tuple(times), tuple(amounts)))
    return curves

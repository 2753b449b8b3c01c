"""What a recording tells of each process: how much it had, at the most and when, and how that grew."""

from __future__ import annotations

from mematlas.analysis.growth import growth_of
from mematlas.frozen import Record, record
from mematlas.timeline.recorded_rows import MOST_POINTS
from mematlas.timeline.series import several_series

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.growth import Growth
    from mematlas.timeline.recorded_rows import RecordedProcess
    from mematlas.timeline.recording import Recording
    from mematlas.timeline.ring import Kept

SORTED_BY = "uss"
MOST_STORIES = 500
"""Processes of which is told: of more, those that had the most RSS."""
MOST_GROWN = 5
"""VMAs that are named of each process."""
MEASURES = ("rss", "uss", "swap")
ALL_POINTS, LEAST_POINTS = 6000, 30
"""Amounts that are looked up of all processes together, but of each so many."""


@record
class Grown(Record):
    """VMAs of one kind and path that have more, or less, than they had."""

    kind: str
    path: str
    change: int
    """Bytes of RSS and swap."""


@record
class ProcessSummary(Record):
    """One process of a recording."""

    process: RecordedProcess
    began: float
    """Seconds after the first moment."""
    ended: float | None
    """The same; None where it had not ended."""
    first: dict[str, int | None]
    """The amounts of its first moment: rss, uss, swap."""
    last: dict[str, int | None]
    peak_rss: int | None
    peak_at: float | None
    growth: Growth | None
    """Of USS; None where it is not known, or there are too few moments."""
    grown: tuple[Grown, ...]
    """What changed the most, between its first moment and its last; nothing where VMAs were not recorded."""


@record
class Summary(Record):
    """What a recording tells."""

    path: str
    nr_moments: int
    nr_processes: int
    seconds: float
    cpu_s: float
    """What looking took of processors."""
    began: float
    """Seconds after 1970."""
    machine: dict[str, Any]
    stories: tuple[ProcessSummary, ...]
    kept: Kept
    """What of all moments there is."""


def summary_of(recording: Recording) -> Summary:
    """Return what a recording tells of the processes that had the most, the one with the most USS at the end first."""
    processes = recording.processes(MOST_STORIES)
    most = max(LEAST_POINTS, min(MOST_POINTS, ALL_POINTS // max(len(processes), 1)))
    stories = [story_of(recording, process, most) for process in processes]
    stories.sort(key=lambda story: -(story.last[SORTED_BY] or story.last["rss"] or 0))
    return Summary(
        path=recording.path,
        nr_moments=recording.nr_moments,
        nr_processes=recording.nr_processes,
        seconds=recording.seconds,
        cpu_s=recording.cpu_s,
        began=recording.began,
        machine=recording.machine,
        kept=recording.kept,
        stories=tuple(stories),
    )


def story_of(recording: Recording, process: RecordedProcess, most: int = MOST_POINTS) -> ProcessSummary:
    """Return what a recording tells of a process, out of so many moments at the most."""
    times, series = several_series(recording, process, MEASURES, most)
    amounts = series[SORTED_BY]
    known = [(time, amount) for time, amount in zip(times, amounts, strict=True) if amount is not None]
    peak = recording.peak_rss(process)
    return ProcessSummary(
        process=process,
        began=recording.elapsed(process.first),
        ended=recording.elapsed(process.end) if process.end else None,
        first={name: values[0] if values else None for name, values in series.items()},
        last={name: values[-1] if values else None for name, values in series.items()},
        peak_rss=peak[0] if peak else None,
        peak_at=peak[1] if peak else None,
        growth=growth_of(*map(list, zip(*known, strict=True))) if known else None,
        grown=tuple(grown_of(recording, process)),
    )


def grown_of(recording: Recording, process: RecordedProcess) -> list[Grown]:
    """Return the VMAs of which the most came, or went, those of one kind and path together."""
    changes: dict[tuple[str, str], int] = {}
    for sign, moment in ((-1, process.first), (1, recording.last_moment(process))):
        for item in recording.vmas_at(process, moment):
            if item.rss is None or item.swap is None:
                return []  # what changed the most is not known
            key = item.kind, item.path
            changes[key] = changes.get(key, 0) + sign * (item.rss + item.swap)
    grown = [Grown(kind, path, change) for (kind, path), change in changes.items() if change]
    return sorted(grown, key=lambda one: -abs(one.change))[:MOST_GROWN]

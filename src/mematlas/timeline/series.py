"""Amounts of a recording over time: at all of its moments, or where they are many at some."""

from __future__ import annotations

from mematlas.timeline.recorded_rows import MOST_POINTS, some_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.timeline.recorded_rows import RecordedProcess
    from mematlas.timeline.recording import Recording


def several_series(
    recording: Recording, process: RecordedProcess, measures: Sequence[str], most: int = MOST_POINTS
) -> tuple[list[float], dict[str, list[int | None]]]:
    """Return amounts of a process at its moments, of many moments at ``most``, by measure; and when these were."""
    times: list[float] = []
    amounts: dict[str, list[int | None]] = {measure: [] for measure in measures}
    for moment in some_of(process.first, recording.last_moment(process), most):
        if (row := recording.row_at(process, measures, moment)) is not None:
            times.append(recording.elapsed(moment))
            for measure, amount in zip(measures, row, strict=True):
                amounts[measure].append(amount)
    return times, amounts


def counter_series(recording: Recording, name: str) -> tuple[list[float], list[int]]:
    """Return a counter of the machine at the moments of the recording, of many at some, and when these were."""
    times, amounts = [], []
    for moment in some_of(recording.first, recording.last):
        if (value := recording.counter_at(name, moment)) is not None:
            times.append(recording.elapsed(moment))
            amounts.append(value)
    return times, amounts

"""What amounts of all processes were: at even steps back from a moment, each step asked of the timeline once."""

from __future__ import annotations

from bisect import bisect_right

from mematlas.analysis.listing import sum_known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.timeline.timeline import Amounts, Moments

REACH = 600.0
"""Seconds that a curve reaches back."""
KEPT = 4
"""Times as many steps are kept as a curve has: who goes back in time has the same ones."""


class Past:
    """Amounts of a measure at the steps of a curve, the last at the moment itself.

    Steps are at multiples of their length by the clock of the timeline, so that a curve moves by a column at a time.
    """

    def __init__(self) -> None:
        self.steps: list[Amounts] = []
        """From the oldest to that of the moment."""
        self._of: tuple[int, str, int] = (0, "", 0)
        """Of which timeline, measure, and number of steps."""
        self._known: dict[int, Amounts] = {}
        self._before: tuple[tuple[int, str, float], Amounts] | None = None

    def look(self, timeline: Moments, measure: str, at: float, nr_steps: int) -> None:
        """Find out what the steps up to a moment are."""
        if (of := (id(timeline), measure, nr_steps)) != self._of:
            self._of, self._known = of, {}
        length = REACH / nr_steps
        last = int(at // length)
        wanted = range(last - nr_steps + 2, last + 1)
        missing = [number for number in wanted if number not in self._known]
        found = timeline.amounts(measure, [*(number * length for number in missing), at])
        self._known.update(zip(missing, found, strict=False))
        self.steps = [*(self._known[number] for number in wanted), found[-1]]
        if len(self._known) > KEPT * nr_steps:
            self._known = {number: self._known[number] for number in wanted}

    def curve(self, keys: Sequence[tuple[int, int]]) -> list[int | None]:
        """Return what processes had together at each step; None where that is known of none."""
        if len(keys) == 1:
            (key,) = keys
            return [step.get(key) for step in self.steps]
        return [sum_known(step.get(key) for key in keys) for step in self.steps]

    def growth(self, key: tuple[int, int]) -> int | None:
        """Return by how much a process has grown since it is known, or from nothing where others were known before."""
        oldest = next(filter(None, self.steps), None)
        now = self.steps[-1].get(key) if self.steps else None
        before = oldest.get(key, 0) if oldest is not None else None
        return None if now is None or before is None else now - before

    def before(self, timeline: Moments, measure: str, at: float) -> Amounts:
        """Return what a measure was at another moment."""
        of = id(timeline), measure, at
        if self._before is None or self._before[0] != of:
            self._before = of, timeline.amounts(measure, [at])[0]
        return self._before[1]


def moment_before(times: Sequence[float], at: float, seconds: float) -> float | None:
    """Return the last of some times that is so much earlier than another, or the first; None where that is not earlier.

    >>> moment_before([0, 1, 2, 3], 3, 2), moment_before([0, 1], 1, 60), moment_before([0], 0, 60)
    (1, 0, None)
    """
    index = max(bisect_right(times, at - seconds) - 1, 0)
    return times[index] if times and times[index] < at else None

"""What a recording tells of the machine: amounts of memory, and what was reclaimed, swapped and waited for."""

from __future__ import annotations

from mematlas.analysis.counters import COUNTERS
from mematlas.frozen import Record, record
from mematlas.timeline.series import counter_series

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.counters import Counter
    from mematlas.timeline.recording import Recording


@record
class CounterStory(Record):
    """One counter over time, in its unit."""

    name: str
    counter: Counter
    times: tuple[float, ...]
    """Seconds after the first moment."""
    values: tuple[int, ...]
    least: int
    """Of all moments."""
    most: int

    @property
    def first(self) -> int:
        """Its value at first."""
        return self.values[0]

    @property
    def last(self) -> int:
        """Its value at the end."""
        return self.values[-1]

    @property
    def change(self) -> int:
        """What it has become more by; of what counts up, how much there was of it."""
        return self.last - self.first

    @property
    def rate(self) -> float | None:
        """That for each second; None of a single moment."""
        seconds = self.times[-1] - self.times[0]
        return self.change / seconds if seconds else None

    @property
    def most_at(self) -> float | None:
        """When it was largest; of what counts up, the end of the time in which there was the most of it."""
        if not self.counter.is_total:
            return self.times[self.values.index(max(self.values))]
        steps = [later - sooner for sooner, later in zip(self.values, self.values[1:], strict=False)]
        return self.times[1 + steps.index(max(steps))] if any(steps) else None


def counters_of(recording: Recording) -> list[CounterStory]:
    """Return the counters that a recording has, in the order of `COUNTERS`."""
    found = []
    for name, counter in COUNTERS.items():
        times, values = counter_series(recording, name)
        if values:
            found.append(CounterStory(name, counter, tuple(times), tuple(values), *recording.counter_range(name)))
    return found

"""Looks at even intervals, for no more than a part of a processor, and of the target's time.

What a look costs is measured, ours and the target's. Where the looks that were asked for would cost more than their
budget, they are made less often, and a note says so.
"""

from __future__ import annotations

import os
import time

from mematlas.frozen import Record, record
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Generic, TypeVar

    from mematlas.analysis.results import Reading

    Found = TypeVar("Found")
else:
    Found, Generic = None, {None: object}  # importing typing takes longer than a light command

BUDGET = 0.02
"""The part of one processor, and of the target's time, that looking may take."""
SAVED = 15.0
"""Seconds of which what was not spent may be spent later: after an hour at half of the budget looks could else take all
of a processor for minutes."""
LATE = 1.5
"""How much rarer than asked for looks may be before anybody hears of it."""


@record
class Cost(Record):
    """What looking has cost, in seconds."""

    cpu_s: float
    """Of processors, by us and by children of ours that have ended."""
    stall_s: float
    """For how long it held up the target, where that was measured: reading smaps is. Of several, the one that it held
    up longest."""


@record
class Snapshot(Record, Generic[Found]):
    """One moment."""

    time: float
    """Seconds after 1970, by the clock of the machine, which may jump."""
    elapsed: float
    """Seconds after the first look, by a clock that does not jump, and runs on while the machine sleeps."""
    found: Found
    """What the look has returned, such as a `mematlas.UsageResult`."""
    cost: Cost
    """Of this look."""


class Sampler(Generic[Found]):
    """Looks again and again.

    ``look`` returns a result with its reading, as `mematlas.Process.usage` does, or with several ``readings``. Between
    two looks there are ``interval`` seconds, or more where all but the first, and what is done with them until the next
    one is asked for, cost more than ``budget``: a part of one processor, and of the target's time. It ends after
    ``duration`` seconds; with None, never.

    >>> import os
    >>> from mematlas.observe.process import Process
    >>> with Process(os.getpid()) as process:
    ...     sampler = Sampler(process.usage, interval=0.05, duration=0.1, budget=1)
    ...     all(snapshot.found.rss > 0 for snapshot in sampler)
    True

    Raises:
        ProcessGone: the target has ended meanwhile.
    """

    def __init__(
        self,
        look: Callable[[], Found],
        interval: float = 1.0,
        duration: float | None = None,
        budget: float = BUDGET,
        rest: Callable[[float], object] = time.sleep,
        count: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Look for ``duration`` seconds, or so often as ``count`` says.

        ``clock`` returns the processor seconds that are ours: by default those of this process, and of its children.
        """
        self._clock = clock or processor_seconds
        self.look = look
        self.interval = interval
        self.duration = duration
        self.count = count
        self.budget = budget
        self._rest = rest
        self.nr_looks = 0
        self.seconds = 0.0
        """From the first look to the last."""
        self.cost = Cost(0.0, 0.0)
        """Of all looks, and of what was done with what they found."""
        self._first = Cost(0.0, 0.0)
        """Of the first look, and of what was done with it."""
        self._began = 0.0
        self._measured = 0.0
        """Up to which processor time of ours the cost is known."""
        self._paid = 0.0
        """The part of the cost that counts, as far as it is in ``_paid_until``."""
        self._paid_until = 0.0
        """Up to when, after the first look, the budget is spent."""
        self._is_over_budget = False
        """Whether a look was put off for what the others had cost."""
        self.is_stopped = False
        """Whether ``rest`` said that it is enough."""
        self._read_notes = Notes()

    def __iter__(self) -> Iterator[Snapshot[Found]]:
        began = self._began = self._began or now()
        while True:
            snapshot = self._snapshot(began)
            yield snapshot
            if self.nr_looks == self.count:
                return
            wanted = self._next_time(now() - began)
            if self.duration is not None and wanted > self.duration + self.interval / 2:
                if snapshot.elapsed >= self.duration - self.interval / 2:
                    return
                wanted = self.duration  # looks are dear: the last one is at the end all the same
            if self._rest(max(began + wanted - now(), 0)):
                self.is_stopped = True
                return

    def _snapshot(self, began: float) -> Snapshot[Found]:
        at, elapsed = time.time(), now() - began if self.nr_looks else 0.0
        before = self._clock()
        found = self.look()
        after = self._clock()
        readings = list(readings_of(found))
        holds = [reading.hold.total_s for reading in readings if reading.hold]
        cost = Cost(after - before, max(holds, default=0.0))
        between = before - self._measured if self.nr_looks else 0.0
        self.cost = Cost(self.cost.cpu_s + between + cost.cpu_s, self.cost.stall_s + cost.stall_s)
        self._measured = after
        if self.nr_looks == 0:
            self._first = cost
        elif self.nr_looks == 1:
            self._first = Cost(self._first.cpu_s + between, self._first.stall_s)
        self.nr_looks += 1
        self.seconds = elapsed
        for reading in readings:
            self._read_notes += reading.notes
        return Snapshot(at, elapsed, found, cost)

    def _next_time(self, elapsed: float) -> float:
        """Return how long after the first look the next one is to be."""
        if not self.interval:
            return elapsed
        even = (elapsed // self.interval + 1) * self.interval
        cost, first = self.cost, self._first
        # Opening what is read from takes a part of the first look, and all of it is new to who keeps what was found:
        # that is not held against the budget.
        costs = max(cost.cpu_s - first.cpu_s, cost.stall_s - first.stall_s)
        saved_since = elapsed - max(SAVED, self.interval)
        self._paid_until = max(self._paid_until, saved_since) + (costs - self._paid) / self.budget
        self._paid = costs
        if self._paid_until <= even:
            return even
        self._is_over_budget = True
        # At an interval's end all the same, so that looks stay even.
        return -(-self._paid_until // self.interval) * self.interval

    @property
    def part(self) -> float | None:
        """The part of one processor that looks after the first have taken; None before the second."""
        return (self.cost.cpu_s - self._first.cpu_s) / self.seconds if self.seconds else None

    @property
    def nr_expected(self) -> int | None:
        """How many looks there will be, unless they cost too much; None where there is no end."""
        return None if self.duration is None or not self.interval else round(self.duration / self.interval) + 1

    def notes(self) -> list[Note]:
        """Return what there is to say of all looks."""
        notes = list(self._read_notes)
        often = self.seconds / (self.nr_looks - 1) if self.nr_looks > 1 else 0
        if self.interval and often > LATE * self.interval:
            text = f"looked every {round(often, 1):g} s in place of {self.interval:g} s"
            notes.append(Note("slowed-down", f"{text}: {self._why_slow()}"))
        return notes

    def _why_slow(self) -> str:
        """Return why looks were rarer than asked for, in words."""
        if not self._is_over_budget:
            return "looking took that long, or the machine was asleep"
        cost, first, nr = self.cost, self._first, self.nr_looks - 1
        costs = (cost.cpu_s - first.cpu_s, "a processor"), (cost.stall_s - first.stall_s, "the target's time")
        seconds, whose = max(costs)
        each = f"a look after the first costs {round(1e3 * seconds / nr, 1):g} ms of {whose}"
        return f"{each}, of which all may take {100 * self.budget:g} % (--budget)"


def readings_of(found: Any) -> Iterable[Reading]:
    """Return how something was read: it says so of itself, or of each of its parts. Of text nothing says so."""
    if hasattr(found, "readings"):
        readings: Iterable[Reading] = found.readings
        return readings
    return (found.reading,) if hasattr(found, "reading") else ()


def now() -> float:
    """Return seconds that go on while the machine sleeps, and never jump (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processor_seconds() -> float:
    """Return the CPU time of ours, and of children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system

"""Looks at even intervals, for no more than a part of a processor, and of the target's time.

What a look costs is measured, ours and the target's. Where the looks that were asked for would cost more than their
budget, they are made less often, and a note says so.
"""

from __future__ import annotations

import os
import time

from mematlas.analysis.measures import amounts_of
from mematlas.frozen import Record, record
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mematlas.analysis.results import Reading, UsageResult
    from mematlas.analysis.set_usage import SetUsage

BUDGET = 0.02
"""The part of one processor, and of the target's time, that looking may take."""
START = 0.5
"""Seconds of cost that are not held against the budget: opening what is read from takes the most of them, once."""
LATE = 1.5
"""How much rarer than asked for looks may be before anybody hears of it."""


@record
class Cost(Record):
    """What looking has cost, in seconds."""

    cpu_s: float
    """Of processors, by us and by children of ours that have ended."""
    stall_s: float
    """For how long it held up the target, where that was measured: reading smaps is."""


@record
class Snapshot(Record):
    """One moment of a process, or of a group as one."""

    time: float
    """Seconds after 1970, by the clock of the machine, which may jump."""
    elapsed: float
    """Seconds after the first look, by a clock that does not jump, and runs on while the machine sleeps."""
    usage: UsageResult | SetUsage
    cost: Cost
    """Of this look."""

    @property
    def amounts(self) -> dict[str, int | None]:
        """The amounts by name: see `mematlas.analysis.measures.MEASURES`. None is "not known"."""
        return amounts_of(self.usage)

    @property
    def reading(self) -> Reading:
        """How it was read."""
        return self.usage.reading


class Sampler:
    """Looks again and again.

    ``look`` returns the usage of what is looked at, such as `mematlas.Process.usage`. Between two looks there are
    ``interval`` seconds, or more where they cost more than ``budget``: a part of one processor, and of the target's
    time. It ends after ``duration`` seconds; with None, never.

    >>> import os
    >>> from mematlas.observe.process import Process
    >>> with Process(os.getpid()) as process:
    ...     sampler = Sampler(process.usage, interval=0.05, duration=0.1, budget=1)
    ...     all(snapshot.amounts["rss"] > 0 for snapshot in sampler)
    True

    Raises:
        ProcessGone: the target has ended meanwhile.
    """

    def __init__(
        self,
        look: Callable[[], UsageResult | SetUsage],
        interval: float = 1.0,
        duration: float | None = None,
        budget: float = BUDGET,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        self.look = look
        self.interval = interval
        self.duration = duration
        self.budget = budget
        self._rest = rest
        self.nr_looks = 0
        self.seconds = 0.0
        """From the first look to the last."""
        self.cost = Cost(0.0, 0.0)
        """Of all looks."""
        self._read_notes = Notes()

    def __iter__(self) -> Iterator[Snapshot]:
        began = now()
        while True:
            snapshot = self._snapshot(began)
            yield snapshot
            wanted = self._next_time(now() - began)
            if self.duration is not None and wanted > self.duration + self.interval / 2:
                return
            if self._rest(max(began + wanted - now(), 0)):
                return

    def _snapshot(self, began: float) -> Snapshot:
        at, elapsed = time.time(), now() - began if self.nr_looks else 0.0
        before = processor_seconds()
        usage = self.look()
        hold = usage.reading.hold
        cost = Cost(processor_seconds() - before, hold.total_s if hold else 0.0)
        self.cost = Cost(self.cost.cpu_s + cost.cpu_s, self.cost.stall_s + cost.stall_s)
        self.nr_looks += 1
        self.seconds = elapsed
        self._read_notes += usage.reading.notes
        return Snapshot(at, elapsed, usage, cost)

    def _next_time(self, elapsed: float) -> float:
        """Return how long after the first look the next one is to be."""
        even = (elapsed // self.interval + 1) * self.interval
        costs = max(self.cost.cpu_s, self.cost.stall_s) - START
        earliest = costs / self.budget
        if earliest <= even:
            return even
        # At an interval's end all the same, so that looks stay even.
        return -(-earliest // self.interval) * self.interval

    @property
    def nr_expected(self) -> int | None:
        """How many looks there will be, unless they cost too much; None where there is no end."""
        return None if self.duration is None else round(self.duration / self.interval) + 1

    def notes(self) -> list[Note]:
        """Return what there is to say of all looks."""
        notes = list(self._read_notes)
        often = self.seconds / (self.nr_looks - 1) if self.nr_looks > 1 else 0
        if often > LATE * self.interval:
            text = f"looked every {round(often, 1):g} s in place of {self.interval:g} s: a look costs {self._each()}"
            notes.append(Note("slowed-down", f"{text}, and all may take {100 * self.budget:g} % of that (--budget)"))
        return notes

    def _each(self) -> str:
        """Return what a look costs, in words."""
        seconds, whose = max((self.cost.cpu_s, "a processor"), (self.cost.stall_s, "the target's time"))
        return f"{round(1e3 * seconds / self.nr_looks, 1):g} ms of {whose}"


def now() -> float:
    """Return seconds that go on while the machine sleeps, and never jump (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processor_seconds() -> float:
    """Return the CPU time of ours, and of children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system

"""Recording: moments of what is watched go into a file, or a stream, until somebody or something ends it."""

from __future__ import annotations

import json
import os
import time

from mematlas.analysis.measures import amounts_of
from mematlas.frozen import Record, record, replace
from mematlas.model.machine import machine_of
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.sampler import BUDGET, Cost, Sampler
from mematlas.timeline.stream import MAGIC, frame_of
from mematlas.timeline.watch import REDACTED, WHAT
from mematlas.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO, Protocol

    from mematlas.analysis.assertions import Assertion
    from mematlas.notes import Note
    from mematlas.timeline.encoding import Rows
    from mematlas.timeline.sampler import Snapshot
    from mematlas.timeline.watch import Look, Watch

    class Destination(Protocol):
        """Where moments go: a `mematlas.timeline.writing.RecordingWriter`, or a `Stream`."""

        def add(self, rows: Rows) -> None:
            """Add a moment."""


@record
class RecordResult(Record):
    """What was recorded, and what that cost."""

    nr_moments: int
    nr_processes: int
    """How many were there, one after the other."""
    seconds: float
    """From the first moment to the last."""
    cost: Cost
    notes: tuple[Note, ...]
    is_over: bool
    """Whether it ended since all that was watched had ended."""


class Stream:
    """A recording as a stream, see `mematlas.timeline.stream`."""

    def __init__(self, file: BinaryIO, facts: dict[str, str]) -> None:
        self.file = file
        file.write(MAGIC)
        self.add({"recording": list(facts.items())})

    def add(self, rows: Rows) -> None:
        """Write a moment: all of it at once."""
        self.file.write(frame_of(rows))
        self.file.flush()


def facts_of(watch: Watch, interval: float) -> dict[str, str]:
    """Return what a recording says of itself: the machine, and what was asked for."""
    facts: dict[str, object] = {
        "mematlas": __version__,
        **machine_of(watch.procfs),
        "targets": [REDACTED] * len(watch.targets) if watch.redactor else watch.targets,
        "interval": interval,
        "what": [name for name in WHAT if name in watch.what],
        "uid": os.getuid(),
        "began": time.time(),
    }
    if watch.redactor:
        facts |= {"host": None, "uid": None}
    return {key: json.dumps(value) for key, value in facts.items()}


def record_into(
    destination: Destination,
    watch: Watch,
    interval: float = 1.0,
    duration: float | None = None,
    budget: float = BUDGET,
    when: Iterable[Assertion] = (),
    rest: Callable[[float], object] = time.sleep,
    told: Callable[[int, float], None] | None = None,
) -> RecordResult:
    """Record what is watched, until it has ended, or the time is over, or ``rest`` says that it is enough.

    With ``when``, from the first moment on at which these hold of a process. ``told`` hears how many moments there are,
    and for how long.
    """
    sampler: Sampler[Look] = Sampler(watch.look, interval, duration, budget, rest)
    encoder = Encoder()
    conditions = list(when)
    nr_moments, first, last = 0, 0.0, 0.0
    processes: set[tuple[int, int]] = set()
    for snapshot in sampler:
        if conditions and not nr_moments and not any_holds(snapshot, conditions):
            if watch.is_over:
                break
            continue
        first = snapshot.elapsed if not nr_moments else first
        nr_moments, last = nr_moments + 1, snapshot.elapsed
        destination.add(encoder.rows_of(replace(snapshot, elapsed=last - first)))
        processes.update((seen.pid, seen.start_time) for seen in snapshot.found.seen)
        if told:
            told(nr_moments, last - first)
        if watch.is_over:
            break
    return RecordResult(
        nr_moments=nr_moments,
        nr_processes=len(processes),
        seconds=last - first,
        cost=sampler.cost,
        notes=tuple(sampler.notes()),
        is_over=watch.is_over,
    )


def any_holds(snapshot: Snapshot[Look], conditions: list[Assertion]) -> bool:
    """Whether all conditions hold of a process."""
    for seen in snapshot.found.seen:
        amounts = amounts_of(seen.usage)
        values = [amounts.get(one.measure) for one in conditions]
        if all(value is not None and one.holds(value) for one, value in zip(conditions, values, strict=True)):
            return True
    return False

"""Recording: moments of what is watched go into a file, or a stream, until somebody or something ends it."""

from __future__ import annotations

import json
import os
import time

from mematlas.analysis.measures import OF_PROCESS, amounts_of
from mematlas.errors import BadInput, NotSupported
from mematlas.frozen import Record, record, replace
from mematlas.model.machine import machine_of
from mematlas.notes import Note
from mematlas.observe.sums import SUMS
from mematlas.timeline.check import why_unknown
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.ring import Kept
from mematlas.timeline.sampler import BUDGET, Cost, Sampler
from mematlas.timeline.stream import MAGIC, frames_of
from mematlas.timeline.watch import HELD, HIDDEN, REDACTED, WHAT, Happening
from mematlas.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO, Protocol

    from mematlas.analysis.assertions import Assertion
    from mematlas.timeline.encoding import Rows
    from mematlas.timeline.watch import Look, Seen, Watch

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
    watched_s: float
    """From the first look to the last: with ``when``, also of those that nobody kept."""
    cost: Cost
    """Of these looks, and of what was made of them; without who writes that."""
    notes: tuple[Note, ...]
    is_over: bool
    """Whether it ended since all that was watched had ended."""
    kept: Kept
    hidden: tuple[str, ...] = ()
    """Which processes could no longer be looked at, and why."""


class Stream:
    """A recording as a stream, see `mematlas.timeline.stream`."""

    def __init__(self, file: BinaryIO, facts: dict[str, str]) -> None:
        self.file = file
        file.write(MAGIC)
        self.add({"recording": list(facts.items())})

    def add(self, rows: Rows) -> None:
        """Write a moment: all of it at once."""
        for frame in frames_of(rows):
            self.file.write(frame)
        self.file.flush()


def facts_of(
    watch: Watch, interval: float, keep: float | None = None, when: Sequence[Assertion] = ()
) -> dict[str, str]:
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
    facts |= {key: value for key, value in (("keep", keep), ("when", condition_of(when))) if value}
    if watch.redactor:
        facts |= {"host": None, "uid": None}
    return {key: json.dumps(value) for key, value in facts.items()}


def record_into(
    destination: Destination,
    watch: Watch,
    interval: float = 1.0,
    duration: float | None = None,
    budget: float = BUDGET,
    when: Sequence[Assertion] = (),
    rest: Callable[[float], object] = time.sleep,
    told: Callable[[int, float], None] | None = None,
    keep: float | None = None,
) -> RecordResult:
    """Record what is watched, until it has ended, or the time is over, or ``rest`` says that it is enough.

    With ``when`` the time begins at the first moment at which these hold of a process; what was before that is left
    out, unless the destination is a ring, which ``keep`` says. ``told`` hears how many moments there are, and for how
    long.

    Raises:
        BadInput: what ``when`` says cannot be waited for.
        PermissionDenied, NotSupported: it is about what is not known of any process that is watched.
    """
    check_conditions(when)
    text = condition_of(when)
    sampler: Sampler[Look] = Sampler(watch.look, interval, None if text else duration, budget, rest)
    encoder = Encoder(with_peaks=keep is None)
    first, last, held_at, is_new = 0.0, 0.0, None, True
    hidden: list[str] = []
    for snapshot in sampler:
        found = snapshot.found
        hidden += [one.text for one in found.happenings if one.kind == HIDDEN]
        if is_new and found.seen:
            is_new = False
            check_known(when, found)
        seen = who_meets(when, found) if text and held_at is None else None
        if keep or seen or held_at is not None or not text:
            first = first if encoder.nr_moments else snapshot.elapsed
            last = snapshot.elapsed
            if seen:
                held_at = last - first
                sampler.duration = None if duration is None else last + duration
                held = Happening(seen.pid, seen.start_time, HELD, text)
                found = replace(found, happenings=(*found.happenings, held))
            destination.add(encoder.rows_of(replace(snapshot, elapsed=last - first, found=found)))
            if told:
                told(encoder.nr_moments, last - first)
        if watch.is_over:
            break
    return RecordResult(
        nr_moments=encoder.nr_moments,
        nr_processes=encoder.nr_processes,
        seconds=last - first,
        watched_s=sampler.seconds,
        cost=sampler.cost,
        notes=(*sampler.notes(), *left_out(hidden if watch.everybody else ())),
        is_over=watch.is_over,
        kept=Kept(keep, text, held_at),
        hidden=() if watch.everybody else tuple(hidden),
    )


def check_conditions(when: Sequence[Assertion]) -> None:
    """Refuse what cannot be waited for.

    Raises:
        BadInput: it is of growth, or of groups alone.
    """
    for one in when:
        if one.is_growth:
            raise BadInput("--when is about a moment: growth takes many")
        if one.measure not in OF_PROCESS:
            raise BadInput(
                f"--when is about a process, of which {one.measure} is not known: see mematlas help measures"
            )


def check_known(when: Sequence[Assertion], look: Look) -> None:
    """Refuse to wait for what would never be known.

    Raises:
        PermissionDenied, NotSupported: a measure is known of none of those that are watched.
    """
    for one in when:
        if all(amounts_of(seen.usage).get(one.measure) is None for seen in look.seen):
            usage = look.seen[0].usage
            if usage.reading.source == SUMS:
                raise NotSupported(f"{one.measure} by sums alone", "--what vmas")
            raise why_unknown(one.measure, usage)


def left_out(hidden: Sequence[str]) -> list[Note]:
    """Return what there is to say where of all processes some may not be looked at."""
    if not hidden:
        return []
    others = f"{len(hidden):,} processes, such as: " if len(hidden) > 1 else ""
    return [Note("left-out", f"left out: {others}{hidden[0]}")]


def condition_of(when: Sequence[Assertion]) -> str:
    """Return what is waited for, as it was written; nothing where nothing is."""
    return " and ".join(one.text for one in when)


def who_meets(conditions: Sequence[Assertion], look: Look) -> Seen | None:
    """Return a process of which all conditions hold."""
    for seen in look.seen:
        amounts = amounts_of(seen.usage)
        values = [amounts.get(one.measure) for one in conditions]
        if all(value is not None and one.holds(value) for one, value in zip(conditions, values, strict=True)):
            return seen
    return None

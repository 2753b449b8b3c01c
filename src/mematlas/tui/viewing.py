"""What all screens share: the timelines, the moment that is looked at, the process, what is compared with what."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from mmap import PAGESIZE
from operator import itemgetter

from mematlas.errors import Error, TargetNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mematlas.kernel.nodes import NodeMap
    from mematlas.timeline.sampler import Snapshot
    from mematlas.timeline.timeline import Counted, Moments
    from mematlas.timeline.watch import Happening, Look, Seen

PALETTES = ("state", "changed", "accessed", "shared", "huge", "node")
"""What the colours of the map show; see `mematlas.tui.map`."""


class Viewing:
    """What is looked at, and how.

    Times are seconds. Two timelines of a live screen, that of everybody and that of one process looked at closely, have
    a clock each; what is asked here is by the clock of the screen.
    """

    def __init__(self) -> None:
        self.everybody: Moments | None = None
        """All processes, by their amounts; of a recording, what was recorded."""
        self.closely: Moments | None = None
        """One process, with its VMAs and single pages; of a recording, the same recording."""
        self.machine: Moments | None = None
        """All of RAM, and the page cache; of a recording, the same recording."""
        self.shifts: dict[int, float] = {}
        """By the id() of a timeline, when it began by the clock of the screen."""
        self.focus: tuple[int, int] | None = None
        """The PID and the start of the process that is looked at closely."""
        self.at: float | None = None
        """The moment that is looked at; None for the newest."""
        self.compared: float | None = None
        """The moment that all is compared with; None for none."""
        self.is_live = True
        self.is_frozen = False
        self.place = ""
        """Of what: the machine's name, or that of a recording."""
        self.captured = ""
        """The capture that is looked at, as it was named; empty for what goes on."""
        self.palette = PALETTES[0]
        self.address: int | None = None
        """Where the cursor is in the address space, on the map and in the list of VMAs alike."""
        self.page_size = PAGESIZE
        self.why_no_act = ""
        """Why nothing may be done to the process; empty where it may."""
        self.said = ""
        """What there is to say just now."""
        self.ask: Callable[..., None] | None = None
        """Asks the thread that looks for something, as `mematlas.tui.looking.Looker.ask` does: by the name of what is
        wanted; the answer comes by `answers`.
        """
        self.ask_aside: Callable[[str, Any], bool] | None = None
        """The same of a thread that looks at nothing else, unless it is busy: what takes long, and nobody waits for."""
        self.find_nodes: Callable[[], NodeMap] | None = None
        """Returns where the RAM of each node is; None where nobody knows."""
        self.leads_to = ""
        """The name of the page that a page wants to be shown next."""
        self.answers: dict[str, Any] = {}
        """The last answer to each, or the `Error` that was in its place."""

    # The moment

    def now(self, timeline: Moments | None) -> float | None:
        """Return the moment that is looked at by the clock of a timeline; None where that has none yet."""
        if timeline is None or not (times := timeline.times):
            return None
        if self.at is None:
            return times[-1]
        return min(max(self.at - self.shift(timeline), times[0]), times[-1])

    def shift(self, timeline: Moments) -> float:
        """Return when a timeline began, by the clock of the screen."""
        return self.shifts.get(id(timeline), 0.0)

    def moment(self, timeline: Moments | None) -> Snapshot[Look] | None:
        """Return the moment of a timeline that is looked at; None where there is none yet."""
        at = self.now(timeline)
        return None if timeline is None or at is None else held(timeline, at)

    def latest(self) -> Snapshot[Look] | None:
        """Return the moment that is looked at, of that timeline which has the latest one: others may rest."""
        found = [
            (moment.elapsed + self.shift(one), moment)
            for one in (self.closely, self.everybody, self.machine)
            if one is not None and (moment := self.moment(one)) is not None
        ]
        return max(found, key=itemgetter(0))[1] if found else None

    def moment_before(self, timeline: Moments | None) -> Snapshot[Look] | None:
        """Return what a moment of a timeline is compared with: the one chosen, else that before; None of the first."""
        at = self.now(timeline)
        if timeline is None or at is None:
            return None
        times = timeline.times
        if self.compared is not None:
            chosen = self.compared - self.shift(timeline)
            return held(timeline, min(max(chosen, times[0]), times[-1]))
        place = bisect_right(times, at) - 1
        return held(timeline, times[place - 1]) if place > 0 else None

    def counted(self, timeline: Moments | None, seconds: float) -> list[Counted]:
        """Return the machine's counters from so many seconds before the moment that is looked at up to it."""
        at = self.now(timeline)
        return [] if timeline is None or at is None else timeline.counters(at - seconds, at)

    @property
    def clock(self) -> float:
        """The moment that is looked at, by the clock of the screen."""
        timelines = [one for one in (self.closely, self.everybody, self.machine) if one is not None]
        return max(((self.now(one) or 0.0) + self.shift(one) for one in timelines), default=0.0)

    @property
    def reach(self) -> tuple[float, float]:
        """From when to when there are moments, by the clock of the screen."""
        spans = [
            (times[0] + self.shift(one), times[-1] + self.shift(one))
            for one in (self.closely, self.everybody, self.machine)
            if one is not None and (times := one.times)
        ]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0.0, 0.0)

    def move(self, seconds: float) -> None:
        """Look at another moment, so much later; the newest one follows what comes."""
        first, last = self.reach
        at = max(self.clock + seconds, first)
        self.at = None if at >= last else at

    def step(self, nr: int) -> None:
        """Look at another moment: so many seconds later, or of a recording so many of its moments."""
        timeline = self.closely
        if self.is_live or timeline is None or not (times := timeline.times):
            self.move(nr)
            return
        index = min(max(bisect_right(times, self.clock) - 1 + nr, 0), len(times) - 1)
        self.at = times[index] if index < len(times) - 1 else None

    # The process

    def seen(self) -> Seen | None:
        """Return the process that is looked at closely, as it is at the moment that is looked at."""
        return self._of_focus(self.moment(self.closely)) or self._of_focus(self.moment(self.everybody))

    def seen_before(self) -> Seen | None:
        """Return the same at the moment that it is compared with."""
        before = (self._of_focus(self.moment_compared(one)) for one in (self.closely, self.everybody))
        return next(filter(None, before), None)

    def moment_compared(self, timeline: Moments | None) -> Snapshot[Look] | None:
        """Return the moment of a timeline that all is compared with; None where there is none, or none any more."""
        if timeline is None or self.compared is None:
            return None
        try:
            return timeline.at(self.compared - self.shift(timeline))
        except TargetNotFound:
            return None  # it does not reach back so far

    def largest(self) -> int | None:
        """Return where the VMA begins that has most in RAM; None where that is not known of any."""
        seen = self.seen()
        known = [(item.usage.rss, item.start) for item in (seen.vmas or ()) if item.usage.rss] if seen else []
        return max(known, default=(0, None))[1]

    def _of_focus(self, moment: Snapshot[Look] | None) -> Seen | None:
        if moment is None or self.focus is None:
            return None
        return next((one for one in moment.found.seen if (one.pid, one.start_time) == self.focus), None)

    def happened(self) -> Sequence[Happening]:
        """Return what has happened to the process up to the moment that is looked at."""
        if self.closely is None or self.focus is None:
            return ()
        at = self.now(self.closely)
        found = [] if at is None else self.closely.happened(float("-inf"), at)
        return [one for one in found if (one.pid, one.start_time) == self.focus]

    @property
    def target(self) -> str:
        """What names the process on a command line: its PID, or a moment of the recording."""
        if self.captured:
            return self.captured
        if self.is_live:
            return str(self.focus[0]) if self.focus else "TARGET"
        at = self.now(self.closely)
        pid = f":{self.focus[0]}" if self.focus else ""
        return f"{self.place}@{'end' if at is None else f'{at:g}s'}{pid}"

    @cached_property
    def nodes(self) -> NodeMap | str:
        """Where the RAM of each node is, or why that is not known."""
        if self.find_nodes is None:
            return "which node frames are on is not in this recording"
        try:
            return self.find_nodes()
        except Error as error:
            return str(error)

    def answer(self, name: str) -> Any:
        """Return the last answer to something that was asked for; None where there is none, or an error was."""
        found = self.answers.get(name)
        return None if isinstance(found, Error) else found

    def why_not(self, name: str) -> str:
        """Return why there is no answer; empty where there is one, or it is waited for."""
        found = self.answers.get(name)
        return str(found) if isinstance(found, Error) else ""


def held(timeline: Moments, seconds: float) -> Snapshot[Look]:
    """Return the moment of a timeline at a time that it has, or had: the first it has left once that is gone.

    The thread that looks lets go of old ones while the screen asks.
    """
    try:
        return timeline.at(seconds)
    except TargetNotFound:
        first = timeline.times[0]
        if seconds >= first:
            raise
        return held(timeline, first)

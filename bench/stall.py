"""What looking does to the one that is looked at.

A target with 4 GiB of small pages maps, touches and unmaps 64 KiB in a loop, which needs for writing the lock
that most ways of looking hold for reading. It is pinned to one processor, the observer to another, so what
it loses is the lock and not the processor. The target touches its memory once; the observers take turns.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from jobs import GIB, PAGE, SMALL, STALL, STALL_SCATTERED, STEP
from programs import Child, ProgramError, running

BAR_P999_MS = 2.0
PACED_THROUGHPUT = 0.75
AGAIN_THROUGHPUT = 0.95
PREADS = "pagemap, 64 KiB preads"
NOTHING = "a loop that looks at nothing"


class ObserverError(Exception):
    """An observer ended before it was asked to."""


@dataclass(frozen=True, slots=True)
class Observer:
    """A way of looking, repeated without pause until asked to stop."""

    label: str
    argv: tuple[str, ...]
    throughput_bar: float | None = None
    """The share of its undisturbed throughput that the target keeps; none where we only report."""


def observer_of_ours(label: str, kind: str, throughput_bar: float) -> Observer:
    """Return a way of looking that `observe.py` has."""
    return Observer(label, ("{python}", "{bench}/observe.py", kind, "{pid}", "loop"), throughput_bar)


OBSERVERS = (
    Observer("nobody", ()),
    # What a busy neighbour takes by itself, most of all on a machine that others use too: the measure of the rest.
    Observer(NOTHING, ("{python}", "{bench}/observe.py", "nothing", "{pid}", "loop")),
    Observer("read smaps_rollup", ("{python}", "{bench}/observe.py", "rollup", "{pid}", "loop")),
    Observer("PAGEMAP_SCAN over each VMA", ("{bin}/pagemap_scan", "{pid}", "loop")),
    Observer(PREADS, ("{bin}/pread_scan", "{pid}", "loop")),
    observer_of_ours("mematlas usage by pagemap, paced", "paced", PACED_THROUGHPUT),
    observer_of_ours("mematlas usage, single looks in a row", "usage", PACED_THROUGHPUT),
    observer_of_ours("mematlas usage, looking again", "again", AGAIN_THROUGHPUT),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What the target has touched beside what it maps and unmaps."""

    label: str
    size: int
    needs: int
    """Bytes of memory that it takes."""
    step: int | None = None
    """Bytes in each of which it has touched one page; all pages where there is none."""
    observers: tuple[Observer, ...] = OBSERVERS


TARGETS = {
    STALL: Target(f"4 GiB of touched {SMALL}", 4 * GIB, 4 * GIB),
    STALL_SCATTERED: Target(
        f"1 TiB with one page in each {STEP >> 20} MiB",
        1 << 40,
        2 * PAGE * ((1 << 40) // STEP),
        step=STEP,
        # To read every entry of a TiB takes seconds, and nobody does it.
        observers=tuple(observer for observer in OBSERVERS if observer.label != PREADS),
    ),
}
"""By the name of the job."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the target beside one observer."""

    nr_operations: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    worst_ms: float
    nr_observations: int
    throughput: float
    """Operations per second, as a share of those of the same turn beside a loop that looks at nothing."""


@dataclass(slots=True)
class Stall:
    """All rounds beside one observer: medians, but the worst of all worst."""

    observer: Observer
    rounds: list[Round] = field(default_factory=list)
    floor_ms: float = 0.0
    """The p99.9 beside a loop that looks at nothing: the machine's own."""
    error: str = ""
    """Why it could not observe; it is left out from then on."""

    def median(self, value: Callable[[Round], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(value(a_round) for a_round in self.rounds)

    @property
    def worst_ms(self) -> float:
        """Return the longest operation of all rounds."""
        return max(a_round.worst_ms for a_round in self.rounds)

    @property
    def verdict(self) -> str:
        """Return "ok", or which of the two bars is missed."""
        if self.error:
            return f"NOT RUN: {self.error}"
        if self.observer.throughput_bar is None:
            return "-"
        missed = []
        if self.median(lambda a_round: a_round.p999_ms) >= max(BAR_P999_MS, 1.1 * self.floor_ms):
            missed.append("p99.9")
        if self.median(lambda a_round: a_round.throughput) <= self.observer.throughput_bar:
            missed.append("throughput")
        return "LOSES: " + ", ".join(missed) if missed else "ok"


def choose_processors() -> tuple[int, int] | None:
    """Return a processor for the target and one for the observer, or None when there is only one."""
    processors = sorted(os.sched_getaffinity(0))
    return (processors[-1], processors[0]) if len(processors) > 1 else None


def measure_stall(values: Mapping[str, str], nr_rounds: int, seconds: float, what: Target) -> list[Stall]:
    """Return what each observer did to a target."""
    processors = choose_processors()
    if processors is None:
        raise ProgramError("needs two processors")
    stalls = [Stall(observer) for observer in what.observers]
    program = f"{values['bin']}/stall_target"
    argv = [program, str(what.size), str(processors[0])]
    if what.step:
        argv.append(str(what.step))
    with running(argv) as target:
        target.wait_until_ready()
        for number in range(nr_rounds):
            print(f"stall: round {number + 1} of {nr_rounds}", file=sys.stderr)
            add_turn(stalls, target, {**values, "pid": str(target.pid)}, processors[1], seconds)
    control = next(stall for stall in stalls if stall.observer.label == NOTHING)
    for stall in stalls:
        stall.floor_ms = control.median(lambda a_round: a_round.p999_ms)
    return stalls


def add_turn(stalls: Sequence[Stall], target: Child, values: Mapping[str, str], processor: int, seconds: float) -> None:
    """Let every observer have one round."""
    rates: dict[str, float] = {}
    for stall in stalls:
        if stall.error:
            continue
        try:
            report, nr_observations = one_round(stall.observer, target, values, processor, seconds)
        except ObserverError as error:
            stall.error = str(error)
            continue
        rates[stall.observer.label] = report["nr_operations"] / report["seconds"]
        stall.rounds.append(
            Round(
                nr_operations=int(report["nr_operations"]),
                seconds=report["seconds"],
                p50_ms=report["p50_ms"],
                p99_ms=report["p99_ms"],
                p999_ms=report["p999_ms"],
                worst_ms=report["worst_ms"],
                nr_observations=nr_observations,
                throughput=rates[stall.observer.label],
            )
        )
    for stall in stalls:
        if stall.observer.label in rates:
            share = stall.rounds[-1].throughput / rates[NOTHING]
            stall.rounds[-1] = replace(stall.rounds[-1], throughput=share)


def one_round(
    observer: Observer, target: Child, values: Mapping[str, str], processor: int, seconds: float
) -> tuple[dict[str, float], int]:
    """Return the target's report and the observations made meanwhile."""
    if not observer.argv:
        return json.loads(target.ask(str(seconds))), 0
    with running([word.format_map(values) for word in observer.argv]) as child:
        os.sched_setaffinity(child.pid, {processor})
        with observer_errors():
            child.wait_until_ready()
        report = json.loads(target.ask(str(seconds)))
        child.close_stdin()
        with observer_errors():
            return report, int(json.loads(child.read_line())["nr_observations"])


@contextmanager
def observer_errors() -> Iterator[None]:
    """Take the end of an observer, which spoils its own line only, for another error than that of the target."""
    try:
        yield
    except ProgramError as error:
        raise ObserverError(error) from None

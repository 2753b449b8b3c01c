"""Assertions on the memory of a process or a group, at one moment or over some time."""

from __future__ import annotations

import time

from mematlas.analysis.assertions import judge, parse_assertion
from mematlas.analysis.growth import LEAST_LOOKS
from mematlas.analysis.measures import OF_CGROUP, amounts_of
from mematlas.analysis.set_usage import SetUsage
from mematlas.errors import BadInput, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import Record, Tabular, record
from mematlas.kernel.rights import effective_capabilities
from mematlas.notes import Note
from mematlas.timeline.sampler import BUDGET, Cost, Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mematlas.analysis.assertions import Assertion, Verdict
    from mematlas.analysis.results import UsageResult
    from mematlas.errors import Error

SMAPS_ALONE = ("lazyfree", "swap_pss")
"""What is known of smaps alone."""
OF_LIMIT = ("limit", "headroom")
SEES_ALL = ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")


@record
class CheckResult(Tabular, Record):
    """What came of some assertions."""

    verdicts: tuple[Verdict, ...]
    nr_looks: int
    seconds: float
    """From the first look to the last."""
    usage: UsageResult | SetUsage
    """Of the last look."""
    cost: Cost
    notes: tuple[Note, ...]
    ended: ProcessGone | None = None
    """How the target ended before the time was over; None where it did not."""
    is_stopped: bool = False
    """Whether somebody stopped it before the time was over."""

    @property
    def passed(self) -> bool:
        """Whether all of them held, to the end."""
        return self.ended is None and not self.is_stopped and all(verdict.passed for verdict in self.verdicts)

    def why_unknown(self) -> dict[str, Error]:
        """Return what keeps measures hidden, by their names."""
        names = dict.fromkeys(verdict.assertion.measure for verdict in self.verdicts if verdict.passed is None)
        return {name: why_unknown(name, self.usage) for name in names}


def check(
    look: Callable[[], UsageResult | SetUsage],
    assertions: Iterable[str | Assertion],
    duration: float = 0.0,
    interval: float = 1.0,
    budget: float = BUDGET,
    told: Callable[[int, float], None] | None = None,
    rest: Callable[[float], object] = time.sleep,
) -> CheckResult:
    """Return whether assertions hold of what ``look`` returns, such as `mematlas.Process.usage`.

    Without a ``duration`` there is one look, else one every ``interval`` seconds, the last at its end. What an
    assertion is: `mematlas.analysis.assertions`. ``told`` hears how many looks there were, and for how long; ``rest``
    waits between them, and returns whether to stop before the time is over.

    >>> import os
    >>> from mematlas.observe.process import Process
    >>> with Process(os.getpid()) as process:
    ...     result = check(process.usage, ["rss > 0", "uss < 1MiB"])
    >>> [verdict.passed for verdict in result.verdicts], result.passed
    ([True, False], False)

    Raises:
        BadInput: an assertion cannot be understood, is about what is not known of such a target, or is of growth and
            there would be too few looks.
        ProcessGone: the target had ended before the first look.
    """
    parsed = [parse_assertion(one) if isinstance(one, str) else one for one in assertions]
    if not parsed:
        raise BadInput("nothing is asserted: try 'uss < 200MiB'")
    sampler: Sampler[UsageResult | SetUsage] = Sampler(look, interval, duration, budget, rest)
    growing = next((one for one in parsed if one.is_growth), None)
    nr_looks = sampler.nr_expected
    if growing and nr_looks is not None and nr_looks < LEAST_LOOKS:
        text = f"growth({growing.measure}) takes {LEAST_LOOKS} looks at the least, and there would be {nr_looks}"
        raise BadInput(f"{text}: try -d 60s")
    times: list[float] = []
    amounts: dict[str, list[int | None]] = {one.measure: [] for one in parsed}
    last: UsageResult | SetUsage | None = None
    ended = None
    try:
        for snapshot in sampler:
            last = snapshot.found
            add(amounts, amounts_of(last))
            times.append(snapshot.elapsed)
            if told:
                told(sampler.nr_looks, snapshot.elapsed)
    except ProcessGone as error:
        if last is None:
            raise
        ended = error
    assert last
    return CheckResult(
        verdicts=verdicts_of(parsed, times, amounts, ended is not None or sampler.is_stopped),
        nr_looks=sampler.nr_looks,
        seconds=sampler.seconds,
        usage=last,
        cost=sampler.cost,
        notes=tuple(sampler.notes()),
        ended=ended,
        is_stopped=sampler.is_stopped,
    )


def add(amounts: dict[str, list[int | None]], found: dict[str, int | None]) -> None:
    """Add the amounts of a look.

    Raises:
        BadInput: one is asked for that such a target has not.
    """
    for name, so_far in amounts.items():
        if name not in found:
            hint = ": it is of a cgroup, such as cgroup:PATH or unit:NAME" if name in OF_CGROUP else ""
            raise BadInput(f"{name} is not known of such a target{hint}; there are {', '.join(sorted(found))}")
        so_far.append(found[name])


def verdicts_of(
    assertions: Sequence[Assertion], times: Sequence[float], amounts: dict[str, list[int | None]], is_cut_short: bool
) -> tuple[Verdict, ...]:
    """Return what comes of assertions; where looking was cut short, of those that can be judged all the same."""
    verdicts = []
    for one in assertions:
        if is_cut_short and one.is_growth and len(times) < LEAST_LOOKS:
            continue
        verdicts.append(judge(one, times, amounts[one.measure]))
    return tuple(verdicts)


def why_unknown(measure: str, usage: UsageResult | SetUsage) -> Error:
    """Return why a measure is not known: a right is missing, or nothing here tells it."""
    if measure in SMAPS_ALONE and usage.reading.source != "smaps":
        return NotSupported(f"{measure} from {usage.reading.source}", "--source smaps")
    if measure in OF_LIMIT and isinstance(usage, SetUsage):
        return NotSupported(measure, "a limit: the cgroup has none")
    missing = [name for name in SEES_ALL if name not in effective_capabilities()]
    return PermissionDenied(measure, *missing) if missing else NotSupported(measure)

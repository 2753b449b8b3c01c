"""What came of assertions: a line each, for people and for programs, or as GitHub's runners read it."""

from __future__ import annotations

from mematlas.analysis.assertions import LOWER, TIMES, UPPER
from mematlas.analysis.growth import STEADY
from mematlas.analysis.measures import MEASURES, SIZE
from mematlas.views.format import fold_message, format_change, format_path, format_seconds, format_size, number_of
from mematlas.views.set_usage import LINES as LINES_OF_GROUPS
from mematlas.views.table import Column, Drawn, Table
from mematlas.views.usage import LINES, MORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.assertions import Verdict
    from mematlas.errors import Error
    from mematlas.timeline.check import CheckResult

MEANINGS = {key: meaning for key, _, _, meaning in (*LINES_OF_GROUPS, *LINES)} | {
    **{key: meaning for key, _, meaning in MORE},
    "size": "all VMAs (VmSize)",
    "peak_size": "the most that this has been",
    "nr_vmas": "VMAs",
    "nr_pages": "pages of address space",
    "nr_present": "pages with an entry that is present: resident, hugetlb and zero pages",
    "nr_swapped": "pages in swap",
    "nr_exclusive": "present pages mapped here alone",
    "nr_processes": "processes of a group",
    "charged": "what a cgroup is charged (cgroup:, unit:, container:, pod:)",
    "limit": "its tightest limit",
    "headroom": "what is left up to that",
}
"""What each of `MEASURES` is."""
RESULTS = {True: "holds", False: "FAILS", None: "not known"}
COLUMNS: tuple[Column[Verdict], ...] = (
    Column("assertion", "ASSERTION", value=lambda item: item.assertion.text),
    Column("passed", "PASSED", "flag"),
    Column("measure", "MEASURE", value=lambda item: item.assertion.measure),
    Column("is_growth", "GROWTH", "flag", lambda item: item.assertion.is_growth),
    Column("found", "FOUND", "number"),
    Column("operator", "OPERATOR", value=lambda item: item.assertion.sign),
    Column("limit", "LIMIT", "number", lambda item: item.assertion.limit),
    Column("at", "AT", "number"),
    Column("low", "LOW", "number", lambda item: item.growth and item.growth.slope.low),
    Column("high", "HIGH", "number", lambda item: item.growth and item.growth.slope.high),
    Column("label", "LABEL", value=lambda item: item.growth and item.growth.label),
    Column("nr_looks", "LOOKS", "count"),
)
LINE_COLUMNS: tuple[Column[Any], ...] = (
    Column("assertion", "ASSERTION", value=lambda line: line[0]),
    Column("result", "RESULT", value=lambda line: line[1]),
    Column("found", "FOUND", value=lambda line: line[2]),
)


def check_table(result: CheckResult, target: dict[str, Any]) -> Table:
    """Return what came of assertions, a row each. Those that do not hold fail, but of a target that has ended."""
    failures = [] if result.ended else failures_of(result, target)

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from fold_message(heading(result, target), width)
        lines = [
            (one.assertion.text, RESULTS[one.passed], found_or_why(result, one, in_bytes)) for one in result.verdicts
        ]
        yield from Table("check/1", LINE_COLUMNS, lines).lines(colour=colour, width=width)

    return Drawn(
        "check/1",
        COLUMNS,
        result.verdicts,
        target=target_with(result, target),
        notes=result.notes,
        failures=failures,
        draw=draw,
    )


def failures_of(result: CheckResult, target: dict[str, Any]) -> list[str]:
    """Return what to say of assertions that do not hold."""
    who = who_of(target)
    return [f"{who}: {one.assertion.text} fails: {found_text(one)}" for one in result.verdicts if one.passed is False]


def found_or_why(result: CheckResult, verdict: Verdict, in_bytes: bool = False) -> str:
    """Return what was found, or why it is not known."""
    why = result.why_unknown().get(verdict.assertion.measure) if verdict.passed is None else None
    return str(why) if why else found_text(verdict, in_bytes)


def target_with(result: CheckResult, target: dict[str, Any]) -> dict[str, Any]:
    """Return the ``target`` of a result, with how it was looked at."""
    return target | {
        "nr_looks": result.nr_looks,
        "seconds": round(result.seconds, 6),
        "cpu_s": round(result.cost.cpu_s, 6),
        "ended": str(result.ended) if result.ended else None,
        "stopped": result.is_stopped,
    }


def heading(result: CheckResult, target: dict[str, Any]) -> str:
    """Return who was looked at, how often, and at what cost."""
    who = who_of(target)
    looks = number_of(result.nr_looks, "look")
    if result.nr_looks == 1:
        return f"{who}, {looks}"
    cost = f"{format_seconds(result.cost.cpu_s)} of a processor"
    stopped = "; stopped before the time was over" if result.is_stopped else ""
    return f"{who}, {looks} in {format_seconds(result.seconds)}, which took {cost}{stopped}"


def who_of(target: dict[str, Any]) -> str:
    """Return who was looked at."""
    if "pid" in target:
        return f"{format_path(target['name'])}, PID {target['pid']}"
    return format_path(target["group"])


def found_text(verdict: Verdict, in_bytes: bool = False) -> str:
    """Return what was found: the amount that decides, and when; of growth the slope with its interval, and how."""
    one, growth = verdict.assertion, verdict.growth
    if verdict.found is None:
        return "not known"
    if growth:
        per = TIMES[one.per or "s"]
        slope, low, high = (
            amount_text(one.measure, value * per, in_bytes, signed=True)
            for value in (growth.slope.value, growth.slope.low, growth.slope.high)
        )
        manner = "" if growth.label == STEADY else f": {growth.label}"
        if verdict.passed and not one.holds(growth.slope.value):
            manner += ", but that is not certain: try a longer -d"
        return f"{slope}/{one.per} ({low} to {high}){manner}"
    amount = amount_text(one.measure, verdict.found, in_bytes)
    if verdict.nr_looks == 1:
        return amount
    end = " at most" if one.sign in UPPER else " at least" if one.sign in LOWER else ""
    return f"{amount}{end}" + (f", after {format_seconds(verdict.at)}" if verdict.at else "")


def amount_text(measure: str, amount: float, in_bytes: bool, signed: bool = False) -> str:
    """Return an amount of a measure, or by how much it grows."""
    if MEASURES[measure] == SIZE and not in_bytes:
        return format_change(amount) if signed else format_size(round(amount))
    return f"{amount:+.3g}" if signed and amount else f"{amount:,.0f}" if not in_bytes else f"{amount:.0f}"


def github_lines(result: CheckResult, target: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that make GitHub's runners show what came of it: workflow commands, whatever names hold."""
    for one in result.verdicts:
        kind = "notice" if one.passed else "error"
        text = f"{who_of(target)}: {one.assertion.text} {RESULTS[one.passed]}: {found_or_why(result, one)}"
        yield f"::{kind} title=mematlas check::{github_text(text)}"
    if result.ended:
        yield f"::error title=mematlas check::{github_text(f'{who_of(target)}: {result.ended}')}"
    if result.is_stopped:
        yield f"::error title=mematlas check::stopped after {format_seconds(result.seconds)}"


def github_error(error: Error) -> str:
    """Return the same line of an error that keeps assertions from being checked."""
    return f"::error title=mematlas check::{github_text(str(error))}"


def github_text(text: str) -> str:
    """Return a text as the data of a workflow command, which ends nothing and begins none.

    >>> print(github_text("50 %" + chr(10) + "::error::x"))
    50 %25%0A::error::x
    """
    for character in "%\r\n":
        text = text.replace(character, f"%{ord(character):02X}")
    return text

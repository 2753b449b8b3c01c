"""What is asserted of memory: ``uss < 200MiB``, ``growth(rss) < 1MiB/min``. It is read, and never run as code.

::

    assertion  = subject operator limit
    subject    = MEASURE | "growth" "(" MEASURE ")"
    operator   = "<" | "<=" | ">" | ">=" | "==" | "!="
    limit      = NUMBER [UNIT]                   of growth: NUMBER [UNIT] "/" TIME

A measure has to hold at each look. Growth is the slope of all looks (`mematlas.analysis.growth`), of which the interval
decides: an assertion fails where it holds nowhere in that.
"""

from __future__ import annotations

import operator
import re

from mematlas.analysis.growth import LEAST_LOOKS, growth_of
from mematlas.analysis.measures import MEASURES, SIZE
from mematlas.errors import BadInput, did_you_mean
from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mematlas.analysis.growth import Growth

GROWTH = "growth"
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
UPPER, LOWER = ("<", "<="), (">", ">=")
UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} | {
    letter: 1 << shift for letter, shift in (("K", 10), ("M", 20), ("G", 30), ("T", 40))
}
TIMES = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
MOST_TEXT = 200
"""Characters of an assertion."""
EXAMPLES = "'uss < 200MiB' or 'growth(rss) < 1MiB/min'"
FORM = re.compile(
    r"""\s*(?:(?P<function>\w+)\s*\(\s*(?P<inner>\w+)\s*\)|(?P<name>\w+))
        \s*(?P<sign><=|>=|==|!=|<|>)
        \s*(?P<number>-?[0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?P<unit>[A-Za-z]*)
        \s*(?:/\s*(?P<time>\w+))?\s*""",
    re.ASCII | re.VERBOSE,
)


@record
class Assertion(Record):
    """An assertion that was understood."""

    text: str
    """As it was written."""
    measure: str
    """One of `mematlas.analysis.measures.MEASURES`."""
    is_growth: bool
    sign: str
    """One of `OPERATORS`."""
    limit: float
    """Bytes, or a number of things; of growth a second."""
    per: str | None = None
    """The time that growth is measured by, one of `TIMES`."""

    def holds(self, amount: float) -> bool:
        """Whether it holds of an amount."""
        return OPERATORS[self.sign](amount, self.limit)


@record
class Verdict(Record):
    """What came of an assertion."""

    assertion: Assertion
    passed: bool | None
    """None where the measure is not known: that is no pass."""
    nr_looks: int
    found: float | None
    """The amount that decided: the one that is farthest on the wrong side, or nearest to it. Of growth the slope."""
    at: float | None
    """When that was, in seconds after the first look; None of growth."""
    growth: Growth | None = None


def parse_assertion(text: str) -> Assertion:
    """Return an assertion that was written.

    >>> parse_assertion("growth(rss) < 1.5MiB/min")
    Assertion(text='growth(rss) < 1.5MiB/min', measure='rss', is_growth=True, sign='<', limit=26214.4, per='min')

    Raises:
        BadInput: it is none, or has a name or a unit in it that there is not.
    """
    found = FORM.fullmatch(text) if len(text) <= MOST_TEXT else None
    if found is None:
        hint = "equal is ==; " if re.search("[^<>=!]=[^<>=]", text) else ""
        raise BadInput(f"cannot understand assertion {text[:MOST_TEXT]!r}: {hint}try {EXAMPLES}")
    function, sign = found["function"], found["sign"]
    if function not in (None, GROWTH):
        raise BadInput(f"no function {function!r}{did_you_mean(function, [GROWTH])}: there is {GROWTH}")
    measure = found["inner"] or found["name"]
    if measure not in MEASURES:
        raise BadInput(f"no measure {measure!r}{did_you_mean(measure, MEASURES)}: mematlas help measures lists them")
    is_growth = function is not None
    if is_growth and sign in ("==", "!="):
        raise BadInput(f"growth is an estimate: {sign} cannot be decided; try {EXAMPLES}")
    limit = float(found["number"]) * unit_of(found["unit"], measure)
    if is_growth:
        limit /= seconds_of(found["time"])
    elif found["time"]:
        raise BadInput(f"{measure} is an amount, not one a time: did you mean growth({measure})?")
    elif limit < 0:
        raise BadInput(f"{measure} is never less than 0")
    limit = int(limit) if limit.is_integer() else limit
    return Assertion(text.strip(), measure, is_growth, sign, limit, found["time"])


def unit_of(name: str, measure: str) -> int:
    """Return what a unit of a measure stands for."""
    if MEASURES[measure] != SIZE:
        if name:
            raise BadInput(f"{measure} is a number of things: it has no unit such as {name}")
        return 1
    if name not in UNITS:
        raise BadInput(f"no unit {name!r}{did_you_mean(name, UNITS)}: B, KiB, MiB, GiB or TiB")
    return UNITS[name]


def seconds_of(name: str | None) -> int:
    """Return how long a time is that growth is measured by."""
    if name not in TIMES:
        what = "growth is so much a time" if name is None else f"no time {name!r}"
        raise BadInput(f"{what}: /s, /min, /h or /d")
    return TIMES[name]


def judge(assertion: Assertion, times: Sequence[float], amounts: Sequence[int | None]) -> Verdict:
    """Return what comes of an assertion, given the amounts at some looks, one at least.

    >>> judge(parse_assertion("uss < 8KiB"), [0.0, 1.0], [4096, 12288]).found
    12288

    Raises:
        BadInput: growth is asked for, and there are too few looks.
    """
    known = [(time, amount) for time, amount in zip(times, amounts, strict=True) if amount is not None]
    if assertion.is_growth:
        return judge_growth(assertion, len(amounts), known)
    wrong = [look for look in known if not assertion.holds(look[1])]
    passed = False if wrong else True if len(known) == len(amounts) else None
    at, amount = worst(assertion.sign, wrong or known) if known else (None, None)
    return Verdict(assertion, passed, len(amounts), amount, at)


def worst(sign: str, looks: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """Return the look that is farthest on the wrong side of any limit: the first of several."""
    if sign in UPPER:
        return max(looks, key=lambda look: look[1])
    return min(looks, key=lambda look: look[1]) if sign in LOWER else looks[0]


def judge_growth(assertion: Assertion, nr_looks: int, known: Sequence[tuple[float, int]]) -> Verdict:
    """Return what comes of an assertion on growth."""
    if nr_looks < LEAST_LOOKS:
        text = f"growth takes {LEAST_LOOKS} looks at the least, and there were {nr_looks}"
        raise BadInput(f"{text}: try longer, or a larger budget")
    growth = growth_of([time for time, _ in known], [amount for _, amount in known])
    if growth is None or len(known) < nr_looks:
        return Verdict(assertion, None, nr_looks, None, None)
    slope = growth.slope
    # Of the whole interval, that end is the nearest to the right side.
    passed = assertion.holds(slope.low if assertion.sign in UPPER else slope.high)
    return Verdict(assertion, passed, nr_looks, slope.value, None, growth)

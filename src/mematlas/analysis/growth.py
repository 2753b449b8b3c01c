"""How an amount grows: how fast, how sure that is, and in which manner. A leak is growth that does not end.

The slope is the median of the slopes between any two looks (Theil 1950, Sen 1968): a few odd looks do not move it. Its
interval is that of Kendall's rank correlation, and has the true slope in it 95 times of 100 where looks are independent
of one another.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import sqrt
from statistics import median

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Points = list[tuple[float, float]]

LEAST_LOOKS = 5
"""With fewer, nothing can be said of growth: the interval is all that was seen."""
MOST_POINTS = 300
"""So many make 44,850 pairs. Of more looks, the medians of neighbours are taken."""
CERTAINTY = 1.959964
"""Standard deviations of a normal distribution that hold 95 % of it, about its middle."""

STEADY, LEAK, SAWTOOTH, FILLING, FALLING = "steady", "leak", "sawtooth", "filling", "falling"
LABELS = {
    STEADY: "no more than it varies by; so are teeth of fewer than seven looks",
    LEAK: "grows, and goes on growing",
    SAWTOOTH: "grows and falls back, again and again, to where it was",
    FILLING: "has grown, and levels off, as a cache does that fills",
    FALLING: "becomes less",
}
"""The manners of growth, each with what it means."""

LEAST_APART = 1e-6
"""Seconds between two looks, of which nothing can be said where there are fewer: no clock is that good."""
NEGLIGIBLE = 0.01
"""The part of an amount that is no change of it."""
NOISES = 2
"""Changes, in what one look differs from the next, that are no more than noise."""
TOOTH = 0.3
"""The part of all that it varies by, from which on a fall ends a tooth."""
LEAST_TEETH = 2
FOLLOWS = 2.3
"""By how much, in standard deviations of what it is in noise, a look must resemble the one before it to follow from it.
Noise does so one time of 100. A tooth that has fewer than seven looks is noise too."""
RISING = 0.1
"""The part of a tooth by which the low points must have risen, for a sawtooth to be a leak."""
FEW = 5
"""Looks of which the median stands for a place in time."""
LEVEL, EARLY = 0.1, 0.5
"""The part of all growth that the last third of the time has where it levels off, at the most; and the first, at the
least."""


@record
class Slope(Record):
    """Growth in bytes a second, with the interval that it lies in 95 times of 100."""

    value: float
    low: float
    high: float


@record
class Growth(Record):
    """How an amount has grown over some looks."""

    slope: Slope
    label: str
    """One of `LABELS`."""
    nr_looks: int
    seconds: float
    """From the first look to the last."""
    first: int
    last: int
    least: int
    most: int


def growth_of(times: Sequence[float], amounts: Sequence[int]) -> Growth | None:
    """Return how an amount has grown; None with fewer than `LEAST_LOOKS`, or in no time. Times ascend, in seconds.

    >>> growth = growth_of(range(10), range(0, 40960, 4096))
    >>> growth.slope, growth.label
    (Slope(value=4096.0, low=4096.0, high=4096.0), 'leak')
    """
    if len(amounts) < LEAST_LOOKS or times[-1] - times[0] <= LEAST_APART:
        return None
    points = thinned(times, amounts)
    slope = slope_of(points)
    return Growth(
        slope=slope,
        label=label_of(points, slope),
        nr_looks=len(amounts),
        seconds=times[-1] - times[0],
        first=amounts[0],
        last=amounts[-1],
        least=min(amounts),
        most=max(amounts),
    )


def thinned(times: Sequence[float], amounts: Sequence[int]) -> Points:
    """Return looks as points, `MOST_POINTS` at the most: of more, neighbours as the medians of both numbers."""
    nr = len(amounts)
    if nr <= MOST_POINTS:
        return list(zip(times, map(float, amounts), strict=True))
    edges = [nr * number // MOST_POINTS for number in range(MOST_POINTS + 1)]
    return [(median(times[low:high]), median(amounts[low:high])) for low, high in pairwise(edges)]


def slope_of(points: Points) -> Slope:
    """Return the slope of some points, at least two; none of what was in no time."""
    from mematlas.arrays import np

    times, amounts = np.array(points, np.float64).T
    earlier, later = np.triu_indices(len(points), 1)
    seconds = times[later] - times[earlier]
    apart = seconds > LEAST_APART
    slopes = np.sort((amounts[later] - amounts[earlier])[apart] / seconds[apart])
    nr = len(slopes)
    if not nr:
        return Slope(0.0, 0.0, 0.0)
    reach = CERTAINTY * sqrt(variance_of_ranks([amount for _, amount in points]))
    low = max(round((nr - reach) / 2) - 1, 0)
    high = min(round((nr + reach) / 2), nr - 1)
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def variance_of_ranks(amounts: Sequence[float]) -> float:
    """Return the variance of Kendall's S, the number of pairs that rise less that of those that fall (Kendall 1955).

    >>> variance_of_ranks([1, 2, 3, 4, 5]), variance_of_ranks([7, 7, 7])
    (16.666666666666668, 0.0)
    """
    ordered = sorted(amounts)
    ties = [bisect_right(ordered, amount) - bisect_left(ordered, amount) for amount in set(ordered)]
    return (pairs_term(len(ordered)) - sum(map(pairs_term, ties))) / 18


def pairs_term(nr: int) -> int:
    """Return what so many amounts that differ, or so many that do not, add to that variance, times 18."""
    return nr * (nr - 1) * (2 * nr + 5)


def label_of(points: Points, slope: Slope) -> str:
    """Return in which manner points grow."""
    amounts = [amount for _, amount in points]
    span = max(amounts) - min(amounts)
    noise = median(abs(later - earlier) for earlier, later in pairwise(amounts))
    least_change = max(NEGLIGIBLE * median(amounts), NOISES * noise)
    if span <= least_change:
        return STEADY
    lows = low_points(points, TOOTH * span)
    if len(lows) > LEAST_TEETH and not is_noise(points, slope.value):
        rise = slope_of(lows).value * duration(lows)
        return LEAK if rise > max(RISING * span, least_change) else SAWTOOTH
    change = slope.value * duration(points)
    if slope.high < 0 and -change > least_change:
        return FALLING
    if slope.low <= 0 or change <= least_change:
        return STEADY
    return FILLING if levels_off(points) else LEAK


def is_noise(points: Points, slope: float) -> bool:
    """Whether what is left of points without their slope tells nothing from one to the next (lag-1 autocorrelation)."""
    rests = [amount - slope * time for time, amount in points]
    mean = sum(rests) / len(rests)
    squares = sum((rest - mean) ** 2 for rest in rests)
    products = sum((one - mean) * (other - mean) for one, other in pairwise(rests))
    return products * sqrt(len(rests)) <= FOLLOWS * squares


def low_points(points: Points, least: float) -> Points:
    """Return where each tooth begins: the lowest point before the first fall of so much or more, and after each."""
    lows: Points = []
    low = high = points[0]
    is_falling = False
    for point in points:
        if is_falling and point[1] - low[1] >= least:
            lows.append(low)
            is_falling, high = False, point
        elif not is_falling and high[1] - point[1] >= least:
            if not lows and high[1] - low[1] >= least:
                lows.append(low)
            is_falling, low = True, point
        if point[1] < low[1]:
            low = point
        if point[1] > high[1]:
            high = point
    return [*lows, low] if is_falling else lows


def levels_off(points: Points) -> bool:
    """Whether most of the growth was in the first third of the time, and next to none in the last."""
    third = duration(points) / 3
    start = points[0][0]
    amounts = [amount for _, amount in points]
    begun = [amount for time, amount in points if time <= start + third]
    ended = [amount for time, amount in points if time >= start + 2 * third]
    early, late, total = (median(part[-FEW:]) - median(part[:FEW]) for part in (begun, ended, amounts))
    return early > EARLY * total and late < LEVEL * total


def duration(points: Points) -> float:
    """Return the time from the first point to the last."""
    return points[-1][0] - points[0][0]

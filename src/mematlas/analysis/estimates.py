"""What a random sample says of the whole: estimates, each with an interval that the truth lies in 95 times of 100.

The whole is in parts of one size, and some of them were looked at, each as likely as any other. An interval has to hold
however the amount that is asked for is spread. The worst it can be is all of a part or nothing, as a giant block is:
then the parts that have it come up as in a draw without returning (hypergeometric), and this is what the interval is
for. An amount that is spread more evenly is inside more often. What was not seen at all has an upper end, too.
"""

from __future__ import annotations

from math import ceil, exp, floor, lgamma

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RISK = 0.05
"""How often the truth may lie outside."""
NEGLIGIBLE = 1e-12


@record
class Estimate(Record):
    """An amount that is not known exactly."""

    value: int
    low: int
    high: int


@record
class Sample(Record):
    """Parts of a whole, some of which were looked at. Sizes are in one unit, be it frames or bytes."""

    nr_parts: int
    nr_seen: int
    part_size: int
    """Of the largest part."""
    size: int
    """Of the whole."""
    seen_size: int
    """Of the parts that were looked at."""

    def estimates(self, amounts: Sequence[int]) -> list[Estimate]:
        """Return how much there is of each of some things in the whole, given how much was seen.

        Where these are all that was seen the estimates add up to the whole.

        >>> Sample(100, 10, 1, 100, 10).estimates([10, 0])
        [Estimate(value=100, low=71, high=100), Estimate(value=0, low=0, high=29)]
        """
        result, seen, before = [], 0, 0
        intervals = {amount: self.interval(amount) for amount in set(amounts)}
        for amount in amounts:
            seen += amount
            upto = seen * self.size // self.seen_size if self.seen_size else 0
            low, high = intervals[amount]
            value = upto - before
            result.append(Estimate(value, min(low, value), max(high, value)))
            before = upto
        return result

    def interval(self, amount: int, risk: float = RISK) -> tuple[int, int]:
        """Return between what an amount lies in the whole, given how much was seen: that much there is at any rate."""
        parts = amount / self.part_size
        unseen = self.size - self.seen_size
        most = nr_at_most(ceil(parts), self.nr_parts, self.nr_seen, risk / 2)
        least = self.nr_parts - nr_at_most(self.nr_seen - floor(parts), self.nr_parts, self.nr_seen, risk / 2)
        return max(least * self.part_size, amount), min(most * self.part_size, amount + unseen)


def nr_at_most(nr_found: int, nr_parts: int, nr_seen: int, risk: float) -> int:
    """Return how many parts of all may be of a sort of which so few were found: with more, so few are too unlikely.

    >>> nr_at_most(0, 1000, 100, 0.025), nr_at_most(0, 1000, 900, 0.025), nr_at_most(100, 1000, 100, 0.025)
    (34, 1, 1000)
    """
    low, high = min(nr_found, nr_seen), nr_parts - max(nr_seen - nr_found, 0)
    while low < high:
        middle = (low + high + 1) // 2
        if chance_of_at_most(nr_found, middle, nr_parts, nr_seen) > risk:
            low = middle
        else:
            high = middle - 1
    return low


def chance_of_at_most(nr_found: int, nr_marked: int, nr_parts: int, nr_seen: int) -> float:
    """Return how likely so few, or fewer, of the marked parts are seen; 1 where that is what is to be expected.

    >>> round(chance_of_at_most(1, 5, 10, 4), 4)
    0.2619
    """
    if nr_found * nr_parts >= nr_marked * nr_seen:
        return 1.0
    if nr_found < nr_seen - (nr_parts - nr_marked):
        return 0.0
    nr_rest = nr_parts - nr_marked
    term = exp(choices(nr_marked, nr_found) + choices(nr_rest, nr_seen - nr_found) - choices(nr_parts, nr_seen))
    total = term
    # Below what is to be expected each number is less likely than the one above it.
    for nr in range(nr_found, 0, -1):
        term *= nr * (nr_rest - nr_seen + nr) / ((nr_marked - nr + 1) * (nr_seen - nr + 1))
        total += term
        if term < NEGLIGIBLE * total:
            break
    return total


def choices(nr_all: int, nr: int) -> float:
    """Return the logarithm of in how many ways so many of all can be chosen."""
    return lgamma(nr_all + 1) - lgamma(nr + 1) - lgamma(nr_all - nr + 1)

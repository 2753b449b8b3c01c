"""Time along the columns of a screen: how long each is, which are in sight, where the marks are."""

from __future__ import annotations

from mematlas.views.format import format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
"""Seconds that a column may stand for; more are twice as many each."""
SHORTEST = 10.0
"""Seconds that are in sight at the least."""
TICKS = 14
"""Columns between two marks, at the least."""
NICE = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
TINY = 1e-9


class TimeAxis:
    """Columns of as many seconds each, numbered from the beginning of time on."""

    def __init__(self) -> None:
        self.step = 0.0
        """Seconds of a column; 0 until there is a size."""
        self.right: int | None = None
        """The last column in sight; None follows the newest."""
        self.width = 1

    def number(self, at: float) -> int:
        """Return the number of the column that a time is in."""
        return int(at / self.step + TINY)

    def span(self, number: int) -> tuple[float, float]:
        """Return from when to when a column is."""
        return number * self.step, (number + 1) * self.step

    def place(self, width: int, first: float, last: float, at: float | None) -> int:
        """Have so many columns in sight, that of a time among them (None is the newest); return the first of them."""
        self.width = max(width, 1)
        oldest, newest = self.number(first), self.number(last)
        # What there is begins on the left, and moves on once it fills the width.
        least = oldest + self.width - 1
        right = max(newest, least)
        if at is None:
            self.right = None
        else:
            here = self.number(at)
            right = min(right if self.right is None else self.right, right)
            right = max(min(max(right, here), here + self.width - 1), least)
            self.right = right
        return right - self.width + 1

    def fit(self, seconds: float, width: int) -> None:
        """Have so many seconds in sight."""
        self.step = next(step for step in steps() if step * width >= seconds)

    def zoom(self, by: int, first: float, last: float, at: float | None) -> bool:
        """Have less time in sight with 1, more with -1, with a time where it was; return whether that can be."""
        known = [step for step, _ in zip(steps(), range(40), strict=False)]
        place = known.index(self.step) - by
        if not 0 <= place < len(known):
            return False
        step = known[place]
        if step * self.width < SHORTEST or (by < 0 and self.step * self.width >= last - first + self.step):
            return False
        here = None if at is None else self.number(at)
        offset = None if here is None or self.right is None else self.right - here
        self.step = step
        self.right = None if offset is None or at is None else self.number(at) + offset
        return True

    def ticks(self, left: int, shift: float) -> list[tuple[int, str]]:
        """Return which columns in sight are marked, and with which time; ``shift`` is added to it."""
        apart = next((nice for nice in NICE if nice >= TICKS * self.step), NICE[-1])
        while apart < TICKS * self.step:
            apart *= 2
        start = self.span(left)[0] + shift
        first = -int(-start // apart) if start > 0 else 0
        marks = []
        for count in range(first, first + self.width // TICKS + 2):
            place = self.number(max(count * apart - shift, 0.0)) - left
            if 0 <= place < self.width and count * apart - shift >= -TINY:
                marks.append((place, format_tick(count * apart, apart)))
        return marks


def steps() -> Sequence[float]:
    """Return how many seconds a column may stand for, ascending: up to years."""
    return [*STEPS, *(STEPS[-1] * 2**power for power in range(1, 24))]


def format_tick(seconds: float, apart: float) -> str:
    """Return a time at a mark: in the unit that all marks have.

    >>> format_tick(0, 20), format_tick(90, 30), format_tick(120, 60), format_tick(0, 60), format_tick(5400, 1800)
    ('0 s', '90 s', '2 min', '0 min', '90 min')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if apart % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s" if seconds < 1 else format_span(seconds) if seconds % 60 else f"{seconds:g} s"

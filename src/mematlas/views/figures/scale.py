"""Scales of pictures: shares as shades of one hue, and times and sizes as ticks of an axis."""

from __future__ import annotations

from math import ceil, floor, log10

from mematlas.frozen import record
from mematlas.views.colour import TONES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = 32
"""Shades that are told apart, besides none at all."""
NONE = "#f0f2f5"
"""What is there and has nothing of what is shown."""
LEAST, MOST = "#cfe1f4", TONES["own"][True][0]
"""The shades of next to nothing, and of all."""
UNITS = ((172_800.0, 86_400.0, "d"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "min"), (0.0, 1.0, "s"))
"""Of times that are at least so many seconds long: the seconds of the unit, and the unit."""
FACTORS = (1, 2, 5, 10)
LEAST_SPAN = 1e-9
"""What an axis is long at the least: below that a recording is one moment."""


@record
class Tick:
    """A place on an axis."""

    at: float
    text: str


def level_of(share: float) -> int:
    """Return which shade a share has: 0 for none at all, `LEVELS` for all.

    >>> level_of(0), level_of(1e-9), level_of(0.5), level_of(0.9999), level_of(1)
    (0, 1, 16, 31, 32)
    """
    if share <= 0:
        return 0
    return LEVELS if share >= 1 else 1 + int(share * (LEVELS - 1))


def shade_of(level: int) -> str:
    """Return the colour of a shade: the higher, the darker.

    >>> shade_of(0), shade_of(1), shade_of(LEVELS)
    ('#f0f2f5', '#cfe1f4', '#0a4f9e')
    """
    return NONE if level <= 0 else mixed(LEAST, MOST, (level - 1) / (LEVELS - 1))


def mixed(one: str, other: str, part: float) -> str:
    """Return a colour between two."""
    parts = [(int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(low + (high - low) * part):02x}" for low, high in parts)


def step_of(span: float, most: int) -> float:
    """Return the least of 1, 2, 5, 10, ... that leaves no more than so many steps in a span.

    >>> step_of(100, 5), step_of(100, 10), step_of(0.3, 4)
    (20.0, 10.0, 0.1)
    """
    least = span / most
    whole = floor(log10(least))
    return float(next(f"{factor}e{whole}" for factor in FACTORS if factor * 10.0**whole >= least * (1 - 1e-9)))


def unit_of_time(seconds: float) -> tuple[float, str]:
    """Return the seconds of the unit in which a time is told, and the unit.

    >>> unit_of_time(90), unit_of_time(3600)
    ((1.0, 's'), (60.0, 'min'))
    """
    return next((size, name) for least, size, name in UNITS if seconds >= least)


def format_duration(seconds: float) -> str:
    """Return a time in the unit that an axis of that length has.

    >>> format_duration(3564), format_duration(5.02)
    ('59.4 min', '5.0 s')
    """
    size, name = unit_of_time(seconds)
    return f"{seconds / size:.1f} {name}"


def time_ticks(seconds: float, most: int) -> list[Tick]:
    """Return the ticks of an axis that begins at 0 and is so many seconds long.

    >>> [tick.text for tick in time_ticks(42, 6)], [tick.text for tick in time_ticks(0, 6)]
    (['0', '10 s', '20 s', '30 s', '40 s'], ['0'])
    """
    if seconds < LEAST_SPAN:
        return [Tick(0.0, "0")]
    size, name = unit_of_time(seconds)
    return [Tick(at * size, "0" if at == 0 else f"{at:,g} {name}") for at in steps_up_to(seconds / size, most)]


def steps_up_to(end: float, most: int) -> Sequence[float]:
    """Return round numbers from 0 up to an end."""
    step = step_of(end, most)
    return [float(f"{number * step:.12g}") for number in range(floor(end / step + 1e-9) + 1)]


def end_of_axis(amount: float, most: int) -> float:
    """Return the first round number that is no less than an amount."""
    if amount < LEAST_SPAN:
        return 1.0
    step = step_of(amount, most)
    return ceil(amount / step - 1e-9) * step

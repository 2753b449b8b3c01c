"""What the values of options mean: times, numbers, sizes."""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.model.address_space import parse_size

LEAST_WIDTH, MOST_WIDTH = 40, 1_000
"""Columns below which nothing can be drawn, and above which nobody looks."""
YEAR = 365.25 * 86_400
LONGEST = 30 * YEAR
"""Seconds: what the kernel's clocks can still wait for."""
LEAST_INTERVAL = 0.05
"""Seconds between two looks."""
MOST_DIGITS = 18
"""Of a number that an option takes: it fits 64 bits."""


def parse_seconds(text: str) -> float:
    """Return a duration: ``1s``, ``200ms``, ``5m`` or a number of seconds.

    >>> parse_seconds("200ms")
    0.2
    """
    for suffix, unit in (("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                seconds = float(text[: len(text) - len(suffix)]) * unit
            except ValueError:
                break
            if seconds > LONGEST:
                raise BadInput(f"bad time {text!r}: {LONGEST / YEAR:.0f} years at most")
            if seconds >= 0:
                return seconds
            break
    raise BadInput(f"bad time {text!r}: try 1s, 200ms or 0.5")


def parse_interval(text: str) -> float:
    """Return a time between two looks: long enough that whoever is looked at has some rest."""
    seconds = parse_seconds(text)
    if seconds < LEAST_INTERVAL:
        raise BadInput(f"{text} is too short: {LEAST_INTERVAL * 1e3:.0f}ms or more")
    return seconds


def parse_count(text: str) -> int:
    """Return a number of times: 1 or more."""
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) > 0:
        return int(text)
    if len(text) > MOST_DIGITS:
        raise BadInput(f"bad number '{text[:MOST_DIGITS]}...': {MOST_DIGITS} digits at most")
    raise BadInput(f"bad number {text!r}: 1 or more")


def parse_width(text: str) -> int:
    """Return a number of columns that can be drawn in."""
    width = parse_count(text)
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise BadInput(f"{width} columns: {LEAST_WIDTH} to {MOST_WIDTH:,}")
    return width


def parse_bytes(text: str) -> int:
    """Return a size that a person typed: 512M, 2G.

    >>> parse_bytes("512M")
    536870912
    """
    size = parse_size(text)
    if not size:
        raise BadInput(f"bad size {text!r}: try 512M or 2G")
    return size

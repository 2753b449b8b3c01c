"""What the output is: a terminal of so many columns, with or without colours; or something else.

Colours go by what they mean. A terminal without them loses nothing: every state has its own character too.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

STYLES = {
    "title": "1",
    "dim": "2",
    "changed": "7",
    "present": "38;5;75",
    "shared": "38;5;110",
    "dirty": "38;5;209",
    "idle": "38;5;67",
    "swapped": "38;5;214",
    "zero": "38;5;250",
    "cached": "38;5;72",
    "guard": "38;5;203",
    "special": "38;5;170",
    "unknown": "38;5;170",
    "absent": "38;5;240",
    "good": "38;5;72",
    "bad": "38;5;203",
}


def paint(text: str, style: str | None, on: bool) -> str:
    """Return text in a style, when colours are on.

    >>> paint("x", "title", True)
    '\\x1b[1mx\\x1b[0m'
    """
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if on and style else text


def wants_colour(choice: str, out: TextIO) -> bool:
    """Return whether to colour: ``always``, ``never``, or ``auto`` (a terminal, no NO_COLOR, no TERM=dumb)."""
    if choice != "auto":
        return choice == "always"
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def screen_size(out: TextIO) -> tuple[int, int] | None:
    """Return the columns and lines of the terminal that we write to, as they are now; None where it is none."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return None
    # Serial lines, and terminals that nobody has sized, say 0.
    return size.columns or 80, size.lines or 24


def screen_width(out: TextIO) -> int:
    """Return the columns of the terminal that we write to; 0, any number, where it is none."""
    return max((screen_size(out) or (0, 0))[0], 0)

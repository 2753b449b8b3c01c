"""What the output is: a terminal of so many columns, with or without colours; or something else.

Colours go by what they mean. A terminal without them loses nothing: every state has its own character too.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

PLAIN = {"title": "1", "dim": "2", "changed": "7"}
"""What needs no colour: bold, faint, reversed. The rest is of `mematlas.views.colour`."""


def paint(text: str, style: str | None, on: bool, changed: bool = False) -> str:
    """Return text in a style, when colours are on. What has changed is reversed, and keeps its colour.

    >>> paint("x", "title", True), paint("x", "dim", True, changed=True)
    ('\\x1b[1mx\\x1b[0m', '\\x1b[2;7mx\\x1b[0m')
    """
    if not on or not style:
        return text
    codes = PLAIN.get(style)
    if codes is None:
        from mematlas.views.colour import palette

        codes = palette()[style]
    return f"\x1b[{codes}{';7' if changed else ''}m{text}\x1b[0m"


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


def is_ours(out: TextIO) -> bool:
    """Whether we write to a terminal from the foreground, and what is typed there comes to our standard input."""
    try:
        return out.isatty() and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False

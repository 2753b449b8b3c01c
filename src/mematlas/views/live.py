"""A view that repeats in place."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"


def ticks(interval: float, count: int | None) -> Iterator[int]:
    """Yield 0, 1, 2, ... at even intervals, ``count`` times or for ever. A slow round does not delay the others."""
    start = time.monotonic()
    number = 0
    while count is None or number < count:
        yield number
        number += 1
        if count is None or number < count:
            elapsed = time.monotonic() - start
            time.sleep(max(0.0, interval * number - elapsed))


def repeat(frames: Callable[[], list[str]], out: TextIO, interval: float, count: int | None) -> None:
    """Write frame after frame: over the last one on a terminal, one below the other elsewhere."""
    if not out.isatty():
        for number in ticks(interval, count):
            out.write(("\n" if number else "") + "\n".join(frames()) + "\n")
            out.flush()
        return
    height = 0
    out.write(CURSOR_OFF + WRAP_OFF)
    try:
        for _ in ticks(interval, count):
            lines = frames()
            room = os.get_terminal_size(out.fileno()).lines - 1
            if len(lines) > room:
                lines = [*lines[: room - 1], f"... {len(lines) - room + 1} more lines"]
            up = f"\x1b[{height}A" if height else ""
            out.write(f"{up}\r" + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
            out.flush()
            height = len(lines)
    finally:
        out.write(WRAP_ON + CURSOR_ON)
        out.flush()

"""A bar that grows while something takes its time: on standard error, and only when that is a terminal."""

from __future__ import annotations

import time

from mematlas.views.live import CLEAR_LINE, WRAP_OFF, WRAP_ON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TextIO

WIDTH = 30
INTERVAL = 0.1


def waiting_note(path: str) -> str:
    """Return what to say to somebody who waits for a file of a process.

    >>> waiting_note("/proc/4211/maps")
    'mematlas: waiting for /proc/4211/maps: it is long, or the mmap lock of 4211 is held (Ctrl-C stops)'
    """
    pid = path.split("/")[2]
    return f"mematlas: waiting for {path}: it is long, or the mmap lock of {pid} is held (Ctrl-C stops)"


class Bar:
    """One bar. Call it with what is done and what there is to do; at the end of its block it is taken away."""

    def __init__(self, out: TextIO, label: str) -> None:
        self.out = out
        self.label = label
        self.on = out.isatty()
        self.drawn = 0.0
        """When it was drawn last."""
        self.done = 0.0
        """What was done by the last call."""

    def __call__(self, done: float, total: float) -> None:
        """Draw it, unless that was done just now."""
        self.done = done
        now = time.monotonic()
        if not self.on or now - self.drawn < INTERVAL:
            return
        self.drawn = now
        part = min(done / total, 1.0) if total else 1.0
        filled = "#" * int(part * WIDTH)
        # Without wrapping, so that in a narrow window it stays one line.
        self.out.write(f"\r{WRAP_OFF}{self.label} [{filled:.<{WIDTH}}] {part:4.0%}{CLEAR_LINE}{WRAP_ON}")
        self.out.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.drawn:
            self.out.write(f"\r{CLEAR_LINE}")
            self.out.flush()

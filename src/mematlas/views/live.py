"""A view that repeats in place."""

from __future__ import annotations

import os
import time

from mematlas.views.terminal import screen_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self, TextIO

WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"
MORE = "... more lines"


def ticks(interval: float, count: int | None) -> Iterator[int]:
    """Yield 0, 1, 2, ... at even intervals, ``count`` times or for ever. A slow round does not delay the others.

    What it has missed is left out: whoever was stopped, or suspended, does not look without a pause to catch up.
    """
    start = time.monotonic()
    number = 0
    while count is None or number < count:
        yield number
        number += 1
        if interval and (count is None or number < count):
            time.sleep(interval - (time.monotonic() - start) % interval)


class Screen:
    """A terminal without cursor and without wrapping, which it gets back however we end or are stopped."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.height = 0
        """Lines of the last frame, above the cursor."""
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        import signal

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup, and shells without job control, ignore some
                signal.signal(number, self._give_back)
                self._handlers[number] = signal.SIG_DFL
        self._write(CURSOR_OFF + WRAP_OFF)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        import signal

        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        # After ^C, which the terminal has written, the prompt begins a line of its own.
        self._write(WRAP_ON + CURSOR_ON + ("\n" if kind is KeyboardInterrupt else ""))

    def show(self, lines: Iterable[str]) -> None:
        """Write a frame over the last one: as many lines as there is room for, and no more are made."""
        from itertools import islice

        size = screen_size(self.out)
        room = max(size[1] - 1 if size else 1, 1)
        shown = list(islice(lines, room + 1))
        if len(shown) > room:
            shown[room - 1 :] = [MORE]
        up = f"\x1b[{self.height}A" if self.height else ""
        self.out.write(f"{up}\r" + "".join(f"{line}{CLEAR_LINE}\n" for line in shown) + CLEAR_BELOW)
        self.out.flush()
        self.height = len(shown)

    def _give_back(self, number: int, _: object) -> None:
        # The signal does what it would have done without us; only SIGTSTP comes back, with SIGCONT.
        import signal

        self._write(WRAP_ON + CURSOR_ON)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._give_back)
        self._write(CURSOR_OFF + WRAP_OFF)
        self.height = 0  # the shell has written meanwhile: go on below

    def _write(self, text: str) -> None:
        # Past the buffer, in the middle of whose work a signal may come.
        try:
            os.write(self.out.fileno(), text.encode())
        except OSError:
            return  # a terminal that is gone needs nothing


def repeat(frames: Callable[[], Iterable[str]], out: TextIO, interval: float, count: int | None) -> None:
    """Write frame after frame: over the last one on a terminal, one below the other elsewhere."""
    if not out.isatty():
        for number in ticks(interval, count):
            out.write("\n" if number else "")
            out.writelines(f"{line}\n" for line in frames())
            out.flush()
        return
    with Screen(out) as screen:
        for _ in ticks(interval, count):
            screen.show(frames())

"""A view that repeats in place."""

from __future__ import annotations

import os
import time

from mematlas.views.terminal import is_ours, paint, screen_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self, TextIO

WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"
MORE = "... more lines"
QUIT = {"q", "Q", "\x04"}
"""Keys that end a view: q as in less(1), top(1) and their like, and Ctrl-D. Ctrl-C is a signal."""
MAX_KEYS = 1_000
WHOLE = 1.0
"""The part of a processor that a view may take, which somebody waits for."""
STAMP = "%Y-%m-%d %H:%M:%S"
"""What stands above each view where they are kept, below one another."""


def heading(interval: float, quits: bool, part: float | None = None) -> str:
    """Return what stands above a view that repeats: the time, how often that is, at what cost, and how it ends."""
    often = f"{interval:g} s" if interval >= 1 else f"{interval * 1e3:g} ms"
    cost = "" if part is None else f", {100 * part:.1f} % of a processor"
    return time.strftime("%H:%M:%S") + f", every {often}{cost}" + (", q quits" if quits else "")


class Changes:
    """What has changed on a screen since the frame before: cells that read otherwise and new rows are reversed.

    A row has two cells at least, and is known again by the first. What is drawn in colours marks its own changes.
    """

    def __init__(self) -> None:
        self._before: dict[str, str] | None = None

    def marked(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines of a frame, with what has changed marked."""
        import re

        cells = re.compile(r"\S+(?: \S+)*")
        before, now = self._before, {}
        for line in lines:
            texts = [] if "\x1b" in line else cells.findall(line)
            key = texts[0] if len(texts) > 1 else ""
            if not key or key in now:
                yield line
                continue
            now[key] = line
            yield line if before is None else mark_cells(line, before.get(key, ""), cells)
        self._before = now


def mark_cells(line: str, before: str, cells: re.Pattern[str]) -> str:
    """Return a row with the cells reversed that another one has not in their place; all of it where it has none.

    >>> import re
    >>> mark_cells("rss  5 MiB  in RAM", "rss  4 MiB  in RAM", re.compile(r"\\S+(?: \\S+)*"))
    'rss  \\x1b[7m5 MiB\\x1b[0m  in RAM'
    >>> mark_cells("swap  0  0", "swap  0  -", re.compile(r"\\S+(?: \\S+)*"))
    'swap  0  0'
    """
    if line == before:
        return line
    old = cells.findall(before)
    new = list(cells.finditer(line))
    if len(old) != len(new):
        return paint(line, "changed", True)
    for cell, text in reversed(list(zip(new, old, strict=True))):
        # Words change where a column becomes wider, and they are folded elsewhere. A rate is not known at first.
        if cell[0] != text != "-" and any(map(str.isdigit, cell[0])):
            line = line[: cell.start()] + paint(cell[0], "changed", True) + line[cell.end() :]
    return line


class Keys:
    """What is typed while a view repeats, not shown; nothing where we are in the background, or typed into nothing."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self._before: list[Any] | None = None
        """The settings of the terminal that it gets back; None while it has its own."""

    def take(self) -> bool:
        """Have the terminal hand over each key at once, without showing it; return whether it does."""
        import termios

        if self._before is None and is_ours(self.out):
            try:
                before = termios.tcgetattr(0)
                local = before[3] & ~(termios.ECHO | termios.ICANON)
                termios.tcsetattr(0, termios.TCSANOW, [*before[:3], local, *before[4:]])
            except termios.error:
                return False
            self._before = before
        return self._before is not None

    def give_back(self) -> None:
        """Have the terminal work as it did before."""
        import termios

        before, self._before = self._before, None
        if before is not None:
            try:
                termios.tcsetattr(0, termios.TCSANOW, before)
            except termios.error:
                return  # a terminal that is gone needs nothing

    def rest(self, seconds: float) -> bool:
        """Wait for so long, or until a key says that it is enough; return whether it did."""
        import select

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._before is None:
                time.sleep(left)
            elif select.select([0], [], [], left)[0]:
                typed = os.read(0, MAX_KEYS)
                if not typed:
                    self.give_back()  # nobody types any more
                elif QUIT & set(typed.decode("latin-1")):
                    return True
        return False


class Screen:
    """A terminal without cursor and without wrapping, which it gets back however we end or are stopped."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.keys = Keys(out)
        self.height = 0
        """Lines of the last frame, above the cursor."""
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        import signal

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup, and shells without job control, ignore some
                signal.signal(number, self._give_back)
                self._handlers[number] = signal.SIG_DFL
        self.keys.take()
        self._write(CURSOR_OFF + WRAP_OFF)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        import signal

        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        # Where the terminal has written ^C, the prompt begins a line of its own.
        shows_keys = not self.keys.take()
        is_written = kind is KeyboardInterrupt and shows_keys
        self.keys.give_back()
        self._write(WRAP_ON + CURSOR_ON + ("\n" if is_written else ""))

    @property
    def room(self) -> int:
        """The lines that a frame has room for, as the terminal is now."""
        size = screen_size(self.out)
        return max(size[1] - 1 if size else 1, 1)

    def show(self, lines: Iterable[str]) -> None:
        """Write a frame over the last one: as many lines as there is room for, and no more are made."""
        from itertools import islice

        room = self.room
        shown = list(islice(lines, room + 1))
        if len(shown) > room:
            shown[room - 1 :] = [MORE]
        up = f"\x1b[{self.height}A" if self.height else ""
        self.out.write(f"{up}\r" + "".join(f"{CLEAR_LINE}{line}\n" for line in shown) + CLEAR_BELOW)
        self.out.flush()
        self.height = len(shown)

    def _give_back(self, number: int, _: object) -> None:
        # The signal does what it would have done without us; only SIGTSTP comes back, with SIGCONT.
        import signal

        self.keys.give_back()
        self._write(WRAP_ON + CURSOR_ON)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._give_back)
        self.keys.take()
        self._write(CURSOR_OFF + WRAP_OFF)
        self.height = 0  # the shell has written meanwhile: go on below

    def _write(self, text: str) -> None:
        # Past the buffer, in the middle of whose work a signal may come.
        try:
            os.write(self.out.fileno(), text.encode())
        except OSError:
            return  # a terminal that is gone needs nothing


def repeat(
    frame: Callable[[int], Iterable[str]], out: TextIO, interval: float, count: int | None, colour: bool = False
) -> None:
    """Write frame after frame, each with its time: over the last one on a terminal, one below the other elsewhere.

    A frame is given the lines that there is room for; 0 for any number.
    """
    from itertools import chain, islice

    from mematlas.timeline.sampler import Sampler

    if not out.isatty():
        for written in Sampler(lambda: frame(0), interval, count=count, budget=WHOLE):
            out.write("\n" if written.elapsed else "")
            out.writelines(f"{line}\n" for line in chain([time.strftime(STAMP)], written.found))
            out.flush()
        return
    with Screen(out) as screen:

        def look() -> list[str]:
            room = screen.room
            return list(islice(frame(room - 1), room))

        sampler = Sampler(look, interval, count=count, budget=WHOLE, rest=screen.keys.rest)
        for snapshot in sampler:
            first = heading(interval, screen.keys.take(), sampler.part)
            screen.show([paint(first, "dim", colour), *snapshot.found])

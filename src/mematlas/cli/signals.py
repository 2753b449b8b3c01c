"""SIGINT, SIGTERM and SIGHUP end a command in order: what it made is taken away on the way out."""

from __future__ import annotations

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Self, TextIO


class Wakener:
    """Ends a wait when a signal comes that is handled, without looking for it again and again.

    By itself a wait goes on after a handler of Python has run (PEP 475); signal.set_wakeup_fd() has the signal written
    to a pipe as well.
    """

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until a signal comes."""
        if select.select([self._reader], [], [], seconds)[0]:
            os.read(self._reader, select.PIPE_BUF)


class Interrupts:
    """Makes each of these signals what SIGINT is to Python, an exception; leaving the block ends that.

    ``between_steps``: work that is not to be cut in two is asked to stop instead, by calling this between two steps;
    only a SIGINT that comes while an earlier signal still waits for that is an exception.

    The first signal counts. Those that come while things are taken away change nothing, but for a second SIGINT:
    somebody waits for too long.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, err: TextIO, *, between_steps: bool = False) -> None:
        self.err = err
        self.between_steps = between_steps
        self.number: int | None = None
        """The signal that came first."""
        self.is_waiting = False
        """Whether one came that the current step is to end for."""
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """The exit code after the signal that came; 0 without one."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> Self:
        # What is ignored stays so: nohup(1).
        for number in self.SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.number is None or kind is None or not issubclass(kind, KeyboardInterrupt):
            return False
        if self.number == signal.SIGINT and self.err.isatty():
            self.err.write("\n")  # the terminal shows ^C where the line was
        return True

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.is_waiting

    def rest(self, seconds: float) -> bool:
        """Wait for so long, or until a signal comes; return whether to stop."""
        end = time.monotonic() + seconds
        with Wakener() as wakener:
            # What came before is known by now, and what comes from now on wakes us.
            while not self() and (left := end - time.monotonic()) > 0:
                wakener.wait(left)
        return self()

    def forget(self) -> None:
        """Begin a step that only a new signal ends."""
        self.is_waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = self.number is None
        was_waiting, self.is_waiting = self.is_waiting, True
        if is_first:
            self.number = number
        if was_waiting and number == signal.SIGINT:
            raise KeyboardInterrupt
        if is_first and not self.between_steps:
            raise KeyboardInterrupt

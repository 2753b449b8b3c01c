"""Ending early: signals that find us where we wait for a person, or in the middle of a story."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Self, TextIO


class Ending:
    """Makes SIGTERM and SIGHUP the exception that SIGINT is, so that what we made is taken away on the way out.

    Leaving ends that exception; ``exit_code`` then says which signal came. The first one counts. Those that come while
    things are taken away change nothing, but for a second SIGINT: somebody waits for too long.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, err: TextIO) -> None:
        self.err = err
        self.number: int | None = None
        """The signal that came."""
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = self.number is None
        if is_first:
            self.number = number
        if is_first or number == signal.SIGINT:
            raise KeyboardInterrupt

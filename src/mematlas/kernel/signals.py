"""Signals that may end us at any line, held back where that would leave something behind."""

from __future__ import annotations

import contextlib
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have signals that would end us wait for a moment.

    In the main thread that holds for all of the process: another thread that takes a signal of the process only tells
    Python, which runs the handler in the main thread, whatever that holds back. So handlers wait as well, and where
    there is none the signal has one for that moment. In any other thread no handler ever runs, so nothing comes
    between its lines; but a signal without a handler ends the process when another thread takes it.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pairs = ((number, signal.getsignal(number)) for number in ENDING)
    handlers = {number: handler for number, handler in pairs if handler not in LEFT}
    try:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in handlers:
                signal.signal(number, note)
        yield
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            with contextlib.suppress(ValueError):
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        for signum in dict.fromkeys(noted):
            signal.raise_signal(signum)


LEFT = (signal.SIG_IGN, None)
"""What stays as it is: what is ignored (nohup), and what was set by others than Python."""

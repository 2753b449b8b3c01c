"""Questions that may never be answered, asked by a thread: at a twentieth of what a child of `abandon` costs.

That is right where a fatal signal ends the wait, as that for a process's mmap lock (mmap_read_lock_killable()): such a
thread ends with us, whatever it waits for. Until then nothing ends it, so there is one at a time that waits for good.
"""

from __future__ import annotations

import _thread
import time

# signal would bring in enum, for 5 ms.
from _signal import SIG_BLOCK, SIGHUP, SIGINT, SIGTERM, pthread_sigmask  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_left_behind: list[Asker] = []


def ask_aside(ask: Callable[[Any], Any], things: Sequence[Any], silence: float, deadline: float) -> list[Any]:
    """Return the answers about things, in order, up to the first that does not come in ``silence`` seconds.

    ``deadline`` is by the clock of `time.monotonic`. There are none at all while a thread still waits that was left
    behind before.

    >>> ask_aside(lambda number: number * number, [2, 3], 10.0, float("inf"))
    [4, 9]
    """
    _left_behind[:] = [thread for thread in _left_behind if thread.done.locked()]
    if _left_behind or not things:
        return []
    thread = Asker(ask, things)
    try:
        _thread.start_new_thread(thread.run, ())
    except RuntimeError:
        return []  # none is to be had (ulimit -u, pids.max)
    nr_before = -1
    is_done = False
    try:
        while not (is_done := thread.done.acquire(timeout=max(min(silence, deadline - time.monotonic()), 0))):
            nr_now = len(thread.answers)
            if nr_now == nr_before or time.monotonic() >= deadline:
                return thread.answers[:nr_now]
            nr_before = nr_now
    finally:
        if not is_done:  # it is silent, or we were interrupted
            thread.is_left = True
            _left_behind.append(thread)
    if thread.error:
        raise thread.error
    return thread.answers


def is_left_behind() -> bool:
    """Whether a thread still waits that nobody waits for any more."""
    return any(thread.done.locked() for thread in _left_behind)


class Asker:
    """A thread that asks about things in order."""

    def __init__(self, ask: Callable[[Any], Any], things: Sequence[Any]) -> None:
        self.ask = ask
        self.things = things
        self.answers: list[Any] = []
        self.error: BaseException | None = None
        self.is_left = False
        """Whether nobody waits for more answers."""
        self.done = _thread.allocate_lock()
        """Let go of at the end."""
        self.done.acquire()

    def run(self) -> None:
        """Ask, until the end or as long as somebody waits."""
        try:
            pthread_sigmask(SIG_BLOCK, (SIGINT, SIGTERM, SIGHUP))  # they are for the main thread, which they wake
            for thing in self.things:
                if self.is_left:
                    break
                self.answers.append(self.ask(thing))
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()

"""Questions that may never be answered, asked by a thread: at a twentieth of what a child of `abandon` costs.

That is right where a fatal signal ends the wait, as that for a process's mmap lock (mmap_read_lock_killable()): such a
thread ends with us, whatever it waits for. Until then nothing ends it, so there is one at a time that waits for good.
"""

from __future__ import annotations

import _thread
import os
import time

# signal would bring in enum, for 5 ms.
from _signal import SIG_BLOCK, SIGHUP, SIGINT, SIGTERM, pthread_sigmask  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_left_behind: list[AskingThread] = []


def ask_aside(ask: Callable[[Any], Any], things: Sequence[Any], silence: float, deadline: float) -> list[Any]:
    """Return the answers about things, in order, up to the first that does not come in ``silence`` seconds.

    ``deadline`` is by the clock of `time.monotonic`. There are none at all while a thread still waits that was left
    behind before.

    >>> ask_aside(lambda number: number * number, [2, 3], 10.0, float("inf"))
    [4, 9]
    """
    aside = Asker()
    try:
        return aside.ask(ask, things, silence, deadline)
    finally:
        aside.close()


def is_left_behind() -> bool:
    """Whether a thread still waits that nobody waits for any more."""
    return any(thread.done.locked() for thread in _left_behind)


class Asker:
    """A thread that is asked again and again, and keeps open what it asks through; if left behind, there is another."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """``clock`` returns the processor seconds of the thread that calls it, and of what works for that."""
        self.seconds = 0.0
        """What answers have cost of processors, by the clock."""
        self._clock = clock
        self._asker: AskingThread | None = None

    def ask(self, ask: Callable[[Any], Any], things: Sequence[Any], silence: float, deadline: float) -> list[Any]:
        """Return the answers about things: see `ask_aside`."""
        _left_behind[:] = [thread for thread in _left_behind if thread.done.locked()]
        if _left_behind or not things:
            return []
        thread = self._asker
        if thread is None or thread.pid != os.getpid():  # of who has forked us
            thread = AskingThread(self._clock)
            try:
                _thread.start_new_thread(thread.run, ())
            except RuntimeError:
                return []  # none is to be had (ulimit -u, pids.max)
            self._asker = thread
        is_done = False
        nr_before = -1
        try:
            thread.begin(ask, things)
            while not (is_done := thread.done.acquire(timeout=max(min(silence, deadline - time.monotonic()), 0))):
                nr_now = len(thread.answers)
                if nr_now == nr_before or time.monotonic() >= deadline:
                    return thread.answers[:nr_now]
                nr_before = nr_now
        finally:
            if not is_done:  # it is silent, or we were interrupted
                _left_behind.append(thread)
                self.close()
        thread.done.release()
        self.seconds += thread.seconds
        # An error among them would hold the thread's frames, and these what it asks through, for as long as it is held.
        answers, thread.answers = thread.answers, []
        if (error := thread.error) is not None:
            thread.error = None
            raise error
        return answers

    def close(self) -> None:
        """Have the thread end: at once, or with the answer that it waits for."""
        if self._asker is not None:
            self._asker.leave()
            self._asker = None


class AskingThread:
    """A thread that asks about things in order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.pid = os.getpid()
        self.answers: list[Any] = []
        self.error: BaseException | None = None
        self.seconds = 0.0
        """What the last answers have cost of processors."""
        self.is_left = False
        """Whether nobody waits for more answers."""
        self.done = _thread.allocate_lock()
        """Held while it asks."""
        self._clock = clock
        self._todo: tuple[Callable[[Any], Any], Sequence[Any]] | None = None
        self._woken = _thread.allocate_lock()
        self._woken.acquire()

    def begin(self, ask: Callable[[Any], Any], things: Sequence[Any]) -> None:
        """Have it ask."""
        self.done.acquire()
        self._todo = ask, things
        self._woken.release()

    def leave(self) -> None:
        """Have it end: nobody waits for more."""
        self.is_left = True
        if self._woken.locked():
            self._woken.release()

    def run(self) -> None:
        """Ask, until the end or as long as somebody waits."""
        pthread_sigmask(SIG_BLOCK, (SIGINT, SIGTERM, SIGHUP))  # they are for the main thread, which they wake
        while not self.is_left and self._woken.acquire() and self._todo:
            todo, self._todo = self._todo, None
            self._ask(*todo)
            del todo
            self.done.release()

    def _ask(self, ask: Callable[[Any], Any], things: Sequence[Any]) -> None:
        try:
            before = self._clock()
            for thing in things:
                if self.is_left:
                    break
                self.answers.append(ask(thing))
            self.seconds = self._clock() - before
        except BaseException as error:
            self.error = error

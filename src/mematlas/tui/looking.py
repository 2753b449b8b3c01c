"""The threads that look, so that the screen never waits for the kernel: one for all processes, one for one of them."""

from __future__ import annotations

import threading
import time
from collections import deque

from mematlas.errors import Error, TargetNotFound
from mematlas.timeline.timeline import LiveTimeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mematlas.timeline.sampler import Snapshot
    from mematlas.timeline.watch import Look, Watch

    Question = Callable[[LiveTimeline], Any]
    """What is asked between two looks."""


class Purse:
    """Processor seconds that count against the budget: those who look share it, and what is drawn without a key."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = threading.Lock()

    def take(self, seconds: float) -> float:
        """Count so many more; return all."""
        with self._lock:
            self._seconds += seconds
            return self._seconds


class Looker:
    """Looks again and again in a thread of its own; answers what is asked between two looks.

    What it looks at is opened in that thread, since that may take a while, or fail.
    """

    def __init__(
        self,
        open_watch: Callable[[], Watch],
        interval: float,
        budget: float,
        purse: Purse,
        tell: Callable[[Looker], None],
        answer: Callable[[str, Any], None],
    ) -> None:
        """``purse`` has what others have spent of the budget. ``tell`` is called in that thread when there is a new
        moment, or no more; ``answer`` with what was asked.
        """
        self.timeline: LiveTimeline | None = None
        """None until there is a first moment."""
        self.error: Error | None = None
        """Why it looks no more."""
        self.is_over = False
        """Whether all that was watched has ended."""
        self._open_watch = open_watch
        self._interval = interval
        self.pause = interval
        """Seconds between its looks just now: more than the interval where these would cost too much."""
        self._budget = budget
        self._purse = purse
        self._spent = 0.0
        """Processor seconds of its own, as far as the purse has them."""
        self._tell = tell
        self._answer = answer
        self._woken = threading.Condition()
        self._questions: deque[tuple[str, Question, bool]] = deque()
        self._answering = 0.0
        """Processor seconds that answers to keys have taken: who asks is not to be shown less for it."""
        self._is_wanted = True
        self._is_stopped = False
        self._has_ended = False
        """Whether nobody is there any more to answer."""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what is going on is not waited for."""
        with self._woken:
            self._is_stopped = True
            self._woken.notify()

    def join(self, seconds: float) -> None:
        """Wait until it has let go of all, for so long at the most: the kernel may hold it up."""
        self._thread.join(seconds)

    def want(self, is_wanted: bool) -> None:
        """Say whether anybody looks at what it finds: else it rests."""
        with self._woken:
            if is_wanted != self._is_wanted:
                self._is_wanted = is_wanted
                self._woken.notify()

    def ask(self, name: str, question: Question, is_each_time: bool = False) -> None:
        """Have something answered between two looks; what is waiting under the same name is not any more.

        What is asked after each look, and not by a key, counts against the budget as the look does.
        """
        with self._woken:
            if not self._has_ended:
                self._questions = deque(one for one in self._questions if one[0] != name)
                self._questions.append((name, question, is_each_time))
                self._woken.notify()
                return
        self._answer(name, self._why_no_answer)

    @property
    def _why_no_answer(self) -> Error:
        return self.error or TargetNotFound("it has ended: nobody can be asked any more")

    def _run(self) -> None:
        try:
            with self._open_watch() as watch:
                timeline = LiveTimeline(
                    watch,
                    self._interval,
                    budget=self._budget,
                    rest=self._rest,
                    clock=lambda: self._spend(watch.seconds() - self._answering),
                )
                for _ in timeline:
                    self.timeline = timeline
                    self._tell(self)
                self.is_over = watch.is_over
                if not self._is_stopped:
                    self._tell(self)
        except Error as error:
            self.error = error
            self._tell(self)
        except Exception as error:  # in a thread it would look like silence
            self.error = mistake_of(error)
            self._tell(self)
        finally:
            self.is_over |= self.error is not None
            self._end()

    def _spend(self, seconds: float) -> float:
        """Count what it has spent itself; return what all have. What is opened for the first look is for free."""
        more, self._spent = seconds - self._spent, seconds
        return self._purse.take(more if self.timeline else 0.0)

    def _end(self) -> None:
        """Answer nothing any more; who waits is to know."""
        with self._woken:
            self._has_ended = True
            waiting = [name for name, _, _ in self._questions]
        for name in waiting if not self._is_stopped else ():
            self._answer(name, self._why_no_answer)

    def _rest(self, seconds: float) -> bool:
        """Wait for so long, and as long as nobody wants to know; return whether to stop."""
        self.pause = max(self._interval, seconds)
        end = time.monotonic() + seconds
        while True:
            with self._woken:
                if self._is_stopped:
                    return True
                if not self._questions:
                    left = end - time.monotonic()
                    if left <= 0 and self._is_wanted:
                        return False
                    self._woken.wait(left if self._is_wanted else None)
                    continue
                name, question, is_each_time = self._questions.popleft()
            assert self.timeline
            before = self.timeline.watch.seconds()
            try:
                found = question(self.timeline)
            except Error as error:
                found = error
            if not is_each_time:
                self._answering += self.timeline.watch.seconds() - before
            self._answer(name, found)


def mistake_of(error: Exception) -> Error:
    """Return what is shown of a mistake of ours in a thread: it must not look like silence."""
    return Error(f"a mistake of ours, please report it: {type(error).__name__}: {error}")


def last_moment(timeline: LiveTimeline) -> Snapshot[Look]:
    """Return the newest moment."""
    return timeline.at(timeline.times[-1])


def accessed_of(pid: int) -> Question:
    """Return what asks which pages were accessed, as of the newest look."""
    return lambda timeline: timeline.accessed(pid)


def frames_of(pid: int) -> Question:
    """Return what asks for pages with the numbers of their frames, as of the newest look."""
    return lambda timeline: timeline.frames(pid)


def detail_of(pid: int, address: int) -> Question:
    """Return what asks for all that is to be known of an address just now."""
    return lambda timeline: timeline.details(last_moment(timeline), pid, address, with_owners=False)

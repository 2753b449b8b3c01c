"""The pages of a process at each moment that is held: as they are now, and what each look has changed, backwards.

A word is an entry of pagemap with our state byte on top, as a capture has it.
"""

from __future__ import annotations

from collections import deque

from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.timeline.words import Followed, Sparse, changed, changes, empty, found_in, last_of_each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import NDArray, Words

MOST_CHANGES = 1 << 20
"""Pages whose change is held, of all looks at a process: 16 bytes each."""


@record
class PagesStep:
    """What a look has changed."""

    elapsed: float
    """When that was, by the timeline's clock."""
    before: Sparse
    """The words that stood there until then; 0 is none."""


class HeldPages:
    """The pages of a process, as far back as looks at it are held.

    >>> pages = HeldPages()
    >>> pages.add(0.0, Sparse(*np.array([[1, 2], [7, 8]], np.uint64)))
    >>> pages.add(1.0, Sparse(*np.array([[2, 3], [9, 5]], np.uint64)))
    >>> pages.at(0.5).words.tolist(), pages.at(1.0).words.tolist(), pages.changed(0.0, 1.0).tolist()
    ([7, 8], [9, 5], [1, 2, 3])
    """

    def __init__(self) -> None:
        self.now = empty()
        """As the last look has found them."""
        self._number = -1
        """Of the last look at a process that is followed."""
        self._steps: deque[PagesStep] = deque()
        self._nr_held = 0
        self._last_changed: tuple[float, Words, NDArray[np.float64]] | None = None
        """Up to when, which pages have changed, and when last: what was asked last."""

    def add(self, elapsed: float, words: Sparse | Followed) -> None:
        """Take in what a look has found."""
        if not isinstance(words, Followed):
            delta, now = changes(self.now, words), words
        elif words.number == self._number + 1 and self._steps:
            delta = words.delta
            now = changed(self.now, delta) if len(delta) else self.now
        else:
            now = words.whole()
            delta = changes(self.now, now)
        before = words_at(self.now, delta.indexes) if self._steps else np.zeros(0, np.uint64)
        indexes = delta.indexes if self._steps else before
        self._number = words.number if isinstance(words, Followed) else -1
        self._steps.append(PagesStep(elapsed, Sparse(indexes, before)))
        self._nr_held += len(before)
        # One after the other: who reads meanwhile sees either both as they were or, for a moment, less of the past.
        self.now = now
        while self._nr_held > MOST_CHANGES and len(self._steps) > 1:
            self._let_go()

    def let_go_before(self, elapsed: float) -> None:
        """Hold nothing from before a time but what there was at it."""
        while len(self._steps) > 1 and self._steps[1].elapsed <= elapsed:
            self._let_go()

    def _let_go(self) -> None:
        self._steps.popleft()
        first = self._steps[0]
        self._nr_held -= len(first.before)
        # What it has changed nobody can ask for any more.
        none = np.zeros(0, np.uint64)
        self._steps[0] = PagesStep(first.elapsed, Sparse(none, none))

    @property
    def first(self) -> float | None:
        """From when on it is known; None before the first look."""
        return self._steps[0].elapsed if self._steps else None

    @property
    def last(self) -> float:
        """When the last look was."""
        return self._steps[-1].elapsed

    def at(self, elapsed: float) -> Sparse:
        """Return the pages as they were at a time; of one before all that is held, as they were at the first."""
        pages = self.now
        later = [step.before for step in list(self._steps)[1:] if step.elapsed > elapsed]
        if not later:
            return pages
        # Of what has changed more than once, what stood there before the first time.
        return changed(pages, Sparse(*last_of_each([(before.indexes, before.words) for before in reversed(later)])))

    def changed(self, after: float, last: float) -> Words:
        """Return the numbers of the pages that have changed after one time, and up to another, ascending."""
        parts = [step.before.indexes for step in list(self._steps)[1:] if after < step.elapsed <= last]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)

    def changed_at(self, last: float) -> tuple[Words, NDArray[np.float64]]:
        """Return which pages have changed since the first look that is held, up to a time, ascending, and when last."""
        known = self._last_changed
        after = known[0] if known and known[0] <= last else -np.inf
        parts = [(step.before.indexes, step.elapsed) for step in list(self._steps)[1:] if after < step.elapsed <= last]
        pages, times = last_of_each([(known[1], known[2]), *parts] if known and known[0] <= last else parts)
        first = self.first
        if len(times) and first is not None and times.min() <= first:
            kept = times > first
            pages, times = pages[kept], times[kept]
        self._last_changed = last, pages, times
        return pages, times


def words_at(file: Sparse, indexes: Words) -> Words:
    """Return the words at some places of a file; 0 where there is none."""
    is_there, place = found_in(indexes, file.indexes)
    words = np.zeros(len(indexes), np.uint64)
    words[is_there] = file.words[place[is_there]]
    return words

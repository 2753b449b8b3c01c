"""The lessons, in the order in which they build on each other."""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.labs.lesson import Lesson
from mematlas.labs.lessons.anonymous import FORK, RESERVE, ZERO
from mematlas.labs.lessons.files import CACHE, FAULTS, SHARING
from mematlas.labs.lessons.huge import FRAGMENTS, HUGE
from mematlas.labs.lessons.program import MALLOC, STACK
from mematlas.labs.lessons.swapped import PAGEOUT, SHMEM
from mematlas.labs.lessons.translation import TRANSLATE

LESSONS = {
    lesson.name: lesson
    for lesson in (
        RESERVE,
        ZERO,
        FORK,
        TRANSLATE,
        STACK,
        MALLOC,
        CACHE,
        FAULTS,
        SHARING,
        PAGEOUT,
        SHMEM,
        HUGE,
        FRAGMENTS,
    )
}


def find_lesson(name: str) -> Lesson:
    """Return a lesson by its name."""
    if name not in LESSONS:
        hint = did_you_mean(name, LESSONS)
        raise BadInput(f"no lesson {name!r}{hint}: choose from {', '.join(LESSONS)}")
    return LESSONS[name]

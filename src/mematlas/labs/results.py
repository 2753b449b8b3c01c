"""The lessons as a table, and what became of the predictions as another."""

from __future__ import annotations

from mematlas.notes import Notes
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.labs.lesson import Answer, Lesson
    from mematlas.labs.score import Score

LESSON_COLUMNS = (
    Column("name", "LESSON"),
    Column("title", "TITLE"),
    Column("rights", "NEEDS"),
    Column("passed", "PASSED"),
    Column("score", "PASSED"),
)
LIST_COLUMNS = (
    Column("name", "LESSON"),
    Column("title", "TITLE"),
    Column("rights", "NEEDS"),
    Column("score", "PASSED"),
)
"""What fits into 80 columns."""
ANSWER_COLUMNS = (
    Column("lesson", "LESSON"),
    Column("key", "KEY"),
    Column("question", "QUESTION"),
    Column("prediction", "PREDICTION"),
    Column("reality", "REALITY"),
    Column("right", "RIGHT"),
    Column("reason", "REASON"),
)
SHORT_COLUMNS = (
    Column("lesson", "LESSON"),
    Column("key", "KEY"),
    Column("prediction", "PREDICTION"),
    Column("reality", "REALITY"),
    Column("right", "RIGHT"),
)
RIGHT = {True: "yes", False: "no", None: "left out"}


def lessons_table(lessons: Iterable[Lesson], scores: dict[str, Score], notes: Notes) -> Table:
    """Return the lessons, with how they went so far; ``passed`` is unknown for those never taken."""
    rows = []
    for lesson in lessons:
        score = scores.get(lesson.name)
        shown = None if score is None else "yes" if score.passed else f"{score.nr_right} of {score.nr_asked}"
        rows.append((lesson.name, lesson.title, lesson.rights, None if score is None else score.passed, shown))

    short = [(name, title, needs_of(rights), shown) for name, title, rights, _, shown in rows]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Iterator[str]:
        yield from Table("", LIST_COLUMNS, short).lines(in_bytes=in_bytes, colour=colour, before=before, width=width)
        yield ""
        yield "mematlas lab NAME begins one."
        yield "* shows more to those with a right that it names; root has all of them."

    return Drawn("lab/1", LESSON_COLUMNS, rows, notes=notes, draw=draw)


def needs_of(rights: str) -> str:
    """Return in short what a lesson needs: a star stands for what it shows with more rights.

    >>> needs_of("swap space; CAP_SYS_ADMIN finds the pages")
    'swap space *'
    """
    needs, _, more = rights.partition("; ")
    return needs + (" *" if more else "")


def answers_table(answers: list[Answer], notes: Notes) -> Table:
    """Return what became of the predictions, for grading."""
    rows = [
        (item.lesson, item.key, item.question, item.prediction, item.reality, item.right, item.reason or None)
        for item in answers
    ]
    # A lesson that cannot be taken here gives the same reason for each of its questions.
    reasons = dict.fromkeys((item.lesson, item.reason) for item in answers if item.right is None)
    misfits = [item for item in answers if item.reason and item.right is not None]
    nr_right = sum(item.right is True for item in answers)
    nr_asked = sum(item.right is not None for item in answers)
    target = {"passed": nr_right == nr_asked, "nr_right": nr_right, "nr_asked": nr_asked}
    short = [(item.lesson, item.key, *item.shown, RIGHT[item.right]) for item in answers]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Iterator[str]:
        yield from Table("lesson/1", SHORT_COLUMNS, short).lines(
            in_bytes=in_bytes, colour=colour, before=before, width=width
        )
        yield from (f"{name} left out: {why}" for name, why in reasons)
        yield from (f"{item.lesson} not understood: {item.reason}" for item in misfits)

    return Drawn("lesson/1", ANSWER_COLUMNS, rows, target=target, notes=notes, draw=draw)

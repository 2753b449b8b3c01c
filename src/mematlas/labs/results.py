"""The lessons as a table, and what became of the predictions as another."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.views.format import fold_message
from mematlas.views.table import Column, Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.labs.lesson import Answer, Lesson
    from mematlas.labs.score import Score
    from mematlas.notes import Note


@record
class Taken:
    """A lesson with how it went so far; None when it was never taken."""

    lesson: Lesson
    score: Score | None

    @property
    def passed(self) -> str | None:
        """Whether it was passed, for people."""
        if self.score is None:
            return None
        return "yes" if self.score.passed else f"{self.score.nr_right} of {self.score.nr_asked}"


RIGHT = {True: "yes", False: "no", None: "left out"}

LESSON_COLUMNS: tuple[Column[Taken], ...] = (
    Column("name", "LESSON", value=lambda taken: taken.lesson.name),
    Column("title", "TITLE", value=lambda taken: taken.lesson.title),
    Column("rights", "NEEDS", value=lambda taken: taken.lesson.rights),
    Column("passed", "PASSED", value=lambda taken: taken.score and taken.score.passed),
    Column("score", "PASSED", value=lambda taken: taken.passed),
)
LIST_COLUMNS: tuple[Column[Taken], ...] = (
    Column("name", "LESSON", value=lambda taken: taken.lesson.name),
    Column("title", "TITLE", value=lambda taken: taken.lesson.title),
    Column("rights", "NEEDS", value=lambda taken: needs_of(taken.lesson.rights), rank=2),
    Column("score", "PASSED", value=lambda taken: taken.passed, rank=1),
)
"""What fits into 80 columns."""
ANSWER_COLUMNS: tuple[Column[Answer], ...] = (
    Column("lesson", "LESSON"),
    Column("key", "KEY"),
    Column("question", "QUESTION"),
    Column("prediction", "PREDICTION"),
    Column("reality", "REALITY"),
    Column("right", "RIGHT"),
    Column("reason", "REASON", value=lambda answer: answer.reason or None),
)
SHORT_COLUMNS: tuple[Column[Answer], ...] = (
    Column("lesson", "LESSON"),
    Column("key", "KEY"),
    Column("prediction", "PREDICTION", value=lambda answer: answer.shown[0]),
    Column("reality", "REALITY", value=lambda answer: answer.shown[1]),
    Column("right", "RIGHT", value=lambda answer: RIGHT[answer.right]),
)


def lessons_table(lessons: Iterable[Lesson], scores: dict[str, Score], notes: Iterable[Note]) -> Table:
    """Return the lessons, with how they went so far; ``passed`` is unknown for those never taken."""
    taken = [Taken(lesson, scores.get(lesson.name)) for lesson in lessons]

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        yield from Table("", LIST_COLUMNS, taken).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        yield "mematlas lab NAME starts one."
        yield from fold_message("* shows more with a capability, named in the lesson; root has them all.", width)

    return Drawn("lab/1", LESSON_COLUMNS, taken, notes=notes, draw=draw)


def needs_of(rights: str) -> str:
    """Return in short what a lesson needs: a star stands for what it shows with more rights.

    >>> needs_of("swap space; CAP_SYS_ADMIN finds the pages")
    'swap space *'
    """
    needs, _, more = rights.partition("; ")
    return needs + (" *" if more else "")


def answers_table(answers: list[Answer], notes: Iterable[Note]) -> Table:
    """Return what became of the predictions, for grading."""
    # A lesson that cannot be taken here gives the same reason for each of its questions.
    reasons = dict.fromkeys((item.lesson, item.reason) for item in answers if item.right is None)
    misfits = [item for item in answers if item.reason and item.right is not None]
    nr_right = sum(item.right is True for item in answers)
    nr_asked = sum(item.right is not None for item in answers)
    target = {"passed": nr_right == nr_asked, "nr_right": nr_right, "nr_asked": nr_asked}

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        table = Table("lesson/1", SHORT_COLUMNS, answers)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)
        yield from (f"{name} left out: {why}" for name, why in reasons)
        yield from (f"{item.lesson} not understood: {item.reason}" for item in misfits)

    return Drawn("lesson/1", ANSWER_COLUMNS, answers, target=target, notes=notes, draw=draw)

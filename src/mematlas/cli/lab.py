"""A lesson starts a program of its own, says what that does, and asks: what will the kernel show? Then it measures on
this machine, and explains. Answer with a number or a size, a range such as 3-9, or a letter; Enter alone is no
prediction. Scores are kept in ~/.local/state/mematlas/labs.json.

--answers takes {"KEY": ANSWER, ...}, or {"LESSON": {"KEY": ANSWER, ...}, ...} for several lessons; the exit code is 10
unless all of them are right.
"""

from __future__ import annotations

import io
import sys

from mematlas.cli.command import Command
from mematlas.cli.options import add_output, form_of, parse_width, width_of
from mematlas.cli.signals import Interrupts
from mematlas.cli.swap import add_temporary_swap, temporary_swap
from mematlas.errors import AssertionNotMet, BadInput, Error
from mematlas.labs.answers import read_answers
from mematlas.labs.lesson import Asked, Guide, Paper, unasked
from mematlas.labs.lessons import LESSONS, find_lesson
from mematlas.labs.results import answers_table, lessons_table
from mematlas.labs.score import ScoreFile, score_of
from mematlas.notes import Note
from mematlas.views.terminal import wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.labs.lesson import Answer, Given, Lesson

MAX_WIDTH = 88


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="NAME", help=", ".join(LESSONS))
    arguments.add_argument("--answers", metavar="FILE", help="take the predictions from a JSON file, and grade them")
    add_temporary_swap(arguments, "swap to a file of this size, such as 64M, during this run (root)")
    arguments.add_argument("--reset", action="store_true", help="forget the score of NAME, or all scores")
    arguments.add_argument(
        "--width", type=parse_width, metavar="N", help=f"columns (the terminal's width, up to {MAX_WIDTH})"
    )
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    if len(args.words) > 1:
        raise BadInput(f"unexpected argument {args.words[1]!r}")
    name: str | None = args.words[0] if args.words else None
    scores = ScoreFile()
    if args.reset:
        return forget(name, args, session, scores)
    if name is None and args.answers is None:
        if args.temporary_swap is not None:
            raise BadInput("--temporary-swap needs a lesson: mematlas lab NAME --temporary-swap SIZE")
        session.show(lambda: lessons_table(LESSONS.values(), scores.read(), scores.notes), args)
        return 0
    given = None if args.answers is None else read_answers(args.answers, name)
    lesson = find_lesson(name) if name else None
    with Interrupts(session.err) as ending, temporary_swap(args.temporary_swap):
        if given is not None:
            return grade(given, lesson is not None, args, session, scores)
        if lesson:
            return teach(lesson, args, session, scores)
    return ending.exit_code


def forget(name: str | None, args: Namespace, session: Session, scores: ScoreFile) -> int:
    """Forget the score of one lesson, or all scores, and say so."""
    if args.answers is not None or args.temporary_swap is not None:
        raise BadInput("--reset takes only the name of a lesson, or nothing")
    was_there = scores.reset(find_lesson(name).name if name else None)
    what = f"the score of {name} is" if name else "all scores are"
    note = Note("forgotten", f"{what} forgotten")
    if not was_there:
        note = Note("no-score", f"there is no score of {name}" if name else "there are no scores")
    session.write_notes(scores.notes or [note])
    return 0


def teach(lesson: Lesson, args: Namespace, session: Session, scores: ScoreFile) -> int:
    """Have a person predict."""
    is_text = form_of(args) == "table"
    # Data goes to standard output: in text the lesson is that, else the result.
    out = session.out if is_text else session.err
    answers = Guide(paper(args, session, out), Asked(sys.stdin, out)).teach(lesson)
    scores.add(lesson.name, score_of(answers))
    if is_text:
        session.write_notes(scores.notes)
    else:
        session.show(lambda: answers_table(answers, scores.notes), args)
    return 0


def grade(given: list[tuple[Lesson, Given]], is_one: bool, args: Namespace, session: Session, scores: ScoreFile) -> int:
    """Have a file predict; the lessons are shown only where text is wanted."""
    is_text = form_of(args) == "table"
    out = session.out if is_text else io.StringIO()
    answers: list[Answer] = []
    for lesson, predictions in given:
        try:
            done = Guide(paper(args, session, out), predictions).teach(lesson)
        except Error as error:
            if is_one:
                raise
            why = str(error).partition("\n")[0]
            answers += [unasked(lesson, step.question, why) for step in lesson.steps]
            continue
        scores.add(lesson.name, score_of(done))
        answers += done
    if is_text:
        session.out.write("\n")
    session.show(lambda: answers_table(answers, scores.notes), args)
    wrong = [f"{answer.lesson}.{answer.key}" for answer in answers if answer.right is False]
    if wrong:
        nr_asked = sum(answer.right is not None for answer in answers)
        raise AssertionNotMet(f"{len(wrong)} of {nr_asked} predictions were not right: {', '.join(wrong)}")
    return 0


def paper(args: Namespace, session: Session, out: TextIO) -> Paper:
    """Return what a lesson is written on."""
    return Paper(out, min(width_of(args, out), MAX_WIDTH), wants_colour(args.color, out))


COMMAND = Command(
    "[NAME] [options]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas lab", "the list of lessons"),
        ("mematlas lab zero", "one lesson"),
    ),
    words=({name: lesson.title for name, lesson in LESSONS.items()},),
)

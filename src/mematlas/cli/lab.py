"""Without NAME it lists the lessons. With one it starts a program of its own, tells what that does, and asks: what
will the kernel show? Then it measures on this machine, and explains. Type a number, a range (3-9) or a letter; Enter
alone is no prediction. Scores are kept in ~/.local/state/mematlas/labs.json.

--answers takes the predictions from a JSON file, {"KEY": ANSWER, ...} with the keys that the lesson shows, or
{"LESSON": {"KEY": ANSWER, ...}, ...} for several lessons. The exit code is 10 unless all of them are right.
"""

from __future__ import annotations

import contextlib
import io
import sys

from mematlas.cli.session import add_output, width_of
from mematlas.errors import AssertionNotMet, BadInput, NotSupported, PermissionDenied
from mematlas.labs.answers import read_answers
from mematlas.labs.lesson import Asked, Guide, Paper, unasked
from mematlas.labs.lessons import LESSONS, find_lesson
from mematlas.labs.score import ScoreFile, score_of
from mematlas.labs.tables import answers_table, lessons_table
from mematlas.model.address_space import parse_size
from mematlas.views.colour import wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.labs.lesson import Answer, Given, Lesson

USAGE = "[NAME] [options]"
MAX_WIDTH = 88


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="NAME", help=", ".join(LESSONS))
    arguments.add_argument("--answers", metavar="FILE", help="take the predictions from a JSON file, and grade them")
    arguments.add_argument(
        "--temporary-swap",
        type=parse_size,
        metavar="SIZE",
        help="swap to a file of this size, such as 64M, for this run (root)",
    )
    arguments.add_argument("--reset", action="store_true", help="forget all scores")
    arguments.add_argument("--width", type=int, metavar="N", help=f"columns (the terminal's width, up to {MAX_WIDTH})")
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    if len(args.words) > 1:
        raise BadInput(f"one word too many: {args.words[1]!r}")
    name: str | None = args.words[0] if args.words else None
    scores = ScoreFile()
    if args.reset:
        scores.reset()
        session.err.writelines(f"note: {note}\n" for note in scores.notes)
        return 0
    if name is None and args.answers is None:
        session.show(lambda: lessons_table(LESSONS.values(), scores.read(), scores.notes), args)
        return 0
    with contextlib.ExitStack() as stack:
        if args.temporary_swap is not None:
            from mematlas.kernel.swapfile import TemporarySwap

            stack.enter_context(TemporarySwap(args.temporary_swap))
        if args.answers is not None:
            return grade(read_answers(args.answers, name), name is not None, args, session, scores)
        return teach(find_lesson(name or ""), args, session, scores)


def teach(lesson: Lesson, args: Namespace, session: Session, scores: ScoreFile) -> int:
    """Have a person predict."""
    is_text = not args.json and args.format == "table"
    # Data goes to standard output: in text the lesson is that, else the result.
    out = session.out if is_text else session.err
    answers = Guide(paper(args, session, out), Asked(sys.stdin, out)).teach(lesson)
    scores.add(lesson.name, score_of(answers))
    if is_text:
        session.err.writelines(f"note: {note}\n" for note in scores.notes)
    else:
        session.show(lambda: answers_table(answers, scores.notes), args)
    return 0


def grade(given: list[tuple[Lesson, Given]], is_one: bool, args: Namespace, session: Session, scores: ScoreFile) -> int:
    """Have a file predict; the lessons are told only where text is wanted."""
    is_text = not args.json and args.format == "table"
    answers: list[Answer] = []
    for lesson, predictions in given:
        try:
            done = Guide(paper(args, session, session.out if is_text else io.StringIO()), predictions).teach(lesson)
        except (NotSupported, PermissionDenied) as error:
            if is_one:
                raise
            answers += [unasked(lesson, step.question, str(error)) for step in lesson.steps]
            continue
        scores.add(lesson.name, score_of(done))
        answers += done
    if is_text:
        session.out.write("\n")
    session.show(lambda: answers_table(answers, scores.notes), args)
    wrong = [f"{answer.lesson}.{answer.key}" for answer in answers if answer.right is False]
    if wrong:
        raise AssertionNotMet(f"{len(wrong)} of {len(answers)} predictions were not right: {', '.join(wrong)}")
    return 0


def paper(args: Namespace, session: Session, out: TextIO) -> Paper:
    """Return what a lesson is written on."""
    return Paper(out, min(width_of(args, session), MAX_WIDTH), wants_colour(args.color, out))

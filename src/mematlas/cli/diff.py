"""What is different between two looks: at a process now and after -d, or at two of a PID, a capture and a moment of a
recording (FILE@30s). Each row is a VMA with what became of it; all of them add up to the change of RSS, USS and swap.

Pages CAME into RAM or WENT for good, were paged OUT or came BACK from swap, were COPIED on write, or MOVED to another
frame or, by mremap, address. Addresses say nothing of two processes: these are compared by path.
"""

from __future__ import annotations

import time

from mematlas.analysis.difference import BY
from mematlas.cli.command import MORE, TARGET, Command
from mematlas.cli.options import add_output, add_source, add_target, parse_count, parse_seconds
from mematlas.errors import BadInput, ProcessGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.cli.signals import Interrupts
    from mematlas.observe.process import Process
    from mematlas.timeline.difference import Look

OFTEN = 0.2
"""Seconds between two looks at whether the target is still there."""


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument(
        "-d", "--duration", type=parse_seconds, metavar="TIME", help="of one process: look again after so long"
    )
    arguments.add_argument("--by", choices=BY, help="a row per vma (default), path or kind")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="show N rows, and the total of the rest")
    arguments.add_more("--no-pages", action="store_true", help="amounts alone: do not compare single pages")
    add_source(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    from mematlas.observe.process import Process
    from mematlas.timeline.difference import Look, difference
    from mematlas.views.diff import diff_table

    session.take_more_targets()
    session.refuse_several()
    texts = [session.text, *session.more]
    if args.duration is None and len(texts) != 2:
        raise BadInput("what with what? Give two processes, captures or moments, or one and -d TIME")
    if args.duration is not None and len(texts) != 1:
        raise BadInput("-d looks at one process twice: give one, or two without -d")
    with_pages = not args.no_pages
    if args.duration is not None:
        before, after = twice(args, session, with_pages)
    else:
        looks = []
        for name, text in zip(session.named, texts, strict=True):
            with Process(text, session.procfs) as process:
                looks.append(Look(process, name, args.source, with_pages))
        before, after = looks
    result = difference(before, after, args.by)
    session.show(lambda: diff_table(result, args.limit), args)
    return 0


def twice(args: Namespace, session: Session, with_pages: bool) -> tuple[Look, Look]:
    """Look at a process, and again after some time, or when a signal ends the waiting."""
    from mematlas.cli.signals import Interrupts
    from mematlas.timeline.difference import Look

    process = session.process
    if not process.procfs.live:
        raise BadInput("a capture, or a moment, does not change: give two")
    process.expect_more_looks()
    before = Look(process, "before", args.source, with_pages)
    with Interrupts(session.err, between_steps=True) as ending:
        wait(args.duration, process, ending)
        after = Look(process, "after", args.source, with_pages)
    return before, after


def wait(seconds: float, process: Process, ending: Interrupts) -> None:
    """Wait for so long, or until a signal comes.

    Raises:
        ProcessGone: the target has ended meanwhile.
    """
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0 and not ending.rest(min(left, OFTEN)):
        if process.dir.is_ending():
            after = time.monotonic() - began
            raise ProcessGone(process.pid, f"ended after {after:.1f} of {seconds:g} s")


COMMAND = Command(
    "[options] A B | TARGET -d TIME | -d TIME -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas diff redis-server -d 10s", "what changes in ten seconds"),
        ("mematlas diff redis.mematlas@5s redis.mematlas@60s", "between two moments of a recording"),
        ("mematlas diff ./saved 1234 --by kind", "a capture against the process"),
    ),
    words=(TARGET, MORE),
)

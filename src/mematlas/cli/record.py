"""How the memory of processes changes, in one file that report shows, here or elsewhere: amounts, never what is in
memory. Members of groups join as they appear, and so do children of a COMMAND, whose exit code is passed on; 125 says
that recording failed. Ctrl-C ends it well.
"""

from __future__ import annotations

import os
import time

from mematlas.cli.command import MORE, TARGET, Command
from mematlas.cli.options import add_source, add_target, parse_fraction, parse_interval, parse_seconds
from mematlas.cli.session import allow_many_files
from mematlas.errors import BadInput, NoAddressSpace, PermissionDenied, ProcessGone, TargetNotFound, did_you_mean
from mematlas.timeline.sampler import BUDGET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.timeline.recorder import RecordResult
    from mematlas.timeline.watch import Watch
    from mematlas.timeline.writing import RecordingWriter

STREAM = "-"
"""In the place of a file: standard output."""
EVERYBODY = ""
"""The target where all processes are."""
MOST_AT_ONCE = 100
"""Recordings of one name that begin in the same second."""
OWN_FAILURE = 125
"""The exit code where a program was started and we failed: its own are those of the program."""


def add_arguments(arguments: Arguments) -> None:
    from mematlas.analysis.assertions import parse_assertion

    add_target(arguments, after=0.0)
    arguments.add_argument("--machine", action="store_true", help="all processes, and what come and go meanwhile")
    arguments.add_argument(
        "-o", "--output", metavar="FILE", help="where to (default NAME-PID-TIME.mematlas); - streams"
    )
    arguments.add_more("--redact", action="store_true", help="leave out names: of processes, files, the host")
    arguments.add_more("--force", action="store_true", help="overwrite a file of that name")
    arguments.add_argument(
        "-i",
        "--interval",
        dest="every",
        type=parse_interval,
        default=1.0,
        metavar="TIME",
        help="between looks (default 1s)",
    )
    arguments.add_argument(
        "-d", "--duration", type=parse_seconds, metavar="TIME", help="for so long (default: to the end)"
    )
    arguments.add_more(
        "--keep", type=parse_seconds, metavar="TIME", help="a ring: only so long before the end, or before --when"
    )
    arguments.add_argument(
        "--what", type=parse_what, metavar="WHAT", help="usage, vmas (default), pages, frames; tables, ram, files"
    )
    arguments.add_more(
        "--when",
        action="append",
        type=parse_assertion,
        metavar="ASSERTION",
        help="begin, and count -d, when it holds of one of them, such as 'rss > 2GiB'; may be given again",
    )
    arguments.add_more(
        "--budget",
        type=parse_fraction,
        default=BUDGET,
        metavar="PART",
        help="of a processor for looks after the first (default 2%)",
    )
    add_source(arguments)


def parse_what(text: str) -> tuple[str, ...]:
    """Return what is to be recorded.

    >>> parse_what("usage,pages")
    ('usage', 'pages')
    """
    from mematlas.timeline.watch import WHAT

    words = tuple(text.split(","))
    for word in words:
        if word not in WHAT:
            raise BadInput(f"no {word!r} to record{did_you_mean(word, WHAT)}; there are {', '.join(WHAT)}")
    return words


def check(args: Namespace) -> None:
    """Refuse what could not be recorded, before a program is started.

    Raises:
        BadInput: an option says nothing with another; or the file is there, or cannot be made.
    """
    if args.when:
        from mematlas.timeline.recorder import check_conditions

        check_conditions(args.when)
    if args.keep is not None:
        refuse_ring(args)
    if args.output == "":
        raise BadInput("-o needs the name of a file, or - for a stream")
    if args.output is not None and args.output != STREAM:
        from mematlas.timeline.writing import refuse_path

        refuse_path(args.output, args.force)


def prepare(args: Namespace, session: Session) -> None:
    """Make what writes, which runs as who called us; it is fed by who has no rights by then."""
    if args.output != STREAM:
        session.writer = open_writer(args, session.text or "machine")


def run(args: Namespace, session: Session) -> int:
    from mematlas.timeline.watch import Watch

    session.take_more_targets()
    if args.output == STREAM and session.out.isatty():
        raise BadInput("not writing a stream to a terminal: give a file, or redirect it")
    targets = targets_of(args, session)
    redactor = None
    if args.redact:
        from mematlas.observe.captures import Redactor

        redactor = Redactor()
    what = args.what or (("usage",) if args.machine else ("vmas",))
    allow_many_files()
    try:
        with Watch(targets, session.procfs, args.source, args.max_stall, what, redactor, args.machine) as watch:
            return record(watch, args, session)
    except (TargetNotFound, ProcessGone, NoAddressSpace):
        if session.launched is None or not session.launched.ended():
            raise
        session.write_lines(["nothing recorded: the program ended before the first look"])
        return 0


def refuse_ring(args: Namespace) -> None:
    """Refuse a ring that cannot be one.

    Raises:
        BadInput: moments could not be taken away again, or there would hardly be any.
    """
    if args.output == STREAM:
        raise BadInput("what was streamed cannot be taken back: --keep takes a file, -o FILE")
    if args.keep < 2 * args.every:
        raise BadInput(f"--keep {args.keep:g}s is too short: two intervals or more, which are {2 * args.every:g}s (-i)")


def targets_of(args: Namespace, session: Session) -> list[str]:
    """Return the targets that were named."""
    if args.machine:
        if session.command is not None or session.text != EVERYBODY or session.more:
            raise BadInput("--machine records all processes: without TARGET, and without a COMMAND")
        return []
    targets = [session.text, *session.more]
    if session.command is not None:
        targets[0] = f"tree:{session.text}"
    return targets


def record(watch: Watch, args: Namespace, session: Session) -> int:
    """Record what is watched; return the exit code."""
    from mematlas.cli.signals import Interrupts
    from mematlas.timeline.recorder import Stream, facts_of, record_into
    from mematlas.views.record import Line, cut_short_lines, result_lines

    when = args.when or ()
    facts = facts_of(watch, args.every, args.keep, when)
    result: RecordResult | None = None
    writer: RecordingWriter | None = None
    with Interrupts(session.err, between_steps=True) as ending, Line(session.err) as told:

        def go(destination: RecordingWriter | Stream) -> RecordResult:
            return record_into(
                destination,
                watch,
                args.every,
                args.duration,
                args.budget,
                when,
                ending.rest,
                told,
                args.keep,
            )

        if args.output == STREAM:
            session.out.flush()
            result = go(Stream(session.out.buffer, facts))
        else:
            writer = session.writer or open_writer(args, watch.label)
            with writer:
                writer.add({"recording": list(facts.items())})
                result = go(writer)
    if result is None or (writer and result.nr_moments and not writer.size):
        # Somebody could not wait for the look that was going on, or for the end of writing.
        session.write_lines(list(cut_short_lines(writer)))
        return ending.exit_code
    session.write_notes(result.notes)
    session.write_lines(list(result_lines(result, writer)))
    return PermissionDenied.exit_code if result.hidden and not args.machine else 0


def open_writer(args: Namespace, label: str) -> RecordingWriter:
    """Return what writes the recording; unless its file has a name, that is made of a label."""
    from mematlas.timeline.ring import Ring
    from mematlas.timeline.watch import REDACTED
    from mematlas.timeline.writing import RecordingWriter

    path = args.output or default_path(REDACTED if args.redact else label)
    return RecordingWriter(path, None, args.force, Ring(args.keep) if args.keep else None)


def default_path(label: str) -> str:
    """Return a name for a recording: whose, and when it began; with a number where another began in that second."""
    who = "".join(character if character.isalnum() else "-" for character in label)
    name = f"{who}-{time.strftime('%Y%m%d-%H%M%S')}"
    paths = (f"{name}{more}.mematlas" for more in ("", *(f"-{number}" for number in range(2, MOST_AT_ONCE))))
    return next((path for path in paths if not os.path.lexists(path)), f"{name}.mematlas")


COMMAND = Command(
    "[options] TARGET... | --machine | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas record redis-server -d 60s -o redis.mematlas", "a minute"),
        ("mematlas record name:postgres --when 'rss > 2GiB' --keep 10m", "all of that name, and what led to it"),
        ("mematlas record --machine -d 60s", "all processes"),
    ),
    words=(TARGET, MORE),
    check=check,
    own_failure=OWN_FAILURE,
    prepare=prepare,
    default_target=lambda args: EVERYBODY if args.machine and not args.words else None,
)

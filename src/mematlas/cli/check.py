"""Whether the memory of a process or a group is as it should be: exit 10 where it is not, with a line that says why.

An assertion is a measure and a limit. With -d, a measure has to hold at each look; growth is the slope of all looks,
and fails where it is above the limit with a certainty of 95 %. What is not known never passes (exit 4 or 5). A COMMAND
is waited for, and may end sooner; for any other target that is exit 6.
"""

from __future__ import annotations

from mematlas.analysis.assertions import EXAMPLES, parse_assertion
from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import (
    LEAST_INTERVAL,
    add_output,
    add_source,
    add_target,
    form_of,
    parse_fraction,
    parse_interval,
    parse_seconds,
)
from mematlas.errors import AssertionNotMet, BadInput, Error, ProcessGone
from mematlas.timeline.sampler import BUDGET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mematlas.analysis.results import UsageResult
    from mematlas.analysis.set_usage import SetUsage
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.timeline.check import CheckResult
    from mematlas.views.table import Table

GITHUB = "github"
LOOKS = 10
"""How many there are of a duration, at the least, unless somebody says otherwise."""


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument(
        "--assert",
        dest="assertions",
        action="append",
        type=parse_assertion,
        metavar="ASSERTION",
        help="what has to hold, such as 'uss < 200MiB' or 'growth(rss) < 1MiB/min'; may be given again",
    )
    arguments.add_argument(
        "-d", "--duration", type=parse_seconds, default=0.0, metavar="TIME", help="look for so long (default: once)"
    )
    arguments.add_argument(
        "-i",
        "--interval",
        dest="every",
        type=parse_interval,
        metavar="TIME",
        help="between looks (default 1s, or a tenth of -d)",
    )
    arguments.add_argument(
        "--budget",
        type=parse_fraction,
        default=BUDGET,
        metavar="PART",
        help="of a processor for looks after the first (default 2%)",
    )
    add_source(arguments)
    add_output(arguments, {GITHUB: "annotations of a workflow"})


def run(args: Namespace, session: Session) -> int:
    try:
        return checked(args, session)
    except (AssertionNotMet, ProcessGone):
        raise  # their lines are written
    except Error as error:
        if args.format == GITHUB:
            from mematlas.views.check import github_error

            session.out.write(f"{github_error(error)}\n")
        raise


def checked(args: Namespace, session: Session) -> int:
    """Check, and write what came of it; return the exit code."""
    from mematlas.cli.signals import Interrupts
    from mematlas.timeline.check import check
    from mematlas.views.record import Line

    session.no_more_words("check takes one target, and more than one --assert")
    if not args.assertions:
        raise BadInput(f"nothing is asserted: --assert {EXAMPLES}")
    if args.duration and not session.has_group and not session.process.procfs.live:
        raise BadInput("a capture is one moment: check it without -d")
    if args.every and not args.duration:
        raise BadInput("-i is for looking again: add -d, such as -d 60s")
    if args.every and args.every > args.duration:
        raise BadInput(f"-i {args.every:g}s is longer than -d {args.duration:g}s")
    interval = args.every or min(1.0, max(args.duration / LOOKS, LEAST_INTERVAL))

    def look() -> UsageResult | SetUsage:
        if session.has_group:
            from mematlas.observe.process_set import measure_sets

            return measure_sets(session.find_sets(), args.source, args.max_stall)[0]
        return session.process.usage(args.source, args.max_stall)

    if args.duration and not session.has_group:
        session.process.expect_more_looks()
    with Interrupts(session.err, between_steps=True) as ending, Line(session.err, "checking") as told:
        result = check(look, args.assertions, args.duration, interval, args.budget, told, ending.rest)
    show(result, target_of(result, session), args, session)
    for unknown in result.why_unknown().values():
        raise unknown
    return ending.exit_code


def target_of(result: CheckResult, session: Session) -> dict[str, Any]:
    """Return the ``target`` of a result."""
    if session.has_group:
        from mematlas.views.set_usage import target_of_set

        return target_of_set(result.usage)  # type: ignore[arg-type]
    return session.target_info(result.usage.reading)


def show(result: CheckResult, target: dict[str, Any], args: Namespace, session: Session) -> None:
    """Write what came of it.

    Raises:
        AssertionNotMet: something does not hold, which has been written.
        ProcessGone: the target ended before the time was over.
    """
    from mematlas.views.check import check_table, failures_of, github_lines

    if form_of(args) == GITHUB:
        session.out.writelines(f"{line}\n" for line in github_lines(result, target))
        session.out.flush()
    else:

        def make() -> Table:
            return check_table(result, target)

        session.show(make, args)
    failures = failures_of(result, target)
    # A program that we have started ends when it is done; and what has failed has, however that was.
    is_judged = len(result.verdicts) == len(args.assertions)
    if result.ended and (session.command is None or not is_judged):
        why = f"{result.ended} after {result.seconds:.3g} of {args.duration:g} s"
        if not failures:
            result.ended.args = (why,)
            raise result.ended
        failures.append(why)
    session.fail(failures)


COMMAND = Command(
    "[options] --assert ASSERTION TARGET | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas check redis-server --assert 'uss < 200MiB'", "now"),
        ("mematlas check 1234 -d 60s --assert 'growth(rss) < 1MiB/min'", "does it leak?"),
        ("mematlas check name:postgres --assert 'pss < 2GiB'", "all of that name, as one"),
    ),
    words=(TARGET,),
)

"""mematlas alone: one screen with this machine, who uses the most, what we may do, and what to try.

A bar shows what all of RAM is used for; as root there are the three files of which most is in the page cache. Processes
of one name are one row, as are those of a container, ranked by PSS, swap and huge pages together. -i keeps it up to
date.
"""

from __future__ import annotations

import os

from mematlas.analysis.ranking import SORTS
from mematlas.cli.command import Command
from mematlas.cli.options import add_output, add_repeat, parse_count
from mematlas.doctor.hints import own_command, sudo_line
from mematlas.kernel.rights import in_user_namespace
from mematlas.observe.largest_files import LargestFiles
from mematlas.observe.machine import TOP, Machine
from mematlas.views.overview import overview_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


NR_LINES = 22
"""What the first screen is to fit on: a terminal of 24, with the line that was typed, and the next prompt."""
NR_FILES = 3
"""Files of which most is in the page cache."""


def add_arguments(arguments: Arguments) -> None:
    text = f"show N rows, on any number of lines ({TOP}, or as many as fit on {NR_LINES} lines)"
    arguments.add_argument("--limit", type=parse_count, metavar="N", help=text)
    arguments.add_argument("--sort", choices=SORTS, help="rank by USS, PSS, the sum of RSS, or swap")
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    machine = Machine(session.procfs)
    command = own_command().rsplit("/", 1)[-1]
    sudo = None if in_user_namespace() else sudo_line(())

    with LargestFiles(session.procfs, NR_FILES) as largest:

        def make() -> Table:
            largest.ask()
            usage = machine.usage(args.limit or TOP, args.sort, largest.pids)
            nr_lines = None if args.limit else NR_LINES
            files = largest.answer()
            uid = os.geteuid()
            return overview_view(session.machine(), usage, args.sort, uid, command, sudo, nr_lines, files, largest.why)

        session.show(make, args)
    return 0


COMMAND = Command(
    "[options]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas", "this machine, and who uses the most of it"),
        ("mematlas --limit 20 --sort uss", "more rows, by what each maps alone"),
        ("mematlas --json", "the same, for a program"),
    ),
)

"""singlemap    one rwx page: the first Enter maps it, the second writes to it
multimap [N] N rwx pages (12): all mapped, then one written to per Enter
prober       1 KiB, written to: an address to look up
draw         1,024 pages; reads "Draw N" (N segments: all, even, odd pages
             in turn), "Clear", "Quit"
actor        does what each line says: map 100, write 0 10, fork, ...; the
             lessons (mematlas lab) are played by it

Each prints its PID and addresses, and waits; the lines can come from a pipe too.
"""

from __future__ import annotations

import sys

from mematlas.cli.command import Command
from mematlas.errors import BadInput
from mematlas.labs.workload import WORKLOADS
from mematlas.labs.workload import run as run_workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="NAME", help=", ".join(WORKLOADS))
    arguments.add_argument("--json", action="store_true", help="write one JSON object per step")


def run(args: Namespace, session: Session) -> int:
    name, *rest = args.words or [""]
    if len(rest) > (name == "multimap"):
        raise BadInput(f"unexpected argument {rest[-1]!r}")
    return run_workload(name, rest[0] if rest else "12", sys.stdin, sys.stdout, args.json)


COMMAND = Command(
    "[--json] NAME [N]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas workload draw", "something to look at from another terminal"),
        ("mematlas workload multimap 20 --json", "20 pages, and the truth as JSON"),
    ),
    words=({name: workload.help for name, workload in WORKLOADS.items()},),
)

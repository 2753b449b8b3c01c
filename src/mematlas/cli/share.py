"""Which processes share how many bytes with which, and through what: files, shared memory, or memory of before a fork
that nobody has written to since (copy-on-write). Each frame counts once. Of few processes it is a matrix, of many the
pairs that share the most, of two VMA by VMA. Groups are one each. OTHERS is shared with who was not looked at.

Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, for frames; there is no estimate without.
"""

from __future__ import annotations

import os

from mematlas.cli.command import MORE, TARGET, Command
from mematlas.cli.options import add_output, add_target, parse_count
from mematlas.model.search import in_capture
from mematlas.observe.machine import PAIRS, Machine
from mematlas.views.share import sets_view, share_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.procfs import ProcFS
    from mematlas.views.table import Table

EVERYBODY = ""
"""The target where none is given."""


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument("--sets", action="store_true", help="what the same processes share, the largest first")
    arguments.add_argument("--limit", type=parse_count, default=PAIRS, metavar="N", help=f"show N rows ({PAIRS})")
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    session.take_more_targets()
    if (procfs := capture_of_several(session)) is not None:
        session.procfs, session.text = procfs, EVERYBODY

    def make() -> Table:
        sets = session.find_sets() if session.text != EVERYBODY else None
        if sets:
            session.procfs = sets[0].procfs
        result = Machine(session.procfs).share(sets, args.limit)
        table = (sets_view if args.sets else share_view)(result, args.limit)
        table.notes += [note for one in sets or () for note in one.notes]
        return table

    session.show(make, args)
    return 0


def capture_of_several(session: Session) -> ProcFS | None:
    """Return the capture that the target is, where it holds several processes: all of these are looked at."""
    if session.more or "/" not in session.text or not os.path.isdir(session.text):
        return None
    targets = in_capture(session.text)
    for target in targets:
        target.close()
    return targets[0].procfs if len(targets) > 1 else None


COMMAND = Command(
    "[options] [TARGET...] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas share", "the pairs that share the most, of all processes"),
        ("mematlas share 1234 redis-server", "two processes, VMA by VMA"),
        ("mematlas share --sets --json", "what the same processes share, for a program"),
    ),
    words=(TARGET, MORE),
    default_target=lambda args: None if args.words else EVERYBODY,
)

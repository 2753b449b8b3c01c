"""What a recording tells: of each process how much it had, the most and when, how much that grew, how fast, and in
which manner: a leak, a sawtooth, filling, steady (mematlas help measures). The file may be anybody's: nothing in it is
run.
"""

from __future__ import annotations

import os

from mematlas.cli.command import RECORDING, Command
from mematlas.cli.options import add_output, parse_count
from mematlas.kernel.confine import leave_rights
from mematlas.kernel.rights import effective_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("file", metavar="FILE", help="what mematlas record has made")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="the first N processes")
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    from mematlas.timeline.recording import Recording, RecordingFiles
    from mematlas.timeline.summary import summary_of
    from mematlas.views.report import summary_table

    files = RecordingFiles(args.file)
    has_rights = os.geteuid() == 0 or bool(effective_capabilities())
    if has_rights:
        session.procfs.close()
        leave_rights(files.fds)

    def make() -> Table:
        with Recording(files, is_private=has_rights) as recording:
            session.recorded = recording.machine
            return summary_table(summary_of(recording), args.limit)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] FILE",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas report redis.mematlas", "what grew, and how"),
        ("mematlas report redis.mematlas --limit 10 --json", "of ten processes, for programs"),
    ),
    words=(RECORDING,),
)

"""Each line is one VMA, with how many of its pages are present, not just the state of its first page. AREA picks VMAs
by address, START-END, ADDR+LEN, kind, or part of the path.
"""

from __future__ import annotations

from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_numa, add_output, add_repeat, add_source, add_target
from mematlas.cli.selection import add_selection, nothing_matches, selection_of
from mematlas.views.maps import maps_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_selection(arguments)
    arguments.add_argument("--gaps", action="store_true", help="also show unmapped ranges")
    add_numa(arguments)
    add_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    selection = selection_of(args, session)

    def make() -> Table:
        result = session.process.maps(args.source, args.max_stall, selection, numa=args.numa)
        if not result.vmas:
            raise nothing_matches(selection, session)
        return maps_table(result, session.target_info(result.reading), args.gaps)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] TARGET [AREA] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas maps 1234", "every VMA"),
        ("mematlas maps postgres --kind heap,stack", "only these kinds"),
        ("mematlas maps 1234 libc --format csv", "of one library, for a spreadsheet"),
    ),
    words=(TARGET,),
)

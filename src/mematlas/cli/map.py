"""A line or more per VMA; a character is a cell of as many pages as make the whole fit a screen, or of --cell.
The commonest state in a cell, "absent" aside, gives its character and colour: denser for more of it. AREA picks as
in maps.
"""

from __future__ import annotations

from mematlas.cli.maps import add_selection, selection_of
from mematlas.cli.pages import span_of
from mematlas.cli.session import TARGETS, add_output, add_page_source, add_repeat, add_target, parse_count, width_of
from mematlas.views.picture import Previous, can_draw, map_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

USAGE = "[options] TARGET [AREA] | -- COMMAND ..."
TAKES_TARGET = True
__doc__ = f"{__doc__}\n{TARGETS}"


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_selection(arguments)
    arguments.add_argument("--width", type=parse_count, metavar="N", help="columns (the terminal's width, or 80)")
    arguments.add_argument("--cell", type=parse_count, metavar="N", help="pages in a cell")
    add_page_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    start, end, selection = span_of(selection_of(args, session), session, one_page=False)
    width = width_of(args, session)
    previous = Previous()

    def make() -> Table:
        notes: list[str] = []
        source = session.page_source(args, start, end, notes)
        strips = session.process.grid(start, end, selection, args.cell, notes, source)
        info = session.target_info(session.process.reading)
        ascii_only = not can_draw(session.out.encoding)
        return map_view(strips, session.process.page_size, width, info, ascii_only, previous, notes)

    session.show(make, args)
    return 0

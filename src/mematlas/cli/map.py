"""A line or more per VMA; a character is a cell of as many pages as make the whole fit a screen, or of --cell.
The commonest state in a cell, "absent" aside, gives its character and colour: denser for more of it. AREA picks as
in maps.
"""

from __future__ import annotations

from mematlas.analysis.grid import cut_at
from mematlas.cli.maps import add_selection, selection_of
from mematlas.cli.pages import span_of
from mematlas.cli.session import (
    TARGETS,
    add_output,
    add_page_source,
    add_repeat,
    add_reserved,
    add_target,
    add_width,
    parse_count,
    width_of,
)
from mematlas.views.live import screen_size
from mematlas.views.picture import Previous, can_draw, cell_that_fits, map_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

PROMPT = 1
"""The line below the picture, where the cursor stands."""
USAGE = "[options] TARGET [AREA] | -- COMMAND ..."
TAKES_TARGET = True
__doc__ = f"{__doc__}\n{TARGETS}"


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_selection(arguments)
    add_width(arguments)
    arguments.add_argument("--cell", type=parse_count, metavar="N", help="pages in a cell")
    add_reserved(arguments)
    add_page_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    start, end, selection = span_of(selection_of(args, session), session, one_page=False)
    previous = Previous()
    repeats = args.interval is not None or args.count is not None

    def make() -> Table:
        notes: list[str] = []
        process = session.process
        width = width_of(args, session)
        screen = screen_size(session.out) if args.format == "table" and not args.json else None
        rows = screen[1] - PROMPT if screen else None
        cell_pages = args.cell
        source = session.page_source(args, start, end, notes)
        folds = [] if args.reserved else process.untouched(start, end, selection, source)
        if cell_pages is None and rows is not None:
            vmas = [piece for piece in process.address_space().pieces(start, end) if selection.matches(piece[0])]
            if repeats or len(vmas) < rows:  # else it scrolls in any case
                cell_pages = cell_that_fits(cut_at(vmas, folds), process.page_size, width, rows)
        strips = process.grid(start, end, selection, cell_pages, notes, source, folds)
        ascii_only = not can_draw(session.out.encoding)
        return map_view(
            strips,
            process.page_size,
            width,
            session.target_info(process.reading),
            ascii_only,
            previous,
            notes,
            rows=rows if repeats else None,
        )

    session.show(make, args)
    return 0

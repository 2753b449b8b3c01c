"""A line or more per VMA; each character is a cell of as many pages as make the whole fit the screen, or of --cell. The
commonest state in a cell, apart from "absent", gives its character and colour: denser for more of it. AREA picks as in
maps.
"""

from __future__ import annotations

from mematlas.analysis.grid import cut_at
from mematlas.cli.command import TARGET, Command
from mematlas.cli.drawing import AREA_USAGE, Drawing, add_drawing
from mematlas.views.picture import Previous, cell_that_fits, map_view
from mematlas.views.terminal import screen_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

PROMPT = 1
"""The line below the picture, where the cursor stands."""


def add_arguments(arguments: Arguments) -> None:
    add_drawing(arguments, cells=True)


def run(args: Namespace, session: Session) -> int:
    drawing = Drawing(args, session)
    previous = Previous()
    repeats = args.interval is not None or args.count is not None

    def make() -> Table:
        drawing.begin()
        process, width, folds = session.process, drawing.width, drawing.folds
        start, end, selection = drawing.start, drawing.end, drawing.selection
        screen = screen_size(session.out) if args.format == "table" and not args.json else None
        rows = screen[1] - PROMPT if screen else None
        cell_pages = args.cell
        if cell_pages is None and rows is not None:
            vmas = [piece for piece in process.address_space().pieces(start, end) if selection.matches(piece[0])]
            if repeats or len(vmas) < rows:  # else it scrolls in any case
                cell_pages = cell_that_fits(cut_at(vmas, folds), process.page_size, width, rows)
        grid = process.grid(
            start,
            end,
            selection,
            cell_pages=cell_pages,
            source=args.source,
            max_stall=args.max_stall,
            folds=folds,
        )
        return map_view(
            grid,
            process.page_size,
            width,
            session.target_info(grid.reading),
            drawing.ascii_only,
            previous,
            rows=rows if repeats else None,
        )

    session.show(make, args)
    return 0


COMMAND = Command(
    AREA_USAGE,
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas map 1234", "the whole address space"),
        ("mematlas map postgres heap --cell 1", "the heap, a character per page"),
        ("mematlas map 1234 -i 1s", "live"),
    ),
    words=(TARGET,),
)

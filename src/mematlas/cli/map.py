"""One or more lines per VMA, sorted by kind. Each character is a cell of several pages, as many as make the whole fit
two screens (or --cell N). Its character and colour show the commonest state in the cell other than absent; a denser
character means more of it.

All parts of a library share a line, and so do small neighbours where there are many. AREA selects VMAs as in maps.
"""

from __future__ import annotations

from mematlas.cli.command import TARGET, Command
from mematlas.cli.drawing import AREA_USAGE, Drawing, add_drawing
from mematlas.cli.options import form_of, repeats
from mematlas.cli.output import PICTURES, add_file, file_form, new_file, told_of, write_picture, write_table
from mematlas.cli.selection import KIND_TEXTS
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput
from mematlas.views.picture import Previous, fit_of, map_view
from mematlas.views.terminal import screen_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.grid import Grid
    from mematlas.analysis.neighbours import Fit
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

PROMPT = 1
"""The line below the picture, where the cursor stands."""
SCREENS = 2
"""How many a picture may take that does not repeat."""
LINES = 24
"""Of a screen, where we do not write to one."""


def add_arguments(arguments: Arguments) -> None:
    add_drawing(arguments, cells=True)
    add_file(arguments)
    arguments.add_more("--unfolded", action="store_true", help="a line for every VMA, however many there are")


def run(args: Namespace, session: Session) -> int:
    drawing = Drawing(args, session)
    previous = Previous()
    is_live = repeats(args)
    form = file_form(args)
    if form and is_live:
        raise BadInput("-o makes one file: not with -i and -n")
    if form in PICTURES:
        draw(form, drawing, args, session)
        return 0

    def make() -> Table:
        drawing.begin()
        is_text = form is None and form_of(args) == "table"
        screen = screen_size(session.out) if is_text else None
        rows = screen[1] - PROMPT if screen else None
        fit = fit_in(drawing.width, rows, is_live, args.unfolded) if is_text else None
        grid = grid_of(drawing, args, session, fit)
        return map_view(
            grid,
            session.process.page_size,
            drawing.width,
            session.target_info(grid.reading),
            drawing.ascii_only,
            previous,
            rows=rows if is_live else None,
        )

    if form is None:
        session.show(make, args)
        return 0
    with new_file(args) as file:
        write_table(make(), form, file, session)
        told_of(file, session)
    return 0


def grid_of(drawing: Drawing, args: Namespace, session: Session, fit: Fit | None) -> Grid:
    """Return what is to be drawn as cells."""
    return session.process.grid(
        drawing.start,
        drawing.end,
        drawing.selection,
        cell_pages=args.cell,
        source=args.source,
        max_stall=args.max_stall,
        folds=drawing.folds,
        fit=fit,
    )


def draw(form: str, drawing: Drawing, args: Namespace, session: Session) -> None:
    """Write the map into a file, as a picture."""
    from mematlas.views.figures.pagemap import FIT, map_picture

    process = session.process
    with Interrupts(session.err), new_file(args) as file:
        drawing.begin()
        grid = grid_of(drawing, args, session, None if args.unfolded else FIT)
        target = session.target_info(grid.reading)
        canvas = map_picture(grid, process.page_size, target, session.machine(), ascii_only=form == "png")
        write_picture(canvas, form, file)
        session.write_notes(grid.reading.notes)
        told_of(file, session)


def fit_in(width: int, rows: int | None, is_live: bool, is_unfolded: bool) -> Fit | None:
    """Return what a picture is to fit on a screen of so many rows; None where it may be as long as it likes."""
    if is_unfolded and rows is None:
        return None
    lines = rows if rows and is_live else SCREENS * (rows or LINES)
    return fit_of(width, lines, is_joined=not is_unfolded)


COMMAND = Command(
    AREA_USAGE,
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas map 1234 heap --cell 1", "the heap, a character per page"),
        ("mematlas map 1234 -i 1s", "the whole address space, live"),
        ("mematlas map 1234 -o map.svg", "as a picture"),
    ),
    words=(TARGET, KIND_TEXTS),
)

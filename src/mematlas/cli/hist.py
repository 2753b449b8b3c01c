"""All VMAs end to end, without the gaps between them. The height of a column is the share of its pages that are
present. "s" is a column with more pages swapped than present, "?" one with more unknown; "~" stands for untouched
memory that is left out. The line ends with the number of pages present, of all. AREA selects VMAs as in maps.
"""

from __future__ import annotations

from mematlas.cli.command import TARGET, Command
from mematlas.cli.drawing import AREA_USAGE, Drawing, add_drawing
from mematlas.cli.selection import KIND_TEXTS
from mematlas.views.histogram import MAX_MARKS, histogram_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_drawing(arguments)


def run(args: Namespace, session: Session) -> int:
    drawing = Drawing(args, session)

    def make() -> Table:
        drawing.begin(exclusive=False)
        process, folds = session.process, drawing.folds
        columns = drawing.width - COUNT_WIDTH - min(len(folds), MAX_MARKS)
        density = process.density(
            columns,
            drawing.start,
            drawing.end,
            drawing.selection,
            source=args.source,
            max_stall=args.max_stall,
            folds=folds,
            exclusive=False,
        )
        info = session.target_info(density.reading)
        return histogram_view(density, folds, process.page_size, info, drawing.ascii_only)

    session.show(make, args)
    return 0


COUNT_WIDTH = 24
"""What is left of the line for the bars' ends and the count."""


COMMAND = Command(
    AREA_USAGE,
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas hist 1234", "the whole address space"),
        ("mematlas hist 1234 heap -i 1s", "the heap, live"),
    ),
    words=(TARGET, KIND_TEXTS),
)

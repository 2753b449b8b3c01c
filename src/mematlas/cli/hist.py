"""All VMAs end to end, without the gaps between them; the height of a column is the share of its pages that are
present. A column with more swapped than present pages shows "s", with more unknown ones "?". Then the present pages
of all pages. AREA picks as in maps.
"""

from __future__ import annotations

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
    width_of,
)
from mematlas.views.picture import can_draw, histogram_view

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
    add_width(arguments)
    add_reserved(arguments)
    add_page_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    start, end, selection = span_of(selection_of(args, session), session, one_page=False)

    def make() -> Table:
        notes: list[str] = []
        width = width_of(args, session)
        source = session.page_source(args, start, end, notes)
        process = session.process
        folds = [] if args.reserved else process.untouched(start, end, selection, source)
        cells, stretches = process.density(width - COUNT_WIDTH, start, end, selection, notes, source, folds)
        info = session.target_info(process.reading)
        ascii_only = not can_draw(session.out.encoding)
        return histogram_view(cells, stretches, folds, process.page_size, info, ascii_only, notes)

    session.show(make, args)
    return 0


COUNT_WIDTH = 24
"""What is left of the line for the bars' ends and the count."""

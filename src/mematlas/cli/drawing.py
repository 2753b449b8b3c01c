"""What the commands that draw an address space share: their arguments, and what they find out before they draw."""

from __future__ import annotations

from mematlas.cli.background import note_background
from mematlas.cli.options import (
    add_output,
    add_page_source,
    add_repeat,
    add_reserved,
    add_target,
    add_width,
    parse_count,
    width_of,
)
from mematlas.cli.selection import add_selection, selection_of, span_of
from mematlas.views.picture import can_draw
from mematlas.views.terminal import wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

AREA_USAGE = "[options] TARGET [AREA] | -- COMMAND ..."


def add_drawing(arguments: Arguments, cells: bool = False) -> None:
    """Declare the arguments, with ``cells`` the size of a cell among them."""
    add_target(arguments)
    add_selection(arguments)
    add_width(arguments)
    if cells:
        arguments.add_argument("--cell", type=parse_count, metavar="N", help="pages in a cell")
    add_reserved(arguments)
    add_page_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


class Drawing:
    """What is to be drawn, and on what."""

    def __init__(self, args: Namespace, session: Session) -> None:
        self._args = args
        self._session = session
        chosen = selection_of(args, session)
        self.start, self.end, self.selection = span_of(chosen, session, one_page=False)
        self.ascii_only = not can_draw(session.out.encoding)
        if wants_colour(args.color, session.out):
            note_background(session.out)

    def begin(self, exclusive: bool = True) -> None:
        """Find out how wide the screen is now, and what is to be folded.

        ``exclusive`` says whether the drawing will tell which pages are mapped once.
        """
        self.width = width_of(self._args, self._session.out)
        self.folds: list[tuple[int, int]] = []
        if not self._args.reserved:
            self.folds = self._session.process.untouched(
                self.start,
                self.end,
                self.selection,
                source=self._args.source,
                max_stall=self._args.max_stall,
                exclusive=exclusive,
            )

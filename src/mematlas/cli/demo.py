"""It starts a program of its own, shows its memory untouched, touched, drawn, translated and counted, and ends it.
Needs no rights; what the kernel hides without root it names.
"""

from __future__ import annotations

from mematlas.cli.session import parse_count, parse_seconds, width_of
from mematlas.labs.demo import Tour
from mematlas.views.colour import wants_colour
from mematlas.views.picture import can_draw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

USAGE = "[options]"
READING_TIME = 3.0


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("--pause", type=parse_seconds, metavar="TIME", help="between the parts (3s; 0 into a pipe)")
    arguments.add_argument("--width", type=parse_count, metavar="N", help="columns (the terminal's width, or 80)")
    arguments.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto (default), always or never"
    )


def run(args: Namespace, session: Session) -> int:
    pause = args.pause
    if pause is None:
        pause = READING_TIME if session.out.isatty() else 0.0
    width = min(width_of(args, session), 120)
    Tour(session.out, width, wants_colour(args.color, session.out), not can_draw(session.out.encoding), pause).run()
    return 0

"""tour      what a page goes through: untouched, touched, drawn, counted
paging    a drawing in memory, paged out, watched, drawn again, with the cost

Each starts a program of its own, shows real figures, and ends it. What the kernel does not let us see or do is named.
paging moves pages with CAP_SYS_NICE; without it, it shows the plan and the line to type. Without swap, root gets
a swap file for the duration of the demo, which is announced first.
"""

from __future__ import annotations

import sys

from mematlas.cli.command import Command
from mematlas.cli.options import add_color, add_width, parse_seconds, width_of
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput, did_you_mean
from mematlas.views.picture import can_draw
from mematlas.views.terminal import wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.labs.story import Story

NAMES = {"tour": "what a page goes through", "paging": "out of RAM and back"}
READING_TIME = 3.0
MAX_WIDTH = 120
RIGHTS = {"CAP_SYS_NICE", "CAP_SYS_ADMIN"}
"""What paging out needs, and making swap space."""


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="NAME", help="tour (default) or paging")
    arguments.add_argument(
        "--tmux",
        action="store_true",
        help="paging: four panes instead, with the program, its pages live in two views, and the command to run",
    )
    arguments.add_argument("--pause", type=parse_seconds, metavar="TIME", help="between the parts (3s; 0 into a pipe)")
    add_width(arguments)
    add_color(arguments)


def run(args: Namespace, session: Session) -> int:
    name, *rest = args.words or ["tour"]
    if rest:
        raise BadInput(f"unexpected argument {rest[-1]!r}")
    if name not in NAMES:
        raise BadInput(f"no demo {name!r}{did_you_mean(name, NAMES)}: choose from {', '.join(NAMES)}")
    if args.tmux:
        if name != "paging":
            raise BadInput("--tmux needs paging: mematlas demo paging --tmux")
        return run_panes(session)
    with Interrupts(session.err) as ending:
        story_of(name)(*look_of(args, session)).run()
    return ending.exit_code


def run_panes(session: Session) -> int:
    """Show the demonstration in four panes of tmux."""
    from mematlas.labs.panes import Panes, check

    check(session.out.isatty() and sys.stdin.isatty())
    with Interrupts(session.err, between_steps=True) as stop:
        Panes(typed_line, stop).run()
    return stop.exit_code


def typed_line(words: list[str]) -> str:
    """Return the command line for words that need all rights."""
    from mematlas.doctor.hints import plain_line, sudo_line
    from mematlas.kernel.rights import effective_capabilities

    return plain_line(words) if effective_capabilities() >= RIGHTS else sudo_line(words)


def story_of(name: str) -> type[Story]:
    """Return the story of a name."""
    if name == "paging":
        from mematlas.labs.paging_story import Paging

        return Paging
    from mematlas.labs.demo import Tour

    return Tour


def look_of(args: Namespace, session: Session) -> tuple[TextIO, int, bool, bool, float]:
    """Return how a story is told: output, width, colours, ASCII alone, seconds between its parts."""
    pause = args.pause
    if pause is None:
        pause = READING_TIME if session.out.isatty() else 0.0
    width = min(width_of(args, session.out), MAX_WIDTH)
    return session.out, width, wants_colour(args.color, session.out), not can_draw(session.out.encoding), pause


COMMAND = Command(
    "[options] [tour | paging [--tmux]]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas demo", "the tour"),
        ("mematlas demo paging", "out of RAM and back"),
    ),
    words=(NAMES,),
)

"""DIR must be new, or empty and yours. Every command reads it: mematlas maps DIR, mematlas usage DIR --verify. It holds
what the kernel says about the process and its pages, never what is in the pages, and only you can read it (0600).
"""

from __future__ import annotations

from mematlas.cli.command import DIRECTORY, TARGET, Command
from mematlas.cli.options import add_output, add_target
from mematlas.cli.signals import Interrupts
from mematlas.errors import BadInput
from mematlas.notes import Notes
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session


COLUMNS = (
    Column("pid", "PID", "count"),
    Column("name", "NAME"),
    Column("nr_pages", "PAGES", "count"),
    Column("nr_frames", "FRAMES", "count"),
    Column("size", "SIZE", "size"),
    Column("redacted", "REDACTED", "flag"),
    Column("path", "PATH", "path"),
)


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument("--redact", action="store_true", help="leave out paths, command line, users, host name")
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    if not session.words:
        raise BadInput("which directory? Give a new or an empty one")
    directory = session.words.pop(0)
    session.no_more_words()

    def make() -> Table:
        from mematlas.observe.captures import capture

        saved = capture(session.process, directory, args.redact)
        notes = Notes(saved.reading.notes)
        return Table("capture/1", COLUMNS, [saved], target=session.target_info(saved.reading), notes=notes)

    with Interrupts(session.err) as ending:
        session.show(make, args)
    return ending.exit_code


COMMAND = Command(
    "[options] TARGET DIR | DIR -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas capture 1234 saved", "a new directory"),
        ("mematlas maps ./saved", "any command reads it"),
        ("mematlas capture 1234 public --redact", "to hand to others"),
    ),
    words=(TARGET, DIRECTORY),
)

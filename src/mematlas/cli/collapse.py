"""Only whole aligned huge pages (2 MiB) can be made; pages around which none fits stay small. Needs Linux 6.1."""

from __future__ import annotations

from mematlas.cli import advise
from mematlas.cli.advise import ABOUT, USAGE
from mematlas.cli.command import TARGET, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session


def add_arguments(arguments: Arguments) -> None:
    advise.add_common(arguments)


def run(args: Namespace, session: Session) -> int:
    return advise.run("collapse", args, session)


COMMAND = Command(
    USAGE,
    f"{__doc__}\n{ABOUT}",
    add_arguments,
    run,
    examples=(
        ("mematlas collapse 1234 --dry-run", "what could be put together"),
        ("mematlas collapse 1234 0x7f2860000000+16M", "only this range"),
    ),
    words=(TARGET,),
)

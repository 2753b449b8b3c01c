"""Nothing leaves RAM: the pages count as not referenced, and are the first to go when memory is short. The effect is
what smaps says is referenced, before and after.
"""

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
    advise.add_coldest(arguments)


def run(args: Namespace, session: Session) -> int:
    return advise.run("cold", args, session)


COMMAND = Command(
    USAGE,
    f"{__doc__}\n{ABOUT}",
    add_arguments,
    run,
    examples=(
        ("mematlas cold 1234 --dry-run", "what would be marked"),
        ("mematlas cold postgres --file", "only its file pages"),
    ),
    words=(TARGET,),
)

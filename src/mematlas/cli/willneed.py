"""What is in swap is read in and mapped, by reading a byte of each page (needs PTRACE_MODE_ATTACH); what is in files
is read into the page cache.
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
    advise.add_passes(arguments)
    arguments.add_argument(
        "--no-touch", action="store_true", help="advice alone: pages in swap get no further than the swap cache"
    )


def run(args: Namespace, session: Session) -> int:
    return advise.run("willneed", args, session)


COMMAND = Command(
    USAGE,
    f"{__doc__}\n{ABOUT}",
    add_arguments,
    run,
    examples=(
        ("mematlas willneed 1234 --dry-run", "what could come back"),
        ("mematlas willneed 1234 heap", "the heap, read from swap"),
    ),
    words=(TARGET,),
)

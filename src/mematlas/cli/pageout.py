"""Private and shared memory goes to swap, pages of files back to their files. Pages that are mapped more than once,
by whomever, stay: the kernel leaves them alone, even when every process that has them is paged out.
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
    advise.add_passes(arguments)
    advise.add_pageout(arguments)


def run(args: Namespace, session: Session) -> int:
    return advise.run("pageout", args, session)


COMMAND = Command(
    USAGE,
    f"{__doc__}\n{ABOUT}",
    add_arguments,
    run,
    examples=(
        ("mematlas pageout 1234 --dry-run", "what could move, and why the rest stays"),
        ("mematlas pageout 1234 heap --coldest 64M", "the coldest 64 MiB of the heap"),
        ("mematlas pageout 1234 --watch-refaults 10s --undo", "which pages come back; then all of them"),
    ),
    words=(TARGET,),
)

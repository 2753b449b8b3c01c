"""Each interface is tried, not guessed from a version: on memory and on a child of our own, so nothing is changed.

works    it does, here and for you
needs    a right or a setting: the capability, or the line to type, is given
missing  this kernel is older or built without it: the version or option named
unknown  it cannot be tried as things are: the line that changes that is given
"""

from __future__ import annotations

import os

from mematlas.cli.command import Command
from mematlas.cli.options import add_output
from mematlas.doctor.features import find_features
from mematlas.doctor.hints import own_command
from mematlas.kernel.rights import effective_capabilities
from mematlas.views.doctor import doctor_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    def make() -> Table:
        ids = os.geteuid(), os.getegid()
        return doctor_view(find_features(), effective_capabilities(), own_command(), ids)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas doctor", "what works, what does not, what to type"),
        ("mematlas doctor --json", "the same, for a program"),
    ),
)

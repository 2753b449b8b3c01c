"""Each interface is tried, not guessed from a version: on memory and on a child of our own, so nothing is changed.

works    it does, here and for you
needs    a right, or a setting: the line to type is given
lacks    this kernel was built without it, or is older: the option or the version is given
"""

from __future__ import annotations

import os

from mematlas.cli.hints import sudo_line
from mematlas.cli.session import add_output
from mematlas.kernel.features import find_features
from mematlas.kernel.rights import effective_capabilities, named_in
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.features import Feature

USAGE = "[options]"

COLUMNS = (
    Column("interface", "INTERFACE"),
    Column("status", "STATUS"),
    Column("gives", "GIVES"),
    Column("detail", "DETAIL"),
)

IN_CONTAINER = (
    "root without rights: this is a container or a user namespace; give it --cap-add "
    "SYS_PTRACE,SYS_ADMIN,DAC_READ_SEARCH,SYS_NICE,BPF,PERFMON,CHECKPOINT_RESTORE and the host's PID namespace"
)
REFUSED = "refused, though we hold that right: a security module, a user namespace or a seccomp filter"


def add_arguments(arguments: Arguments) -> None:
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    def make() -> Table:
        held = effective_capabilities()
        notes: list[str] = []
        rows = [
            (feature.interface, feature.status, feature.gives, next_step(feature, held, notes))
            for feature in find_features()
        ]
        return Table("doctor/1", COLUMNS, rows, notes=notes)

    session.show(make, args)
    return 0


def next_step(feature: Feature, held: frozenset[str], notes: list[str]) -> str | None:
    """Return the detail of an interface; for a missing right, with the line that gives it."""
    detail = feature.detail
    if feature.status != "needs" or not detail or "CAP_" not in detail:
        return detail
    if (rights := named_in(detail)) and rights <= held:
        return f"{detail}: {REFUSED}"
    if os.geteuid() == 0:
        notes.append(IN_CONTAINER)
        return detail
    return f"{detail}: {sudo_line(['doctor'])}"

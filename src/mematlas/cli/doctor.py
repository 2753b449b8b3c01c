"""Each interface is tried, not guessed from a version: on memory and on a child of our own, so nothing is changed.

works    it does, here and for you
needs    a right, or a setting: the line to type is given
lacks    this kernel is older, or built without it: the option is given
unknown  it cannot be tried as things are: the line that changes that is given
"""

from __future__ import annotations

import os

from mematlas.cli.command import Command
from mematlas.cli.options import add_output
from mematlas.doctor.features import find_features
from mematlas.doctor.hints import own_command
from mematlas.kernel.rights import effective_capabilities, named_in
from mematlas.notes import Note
from mematlas.views.table import Column, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.doctor.features import Feature


COLUMNS = (
    Column("interface", "INTERFACE"),
    Column("status", "STATUS"),
    Column("gives", "GIVES"),
    Column("detail", "DETAIL"),
)

REFUSED = "no right, we hold it: a security module, a namespace or a seccomp filter refuses"


def add_arguments(arguments: Arguments) -> None:
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    def make() -> Table:
        held = effective_capabilities()
        missing: set[str] = set()
        rows = [
            (feature.interface, feature.status, feature.gives, detail_of(feature, held, missing))
            for feature in find_features()
        ]
        return Table("doctor/1", COLUMNS, rows, notes=ways_to_rights(sorted(missing)))

    session.show(make, args)
    return 0


def detail_of(feature: Feature, held: frozenset[str], missing: set[str]) -> str | None:
    """Return the detail of an interface; add the rights it needs and we lack to ``missing``."""
    if feature.status != "needs" or not feature.detail:
        return feature.detail
    rights = named_in(feature.detail)
    if rights and rights <= held:
        return REFUSED
    missing |= rights - held
    return feature.detail


def ways_to_rights(missing: list[str]) -> list[Note]:
    """Return how to get these capabilities, as notes: all rights at once, or these alone."""
    if not missing:
        return []
    options = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in missing)
    container = f"docker or podman run {options} --pid host"
    if os.geteuid() == 0:
        text = f"root without rights, as in a container or a user namespace; to give them: {container}"
        return [Note("rights-for-container", text)]
    single = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in missing)
    command = f"{own_command()} COMMAND"
    return [
        Note("all-rights", f"all rights, for any command: sudo -- {command}"),
        Note(
            "these-rights",
            f"these rights alone: sudo setpriv --reuid={os.geteuid()} --regid={os.getegid()} --init-groups "
            f"--inh-caps={single} --ambient-caps={single} -- {command}",
        ),
        Note(
            "rights-for-service",
            f"in a service: AmbientCapabilities={' '.join(missing)}; in a container: {container}",
        ),
    ]


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

"""mematlas alone: one screen with this machine, its largest processes, what we may do, and what to try."""

from __future__ import annotations

import os

from mematlas.analysis.overview import largest
from mematlas.cli.hints import own_command, sudo_line
from mematlas.errors import Error, PermissionDenied
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.rights import CAPABILITIES, effective_capabilities
from mematlas.kernel.status import status_bytes
from mematlas.model.target import ourselves, statuses
from mematlas.process import Process
from mematlas.views.overview import overview_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.analysis.usage import Usage
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table

USAGE = "[options]"
TOP = 5
LOOK_RIGHTS = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")


def add_arguments(arguments: Arguments) -> None:
    from mematlas.cli.session import add_output

    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    def make() -> Table:
        found = list(candidates(session))
        ranked = largest(found, lambda pid: measure(session, pid), TOP)
        nr_refused = sum(not may_look(session, pid) for _, pid in found)
        held = effective_capabilities()
        missing = [name for name in CAPABILITIES if name in LOOK_RIGHTS and name not in held]
        return overview_view(
            session.machine(),
            read_meminfo(session.procfs),
            ranked,
            nr_refused,
            os.geteuid(),
            missing,
            own_command().rsplit("/", 1)[-1],
            sudo_line(()),
        )

    session.show(make, args)
    return 0


def candidates(session: Session) -> Iterator[tuple[int, int]]:
    """Yield resident bytes and PID of every process that has memory."""
    own = ourselves(session.procfs)
    for process, status in statuses(session.procfs):
        rss = status_bytes(status, "VmRSS")
        if rss and process.pid not in own:
            yield rss, process.pid


def may_look(session: Session, pid: int) -> bool:
    """Whether the kernel lets us see the VMAs of a process."""
    try:
        with session.procfs.process(pid) as process:
            os.close(process.open_fd("maps"))
    except PermissionDenied:
        return False
    except Error:
        return True  # it has ended meanwhile
    return True


def measure(session: Session, pid: int) -> tuple[str, Usage]:
    """Return the name of a process, as it is, and its usage."""
    with Process(pid, session.procfs) as process:
        return process.stat.name, process.usage().usage

"""Whom nothing is done to unless that is forced: those whose loss of memory would hurt whoever asks for it."""

from __future__ import annotations

from mematlas.errors import TargetRefused
from mematlas.model.processes import ancestors, ourselves

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.observe.process import Process


def check_target(process: Process) -> None:
    """Refuse init, ourselves, and our ancestors: a shell, a terminal, sshd.

    Raises:
        TargetRefused: it is one of these.
    """
    if not process.procfs.live:
        return
    # By the numbers of this /proc: getpid() is that of our own PID namespace.
    own = ourselves(process.procfs)
    who = ""
    if process.pid in own:
        who = "ourselves"
    elif process.pid == 1:
        who = "the init process"
    elif any(process.pid in ancestors(pid, process.procfs) for pid in own):
        who = "one of our own ancestors"
    if who:
        raise TargetRefused(process.pid, process.stat.name, who)

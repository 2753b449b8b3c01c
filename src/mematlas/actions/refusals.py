"""What is not begun: on those whose loss of memory would hurt whoever asks for it, unless that is forced, and where it
could not be ended.
"""

from __future__ import annotations

from mematlas.errors import TargetRefused
from mematlas.kernel.madvise import MADV_WILLNEED, check_taken
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


def check_way_back() -> None:
    """Refuse to page out what is to come back afterwards where the kernel takes no such advice.

    Raises:
        NotSupported: a kernel before 5.15.
    """
    check_taken(MADV_WILLNEED)

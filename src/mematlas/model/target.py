"""A process that was found, and the shortest way to one: by its PID."""

from __future__ import annotations

import os

from mematlas.errors import BadInput, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.procfs import PID_DIGITS, ProcessDir, ProcFS
from mematlas.kernel.status import read_status


@record
class Target:
    """A process that was found, and is held: whoever gets its number later is not it."""

    dir: ProcessDir

    @property
    def pid(self) -> int:
        """Its PID, as its /proc counts."""
        return self.dir.pid

    @property
    def procfs(self) -> ProcFS:
        """Where to read it."""
        return self.dir.procfs

    def close(self) -> None:
        """Let go of it."""
        self.dir.close()


def by_number(text: str, procfs: ProcFS) -> Target | None:
    """Return the process that a PID, or ``self``, names; None for another text, and where there is no such process.

    Raises:
        TargetNotFound: the number is that of a thread; or ``self`` is not in this /proc.
    """
    if text == "self":
        return Target(procfs.process(own_pid(procfs)))
    if (pid := parse_pid(text)) is None:
        return None
    try:
        process = procfs.process(pid)
    except TargetNotFound:
        return None
    try:
        # /proc/TID opens as /proc/PID does, though no listing has it.
        leader = read_status(process).get("Tgid", str(pid))
        if leader != str(pid):
            raise TargetNotFound(f"{pid} is a thread of {leader}: give that PID")
    except BaseException:
        process.close()
        raise
    return Target(process)


def parse_pid(text: str) -> int | None:
    """Return the PID that a text is; None when it is no number.

    >>> parse_pid("4211"), parse_pid("cat")
    (4211, None)
    """
    # isdigit() alone takes the digits of other scripts, some of which int() does not.
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > PID_DIGITS:
        raise BadInput(f"bad PID {text[:PID_DIGITS]}...: at most {PID_DIGITS} digits")
    return int(text)


def own_pid(procfs: ProcFS) -> int:
    """Return our PID as this /proc counts: getpid() tells that of our own PID namespace.

    Raises:
        TargetNotFound: this /proc is of a PID namespace that we are not in.
    """
    try:
        return int(os.readlink(f"{procfs.root}/self"))
    except (OSError, ValueError):
        raise TargetNotFound(
            f"{procfs.root} does not show this process: it is of another PID namespace, or not mounted"
        ) from None

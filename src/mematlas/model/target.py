"""A process that was found, and the shortest way to one: by its PID."""

from __future__ import annotations

import os

from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.frozen import record
from mematlas.kernel.procfs import MACHINE, PID_DIGITS, ProcessDir, ProcFS
from mematlas.kernel.status import read_stat, read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.status import Stat
    from mematlas.notes import Note

PID = "pid:"
"""What a number may begin with to be that of a process, whatever else is called so."""
GROUPS = {
    "name:": "NAME",
    "user:": "NAME or UID",
    "tree:": "PID or NAME",
    "cgroup:": "PATH",
    "container:": "ID or its start",
    "pod:": "UID or its start",
    "unit:": "NAME",
}
"""What a text begins with that names a group of processes, and what follows; `mematlas.model.groups` finds them."""


@record
class Target:
    """A process that was found, and is held: whoever gets its number later is not it."""

    dir: ProcessDir
    notes: tuple[Note, ...] = ()
    """On processes that could not be looked at when it was searched for."""

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


def is_group(text: str) -> bool:
    """Whether a text names a group of processes, of which there may be any number.

    >>> is_group("name:postgres"), is_group("postgres"), is_group("cmdline:name:x")
    (True, False, False)
    """
    return text[: text.find(":") + 1] in GROUPS


def by_number(text: str, procfs: ProcFS) -> Target | None:
    """Return the process that a PID, or ``self``, names; None for another text, and where there is no such process.

    Raises:
        TargetNotFound: the number is that of a thread; or ``self`` is not in this /proc.
        TargetAmbiguous: a capture here has that name as well; ``pid:NUMBER`` is the process.
    """
    if text == "self":
        return Target(procfs.process(own_pid(procfs)))
    if (pid := parse_pid(text.removeprefix(PID))) is None:
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
        if not text.startswith(PID) and is_capture(text):
            both = f"{text!r} is both a PID and a capture here: use {PID}{pid} or ./{text}"
            raise TargetAmbiguous(text, (), text=both)
    except BaseException:
        process.close()
        raise
    return Target(process)


def open_process(pid: int, procfs: ProcFS, fd: int = -1) -> tuple[ProcessDir, Stat]:
    """Return a process, held open, and who it is; all of it where only its first thread has ended.

    ``fd`` is a descriptor of its directory, where that is held already: nobody who has its number by now is it.

    Raises:
        NoAddressSpace: it is a zombie.
    """
    process = ProcessDir(procfs, pid, fd)
    try:
        stat = read_stat(process)
        if stat.is_zombie:
            from mematlas.kernel.group import seen_whole

            process = seen_whole(process)
            stat = read_stat(process)
        return process, stat
    except BaseException:
        process.close()
        raise


def is_ours(path: str) -> bool:
    """Whether a directory belongs to us, or to who became root to start us.

    In a directory where others can write, one of theirs must not pass for the process that its name is of.
    """
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return False
    from mematlas.kernel.rights import invoking_user

    user = invoking_user()
    return owner in (os.geteuid(), user[0] if user else None)


def is_capture(text: str) -> bool:
    """Whether a name here is that of a capture of ours, or of one process in it."""
    if not os.path.isdir(text):
        return False
    has_machine = any(os.path.exists(os.path.join(directory, MACHINE)) for directory in (text, "."))
    return has_machine and is_ours(text)


def parse_pid(text: str) -> int | None:
    """Return the PID that a text is; None when it is no number.

    >>> parse_pid("4211"), parse_pid("cat")
    (4211, None)
    """
    # isdigit() alone takes the digits of other scripts, some of which int() does not.
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        return None
    if text[0] == "-":
        raise BadInput(f"{text[: PID_DIGITS + 1]!r} is not a PID or a name")
    if len(text) > PID_DIGITS:
        raise BadInput(f"bad PID {text[:PID_DIGITS]}...: at most {PID_DIGITS} digits")
    return int(text)


def own_pid(procfs: ProcFS) -> int:
    """Return our PID as this /proc counts: getpid() returns that of our own PID namespace.

    Raises:
        TargetNotFound: this /proc is of a PID namespace that we are not in.
    """
    try:
        return int(os.readlink(f"{procfs.root}/self"))
    except (OSError, ValueError):
        raise TargetNotFound(
            f"{procfs.root} does not show this process: it is of another PID namespace, or not mounted"
        ) from None

"""Which process is meant: a PID, ``self``, a name, ``~regex``, ``cgroup:PATH``, or a capture's directory."""

from __future__ import annotations

import os

from mematlas.errors import BadInput, Error, ProcessGone, TargetAmbiguous, TargetNotFound
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import Stat, read_stat, read_status
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMM_LENGTH = 15  # include/linux/sched.h, TASK_COMM_LEN less the ending zero


@record
class Target:
    """A process and where to read it."""

    procfs: ProcFS
    pid: int


def resolve(text: str, procfs: ProcFS) -> Target:
    """Return the one process that a text names.

    Raises:
        TargetNotFound: none does.
        TargetAmbiguous: several do; they are listed, none is picked.
    """
    targets = resolve_all(text, procfs)
    if len(targets) > 1:
        raise TargetAmbiguous(text, [describe(target) for target in targets])
    return targets[0]


def resolve_all(text: str, procfs: ProcFS) -> list[Target]:
    """Return every process that a text names, at least one."""
    pid = parse_pid(text)
    if pid is not None:
        return [resolve_pid(pid, procfs)]
    if text == "self":
        return [Target(procfs, own_pid(procfs))]
    if text.startswith("~"):
        return [Target(procfs, pid) for pid in matching_command_line(text, procfs)]
    if text.startswith("cgroup:"):
        return [Target(procfs, pid) for pid in in_cgroup(text, procfs)]
    # A directory that just happens to be called as the process is no capture.
    if os.path.isdir(text) and ("/" in text or os.path.exists(os.path.join(text, "machine.json"))):
        return in_capture(text)
    if not text or "/" in text:
        raise TargetNotFound(f"no process or capture {text!r}")
    return [Target(procfs, pid) for pid in with_name(text, procfs)]


PID_DIGITS = 10


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


def ourselves(procfs: ProcFS) -> set[int]:
    """Return our PID, alone in a set; nothing where this /proc does not show us."""
    try:
        return {own_pid(procfs)}
    except TargetNotFound:
        return set()


def resolve_pid(pid: int, procfs: ProcFS) -> Target:
    """Return the process with a PID; when there is none, say which process has that PID in another namespace."""
    try:
        with procfs.process(pid) as process:
            # /proc/TID opens as /proc/PID does, though no listing has it.
            leader = read_status(process).get("Tgid", str(pid))
    except TargetNotFound as error:
        inner = [other for other, status in statuses(procfs) if status.get("NSpid", "").split()[1:][-1:] == [str(pid)]]
        if not inner:
            raise
        names = "; ".join(describe(Target(procfs, other)) for other in inner)
        raise TargetNotFound(f"{error}; in another PID namespace it is {names}") from None
    if leader != str(pid):
        raise TargetNotFound(f"{pid} is a thread of {leader}: give that PID")
    return Target(procfs, pid)


def with_name(name: str, procfs: ProcFS) -> list[int]:
    """Return the processes whose command name is this, ourselves left out."""

    def matches(pid: int) -> bool:
        stat = stat_of(pid, procfs)
        if stat.is_kernel_thread or stat.is_zombie:
            return False
        # The kernel keeps 15 bytes of a name; the command line has the rest.
        return stat.name == name or (
            len(name) > COMM_LENGTH
            and stat.name == name[:COMM_LENGTH]
            and os.path.basename(command_line(pid, procfs).split("\0", 1)[0]) == name
        )

    return filtered(f"no process is called {name!r}", matches, procfs, ourselves(procfs))


def matching_command_line(text: str, procfs: ProcFS) -> list[int]:
    """Return the processes whose command line matches; ourselves and whoever started us left out.

    The command lines of ``sudo`` or a shell that runs us hold the expression itself.
    """
    import re

    try:
        pattern = re.compile(text[1:])
    except re.error as error:
        raise BadInput(f"bad regular expression {text[1:]!r}: {error}") from None
    return filtered(
        f"no command line matches {text[1:]!r}",
        lambda pid: bool(pattern.search(command_line(pid, procfs).rstrip("\0").replace("\0", " "))),
        procfs,
        {pid for own in ourselves(procfs) for pid in ancestors(own, procfs)},
    )


def in_cgroup(text: str, procfs: ProcFS) -> list[int]:
    """Return the processes in a cgroup and the groups below it, in any hierarchy."""
    wanted = "/" + text.removeprefix("cgroup:").strip("/")

    def matches(pid: int) -> bool:
        with procfs.process(pid) as process:
            lines = process.read("cgroup").decode("utf-8", "surrogateescape").split("\n")
        paths = [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]
        inside = wanted.rstrip("/") + "/"
        return (
            any(path == wanted or path.startswith(inside) for path in paths)
            and not stat_of(pid, procfs).is_kernel_thread
        )

    return filtered(f"no process in cgroup {wanted}", matches, procfs, ourselves(procfs))


def in_capture(path: str) -> list[Target]:
    """Return the processes of a capture: its directory, or that of one process in it."""
    parent, name = os.path.split(os.path.abspath(path))
    if name.isascii() and name.isdigit() and os.path.exists(os.path.join(parent, "machine.json")):
        return [Target(ProcFS(parent), int(name))]
    procfs = ProcFS(path)
    pids = procfs.pids()
    if procfs.live or not pids:
        raise TargetNotFound(f"{path}: not a capture (it has no machine.json, or no process)")
    return [Target(procfs, pid) for pid in pids]


def filtered(nothing: str, matches: Callable[[int], bool], procfs: ProcFS, without: set[int]) -> list[int]:
    """Return the PIDs that match; those that vanish meanwhile or may not be read do not."""
    found = []
    for pid in procfs.pids():
        if pid in without:
            continue
        try:
            if matches(pid):
                found.append(pid)
        except Error:
            continue
    if not found:
        raise TargetNotFound(nothing)
    return found


def stat_of(pid: int, procfs: ProcFS) -> Stat:
    """Return who a process is."""
    with procfs.process(pid) as process:
        return read_stat(process)


def command_line(pid: int, procfs: ProcFS) -> str:
    """Return the command line of a process, its words ended by zeros."""
    with procfs.process(pid) as process:
        return process.read("cmdline").decode("utf-8", "surrogateescape")


def ancestors(pid: int, procfs: ProcFS) -> Iterator[int]:
    """Yield a process, its parent, and so on up."""
    while pid > 0:
        yield pid
        try:
            pid = stat_of(pid, procfs).parent
        except (TargetNotFound, ProcessGone):
            return


def statuses(procfs: ProcFS) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each process with its status lines; those that vanish are left out."""
    for pid in procfs.pids():
        try:
            with procfs.process(pid) as process:
                yield pid, read_status(process)
        except Error:
            continue


def describe(target: Target) -> str:
    """Return a line that tells a process from others: its PID and the start of its command line."""
    try:
        line = command_line(target.pid, target.procfs).replace("\0", " ").replace("\n", " ").strip()
        name = line or f"[{stat_of(target.pid, target.procfs).name}]"
    except Error:
        name = "(ended)"
    return f"{target.pid:>7}  {name[:100]}"

"""Which process is meant: a PID, ``self``, a name, ``~regex``, ``cgroup:PATH``, or a capture's directory."""

from __future__ import annotations

import os
import time

from mematlas.errors import (
    BadInput,
    FormatError,
    NoAddressSpace,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetAmbiguous,
    TargetNotFound,
)
from mematlas.kernel.cmdline import read_command
from mematlas.kernel.group import first_fd, seen_whole
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.rights import invoking_user
from mematlas.kernel.status import read_stat, read_status
from mematlas.model.target import Target, by_number, own_pid, parse_pid
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.kernel.abandon import Ask, Inquiry
    from mematlas.kernel.status import Stat

    Matches = Callable[[ProcessDir, Stat], bool]

COMM_LENGTH = 15  # include/linux/sched.h, TASK_COMM_LEN less the ending zero
SEARCH_SECONDS = 1.5
"""After which a search ends, wherever it is."""
DESCRIBED = 1 << 10
"""Bytes of a command line of which the start is shown."""
NAMED = 5
"""Processes that a note names."""
LISTED = 20
"""Processes that are listed where several answer to a name."""
SKIPPED = (TargetNotFound, ProcessGone, NoAddressSpace, PermissionDenied, NotSupported, FormatError)
"""What a search over all processes passes over: it has ended, or is not ours to look at. All else is our trouble."""


def resolve(text: str, procfs: ProcFS, notes: Notes | None = None) -> Target:
    """Return the one process that a text names. What could not be looked at goes to the notes.

    Raises:
        TargetNotFound: none does.
        TargetAmbiguous: several do; they are listed, none is picked.
    """
    found: list[Target] = []
    nr_more = 0
    for target in search(text, procfs, Notes() if notes is None else notes):
        # They may be more than we can hold open.
        if len(found) < LISTED:
            found.append(target)
        else:
            nr_more += 1
            target.close()
    if len(found) + nr_more > 1:
        found.sort(key=lambda target: target.pid)
        listed = describe_all([target.dir for target in found])
        for target in found:
            target.close()
        raise TargetAmbiguous(text, listed, nr_more)
    return found[0]


def resolve_all(text: str, procfs: ProcFS, notes: Notes | None = None) -> list[Target]:
    """Return every process that a text names, at least one, by PID. What could not be looked at goes to the notes."""
    return sorted(search(text, procfs, Notes() if notes is None else notes), key=lambda target: target.pid)


def search(text: str, procfs: ProcFS, notes: Notes) -> Iterable[Target]:
    """Return every process that a text names, one after the other as they are found, and at least one.

    Raises:
        TargetNotFound: there is none. Only seen at the end of the search.
    """
    if (direct := by_number(text, procfs)) is not None:
        return [direct]
    if (pid := parse_pid(text)) is not None:
        return [look_inside(pid, procfs)]
    if text.startswith("~"):
        return matching_command_line(text, procfs, notes)
    if text.startswith("cgroup:"):
        return in_cgroup(text, procfs)
    if "/" in text and os.path.isdir(text):
        return in_capture(text)
    if not text or "/" in text:
        raise TargetNotFound(f"no process or capture {text!r}")
    # A directory that just happens to be called as the process is no capture.
    if not os.path.exists(os.path.join(text, "machine.json")):
        return with_name(text, procfs, notes)
    if is_ours(text):
        return in_capture(text)
    return with_name(text, procfs, notes, f"; the capture here is another user's: ./{text} is what looks at it")


def is_ours(path: str) -> bool:
    """Whether a directory belongs to us, or to who became root to start us.

    In a directory where others can write, one of theirs must not pass for the process that its name is of.
    """
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return False
    user = invoking_user()
    return owner in (os.geteuid(), user[0] if user else None)


def ourselves(procfs: ProcFS) -> set[int]:
    """Return our PID, alone in a set; nothing where this /proc does not show us."""
    try:
        return {own_pid(procfs)}
    except TargetNotFound:
        return set()


def look_inside(pid: int, procfs: ProcFS) -> Target:
    """Return the process with a PID, should it have come by now; else say which has it in another namespace."""
    try:
        return Target(procfs.process(pid))
    except TargetNotFound as error:
        # From that of this /proc down to its own: any of them may be what somebody sees from inside.
        inner = [process.pid for process, status in statuses(procfs) if str(pid) in status.get("NSpid", "").split()[1:]]
        if not inner:
            raise
        names = "; ".join(name.strip() for name in describe_all(opened(inner[:LISTED], procfs)))
        more = f"; and {len(inner) - LISTED:,} more" if len(inner) > LISTED else ""
        raise TargetNotFound(f"{error}; in another PID namespace it is {names}{more}") from None


def with_name(name: str, procfs: ProcFS, notes: Notes, more: str = "") -> Iterator[Target]:
    """Yield the processes whose command name is this, ourselves left out. ``more`` is said where there is none."""
    nothing = f"no process is called {name!r}{more}"
    if len(name) <= COMM_LENGTH:
        return filtered(nothing, lambda _, stat: stat.name == name, procfs, ourselves(procfs))

    # The kernel keeps 15 bytes of a name; the command line has the rest.
    def matches(process: ProcessDir, stat: Stat) -> bool:
        is_near = stat.name == name[:COMM_LENGTH]
        return is_near and os.path.basename(read_command(process).split("\0", 1)[0]) == name

    return filtered_by_child(nothing, matches, procfs, ourselves(procfs), notes)


def matching_command_line(text: str, procfs: ProcFS, notes: Notes) -> Iterator[Target]:
    """Yield the processes whose command line matches; ourselves and whoever started us left out.

    The command lines of ``sudo`` or a shell that runs us hold the expression itself.
    """
    import re

    try:
        pattern = re.compile(text[1:])
    except re.error as error:
        raise BadInput(f"bad regular expression {text[1:]!r}: {error}") from None
    return filtered_by_child(
        f"no command line matches {text[1:]!r}",
        lambda process, _: bool(pattern.search(read_command(process).rstrip("\0").replace("\0", " "))),
        procfs,
        {pid for own in ourselves(procfs) for pid in ancestors(own, procfs)},
        notes,
    )


def in_cgroup(text: str, procfs: ProcFS) -> Iterator[Target]:
    """Yield the processes in a cgroup and the groups below it, in any hierarchy."""
    wanted = "/" + text.removeprefix("cgroup:").strip("/")

    def matches(process: ProcessDir, _: Stat) -> bool:
        lines = process.read("cgroup").decode("utf-8", "surrogateescape").split("\n")
        paths = [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]
        inside = wanted.rstrip("/") + "/"
        return any(path == wanted or path.startswith(inside) for path in paths)

    return filtered(f"no process in cgroup {wanted}", matches, procfs, ourselves(procfs))


def in_capture(path: str) -> list[Target]:
    """Return the processes of a capture: its directory, or that of one process in it."""
    parent, name = os.path.split(os.path.abspath(path))
    if name.isascii() and name.isdigit() and os.path.exists(os.path.join(parent, "machine.json")):
        return [Target(ProcFS(parent).process(int(name)))]
    procfs = ProcFS(path)
    pids = procfs.pids()
    if procfs.live or not pids:
        raise TargetNotFound(f"{path}: not a capture (it has no machine.json, or no process)")
    found: list[Target] = []
    try:
        for pid in pids:
            found.append(Target(procfs.process(pid)))
    except BaseException:
        for target in found:
            target.close()
        raise
    return found


def filtered(nothing: str, matches: Matches, procfs: ProcFS, without: set[int]) -> Iterator[Target]:
    """Yield the processes that match, held open; those that vanish meanwhile or may not be read do not.

    Threads of the kernel and zombies have no memory, and are passed over.

    Raises:
        TargetNotFound: none matches; with ``nothing`` for its text.
    """
    has_found = False
    for pid in procfs.pids():
        if pid not in without and (process := open_matching(pid, matches, procfs)):
            has_found = True
            yield Target(process)
    if not has_found:
        raise TargetNotFound(nothing)


def filtered_by_child(
    nothing: str, matches: Matches, procfs: ProcFS, without: set[int], notes: Notes
) -> Iterator[Target]:
    """Yield what `filtered` does, of a match that reads what may be held up for ever.

    Raises:
        TargetNotFound: none matches; with ``nothing`` for its text, and with what could not be looked at.
    """

    def ask(pid: int) -> tuple[bool, int]:
        process = open_matching(pid, matches, procfs)
        return process is not None, first_fd(process) if process else -1

    pids = [pid for pid in procfs.pids() if pid not in without]
    inquiry = inquire(ask, pids, time.monotonic() + SEARCH_SECONDS)
    has_found = False
    for pid, _, fd in inquiry:
        if fd >= 0 and (process := taken_over(procfs, pid, fd)):
            has_found = True
            yield Target(process)
    left = list(left_out(inquiry, procfs))
    if not has_found:
        raise TargetNotFound("; ".join([nothing, *map(str, left)]))
    notes += left


def open_matching(pid: int, matches: Matches, procfs: ProcFS) -> ProcessDir | None:
    """Return a process, held open, if it matches."""
    try:
        process, stat = open_process(pid, procfs)
    except SKIPPED:
        return None
    is_wanted = False
    try:
        is_wanted = not stat.is_kernel_thread and matches(process, stat)
    except SKIPPED:
        pass
    finally:
        if not is_wanted:
            process.close()
    return process if is_wanted else None


def taken_over(procfs: ProcFS, pid: int, fd: int) -> ProcessDir | None:
    """Return a process whose directory a child has found, and sent."""
    try:
        process = ProcessDir(procfs, pid, fd)
    except SKIPPED:
        return None
    finally:
        os.close(fd)
    try:
        return seen_whole(process)
    except SKIPPED:
        process.close()
        return None


def answering(targets: Sequence[Target], notes: Notes) -> list[Target]:
    """Return those of several processes that can be looked at without waiting for ever; the others are noted."""
    by_pid = {target.pid: target for target in targets}

    def ask(pid: int) -> tuple[None, int]:
        try:
            read_command(by_pid[pid].dir, 1)  # takes the lock that is waited for
        except SKIPPED:
            pass  # whoever looks at it is told why
        return None, -1

    inquiry = inquire(ask, list(by_pid), time.monotonic() + SEARCH_SECONDS)
    found = [by_pid[pid] for pid, _, _ in inquiry]
    for pid in (*inquiry.unanswered, *inquiry.unasked):
        by_pid[pid].close()
    notes += left_out(inquiry, targets[0].procfs)
    return sorted(found, key=lambda target: target.pid)


def inquire(ask: Ask, things: Sequence[Any], deadline: float = float("inf")) -> Inquiry:
    """Return an `Inquiry`. What that needs is imported here: who names a PID searches for nothing."""
    from mematlas.kernel.abandon import Inquiry

    return Inquiry(ask, things, deadline=deadline)


def left_out(inquiry: Inquiry, procfs: ProcFS) -> Iterator[Note]:
    """Yield notes on the processes that an inquiry could not find out about."""
    for pids, code, why in (
        (
            inquiry.unanswered,
            "unanswered",
            "not looked at, since reading their memory or command line waits for somebody",
        ),
        (inquiry.unasked, "unasked", "not looked at for want of time, or of room for a child"),
    ):
        if pids:
            named = ", ".join(f"{pid} ({name_of(pid, procfs)})" for pid in sorted(pids)[:NAMED])
            more = f" and {len(pids) - NAMED:,} more" if len(pids) > NAMED else ""
            yield Note(code, f"{named}{more}: {why}")


def name_of(pid: int, procfs: ProcFS) -> str:
    """Return the name of the process that has a PID now."""
    try:
        with procfs.process(pid) as process:
            return read_stat(process).name
    except SKIPPED:
        return "ended"


def open_process(pid: int, procfs: ProcFS) -> tuple[ProcessDir, Stat]:
    """Return a process, held open, and who it is; all of it where only its first thread has ended.

    Raises:
        NoAddressSpace: it is a zombie.
    """
    process = procfs.process(pid)
    try:
        stat = read_stat(process)
        if stat.is_zombie:
            process = seen_whole(process)
            stat = read_stat(process)
        return process, stat
    except BaseException:
        process.close()
        raise


def ancestors(pid: int, procfs: ProcFS) -> Iterator[int]:
    """Yield a process, its parent, and so on up."""
    while pid > 0:
        yield pid
        try:
            with procfs.process(pid) as process:
                pid = read_stat(process).parent
        except (TargetNotFound, ProcessGone):
            return


def statuses(procfs: ProcFS) -> Iterator[tuple[ProcessDir, dict[str, str]]]:
    """Yield each process, held open till the next, with its status lines; those that vanish are left out."""
    for pid in procfs.pids():
        try:
            process, _ = open_process(pid, procfs)
            with process:
                yield process, read_status(process)
        except SKIPPED:
            continue


def opened(pids: Iterable[int], procfs: ProcFS) -> list[ProcessDir]:
    """Return the processes with these PIDs, held open, but for those that have ended."""
    found = []
    for pid in pids:
        try:
            found.append(open_process(pid, procfs)[0])
        except SKIPPED:
            continue
    return found


def describe_all(processes: Sequence[ProcessDir]) -> list[str]:
    """Return a line for each process that tells it from others, also where command lines cannot be read."""
    places = range(len(processes))
    lines = {place: f"{process.pid:>7}  (does not answer)" for place, process in enumerate(processes)}
    for place, line, _ in inquire(lambda place: (describe(processes[place]), -1), places):
        lines[place] = line
    return [lines[place] for place in places]


def describe(process: ProcessDir) -> str:
    """Return a line that tells a process from others: its PID and the start of its command line."""
    try:
        line = read_command(process, DESCRIBED).replace("\0", " ").replace("\n", " ").strip()
        name = line or f"[{read_stat(process).name}]"
    except SKIPPED:
        name = "(ended)"
    return f"{process.pid:>7}  {name[:100]}"

"""Which process is meant, or which: a PID, ``self``, a name, ``cmdline:REGEX``, a group, or a capture's directory."""

from __future__ import annotations

import os
import time

from mematlas.errors import BadInput, TargetAmbiguous, TargetNotFound
from mematlas.frozen import record, replace
from mematlas.kernel.cmdline import read_command
from mematlas.kernel.group import first_fd, seen_whole
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.rights import parse_id, user_name
from mematlas.kernel.status import read_stat, read_status, status_bytes
from mematlas.model.groups import by_name, wanted_by
from mematlas.model.processes import SKIPPED, Processes, ancestors, inquire, left_out, opened, ourselves
from mematlas.model.target import PID, Target, by_number, is_group, is_ours, parse_pid
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mematlas.kernel.status import Stat
    from mematlas.model.containers import Level
    from mematlas.model.groups import Matches, Wanted

CMDLINE = ("cmdline:", "~")
"""What an expression over command lines begins with; shells have an eye on the second, where it is not quoted."""
SEARCH_SECONDS = 1.5
"""After which a search ends, wherever it is."""
ANSWER_SECONDS = 0.005
"""For each process of a group beyond that: 20 times what an answer takes."""
DESCRIBED = 1 << 10
"""Bytes of a command line of which the start is shown."""
LISTED = 20
"""Processes that are listed where several answer to a name."""


@record
class Candidate:
    """One of several processes that answer to a name, with what distinguishes it from the others."""

    pid: int
    user: str
    rss: int | None
    command: str | None
    """The start of its command line, or its name in brackets; None when it does not answer, or has ended."""


def resolve(text: str, procfs: ProcFS) -> Target:
    """Return the one process that a text names, with notes on what could not be looked at.

    Raises:
        TargetNotFound: none does.
        TargetAmbiguous: several do; they are listed, none is picked.
    """
    targets: list[Target] = []
    nr_more = 0
    search = Search(text, procfs)
    for target in search:
        # They may be more than we can hold open.
        if len(targets) < LISTED:
            targets.append(target)
        else:
            nr_more += 1
            target.close()
    if len(targets) + nr_more > 1:
        targets.sort(key=lambda target: target.pid)
        listed = candidates_of([target.dir for target in targets])
        for target in targets:
            target.close()
        raise TargetAmbiguous(text, listed, nr_more)
    return replace(targets[0], notes=tuple(search.notes))


@record
class Targets:
    """Several processes, by PID, with notes on those that could not be looked at."""

    targets: tuple[Target, ...]
    notes: tuple[Note, ...]
    level: Level | None = None
    """The one cgroup that they are, where the text named one."""
    silent: tuple[int, ...] = ()
    """The PIDs of those that were found and do not answer."""

    def __iter__(self) -> Iterator[Target]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)


def resolve_all(text: str, procfs: ProcFS) -> Targets:
    """Return every process that a text names, at least one."""
    search = Search(text, procfs)
    targets = sorted(search, key=lambda target: target.pid)
    return Targets(tuple(targets), tuple(search.notes), search.level)


def find(text: str, procfs: ProcFS) -> Targets:
    """Return the processes of a group, those that answer; or the one that another text names.

    Whoever hangs in the kernel would have us hang as well, but for one that is alone: that is what was asked for.
    """
    if not is_group(text):
        target = resolve(text, procfs)
        return Targets((target,), target.notes)
    named = resolve_all(text, procfs)
    if len(named) == 1:
        return named
    answered = answering(named.targets)
    return replace(named, targets=answered.targets, notes=(*named.notes, *answered.notes), silent=answered.silent)


class Search:
    """Finds the processes that a text names, one after the other, and at least one.

    Raises:
        TargetNotFound: there is none. Only seen at the end of the search.
    """

    def __init__(self, text: str, procfs: ProcFS) -> None:
        self.procfs = procfs
        self.notes = Notes()
        """On processes that could not be looked at: complete at the end."""
        self.level: Level | None = None
        """The one cgroup that all of them are in, where the text names one."""
        self._targets = iter(self._find(text))

    def __iter__(self) -> Iterator[Target]:
        return self._targets

    def _find(self, text: str) -> Iterable[Target]:
        if (direct := by_number(text, self.procfs)) is not None:
            return [direct]
        if (pid := parse_pid(text.removeprefix(PID))) is not None:
            return [look_inside(pid, self.procfs)]
        for prefix in CMDLINE:
            if text.startswith(prefix):
                return self._matching_command_line(text.removeprefix(prefix))
        if is_group(text):
            wanted = wanted_by(text, self.procfs)
            self.level = wanted.level
            return self._wanted(wanted)
        if "/" in text and os.path.isdir(text):
            return in_capture(text)
        if not text or "/" in text:
            raise TargetNotFound(f"no process or capture {text!r}")
        # A directory that just happens to be called as the process is no capture.
        if not os.path.exists(os.path.join(text, "machine.json")):
            return self._with_name(text)
        if is_ours(text):
            return in_capture(text)
        more = f"; a capture here has that name, but is another user's: to read it, ./{text}"
        return self._with_name(text, more)

    def _with_name(self, name: str, more: str = "") -> Iterator[Target]:
        """Yield the processes whose command name is this, ourselves left out. ``more`` is said where there is none."""
        return self._wanted(by_name(name, self.procfs), more)

    def _wanted(self, wanted: Wanted, more: str = "") -> Iterator[Target]:
        """Yield the processes that are wanted, ourselves left out."""
        without = ourselves(self.procfs)
        try:
            if wanted.may_wait:
                yield from self._filtered_by_child(wanted.nothing, wanted.matches, without)
            else:
                yield from filtered(wanted.nothing, wanted.matches, self.procfs, without, wanted.pids)
        except TargetNotFound as error:
            raise TargetNotFound(f"{error}{wanted.hint()}{more}") from None

    def _matching_command_line(self, expression: str) -> Iterator[Target]:
        """Yield the processes whose command line matches; ourselves and whoever started us left out.

        The command lines of ``sudo`` or a shell that runs us hold the expression itself.
        """
        import re
        import warnings

        if not expression:
            raise BadInput(f"which command lines? Give an expression: {CMDLINE[0]}REGEX")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a future Python may read otherwise
                pattern = re.compile(expression)
        except RecursionError:
            raise BadInput("bad regular expression: too many parentheses within others") from None
        except (re.error, ValueError, OverflowError) as error:
            raise BadInput(f"bad regular expression {expression!r}: {error}") from None

        def matches(process: ProcessDir, _: Stat) -> bool:
            line = read_command(process).rstrip("\0").replace("\0", " ")
            return pattern.search(line) is not None

        without = {pid for own in ourselves(self.procfs) for pid in ancestors(own, self.procfs)}
        return self._filtered_by_child(f"no command line matches {expression!r}", matches, without)

    def _filtered_by_child(self, nothing: str, matches: Matches, without: Collection[int]) -> Iterator[Target]:
        """Yield what `filtered` does, of a match that reads what may be held up for ever.

        Raises:
            TargetNotFound: none matches; with ``nothing`` for its text, and with what could not be looked at.
        """
        processes = Processes(self.procfs, without=without)

        def ask(pid: int) -> tuple[bool, int]:
            process = open_matching(pid, matches, processes)
            return process is not None, first_fd(process) if process else -1

        inquiry = inquire(ask, processes.pids, time.monotonic() + SEARCH_SECONDS)
        nr_matching = 0
        for pid, _, fd in inquiry:
            if fd >= 0 and (process := process_of_fd(self.procfs, pid, fd)):
                nr_matching += 1
                yield Target(process)
        self.notes += left_out(inquiry, self.procfs)
        if not nr_matching:
            raise TargetNotFound("; ".join([nothing, *map(str, self.notes)]))


def look_inside(pid: int, procfs: ProcFS) -> Target:
    """Return the process with a PID, should it have come by now; else say which has it in another namespace."""
    try:
        return Target(procfs.process(pid))
    except TargetNotFound as error:
        # From that of this /proc down to its own: any of them may be what somebody sees from inside.
        processes = Processes(procfs, without=())
        inner = [process.pid for process, _ in processes if str(pid) in inner_numbers(process)]
        if not inner:
            raise
        listed = candidates_of(opened(inner[:LISTED], procfs))
        lines = [f"{candidate.pid}  {candidate.command or '(does not answer)'}" for candidate in listed]
        if len(inner) > LISTED:
            lines.append(f"and {len(inner) - LISTED:,} more")
        raise TargetNotFound(f"{error}; in another PID namespace it is {'; '.join(lines)}") from None


def inner_numbers(process: ProcessDir) -> list[str]:
    """Return the PIDs of a process in the namespaces below that of this /proc."""
    try:
        return read_status(process).get("NSpid", "").split()[1:]
    except SKIPPED:
        return []


def is_capture(path: str) -> bool:
    """Whether a path is that of a capture, or of one process in it."""
    return os.path.exists(os.path.join(path, "machine.json")) or (os.path.isdir(path) and is_one_of_capture(path))


def is_one_of_capture(path: str) -> bool:
    """Whether a directory is that of one process in a capture."""
    parent, name = os.path.split(os.path.abspath(path))
    return name.isascii() and name.isdigit() and os.path.exists(os.path.join(parent, "machine.json"))


def in_capture(path: str) -> list[Target]:
    """Return the processes of a capture: its directory, or that of one process in it."""
    if is_one_of_capture(path):
        parent, name = os.path.split(os.path.abspath(path))
        return [Target(ProcFS(parent).process(int(name)))]
    procfs = ProcFS(path)
    pids = procfs.pids()
    if procfs.live or not pids:
        raise TargetNotFound(f"{path}: not a capture (it has no machine.json, or no process){tilde_hint(path)}")
    targets: list[Target] = []
    try:
        for pid in pids:
            targets.append(Target(procfs.process(pid)))
    except BaseException:
        for target in targets:
            target.close()
        raise
    return targets


def tilde_hint(path: str) -> str:
    """Return what is to be said of a home directory, which a shell may have made of ``~NAME``; of another, nothing."""
    import pwd

    try:
        owner = pwd.getpwuid(os.stat(path).st_uid)
    except (OSError, KeyError):
        return ""
    is_home = os.path.realpath(owner.pw_dir) == os.path.realpath(path)
    return f"; if your shell made this of ~{owner.pw_name}: cmdline:{owner.pw_name}" if is_home else ""


def filtered(
    nothing: str, matches: Matches, procfs: ProcFS, without: Collection[int], pids: Collection[int] | None = None
) -> Iterator[Target]:
    """Yield the processes that match, held open; those that vanish meanwhile or may not be read do not.

    Raises:
        TargetNotFound: none matches; with ``nothing`` for its text.
    """
    nr_matching = 0
    processes = Processes(procfs, pids, without=without)
    for pid in processes.pids:
        if process := open_matching(pid, matches, processes):
            nr_matching += 1
            yield Target(process)
    if not nr_matching:
        raise TargetNotFound(nothing)


def open_matching(pid: int, matches: Matches, processes: Processes) -> ProcessDir | None:
    """Return a process, held open, if it matches."""
    pair = processes.open(pid)
    if pair is None:
        return None
    process, stat = pair
    is_wanted = False
    try:
        is_wanted = matches(process, stat)
    except SKIPPED:
        pass
    finally:
        if not is_wanted:
            process.close()
    return process if is_wanted else None


def process_of_fd(procfs: ProcFS, pid: int, fd: int) -> ProcessDir | None:
    """Return the process whose directory a child has sent, by a descriptor, which is closed."""
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


def distinct(targets: Sequence[Target]) -> list[Target]:
    """Return each of some processes once, in their order; all must be of one machine.

    Raises:
        BadInput: some run, others are of a capture; or they are of several.
    """
    by_pid: dict[int, Target] = {}
    for target in targets:
        if target.procfs.root != targets[0].procfs.root:
            raise BadInput(
                "captures and moments of recordings cannot be combined with each other, or with running processes:"
                " look at them one at a time, or at what is different with mematlas diff"
            )
        if by_pid.setdefault(target.pid, target) is not target:
            target.close()
    return list(by_pid.values())


def answering(targets: Sequence[Target]) -> Targets:
    """Return those of several processes that can be looked at without waiting for ever; the others are noted."""
    by_pid = {target.pid: target for target in targets}

    def ask(pid: int) -> tuple[None, int]:
        try:
            read_command(by_pid[pid].dir, 1)  # takes the lock that is waited for
        except SKIPPED:
            pass  # whoever looks at it gets the reason
        return None, -1

    seconds = SEARCH_SECONDS + ANSWER_SECONDS * len(by_pid)
    inquiry = inquire(ask, list(by_pid), time.monotonic() + seconds)
    answered = [by_pid[pid] for pid, _, _ in inquiry]
    silent = (*inquiry.unanswered, *inquiry.unasked)
    for pid in silent:
        by_pid[pid].close()
    notes = tuple(left_out(inquiry, targets[0].procfs))
    answered.sort(key=lambda target: target.pid)
    return Targets(tuple(answered), notes, silent=silent)


def candidates_of(processes: Sequence[ProcessDir]) -> list[Candidate]:
    """Return what distinguishes these processes; of those that do not answer, what is known without them."""
    commands: dict[int, str] = {}
    indexes = range(len(processes))
    for index, command, _ in inquire(lambda index: (command_of(processes[index]), -1), indexes):
        commands[index] = command
    return [candidate(processes[index], commands.get(index)) for index in indexes]


def candidate(process: ProcessDir, command: str | None) -> Candidate:
    """Return what is known of a process, whose command line is known already."""
    try:
        status = read_status(process)
    except SKIPPED:
        return Candidate(pid=process.pid, user="", rss=None, command=command)
    uid = parse_id(status.get("Uid", "").split("\t", 1)[0])
    return Candidate(
        pid=process.pid,
        user="" if uid is None else user_name(uid),
        rss=status_bytes(status, "VmRSS"),
        command=command,
    )


def command_of(process: ProcessDir) -> str | None:
    """Return the start of the command line of a process; for want of one its name, in brackets."""
    try:
        line = read_command(process, DESCRIBED).replace("\0", " ").replace("\n", " ").strip()
        return line or f"[{read_stat(process).name}]"
    except SKIPPED:
        return None

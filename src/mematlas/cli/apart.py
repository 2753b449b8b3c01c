"""``mematlas --apart COMMAND``: a small part keeps the rights, and what shows and parses has none."""

from __future__ import annotations

import os

from mematlas.cli.command import COMMANDS, FILE
from mematlas.errors import BadInput, Error, NotSupported, PermissionDenied
from mematlas.kernel import brokered
from mematlas.kernel.confine import leave_rights, may_others_go
from mematlas.kernel.messages import Grant
from mematlas.kernel.procfs import MACHINE as MACHINE_FILE
from mematlas.kernel.rights import effective_capabilities, lend
from mematlas.model.target import is_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from mematlas.cli.arguments import Namespace
    from mematlas.cli.session import Session

AS_IT_IS = frozenset(("doctor", "capture", "convert", "report", "demo", "lab", "workload"))
"""Commands that try rights out, write files, or run programs of their own."""
OF_ONE = frozenset(("maps", "pages", "translate", "hist", "map", "tables"))
"""Commands that look at one process and at no other."""
QUERIES = "mematlas.observe.queries:EVERY"
"""What may be asked."""
TOP = "top"
"""It may act on a process that is named at the start, if that is confirmed there."""


def part(name: str, args: Namespace, session: Session, kept: Collection[int] = ()) -> None:
    """Start what keeps our rights, if we have any, and give them up; have /proc read with what takes one asked of that.

    The command, its arguments and its words say what may be asked about and acted on. ``kept`` are descriptors that are
    needed afterwards.

    Raises:
        PermissionDenied, NotSupported: we cannot become a user that has none, or who is none may not read the target.
        BadInput: this command does more than look at processes and the machine, and act on processes.
    """
    if name in AS_IT_IS or vars(args).get("temporary_swap") or (session.text.startswith(FILE) and is_act(name)):
        what = f"{name} of files" if session.text.startswith(FILE) else name
        raise BadInput(f"{what} changes what is yours, or needs your rights itself: not with --apart")
    held = effective_capabilities()
    if not held and os.geteuid() != 0:
        return
    if os.path.exists(f"{session.text}/{MACHINE_FILE}") and not may_others_go(session.text):
        raise PermissionDenied(
            session.text, text="to be readable by all: with --apart a capture is read without rights"
        )
    if session.procfs.hides_others:
        raise NotSupported("--apart", "a /proc without hidepid, which shows who has no rights no process of others")
    grant = granted(name, args, session)
    try:
        if session.watchdog:
            session.watchdog.leave()  # the C library has every thread become another user, and waits for each
        pid, control, watched = brokered.start(grant, QUERIES)
        session.procfs.close()
        leave_rights({control.fileno(), watched, *kept, *(session.writer.fds if session.writer else ())})
    finally:
        if session.watchdog:
            session.watchdog.begin()
    lend(held)
    session.lender = brokered.Lender(control, pid)
    session.lender.introduce()
    session.lender.end_with(watched)
    session.procfs = brokered.BrokeredFS(session.lender)


def granted(name: str, args: Namespace, session: Session) -> Grant:
    """Return what a command may ask about, and whom it may act on."""
    given = (session.text, *session.words)
    named = found_now(session) if name in OF_ONE or is_act(name) or (name == TOP and session.text) else frozenset()
    return Grant(
        front=os.getpid(),
        processes=named if name in OF_ONE else None,
        acts=named - spared(session) if acts(name, args, session) else frozenset(),
        advice=advice_of(name, args),
        paths=frozenset(form for word in given for form in (word, word.removeprefix(FILE))),
        # Tables are shown, or recorded, whole, the top one too.
        has_kernel=name == "tables" or "tables" in (vars(args).get("what") or ()),
    )


def acts(name: str, args: Namespace, session: Session) -> bool:
    """Whether anything may be done: not where the plan alone is shown."""
    if name == TOP:
        return bool(session.text) and not args.read_only
    return is_act(name) and not args.dry_run and (args.yes or not is_group(session.text))


def advice_of(name: str, args: Namespace) -> frozenset[int]:
    """Return what advice a command gives: what is paged out is brought back where that was asked for."""
    if not is_act(name) and name != TOP:
        return frozenset()
    from mematlas.kernel.madvise import ADVICE, MADV_WILLNEED

    if name == TOP:
        return frozenset(number for advice, number in ADVICE.items() if is_act(advice))
    given = [number for advice, number in ADVICE.items() if advice == name]
    if given and (vars(args).get("free") or vars(args).get("undo")):
        given.append(MADV_WILLNEED)
    return frozenset(given)


def is_act(name: str) -> bool:
    """Whether a command does something to processes or files."""
    return COMMANDS.get(name, ("", ""))[0] == "Act"


def found_now(session: Session) -> frozenset[tuple[int, int]]:
    """Return whom the target of a session names now."""
    from mematlas.model.search import find

    named = set()
    try:
        for target in find(session.text, session.procfs):
            with target.dir as process:
                if process.procfs.live:  # who is in a capture is whoever its author says
                    named.add(process.identity)
                    # Where the first thread has ended, another is looked at.
                    with process.procfs.process(target.pid) as first:
                        named.add(first.identity)
    except Error:
        pass  # what is wrong with it is said by whoever looks for it next, without rights
    return frozenset(named)


def spared(session: Session) -> set[tuple[int, int]]:
    """Return whom nobody acts on from here: the init process, ourselves, and our ancestors."""
    from mematlas.model.processes import ancestors, opened, ourselves

    pids = {1, *(pid for own in ourselves(session.procfs) for pid in ancestors(own, session.procfs))}
    found = set()
    for process in opened(pids, session.procfs):
        with process:
            found.add(process.identity)
    return found

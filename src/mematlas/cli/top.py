"""A screen that shows memory as it moves: all processes, the page map of one, its VMAs, its page tables, all of RAM;
now, as far back as it was watched, or in a recording. It says what it costs, and looks less often to cost no more.

As root, what draws and parses has no rights at all: a small part keeps them. A process that is named can be acted on.
"""

from __future__ import annotations

import os
import threading
import time

from mematlas.cli.command import TARGET_OR_PATH, Command
from mematlas.cli.options import parse_fraction, parse_interval
from mematlas.errors import BadInput, LibraryMissing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.beside import RecorderBeside
    from mematlas.cli.session import Session
    from mematlas.timeline.watch import Watch
    from mematlas.tui.viewing import Viewing

EXTRA = "tui"
INTERVAL, BUDGET = 0.5, 0.08
SUFFIX = ".mematlas"
CLOSELY = ("pages",)
LINGERS = 5.0
"""Seconds for which a screen may go on after its terminal has gone."""
OF_EVERYBODY, OF_MACHINE = 1.0, 10.0
"""Seconds between two looks at all processes, and at all of RAM, at the least."""


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("words", nargs="*", metavar="TARGET|FILE", help="a process, a recording, or a capture")
    arguments.add_argument(
        "-i",
        "--interval",
        dest="every",
        type=parse_interval,
        default=INTERVAL,
        metavar="TIME",
        help="between two looks (default 0.5s)",
    )
    arguments.add_argument("--read-only", action="store_true", help="never act on a process")
    arguments.add_more(
        "--budget",
        type=parse_fraction,
        default=BUDGET,
        metavar="PART",
        help="of a processor for looking (default 8%)",
    )


def check(args: Namespace) -> None:
    """Refuse what makes no sense before anything is opened.

    Raises:
        BadInput: several words.
    """
    if len(args.words) > 1:
        raise BadInput(f"one process or file at a time: {args.words[0]}, or nothing for all processes")


def run(args: Namespace, session: Session) -> int:
    load_textual()
    if not all(map(os.isatty, range(3))):
        raise BadInput("top needs a terminal: mematlas ps prints a list, with -i 1s again and again")
    word = args.words[0] if args.words else ""
    if word.endswith(SUFFIX) and os.path.isfile(word):
        return of_recording(word, args, session)
    return of_now(word, args, session)


def load_textual() -> None:
    """Load what draws the screen.

    Raises:
        LibraryMissing: it is not there.
    """
    try:
        import textual.app  # noqa: F401
    except ImportError as error:
        raise LibraryMissing("textual", error, EXTRA) from error
    # What works for the screen is forked from here: it has this loaded then, in the same memory.
    import mematlas.arrays
    import mematlas.kernel.libc

    mematlas.kernel.libc.give_back_memory()


def of_now(word: str, args: Namespace, session: Session) -> int:
    """Show processes as they run, or one of a capture; return the exit code."""
    from mematlas.cli.apart import part
    from mematlas.cli.beside import RecorderBeside
    from mematlas.cli.session import allow_many_files
    from mematlas.kernel.nodes import read_nodes
    from mematlas.kernel.rights import has_rights
    from mematlas.timeline.watch import Watch

    allow_many_files()
    session.text = word
    pid = None
    if word:
        with session.process as process:  # what names nobody, or several, is said before there is a screen
            pid, start = process.stat.pid, process.stat.start_time
    procfs = session.procfs  # of a capture what was captured, whoever has that number now
    if procfs.live and pid is not None:
        session.text = str(pid)
    named = (0, 0) if pid is None else (pid, start)
    recorder = None
    if procfs.live:
        recorder = RecorderBeside(named if has_rights() else None)
        part("top", args, session, recorder.fds)
        procfs = session.procfs
    viewing = viewing_of(session)
    viewing.captured = "" if procfs.live else word
    if pid is not None:
        viewing.focus = pid, start
    viewing.why_no_act = why_no_act(session, args, pid)
    viewing.find_nodes = lambda: read_nodes(procfs)

    def open_everybody() -> Watch:
        return Watch([], procfs, what=("usage",), everybody=True)

    def open_machine() -> Watch:
        return Watch([], procfs, what=("ram", "files"))

    def closely(pid: int) -> Callable[[], Watch]:
        return lambda: Watch([str(pid)], procfs, what=CLOSELY)

    openers = {"everybody": (open_everybody, OF_EVERYBODY)}
    if procfs.live:
        openers["machine"] = (open_machine, OF_MACHINE)
    try:
        return show(viewing, args, session, openers, closely, recorder)
    finally:
        if recorder and (said := recorder.close()):
            session.write_lines(said.splitlines())


def of_recording(path: str, args: Namespace, session: Session) -> int:
    """Show a recording; return the exit code."""
    from mematlas.cli.opening import open_recording
    from mematlas.timeline.moment import page_size_of
    from mematlas.timeline.recorded_timeline import RecordedTimeline
    from mematlas.timeline.recording_files import RecordingFiles

    with open_recording(RecordingFiles(path), set(), session) as recording:
        viewing = viewing_of(session)
        timeline = RecordedTimeline(recording)
        viewing.place, viewing.is_live = path, False
        viewing.page_size = page_size_of(recording)  # not ours: it may be of another machine
        viewing.everybody = viewing.closely = viewing.machine = timeline
        viewing.why_no_act = "a recording: nothing can be done to what was"
        processes = recording.processes(2)
        if len(processes) == 1:
            viewing.focus = processes[0].pid, processes[0].start_time
        return show(viewing, args, session, {}, None)


def why_no_act(session: Session, args: Namespace, pid: int | None) -> str:
    """Return why nothing may be done to processes; empty where it may."""
    if args.read_only:
        return "nothing is done to processes: started with --read-only"
    if not session.procfs.live:
        return "a capture: nothing can be done to what was"
    if session.lender and pid is None:
        # Who has no rights any more must not get those for more than was named while we had them.
        return "as root, act on a process that is named at the start: mematlas top PID"
    return ""


def viewing_of(session: Session) -> Viewing:
    """Return what is looked at, to begin with."""
    from mematlas.tui.viewing import Viewing

    viewing = Viewing()
    machine = session.machine()
    viewing.place = f"{machine['host']} · {machine['kernel']}"
    viewing.page_size = session.procfs.page_size
    return viewing


def show(
    viewing: Viewing,
    args: Namespace,
    session: Session,
    openers: dict[str, tuple[Callable[[], Watch], float]],
    open_closely: Callable[[int], Callable[[], Watch]] | None,
    recorder: RecorderBeside | None = None,
) -> int:
    """Run the screen; return the exit code."""
    from mematlas.tui.app import Top
    from mematlas.tui.colours import Colours
    from mematlas.tui.pages import all_pages
    from mematlas.views.colour import palette

    colours = Colours(0 if "NO_COLOR" in os.environ else palette().depth, palette().light)
    app = Top(
        viewing,
        all_pages(viewing),
        colours,
        openers,
        open_closely,
        args.every,
        args.budget,
        rights_of(session, viewing),
        lambda: spent(session),
        recorder,
    )
    is_over = threading.Event()
    threading.Thread(target=end_with_terminal, args=(is_over,), daemon=True).start()
    try:
        return app.run() or 0
    finally:
        is_over.set()


def end_with_terminal(is_over: threading.Event) -> None:
    """End a while after the terminal has gone, unless the screen does: what reads keys may wait for what awaits it."""
    from mematlas.tui.app import is_hung_up

    while not is_hung_up():
        if is_over.wait(1):
            return
    if not is_over.wait(LINGERS):
        os._exit(1)


def rights_of(session: Session, viewing: Viewing) -> str:
    """Return with which rights is looked, and whether anything may be done."""
    if not viewing.is_live or viewing.captured:
        return "capture" if viewing.captured else "recording"  # takes no rights, and nothing can be done to it
    who = "root, apart" if session.lender else f"uid {os.geteuid()}"
    return f"{who}, no act" if viewing.why_no_act else who


def spent(session: Session) -> float:
    """Return the processor seconds of this process, and of those that work for it."""
    from mematlas.kernel.status import read_processor_seconds

    procfs = session.procfs
    return time.process_time() + sum(read_processor_seconds(procfs, pid) for pid in procfs.helpers)


COMMAND = Command(
    "[options] [TARGET | FILE]",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas top", "all processes"),
        ("mematlas top redis-server", "the page map of one"),
        ("mematlas top redis.mematlas", "a recording"),
    ),
    words=(TARGET_OR_PATH,),
    check=check,
    parts=True,
)

"""pageout, cold, willneed and collapse: one form, and a table of what is different."""

from __future__ import annotations

import os

from mematlas.actions.acts import act
from mematlas.actions.options import MAX_PASSES, Options
from mematlas.actions.plans import plan
from mematlas.actions.refusals import check_target, check_way_back
from mematlas.actions.rooms import read_swap_room
from mematlas.actions.swap_cache import free_frames
from mematlas.actions.verbs import undo
from mematlas.analysis.movable import parse_states
from mematlas.cli.act_options import ActOptions, options_of, parse_amount
from mematlas.cli.command import FILE, TARGET, TARGET_OR_FILE, Command
from mematlas.cli.options import add_output, add_target, parse_count, parse_seconds
from mematlas.cli.selection import KIND_TEXTS, add_selection, selection_of
from mematlas.cli.signals import Interrupts
from mematlas.cli.swap import add_temporary_swap, temporary_swap
from mematlas.errors import BadInput, ProcessGone, TargetNotFound
from mematlas.model.pages import STATES
from mematlas.model.target import is_group
from mematlas.notes import Note, Notes
from mematlas.views.effects import Report, effect_table
from mematlas.views.format import number_of
from mematlas.views.plans import lacking_swap, plan_table
from mematlas.views.progress import Bar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.actions.effects import Effect
    from mematlas.actions.plans import Plan
    from mematlas.actions.refaults import Refaults
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.kernel.madvise import AdviceName
    from mematlas.observe.process import Process
    from mematlas.views.table import Table

USAGE = "[options] TARGET [AREA] | -- COMMAND ..."
FILES_USAGE = "[options] TARGET [AREA] | file:PATH... | -- COMMAND ..."

ABOUT = """\
AREA is START-END, ADDR+LEN or an address for just these pages; or a kind, or part of a path, for whole VMAs.
The effect is measured page by page; no contents are lost. Needs CAP_SYS_NICE, and CAP_SYS_PTRACE for another user's
process. PID 1, mematlas itself and its ancestors are refused without --force."""


FILES_ABOUT: dict[str, str] = {
    "pageout": """\
file:PATH takes a file, or all files below a directory, out of the page cache: what is to be written to the disk is
written first, and pages that processes map stay.

""",
    "willneed": """\
file:PATH reads a file, or all files below a directory, into the page cache.

""",
}
"""What can be done to files as well, and what there is to say about that."""

# What they take


def add_passes(arguments: Arguments) -> None:
    """Declare how often to try."""
    arguments.add_more(
        "--passes",
        type=parse_count,
        default=MAX_PASSES,
        metavar="N",
        help=f"advise pages that stay up to N times ({MAX_PASSES}), until nothing more moves",
    )


def add_coldest(arguments: Arguments) -> None:
    """Declare the choice of cold pages."""
    arguments.add_argument(
        "--coldest",
        type=parse_amount,
        metavar="AMOUNT",
        help="only the coldest pages: a number (500) or a size (64M)",
    )


def add_no_touch(arguments: Arguments) -> None:
    """Declare that nothing is read."""
    arguments.add_argument(
        "--no-touch", action="store_true", help="only advise: pages come from swap into the swap cache, no further"
    )


def add_aftermath(arguments: Arguments) -> None:
    """Declare what may follow a pageout."""
    arguments.add_argument(
        "--watch-refaults",
        type=parse_seconds,
        metavar="TIME",
        help="then watch for TIME which pages come back, and when",
    )
    arguments.add_more(
        "--free",
        action="store_true",
        help="read back what the kernel keeps in the swap cache, and page it out again: this frees the frames",
    )
    arguments.add_argument("--undo", action="store_true", help="at the end, bring back what this run moved")
    add_temporary_swap(arguments, "swap to a file of this size during this run, then bring its contents back (root)")


def declare(*own: Callable[[Arguments], None]) -> Callable[[Arguments], None]:
    """Return what declares the arguments of a command: those of all four, with its own among them."""

    def add_arguments(arguments: Arguments) -> None:
        add_target(arguments)
        arguments.add_argument(
            "--dry-run", action="store_true", help="only show what would move, and why the rest would not"
        )
        arguments.add_argument("--anon", action="store_true", help="only private memory without a file")
        arguments.add_argument("--file", action="store_true", help="only pages of files on disk")
        add_selection(arguments)
        arguments.add_more(
            "--state", type=parse_states, metavar="STATE,...", help=f"only pages in these states: {', '.join(STATES)}"
        )
        for add in own:
            add(arguments)
        arguments.add_more(
            "--limit", type=parse_count, metavar="N", help="with --dry-run: show N VMAs, and the total of the rest"
        )
        arguments.add_more("--yes", action="store_true", help="act on a group, of which else the plan is shown")
        arguments.add_more("--force", action="store_true", help="also act on PID 1, mematlas itself and its ancestors")
        add_output(arguments)

    return add_arguments


# What they do


INTERRUPTED = Note("interrupted", "interrupted: anything after the last step shown is unknown")


def cut_short(nr_done: int) -> Note:
    """Return what is known of an act that a second signal has cut off in the middle of a step."""
    return Note(
        "interrupted",
        f"interrupted in the middle: {number_of(nr_done, 'page')} had been advised and looked at; {STAYS}",
    )


STAYS = (
    "what moved stays where it is, but for what a temporary swap gives back (mematlas willneed brings back the rest)"
)
SWAP_GOES = Note("swap-goes", "the temporary swap is being removed: what is in it comes back into RAM")


def run(advice: AdviceName, args: Namespace, session: Session) -> int:
    """Plan; then act, watch and undo, as far as that was asked for; show what it came to."""
    options = options_of(args)
    if session.text.startswith(FILE):
        if advice not in FILES_ABOUT:
            raise BadInput(f"{advice} takes a process; files take {' and '.join(FILES_ABOUT)}")
        from mematlas.cli.file_acts import run_files

        return run_files(advice, options, args, session, COMMANDS[advice].add_arguments)
    selection = selection_of(args, session)
    if is_group(session.text):
        from mematlas.cli.group_acts import run_group

        return run_group(advice, selection, options, args, session)
    choice, process = options.choice, process_of(advice, session)
    nr_coldest = None if options.coldest is None else options.coldest.nr_pages(process.page_size)
    if options.dry_run:
        room = read_swap_room(process.dir).with_more(options.temporary_swap or 0)
        planned = plan(process, advice, selection, choice=choice, nr_coldest=nr_coldest, room=room)
        session.show(lambda: plan_table(planned, session.target_info(), options.limit), args)
        return 0
    if options.limit is not None:
        raise BadInput("--limit needs --dry-run: the result of an action is one row")
    if not options.force:
        check_target(process)
    if options.free or options.undo:
        check_way_back()
    with Interrupts(session.err, between_steps=True) as stop, temporary_swap(options.temporary_swap):
        planned = plan(process, advice, selection, choice=choice, nr_coldest=nr_coldest, dirty=False)
        work = Work(planned, options, session, stop)
        work.run()
        session.show(work.view, args)
        if work.gone:
            return ProcessGone.exit_code
    return stop.exit_code


def process_of(advice: AdviceName, session: Session) -> Process:
    """Return the target; where there is none, but a file of that name, say how files are named."""
    try:
        return session.process
    except TargetNotFound as error:
        if advice in FILES_ABOUT and os.path.lexists(session.text):
            import shlex

            path = shlex.quote(f"{FILE}{session.text}")
            raise TargetNotFound(f"{error}; for the file of that name: mematlas {advice} {path}") from None
        raise


class Work:
    """An act and what follows it, as far as it got: that is shown whatever happens."""

    def __init__(self, planned: Plan, options: ActOptions, session: Session, stop: Interrupts) -> None:
        self.planned = planned
        self.options = options
        self.session = session
        self.process = session.process
        self.stop = stop
        self.effect: Effect
        self.refaults: Refaults | None = None
        self.undone: Effect | None = None
        self.gone = False
        self.notes = Notes()

    def run(self) -> None:
        """Act; free, watch and undo, as far as that was asked for."""
        with Bar(self.session.err, self.planned.advice) as bar:
            try:
                self.effect = act(self.process, self.planned, self.how(bar))
            except KeyboardInterrupt:  # the second: the first waits for the end of the step
                self.session.write_notes([cut_short(int(bar.done))])
                raise
        self.gone = self.effect.gone
        try:
            if self.options.free:
                self.free()
            if self.options.watch_refaults is not None and not self.effect.stopped:
                self.watch(self.options.watch_refaults)
            if self.options.undo and not self.gone:
                self.bring_back()
        except KeyboardInterrupt:
            self.notes.add(INTERRUPTED)

    def how(self, bar: Bar) -> Options:
        """Return how the act is carried out, with a bar that shows how far it is."""
        options = self.options
        return Options(
            passes=options.passes, touch=not options.no_touch, exact=options.free, progress=bar, stop=self.stop
        )

    def free(self) -> None:
        """Free what the swap cache keeps."""
        with Bar(self.session.err, "free") as bar:
            self.effect = free_frames(self.process, self.effect, self.how(bar))
        self.gone = self.effect.gone

    def watch(self, seconds: float) -> None:
        """Watch for the pages that come back."""
        from mematlas.actions.refaults import watch_refaults

        moved = self.effect.moved
        with Bar(self.session.err, "refaults") as bar:

            def show(gone: float, nr_returned: int) -> None:
                bar(gone, seconds)

            self.refaults = watch_refaults(self.process, moved, seconds, progress=show, stop=self.stop)
        self.gone = self.refaults.gone

    def bring_back(self) -> None:
        """Undo. Asked for beforehand, so it is done even when the rest was interrupted; only a new signal ends it."""
        self.stop.forget()
        try:
            with Bar(self.session.err, "undo") as bar:
                self.undone = undo(self.process, self.effect, progress=bar, stop=self.stop)
            self.gone = self.undone.gone
        except ProcessGone:
            self.gone = True

    def view(self) -> Table:
        """Return what all of it came to."""
        report = Report(effect=self.effect, page_size=self.process.page_size, refaults=self.refaults, undo=self.undone)
        table = effect_table(report, self.session.target_info())
        table.notes += [*lacking_swap(self.planned), *self.notes]
        if self.options.temporary_swap:
            table.notes.add(SWAP_GOES)
        return table


def command(
    advice: AdviceName, about: str, examples: tuple[tuple[str, str], ...], *own: Callable[[Arguments], None]
) -> Command:
    """Return a command that gives one piece of advice, and takes these arguments of its own."""
    return Command(
        usage=FILES_USAGE if advice in FILES_ABOUT else USAGE,
        about=f"{about}\n\n{FILES_ABOUT.get(advice, '')}{ABOUT}",
        add_arguments=declare(*own),
        run=lambda args, session: run(advice, args, session),
        examples=examples,
        words=(TARGET_OR_FILE if advice in FILES_ABOUT else TARGET, KIND_TEXTS),
    )


COMMANDS = {
    "pageout": command(
        "pageout",
        """\
Private and shared memory goes to swap, pages of files back to their files. Pages mapped more than
once, by any process, stay: the kernel leaves them alone.""",
        (
            ("mematlas pageout 1234 --dry-run", "what could move, and why the rest stays"),
            ("mematlas pageout 1234 heap --coldest 64M", "the coldest 64 MiB of the heap"),
            ("mematlas pageout file:. --dry-run", "what of files could leave the page cache"),
        ),
        *(add_coldest, add_passes, add_aftermath),
    ),
    "cold": command(
        "cold",
        """\
Nothing leaves RAM: the pages are marked as not recently used, and are the first to go when memory is short. The effect
is the change in what smaps reports as referenced.""",
        (
            ("mematlas cold 1234 --dry-run", "what would be marked"),
            ("mematlas cold redis-server --file", "only its file pages"),
        ),
        add_coldest,
    ),
    "willneed": command(
        "willneed",
        """\
What is in swap is read in and mapped, by reading a byte of each page (needs PTRACE_MODE_ATTACH); what is in files
is read into the page cache.""",
        (
            ("mematlas willneed 1234 --dry-run", "what could come back"),
            ("mematlas willneed 1234 heap", "the heap, read from swap"),
            ("mematlas willneed file:.", "all files here, into the page cache"),
        ),
        add_no_touch,
    ),
    "collapse": command(
        "collapse",
        "Only whole, aligned huge pages can be made (x86-64: 2 MiB); pages that fill none stay small. Needs Linux 6.1.",
        (
            ("mematlas collapse 1234 --dry-run", "what could be merged"),
            ("mematlas collapse 1234 0x7f2860000000+16M", "only this range"),
        ),
    ),
}

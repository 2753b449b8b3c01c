"""What pageout, cold, willneed and collapse share: their arguments and their run."""

from __future__ import annotations

from mematlas.actions.plans import MAX_PASSES, act, check_target, free_frames, plan, undo
from mematlas.analysis.movable import Choice, parse_states
from mematlas.cli.options import add_output, add_target
from mematlas.cli.selection import add_selection, selection_of
from mematlas.cli.signals import Interrupts
from mematlas.cli.swap import add_temporary_swap, temporary_swap
from mematlas.cli.values import parse_count, parse_seconds
from mematlas.errors import BadInput, ProcessGone
from mematlas.frozen import record
from mematlas.model.address_space import parse_size
from mematlas.model.pages import STATES
from mematlas.notes import Note, Notes
from mematlas.views.actions import effect_table, plan_table, swap_warning
from mematlas.views.progress import Bar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.actions.plans import Effect, Plan
    from mematlas.actions.refaults import Refaults
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

USAGE = "[options] TARGET [AREA] | -- COMMAND ..."

ABOUT = """\
AREA is START-END, ADDR+LEN or an address, for just these pages; or a kind, or a part of a path, for whole VMAs.
What it did is measured page by page; nothing is destroyed. Needs CAP_SYS_NICE, and for the process of another user
CAP_SYS_PTRACE. PID 1, our own ancestors and ourselves are refused without --force."""


def add_common(arguments: Arguments) -> None:
    """Declare what all four take."""
    add_target(arguments)
    add_selection(arguments)
    arguments.add_argument("--anon", action="store_true", help="only pages of no file: private memory")
    arguments.add_argument("--file", action="store_true", help="only pages of files on disk")
    arguments.add_argument(
        "--state", type=parse_states, metavar="STATE,...", help=f"only pages in these states: {', '.join(STATES)}"
    )
    arguments.add_argument("--dry-run", action="store_true", help="say what can move, what cannot and why; do nothing")
    arguments.add_argument("--force", action="store_true", help="even PID 1, our own ancestors, ourselves")
    add_output(arguments)


def add_passes(arguments: Arguments) -> None:
    """Declare how often to try."""
    arguments.add_argument(
        "--passes",
        type=parse_count,
        default=MAX_PASSES,
        metavar="N",
        help=f"advise what stays up to N times ({MAX_PASSES}); it ends as soon as nothing more moves",
    )


def add_coldest(arguments: Arguments) -> None:
    """Declare the choice of cold pages."""
    arguments.add_argument(
        "--coldest",
        type=parse_amount,
        metavar="AMOUNT",
        help="only so many of the coldest pages (500, or 64M of them), by kpageflags: inactive, unreferenced first",
    )


@record
class Amount:
    """So much memory, in pages or in bytes."""

    number: int
    is_bytes: bool

    def nr_pages(self, page_size: int) -> int:
        """Return it in pages; a part of one counts."""
        return -(-self.number // page_size) if self.is_bytes else self.number


def parse_amount(text: str) -> Amount:
    """Return a number of pages, or with a unit a size.

    >>> parse_amount("512"), parse_amount("2M").nr_pages(1 << 12)
    (Amount(number=512, is_bytes=False), 512)
    """
    number = parse_size(text)
    if not number:
        raise BadInput(f"bad amount {text!r}: a number of pages such as 500, or a size such as 64M")
    return Amount(number, text[-1:].isalpha() and not text.lower().startswith("0x"))


def add_pageout(arguments: Arguments) -> None:
    """Declare what pageout alone takes."""
    arguments.add_argument(
        "--watch-refaults", type=parse_seconds, metavar="TIME", help="watch this long which pages come back, and when"
    )
    arguments.add_argument(
        "--free",
        action="store_true",
        help="read back and page out once more what the kernel keeps in the swap cache: then its frames are free",
    )
    arguments.add_argument("--undo", action="store_true", help="bring back what this run moved, at its end")
    add_temporary_swap(arguments, "swap to a file of this size for this run, then bring back what is in it (root)")


BROKEN_OFF = Note("broken-off", "broken off: what came after the last step that is told here is not known")
SWAP_GOES = Note("swap-goes", "the temporary swap is taken away now: what is in it comes back into RAM")


def run(advice: str, args: Namespace, session: Session) -> int:
    """Plan; then act, watch and undo, as far as that was asked for; show what it came to."""
    selection = selection_of(args, session)
    if args.anon and args.file:
        raise BadInput("--anon and --file leave nothing: no page is of a file and of none")
    choice = Choice(args.state, args.anon, args.file)
    process = session.process
    amount: Amount | None = getattr(args, "coldest", None)
    nr_coldest = None if amount is None else amount.nr_pages(process.page_size)
    if args.dry_run:
        planned = plan(process, advice, selection, choice, nr_coldest=nr_coldest)
        if not getattr(args, "temporary_swap", None):
            warn(session, planned)
        session.show(lambda: plan_table(planned, session.target_info()), args)
        return 0
    check_target(process, args.force)
    with Interrupts(session.err, between_steps=True) as stop, temporary_swap(getattr(args, "temporary_swap", None)):
        planned = plan(process, advice, selection, choice, nr_coldest=nr_coldest, dirty=False)
        warn(session, planned)
        run = Run(args, session, stop, carry_out(advice, planned, args, session, stop))
        try:
            run.go_on()
        except KeyboardInterrupt:
            run.notes.add(BROKEN_OFF)
        view = effect_table(run.effect, session.target_info(), process.page_size, run.refaults, run.undone)
        view.notes += run.notes
        if getattr(args, "temporary_swap", None):
            view.notes.add(SWAP_GOES)
        session.show(lambda: view, args)
        if run.gone:
            return ProcessGone.exit_code
    return stop.exit_code


def warn(session: Session, planned: Plan) -> None:
    """Say what lacks, and what to type."""
    session.write_lines(swap_warning(planned))


class Run:
    """What follows an act, as far as it got: it is told whatever happens."""

    def __init__(self, args: Namespace, session: Session, stop: Interrupts, effect: Effect) -> None:
        self.args = args
        self.session = session
        self.stop = stop
        self.effect = effect
        self.refaults: Refaults | None = None
        self.undone: Effect | None = None
        self.gone = effect.gone
        self.notes = Notes()

    def go_on(self) -> None:
        """Free, watch and undo, as far as that was asked for."""
        if getattr(self.args, "free", False):
            self.effect = free(self.effect, self.args, self.session, self.stop)
            self.gone = self.effect.gone
        seconds = getattr(self.args, "watch_refaults", None)
        if not self.effect.stopped and seconds is not None:
            self.refaults = watch(self.effect, seconds, self.session, self.stop)
            self.gone = self.refaults.gone
        if not self.gone and getattr(self.args, "undo", False):
            # Asked for beforehand, so it is done even when the rest was interrupted; only a new signal ends it.
            self.stop.forget()
            try:
                self.undone = bring_back(self.effect, self.session, self.stop)
                self.gone = self.undone.gone
            except ProcessGone:
                self.gone = True


def carry_out(advice: str, planned: Plan, args: Namespace, session: Session, stop: Interrupts) -> Effect:
    """Act, with a bar that shows how far it is."""
    bar = Bar(session.err, advice)
    try:
        return act(
            session.process,
            planned,
            passes=getattr(args, "passes", 1),
            exact=getattr(args, "free", False),
            touch=not getattr(args, "no_touch", False),
            progress=bar,
            stop=stop,
        )
    finally:
        bar.clear()


def free(effect: Effect, args: Namespace, session: Session, stop: Interrupts) -> Effect:
    """Free what the swap cache keeps, with a bar for each way."""
    bar = Bar(session.err, "free")
    try:
        return free_frames(session.process, effect, passes=args.passes, progress=bar, stop=stop)
    finally:
        bar.clear()


def bring_back(effect: Effect, session: Session, stop: Interrupts) -> Effect:
    """Undo, with a bar that shows how far it is."""
    bar = Bar(session.err, "undo")
    try:
        return undo(session.process, effect, progress=bar, stop=stop)
    finally:
        bar.clear()


def watch(effect: Effect, seconds: float, session: Session, stop: Interrupts) -> Refaults:
    """Watch for the pages that come back, with a bar that shows the time."""
    from mematlas.actions.refaults import watch_refaults

    bar = Bar(session.err, "refaults")
    try:
        return watch_refaults(
            session.process, effect.moved, seconds, progress=lambda gone, _: bar(gone, seconds), stop=stop
        )
    finally:
        bar.clear()

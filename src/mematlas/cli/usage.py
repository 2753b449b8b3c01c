"""PSS divides each page in RAM by its number of mappings; USS is what this process alone maps. Pages of hugetlb pools
and the zero page are no part of RSS.

Several processes have a row each, and a total in which each page counts once. A group, such as name:postgres or
cgroup:/shop, is one thing: each page counts once in it.
"""

from __future__ import annotations

from mematlas.cli.command import MORE, TARGET, Command
from mematlas.cli.options import add_numa, add_output, add_repeat, add_source, add_target, since_first
from mematlas.errors import BadInput, NotSupported, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.notes import Note, Notes
from mematlas.views.usage import Subject, sharing_notes, usage_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from mematlas.analysis.ending import EndingResult
    from mematlas.analysis.results import UsageResult
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.observe.process import Process
    from mematlas.observe.together import Together
    from mematlas.views.table import Table
    from mematlas.words import Source

    Result = TypeVar("Result", UsageResult, EndingResult)


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument("--each", action="store_true", help="of a group: a row for each process")
    add_numa(arguments)
    arguments.add_argument("--distinct", action="store_true", help="also count each resident frame once (as root)")
    arguments.add_argument(
        "--if-ended",
        action="store_true",
        help="what ending it would free, or leave in use (as root)",
    )
    arguments.add_argument("--folios", action="store_true", help="how much of RSS is in folios of which size")
    add_source(arguments)
    arguments.add_argument(
        "--verify",
        action="store_true",
        help="compare three kernel sources; exit 10 if they disagree",
    )
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    if args.verify:
        session.no_more_words("--verify takes one process")
        return verify(args, session)
    session.take_more_targets()
    if args.if_ended:
        return if_ended(args, session)
    if session.has_group and not args.each:
        return groups(args, session)
    since = since_first(args)

    def look(process: Process) -> UsageResult:
        return process.usage(args.source, args.max_stall, args.numa, args.distinct, args.folios)

    def make() -> Table:
        results, notes = look_at_all(session, look)
        together = look_together(session, args.source, args.max_stall) if len(results) > 1 else None
        if isinstance(together, Note):
            notes.add(together)
            together = None
        return usage_table(results, notes, args.distinct, together, session.is_list, since)

    session.show(make, args)
    return 0


def groups(args: Namespace, session: Session) -> int:
    """Show each group as one; who is in it is found out at each look."""
    from mematlas.observe.process_set import CGROUP, left_in, measure_sets
    from mematlas.views.set_usage import group_table

    if args.numa or args.folios:
        raise BadInput("--numa and --folios are about single processes: add --each")
    since = since_first(args)

    def make() -> Table:
        try:
            sets = session.find_sets()
        except TargetNotFound:
            # A cgroup may be charged for what its processes left behind.
            is_cgroup = session.text.startswith(CGROUP) and not session.is_list
            if not is_cgroup or not (left := left_in(session.text, session.procfs)):
                raise
            return group_table([left], since=since)
        usages = measure_sets(sets, args.source, args.max_stall)
        notes = [note for one in sets for note in one.notes]
        total = usages.pop() if len(sets) > 1 else None
        return group_table(usages, total, notes, since)

    session.show(make, args)
    return 0


def look_together(session: Session, source: Source, max_stall: float) -> Together | Note:
    """Return what several processes have with each page counted once, or why that is not known."""
    from mematlas.observe.together import count_together

    try:
        return count_together(session.processes, source, max_stall)
    except (PermissionDenied, NotSupported) as error:
        from mematlas.observe.process_set import PSS_ADDS_UP

        return Note("pss-adds-up", f"{PSS_ADDS_UP}: {error}")


def look_at_all(session: Session, look: Callable[[Process], Result]) -> tuple[list[Subject[Result]], Notes]:
    """Return what a look at each process of the target tells, and who that is; each address space once.

    With that come the notes on those that are left out, or share one.
    """
    from mematlas.model.shared_mm import AddressSpaces

    processes = session.processes
    results, notes = [], Notes()
    if len(processes) == 1:
        (process,) = processes
        result = look(process)
        notes += sharing_notes(dict.fromkeys(process.sharing_memory() or (), process.pid))
        return [Subject(session.target_info(result.reading, process), result)], notes
    spaces = AddressSpaces(session.procfs)
    last: PermissionDenied | ProcessGone | None = None
    for process in processes:
        try:
            if spaces.is_met_again(process.dir):
                continue
            result = look(process)
        except (PermissionDenied, ProcessGone) as error:
            if session.is_list and isinstance(error, PermissionDenied):
                raise
            notes.add(Note("left-out", f"left out: {error}"))
            last = error
            continue
        results.append(Subject(session.target_info(result.reading, process), result))
    if last and not results:
        raise last  # there is nobody left to look at
    notes += sharing_notes(spaces.earlier)
    return results, notes


def if_ended(args: Namespace, session: Session) -> int:
    from mematlas.views.ending import ending_table

    if args.numa or args.distinct or args.folios:
        raise BadInput("--if-ended cannot be combined with --numa, --distinct or --folios")
    if args.source == "smaps":
        raise BadInput("--if-ended counts frame by frame, which smaps cannot: use --source pagemap or tables")

    def look(process: Process) -> EndingResult:
        return process.if_ended(args.source, args.max_stall)

    def make() -> Table:
        return ending_table(*look_at_all(session, look))

    session.show(make, args)
    return 0


def verify(args: Namespace, session: Session) -> int:
    from mematlas.observe.usage_check import check_usage
    from mematlas.views.verify import verify_table

    if args.source != "auto":
        raise BadInput("--verify reads every source: not with --source")
    if args.numa or args.distinct or args.folios or args.if_ended:
        raise BadInput("--verify cannot be combined with --numa, --distinct, --folios or --if-ended")

    def make() -> Table:
        check = check_usage(session.process)
        return verify_table(check, session.target_info(check.reading))

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] TARGET... | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas usage redis-server", "the process of that name, or a PID"),
        ("mematlas usage name:postgres", "all of that name, as one"),
        ("mematlas usage 1234 --verify", "from three kernel sources, compared"),
    ),
    words=(TARGET, MORE),
)

"""Each process with what it uses, the largest PSS first. PSS divides a page among those who map it: its total has each
page once, RSS and SHARED have none.

TARGET... limits the list. Who may not be looked at, or does not answer, is named below it.
"""

from __future__ import annotations

import os

from mematlas.analysis.listing import BY
from mematlas.cli.command import MORE, TARGET, Command
from mematlas.cli.options import (
    add_max_stall,
    add_output,
    add_repeat,
    add_sample,
    add_target,
    form_of,
    parse_count,
    since_first,
)
from mematlas.cli.session import allow_many_files
from mematlas.errors import BadInput, did_you_mean
from mematlas.model.processes import REFUSED
from mematlas.observe.machine import Machine
from mematlas.views.processes import COLUMNS, GROUP_COLUMNS, Wanted, groups_table, processes_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.listing import ProcessesResult
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.model.target import Target
    from mematlas.views.table import Table

EVERYBODY = ""
"""The target where none is given."""
OF_PROCESSES = tuple(column.key for column in COLUMNS)
OF_GROUPS = tuple(column.key for column in GROUP_COLUMNS)
SORTS = (
    *("pid", "user", "name", "cgroup", "rss", "pss", "uss", "swap", "shared", "thp", "hugetlb", "tables"),
    *("charged", "limit", "headroom", "change"),
)
"""What rows can be sorted by; groups by what they have of it."""
IN_CGROUP = dict.fromkeys(("container", "pod", "unit"), "cgroup")
"""Columns that another one tells."""
IN_GROUPS = {"thp": "thp_sum", "processes": "nr_processes"}
"""What groups have in the place of some columns of processes."""


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument("--by", choices=BY, help="one row for all of a name, a user, a container")
    arguments.add_argument("--sort", choices=SORTS, help="largest first (default: pss)")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="show N rows, and the total of the rest")
    arguments.add_argument("--columns", type=parse_columns, metavar="NAME,...", help="these columns, in this order")
    arguments.add_argument("--distinct", action="store_true", help="totals by frames: each page once (as root)")
    add_sample(arguments)
    add_max_stall(arguments)
    add_repeat(arguments)
    add_output(arguments)


def parse_columns(text: str) -> tuple[str, ...]:
    """Return the keys of columns that a person typed: ``pid,name,pss``."""
    known = (*dict.fromkeys((*OF_PROCESSES, *OF_GROUPS, *IN_GROUPS, "change")),)
    words = tuple(text.split(","))
    for word in words:
        if word not in known:
            raise BadInput(f"no column {word!r}{did_you_mean(word, known)}; there are {', '.join(known)}")
    return words


def run(args: Namespace, session: Session) -> int:
    session.take_more_targets()
    allow_many_files()  # for frames, and of those that are large, many are held open
    wanted = wanted_of(args)
    if args.sample is not None and (args.by or args.distinct):
        raise BadInput(f"--sample estimates single processes: not with {'--by' if args.by else '--distinct'}")
    targets = None if session.text == EVERYBODY else targets_of(session)
    details = details_of(args, wanted)

    def make() -> Table:
        machine = Machine(session.procfs)
        if args.by:
            groups = machine.groups(args.by, targets, max_stall=args.max_stall, distinct=args.distinct)
            return groups_table(groups, wanted, line_for(groups.processes, session))
        result = machine.processes(
            targets, max_stall=args.max_stall, details=details, distinct=args.distinct, sample=args.sample
        )
        return processes_table(result, wanted, line_for(result, session))

    try:
        session.show(make, args)
    finally:
        for target in targets or ():
            if not isinstance(target, str):
                target.close()
    return 0


def details_of(args: Namespace, wanted: Wanted) -> frozenset[str]:
    """Return what is to be read of each process besides its amounts: no more than is shown, or needed."""
    details = {"cgroup", "exe", "start_time"}
    if wanted.columns:
        details &= {IN_CGROUP.get(key, key) for key in (*wanted.columns, wanted.sort)}
    else:
        details -= {"exe"} if form_of(args) != "table" else {"exe", "start_time"}
    return frozenset(details | ({"start_time"} if wanted.since else set()))


def targets_of(session: Session) -> list[str | Target]:
    """Return the targets that were named: those of a PID, which stays the same, and of a capture held open."""
    from mematlas.model.search import distinct, resolve_all
    from mematlas.model.target import by_number

    held: list[Target] = []
    patterns: list[str | Target] = []
    for text in (session.text, *session.more):
        if (target := by_number(text, session.procfs)) is not None:
            held.append(target)
        elif os.path.isdir(text) and (found := resolve_all(text, session.procfs).targets)[0].procfs.captured:
            held += found
        else:
            patterns.append(text)
    held = distinct(held) if held else []
    if held:
        session.procfs = held[0].procfs
    return [*held, *patterns]


def line_for(result: ProcessesResult, session: Session) -> str:
    """Return the line that shows what is hidden from us; nothing where that is nothing, or no line does."""
    from mematlas.kernel.rights import effective_capabilities, in_user_namespace

    if not result.skipped[REFUSED] or "CAP_SYS_PTRACE" in effective_capabilities() or in_user_namespace():
        return ""
    from mematlas.doctor.hints import sudo_line

    return sudo_line(["ps", *filter(None, (session.text, *session.more))])


def wanted_of(args: Namespace) -> Wanted:
    """Return what the table is to have.

    Raises:
        BadInput: groups, or processes, have no such column.
    """
    since = since_first(args)
    known = {*(OF_GROUPS if args.by else OF_PROCESSES)}
    known |= {"change"} if since else set()

    def key_of(word: str, option: str) -> str:
        key = IN_GROUPS.get(word, word) if args.by else word
        if key == "rss" and args.by and not args.distinct:
            return "rss_sum"
        if key in known:
            return key
        if word == "change":
            raise BadInput(f"{option} change needs -i: it is since the first look")
        raise BadInput(
            f"{option} {word}: {'groups have no such column' if args.by else 'only groups have it: add --by'}"
        )

    columns = tuple(key_of(word, "--columns") for word in args.columns or ())
    return Wanted(columns=columns, sort=key_of(args.sort or "pss", "--sort"), limit=args.limit, since=since)


COMMAND = Command(
    "[options] [TARGET...] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas ps --limit 20", "who uses the most"),
        ("mematlas ps --by user --sort swap", "one row per user, the largest in swap first"),
        ("mematlas ps redis-server --columns pid,pss,uss --json", "some columns, for a program"),
    ),
    words=(TARGET, MORE),
    default_target=lambda args: None if args.words else EVERYBODY,
)

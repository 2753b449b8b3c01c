"""Page-table entries as the processor reads them, of any process or of the kernel. Given addresses, it shows how
each is translated, next to what pagemap says.

Needs CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON; for other users' processes also CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
Nothing is changed.

--flags takes letters (w x u a d g), names of flags, and states (swap, guard, migration, ...), each with ! for "not".
Entries that point to tables are then left out, unless "table" is in the list. --kernel needs no target.
"""

from __future__ import annotations

from mematlas.cli.addresses import address_of, addresses_of, is_kernel_address, refuse_two_readings
from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_output, add_repeat, add_target, form_of, parse_count
from mematlas.errors import BadInput, NotHeld, NotSupported
from mematlas.model.address_space import parse_address, parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mematlas.analysis.pagetables.results import RawTable, Stream
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.observe.pagetables import PageTables
    from mematlas.views.table import Table


MODES = ("list", "raw", "tree", "audit", "verify")
LEVELS = {"pgd": "the top", "p4d": "with five levels", "pud": "", "pmd": "", "pte": "single pages"}
READERS = {"auto": "what is there", "bpf": "a BPF program", "kcore": "/proc/kcore", "module": "our kernel module"}


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    arguments.add_argument("--list", action="store_true", help="every entry, indented by level")
    arguments.add_argument("--flags", metavar="FLAG,...", help="with --list: only entries with these flags: w,x,!nx")
    arguments.add_argument("--tree", action="store_true", help="every table, with what is below it")
    arguments.add_argument("--audit", action="store_true", help="find W+X memory, kernel pages open to users, aliases")
    arguments.add_argument("--verify", action="store_true", help="check against pagemap; exit 10 if they disagree")
    arguments.add_argument("--kernel", action="store_true", help="the kernel half of the address space")
    arguments.add_more("--range", metavar="RANGE", help="only ADDR+LEN or START-END")
    arguments.add_more("--runs", action="store_true", help="with --list: merge similar neighbours into one line")
    arguments.add_more("--limit", type=parse_count, metavar="N", help="with --list: stop after N lines")
    arguments.add_more("--level", choices=LEVELS, help="with --list: only this level; with --tree: no deeper")
    arguments.add_more(
        "--raw", choices=LEVELS, metavar="LEVEL", help="dump the tables of a level; NUMBER or ADDRESS selects one"
    )
    arguments.add_more("--binary", action="store_true", help="with --raw: bytes instead of text")
    arguments.add_more("--fail", action="store_true", help="with --audit: exit 10 if it finds something")
    arguments.add_more("--user-pgd", action="store_true", help="the top table that user space runs with (PTI)")
    arguments.add_more("--reader", choices=READERS, default="auto", help="auto (default), bpf, kcore or module")
    add_repeat(arguments)
    add_output(arguments)


def default_target(args: Namespace) -> str | None:
    """Return the target when none is given: the kernel half is the same in all of them."""
    return "self" if args.kernel and (not args.words or is_kernel_address(args.words[0])) else None


def run(args: Namespace, session: Session) -> int:
    check(args, session.words)
    if session.process.dir.captured:
        return at_moment(args, session)
    from mematlas.observe.pagetables import PageTables

    half = "kernel" if args.kernel else "user"
    with PageTables(session.process, args.reader, half, args.user_pgd, span_of(args, session)) as page_tables:
        view = chosen(args, session, page_tables)
        if args.binary:
            session.write_bytes(bytes_of(args, session, page_tables))
        else:
            session.show(view, args)
    return 0


def at_moment(args: Namespace, session: Session) -> int:
    """Show how many page tables there were at a moment of a recording.

    Raises:
        BadInput: something else is asked for, which nobody has recorded.
        NotSupported: they were not recorded, or this is a capture.
    """
    from mematlas.observe.recorded_tables import read_tables
    from mematlas.views.pagetables.summary import summary_view

    process = session.process.dir
    try:
        result = read_tables(process)
    except NotHeld as error:
        if error.text:
            raise
        raise NotSupported(f"page tables of {process.path}", "a running process, or record --what tables") from None
    asked = [f"--{name.replace('_', '-')}" for name in (*MODES, "kernel", "range", "user_pgd") if getattr(args, name)]
    if asked or session.words:
        what = asked[0] if asked else session.words[0]
        raise BadInput(f"{what}: a recording has how many page tables there were, and what they mapped")
    session.show(lambda: summary_view(result, session.target_info()), args)
    return 0


def check(args: Namespace, words: list[str]) -> None:
    """Refuse options that say nothing together."""
    asked = [name for name in MODES if getattr(args, name)]
    if not asked:
        addresses_of(words)
    if len(asked) > 1:
        raise BadInput(f"--{asked[0]} and --{asked[1]}: one at a time")
    for option, needs in (("runs", "list"), ("flags", "list"), ("limit", "list"), ("binary", "raw"), ("fail", "audit")):
        if getattr(args, option) not in (None, False) and not getattr(args, needs):
            raise BadInput(f"--{option} needs --{needs}")
    if args.level and not (args.list or args.tree):
        raise BadInput("--level needs --list or --tree")
    if args.runs and args.flags is not None and "table" in args.flags.split(","):
        raise BadInput("--runs leaves out entries that point to tables: not with --flags table")
    if args.verify and (args.kernel or args.user_pgd):
        raise BadInput("--verify checks the user half: not with --kernel or --user-pgd")
    if args.range is not None and words and (not asked or (args.raw and not is_number(words[0]))):
        raise BadInput("--range cannot be combined with single addresses")
    if args.binary:
        for option in ("json", "bytes", "interval", "count"):
            if getattr(args, option) not in (None, False):
                raise BadInput(f"--binary writes raw tables, once: not with --{option}")
        if form_of(args) != "table":
            raise BadInput(f"--binary writes raw tables: not with --format {args.format}")


def span_of(args: Namespace, session: Session) -> tuple[int, int] | None:
    """Return the addresses that were asked for; None for all of the half."""
    if args.range is None:
        return None
    refuse_two_readings(args.range)
    span = parse_range(args.range, session.process.page_size)
    if span is None:
        raise BadInput(f"bad range {args.range!r}: ADDR, ADDR+LEN or START-END")
    return span


def chosen(args: Namespace, session: Session, page_tables: PageTables) -> Callable[[], Table]:
    """Return what makes the view that was asked for."""
    if args.raw:
        picked = picked_of(args, session, page_tables)
        return lambda: raw(args, session, page_tables, picked)
    if not any(getattr(args, name) for name in MODES) and session.words:
        addresses = [in_half(address, page_tables) for address in addresses_of(session.words)]
        return lambda: walks(session, page_tables, addresses)
    if session.words and parse_address(session.words[0]) is not None:
        mode = next((name for name in MODES if getattr(args, name)), "")
        raise BadInput(f"--{mode} takes no address; to see a part, use --range")
    session.no_more_words()
    if args.list:
        return lambda: listing(args, session, page_tables)
    if args.tree:
        return lambda: tree(args, session, page_tables)
    if args.audit:
        return lambda: audit(args, session, page_tables)
    if args.verify:
        return lambda: verify(session, page_tables)
    return lambda: summary(session, page_tables)


def in_half(address: int, page_tables: PageTables) -> int:
    """Return an address; with --kernel it has to be one of the kernel half."""
    if page_tables.half == "kernel" and address < page_tables.mode.kernel_start:
        raise BadInput(f"{address:#x} is not in the kernel half, which starts at {page_tables.mode.kernel_start:#x}")
    return address


def summary(session: Session, page_tables: PageTables) -> Table:
    from mematlas.views.pagetables.summary import summary_view

    return summary_view(page_tables.summary(), session.target_info())


def walks(session: Session, page_tables: PageTables, addresses: list[int]) -> Table:
    from mematlas.views.pagetables.walks import walk_view

    return walk_view(page_tables.walk(addresses), session.target_info())


def listing(args: Namespace, session: Session, page_tables: PageTables) -> Table:
    from mematlas.analysis.pagetables.entries import EntryFilter, parse_flags
    from mematlas.views.pagetables.entries import list_view, runs_view

    levels = frozenset([page_tables.level_number(args.level)]) if args.level else None
    flags = () if args.flags is None else parse_flags(args.flags, page_tables.mode)
    wanted = EntryFilter(levels, flags)
    if args.runs:
        return runs_view(page_tables.runs(wanted, args.limit), session.target_info())
    return list_view(page_tables.entries(wanted, args.limit), session.target_info())


MOST_DIGITS = 11
"""Of the number of a table: with five levels there may be 2^36 of the last. What is longer is an address."""


def is_number(word: str) -> bool:
    """Whether a word is the number of a table, and no address."""
    return word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS


def picked_of(args: Namespace, session: Session, page_tables: PageTables) -> tuple[int | None, int | None]:
    """Return which tables --raw asks for: by number, by an address that they translate, or all."""
    if len(session.words) > 1:
        raise BadInput(f"unexpected argument {session.words[1]!r}")
    if not session.words:
        return None, None
    word = session.words[0]
    if is_number(word):
        return int(word), None
    address = in_half(address_of(word), page_tables)
    if not page_tables.start <= address < page_tables.end:
        raise BadInput(f"{address:#x} is not in the user half; --kernel shows the other")
    return None, address


def raw_tables(args: Namespace, page_tables: PageTables, picked: tuple[int | None, int | None]) -> Stream[RawTable]:
    """Return the tables that --raw asks for."""
    return page_tables.raw(page_tables.level_number(args.raw), *picked)


def raw(args: Namespace, session: Session, page_tables: PageTables, picked: tuple[int | None, int | None]) -> Table:
    from mematlas.views.pagetables.entries import raw_view

    return raw_view(raw_tables(args, page_tables, picked), session.target_info())


def bytes_of(args: Namespace, session: Session, page_tables: PageTables) -> Iterator[bytes]:
    """Yield the tables that --raw asks for as they stand in memory."""
    for raw_table in raw_tables(args, page_tables, picked_of(args, session, page_tables)):
        yield raw_table.entries.tobytes()


def tree(args: Namespace, session: Session, page_tables: PageTables) -> Table:
    from mematlas.views.pagetables.tree import tree_view

    depth = page_tables.level_number(args.level) if args.level else len(page_tables.mode.levels)
    return tree_view(page_tables.tree(), session.target_info(), depth)


def audit(args: Namespace, session: Session, page_tables: PageTables) -> Table:
    from mematlas.views.pagetables.checks import audit_view

    result = page_tables.audit(both=not args.kernel and args.range is None)
    return audit_view(result, session.target_info(), must_pass=args.fail)


def verify(session: Session, page_tables: PageTables) -> Table:
    from mematlas.views.pagetables.checks import verify_view

    return verify_view(page_tables.verify(), session.target_info())


COMMAND = Command(
    "[options] TARGET [ADDRESS...] | --kernel | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas tables 1234", "how many tables and entries of each level"),
        ("mematlas tables 1234 0x7f2860000123", "one address, from PGD to PTE"),
        ("mematlas tables 1234 --list --flags w,x", "writable and executable"),
    ),
    words=(TARGET,),
    default_target=default_target,
)

"""Each line is one VMA, with how many of its pages are present, not just the state of its first page. AREA selects VMAs
by address, START-END, ADDR+LEN, kind, or part of the path.
"""

from __future__ import annotations

from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_numa, add_output, add_repeat, add_source, add_target, parse_count, since_first
from mematlas.cli.selection import KIND_TEXTS, add_selection, nothing_matches, selection_of
from mematlas.errors import BadInput
from mematlas.views.maps import BY, SORTS, maps_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_selection(arguments)
    arguments.add_argument("--gaps", action="store_true", help="also show unmapped ranges")
    arguments.add_argument("--sort", choices=SORTS, help="largest first; start (default) sorts by address")
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="show N rows, and the total of the rest")
    arguments.add_argument("--by", choices=BY, help="one row per kind, path, perms, owner; largest RSS first")
    add_numa(arguments)
    add_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    selection = selection_of(args, session)
    if args.gaps and (args.by or args.sort not in (None, "start")):
        raise BadInput("--gaps lie between neighbouring VMAs: not with --by or --sort")
    if args.by and args.sort == "start":
        raise BadInput(f"a row of --by has no start: use --sort {', '.join(SORTS[1:])}")

    since = since_first(args)
    if args.sort == "change" and since is None:
        raise BadInput("--sort change needs -i: it ranks by the change since the first look")

    def make() -> Table:
        by_owner = args.by == "owner"
        result = session.process.maps(args.source, args.max_stall, selection, numa=args.numa, owners=by_owner)
        if not result.vmas:
            raise nothing_matches(selection, session)
        target = session.target_info(result.reading)
        if args.by:
            from mematlas.views.vma_groups import groups_table

            return groups_table(result, target, args.by, args.sort, args.limit, since)
        return maps_table(result, target, args.gaps, args.sort, args.limit, since)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] TARGET [AREA] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas maps 1234 --by owner", "threads' stacks, heap, arenas, runtimes"),
        ("mematlas maps 1234 --sort uss --limit 10", "the ten largest"),
        ("mematlas maps 1234 libc --format csv", "one library, for a spreadsheet"),
    ),
    words=(TARGET, KIND_TEXTS),
)

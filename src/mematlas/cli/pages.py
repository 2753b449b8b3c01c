"""AREA is an address (its page), ADDR+LEN, START-END, a kind, or part of a VMA's path. Lines are printed as they are
read, however large the target is.

Frame numbers need CAP_SYS_ADMIN; map counts and frame flags need CAP_DAC_READ_SEARCH. The NUMA node is shown on
machines with several, and always in JSON and CSV.
"""

from __future__ import annotations

from mematlas.analysis.page_filter import PageFilter
from mematlas.cli.command import TARGET, Command
from mematlas.cli.options import add_output, add_page_source, add_repeat, add_target, parse_count
from mematlas.cli.selection import KIND_TEXTS, add_selection, selection_of, span_of
from mematlas.errors import BadInput, NotSupported
from mematlas.kernel.pagemap import has_soft_dirty
from mematlas.observe.page_list import PageList
from mematlas.views.pages import pages_table, runs_table, width_of_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session
    from mematlas.views.table import Table


def add_arguments(arguments: Arguments) -> None:
    add_target(arguments)
    add_selection(arguments)
    arguments.add_argument("--runs", action="store_true", help="a line per run of similar pages, not per page")
    arguments.add_argument("--present", action="store_true", help="only pages with a frame")
    arguments.add_argument("--swapped", action="store_true", help="only pages in swap")
    arguments.add_argument("--exclusive", action="store_true", help="only present pages that are mapped once")
    arguments.add_argument("--dirty", action="store_true", help="only pages whose frame is dirty (kpageflags)")
    arguments.add_more(
        "--soft-dirty", action="store_true", help="only pages written since the last clear_refs, or in a newer VMA"
    )
    arguments.add_more(
        "--accessed", action="store_true", help="only pages accessed, by page tables or as the program tracks it (7.3)"
    )
    arguments.add_argument("--limit", type=parse_count, metavar="N", help="stop after N lines")
    add_page_source(arguments)
    add_repeat(arguments)
    add_output(arguments)


def run(args: Namespace, session: Session) -> int:
    start, end, selection = span_of(selection_of(args, session), session, one_page=True)
    wanted = PageFilter(
        present=args.present,
        swapped=args.swapped,
        exclusive=args.exclusive,
        dirty=args.dirty,
        soft_dirty=args.soft_dirty,
        accessed=args.accessed,
    )
    if args.runs and args.dirty:
        raise BadInput("--dirty needs single frames: not with --runs")
    soft_dirty = has_soft_dirty(session.process.procfs)
    if args.soft_dirty and soft_dirty is False:
        raise NotSupported("soft-dirty bits", "CONFIG_MEM_SOFT_DIRTY")

    def make() -> Table:
        pages = session.process.pages(
            start, end, selection, source=args.source, max_stall=args.max_stall, accessed=args.accessed
        )
        listed = PageList(session.process, pages, wanted, args.limit)
        flags_width = width_of_flags(pages.source, soft_dirty is not False, args.accessed)
        table = runs_table if args.runs else pages_table
        return table(listed, lambda: session.target_info(listed.reading), flags_width)

    session.show(make, args)
    return 0


COMMAND = Command(
    "[options] TARGET [AREA] | -- COMMAND ...",
    __doc__,
    add_arguments,
    run,
    examples=(
        ("mematlas pages 1234 heap --runs", "the heap, a line per run"),
        ("mematlas pages 1234 0x7f2860000000+1M", "every page of one MiB"),
        ("mematlas pages 1234 --swapped --limit 20", "the first 20 pages in swap"),
    ),
    words=(TARGET, KIND_TEXTS),
)

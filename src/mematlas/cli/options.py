"""The arguments that several commands share, declared once."""

from __future__ import annotations

from mematlas.cli.values import parse_count, parse_interval, parse_seconds, parse_width
from mematlas.observe.sources import MAX_STALL, PAGE_SOURCES, SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.views.since import Since

FORMATS = {
    "table": "for people",
    "json": "one object with all rows",
    "jsonl": "one object per line",
    "csv": "a line of names, then values",
}
COLORS = {"auto": "on a terminal", "always": "into pipes too", "never": "none"}
SOURCE_TEXTS = {
    "auto": "whichever is fast and gentle enough",
    "smaps": "the kernel's own sums; pauses a large target",
    "pagemap": "page by page, with pauses",
    "tables": "raw page tables, without a lock (as root)",
}


def add_target(arguments: Arguments) -> None:
    """Declare the words of a command: its target, then whatever else it takes."""
    arguments.add_argument("words", nargs="*", metavar="TARGET", help="what to look at")
    arguments.add_common("-p", "--pid", metavar="TARGET", help="the target, as an option")
    arguments.add_common(
        "--after",
        type=parse_seconds,
        default=1.0,
        metavar="TIME",
        help="with -- COMMAND: look this long after its start (default 1s)",
    )


def add_output(arguments: Arguments) -> None:
    """Declare how results are written."""
    arguments.add_common("--format", choices=FORMATS, default="table", help="table (default), json, jsonl or csv")
    arguments.add_common("--json", action="store_true", help="short for --format json")
    arguments.add_common("--bytes", action="store_true", help="sizes as integers, in bytes")
    arguments.add_common("--wide", action="store_true", help="every column, however narrow the terminal is")
    add_color(arguments)


def form_of(args: Namespace) -> str:
    """Return the format that results are written in: one of `FORMATS`."""
    return "json" if args.json else str(args.format)


def add_color(arguments: Arguments) -> None:
    """Declare when colours are written."""
    arguments.add_common("--color", choices=COLORS, default="auto", help="auto (default), always or never")


def add_repeat(arguments: Arguments) -> None:
    """Declare repetition in place."""
    arguments.add_common(
        "-i", "--interval", type=parse_interval, metavar="TIME", help="repeat every TIME (1s, 200ms); q or Ctrl-C stops"
    )
    arguments.add_common("-n", "--count", type=parse_count, metavar="N", help="stop after N repeats")


def repetition(args: Namespace) -> tuple[float | None, int | None]:
    """Return the seconds between looks, and how many there are; None for one look alone, and for any number."""
    interval, count = getattr(args, "interval", None), getattr(args, "count", None)
    if interval is None and count is not None:
        interval = 1.0
    return interval, count


def repeats(args: Namespace) -> bool:
    """Whether a command is to look again and again."""
    return repetition(args)[0] is not None


def since_first(args: Namespace) -> Since | None:
    """Return what remembers the first of several looks; None where there is one look alone."""
    if not repeats(args):
        return None
    from mematlas.views.since import Since

    return Since()


def add_source(arguments: Arguments) -> None:
    """Declare where the numbers come from."""
    arguments.add_common(
        "--source",
        choices={source: SOURCE_TEXTS[source] for source in SOURCES},
        default="auto",
        help="auto (default): smaps if fast enough, else pagemap; page tables for large targets if permitted",
    )
    add_max_stall(arguments)


def add_width(arguments: Arguments) -> None:
    """Declare the columns of a picture."""
    arguments.add_argument("--width", type=parse_width, metavar="N", help="columns (default: the terminal's, or 80)")


def add_reserved(arguments: Arguments) -> None:
    """Declare that nothing is folded."""
    arguments.add_argument("--reserved", action="store_true", help="also draw long runs of untouched memory")


def add_numa(arguments: Arguments) -> None:
    """Declare the amounts by NUMA node."""
    arguments.add_argument("--numa", action="store_true", help="also show how much is on each NUMA node")


def add_page_source(arguments: Arguments) -> None:
    """Declare where single pages are read from."""
    arguments.add_common(
        "--source",
        choices={source: SOURCE_TEXTS[source] for source in PAGE_SOURCES},
        default="auto",
        help="auto (default): pagemap, or page tables for large targets if permitted",
    )
    add_max_stall(arguments)


def add_max_stall(arguments: Arguments) -> None:
    """Declare what decides between sources."""
    arguments.add_common(
        "--max-stall",
        type=parse_seconds,
        default=MAX_STALL,
        metavar="TIME",
        help="with --source auto: pause the target at most this long (default 5ms)",
    )

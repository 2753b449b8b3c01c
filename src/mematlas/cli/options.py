"""The arguments that several commands share, declared once."""

from __future__ import annotations

from mematlas.cli.values import parse_count, parse_interval, parse_seconds, parse_width
from mematlas.observe.sources import MAX_STALL, PAGE_SOURCES, SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments

FORMATS = ("table", "json", "jsonl", "csv")


def add_target(arguments: Arguments) -> None:
    """Declare the words of a command: its target, then whatever else it takes."""
    arguments.add_argument("words", nargs="*", metavar="TARGET", help="what to look at; see below")
    arguments.add_argument("-p", "--pid", metavar="TARGET", help="the target, as an option")
    arguments.add_argument(
        "--after",
        type=parse_seconds,
        default=1.0,
        metavar="TIME",
        help="with -- COMMAND: look this long after its start (1s)",
    )


def add_output(arguments: Arguments) -> None:
    """Declare how results are written."""
    arguments.add_argument("--format", choices=FORMATS, default="table", help="table (default), json, jsonl or csv")
    arguments.add_argument("--json", action="store_true", help="short for --format json")
    arguments.add_argument("--bytes", action="store_true", help="sizes as integers, in bytes")
    arguments.add_argument("--wide", action="store_true", help="every column, however narrow the terminal is")
    arguments.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto (default), always or never"
    )


def add_repeat(arguments: Arguments) -> None:
    """Declare repetition in place."""
    arguments.add_argument(
        "-i", "--interval", type=parse_interval, metavar="TIME", help="repeat every TIME (1s, 200ms); q or Ctrl-C stops"
    )
    arguments.add_argument("-n", "--count", type=parse_count, metavar="N", help="stop after N times")


def add_source(arguments: Arguments) -> None:
    """Declare where the numbers come from."""
    arguments.add_argument(
        "--source",
        choices=SOURCES,
        default="auto",
        help="auto (default): smaps where it is quick, else pagemap, or page tables for much if we may",
    )
    add_max_stall(arguments)


def add_width(arguments: Arguments) -> None:
    """Declare the columns of a picture."""
    arguments.add_argument("--width", type=parse_width, metavar="N", help="columns (the terminal's width, or 80)")


def add_reserved(arguments: Arguments) -> None:
    """Declare that nothing is folded."""
    arguments.add_argument("--reserved", action="store_true", help="draw long runs of untouched memory as well")


def add_numa(arguments: Arguments) -> None:
    """Declare the amounts by NUMA node."""
    arguments.add_argument("--numa", action="store_true", help="how much of it is on each NUMA node, as well")


def add_page_source(arguments: Arguments) -> None:
    """Declare where single pages are read from."""
    arguments.add_argument(
        "--source",
        choices=PAGE_SOURCES,
        default="auto",
        help="auto (default): pagemap, or page tables where there is much to read if we may",
    )
    add_max_stall(arguments)


def add_max_stall(arguments: Arguments) -> None:
    """Declare what decides between sources."""
    arguments.add_argument(
        "--max-stall",
        type=parse_seconds,
        default=MAX_STALL,
        metavar="TIME",
        help="hold up the target no longer than this with --source auto (5ms)",
    )

"""The arguments that several commands share, declared once, and what their values mean: times, numbers, sizes."""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.kernel.procfs import MAX_STALL
from mematlas.views.terminal import screen_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

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
LEAST_WIDTH, MOST_WIDTH = 40, 1_000
"""Columns below which nothing can be drawn, and above which nobody looks."""
YEAR = 365.25 * 86_400
LONGEST = 30 * YEAR
"""Seconds: what the kernel's clocks can still wait for."""
LEAST_INTERVAL = 0.05
"""Seconds between two looks."""
MOST_DIGITS = 18
"""Of a number that an option takes: it fits 64 bits."""


# What is typed


def parse_seconds(text: str) -> float:
    """Return a duration: ``1s``, ``200ms``, ``5m``, ``5min``, ``1h``, ``2d`` or a number of seconds.

    >>> parse_seconds("200ms"), parse_seconds("5min"), parse_seconds("1h")
    (0.2, 300.0, 3600.0)
    """
    units = {"ms": 1e-3, "us": 1e-6, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "": 1.0}
    for suffix, unit in units.items():
        if text.endswith(suffix):
            try:
                seconds = float(text[: len(text) - len(suffix)]) * unit
            except ValueError:
                break
            if seconds > LONGEST:
                raise BadInput(f"bad time {text!r}: {LONGEST / YEAR:.0f} years at most")
            if seconds >= 0:
                return seconds
            break
    raise BadInput(f"bad time {text!r}: try 1s, 200ms, 5m or 1h")


def parse_interval(text: str) -> float:
    """Return a time between two looks: long enough that whoever is looked at has some rest."""
    seconds = parse_seconds(text)
    if seconds < LEAST_INTERVAL:
        raise BadInput(f"{text} is too short: {LEAST_INTERVAL * 1e3:.0f}ms or more")
    return seconds


def parse_count(text: str) -> int:
    """Return a number of times: 1 or more."""
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) > 0:
        return int(text)
    if len(text) > MOST_DIGITS:
        raise BadInput(f"bad number '{text[:MOST_DIGITS]}...': {MOST_DIGITS} digits at most")
    raise BadInput(f"bad number {text!r}: 1 or more")


def parse_fraction(text: str) -> float:
    """Return a part of the whole: 0.01 or 1%.

    >>> parse_fraction("0.5%")
    0.005
    """
    number, unit = (text[:-1], 100) if text.endswith("%") else (text, 1)
    try:
        # Python would take digits of other scripts, and underscores.
        fraction = 0.0 if number.strip("0123456789.e-") else float(number) / unit
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise BadInput(f"bad part {text!r}: more than 0 and no more than 1, as 0.01 or 1%")
    return fraction


def parse_width(text: str) -> int:
    """Return a number of columns that can be drawn in."""
    width = parse_count(text)
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise BadInput(f"{width} columns: {LEAST_WIDTH} to {MOST_WIDTH:,}")
    return width


def parse_bytes(text: str) -> int:
    """Return a size that a person typed: 512M, 2G.

    >>> parse_bytes("512M")
    536870912
    """
    from mematlas.model.address_space import parse_size

    size = parse_size(text)
    if not size:
        raise BadInput(f"bad size {text!r}: try 512M or 2G")
    return size


# What is declared


def add_target(arguments: Arguments, after: float = 1.0) -> None:
    """Declare the words of a command: its target, then whatever else it takes; one that is started runs first for
    ``after`` seconds.
    """
    arguments.add_argument("words", nargs="*", metavar="TARGET", help="what to look at")
    arguments.add_common("-p", "--pid", metavar="TARGET", help="the target, as an option")
    arguments.add_common(
        "--after",
        type=parse_seconds,
        default=after,
        metavar="TIME",
        help=f"with -- COMMAND: look this long after its start (default {after:g}s)",
    )


def add_output(arguments: Arguments, more: dict[str, str] | None = None) -> None:
    """Declare how results are written; ``more`` are forms that a command has besides."""
    if more:
        names = [*FORMATS, *more]
        text = f"{names[0]} (default), {', '.join(names[1:-1])} or {names[-1]}"
        arguments.add_argument("--format", choices=FORMATS | more, help=text)
    else:
        arguments.add_common("--format", choices=FORMATS, help="table (default), json, jsonl or csv")
    arguments.add_common("--json", action="store_true", help="short for --format json")
    arguments.add_common("--bytes", action="store_true", help="sizes as integers, in bytes")
    arguments.add_common("--wide", action="store_true", help="every column, however narrow the terminal is")
    add_color(arguments)


def form_of(args: Namespace) -> str:
    """Return the format that results are written in: one of `FORMATS`. Raises `BadInput` where two are asked for."""
    if args.json and args.format not in (None, "json"):
        raise BadInput(f"--json is short for --format json: not with --format {args.format}")
    return "json" if args.json else args.format or "table"


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
    from mematlas.observe.sources import SOURCES

    arguments.add_common(
        "--source",
        choices={source: SOURCE_TEXTS[source] for source in SOURCES},
        default="auto",
        help="auto (default): smaps if fast enough, else pagemap; page tables for large targets if permitted",
    )
    add_max_stall(arguments)


def add_sample(arguments: Arguments) -> None:
    """Declare that a part of the whole is looked at."""
    arguments.add_argument(
        "--sample", type=parse_fraction, metavar="FRACTION", help="estimate from a random part: 0.01, 1%"
    )


def add_width(arguments: Arguments) -> None:
    """Declare the columns of a picture."""
    arguments.add_argument("--width", type=parse_width, metavar="N", help="columns (default: the terminal's, or 80)")


def width_of(args: Namespace, out: TextIO) -> int:
    """Return the columns to draw in: as asked, the terminal's, or 80."""
    columns, _ = screen_size(out) or (80, 24)
    return min(max(args.width or columns, LEAST_WIDTH), MOST_WIDTH)


def add_reserved(arguments: Arguments) -> None:
    """Declare that nothing is folded."""
    arguments.add_argument("--reserved", action="store_true", help="also draw long runs of untouched memory")


def add_numa(arguments: Arguments) -> None:
    """Declare the amounts by NUMA node."""
    arguments.add_argument("--numa", action="store_true", help="also show how much is on each NUMA node")


def add_page_source(arguments: Arguments) -> None:
    """Declare where single pages are read from."""
    from mematlas.observe.sources import PAGE_SOURCES

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

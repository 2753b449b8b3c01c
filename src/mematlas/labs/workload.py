"""Programs whose memory is known: something to look at, and to check a tool against.

Each one says what it did, in words or (``--json``) as one JSON object per step, and waits for the word to go
on. A person presses Enter; a pipe sends lines. The end of the input ends the program.

    singlemap       one page, readable, writable and executable: mapped, then written to
    multimap [N]    N such pages, mapped at once, then written to one by one
    prober          1 KiB, written to: an address to look up
    draw            1,024 pages, on which patterns are drawn and wiped
    actor           does what each line says: the workload of the lessons (`mematlas.labs.actor`)

JSON keys: ``event pid page_size``, and once there is memory ``address size nr_pages nr_touched touched``,
where ``touched`` lists page numbers from 0 at ``address``. A refused line has the event ``error`` and a
``message``; the end has the event ``ended``.
"""

from __future__ import annotations

from mematlas.errors import BadInput, did_you_mean
from mematlas.frozen import record
from mematlas.labs.console import Console, EndOfInput
from mematlas.labs.memory import PAGE_SIZE, KnownMemory
from mematlas.labs.own import shown_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

DRAW_PAGES = 1024
MAX_PAGES = 4096
"""Of multimap: each step reports every page touched so far."""
PATTERNS = ("all", "even", "odd")


def singlemap(count: int, console: Console) -> None:
    """Map one page, and write to it, at the word of whoever drives it."""
    console.report("started", f"PID {shown_pid()}, pages of {PAGE_SIZE} bytes.")
    console.ask("Enter maps one page.")
    memory = KnownMemory(PAGE_SIZE, "singlemap", executable=True)
    console.report("mapped", f"Mapped one page (rwx) at {memory.address:#x}; nothing has touched it.", memory)
    console.ask("Enter writes to it.")
    memory.touch([0])
    console.report("touched", f"Wrote to {memory.address:#x}: now it has a frame.", memory)
    console.ask("Enter ends.")


def multimap(count: int, console: Console) -> None:
    """Map several pages at once, and write to them one by one."""
    # One call for all: the kernel would make one VMA of separate neighbours too, only not always.
    memory = KnownMemory(count * PAGE_SIZE, "multimap", executable=True)
    lines = "".join(f"\n  {page:>4}  {memory.page_address(page):#x}" for page in range(count))
    text = f"PID {shown_pid()}, {count} pages (rwx) are mapped; nothing has touched them:{lines}"
    console.report("mapped", text, memory)
    for page in range(count):
        address = memory.page_address(page)
        console.ask(f"Enter writes to page {page}.")
        memory.touch([page])
        text = f"Wrote to page {page} at {address:#x}: {page + 1} of {count} have a frame."
        console.report("touched", text, memory, page=page, page_address=hex(address))
    console.ask("Enter ends.")


def prober(count: int, console: Console) -> None:
    """Hold 1 KiB that was written to."""
    memory = KnownMemory(1024, "prober")
    memory.touch([0])
    console.report("touched", f"Wrote to 1 KiB at {memory.address:#x} of PID {shown_pid()}.", memory)
    console.ask("Enter ends.")


def draw(count: int, console: Console) -> None:
    """Draw on 1,024 pages, in steps that a density histogram shows.

    "Draw N" divides them into N equal segments and writes to all, the even, the odd pages of each, in turn.
    Drawings add up until "Clear" gives all pages back. "Quit" ends.
    """
    memory = KnownMemory(DRAW_PAGES * PAGE_SIZE, "draw")
    where = f"{DRAW_PAGES:,} pages at {memory.address:#x} of PID {shown_pid()}"
    console.report("mapped", f"Mapped {where}; nothing has touched them.", memory)
    while True:
        match console.ask("Draw N, Clear or Quit:").lower().split():
            case []:
                continue
            case ["quit"]:
                return
            case ["clear"]:
                memory.clear()
                console.report("cleared", f"Gave all {DRAW_PAGES:,} pages back.", memory)
            case ["draw", number] if (nr_segments := parse_count(number, DRAW_PAGES)) is not None:
                segments = divide(nr_segments)
                for segment in segments:
                    memory.touch(segment.pages())
                nr_touched = len(memory.touched)
                text = f"Drew {nr_segments} segments: {nr_touched:,} of {DRAW_PAGES:,} pages have been touched."
                drawn = [segment.as_json() for segment in segments]
                console.report("drawn", text, memory, segments=drawn)
            case ["draw", *_]:
                console.refuse(f"draw how many segments? Draw N, where N is 1 to {DRAW_PAGES}")
            case [word, *_]:
                console.refuse(f"unknown command {word[:40]!r}: type Draw N, Clear or Quit")


def actor(count: int, console: Console) -> None:
    """Do what each line says."""
    from mematlas.labs.actor import play

    play(console)


@record
class Segment:
    """A part of the drawing that is filled in one way."""

    first: int
    nr_pages: int
    pattern: str

    def pages(self) -> range:
        """Return its pages that are touched: even and odd ones, counted from the start of the memory."""
        if self.pattern == "all":
            return range(self.first, self.first + self.nr_pages)
        parity = PATTERNS.index(self.pattern) - 1
        return range(self.first + (self.first % 2 != parity), self.first + self.nr_pages, 2)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON keys."""
        return {
            "first": self.first,
            "nr_pages": self.nr_pages,
            "pattern": self.pattern,
            "nr_touched": len(self.pages()),
        }


def divide(count: int, nr_pages: int = DRAW_PAGES) -> list[Segment]:
    """Return ``count`` segments of equal size (to one page), filled in all, the even, the odd pages, in turn.

    >>> divide(4)[1]
    Segment(first=256, nr_pages=256, pattern='even')
    >>> len(divide(4)[1].pages())
    128
    """
    bounds = [index * nr_pages // count for index in range(count + 1)]
    return [
        Segment(bounds[index], bounds[index + 1] - bounds[index], PATTERNS[index % len(PATTERNS)])
        for index in range(count)
    ]


def parse_count(text: str, most: int) -> int | None:
    """Return the number from 1 to ``most`` that a text holds; None when it holds another thing."""
    # isdecimal() takes other scripts' digits too, int() takes 1_0; the length bounds the work of int().
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        return None
    return number if 1 <= (number := int(text)) <= most else None


@record
class Workload:
    """One program: what it is for, and what it does."""

    help: str
    play: Callable[[int, Console], None]


WORKLOADS = {
    "singlemap": Workload("map one rwx page, then write to it", singlemap),
    "multimap": Workload("map N rwx pages (12), then write to them one by one", multimap),
    "prober": Workload("write to 1 KiB, and wait: an address to look up", prober),
    "draw": Workload(f"draw patterns on {DRAW_PAGES:,} pages: Draw N, Clear, Quit", draw),
    "actor": Workload("do what each line says, as lessons need it", actor),
}


def run(name: str, count: str, reader: TextIO, writer: TextIO, as_json: bool = False) -> int:
    """Run a workload by its name; return its exit code. ``count`` is the number of pages of multimap."""
    if name not in WORKLOADS:
        hint = did_you_mean(name, WORKLOADS)
        raise BadInput(f"no workload {name!r}{hint}: choose from {', '.join(WORKLOADS)}")
    nr_pages = parse_count(count, MAX_PAGES)
    if nr_pages is None:
        raise BadInput(f"{name} {count}: N is a number of pages, 1 to {MAX_PAGES}")
    console = Console(reader, writer, as_json)
    try:
        WORKLOADS[name].play(nr_pages, console)
    except EndOfInput:
        pass
    except KeyboardInterrupt:
        return 130
    console.report("ended", "")
    return 0

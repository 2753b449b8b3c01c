"""Make the pictures of the documents from what the commands really print, their colours turned into SVG.

.venv/bin/python scripts/picture.py              all of them
.venv/bin/python scripts/picture.py map          docs/map.svg: memory in as many states as possible (as root)
.venv/bin/python scripts/picture.py paging       docs/paging.svg: a drawing, paged out, drawn again (as root)
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mematlas.kernel.status import Faults

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 104
PAGING_WIDTH = 111
"""Columns in which a row of the drawing is half of its memory."""
CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 16
SWAP_SIZE = 64 << 20
CAPTION, PROMPT = "\x1b[1m", "\x1b[2m"
TITLE, DIM, INK, PAPER = "#ffffff", "#8c96a0", "#d7dce2", "#16191d"
STYLES = {"1": TITLE, "2": DIM}
BOLD = ' font-weight="bold"'
SGR = re.compile(r"\x1b\[([0-9;]*)m")
WORDS = re.compile(r"\S+(?: \S+)*")
PAGEOUT, GUARD_INSTALL = 21, 102  # include/uapi/asm-generic/mman-common.h


def build() -> list[object]:
    """Make the memory that the picture shows; return what must stay alive."""
    page = mmap.PAGESIZE
    shared = mmap.mmap(-1, 509 * page, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for number in range(400):
        shared[number * page] = 1
    done, say_done = os.pipe()
    if os.fork() == 0:  # a child that touches half of it, which is shared, and adds what only the file has
        for number in range(200):
            assert shared[number * page] == 1
        for number in range(400, 450):
            shared[number * page] = 1
        os.write(say_done, b".")
        sys.stdin.read()
        os._exit(0)
    os.read(done, 1)
    pages = 1024
    drawing = mmap.mmap(-1, pages * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    drawing.madvise(mmap.MADV_NOHUGEPAGE)
    for segment in range(12):
        first, last = segment * pages // 12, (segment + 1) * pages // 12
        for number in range(first, last):
            if segment % 3 == 0 or number % 2 == segment % 3 - 1:
                drawing[number * page] = 1
    zeros = mmap.mmap(-1, 331 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    zeros.madvise(mmap.MADV_NOHUGEPAGE)
    for number in range(331):
        assert zeros[number * page] == 0
    asleep = mmap.mmap(-1, 256 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    for number in range(256):
        asleep[number * page] = 1
    asleep.madvise(PAGEOUT, 120 * page, 136 * page)
    fence = mmap.mmap(-1, 127 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    for number in range(97):
        fence[number * page] = 1
    with contextlib.suppress(OSError):  # before Linux 6.13
        fence.madvise(GUARD_INSTALL, 97 * page, 30 * page)
    return [drawing, zeros, shared, asleep, fence]


def main(words: list[str]) -> int:
    """Make the pictures that are asked for."""
    if words == ["victim"]:
        kept = build()
        print("ready", flush=True)
        sys.stdin.read()
        del kept
        return 0
    for name in words or PICTURES:
        if name not in PICTURES:
            print(f"no picture {name!r}: there are {', '.join(PICTURES)}", file=sys.stderr)
            return 2
        draw, title, columns = PICTURES[name]
        lines = draw()
        (DOCS / f"{name}.svg").write_text(to_svg(lines, title, columns), encoding="utf-8")
        print(f"wrote {name}.svg: {len(lines)} lines")
    return 0


def map_lines() -> list[str]:
    """Return what map draws of the program that `build` makes."""
    from mematlas.kernel.swapfile import TemporarySwap

    line = [sys.executable, __file__, "victim"]
    with TemporarySwap(SWAP_SIZE), subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        victim.stdout.readline()
        lines = said_by("map", str(victim.pid), "--kind", "heap,stack,anon,shmem", width=WIDTH)
        victim.communicate()
    return lines


def paging_lines() -> list[str]:
    """Return what hist, map and pageout say of a drawing: in RAM, out of it, and drawn again."""
    # Imported here, so that they are no part of the program that map draws.
    from mematlas.kernel.swapfile import TemporarySwap
    from mematlas.labs.running import RunningWorkload

    with RunningWorkload("draw") as workload, TemporarySwap(SWAP_SIZE):
        target = [str(workload.pid), f"{workload.address:#x}"]

        def pages() -> list[str]:
            drawn = said_by("map", *target, "--cell", "8", width=PAGING_WIDTH)
            drawn = [line for line in drawn if "a cell is" not in line]
            return [*said_by("hist", *target, width=PAGING_WIDTH), "", *drawn]

        truth = workload.tell("Draw 12")
        written = f"{truth['nr_touched']:,} of its {truth['nr_pages']:,} pages"
        lines = [f"{CAPTION}1  A program writes to {written}, in 12 segments. All of them are in RAM.", *pages()]
        lines += ["", f"{CAPTION}2  Paged out: every page leaves the program, which goes on and knows nothing of it."]
        lines += [*said_by("pageout", target[0], f"{target[1]}+4M", "--free"), "", *pages()]
        before = faults_of(workload.pid)
        workload.tell("Draw 12")
        after = faults_of(workload.pid)
        faults = f"{after.major - before.major} major and {after.minor - before.minor} minor page faults"
        lines += ["", f"{CAPTION}3  It draws the same once more: {faults} bring all of it back.", *pages()]
    return lines


def said_by(command: str, *words: str, width: int | None = None) -> list[str]:
    """Return a command line, and what it prints in colours."""
    more = [] if width is None else ["--width", str(width)]
    line = [sys.executable, "-m", "mematlas", command, *words, *more, "--color", "always"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [f"{PROMPT}$ mematlas {command} {' '.join(words)}", *done.stdout.splitlines()]


def faults_of(pid: int) -> Faults:
    """Return how many page faults of each kind a process has had so far."""
    from mematlas.kernel.procfs import ProcFS
    from mematlas.kernel.status import read_faults

    with ProcFS().process(pid) as process:
        return read_faults(process)


def to_svg(lines: list[str], title: str, columns: int) -> str:
    """Return lines of terminal text as an SVG picture."""
    width = MARGIN * 2 + columns * CELL_WIDTH
    height = MARGIN * 2 + len(lines) * LINE_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
    ]
    for number, line in enumerate(lines):
        y = MARGIN + (number + 0.75) * LINE_HEIGHT
        column = 0
        for text, colour in runs(line):
            # Browsers differ in what they make of several blanks, and of those at the ends: none is left to them.
            for words in WORDS.finditer(text):
                x = MARGIN + (column + words.start()) * CELL_WIDTH
                length = len(words[0]) * CELL_WIDTH
                style = f'fill="{colour}"' + (BOLD if colour == TITLE else "")
                parts.append(
                    f'<text x="{x:.1f}" y="{y:.1f}" {style} textLength="{length:.1f}"'
                    f' lengthAdjust="spacingAndGlyphs">{escape(words[0])}</text>'
                )
            column += len(text)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def runs(line: str) -> list[tuple[str, str]]:
    """Return a line as runs of text, each with its colour; runs of one colour are joined."""
    colour = INK
    found: list[tuple[str, str]] = []
    pieces = SGR.split(line)
    for place, piece in enumerate(pieces):
        if place % 2:
            colour = colour_of(piece)
        elif piece and found and found[-1][1] == colour:
            found[-1] = (found[-1][0] + piece, colour)
        elif piece:
            found.append((piece, colour))
    return found


def colour_of(codes: str) -> str:
    """Return the colour that SGR codes ask for."""
    if codes in STYLES:
        return STYLES[codes]
    if not codes.startswith("38;5;"):
        return INK
    number = int(codes.split(";")[2])
    if number >= 232:
        return f"#{8 + 10 * (number - 232):02x}" + f"{8 + 10 * (number - 232):02x}" * 2
    red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    return "#" + "".join(f"{0 if level == 0 else 55 + 40 * level:02x}" for level in (red, green, blue))


PICTURES: dict[str, tuple[Callable[[], list[str]], str, int]] = {
    "map": (map_lines, "An address space, drawn by mematlas map", WIDTH),
    "paging": (paging_lines, "A drawing in memory, paged out by mematlas pageout, and drawn again", PAGING_WIDTH),
}
"""What each shows, its title, and its columns."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Make docs/map.svg: a real address space as `mematlas map` draws it, on a program made for the purpose.

    .venv/bin/python scripts/picture.py

The program holds memory in as many states as this machine allows; the drawing is the command's own output, its
colours turned into SVG.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "docs" / "map.svg"
WIDTH = 104
CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 16
INK, PAPER = "#d7dce2", "#16191d"
SGR = re.compile(r"\x1b\[([0-9;]*)m")
GUARD_INSTALL = 102  # include/uapi/asm-generic/mman-common.h


def build() -> list[object]:
    """Make the memory that the picture shows; return what must stay alive."""
    page = mmap.PAGESIZE
    shared = mmap.mmap(-1, 509 * page, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for number in range(400):
        shared[number * page] = 1
    if os.fork() == 0:  # a child that touches half of it: those pages are shared
        for number in range(200):
            assert shared[number * page] == 1
        sys.stdin.read()
        os._exit(0)
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
    fence = mmap.mmap(-1, 127 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    for number in range(97):
        fence[number * page] = 1
    with contextlib.suppress(OSError):  # before Linux 6.13
        fence.madvise(GUARD_INSTALL, 97 * page, 30 * page)
    return [drawing, zeros, shared, fence]


def main() -> None:
    """Draw the program that `build` makes."""
    if sys.argv[1:] == ["victim"]:
        kept = build()
        print("ready", flush=True)
        sys.stdin.read()
        del kept
        return
    victim = subprocess.Popen(
        [sys.executable, __file__, "victim"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout
    victim.stdout.readline()
    command = ["map", str(victim.pid), "--kind", "heap,stack,anon,shmem", "--width", str(WIDTH), "--color", "always"]
    drawn = subprocess.run([sys.executable, "-m", "mematlas", *command], capture_output=True, text=True, check=True)
    victim.communicate()
    lines = [f"$ mematlas map {victim.pid} --kind heap,stack,anon,shmem", *drawn.stdout.splitlines()]
    OUTPUT.write_text(to_svg(lines), encoding="utf-8")
    print(f"wrote {OUTPUT.name}: {len(lines)} lines")


def to_svg(lines: list[str]) -> str:
    """Return lines of terminal text as an SVG picture."""
    width = MARGIN * 2 + WIDTH * CELL_WIDTH
    height = MARGIN * 2 + len(lines) * LINE_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img">',
        "<title>An address space, drawn by mematlas map</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">',
    ]
    for number, line in enumerate(lines):
        y = MARGIN + (number + 0.75) * LINE_HEIGHT
        column = 0
        for text, colour in runs(line):
            if text.strip():
                x = MARGIN + column * CELL_WIDTH
                length = len(text) * CELL_WIDTH
                parts.append(
                    f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" textLength="{length:.1f}"'
                    f' lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
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
    if not codes.startswith("38;5;"):
        return INK
    number = int(codes.split(";")[2])
    if number >= 232:
        return f"#{8 + 10 * (number - 232):02x}" + f"{8 + 10 * (number - 232):02x}" * 2
    red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    return "#" + "".join(f"{0 if level == 0 else 55 + 40 * level:02x}" for level in (red, green, blue))


if __name__ == "__main__":
    main()

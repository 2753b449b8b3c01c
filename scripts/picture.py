"""Make the pictures of the documents from what the commands really print, their colours turned into SVG, or draw.

.venv/bin/python scripts/picture.py              all of them
.venv/bin/python scripts/picture.py map          docs/map.svg: memory in as many states as possible (as root)
.venv/bin/python scripts/picture.py top          docs/top.svg: the screen, with the same memory (as root)
.venv/bin/python scripts/picture.py paging       docs/paging.svg: a drawing, paged out, drawn again (as root)
.venv/bin/python scripts/picture.py heatmap      docs/heatmap.svg: ten seconds of a program, recorded (as root)
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mematlas.views import colour

if TYPE_CHECKING:
    from mematlas.kernel.status import Faults

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 104
PAGING_WIDTH = 111
"""Columns in which a row of the drawing is half of its memory."""
CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 16
TOP_SIZE, TOP_KEYS = (120, 36), ("/", *"anon", "enter", "n", "n", "-")
"""Columns and lines of the picture of the screen, and what is typed before it is taken."""
SWAP_SIZE = 64 << 20
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
"""What has its libraries where everybody has them."""
CAPTION, PROMPT = "\x1b[1m", "\x1b[2m"
TITLE, DIM, INK, PAPER = "#ffffff", colour.MUTED["dark"], colour.INK["dark"], colour.PAPER["dark"]
TERMINAL = {"COLORTERM": "truecolor", "COLORFGBG": "15;0"}
"""All colours, on a dark background."""
SGR = re.compile(r"\x1b\[([0-9;]*)m")
WORDS = re.compile(r"\S+(?: \S+)*")
PAGEOUT, GUARD_INSTALL, REMOVE = 21, 102, 9  # include/uapi/asm-generic/mman-common.h


def build() -> list[object]:
    """Make the memory that the picture shows; return what must stay alive."""
    page = mmap.PAGESIZE
    drawing = private(1024)
    for segment in range(12):
        for number in range(segment * 1024 // 12, (segment + 1) * 1024 // 12):
            if segment % 3 == 0 or number % 2 == segment % 3 - 1:
                drawing[number * page] = 1
    asleep = private(640)
    touch(asleep, range(640))
    asleep.madvise(PAGEOUT, 200 * page, 440 * page)
    zeros = private(331)
    assert not any(zeros[number * page] for number in range(331))
    fence = private(160)
    touch(fence, range(128))
    with contextlib.suppress(OSError):  # before Linux 6.13
        fence.madvise(GUARD_INSTALL, 128 * page, 32 * page)
    file = os.memfd_create("table")
    os.ftruncate(file, 640 * page)
    shared = mmap.mmap(file, 640 * page)
    touch(shared, range(450))
    words = [sys.executable, __file__, "neighbour", str(file)]
    neighbour = subprocess.Popen(words, pass_fds=[file], stdin=sys.stdin, stdout=subprocess.PIPE)
    assert neighbour.stdout
    neighbour.stdout.readline()
    return [drawing, asleep, zeros, fence, shared]


def neighbour(file: int) -> list[object]:
    """Map the file of `build` too, and write to a part of it, some of which nobody else has touched."""
    shared = mmap.mmap(file, 640 * mmap.PAGESIZE)
    touch(shared, [*range(100, 330), *range(450, 560)])
    return [shared]


def private(nr_pages: int) -> mmap.mmap:
    """Map memory of our own, in small pages."""
    area = mmap.mmap(-1, nr_pages * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area


def touch(area: mmap.mmap, numbers: Iterable[int]) -> None:
    """Write to these pages."""
    for number in numbers:
        area[number * mmap.PAGESIZE] = 1


SHOP_STEPS, SHOP_STEP = 200, 0.05
"""Steps of `shop`, and the seconds of each."""


def shop(directory: str) -> None:
    """Use memory in several ways, for ten seconds: some leaks, some fills and empties, some goes to swap and back."""
    page = mmap.PAGESIZE
    catalogue, cache, orders, sessions = (
        named(directory, name) for name in ("catalogue.db", "cache", "orders", "sessions")
    )
    touch(sessions, range(2048))
    began = time.monotonic()
    leaked: list[bytearray] = []
    for step in range(SHOP_STEPS):
        leaked.append(bytearray(64 * page))
        touch(catalogue, range(step * 16, step * 16 + 16) if step < 120 else ())
        at = step % 50
        touch(cache, range(at * 40, at * 40 + 40))
        if at == 49:
            cache.madvise(REMOVE)
        if step >= 60:
            touch(orders, range((step - 60) * 8, (step - 60) * 8 + 8))
        if step == 80:
            sessions.madvise(PAGEOUT)
        if step == 140:
            touch(sessions, range(0, 2048, 3))
        if step == 150:
            catalogue.madvise(mmap.MADV_DONTNEED)
        time.sleep(max(began + (step + 1) * SHOP_STEP - time.monotonic(), 0))


def named(directory: str, name: str) -> mmap.mmap:
    """Map a new file of a name, of 2,048 pages."""
    with open(f"{directory}/{name}", "w+b") as file:
        file.truncate(2048 * mmap.PAGESIZE)
        return mmap.mmap(file.fileno(), 2048 * mmap.PAGESIZE)


def main(words: list[str]) -> int:
    """Make the pictures that are asked for."""
    if words[:1] == ["shop"]:
        Path("/proc/self/comm").write_text("shop", encoding="ascii")
        shop(words[1])
        return 0
    if words[:1] in (["victim"], ["neighbour"]):
        name = "orders" if words == ["victim"] else "worker"
        Path("/proc/self/comm").write_text(name, encoding="ascii")
        kept = build() if words == ["victim"] else neighbour(int(words[1]))
        print("ready", flush=True)
        sys.stdin.read()
        del kept
        return 0
    for name in words or (*PICTURES, HEATMAP):
        if name == HEATMAP:
            (DOCS / f"{name}.svg").write_text(heatmap(), encoding="utf-8")
            print(f"wrote {name}.svg")
            continue
        if name not in PICTURES:
            print(f"no picture {name!r}: there are {', '.join((*PICTURES, HEATMAP))}", file=sys.stderr)
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
        lines = said_by("map", "orders", "--kind", "heap,stack,anon,shmem", "--cell", "8", width=WIDTH)
        victim.communicate()
    return lines


def top_lines() -> list[str]:
    """Return the page map of the program that `build` makes, as the screen of ``mematlas top`` has it."""
    from mematlas.kernel.swapfile import TemporarySwap

    line = [sys.executable, __file__, "victim"]
    with TemporarySwap(SWAP_SIZE), subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        victim.stdout.readline()
        lines = asyncio.run(on_screen(victim.pid))
        victim.communicate()
    return lines


async def on_screen(pid: int) -> list[str]:
    """Return what the screen shows of a process once it has looked at it, in colours."""
    from mematlas.kernel.procfs import ProcFS
    from mematlas.timeline.watch import Watch
    from mematlas.tui.app import Top
    from mematlas.tui.colours import Colours
    from mematlas.tui.pages import all_pages
    from mematlas.tui.viewing import Viewing

    viewing, colours = Viewing(), Colours(1 << 24, light=False)
    viewing.place = "atlas · 6.18"
    with ProcFS() as procfs, procfs.process(pid) as process:
        viewing.focus = process.identity
        watch = partial(Watch, [str(pid)], procfs, what=("pages",))
        app = Top(viewing, all_pages(viewing), colours, {}, lambda _: watch, 0.5, 1.0, "root, apart", lambda: 0.0)
        async with app.run_test(size=TOP_SIZE) as pilot:
            await asyncio.sleep(2)
            await pilot.press(*TOP_KEYS)
            await asyncio.sleep(3)
            rows = app.rows(*TOP_SIZE)
    lines = []
    for row in rows:
        line = ""
        for text, role in row:
            style = colours[role]
            red, green, blue = style.color.get_truecolor() if style.color else (230, 235, 242)
            line += f"\x1b[0;38;2;{red};{green};{blue}{';7' if style.reverse else ''}m{text}"
        lines.append(line)
    return lines


def paging_lines() -> list[str]:
    """Return what hist, map and pageout say of a drawing: in RAM, out of it, and drawn again."""
    # Imported here, so that they are no part of the program that map draws.
    from mematlas.kernel.swapfile import TemporarySwap
    from mematlas.labs.running_workload import RunningWorkload

    with RunningWorkload("draw") as workload, TemporarySwap(SWAP_SIZE):
        target = [str(workload.pid), f"{workload.address:#x}"]

        def pages() -> list[str]:
            drawn = said_by("map", *target, "--cell", "8", width=PAGING_WIDTH)
            drawn = [line for line in drawn if "a cell is" not in line]
            return [*said_by("hist", *target, width=PAGING_WIDTH), "", *drawn]

        def again() -> list[str]:
            """The same pictures once more: what is typed for them has been shown."""
            return [line for line in pages() if not line.startswith(PROMPT)]

        truth = workload.send("Draw 12")
        written = f"{truth['nr_touched']:,} of its {truth['nr_pages']:,} pages"
        lines = [f"{CAPTION}1  A program writes to {written}, in 12 segments. All of them are in RAM.", *pages()]
        lines += ["", f"{CAPTION}2  Paged out: every page leaves the program, which goes on and knows nothing of it."]
        out = said_by("pageout", target[0], f"{target[1]}+4M", "--free")
        lines += [*(line for line in out if line.split() != ["stayed", "0", "0"]), "", *again()]
        before = faults_of(workload.pid)
        workload.send("Draw 12")
        after = faults_of(workload.pid)
        faults = f"{after.major - before.major} major and {after.minor - before.minor} minor page faults"
        lines += ["", f"{CAPTION}3  It draws the same once more: {faults} bring all of it back.", *again()]
    return lines


def heatmap() -> str:
    """Return what report draws of `shop`, recorded on a machine that has the name of the one in the examples."""
    from mematlas.kernel.swapfile import TemporarySwap

    ours = [sys.executable, "-m", "mematlas"]
    on_atlas = ["unshare", "--uts", "sh", "-c", 'hostname atlas; exec "$@"', "sh"]
    with TemporarySwap(SWAP_SIZE), tempfile.TemporaryDirectory(dir="/dev/shm", prefix="shop-") as place:
        started = [*ours, "record", "-o", f"{place}/shop.mematlas", "-i", "100ms", "--budget", "50%", "--"]
        program = ["env", f"PYTHONPATH={DOCS.parent / 'src'}", PYTHON, __file__, "shop", place]
        subprocess.run([*on_atlas, *started, *program], check=True)
        drawn = f"{place}/shop.svg"
        subprocess.run([*ours, "report", f"{place}/shop.mematlas", "heatmap", "--limit", "14", "-o", drawn], check=True)
        return Path(drawn).read_text(encoding="utf-8")


def said_by(command: str, *words: str, width: int | None = None) -> list[str]:
    """Return a command line, and what it prints in colours."""
    more = [] if width is None else ["--width", str(width)]
    line = [sys.executable, "-m", "mematlas", command, *words, *more, "--color", "always"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=os.environ | TERMINAL)
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
        for text, style in runs(line):
            # Browsers differ in what they make of several blanks, and of those at the ends: none is left to them.
            for words in WORDS.finditer(text):
                x = MARGIN + (column + words.start()) * CELL_WIDTH
                length = len(words[0]) * CELL_WIDTH
                if style.reversed:
                    top = y - 0.75 * LINE_HEIGHT
                    size = f'width="{length:.1f}" height="{LINE_HEIGHT}"'
                    parts.append(f'<rect x="{x:.1f}" y="{top:.1f}" {size} fill="{style.colour}"/>')
                bold = ' font-weight="bold"' if style.bold else ""
                ink = PAPER if style.reversed else style.colour
                parts.append(
                    f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}"{bold}'
                    f' textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs">{escape(words[0])}</text>'
                )
            column += len(text)
    return "\n".join([*parts, "</g>", "</svg>", ""])


class Style(NamedTuple):
    """How characters look."""

    colour: str = INK
    bold: bool = False
    reversed: bool = False

    def changed_by(self, codes: str) -> Style:
        """Return what SGR codes make of it.

        >>> Style().changed_by("38;2;61;151;255;7")
        Style(colour='#3d97ff', bold=False, reversed=True)
        """
        style, numbers = self, [int(code or 0) for code in codes.split(";")]
        while numbers:
            match numbers:
                case [0, *numbers]:
                    style = Style()
                case [1, *numbers]:
                    style = Style(TITLE, True, style.reversed)
                case [2, *numbers]:
                    style = style._replace(colour=DIM)
                case [7, *numbers]:
                    style = style._replace(reversed=True)
                case [38, 2, red, green, blue, *numbers]:
                    style = style._replace(colour=f"#{red:02x}{green:02x}{blue:02x}")
                case [38, 5, number, *numbers]:
                    style = style._replace(colour=of_256(number))
                case [code, *_]:
                    raise ValueError(f"no picture can show SGR {code}")
        return style


def runs(line: str) -> list[tuple[str, Style]]:
    """Return a line as runs of text, each with its style; runs of one style are joined."""
    style = Style()
    styled: list[tuple[str, Style]] = []
    for index, piece in enumerate(SGR.split(line)):
        if index % 2:
            style = style.changed_by(piece)
        elif piece and styled and styled[-1][1] == style:
            styled[-1] = (styled[-1][0] + piece, style)
        elif piece:
            styled.append((piece, style))
    return styled


def of_256(number: int) -> str:
    """Return a colour of the 256 that terminals have, without the 16 that each has its own way.

    >>> of_256(209), of_256(241)
    ('#ff875f', '#626262')
    """
    if number >= 232:
        return f"#{8 + 10 * (number - 232):02x}" + f"{8 + 10 * (number - 232):02x}" * 2
    red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    parts = [55 + 40 * level if level else 0 for level in (red, green, blue)]
    return "#" + "".join(f"{part:02x}" for part in parts)


HEATMAP = "heatmap"
PICTURES: dict[str, tuple[Callable[[], list[str]], str, int]] = {
    "map": (map_lines, "An address space, drawn by mematlas map", WIDTH),
    "top": (top_lines, "The page map of mematlas top", TOP_SIZE[0]),
    "paging": (paging_lines, "A drawing in memory, paged out by mematlas pageout, and drawn again", PAGING_WIDTH),
}
"""What each shows, its title, and its columns."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

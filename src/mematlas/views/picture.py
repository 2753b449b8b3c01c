"""Pages drawn with characters: the address space of a process, VMA by VMA.

Each class of pages has its own characters, so that nothing is lost without colours.
"""

from __future__ import annotations

from itertools import groupby

from mematlas.analysis.grid import nr_present
from mematlas.analysis.neighbours import SECTIONS, Fit
from mematlas.frozen import record
from mematlas.views.format import beginning, fold, format_address, format_path, format_size, number_of, padded, width_of
from mematlas.views.table import Column, Drawn
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.grid import Grid, Strip
    from mematlas.kernel.maps import Vma

    Cell = tuple[int, int]
    """The start of a strip, and the index of a cell in it."""
    Counts = dict[Cell, dict[str, int]]
    """Pages of each class."""
    Use = dict[Cell, tuple[int, int]]
    """Pages accessed, and pages dirty."""

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*#@"

# For each class the character of a cell that it fills a little, ..., wholly.
GLYPHS = {
    "own": "░▒▓█",
    "shared": "-=+#",
    "zero": "0000",
    "swapped": "sssS",
    "cached": "cccC",
    "absent": "····",
    "guard": "gggG",
    "special": "!!!!",
    "unknown": "????",
}
IDLE = {"own": "iiiI", "shared": "jjjJ"}
"""Characters of cells of present pages of which fewer than half were accessed, where page tables tell."""
ASCII_GLYPHS = GLYPHS | {"own": "ooO@", "absent": "...."}
LEGEND = {
    "own": "present, mapped here alone",
    "shared": "present, mapped more than once",
    "zero": "zero page",
    "swapped": "swapped",
    "cached": "shared memory in RAM, no entry here",
    "absent": "absent",
    "guard": "guard region",
    "special": "migration, poison or marker entry",
    "unknown": "unknown",
}


@record
class DrawnCell:
    """One character of a picture: some pages of a VMA."""

    strip: Strip
    start: int
    end: int
    nr_pages: int
    classes: dict[str, int]
    use: tuple[int | None, int | None]
    """How many pages were accessed, and are dirty; None where the source does not tell."""


def pages_of(name: str) -> Callable[[DrawnCell], int]:
    """Return what gets the number of pages of a class."""
    return lambda cell: cell.classes[name]


CELL_COLUMNS: tuple[Column[DrawnCell], ...] = (
    Column("start", "START", "address"),
    Column("end", "END", "address"),
    Column("nr_pages", "PAGES", "count"),
    *(Column(f"nr_{name}", name.upper(), "count", pages_of(name)) for name in GLYPHS),
    Column("nr_accessed", "ACCESSED", "count", lambda cell: cell.use[0]),
    Column("nr_dirty", "DIRTY", "count", lambda cell: cell.use[1]),
    Column("folded", "FOLDED", "flag", lambda cell: cell.strip.is_folded),
    Column("path", "PATH", "path", lambda cell: cell.strip.vma.path or cell.strip.vma.kind),
)


def can_draw(encoding: str | None) -> bool:
    """Whether an output can show the block characters; ASCII stands in for them elsewhere."""
    try:
        (BARS + GLYPHS["own"] + GLYPHS["absent"]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class Previous:
    """The last picture, to mark what has changed since."""

    def __init__(self) -> None:
        self._counts: Counts | None = None

    def changed(self, counts: Counts) -> set[Cell]:
        """Return the cells that are not what they were; those of now are the last picture from here on."""
        old, self._counts = self._counts, counts
        if old is None:
            return set()
        return {key for key, classes in counts.items() if old.get(key) != classes}


def keys_of(strip: Strip) -> list[Cell]:
    """Return the keys of the cells of a strip, in order."""
    return [(strip.start, index) for index in range(strip.cells.nr_cells)]


def count(strips: Iterable[Strip]) -> Counts:
    """Return the pages of each class in each cell."""
    return {key: strip.cells.classes(key[1]) for strip in strips for key in keys_of(strip)}


def count_use(strips: Iterable[Strip]) -> Use:
    """Return the pages accessed, and dirty, in each cell; nothing where the source does not report them."""
    uses: Use = {}
    for strip in strips:
        if strip.cells.used is not None:
            uses |= {key: strip.cells.used.get(key[1], (0, 0)) for key in keys_of(strip)}
    return uses


def map_view(
    grid: Grid,
    page_size: int,
    width: int,
    target: dict[str, Any],
    ascii_only: bool,
    previous: Previous,
    rows: int | None = None,
) -> Drawn:
    """Return the address space drawn, VMA by VMA, with a legend of what occurs in it.

    Of more than ``rows`` lines the last VMAs are left out, and the legend stays.
    """
    strips = grid.strips
    counts, used = count(strips), count_use(strips)
    changed = previous.changed(counts)

    def draw(in_bytes: bool, colour: bool, screen: int) -> Iterator[str]:
        glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
        shown = [strip for strip in strips if not strip.is_folded]
        drawn = {key: counts[key] for strip in shown for key in keys_of(strip)}
        cell_pages = shown[0].cells.cell_pages if shown else 1
        below = list(legend(drawn, glyphs, colour, cell_pages, page_size, width))
        below += fold_legend(strips, page_size, width)
        if used:
            below += use_legend(drawn, used, colour, width)
        lines = list(Brush(counts, used, changed, glyphs, colour, width, page_size).lines(strips))
        if rows is not None and len(lines) + len(below) > rows:
            most = max(rows - len(below) - 1, 1)
            lines[most:] = [f"... {len(lines) - most} more lines: pick an AREA"]
        yield from lines
        yield from below

    cells = drawn_cells(strips, counts, used, page_size)
    return Drawn("map/1", CELL_COLUMNS, cells, target=target, notes=grid.reading.notes, draw=draw)


def drawn_cells(
    strips: Iterable[Strip],
    counts: Counts,
    used: Use,
    page_size: int,
) -> Iterator[DrawnCell]:
    """Yield the cells of a picture, as JSON and CSV have them."""
    for strip in strips:
        span = strip.cells.cell_pages * page_size
        for key in keys_of(strip):
            low = strip.start + key[1] * span
            yield DrawnCell(
                strip=strip,
                start=low,
                end=min(low + span, strip.end),
                nr_pages=strip.cells.size_of(key[1]),
                classes=counts[key],
                use=used.get(key) or (None, None),
            )


SHARED_ANON = "/dev/zero (deleted)"
"""What the kernel calls shared anonymous memory (mm/shmem.c, shmem_zero_setup)."""

NARROW = 70
"""Columns below which sizes and names are shortened, so that there is room for cells."""
NAME_WIDTH = 16
LEFT = 14 + 1 + 9 + 1 + 4 + 1 + NAME_WIDTH + 1
LEGEND_LINES = 9
"""Of a legend as it may well be: a blank line, the cell, and seven classes."""


def name_width(width: int) -> int:
    """Return the columns of a VMA's name in a picture of this width."""
    return NAME_WIDTH if width >= NARROW else max(4, 5 + (width - 40) // 4)


def left_of(width: int) -> int:
    """Return the columns left of the cells in a picture of this width."""
    return LEFT if width >= NARROW else 14 + 1 + 5 + 1 + 4 + 1 + name_width(width) + 1


def fit_of(width: int, rows: int, is_joined: bool) -> Fit:
    """Return what a picture of this width has room for in so many lines, legend included."""
    return Fit(width - left_of(width), max(rows - LEGEND_LINES, len(SECTIONS)), is_joined)


def short_name(vma: Vma) -> str:
    """Return what a VMA is called where there is little room: the last part of its path, or its kind."""
    if vma.path == SHARED_ANON:
        return "shared anon"
    name = vma.path.rsplit("/", 1)[-1] if vma.path[:1] == "/" else vma.path
    return format_path(name or vma.kind)


def line_head(strips: list[Strip], width: int) -> str:
    """Return what stands left of the cells of one VMA, or of several: address, size, rights, name."""
    perms = strips[0].vma.perms if strips[0].nr_vmas == 1 else ""
    name = name_of_line(strips)
    address = format_address(strips[0].start)
    # The address of [vsyscall] is the longest: what it takes more, its size and its name take less.
    room = (9 if width >= NARROW else 5) + 14 - len(address)
    left = f"{address} {size_of(strips, width):>{room}} {perms:<4} "
    most = left_of(width) - len(left) - 1
    if width_of(name) > most:
        name = beginning(name, most - 1) + "~"
    (name,) = padded([name], most, right=False)
    return f"{left}{name} "


def name_of_line(strips: Sequence[Strip]) -> str:
    """Return what the VMAs of a line are called."""
    vma, nr_vmas = strips[0].vma, strips[0].nr_vmas
    names = {short_name(stretch.vma) for strip in strips for stretch in strip.stretches}
    has_one_name = len(names) == 1 and (nr_vmas == 1 or vma.kind == "file")
    return short_name(vma) if has_one_name else f"{nr_vmas} VMAs"


def size_of_strips(strips: Iterable[Strip]) -> str:
    """Return the size of strips, without the gaps between their parts."""
    return format_size(sum(strip.size for strip in strips))


def head_of(section: str, strips: Iterable[Strip], page_size: int) -> str:
    """Return the name of a section, with how much it is and how much of that is in RAM."""
    every = list(strips)
    lines = {strip.line: strip.nr_vmas for strip in every}
    nr_pages = sum(nr_present(classes) for classes in count(every).values())
    present = format_size(nr_pages * page_size)
    return f"{section}: {number_of(sum(lines.values()), 'VMA')}, {size_of_strips(every)}, {present} present"


def commonest(counts: dict[str, int]) -> tuple[str, int, int]:
    """Return the commonest class of a cell other than absent, how many pages of it there are, and of how many.

    >>> commonest({"own": 2, "shared": 0, "absent": 6})
    ('own', 2, 8)
    """
    name = max((name for name in counts if name != "absent"), key=counts.__getitem__)
    if counts[name] == 0:
        name = "absent"
    return name, counts[name], sum(counts.values())


def size_of(strips: list[Strip], width: int) -> str:
    """Return the size of strips, shortened where the picture is narrow: ``1.5G``."""
    size = size_of_strips(strips)
    return size if width >= NARROW else size.replace(" ", "").removesuffix("iB")


class Brush:
    """Draws VMAs as lines of cells, given what is in each cell, and which have changed."""

    def __init__(
        self,
        counts: Counts,
        used: Use,
        changed: set[Cell],
        glyphs: dict[str, str],
        colour: bool,
        width: int,
        page_size: int,
    ) -> None:
        self.counts = counts
        self.page_size = page_size
        self.used = used
        self.changed = changed
        self.glyphs = glyphs
        self.colour = colour
        self.width = width

    def lines(self, strips: list[Strip]) -> Iterator[str]:
        """Yield a line or more for each VMA, or for several taken together; a head above each section of them."""
        sections = {strip.section for strip in strips}
        for section, group in groupby(strips, key=lambda strip: strip.section):
            of_section = list(group)
            if len(sections) > 1:
                head = head_of(section, of_section, self.page_size)
                yield from (paint(line, "title", self.colour) for line in fold(head, self.width))
            for _, line in groupby(of_section, key=lambda strip: strip.line):
                yield from self._line(list(line))

    def _line(self, strips: list[Strip]) -> Iterator[str]:
        """Yield what begins in one line, and goes on in the next where it has more cells."""
        left = left_of(self.width)
        head = line_head(strips, self.width)
        for text in wrap(self._tokens(strips), self.width - left):
            yield head + text
            head = " " * left

    def _tokens(self, group: list[Strip]) -> Iterator[tuple[str, int]]:
        """Yield what is drawn, each with its columns: cells, and sizes in the place of what is folded."""
        if all(strip.is_folded for strip in group):
            yield self._size(group)
            return
        for strip in group:
            if strip.is_folded:
                yield self._size([strip])
                continue
            for key in keys_of(strip):
                is_changed = key in self.changed
                yield draw_cell(self.counts[key], self.glyphs, self.colour, is_changed, self.used.get(key)), 1

    def _size(self, strips: list[Strip]) -> tuple[str, int]:
        text = f"[{size_of(strips, self.width)}]"
        is_changed = any((strip.start, 0) in self.changed for strip in strips)
        return paint(text, "changed" if is_changed else "absent", self.colour), len(text)


def wrap(tokens: Iterable[tuple[str, int]], room: int) -> Iterator[str]:
    """Yield tokens as lines that are no wider than the room, unless a single one is."""
    line: list[str] = []
    taken = 0
    for text, width in tokens:
        if line and taken + width > room:
            yield "".join(line)
            line, taken = [], 0
        line.append(text)
        taken += width
    yield "".join(line)


def is_idle(counts: dict[str, int], used: tuple[int, int]) -> bool:
    """Whether fewer than half of the present pages of a cell were accessed."""
    return 2 * used[0] < nr_present(counts)


def draw_cell(
    counts: dict[str, int], glyphs: dict[str, str], colour: bool, changed: bool, used: tuple[int, int] | None
) -> str:
    """Return the character of a cell: its commonest class other than absent, by how much of the cell that fills.

    ``used`` are its pages accessed and dirty, where that is known: idle pages have characters of their own.
    """
    name, nr, nr_pages = commonest(counts)
    style, characters = name, glyphs[name]
    if used and name in ("own", "shared"):
        if is_idle(counts, used):
            style, characters = "idle", IDLE[name]
        elif 2 * used[1] >= nr_present(counts):
            style = "dirty"
    glyph = characters[3 if nr == nr_pages else min(2, nr * 3 // nr_pages)]
    return paint(glyph, style, colour, changed)


def use_legend(counts: Counts, used: Use, colour: bool, width: int) -> Iterator[str]:
    """Yield the lines that explain what page tables tell of the use of present pages."""
    nr_pages = sum(map(nr_present, counts.values()))
    nr_accessed = sum(accessed for accessed, _ in used.values())
    nr_dirty = sum(dirty for _, dirty in used.values())
    text = f"of {nr_pages:,} present pages {nr_accessed:,} were accessed, {nr_dirty:,} are dirty, by their entries"
    yield from fold(text, width)
    if any(is_idle(counts[key], use) for key, use in used.items()):
        for name, marks in IDLE.items():
            yield from explained(paint(marks[2:] + "  ", "idle", colour), f"{LEGEND[name]}, and idle", width)
        text = "(idle: fewer than half of the present pages of the cell were accessed)"
        yield from explained("    ", text, width)
    if colour:
        text = "in this colour: half of the present pages or more are dirty"
        yield from explained(paint("█   ", "dirty", colour), text, width)


def explained(marks: str, text: str, width: int) -> Iterator[str]:
    """Yield four columns of marks, and beside them what they mean."""
    first, *others = fold(text, width - 6)
    yield f"{marks}  {first}"
    yield from (f"      {line}" for line in others)


def legend(
    counts: Counts,
    glyphs: dict[str, str],
    colour: bool,
    cell_pages: int,
    page_size: int,
    width: int,
) -> Iterator[str]:
    """Yield the lines that explain the classes that occur, with how many pages are in each."""
    totals = {name: sum(cell[name] for cell in counts.values()) for name in glyphs}
    yield ""
    yield f"a cell is {number_of(cell_pages, 'page')}, {format_size(cell_pages * page_size)}"
    for name, nr_pages in totals.items():
        if nr_pages:
            marks = paint(f"{''.join(dict.fromkeys(glyphs[name])):<4}", name, colour)
            yield from explained(marks, f"{LEGEND[name]}: {number_of(nr_pages, 'page')}", width)


def fold_legend(strips: list[Strip], page_size: int, width: int) -> Iterator[str]:
    """Yield the lines that say what is not drawn."""
    folded = [strip for strip in strips if strip.is_folded]
    if folded:
        size = sum(strip.size for strip in folded)
        pages = number_of(size // page_size, "page")
        places = number_of(sum(len(strip.stretches) for strip in folded), "place")
        text = f"absent too, and folded: {pages} ({format_size(size)}) in {places}; --reserved draws them"
        yield from explained("[ ] ", text, width)

"""Pages drawn with characters: one line for a whole process, or its address space VMA by VMA.

Each class of pages has its own characters, so that nothing is lost without colours.
"""

from __future__ import annotations

from mematlas.views.colour import paint
from mematlas.views.format import format_address, format_path, format_size
from mematlas.views.table import Column, Drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.analysis.grid import Cells, Strip
    from mematlas.kernel.maps import Vma

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*#@"

# For each class the character of a cell that it fills a little, ..., wholly.
GLYPHS = {
    "own": "░▒▓█",
    "shared": "-=+#",
    "zero": "zzzZ",
    "swapped": "sssS",
    "cached": "cccC",
    "absent": "····",
    "guard": "gggG",
    "special": "!!!!",
    "unknown": "????",
}
IDLE = "iiiI"
"""Characters of cells of present pages of which fewer than half were accessed, where page tables tell."""
ASCII_GLYPHS = GLYPHS | {"own": "oo0@", "absent": "...."}
LEGEND = {
    "own": "present, mapped here alone",
    "shared": "present, mapped by others too",
    "zero": "zero page",
    "swapped": "swapped",
    "cached": "shared memory in RAM, no entry here",
    "absent": "absent",
    "guard": "guard region",
    "special": "migration, poison or marker entry",
    "unknown": "unknown",
}
STYLE_OF = {"own": "present", "shared": "shared"}

CELL_COLUMNS = (
    Column("start", "START", "address"),
    Column("end", "END", "address"),
    Column("nr_pages", "PAGES", "count"),
    *(Column(f"nr_{name}", name.upper(), "count") for name in GLYPHS),
    Column("nr_accessed", "ACCESSED", "count"),
    Column("nr_dirty", "DIRTY", "count"),
    Column("path", "PATH", "path"),
)
COLUMN_COLUMNS = (
    Column("column", "COLUMN", "count"),
    Column("start", "START", "address"),
    Column("nr_pages", "PAGES", "count"),
    Column("nr_present", "PRESENT", "count"),
    Column("nr_swapped", "SWAPPED", "count"),
)


def can_draw(encoding: str | None) -> bool:
    """Whether an output can show the block characters; ASCII stands in for them elsewhere."""
    try:
        (BARS + GLYPHS["own"] + GLYPHS["absent"]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(nr_present: int, nr_pages: int, bars: str) -> str:
    """Return the bar of a share: blank only for none at all, full only for all.

    >>> bar(1, 1000, BARS), bar(999, 1000, BARS), bar(7, 7, BARS)
    ('▁', '▇', '█')
    """
    if nr_present == 0:
        return bars[0]
    return bars[-1] if nr_present >= nr_pages else bars[1 + nr_present * (len(bars) - 2) // nr_pages]


def histogram_view(
    cells: Cells,
    places: list[tuple[Vma, int]],
    page_size: int,
    target: dict[str, Any],
    ascii_only: bool,
    notes: list[str],
) -> Drawn:
    """Return the density of present pages over all VMAs, end to end, as one line."""
    counts = [cells.classes(cell) for cell in range(cells.nr_cells)]
    present = [each["own"] + each["shared"] + each["zero"] for each in counts]
    rows = [
        (
            cell,
            address_of(cell * cells.cell_pages, places, page_size),
            cells.size_of(cell),
            nr,
            each["swapped"],
        )
        for cell, (nr, each) in enumerate(zip(present, counts, strict=True))
    ]

    def draw(in_bytes: bool, colour: bool, before: set[str] | None) -> Iterator[str]:
        bars = ASCII_BARS if ascii_only else BARS
        parts = []
        for nr, each, row in zip(present, counts, rows, strict=True):
            swapped = each["swapped"] > nr
            character = "s" if swapped and nr == 0 else bar(nr, row[2], bars)
            parts.append(paint(character, "swapped" if swapped else "present", colour and character != " "))
        yield f"|{''.join(parts)}| {sum(present)}/{cells.nr_pages}"

    return Drawn("hist/1", COLUMN_COLUMNS, rows, target=target, notes=notes, draw=draw)


def address_of(place: int, places: list[tuple[Vma, int]], page_size: int) -> int:
    """Return the address of the page at a place among VMAs laid end to end."""
    vma, first = next(item for item in reversed(places) if item[1] <= place)
    return vma.start + (place - first) * page_size


class Previous:
    """The last picture, to mark what has changed since."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], dict[str, int]] | None = None


def map_view(
    strips: list[Strip],
    page_size: int,
    width: int,
    target: dict[str, Any],
    ascii_only: bool,
    previous: Previous,
    notes: list[str],
) -> Drawn:
    """Return the address space drawn, VMA by VMA, with a legend of what occurs in it."""
    counts = {
        (strip.start, cell): strip.cells.classes(cell) for strip in strips for cell in range(strip.cells.nr_cells)
    }
    used = {
        (strip.start, cell): strip.cells.used.get(cell, (0, 0))
        for strip in strips
        if strip.cells.used is not None
        for cell in range(strip.cells.nr_cells)
    }
    old = previous.cells
    previous.cells = counts
    changed = {key for key, value in counts.items() if old.get(key) != value} if old is not None else set()

    def rows() -> Iterator[tuple[Any, ...]]:
        for strip in strips:
            span = strip.cells.cell_pages * page_size
            for cell in range(strip.cells.nr_cells):
                low = strip.start + cell * span
                nr = counts[strip.start, cell].values()
                yield (
                    low,
                    min(low + span, strip.end),
                    strip.cells.size_of(cell),
                    *nr,
                    *(used.get((strip.start, cell)) or (None, None)),
                    strip.vma.path or strip.vma.kind,
                )

    def draw(in_bytes: bool, colour: bool, before: set[str] | None) -> Iterator[str]:
        glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
        room = max(width - LEFT, 8)
        for strip in strips:
            drawn = [
                draw_cell(counts[key], glyphs, colour, key in changed, used.get(key))
                for key in ((strip.start, cell) for cell in range(strip.cells.nr_cells))
            ]
            head = strip_head(strip)
            for at in range(0, len(drawn), room):
                yield (head if at == 0 else " " * LEFT) + "".join(drawn[at : at + room])
        yield from legend(counts, glyphs, colour, strips[0].cells.cell_pages if strips else 1, page_size)
        if used:
            yield from use_legend(counts, used, colour)

    return Drawn("map/1", CELL_COLUMNS, rows(), target=target, notes=notes, draw=draw)


SHARED_ANON = "/dev/zero (deleted)"
"""What the kernel calls shared anonymous memory (mm/shmem.c, shmem_zero_setup)."""

NAME_WIDTH = 16
LEFT = 14 + 1 + 9 + 1 + 4 + 1 + NAME_WIDTH + 1


def strip_head(strip: Strip) -> str:
    """Return what stands left of a VMA's cells: address, size, rights, name."""
    path = strip.vma.path
    name = "shared anon" if path == SHARED_ANON else path.rsplit("/", 1)[-1] if path[:1] == "/" else path
    name = format_path(name or strip.vma.kind)
    if len(name) > NAME_WIDTH:
        name = name[: NAME_WIDTH - 1] + "~"
    size = format_size(strip.end - strip.start)
    return f"{format_address(strip.start)} {size:>9} {strip.vma.perms} {name:<{NAME_WIDTH}} "


def draw_cell(
    counts: dict[str, int], glyphs: dict[str, str], colour: bool, changed: bool, used: tuple[int, int] | None
) -> str:
    """Return the character of a cell: its commonest class other than absent, by how much of the cell that fills.

    ``used`` are its pages accessed and dirty, where that is known: idle pages have characters of their own.
    """
    nr_pages = sum(counts.values())
    name, nr = max(((name, nr) for name, nr in counts.items() if name != "absent"), key=lambda item: item[1])
    if nr == 0:
        name, nr = "absent", nr_pages
    style, characters = STYLE_OF.get(name, name), glyphs[name]
    if used and name in ("own", "shared"):
        nr_present = counts["own"] + counts["shared"] + counts["zero"]
        if 2 * used[0] < nr_present:
            style, characters = "idle", IDLE
        elif 2 * used[1] >= nr_present:
            style = "dirty"
    glyph = characters[3 if nr == nr_pages else min(2, nr * 3 // nr_pages)]
    return paint(glyph, "changed" if changed else style, colour)


def use_legend(
    counts: dict[tuple[int, int], dict[str, int]], used: dict[tuple[int, int], tuple[int, int]], colour: bool
) -> Iterator[str]:
    """Yield the lines that explain what page tables tell of the use of present pages."""
    nr_present = sum(cell["own"] + cell["shared"] + cell["zero"] for cell in counts.values())
    nr_accessed, nr_dirty = (sum(each[place] for each in used.values()) for place in (0, 1))
    yield f"of {nr_present:,} present pages {nr_accessed:,} were accessed, {nr_dirty:,} are dirty, by their entries"
    yield f"{paint('iI  ', 'idle', colour)}  a cell of present pages of which fewer than half were accessed"
    if colour:
        yield f"{paint('█', 'dirty', colour)}     in this colour: half of the present pages or more are dirty"


def legend(
    counts: dict[tuple[int, int], dict[str, int]],
    glyphs: dict[str, str],
    colour: bool,
    cell_pages: int,
    page_size: int,
) -> Iterator[str]:
    """Yield the lines that explain the classes that occur, with how many pages are in each."""
    totals = {name: sum(cell[name] for cell in counts.values()) for name in glyphs}
    yield ""
    yield f"a cell is {cell_pages} page{'s' if cell_pages > 1 else ''}, {format_size(cell_pages * page_size)}"
    for name, nr_pages in totals.items():
        if nr_pages:
            marks = paint(f"{''.join(dict.fromkeys(glyphs[name])):<4}", STYLE_OF.get(name, name), colour)
            yield f"{marks}  {LEGEND[name]}: {nr_pages:,} page{'s' if nr_pages > 1 else ''}"

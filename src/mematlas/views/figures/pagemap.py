"""The map of an address space as a picture: a line or more for each VMA, a cell for some pages of it."""

from __future__ import annotations

from itertools import groupby
from math import ceil

from mematlas.analysis.grid import CLASSES
from mematlas.analysis.neighbours import Fit
from mematlas.views.colour import SAME, TONES
from mematlas.views.figures.canvas import HATCH, Box, Canvas, Words
from mematlas.views.figures.lettering import width_of_words
from mematlas.views.figures.page import (
    BACKGROUND,
    BIG,
    MARGIN,
    PAGE_INK,
    PAGE_MUTED,
    PLAIN,
    ROW,
    SMALL,
    WIDER,
    WIDTH,
    cut,
    in_letters,
    words_at,
)
from mematlas.views.figures.scale import NONE, mixed
from mematlas.views.format import format_address, format_path, format_size, number_of
from mematlas.views.picture import LEGEND, commonest, head_of, name_of_line, size_of_strips

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.analysis.grid import Grid, Strip

    Shape = Box | Words

CELL_WIDTH, CELL_HEIGHT = 6, 12
GAP = 10
"""Between columns."""
SIZE_END, PERMS, NAME, LEFT = MARGIN + 184, MARGIN + 194, MARGIN + 228, MARGIN + 388
"""Where sizes end, and where rights, names and cells begin."""
NR_COLUMNS = (WIDTH - MARGIN - LEFT) // CELL_WIDTH
NR_ROWS = 60
"""Lines that a picture aims at."""
FIT = Fit(NR_COLUMNS, NR_ROWS, is_joined=True)
SHADES = (0.35, 0.55, 0.75, 1.0)
"""How much of its colour a cell has of which a class fills a third, two thirds, not all, and all."""
MOST_HEIGHT = 10_000
"""Pixels from which on lines are left out: whoever wants these picks an area."""
SAMPLE = 20
"""How wide a cell of the legend is."""


def map_picture(
    grid: Grid, page_size: int, target: dict[str, Any], machine: dict[str, Any], ascii_only: bool
) -> Canvas:
    """Return the map of an address space; ``ascii_only`` for letters that are drawn by us."""
    return PageMap(grid, page_size, ascii_only).canvas(target, machine)


class PageMap:
    """Draws the map of an address space."""

    def __init__(self, grid: Grid, page_size: int, ascii_only: bool) -> None:
        self.strips = grid.strips
        self.page_size = page_size
        self.ascii_only = ascii_only
        shown = [strip for strip in self.strips if not strip.is_folded]
        self.cell_pages = shown[0].cells.cell_pages if shown else 1
        self.totals = {
            name: sum(strip.cells.classes(index)[name] for strip in shown for index in range(strip.cells.nr_cells))
            for name in CLASSES
        }
        """Pages of each class."""

    def canvas(self, target: dict[str, Any], machine: dict[str, Any]) -> Canvas:
        """Return the picture."""
        where = ", Linux ".join(format_path(str(machine[key] or "?")) for key in ("host", "kernel"))
        size = format_size(self.cell_pages * self.page_size)
        heads = [
            f"The address space of {format_path(target['name'])}, PID {target['pid']}",
            f"on {where}; a cell is {number_of(self.cell_pages, 'page')}, {size}",
        ]
        y = MARGIN + BIG
        shapes: list[Shape] = [self.words(MARGIN, y, heads[0], BIG, bold=True)]
        y += ROW + 4
        shapes.append(self.words(MARGIN, y, heads[1], PLAIN, PAGE_MUTED))
        y += 12
        legend, y = self.legend(y)
        body, y = self.body(y + 6)
        return Canvas(WIDTH, y + MARGIN, BACKGROUND, ". ".join(heads), (*shapes, *legend, *body))

    def words(
        self, x: float, y: float, text: str, size: float, ink: str = PAGE_INK, anchor: str = "start", bold: bool = False
    ) -> Words:
        """Return a text that fits the picture."""
        return words_at(x, y, in_letters(text, self.ascii_only), size, ink, anchor, bold)

    def legend(self, y: int) -> tuple[list[Shape], int]:
        """Return the colours with what they mean, of those that occur, and where that ends."""
        shapes: list[Shape] = []
        for name, nr_pages in self.totals.items():
            if nr_pages:
                y += ROW
                shapes += boxes(MARGIN, y - ROW, SAMPLE, name, 1.0)
                text = f"{LEGEND[name]}: {number_of(nr_pages, 'page')}, {format_size(nr_pages * self.page_size)}"
                shapes.append(self.words(MARGIN + SAMPLE + GAP, y - 5, text, SMALL, PAGE_MUTED))
        folded = [strip for strip in self.strips if strip.is_folded]
        if folded:
            y += ROW
            text = f"absent too, and left out: {size_of_strips(folded)} (--reserved draws it)"
            shapes.append(self.words(MARGIN + SAMPLE / 2, y - 5, "[ ]", SMALL, PAGE_MUTED, "middle"))
            shapes.append(self.words(MARGIN + SAMPLE + GAP, y - 5, text, SMALL, PAGE_MUTED))
        return shapes, y

    def body(self, y: int) -> tuple[list[Shape], int]:
        """Return the lines, and where they end."""
        shapes: list[Shape] = []
        sections = {strip.section for strip in self.strips}
        for section, group in groupby(self.strips, key=lambda strip: strip.section):
            strips = list(group)
            if len(sections) > 1:
                y += ROW + 8
                shapes.append(self.words(MARGIN, y - 5, head_of(section, strips, self.page_size), PLAIN, bold=True))
            for _, line in groupby(strips, key=lambda strip: strip.line):
                found, y = self.line(y, list(line))
                shapes += found
                if y > MOST_HEIGHT:
                    y += ROW
                    shapes.append(self.words(MARGIN, y - 5, "... and more: pick an AREA, or a larger --cell", SMALL))
                    return shapes, y
        return shapes, y

    def line(self, y: int, strips: Sequence[Strip]) -> tuple[list[Shape], int]:
        """Return a line, or several where there are more cells, and where it ends."""
        base = y + ROW - 5
        name = in_letters(name_of_line(strips), self.ascii_only)
        short = cut(name, LEFT - GAP - NAME, SMALL)
        shapes: list[Shape] = [
            self.words(MARGIN, base, format_address(strips[0].start), SMALL, PAGE_MUTED),
            self.words(SIZE_END, base, size_of_strips(strips), SMALL, PAGE_MUTED, "end"),
            self.words(PERMS, base, strips[0].vma.perms if strips[0].nr_vmas == 1 else "", SMALL, PAGE_MUTED),
            Words(NAME, base, short, SMALL, PAGE_INK, whole="" if short == name else name),
        ]
        column = 0
        for strip in strips:
            if strip.is_folded:
                text = f"[{size_of_strips([strip])}]"
                nr = ceil(width_of_words(text, SMALL) * WIDER / CELL_WIDTH) + 1
                if column and column + nr > NR_COLUMNS:
                    y, column = y + ROW, 0
                x = LEFT + (column + 0.5) * CELL_WIDTH
                shapes.append(self.words(x, y + ROW - 5, text, SMALL, PAGE_MUTED))
                column += nr
                continue
            looks = [look_of(strip.cells.classes(index)) for index in range(strip.cells.nr_cells)]
            for look, group in groupby(looks):
                nr = len(list(group))
                while nr and y <= MOST_HEIGHT:
                    if column == NR_COLUMNS:
                        y, column = y + ROW, 0
                    part = min(nr, NR_COLUMNS - column)
                    shapes += boxes(LEFT + column * CELL_WIDTH, y, part * CELL_WIDTH, *look)
                    column += part
                    nr -= part
        return shapes, y + ROW


def look_of(classes: dict[str, int]) -> tuple[str, float]:
    """Return the commonest class of a cell other than absent, and how much of its colour that has."""
    name, nr, nr_pages = commonest(classes)
    return name, SHADES[3 if nr == nr_pages else min(2, nr * 3 // nr_pages)]


def boxes(x: float, y: float, width: float, name: str, shade: float) -> Iterator[Box]:
    """Yield what stands for some cells in a line that begins at y: guard regions are thin, the unknown is hatched."""
    top, height = y + (ROW - CELL_HEIGHT) / 2, CELL_HEIGHT
    if name == "guard":
        top, height = top + CELL_HEIGHT / 3, CELL_HEIGHT // 3
    tone = TONES[SAME.get(name, name)][True][0]
    fill = NONE if name == "absent" else HATCH if name == "unknown" else mixed(BACKGROUND, tone, shade)
    yield Box(x, top, width, height, fill)

"""The heatmap of a recording as a picture: a row for the VMAs of one kind and path, time from left to right."""

from __future__ import annotations

from itertools import groupby, pairwise

from mematlas.frozen import record
from mematlas.views.figures.canvas import HATCH, Box, Canvas, Words
from mematlas.views.figures.lettering import width_of_words
from mematlas.views.figures.page import (
    BACKGROUND,
    BIG,
    LINE,
    MARGIN,
    PAGE_INK,
    PAGE_MUTED,
    PER_TICK,
    PLAIN,
    ROW,
    SMALL,
    WIDER,
    WIDTH,
    cut,
    ends_of,
    heading_of,
    in_letters,
    name_of_process,
    words_at,
)
from mematlas.views.figures.scale import LEAST_SPAN, LEVELS, NONE, level_of, shade_of, time_ticks
from mematlas.views.format import LEFT_OUT, format_path, format_size, number_of
from mematlas.views.tracks import NO_VMA, NOT_ACCESSED, largest, name_of, page_size_of, shares_of, use_is_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.timeline.summary import Summary
    from mematlas.timeline.tracks import Track

    Shape = Box | Words

TITLES = {
    "present": "How much of each VMA is in RAM",
    "change": "How much of each VMA came or went since the look before",
    "accessed": "How much of each VMA was used since the kernel last aged it",
}
SHOWN, MOST_ROWS = 40, 1_000
"""Rows that a picture has unless somebody says otherwise, and at the most."""
MOST_PATH = 1_024
"""Characters of a path that are there for who points at its row."""
CELL = 14
"""How high cells are."""
GAP = 12
"""Between names, cells and sizes."""
RIGHT = 84
"""Room for sizes."""
LEAST_LEFT, MOST_LEFT = 120, 260
"""Room for names."""
RAMP, RAMP_HEIGHT = 192, 10
NO_LEVEL = -1
"""The level of what is not known."""


@record
class Cell:
    """A stretch of time in which as much was there."""

    start: float
    end: float
    level: int
    """A shade, or `NO_LEVEL`."""


@record
class Row:
    """The VMAs of one kind and path, over time."""

    track: Track
    name: str
    cells: tuple[Cell, ...]


def heatmap_picture(
    summary: Summary, tracks: Sequence[Track], what: str, limit: int | None, ascii_only: bool
) -> Canvas:
    """Return the heatmap of a recording; ``ascii_only`` for letters that are drawn by us."""
    return Heatmap(summary, tracks, what, limit, ascii_only).canvas()


def what_is_missing(tracks: Sequence[Track], what: str) -> str | None:
    """Return why there is nothing to draw; None where there is."""
    if not largest(tracks):
        return NO_VMA
    return NOT_ACCESSED if what == "accessed" and use_is_missing(tracks) else None


class Heatmap:
    """Draws the heatmap of a recording."""

    def __init__(
        self, summary: Summary, tracks: Sequence[Track], what: str, limit: int | None, ascii_only: bool
    ) -> None:
        self.summary = summary
        self.what = what
        self.ascii_only = ascii_only
        every = largest(tracks)
        shown = every[: min(limit or SHOWN, MOST_ROWS)]
        self.nr_more = len(every) - len(shown)
        self.ends = ends_of(summary)
        looks = max(summary.nr_moments - 1, 1)
        # The last look has as much room as those before it.
        self.end = summary.seconds + summary.seconds / looks if summary.seconds >= LEAST_SPAN else 1.0
        self.rows = [self.row(track) for track in shown]
        self.processes = list(dict.fromkeys(track.process for track in shown))
        """Those whose VMAs are shown, the one with the largest first."""
        widest = max((width_of_words(row.name, PLAIN) * WIDER for row in self.rows), default=0)
        self.left = MARGIN + round(min(max(widest, LEAST_LEFT), MOST_LEFT)) + GAP
        """Where cells begin."""
        self.room = WIDTH - MARGIN - RIGHT - GAP - self.left
        """How wide all cells of a row are together."""

    def canvas(self) -> Canvas:
        """Return the picture."""
        heads = list(heading_of(self.summary, TITLES[self.what], self.processes, self.ends))
        y = MARGIN + BIG
        shapes: list[Shape] = [self.words(MARGIN, y, heads[0], BIG, bold=True)]
        y += 4
        for head in heads[1:]:
            y += ROW
            shapes.append(self.words(MARGIN, y, head, PLAIN, PAGE_MUTED))
        y += 34
        shapes += self.legend(y)
        y += 14
        body, y = self.body(y)
        shapes += [*body, *self.axis(y)]
        y += 24
        if self.nr_more:
            y += ROW
            more = f"{number_of(self.nr_more, 'more row')}, of VMAs that had less (--limit)"
            shapes.append(self.words(MARGIN, y, more, SMALL, PAGE_MUTED))
        return Canvas(WIDTH, y + MARGIN - 4, BACKGROUND, ". ".join(heads), tuple(shapes))

    def body(self, y: int) -> tuple[list[Shape], int]:
        """Return the rows, those of each process below its name where there are several; and where they end."""
        lines: list[Shape] = []
        boxes: list[Shape] = []
        words: list[Shape] = []
        for process in self.processes:
            if len(self.processes) > 1:
                y += ROW + 10
                words.append(self.words(MARGIN, y - 7, name_of_process(process, self.ends), PLAIN, bold=True))
            rows = [row for row in self.rows if row.track.process == process]
            lines += self.grid(y, y + len(rows) * ROW)
            for row in rows:
                boxes += self.boxes(y, row)
                words += self.texts(y, row)
                y += ROW
        return [*lines, *boxes, *words], y + 4

    def row(self, track: Track) -> Row:
        """Return a row."""
        values = list(shares_of(track.points, self.what, page_size_of(self.summary)))
        ended = self.ends.get(track.process)
        cells = cells_of(track, values, self.end if ended is None else ended)
        return Row(track, in_letters(name_of(track, several=False), self.ascii_only), tuple(cells))

    def words(
        self, x: float, y: float, text: str, size: float, ink: str = PAGE_INK, anchor: str = "start", bold: bool = False
    ) -> Words:
        """Return a text that fits the picture."""
        return words_at(x, y, in_letters(text, self.ascii_only), size, ink, anchor, bold)

    # Cells

    def x(self, at: float) -> float:
        """Return where a time is, to half a pixel."""
        return self.left + round(2 * self.room * min(max(at / self.end, 0.0), 1.0)) / 2

    def boxes(self, y: float, row: Row) -> Iterator[Box]:
        """Yield the cells of a row."""
        for cell in row.cells:
            start, end = self.x(cell.start), self.x(cell.end)
            if end > start:
                fill = HATCH if cell.level == NO_LEVEL else shade_of(cell.level)
                yield Box(start, y + (ROW - CELL) / 2, end - start, CELL, fill)

    def texts(self, y: float, row: Row) -> Iterator[Words]:
        """Yield what stands left and right of a row."""
        base = y + ROW / 2 + PLAIN * 0.36
        short = cut(row.name, self.left - GAP - MARGIN, PLAIN)
        path = row.track.path
        whole = format_path(path if len(path) <= MOST_PATH else path[:MOST_PATH] + LEFT_OUT)
        yield Words(MARGIN, base, short, PLAIN, PAGE_INK, whole="" if whole == short else whole)
        yield self.words(WIDTH - MARGIN, base, format_size(row.track.peak), PLAIN, PAGE_MUTED, "end")

    # What explains them

    def legend(self, y: float) -> Iterator[Shape]:
        """Yield the shades with what they mean, those besides that occur, and what stands on the right."""
        x: float = MARGIN
        top = y - RAMP_HEIGHT
        levels = {cell.level for row in self.rows for cell in row.cells}
        others = [(NONE, "none")] + [(HATCH, "not known")] * (NO_LEVEL in levels)
        for fill, text in others:
            yield Box(x, top, 2 * RAMP_HEIGHT, RAMP_HEIGHT, fill)
            yield self.words(x + 2 * RAMP_HEIGHT + 6, y, text, SMALL, PAGE_MUTED)
            x += 2 * RAMP_HEIGHT + 6 + width_of_words(text, SMALL) * WIDER + 20
        yield self.words(x, y, "a little", SMALL, PAGE_MUTED)
        x += width_of_words("a little", SMALL) * WIDER + 6
        for level in range(1, LEVELS + 1):
            yield Box(x + (level - 1) * RAMP / LEVELS, top, RAMP / LEVELS, RAMP_HEIGHT, shade_of(level))
        x += RAMP + 6
        yield self.words(x, y, "all of its largest size", SMALL, PAGE_MUTED)
        yield self.words(WIDTH - MARGIN, y, "peak RSS", SMALL, PAGE_MUTED, "end")

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield where times are named, and what stands there."""
        for tick in time_ticks(self.summary.seconds, int(self.room // PER_TICK)):
            yield self.x(tick.at), tick.text

    def grid(self, top: float, bottom: float) -> Iterator[Box]:
        """Yield the lines at times."""
        yield from (Box(x, top - 2, 1, bottom - top + 6, LINE) for x, _ in self.ticks())

    def axis(self, y: float) -> Iterator[Words]:
        """Yield the times below the cells."""
        base = y + 16
        yield self.words(MARGIN, base, "after the first look", SMALL, PAGE_MUTED)
        yield from (self.words(x, base, text, SMALL, PAGE_MUTED, "middle") for x, text in self.ticks())


def cells_of(track: Track, values: Sequence[float | None], end: float) -> Iterator[Cell]:
    """Yield what a row had, from each look to the next one; what stayed as it was is one cell.

    Before the first look at a process, and after its end, there is nothing.
    """
    times = [*track.times, end]
    looks = zip(pairwise(times), values, strict=True)
    pieces = (Cell(start, till, NO_LEVEL if value is None else level_of(value)) for (start, till), value in looks)
    for level, group in groupby(pieces, key=lambda cell: cell.level):
        first, *others = group
        yield Cell(first.start, others[-1].end if others else first.end, level)

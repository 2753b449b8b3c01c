"""Stories in a terminal, part by part: sentences, and what commands show of a program that we started."""

from __future__ import annotations

import time

from mematlas.labs.memory import PAGE_SIZE
from mematlas.labs.workload import DRAW_PAGES
from mematlas.model.address_space import Selection
from mematlas.views.format import fold_message, fold_text
from mematlas.views.histogram import histogram_view
from mematlas.views.picture import Previous, map_view
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO

    from mematlas.labs.running_workload import RunningWorkload
    from mematlas.observe.process import Process

SEGMENTS = 12
"""Of a drawing: all pages of the first, every other page of the next two, and again."""
SWAP_SIZE = max(64 << 20, 2 * DRAW_PAGES * PAGE_SIZE)
"""Bytes of the swap file that is made where there is no swap."""
CELL_PAGES = 8
COUNT_WIDTH = 24
"""What is left of the line for the histogram's ends and count."""
INDENT = 3
"""Columns by which the text is indented below the titles."""


class Story:
    """One story, on one output."""

    def __init__(self, out: TextIO, width: int, colour: bool, ascii_only: bool, pause: float) -> None:
        self.out = out
        self.width = width
        self.colour = colour
        self.ascii_only = ascii_only
        self.pause = pause
        self.steps = 0
        self.room = max(width - INDENT, 1)
        """Columns of the screen for the text; 0 for any."""

    def run(self) -> None:
        """Play all of it."""
        raise NotImplementedError

    def step(self, title: str) -> None:
        """Begin the next part, after the time to read the last one."""
        if self.steps:
            time.sleep(self.pause)
        self.steps += 1
        self.out.write("\n" + paint(f"{self.steps}. {title}", "title", self.colour) + "\n")

    def say(self, *lines: str) -> None:
        """Write sentences, folded where the screen is narrower."""
        text = fold_text("\n".join(lines), self.room)
        self.write(*(part for line in text.split("\n") for part in fold_message(line, self.room)))

    def write(self, *lines: str) -> None:
        """Write lines as they are."""
        self.out.write("".join(f"{' ' * INDENT}{line}".rstrip() + "\n" for line in lines))
        self.out.flush()

    def show(self, command: str, lines: Iterable[str]) -> None:
        """Write what a command shows, under the command that shows it."""
        self.write(paint(f"$ mematlas {command}", "dim", self.colour), *lines)

    def lines(self, view: Any) -> Iterable[str]:
        """Return the lines of a view."""
        lines: Iterable[str] = view.lines(colour=self.colour, width=self.room)
        return lines

    def notes(self, view: Any) -> Iterable[str]:
        """Return the lines of the notes of a view, once its other lines are there."""
        return [line for note in view.notes for line in fold_message(f"note: {note}", self.room)]

    def draw_pages(self, workload: RunningWorkload, process: Process) -> None:
        """Show the pages of a workload as hist and map draw them."""
        density = process.density(self.width - COUNT_WIDTH, selection=area_of(workload))
        histogram = histogram_view(density, [], process.page_size, {}, self.ascii_only)
        self.show(f"hist {workload.pid} {workload.address:#x}", self.lines(histogram))
        grid = process.grid(selection=area_of(workload), cell_pages=CELL_PAGES)
        columns = self.width - INDENT
        view = map_view(grid, process.page_size, columns, {}, self.ascii_only, Previous())
        self.show(f"map {workload.pid} {workload.address:#x} --cell {CELL_PAGES}", self.lines(view))


def area_of(workload: RunningWorkload) -> Selection:
    """Return the selection of the workload's memory."""
    return Selection(span=(workload.address, workload.address + 1))

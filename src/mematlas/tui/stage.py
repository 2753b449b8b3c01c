"""The one widget that draws: rows of spans become strips, and only those rows that are others are drawn again."""

from __future__ import annotations

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from mematlas.tui.drawing import fitted, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.tui.colours import Colours
    from mematlas.tui.drawing import Row


class RowStage(Widget, can_focus=True):
    """Shows rows that fill it."""

    def __init__(self, colours: Colours) -> None:
        super().__init__()
        self.colours = colours
        self._rows: list[Row] = []
        self._strips: list[Strip] = []

    def show(self, rows: Sequence[Row]) -> None:
        """Show other rows: as many as there is room for."""
        width, height = self.size
        made = [fitted(printable(row), width) for row in rows[:height]]
        made += [fitted([], width)] * (height - len(made))
        if len(made) != len(self._rows):
            self._rows, self._strips = made, [self._strip(row, width) for row in made]
            self.refresh()
            return
        dirty = [y for y, (row, before) in enumerate(zip(made, self._rows, strict=True)) if row != before]
        self._rows = made
        for y in dirty:
            self._strips[y] = self._strip(made[y], width)
        if dirty:
            self.refresh(*(Region(0, y, width, 1) for y in dirty))

    def _strip(self, row: Row, width: int) -> Strip:
        colours = self.colours
        return Strip([Segment(text, colours[role]) for text, role in row if text], width)

    def render_line(self, y: int) -> Strip:
        """Return a row as Textual has it."""
        if y < len(self._strips):
            return self._strips[y]
        return self._strip(fitted([], self.size.width), self.size.width)

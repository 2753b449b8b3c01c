"""A list that is scrolled: thousands of items, of which those in sight are drawn."""

from __future__ import annotations

from mematlas.tui.drawing import cell, fitted, marked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Generic, TypeVar

    from mematlas.tui.drawing import Row

    Item = TypeVar("Item")
else:
    Item, Generic = None, {None: object}

UPWARD = ("▾", "▴")
"""What stands before the heading that a list is sorted by: as it is most often wanted, and the other way round."""
MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}


class RowList(Generic[Item]):
    """Which items there are, which one the cursor is on, and which is the first in sight.

    ``key_of`` names an item so that it is found again when the list is another; the cursor stays on it.
    """

    def __init__(self, key_of: Callable[[Item], Any]) -> None:
        self.key_of = key_of
        self.items: Sequence[Item] = ()
        self.index = self.top = 0
        self.height = 1
        """Rows that were drawn last."""
        self.tagged: set[Any] = set()
        self.is_sorted_anew = False
        """Whether the cursor goes to the first of the items that are put next: those that a list is sorted for."""

    def put(self, items: Sequence[Item]) -> None:
        """Have other items in the list."""
        here = self.current
        key = None if here is None else self.key_of(here)
        self.items = items
        if self.is_sorted_anew:
            self.is_sorted_anew, self.index = False, 0
        elif here is not None and not (self.index < len(items) and self.key_of(items[self.index]) == key):
            places = (place for place, item in enumerate(items) if self.key_of(item) == key)
            self.index = next(places, self.index)
        self.index = max(min(self.index, len(items) - 1), 0)

    @property
    def current(self) -> Item | None:
        """The item that the cursor is on; None of an empty list."""
        return self.items[self.index] if self.index < len(self.items) else None

    def go_to(self, index: int) -> None:
        """Put the cursor on an item, the nearest that there is."""
        self.index = max(min(index, len(self.items) - 1), 0)

    def press(self, key: str) -> bool:
        """Move as a key says; return whether it says so."""
        pages = {"pageup": -self.height, "pagedown": self.height}
        if key in MOVES or key in pages:
            self.go_to(self.index + (MOVES.get(key) or pages[key]))
        elif key in ("home", "end"):
            self.go_to(0 if key == "home" else len(self.items) - 1)
        else:
            return False
        return True

    def tag(self) -> None:
        """Tag the item that the cursor is on, or take its tag away; go on to the next."""
        if (here := self.current) is not None:
            self.tagged ^= {self.key_of(here)}
            self.go_to(self.index + 1)

    def search(self, text: str, text_of: Callable[[Item], str], step: int) -> bool:
        """Go to the next item that has a text, from the cursor on, or the previous with -1; round the end too."""
        nr, wanted = len(self.items), text.casefold()
        for away in range(1, nr + 1):
            index = (self.index + step * away) % nr
            if wanted in text_of(self.items[index]).casefold():
                self.index = index
                return True
        return False

    def draw(self, height: int, width: int, row_of: Callable[[Item], Row]) -> list[Row]:
        """Return the rows in sight, the cursor's marked."""
        self.height = max(height, 1)
        self.top = max(min(self.top, self.index, len(self.items) - height), self.index - self.height + 1, 0)
        rows = []
        for index, item in enumerate(self.items[self.top : self.top + height], self.top):
            row = fitted(row_of(item), width)
            if index == self.index:
                row = marked(row, "row")
            elif self.key_of(item) in self.tagged:
                row = marked(row, "tagged")
            rows.append(row)
        return rows

    def at_row(self, y: int) -> bool:
        """Put the cursor on the item in a row of the list; return whether there is one."""
        index = self.top + y
        if not (0 <= y < self.height and index < len(self.items)):
            return False
        self.index = index
        return True

    def scroll(self, step: int) -> None:
        """Move the cursor by three items, as the wheel does."""
        self.go_to(self.index + 3 * step)


class Heading:
    """Columns by which a list can be sorted: keys, headings, widths; the one that it is sorted by is marked."""

    def __init__(self, columns: Sequence[tuple[str, str, int, bool]], sort: str, is_up: bool = False) -> None:
        """Each column is a key, a heading, a width, and whether it is right-aligned."""
        self.columns = columns
        self.sort = sort
        self.is_up = is_up

    def press(self, key: str) -> bool:
        """Sort by the next or the previous column (``>`` and ``<``), or the other way round (``I``)."""
        keys = [column[0] for column in self.columns]
        step = {">": 1, "<": -1}.get(key)
        if key == "I":
            self.is_up = not self.is_up
        elif step and not keys:
            pass  # nothing is drawn yet
        elif step:
            here = keys.index(self.sort) if self.sort in keys else -step
            self.sort = keys[(here + step) % len(keys)]
            self.is_up = False
        else:
            return False
        return True

    def click(self, x: int) -> bool:
        """Sort by the column at a place, or the other way round by that which it is sorted by."""
        at = 0
        for key, _, width, _ in self.columns:
            if at <= x < at + width:
                self.is_up = not self.is_up if key == self.sort else False
                self.sort = key
                return True
            at += width + 1
        return False

    def draw(self) -> Row:
        """Return the row of headings, that which it is sorted by with which way, where there is room."""
        row: Row = []
        for key, heading, width, is_right in self.columns:
            is_sorted = key == self.sort
            if is_sorted and len(heading) < width:
                heading = UPWARD[self.is_up] + heading
            row += [(cell(heading, width, is_right), "title" if is_sorted else "muted"), (" ", "text")]
        return row[:-1]

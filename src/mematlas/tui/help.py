"""Help: the keys of the page that is shown, what is to be seen there, and the keys that mean the same everywhere."""

from __future__ import annotations

from mematlas.tui.help_texts import ABOVE, EVERYWHERE, KEYS, MEANINGS
from mematlas.tui.page import Page
from mematlas.views.format import fold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing

MORE = " ↓ more"
WORD = 14
"""Columns of keys, and of words."""
LEAST_TEXT = 16
STEPS = {"down": 1, "j": 1, "up": -1, "k": -1, "pagedown": 10, "pageup": -10, "home": -1000, "end": 1000}


class HelpPage(Page):
    """Lies over a page until a key is pressed."""

    name = "Help"
    keys = (("↑ ↓", "scroll"), ("Esc", "back"))
    is_sheet = True

    def __init__(self, viewing: Viewing, page: Page) -> None:
        super().__init__(viewing)
        self.page = page
        self.top = 0

    def draw(self, width: int, height: int) -> list[Row]:
        """Return as much as there is room for, from that on to which was scrolled."""
        name = self.page.name
        parts = (
            (f"Keys of {name}", KEYS[name]),
            ("Keys everywhere", EVERYWHERE),
            ("What is shown", MEANINGS[name]),
            ("Above it", ABOVE),
        )
        rows: list[Row] = []
        for title, texts in parts:
            rows += [[(f" {title}", "title")], *(row for text in texts for row in rows_of(*text, width)), []]
        rows.pop()
        self.top = max(min(self.top, len(rows) - height), 0)
        shown = rows[self.top : self.top + height]
        if self.top + height < len(rows):
            shown[-1:] = [[(MORE, "title")]]
        return shown

    def press(self, key: str) -> bool:
        """Scroll."""
        self.top = max(self.top + STEPS.get(key, 0), 0)
        return key in STEPS

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.top = max(self.top + 3 * step, 0)


def rows_of(word: str, text: str, width: int) -> list[Row]:
    """Return a key or a word, with what it means beside it, on as many rows as that takes.

    >>> rows_of("q", "quit", 40)
    [[('   q              ', 'text'), ('quit', 'muted')]]
    """
    lines = fold(text, max(width - WORD - 4, LEAST_TEXT))
    return [[(f"   {word * (not number):<{WORD}} ", "text"), (line, "muted")] for number, line in enumerate(lines)]

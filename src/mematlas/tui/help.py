"""Help: the keys of the page that is shown, and those that mean the same everywhere."""

from __future__ import annotations

from mematlas.tui.page import Page

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing

EVERYWHERE = (
    ("1 to 6, Tab", "screens"),
    ("arrows, hjkl", "move; PgUp, PgDn, Home, End"),
    ("+ -, wheel", "zoom, on the map and in time"),
    ("Enter / Esc", "into / back"),
    ("/ n N, F3", "search, next, previous"),
    ("\\, F4", "show only what has a text"),
    ("[ ] { }", "a moment earlier, later; ten"),
    ("z, space", "freeze, and go on"),
    ("s d", "compare with how it is now; no more"),
    ("r", "record the process from here on; end that"),
    ("a", "act on the process: the plan first"),
    ("y", "copy the command line for what is seen"),
    ("? F1, q F10", "help, quit"),
)


class HelpPage(Page):
    """Lies over a page until a key is pressed."""

    name = "Help"
    keys = (("Esc", "back"),)

    def __init__(self, viewing: Viewing, page: Page, pages: Sequence[Page]) -> None:
        super().__init__(viewing)
        self.page = page
        self.top = 0

    def draw(self, width: int, height: int) -> list[Row]:
        """Return the keys, a row each, from that on to which was scrolled."""
        rows: list[Row] = [[(f" {self.page.name}", "title")]]
        rows += [self._row(key, what) for key, what in self.page.keys]
        rows += [[], [(" Everywhere", "title")]]
        rows += [self._row(key, what) for key, what in EVERYWHERE]
        self.top = max(min(self.top, len(rows) - height), 0)
        return rows[self.top : self.top + height]

    def _row(self, key: str, what: str) -> Row:
        return [(f"   {key:<14}", "text"), (what, "muted")]

    def press(self, key: str) -> bool:
        """Scroll."""
        step = {"down": 1, "j": 1, "up": -1, "k": -1, "pagedown": 10, "pageup": -10}.get(key)
        self.top += step or 0
        return step is not None

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.top += 3 * step

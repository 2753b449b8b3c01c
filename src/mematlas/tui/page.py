"""One of the screens that the keys 1 to 6 lead to: what it draws, and what it does with keys and the mouse."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing


class Page:
    """A screen. What all of them share is in `Viewing`; what is drawn, is drawn anew from a timeline each time."""

    name = ""
    keys: tuple[tuple[str, str], ...] = ()
    """Its own keys, each with what it does, the most important first: for the line below it."""
    is_sheet = False
    """Whether it lies over a page: keys that mean the same everywhere do not reach it."""
    needs = ""
    """What has to be watched while it is seen: ``everybody``, ``closely``, ``machine``, with blanks between them."""
    rests = 0.0
    """Seconds after a key or a click after which it wants to be drawn again; 0 for never."""

    def __init__(self, viewing: Viewing) -> None:
        self.viewing = viewing

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return at most so many rows, of at most so many columns each."""
        raise NotImplementedError

    def press(self, key: str) -> bool:
        """Do what a key means here; return whether it means anything. Keys have the names that Textual gives them."""
        return False

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Do what a click at a column and a row of this page means."""

    def wheel(self, x: int, y: int, step: int) -> None:
        """Do what the wheel means: -1 is up, 1 is down."""

    def search(self, text: str, step: int = 1) -> bool:
        """Go to the next (or with -1 the previous) place that has a text; return whether there is one."""
        return False

    def filter(self, text: str) -> None:
        """Show only what has a text; all, if that is empty."""

    def command(self) -> str:
        """Return the command line that shows the same."""
        raise NotImplementedError

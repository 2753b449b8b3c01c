"""The colours of the screen: what each role looks like, in as many colours as the terminal has, or in none."""

from __future__ import annotations

from rich.color import Color
from rich.style import Style

from mematlas.views.colour import INK, MUTED, PAPER, SAME, TONES

BARE = {"text": (None, None), "muted": ("bright_black", "bright_black"), "title": (None, None), "bar": (None, None)}
"""What roles without a tone have of 16 colours, on dark and on light: None is the terminal's own."""
GROUND = {"dark": "#22324a", "light": "#d7e3f4"}
GROUND_OF_256 = {"dark": 237, "light": 253}
"""What the row of the cursor is drawn on, where there are colours enough."""
BOLD = frozenset(("title", "bar"))


class Colours:
    """Styles by role: ``colours["own+changed"]``."""

    def __init__(self, depth: int, light: bool) -> None:
        """``depth`` is how many colours there are: 1 << 24, 256, 16, or 0 for none."""
        self.depth = depth
        self.light = light
        self._styles: dict[str, Style] = {}

    def __getitem__(self, role: str) -> Style:
        style = self._styles.get(role)
        if style is None:
            style = self._styles[role] = self._made(role)
        return style

    def _made(self, role: str) -> Style:
        name, _, mark = role.partition("+")
        is_full = self.depth >= 1 << 24
        is_few = self.depth < 256
        is_reversed = mark in ("changed", "cursor") or (mark == "row" and is_few)
        bold = name in BOLD or mark in ("tagged", "faded") or (mark == "cursor" and not self.depth)
        # A row that is reversed would be a patchwork.
        colour = None if not self.depth or (mark == "row" and is_few) else self._colour(name)
        back = None
        if is_full:
            back = Color.parse((GROUND if mark == "row" else PAPER)[self._background])
        elif mark == "row" and not is_few:
            back = Color.from_ansi(GROUND_OF_256[self._background])
        dim = name == "muted" and not self.depth and not is_reversed
        return Style(color=colour, bgcolor=back, bold=bold or None, dim=dim or None, reverse=is_reversed or None)

    @property
    def _background(self) -> str:
        return "light" if self.light else "dark"

    def _colour(self, name: str) -> Color | None:
        if name in BARE:
            if self.depth == 16:
                word = BARE[name][self.light]
                return Color.parse(word) if word else None
            full = (MUTED if name == "muted" else INK)[self._background]
            return Color.parse(full)
        full, of_256, of_16 = TONES[SAME.get(name, name)][self.light]
        if self.depth == 16:
            return Color.from_ansi(of_16 - 30 if of_16 < 90 else of_16 - 82)
        return Color.parse(full) if self.depth > 256 else Color.from_ansi(of_256)

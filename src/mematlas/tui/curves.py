"""Curves as areas upon one another: a column for each moment, several rows high, in eighths of a row."""

from __future__ import annotations

from mematlas.tui.bars import FILLS
from mematlas.tui.drawing import SPARKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mematlas.tui.drawing import Row
    from mematlas.tui.samples import Amounts

    Cell = tuple[str, str]
    """A character and its role."""
    Layers = list[tuple[float | None, str]]

FINE = len(SPARKS)
CURVES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "USS in RSS, swap": (("uss", "own", "USS"), ("rss", "shared", "RSS"), ("swap", "swapped", "swap")),
    "anon, file, shmem, swap": (
        ("anon", "own", "anon"),
        ("file", "cached", "file"),
        ("shmem", "shared", "shmem"),
        ("swap", "swapped", "swap"),
    ),
    "RSS": (("rss", "own", "RSS"),),
    "USS": (("uss", "own", "USS"),),
    "PSS": (("pss", "shared", "PSS"),),
    "swap": (("swap", "swapped", "swap"),),
}
"""What can be shown: measures from below upwards, each with its role and its word."""


def layers_of(name: str, amounts: Amounts | None) -> Layers | None:
    """Return how high each area of a moment is, from below; None where nobody looked.

    >>> layers_of("USS in RSS, swap", {"uss": 3, "rss": 5, "swap": 1})
    [(3, 'own'), (2, 'shared'), (1, 'swapped')]
    """
    if amounts is None:
        return None
    layers: Layers = [(amounts[measure], role) for measure, role, _ in CURVES[name]]
    if name == next(iter(CURVES)):
        uss, rss = amounts["uss"], amounts["rss"]
        rest = None if rss is None else max(rss - (uss or 0), 0)
        layers[:2] = [(uss or 0, "own"), (rest, "shared")]
    return layers


def height_of(layers: Layers | None) -> float | None:
    """Return how high all areas of a moment are; None where one is not known.

    >>> height_of([(3, "own"), (2, "shared")]), height_of([(None, "own")])
    (5, None)
    """
    known = [value for value, _ in layers or () if value is not None]
    return sum(known) if layers and len(known) == len(layers) else None


def column(layers: Layers | None, scale: float, height: int) -> list[Cell]:
    """Return the cells of a moment, the lowest first: ``?`` where something is not known.

    >>> column([(2, "own"), (1, "swapped")], 4, 4)
    [('█', 'own'), ('█', 'own'), ('░', 'swapped'), (' ', 'text')]
    >>> column([(1, "own")], 16, 2), column(None, 16, 1), column([(None, "own")], 16, 1)
    ([('▁', 'own'), (' ', 'text')], [(' ', 'text')], [('?', 'unknown')])
    """
    blank = (" ", "text")
    if layers is None:
        return [blank] * height
    total = height_of(layers)
    if total is None:
        return [("?", "unknown"), *[blank] * (height - 1)]
    unit = height / (scale or 1)
    eighths = round(total * unit * FINE)
    if total > 0:
        eighths = min(max(eighths, 1), height * FINE)  # something is never nothing
    whole, rest = divmod(eighths, FINE)
    cells = []
    for row in range(whole):
        role = role_at(layers, (row + 0.5) / unit)
        cells.append((FILLS[role], role))
    if rest:
        cells.append((SPARKS[rest - 1], role_at(layers, (whole + rest / FINE / 2) / unit)))
    return cells + [blank] * (height - len(cells))


def role_at(layers: Layers, amount: float) -> str:
    """Return the role of the area that an amount lies in; above all, that of the highest which there is."""
    total, role = 0.0, layers[0][1]
    for value, this in layers:
        if value:
            total, role = total + value, this
            if amount < total:
                break
    return role


def runs(cells: Sequence[Cell], role_of: Callable[[int, str], str] | None = None) -> Row:
    """Return cells as a row, those side by side of one role together; ``role_of`` marks the one in a place.

    >>> runs([("a", "own"), ("b", "own"), (" ", "text")])
    [('ab', 'own'), (' ', 'text')]
    """
    row: Row = []
    text, before = "", ""
    for place, (character, role) in enumerate(cells):
        this = role_of(place, role) if role_of else role
        if this != before and text:
            row.append((text, before))
            text = ""
        before = this
        text += character
    return [*row, (text, before)] if text else row

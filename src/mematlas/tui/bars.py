"""Bars of parts that are told apart without colours too: what is in RAM, what of it is dirty, what is in swap."""

from __future__ import annotations

from mematlas.tui.drawing import BLOCKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.tui.drawing import Row

    Part = tuple[float, str]
    """A share of the whole bar, and its role."""

FILLS = {"own": "█", "dirty": "▒", "swapped": "░", "shared": "▓", "cached": "▒", "zero": "▓"}
"""What fills a part of a role."""
IN_RAM = (("own", "in RAM"), ("dirty", "dirty"), ("swapped", "swap"))


def layers(parts: Sequence[Part], width: int) -> Row:
    """Return parts of a bar side by side; what is something is never nothing, and takes the columns it is to.

    >>> layers([(0.5, "own"), (0.25, "swapped")], 8)
    [('████', 'own'), ('░░', 'swapped'), ('  ', 'text')]
    >>> layers([(0.001, "own")], 4), layers([(0.3, "own")], 4)
    ([('▏', 'own'), ('   ', 'text')], [('█▎', 'own'), ('  ', 'text')])
    >>> layers([(0.5, "own"), (0.001, "swapped")], 4)
    [('██', 'own'), ('░', 'swapped'), (' ', 'text')]
    """
    row: Row = []
    total, done = 0.0, 0
    known = [(part, role) for part, role in parts if part > 0]
    for number, (part, role) in enumerate(known, 1):
        total = min(total + part, 1.0)
        is_fine = number == len(known) and FILLS[role] == "█"
        end, rest = divmod(round(total * width * 8), 8) if is_fine else (round(total * width), 0)
        if is_fine:
            rest = rest if end > done or rest else 1
        else:
            end = max(end, done + 1)
        end = min(end, width)
        text = FILLS[role] * (end - done) + (BLOCKS[rest] if rest and end < width else "")
        if text:
            row.append((text, role))
            done += len(text)
    if done < width:
        row.append((" " * (width - done), "text"))
    return row


def legend(parts: Sequence[tuple[str, str]]) -> Row:
    """Return what parts of bars mean: a fill and its word each.

    >>> legend([("own", "in RAM")])
    [('█', 'own'), (' in RAM  ', 'muted')]
    """
    row: Row = []
    for role, word in parts:
        row += [(FILLS[role], role), (f" {word}  ", "muted")]
    return row

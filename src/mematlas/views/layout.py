"""How the rows of a table stand on a screen: what there is room for, and what is given up."""

from __future__ import annotations

from mematlas.views.columns import widths_of
from mematlas.views.format import fold, format_address, padded, shorten, width_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.views.columns import Column, Texts

LEAST_ROOM = 8
"""Columns that a last column is folded to at the least."""
LEAST_PATH = 20
"""Columns that paths are shortened to at the least, for the sake of other columns, where their own column has no least
width."""
PATH_SHARE = 0.3
"""How much of a screen paths are left at the least, for the sake of their last part."""
USUAL_ADDRESS = len(format_address(0))
FEW = 4
"""One row of so many has a longer address, at the most, where it stands in the blanks of the next column."""
NOTHING = frozenset(("-", ""))
SAYS_NOTHING = frozenset(("-", "", "0"))
CHANGES = frozenset(("change", "rate"))
"""Kinds of columns that say something even while nothing has changed: others stay where they are when it does."""
INDENT = 4
"""Columns by which the further lines of a row stand out from its first."""


class Layout:
    """How rows stand on a screen: which columns there is room for, and how much of the last cell.

    That is folded, or shortened where it is a path. Where not even those fit that must be shown, a row has
    several lines.
    """

    def __init__(self, columns: list[Column[Any]], known: Sequence[Texts], width: int, streams: bool) -> None:
        """``known`` are the rows as far as they are, which is to the end unless they stream."""
        widths = widths_of(columns, known)
        self.width = width
        least = least_of(columns[-1], width, widths[-1], cells_in(known, -1))
        blank = [
            not streams
            and columns[index].kind not in CHANGES
            and all(SAYS_NOTHING.issuperset(texts[index]) for texts in known)
            for index in range(len(columns))
        ]
        ranks = [column.rank for column in columns]

        def fitted() -> list[int]:
            return fitting(ranks, [*widths[:-1], least], width, blank, spare=widths[-1] - least)

        if columns[0].kind == "address":
            widths[0], widest = min(widths[0], USUAL_ADDRESS), widths[0]
            widths[0] = without_longest(columns, fitted()[:2], known, widths, widest)
        self.kept = fitted()
        self.lost = [column.heading for index, column in enumerate(columns) if index not in self.kept]
        """The headings of columns that there is no room for."""
        self.stand_ins = stand_ins(columns, self.kept)
        """Where the cells of a lost column stand in blank ones."""
        self.widths = [max(widths[index], widths[self.stand_ins.get(index, index)]) for index in self.kept]
        self.is_right = [columns[index].right for index in self.kept]
        last = columns[self.kept[-1]]
        self.folds = last.kind != "path"
        if last is not columns[-1]:
            least = least_of(last, width, self.widths[-1], cells_in(known, self.kept[-1]))
        elif not self.folds:  # sooner short paths than several lines a row
            room = width - sum(taken + 2 for taken in self.widths[:-1])
            least = min(least, max(room, LEAST_ROOM))
        self.groups = in_groups([*self.widths[:-1], least], width)
        """The columns of each line, by their indexes among those that are kept."""
        fields = [pattern_of(*pair) for pair in zip(self.widths, self.is_right, strict=True)]
        self.patterns = ["  ".join(fields[index] for index in group) for group in self.groups]
        indent = INDENT if len(self.groups) > 1 else 0
        before_last = indent + sum(self.widths[index] + 2 for index in self.groups[-1][:-1])
        self.room = max(width - before_last, LEAST_ROOM)

    def lines(self, texts: Texts) -> Iterator[str]:
        """Yield the lines of rows, given as the cells of all columns."""
        cells = [texts[index] for index in self.kept]
        for index, other in self.stand_ins.items():
            pairs = zip(texts[index], texts[other], strict=True)
            cells[self.kept.index(index)] = [own or instead for own, instead in pairs]
        for row in zip(*cells, strict=True):
            yield from self._lines_of(list(row))

    def _lines_of(self, row: list[str]) -> Iterator[str]:
        """Yield the lines of one row. What would say nothing but that something is not known is left out."""
        parts = row[-1:]
        last = row[-1]
        if len(last) > self.room or not (last.isascii() or width_of(last) <= self.room):
            parts = fold(last, self.room) if self.folds else [shorten(last, self.room)]
        for number, group in enumerate(self.groups):
            cells = [row[index] for index in group]
            if number and NOTHING.issuperset(cells):
                continue
            for part in parts if group is self.groups[-1] else cells[-1:]:
                yield self._line(number, [*cells[:-1], part])
                cells = [""] * len(cells)

    def _line(self, number: int, cells: list[str]) -> str:
        indent = " " * INDENT if number else ""
        line = (indent + self.patterns[number].format(*cells)).rstrip()
        if number == 0 and len(cells[0]) > self.widths[0]:
            line = drawn_in(line, len(cells[0]), self.widths[0])
        if line.isascii() and len(line) <= self.width:
            return line
        line = self._joined(number, cells)
        if width_of(line) <= self.width:
            return line
        # Of rows that stream some are longer than could be known.
        group = self.groups[number]
        short = [
            cell if self.is_right[index] else shorten(cell, self.widths[index])
            for index, cell in zip(group, cells, strict=True)
        ]
        return self._joined(number, short)

    def _joined(self, number: int, cells: list[str]) -> str:
        """Return a line with each cell as wide as it is on a screen; to a format, all characters are alike."""
        group = self.groups[number]
        parts = [
            padded([cell], self.widths[index], self.is_right[index])[0]
            for cell, index in zip(cells, group, strict=True)
        ]
        indent = " " * INDENT if number else ""
        return (indent + "  ".join(parts)).rstrip()


def cells_in(known: Sequence[Texts], index: int) -> Iterator[str]:
    """Return the cells of one column, as far as they are known."""
    return (cell for texts in known for cell in texts[index])


def pattern_of(width: int, is_right: bool) -> str:
    """Return what formats a cell of ASCII.

    >>> pattern_of(8, True)
    '{:>8}'
    """
    return f"{{:{'>' if is_right else '<'}{width}}}"


def stand_ins(columns: list[Column[Any]], kept: list[int]) -> dict[int, int]:
    """Return which lost columns stand in blank cells of which others."""
    keys = [column.key for column in columns]
    wanted = {index: columns[index].fallback for index in kept}
    others = {index: keys.index(key) for index, key in wanted.items() if key in keys}
    return {index: other for index, other in others.items() if other not in kept}


def in_groups(widths: list[int], width: int) -> list[range]:
    """Return which columns stand in a line together, where all of them are wider than the screen.

    >>> in_groups([30, 30, 30], 80), in_groups([30, 30, 16], 80)
    ([range(0, 2), range(2, 3)], [range(0, 3)])
    """
    groups: list[range] = []
    first = taken = 0
    for index, own in enumerate(widths):
        if index > first and taken + 2 + own > width:
            groups.append(range(first, index))
            first, taken = index, INDENT + own
        else:
            taken += own + 2 * (index > first)
    return [*groups, range(first, len(widths))]


def least_of(column: Column[Any], width: int, widest: int, cells: Iterable[str]) -> int:
    """Return how many columns the last cell takes at the least, on a screen of this width."""
    if column.right:
        return widest
    if column.kind == "path":
        return min(widest, max(column.width or LEAST_PATH, int(width * PATH_SHARE)))
    longest_word = max((width_of(word) for cell in cells for word in fold(cell, 1)), default=0)
    return min(widest, max(longest_word, column.width, LEAST_ROOM))


def without_longest(
    columns: list[Column[Any]], first: Sequence[int], known: Sequence[Texts], widths: list[int], widest: int
) -> int:
    """Return how wide a column of addresses is, where a few longer ones may stand in the blanks of the next column.

    The one address of the kernel among those of a program, [vsyscall], would move all rows to the right. ``first`` are
    the indexes of the two columns, ``widest`` is what the longest address takes.
    """
    if widest <= USUAL_ADDRESS or len(first) < 2 or not columns[first[1]].right:
        return widest
    next_to = first[1]
    cells = zip(cells_in(known, 0), cells_in(known, next_to), strict=True)
    ends = [len(cell) + len(other) for cell, other in cells if len(cell) > USUAL_ADDRESS]
    if len(ends) > sum(len(texts[0]) for texts in known) // FEW:
        return widest
    return max([USUAL_ADDRESS, *(end - widths[next_to] - 1 for end in ends)])


def drawn_in(line: str, end: int, width: int) -> str:
    """Return a line whose first cell, up to ``end``, takes more than its width, the rest of it where it belongs.

    >>> drawn_in("0xffffffffff600000     4 KiB", 18, 14)
    '0xffffffffff600000 4 KiB'
    """
    excess = end - width
    blanks = line[end : end + excess]
    return line[:end] + line[end + excess :] if blanks.isspace() else line


def fitting(
    ranks: Sequence[int], widths: Sequence[int], width: int, is_blank: Sequence[bool], spare: int = 0
) -> list[int]:
    """Return the indexes of the columns that a screen has room for: first those go that say nothing, then by rank.

    Where a wide one goes last, narrow ones that went before come back if there is room for them; but not into what the
    last column can do with, ``spare`` more than its width.

    >>> fitting([0, 2, 1, 2, 0], [8, 8, 8, 8, 8], 40, [False] * 5)
    [0, 1, 2, 4]
    >>> fitting([0, 2, 1, 2, 0], [8, 8, 8, 8, 8], 40, [False, False, True, False, True])
    [0, 1, 3, 4]
    >>> fitting([0, 1, 2, 3, 0], [8, 30, 9, 4, 8], 40, [False] * 5)
    [0, 2, 3, 4]
    >>> fitting([0, 1, 2, 3, 0], [8, 30, 9, 4, 8], 40, [False] * 5, spare=6)
    [0, 2, 4]
    """
    kept = set(range(len(ranks)))
    gone: list[int] = []

    def taken() -> int:
        return sum(widths[index] + 2 for index in kept) - 2

    for index in sorted(kept, key=lambda index: (is_blank[index], ranks[index], index), reverse=True):
        if ranks[index] and taken() > width:
            kept.remove(index)
            gone.append(index)
    for index in reversed(gone):
        if taken() + spare + 2 + widths[index] <= width:
            kept.add(index)
    return sorted(kept)


def lost_line(headings: list[str], width: int) -> str:
    """Return what is said of columns that there is no room for.

    >>> lost_line(["PSS", "PAGES"], 80), lost_line(["PSS", "PAGES"], 28)
    ('not shown: PSS, PAGES (--wide)', '2 columns not shown: --wide')
    """
    line = f"not shown: {', '.join(headings)} (--wide)"
    plural = "" if len(headings) == 1 else "s"
    return line if len(line) <= width else f"{len(headings)} column{plural} not shown: --wide"


def limited(lines: list[str], room: int) -> list[str]:
    """Return lines, or as many of them as there is room for, and how many more there are.

    >>> limited(["a", "b", "c"], 3), limited(["a", "b", "c"], 2)
    (['a', 'b', 'c'], ['a', '... 2 more lines'])
    """
    if len(lines) <= room:
        return lines
    shown = max(room - 1, 0)
    return [*lines[:shown], f"... {len(lines) - shown:,} more lines"]

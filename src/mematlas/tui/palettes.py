"""What the colours of the map show: of each cell a character and a role, and what both mean; or why it is not known."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from mematlas.analysis.grid import CLASSES
from mematlas.analysis.page_cells import ABSENT, UNKNOWN_CLASS
from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.views.format import format_share, format_size
from mematlas.views.picture import ASCII_GLYPHS, GLYPHS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mematlas.analysis.page_cells import CellCounts, Pieces, Places
    from mematlas.arrays import Bools, NDArray, Words
    from mematlas.tui.drawing import Row
    from mematlas.tui.map_moment import MapMoment

    Painter = Callable[[CellCounts, MapMoment], "Painted"]

AGES = ((1.0, "█", "<1 s"), (10.0, "▓", "<10 s"), (60.0, "▒", "<1 min"), (np.inf, "░", "older"))
"""Seconds since an entry changed, up to each; what stands for it."""
MARKED = str.maketrans("░▒▓█", ASCII_GLYPHS["own"])
"""What stands for a block where it is reversed: a block would be a hole."""
HUGE, SMALL, NONE = "hhhH", "----", "····"
IDLE = "i"
NODES = "0123456789abcdefghijklmnopqrstuvwxyz"
"""What stands for a node; for those after these the last."""
MARKS_OF_CHANGE = ("", "+faded", "+changed")
FADES, MOST_FADING = 2.0, 16
"""Seconds for which what has changed is still told from what has not, and looks of which it is known."""
NODE_ROLES = ("own", "shared", "swapped", "cached", "zero")
"""Roles of nodes, again and again."""


@record
class Painted:
    """Cells as they are drawn."""

    glyphs: NDArray[np.str_]
    roles: NDArray[np.intp]
    """The role of each, as its number in `CLASSES`."""
    legend: tuple[tuple[str, str, str, int | None], ...]
    """Characters, a role, what they mean, and how many pages of the process that is; None where that says nothing."""
    why_not: str = ""
    """Why it is not what was asked for."""


GLYPH_TABLE = np.array([list(GLYPHS[name]) for name in CLASSES])
OWN, SHARED, ZERO = (CLASSES.index(name) for name in ("own", "shared", "zero"))


def density(part: Places, whole: Places) -> NDArray[np.intp]:
    """Return which of four characters stands for a part of a whole, each of one page or more, as `map` has them.

    >>> density(np.array([1, 4, 8]), np.array([8, 8, 8])).tolist()
    [0, 1, 3]
    """
    whole = np.maximum(whole, 1)
    return np.where(part >= whole, 3, np.minimum(2, part * 3 // whole)).astype(np.intp)


def by_state(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint the commonest class of each cell other than absent."""
    shown = counts.classes.copy()
    shown[:, ABSENT] = 0
    best = shown.argmax(axis=1)
    most = shown[np.arange(len(shown)), best]
    best[most == 0] = ABSENT
    glyphs = GLYPH_TABLE[best, density(most, counts.sizes)]
    totals = moment.totals
    legend = tuple(
        ("".join(dict.fromkeys(GLYPHS[name])), name, name, totals[name]) for name in CLASSES if name in totals
    )
    return Painted(glyphs, best, legend)


def by_change(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint the time since an entry of each cell has changed last."""
    found = moment.changed_at()
    if isinstance(found, str):
        return unknown(counts, moment, found)
    pages, times = found
    ages = moment.elapsed - counts.pieces.latest(pages, times)
    limits = np.array([limit for limit, _, _ in AGES])
    age = np.searchsorted(limits[:-1], ages, "right")
    is_there = counts.classes[:, ABSENT] < counts.sizes
    never = np.isinf(ages)
    glyphs = np.array([glyph for _, glyph, _ in AGES])[age]
    glyphs[never] = np.where(is_there[never], "-", "·")
    roles = np.where(never, np.where(is_there, ZERO, ABSENT), OWN)
    numbers = np.bincount(np.searchsorted(limits[:-1], moment.elapsed - times, "right"), minlength=len(AGES)).tolist()
    legend = [(glyph, "own", text, nr) for (_, glyph, text), nr in zip(AGES, numbers, strict=True)]
    return Painted(glyphs, roles, (*legend, ("-", "zero", "unchanged", None), ("·", "absent", "absent", None)))


def by_access(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint how much of what is present was accessed: of each VMA, where it is not known of single pages."""
    if moment.accessed is not None:
        return by_accessed_pages(counts, moment, moment.accessed)
    accessed, present = moment.vmas.accessed
    if not (accessed >= 0).any():
        return unknown(counts, moment, "accessed bits are read of page tables, which needs root and kernel memory")
    parts = np.where(accessed >= 0, accessed / np.maximum(present, 1), -1)
    pieces = counts.pieces
    part = np.full(pieces.nr_slots, -1.0)
    part[pieces.slots[::-1]] = parts[pieces.vmas[::-1]]  # of several VMAs the first
    is_there = counts.present > 0
    glyphs = np.array(list("░▒▓█"))[np.clip((part * 4).astype(int), 0, 3)]
    glyphs[part == 0] = IDLE
    glyphs[part < 0] = "?"
    glyphs[~is_there] = "·"
    roles = np.where(is_there, np.where(part < 0, UNKNOWN_CLASS, OWN), ABSENT)
    nr, of = int(accessed[accessed >= 0].sum()), int(present[accessed >= 0].sum())
    text = f"by VMA, how much of it was accessed: {format_share(nr / of if of else 0)} of all"
    return Painted(
        glyphs, roles, (("░▒▓█", "own", text, nr), (IDLE, "own", "idle", None), ("·", "absent", "absent", None))
    )


def by_accessed_pages(counts: CellCounts, moment: MapMoment, accessed: Words) -> Painted:
    """Paint how much of what is present of each cell was accessed."""
    numbers, present = counts.pieces.numbers(accessed), counts.present
    glyphs = np.array(list("░▒▓█"))[density(numbers, present)]
    glyphs[numbers == 0] = IDLE
    glyphs[present == 0] = "·"
    roles = np.where(present == 0, ABSENT, np.where(numbers == 0, ZERO, OWN))
    nr_idle = max(moment.nr_present - len(accessed), 0)
    legend = (("░▒▓█", "own", "accessed", len(accessed)), (IDLE, "zero", "idle", nr_idle))
    return Painted(glyphs, roles, (*legend, ("·", "absent", "absent", None)))


def by_sharing(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint which part of what is present in each cell others map too."""
    own, shared = (counts.classes[:, role] for role in (OWN, SHARED))
    is_shared, is_own = shared > 0, own > 0
    of_shared = np.array(list(GLYPHS["shared"]))[density(shared, own + shared)]
    of_own = np.array(list(GLYPHS["own"]))[density(own, counts.sizes)]
    glyphs = np.where(is_shared, of_shared, np.where(is_own, of_own, "·"))
    roles = np.where(is_shared, SHARED, np.where(is_own, OWN, ABSENT))
    totals = moment.totals
    legend = (
        ("░▒▓█", "own", "exclusive", totals.get("own", 0)),
        ("-=+#", "shared", "others map it too, by their part", totals.get("shared", 0)),
        ("·", "absent", "other", None),
    )
    return Painted(glyphs, roles, legend)


def by_huge(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint what huge entries map."""
    if moment.nr_huge is None:
        return unknown(counts, moment, "which pages huge entries map is not known to who watches it")
    huge, present = counts.huge, counts.present
    return two_kinds(
        counts,
        huge,
        present,
        (HUGE, "own", "by a huge entry", moment.nr_huge),
        (SMALL, "zero", "by an entry of its own", moment.nr_present - moment.nr_huge),
    )


def two_kinds(
    counts: CellCounts,
    chosen: Places,
    present: Places,
    one: tuple[str, str, str, int],
    other: tuple[str, str, str, int],
) -> Painted:
    """Paint cells in which some present pages are of a kind in one way, and other present ones in another."""
    is_one, is_other = chosen > 0, present > 0
    glyphs = np.where(
        is_one, np.array(list(one[0]))[density(chosen, counts.sizes)], np.where(is_other, other[0][0], "·")
    )
    roles = np.where(is_one, CLASSES.index(one[1]), np.where(is_other, CLASSES.index(other[1]), ABSENT))
    legend = tuple(("".join(dict.fromkeys(glyphs)), role, text, nr) for glyphs, role, text, nr in (one, other))
    return Painted(glyphs, roles, (*legend, ("·", "absent", "not present", None)))


def by_node(counts: CellCounts, moment: MapMoment) -> Painted:
    """Paint the node that most of what is present in each cell is on."""
    found = moment.on_nodes
    if isinstance(found, str):
        return unknown(counts, moment, found)
    numbers = np.stack([counts.pieces.numbers(pages) for _, pages in found])
    best, is_there = numbers.argmax(axis=0), numbers.any(axis=0)
    kinds = [(("?", "unknown") if node is None else look_of_node(node)) for node, _ in found]
    glyphs = np.where(is_there, np.array([glyph for glyph, _ in kinds])[best], "·")
    roles = np.where(is_there, np.array([CLASSES.index(role) for _, role in kinds])[best], ABSENT)
    legend = [
        (glyph, role, "not known" if node is None else f"node {node}", len(pages))
        for (glyph, role), (node, pages) in zip(kinds, found, strict=True)
    ]
    return Painted(glyphs, roles, (*legend, ("·", "absent", "on none", None)))


def look_of_node(node: int) -> tuple[str, str]:
    """Return what stands for a node, and its role.

    >>> look_of_node(1), look_of_node(10)
    (('1', 'shared'), ('a', 'own'))
    """
    return NODES[min(node, len(NODES) - 1)], NODE_ROLES[node % len(NODE_ROLES)]


def unknown(counts: CellCounts, moment: MapMoment, why: str) -> Painted:
    """Paint states instead, and say why."""
    painted = by_state(counts, moment)
    return Painted(painted.glyphs, painted.roles, painted.legend, why)


PAINTERS: dict[str, Painter] = {
    "state": by_state,
    "changed": by_change,
    "accessed": by_access,
    "shared": by_sharing,
    "huge": by_huge,
    "node": by_node,
}
"""By the names of `mematlas.tui.viewing.PALETTES`."""


def legend_row(painted: Painted, palette: str, page_size: int, width: int) -> Row:
    """Return what the characters mean, with as much as there is room for: of how many pages, or how much that is."""
    from mematlas.tui.drawing import fitted, width_of_row

    if painted.why_not:
        return fitted([(f" {palette} is not known here, state is shown: ", "text"), (painted.why_not, "muted")], width)
    numbers: tuple[Callable[[int], str], ...] = ("{:,} ".format, lambda nr: f"{format_size(nr * page_size)} ")
    for is_full, number in ((True, numbers[0]), (False, numbers[0]), (False, numbers[1]), (False, lambda _: "")):
        row = legend_of(painted.legend, is_full, number)
        if width_of_row(row) <= width:
            break
    return fitted(row, width)


def legend_of(legend: Iterable[tuple[str, str, str, int | None]], is_full: bool, number: Callable[[int], str]) -> Row:
    """Return a legend, with all characters of each part or with its last one alone."""
    row: Row = []
    for glyphs, role, text, nr in legend:
        row += [(" " + (glyphs if is_full else glyphs[-1]), role), (f" {text} ", "muted")]
        if nr is not None:
            row.append((number(nr), "text"))
    return row


class Fading:
    """Which cells had changed a short while ago, as far as they are the same cells."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, Pieces, Bools]] = deque(maxlen=MOST_FADING)

    def after(self, elapsed: float, pieces: Pieces, is_changed: Bools) -> Bools:
        """Return which cells had changed before a moment, not long ago, given what has changed at it."""
        faded = np.zeros(len(is_changed), np.bool_)
        for then, others, had_changed in self._changes:
            if others is pieces and 0 < elapsed - then <= FADES:
                faded |= had_changed
        self._changes.append((elapsed, pieces, is_changed))
        return faded


class Strokes:
    """All cells in sight as they are painted: what has just changed is reversed, with characters that can be; what has
    changed a short while ago has these characters still, in bold.
    """

    def __init__(self, painted: Painted, is_changed: Bools, is_faded: Bools) -> None:
        self._text = "".join(painted.glyphs.tolist())
        self._bare = bare(self._text)
        kinds = painted.roles * len(MARKS_OF_CHANGE) + np.where(is_changed, 2, is_faded)
        begins = np.flatnonzero(np.diff(kinds, prepend=-1) != 0)
        self._edges: list[int] = [*begins.tolist(), len(kinds)]
        self._kinds: list[int] = kinds[begins].tolist()

    def spans(self, first: int, end: int) -> Row:
        """Return some cells that lie side by side."""
        row: Row = []
        at = bisect_right(self._edges, first) - 1
        while first < end:
            until = min(self._edges[at + 1], end)
            role, mark = divmod(self._kinds[at], len(MARKS_OF_CHANGE))
            text = self._bare if mark else self._text
            row.append((text[first:until], CLASSES[role] + MARKS_OF_CHANGE[mark]))
            first, at = until, at + 1
        return row


def bare(text: str) -> str:
    """Return characters of cells as they stand where they are reversed.

    >>> bare("░█#")
    'o@#'
    """
    return text.translate(MARKED)


def with_cursor(spans: Row, at: int) -> Row:
    """Return spans with the character at a place marked as the cursor's."""
    row: Row = []
    for text, role in spans:
        if 0 <= at < len(text):
            row += [(text[:at], role)] if at else []
            row.append((bare(text[at]), "text+cursor"))
            row += [(text[at + 1 :], role)] if at + 1 < len(text) else []
        else:
            row.append((text, role))
        at -= len(text)
    return row

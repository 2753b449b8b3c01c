"""VMAs over time: a row each, or one for several that belong together; shades say how much of it is what."""

from __future__ import annotations

from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.tui.samples import OF_ROWS
from mematlas.views.tracks import SHADES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.arrays import NDArray
    from mematlas.tui.curves import Cell
    from mematlas.tui.samples import Fold

    Table = NDArray[np.float64]

SIZE, RSS, SWAP, ACCESSED = range(len(OF_ROWS))
QUARTERS = ((0.25, "<25 %"), (0.5, "<50 %"), (0.75, "<75 %"), (1.0, "<100 %"))
FINE = ((0.01, "<1 %"), (0.1, "<10 %"), (0.5, "<50 %"), (1.0, "<100 %"))
SWAPPED = " sssSS"
"""What stands where more of it is in swap than in RAM."""
MODES: dict[str, tuple[str, str, str, tuple[tuple[float, str], ...]]] = {
    "present": ("how much of each is in RAM", "in RAM", "own", QUARTERS),
    "level": ("how much each has in RAM, of the most that it had here", "of its most", "own", QUARTERS),
    "change": ("how much of each has come or gone since the column before", "came or went", "dirty", FINE),
    "accessed": ("how much of each was used since the kernel last aged it", "used", "shared", FINE),
}
"""What shades can say: in words, in few of them, in which role, and in which steps."""


@record
class Heat:
    """Rows over some columns."""

    rows: NDArray[np.int64]
    """The numbers of the rows that had something, ascending."""
    sums: Table
    """By `OF_ROWS`, row and column; NaN is not known."""
    is_done: NDArray[np.bool_]
    """Which columns are known."""


def heat_of(folds: Sequence[Fold | None]) -> Heat:
    """Return what rows had, at the moments of some columns."""
    done = [fold for fold in folds if fold is not None]
    rows = np.unique(np.concatenate([fold.rows for fold in done])) if done else np.zeros(0, np.int64)
    sums = np.zeros((len(OF_ROWS), len(rows), len(folds)), np.float64)
    before: tuple[Fold | None, int] = (None, 0)
    for place, fold in enumerate(folds):
        if fold is None:
            continue
        if fold is before[0]:
            sums[:, :, place] = sums[:, :, before[1]]
        else:
            sums[:, np.searchsorted(rows, fold.rows), place] = fold.sums
        before = fold, place
    held = sums[RSS] + sums[SWAP]
    is_used = (np.isnan(held) | (held > 0)).any(axis=1)
    return Heat(rows[is_used], sums[:, is_used], np.array([fold is not None for fold in folds], bool))


def shares_of(heat: Heat, mode: str, page_size: int) -> Table:
    """Return which share of each row is what, by row and column; NaN is not known."""
    size, rss, swap, accessed = heat.sums
    if mode == "change":
        amounts = np.zeros_like(rss)
        last = 0
        for place in np.flatnonzero(heat.is_done).tolist():
            # Of what lies between two columns that are known, the second has it all.
            if heat.is_done[:place].any():
                amounts[:, place] = np.abs(rss[:, place] - rss[:, last]) + np.abs(swap[:, place] - swap[:, last])
            last = place
    elif mode == "accessed":
        amounts = accessed * page_size
    else:
        amounts = rss
    whole = rss if mode == "level" else size
    most = np.nanmax(np.where(np.isnan(whole), 0.0, whole), axis=1, initial=0.0, keepdims=True)
    shares: Table = np.minimum(amounts / np.maximum(most, 1.0), 1.0)
    return shares


def is_use_known(heat: Heat) -> bool:
    """Whether it is known of anything which pages were used."""
    return bool((~np.isnan(heat.sums[ACCESSED]) & (heat.sums[SIZE] > 0)).any())


def chosen(heat: Heat, shares: Table, mode: str, most: int) -> NDArray[np.int64]:
    """Return the places of the rows that matter, so many at the most: those that have, or have changed, the most."""
    if len(heat.rows) <= most:
        return np.arange(len(heat.rows))
    size, rss, swap, _ = np.nan_to_num(heat.sums)
    if mode in ("change", "accessed"):
        weights = (np.nan_to_num(shares) * size.max(axis=1, initial=0, keepdims=True)).sum(axis=1)
    else:
        weights = (rss + swap).max(axis=1, initial=0)
    places: NDArray[np.int64] = np.sort(np.argsort(-weights, kind="stable")[:most])
    return places


def shaded(heat: Heat, shares: Table, row: int, mode: str) -> list[Cell]:
    """Return the cells of a row: blank is nothing at all, the last shade is all of it, ``?`` is not known."""
    _, _, role, steps = MODES[mode]
    values = shares[row]
    edges = np.array([edge for edge, _ in steps])
    marks = np.where(values > 0, 1 + np.searchsorted(edges, values, side="right"), 0).tolist()
    is_unknown = np.isnan(values).tolist()
    swapped = (mode in ("present", "level")) & (heat.sums[SWAP, row] > np.nan_to_num(heat.sums[RSS, row]))
    parts = np.minimum(heat.sums[SWAP, row] / np.maximum(np.nan_to_num(heat.sums[SIZE, row]).max(initial=1), 1), 1)
    cells: list[Cell] = []
    for place, (mark, is_hidden, is_out) in enumerate(zip(marks, is_unknown, swapped.tolist(), strict=True)):
        if not heat.is_done[place]:
            cells.append((" ", "text"))
        elif is_out:
            cells.append((SWAPPED[1 + int(parts[place] * 4)], "swapped"))
        elif is_hidden:
            cells.append(("?", "unknown"))
        else:
            cells.append((SHADES[mark], role))
    return cells


def legend_of(mode: str) -> list[tuple[str, str]]:
    """Return each shade with what it stands for.

    >>> legend_of("present")
    [('·', '<25 %'), ('░', '<50 %'), ('▒', '<75 %'), ('▓', '<100 %'), ('█', 'all')]
    """
    return list(zip(SHADES[1:], [word for _, word in MODES[mode][3]] + ["all"], strict=True))

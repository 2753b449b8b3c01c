"""Which columns of a list there is room for: of a narrow screen the least important ones are left out."""

from __future__ import annotations

from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@record
class ListColumn:
    """A column of a list that has many rows."""

    key: str
    heading: str
    least: int
    """Columns of the screen that it needs, and how many it can make use of."""
    most: int
    is_right: bool
    rank: int
    """Those with a high one are left out first."""
    short: str = ""
    """What heads it where there is no room for the heading."""


def fit(columns: Sequence[ListColumn], width: int, needed: Collection[str] = ()) -> list[tuple[str, str, int, bool]]:
    """Return the columns that there is room for, as `mematlas.tui.rows.Heading` takes them; ``needed`` has the keys of
    those that are left out last.

    >>> columns = [ListColumn("a", "A", 4, 9, False, 0), ListColumn("b", "B", 4, 4, True, 1)]
    >>> fit(columns, 12), fit(columns, 8)
    ([('a', 'A', 7, False), ('b', 'B', 4, True)], [('a', 'A', 8, False)])
    """
    kept: set[str] = set()
    left = width + 1  # a blank stands behind each but the last
    for column in sorted(columns, key=lambda column: (column.key not in needed, column.rank)):
        if column.least + 1 <= left or not kept:
            kept.add(column.key)
            left -= column.least + 1
        else:
            break
    shown = [column for column in columns if column.key in kept]
    widths = {column.key: column.least for column in shown}
    while left > 0 and (growing := [column for column in shown if widths[column.key] < column.most]):
        for column in growing[:left]:
            widths[column.key] += 1
        left -= len(growing[:left])
    return [
        (
            column.key,
            column.heading if len(column.heading) <= widths[column.key] else column.short or column.heading,
            min(widths[column.key], width),
            column.is_right,
        )
        for column in shown
    ]

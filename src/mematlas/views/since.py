"""How amounts have changed since the first of several looks: by how much, and how fast."""

from __future__ import annotations

import time

from mematlas.views.columns import Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any


class Since:
    """What amounts were at the first look.

    >>> since = Since()
    >>> since.look()
    >>> since.change("rss", 4096), since.change("rss", 12288), since.change("swap", None)
    (0, 8192, None)
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._first: dict[Hashable, int | None] = {}
        self.seconds = 0.0
        """From the first look to this one."""

    def look(self) -> None:
        """Say that amounts of now follow."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self.seconds = now - self._began

    def change(self, key: Hashable, size: int | None) -> int | None:
        """Return by how many bytes an amount has changed; None where it is, or was, not known.

        What was not there at first has grown from nothing.
        """
        first = self._first.setdefault(key, 0 if self.seconds else size)
        return None if size is None or first is None else size - first

    def rate(self, change: int | None) -> float | None:
        """Return a change in bytes a second; None at the first look."""
        return None if change is None or not self.seconds else change / self.seconds


def change_column(since: Since, key_of: Callable[[Any], Hashable], rss_of: Callable[[Any], int | None]) -> Column[Any]:
    """Return the column of how the RSS of each row has changed; ``key_of`` tells by what a row is known again."""

    def change_of(item: Any) -> int | None:
        return since.change(key_of(item), rss_of(item))

    return Column("change", "CHANGE", "change", change_of, sum)


def after_rss(columns: list[Column[Any]], column: Column[Any]) -> list[Column[Any]]:
    """Return columns with one more behind that of RSS."""
    return after("rss", columns, column)


def after(key: str, columns: list[Column[Any]], column: Column[Any]) -> list[Column[Any]]:
    """Return columns with one more behind that of a key."""
    index = next(number for number, other in enumerate(columns) if other.key == key)
    return [*columns[: index + 1], column, *columns[index + 1 :]]

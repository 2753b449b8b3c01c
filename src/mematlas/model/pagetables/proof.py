"""Walks of which every table is proven to have been one while it was read: for who gives copies of them away.

A walk reads level after level. Between two of them a table may be freed, and its page be somebody's, who has put into
it what looks like entries and leads to any page of memory. So each table is read together with all above it, from the
top one on, which the held address space keeps: inside of one RCU read-side critical section, in which no table is freed
that was in place when the section began (`KernelMemory.together`). Those above it are read before it and behind it.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bools, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.memory.memory import room_for_rows
from mematlas.model.pagetables.entries import address_of, is_table
from mematlas.model.pagetables.walk import Span, TableLevel, Walk, Walker, WalkStep, entry_addresses, step_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mematlas.kernel.memory.memory import KernelMemory
    from mematlas.model.pagetables.entries import PagingMode


def prove(
    memory: KernelMemory,
    mode: PagingMode,
    pgd: int,
    span: Span,
    nr_levels: int,
    rows_for: Callable[[int, int], Words] = room_for_rows,
) -> Walk:
    """Return the tables of a span, from its first to its last address, each proven; what is not is left out.

    ``rows_for`` returns memory for so many tables of so many entries of the last level: nothing is written there that
    is not proven, and nothing is concluded from what is read there.

    Raises:
        NotSupported: what reads them cannot prove that.
    """
    if not memory.most_together:
        raise NotSupported("page tables for who has no rights", "programs of BPF that run under RCU")
    found = _Prover(memory, mode, pgd, nr_levels, rows_for).walk(span)
    if found.nr_retries:
        for level, below in pairwise(found.levels):
            drop_unfollowed(found, level, below)
    return found


def prove_address(memory: KernelMemory, mode: PagingMode, pgd: int, address: int) -> tuple[WalkStep, ...]:
    """Return how an address is translated, as `mematlas.model.pagetables.walk.walk_address` does, proven."""
    found = prove(memory, mode, pgd, (address, address), len(mode.levels))
    steps = []
    for depth, level in enumerate(found.levels):
        if not len(level):
            break
        index = (address >> mode.levels[depth].shift) & (mode.levels[depth].nr_entries - 1)
        step, followed = step_of(mode, depth, int(level.tables[0]), int(level.entries[0, index]), address)
        steps.append(step)
        if not followed:
            break
    return tuple(steps)


class _Prover(Walker):
    """Reads each table together with those above it."""

    def __init__(
        self,
        memory: KernelMemory,
        mode: PagingMode,
        pgd: int,
        nr_levels: int,
        rows_for: Callable[[int, int], Words],
    ) -> None:
        super().__init__(memory, mode, pgd, nr_levels)
        self.memory = memory
        self.rows_for = rows_for

    def read_tables(self, above: list[TableLevel], addresses: Words, tables: Words) -> tuple[Words, Bools]:
        """Return the tables that the last level of those above leads to, and which of them are proven."""
        depth = len(above)
        rows_for = self.rows_for if depth == self.nr_levels - 1 else room_for_rows
        entries = rows_for(len(tables), self.mode.levels[depth].nr_entries)
        good = np.zeros(len(tables), np.bool_)
        ways = self._ways(above, addresses, tables)
        for rows in batches(ways.are_new, self.memory.most_together):
            pages, could, seen = self._together(ways, rows)
            # It is proven by what leads there from the top one on, before it and behind it.
            lead_on = is_table(self.mode, 0, seen) & (address_of(self.mode, seen) == ways.steps[1:, rows])
            proven = good[rows] = could & lead_on.all(axis=(0, 1))
            if proven.all():
                entries[rows] = pages
            else:
                entries[rows][proven] = pages[proven]
        return entries, good

    def is_junk(self, level: int, entries: Words, span: Span) -> Bools:
        """Return that none is: entries that no table can hold tell pages that are none, and of these that is proven."""
        return np.zeros(len(entries), np.bool_)

    def changed(self, levels: list[TableLevel]) -> list[Span]:
        """Return no spans: what leads to a table was read once more when that was read."""
        return []

    def _ways(self, above: list[TableLevel], addresses: Words, tables: Words) -> _Ways:
        shape = len(above), len(tables)
        steps = np.empty((len(above) + 1, len(tables)), np.uint64)
        indexes, are_new = np.empty(shape, np.intp), np.ones(shape, np.bool_)
        for depth, (one, level) in enumerate(zip(above, self.mode.levels, strict=False)):
            # The table that begins at an address, or next before it, is the one that translates it.
            rows = one.addresses.searchsorted(addresses, "right") - 1
            steps[depth] = one.tables[rows]
            indexes[depth] = addresses >> np.uint64(level.shift) & np.uint64(level.nr_entries - 1)
            are_new[depth, 1:] = rows[1:] != rows[:-1]
        steps[-1] = tables
        return _Ways(steps, indexes, are_new)

    def _together(self, ways: _Ways, rows: slice) -> tuple[Words, Bools, Words]:
        """Read tables between those above them; return them, which could be read, and what was on the way to each.

        That is an entry of each table above, before them and behind them, or 0 where that could not be read. The tables
        hold until the next are read.
        """
        are_new = ways.are_new[:, rows].copy()
        are_new[:, :1] = True
        way = ways.steps[:, rows]
        above = way[:-1][are_new]
        end = len(above) + way.shape[1]
        pages, could = self.memory.together(np.concatenate([above, way[-1], above]), slice(len(above), end))
        slots = are_new.cumsum().reshape(are_new.shape) - 1
        seen = pages[np.array([slots, slots + end]), ways.indexes[:, rows]]
        if not could.all():
            seen *= could[np.array([slots, slots + end])]
        return pages[len(above) : end], could[len(above) : end], seen


@record
class _Ways:
    """How tables of a level are come to: a column for each, with a row for each level above."""

    steps: Words
    """The tables on the way, from the top one on, and the table itself: one row more."""
    indexes: NDArray[np.intp]
    """Which entry of a table on the way leads on."""
    are_new: Bools
    """Whether a table on the way is not that of the column before."""


def batches(are_new: Bools, most: int) -> Iterator[slice]:
    """Yield the columns of ways in parts that, with all that is on the way to them read twice, are ``most`` tables."""
    nr_above, nr = are_new.shape
    needed = (1 + 2 * are_new.sum(axis=0)).cumsum()
    low = 0
    while low < nr:
        before = int(needed[low]) - (1 + 2 * nr_above)
        high = int(needed.searchsorted(before + most, "right"))
        yield slice(low, high)
        low = high


def drop_unfollowed(found: Walk, level: TableLevel, below: TableLevel) -> None:
    """Empty the entries of the span that lead to a table that is not there, since it was left out."""
    flat = level.entries.reshape(-1)
    indexes = np.flatnonzero(is_table(found.mode, level.level, flat))
    addresses = entry_addresses(found.mode, level, indexes)
    size = np.uint64(found.mode.levels[level.level].size - 1)
    inside = (addresses <= found.last) & (addresses + size >= found.first)
    flat[indexes[inside & ~np.isin(addresses, below.addresses)]] = 0

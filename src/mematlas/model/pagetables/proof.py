"""Walks of which every table is proven to have been one while it was read: for who gives copies of them away.

A walk reads level after level. Between two of them a table may be freed, and its page be somebody's, who has put into
it what looks like entries and leads to any page of memory. So each table is read once more together with all above it,
from the top one on, which the held address space keeps: inside of one RCU read-side critical section, in which no table
is freed that was in place when the section began (`KernelMemory.together`). Those above it are read before it and
behind it.
"""

from __future__ import annotations

from mematlas.arrays import Bools, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.frozen import replace
from mematlas.model.pagetables.entries import address_of, is_table
from mematlas.model.pagetables.walk import (
    NR_RETRIES,
    Span,
    TableLevel,
    Walk,
    WalkStep,
    chosen_tables,
    entry_addresses,
    merge_spans,
    replace_span,
    step_of,
    walk,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.kernel.memory.memory import KernelMemory
    from mematlas.model.pagetables.entries import PagingMode

    Rows = NDArray[np.intp]


def prove(memory: KernelMemory, mode: PagingMode, pgd: int, span: Span, nr_levels: int) -> Walk:
    """Return the tables of a span, from its first to its last address, each proven; what is not is left out.

    Raises:
        NotSupported: what reads them cannot prove that.
    """
    if not memory.most_together:
        raise NotSupported("page tables for who has no rights", "programs of BPF that run under RCU")
    found = walk(memory, mode, pgd, span[0], span[1] + 1, nr_levels)
    levels, left_out = _Prover(memory, mode, found).proven()
    nr_retries = 0
    while left_out and nr_retries < NR_RETRIES:
        nr_retries += 1
        still: list[Span] = []
        for part in left_out:
            again = walk(memory, mode, pgd, part[0], part[1] + 1, nr_levels)
            fresh, more = _Prover(memory, mode, again).proven()
            levels = [replace_span(mode, old, new, part) for old, new in zip(levels, fresh, strict=True)]
            still += [*again.torn, *more]
        left_out = merge_spans(still)
    torn = tuple(merge_spans([*found.torn, *left_out]))
    return replace(found, levels=tuple(levels), torn=torn, nr_retries=found.nr_retries + nr_retries)


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


class _Prover:
    """Reads the tables of a walk once more, each together with those above it."""

    def __init__(self, memory: KernelMemory, mode: PagingMode, found: Walk) -> None:
        self.memory = memory
        self.mode = mode
        self.found = found
        self.levels: list[TableLevel] = []
        """Those that are proven so far."""

    def proven(self) -> tuple[list[TableLevel], list[Span]]:
        """Return the levels with proven tables alone, and the spans of those that are left out."""
        left_out: list[Span] = []
        for depth, level in enumerate(self.found.levels):
            entries, good = self._read_again(depth, level)
            size = self.mode.levels[depth].size * self.mode.levels[depth].nr_entries
            left_out += [self._clipped(start, start + size - 1) for start in level.addresses[~good].tolist()]
            self.levels.append(replace(chosen_tables(level, good), entries=entries[good]))
        for depth in range(len(self.levels) - 1):
            self._drop_unfollowed(depth)
        return self.levels, merge_spans(left_out)

    def _clipped(self, first: int, last: int) -> Span:
        return max(first, self.found.first), min(last, self.found.last)

    def _read_again(self, depth: int, level: TableLevel) -> tuple[Words, Bools]:
        """Return the tables of a level, as they are now, and which are proven: not those of which none above is."""
        entries = np.zeros(level.entries.shape, np.uint64)
        good = np.zeros(len(level), np.bool_)
        for chain, rows in self._groups(depth, level):
            entries[rows], good[rows] = self._together(depth, chain, level, rows)
        return entries, good

    def _groups(self, depth: int, level: TableLevel) -> Iterator[tuple[Sequence[int], Rows]]:
        """Yield the rows of a level in groups of one parent: the parents' rows, from the top one on, and the rows."""
        if depth == 0:
            yield (), np.arange(len(level))
            return
        above = self.levels[depth - 1]
        if not len(above):
            return
        parents = self._parent_rows(above, level.addresses)
        size = np.uint64(self.mode.levels[depth - 1].size * self.mode.levels[depth - 1].nr_entries)
        is_below = level.addresses - above.addresses[parents] < size if depth > 1 else np.ones(len(level), np.bool_)
        for parent in np.unique(parents[is_below]).tolist():
            rows = np.flatnonzero(is_below & (parents == parent))
            chain = self._ancestors(depth - 1, parent)
            step = self.memory.most_together - 2 * depth
            for start in range(0, len(rows), step):
                yield chain, rows[start : start + step]

    def _parent_rows(self, above: TableLevel, addresses: Words) -> Rows:
        rows = np.searchsorted(above.addresses, addresses, side="right") - 1
        found: Rows = np.maximum(rows, 0)
        return found

    def _ancestors(self, depth: int, row: int) -> Sequence[int]:
        """Return the rows that lead to one of a level, and itself, from the top one on."""
        chain = [row]
        for up in range(depth - 1, -1, -1):
            address = self.levels[up + 1].addresses[chain[0] : chain[0] + 1]
            chain.insert(0, int(self._parent_rows(self.levels[up], address)[0]))
        return chain

    def _together(self, depth: int, chain: Sequence[int], level: TableLevel, rows: Rows) -> tuple[Words, Bools]:
        """Return tables as they are now, and which of them those above lead to, before and behind."""
        above = [int(self.levels[up].tables[row]) for up, row in enumerate(chain)]
        asked = np.array([*above, *level.tables[rows].tolist(), *above], np.uint64)
        data, could = self.memory.together(asked)
        nr = len(above)
        fresh = data[nr : nr + len(rows)]
        good = could[nr : nr + len(rows)].copy()
        for start in (0, nr + len(rows)):
            if not nr:
                break
            good &= bool(could[start : start + nr].all()) and self._leads(data[start : start + nr], chain, above)
            good &= self._lead_to(depth - 1, data[start + nr - 1], level.addresses[rows], level.tables[rows])
        return fresh, good

    def _leads(self, pages: Words, chain: Sequence[int], above: list[int]) -> bool:
        """Whether each of some tables, from the top one on, leads to the next."""
        for up in range(len(above) - 1):
            address = self.levels[up + 1].addresses[chain[up + 1] : chain[up + 1] + 1]
            if not self._lead_to(up, pages[up], address, np.array([above[up + 1]], np.uint64)).all():
                return False
        return True

    def _lead_to(self, depth: int, page: Words, addresses: Words, tables: Words) -> Bools:
        """Return which tables a table of a level leads to, at the addresses that they translate."""
        level = self.mode.levels[depth]
        indexes = (addresses >> np.uint64(level.shift)) & np.uint64(level.nr_entries - 1)
        entries = page[indexes.astype(np.intp)]
        are_next: Bools = address_of(self.mode, entries) == tables
        are_next &= is_table(self.mode, depth, entries)
        return are_next

    def _drop_unfollowed(self, depth: int) -> None:
        """Empty the entries of the span that lead to a table that is not there: one that is new, or left out."""
        level, below = self.levels[depth], self.levels[depth + 1]
        flat = level.entries.reshape(-1)
        indexes = np.flatnonzero(is_table(self.mode, depth, flat))
        addresses = entry_addresses(self.mode, level, indexes)
        size = np.uint64(self.mode.levels[depth].size - 1)
        inside = (addresses <= self.found.last) & (addresses + size >= self.found.first)
        flat[indexes[inside & ~np.isin(addresses, below.addresses)]] = 0

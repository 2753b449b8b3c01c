"""Page tables, walked: every table of a range of addresses, or the few entries that translate one address.

The walk goes breadth first: all tables of a level are read together, then all they point at. Nothing is locked, so
the kernel may free a table between the reading of the entry that points at it and the reading of the table itself.
Therefore every entry that was followed is read once more at the end: if it still points at the same table, the table
was in place all along. What has changed is walked again; what keeps changing is left out and reported as torn.
Leaves are never followed: no memory but tables is read.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.frozen import record, replace
from mematlas.kernel.memory.x86 import NR_ENTRIES, U64
from mematlas.model.pagetables.entries import (
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    PagingMode,
    address_of,
    contiguous_size,
    flag_names,
    full_addresses,
    holds,
    is_table,
    leaf_address,
    state_of,
    states,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class PageTableSource(Protocol):
        """Where tables are read from: `mematlas.kernel.memory.memory.KernelMemory`, or a test's dictionary."""

        @property
        def memory_end(self) -> int:
            """Where the memory that pages can lie in ends; leaves beyond are devices, or nonsense."""

        def tables(self, phys_addresses: Words, nr_entries: int = NR_ENTRIES) -> tuple[Words, Bools]:
            """Return the tables at physical addresses, a row each, and which of them could be read."""

        def table_batches(self, phys_addresses: Words) -> Iterator[tuple[slice, Words, Bools]]:
            """Yield the same some at a time: which of the addresses they are, their rows, which hold until the next
            are yielded, and which could be read.
            """

        def entries(self, phys_addresses: Words) -> tuple[Words, Bools]:
            """Return single entries, by the physical address of each, and which of them could be read."""


Span = tuple[int, int]
"""The first and the last address of a range. (The end of the kernel half is no 64-bit number.)"""

NR_RETRIES = 3
NR_SPANS_MAX = 64
NR_ROWS = 64
"""Rows that are checked together: 256 KiB of entries stay in the cache."""
NR_PART_TABLES = 1 << 12
"""Tables of the last level in one part of a walk: 16 MiB of entries."""

# What all tables above allow, for a table; what x86 takes away at any level is taken away below it.
WRITABLE, USER, EXECUTABLE = 1, 2, 4


@record
class TableLevel:
    """The tables of one level, in the order of the addresses they translate."""

    level: int
    """0 is the top."""
    addresses: Words
    """The first address that each table translates."""
    tables: Words
    """The physical address of each."""
    entries: Words
    """A row of entries for each."""
    rights: Bytes
    """What the tables above leave: WRITABLE, USER, EXECUTABLE."""

    def __len__(self) -> int:
        return len(self.tables)


@record
class Walk:
    """What a walk has found."""

    mode: PagingMode
    pgd: int
    first: int
    last: int
    levels: tuple[TableLevel, ...]
    torn: tuple[Span, ...]
    """Ranges whose tables changed each time they were read: they are left out."""
    nr_retries: int

    @property
    def nr_tables(self) -> int:
        """How many tables there are, at all levels."""
        return sum(len(level) for level in self.levels)

    def entry_addresses(self, level: int, indexes: NDArray[np.intp]) -> Words:
        """Return the first address that entries translate; ``indexes`` count through all rows of the level."""
        return entry_addresses(self.mode, self.levels[level], indexes)


def entry_addresses(mode: PagingMode, level: TableLevel, indexes: NDArray[np.intp]) -> Words:
    """Return the first address that the entries at flat ``indexes`` of a level translate."""
    nr_entries = level.entries.shape[1]
    shift = np.uint64(mode.levels[level.level].shift)
    offsets = (indexes % nr_entries).astype(np.uint64) << shift
    addresses: Words = level.addresses[indexes // nr_entries] + offsets
    # Only the top table may be that of both halves.
    return full_addresses(mode, addresses) if level.level == 0 else addresses


def walk(
    source: PageTableSource | WalkingSource,
    mode: PagingMode,
    pgd: int,
    start: int = 0,
    end: int | None = None,
    nr_levels: int | None = None,
) -> Walk:
    """Return all tables that translate the addresses from ``start`` to ``end``: by default, the user half.

    The tables are returned whole: entries outside of the range are in them, but what they point at is not read.
    ``nr_levels`` stops the walk after so many levels.

    >>> with open_kernel_memory() as memory, memory.open_mm(4211) as mm:  # doctest: +SKIP
    ...     walk(memory, mode_of(memory), mm.pgd).nr_tables
    546
    """
    last = (mode.user_end if end is None else end) - 1
    if isinstance(source, WalkingSource):
        return source.walk(pgd, start & U64, last & U64, nr_levels or len(mode.levels))
    return Walker(source, mode, pgd, nr_levels or len(mode.levels)).walk((start & U64, last & U64))


def walk_parts(
    source: PageTableSource | WalkingSource,
    mode: PagingMode,
    pgd: int,
    start: int = 0,
    end: int | None = None,
    nr_tables: int = NR_PART_TABLES,
) -> Iterator[Walk]:
    """Yield the walk of a range in parts of at most ``nr_tables`` tables of the last level, in address order.

    So a process of any size is looked at in bounded memory (16 MiB of entries).
    """
    for low, high in pairwise(part_edges(source, mode, pgd, start, end, nr_tables)):
        if low < high:
            yield walk(source, mode, pgd, low, high)


def part_edges(
    source: PageTableSource | WalkingSource,
    mode: PagingMode,
    pgd: int,
    start: int = 0,
    end: int | None = None,
    nr_tables: int = NR_PART_TABLES,
) -> list[int]:
    """Return the addresses at which a range is cut into parts of at most ``nr_tables`` tables of the last level."""
    upper = walk(source, mode, pgd, start, end, len(mode.levels) - 1)
    level = upper.levels[-1]
    indexes = np.flatnonzero(is_table(mode, level.level, level.entries.reshape(-1)))
    addresses = upper.entry_addresses(level.level, indexes)
    size = np.uint64(mode.levels[level.level].size - 1)
    inside = addresses[(addresses + size >= upper.first) & (addresses <= upper.last)]
    return [upper.first, *inside[nr_tables::nr_tables].tolist(), upper.last + 1]


class WalkingSource:
    """Where tables are walked, not read: see `walk` and `walk_address`."""

    def walk(self, pgd: int, first: int, last: int, nr_levels: int) -> Walk:
        """Return all tables that translate the addresses from the first to the last."""
        raise NotImplementedError

    def walk_address(self, pgd: int, address: int) -> tuple[WalkStep, ...]:
        """Return how an address is translated."""
        raise NotImplementedError


class Walker:
    """Reads tables level by level, and again where they have changed."""

    def __init__(self, source: PageTableSource, mode: PagingMode, pgd: int, nr_levels: int) -> None:
        self.source = source
        self.mode = mode
        self.pgd = pgd
        self.nr_levels = nr_levels
        # Where entries have the address as it is, a number too large is found by comparing; else by looking closer.
        mask, shift = mode.address_fields[0]
        self.address_bits = self.end = 0
        if len(mode.address_fields) == 1 and shift == 0:
            self.address_bits, self.end = mask & ~mode.encryption_mask, source.memory_end
        # What must not change in an entry that was followed: that it points at a table, and at which one.
        address_bits = sum(mask for mask, _ in mode.address_fields)
        self.meaning = np.uint64(address_bits | mode.table[0][0] | mode.present[0][0])

    def walk(self, span: Span) -> Walk:
        """Return all tables of a span: what has changed meanwhile is walked again, and in the end left out."""
        levels, broken = self.descend(span)
        broken = merge_spans(broken + self.changed(levels))
        nr_retries = 0
        while broken and nr_retries < NR_RETRIES:
            nr_retries += 1
            still: list[Span] = []
            for broken_span in broken:
                fresh, again = self.descend(broken_span)
                pairs = zip(levels, fresh, strict=True)
                levels = [replace_span(self.mode, old, new, broken_span) for old, new in pairs]
                still += again
            broken = merge_spans(still + self.changed(levels))
        for broken_span in broken:
            levels = [without_span(self.mode, level, broken_span) for level in levels]
        return Walk(
            mode=self.mode,
            pgd=self.pgd,
            first=span[0],
            last=span[1],
            levels=tuple(levels),
            torn=tuple(broken),
            nr_retries=nr_retries,
        )

    def descend(self, span: Span) -> tuple[list[TableLevel], list[Span]]:
        """Return the tables of a span, level by level, and the spans whose tables cannot be right."""
        all_rights = np.array([WRITABLE | USER | EXECUTABLE], np.uint8)
        apart = not self.mode.shared_tables and span[0] >= self.mode.user_end
        address = np.array([self.mode.kernel_start if apart else 0], np.uint64)
        table = np.array([self.pgd], np.uint64)
        level, broken = self._read([], address, table, all_rights, span)
        levels = [level]
        while len(levels) < self.nr_levels:
            level, bad = self._read(levels, *self._followed(levels[-1], span), span)
            levels.append(level)
            broken += bad
        return levels, broken

    def _followed(self, level: TableLevel, span: Span) -> tuple[Words, Words, Bytes]:
        """Return the addresses, the tables, and the rights that a level's entries inside the span lead to."""
        mode = self.mode
        indexes = np.flatnonzero(is_table(mode, level.level, level.entries.reshape(-1)))
        addresses = entry_addresses(mode, level, indexes)
        size = np.uint64(mode.levels[level.level].size - 1)
        inside = (addresses <= span[1]) & (addresses + size >= span[0])
        indexes, addresses = indexes[inside], addresses[inside]
        # Above the middle of the table addresses are higher, so the order of indexes is that of addresses.
        entries = level.entries.reshape(-1)[indexes]
        rights = level.rights[indexes // level.entries.shape[1]] & table_rights(mode, entries)
        is_users_top = level.level == 0 and span[0] < mode.user_end
        if is_users_top and len(entries) and not holds(entries, mode.executable).any():
            # Under page-table isolation the kernel's copy forbids all execution in the user half, in the top table
            # alone (pti_set_user_pgtbl). It says nothing about the user's own rights.
            rights |= EXECUTABLE
        return addresses, address_of(mode, entries), rights

    def read_tables(self, above: list[TableLevel], addresses: Words, tables: Words) -> tuple[Words, Bools]:
        """Return the tables that the last level of those above leads to, a row each, and which of them are good.

        ``addresses`` are the first that each of them translates.
        """
        return self.source.tables(tables, self.mode.levels[len(above)].nr_entries)

    def _read(
        self, above: list[TableLevel], addresses: Words, tables: Words, rights: Bytes, span: Span
    ) -> tuple[TableLevel, list[Span]]:
        level = len(above)
        entries, good = self.read_tables(above, addresses, tables)
        for start in range(0, len(tables), NR_ROWS):
            rows = slice(start, start + NR_ROWS)
            good[rows] &= ~self.is_junk(level, entries[rows], span)
        table_level = TableLevel(level=level, addresses=addresses, tables=tables, entries=entries, rights=rights)
        if good.all():
            return table_level, []
        if level == 0:
            entries[~good] = 0
            return table_level, [span]
        first, last = span
        size = self.mode.levels[level].size * self.mode.levels[level].nr_entries
        bad = addresses[~good].tolist()
        broken = [(max(address, first), min(address + size - 1, last)) for address in bad]
        return chosen_tables(table_level, good), broken

    def is_junk(self, level: int, entries: Words, span: Span) -> Bools:
        """Return which tables hold an entry that no table can hold."""
        if len(entries) and self._may_be_junk(entries, span):
            return self._has_junk(level, entries, span)
        return np.zeros(len(entries), np.bool_)

    def _may_be_junk(self, entries: Words, span: Span) -> bool:
        """Whether to look closer: quick, and never wrong when it says no."""
        mode = self.mode
        in_user_half = span[1] < mode.user_end
        present = np.uint64(mode.present[0][0])
        # Reserved bits, and addresses beyond memory, make a number too large.
        end, mask = 1, mode.reserved
        if in_user_half:
            end, mask = self.end, mode.reserved | self.address_bits
        numbers = np.bitwise_and(entries, np.uint64(mask))
        if int(numbers.max()) >= end:
            numbers *= entries & present  # swap slots and the like may be any number
            if int(numbers.max()) >= end:
                return True
        if not (in_user_half and mode.table_rights):
            return False
        rights = np.bitwise_and(entries, present | np.uint64(mode.user[0][0]), out=numbers)
        return bool((rights == present).any())

    def _has_junk(self, level: int, entries: Words, span: Span) -> Bools:
        mode = self.mode
        bad = (entries & np.uint64(mode.reserved)) != 0
        # A top table of both halves has other entries too.
        if span[1] < mode.user_end and (level or not mode.shared_tables):
            if mode.table_rights:
                bad |= ~np.asarray(holds(entries, mode.user), np.bool_)
            # Devices are mapped beyond memory, and marked special; nothing else is.
            beyond = address_of(mode, entries) >= self.source.memory_end
            beyond[beyond] = ~np.asarray(holds(entries[beyond], mode.special), np.bool_)
            bad |= beyond
        bad &= np.asarray(holds(entries, mode.present), np.bool_)
        junk: Bools = bad.any(axis=1)
        return junk

    def changed(self, levels: list[TableLevel]) -> list[Span]:
        """Read the tables above the last level once more; return the spans of followed entries that changed."""
        spans: list[Span] = []
        for level in levels[:-1]:
            if not len(level):
                break
            now, good = self.source.tables(level.tables, level.entries.shape[1])
            moved = ((now ^ level.entries) & self.meaning) != 0
            moved[~good] = True
            moved &= is_table(self.mode, level.level, level.entries)
            indexes = np.flatnonzero(moved)
            size = self.mode.levels[level.level].size
            for address in entry_addresses(self.mode, level, indexes).tolist():
                spans.append((address, address + size - 1))
        below = levels[1].addresses if len(levels) > 1 else np.zeros(0, np.uint64)
        # Entries outside of the range were not followed: whether they changed is nothing to us.
        return [span for span in spans if len(below) and any_inside(levels[1:], span)]


def any_inside(levels: list[TableLevel], span: Span) -> bool:
    """Whether any table of these levels begins in a span."""
    edges = np.array(span, np.uint64)
    lows_and_highs = (np.searchsorted(level.addresses, edges) for level in levels)
    return any(low < high for low, high in lows_and_highs)


def table_rights(mode: PagingMode, entries: Words) -> Bytes:
    """Return what table entries leave to everything below them."""
    if not mode.table_rights:
        return np.full(len(entries), WRITABLE | USER | EXECUTABLE, np.uint8)
    return rights_of(mode, entries)


def rights_of(mode: PagingMode, entries: Words) -> Bytes:
    """Return the rights that entries give by themselves: WRITABLE, USER, EXECUTABLE; none where they are hidden."""
    rights = np.zeros(entries.shape, np.uint8)
    for bit, test in ((WRITABLE, mode.writable), (USER, mode.user), (EXECUTABLE, mode.executable)):
        rights[np.asarray(holds(entries, test), np.bool_)] |= bit
    # PROT_NONE on x86 has no bit that forbids execution: the hardware does not follow the entry at all.
    rights[~np.asarray(holds(entries, mode.present), np.bool_)] = 0
    return rights


def merge_spans(spans: list[Span]) -> list[Span]:
    """Return spans in order, those that touch as one; when they are too many, one that covers all."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged if len(merged) <= NR_SPANS_MAX else [(merged[0][0], merged[-1][1])]


def without_span(mode: PagingMode, level: TableLevel, span: Span) -> TableLevel:
    """Return a level without the tables that lie wholly in a span."""
    kept = ~_lies_in(mode, level, span)
    return level if level.level == 0 or kept.all() else chosen_tables(level, kept)


def chosen_tables(level: TableLevel, chosen: Bools) -> TableLevel:
    """Return a level with some of its tables alone."""
    return TableLevel(
        level=level.level,
        addresses=level.addresses[chosen],
        tables=level.tables[chosen],
        entries=level.entries[chosen],
        rights=level.rights[chosen],
    )


def _lies_in(mode: PagingMode, level: TableLevel, span: Span) -> Bools:
    size = np.uint64(mode.levels[level.level].size * level.entries.shape[1] - 1)
    inside: Bools = (level.addresses >= span[0]) & (level.addresses + size <= span[1])
    return inside


def replace_span(mode: PagingMode, old: TableLevel, fresh: TableLevel, span: Span) -> TableLevel:
    """Return ``old`` with everything that lies in a span as it is in ``fresh``.

    Tables inside of the span come from the fresh walk; tables that reach further keep their other entries.
    """
    old = without_span(mode, old, span)
    added = _lies_in(mode, fresh, span) & (old.level > 0)
    _patch(mode, old, fresh, span)
    if not added.any():
        return old
    order = np.argsort(np.concatenate([old.addresses, fresh.addresses[added]]), kind="stable")
    columns = {}
    for name in ("addresses", "tables", "entries", "rights"):
        column = np.concatenate([getattr(old, name), getattr(fresh, name)[added]])
        columns[name] = column[order]
    return replace(old, **columns)


def _patch(mode: PagingMode, old: TableLevel, fresh: TableLevel, span: Span) -> None:
    """Put the entries of a span as they are in ``fresh`` into the tables that both have."""
    size = np.uint64(mode.levels[old.level].size - 1)
    for row, address in enumerate(fresh.addresses.tolist()):
        index = int(np.searchsorted(old.addresses, np.uint64(address)))
        if index == len(old) or old.addresses[index] != address:
            continue
        columns = np.arange(fresh.entries.shape[1]) + row * fresh.entries.shape[1]
        addresses = entry_addresses(mode, fresh, columns)
        inside = (addresses >= span[0]) & (addresses + size <= span[1])
        old.entries[index][inside] = fresh.entries[row][inside]


@record
class WalkStep:
    """One level of the translation of one address."""

    level: str
    index: int
    table: int
    """The physical address of the table."""
    entry: int
    state: str
    phys: int | None
    """Where the entry leads: the next table, or the address itself in memory; None when nowhere."""
    flags: tuple[str, ...]
    size: int
    """Bytes that the entry maps."""

    @property
    def is_leaf(self) -> bool:
        """Whether the entry maps memory, be it hidden from the processor."""
        return self.state in ("present", "prot-none")


def walk_address(
    source: PageTableSource | WalkingSource, mode: PagingMode, pgd: int, address: int
) -> tuple[WalkStep, ...]:
    """Return how an address is translated: a step for each level, down to the page or to where nothing is.

    >>> for step in walk_address(memory, mode, mm.pgd, 0x7F3C1A2B4010):  # doctest: +SKIP
    ...     print(step.level, step.index, hex(step.entry), step.state, hex(step.phys))
    pgd 254 0x10d5c7067 table 0x10d5c7000
    pud 240 0x10d5c8067 table 0x10d5c8000
    pmd 209 0x10d5ca067 table 0x10d5ca000
    pte 180 0x800000011a2b3867 present 0x11a2b3010
    """
    if isinstance(source, WalkingSource):
        return source.walk_address(pgd, address)
    steps: list[WalkStep] = []
    table = pgd
    for depth, level in enumerate(mode.levels):
        index = (address >> level.shift) & (level.nr_entries - 1)
        values, good = source.entries(np.array([table + 8 * index], np.uint64))
        if not good[0]:
            break
        step, followed = step_of(mode, depth, table, int(values[0]), address)
        steps.append(step)
        if not followed:
            break
        table = step.phys or 0
    return tuple(steps)


def step_of(mode: PagingMode, depth: int, table: int, entry: int, address: int) -> tuple[WalkStep, bool]:
    """Return one level of the translation of an address, and whether it leads to another table."""
    level = mode.levels[depth]
    state = state_of(mode, depth, entry)
    phys: int | None = None
    followed = bool(is_table(mode, depth, entry)) and bool(holds(entry, mode.present))
    if followed:
        phys = int(address_of(mode, entry))
    elif state in (PRESENT, PROT_NONE):
        phys = int(page_address(mode, depth, entry, address))
    step = WalkStep(
        level=level.name,
        index=(address >> level.shift) & (level.nr_entries - 1),
        table=table,
        entry=entry,
        state=STATE_NAMES[state],
        phys=phys,
        flags=flag_names(mode, depth, entry),
        size=level.size,
    )
    return step, followed


def page_address(mode: PagingMode, level: int, entry: int, address: int) -> int:
    """Return the physical address of ``address`` under the leaf that translates it."""
    size = mode.levels[level].size
    if mode.napot and entry & mode.napot:
        size = contiguous_size(mode, level, entry)
    return leaf_address(mode, level, entry) & ~(size - 1) | address & (size - 1)


def upper_entries(walked: Walk, level: int) -> tuple[NDArray[np.intp], Words, Bytes]:
    """Return flat indexes, entries and states of what stands in a level above the last and points at no table.

    That is huge leaves, PROT_NONE ones included, and what stands in their place: migration entries and markers.
    """
    mode = walked.mode
    flat = walked.levels[level].entries.reshape(-1)
    if not mode.levels[level].can_map:
        flat = flat[:0]
    # Nearly all entries here point at tables.
    indexes = np.flatnonzero((flat != 0) & ~np.asarray(is_table(mode, level, flat), np.bool_))
    entries = flat[indexes]
    return indexes, entries, states(mode, level, entries)

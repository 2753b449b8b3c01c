"""Page-table entries one by one: in the order of addresses, chosen by their flags, or merged to runs of like ones."""

from __future__ import annotations

from itertools import pairwise

from mematlas.analysis.flag_list import parse_flag_list
from mematlas.analysis.pagetables.leaves import used_entries
from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.frozen import record, replace
from mematlas.kernel.memory.x86 import U64
from mematlas.model.pagetables.entries import (
    DEVICE,
    HWPOISON,
    MIGRATION,
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    SWAP,
    TABLE,
    PagingMode,
    address_of,
    flags_of,
    full_addresses,
    holds,
    leaf_address,
    maps_memory,
    migration_frame,
    states,
    swap_fields,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.model.pagetables.walk import Walk


LETTERS = {"w": "writable", "x": "executable", "u": "user", "a": "accessed", "d": "dirty", "g": "global"}


@record
class EntryBatch:
    """Entries that are not empty, in the order of what they translate; a table stands before what it points at."""

    levels: Bytes
    indices: NDArray[np.int64]
    addresses: Words
    entries: Words
    states: Bytes
    """Codes; `mematlas.model.pagetables.entries.STATE_NAMES` has their names."""

    def __len__(self) -> int:
        return len(self.entries)

    def chosen(self, which: Bools | slice) -> EntryBatch:
        """Return only those that are chosen."""
        return EntryBatch(
            levels=self.levels[which],
            indices=self.indices[which],
            addresses=self.addresses[which],
            entries=self.entries[which],
            states=self.states[which],
        )


@record
class EntryFilter:
    """Which entries are asked for: those of some levels, with some flags and without others."""

    levels: frozenset[int] | None = None
    """None for all."""
    flags: tuple[tuple[bool, str], ...] = ()
    """Each a flag or a state by name, and whether it must hold or must not."""

    @property
    def with_tables(self) -> bool:
        """Whether entries that point at tables are meant: with flags, only where ``table`` is among them."""
        return not self.flags or (True, "table") in self.flags

    def takes(self, mode: PagingMode, batch: EntryBatch) -> Bools:
        """Return which entries are asked for."""
        taken = np.ones(len(batch), np.bool_)
        if not self.with_tables:
            taken &= batch.states != TABLE
        for level in range(len(mode.levels)):
            of_level = batch.levels == level
            if self.levels is not None and level not in self.levels:
                taken[of_level] = False
            for wanted, name in self.flags:
                if of_level.any():
                    taken[of_level] &= has_flag(mode, level, batch.chosen(of_level), name) == wanted
        return taken


def parse_flags(text: str, mode: PagingMode) -> tuple[tuple[bool, str], ...]:
    """Return the flags in a list such as ``w,x,!nx``: letters, names of flags, and names of states.

    >>> from mematlas.model.pagetables.modes import x86_64
    >>> parse_flags("w,!nx,swap", x86_64())
    ((True, 'writable'), (False, 'nx'), (True, 'swap'))
    """
    known = sorted({flag.name for flag in mode.flags} | set(LETTERS.values()) | set(STATE_NAMES[1:]))
    return parse_flag_list(text, dict(zip(known, known, strict=True)) | LETTERS, mode.name, [*LETTERS, *known])


def has_flag(mode: PagingMode, level: int, batch: EntryBatch, name: str) -> Bools:
    """Return which entries of a level have a flag, or are in a state, of this name.

    What is not present has a state and no flags.
    """
    has: Bools = batch.states == (STATE_NAMES.index(name) if name in STATE_NAMES else 0xFF)
    if name == "executable":
        # Not a flag on x86 but the want of one; what the hardware does not follow cannot be executed.
        followed = (batch.states == TABLE) | (batch.states == PRESENT)
        has = followed & np.asarray(holds(batch.entries, mode.executable), np.bool_)
    for state in (TABLE, PRESENT, PROT_NONE):
        for flag in flags_of(mode, level, state):
            if flag.name == name:
                is_set = batch.entries & np.uint64(flag.mask) == flag.value
                has = has | (batch.states == state) & is_set
    return has


def list_entries(parts: Iterable[Walk], wanted: EntryFilter) -> Iterator[EntryBatch]:
    """Yield the entries of a walk, given as its parts, that are asked for.

    >>> next(list_entries([walked], EntryFilter())).levels[:4].tolist()  # doctest: +SKIP
    [0, 1, 2, 3]
    """
    is_first = True
    for part in parts:
        columns = []
        for level in range(len(part.levels)):
            flat, entries, addresses, codes = used_entries(part, level)
            own = own_entries(part, addresses, is_first)
            nr_entries = part.mode.levels[level].nr_entries
            indices = (flat % nr_entries).astype(np.int64)
            levels = np.full(len(flat), level, np.uint8)
            columns.append([column[own] for column in (levels, indices, addresses, entries, codes)])
        joined = map(np.concatenate, zip(*columns, strict=True))
        levels, indices, addresses, entries, codes = joined
        order = np.lexsort((levels, addresses))
        batch = EntryBatch(
            levels=levels[order],
            indices=indices[order],
            addresses=addresses[order],
            entries=entries[order],
            states=codes[order],
        )
        is_first = False
        yield batch.chosen(wanted.takes(part.mode, batch))


def own_entries(part: Walk, addresses: Words, is_first: bool) -> Bools:
    """Return which entries are a part's own: one that reaches into several parts belongs to the first of them."""
    return np.ones(len(addresses), np.bool_) if is_first else addresses >= np.uint64(part.first)


def first_entries(batches: Iterable[EntryBatch], limit: int) -> Iterator[EntryBatch]:
    """Yield so many entries, and read no further."""
    for batch in batches:
        yield batch.chosen(slice(limit))
        limit -= len(batch)
        if limit <= 0:
            return


def entry_targets(mode: PagingMode, batch: EntryBatch) -> tuple[Words, Words, Words]:
    """Return, for each entry, where it leads in memory, and its swap type and offset; what it has not is 0.

    Migration, hwpoison and device entries hold a frame in place of an offset.
    """
    phys = np.zeros(len(batch), np.uint64)
    kinds, offsets = swap_fields(mode, batch.entries)
    for level in range(len(mode.levels)):
        leaves = (batch.levels == level) & maps_memory(batch.states)
        phys[leaves] = leaf_address(mode, level, batch.entries[leaves])
    tables = batch.states == TABLE
    phys[tables] = address_of(mode, batch.entries[tables])
    framed = hold_frames(batch.states)
    phys[framed] = migration_frame(mode, offsets[framed]) << np.uint64(mode.page_shift)
    swapped = batch.states == SWAP
    return phys, np.where(swapped, kinds, np.uint64(0)), np.where(swapped, offsets, np.uint64(0))


def hold_frames(codes: Bytes) -> Bools:
    """Return which entries hold a frame in place of the offset of a swap slot."""
    return np.isin(codes, (MIGRATION, HWPOISON, DEVICE))


@record
class EntryRun:
    """Entries of one level that follow one another and say the same, but for accessed and dirty."""

    start: int
    size: int
    level: int
    state: int
    entry: int
    """The first."""
    phys: int | None
    contiguous: bool
    """Whether the memory, too, follows on."""
    nr_entries: int
    nr_accessed: int
    nr_dirty: int
    kind: int
    """What is the same in all of them: their flags, or their swap type."""


def entry_runs(mode: PagingMode, batches: Iterable[EntryBatch]) -> Iterator[EntryRun]:
    """Yield runs of entries that point at no table.

    >>> [(run.level, run.size) for run in entry_runs(mode, list_entries([walked], EntryFilter()))]  # doctest: +SKIP
    [(3, 8192)]
    """
    held: EntryRun | None = None
    for batch in batches:
        for run in _batch_runs(mode, batch.chosen(batch.states != TABLE)):
            joined = _joined(held, run) if held else None
            if held and joined is None:
                yield held
            held = joined or run
    if held:
        yield held


def _kinds(mode: PagingMode, codes: Bytes, entries: Words) -> Words:
    """Return what of each entry must be the same in all of a run."""
    # Accessed and dirty change all the time, and would cut everything in pieces.
    tests = (*mode.accessed, *mode.dirty)
    volatile = sum({mask for mask, _ in tests if mask & (mask - 1) == 0})
    address_bits = sum(mask for mask, _ in mode.address_fields)
    present = maps_memory(codes)
    kinds, _ = swap_fields(mode, entries)
    return np.where(present, entries & np.uint64(U64 & ~(volatile | address_bits)), kinds)


def _batch_runs(mode: PagingMode, batch: EntryBatch) -> Iterator[EntryRun]:
    if not len(batch):
        return
    phys, _, offsets = entry_targets(mode, batch)
    sizes = np.array([level.size for level in mode.levels], np.uint64)[batch.levels]
    kinds = _kinds(mode, batch.states, batch.entries)
    cut = np.diff(batch.addresses) != sizes[:-1]
    for column in (batch.levels, batch.states, kinds):
        cut |= column[1:] != column[:-1]
    # What follows in memory, or in swap.
    slots_follow = np.diff(offsets) == 1
    memory_follows = np.diff(phys) == sizes[:-1]
    follows = np.where(batch.states[:-1] == SWAP, slots_follow, memory_follows)
    accessed = np.asarray(holds(batch.entries, mode.accessed), np.bool_)
    dirty = np.asarray(holds(batch.entries, mode.dirty), np.bool_)
    for low, high in pairwise([0, *(np.flatnonzero(cut) + 1).tolist(), len(batch)]):
        state = int(batch.states[low])
        is_present = state in (PRESENT, PROT_NONE)
        yield EntryRun(
            start=int(batch.addresses[low]),
            size=(high - low) * int(sizes[low]),
            level=int(batch.levels[low]),
            state=state,
            entry=int(batch.entries[low]),
            phys=int(phys[low]) if is_present or phys[low] else None,
            contiguous=bool(follows[low : high - 1].all()),
            nr_entries=high - low,
            nr_accessed=int(np.count_nonzero(accessed[low:high])) if is_present else 0,
            nr_dirty=int(np.count_nonzero(dirty[low:high])) if is_present else 0,
            kind=int(kinds[low]),
        )


def _joined(one: EntryRun, two: EntryRun) -> EntryRun | None:
    """Return two runs as one; None when they are not alike or do not touch."""
    alike = (one.level, one.state, one.kind) == (two.level, two.state, two.kind)
    if not alike or one.start + one.size != two.start:
        return None
    follows = one.phys is not None and two.phys == one.phys + one.size
    return replace(
        one,
        size=one.size + two.size,
        contiguous=one.contiguous and two.contiguous and follows,
        nr_entries=one.nr_entries + two.nr_entries,
        nr_accessed=one.nr_accessed + two.nr_accessed,
        nr_dirty=one.nr_dirty + two.nr_dirty,
    )


def whole_table(mode: PagingMode, level: int, address: int, entries: Words) -> EntryBatch:
    """Return every entry of one table, the empty ones too."""
    indices = np.arange(len(entries))
    starts = np.uint64(address) + (indices.astype(np.uint64) << np.uint64(mode.levels[level].shift))
    if level == 0:
        starts = full_addresses(mode, starts)
    return EntryBatch(
        levels=np.full(len(entries), level, np.uint8),
        indices=indices,
        addresses=starts,
        entries=entries,
        states=states(mode, level, entries),
    )

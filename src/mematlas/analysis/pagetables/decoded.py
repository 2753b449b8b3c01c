"""Entries in the words of the processor's manual: level, state and flags by name, and where each leads."""

from __future__ import annotations

from mematlas.analysis.pagetables.entries import EntryBatch, entry_targets, whole_table
from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.model.pagetables.entries import (
    EMPTY,
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    SWAP,
    TABLE,
    PagingMode,
    flag_names,
    holds,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.pagetables.entries import EntryRun
    from mematlas.analysis.pagetables.results import RawTable

    Flags = tuple[str, ...]

NR_TOGETHER = 1024
"""Entries decoded together at the most: as integers of Python they take much more room than in arrays."""
VOLATILE = frozenset(("accessed", "dirty", "saved-dirty"))
"""Flags that differ within a run."""


@record
class DecodedEntries:
    """Entries in the order in which they were listed: a column for each thing that is said of them."""

    depths: list[int]
    """Numbers of levels; 0 is the top."""
    levels: list[str]
    indices: list[int]
    addresses: list[int]
    entries: list[int]
    phys: list[int | None]
    """Where each leads in memory; None for one that leads nowhere."""
    leaves: list[bool]
    states: list[str]
    swap_types: list[int | None]
    swap_offsets: list[int | None]
    flags: list[Flags]
    executable: list[bool]
    """Whether what it leads to may be executed, as far as this entry says."""

    def __len__(self) -> int:
        return len(self.entries)


@record
class DecodedRun:
    """A run of like entries, with the names of what they have in common."""

    run: EntryRun
    level: str
    state: str
    flags: Flags
    executable: bool

    @property
    def is_present(self) -> bool:
        """Whether the entries map memory."""
        return self.run.state in (PRESENT, PROT_NONE)

    @property
    def follows_on(self) -> bool | None:
        """Whether memory, or swap slots, follow one another; None for entries that have neither."""
        leads_somewhere = self.run.phys is not None or self.run.state == SWAP
        return self.run.contiguous if leads_somewhere else None


def _where(chosen: list[bool], numbers: list[int]) -> list[int | None]:
    pairs = zip(chosen, numbers, strict=True)
    return [number if is_chosen else None for is_chosen, number in pairs]


class EntryDecoder:
    """Decodes entries. Flag names are worked out once for all that differ in nothing else than where they lead."""

    def __init__(self, mode: PagingMode) -> None:
        self.mode = mode
        address_bits = sum(mask for mask, _ in mode.address_fields)
        # Of a huge leaf, the lower bits of the address are flags.
        self._masks = [~(address_bits & -level.size) for level in mode.levels]
        self._flags: dict[tuple[int, int], Flags] = {}

    def flags(self, level: int, state: int, entry: int) -> Flags:
        """Return the names of the flags of an entry; what is not present has none but its state, an empty one none."""
        if state not in (TABLE, PRESENT, PROT_NONE):
            return (STATE_NAMES[state],) if state != EMPTY else ()
        key = level, entry & self._masks[level]
        if key not in self._flags:
            self._flags[key] = flag_names(self.mode, level, entry)
        return self._flags[key]

    def decode(self, batch: EntryBatch) -> DecodedEntries:
        """Return entries decoded."""
        phys, kinds, offsets = (column.tolist() for column in entry_targets(self.mode, batch))
        depths = batch.levels.tolist()
        states = batch.states.tolist()
        entries = batch.entries.tolist()
        names = [level.name for level in self.mode.levels]
        pairs = zip(states, phys, strict=True)
        leads = [state in (PRESENT, PROT_NONE, TABLE) or address != 0 for state, address in pairs]
        swapped = [state == SWAP for state in states]
        return DecodedEntries(
            depths=depths,
            levels=[names[depth] for depth in depths],
            indices=batch.indices.tolist(),
            addresses=batch.addresses.tolist(),
            entries=entries,
            phys=_where(leads, phys),
            leaves=[state in (PRESENT, PROT_NONE) for state in states],
            states=[STATE_NAMES[state] for state in states],
            swap_types=_where(swapped, kinds),
            swap_offsets=_where(swapped, offsets),
            flags=list(map(self.flags, depths, states, entries)),
            executable=np.asarray(holds(batch.entries, self.mode.executable), np.bool_).tolist(),
        )

    def decode_all(self, batches: Iterable[EntryBatch]) -> Iterator[DecodedEntries]:
        """Yield entries decoded, few enough together."""
        for batch in batches:
            for low in range(0, len(batch), NR_TOGETHER):
                yield self.decode(batch.chosen(slice(low, low + NR_TOGETHER)))

    def decode_table(self, raw: RawTable) -> DecodedEntries:
        """Return every entry of one table decoded, the empty ones too."""
        return self.decode(whole_table(self.mode, raw.level, raw.address, raw.entries))

    def decode_run(self, run: EntryRun) -> DecodedRun:
        """Return a run decoded, without the flags that differ within it."""
        names = self.flags(run.level, run.state, run.entry)
        flags = tuple(name for name in names if name not in VOLATILE)
        executable = bool(holds(run.entry, self.mode.executable))
        return DecodedRun(
            run=run,
            level=self.mode.levels[run.level].name,
            state=STATE_NAMES[run.state],
            flags=flags,
            executable=executable,
        )

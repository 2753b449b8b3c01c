"""What page tables that were walked map: the entries in use of one level, its leaves, and runs of leaves that say the
same. Every question about a walk begins with these.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.frozen import record, replace
from mematlas.kernel.memory.x86 import U64
from mematlas.model.pagetables.entries import PagingMode, leaf_address, maps_memory, states
from mematlas.model.pagetables.walk import Walk, rights_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@record
class Leaves:
    """The leaves of one level inside the range of a walk, a row for each."""

    level: int
    size: int
    addresses: Words
    entries: Words
    rights: Bytes
    """What the leaf and all tables above it allow together."""

    def __len__(self) -> int:
        return len(self.entries)


def leaves_of(walked: Walk, level: int) -> Leaves:
    """Return the leaves of a level. PROT_NONE ones are among them, and have no rights.

    >>> len(leaves_of(walked, 3))  # doctest: +SKIP
    264329
    """
    indices, entries, addresses, codes = used_entries(walked, level)
    chosen = maps_memory(codes)
    indices, entries, addresses = indices[chosen], entries[chosen], addresses[chosen]
    table = walked.levels[level]
    above = table.rights[indices // table.entries.shape[1]]
    return Leaves(
        level=level,
        size=walked.mode.levels[level].size,
        addresses=addresses,
        entries=entries,
        rights=rights_of(walked.mode, entries) & above,
    )


def used_entries(walked: Walk, level: int) -> tuple[NDArray[np.intp], Words, Words, Bytes]:
    """Return flat indices, entries, addresses and states of all entries of a level that are not empty, in range."""
    table = walked.levels[level]
    flat = table.entries.reshape(-1)
    indices = np.flatnonzero(flat)
    addresses = walked.entry_addresses(level, indices)
    lasts = addresses + np.uint64(walked.mode.levels[level].size - 1)
    if len(addresses) and (addresses[0] < walked.first or lasts[-1] > walked.last):
        inside = (addresses <= walked.last) & (lasts >= walked.first)
        indices, addresses = indices[inside], addresses[inside]
    entries = flat[indices]
    return indices, entries, addresses, states(walked.mode, level, entries)


def chosen_leaves(leaves: Leaves, chosen: Bools) -> Leaves:
    """Return only the chosen leaves.

    >>> executable = chosen_leaves(leaves, leaves.rights & EXECUTABLE != 0)  # doctest: +SKIP
    """
    return replace(
        leaves,
        addresses=leaves.addresses[chosen],
        entries=leaves.entries[chosen],
        rights=leaves.rights[chosen],
    )


@record
class LeafRun:
    """Leaves that follow one another and say the same."""

    start: int
    size: int
    level: str
    phys: int
    """Of the first leaf. The others need not follow it in memory."""
    entry: int
    """The first leaf's."""
    rights: int


def leaf_runs(mode: PagingMode, leaves: Leaves) -> Iterator[LeafRun]:
    """Yield leaves of one level, merged where they touch and have the same flags."""
    if not len(leaves):
        return
    # Accessed and dirty change all the time, and would cut everything in pieces.
    volatile = sum(mask for test in (mode.accessed, mode.dirty) for mask, _ in test[:1])
    address_bits = sum(mask for mask, _ in mode.address_fields)
    phys = np.asarray(leaf_address(mode, leaves.level, leaves.entries))
    size = np.uint64(leaves.size)
    kind = leaves.entries & np.uint64(U64 & ~(volatile | address_bits))
    cut = (np.diff(leaves.addresses) != size) | (np.diff(kind) != 0) | (np.diff(leaves.rights) != 0)
    starts = [0, *(np.flatnonzero(cut) + 1).tolist(), len(leaves)]
    for low, high in pairwise(starts):
        yield LeafRun(
            start=int(leaves.addresses[low]),
            size=(high - low) * leaves.size,
            level=mode.levels[leaves.level].name,
            phys=int(phys[low]),
            entry=int(leaves.entries[low]),
            rights=int(leaves.rights[low]),
        )

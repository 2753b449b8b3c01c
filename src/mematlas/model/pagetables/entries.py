"""Page-table entries as data: what a paging mode is, and what its entries say.

A `PagingMode` is a description: level names, shifts, masks and flag names. Everything that decodes an entry reads
that description, so the same code serves every architecture, and works on one integer or on an array of them. The
descriptions themselves are in `mematlas.model.pagetables.modes`.

Non-present entries are the kernel's own and differ by architecture in their layout, but not in their meaning:
include/linux/swapops.h, include/linux/swap.h.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from mematlas.arrays import Bools, Bytes, Words, np
from mematlas.frozen import record
from mematlas.kernel.memory.x86 import U64
from mematlas.kernel.pagemap import MARKER_GUARD, MARKER_POISONED, MARKER_UFFD_WP
from mematlas.model.pagetables.swap_types import (
    DEVICE,
    EMPTY,
    GUARD,
    HWPOISON,
    MARKER,
    MIGRATION,
    NR_SWAP_TYPES,
    POISON,
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    SWAP,
    TABLE,
    UFFD_WP,
    UNKNOWN_ENTRY,
    UNKNOWN_SPECIAL_SWAP,
    SpecialSwap,
)

# What an entry can be is found here as well.
__all__ = (
    "DEVICE",
    "EMPTY",
    "GUARD",
    "HWPOISON",
    "MARKER",
    "MIGRATION",
    "NR_SWAP_TYPES",
    "POISON",
    "PRESENT",
    "PROT_NONE",
    "STATE_NAMES",
    "SWAP",
    "TABLE",
    "UFFD_WP",
    "UNKNOWN_ENTRY",
    "UNKNOWN_SPECIAL_SWAP",
    "SpecialSwap",
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OneOrMany = TypeVar("OneOrMany", int, Words)
"""One entry, or an array of them: what comes in goes out."""

Test = tuple[tuple[int, int], ...]
"""Pairs of mask and value: the test holds when, for any pair, ``entry & mask == value``."""


@record
class Level:
    """One level of tables."""

    name: str
    """pgd, p4d, pud, pmd or pte. Linux calls the top one pgd, however many there are."""
    shift: int
    """An entry maps ``1 << shift`` bytes."""
    nr_entries: int
    can_map: bool = True
    """Whether an entry here may map memory rather than point at a table."""
    nr_contiguous: int = 1
    """How many neighbours the contiguous bit joins (arm64)."""

    @property
    def size(self) -> int:
        """Bytes that one entry maps."""
        return 1 << self.shift


@record
class Flag:
    """A named bit, or a named value of several bits."""

    name: str
    mask: int
    value: int
    where: str = "any"
    """`leaf`, `page` (a leaf of the last level), `block` (a leaf above it), `table`, or `any`."""


@record
class SwapLayout:
    """Where a non-present entry holds the type and the offset of its swap slot."""

    type_shift: int
    offset_shift: int
    """How far to the right the offset lies, after what is above it has been cut off."""
    offset_bits: int
    inverted: bool = False
    """Whether the offset is stored with all its bits flipped, against L1TF (x86)."""
    type_bits: int = 5
    soft_dirty: int = 0
    """The bit that says so of a page that is not present (_PAGE_SWP_SOFT_DIRTY); 0 where none does."""
    uffd_wp: int = 0
    """The same for _PAGE_SWP_UFFD_WP."""


@record
class PagingMode:
    """How one kernel on one machine lays out its tables."""

    name: str
    levels: tuple[Level, ...]
    """Top first."""
    address_fields: tuple[tuple[int, int], ...]
    """Where entries hold physical address bits: pairs of mask, and left shift (negative: right)."""
    present: Test
    """The hardware follows the entry."""
    table: Test
    """Above the last level, a present entry for which this holds points at a table."""
    prot_none: Test
    """Memory the kernel counts as present, hidden from the hardware by PROT_NONE or NUMA balancing."""
    prot_none_block: Test
    """The same in a level above the last."""
    flags: tuple[Flag, ...]
    writable: Test
    executable: Test
    user: Test
    accessed: Test
    dirty: Test
    global_: Test
    special: Test
    """Memory without a struct page that counts: PFNMAP, vvar, the zero page (pte_special)."""
    contiguous: Test
    swap: SwapLayout
    reserved: int = 0
    """Bits that are 0 in every entry that is present: a table that has one set was freed, and holds something else."""
    encryption_mask: int = 0
    """The address bit that says `encrypted`; no part of any address."""
    inverted_prot_none: bool = False
    napot: int = 0
    """The bit that says: the lowest set bit of the frame number is the size (riscv Svnapot)."""
    table_rights: bool = True
    """Whether a table's own writable, user and no-execute bits take rights away from all below it."""
    shared_tables: bool = True
    """Whether one top table translates both halves. (On arm64 each has its own, TTBR0 and TTBR1.)"""
    special_swap: SpecialSwap | None = None

    @property
    def page_shift(self) -> int:
        """Bits of an address inside a page."""
        return self.levels[-1].shift

    @property
    def address_bits(self) -> int:
        """How many bits of a virtual address the tables translate."""
        return self.levels[0].shift + (self.levels[0].nr_entries - 1).bit_length()

    @property
    def user_end(self) -> int:
        """Where the user half ends: half of what the tables translate, or all where each half has its own."""
        return 1 << self.address_bits - self.shared_tables

    @property
    def kernel_start(self) -> int:
        """Where the kernel half begins."""
        return (1 << 64) - self.user_end


def holds(entry: OneOrMany, test: Test) -> Any:
    """Return whether a test holds: a bool for an integer, an array of bools for an array.

    >>> holds(0b101, ((0b100, 0b100),)), holds(0b001, ((0b100, 0b100),))
    (True, False)
    """
    result: Any = (entry & test[0][0]) == test[0][1] if test else entry != entry
    for mask, value in test[1:]:
        result = result | ((entry & mask) == value)
    return result


def any_bit(test: Test) -> np.uint64 | None:
    """Return the bits of a test that holds when any of them is set; None for other tests.

    >>> any_bit(((4, 4), (1, 1))), any_bit(((4, 0),))
    (np.uint64(5), None)
    """
    alone = all(mask == value and mask & (mask - 1) == 0 for mask, value in test)
    return np.uint64(sum({mask for mask, _ in test})) if alone else None


def is_table(mode: PagingMode, level: int, entry: OneOrMany) -> Any:
    """Return whether entries of a level point at tables of the next."""
    if level == len(mode.levels) - 1:
        return entry != entry
    return holds(entry, mode.table)


def is_leaf(mode: PagingMode, level: int, entry: OneOrMany) -> Any:
    """Return whether entries of a level are present and map memory."""
    present = holds(entry, mode.present)
    if level == len(mode.levels) - 1:
        return present
    if not mode.levels[level].can_map:
        return present & (entry != entry)
    # An int's truth and an array's are both turned by comparing.
    return present & (holds(entry, mode.table) == 0)


def is_prot_none(mode: PagingMode, level: int, entry: OneOrMany) -> Any:
    """Return whether entries map memory that is hidden from the hardware."""
    if level == len(mode.levels) - 1:
        return holds(entry, mode.prot_none)
    return holds(entry, mode.prot_none_block if mode.levels[level].can_map else ())


def maps_memory(codes: Bytes) -> Bools:
    """Return which states are those of leaves: present, and hidden by PROT_NONE."""
    result: Bools = (codes == PRESENT) | (codes == PROT_NONE)
    return result


def full_addresses(mode: PagingMode, addresses: Words) -> Words:
    """Return addresses made of indices as the processor knows them: in the upper half all upper bits are set."""
    if not mode.shared_tables:
        return addresses
    upper_bits = np.where(addresses >= mode.user_end, np.uint64(mode.kernel_start), np.uint64(0))
    result: Words = addresses | upper_bits
    return result


def address_of(mode: PagingMode, entry: OneOrMany) -> OneOrMany:
    """Return the physical address that present entries hold, of a table or of a page, with nothing cut off."""
    result: Any = 0
    for mask, shift in mode.address_fields:
        part: Any = entry & (mask & ~mode.encryption_mask)
        if shift:
            part = part << shift if shift > 0 else part >> -shift
        result = result | part
    return cast(OneOrMany, result)


def leaf_address(mode: PagingMode, level: int, entry: OneOrMany) -> OneOrMany:
    """Return the physical address where the memory of leaf entries begins; PROT_NONE is turned back.

    >>> from mematlas.model.pagetables.modes import x86_64
    >>> hex(leaf_address(x86_64(), 2, 0x80000000124010E7))        # bit 12 of a 2 MiB entry is no address
    '0x12400000'
    """
    value: Any = entry
    if mode.inverted_prot_none:
        # pte_pfn(): what is not present, but not empty, has its frame flipped (arch/x86/include/asm/pgtable.h).
        flip: Any = holds(entry, mode.present) == 0
        every_bit: Any = U64 if isinstance(entry, int) else np.uint64(U64)
        value = entry ^ flip * every_bit
    address: Any = address_of(mode, value)
    if mode.napot and level == len(mode.levels) - 1:
        is_napot: Any = (entry & mode.napot) != 0
        # The lowest set bit of the frame is the size: taken off where the entry is NAPOT, and left where it is not.
        without_size = address & (address - (1 if isinstance(entry, int) else np.uint64(1)))
        chosen: Any = np.where(is_napot, without_size, address)
        address = int(chosen) if isinstance(entry, int) else chosen
    return cast(OneOrMany, address & (U64 - mode.levels[level].size + 1))


def contiguous_size(mode: PagingMode, level: int, entry: int) -> int:
    """Return the bytes that the translation of an entry may cover with its neighbours: contiguous bit, NAPOT."""
    size = mode.levels[level].size
    if mode.napot and level == len(mode.levels) - 1 and entry & mode.napot:
        frame = address_of(mode, entry) >> mode.page_shift
        return size * 2 * (frame & -frame) if frame else size
    return size * mode.levels[level].nr_contiguous if holds(entry, mode.contiguous) else size


def swap_fields(mode: PagingMode, entry: OneOrMany) -> tuple[OneOrMany, OneOrMany]:
    """Return the swap type and the offset of non-present entries.

    >>> from mematlas.model.pagetables.modes import x86_64
    >>> swap_fields(x86_64(), (1 << 59) | ((~0x1234 << 9) & (1 << 59) - 1))
    (1, 4660)
    """
    layout = mode.swap
    kind: Any = (entry >> layout.type_shift) & ((1 << layout.type_bits) - 1)
    offset: Any = (entry >> layout.offset_shift) & ((1 << layout.offset_bits) - 1)
    if layout.inverted:
        offset = offset ^ ((1 << layout.offset_bits) - 1)
    return cast(OneOrMany, kind), cast(OneOrMany, offset)


def states(mode: PagingMode, level: int, entries: Words) -> Bytes:
    """Return the state of each entry of a level, as a code; `STATE_NAMES` has the names."""
    result = np.where(is_leaf(mode, level, entries), PRESENT, EMPTY).astype(np.uint8)
    rest = np.flatnonzero((result == EMPTY) & (entries != 0))
    if rest.size:
        result.reshape(-1)[rest] = _other_states(mode, level, entries.reshape(-1)[rest])
    return result


def _other_states(mode: PagingMode, level: int, entries: Words) -> Bytes:
    # Entries that are neither empty nor present leaves.
    kinds, offsets = swap_fields(mode, entries)
    of_types = mode.special_swap.state_of_types() if mode.special_swap else UNKNOWN_SPECIAL_SWAP
    result = np.array(of_types, np.uint8)[kinds.astype(np.intp)]
    marker = result == MARKER
    for bit, state in ((MARKER_UFFD_WP, UFFD_WP), (MARKER_POISONED, POISON), (MARKER_GUARD, GUARD)):
        result[marker & (offsets == bit)] = state
    result[np.asarray(is_prot_none(mode, level, entries), np.bool_)] = PROT_NONE
    present = np.asarray(holds(entries, mode.present), np.bool_)
    result[present] = UNKNOWN_ENTRY
    result[present & np.asarray(is_table(mode, level, entries), np.bool_)] = TABLE
    return result


def state_of(mode: PagingMode, level: int, entry: int) -> int:
    """Return the state of one entry."""
    return int(states(mode, level, np.array([entry], np.uint64))[0])


def migration_frame(mode: PagingMode, offset: OneOrMany) -> OneOrMany:
    """Return the frame in the offset of a migration, hwpoison or device entry."""
    bits = mode.special_swap.pfn_bits if mode.special_swap else mode.swap.offset_bits
    frame: Any = offset & ((1 << bits) - 1)
    return cast(OneOrMany, frame)


def flags_of(mode: PagingMode, level: int, state: int) -> Iterator[Flag]:
    """Yield the flags that mean something in an entry of this level and state. What is no leaf and no table has none.

    The bit that marks PROT_NONE is another flag's in entries that are present: global on x86 and riscv.
    """
    if state == TABLE:
        yield from (flag for flag in mode.flags if flag.where in ("any", "table"))
    elif state in (PRESENT, PROT_NONE):
        wheres = ("any", "leaf", "page" if level == len(mode.levels) - 1 else "block")
        taken = sum(value for _, value in mode.prot_none) if state == PROT_NONE else 0
        yield from (flag for flag in mode.flags if flag.where in wheres and not flag.mask & taken)


def flag_names(mode: PagingMode, level: int, entry: int) -> tuple[str, ...]:
    """Return the names of all flags set in a present entry, lowest bit first.

    >>> from mematlas.model.pagetables.modes import x86_64
    >>> flag_names(x86_64(), 3, 0x8000000012345067)
    ('present', 'writable', 'user', 'accessed', 'dirty', 'nx')
    """
    state = state_of(mode, level, entry)
    flags = flags_of(mode, level, state)
    names = tuple(flag.name for flag in flags if entry & flag.mask == flag.value)
    # Of a leaf that the hardware follows, and of a table, the flags say what it is.
    return names if state in (EMPTY, TABLE, PRESENT) else (STATE_NAMES[state], *names)

"""Where the direct map of physical memory begins (page_offset_base): found by the tables that map themselves.

Documentation/arch/x86/x86_64/mm.rst has the layout of the address space.
"""

from __future__ import annotations

from mematlas.kernel.memory.x86 import (
    GIB,
    NR_ENTRIES,
    PAGE,
    PAGE_SHIFT,
    TABLE_BITS,
    U64,
    X86_ADDRESS,
    X86_HUGE,
    X86_PRESENT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mematlas.kernel.memory.iomem import RamRanges

    ReadWord = Callable[[int], int | None]
    """Returns the word at a kernel address; None where it cannot be read."""


def nr_levels(pgd: int) -> int:
    """Return how many levels of tables there are, by the address of a top table: 4 or 5.

    >>> nr_levels(0xFFFF888012345000), nr_levels(0xFF11000012345000)
    (4, 5)
    """
    return 4 if pgd >> 48 == 0xFFFF else 5


NR_SAMPLES = 16
"""Addresses of RAM that a base has to map right, most of them."""


def find_direct_map(
    pgd: int, levels: int, ram: RamRanges, read_word: ReadWord, known: Iterable[int] = ()
) -> tuple[int, int] | None:
    """Return the base, and the address bit that says `encrypted` (AMD SME; 0 without it); None if neither is found.

    The base is the one address from which the tables map the page of the top table, at ``pgd``, to itself, and RAM
    elsewhere too: a wrong base leads to memory of all sorts, and any small odd number in it looks like a huge page at
    the beginning of RAM. ``known`` are tried first.
    """
    highest = pgd & -GIB
    lowest = highest - (ram.end - 1) // GIB * GIB
    for base in (*known, *range(highest, lowest - 1, -GIB)):
        if pgd - base not in ram:
            continue
        tables = KernelHalf(pgd, base, levels, ram, read_word)
        if tables.phys_address(pgd) == pgd - base and tables.maps_ram():
            return base, tables.mask
    return None


class KernelHalf:
    """The direct map as the tables have it, if it begins at ``base``."""

    def __init__(self, pgd: int, base: int, levels: int, ram: RamRanges, read_word: ReadWord) -> None:
        self.pgd = pgd
        self.base = base
        self.levels = levels
        self.ram = ram
        self.read_word = read_word
        self.mask = self._bits_above_ram()
        """The address bit that says `encrypted`: it is above all RAM, and the same in all entries."""

    def _bits_above_ram(self) -> int:
        """Return the bits beyond all RAM in the entry that leads to the top table itself."""
        entry = self._entry(self.pgd - self.base, self.levels - 1, self.pgd) or 0
        return entry & X86_ADDRESS & -(1 << (self.ram.end - 1).bit_length())

    def _entry(self, table: int, level: int, address: int) -> int | None:
        """Return the entry for an address in a table of this level; None where there is none."""
        index = address >> PAGE_SHIFT + TABLE_BITS * level & NR_ENTRIES - 1
        entry = self.read_word(self.base + table + index * 8 & U64)
        return entry if entry is not None and entry & X86_PRESENT else None

    def phys_address(self, address: int) -> int | None:
        """Return what a kernel address is mapped to; None where no tables in RAM lead to a page."""
        if self.mask & (self.mask - 1):
            return None  # no processor has two such bits
        table = self.pgd - self.base
        for level in reversed(range(self.levels)):
            entry = self._entry(table, level, address)
            if entry is None:
                return None
            table = entry & X86_ADDRESS & ~self.mask
            if level == 0 or (entry & X86_HUGE and level < 3):
                inside = (1 << PAGE_SHIFT + TABLE_BITS * level) - 1
                return table & ~inside | address & inside
            if table not in self.ram:
                return None
        return None

    def maps_ram(self) -> bool:
        """Whether RAM lies where the base says, as far as it is mapped: some pages may be taken out of the map."""
        step = max(self.ram.end // NR_SAMPLES & -PAGE, PAGE)
        samples = [address for address in range(step, self.ram.end, step) if address in self.ram]
        mapped = [self.phys_address(self.base + address & U64) for address in samples]
        right = sum(phys == address for phys, address in zip(mapped, samples, strict=True))
        return right >= len(samples) - mapped.count(None) and right * 2 >= len(samples)

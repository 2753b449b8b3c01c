"""Where the direct map of physical memory begins (page_offset_base): found by the tables that map themselves.

Documentation/arch/x86/x86_64/mm.rst has the layout of the address space.
"""

from __future__ import annotations

from mematlas.kernel.memory.x86 import GIB, NR_ENTRIES, PAGE_SHIFT, TABLE_BITS, U64, X86_ADDRESS, X86_HUGE, X86_PRESENT

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


def find_direct_map(
    pgd: int, levels: int, ram: RamRanges, read_word: ReadWord, known: Iterable[int] = ()
) -> tuple[int, int] | None:
    """Return the base, and the address bit that says `encrypted` (AMD SME; 0 without it); None if neither is found.

    The base is the one address from which the tables map the page of the top table, at ``pgd``, to itself. ``known``
    are tried first.
    """
    highest = pgd & -GIB
    lowest = highest - (ram.end - 1) // GIB * GIB
    for base in (*known, *range(highest, lowest - 1, -GIB)):
        if pgd - base not in ram:
            continue
        mask = mask_of_itself(pgd, base, levels, ram, read_word)
        if mask is not None:
            return base, mask
    return None


def mask_of_itself(pgd: int, base: int, levels: int, ram: RamRanges, read_word: ReadWord) -> int | None:
    """Return the mask where, with this base, the kernel half maps the top table to where the base says; else None."""
    table = pgd - base
    mask = 0
    for level in reversed(range(levels)):
        shift = PAGE_SHIFT + TABLE_BITS * level
        entry = read_word(base + table + (pgd >> shift & NR_ENTRIES - 1) * 8 & U64)
        if entry is None or not entry & X86_PRESENT:
            return None
        if level == levels - 1:
            mask = (entry & X86_ADDRESS) & -(1 << (ram.end - 1).bit_length())
            if mask & (mask - 1):
                return None
        table = entry & X86_ADDRESS & ~mask
        if level == 0 or (entry & X86_HUGE and level < 3):
            inside = (1 << shift) - 1
            return mask if table & ~inside | pgd & inside == pgd - base else None
        if table not in ram:
            return None
    return None

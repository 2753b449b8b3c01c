"""x86-64: the bits of an entry of a page table that all who read tables share, and what one entry maps.

Source: arch/x86/include/asm/pgtable_types.h, page_types.h. What else the bits mean, on each processor, is in
`mematlas.model.pagetables.modes`.
"""

from __future__ import annotations

import os

from mematlas.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

PAGE_SHIFT, TABLE_BITS = 12, 9
PAGE = 1 << PAGE_SHIFT
NR_ENTRIES = 1 << TABLE_BITS
"""Of a table."""
PMD_SHIFT, PUD_SHIFT = 21, 30
PMD_SIZE = 1 << PMD_SHIFT
GIB = 1 << PUD_SHIFT
U64 = (1 << 64) - 1
"""A word with every bit set."""

X86_PRESENT = 1 << 0
X86_USER = 1 << 2
X86_ACCESSED_SHIFT = 5
X86_ACCESSED = 1 << X86_ACCESSED_SHIFT
X86_DIRTY_SHIFT = 6
X86_DIRTY = 1 << X86_DIRTY_SHIFT
X86_HUGE = 1 << 7  # PSE
X86_PROT_NONE = 1 << 8
X86_SPECIAL = 1 << 9
X86_ADDRESS = 0x000FFFFFFFFFF000  # bits 12-51
X86_SAVED_DIRTY_SHIFT = 58
X86_SWAP_TYPE_SHIFT = 59  # bits 59-63 of an entry that is not present


def is_x86_64() -> bool:
    """Whether this machine is one: of no other are page tables read yet."""
    return os.uname().machine == "x86_64"


def check_tables(procfs: ProcFS) -> None:
    """Raise `NotSupported` where no page tables are read, whatever the rights: of other processors, and of captures."""
    if not is_x86_64():
        raise NotSupported(f"reading the page tables of {os.uname().machine}", "x86-64")
    if not procfs.live:
        raise NotSupported(f"page tables of {procfs.root}", "a live system")

"""What the bits of a pagemap entry are called, and what is known of its page beside them."""

from __future__ import annotations

from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    FILE,
    MARK_A,
    PM_GUARD_REGION,
    PM_MMAP_EXCLUSIVE,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_UFFD_WP,
    PRESENT,
)

FLAG_NAMES = (
    (PM_PRESENT, "present"),
    (PM_SWAP, "swap"),
    (PM_MMAP_EXCLUSIVE, "exclusive"),
    (PM_SOFT_DIRTY, "soft-dirty"),
    (PM_UFFD_WP, "uffd-wp"),
    (PM_GUARD_REGION, "guard"),
)
"""In the order in which they are shown."""


def entry_flags(byte: int, entry: int) -> tuple[str, ...]:
    """Return the names of the bits set in an entry, and of what we know beside it.

    >>> entry_flags(0x81, 0x8100000000012345)
    ('present', 'exclusive')
    """
    names = [name for bit, name in FLAG_NAMES if entry & bit]
    if not is_soft_dirty(entry):
        names = [name for name in names if name != "soft-dirty"]
    if byte & FILE and byte & PRESENT and not byte & MARK_A:
        names.append("file")
    if byte & PRESENT and byte & MARK_A:
        names.append("zero")
    return tuple(names)


def use_flags(use: int) -> tuple[str, ...]:
    """Return the names of the bits of a page's use, which page tables alone report.

    >>> use_flags(ACCESSED | DIRTY)
    ('accessed', 'dirty')
    """
    return tuple(name for bit, name in ((ACCESSED, "accessed"), (DIRTY, "dirty")) if use & bit)


def is_soft_dirty(entry: int) -> bool:
    """Whether a page was written to since clear_refs, or is of a VMA that is newer than that.

    pagemap has both in one bit; page tables have the first alone. Where there is no page the bit says that its VMA is
    new (VM_SOFTDIRTY), of holes too, which nobody reads: it is no flag of a page, and no page table has it
    (fs/proc/task_mmu.c, pagemap_pmd_range).

    >>> is_soft_dirty(PM_PRESENT | PM_SOFT_DIRTY), is_soft_dirty(PM_SOFT_DIRTY)
    (True, False)
    """
    return bool(entry & PM_SOFT_DIRTY and entry & (PM_PRESENT | PM_SWAP))

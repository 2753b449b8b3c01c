"""What a frame can be, in one byte: its kind, how many map it, and whether a folio or a free block begins there.

Kinds come from struct pages (`mematlas.model.census.decode`) or from kpageflags (`mematlas.model.census.words`). The
kernel's file knows fewer: what it has one word for is one *family*, by which the two are compared.
"""

from __future__ import annotations

from enum import IntEnum

from mematlas.kernel.memory.framebyte import KIND_MASK as KIND_MASK
from mematlas.kernel.memory.framebyte import MAPPED_MORE as MAPPED_MORE
from mematlas.kernel.memory.framebyte import MAPPED_ONCE as MAPPED_ONCE
from mematlas.kernel.memory.framebyte import NOT_MAPPED as NOT_MAPPED
from mematlas.kernel.memory.framebyte import START as START
from mematlas.kernel.memory.framebyte import STATE_SHIFT as STATE_SHIFT
from mematlas.kernel.memory.framebyte import STATE_UNKNOWN as STATE_UNKNOWN


class Kind(IntEnum):
    """What a frame is."""

    FREE = 0
    CPU_FREE = 1
    """Free, and kept by a CPU for itself."""
    ANON = 2
    KSM = 3
    """Anonymous memory that is alike, put together."""
    SWAPCACHE = 4
    """Was read from swap, or is on its way there, and is nobody's yet, or no more."""
    FILE = 5
    FILE_DIRTY = 6
    FILE_WRITEBACK = 7
    SHMEM = 8
    HUGETLB = 9
    ZERO = 10
    """The page of zeros, or the huge one."""
    SLAB = 11
    LARGE_KMALLOC = 12
    TABLE = 13
    ZSMALLOC = 14
    """Compressed swap (zswap, zram)."""
    MOVABLE = 15
    """A driver's that can be moved."""
    KERNEL = 16
    """Of no type: stacks, vmalloc, buffers of drivers and of the network."""
    GUARD = 17
    OFFLINE = 18
    """Taken away by a balloon, or a memory block that is offline."""
    UNACCEPTED = 19
    """Not yet accepted from the hypervisor."""
    RESERVED = 20
    """The kernel itself, and what firmware keeps."""
    POISONED = 21
    CHANGED = 22
    """Became another while it was read."""
    UNREAD = 23
    ORPHAN = 24
    """Was taken from its file, or from the swap cache, and is still referred to: so it is not free."""
    UNTOUCHED = 25
    """Free, and never anybody's since the machine began: the kernel has yet to fill in its struct page, all zeros now.

    Linux fills them in before there are processes (mm/mm_init.c, deferred_init_memmap()); kernels of virtual machines
    have been seen to do it when memory is first needed (6.18, ``deferred_init=lazy``).
    """
    NO_RAM = 31
    """Beside RAM in the same page of the array: no frame."""


NR_KINDS = KIND_MASK + 1
CACHE_KINDS = (Kind.FILE, Kind.FILE_DIRTY, Kind.FILE_WRITEBACK, Kind.SHMEM)
"""What is in the page cache."""

FAMILIES = dict.fromkeys(
    (
        *(Kind.CPU_FREE, Kind.LARGE_KMALLOC, Kind.ZSMALLOC, Kind.MOVABLE, Kind.GUARD),
        *(Kind.UNACCEPTED, Kind.UNTOUCHED),
    ),
    Kind.KERNEL,
)
"""The kinds for which kpageflags has one word, or none, and what stands for them all."""

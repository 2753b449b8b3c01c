"""What a word of kpageflags says that its frame is.

Source: fs/proc/page.c, stable_page_flags().
"""

from __future__ import annotations

from mematlas.arrays import Bytes, Words, np
from mematlas.kernel.kpage import (
    KPF_ANON,
    KPF_BUDDY,
    KPF_DIRTY,
    KPF_HUGE,
    KPF_HWPOISON,
    KPF_KSM,
    KPF_LOCKED,
    KPF_LRU,
    KPF_NOPAGE,
    KPF_OFFLINE,
    KPF_PGTABLE,
    KPF_RESERVED,
    KPF_SLAB,
    KPF_SWAPBACKED,
    KPF_SWAPCACHE,
    KPF_UPTODATE,
    KPF_WRITEBACK,
    KPF_ZERO_PAGE,
)
from mematlas.model.census.kinds import FAMILIES, KIND_MASK, Kind

OF_A_FILE = KPF_LOCKED | KPF_LRU | KPF_UPTODATE | KPF_WRITEBACK
"""Any of these is set for a page of a file, and none for what the kernel has for itself: that may be mapped, and so
become dirty and referenced.
"""


def families() -> Bytes:
    """Return what stands for each kind where kpageflags is compared with."""
    table = np.arange(KIND_MASK + 1, dtype=np.uint8)
    for kind, family in FAMILIES.items():
        table[kind] = family
    return table


def without_slab_flags(words: Words) -> Words:
    """Return words without what is said of slabs as if they were mapped: their own fields lie where others have their
    mapping, in which stable_page_flags() finds ``anon`` and ``ksm`` of a third of them (seen on 6.18).

    >>> [hex(word) for word in without_slab_flags(np.array([0x201080, 0x201000, 0x80], np.uint64)).tolist()]
    ['0x80', '0x201000', '0x80']
    """
    of_slabs = words & np.uint64(KPF_SLAB) != 0
    result: Words = np.where(of_slabs, words & ~np.uint64(KPF_ANON | KPF_KSM), words)
    return result


def kinds_of_words(words: Words, has_ksm: bool = True) -> Bytes:
    """Return the kinds of frames by their words in kpageflags. A tail has its own: that of its head is to be taken.

    ``has_ksm`` is whether the flag ``ksm`` means that; see `mematlas.kernel.kpage.tells_ksm`.

    >>> kinds_of_words(np.array([0x400, 0x5868, 0x828, 0], np.uint64)).tolist()
    [0, 2, 5, 16]
    """
    kinds = np.full(len(words), Kind.KERNEL, np.uint8)

    def set_where(mask: int, kind: Kind) -> None:
        kinds[words & np.uint64(mask) != 0] = kind

    is_file = words & np.uint64(OF_A_FILE) != 0

    # What is set last stands.
    kinds[is_file] = Kind.FILE
    kinds[is_file & (words & np.uint64(KPF_DIRTY) != 0)] = Kind.FILE_DIRTY
    set_where(KPF_WRITEBACK, Kind.FILE_WRITEBACK)
    set_where(KPF_SWAPBACKED, Kind.SHMEM)
    set_where(KPF_SWAPCACHE, Kind.SWAPCACHE)
    set_where(KPF_ANON, Kind.ANON)
    if has_ksm:
        set_where(KPF_KSM, Kind.KSM)
    set_where(KPF_RESERVED, Kind.RESERVED)
    set_where(KPF_ZERO_PAGE, Kind.ZERO)
    set_where(KPF_HUGE, Kind.HUGETLB)
    set_where(KPF_SLAB, Kind.SLAB)
    set_where(KPF_PGTABLE, Kind.TABLE)
    set_where(KPF_OFFLINE, Kind.OFFLINE)
    set_where(KPF_BUDDY, Kind.FREE)
    set_where(KPF_HWPOISON, Kind.POISONED)
    set_where(KPF_NOPAGE, Kind.NO_RAM)
    return kinds

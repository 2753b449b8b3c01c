"""Entries of page tables in the form of pagemap, with our state bytes and their use, whatever level they are of."""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, Words, np
from mematlas.kernel.kpage import KPF_ZERO_PAGE, read_frame_words
from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    FILE,
    GUARD,
    MARK_A,
    PM_PFRAME,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_SWAP_OFFSET_SHIFT,
    PM_UFFD_WP,
)
from mematlas.model.pagetables import entries as paging
from mematlas.model.pagetables.entries import holds, maps_memory, migration_frame, swap_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.arrays import NDArray
    from mematlas.model.pagetables.access import PageTableAccess

    Rows = slice | NDArray[np.intp]

NO_SWAP = (paging.EMPTY, paging.TABLE, paging.PRESENT, paging.PROT_NONE)
"""States of entries that pagemap shows without the swap bit."""


class EntryConverter:
    """Puts entries into the form of pagemap. What these do not say of a frame is for who asks."""

    def __init__(self, access: PageTableAccess) -> None:
        self.access = access
        self.mode = access.mode
        self.nr_device = 0
        """Pages of devices met, which pagemap does not show either."""
        self._zero_frames: dict[int, bool] = {}
        masks = {flag.name: np.uint64(flag.mask) for flag in self.mode.flags}
        pairs = (("soft-dirty", PM_SOFT_DIRTY), ("uffd-wp", PM_UFFD_WP))
        self._shared_flags = [(masks[name], np.uint64(bit)) for name, bit in pairs if name in masks]

    def convert(
        self,
        entries: Words,
        codes: Bytes,
        pfns: Words,
        bits_of: Callable[[Rows], Words],
        is_hugetlb: bool,
        huge_zero: Bools | None = None,
        numbers: Words | None = None,
    ) -> tuple[Words, Bytes, Bytes]:
        """Return entries in the form of pagemap, their state bytes, and their use.

        ``codes`` are their states, ``pfns`` the frames of those that map memory. ``bits_of`` returns the bits of
        pagemap that the frames of some of them decide, which are memory that counts: it is given their places.
        ``huge_zero`` says which map the huge zero page; ``numbers`` counts the pages of a huge entry. What maps the
        memory of a device is 0, as in pagemap.
        """
        present = maps_memory(codes)
        special = present & np.asarray(holds(entries, self.mode.special), np.bool_)
        zero = self._zero_among(special, pfns) if huge_zero is None else huge_zero
        self.nr_device += int(np.count_nonzero(special & ~zero)) if special.any() else 0
        counted = present & ~special & ~zero
        shown = counted | zero
        raw = np.where(shown, pfns | np.uint64(PM_PRESENT), np.uint64(0))
        bits = np.zeros(len(entries), np.uint8)
        bits[zero] = MARK_A
        if huge_zero is not None:
            # pagemap has this bit of the huge zero page, not of the small one.
            raw[zero] |= np.uint64(FILE << 56)
        if not present.all():
            self._add_swap(entries, codes, numbers, raw, is_hugetlb)
            bits[~present & (raw & np.uint64(PM_SWAP) != 0) & (codes != paging.SWAP)] = MARK_A
            bits[codes == paging.GUARD] |= GUARD
        for mask, bit in self._shared_flags:
            raw[shown & (entries & mask != 0)] |= bit
        if counted.any():
            rows = slice(None) if counted.all() else np.flatnonzero(counted)
            raw[rows] |= bits_of(rows)
        held = (raw >> np.uint64(56)).astype(np.uint8) | bits
        return raw, held, self.use_of(entries, shown)

    def _zero_among(self, special: Bools, pfns: Words) -> Bools:
        """Return which pages are the zero page, given which have special entries."""
        zero = special.copy()
        if special.any():
            zero[special] = self.are_zero(pfns[special])
        return zero

    def use_of(self, entries: Words, shown: Bools) -> Bytes:
        """Return the use of pages, as `Entries.use` has it; 0 for those that are not shown."""
        use = np.zeros(len(entries), np.uint8)
        use[shown & np.asarray(holds(entries, self.mode.accessed), np.bool_)] |= ACCESSED
        use[shown & np.asarray(holds(entries, self.mode.dirty), np.bool_)] |= DIRTY
        return use

    def _add_swap(self, entries: Words, codes: Bytes, numbers: Words | None, raw: Words, is_hugetlb: bool) -> None:
        """Put what is in the place of a page, swap slots and markers, as pagemap has it."""
        others = np.flatnonzero(~np.isin(codes, NO_SWAP))
        if not others.size:
            return
        codes, entries = codes[others], entries[others]
        kinds, offsets = swap_fields(self.mode, entries)
        frames_only = (codes == paging.MIGRATION) | (codes == paging.HWPOISON) | (codes == paging.DEVICE)
        offsets = np.where(frames_only, migration_frame(self.mode, offsets), offsets)
        if numbers is not None:
            offsets = offsets + numbers[others]
        slots = (offsets << np.uint64(PM_SWAP_OFFSET_SHIFT)) & np.uint64(PM_PFRAME)
        words = kinds | slots | np.uint64(PM_SWAP)
        if is_hugetlb:
            # Of what is not present pagemap shows only that it is protected (pagemap_hugetlb_range).
            words[:] = 0
        words[codes == paging.GUARD] |= np.uint64(GUARD << 56)
        words[codes == paging.UFFD_WP] |= np.uint64(PM_UFFD_WP)
        layout = self.mode.swap
        for mask, bit in ((layout.soft_dirty, PM_SOFT_DIRTY), (layout.uffd_wp, PM_UFFD_WP)):
            words[entries & np.uint64(mask) != 0] |= np.uint64(bit)
        raw[others] = words

    def are_zero(self, pfns: Words) -> Bools:
        """Return which of the frames of special entries are the zero page's."""
        unique, which = np.unique(pfns, return_inverse=True)
        fresh = [pfn for pfn in unique.tolist() if pfn not in self._zero_frames]
        if fresh:
            frames = np.array(fresh, np.uint64)
            flags, _ = read_frame_words(self.access.memory.procfs, "kpageflags", frames)
            are_zero = (flags & np.uint64(KPF_ZERO_PAGE) != 0).tolist()
            self._zero_frames |= dict(zip(fresh, are_zero, strict=True))
        known = np.array([self._zero_frames[pfn] for pfn in unique.tolist()], np.bool_)
        result: Bools = known[which]
        return result

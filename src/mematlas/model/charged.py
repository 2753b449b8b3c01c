"""The memory cgroups that frames are charged to: /proc/kpagecgroup has the inode of each one's directory.

Format: Documentation/admin-guide/mm/pagemap.rst. For a group that was removed stands the nearest one above it that was
not (mm/memcontrol.c, page_cgroup_ino()).
"""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.kernel.kpage import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_ZERO_PAGE, FrameWords
from mematlas.kernel.pagemap import ENTRY_SIZE
from mematlas.model.census.kinds import NR_KINDS
from mematlas.model.frames import OWNER_BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from mematlas.kernel.procfs import ProcFS

PIECE = 1 << 16
"""Frames looked up together."""


class FrameCharges:
    """Finds out whom frames are charged to. Holds the files open.

    >>> with FrameCharges(ProcFS()) as charges:   # doctest: +SKIP
    ...     charges.count(keys)
    {(0, 4211): 1009, (1, 1): 3}
    """

    def __init__(self, procfs: ProcFS) -> None:
        self.nr_huge = procfs.page_size // ENTRY_SIZE
        """Frames of a huge page: no folio of memory that is charged so is larger, and each is aligned to its size."""
        self._charges = FrameWords(procfs, "kpagecgroup")
        try:
            self._flags = FrameWords(procfs, "kpageflags")
        except BaseException:
            self._charges.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._charges.close()
        self._flags.close()

    def count(self, keys: Words) -> dict[tuple[int, int], int]:
        """Return how many distinct frames each owner has that are charged to each inode, 0 for none.

        ``keys`` are those of `mematlas.model.frames.FrameKeys`, in order.
        """
        counts: dict[tuple[int, int], int] = {}
        frames = keys >> np.uint64(OWNER_BITS)
        keys = keys[np.flatnonzero(np.diff(frames, prepend=~frames[:1]))]
        for low in range(0, len(keys), PIECE):
            part = keys[low : low + PIECE]
            inodes, is_memory = self.inodes(part >> np.uint64(OWNER_BITS))
            owners = part & np.uint64((1 << OWNER_BITS) - 1)
            pairs = np.stack((owners[is_memory], inodes[is_memory]))
            different, numbers = np.unique(pairs, axis=1, return_counts=True)
            for owner, inode, number in zip(*different.tolist(), numbers.tolist(), strict=True):
                counts[owner, inode] = counts.get((owner, inode), 0) + number
        return counts

    def count_kinds(self, lots: Iterable[tuple[Words, Bytes]]) -> dict[int, NDArray[np.int64]]:
        """Return how many frames are charged to each inode, 0 for none, by kind, given lots of frames and their kinds,
        each in order.
        """
        counts: dict[int, NDArray[np.int64]] = {}
        for frames, kinds in lots:
            inodes, _ = self.inodes(frames)
            # Neighbours are mostly charged to the same: to sort them all would take longer than to read.
            starts = np.flatnonzero(np.diff(inodes, prepend=~inodes[:1]))
            different, which = np.unique(inodes[starts], return_inverse=True)
            keys = np.repeat(which, np.diff(np.append(starts, len(inodes)))) * NR_KINDS + kinds
            table = np.bincount(keys, minlength=len(different) * NR_KINDS).reshape(-1, NR_KINDS)
            for inode, numbers in zip(different.tolist(), table, strict=True):
                counts[inode] = counts.get(inode, 0) + numbers
        return counts

    def inodes(self, frames: Words) -> tuple[Words, Bools]:
        """Return whom each of some frames, in order, is charged to, and which are no zero page, which is nobody's."""
        inodes, _ = self._charges.array(frames)
        is_memory = np.ones(len(frames), np.bool_)
        unknown = np.flatnonzero(inodes == 0)
        if len(unknown):
            flags, _ = self._flags.array(frames[unknown])
            is_memory[unknown[flags & np.uint64(KPF_ZERO_PAGE) != 0]] = False
            # Before commit ec342603e6d7 (v6.4) the word of a tail is 0: its folio is charged by the head.
            tails = unknown[flags & np.uint64(KPF_COMPOUND_TAIL) != 0]
            if len(tails):
                heads, which = np.unique(self._heads(frames[tails]), return_inverse=True)
                inodes[tails] = self._charges.array(heads)[0][which]
        return inodes, is_memory

    def _heads(self, tails: Words) -> Words:
        """Return the first frame of the folio of each of some tails, in order."""
        size = np.uint64(self.nr_huge)
        blocks, which = np.unique(tails // size, return_inverse=True)
        heads = np.empty(len(tails), np.uint64)
        inside = np.arange(self.nr_huge, dtype=np.uint64)
        for number, block in enumerate(blocks.tolist()):
            flags, _ = self._flags.array(inside + np.uint64(block) * size)
            begins = np.where(flags & np.uint64(KPF_COMPOUND_HEAD), inside, np.uint64(0))
            first: NDArray[np.intp] = np.maximum.accumulate(begins).astype(np.intp)
            mine = which == number
            heads[mine] = np.uint64(block) * size + first[(tails[mine] % size).astype(np.intp)].astype(np.uint64)
        return heads

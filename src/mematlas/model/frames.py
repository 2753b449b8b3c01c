"""The frames that a process maps, each once: how often it maps them itself, and whether anybody else does.

An entry says which frame, kpagecount how often that is mapped in the whole machine. A frame belongs to a process alone
when the two numbers are equal: a bit of the entry is not enough, since it says only that the frame is mapped once. KSM
merges pages of one process, and ZGC maps its heap three times.

Memory: 8 bytes for each page that is present, twice that for a moment, and no more than a few MiB besides.
"""

from __future__ import annotations

from mematlas.arrays import Bools, NDArray, Words, np
from mematlas.errors import FormatError, PermissionDenied
from mematlas.kernel.kpage import (
    KPF_ANON_EXCLUSIVE,
    KPF_COMPOUND,
    KPF_COMPOUND_HEAD,
    KPF_DIRTY,
    KPF_SWAPCACHE,
    KPF_WRITEBACK,
    KPF_ZERO_PAGE,
    open_flags_and_counts,
)
from mematlas.kernel.pagemap import ENTRY_SIZE, FILE, PM_PFRAME, PRESENT, ZERO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.pagemap import Entries
    from mematlas.kernel.procfs import ProcFS

OWNER_BITS = 24
"""Of a key; the rest is the frame: up to 4 PiB of memory in pages of 4 KiB."""
MOST_FRAMES = 1 << 64 - OWNER_BITS
ANON = 0
"""The owner of anonymous frames, in whatever VMA they are: such frames may be of large folios. Others are the caller's
numbers, from 1 up."""

PIECE = 1 << 16
"""Frames looked up together."""
BLOCKS = 128
"""Blocks of the size of a huge page looked at together."""

IS_FRAME = bytes(byte & ZERO == PRESENT for byte in range(256))
"""Which pages have a frame of their own: present, and not the zero page."""
IS_FILE = bytes(bool(byte & FILE) for byte in range(256))


def keys_of(block: Entries, owner: int, anon: int = ANON) -> Words:
    """Return a key for each present page of a block: its frame, and whom that belongs to, as one word.

    Raises:
        PermissionDenied: frame numbers are hidden from us.
    """
    wanted = np.frombuffer(block.states.translate(IS_FRAME), np.bool_)
    frames = (np.frombuffer(block.raw, np.uint64) & np.uint64(PM_PFRAME))[wanted]
    if not len(frames):
        return frames
    if not frames.min():
        raise PermissionDenied("frame numbers of pagemap", "CAP_SYS_ADMIN")
    if frames.max() >= MOST_FRAMES:
        raise FormatError("pagemap", f"frame {int(frames.max()):#x}")
    of_file = np.frombuffer(block.states.translate(IS_FILE), np.bool_)[wanted]
    owners = np.where(of_file, np.uint64(owner), np.uint64(anon))
    keys: Words = frames << np.uint64(OWNER_BITS) | owners
    return keys


class FrameKeys:
    """Collects, for each present page, its frame and whom it belongs to, as one word."""

    def __init__(self) -> None:
        self._parts: list[Words] = []

    def add(self, block: Entries, owner: int, anon: int = ANON) -> None:
        """Take in the present pages of a block. Those of a file belong to ``owner``, anonymous ones to ``anon``.

        Raises:
            PermissionDenied: frame numbers are hidden from us.
        """
        keys = keys_of(block, owner, anon)
        if len(keys):
            self._parts.append(keys)

    def take(self) -> Words:
        """Return all keys in the order of frames, and forget them."""
        keys = np.empty(sum(map(len, self._parts)), np.uint64)
        index = 0
        while self._parts:
            part = self._parts.pop()
            keys[index : index + len(part)] = part
            index += len(part)
        keys.sort()
        return keys


class FrameSums:
    """Numbers of distinct frames, by owner."""

    def __init__(self, nr_owners: int) -> None:
        self.mapped = [0] * nr_owners
        """Mapped by the process at all."""
        self.alone = [0] * nr_owners
        """Of these, mapped by it alone."""
        self.dirty = [0] * nr_owners
        """Of those that it maps alone, the ones that are to be written to a disk."""
        self.nr_unmapped = 0
        """Anonymous frames that nobody maps, of large folios that are the process's alone: they go with the rest."""
        self.nr_bound = 0
        """Anonymous frames that it maps alone, of large folios of which others map other parts."""
        self.nr_slots_unsure = 0
        """Anonymous frames that it maps alone, whose swap slot another process may have too."""


class FrameCounter:
    """Sums up frames by what kpagecount and kpageflags say of them. Holds both open.

    >>> with FrameCounter(ProcFS(), 2) as counter:  # doctest: +SKIP
    ...     counter.count(keys.take()).alone[ANON]
    4099
    """

    def __init__(self, procfs: ProcFS, nr_owners: int) -> None:
        self.sums = FrameSums(nr_owners)
        self.nr_huge = procfs.page_size // ENTRY_SIZE
        """Frames of a huge page: no folio of anonymous memory is larger, and each is aligned to its size."""
        self._flags, self._counts = open_flags_and_counts(procfs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of both files."""
        self._counts.close()
        self._flags.close()

    def count(self, keys: Words) -> FrameSums:
        """Return the sums of keys, which are in order."""
        low = 0
        while low < len(keys):
            # A piece ends where a block does, so that each folio lies in one.
            last = int(keys[min(low + PIECE, len(keys)) - 1]) >> OWNER_BITS
            end = (last // self.nr_huge + 1) * self.nr_huge << OWNER_BITS
            high = int(np.searchsorted(keys, np.uint64(end))) if end >> 64 == 0 else len(keys)
            self._add(keys[low:high])
            low = high
        return self.sums

    def _add(self, keys: Words) -> None:
        frames = keys >> np.uint64(OWNER_BITS)
        first = np.flatnonzero(np.diff(frames, prepend=frames[0] + np.uint64(1)))
        times = np.diff(first, append=len(frames)).astype(np.uint64)
        owners = (keys[first] & np.uint64((1 << OWNER_BITS) - 1)).astype(np.intp)
        frames = frames[first]
        (counts, _), (flags, _) = self._counts.array(frames), self._flags.array(frames)
        # What nobody maps is no part of RSS: the zero page, and what the kernel put there for its own use.
        known = (counts > 0) & (flags & np.uint64(KPF_ZERO_PAGE) == 0)
        alone = known & (counts <= times)
        dirty = flags & np.uint64(KPF_DIRTY | KPF_WRITEBACK) != 0
        self._sum(self.sums.mapped, owners, known)
        self._sum(self.sums.alone, owners, alone)
        self._sum(self.sums.dirty, owners, alone & dirty)
        anon = owners == ANON
        in_folio = known & anon & (flags & np.uint64(KPF_COMPOUND) != 0)
        slot_flags = flags & np.uint64(KPF_SWAPCACHE | KPF_ANON_EXCLUSIVE)
        in_swap_too = slot_flags == np.uint64(KPF_SWAPCACHE)
        self.sums.nr_slots_unsure += int(np.count_nonzero(alone & anon & ~in_folio & in_swap_too))
        if in_folio.any():
            self._add_folios(frames[in_folio], times[in_folio])

    @staticmethod
    def _sum(sums: list[int], owners: NDArray[np.intp], picked: Bools) -> None:
        sums[:] = (np.bincount(owners[picked], minlength=len(sums)) + sums).tolist()

    def _add_folios(self, frames: Words, times: Words) -> None:
        """Look at large folios as a whole: the kernel frees all of one or nothing, until it splits it."""
        size = np.uint64(self.nr_huge)
        blocks = np.unique(frames // size)
        inside = np.arange(self.nr_huge, dtype=np.uint64)
        for low in range(0, len(blocks), BLOCKS):
            part = blocks[low : low + BLOCKS]
            every: Words = np.add.outer(part * size, inside).ravel()
            first, last = np.searchsorted(frames, (every[0], every[-1] + np.uint64(1)))
            mine = np.zeros(len(every), np.uint64)
            mine[np.searchsorted(every, frames[first:last])] = times[first:last]
            self._add_blocks(every, mine)

    def _add_blocks(self, frames: Words, times: Words) -> None:
        """Count all frames of some blocks, given how often the process maps each: 0 for those that it does not."""
        (counts, _), (flags, _) = self._counts.array(frames), self._flags.array(frames)
        folios = folio_numbers(flags)
        mine = times > 0
        is_mine = any_of(mine, folios)[folios]
        is_others = any_of(counts > times, folios)[folios]
        cached = flags & np.uint64(KPF_SWAPCACHE) != 0
        in_swap_too = any_of(mine & cached, folios)[folios]
        self.sums.nr_unmapped += int(np.count_nonzero(is_mine & ~is_others & ~mine))
        alone = mine & (counts <= times)
        self.sums.nr_bound += int(np.count_nonzero(alone & is_others))
        self.sums.nr_slots_unsure += int(np.count_nonzero(alone & ~is_others & in_swap_too))


def folio_numbers(flags: Words) -> NDArray[np.intp]:
    """Return a number for each of consecutive frames, by their flags: the same for those of one folio.

    >>> folio_numbers(np.array([0, 1 << 15, 1 << 16, 1 << 16, 1 << 15, 1 << 16, 0], np.uint64)).tolist()
    [0, 1, 1, 1, 2, 2, 3]
    """
    in_folio = flags & np.uint64(KPF_COMPOUND) != 0
    # A capture has the words of mapped frames alone, so a head may be missing.
    goes_on = in_folio & (flags & np.uint64(KPF_COMPOUND_HEAD) == 0)
    goes_on[1:] &= in_folio[:-1]
    goes_on[:1] = False
    return np.cumsum(~goes_on) - 1


def any_of(picked: Bools, folios: NDArray[np.intp]) -> Bools:
    """Return, for each folio, whether any of its frames is picked."""
    return np.bincount(folios[picked], minlength=int(folios[-1]) + 1) > 0

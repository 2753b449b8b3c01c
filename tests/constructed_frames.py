"""An array of struct pages made by hand, laid out as Linux 6.18 does, with what is true of each frame beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mematlas.arrays import Bools, Bytes, Words
from mematlas.kernel.memory.btf import StructLayout
from mematlas.kernel.memory.framearray import FrameArray
from mematlas.kernel.memory.iomem import RamRanges
from mematlas.kernel.memory.structpage import StructPages
from mematlas.model.census.kinds import START, STATE_SHIFT, Kind

PAGE, SIZE = 4096, 64
BASE = 0xFFFFEA0000000000
NR_FRAMES = 1 << 14
RAM = [(1, 0x9F), (0x100, 0x3FD0)]
"""Frames; beside them lies no RAM."""
BITS = {
    "PG_writeback": 1,
    "PG_uptodate": 3,
    "PG_dirty": 4,
    "PG_lru": 5,
    "PG_head": 6,
    "PG_swapcache": 10,
    "PG_reserved": 13,
    "PG_swapbacked": 17,
}
TYPES = {
    "PGTY_buddy": 240,
    "PGTY_offline": 241,
    "PGTY_table": 242,
    "PGTY_guard": 243,
    "PGTY_hugetlb": 244,
    "PGTY_slab": 245,
    "PGTY_zsmalloc": 246,
    "PGTY_unaccepted": 247,
    "PGTY_large_kmalloc": 248,
}
MEMBERS = {
    "page": 64,
    "page.flags": 0,
    "page.compound_head": 8,
    "page.mapping": 24,
    "page.private": 40,
    "page.page_type": 48,
    "page._mapcount": 48,
    "page._refcount": 52,
    "page.memcg_data": 56,
    "folio": 256,
    "folio.mapping": 24,
    "folio._flags_1": 64,
    "folio._nr_pages_mapped": 84,
    "folio._entire_mapcount": 88,
}
LAYOUT = (
    MEMBERS
    | {f"pageflags.{name}": bit for name, bit in BITS.items()}
    | {f"pagetype.{name}": value for name, value in TYPES.items()}
)
INODE = 0xFFFF888012345678
ANON_VMA = 0xFFFF888012340001


class Reader:
    batch_size = 64


class ConstructedFrames:
    """What a `FrameArray` asks of kernel memory. Frames are per-CPU free ones until something is put there."""

    def __init__(self) -> None:
        self.layout = StructLayout(dict(LAYOUT))
        self.ram = RamRanges([(first * PAGE, end * PAGE) for first, end in RAM])
        self.reader = Reader()
        self.words = np.zeros((NR_FRAMES, SIZE // 8), np.uint64)
        self.numbers = self.words.view(np.int32)
        self.numbers[:, 12] = -1
        self.truth = np.full(NR_FRAMES, Kind.CPU_FREE | START, np.uint8)
        self.nr_pages_read = 0

    def array(self, online: list[tuple[int, int]] | None = None) -> FrameArray:
        """Return the array, as it is now."""
        return FrameArray(StructPages(self, BASE), online or [])  # type: ignore[arg-type]

    def expected(self) -> Bytes:
        """Return what is true of the frames of RAM, in order."""
        return np.concatenate([self.truth[first:end] for first, end in RAM])

    # What lies there

    def put(self, first: int, kind: Kind, order: int = 0, counts: tuple[int, ...] = (), entire: int = 0) -> None:
        """Put a folio somewhere, whose first pages are mapped so many times by themselves, and all of them as one."""
        flags, mapping, code = self._of_kind(kind)
        end = first + (1 << order)
        self.words[first:end] = 0
        self.numbers[first:end, 12] = -1
        self.words[first, 0], self.words[first, 3] = flags, mapping
        self.numbers[first, 13] = 1
        for place, count in enumerate(counts):
            self.numbers[first + place, 12] = count - 1
        if code is not None:
            self.numbers[first, 12] = np.uint32(code << 24).astype(np.int32)
        states = np.zeros(1 << order, np.int64)
        states[: len(counts)] = counts
        if order:
            self.words[first, 0] |= np.uint64(1 << BITS["PG_head"])
            self.words[first + 1 : end, 1] = BASE + first * SIZE + 1
            self.words[first + 1 : end, 3] = 0xDEAD000000000400
            self.words[first + 1, 0] = order
            self.numbers[first + 1, 5] = np.count_nonzero(counts)
            self.numbers[first + 1, 6] = entire - 1
            states += entire
        self._note(first, end, kind, np.minimum(states, 2))

    def put_free(self, first: int, order: int) -> None:
        """Put a free block somewhere; what was in its frames is left there, as the kernel does."""
        self.numbers[first, 12] = np.uint32(TYPES["PGTY_buddy"] << 24).astype(np.int32)
        self.numbers[first : first + (1 << order), 13] = 0
        self.words[first, 5] = order
        self._note(first, first + (1 << order), Kind.FREE, np.zeros(1 << order, np.int64))

    def put_unaccepted(self, first: int) -> None:
        """Put a block somewhere that the hypervisor is still to give: only its first frame says so."""
        self.numbers[first, 12] = np.uint32(TYPES["PGTY_unaccepted"] << 24).astype(np.int32)
        self.numbers[first : first + 1024, 13] = 0
        self._note(first, first + 1024, Kind.UNACCEPTED, np.zeros(1024, np.int64))

    def put_untouched(self, first: int, nr: int) -> None:
        """Put frames somewhere whose struct pages were never filled in."""
        self.words[first : first + nr] = 0
        self._note(first, first + nr, Kind.UNTOUCHED, np.zeros(nr, np.int64))
        self.truth[first : first + nr] |= START

    def share_pages(self, first: int, order: int) -> None:
        """Have all pages of the array that are about a folio be the first of them, as HVO does."""
        rows = self.words[first : first + 64].copy()
        for low in range(first, first + (1 << order), 64):
            self.words[low : low + 64] = rows

    def _note(self, first: int, end: int, kind: Kind, states: np.ndarray) -> None:
        self.truth[first:end] = kind | states.astype(np.uint8) << STATE_SHIFT
        self.truth[first] |= START

    def _of_kind(self, kind: Kind) -> tuple[int, int, int | None]:
        flags = {
            Kind.FILE_DIRTY: 1 << BITS["PG_dirty"],
            Kind.FILE_WRITEBACK: 1 << BITS["PG_writeback"] | 1 << BITS["PG_dirty"],
            Kind.SHMEM: 1 << BITS["PG_swapbacked"],
            Kind.ANON: 1 << BITS["PG_swapbacked"],
            Kind.SWAPCACHE: 1 << BITS["PG_swapbacked"] | 1 << BITS["PG_swapcache"],
            Kind.ORPHAN: 1 << BITS["PG_uptodate"],
            Kind.RESERVED: 1 << BITS["PG_reserved"],
        }.get(kind, 0)
        of_files = (Kind.FILE, Kind.FILE_DIRTY, Kind.FILE_WRITEBACK, Kind.SHMEM, Kind.HUGETLB)
        mapping = {Kind.ANON: ANON_VMA, Kind.KSM: ANON_VMA | 2, Kind.MOVABLE: ANON_VMA & ~3 | 2}
        code = TYPES.get(f"PGTY_{kind.name.lower()}")
        return flags, INODE if kind in of_files else mapping.get(kind, 0), code

    # What is asked

    def open_frame_array(self, base: int, size: int) -> None:
        assert (base, size) == (BASE, SIZE)

    def frame_pages(self, addresses: Words, size: int = PAGE) -> Iterator[tuple[slice, Words, Bools]]:
        flat = self.words.reshape(-1)
        for start in range(0, len(addresses), self.reader.batch_size):
            some = addresses[start : start + self.reader.batch_size]
            good = (some >= BASE) & (some + np.uint64(size) <= BASE + NR_FRAMES * SIZE)
            places = np.where(good, some - np.uint64(BASE), np.uint64(0)).astype(np.intp) // 8
            self.nr_pages_read += len(some) if size == PAGE else 0
            yield slice(start, start + len(some)), flat[places[:, None] + np.arange(size // 8)], good

    def frame_words(self, addresses: Words) -> tuple[Words, Bools]:
        places = ((addresses - np.uint64(BASE)) // np.uint64(8)).astype(np.intp)
        return self.words.reshape(-1)[places], np.ones(len(addresses), np.bool_)


def machine() -> ConstructedFrames:
    """Return a machine with something of everything."""
    made = ConstructedFrames()
    made.put(0x100, Kind.RESERVED)
    kinds = [kind for kind in Kind if kind <= Kind.RESERVED and kind not in (Kind.FREE, Kind.CPU_FREE, Kind.ZERO)]
    for place, kind in enumerate(kinds):
        made.put(0x110 + place, kind)
    made.put(0x130, Kind.ORPHAN)
    for count in range(4):
        made.put(0x140 + count, Kind.ANON, counts=(count,))
    made.put(0x180, Kind.FILE, order=4, counts=(1, 0, 2))
    made.put(0x200, Kind.ANON, order=9, entire=1)
    made.put(0x400, Kind.ANON, order=9, counts=(1, 1, 2), entire=1)
    made.put(0x600, Kind.SHMEM, order=7)
    made.put(0x680, Kind.SLAB, order=3)
    made.put(0x800, Kind.HUGETLB, order=9, entire=2)
    made.put_free(0x0C00, 10)
    made.put_free(0x1000, 10)
    made.put(0x1400, Kind.FILE, order=6)
    made.put_free(0x1400, 6)  # what it was is still there
    made.put_free(0x1440, 3)
    made.put(0x2000, Kind.HUGETLB, order=12, entire=1)
    made.put_unaccepted(0x3000)
    made.put_untouched(0x3800, 0x200)
    return made

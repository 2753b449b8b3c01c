"""The pages of a VMA from page tables: what `mematlas.model.pages.PageReader` gives, without any lock on the target.

The entries are put into the form of pagemap, with our state bytes, so that everything above works on both. What an
entry does not say is asked of the frame's struct page: how often it is mapped (the exclusive bit), and whether it
belongs to a file (the file bit). Two things are here that pagemap does not have: the accessed and the dirty bit.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.kmem import KernelMemory, open_kernel_memory
from mematlas.kernel.kpage import KPF_HUGE, KPF_ZERO_PAGE, FrameWords
from mematlas.kernel.maps import ANON_KINDS, Vma
from mematlas.kernel.pagemap import (
    ACCESSED,
    DIRTY,
    ENTRY_SIZE,
    EXCLUSIVE,
    FILE,
    GUARD,
    LAST_ADDRESS,
    MARK_A,
    PM_MMAP_EXCLUSIVE,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_SWAP_OFFSET_SHIFT,
    PM_UFFD_WP,
    PRESENT,
    SPECIAL,
    SWAP,
    UNKNOWN,
    ZERO,
    Block,
)
from mematlas.kernel.structpage import KernelFrames, StructPages, open_struct_pages
from mematlas.model import paging
from mematlas.model.pages import Hole
from mematlas.model.pagetable import Span, Walk, Words, huge_leaves, page_blocks, part_edges, walk
from mematlas.model.paging import PagingMode, address_of, holds, leaf_address, migration_frame, states, swap_fields
from mematlas.model.paging_modes import mode_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from mematlas.kernel.backing import Backing
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.structpage import Counts
    from mematlas.model.pagetable import PageBlock

Bytes = NDArray[np.uint8]

NR_TABLES = 128
"""Tables counted together: their entries stay in the cache."""
NR_FEW = 1 << 12
NR_CHECKED = 1 << 10
"""Frames of a process that are compared with kpagecount before its map counts are believed."""


class TableAccess:
    """What page tables are read with: kernel memory, its paging mode, and what tells about frames."""

    def __init__(self, memory: KernelMemory) -> None:
        self.memory = memory
        self.mode = mode_of(memory)
        self.note = ""
        """Why map counts come from kpagecount, when they do."""
        self._frames: StructPages | KernelFrames | None = None

    @property
    def name(self) -> str:
        """The reader's name."""
        return self.memory.name

    @property
    def frames(self) -> StructPages | KernelFrames:
        """What tells about frames: struct pages, proven against kpagecount, or kpagecount itself.

        Raises:
            PermissionDenied: not even kpagecount can be read.
        """
        if self._frames is None:
            try:
                self._frames = open_struct_pages(self.memory)
            except NotSupported as error:
                self._frames = KernelFrames(self.memory.procfs)
                self.note = f"map counts are read from kpagecount, frame by frame: {error}"
        return self._frames

    def close(self) -> None:
        """Let go of the reader."""
        self.memory.close()


def open_access(procfs: ProcFS, reader: str = "auto") -> TableAccess:
    """Return what page tables are read with. Raises what `open_kernel_memory` raises."""
    memory = open_kernel_memory(reader, procfs)
    try:
        return TableAccess(memory)
    except BaseException:
        memory.close()
        raise


class VmaCounts:
    """The pages of one VMA, counted."""

    def __init__(self) -> None:
        self.by_byte: dict[int, int] = {}
        """How many pages have which state byte."""
        self.sharers: dict[int, int] = {}
        """How many resident pages have which map count, where that is more than one."""
        self.thp = self.nr_accessed = self.nr_dirty = self.nr_unknown = 0

    def add(self, byte: int, nr_pages: int) -> None:
        """Count pages of one state."""
        if nr_pages:
            self.by_byte[byte] = self.by_byte.get(byte, 0) + nr_pages

    def add_sharers(self, counts: Counts, size: int = 1) -> None:
        """Count resident pages by how often they are mapped; each count stands for ``size`` of them."""
        self.nr_unknown += size * int(np.count_nonzero(counts < 0))
        few = np.bincount(counts[(counts > 1) & (counts < NR_FEW)])
        for count in np.flatnonzero(few).tolist():
            self.sharers[count] = self.sharers.get(count, 0) + size * int(few[count])
        for count in counts[counts >= NR_FEW].tolist():
            self.sharers[count] = self.sharers.get(count, 0) + size


class HugeLeaves:
    """The huge leaves of one part of a walk: of each the address, the size, and what its frames are."""

    def __init__(self, access: TableAccess, part: Walk) -> None:
        columns: list[tuple[Words, Words, Words, Words]] = []
        mode = access.mode
        for level in range(len(part.levels) - 1):
            if not mode.levels[level].can_map or not len(part.levels[level]):
                continue
            places, entries = huge_leaves(part, level)
            addresses = part.entry_addresses(level, places)
            inside = (addresses >= part.first) & (addresses <= part.last)
            addresses, entries = addresses[inside], entries[inside]
            sizes = np.full(len(entries), mode.levels[level].size, np.uint64)
            columns.append((addresses, sizes, entries, leaf_address(mode, level, entries)))
        empty = (np.zeros(0, np.uint64),) * 4
        joined = [np.concatenate(column) for column in zip(*(columns or [empty]), strict=True)]
        order = np.argsort(joined[0])
        self.addresses, self.sizes, self.entries, phys = (column[order] for column in joined)
        self.heads = phys >> np.uint64(mode.page_shift)
        flags = frame_flags(access.memory.procfs, self.heads)
        self.is_zero = flags & np.uint64(KPF_ZERO_PAGE) != 0
        self.is_hugetlb = flags & np.uint64(KPF_HUGE) != 0

        self.others = list(_upper_others(mode, part))
        """What stands in the place of a huge leaf, migration entries and markers: address, state, pages."""

    def between(self, first: int, last: int) -> NDArray[np.intp]:
        """Return the places of the leaves that reach into a range."""
        low = int(np.searchsorted(self.addresses, np.uint64(first)))
        if low and int(self.addresses[low - 1]) + int(self.sizes[low - 1]) > first:
            low -= 1
        return np.arange(low, int(np.searchsorted(self.addresses, np.uint64(last), side="right")))


def _upper_others(mode: PagingMode, part: Walk) -> Iterator[tuple[int, Bytes, int]]:
    for level in part.levels[:-1]:
        description = mode.levels[level.level]
        if not description.can_map or not len(level):
            continue
        flat = level.entries.reshape(-1)
        # Tables and present entries, which are nearly all, have the present bit.
        places = np.flatnonzero((flat != 0) & (flat & np.uint64(mode.present[0][0]) == 0))
        codes = states(mode, level.level, flat[places])
        addresses = part.entry_addresses(level.level, places).tolist()
        for row, address in enumerate(addresses):
            yield address, codes[row : row + 1], description.size >> mode.page_shift


def frame_flags(procfs: ProcFS, pfns: Words) -> Words:
    """Return /proc/kpageflags of a few frames; 0 for one that it does not tell about."""
    if not len(pfns):
        return np.zeros(0, np.uint64)
    with FrameWords(procfs, "kpageflags") as file:
        words = file.get(pfns.tolist())
    return np.array([words.get(pfn, 0) for pfn in pfns.tolist()], np.uint64)


class TableReader:
    """Reads the pages of one process from its page tables. Has the methods of `PageReader`.

    Leaving it without an error raises `ProcessGone` when the process ended, or started another program, meanwhile:
    its tables were empty then.

    >>> with TableReader(process.dir, access) as reader:  # doctest: +SKIP
    ...     reader.count(vma).nr_dirty
    318
    """

    zero_known = True

    def __init__(self, process: ProcessDir, access: TableAccess, start: int = 0, end: int | None = None) -> None:
        self.process = process
        self.access = access
        self.frames = access.frames
        self.mode = access.mode
        self.page_size = process.procfs.page_size
        self.unknown_backing: set[str] = set()
        self.torn: list[Span] = []
        """Ranges that changed each time they were read: nothing is known of them."""
        self.nr_device = 0
        """Pages of devices met, which pagemap does not show either."""
        self._backings: dict[int, Backing | None] = {}
        self._zero_frames: dict[int, bool] = {}
        self._nr_to_check = NR_CHECKED
        self.mm = access.memory.open_mm(process.pid, process)
        try:
            end = self.mode.user_end if end is None else min(end, self.mode.user_end)
            self._edges = part_edges(access.memory, self.mode, self.mm.pgd, min(start, end - 1), end)
        except BaseException:
            self.mm.close()
            raise
        self._kept: tuple[int, Walk, HugeLeaves] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        alive = kind is not None or self.access.memory.is_current(self.mm)
        self.close()
        if not alive:
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def close(self) -> None:
        """Let go of the address space."""
        self.mm.close()

    def notes(self) -> list[str]:
        """Return what is to be said about what was read."""
        notes = [self.access.note] if self.access.note else []
        if self.nr_device:
            notes.append(f"{self.nr_device} pages of devices are shown as absent, as pagemap has them")
        if self.torn:
            notes.append(f"torn: {len(self.torn)} ranges changed each time they were read, and are left out")
        return notes

    # As arrays of pages

    def blocks(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block]:
        """Yield the blocks of a VMA, or of a part of it, that hold something; see `hole` for the rest."""
        start = vma.start if start is None else max(start, vma.start)
        end = min(vma.end if end is None else min(end, vma.end), LAST_ADDRESS)
        if start >= end or vma.kind == "vvar":
            return
        backing = self._backing(vma)
        place = start
        for part, huge in self._parts(start, end):
            for pages in page_blocks(part, start, end):
                yield from self._backed(vma, backing, place, pages.start)
                block = self._block(vma, pages, huge, backing)
                if block.kinds != {0: len(block)}:
                    yield block
                place = pages.start + len(pages) * self.page_size
        yield from self._backed(vma, backing, place, end)

    def pieces(self, vma: Vma, start: int, end: int) -> Iterator[Block | Hole]:
        """Yield every page of a part of a VMA, in order: blocks, and the holes between them."""
        place = start
        for block in self.blocks(vma, start, end):
            if place < block.address:
                yield Hole(place, (block.address - place) // self.page_size, self.hole(vma))
            yield block
            place = block.address + len(block) * self.page_size
        if place < end:
            yield Hole(place, (end - place) // self.page_size, self.hole(vma))

    def hole(self, vma: Vma) -> int:
        """Return the state byte of the pages that no block of this VMA showed. Ask after reading the blocks."""
        if vma.start >= LAST_ADDRESS or vma.kind in ("vvar", "special"):
            return UNKNOWN  # shown as pagemap shows them; `mematlas tables` has their entries
        return UNKNOWN if vma.kind == "shmem" and self._backing(vma) is None else 0

    def block_at(self, vma: Vma, address: int) -> Block | None:
        """Return the block of the one page at an address; None when it is empty."""
        page = address - address % self.page_size
        return next(self.blocks(vma, page, page + self.page_size), None)

    def _backed(self, vma: Vma, backing: Backing | None, start: int, end: int) -> Iterator[Block]:
        # Where there is no table, the file behind shared memory may still have something in swap, or in RAM.
        if backing is None:
            return
        limit = NR_TABLES * self.page_size * 64
        for low, high, _ in backing.ranges:
            low, high = max(low, start), min(high, end)
            for at in range(low, high, limit):
                nr_pages = (min(high, at + limit) - at) // self.page_size
                marked = backing.mark(at, bytes(nr_pages), self.page_size)
                yield Block(at, memoryview(bytearray(nr_pages * ENTRY_SIZE)), marked, bytes(nr_pages))

    def _block(self, vma: Vma, pages: PageBlock, huge: HugeLeaves, backing: Backing | None) -> Block:
        mode = self.mode
        entries = pages.entries
        present = (pages.states == paging.PRESENT) | (pages.states == paging.PROT_NONE)
        special = present & np.asarray(holds(entries, mode.special), np.bool_)
        zero = self._zero_places(pages, special)
        self._add_huge_zero(pages, huge, zero)
        self.nr_device += int(np.count_nonzero(special & ~zero))
        counted = present & ~special & ~zero
        shown = counted | zero
        raw = np.where(shown, pages.pfns | np.uint64(PM_PRESENT), np.uint64(0))
        use = np.zeros(len(pages), np.uint8)
        use[shown & np.asarray(holds(entries, mode.accessed), np.bool_)] |= ACCESSED
        use[shown & np.asarray(holds(entries, mode.dirty), np.bool_)] |= DIRTY
        self._add_swap(pages, present, raw)
        bits = np.zeros(len(pages), np.uint8)
        bits[zero] = MARK_A
        bits[~present & (raw != 0) & (pages.states != paging.SWAP)] = MARK_A
        bits[pages.states == paging.GUARD] |= GUARD
        names = {flag.name: flag.mask for flag in mode.flags if flag.name in ("soft-dirty", "uffd-wp")}
        for name, bit in (("soft-dirty", PM_SOFT_DIRTY), ("uffd-wp", PM_UFFD_WP)):
            raw[shown & (entries & np.uint64(names.get(name, 0)) != 0)] |= np.uint64(bit)
        if counted.any():
            places = np.flatnonzero(counted)
            pfns = pages.pfns[places]
            counts = self._map_counts(pfns)
            raw[places[counts == 1]] |= np.uint64(PM_MMAP_EXCLUSIVE)
            raw[places[~self._are_anonymous(vma, pfns)]] |= np.uint64(FILE << 56)
        held = (raw >> np.uint64(56)).astype(np.uint8) | bits
        marked = held.tobytes()
        if backing and vma.kind == "shmem":
            marked = backing.mark(pages.start, marked, self.page_size)
        elif vma.kind == "shmem":
            marked = marked.replace(b"\0", bytes((UNKNOWN,)))
        return Block(pages.start, raw.data.cast("B"), marked, use.tobytes())

    def _add_swap(self, pages: PageBlock, present: NDArray[np.bool_], raw: Words) -> None:
        """Put what is in the place of a page, swap slots and markers, as pagemap has it."""
        others = np.flatnonzero(~present & (pages.states != paging.EMPTY) & (pages.states != paging.TABLE))
        if not others.size:
            return
        codes = pages.states[others]
        kinds, offsets = swap_fields(self.mode, pages.entries[others])
        frames_only = (codes == paging.MIGRATION) | (codes == paging.HWPOISON) | (codes == paging.DEVICE)
        offsets = np.where(frames_only, migration_frame(self.mode, offsets), offsets)
        words = kinds | (offsets << np.uint64(PM_SWAP_OFFSET_SHIFT)) & np.uint64((1 << 55) - 1) | np.uint64(PM_SWAP)
        words[codes == paging.GUARD] |= np.uint64(GUARD << 56)
        raw[others] = words

    def _zero_places(self, pages: PageBlock, special: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which special entries map the zero page."""
        zero = special.copy()
        if special.any():
            zero[special] = self._are_zero(pages.pfns[special])
        return zero

    def _are_zero(self, pfns: Words) -> NDArray[np.bool_]:
        """Return which of the frames of special entries are the zero page's."""
        unique, which = np.unique(pfns, return_inverse=True)
        fresh = [pfn for pfn in unique.tolist() if pfn not in self._zero_frames]
        if fresh:
            flags = frame_flags(self.access.memory.procfs, np.array(fresh, np.uint64))
            self._zero_frames |= dict(zip(fresh, (flags & np.uint64(KPF_ZERO_PAGE) != 0).tolist(), strict=True))
        known = np.array([self._zero_frames[pfn] for pfn in unique.tolist()], np.bool_)
        result: NDArray[np.bool_] = known[which]
        return result

    def _add_huge_zero(self, pages: PageBlock, huge: HugeLeaves, zero: NDArray[np.bool_]) -> None:
        end = pages.start + len(pages) * self.page_size
        for place in huge.between(pages.start, end - 1).tolist():
            if huge.is_zero[place]:
                low = max(int(huge.addresses[place]) - pages.start, 0) // self.page_size
                high = (int(huge.addresses[place]) + int(huge.sizes[place]) - pages.start) // self.page_size
                zero[low:high] = True

    # As sums

    def count(self, vma: Vma) -> VmaCounts:
        """Return the pages of a VMA, counted."""
        sums = VmaCounts()
        if vma.kind == "vvar" or vma.start >= LAST_ADDRESS:
            return sums
        if vma.kind == "shmem":
            # Of its pages that have no entry the file is asked, page by page.
            self._count_blocks(sums, vma)
            return sums
        for part, huge in self._parts(vma.start, vma.end):
            first, last = max(vma.start, part.first), min(vma.end - 1, part.last)
            for entries in self._rows(part, first, last):
                self._count_small(sums, vma, entries)
            self._count_huge(sums, vma, huge, first, last)
            for address, code, nr_pages in huge.others:
                if first <= address <= last:
                    self._count_states(sums, code, nr_pages)
        return sums

    def _count_blocks(self, sums: VmaCounts, vma: Vma) -> None:
        for block in self.blocks(vma):
            raw = np.frombuffer(block.raw, np.uint64)
            use = np.frombuffer(block.use or b"", np.uint8)
            for byte, nr_pages in block.kinds.items():
                sums.add(byte, nr_pages)
            sums.nr_accessed += int(np.count_nonzero(use & ACCESSED))
            sums.nr_dirty += int(np.count_nonzero(use & DIRTY))
            held = np.frombuffer(block.states, np.uint8)
            resident = held & (PRESENT | MARK_A | EXCLUSIVE) == PRESENT
            if resident.any():
                sums.add_sharers(self.frames.map_counts(raw[resident] & np.uint64((1 << 55) - 1)))
            sums.thp += self.huge_size(block)

    def huge_size(self, block: Block) -> int:
        """Return how many bytes of a block are mapped by huge leaves, but for zero pages and hugetlb."""
        size = 0
        end = block.address + len(block) * self.page_size
        for _, huge in self._parts(block.address, end):
            for place in huge.between(block.address, end - 1).tolist():
                if not huge.is_zero[place] and not huge.is_hugetlb[place]:
                    low = max(int(huge.addresses[place]), block.address)
                    size += min(int(huge.addresses[place]) + int(huge.sizes[place]), end) - low
        return size

    def _rows(self, part: Walk, first: int, last: int) -> Iterator[Words]:
        """Yield the entries of the last level that lie in a range, some tables at a time."""
        level = part.levels[-1]
        shift, nr_entries = self.mode.page_shift, level.entries.shape[1]
        size = nr_entries << shift
        low = int(np.searchsorted(level.addresses, np.uint64(first - first % size)))
        high = int(np.searchsorted(level.addresses, np.uint64(last), side="right"))
        for start in range(low, high, NR_TABLES):
            stop = min(high, start + NR_TABLES)
            begin = max(first - int(level.addresses[start]), 0) >> shift
            left = max(int(level.addresses[stop - 1]) + size - 1 - last, 0) >> shift
            yield level.entries[start:stop].reshape(-1)[begin : (stop - start) * nr_entries - left]

    def _count_small(self, sums: VmaCounts, vma: Vma, entries: Words) -> None:
        mode = self.mode
        present, special = mode.present[0][0], mode.special[0][0]
        usual = (entries & np.uint64(present | special)) == np.uint64(present)
        nr_usual = int(np.count_nonzero(usual))
        depth = len(mode.levels) - 1
        chosen = entries
        if nr_usual < len(entries):
            chosen = entries[usual]
            rest = entries[~usual]
            rest = rest[rest != 0]
            if rest.size:
                self._count_others(sums, vma, depth, rest)
        if chosen.size:
            self._count_frames(sums, vma, address_of(mode, chosen) >> np.uint64(mode.page_shift), chosen)

    def _frames_of(self, depth: int, entries: Words) -> Words:
        return leaf_address(self.mode, depth, entries) >> np.uint64(self.mode.page_shift)

    def _count_others(self, sums: VmaCounts, vma: Vma, depth: int, rest: Words) -> None:
        """Count entries that are not plainly present."""
        codes = states(self.mode, depth, rest)
        special = np.asarray(holds(rest, self.mode.special), np.bool_)
        shown = (codes == paging.PRESENT) | (codes == paging.PROT_NONE)
        if (shown & special).any():
            entries = rest[shown & special]
            is_zero = self._are_zero(self._frames_of(depth, entries))
            sums.add(ZERO, int(np.count_nonzero(is_zero)))
            self._count_use(sums, entries[is_zero])
            self.nr_device += int(np.count_nonzero(~is_zero))
        self._count_states(sums, codes, 1)
        hidden = rest[(codes == paging.PROT_NONE) & ~special]
        if hidden.size:
            self._count_frames(sums, vma, self._frames_of(depth, hidden), hidden)

    def _count_states(self, sums: VmaCounts, codes: Bytes, size: int) -> None:
        for code, nr in enumerate(np.bincount(codes).tolist()):
            if code == paging.SWAP:
                sums.add(SWAP, nr * size)
            elif code == paging.GUARD:
                sums.add(SPECIAL | GUARD, nr * size)
            elif code not in (paging.EMPTY, paging.TABLE, paging.PRESENT, paging.PROT_NONE):
                sums.add(SPECIAL, nr * size)

    def _count_use(self, sums: VmaCounts, entries: Words, size: int = 1) -> None:
        sums.nr_accessed += size * int(np.count_nonzero(holds(entries, self.mode.accessed)))
        sums.nr_dirty += size * int(np.count_nonzero(holds(entries, self.mode.dirty)))

    def _count_frames(self, sums: VmaCounts, vma: Vma, pfns: Words, entries: Words) -> None:
        """Count resident pages by their frames."""
        self._count_use(sums, entries)
        counts = self._map_counts(pfns)
        # The kernel counts as private what is mapped less than twice.
        single = (counts == 1) | (counts == 0)
        nr_single = int(np.count_nonzero(single))
        anon = self._are_anonymous(vma, pfns)
        if anon.all() or not anon.any():
            file = 0 if anon[0] else FILE
            sums.add(PRESENT | EXCLUSIVE | file, nr_single)
            sums.add(PRESENT | file, len(pfns) - nr_single)
        else:
            for file, of_kind in ((0, anon), (FILE, ~anon)):
                nr = int(np.count_nonzero(of_kind & single))
                sums.add(PRESENT | EXCLUSIVE | file, nr)
                sums.add(PRESENT | file, int(np.count_nonzero(of_kind)) - nr)
        if nr_single < len(pfns):
            sums.add_sharers(counts)

    def _count_huge(self, sums: VmaCounts, vma: Vma, huge: HugeLeaves, first: int, last: int) -> None:
        shift = self.mode.page_shift
        places = huge.between(first, last)
        special = np.asarray(holds(huge.entries[places], self.mode.special), np.bool_) & ~huge.is_zero[places]
        self.nr_device += int(huge.sizes[places[special]].sum()) >> shift
        places = places[~special]
        # A range ends inside a leaf only where the process changed it after its VMAs were read.
        lows = np.maximum(huge.addresses[places], np.uint64(first))
        highs = np.minimum(huge.addresses[places] + huge.sizes[places], np.uint64(last + 1))
        lengths = (highs - lows) >> np.uint64(shift)
        begins = huge.heads[places] + ((lows - huge.addresses[places]) >> np.uint64(shift))
        is_zero = huge.is_zero[places]
        for place, nr_pages in zip(places[is_zero].tolist(), lengths[is_zero].tolist(), strict=True):
            sums.add(ZERO, nr_pages)
            self._count_use(sums, huge.entries[place : place + 1], nr_pages)
        sums.thp += int(lengths[~is_zero & ~huge.is_hugetlb[places]].sum()) << shift
        for length in np.unique(lengths[~is_zero]).tolist():
            alike = np.flatnonzero(~is_zero & (lengths == length))
            step = max(1, (NR_TABLES << 9) // length)
            for start in range(0, len(alike), step):
                few = alike[start : start + step]
                pfns = (begins[few, None] + np.arange(length, dtype=np.uint64)).reshape(-1)
                self._count_frames(sums, vma, pfns, np.repeat(huge.entries[places[few]], length))

    # What both need

    def _parts(self, start: int, end: int) -> Iterator[tuple[Walk, HugeLeaves]]:
        """Yield the parts of the walk that a range touches; the last one is kept, since ranges mostly follow on."""
        edges = self._edges
        number = max(bisect_right(edges, start) - 1, 0)
        while number < len(edges) - 1 and edges[number] < end:
            if self._kept is None or self._kept[0] != number:
                part = walk(self.access.memory, self.mode, self.mm.pgd, edges[number], edges[number + 1])
                self.torn += part.torn
                self._kept = (number, part, HugeLeaves(self.access, part))
            yield self._kept[1], self._kept[2]
            number += 1

    def _map_counts(self, pfns: Words) -> Counts:
        if self._nr_to_check > 0:
            self._nr_to_check -= self.frames.check(pfns)
        return self.frames.map_counts(pfns)

    def _are_anonymous(self, vma: Vma, pfns: Words) -> NDArray[np.bool_]:
        if vma.perms[3:] == "s":
            return np.zeros(len(pfns), np.bool_)
        if vma.kind in ANON_KINDS:
            return np.ones(len(pfns), np.bool_)
        # A private mapping of a file: pages that were written to are anonymous, the others are the file's.
        return self.frames.are_anonymous(pfns)

    def _backing(self, vma: Vma) -> Backing | None:
        if vma.kind != "shmem":
            return None
        if vma.start not in self._backings:
            from mematlas.kernel.backing import read_backing

            try:
                self._backings[vma.start] = read_backing(self.process, vma)
            except (PermissionDenied, NotSupported) as error:
                self._backings[vma.start] = None
                self.unknown_backing.add(str(error))
        return self._backings[vma.start]

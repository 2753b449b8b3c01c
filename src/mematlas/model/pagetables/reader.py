"""The pages of a VMA from page tables: what `mematlas.model.pages.PageReader` gives, without any lock on the target.

The entries are put into the form of pagemap, with our state bytes, so that everything above works on both. What an
entry does not say is asked of the frame's struct page: how often it is mapped (the exclusive bit), and whether it
belongs to a file (the file bit). Two things are here that pagemap does not have: the accessed and the dirty bit.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from itertools import pairwise

from mematlas.arrays import Bools, Bytes, Counts, NDArray, Words, np
from mematlas.errors import FormatError, NotSupported, ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.backing import Backings
from mematlas.kernel.maps import ANON_KINDS, Vma
from mematlas.kernel.memory.structpage import UNKNOWN_COUNT
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
    PM_PFRAME,
    PRESENT,
    SPECIAL,
    SWAP,
    UNKNOWN,
    ZERO,
    Block,
)
from mematlas.kernel.scattered import Scattered
from mematlas.model.hidden import HiddenVmas
from mematlas.model.pages import MAY_BE_SCATTERED, behind
from mematlas.model.pagetables import entries as paging
from mematlas.model.pagetables.access import PageTableAccess
from mematlas.model.pagetables.columns import block_of, ranges_of, scattered
from mematlas.model.pagetables.convert import NO_SWAP, EntryConverter
from mematlas.model.pagetables.entries import (
    address_of,
    any_bit,
    holds,
    leaf_address,
    maps_memory,
    states,
)
from mematlas.model.pagetables.huge import HugeLeaves
from mematlas.model.pagetables.vma_counts import NR_FEW, VmaCounts, left_out
from mematlas.model.pagetables.walk import Span, Walk, part_edges, walk
from mematlas.model.runs import joined, read_runs
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.kernel.backing import Backing
    from mematlas.kernel.procfs import ProcessDir


NR_TABLES = 128
"""Tables counted together: their entries stay in the cache."""
NR_SCATTERED_TABLES = 1 << 11
"""The same where frames lie all over memory, or tables have few."""
NR_DENSE = 24
"""Frames for each page of struct pages, which holds 64, below which they count as scattered."""
LEAST_SHARE = 16
"""Entries of tables for each one used from which on these are taken to lie apart."""
NR_BLOCK_PAGES = 1 << 13


class PageTableReader:
    """Reads the pages of one process from its page tables: a `PageSource`, as `PageReader` is.

    Leaving it without an error raises `ProcessGone` when the process ended, or started another program, meanwhile:
    its tables were empty then.

    >>> with PageTableReader(process.dir, access) as reader:  # doctest: +SKIP
    ...     reader.count(vma).nr_dirty
    318
    """

    name = "tables"
    zero_known = True

    def __init__(
        self,
        process: ProcessDir,
        access: PageTableAccess,
        start: int = 0,
        end: int | None = None,
        backings: Backings | None = None,
    ) -> None:
        self.process = process
        self.access = access
        self.frames = access.frames
        self.mode = access.mode
        self.page_size = process.procfs.page_size
        self.backings = backings or Backings(process)
        self.hidden = HiddenVmas(process)
        self.torn: list[Span] = []
        """Ranges that changed each time they were read: nothing is known of them."""
        self.converter = EntryConverter(access)
        self._nr_tables = NR_TABLES
        self._has_few = False
        """Whether the tables met last had few pages in each."""
        self._use_masks = [any_bit(test) for test in (self.mode.accessed, self.mode.dirty)]
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

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        # What could not be understood may have been tables that were just taken down.
        may_be_gone = kind is None or issubclass(kind, (NotSupported, FormatError))
        is_gone = may_be_gone and not self.access.memory.is_current(self.mm)
        self.close()
        if is_gone:
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def close(self) -> None:
        """Let go of the address space."""
        self.mm.close()

    def notes(self) -> list[Note]:
        """Return what is to be said about what was read."""
        notes = self.backings.notes()
        if self.access.note:
            notes.append(self.access.note)
        return notes + left_out(self.converter.nr_device, len(self.torn))

    # As arrays of pages

    def blocks(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block]:
        """Yield the blocks of a VMA, or of a part of it, that hold something; see `hole` for the rest."""
        start = vma.start if start is None else max(start, vma.start)
        end = min(vma.end if end is None else min(end, vma.end), LAST_ADDRESS)
        if start >= end or self.hidden.is_hidden(vma):
            return
        backing = self._backing(vma)
        reached = start
        for part, huge in self._parts(start, end):
            first, last = max(start, part.first), min(end - 1, part.last)
            parts = (
                self._small_blocks(vma, part, first, last),
                self._huge_blocks(vma, huge, first, last),
                self._other_blocks(vma, huge, first, last),
            )
            for block in merge(*parts, key=lambda block: block.address):
                yield from self._backed(backing, reached, block.address)
                if vma.kind == "shmem":
                    block.states = behind(vma, backing, block.address, block.states, self.page_size)
                yield block
                reached = block.address + len(block) * self.page_size
        yield from self._backed(backing, reached, end)

    def runs(self, vmas: Iterable[Vma]) -> Iterator[tuple[list[Vma], Block | None]]:
        """Yield VMAs that lie side by side with one block of all their pages; the others alone, with None."""
        return read_runs(vmas, self.page_size, NR_BLOCK_PAGES, self._block_of)

    def _block_of(self, run: list[Vma]) -> Block | None:
        """Return all pages of a run as one block; None where there are huge leaves, or a file that may not be asked."""
        if run[0].kind == "shmem" and self.backings.of_run(run) is None:
            return None
        whole = replace(run[0], end=run[-1].end)
        block = joined(self.blocks(whole), whole.start, whole.end, self.page_size)
        return None if self.huge_size(block) else block

    def counts_of(self, frames: list[int]) -> list[int]:
        """Return how often each of some frames is mapped; negative where that is not known."""
        return [*map(int, self.access.map_counts(np.array(frames, np.uint64)).tolist())]

    def lots(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block | Scattered]:
        """Yield what `blocks` yields, but where single pages lie far apart, many of them at a time."""
        start = vma.start if start is None else max(start, vma.start)
        end = min(vma.end if end is None else min(end, vma.end), LAST_ADDRESS)
        if vma.kind not in MAY_BE_SCATTERED:
            yield from self.blocks(vma, start, end)
            return
        for part, huge in self._parts(start, end):
            first, last = max(start, part.first), min(end - 1, part.last)
            has_leaf = next(huge.pieces(first, last, self.mode.page_shift), None) is not None
            if huge.others or has_leaf:
                yield from self.blocks(vma, first, last + 1)
            else:
                yield from self._small_lots(vma, part, first, last, may_be_scattered=True)

    def hole(self, vma: Vma) -> int:
        """Return the state byte of the pages that no block of this VMA showed. Ask after reading the blocks."""
        if self.hidden.is_hidden(vma):
            return UNKNOWN  # shown as pagemap shows them; `mematlas tables` has their entries
        return UNKNOWN if vma.kind == "shmem" and self._backing(vma) is None else 0

    def block_at(self, vma: Vma, address: int) -> Block | None:
        """Return the block of the one page at an address; None when it is empty."""
        page = address - address % self.page_size
        return next(self.blocks(vma, page, page + self.page_size), None)

    def _backed(self, backing: Backing | None, start: int, end: int) -> Iterator[Block]:
        # Where there is no table, the file behind shared memory may still have something in swap, or in RAM.
        if backing is None:
            return
        limit = NR_BLOCK_PAGES * self.page_size
        for low, high, _ in backing.ranges:
            low, high = max(low, start), min(high, end)
            for at in range(low, high, limit):
                nr_pages = (min(high, at + limit) - at) // self.page_size
                raw = memoryview(bytearray(nr_pages * ENTRY_SIZE))
                marked = backing.mark(at, bytes(nr_pages), self.page_size)
                yield Block(at, raw, marked, use=bytes(nr_pages))

    def _small_blocks(self, vma: Vma, part: Walk, first: int, last: int) -> Iterator[Block]:
        return (lot for lot in self._small_lots(vma, part, first, last) if isinstance(lot, Block))

    def _small_lots(
        self, vma: Vma, part: Walk, first: int, last: int, may_be_scattered: bool = False
    ) -> Iterator[Block | Scattered]:
        """Yield what tables of the last level hold: many tables are decoded together, then cut into blocks."""
        depth = len(self.mode.levels) - 1
        table_pages = part.levels[-1].entries.shape[1]
        for addresses, entries in self._rows(part, first, last):
            used = np.flatnonzero(entries)
            few = entries if len(used) == len(entries) else entries[used]
            codes = states(self.mode, depth, few)
            shown = maps_memory(codes)
            pfns = np.where(shown, self._frames_of(depth, few), np.uint64(0))
            raw, held, use = self._convert(vma, few, codes, pfns, None, None)
            start = max(int(addresses[0]), first)
            skipped = (start - int(addresses[0])) // self.page_size
            self._has_few = len(few) * LEAST_SHARE < len(entries)
            if may_be_scattered and self._has_few:
                tables, numbers = np.divmod(used + skipped, table_pages)
                entry_addresses = addresses[tables] + (numbers * self.page_size).astype(np.uint64)
                yield from ranges_of(entry_addresses, raw, held, use, self.page_size)
                continue
            if len(few) < len(entries):
                columns = (raw, held, use)
                raw, held, use = (scattered(column, used, len(entries)) for column in columns)
            # Where tables follow one another, their pages make one block.
            cuts = (np.flatnonzero(np.diff(addresses) != table_pages * self.page_size) + 1).tolist()
            for low, high in pairwise([0, *cuts, len(addresses)]):
                begin = max(low * table_pages - skipped, 0)
                stop = min(high * table_pages - skipped, len(entries))
                pages = slice(begin, stop)
                if held[pages].any():
                    address = max(int(addresses[low]), start)
                    yield block_of(address, raw[pages], held[pages], use[pages])

    def _huge_blocks(self, vma: Vma, huge: HugeLeaves, first: int, last: int) -> Iterator[Block]:
        """Yield the blocks that huge leaves make: those of one size together, cut where they do not follow on."""
        for part in huge.pieces(first, last, self.mode.page_shift):
            nr_pages = int(part.lengths[0])
            numbers: Words = np.arange(nr_pages, dtype=np.uint64)
            pfns: Words = (part.begins[:, None] + numbers).reshape(-1)
            entries = np.repeat(part.entries, nr_pages)
            zero = np.repeat(part.is_zero, nr_pages)
            codes = np.full(len(pfns), paging.PRESENT, np.uint8)
            shares = np.repeat(part.shares, nr_pages)
            raw, held, use = self._convert(vma, entries, codes, pfns, zero, None, shares)
            cuts = (np.flatnonzero(np.diff(part.lows) != nr_pages * self.page_size) + 1).tolist()
            for low, high in pairwise([0, *cuts, len(part.lows)]):
                pages = slice(low * nr_pages, high * nr_pages)
                yield block_of(int(part.lows[low]), raw[pages], held[pages], use[pages])

    def _other_blocks(self, vma: Vma, huge: HugeLeaves, first: int, last: int) -> Iterator[Block]:
        """Yield blocks for what stands in the place of huge leaves."""
        for run in huge.others:
            pages = run.pages(first, last, self.mode.page_shift)
            if pages:
                numbers = np.arange(pages.start, pages.stop, dtype=np.uint64)
                entries = np.full(len(pages), run.entry, np.uint64)
                codes = np.full(len(pages), run.state, np.uint8)
                pfns: Words = np.zeros(len(pages), np.uint64)
                raw, held, use = self._convert(vma, entries, codes, pfns, None, numbers)
                if held.any():
                    yield block_of(run.address + pages.start * self.page_size, raw, held, use)

    def _convert(
        self,
        vma: Vma,
        entries: Words,
        codes: Bytes,
        pfns: Words,
        huge_zero: Bools | None,
        numbers: Words | None,
        shares: Counts | None = None,
    ) -> tuple[Words, Bytes, Bytes]:
        """Return entries in the form of pagemap, their state bytes, and their use: see `EntryConverter.convert`.

        ``shares`` says how many more processes the table of each entry is part of.
        """

        def bits_of(rows: slice | NDArray[np.intp]) -> Words:
            return self._frame_bits(vma, pfns[rows], None if shares is None else shares[rows])

        return self.converter.convert(entries, codes, pfns, bits_of, vma.kind == "hugetlb", huge_zero, numbers)

    def _frame_bits(self, vma: Vma, pfns: Words, shares: Counts | None) -> Words:
        """Return the bits of pagemap that frames decide: whether each is mapped once, and whether it is a file's."""
        bits = np.zeros(len(pfns), np.uint64)
        single = self._map_counts(pfns) == 1
        if shares is not None:
            single &= shares == 0
        bits[single] = PM_MMAP_EXCLUSIVE
        bits[~self._are_anonymous(vma, pfns)] |= np.uint64(FILE << 56)
        return bits

    # As sums

    def count(self, vma: Vma) -> VmaCounts:
        """Return the pages of a VMA, counted."""
        sums = VmaCounts()
        if self.hidden.is_hidden(vma):
            return sums
        if vma.kind == "shmem":
            # Of its pages that have no entry the file is asked, page by page.
            self._count_blocks(sums, vma)
            return sums
        for part, huge in self._parts(vma.start, vma.end):
            first, last = max(vma.start, part.first), min(vma.end - 1, part.last)
            for _, entries in self._rows(part, first, last):
                self._count_small(sums, vma, entries)
            self._count_huge(sums, vma, huge, first, last)
            for run in huge.others:
                nr_pages = len(run.pages(first, last, self.mode.page_shift))
                self._count_states(sums, vma, np.array([run.state], np.uint8), nr_pages)
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
                sums.add_sharers(self.frames.map_counts(raw[resident] & np.uint64(PM_PFRAME)))
            sums.thp += self.huge_size(block)

    def huge_size(self, block: Block) -> int:
        """Return how many bytes of a block are mapped by huge leaves, but for zero pages and hugetlb."""
        end = block.end(self.page_size)
        nr_pages = 0
        for _, huge in self._parts(block.address, end):
            for part in huge.pieces(block.address, end - 1, self.mode.page_shift):
                nr_leaves = int(np.count_nonzero(~part.is_zero & ~part.is_hugetlb))
                nr_pages += int(part.lengths[0]) * nr_leaves
        return nr_pages * self.page_size

    def _rows(self, part: Walk, first: int, last: int) -> Iterator[tuple[Words, Words]]:
        """Yield the entries of the last level that lie in a range, some tables at a time, with their addresses."""
        level = part.levels[-1]
        shift, nr_entries = self.mode.page_shift, level.entries.shape[1]
        size = nr_entries << shift
        low = int(np.searchsorted(level.addresses, np.uint64(first - first % size)))
        high = int(np.searchsorted(level.addresses, np.uint64(last), side="right"))
        while low < high:
            nr_tables = NR_SCATTERED_TABLES if self._has_few else self._nr_tables
            start, stop = low, min(high, low + nr_tables)
            begin = max(first - int(level.addresses[start]), 0) >> shift
            nr_behind = max(int(level.addresses[stop - 1]) + size - 1 - last, 0) >> shift
            flat = level.entries[start:stop].reshape(-1)
            yield level.addresses[start:stop], flat[begin : len(flat) - nr_behind]
            low = stop

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
            pfns = address_of(mode, chosen) >> np.uint64(mode.page_shift)
            self._count_frames(sums, vma, pfns, chosen)

    def _frames_of(self, depth: int, entries: Words) -> Words:
        return leaf_address(self.mode, depth, entries) >> np.uint64(self.mode.page_shift)

    def _count_others(self, sums: VmaCounts, vma: Vma, depth: int, rest: Words) -> None:
        """Count entries that are not plainly present."""
        codes = states(self.mode, depth, rest)
        special = np.asarray(holds(rest, self.mode.special), np.bool_)
        shown = maps_memory(codes)
        if (shown & special).any():
            entries = rest[shown & special]
            is_zero = self.converter.are_zero(self._frames_of(depth, entries))
            sums.add(ZERO, int(np.count_nonzero(is_zero)))
            self._count_use(sums, entries[is_zero])
            self.converter.nr_device += int(np.count_nonzero(~is_zero))
        self._count_states(sums, vma, codes, 1)
        hidden = rest[(codes == paging.PROT_NONE) & ~special]
        if hidden.size:
            self._count_frames(sums, vma, self._frames_of(depth, hidden), hidden)

    def _count_states(self, sums: VmaCounts, vma: Vma, codes: Bytes, size: int) -> None:
        if vma.kind == "hugetlb":
            return  # pagemap shows nothing of it
        for code, nr in enumerate(np.bincount(codes).tolist()):
            if code == paging.SWAP:
                sums.add(SWAP, nr * size)
            elif code == paging.GUARD:
                sums.add(SPECIAL | GUARD, nr * size)
            elif code not in NO_SWAP:
                sums.add(SPECIAL, nr * size)

    def _count_use(self, sums: VmaCounts, entries: Words, size: int = 1) -> None:
        accessed, dirty = self._use_masks
        if accessed and dirty:
            sums.nr_accessed += size * int(np.count_nonzero(entries & accessed))
            sums.nr_dirty += size * int(np.count_nonzero(entries & dirty))
            return
        sums.nr_accessed += size * int(np.count_nonzero(holds(entries, self.mode.accessed)))
        sums.nr_dirty += size * int(np.count_nonzero(holds(entries, self.mode.dirty)))

    def _count_frames(
        self, sums: VmaCounts, vma: Vma, pfns: Words, entries: Words, shares: Counts | None = None
    ) -> None:
        """Count resident pages by their frames; ``shares`` as in `_convert`."""
        self._count_use(sums, entries)
        counts = self._map_counts(pfns)
        if shares is not None and shares.any():
            counts = np.where((shares < 0) | (counts < 0), np.int32(UNKNOWN_COUNT), counts + shares)
        # The kernel counts as private what is mapped less than twice.
        single = counts.view(np.uint32) <= 1
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
        for part in huge.pieces(first, last, shift):
            length = int(part.lengths[0])
            sums.add(ZERO, length * int(np.count_nonzero(part.is_zero)))
            self._count_use(sums, part.entries[part.is_zero], length)
            special = np.asarray(holds(part.entries, self.mode.special), np.bool_) & ~part.is_zero
            self.converter.nr_device += length * int(np.count_nonzero(special))
            rest = ~special & ~part.is_zero
            sums.thp += (length * int(np.count_nonzero(rest & ~part.is_hugetlb))) << shift
            if rest.any():
                numbers: Words = np.arange(length, dtype=np.uint64)
                pfns: Words = (part.begins[rest][:, None] + numbers).reshape(-1)
                entries: Words = np.repeat(part.entries[rest], length)
                self._count_frames(sums, vma, pfns, entries, np.repeat(part.shares[rest], length))

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
        before = self.frames.nr_read
        counts = self.access.map_counts(pfns)
        if len(pfns) > NR_FEW and self.frames.nr_read - before > len(pfns) // NR_DENSE:
            # Frames from all over memory need the same struct pages in each lot: larger lots need them less often.
            self._nr_tables = NR_SCATTERED_TABLES
        return counts

    def _are_anonymous(self, vma: Vma, pfns: Words) -> Bools:
        if vma.perms[3:] == "s":
            return np.zeros(len(pfns), np.bool_)
        if vma.kind in ANON_KINDS:
            return np.ones(len(pfns), np.bool_)
        # A private mapping of a file: pages that were written to are anonymous, the others are the file's.
        return self.frames.are_anonymous(pfns)

    def _backing(self, vma: Vma) -> Backing | None:
        if vma.kind != "shmem":
            return None
        return self.backings.of(vma)

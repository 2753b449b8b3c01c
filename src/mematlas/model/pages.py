"""The pages of a VMA: every entry of pagemap together with what the entry alone does not say.

An entry with the present bit may be the zero page; one with the swap bit may be a guard region or a migration;
an empty one of shared memory may have been swapped out. `PageReader` asks whoever knows, only where it matters,
and returns blocks whose state bytes carry the answer.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.maps import ANON_KINDS, Vma
from mematlas.kernel.pagemap import (
    ACCESSED,
    ENTRY_SIZE,
    EXCLUSIVE,
    FILE,
    GUARD,
    IS_SWAP,
    MARK_A,
    MARK_B,
    MARKS,
    PACED_BLOCK_SIZE,
    PAGE_IS_ACCESSED,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PM_PFRAME,
    PM_SWAP_OFFSET_SHIFT,
    PM_SWAP_TYPE,
    PRESENT,
    SWAP,
    SWAPPED_FILE,
    UFFD_WP,
    UNKNOWN,
    ZERO,
    Block,
    Pacer,
    Pagemap,
    frames_hidden,
    histogram,
    mark_special,
    to_marks_of_bits,
)
from mematlas.model.hidden import HiddenVmas
from mematlas.model.runs import read_runs
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.kernel.backing import Backing, Backings
    from mematlas.kernel.kpage import FrameWords
    from mematlas.kernel.pagemap import Entries
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.scattered import Scattered
    from mematlas.model.hugecounts import HugeCounts
    from mematlas.words import State


ZERO_UNKNOWN = Note(
    "zero-unknown",
    "zero pages cannot be distinguished from shared ones: needs Linux 6.7, or CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH",
)
HIDDEN_FRAMES = Note("hidden-frames", "physical addresses and swap slots hidden: needs CAP_SYS_ADMIN")

STATES = ("present", "zero", "swapped", "cached", "absent", "guard", "special", "unknown")
"""What a page can be:

present  a frame of memory is mapped
zero     the kernel's one page of zeros is mapped: read, never written
swapped  its contents are in swap
cached   shared memory that is in RAM, but this process has no entry for it
absent   nothing: never touched, given back, or a page of a file that was not read here
guard    a guard region: touching it is an error (madvise(2), MADV_GUARD_INSTALL)
special  a migration, device memory, poisoned or marker entry
unknown  not reported: shared memory without an entry, whose file we may not ask; the kernel's [vvar] and [vsyscall]
"""


def state_of(byte: int) -> State:
    """Return the name of the state that a state byte says.

    >>> state_of(0x81), state_of(0x88), state_of(0x40), state_of(0x00)
    ('present', 'zero', 'swapped', 'absent')
    """
    if byte & PRESENT:
        return "zero" if byte & MARK_A else "present"
    if byte & SWAP and byte & GUARD:
        return "guard"
    if byte & SWAP:
        return "special" if byte & MARK_A else "swapped"
    return ("absent", "swapped", "cached", "unknown")[(byte & MARKS) // MARK_A]


STATE_OF_BYTE = tuple(state_of(byte) for byte in range(256))
IS_ZERO = to_marks_of_bits(ZERO, ZERO)
EVICTED_IS_ABSENT = bytes.maketrans(bytes((SWAPPED_FILE,)), b"\0")


HUGE = PRESENT | MARK_B
"""In a capture alone: a present page that a huge entry (PMD) maps. Of a running process PAGEMAP_SCAN reports it."""
IS_HUGE = to_marks_of_bits(HUGE | MARK_A, HUGE)  # without the huge zero page
WITHOUT_HUGE = bytes([byte & ~MARK_B if byte & PRESENT else byte for byte in range(256)])
WITHOUT_MARKS = bytes(
    [
        # Nothing but a marker protects what is not there; its bit 62 gave way to what the file said.
        byte & ~MARKS | (SWAP if byte & MARKS and byte & (PRESENT | UFFD_WP) == UFFD_WP else 0)
        for byte in range(256)
    ]
)


def is_zero_candidate(byte: int, anon: bool) -> bool:
    """Whether such an entry may map the zero page: present, not exclusive, anonymous.

    The huge zero page carries the file bit, which nothing else in an anonymous VMA does.
    """
    return byte & (PRESENT | EXCLUSIVE | MARKS) == PRESENT and (anon or not byte & FILE)


MAY_BE_ZERO = to_marks_of_bits(PRESENT | EXCLUSIVE | MARKS, PRESENT)
TO_ASK_ABOUT = bytes(map(int.__or__, MAY_BE_ZERO, IS_SWAP))
"""Which state bytes may stand for something else than they say: for the zero page, see above, or for no swap slot."""


@record
class Hole:
    """Consecutive pages of which no entry says anything; they were skipped, not walked."""

    address: int
    nr_pages: int
    byte: int
    """The state byte of each: absent, or unknown."""

    def __len__(self) -> int:
        return self.nr_pages

    def end(self, page_size: int) -> int:
        """Return where the last page ends."""
        return self.address + self.nr_pages * page_size


MAY_BE_SCATTERED = ANON_KINDS | {"file"}
"""The kinds of VMAs of whose empty pages nobody else is asked."""


RUN_PAGES = PACED_BLOCK_SIZE // ENTRY_SIZE
"""Pages that are read in one go for several VMAs: under one hold of the target's lock."""


class PageReader:
    """Reads the pages of one process, marked with all that can be known. Holds its pagemap open.

    Leaving it without an error raises `ProcessGone` when the process ended, or started another program, meanwhile:
    what was not found then may have been there.

    >>> import os
    >>> from mematlas.kernel.procfs import ProcFS
    >>> from mematlas.kernel.maps import read_maps
    >>> with ProcFS().process(os.getpid()) as process, PageReader(process) as reader:
    ...     stack = next(vma for vma in read_maps(process) if vma.kind == "stack")
    ...     "present" in {STATE_OF_BYTE[byte] for block in reader.blocks(stack) for byte in block.states}
    True
    """

    name = "pagemap"

    def __init__(
        self,
        process: ProcessDir,
        pacer: Pacer | None = None,
        cached: bool = True,
        exclusive: bool = True,
        accessed: bool = False,
        backings: Backings | None = None,
    ) -> None:
        """``cached`` is for `Backings`; ``exclusive`` says whether anybody will ask which pages are mapped once.

        With ``accessed`` blocks have the use of pages, where that is known: see `PAGE_IS_ACCESSED`.
        """
        self.process = process
        self._exclusive = exclusive
        self._accessed = accessed
        self.pagemap = Pagemap(process, pacer)
        self.page_size = process.procfs.page_size
        self.zero_known = True
        """False once a page was met that may be the zero page, or not."""
        self._cached = cached
        self._backings = backings
        self.blind: set[int] = set()
        """The starts of the VMAs whose file `states` may not ask."""
        self._huge_counts: HugeCounts | None = None
        self.hidden = HiddenVmas(process, self.pagemap)
        self._saved = process.procfs.machine or {}
        self._flags: FrameWords | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            if kind is None:
                self.pagemap.check()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of pagemap, and of the files of frames."""
        self.pagemap.close()
        if self._huge_counts:
            self._huge_counts.close()
        if self._flags:
            self._flags.close()

    @property
    def backings(self) -> Backings:
        """What is behind shared memory. Most processes have next to none."""
        if self._backings is None:
            from mematlas.kernel.backing import Backings

            self._backings = Backings(self.process, self._cached)
        return self._backings

    @property
    def huge_counts(self) -> HugeCounts:
        """What knows whether pages under huge entries are mapped once."""
        if self._huge_counts is None:
            from mematlas.model.hugecounts import HugeCounts

            self._huge_counts = HugeCounts(self.process.procfs)
        return self._huge_counts

    def notes(self) -> list[Note]:
        """Return what is not known of the pages that were read, and why."""
        notes = self._backings.notes() if self._backings else []
        if not self.zero_known:
            notes.append(ZERO_UNKNOWN)
        if self._huge_counts and self._huge_counts.note:
            notes.append(self._huge_counts.note)
        return notes

    def blocks(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block]:
        """Yield the blocks of a VMA, or of a part of it, that hold something; see `hole` for the rest."""
        start = vma.start if start is None else max(start, vma.start)
        end = vma.end if end is None else min(end, vma.end)
        backing = self._backing(vma) if start < end else None
        for block in self.pagemap.blocks(start, end, backing.find if backing else None):
            self.hidden.note_shown(vma)
            self._mark(block, vma, backing)
            if self._accessed:
                block.use = self._use(block)
            yield block

    def lots(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Block | Scattered]:
        """Yield what `blocks` yields, but where single pages lie far apart, hundreds of them at a time.

        Without ``exclusive`` their states say whether they are present or swapped, and nothing else.
        """
        if vma.kind not in MAY_BE_SCATTERED or self.pagemap.marked:
            yield from self.blocks(vma, start, end)
            return
        start = vma.start if start is None else max(start, vma.start)
        end = vma.end if end is None else min(end, vma.end)
        from mematlas.kernel.scattered import lots

        anon = vma.kind in ANON_KINDS
        for lot in lots(self.pagemap, start, end, self._exclusive):
            if isinstance(lot, Block):
                self._mark(lot, vma, None)
            elif any(TO_ASK_ABOUT[byte] for byte in lot.kinds):
                mark_scattered(lot, anon)
            yield lot

    def runs(self, vmas: Iterable[Vma]) -> Iterator[tuple[list[Vma], Block | None]]:
        """Yield VMAs that lie side by side with one block of all their pages; the others alone, with None."""
        return read_runs(vmas, self.page_size, RUN_PAGES, self._block_of)

    def _block_of(self, run: list[Vma]) -> Block | None:
        """Return all pages of a run as one block; None if the kernel does not show them all."""
        first, end = run[0], run[-1].end
        backing = None
        if first.kind == "shmem":
            # Whether it is known what a file holds is saved of each VMA.
            if not self.pagemap.marked:
                backing = self.backings.part(first, first.start, end, self.backings.cached)
            if backing is None:
                return None
        block = self.pagemap.block(first.start, end)
        if block:
            self._mark(block, first, backing)
        return block

    def hole(self, vma: Vma) -> int:
        """Return the state byte of the pages that no block of this VMA showed. Ask after reading the blocks."""
        if self.hidden.is_hidden(vma):
            return UNKNOWN
        if vma.kind != "shmem":
            return 0
        if self.pagemap.marked:
            return UNKNOWN if self._why_unknown(vma) else 0
        return UNKNOWN if vma not in self.backings or self.backings.of(vma) is None else 0

    def block_at(self, vma: Vma, address: int) -> Block | None:
        """Return the block of the one page at an address; None when it is empty."""
        page = address - address % self.page_size
        if vma.kind != "shmem" or self.pagemap.marked or vma in self.backings:
            return next(self.blocks(vma, page, page + self.page_size), None)
        # The file is asked about this page alone: all of a large segment would take a second.
        block = next(self.pagemap.blocks(page, page + self.page_size, lambda at: at), None)
        if block is not None:
            self._settle_huge(block, vma)
            if block.states[0] & PRESENT:
                self._ask(block, anon=False)
            else:
                block.states = self.states(vma, page, page + self.page_size)
        return block

    def states(self, vma: Vma, start: int, end: int) -> bytes:
        """Return the state byte of each page of a part of a VMA, as it is at this moment.

        Unlike in `blocks`, zero pages are not distinguished, the file behind shared memory is asked anew, and so is
        that of an ordinary mapping: a page of it that is in the page cache without being mapped here is `CACHED`.
        """
        merged = bytearray((end - start) // self.page_size)
        for block in self.pagemap.blocks(start, end):
            index = (block.address - start) // self.page_size
            self._settle_huge(block, vma)
            merged[index : index + len(block)] = mark_special(block.states, block.raw)
        from mematlas.kernel.backing import tables_for

        states = bytes(merged)
        if vma.kind not in ("file", "shmem") or self.pagemap.marked:
            return states
        if states == states.translate(tables_for(vma)[UNKNOWN // MARK_A]):
            return states  # the entries say all
        backing = self.backings.part(vma, start, end)
        if backing is None:
            self.blind.add(vma.start)
            if vma.kind == "file":
                return states
            return behind(vma, None, start, states, self.page_size)
        states = behind(vma, backing, start, states, self.page_size)
        # What was evicted from the cache of an ordinary file is not in swap.
        return states.translate(EVICTED_IS_ABSENT) if vma.kind == "file" else states

    def huge_mask(self, start: int, end: int) -> bytes:
        """Return a mask of the pages that a huge entry (PMD) maps, as PAGEMAP_SCAN reports.

        Raises:
            NotSupported: before Linux 6.7, and in captures.
        """
        mask = bytearray((end - start) // self.page_size)
        for first, last in self._scanned(start, end, PAGE_IS_HUGE):
            mask[first:last] = b"\1" * (last - first)
        return bytes(mask)

    def _scanned(self, start: int, end: int, any_of: int) -> list[tuple[int, int]]:
        """Return what `Pagemap.ranges` does, as indexes of pages from ``start`` on."""
        size = self.page_size
        ranges = self.pagemap.ranges(start, end, any_of)
        return [((low - start) // size, (high - start) // size) for low, high in ranges]

    def _use(self, block: Block) -> bytes:
        """Return the use of each page of a block: whether it was accessed, of memory whose program tracks that."""
        use = bytearray(len(block))
        for first, last in self._scanned(block.address, block.end(self.page_size), PAGE_IS_ACCESSED):
            use[first:last] = bytes((ACCESSED,)) * (last - first)
        return bytes(use)

    def huge_size(self, vma: Vma, block: Block) -> int:
        """Return how many bytes of a block of a VMA are mapped by huge entries (PMDs), as PAGEMAP_SCAN reports.

        Raises:
            NotSupported: before Linux 6.7, and in captures made there.
        """
        if self.pagemap.marked and self._saved.get("huge_known"):
            raw = bytearray(len(block) * ENTRY_SIZE)
            offset = block.address // self.page_size * ENTRY_SIZE
            self.pagemap.file.read_into(memoryview(raw), offset)
            return raw[7::ENTRY_SIZE].translate(IS_HUGE).count(1) * self.page_size
        nr_pages = 0
        for low, high in self.huge_ranges(vma, block):
            # The huge zero page is mapped by a huge entry too, and is nobody's memory.
            kinds = histogram(block.states[low:high])
            nr_pages += sum(n for byte, n in kinds.items() if byte & ZERO == PRESENT)
        return nr_pages * self.page_size

    def huge_ranges(self, vma: Vma, block: Block) -> list[tuple[int, int]]:
        """Return the ranges of indexes in a block that huge entries map, by PAGEMAP_SCAN; see `huge_size`."""
        if block.huge is not None:
            return block.huge
        if not self._may_hold_huge(vma, block):
            block.huge = []
            return block.huge
        block.huge = self._scanned(block.address, block.end(self.page_size), PAGE_IS_HUGE)
        return block.huge

    def _settle_huge(self, block: Block, vma: Vma) -> None:
        """Have the exclusive bit of each page under a huge entry say whether that page is mapped once."""
        # hugetlb pages are mapped as a whole: there the bit is right.
        if not self._exclusive or vma.kind == "hugetlb" or self.pagemap.marked:
            return
        try:
            ranges = self.huge_ranges(vma, block)
        except NotSupported:
            from mematlas.model.hugecounts import guessed_ranges

            ranges = list(guessed_ranges(block, self.page_size))
        if ranges:
            self.huge_counts.settle(block, ranges)

    def _may_hold_huge(self, vma: Vma, block: Block) -> bool:
        # What one huge entry maps is aligned in memory as in addresses, and lies in one VMA: frame and page number
        # agree in their lower bits. One look at the block's start, and at each page where a table begins, rules most
        # blocks out.
        per_table = self.page_size // ENTRY_SIZE
        size = per_table * self.page_size
        if vma.start + -vma.start % size + size > vma.end:
            return False
        first = block.address // self.page_size
        # A range may begin, or end, in the middle of one.
        parts = per_table, -first % per_table, (first + len(block)) % per_table
        if len(block) - block.kinds.get(0, 0) < min(len(block), *filter(None, parts)):
            return False
        entries, states = block.entries, block.states
        for index in (0, *range(-first % per_table, len(block), per_table)):
            frame = entries[index] & PM_PFRAME
            if states[index] & PRESENT and (frame == 0 or (frame - first - index) % per_table == 0):
                return True
        return False

    def _mark(self, block: Block, vma: Vma, backing: Backing | None) -> None:
        if self.pagemap.marked:
            self._unmark(block, vma)
            return
        kinds = block.kinds
        anon = vma.kind in ANON_KINDS
        for byte in kinds:
            if TO_ASK_ABOUT[byte]:
                self._ask(block, anon)
                break
        self._settle_huge(block, vma)
        if vma.kind == "shmem":
            block.states = behind(vma, backing, block.address, block.states, self.page_size)

    def _unmark(self, block: Block, vma: Vma) -> None:
        """Take the marks that a capture holds out of the entries, which are the kernel's again, into the states."""
        self.pagemap.set_tops(block, block.states.translate(WITHOUT_MARKS))
        if any(byte & (HUGE | MARK_A) == HUGE for byte in block.kinds):
            why = self._saved.get("huge_estimate", "")
            self.huge_counts.note = Note("huge-estimate", why) if why else None
        states = block.states.translate(WITHOUT_HUGE)
        if self.hole(vma) == UNKNOWN:
            states = states.replace(b"\0", bytes((UNKNOWN,)))
        block.states = states
        if not self._saved.get("zero_known", True):
            anon = vma.kind in ANON_KINDS
            if any(is_zero_candidate(byte, anon) for byte in block.kinds):
                self.zero_known = False

    def _why_unknown(self, vma: Vma) -> str | None:
        why: str | None = self._saved.get("unknown_backings", {}).get(f"{vma.start:x}-{vma.end:x}")
        if why:
            self.backings.unknown[vma.start] = why
        saved = self._saved.get("uncertain", ())
        self.backings.uncertain.update(Note("swap-cache-unseen", text) for text in saved)
        return why

    def _ask(self, block: Block, anon: bool) -> None:
        kinds = block.kinds
        if any(byte & SWAP and not byte & PRESENT for byte in kinds):
            block.states = mark_special(block.states, block.raw)
        if any(is_zero_candidate(byte, anon) for byte in kinds):
            self._mark_zero(block, anon)

    def _mark_zero(self, block: Block, anon: bool) -> None:
        try:
            ranges = self._scanned(block.address, block.end(self.page_size), PAGE_IS_PFNZERO)
        except NotSupported:
            # Before v6.7 (commit 52526ca7fdb9) the frame's own flags say it, to those who may read them.
            self._mark_zero_frames(block, anon)
            return
        states = bytearray(block.states)
        for first, last in ranges:
            for index in range(first, last):
                if states[index] & PRESENT:
                    states[index] |= MARK_A
        block.states = bytes(states)

    def _mark_zero_frames(self, block: Block, anon: bool) -> None:
        from mematlas.kernel.kpage import KPF_ZERO_PAGE, FrameWords

        entries, states = block.entries, bytearray(block.states)
        indexes = [index for index, byte in enumerate(states) if is_zero_candidate(byte, anon)]
        frames = {index: entries[index] & PM_PFRAME for index in indexes}
        try:
            if 0 in frames.values():
                raise frames_hidden(self.process.path)
            if self._flags is None:
                self._flags = FrameWords(self.process.procfs, "kpageflags")
        except (PermissionDenied, NotSupported):
            self.zero_known = False
            return
        flags = self._flags.get(frames.values())
        for index, frame in frames.items():
            if flags.get(frame, 0) & KPF_ZERO_PAGE:
                states[index] |= MARK_A
        block.states = bytes(states)

    def _backing(self, vma: Vma) -> Backing | None:
        if vma.kind != "shmem" or self.pagemap.marked:
            return None
        return self.backings.of(vma)


def mark_scattered(lot: Scattered, anon: bool) -> None:
    """Mark what the entries of pages that lie far apart do not say."""
    if any(byte & (SWAP | PRESENT) == SWAP for byte in lot.kinds):
        lot.states = mark_special(lot.states, lot.raw)
    if lot.zeros:
        # A page that was written to since the scan has left the zero page.
        kinds = {byte for byte in lot.kinds if is_zero_candidate(byte, anon)}
        as_mark = bytes(MARK_A if byte in kinds else 0 for byte in range(256))
        candidates = lot.states.translate(as_mark)
        zeros = int.from_bytes(lot.zeros, "little") & int.from_bytes(candidates, "little")
        lot.states = (int.from_bytes(lot.states, "little") | zeros).to_bytes(len(lot), "little")


def behind(vma: Vma, backing: Backing | None, address: int, states: bytes, page_size: int) -> bytes:
    """Return the states of pages of shared memory, with what its file says where the entries say nothing."""
    from mematlas.kernel.backing import tables_for

    tables = tables_for(vma)
    if backing is None:
        return states.translate(tables[UNKNOWN // MARK_A])
    return backing.mark(address, states, page_size, tables)


def decode_place(byte: int, entry: int) -> tuple[int | None, int | None, int | None]:
    """Return frame, swap type and swap offset of an entry; each None unless the entry says it."""
    number = entry & PM_PFRAME
    # Nothing there, or hidden: frame 0 is no process's, slot 0 is the swap header.
    if not number:
        return None, None, None
    if byte & PRESENT:
        return number, None, None
    if byte & SWAP and STATE_OF_BYTE[byte] == "swapped":
        return None, entry & PM_SWAP_TYPE, number >> PM_SWAP_OFFSET_SHIFT
    return None, None, None


def place_of(block: Entries, page_size: int, index: int = 0) -> tuple[State, int | None]:
    """Return state and physical address of a page of a block, of its first by default; None where that is hidden."""
    byte = block.states[index]
    if not byte & PRESENT:
        return STATE_OF_BYTE[byte], None
    pfn = block.entries[index] & PM_PFRAME
    return STATE_OF_BYTE[byte], pfn * page_size or None


def is_hidden(byte: int, entry: int) -> bool:
    """Whether an entry has a frame or a swap slot that the kernel keeps from a reader without CAP_SYS_ADMIN."""
    has_number = byte & PRESENT or (byte & SWAP and STATE_OF_BYTE[byte] == "swapped")
    return bool(has_number) and not entry & PM_PFRAME

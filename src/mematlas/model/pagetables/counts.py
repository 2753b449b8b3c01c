"""The pages of VMAs counted from page tables in the kernel: what `PageTableReader.count` returns, without numpy.

Its start takes a tenth of what loading numpy takes, and its entries half of what they take there. It shows no single
pages, nor does it count where something of a file in shared memory is in swap, which is asked page by page. What it
takes for the map counts of frames is compared with the kernel's own files, as `PageTableAccess` does it.
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported, ProcessGone
from mematlas.kernel.backing import Backings
from mematlas.kernel.kpage import KPF_HUGE, KPF_ZERO_PAGE
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.memory.bpfcount import Sums
from mematlas.kernel.memory.countmap import LISTED_ACCESSED, LISTED_DIRTY, LISTED_NR_SHIFT
from mematlas.kernel.memory.x86 import (
    PAGE,
    PAGE_SHIFT,
    PMD_SIZE,
    X86_ACCESSED,
    X86_ADDRESS,
    X86_DIRTY,
    X86_HUGE,
    X86_PRESENT,
    X86_PROT_NONE,
    X86_SPECIAL,
    X86_SWAP_TYPE_SHIFT,
)
from mematlas.kernel.pagemap import EXCLUSIVE, FILE, GUARD, PRESENT, SPECIAL, SWAP, UNKNOWN, ZERO
from mematlas.model.hidden import HiddenVmas
from mematlas.model.pages import STATE_OF_BYTE, behind
from mematlas.model.pagetables import swap_types
from mematlas.model.pagetables.vma_counts import VmaCounts, left_out
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.pagetables.count_access import CountAccess
    from mematlas.words import State

    Leaf = tuple[int, int, int, int, int]
    """An entry of an upper level, its address, the shift of its level, its first frame, and its pages in the VMA."""

LEVEL_MASK = 0x3F
MANY_LEAVES = 1 << 12
"""Huge leaves that are counted together: of a TiB there are half a million."""
NR_TRIES = 4


class TableCounter:
    """Counts the VMAs of one process from its page tables.

    Leaving it without an error raises `ProcessGone` when the process ended, or started another program, meanwhile.

    >>> with TableCounter(process.dir, access) as counter:  # doctest: +SKIP
    ...     counter.count(vma).nr_dirty
    318
    """

    def __init__(self, process: ProcessDir, access: CountAccess) -> None:
        self.process = process
        self.access = access
        self.page_size = process.procfs.page_size
        self.backings = Backings(process, cached=False)
        self.hidden = HiddenVmas(process)
        self.torn: list[tuple[int, int]] = []
        """Ranges that changed each time they were read: nothing is known of them."""
        self.nr_device = 0
        """Pages of devices met, which pagemap does not show either."""
        self._tables = access.hold(process)
        self._first: tuple[int, int, int] = (0, 0, PAGE_SHIFT)
        """The address that was asked about, the entry that translates it, and the shift of its level."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        # What could not be understood may have been tables that were just taken down.
        may_be_gone = kind is None or issubclass(kind, (NotSupported, FormatError))
        is_gone = may_be_gone and not self._tables.are_current()
        self.close()
        if is_gone:
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def close(self) -> None:
        """Let go of the address space."""
        self._tables.close()

    def notes(self) -> list[Note]:
        """Return what is to be said about what was read."""
        return self.backings.notes() + left_out(self.nr_device, len(self.torn))

    def can_count(self, vma: Vma) -> bool:
        """Whether this counts a VMA: not where something of its file is in swap, of which the entries say nothing."""
        if vma.kind != "shmem" or self.hidden.is_hidden(vma):
            return True
        backing = self.backings.of(vma)
        return backing is None or not backing.ranges

    def hole(self, vma: Vma) -> int:
        """Return the state byte of the pages that have no entry."""
        if self.hidden.is_hidden(vma):
            return UNKNOWN
        return UNKNOWN if vma.kind == "shmem" and self.backings.of(vma) is None else 0

    def count(self, vma: Vma) -> VmaCounts:
        """Return the pages of a VMA, counted."""
        result = VmaCounts()
        self._first = (vma.start, 0, PAGE_SHIFT)
        if self.hidden.is_hidden(vma):
            return result
        sums = Sums()
        self._walk(result, sums, vma)
        if sums.leaves:
            self._add_leaves(result, sums, vma)
        self._add_special(result, sums.special)
        self._add_types(result, vma, sums)
        self._add_resident(result, vma, sums)
        return result

    def _walk(self, result: VmaCounts, sums: Sums, vma: Vma) -> None:
        tables = self._tables
        at, nr_tries = vma.start, 0
        while at < vma.end:
            # What has changed is read again, table by table.
            end = min(vma.end, at - at % PMD_SIZE + PMD_SIZE) if nr_tries else vma.end
            before = sums.single + sums.shared
            reached = tables.walk(sums, at, end, vma.start)
            if reached is not None:
                if at == vma.start:
                    self._first = (at, tables.first, PAGE_SHIFT)
                nr = sums.single + sums.shared - before
                if nr and self.access.is_due(nr, tables.nr_large):
                    self.access.compare([self._frame_of(word) for word in tables.samples()])
                at, nr_tries = max(at, reached), 0
                if len(sums.leaves) >= MANY_LEAVES:
                    self._add_leaves(result, sums, vma)
            elif (nr_tries := nr_tries + 1) == NR_TRIES:
                self.torn.append((at, end - 1))
                at, nr_tries = end, 0

    def _frame_of(self, entry: int, shift: int = PAGE_SHIFT) -> int:
        """Return the frame of an entry that maps memory; PROT_NONE is turned back."""
        flipped = entry if entry & X86_PRESENT else ~entry
        return (flipped & X86_ADDRESS & -(1 << shift)) // PAGE

    # Huge leaves, and what stands in their place

    def _add_leaves(self, result: VmaCounts, sums: Sums, vma: Vma) -> None:
        """Count the entries of upper levels that were found, each with its address and the shift of its level."""
        leaves, sums.leaves = sums.leaves, []
        mapped: list[Leaf] = []
        for entry, mark in leaves:
            shift = mark & LEVEL_MASK
            address = mark - shift
            low = address - address % (1 << shift)
            nr_pages = (min(vma.end, low + (1 << shift)) - address) // self.page_size
            if address == vma.start:
                self._first = (address, entry, shift)
            if entry & (X86_PRESENT | X86_PROT_NONE | X86_HUGE):
                mapped.append((entry, address, shift, self._frame_of(entry, shift), nr_pages))
            else:
                self._add_states(result, vma, self._state_of(entry), nr_pages)
        counted = self._to_count(result, mapped)
        if not counted:
            return
        self.access.count_leaves(sums, counted)
        nr_frames = sum(nr for _, nr, _ in counted)
        if self.access.is_due(nr_frames, nr_frames):
            # Some heads and some tails.
            frames = [begin + 37 * number % nr for number, (begin, nr, _) in enumerate(counted)]
            self.access.compare(frames)

    def _to_count(self, result: VmaCounts, leaves: list[Leaf]) -> list[tuple[int, int, int]]:
        """Return what `CountProgram.count_leaves` is to count; zero pages and those of devices are counted here."""
        flags = self.access.flags_of(frame for _, _, _, frame, _ in leaves)
        counted: list[tuple[int, int, int]] = []
        shares: dict[int, int] = {}
        for entry, address, shift, head, nr_pages in leaves:
            kind = flags.get(head, 0)
            if kind & KPF_ZERO_PAGE:
                result.add(ZERO, nr_pages)
                self._add_use(result, entry, nr_pages)
                continue
            if entry & X86_SPECIAL:
                self.nr_device += nr_pages
                continue
            self._add_use(result, entry, nr_pages)
            first = head + address % (1 << shift) // self.page_size
            if kind & KPF_HUGE:
                counted.append((first, nr_pages, self._shares_of(shares, address, shift)))
            else:
                counted.append((first, nr_pages, 0))
                result.thp += nr_pages * self.page_size
        return counted

    def _shares_of(self, shares: dict[int, int], address: int, shift: int) -> int:
        """Return how many more processes the table of a huge page is part of; -1 where unknown."""
        table = address >> shift + 9
        if table not in shares:
            shares[table] = self._tables.nr_shares(address, shift)
        return shares[table]

    def _add_use(self, result: VmaCounts, entry: int, nr_pages: int) -> None:
        if entry & X86_ACCESSED:
            result.nr_accessed += nr_pages
        if entry & (X86_DIRTY | 1 << self.access.dirty_shift):
            result.nr_dirty += nr_pages

    # What the program has counted

    def _add_special(self, result: VmaCounts, special: list[tuple[int, int]]) -> None:
        for frame, mark in special:
            nr_pages = mark >> LISTED_NR_SHIFT
            if not self.access.is_zero(frame):
                self.nr_device += nr_pages
                continue
            result.add(ZERO, nr_pages)
            result.nr_accessed += nr_pages if mark & LISTED_ACCESSED else 0
            result.nr_dirty += nr_pages if mark & LISTED_DIRTY else 0

    def _add_types(self, result: VmaCounts, vma: Vma, sums: Sums) -> None:
        for kind, nr_pages in sums.types.items():
            state = self.access.state_of_type(kind)
            if state == swap_types.MARKER:
                for (its_kind, offset), nr in sums.markers.items():
                    if its_kind == kind:
                        self._add_states(result, vma, swap_types.state_of_marker(offset), nr)
            else:
                self._add_states(result, vma, state, nr_pages)

    def _add_states(self, result: VmaCounts, vma: Vma, state: int, nr_pages: int) -> None:
        if vma.kind != "hugetlb":  # pagemap shows nothing of it
            result.add(byte_of_state(state), nr_pages)

    def _state_of(self, entry: int) -> int:
        """Return what an entry is that maps nothing."""
        kind = entry >> X86_SWAP_TYPE_SHIFT
        state = self.access.state_of_type(kind)
        if state != swap_types.MARKER:
            return state
        return swap_types.state_of_marker((~entry & (1 << X86_SWAP_TYPE_SHIFT) - 1) >> 9)

    def _add_resident(self, result: VmaCounts, vma: Vma, sums: Sums) -> None:
        result.nr_accessed += sums.accessed
        result.nr_dirty += sums.dirty
        result.nr_unknown += sums.unknown
        result.sharers |= sums.counts
        if vma.perms[3:] == "s":
            anon, anon_shared = 0, 0
        elif vma.kind in ANON_KINDS:
            anon, anon_shared = sums.single, sums.shared
        else:
            # A private mapping of a file: pages that were written to are anonymous, the others are the file's.
            anon, anon_shared = sums.single_anon, sums.shared_anon
        result.add(PRESENT | EXCLUSIVE, anon)
        result.add(PRESENT | EXCLUSIVE | FILE, sums.single - anon)
        result.add(PRESENT, anon_shared)
        result.add(PRESENT | FILE, sums.shared - anon_shared)

    # The first page

    def first_page(self, vma: Vma) -> tuple[State, int | None]:
        """Return the state and the physical address of the first page of the VMA that was counted last."""
        address, entry, shift = self._first
        if not entry:
            return self._without_entry(vma), None
        if not entry & (X86_PRESENT | X86_PROT_NONE | (X86_HUGE if shift > PAGE_SHIFT else 0)):
            if vma.kind == "hugetlb":
                return STATE_OF_BYTE[self.hole(vma)], None
            return STATE_OF_BYTE[byte_of_state(self._state_of(entry))], None
        frame = self._frame_of(entry, shift) + address % (1 << shift) // self.page_size
        if shift > PAGE_SHIFT:
            # The flags of a leaf are those of its head.
            head = self._frame_of(entry, shift)
            is_zero = bool(self.access.flags_of([head]).get(head, 0) & KPF_ZERO_PAGE)
        else:
            is_zero = bool(entry & X86_SPECIAL) and self.access.is_zero(frame)
        if entry & X86_SPECIAL and not is_zero:
            return self._without_entry(vma), None
        state = STATE_OF_BYTE[ZERO if is_zero else PRESENT]
        return state, frame * self.page_size if frame else None

    def _without_entry(self, vma: Vma) -> State:
        if vma.kind == "shmem" and not self.hidden.is_hidden(vma):
            backing = self.backings.part(vma, vma.start, vma.start + self.page_size)
            return STATE_OF_BYTE[behind(vma, backing, vma.start, b"\0", self.page_size)[0]]
        return STATE_OF_BYTE[self.hole(vma)]


def byte_of_state(state: int) -> int:
    """Return the state byte of what maps nothing."""
    if state == swap_types.SWAP:
        return SWAP
    return SPECIAL | GUARD if state == swap_types.GUARD else SPECIAL

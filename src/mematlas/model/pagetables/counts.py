"""The pages of VMAs counted from page tables in the kernel: what `PageTableReader.count` returns, without numpy.

Its start takes a tenth of what loading numpy takes, and its entries half of what they take there. It shows no single
pages, nor does it count where something of a file in shared memory is in swap, which is asked page by page. What it
takes for the map counts of frames is compared with the kernel's own files, as `PageTableAccess` does it.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.backing import Backings
from mematlas.kernel.cpuinfo import phys_bits
from mematlas.kernel.kconfig import counts_are_averages, read_config
from mematlas.kernel.kpage import KPF_ANON, KPF_HUGE, KPF_ZERO_PAGE, open_flags_and_counts
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.memory.bpfcount import CountProgram, Sums
from mematlas.kernel.memory.btf import FITTING, asked_twice, read_layout
from mematlas.kernel.memory.countmap import LISTED_ACCESSED, LISTED_DIRTY, LISTED_NR_SHIFT
from mematlas.kernel.memory.directmap import find_direct_map, nr_levels
from mematlas.kernel.memory.iomem import read_ram
from mematlas.kernel.memory.ownpages import NR_PROBES, OwnPages, on_protected_page
from mematlas.kernel.memory.x86 import (
    PAGE,
    PAGE_SHIFT,
    PMD_SIZE,
    TABLE_BITS,
    U64,
    X86_ACCESSED,
    X86_ADDRESS,
    X86_DIRTY,
    X86_DIRTY_SHIFT,
    X86_HUGE,
    X86_PRESENT,
    X86_PROT_NONE,
    X86_SAVED_DIRTY_SHIFT,
    X86_SPECIAL,
    X86_SWAP_TYPE_SHIFT,
    is_x86_64,
)
from mematlas.kernel.pagemap import EXCLUSIVE, FILE, GUARD, PRESENT, SPECIAL, SWAP, UNKNOWN, ZERO
from mematlas.kernel.rights import effective_capabilities
from mematlas.kernel.status import open_memory
from mematlas.model.hidden import HiddenVmas
from mematlas.model.pages import STATE_OF_BYTE, behind
from mematlas.model.pagetables import swap_types
from mematlas.model.pagetables.vma_counts import VmaCounts, left_out
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.words import State

    Leaf = tuple[int, int, int, int, int]
    """An entry of an upper level, its address, the shift of its level, its first frame, and its pages in the VMA."""

LEVEL_MASK = 0x3F
NR_COMPARED = 16
MANY_LEAVES = 1 << 12
"""Huge leaves that are counted together: of a TiB there are half a million."""
NR_TRIES = 4
NEEDED = ("type.page", "type.bpf_rdonly_cast", "page._mapcount", "folio._entire_mapcount")


class CountAccess:
    """What page tables are counted with: the program, and where things lie in this kernel.

    Raises:
        PermissionDenied: without CAP_SYS_ADMIN, which shows frames of our own; kpagecount cannot be read.
        NotSupported: no x86-64, a kernel before 6.3, encrypted memory, or counts that kpagecount denies.
    """

    name = "bpf"

    def __init__(self, procfs: ProcFS) -> None:
        if not is_x86_64() or not procfs.live:
            raise NotSupported("counting with BPF", "a live system on x86-64")
        if "CAP_SYS_ADMIN" not in effective_capabilities():
            raise PermissionDenied("frame numbers", "CAP_SYS_ADMIN")
        if counts_are_averages(procfs):
            raise NotSupported("map counts from struct page", "CONFIG_PAGE_MAPCOUNT")
        self.procfs = procfs
        self.layout = read_layout()
        # What a kernel lacks is not looked for again.
        if not all(name in self.layout for name in NEEDED):
            raise NotSupported("counting page tables with BPF", "Linux 6.3")
        self.ram = read_ram(procfs)
        self.nr_compared = 0
        """Frames that were compared with the kernel's own files."""
        # How many frames have come by, of large folios and of others, and from how many on the next are compared.
        self._nr_seen = [0, 0]
        self._next = [0, 0]
        self._special_states: list[int] | None = None
        self._flags, self._counts = open_flags_and_counts(procfs)
        self._program: CountProgram | None = None
        self._refused: Error | None = None
        self._is_encrypted = False
        self._zero_frames: dict[int, bool] = {}
        try:
            asked_twice(self.layout, self._open)
            if self._refused:
                raise self._refused
            if self._is_encrypted:
                raise NotSupported("counting with BPF in encrypted memory")
        except BaseException:
            self.close()
            raise

    @property
    def program(self) -> CountProgram:
        """The program, which is closed with this."""
        if self._program is None:
            raise NotSupported("counting with BPF", "what counts to be open")
        return self._program

    def close(self) -> None:
        """Let go of the program."""
        self._flags.close()
        self._counts.close()
        self._close_program()

    def _close_program(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None

    def _open(self) -> None:
        self._close_program()
        try:
            self._program = program = CountProgram(self.layout)
        except (PermissionDenied, NotSupported) as error:
            # Other offsets would not help: they are not read for nothing.
            self._refused = error
            return
        with self.procfs.process(os.getpid()) as own:
            fd = open_memory(own)
        try:
            pgd = self.pgd_of(fd)
            self.levels = nr_levels(pgd)
            direct_map = find_direct_map(pgd, self.levels, self.ram, self._read_word)
            if direct_map is None:
                raise NotSupported("finding the direct map with BPF", FITTING)
            self.base, self._is_encrypted = direct_map[0], direct_map[1] != 0
            with OwnPages(self.procfs) as own_pages:
                addresses = own_pages.struct_page_addresses(self._pipe_pages)
                self.struct_pages = own_pages.array_base(addresses, self.layout["page"])
                program.set_machine(self.base, self.struct_pages, self.ram, phys_bits(), self.levels)
                self.compare(own_pages.pfns())
            self.dirty_shift = X86_SAVED_DIRTY_SHIFT if self._has_saved_dirty(pgd) else X86_DIRTY_SHIFT
        finally:
            os.close(fd)

    def _read_word(self, address: int) -> int | None:
        return self.program.read([address])[0]

    def _pipe_pages(self, fd: int, nr: int) -> list[int]:
        layout, program = self.layout, self.program
        buffers = program.word(program.private_data(fd, layout) + layout["pipe_inode_info.bufs"])
        first, size = buffers + layout["pipe_buffer.page"], layout["pipe_buffer"]
        return [program.word(first + number * size) for number in range(min(nr, NR_PROBES))]

    def pgd_of(self, mem_fd: int) -> int:
        """Return the address of the top table of the address space that a /proc/PID/mem of ours holds."""
        return self.program.word(self.mm_of(mem_fd) + self.layout["mm_struct.pgd"])

    def mm_of(self, mem_fd: int) -> int:
        """Return the address of the mm_struct that a /proc/PID/mem of ours holds; 0 once its process has ended."""
        return self.program.private_data(mem_fd, self.layout)

    def entry_at(self, pgd: int, address: int, shift: int = PAGE_SHIFT) -> tuple[int, int]:
        """Return the entry for an address in the tables that map ``1 << shift`` bytes by each, and where it stands;
        0 and 0 where there is no such table.
        """
        table = pgd
        for level in range(PAGE_SHIFT + TABLE_BITS * (self.levels - 1), shift - 1, -TABLE_BITS):
            entry_address = table + (address >> level & 511) * 8
            entry = self._read_word(entry_address) or 0
            if level == shift:
                return entry, entry_address
            below = entry & X86_ADDRESS
            is_table = entry & (X86_PRESENT | X86_HUGE) == X86_PRESENT
            if not is_table or below not in self.ram:
                break
            table = self.base + below
        return 0, 0

    def _has_saved_dirty(self, pgd: int) -> bool:
        """Whether this kernel moves the dirty bit of what loses its right to write: tried, on a page of our own."""
        entry, _ = on_protected_page(lambda address: self.entry_at(pgd, address))
        # It is still dirty in the processor's own bit where the kernel has moved nothing.
        return not entry & X86_DIRTY

    # What frames are

    def flags_of(self, pfns: Iterable[int]) -> dict[int, int]:
        """Return /proc/kpageflags of some frames."""
        return self._flags.get(pfns)

    def is_zero(self, pfn: int) -> bool:
        """Whether a frame is the zero page's."""
        if pfn not in self._zero_frames:
            self._zero_frames[pfn] = bool(self.flags_of([pfn]).get(pfn, 0) & KPF_ZERO_PAGE)
        return self._zero_frames[pfn]

    def nr_shares(self, table: int) -> int:
        """Return how many more processes a table is part of; see `mematlas.kernel.memory.structpage`."""
        offset, own = self.layout.share_count()
        if offset is None:
            return -1
        struct_page = self.struct_pages + table // PAGE * self.layout["page"]
        word = self._read_word(struct_page + (offset & ~7))
        count = -1 if word is None else (word >> 8 * (offset & 7) & 0xFFFFFFFF) - own
        return count if count < 1 << 31 else -1

    def is_due(self, nr_frames: int, nr_large: int) -> bool:
        """Whether some of the frames that come by are to be compared: each time that there are twice as many as before.

        Those of large folios count apart.
        """
        due = False
        for kind, nr in enumerate((nr_large, nr_frames - nr_large)):
            self._nr_seen[kind] += nr
            if nr > 0 and self._nr_seen[kind] >= self._next[kind]:
                self._next[kind] = 2 * self._nr_seen[kind]
                due = True
        return due

    def compare(self, pfns: list[int]) -> None:
        """Compare what the program finds of some frames with /proc/kpagecount and /proc/kpageflags, a few of them.

        Raises:
            NotSupported: they disagree, three times over.
        """
        pfns = pfns[:: len(pfns) // NR_COMPARED or 1]
        self.nr_compared += len(pfns)
        for _ in range(3):
            # What is true of live frames changes. What differs counts only if ours was the same before and after the
            # kernel's was read, and is asked again then.
            ours, theirs, again = self.program.ask(pfns), self._theirs(pfns), self.program.ask(pfns)
            rows = zip(pfns, ours, theirs, again, strict=True)
            pfns = [pfn for pfn, before, kernels, after in rows if before == after != kernels]
            if not pfns:
                return
        self.layout.renew()
        raise NotSupported(f"map counts from struct page (frame {pfns[0]:#x} has others in kpagecount)")

    def _theirs(self, pfns: list[int]) -> list[tuple[int, bool]]:
        counts, flags = self._counts.get(pfns), self._flags.get(pfns)
        return [(counts.get(pfn, -1), bool(flags.get(pfn, 0) & KPF_ANON)) for pfn in pfns]

    def state_of_type(self, kind: int) -> int:
        """Return what a swap type means in this kernel; see `mematlas.model.pagetables.swap_types`."""
        # Those of swap areas are so on every kernel: for them nobody needs to know its configuration.
        if swap_types.UNKNOWN_SPECIAL_SWAP[kind] == swap_types.SWAP:
            return swap_types.SWAP
        if self._special_states is None:
            self._special_states = read_special_states()
        return self._special_states[kind]


def read_special_states() -> list[int]:
    """Return what each swap type means in the running kernel, as far as its configuration is known."""
    config = read_config()
    if config is None:
        return swap_types.UNKNOWN_SPECIAL_SWAP
    first, second = os.uname().release.split(".")[:2]
    special = swap_types.special_swap_of(config, (int(first), int(second)), 0)
    return special.state_of_types() if special else swap_types.UNKNOWN_SPECIAL_SWAP


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
        self._fd = open_memory(process)
        try:
            self._mm = access.mm_of(self._fd)
            if not self._mm:
                # mem_open keeps no mm for a process that has just ended.
                raise ProcessGone(process.pid, "has no address space")
            self._pgd = access.pgd_of(self._fd)
            if (self._pgd - access.base & U64) not in access.ram or self._pgd % PAGE:
                raise NotSupported("a top table that is not in memory")
        except BaseException:
            self.close()
            raise
        self._first: tuple[int, int, int] = (0, 0, PAGE_SHIFT)
        """The address that was asked about, the entry that translates it, and the shift of its level."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        # What could not be understood may have been tables that were just taken down.
        may_be_gone = kind is None or issubclass(kind, (NotSupported, FormatError))
        is_gone = may_be_gone and not self._is_current()
        self.close()
        if is_gone:
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def _is_current(self) -> bool:
        try:
            fd = open_memory(self.process)
        except Error:
            return False
        try:
            return self.access.mm_of(fd) == self._mm
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the address space."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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
        program = self.access.program
        program.set_process(self._pgd, self.access.dirty_shift)
        at, nr_tries = vma.start, 0
        while at < vma.end:
            # What has changed is read again, table by table.
            end = min(vma.end, at - at % PMD_SIZE + PMD_SIZE) if nr_tries else vma.end
            before = sums.single + sums.shared
            reached = program.walk(sums, at, end, vma.start)
            if reached is not None:
                if at == vma.start:
                    self._first = (at, program.first, PAGE_SHIFT)
                nr = sums.single + sums.shared - before
                if nr and self.access.is_due(nr, program.nr_large):
                    self.access.compare([self._frame_of(word) for word in program.samples])
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
        self.access.program.count_leaves(sums, counted)
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
            _, at = self.access.entry_at(self._pgd, address, shift)
            shares[table] = self.access.nr_shares(at - at % PAGE - self.access.base) if at else -1
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

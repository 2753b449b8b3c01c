"""What page tables are counted with in the kernel: the program, and where things lie in this kernel.

What it takes for the map counts of frames is compared with the kernel's own files, as `PageTableAccess` does it.
"""

from __future__ import annotations

import os

from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.cpuinfo import phys_bits
from mematlas.kernel.kconfig import counts_are_averages, read_config
from mematlas.kernel.kpage import KPF_ANON, KPF_ZERO_PAGE, open_flags_and_counts
from mematlas.kernel.memory.bpfcount import CountProgram, Sums
from mematlas.kernel.memory.btf import FITTING, asked_twice, read_layout
from mematlas.kernel.memory.directmap import find_direct_map, nr_levels
from mematlas.kernel.memory.iomem import read_ram
from mematlas.kernel.memory.ownpages import NR_PROBES, OwnPages, on_protected_page
from mematlas.kernel.memory.x86 import (
    PAGE,
    PAGE_SHIFT,
    TABLE_BITS,
    U64,
    X86_ADDRESS,
    X86_DIRTY,
    X86_DIRTY_SHIFT,
    X86_HUGE,
    X86_PRESENT,
    X86_SAVED_DIRTY_SHIFT,
    is_x86_64,
)
from mematlas.kernel.rights import effective_capabilities
from mematlas.kernel.status import open_memory
from mematlas.model.pagetables import swap_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.kernel.procfs import ProcessDir, ProcFS

NR_COMPARED = 16
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
        self.layout = read_layout()
        # What a kernel lacks is not looked for again.
        if not all(name in self.layout for name in NEEDED):
            raise NotSupported("counting page tables with BPF", "Linux 6.3")
        self.ram = read_ram(procfs)
        self.take_files(procfs)
        self._refused: Error | None = None
        self._is_encrypted = False
        try:
            asked_twice(self.layout, self._open)
            if self._refused:
                raise self._refused
            if self._is_encrypted:
                raise NotSupported("counting with BPF in encrypted memory")
        except BaseException:
            self.close()
            raise

    def take_files(self, procfs: ProcFS) -> None:
        """Open what counts are compared with."""
        self.procfs = procfs
        self.nr_compared = 0
        """Frames that were compared with the kernel's own files."""
        # How many frames have come by, of large folios and of others, and from how many on the next are compared.
        self._nr_seen = [0, 0]
        self._next = [0, 0]
        self._special_states: list[int] | None = None
        self._program: CountProgram | None = None
        self._zero_frames: dict[int, bool] = {}
        self._flags, self._counts = open_flags_and_counts(procfs)

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

    def entry_at(self, pgd: int, address: int) -> int:
        """Return the entry for an address in a table of pages; 0 where there is no such table."""
        way = self.way_to(pgd, address, PAGE_SHIFT)
        return way[-1][1] if way else 0

    def way_to(self, pgd: int, address: int, shift: int) -> list[tuple[int, int]]:
        """Return where the entries for an address stand, and these, from the top one to that which maps ``1 << shift``
        bytes; nothing where there is no such table.
        """
        table = pgd
        way: list[tuple[int, int]] = []
        for level in range(PAGE_SHIFT + TABLE_BITS * (self.levels - 1), shift - 1, -TABLE_BITS):
            entry_address = table + (address >> level & 511) * 8
            entry = self._read_word(entry_address) or 0
            way.append((entry_address, entry))
            if level == shift:
                return way
            below = entry & X86_ADDRESS
            is_table = entry & (X86_PRESENT | X86_HUGE) == X86_PRESENT
            if not is_table or below not in self.ram:
                break
            table = self.base + below
        return []

    def _has_saved_dirty(self, pgd: int) -> bool:
        """Whether this kernel moves the dirty bit of what loses its right to write: tried, on a page of our own."""
        entry = on_protected_page(lambda address: self.entry_at(pgd, address))
        # It is still dirty in the processor's own bit where the kernel has moved nothing.
        return not entry & X86_DIRTY

    def hold(self, process: ProcessDir) -> CountedTables:
        """Return the page tables of a process, held open to be counted.

        Raises:
            PermissionDenied: they are not ours to look at.
            ProcessGone: it has ended.
        """
        return CountedTables(self, process)

    def distrust(self) -> None:
        """Have offsets that turned out wrong found anew the next time."""
        self.layout.renew()

    # What frames are

    def count_leaves(self, sums: Sums, leaves: list[tuple[int, int, int]]) -> None:
        """Count the pages of huge leaves: the first frame of each, how many, and how many more share its table."""
        self.program.count_leaves(sums, leaves)

    def ask_frames(self, pfns: list[int]) -> list[tuple[int, bool]]:
        """Return how often each of some frames is mapped, -1 if unknown, and whether it belongs to no file."""
        return self.program.ask(pfns)

    def flags_of(self, pfns: Iterable[int]) -> dict[int, int]:
        """Return /proc/kpageflags of some frames."""
        return self._flags.get(pfns)

    def is_zero(self, pfn: int) -> bool:
        """Whether a frame is the zero page's."""
        if pfn not in self._zero_frames:
            self._zero_frames[pfn] = bool(self.flags_of([pfn]).get(pfn, 0) & KPF_ZERO_PAGE)
        return self._zero_frames[pfn]

    def nr_shares(self, table: int, above: Sequence[tuple[int, int]]) -> int:
        """Return how many more processes a table is part of; see `mematlas.kernel.memory.structpage`.

        -1 where those above it, from the top one on, do not lead to it any more: what is in the struct page of another
        page may be half an address. Each is given by where its entry stands, and that.
        """
        offset, own = self.layout.share_count()
        if offset is None:
            return -1
        struct_page = self.struct_pages + table // PAGE * self.layout["page"]
        places = [at for at, _ in above]
        # In one run: no table is freed in it (`CountProgram.kinds`).
        found = self.program.read([*places, struct_page + (offset & ~7), *places])
        word = found[len(places)]
        if word is None or not (self._lead(above, found) and self._lead(above, found[len(places) + 1 :])):
            return -1
        count = (word >> 8 * (offset & 7) & 0xFFFFFFFF) - own
        return count if count < 1 << 31 else -1

    def _lead(self, above: Sequence[tuple[int, int]], now: Sequence[int | None]) -> bool:
        """Whether entries lead where they did."""
        mask = X86_ADDRESS | X86_PRESENT | X86_HUGE
        pairs = zip(above, now, strict=False)
        return all(entry is not None and (entry ^ before) & mask == 0 for (_, before), entry in pairs)

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
            ours, theirs, again = self.ask_frames(pfns), self._theirs(pfns), self.ask_frames(pfns)
            rows = zip(pfns, ours, theirs, again, strict=True)
            pfns = [pfn for pfn, before, kernels, after in rows if before == after != kernels]
            if not pfns:
                return
        self.distrust()
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


class CountedTables:
    """The page tables of one process, held open to be counted."""

    def __init__(self, access: CountAccess, process: ProcessDir) -> None:
        self.access = access
        self.process = process
        self.first = 0
        """The entry of the last level that the last walk found at the address it was given; 0 where there was none."""
        self.nr_large = 0
        """How many frames of large folios the last walk has looked at."""
        self.is_sound = False
        """Whether it met tables alone."""
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

    def close(self) -> None:
        """Let go of the address space."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def are_current(self) -> bool:
        """Whether they are still the process's: no, once that has ended or executed a program."""
        try:
            fd = open_memory(self.process)
        except Error:
            return False
        try:
            return self.access.mm_of(fd) == self._mm
        finally:
            os.close(fd)

    def walk(self, sums: Sums, start: int, end: int, first_at: int) -> int | None:
        """Count a range, as `CountProgram.walk` does."""
        program = self.access.program
        program.set_process(self._pgd, self.access.dirty_shift)
        reached = program.walk(sums, start, end, first_at)
        self.first, self.nr_large, self.is_sound = program.first, program.nr_large, reached is not None
        return reached

    def samples(self) -> list[int]:
        """Return some entries of the last walk that map memory."""
        return self.access.program.samples

    def nr_shares(self, address: int, shift: int) -> int:
        """Return how many more processes the table of an upper level is part of that maps an address; -1 if unknown."""
        way = self.access.way_to(self._pgd, address, shift)
        if not way:
            return -1
        at, _ = way[-1]
        return self.access.nr_shares(at - at % PAGE - self.access.base, way[:-1])

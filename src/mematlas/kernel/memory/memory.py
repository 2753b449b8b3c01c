"""Kernel memory, as far as page tables need it: where the direct map is, and which frames hold tables.

A `Reader` copies bytes from kernel addresses; `KernelMemory` is what the rest of mematlas sees. It finds out by doing:
a reader is taken when a whole chain has held, from our own mm_struct to the page table that maps that page table.

It is no general reader of kernel memory, which its readers are. It gives out tables, and only those that it was led to:
the top table of an open address space, and what the entries of a table that was given out point at. Beside them it
gives out struct pages, once it is known where their array is. No error says what was read.

Documentation/arch/x86/x86_64/mm.rst has the layout of the address space.
"""

from __future__ import annotations

import os

from mematlas.arrays import Bools, Bytes, Words, np
from mematlas.errors import Error, FormatError, NotSupported, ProcessGone
from mematlas.kernel.cpuinfo import phys_bits, read_cpuinfo
from mematlas.kernel.memory.btf import FITTING, StructLayout
from mematlas.kernel.memory.directmap import find_direct_map
from mematlas.kernel.memory.iomem import RamRanges
from mematlas.kernel.memory.pinned import PinnedMm, open_mem
from mematlas.kernel.memory.vmcoreinfo import parse_vmcoreinfo, read_vmcoreinfo_span
from mematlas.kernel.memory.x86 import NR_ENTRIES, PAGE, U64, X86_ADDRESS, X86_HUGE, X86_PRESENT
from mematlas.kernel.procfs import ProcFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from mematlas.kernel.memory.reader import Reader
    from mematlas.kernel.procfs import ProcessDir


CPU_ENTRY_AREA = 0xFFFFFE0000000000
"""Struct pages lie below it (Documentation/arch/x86/x86_64/mm.rst)."""
IMAGE, IMAGE_END = 0xFFFFFFFF80000000, 0xFFFFFFFFFF000000
"""Where the kernel itself and its modules are (same document), with the names that are part of its code."""


def room_for_rows(nr: int, nr_words: int) -> Words:
    """Return rows of words, of which the first begins where a page does, as what is copied into them does.

    A few bytes behind that, where `malloc` has large arrays begin, copying takes ten times as long: the processor takes
    what it is to read for what it has just written, if the last 12 bits of both addresses are the same.
    """
    room = np.empty(nr * nr_words + PAGE // 8, np.uint64)
    first = -room.ctypes.data % PAGE // 8
    return room[first : first + nr * nr_words].reshape(nr, nr_words)


class KernelMemory:
    """Page tables of the kernel, through one reader. Made by `mematlas.kernel.memory.readers.open_kernel_memory`."""

    def __init__(self, reader: Reader, layout: StructLayout, ram: RamRanges, procfs: ProcFS) -> None:
        self.reader = reader
        self.layout = layout
        self.ram = ram
        self.procfs = procfs
        self.refused: dict[str, Error] = {}
        """Why each reader that was tried before this one was not taken."""
        self.base = 0
        """Where the direct map of physical memory begins."""
        self.memory_end = ram.memory_end
        """Where the memory that pages can lie in ends, devices' own memory with a struct page included."""
        self.encryption_mask = 0
        """The address bit that says `encrypted` in every entry (AMD SME); 0 without it."""
        # For each frame, how many levels of tables the one in it is on top of, itself included; 0 for what is not known
        # to be a table.
        self._heights = np.zeros(ram.end // PAGE, np.uint8)
        self._tops: dict[int, int] = {}
        self._has_user_copies = "pti" in read_cpuinfo().get("flags", "").split()
        self._frame_array = (0, 0)
        with self._open_mem(os.getpid()) as own:
            pointer = self._pgd_pointer(own)
            self.levels = 4 if pointer >> 48 == 0xFFFF else 5
            """How many levels of tables there are, by where the direct map is."""
            self._find_base(pointer)
            self.reader.forget(pointer - self.base)
        self.vmcoreinfo = self._read_vmcoreinfo()
        """What /sys/kernel/vmcoreinfo points at; empty when this kernel has none."""
        self._check_encryption()

    @property
    def name(self) -> str:
        """The name of the reader."""
        return self.reader.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KernelMemory by {self.name}, {self.levels} levels, direct map at {self.base:#x}>"

    def close(self) -> None:
        """Let go of the reader."""
        self.reader.close()

    @property
    def phys_bits(self) -> int:
        """How many bits a physical address has on this processor (52 when it does not say)."""
        return phys_bits()

    def user_pgd(self, pgd: int) -> int | None:
        """Return the top table that user space runs with, under page-table isolation; None without it.

        It is the page after the kernel's (kernel_to_user_pgdp, arch/x86/include/asm/pgtable.h). The flag decides: the
        file of vulnerabilities does not know of isolation that was asked for on the command line.
        """
        if not self._has_user_copies:
            return None
        if pgd in self._tops:
            self._heights[pgd // PAGE + 1] = self.levels
        return pgd + PAGE

    @property
    def kernel_version(self) -> tuple[int, int]:
        """The first two numbers of the release, for what the kernel shows nowhere else."""
        first, second = os.uname().release.split(".")[:2]
        return int(first), int(second)

    def tables(self, phys_addresses: Words, nr_entries: int = NR_ENTRIES) -> tuple[Words, Bools]:
        """Return the tables at physical addresses, a row each, and which of them we were led to and could be read."""
        heights = self._heights_of(phys_addresses)
        known = (heights != 0) & (phys_addresses & np.uint64(PAGE - 1) == 0)
        if known.all():
            entries, known = self._pages(phys_addresses + np.uint64(self.base))
        else:
            entries = np.zeros((len(phys_addresses), nr_entries), np.uint64)
            entries[known], good = self._pages(phys_addresses[known] + np.uint64(self.base))
            known[known] = good
        self._learn(entries, heights)
        return entries, known

    def table_batches(self, phys_addresses: Words) -> Iterator[tuple[slice, Words, Bools]]:
        """Yield the same some at a time: which of ``phys_addresses`` they are, a row each, and which of them we were
        led to and could be read. They are of the last level; the rows hold until the next are yielded.
        """
        known = (self._heights_of(phys_addresses) != 0) & (phys_addresses & np.uint64(PAGE - 1) == 0)
        addresses = np.where(known, phys_addresses + np.uint64(self.base), np.uint64(0))
        step = self.reader.batch_size
        for start in range(0, len(addresses), step):
            rows = slice(start, start + step)
            data, good = self.reader.read_batch(addresses[rows], PAGE)
            yield rows, data, good & known[rows]

    def entries(self, phys_addresses: Words) -> tuple[Words, Bools]:
        """Return single entries of tables that we were led to, by the physical address of each."""
        heights = self._heights_of(phys_addresses)
        known = (heights != 0) & (phys_addresses & np.uint64(7) == 0)
        addresses = np.where(known, phys_addresses + np.uint64(self.base), np.uint64(0))
        values, good = self._words(addresses)
        entries = np.where(known, values, np.uint64(0))
        self._learn(entries.reshape(-1, 1), heights)
        return entries, known & good

    @property
    def most_together(self) -> int:
        """How many tables `together` reads at once; 0 where it cannot."""
        return self.reader.batch_size if getattr(self.reader, "is_one_section", False) else 0

    def together(self, phys_addresses: Words, new: slice = slice(0)) -> tuple[Words, Bools]:
        """Return tables that we were led to, all read inside of one RCU read-side critical section, in this order.

        A table that another one of these led to, which was read before it, was no other page's when it was read: tables
        are freed after such sections (mm/mmu_gather.c, tlb_remove_table()). Those that are ``new`` lead on to others.
        The rows hold until the next are read.

        Raises:
            NotSupported: the reader has no such sections.
        """
        if not 0 < len(phys_addresses) <= self.most_together:
            raise NotSupported(f"reading tables together with {self.name}", "programs of BPF that run under RCU")
        heights = self._heights_of(phys_addresses)
        known = (heights != 0) & (phys_addresses & np.uint64(PAGE - 1) == 0)
        addresses = np.where(known, phys_addresses + np.uint64(self.base), np.uint64(0))
        data, good = self.reader.read_batch(addresses, PAGE)
        self._learn(data[new], heights[new])
        return data, known & good

    def _heights_of(self, phys_addresses: Words) -> Bytes:
        frames = phys_addresses // np.uint64(PAGE)
        inside = frames < len(self._heights)
        return self._heights[np.where(inside, frames, 0).astype(np.intp)] * inside

    def _learn(self, entries: Words, heights: Bytes) -> None:
        """Remember which tables rows of entries lead to; ``heights`` are those of the tables that they stand in."""
        for height in range(2, int(heights.max(initial=0)) + 1):
            rows = heights == height
            if not rows.any():
                continue
            some = entries[rows]
            some = some[(some & np.uint64(X86_PRESENT | X86_HUGE)) == X86_PRESENT]
            below = some & np.uint64(X86_ADDRESS & ~self.encryption_mask)
            frames = (below[self.ram.contain(below)] // np.uint64(PAGE)).astype(np.intp)
            # A table that was freed is soon another's, and what is read as its entries may be anything.
            self._heights[frames[self._heights[frames] != self.levels]] = height - 1

    def open_frame_array(self, base: int, size: int) -> None:
        """Let struct pages be read, of ``size`` bytes for each frame, from ``base`` on.

        Raises:
            NotSupported: no kernel has them there.
        """
        end = base + -(-(self.memory_end // PAGE) * size // PAGE) * PAGE
        lies_behind_memory = self.base + self.memory_end <= base < end <= CPU_ENTRY_AREA
        if PAGE % size or base % PAGE or not lies_behind_memory:
            raise NotSupported("struct pages where they were found", FITTING)
        self._frame_array = (base, end)

    def frame_pages(self, addresses: Words, size: int = PAGE) -> Iterator[tuple[slice, Words, Bools]]:
        """Yield pages of the array of struct pages, some at a time: which of ``addresses`` they are, the words of each,
        and which are of the array and could be read. The words hold until the next are yielded.

        With ``size`` no more than so many bytes at each address are read.
        """
        inside, step = self._in_frame_array(addresses, size), self.reader.batch_size
        addresses = np.where(inside, addresses, np.uint64(0))
        for start in range(0, len(addresses), step):
            rows = slice(start, start + step)
            data, good = self.reader.read_batch(addresses[rows], size)
            yield rows, data, good & inside[rows]

    def frame_words(self, addresses: Words) -> tuple[Words, Bools]:
        """Return 64-bit words of the array of struct pages, and which of them are of it and could be read."""
        inside = self._in_frame_array(addresses)
        values, good = self._words(np.where(inside, addresses, np.uint64(0)))
        return values, good & inside

    def object_words(self, addresses: Words) -> tuple[Words, Bools]:
        """Return 64-bit words of the kernel's own objects, and which could be read: in the direct map, where RAM is.

        The addresses were led to by struct pages. What was read may be shown if it is known from elsewhere too, or is a
        number that the kernel tells everybody.
        """
        inside = self._in_direct_map(addresses)
        values, good = self._words(np.where(inside, addresses, np.uint64(0)))
        return values, good & inside

    def object_text(self, address: int, size: int) -> bytes:
        """Return so many bytes of a text at an address: of an object, or of the kernel's code; fewer if they end."""
        first = address & ~7
        addresses = np.arange(first, address + size, 8, dtype=np.uint64)
        inside = self._in_direct_map(addresses)
        inside |= (addresses >= np.uint64(IMAGE)) & (addresses < np.uint64(IMAGE_END))
        values, good = self._words(np.where(inside, addresses, np.uint64(0)))
        good &= inside
        nr_good = len(good) if good.all() else int(np.argmin(good))
        return values[:nr_good].tobytes()[address - first :][:size]

    def objects(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        """Return such objects, or parts of them of so many bytes, as rows of words, and which could be read."""
        inside = self._in_direct_map(addresses, size)
        rows, good = self._gather(np.where(inside, addresses, np.uint64(0)), size)
        return rows, good & inside

    def object_members(self, addresses: Words, size: int, indexes: list[int]) -> tuple[Words, Bools]:
        """Return some of the words of such objects, a row for each place of ``indexes``, and which could be read."""
        inside, step = self._in_direct_map(addresses, size), self.reader.batch_size
        addresses = np.where(inside, addresses, np.uint64(0))
        members = np.zeros((len(indexes), len(addresses)), np.uint64)
        for start in range(0, len(addresses), step):
            rows = slice(start, start + step)
            data, good = self.reader.read_batch(addresses[rows], size)
            inside[rows] &= good
            members[:, rows] = data[:, indexes].T
        members[:, ~inside] = 0
        return members, inside

    def _in_direct_map(self, addresses: Words, size: int = 8) -> Bools:
        """Return which addresses are of so many bytes of RAM, in whole words, as the direct map has it."""
        offsets = addresses - np.uint64(self.base)
        inside: Bools = (addresses >= np.uint64(self.base)) & (offsets & np.uint64(7) == 0)
        return inside & self.ram.contain(offsets) & self.ram.contain(offsets + np.uint64(size - 1))

    def _in_frame_array(self, addresses: Words, size: int = 8) -> Bools:
        first, end = self._frame_array
        inside: Bools = (addresses >= np.uint64(first)) & (addresses < np.uint64(end))
        inside &= np.uint64(end) - addresses >= np.uint64(size)
        return inside

    def pipe_pages(self, fd: int, nr: int) -> list[int]:
        """Return the addresses of the struct pages that the first ``nr`` buffers of our own pipe hold."""
        layout = self.layout
        buffers = self._word(self.reader.private_data(fd, layout) + layout["pipe_inode_info.bufs"])
        first = buffers + layout["pipe_buffer.page"]
        return [self._word(first + number * layout["pipe_buffer"]) for number in range(nr)]

    def _pages(self, addresses: Words) -> tuple[Words, Bools]:
        """Return the pages at kernel addresses (n rows of 512 words), and which of them could be read."""
        return self._gather(addresses, PAGE)

    def _words(self, addresses: Words) -> tuple[Words, Bools]:
        """Return the 64-bit words at kernel addresses, and which of them could be read."""
        data, good = self._gather(addresses, 8)
        return data.reshape(-1), good

    def _word(self, address: int) -> int:
        """Return one 64-bit word. Raises `NotSupported` when it cannot be read."""
        values, good = self._words(np.array([address & U64], np.uint64))
        if not good[0]:
            raise NotSupported(f"following the kernel's structures with {self.name}", FITTING)
        return int(values[0])

    def open_mm(self, pid: int, directory: ProcessDir | None = None) -> PinnedMm:
        """Return the address space of a process, pinned. The kernel's own ptrace check decides whether we may.

        With ``directory``, which is held open, it is that process's and no other's that was given its PID.

        Raises:
            PermissionDenied: /proc/PID/mem cannot be opened.
            NoAddressSpace: it is a kernel thread.
        TargetNotFound, ProcessGone: there is no such process, or no longer.
        """
        mm = self._open_mem(pid) if directory is None else open_mem(directory)
        try:
            mm.pgd = self._pgd_pointer(mm) - self.base & U64
            if mm.pgd not in self.ram or mm.pgd % PAGE:
                self.reader.forget(mm.pgd)
                raise NotSupported("a top table that is not in memory", FITTING)
            self._tops[mm.pgd] = self._tops.get(mm.pgd, 0) + 1
            self._heights[mm.pgd // PAGE] = self.levels
            mm.forget = self.forget_top
        except BaseException:
            mm.close()
            raise
        return mm

    def forget_top(self, pgd: int) -> None:
        """Give out the tables below a top table no longer, once nobody has its address space open."""
        self._tops[pgd] -= 1
        if not self._tops[pgd]:
            del self._tops[pgd]
            # With the copy that user space runs with, where there is one.
            heights = self._heights[pgd // PAGE : pgd // PAGE + 2]
            heights[heights == self.levels] = 0
            self.reader.forget(pgd)

    def _open_mem(self, pid: int) -> PinnedMm:
        with self.procfs.process(pid) as directory:
            return open_mem(directory)

    def _pgd_pointer(self, mm: PinnedMm) -> int:
        mm.address = self.reader.mm_address(mm.pid, mm.fd, self.layout)
        if not mm.address:
            # mem_open keeps no mm for a process that has just ended.
            raise ProcessGone(mm.pid, "has no address space")
        return self._word(mm.address + self.layout["mm_struct.pgd"])

    def is_current(self, mm: PinnedMm) -> bool:
        """Whether a pinned address space is still its process's: no, once that has ended or executed a program."""
        try:
            with self._open_mem(mm.pid) as now:
                pgd = self._pgd_pointer(now) - self.base & U64
                if pgd not in self._tops:
                    self.reader.forget(pgd)
                return now.address == mm.address
        except Error:
            return False

    def _gather(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        nr, step = len(addresses), self.reader.batch_size
        data = np.empty((nr, size // 8), np.uint64)
        good = np.empty(nr, np.bool_)
        for start in range(0, nr, step):
            part, part_good = self.reader.read_batch(addresses[start : start + step], size)
            data[start : start + step] = part
            good[start : start + step] = part_good
        if not good.all():
            data[~good] = 0
        return data, good

    def _find_base(self, pgd: int) -> None:
        def read_word(address: int) -> int | None:
            values, good = self._words(np.array([address], np.uint64))
            return int(values[0]) if good[0] else None

        known = self.reader.direct_map_bases()
        base_and_mask = find_direct_map(pgd, self.levels, self.ram, read_word, known)
        if base_and_mask is None:
            raise NotSupported(f"finding the direct map with {self.name}", FITTING)
        self.base, self.encryption_mask = base_and_mask

    def _read_vmcoreinfo(self) -> dict[str, int | str]:
        span = read_vmcoreinfo_span()
        if span is None:
            return {}
        address, size = span
        starts = range(address & -PAGE, address + size, PAGE)
        phys_addresses = np.array(starts, np.uint64)
        if not self.ram.contain(phys_addresses).all():
            return {}
        pages, good = self._pages(phys_addresses + np.uint64(self.base))
        if not good.all():
            return {}
        try:
            return parse_vmcoreinfo(pages.tobytes()[address % PAGE :][:size])
        except FormatError:
            return {}

    def _check_encryption(self) -> None:
        # Where the kernel reports the mask, it is the truth; what the search saw must agree with it.
        reported = self.vmcoreinfo.get("NUMBER(sme_mask)")
        if isinstance(reported, int) and reported != self.encryption_mask:
            raise NotSupported("memory encryption of which the tables and vmcoreinfo say different things")

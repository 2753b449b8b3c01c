"""/proc/PID/pagemap: one 64-bit entry per virtual page, and the PAGEMAP_SCAN ioctl on the same file.

Format: Documentation/admin-guide/mm/pagemap.rst; fs/proc/task_mmu.c. An entry is the kernel's account of a page,
not the page-table entry itself.

The upper byte of an entry says what the page is. We call it the page's *state byte*, and use its two bits that
the kernel leaves zero (59 and 60) for what the entry alone does not say: that the frame is the zero page, that a
"swap" entry is no swap slot, that an empty entry of shared memory is one that was swapped out. Everything above
this module works on strings of state bytes: one byte a page, counted and cut by the C loops of `bytes`.
"""

from __future__ import annotations

import errno
import sys
import time

from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableSequence

    from mematlas.kernel.directory import LiveFile, WordFile
    from mematlas.kernel.procfs import ProcessDir, ProcFS

ENTRY_SIZE = 8

PM_PFRAME = (1 << 55) - 1  # bits 0-54: the frame of a present page; 0 for a reader without CAP_SYS_ADMIN
PM_SWAP_TYPE = 0x1F  # bits 0-4 of a swapped one
PM_SWAP_OFFSET_SHIFT = 5  # bits 5-54
PM_SOFT_DIRTY = 1 << 55
PM_MMAP_EXCLUSIVE = 1 << 56
PM_UFFD_WP = 1 << 57
PM_GUARD_REGION = 1 << 58
PM_FILE = 1 << 61
PM_SWAP = 1 << 62
PM_PRESENT = 1 << 63

# The same bits in the state byte, and our two.
EXCLUSIVE = 0x01
UFFD_WP = 0x02
GUARD = 0x04
MARK_A = 0x08
MARK_B = 0x10
FILE = 0x20
SWAP = 0x40
PRESENT = 0x80
MARKS = MARK_A | MARK_B

# The bits of a page's use, which page tables alone report.
ACCESSED = 0x01
DIRTY = 0x02

ZERO = PRESENT | MARK_A
"""The entry maps the zero page, small or huge: present, and no memory of the process's own."""
SPECIAL = SWAP | MARK_A
"""Bit 62 without a swap slot: a migration, device, poison or marker entry."""
SWAPPED_FILE = MARK_A
"""Empty entry, but the shared memory behind it is in swap."""
CACHED = MARK_B
"""Empty entry, but the shared memory behind it is in RAM: this process has not touched it."""
BEHIND_MARKER = SWAP | MARK_B
"""A marker such as a guard region, and the shared memory behind it is in swap."""
UNKNOWN = MARK_A | MARK_B
"""Empty entry of shared memory whose file we may not query: never touched, cached or swapped."""

# Swap types from 23 up are no swap areas: the kernel takes the last few of its 32 for other entries
# (include/linux/swap.h, MAX_SWAPFILES: 1 for PTE markers, 1 for hwpoison, 3 for migration, 4 for device memory).
# The highest, 31, is the PTE marker (commit 679d10331910, v5.19); guard regions were markers only, without
# bit 58, from v6.13 to v6.15.
FIRST_SPECIAL_TYPE = 23
MARKER_TYPE = 31
# The bits of its offset (include/linux/swapops.h): PTE_MARKER_UFFD_WP, PTE_MARKER_POISONED, PTE_MARKER_GUARD.
MARKER_UFFD_WP = 1 << 0
MARKER_POISONED = 1 << 1
MARKER_GUARD = 1 << 2

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg); commit 52526ca7fdb9, v6.7
PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7  # commit e6a9a2cbc13b, v6.8
PAGE_IS_GUARD = 1 << 8  # commit a516403787e0, v6.16
# "mm/pagemap: add PAGE_IS_ACCESSED for RWP tracking", v7.3: of memory alone that its program has registered with
# userfaultfd for read-write protection (UFFDIO_REGISTER_MODE_RWP). It is no accessed bit of a page-table entry.
PAGE_IS_ACCESSED = 1 << 9
NR_CATEGORIES = 10
"""Those that have a name here. A kernel may know more: it accepts them, and refuses what it does not know."""

# Regions asked for in one call. With more than 512 the last call can return a walk_end below the end of the last
# region it returned (seen on 6.18: the kernel keeps that of its last bounce buffer), and pages count twice.
SCAN_REGIONS = 512

NOWHERE = 8
"""An address that nothing can be written to, in the page that the null pointer leads to."""

BLOCK_SIZE = 1 << 16
"""Bytes of entries read at a time: 8 to 64 KiB are equally fast, more no longer fits the cache."""
PACED_BLOCK_SIZE = 1 << 12
"""Bytes the kernel writes under one hold of the target's lock: the entries of a page table (PAGEMAP_WALK_SIZE, one PMD)
with pages of 4 KiB, a part of it with larger ones."""
SEEK_SPAN = 1 << 32
"""Addresses searched for the next page in one PAGEMAP_SCAN: empty page tables take 0.5 ms per GiB (pages of 4 KiB)."""

GAP = 64
"""Words between those that are asked for, of pages or of frames, that are cheaper read along than left out."""

NOTHING = bytes(BLOCK_SIZE // ENTRY_SIZE)

LAST_ADDRESS = 1 << 63
"""Above are [vsyscall] and the kernel, which pagemap does not show."""


class Pacer:
    """Lets the target run between reads.

    The kernel holds the target's mmap lock for some 20 us at a time, but takes it again at once for what is left of a
    read, so that whoever wants it for mmap, munmap or brk waits for the read's end. Pauses of four times the length of
    what was read give a busy target most of its speed back. Few long ones cost us less than many short ones, some 20 us
    of processor time each, whatever their length.
    """

    WORK = 400e-6
    """Seconds of reading between pauses: what the target may have to wait."""
    REST = 4.0
    ROOM = 0.4
    """What part of `WORK` a read may take for one of twice the size to be tried: that will take less than all of it."""
    MOST = 4e-3
    """Seconds that a read between pauses takes at the most: what took longer has waited, and not been waited for."""

    def __init__(self) -> None:
        self.used = 0.0
        self.most = BLOCK_SIZE
        """Bytes of entries to read at once, so that one read takes no longer than `WORK`."""

    def spend(self, seconds: float, size: int = 0) -> None:
        """Account for a read of this length, of so many bytes of entries; and sleep when it is time."""
        self.used += seconds
        if size > PACED_BLOCK_SIZE and seconds > self.WORK:
            # A power of two, though the last read of a VMA is of any size: blocks begin where tables do.
            self.most = max(PACED_BLOCK_SIZE, 1 << (size // 2).bit_length() - 1)
        elif size == self.most < BLOCK_SIZE and seconds < self.WORK * self.ROOM:
            self.most *= 2
        if self.used >= self.WORK:
            time.sleep(min(self.used, self.MOST) * self.REST)
            self.used = 0.0


class Entries:
    """The entries of pages, at least one of them not empty, with their state bytes."""

    __slots__ = ("_states", "kinds", "raw", "use")

    def __init__(self, raw: memoryview, states: bytes, use: bytes | None = None) -> None:
        self.raw = raw
        """The bytes of the entries, 8 a page."""
        self._states = states
        self.kinds = histogram(states)
        """How many pages have which state byte."""
        self.use = use
        """One byte a page: bit 0 is accessed, bit 1 dirty. Known from page tables; from pagemap None, unless what its
        program tracks was asked for (`PAGE_IS_ACCESSED`).
        """

    @property
    def states(self) -> bytes:
        """One state byte a page, with our marks."""
        return self._states

    @states.setter
    def states(self, states: bytes) -> None:
        self._states = states
        self.kinds = histogram(states)

    @property
    def entries(self) -> memoryview:
        """The entries as integers."""
        return self.raw.cast("Q")

    def __len__(self) -> int:
        return len(self._states)


class Block(Entries):
    """The entries of consecutive pages.

    They are those of the reader's one buffer, and change at the next block. Copy what you keep.
    """

    __slots__ = ("address", "huge")

    def __init__(self, address: int, raw: memoryview, states: bytes, use: bytes | None = None) -> None:
        super().__init__(raw, states, use)
        self.address = address
        self.huge: list[tuple[int, int]] | None = None
        """The ranges of indexes that huge entries map; None while that was not asked."""

    def end(self, page_size: int) -> int:
        """Return where the last page ends."""
        return self.address + len(self._states) * page_size


class Pagemap:
    """The pagemap of one process, read by block. Unpaced unless a `Pacer` is given.

    >>> import os
    >>> from mematlas.kernel.procfs import ProcFS
    >>> from mematlas.kernel.maps import read_maps
    >>> with ProcFS().process(os.getpid()) as process, Pagemap(process) as pagemap:
    ...     stack = next(vma for vma in read_maps(process) if vma.kind == "stack")
    ...     any(PRESENT & state for block in pagemap.blocks(stack.start, stack.end) for state in block.states)
    True
    """

    def __init__(self, process: ProcessDir, pacer: Pacer | None = None) -> None:
        self.process = process
        self.pacer = pacer
        self.page_size = process.procfs.page_size
        self.file: WordFile = process.open("pagemap")
        self.marked = not process.procfs.live
        """Whether the entries carry our marks already, as those of a capture do."""
        self.bytes = bytearray(BLOCK_SIZE)
        self.buffer = memoryview(self.bytes)
        self.can_scan = process.procfs.live
        self._scanner: Scanner | None = None

    def __enter__(self) -> Pagemap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def entry(self, address: int) -> int:
        """Return the entry of the page at an address; 0 above the addresses that pagemap shows."""
        word = memoryview(bytearray(ENTRY_SIZE))
        if address < LAST_ADDRESS:
            self._read(word, address // self.page_size * ENTRY_SIZE)
        return int.from_bytes(word, "little")

    def states(self, start: int, end: int) -> bytes:
        """Return the upper byte of each entry: one state byte a page, without our marks."""
        states = bytearray((end - start) // self.page_size)
        for block in self.blocks(start, end):
            first = (block.address - start) // self.page_size
            states[first : first + len(block)] = block.states
        return bytes(states)

    def ranges(self, start: int, end: int, any_of: int) -> list[tuple[int, int]]:
        """Return the ranges of pages in any of these categories, by PAGEMAP_SCAN.

        Raises:
            NotSupported: before Linux 6.7, and in captures.
            ProcessGone: the process ended, or runs another program now.
        """
        ranges = list(self.scanner.ranges(start, end, any_of))
        if not ranges:
            self.check()
        return ranges

    def shows(self, address: int) -> bool:
        """Whether entries of the VMA at an address are shown at all: those of VM_PFNMAP areas, of devices, are not.

        Raises:
            NotSupported: before Linux 6.7, and in captures.
        """
        is_shown = self.scanner.is_walked(address, address + self.page_size)
        if not is_shown:
            self.check()
        return is_shown

    def tells_accessed(self) -> bool:
        """Whether the kernel knows which pages were accessed that a program tracks: it refuses an unknown category."""
        try:
            self.scanner.first(0, self.page_size, PAGE_IS_ACCESSED)
        except NotSupported:
            return False
        return True

    def check(self) -> None:
        """Raise `ProcessGone` unless the address space is still that of a running process.

        PAGEMAP_SCAN fails there with ESRCH on one kernel, and finds nothing on another (both 6.18): a read shows it.
        """
        if not self.marked:
            self._read(memoryview(bytearray(ENTRY_SIZE)), 0)

    def frames(self, start: int, end: int) -> list[int]:
        """Return the frame of each page; 0 for one that is not present, and for all that the reader may not know."""
        frames = [0] * ((end - start) // self.page_size)
        for block in self.blocks(start, end):
            first = (block.address - start) // self.page_size
            frames[first : first + len(block)] = [
                entry & PM_PFRAME if entry & PM_PRESENT else 0 for entry in block.entries
            ]
        return frames

    def blocks(self, start: int, end: int, find: Callable[[int], int | None] | None = None) -> Iterator[Block]:
        """Yield the blocks of ``start`` to ``end`` that hold something, in order; holes are skipped, not walked.

        ``find`` names the next address at or after one that must be read though its entry may be empty.

        Raises:
            ProcessGone: the process ended, or runs another program now.
        """
        end = min(end, LAST_ADDRESS)
        page_size, buffer, data = self.page_size, self.buffer, self.bytes
        least = size = PACED_BLOCK_SIZE if self.pacer else BLOCK_SIZE
        address = start
        while address < end:
            # Cut at multiples of the size, which divides what one table maps, or is a multiple of it.
            span = size // ENTRY_SIZE * page_size
            nr_pages = (min(end, address - address % span + span) - address) // page_size
            raw = buffer[: nr_pages * ENTRY_SIZE]
            nr_read = self._read(raw, address // page_size * ENTRY_SIZE)
            states = bytes(data[7:nr_read:ENTRY_SIZE])
            after = address + len(states) * page_size
            empty = states == NOTHING[: len(states)]
            if not empty or (find and (asked := find(address)) is not None and asked < after):
                yield Block(address, raw[:nr_read], states)
            # Where the last page is empty, more may follow: a search costs as much as one read of nothing.
            if after < end and not states[-1]:
                address, size = self._next(after, end, find), least
            else:
                address, size = after, min(2 * size, self.pacer.most if self.pacer else BLOCK_SIZE)

    def set_tops(self, block: Block, tops: bytes) -> None:
        """Put other bytes in the place of the uppermost ones of the entries of a block, the one that was read last."""
        # Of the array itself this takes a tenth of the time that it takes of a view of it.
        self.bytes[7 : len(tops) * ENTRY_SIZE : ENTRY_SIZE] = tops

    def block(self, start: int, end: int) -> Block | None:
        """Return a block read in one go, even if it holds nothing; None if the read was cut short."""
        raw = self.buffer[: (end - start) // self.page_size * ENTRY_SIZE]
        if self._read(raw, start // self.page_size * ENTRY_SIZE) < len(raw):
            return None
        return Block(start, raw, bytes(raw[7::ENTRY_SIZE]))

    def _next(self, address: int, end: int, find: Callable[[int], int | None] | None) -> int:
        """Return where to read on after an empty page: the next that is anything, or the end."""
        if self.can_scan and find is None:
            return self.seek(address, end)
        after = end
        if not self.process.procfs.live:
            offset = self.file.next_data(address // self.page_size * ENTRY_SIZE)
            after = end if offset is None else offset // ENTRY_SIZE * self.page_size
        elif self.can_scan:
            after = self.seek(address, end)
        else:
            after = address
        if find and (asked := find(address)) is not None:
            after = min(after, asked)
        return min(after, end)

    def seek(self, address: int, end: int) -> int:
        """Return the first page that is present or swapped, by PAGEMAP_SCAN, or the end; ``address`` where there is no
        such search.
        """
        while address < end:
            until = min(end, address + SEEK_SPAN)
            try:
                # What is loaded for it is not the target's to rest from.
                scanner = self._scanner or self.scanner
                before = time.perf_counter()
                first = scanner.first(address, until, PAGE_IS_PRESENT | PAGE_IS_SWAPPED)
            except NotSupported:
                self.can_scan = False
                return address
            if self.pacer:
                self.pacer.spend(time.perf_counter() - before)
            if first is not None:
                return first
            address = until
        self.check()
        return end

    def _read(self, buffer: memoryview, offset: int) -> int:
        if self.pacer is None:
            nr_read = self.file.read_into(buffer, offset)
        else:
            before = time.perf_counter()
            nr_read = self.file.read_into(buffer, offset)
            self.pacer.spend(time.perf_counter() - before, len(buffer))
        if nr_read == 0:
            # The file holds the address space it was opened on; it reads as empty once nobody runs in that.
            raise self._gone()
        return nr_read

    def _gone(self) -> ProcessGone:
        """Return the error for an address space that is no more."""
        why = "ended" if self.process.is_ending() else "runs another program now"
        return ProcessGone(self.process.pid, why)

    @property
    def scanner(self) -> Scanner:
        """PAGEMAP_SCAN on this file. Raises `NotSupported` when used on a kernel or capture without it."""
        if self._scanner is None:
            self._scanner = Scanner(self.live_file.fd, self._gone)
        return self._scanner

    @property
    def live_file(self) -> LiveFile:
        """The file of a running process. Raises `NotSupported` of a capture."""
        from mematlas.kernel.directory import LiveFile

        if not isinstance(self.file, LiveFile):
            raise NotSupported("PAGEMAP_SCAN", "a running process, not a capture")
        return self.file


def frames_hidden(directory: str) -> PermissionDenied:
    """Return the error for the pagemap in the directory of a process that shows us no frame numbers."""
    return PermissionDenied(f"{directory}/pagemap", "CAP_SYS_ADMIN", text="CAP_SYS_ADMIN for frame numbers")


def has_soft_dirty(procfs: ProcFS) -> bool | None:
    """Whether the kernel reports which pages were written to since a moment: it says so of a page of ours.

    CONFIG_MEM_SOFT_DIRTY, of Debian's, Ubuntu's and Fedora's kernels. None where it cannot be asked. Of a capture, what
    was found out when it was made.
    """
    if procfs.machine is not None:
        recorded: bool | None = procfs.machine.get("soft_dirty")
        return recorded
    fresh = bytearray(1)
    offset = id(fresh) // procfs.page_size * ENTRY_SIZE
    word = bytearray(ENTRY_SIZE)
    try:
        file = procfs.open("self/pagemap")
    except Error:
        return None
    try:
        if file.read_into(memoryview(word), offset) < ENTRY_SIZE:
            return None
    except Error:
        return None
    finally:
        file.close()
    return bool(int.from_bytes(word, sys.byteorder) & PM_SOFT_DIRTY)


class Scanner:
    """The PAGEMAP_SCAN ioctl: ranges of pages that match, found by the kernel without writing an entry for each."""

    def __init__(self, fd: int, gone: Callable[[], ProcessGone]) -> None:
        """``gone`` returns the error for where the address space is no more."""
        from fcntl import ioctl

        self.ioctl: Callable[[int, int, memoryview], int] = ioctl
        self.fd = fd
        self.gone = gone
        self.address = NOWHERE
        """Where the kernel writes what it finds."""
        self.regions: MutableSequence[int] = []
        self.words = memoryview(bytes(ENTRY_SIZE)).cast("Q")
        # struct pm_scan_arg, twelve u64: size, flags, start, end, walk_end, vec, vec_len, max_pages,
        # category_inverted, category_mask, category_anyof_mask, return_mask.
        self.argument = memoryview(bytearray(96)).cast("Q")

    def first(self, start: int, end: int, any_of: int) -> int | None:
        """Return the address of the first page in any of these categories; None when there is none."""
        nr_regions = self._call(start, end, any_of, 1, 1)
        return self.regions[0] if nr_regions else None

    def is_walked(self, start: int, end: int) -> bool:
        """Whether the kernel looks at the page there: when any will do, only those of VM_PFNMAP areas are passed over
        (fs/proc/task_mmu.c, pagemap_scan_test_walk).
        """
        return self._call(start, end, 0, 1, 1) > 0

    def ranges(self, start: int, end: int, any_of: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of pages in any of these categories, ascending.

        One call is one hold of the target's lock, 15 ns a page: give it small ranges when that matters.
        """
        while start < end:
            nr_regions = self._call(start, end, any_of, SCAN_REGIONS, 0)
            regions = self.regions[: 3 * nr_regions]
            yield from zip(regions[::3], regions[1::3], strict=True)
            if nr_regions < SCAN_REGIONS:
                return
            start = max(self.argument[4], regions[-2])

    def regions_of(
        self, start: int, end: int, any_of: int, reported: int, nr_regions: int, nr_pages: int
    ) -> tuple[memoryview, int]:
        """Return the first regions of pages in any of some categories, and where to go on.

        A region is three words: its start, its end, and those of the categories in ``reported``. There are at most so
        many, and no more than `SCAN_REGIONS`, with so many pages; they hold until the next call.
        """
        size = 3 * self._call(start, end, any_of, nr_regions, nr_pages, reported)
        walked = self.argument[4]
        is_done = walked >= end or not size
        return self.words[:size], end if is_done else max(walked, self.words[size - 2])

    def _call(self, start: int, end: int, any_of: int, nr_regions: int, max_pages: int, reported: int = 0) -> int:
        argument = self.argument
        argument[0], argument[2], argument[3] = 96, start, end
        argument[10], argument[11] = any_of, reported or any_of or PAGE_IS_PRESENT
        try:
            if self.address == NOWHERE:
                if self._finds_nothing():
                    return 0
                self.make_room()
            argument[5], argument[6], argument[7] = self.address, nr_regions, max_pages
            return self.ioctl(self.fd, PAGEMAP_SCAN, argument)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise self.gone() from None
            raise NotSupported("PAGEMAP_SCAN", "Linux 6.7") from None

    def _finds_nothing(self) -> bool:
        """Whether there is nothing to find, which is so of most that small processes are asked: no memory is needed to
        be told that. Where there is something, the kernel stops at the first page, which it cannot write down.
        """
        self.argument[5], self.argument[6], self.argument[7] = NOWHERE, 1, 1
        try:
            return self.ioctl(self.fd, PAGEMAP_SCAN, self.argument) == 0
        except OSError as error:
            if error.errno == errno.EFAULT:
                return False
            raise

    def make_room(self) -> None:
        """Get the memory that regions are written to."""
        self.regions, self.address = words_with_address(3 * SCAN_REGIONS)
        view = memoryview(self.regions)  # type: ignore[arg-type]  # an array of ctypes
        self.words = view.cast("B").cast("Q")


def words_with_address(number: int) -> tuple[MutableSequence[int], int]:
    """Return so many words of 64 bits, and where they lie.

    As an array of `ctypes` would be, without what the rest of that module takes to load, 1.2 ms; this takes 0.5.
    """
    from _ctypes import Array, _SimpleCData, addressof

    word = type("Word", (_SimpleCData,), {"_type_": "L"})
    words = type("Words", (Array,), {"_type_": word, "_length_": number})()
    return words, addressof(words)


def histogram(states: bytes) -> dict[int, int]:
    """Return how often each byte value occurs: few values occur, so each costs one pass in C.

    >>> histogram(bytes((0x81, 0x81, 0x00)))
    {129: 2, 0: 1}
    """
    counts: dict[int, int] = {}
    while states:
        first = states[:1]
        if states == first * len(states):  # nearly always so, and seven times as fast to see
            counts[first[0]] = len(states)
            break
        rest = states.translate(None, first)
        counts[first[0]] = len(states) - len(rest)
        states = rest
    return counts


def to_marks(wanted: frozenset[int] | set[int]) -> bytes:
    """Return a translation table: 1 for the bytes wanted, 0 for all others."""
    return bytes(value in wanted for value in range(256))


def to_marks_of_bits(mask: int, bits: int) -> bytes:
    """Return such a table for the bytes that have, of the bits in ``mask``, just these: quickly, for each start."""
    return bytes([byte & mask == bits for byte in range(256)])


IS_PRESENT = to_marks_of_bits(PRESENT, PRESENT)
IS_SHARED = to_marks_of_bits(PRESENT | MARK_A | EXCLUSIVE, PRESENT)
"""Resident and mapped more than once."""
IS_SWAP = to_marks_of_bits(SWAP | PRESENT, SWAP)
HAS_SPECIAL_TYPE = bytes([byte & PM_SWAP_TYPE >= FIRST_SPECIAL_TYPE for byte in range(256)])


def mark_special(states: bytes, raw: memoryview) -> bytes:
    """Return the states with `SPECIAL` marked: entries with bit 62 whose type is no swap area's.

    ``raw`` are the entries' bytes; the lowest of each holds the swap type. Both strings are taken as one large
    number each, so that the selection is one AND over all pages.
    """
    types = bytes(raw[::ENTRY_SIZE]).translate(HAS_SPECIAL_TYPE)
    special = int.from_bytes(states.translate(IS_SWAP), "little") & int.from_bytes(types, "little")
    if not special:
        return states
    marked = bytearray(states)
    entries = raw.cast("Q")
    index = -1
    where = special.to_bytes(len(states), "little")
    while (index := where.find(1, index + 1)) >= 0:
        # Before v6.15 (commit 8e2f2aeb8b48) no bit of pagemap says that a marker is a guard region.
        marked[index] |= MARK_A | (GUARD if is_guard_marker(entries[index]) else 0)
    return bytes(marked)


def is_guard_marker(entry: int) -> bool:
    """Whether the entry is a marker that says "guard region"."""
    offset = (entry & PM_PFRAME) >> PM_SWAP_OFFSET_SHIFT
    return entry & PM_SWAP_TYPE == MARKER_TYPE and bool(offset & MARKER_GUARD)

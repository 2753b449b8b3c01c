"""What the file behind a shared mapping knows about pages that the page table does not have.

When the kernel swaps out a page of shared memory (shared anonymous, memfd, tmpfs) it clears the page-table entry:
pagemap reads 0, as if the page had never been touched. The file knows better. It is reached through
/proc/PID/map_files/START-END (proc_pid_map_files(5)), and asked with cachestat(2) or, before that, mincore(2).
Neither touches the target's locks or pages.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.cachestat import FOWNER, OWNER_OR_WRITER, cachestat_counts, call_mincore, may_see
from mematlas.kernel.directory import translate_error
from mematlas.kernel.pagemap import CACHED, GUARD, MARK_A, MARK_B, PRESENT, SWAP, SWAPPED_FILE, UFFD_WP
from mematlas.kernel.tree import reopened
from mematlas.kernel.vmfile import KIND_OF_MAGIC, NOBODY_ANSWERS, LiveFiles, magic_of
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir

    Part = tuple[int, int, int]
    """Where it begins and ends, and its mark."""

MINCORE_PAGES = 1 << 16
SWAP_CACHE_UNSEEN = Note(
    "swap-cache-unseen",
    "shared memory in the swap cache counts as RAM, not as swap: telling them apart needs cachestat, Linux 6.5",
)


def table_of(mark: int, markers: bool) -> bytes:
    """Return what becomes of each state byte of shared memory for which the file says this."""
    table = bytearray(range(256))
    table[0] = mark
    for byte in range(256) if markers else ():
        is_marked = byte & (SWAP | PRESENT | MARK_A) == SWAP | MARK_A
        is_guard = byte & (SWAP | PRESENT | GUARD) == SWAP | GUARD
        if not is_marked and not is_guard:
            continue
        if byte & UFFD_WP and not byte & GUARD:
            table[byte] = byte & ~(SWAP | MARK_A) | mark  # the marker keeps the protection alone
        elif mark == SWAPPED_FILE:
            table[byte] = byte | MARK_B  # of a guard region or a poisoned page, what is behind it
    return bytes(table)


ALONE = tuple(table_of(mark * MARK_A, False) for mark in range(4))
"""For empty entries: by what the file says, `SWAPPED_FILE`, `CACHED` or, where it may not be asked, `UNKNOWN`."""
BEHIND_MARKERS = tuple(table_of(mark * MARK_A, True) for mark in range(4))
"""The same for markers too, which stand in the place of what is in shared memory all the same."""


def tables_for(vma: Vma) -> Sequence[bytes]:
    """Return which entries of a VMA say nothing of the page; smaps takes them likewise (smap_gather_stats)."""
    return BEHIND_MARKERS if vma.perms[3:] == "s" or "w" not in vma.perms else ALONE


class Backing:
    """The pages of one mapping that its file holds, in RAM or in swap: ranges of addresses, ascending."""

    def __init__(self, ranges: list[tuple[int, int, int]], note: Note | None = None) -> None:
        self.ranges = ranges
        """(start, end, mark): `SWAPPED_FILE` or `CACHED`, for a page whose entry is empty."""
        self.note = note
        """What is uncertain in this."""
        self.ends = [end for _, end, _ in ranges]

    def moved(self, by: int) -> Backing:
        """Return the same for a mapping that lies elsewhere."""
        return Backing([(start + by, end + by, mark) for start, end, mark in self.ranges], self.note)

    def find(self, address: int) -> int | None:
        """Return the first address at or after this one that the file holds."""
        index = bisect_right(self.ends, address)
        return max(address, self.ranges[index][0]) if index < len(self.ranges) else None

    def mark(self, address: int, states: bytes, page_size: int, tables: Sequence[bytes] = ALONE) -> bytes:
        """Return the states of a block with those marked that say nothing of a page, where the file holds it.

        ``tables`` say which these are, and what of them becomes: `ALONE` or `BEHIND_MARKERS`.
        """
        marked = bytearray(states)
        end = address + len(states) * page_size
        for index in range(bisect_right(self.ends, address), len(self.ranges)):
            start, stop, mark = self.ranges[index]
            if start >= end:
                break
            low = (max(start, address) - address) // page_size
            high = (min(stop, end) - address) // page_size
            marked[low:high] = marked[low:high].translate(tables[mark // MARK_A])
        return bytes(marked)


class Backings:
    """What the files behind the shared memory of a process hold, each asked once."""

    def __init__(self, process: ProcessDir, cached: bool = True) -> None:
        self.process = process
        self.cached = cached
        """Whether `of` tells what is in RAM without an entry from what was never touched."""
        self.unknown: dict[int, str] = {}
        """Why it is unknown what some of them hold, by the start of their VMA."""
        self.uncertain: set[Note] = set()
        """What is uncertain in the answers."""
        self._asked: dict[int, Backing | None] = {}
        self._files: LiveFiles | None = LiveFiles(process) if process.procfs.live else None

    def __contains__(self, vma: Vma) -> bool:
        return vma.start in self._asked

    def of(self, vma: Vma) -> Backing | None:
        """Return what the file of a VMA holds of it; None where it may not be asked."""
        if vma not in self:
            self._asked[vma.start] = self.part(vma, vma.start, vma.end, self.cached)
        return self._asked[vma.start]

    def of_run(self, run: list[Vma]) -> Backing | None:
        """Return what the one file of VMAs that lie side by side holds of all of them, for `of` the first too."""
        first = run[0]
        backing = self.part(first, first.start, run[-1].end, self.cached)
        if backing is not None:
            self._asked[first.start] = backing
        return backing

    def notes(self) -> list[Note]:
        """Return what is not known, and what is uncertain, and why."""
        notes = list(self.uncertain)
        if self.unknown:
            reasons = list(self.unknown.values())
            vmas = "a shared VMA" if len(reasons) == 1 else f"{len(reasons)} shared VMAs"
            text = f"swapped and untouched pages of {vmas} unknown: {reasons[0]}"
            notes.insert(0, Note("backing-unknown", text))
        return notes

    def part(self, vma: Vma, start: int, end: int, cached: bool = True) -> Backing | None:
        """Return what it holds of a part, as it is at this moment; None where it may not be asked."""
        if self._files and self._files.is_silent(f"{vma.start:x}-{vma.end:x}", vma.dev):
            self.unknown[vma.start] = NOBODY_ANSWERS
            return None
        try:
            backing = read_backing(self.process, vma, start=start, end=end, cached=cached)
        except (PermissionDenied, NotSupported) as error:
            self.unknown[vma.start] = str(error)
            return None
        # Of an ordinary file nothing is in swap.
        if backing.note and backing.ranges and vma.kind == "shmem":
            self.uncertain.add(backing.note)
        return backing


class HoleBackings(Backings):
    """The same for a process of which it is known where it has an entry for each page: of these no file is asked, which
    takes longer than reading their entries.
    """

    def __init__(
        self, process: ProcessDir, cached: bool, holes_of: Callable[[int, int], Sequence[tuple[int, int]]]
    ) -> None:
        """``holes_of`` returns where, from one address to another, pages may have no entry that maps memory."""
        super().__init__(process, cached)
        self._holes_of = holes_of

    def of(self, vma: Vma) -> Backing | None:
        """Return what the file of a VMA holds where there may be no entries; None where it may not be asked."""
        if vma not in self:
            self._asked[vma.start] = self._of_holes(vma)
        return self._asked[vma.start]

    def _of_holes(self, vma: Vma) -> Backing | None:
        ranges: list[Part] = []
        note = None
        for start, end in self._holes_of(vma.start, vma.end):
            backing = self.part(vma, start, end, self.cached)
            if backing is None:
                return None
            ranges += backing.ranges
            note = note or backing.note
        return Backing(ranges, note)


class KnownBackings(Backings):
    """The same for one of several processes that map the same files: each part of a file is asked about once."""

    def __init__(self, process: ProcessDir, known: dict[tuple[str, int, int, int], Backing]) -> None:
        """``known`` is theirs together: it fills, with what files have in swap."""
        super().__init__(process, cached=False)
        self._known = known

    def part(self, vma: Vma, start: int, end: int, cached: bool = False) -> Backing | None:
        """Return what it has in swap of a part; None where it may not be asked."""
        offset = vma.offset + start - vma.start
        key = (vma.dev, vma.inode, offset, end - start)
        known = self._known.get(key)
        if known is None:
            backing = super().part(vma, start, end, cached=False)
            if backing is not None:
                self._known[key] = backing.moved(offset - start)
            return backing
        if known.note and known.ranges:
            self.uncertain.add(known.note)
        return known.moved(start - offset)


def read_backing(
    process: ProcessDir,
    vma: Vma,
    start: int | None = None,
    end: int | None = None,
    cached: bool = True,
) -> Backing:
    """Return what the file behind a mapping holds of it, or of the part from ``start`` to ``end``.

    Without ``cached`` only what is in swap is looked for, which is one question where nothing is.

    Raises:
        PermissionDenied: following map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        NotSupported: a capture, or a kernel with neither way to ask.
    """
    if not process.procfs.live:
        raise NotSupported("map_files", "a running process, not a capture")
    shift = vma.start - vma.offset
    low = (vma.start if start is None else start) - shift
    size = (vma.end if end is None else end) - shift - low
    parts, is_certain = process.procfs.ask(parts_of_file, process, f"{vma.start:x}-{vma.end:x}", low, size, cached)
    note = None if is_certain else SWAP_CACHE_UNSEEN
    return Backing([(low + shift, high + shift, mark) for low, high, mark in parts], note)


def parts_of_file(process: ProcessDir, span: str, offset: int, size: int, cached: bool) -> tuple[list[Part], bool]:
    """Return which parts of a file that a process maps are in RAM or in swap, and whether these two are told apart."""
    fd = open_behind(process, f"map_files/{span}")
    page_size = process.procfs.page_size
    try:
        try:
            if KIND_OF_MAGIC.get(magic_of(fd) or 0) == "stacked":
                # What is mapped is in the page cache of a file below, of which cachestat knows nothing.
                raise NotSupported("cachestat", "a file of a single file system")
            return cachestat_ranges(fd, offset, size, page_size, call_cachestat, cached), True
        except (NotSupported, PermissionDenied):
            return mincore_ranges(fd, offset, size, page_size), False
    finally:
        os.close(fd)


def open_behind(process: ProcessDir, link: str) -> int:
    """Return a descriptor of the file that a link of a process leads to.

    Raises:
        NotSupported: it is no regular file. To open a device may do something, and to open a FIFO wakes whoever waits.
        PermissionDenied: links of map_files take CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
    """
    place = process.open_fd(link, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise NotSupported(f"{process.path}/{link}", "a regular file behind it")
        return reopened(place)
    except OSError as error:
        raise translate_error(error, f"{process.path}/{link}", process.pid) from None
    finally:
        os.close(place)


def cachestat_ranges(
    fd: int, offset: int, size: int, page_size: int, cachestat: Callable[..., tuple[int, int]], cached: bool = True
) -> list[Part]:
    """Return the parts of a shmem file that are in RAM or in swap, by halving until each part is all one thing.

    cachestat counts the pages of a range; those of shared memory that are in swap count as evicted.
    """
    ranges: list[Part] = []
    todo = [(offset, offset + size)]
    while todo:
        low, high = todo.pop()
        nr_cached, nr_evicted = cachestat(fd, low, high - low)
        nr_pages = (high - low) // page_size
        if nr_evicted == 0 and not (cached and nr_cached):
            continue
        if max(nr_cached, nr_evicted) >= nr_pages or nr_pages == 1:
            mark = SWAPPED_FILE if nr_evicted else CACHED
            if ranges and ranges[-1][1:] == (low, mark):
                ranges[-1] = (ranges[-1][0], high, mark)
            else:
                ranges.append((low, high, mark))
            continue
        middle = low + nr_pages // 2 * page_size
        todo += [(middle, high), (low, middle)]
    return ranges


def call_cachestat(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Return how many pages of a range are in the page cache, and how many were evicted from it."""
    nr_cached, _, _, nr_evicted, _ = cachestat_counts(fd, offset, size)
    return nr_cached, nr_evicted


def pages_of_link(process: ProcessDir, link: str) -> tuple[int, int]:
    """Return the same of all of a file that a link of a process leads to."""
    fd = open_behind(process, link)
    try:
        return call_cachestat(fd, 0, 0)
    finally:
        os.close(fd)


def resident_pages(process: ProcessDir, span: str, offset: int, size: int) -> bytes:
    """Return a byte for each page of a part of a file that a process maps: bit 0 is set when it is in RAM.

    Raises:
        PermissionDenied: to others than its owner and writers mincore says that every page is in RAM.
    """
    fd = open_behind(process, f"map_files/{span}")
    try:
        if not may_see(fd):
            raise PermissionDenied("mincore", FOWNER, text=OWNER_OR_WRITER)
        return call_mincore(fd, offset, size, process.procfs.page_size)
    finally:
        os.close(fd)


def has_cachestat() -> bool:
    """Whether swapped shared pages are distinguished from those on their way there: known from a file of ours."""
    try:
        fd = os.memfd_create("mematlas", os.MFD_CLOEXEC)
    except OSError as error:
        raise translate_error(error, "memfd_create") from None
    try:
        call_cachestat(fd, 0, 1)
    except (NotSupported, PermissionDenied):
        return False
    finally:
        os.close(fd)
    return True


def mincore_ranges(fd: int, offset: int, size: int, page_size: int) -> list[Part]:
    """Return the same by SEEK_DATA (what exists) and mincore (what of it is in RAM), for kernels before v6.5.

    A page on its way to swap or back that lies in the swap cache counts as in RAM here.
    """
    if not may_see(fd):
        raise PermissionDenied("mincore", FOWNER, text=OWNER_OR_WRITER)
    ranges: list[Part] = []
    for low, high in data_ranges(fd, offset, offset + size):
        low -= low % page_size
        for part in range(low, high, MINCORE_PAGES * page_size):
            end = min(high, part + MINCORE_PAGES * page_size)
            for index, resident in enumerate(call_mincore(fd, part, end - part, page_size)):
                at = part + index * page_size
                mark = CACHED if resident & 1 else SWAPPED_FILE
                if ranges and ranges[-1][1:] == (at, mark):
                    ranges[-1] = (ranges[-1][0], at + page_size, mark)
                else:
                    ranges.append((at, at + page_size, mark))
    return ranges


def data_ranges(fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of a file that hold data: lseek(2), SEEK_DATA and SEEK_HOLE."""
    ranges = []
    try:
        while start < end:
            low = os.lseek(fd, start, os.SEEK_DATA)
            start = os.lseek(fd, low, os.SEEK_HOLE)
            if low < end:
                ranges.append((low, min(start, end)))
    except OSError:
        pass  # ENXIO: nothing but holes up to the end of the file
    return ranges

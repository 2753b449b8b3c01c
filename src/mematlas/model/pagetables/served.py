"""Page tables for a front end without rights: what answers its questions, in a worker of `mematlas.kernel.broker`.

It holds kernel memory, and the address spaces that it was asked about. It walks their tables by itself, and hands over
copies of pages that are proven to have been tables while they were read (`mematlas.model.pagetables.proof`): whoever
asks may have a process that changes its tables all the time, so that what was one is another page by then. What
asks is in `mematlas.model.pagetables.lent` and `lent_counts`.
"""

from __future__ import annotations

import os

from mematlas.errors import NotSupported
from mematlas.frozen import record
from mematlas.kernel.memory.countmap import NR_WORDS
from mematlas.kernel.memory.x86 import PAGE_SHIFT, TABLE_BITS
from mematlas.kernel.procfs import ProcessDir
from mematlas.model.pagetables.count_access import CountAccess, CountedTables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from mematlas.arrays import Bytes, Words
    from mematlas.kernel.broker import ServedFS
    from mematlas.kernel.memory.pinned import PinnedMm
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.model.pagetables.walk import Span, TableLevel, WalkStep
    from mematlas.notes import Note

LEVEL_SHIFTS = range(PAGE_SHIFT + TABLE_BITS, PAGE_SHIFT + 4 * TABLE_BITS, TABLE_BITS)
"""Of the levels that may hold huge leaves, and those above."""
MOST_HELD = 64
"""Address spaces that a worker holds."""


@record
class Facts:
    """What a front end has to know of kernel memory to make sense of tables."""

    name: str
    levels: int
    phys_bits: int
    memory_end: int
    mode: PagingMode
    kernel: KernelFacts | None
    """What is shown of the kernel's own half, where that was asked for."""


@record
class KernelFacts:
    """Where things lie in the kernel's half of the address space."""

    base: int
    vmcoreinfo: dict[str, int | str]
    layout: dict[str, int]
    ram: Any
    struct_pages: int | None


@record
class PackedWalk:
    """What of a walk is not known to who asked for it."""

    entries: tuple[Words, ...]
    """Of each level, a row for each table."""
    places: Words
    """Of each level the addresses, and then the tables."""
    rights: Bytes
    """Of the tables of all levels."""
    torn: tuple[Span, ...]
    nr_retries: int

    def levels(self) -> Iterator[TableLevel]:
        """Yield the levels, from the top one on."""
        from mematlas.model.pagetables.walk import TableLevel  # with numpy, which who counts tables does without

        at = 0
        for number, entries in enumerate(self.entries):
            end = at + len(entries)
            addresses, tables = self.places[2 * at : at + end], self.places[at + end : 2 * end]
            yield TableLevel(number, addresses, tables, entries, self.rights[at:end])
            at = end


_accesses: dict[str, PageTableAccess] = {}
"""What tables are read with, by the reader that was asked for."""
_held: dict[int, tuple[PageTableAccess, PinnedMm]] = {}
_walked: dict[int, tuple[Words, ...]] = {}
"""Where the tables are that were handed over last, of each address space that is held: those that may have huge leaves,
and those above, but for the top one.
"""
_counts: list[CountAccess] = []
_counted: dict[int, CountedTables] = {}


def open_tables(procfs: ServedFS, reader: str) -> Facts:
    """Open kernel memory with a reader; return what is to be known of it."""
    access = access_of(procfs, reader)
    memory = access.memory
    kernel = None
    if procfs.grant.has_kernel:
        kernel = KernelFacts(
            base=memory.base,
            vmcoreinfo=memory.vmcoreinfo,
            layout={"page": memory.layout["page"]},
            ram=memory.ram,
            struct_pages=getattr(access.frames, "base", None),
        )
    return Facts(memory.name, memory.levels, memory.phys_bits, memory.memory_end, access.mode, kernel)


def access_of(procfs: ProcFS, reader: str) -> PageTableAccess:
    """Return what tables are read with, opened once."""
    from mematlas.model.pagetables.access import open_access

    if reader not in _accesses:
        _accesses[reader] = open_access(procfs, reader)
    return _accesses[reader]


def prove_frames(procfs: ServedFS, reader: str) -> Note | None:
    """Find what tells of frames, and prove it; return what is to be said about that."""
    access = access_of(procfs, reader)
    _ = access.frames
    return access.note


def hold_tables(process: ProcessDir, reader: str) -> tuple[int, int, int | None]:
    """Hold the address space of a process; return a number for it, and where its top tables are."""
    access = access_of(process.procfs, reader)
    if len(_held) >= MOST_HELD:
        raise NotSupported(f"more than {MOST_HELD} address spaces at once")
    mm = access.memory.open_mm(process.tid, process)
    number = new_number(_held)
    _held[number] = access, mm
    return number, mm.pgd, access.memory.user_pgd(mm.pgd)


def new_number(taken: Collection[int]) -> int:
    """Return a number for what is held, which is nobody's in another worker."""
    return next(number for number in range(os.getpid() << 8, (os.getpid() << 8) + MOST_HELD) if number not in taken)


def held(number: int) -> tuple[PageTableAccess, PinnedMm]:
    """Return an address space that is held."""
    if number not in _held:
        raise NotSupported(f"address space {number}")
    return _held[number]


def release_tables(procfs: ServedFS, number: int) -> None:
    """Let go of an address space."""
    _, mm = held(number)
    del _held[number]
    _walked.pop(number, None)
    mm.close()


def are_tables_current(procfs: ServedFS, number: int) -> bool:
    """Return whether an address space is still that of its process."""
    access, mm = held(number)
    return access.memory.is_current(mm)


def walk_tables(procfs: ServedFS, number: int, user_copy: bool, first: int, last: int, nr_levels: int) -> PackedWalk:
    """Return the tables of a range, down to a level: its first and last address are given."""
    from mematlas.arrays import np
    from mematlas.model.pagetables.proof import prove

    access, pgd = may_walk(procfs, number, user_copy, last)
    if first > last:
        raise NotSupported("a range that ends before it begins")
    nr_levels = min(nr_levels, access.memory.levels)
    found = prove(access.memory, access.mode, pgd, (first, last), nr_levels, procfs.areas.offer())
    if not procfs.grant.has_kernel and access.mode.shared_tables:
        # Where the kernel's own tables are tells where it lies.
        top = found.levels[0].entries
        top[:, top.shape[1] // 2 :] = 0
    _walked[number] = tuple(one.tables for one in found.levels[1 : len(access.mode.levels) - 1])
    # Few arrays: to send one takes as long as to read some tables.
    places = np.concatenate([column for one in found.levels for column in (one.addresses, one.tables)])
    rights = np.concatenate([one.rights for one in found.levels])
    return PackedWalk(tuple(one.entries for one in found.levels), places, rights, found.torn, found.nr_retries)


def walk_to_address(procfs: ServedFS, number: int, user_copy: bool, address: int) -> tuple[WalkStep, ...]:
    """Return how one address is translated."""
    from mematlas.model.pagetables.proof import prove_address

    access, pgd = may_walk(procfs, number, user_copy, address)
    return prove_address(access.memory, access.mode, pgd, address)


def may_walk(procfs: ServedFS, number: int, user_copy: bool, last: int) -> tuple[PageTableAccess, int]:
    """Return what an address space is walked with, and its top table.

    Raises:
        NotSupported: the range is the kernel's, and that was not asked for at the start.
    """
    access, mm = held(number)
    if last >= access.mode.user_end and not procfs.grant.has_kernel:
        raise NotSupported("the kernel's half of the tables", "to be asked for at the start")
    pgd = access.memory.user_pgd(mm.pgd) if user_copy else mm.pgd
    if pgd is None:
        raise NotSupported("a separate top table for user space", "page-table isolation (pti=on)")
    return access, pgd


def count_maps(procfs: ServedFS, reader: str, pfns: bytes) -> tuple[bytes, int]:
    """Return how often frames are mapped, proven beside the kernel's own files; and how much was read for it so far."""
    access, words = access_of(procfs, reader), words_of(pfns)
    return access.map_counts(words).tobytes(), access.frames.nr_read


def count_maps_alone(procfs: ServedFS, reader: str, pfns: bytes) -> tuple[bytes, int]:
    """Return the same without that proof."""
    frames = access_of(procfs, reader).frames
    return frames.map_counts(words_of(pfns)).tobytes(), frames.nr_read


def find_anonymous(procfs: ServedFS, reader: str, pfns: bytes) -> bytes:
    """Return which frames belong to no file, a byte for each."""
    return access_of(procfs, reader).frames.are_anonymous(words_of(pfns)).tobytes()


def find_pinned(procfs: ServedFS, reader: str, pfns: bytes) -> bytes | None:
    """Return which frames are pinned, a byte for each; None where that is unknown."""
    from mematlas.kernel.memory.structpage import StructPages

    frames = access_of(procfs, reader).frames
    pinned = frames.are_pinned(words_of(pfns)) if isinstance(frames, StructPages) else None
    return None if pinned is None else pinned.tobytes()


def count_shares(procfs: ServedFS, reader: str, tables: bytes) -> bytes:
    """Return how many more processes tables are part of, of those that were handed over: -1 for any other.

    What lies in the place of that number in other struct pages may be half an address.
    """
    from mematlas.arrays import np
    from mematlas.kernel.memory.structpage import UNKNOWN_COUNT

    asked = words_of(tables)
    given = np.concatenate([np.empty(0, np.uint64), *(some for walked in _walked.values() for some in walked)])
    counts = access_of(procfs, reader).frames.table_shares(asked)
    return np.where(np.isin(asked, given), counts, np.int32(UNKNOWN_COUNT)).tobytes()


def words_of(data: bytes) -> Words:
    """Return numbers of 64 bits that were sent."""
    from mematlas.arrays import np

    return np.frombuffer(data, np.uint64)


def open_counts(procfs: ServedFS) -> tuple[int, int]:
    """Load what counts tables in the kernel; return how many levels there are, and the second bit of dirty entries."""
    counts = counts_of(procfs)
    return counts.levels, counts.dirty_shift


def counts_of(procfs: ProcFS) -> CountAccess:
    """Return what tables are counted with, loaded once; a child of the front end has a worker of its own.

    Raises:
        NotSupported: what it says of pages that were tables a moment ago could be of anything.
    """
    if not _counts:
        access = CountAccess(procfs)
        if not access.program.is_one_section:
            access.close()
            raise NotSupported("counting tables for who has no rights", "programs of BPF that run under RCU")
        _counts.append(access)
    return _counts[0]


def renew_layout(procfs: ServedFS) -> None:
    """Have offsets that turned out wrong found anew the next time."""
    counts_of(procfs).distrust()


def hold_counted(process: ProcessDir) -> int:
    """Hold the tables of a process to be counted; return a number for them."""
    if len(_counted) >= MOST_HELD:
        raise NotSupported(f"more than {MOST_HELD} address spaces at once")
    number = new_number(_counted)
    # What we were given is closed when others are asked about.
    _counted[number] = counts_of(process.procfs).hold(ProcessDir(process.procfs, process.tid, process.fd))
    return number


def counted(number: int) -> CountedTables:
    """Return tables that are held."""
    if number not in _counted:
        raise NotSupported(f"tables {number}")
    return _counted[number]


def release_counted(procfs: ServedFS, number: int) -> None:
    """Let go of tables."""
    tables = counted(number)
    del _counted[number]
    tables.close()
    tables.process.close()


def are_counted_current(procfs: ServedFS, number: int) -> bool:
    """Return whether tables are still those of their process."""
    return counted(number).are_current()


def count_range(
    procfs: ServedFS, number: int, start: int, end: int, first_at: int
) -> tuple[int | None, dict[str, Any], int, int]:
    """Count a range; return what `CountedTables.walk` does, what it has counted, and what else it has found."""
    from mematlas.kernel.memory.bpfcount import Sums

    tables = may_count(number, end - 1)
    if not start < end or first_at >= end:
        raise NotSupported("a range that ends before it begins")
    sums = Sums()
    reached = tables.walk(sums, start, end, first_at)
    if reached is None:  # what was counted while tables changed may have been none
        return None, {}, 0, 0
    return reached, vars(sums), tables.first, tables.nr_large


def may_count(number: int, last: int) -> CountedTables:
    """Return tables that are held.

    Raises:
        NotSupported: the range is not of user space: what is beyond it may lead to the kernel's tables.
    """
    tables = counted(number)
    if not 0 <= last < 1 << (PAGE_SHIFT + TABLE_BITS * tables.access.levels - 1):
        raise NotSupported("tables beyond user space")
    return tables


def sample_counted(procfs: ServedFS, number: int) -> list[int]:
    """Return some entries of the range that was counted last."""
    tables = counted(number)
    return tables.samples() if tables.is_sound else []


def count_table_shares(procfs: ServedFS, number: int, address: int, shift: int) -> int:
    """Return what `CountedTables.nr_shares` does."""
    tables = may_count(number, address)
    if shift not in LEVEL_SHIFTS:
        raise NotSupported("tables of such a level")
    return tables.nr_shares(address, shift)


def count_leaves(procfs: ServedFS, leaves: bytes) -> dict[str, Any]:
    """Return what is counted of huge leaves, of each three numbers."""
    from mematlas.kernel.memory.bpfcount import Sums

    numbers = memoryview(leaves).cast("q").tolist()
    sums = Sums()
    counts_of(procfs).count_leaves(sums, list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False)))
    return vars(sums)


def ask_frames(procfs: ServedFS, pfns: bytes) -> list[tuple[int, bool]]:
    """Return how often frames are mapped, and whether they belong to no file."""
    return counts_of(procfs).ask_frames(memoryview(pfns).cast("Q").tolist()[:NR_WORDS])

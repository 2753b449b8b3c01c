"""What frames are that nobody maps: slabs of which cache, page tables of which process, free blocks, pages of files.

Kernel memory tells, where it can be read. Whose a page table is, the tables above it tell: those of each process are
looked through, from children that read kernel memory for themselves.
"""

from __future__ import annotations

import os

from mematlas.analysis.frame_owners import FrameDetail, FrameMapper
from mematlas.analysis.frame_rows import Found
from mematlas.arrays import Bytes, Words, np
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import record
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.memory.btf import asked_twice
from mematlas.kernel.memory.framearray import FrameArray
from mematlas.kernel.memory.inodes import MINOR_BITS, Inodes
from mematlas.kernel.memory.pageobjects import PageObjects
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.memory.structpage import open_struct_pages
from mematlas.kernel.mounts import format_device
from mematlas.kernel.slabinfo import read_slab_names
from mematlas.model.census.decode import Decoder
from mematlas.model.census.kinds import CACHE_KINDS, FAMILIES, Kind
from mematlas.model.pagetables.access import PageTableAccess, open_access
from mematlas.model.pagetables.entries import address_of, is_table
from mematlas.model.pagetables.walk import Walk, walk
from mematlas.model.processes import Processes, left_out
from mematlas.model.target import own_pid
from mematlas.notes import Note, Notes
from mematlas.observe.file_names import FileNames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mematlas.arrays import NDArray
    from mematlas.kernel.memory.structpage import StructPages
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.frame_facts import FrameFacts, FrameFiles

    Table = tuple[int, str, int]
    """The frame of a page table, its level, and the first address that it translates."""

FILES = (*CACHE_KINDS, Kind.HUGETLB)
TABLES = (Kind.TABLE, Kind.KERNEL)
"""What page tables can look like: older kernels say it of the lower two levels alone."""
NOBODYS = (Kind.FREE, Kind.SLAB, *TABLES, *FILES)
"""Kinds of frames of which more is known than that, though nobody maps them."""
SILENCE = 1.0
"""Seconds without an answer after which another child goes on; each begins by opening kernel memory."""
THE_KERNEL = 0
"""In the place of a PID."""
UNTOLD = (NotSupported, PermissionDenied, FormatError)
"""Why kernel memory does not tell what frames are."""


@record
class Details:
    """What was found out about frames that nobody maps."""

    kinds: Bytes
    """What each of the frames is, as exactly as that is known."""
    details: dict[int, FrameDetail]
    """By frame."""
    tables: list[Found]
    """Whose page tables some of them are."""
    notes: tuple[Note, ...]


def find_details(procfs: ProcFS, files: FrameFiles, facts: FrameFacts, deadline: float) -> Details:
    """Return what is known of frames of the kinds `NOBODYS`, which nobody maps."""
    details: dict[int, FrameDetail] = {}
    notes = Notes()
    try:
        with open_kernel_memory(procfs=procfs) as memory:
            pages = asked_twice(memory.layout, lambda: open_struct_pages(memory))
            objects = PageObjects(pages)
            for describe in (free_blocks, slab_caches, page_files):
                try:
                    details |= describe(objects, files, facts)
                except UNTOLD as error:  # of one sort alone: a kernel without slabinfo
                    notes.add(untold(error))
            kinds = refined(pages, files, facts)
    except UNTOLD as error:
        return Details(facts.kinds, {}, [], (untold(error),))
    # What has become something else meanwhile was followed into what it is now.
    changed = files.kinds(facts.pfns) != facts.kinds
    kinds[changed] = facts.kinds[changed]
    for pfn in facts.pfns[changed].tolist():
        details.pop(pfn, None)
    tables, of_tables = find_tables(procfs, facts.pfns[np.isin(kinds, TABLES)], deadline)
    for table in tables:
        kinds[np.searchsorted(facts.pfns, table.pfns)] = Kind.TABLE
    return Details(kinds, details, tables, (*notes, *of_tables))


def refined(pages: StructPages, files: FrameFiles, facts: FrameFacts) -> Bytes:
    """Return what frames are, with what kpageflags has one word for told apart: what CPUs keep free, large objects of
    the kernel, compressed swap.
    """
    kinds = facts.kinds.copy()
    places = np.flatnonzero(kinds == Kind.KERNEL)
    try:
        decoder = Decoder(FrameArray(pages))
    except NotSupported:
        return kinds  # an older kernel has no list of types
    found = decoder.kinds(decoder.array.batch_of(files.heads(facts.pfns[places])))
    family = np.array([FAMILIES.get(Kind(kind), Kind(kind)) for kind in found.tolist()], np.uint8)
    fits = family == Kind.KERNEL
    kinds[places[fits]] = found[fits]
    return kinds


def untold(why: Error) -> Note:
    """Return the note that kernel memory could not be read."""
    text = f"which cache, page table, free block or file frames are of is unknown: {why}"
    return Note("kernel-memory-unread", text)


def free_blocks(objects: PageObjects, files: FrameFiles, facts: FrameFacts) -> dict[int, FrameDetail]:
    """Return the free blocks that frames are in."""
    pfns = facts.pfns[facts.kinds == Kind.FREE]
    blocks = zip(pfns.tolist(), objects.free_blocks(pfns), strict=True)
    return {pfn: FrameDetail(block=block[0], order=block[1]) for pfn, block in blocks if block}


def slab_caches(objects: PageObjects, files: FrameFiles, facts: FrameFacts) -> dict[int, FrameDetail]:
    """Return the caches that slabs are of."""
    pfns = facts.pfns[facts.kinds == Kind.SLAB]
    if not len(pfns):
        return {}
    names = objects.slab_caches(files.heads(pfns), read_slab_names(files.procfs))
    return {pfn: FrameDetail(slab=name) for pfn, name in zip(pfns.tolist(), names, strict=True) if name}


def page_files(objects: PageObjects, files: FrameFiles, facts: FrameFacts) -> dict[int, FrameDetail]:
    """Return the files that pages of the page cache are of."""
    chosen = np.isin(facts.kinds, FILES)
    pfns = facts.pfns[chosen]
    heads = files.heads(pfns)
    details = {}
    found = zip(pfns.tolist(), heads.tolist(), facts.kinds[chosen].tolist(), objects.files(heads), strict=True)
    names = names_of(objects, heads, files.procfs) if len(heads) else {}
    for pfn, head, kind, file in found:
        if file:
            dev, inode, index = file
            name = format_device(os.makedev(dev >> MINOR_BITS, dev & (1 << MINOR_BITS) - 1)), inode
            # Huge pages of the pools were numbered by their own size before Linux 6.7 (commit a08c7193e4f1).
            offset = None if kind == Kind.HUGETLB else (index + pfn - head) * files.procfs.page_size
            path, is_deleted = names.get(name, (None, None))
            details[pfn] = FrameDetail(file=name, file_offset=offset, path=path, is_deleted=is_deleted)
    return details


def names_of(
    objects: PageObjects, heads: Words, procfs: ProcFS
) -> dict[tuple[str, int], tuple[str | None, bool | None]]:
    """Return the paths of the files that folios are of, and whether they are deleted, by device and inode."""
    mappings, good = objects.mappings(heads)
    inodes = Inodes(objects.memory)
    table = inodes.of_mappings(np.unique(mappings[good]))
    table = table.take(np.flatnonzero(table.good))
    systems = inodes.file_systems(table.supers.tolist())
    paths, are_deleted = FileNames(procfs, inodes).of(table, systems)
    rows = zip(table.supers.tolist(), table.numbers.tolist(), paths, are_deleted, strict=True)
    return {
        (systems[place].dev, number): (path, is_deleted)
        for place, number, path, is_deleted in rows
        if place in systems and path is not None
    }


# Page tables


def find_tables(procfs: ProcFS, wanted: Words, deadline: float) -> tuple[list[Found], Notes]:
    """Return whose page tables some frames are; the kernel's own are those of nobody."""
    if not len(wanted):
        return [], Notes()
    everybody = Processes(procfs, without=())
    members = {stat.pid: (stat.name, stat.start_time) for _, stat in everybody}
    members[THE_KERNEL] = ("kernel", 0)
    opened: list[PageTableAccess] = []

    def ask(pid: int) -> tuple[Any, int]:
        try:
            # The map that a reader shares with its program is not for two processes at once.
            if not opened:
                opened.append(open_access(procfs))
            return tables_of(opened[0], everybody, pid, wanted), -1
        except Error:
            return [], -1  # ended, or not ours to look at

    inquiry = Inquiry(ask, list(members), deadline=deadline, silence=SILENCE)
    found = []
    for pid, tables, _ in inquiry:
        for pfn, level, address in tables:
            mapper = FrameMapper(pid, *members[pid], level=level)
            found.append(Found(mapper, np.array([address], np.uint64), np.array([pfn], np.uint64)))
    return found, Notes(left_out(inquiry, procfs))


def tables_of(access: PageTableAccess, everybody: Processes, pid: int, wanted: Words) -> list[Table]:
    """Return which of some frames are page tables of a process, or of the kernel; in a child."""
    memory, mode = access.memory, access.mode
    pair = everybody.open(pid or own_pid(everybody.procfs))
    if pair is None:
        raise ProcessGone(pid)
    with pair[0] as process, memory.open_mm(process.pid, process) as mm:
        span = (mode.kernel_start, 1 << 64) if pid == THE_KERNEL else (0, mode.user_end)
        upper = walk(memory, mode, mm.pgd, *span, nr_levels=len(mode.levels) - 1)
        found = list(among(upper, wanted))
        if pid != THE_KERNEL and not memory.is_current(mm):
            raise ProcessGone(pid)
    return [table for table in found if table[1] != "pgd" or pid != THE_KERNEL]


def among(upper: Walk, wanted: Words) -> Iterator[Table]:
    """Yield which of some frames are tables, given all levels of a walk but the last."""
    mode = upper.mode
    shift = np.uint64(mode.page_shift)
    for number, level in enumerate(upper.levels):
        yield from matches(level.tables >> shift, level.addresses, mode.levels[number].name, wanted)
    number = len(upper.levels) - 1
    entries = upper.levels[number].entries.reshape(-1)
    places = np.flatnonzero(is_table(mode, number, entries))
    addresses = upper.entry_addresses(number, places)
    inside = (addresses >= np.uint64(upper.first)) & (addresses <= np.uint64(upper.last))
    frames = address_of(mode, entries[places]) >> shift
    yield from matches(frames[inside], addresses[inside], mode.levels[number + 1].name, wanted)


def matches(frames: Words, addresses: Words, level: str, wanted: Words) -> Iterator[Table]:
    """Yield those of some tables that are wanted."""
    places: NDArray[np.intp] = np.flatnonzero(np.isin(frames, wanted))
    yield from ((int(frames[place]), level, int(addresses[place])) for place in places)

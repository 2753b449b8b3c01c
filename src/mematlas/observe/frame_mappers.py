"""Where processes map some frames, or pages of some files: in the pagemap of every one, which children read.

Whoever reads that may wait for ever. What a child finds goes into a file of memory: VMAs, with addresses and frames.
"""

from __future__ import annotations

import marshal
import os
from bisect import bisect_right

from mematlas.analysis.frame_owners import FrameMapper
from mematlas.analysis.frame_rows import Found
from mematlas.arrays import NDArray, Words, np
from mematlas.errors import Error, PermissionDenied, ProcessGone
from mematlas.frozen import record
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.maps import NO_FILE, Vma, read_maps
from mematlas.kernel.pagemap import GAP, PM_FILE, PM_PFRAME, PM_PRESENT, Block, Pacer, Pagemap, frames_hidden
from mematlas.kernel.procfs import MAX_STALL
from mematlas.kernel.scattered import lots
from mematlas.model.census.kinds import CACHE_KINDS, Kind
from mematlas.model.processes import REFUSED, Processes, left_out, named, ourselves
from mematlas.model.shared_mm import AddressSpaces
from mematlas.notes import Note, Notes
from mematlas.observe.shared_pages import FRAMES_NEED, error_of, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Any, Protocol

    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.scattered import Scattered
    from mematlas.model.frame_facts import FrameFacts

    Mapped = tuple[Vma, Words, Words]
    """A VMA, and frames in it: their addresses, and which they are."""

    class Wanted(Protocol):
        """What is looked for."""

        def may_be_in(self, vma: Vma) -> bool:
            """Whether a VMA may have any of it."""

        def find(self, entries: Words) -> NDArray[np.intp]:
            """Return the indexes of the entries of pagemap that map any of it."""


PRESENT = np.uint64(PM_PRESENT)
FRAME = np.uint64(PM_PFRAME)
OF_FILE = np.uint64(PM_PRESENT | PM_FILE)
SILENCE = 0.25
"""Seconds without an answer after which another child goes on."""
COPIED = frozenset((Kind.ANON, Kind.KSM))
"""Kinds that are mapped by private VMAs alone,"""
OF_FILES = frozenset((*CACHE_KINDS, Kind.HUGETLB))
"""and by those of files."""


class WantedFrames:
    """The frames that are looked for, ascending, and which VMAs may map any of them."""

    def __init__(self, facts: FrameFacts) -> None:
        self.pfns = facts.pfns
        self._first = self.pfns[0]
        self._span = self.pfns[-1] - self._first + np.uint64(1)
        kinds = set(np.unique(facts.kinds).tolist())
        self._are_copied = kinds <= COPIED
        self._are_of_files = kinds <= OF_FILES

    def may_be_in(self, vma: Vma) -> bool:
        """Whether a VMA may map any of them."""
        if self._are_copied:
            return vma.perms[3:] == "p"
        # Not by the inode: that of a System V segment is its number, and there is one with 0.
        return vma.dev != NO_FILE if self._are_of_files else True

    def find(self, entries: Words) -> NDArray[np.intp]:
        """Return the indexes of the entries of pagemap that map any of them."""
        frames = entries & FRAME
        # What is below the first comes out as a number that is larger than any.
        places = np.flatnonzero((frames - self._first < self._span) & (entries & PRESENT != 0))
        if len(places) and self._span != len(self.pfns):
            near = frames[places]
            places = places[self.pfns[np.searchsorted(self.pfns, near)] == near]
        return places


class WantedFiles:
    """The pages of some files that are looked for: device, as maps prints it, and inode of each."""

    def __init__(self, files: Collection[tuple[str, int]]) -> None:
        self.files = frozenset(files)

    def may_be_in(self, vma: Vma) -> bool:
        """Whether a VMA is of one of them."""
        return (vma.dev, vma.inode) in self.files

    def find(self, entries: Words) -> NDArray[np.intp]:
        """Return the indexes of entries that map a page of the file: private copies are no such."""
        return np.flatnonzero(entries & OF_FILE == OF_FILE)


@record
class Mappings:
    """Where all processes have what was looked for."""

    found: list[Found]
    own: list[Mapped]
    """Where we have it ourselves: we are not among those that were found."""
    sharing: dict[int, int]
    """Processes that run in the address space of another, and of which."""
    notes: Notes
    """Who could not be looked at."""


def find_mappings(procfs: ProcFS, wanted: Wanted, deadline: float) -> Mappings:
    """Return where processes map what is looked for.

    Raises:
        PermissionDenied: frame numbers are hidden from us.
    """
    notes = Notes()
    own: list[Mapped] = []
    for pid in ourselves(procfs):
        with procfs.process(pid) as process:
            own = mappings_in(process, wanted)  # refused before anybody is looked at
    everybody, spaces = Processes(procfs), AddressSpaces(procfs)
    members = {
        stat.pid: (stat.name, stat.start_time) for process, stat in everybody if not spaces.is_met_again(process)
    }
    if refused := everybody.skipped[REFUSED]:
        notes.add(Note("left-out", f"{named(refused, procfs)}: skipped: not ours to look at"))

    def ask(pid: int) -> tuple[Any, int]:
        return answer_of(everybody, pid, members[pid][1], wanted)

    found: list[Found] = []
    inquiry = Inquiry(ask, list(members), deadline=deadline, silence=SILENCE, is_heavy=True)
    for pid, refusal, fd in inquiry:
        if refusal is None:
            for vma, addresses, pfns in read_mappings(fd):
                found.append(Found(FrameMapper(pid, *members[pid], vma), addresses, pfns))
        elif isinstance(error := error_of(pid, refusal), PermissionDenied) and error.needs == FRAMES_NEED:
            raise error
        elif not isinstance(error, ProcessGone):
            notes.add(Note("left-out", f"what a process maps is unknown: {error}"))
    notes += left_out(inquiry, procfs)
    return Mappings(found, own, spaces.earlier, notes)


def answer_of(everybody: Processes, pid: int, start_time: int, wanted: Wanted) -> tuple[Any, int]:
    """Return what a child has to say of one process: why it cannot be looked at, or a file with what it maps."""
    try:
        pair = everybody.open(pid)
        if pair is None:
            raise ProcessGone(pid)
        with pair[0] as process:
            if pair[1].start_time != start_time:
                raise ProcessGone(pid)
            return None, write_mappings(mappings_in(process, wanted))
    except Error as error:
        return told(error), -1


def mappings_in(process: ProcessDir, wanted: Wanted) -> list[Mapped]:
    """Return where one process maps what is looked for, VMA by VMA.

    Raises:
        PermissionDenied: frame numbers are hidden from us, or all of it.
        ProcessGone: it has ended, or started another program.
    """
    vmas = [vma for vma in read_maps(process) if wanted.may_be_in(vma)]
    page_size = process.procfs.page_size
    pacer = Pacer()
    # What all of it holds up the target for altogether is little enough of most, if it is no more than this.
    pacer.used -= MAX_STALL
    found: list[tuple[Words, Words]] = []
    with Pagemap(process, pacer) as pagemap:
        for start, end in spans_of(vmas, page_size):
            for lot in lots(pagemap, start, end):
                entries = np.frombuffer(lot.raw, np.uint64)
                places = wanted.find(entries)
                if len(places):
                    found.append((addresses_of(lot, page_size)[places], entries[places] & FRAME))
                elif are_hidden(entries):
                    raise frames_hidden(process.path)
        pagemap.check()
    return list(by_vma(vmas, found))


def are_hidden(entries: Words) -> bool:
    """Whether pages are there, and no frame number is: no process maps frame 0."""
    present = entries[entries & PRESENT != 0]
    return len(present) > 0 and not (present & FRAME).any()


def spans_of(vmas: Iterable[Vma], page_size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of addresses that VMAs lie in: what lies near each other is read in one go."""
    start = end = 0
    for vma in vmas:
        if vma.start > end + GAP * page_size:
            if start < end:
                yield start, end
            start = vma.start
        end = vma.end
    if start < end:
        yield start, end


def addresses_of(lot: Block | Scattered, page_size: int) -> Words:
    """Return the address of each page."""
    if isinstance(lot, Block):
        return np.uint64(lot.address) + np.arange(len(lot), dtype=np.uint64) * np.uint64(page_size)
    lengths = np.array(lot.lengths)
    inside = np.arange(len(lot)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    addresses: Words = np.repeat(np.array(lot.starts, np.uint64), lengths) + inside.astype(np.uint64) * np.uint64(
        page_size
    )
    return addresses


def by_vma(vmas: Sequence[Vma], found: Iterable[tuple[Words, Words]]) -> Iterator[Mapped]:
    """Yield addresses and frames, both in the order of addresses, VMA by VMA."""
    pairs = list(found)
    if not pairs:
        return
    addresses, pfns = (np.concatenate(column) for column in zip(*pairs, strict=True))
    starts = [vma.start for vma in vmas]
    low = 0
    while low < len(addresses):
        vma = vmas[bisect_right(starts, int(addresses[low])) - 1]
        high = int(np.searchsorted(addresses, np.uint64(vma.end)))
        if high <= low:  # mapped between two VMAs since these were read
            low += 1
            continue
        yield vma, addresses[low:high], pfns[low:high]
        low = high


# From a child to its parent


def write_mappings(mappings: Sequence[Mapped]) -> int:
    """Return the descriptor of a file of memory with what was found; -1 where that is nothing."""
    if not mappings:
        return -1
    fd = os.memfd_create("mematlas", os.MFD_CLOEXEC)
    plain = [
        (tuple(getattr(vma, name) for name in Vma.__match_args__), addresses.tobytes(), pfns.tobytes())
        for vma, addresses, pfns in mappings
    ]
    with open(fd, "wb", closefd=False) as file:
        file.write(marshal.dumps(plain))
    return fd


def read_mappings(fd: int) -> list[Mapped]:
    """Return what a child has written, and let go of the file."""
    if fd < 0:
        return []
    with open(fd, "rb") as file:
        file.seek(0)
        plain = marshal.load(file)
    return [
        (Vma(*fields), np.frombuffer(addresses, np.uint64), np.frombuffer(pfns, np.uint64))
        for fields, addresses, pfns in plain
    ]

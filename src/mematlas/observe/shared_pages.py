"""The pages of one process that may be shared, read in parts: what the children of `mematlas.observe.sharing` do.

Whoever reads them may wait for ever. What a part holds is an answer and a file of memory: the entries of pages that are
mapped more than once, then how many of them each VMA has.
"""

from __future__ import annotations

import marshal
import os
import time
from itertools import chain

from mematlas.arrays import np
from mematlas.errors import Error, NoAddressSpace, NotHeld, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.frozen import replace
from mematlas.kernel.pagemap import (
    ENTRY_SIZE,
    EXCLUSIVE,
    IS_SHARED,
    MARK_A,
    PM_PFRAME,
    PRESENT,
    ZERO,
    frames_hidden,
    to_marks_of_bits,
)
from mematlas.model.pages import PageReader
from mematlas.model.processes import ENDED, REFUSED, UNREADABLE
from mematlas.model.runs import cut
from mematlas.observe.sources import MAX_STALL, Sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.status import Stat
    from mematlas.model.address_space import AddressSpace

    Span = tuple[int, int, str, str, int, str, int]
    """Start, end, kind, device, inode and path of a VMA, and how many entries it has."""
    PartAnswer = tuple[int, int, int, bool, list[tuple[str, str]]]
    """Pages mapped once, entries, where the next part begins (-1 behind the last), torn, codes and texts of notes."""
    Refusal = tuple[str, str, list[str], str]
    """Why, and what an error is made of."""

MOST_ENTRIES = 1 << 19
"""Of a part, and some more: 4 MiB."""
MOST_SECONDS = 0.1
"""For a part: who does not answer is found out by its silence."""
LAST = -1
FRAMES_NEED = frozenset(("CAP_SYS_ADMIN",))
"""What it takes to see frame numbers, once a process may be read."""
NOT_HELD = "not held"
IS_ALONE = to_marks_of_bits(PRESENT | MARK_A | EXCLUSIVE, PRESENT | EXCLUSIVE)
"""Resident and mapped once."""
IS_OF_POOL = to_marks_of_bits(ZERO, PRESENT)


def read_part(process: ProcessDir, stat: Stat, start: int) -> tuple[PartAnswer, int]:
    """Return a part of the pages of a process, from an address on, and the descriptor of its file; -1 of no entries.

    Raises:
        PermissionDenied: frame numbers are hidden from us, or all of it.
        ProcessGone: it has ended, or started another program.
    """
    sources = Sources(process, stat)
    space = sources.address_space()
    part = Part(process)
    pacer = sources.pacer()
    if pacer:
        # What all of it holds up the target for altogether is little enough of most, if it is no more than this.
        pacer.used -= MAX_STALL
    with PageReader(process, pacer, cached=False) as reader:
        after = part.fill(reader, space, start)
        notes = [(note.code, note.text) for note in (*sources.files.notes(), *reader.notes())]
    torn = sources.is_torn(space)
    return (part.nr_alone, part.nr_entries, after, torn, notes), part.file() if part.nr_entries else -1


class Part:
    """Collects the entries of pages that are mapped more than once, VMA by VMA."""

    def __init__(self, process: ProcessDir) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self.nr_alone = 0
        self.nr_entries = 0
        self._entries: list[bytes] = []
        self._spans: dict[int, Span] = {}
        self._end = time.monotonic() + MOST_SECONDS

    def fill(self, reader: PageReader, space: AddressSpace, start: int) -> int:
        """Read from an address on until it is full; return where the next one begins."""
        vmas = [vma for vma in space.vmas if vma.end > start]
        own = {vma.start: vma for vma in vmas}
        read = list(map(as_file, vmas))
        # One that was begun may be part of no run: half of that would be read again.
        begun = read[: bool(read and read[0].start < start)]
        for run, block in chain((([vma], None) for vma in begun), reader.runs(read[len(begun) :])):
            if block is None:
                for lot in reader.lots(run[0], max(start, run[0].start)):
                    self.add(own[run[0].start], lot.raw, lot.states)
                    if self.is_full:
                        return lot.end(self.page_size)
            else:
                for vma, first, last in cut(run, block, self.page_size):
                    raw = block.raw[first * ENTRY_SIZE : last * ENTRY_SIZE]
                    self.add(own[vma.start], raw, block.states[first:last])
            if self.is_full:
                return run[-1].end
        return LAST

    @property
    def is_full(self) -> bool:
        """Whether the rest is for the next one."""
        return self.nr_entries >= MOST_ENTRIES or time.monotonic() > self._end

    def add(self, vma: Vma, raw: memoryview, states: bytes) -> None:
        """Take in entries of a VMA."""
        is_pool = vma.kind == "hugetlb"
        # Those of the pools are all taken: of a page table that two processes share, the frames are mapped once.
        marks = states.translate(IS_OF_POOL if is_pool else IS_SHARED)
        if not is_pool:
            self.nr_alone += states.translate(IS_ALONE).count(1)
        nr_shared = marks.count(1)
        if not nr_shared:
            return
        entries = np.frombuffer(raw, np.uint64)
        if nr_shared < len(states):
            entries = entries[np.frombuffer(marks, np.bool_)]
        if not (entries & np.uint64(PM_PFRAME)).all():
            raise frames_hidden(self.process.path)
        self._entries.append(entries.tobytes())
        self.nr_entries += nr_shared
        before = self._spans[vma.start][-1] if vma.start in self._spans else 0
        span = (vma.start, vma.end, vma.kind, vma.dev, vma.inode, vma.path, before + nr_shared)
        self._spans[vma.start] = span

    def file(self) -> int:
        """Return the descriptor of a file of memory with all of that."""
        fd = os.memfd_create("mematlas", os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.writelines(self._entries)
            file.write(marshal.dumps(list(self._spans.values())))
        return fd


def as_file(vma: Vma) -> Vma:
    """Return shared memory as an ordinary file: nobody asks what its file holds of pages that have no entry."""
    return replace(vma, kind="file") if vma.kind == "shmem" else vma


# What a child cannot read, as a message


def told(error: Error) -> Refusal:
    """Return why a process is passed over, and what it takes to raise the same error elsewhere."""
    if isinstance(error, PermissionDenied):
        return REFUSED, error.path, sorted(error.needs), error.text
    if isinstance(error, TargetNotFound | ProcessGone | NoAddressSpace):
        return ENDED, str(error), [], ""
    if isinstance(error, NotHeld):
        return NOT_HELD, error.what, [], ""
    return UNREADABLE, str(error), [], ""


def error_of(pid: int, refusal: Refusal) -> Error:
    """Return the error that a child met."""
    why, what, needs, text = refusal
    if why == REFUSED:
        return PermissionDenied(what, *needs, text=text)
    if why == NOT_HELD:
        return NotHeld(what)
    return ProcessGone(pid) if why == ENDED else Error(what)

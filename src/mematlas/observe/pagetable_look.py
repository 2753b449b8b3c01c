"""One look at page tables that are held open: its clock, what was torn in it, and its notes."""

from __future__ import annotations

import time

from mematlas.analysis.pagetables.results import WalkReading
from mematlas.arrays import Words, np
from mematlas.errors import ProcessGone
from mematlas.frozen import record
from mematlas.kernel.pagemap import ENTRY_SIZE, PACED_BLOCK_SIZE, Pacer
from mematlas.model.pagetables.blocks import PageBlock
from mematlas.model.pagetables.entries import EMPTY, state_of
from mematlas.model.pagetables.walk import walk, walk_address, walk_parts
from mematlas.notes import Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.analysis.pagetables.results import Origin
    from mematlas.kernel.memory.memory import KernelMemory
    from mematlas.kernel.memory.pinned import PinnedMm
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.model.pagetables.walk import Span, Walk, WalkStep

NR_SUM_TABLES = 1 << 12
"""Tables of a part of a walk that is only added up."""


@record
class HeldTables:
    """The page tables of one process, held open, and the range of them that is asked about."""

    process: ProcessDir
    memory: KernelMemory
    mm: PinnedMm
    origin: Origin
    pgd: int
    """The physical address of the top table."""
    start: int
    end: int
    is_whole: bool
    """Whether the range is all of the half."""

    @property
    def mode(self) -> PagingMode:
        """How entries are laid out."""
        return self.origin.mode


class PageTableLook:
    """Reads page tables for one answer; `finish` says how that went."""

    def __init__(self, held: HeldTables) -> None:
        self.held = held
        self.mode = held.mode
        self.notes = Notes()
        self.is_torn = False
        self._begun = time.perf_counter()

    def finish(self) -> WalkReading:
        """Return how the reading came about.

        Raises:
            ProcessGone: the process ended, or started another program, so that its tables were emptied meanwhile.
        """
        duration = time.perf_counter() - self._begun
        self.check_current()
        return WalkReading(origin=self.held.origin, duration_s=duration, torn=self.is_torn, notes=tuple(self.notes))

    def check_current(self) -> None:
        """Raise `ProcessGone` when the tables are no longer those of the process."""
        held = self.held
        if held.origin.half == "user" and not held.memory.is_current(held.mm):
            raise ProcessGone(held.process.pid, "ended, or started another program, during the reading")

    def parts(self, nr_tables: int, span: Span | None = None) -> Iterator[Walk]:
        """Yield the walk, in parts of so many tables; of another range with ``span``, first and last address after."""
        held = self.held
        start, end = span or (held.start, held.end)
        for part in walk_parts(held.memory, held.mode, held.pgd, start, end, nr_tables):
            self.is_torn = self.is_torn or bool(part.torn)
            yield part

    def walk(self, start: int, end: int, nr_levels: int) -> Walk:
        """Return the walk of a range down to a level."""
        walked = walk(self.held.memory, self.mode, self.held.pgd, start, end, nr_levels)
        self.is_torn = self.is_torn or bool(walked.torn)
        return walked

    def steps(self, address: int) -> tuple[WalkStep, ...]:
        """Return how an address is translated, level by level."""
        return walk_address(self.held.memory, self.mode, self.held.pgd, address)

    def one_page(self, address: int, steps: tuple[WalkStep, ...]) -> PageBlock:
        """Return the page of an address, as the steps to it say, as a block."""
        shift = self.mode.page_shift
        entry = steps[-1].entry if steps else 0
        code = state_of(self.mode, len(steps) - 1, entry) if steps else EMPTY
        phys = steps[-1].phys if steps else None
        pfn = 0 if phys is None else phys >> shift
        codes = np.array([code], np.uint8)
        pfns = np.array([pfn], np.uint64)
        entries = np.array([entry], np.uint64)
        return PageBlock(start=address >> shift << shift, states=codes, pfns=pfns, entries=entries)

    def pagemap(self, start: int, nr_pages: int) -> Words:
        """Return the entries of pagemap for consecutive pages, read with pauses."""
        words = np.zeros(nr_pages, np.uint64)
        buffer = words.data.cast("B")
        pacer = Pacer()
        file = self.held.process.open("pagemap")
        try:
            for at in range(0, len(buffer), PACED_BLOCK_SIZE):
                before = time.perf_counter()
                offset = start // self.held.process.procfs.page_size * ENTRY_SIZE + at
                file.read_into(buffer[at : at + PACED_BLOCK_SIZE], offset)
                if nr_pages > 1:
                    pacer.spend(time.perf_counter() - before)
        finally:
            file.close()
        return words

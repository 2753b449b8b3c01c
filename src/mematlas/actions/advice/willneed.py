"""MADV_WILLNEED: into RAM.

The advice takes what is in swap no further than the swap cache: reading a byte of it maps it. Of a file it only begins
to read, and returns.
"""

from __future__ import annotations

import time
from array import array

from mematlas.actions.advice.base import Advice, states_to_marks
from mematlas.actions.effects import Whereabouts
from mematlas.actions.rooms import MemoryRoom, read_memory_room
from mematlas.analysis.movable import add_counts
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.backing import resident_pages
from mematlas.kernel.madvise import touch_pages
from mematlas.kernel.pagemap import to_marks
from mematlas.model.page_set import both, first_pages, masked, runs, without
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.actions.advice.base import Tally
    from mematlas.actions.options import Options, Stop
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

IS_UNREAD = states_to_marks("swapped", "unknown")
"""What reading a byte brings in; unknown is shared memory whose file we may not query."""
IS_BACK = states_to_marks("present", "zero", "cached")
IS_RESIDENT = to_marks({byte for byte in range(256) if byte & 1})
"""What mincore says of a page that is read, and in RAM."""
READS = 1 << 8
"""Pages read between two looks whether to stop."""

OUT_UNKNOWN = "cannot see which pages of shared memory are out of RAM, so they are left alone"


class WillNeed(Advice):
    """It brings in no more than there is room for, since the kernel kills for want of memory."""

    name: AdviceName = "willneed"
    wanted = "out of RAM"

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        super().__init__(process, choice, only)
        self.touch = True
        """Whether to read a byte of each page that is still out after the advice."""
        self.nr_reading: int | None = 0
        """Pages of files that are not read yet at the end; None when not known."""
        self._has_memory = False
        """Whether its memory is known to be ours to read."""
        self._reading_s = 0.0
        self._room = read_memory_room(process.dir)

    @staticmethod
    def asks_for(kind: str, byte: int, known: bool) -> bool:
        # Shared memory that we may not ask about may be untouched: reading it would make a page of it. So it is asked
        # for only where it is known to have held something.
        state = STATE_OF_BYTE[byte]
        if kind == "file" and state == "absent":
            return True
        return state == "swapped" or (known and kind == "shmem" and state == "unknown")

    @staticmethod
    def reason_of(byte: int) -> str:
        return ""

    def open(self, options: Options) -> None:
        super().open(options)
        self.touch = options.touch

    def _all_blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        # A page of a file that is out of RAM leaves nothing in pagemap, so no block is skipped.
        if vma.kind == "file":
            return self._stretches(vma, start, end)
        return super()._all_blocks(vma, start, end)

    def blind_spots(self) -> list[Note]:
        reasons = sorted(set(self.reader.backings.unknown.values()))
        return [Note("out-of-ram-unknown", f"{OUT_UNKNOWN}: {why}") for why in reasons]

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        mask = super().select(vma, address, states, reasons)
        if vma.kind == "file":
            return mask  # into the page cache, which is given up again when memory is short
        if self._advisor:
            self._room = read_memory_room(self.process.dir)  # what was selected before is in by now
        fitting = first_pages(mask, self._room.nr_pages)
        nr_fitting = fitting.count(1)
        add_counts(reasons, {self._room.lacking: mask.count(1) - nr_fitting})
        self._room = MemoryRoom(self._room.nr_pages - nr_fitting, self._room.lacking)
        return fitting

    @property
    def seconds(self) -> float:
        return super().seconds + self._reading_s

    def follow(self, vma: Vma, address: int, mask: bytes, stop: Stop) -> bool:
        if not self.touch:
            return True
        unread = both(mask, self.states_at(vma, address, mask).translate(IS_UNREAD))
        if 1 not in unread or not self._may_read():
            return True
        before = time.perf_counter()
        try:
            return self._read_pages(address, unread, stop)
        finally:
            self._reading_s += time.perf_counter() - before

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        return both(mask, self.states_at(vma, address, mask).translate(IS_BACK))

    def confirm(self, vma: Vma, address: int, mask: bytes) -> bytes:
        # What comes in last may have pushed out what came in first.
        return self.measure(vma, address, mask)

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        # The advice only begins to read a file, and a page that waits for the disk is in the page cache already.
        vmas = [tally.vma for tally in tallies if tally.vma.kind == "file"]
        counts = [self._count_reading(vma, moved) for vma in vmas]
        self.nr_reading = None if None in counts else sum(filter(None, counts))

    def whereabouts(self, gone: bool) -> Whereabouts:
        return Whereabouts(nr_reading=self.nr_reading)

    def _count_reading(self, vma: Vma, moved: PageSet) -> int | None:
        """Return how many of the pages that moved are not read yet; None where that may not be asked."""
        size = self.page_size
        blocks = list(moved.blocks_from(vma.start, vma.end))
        if not blocks:
            return 0
        span, nr_reading = f"{vma.start:x}-{vma.end:x}", 0
        try:
            for address, mask in blocks:
                offset = vma.offset + address - vma.start
                resident = self.process.procfs.ask(resident_pages, self.process.dir, span, offset, len(mask) * size)
                nr_reading += without(mask, resident.translate(IS_RESIDENT)).count(1)
        except (PermissionDenied, NotSupported):
            return None
        return nr_reading

    def _may_read(self) -> bool:
        if not self._has_memory:
            try:
                self.process.procfs.ask(touch_pages, self.process.dir, b"")
                self._has_memory = True
            except (PermissionDenied, NotSupported) as error:
                self.touch = False
                text = f"pages from swap got no further than the swap cache: {error}"
                self.notes.add(Note("not-mapped", text))
                return False
        return True

    def _read_pages(self, address: int, mask: bytes, stop: Stop) -> bool:
        """Read a byte of each page; return whether that was done to the end."""
        pages = [address + index * self.page_size for first, end in runs(mask) for index in range(first, end)]
        for at in range(0, len(pages), READS):
            if stop():
                return False
            self.process.procfs.ask(touch_pages, self.process.dir, array("Q", pages[at : at + READS]).tobytes())
        return True

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        if vma is None:
            return {"gone": mask.count(1)}
        states = masked(self.states_at(vma, address, mask), mask)
        nr_out = states.translate(IS_UNREAD).count(1)
        why_out = "busy" if self.touch else "untouched"
        why_empty = "unread" if vma.kind == "file" else "gone"
        return {why_out: nr_out, why_empty: mask.count(1) - nr_out}

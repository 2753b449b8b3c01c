"""The engine of `mematlas.actions.plans`: what each advice asks for, how it is given, and how its effect is seen.

An `Advice` holds the open files of one act. It reads a block of pages, says which of them can move, advises
those, and reads them again. What it knows of the kernel is in mm/madvise.c, mm/vmscan.c and mm/khugepaged.c.
"""

from __future__ import annotations

import errno
import os
import time

from mematlas.analysis.movable import Choice, Rules, add_counts, vma_reason
from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.backing import call_mincore
from mematlas.kernel.cgroups import read_room
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.madvise import ADVICE, Advisor, drain_batches
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.pagemap import BLOCK_SIZE, CACHED, ENTRY_SIZE, to_marks
from mematlas.kernel.smaps import read_smaps, read_vm_flags
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.address_space import EVERYTHING, Selection, parse_range
from mematlas.model.folios import SharedFolios
from mematlas.model.page_set import both, either, first_pages, masked, runs, without
from mematlas.model.pages import STATE_OF_BYTE, PageReader
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from mematlas.kernel.maps import Vma
    from mematlas.model.address_space import AddressSpace
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

    Range = tuple[int, int]
    Piece = tuple[Vma, int, int]
    Stop = Callable[[], bool]


def states_to_marks(*states: str) -> bytes:
    """Return a translation table: 1 for the pages in these states."""
    return to_marks({byte for byte, state in enumerate(STATE_OF_BYTE) if state in states})


IS_SWAPPED = states_to_marks("swapped")
IS_UNREAD = states_to_marks("swapped", "unknown")
"""What reading a byte brings in; unknown is shared memory that we may not ask about."""
IS_BACK = states_to_marks("present", "zero", "cached")
OUTSIDE = bytes((CACHED,)) + bytes(255)
"""From a mask to states: pages outside it look like those that no advice is about."""


class Tally:
    """The counts of one VMA while an act is under way."""

    def __init__(self, vma: Vma) -> None:
        self.vma = vma
        self.nr_requested = 0
        self.nr_advised = 0
        self.nr_moved = 0
        self.reasons: dict[str, int] = {}
        self.refused = False


def pieces(
    process: Process,
    space: AddressSpace,
    selection: Selection = EVERYTHING,
    ranges: Iterable[Range] | None = None,
    only: PageSet | None = None,
) -> list[Piece]:
    """Return the VMAs that are asked for, each with the part of it that is."""
    size = process.page_size
    if only is not None:
        ranges = only.ranges()
    elif ranges is None:
        ranges = [(selection.area and parse_range(selection.area, size)) or (0, 1 << 64)]
    found: list[Piece] = []
    # Whole pages: one that is touched by a range belongs to it.
    for start, end in sorted((start - start % size, end + -end % size) for start, end in ranges):
        for vma, low, high in space.pieces(start, end):
            if found and found[-1][0] is vma and only is not None:
                found[-1] = (vma, found[-1][1], high)  # the set itself says which pages between them are meant
            elif selection.matches(vma):
                found.append((vma, low, high))
    return found


class Advice:
    """One advice for one process. Reads everything; advises only once `open` was called."""

    name = ""
    repeats = False
    """Whether pages that stayed without a reason may move when advised again."""
    is_refused_by_vma = True
    """Whether a refusal is about the whole VMA, so that there is no use in going on with it."""
    shows_pages = True
    """Whether the effect can be seen page by page."""
    spares_shared_folios = False
    """Whether a page stays because others map its large folio in part."""
    touch = True
    """For willneed: whether to read a byte of each page that is still out after the advice."""

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        self.process = process
        self.page_size = process.page_size
        self.choice = choice
        self.only = only
        self.notes = Notes()
        self._rules: dict[str, Rules] = {}
        self._flags = self._vm_flags()
        self._advisor: Advisor | None = None
        self.reader = PageReader(process.dir)
        self.folios = SharedFolios(process.procfs, self.notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process."""
        self.reader.close()
        self.folios.close()
        if self._advisor:
            self._advisor.close()

    def open(self) -> None:
        """Make ready to advise. Raises `NotSupported` and `ProcessGone` as `Advisor` does."""
        self._advisor = Advisor(self.process.dir)

    @property
    def advisor(self) -> Advisor:
        """The way to the system call."""
        assert self._advisor, "open() comes first"
        return self._advisor

    @property
    def seconds(self) -> float:
        """What acting took so far, without looking at its effect."""
        return self.advisor.seconds

    def _vm_flags(self) -> dict[int, frozenset[str]]:
        # Only smaps shows which VMAs are locked, and it holds up the target: read it only if any is.
        if status_bytes(read_status(self.process.dir), "VmLck") == 0:
            return {}
        try:
            return read_vm_flags(self.process.dir)
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("mlocked-unknown", f"which VMAs are mlocked is unknown: {error}"))
            return {}

    def rules(self, vma: Vma) -> Rules:
        """Return the rules for the pages of a VMA."""
        if vma.kind not in self._rules:
            self._rules[vma.kind] = Rules(self.name, vma.kind, self.choice, self.only is not None)
        return self._rules[vma.kind]

    def vma_reason(self, vma: Vma) -> str:
        """Return why a whole VMA stays as it is, empty when it does not."""
        return vma_reason(self.name, vma, self._flags.get(vma.start, frozenset()))

    # What is there

    def blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the states of the pages that this advice may be about, a block at a time."""
        if self.only is None:
            yield from self._all_blocks(vma, start, end)
            return
        for address, states in self._stretches(vma, start, end):
            mask = self.only.mask(address, address + len(states) * self.page_size)
            yield address, either(masked(states, mask), mask.translate(OUTSIDE))

    def _all_blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for block in self.reader.blocks(vma, start, end):
            yield block.address, block.states

    def _stretches(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield all pages, those that hold nothing too."""
        size = BLOCK_SIZE // ENTRY_SIZE * self.page_size
        while start < end:
            high = min(end, start - start % size + size)
            yield start, self.reader.states(vma, start, high)
            start = high

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        """Return which pages of a block can move; count why the others that are asked for cannot."""
        rules = self.rules(vma)
        mask = states.translate(rules.movable)
        requested = states.translate(rules.wanted)
        if mask != requested:
            add_counts(reasons, rules.why_not(masked(states, requested)))
        if self.spares_shared_folios:
            stuck = self.folios.among(self.reader, address, states, mask)
            add_counts(reasons, {"shared folio": stuck.count(1)})
            mask = without(mask, stuck)
        return mask

    # What is done

    def prepare(self, pieces: list[Piece], nr_pages: int, exact: bool) -> None:
        """Look at what will be compared at the end: some ``nr_pages``; ``exact`` asks for each of them."""

    def note(self, address: int, mask: bytes) -> None:
        """Look at pages just before they are advised."""

    def spans(self, address: int, mask: bytes, whole: bool) -> list[Range]:
        """Return the ranges to advise; ``whole`` takes along what lies between the pages, which costs less."""
        size = self.page_size
        if whole:
            return [(address + mask.find(1) * size, address + (mask.rfind(1) + 1) * size)]
        return [(address + first * size, address + end * size) for first, end in runs(mask)]

    def check_alive(self, address: int) -> None:
        """Raise `ProcessGone` unless the process still runs the program that we looked at.

        The pidfd names the process whatever it runs; pagemap belongs to the address space, and ends with it.
        """
        self.reader.pagemap.entry(address)

    def advise(self, ranges: list[Range]) -> list[Range]:
        """Advise; return the ranges that were refused."""
        _, refused = self.advisor.advise(ranges, ADVICE[self.name])
        # ENOMEM is a hole in the range: what lies around it was advised.
        return [(start, end) for start, end, code in refused if code != errno.ENOMEM]

    def follow(self, vma: Vma, address: int, mask: bytes, stop: Stop) -> bool:
        """Do what an advice alone does not, to the pages that were advised; return whether it was done to the end."""
        return True

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        """Return which of the pages of a mask are now where the advice would have them."""
        raise NotImplementedError

    def confirm(self, vma: Vma, address: int, mask: bytes) -> bytes:
        """Return which of the pages that moved are still there at the end."""
        return mask

    def admit(self, vma: Vma, address: int, mask: bytes) -> bytes:
        """Return which of the pages that did not seem to move did so after all, in a VMA that is there at the end."""
        return bytes(len(mask))

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        """Return why the pages of a mask stayed."""
        raise NotImplementedError

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        """Count what can only be seen at the end."""


SPARE = 8
"""One part in so many of the free memory is left alone when pages are brought in."""
SPARE_PAGES = 64
"""At least so many, for each CPU: a cgroup is charged in such batches (mm/memcontrol.c, MEMCG_CHARGE_BATCH)."""


IS_RESIDENT = to_marks({byte for byte in range(256) if byte & 1})
"""What mincore says of a page that is read, and in RAM."""
READS = 1 << 8
"""Pages read between two looks whether to stop."""


class WillNeed(Advice):
    """Into RAM. The advice takes what is in swap no further than the swap cache: reading a byte of it maps it."""

    name = "willneed"

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        super().__init__(process, choice, only)
        self.nr_reading: int | None = 0
        """Pages of files that are not read yet at the end; None when not known."""
        self._memory = -1
        self._reading_s = 0.0
        self._room = self._read_room()

    def close(self) -> None:
        super().close()
        if self._memory >= 0:
            os.close(self._memory)

    def _all_blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        # A page of a file that is out of RAM leaves nothing in pagemap, so no block is skipped.
        return self._stretches(vma, start, end) if vma.kind == "file" else super()._all_blocks(vma, start, end)

    def _read_room(self) -> tuple[int, str]:
        """Return how many pages there is room for, and what sets the limit.

        Bringing in more than fits would have the kernel kill the target, or another, for want of memory.
        """
        if not self.process.procfs.live:
            return 1 << 63, "no memory"
        free = read_meminfo(self.process.procfs).get("MemAvailable", 1 << 63)
        room, why = free, "no memory"
        allowed = read_room(self.process.dir).memory
        if allowed is not None and allowed < free:
            room, why = allowed, "cgroup"
        spare = max(room // SPARE, SPARE_PAGES * (os.cpu_count() or 1) * self.page_size)
        return max(room - spare, 0) // self.page_size, why

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        mask = super().select(vma, address, states, reasons)
        if vma.kind == "file":
            return mask  # into the page cache, which is given up again when memory is short
        if self._advisor:
            self._room = self._read_room()  # what was selected before is in by now
        nr_pages, why = self._room
        fitting = first_pages(mask, nr_pages)
        self._room = nr_pages - fitting.count(1), why
        add_counts(reasons, {why: mask.count(1) - fitting.count(1)})
        return fitting

    @property
    def seconds(self) -> float:
        return super().seconds + self._reading_s

    def follow(self, vma: Vma, address: int, mask: bytes, stop: Stop) -> bool:
        if not self.touch:
            return True
        states = self.reader.states(vma, address, address + len(mask) * self.page_size)
        unread = both(mask, states.translate(IS_UNREAD))
        if 1 not in unread or not self._may_read():
            return True
        before = time.perf_counter()
        try:
            return self._read_pages(address, unread, stop)
        finally:
            self._reading_s += time.perf_counter() - before

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        states = self.reader.states(vma, address, address + len(mask) * self.page_size)
        return both(mask, states.translate(IS_BACK))

    def confirm(self, vma: Vma, address: int, mask: bytes) -> bytes:
        # What comes in last may have pushed out what came in first.
        return self.measure(vma, address, mask)

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        # The advice only begins to read a file, and a page that waits for the disk is in the page cache already.
        counts = [self._count_reading(tally.vma, moved) for tally in tallies if tally.vma.kind == "file"]
        self.nr_reading = None if None in counts else sum(filter(None, counts))

    def _count_reading(self, vma: Vma, moved: PageSet) -> int | None:
        """Return how many of the pages that moved are not read yet; None where that may not be asked."""
        size = self.page_size
        blocks = list(moved.blocks_from(vma.start, vma.end))
        if not blocks:
            return 0
        try:
            fd = self.process.dir.open_fd(f"map_files/{vma.start:x}-{vma.end:x}")
        except (PermissionDenied, NotSupported):
            return None
        try:
            if os.geteuid() not in (0, os.fstat(fd).st_uid):
                return None  # to anybody else mincore says that every page is in RAM
            nr_reading = 0
            for address, mask in blocks:
                resident = call_mincore(fd, vma.offset + address - vma.start, len(mask) * size, size)
                nr_reading += without(mask, resident.translate(IS_RESIDENT)).count(1)
            return nr_reading
        except NotSupported:
            return None
        finally:
            os.close(fd)

    def _may_read(self) -> bool:
        if self._memory < 0:
            try:
                self._memory = self.process.dir.open_fd("mem")
            except (PermissionDenied, NotSupported) as error:
                self.touch = False
                text = f"what was in swap is in the swap cache at most, not mapped: {error}"
                self.notes.add(Note("not-mapped", text))
                return False
        return True

    def _read_pages(self, address: int, mask: bytes, stop: Stop) -> bool:
        """Read a byte of each page; return whether that was done to the end."""
        for first, end in runs(mask):
            for place in range(first, end):
                if place % READS == 0 and stop():
                    return False
                try:
                    # One byte: the page comes in whole, and its contents are none of our business.
                    if not os.pread(self._memory, 1, address + place * self.page_size):
                        raise ProcessGone(self.process.pid)
                except OSError:
                    continue  # unmapped meanwhile, or its swap slot cannot be read
        return True

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        if vma is None:
            return {"gone": mask.count(1)}
        states = masked(self.reader.states(vma, address, address + len(mask) * self.page_size), mask)
        nr_out = states.translate(IS_UNREAD).count(1)
        why = "busy" if self.touch else "untouched"
        return {why: nr_out, ("unread" if vma.kind == "file" else "gone"): mask.count(1) - nr_out}


class Cold(Advice):
    """First to go when memory is short. What it changes are accessed bits, which smaps counts for each VMA."""

    name = "cold"
    shows_pages = False
    spares_shared_folios = True

    def prepare(self, pieces: list[Piece], nr_pages: int, exact: bool) -> None:
        drain_batches()
        self._starts = {vma.start for vma, _, _ in pieces}
        self._before = self._referenced()

    def _referenced(self) -> dict[int, int]:
        """Return how many pages of each VMA count as referenced."""
        return {
            vma.start: fields["Referenced"] // self.page_size
            for vma, fields in read_smaps(self.process.dir)
            if vma.start in self._starts
        }

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        return bytes(len(mask))

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        return {}

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        after = self._referenced()
        for tally in tallies:
            start = tally.vma.start
            nr_less = self._before.get(start, 0) - after.get(start, 0)
            tally.nr_moved = max(min(nr_less, tally.nr_advised), 0)
            add_counts(tally.reasons, {"idle": tally.nr_advised - tally.nr_moved})


class Collapse(Advice):
    """Small pages into huge ones."""

    name = "collapse"
    is_refused_by_vma = False

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        super().__init__(process, choice, only)
        self.huge_size = huge_size()
        self._refused: dict[int, str] = {}

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        mask = super().select(vma, address, states, reasons)
        if 1 not in mask:
            return mask
        end = address + len(mask) * self.page_size
        huge = self.reader.huge_mask(address, end)
        add_counts(reasons, {"huge": both(mask, huge).count(1)})
        mask = without(mask, huge)
        fits = bytearray(len(mask))
        for low, high in self._places(max(address, vma.start), min(end, vma.end)):
            first, last = (low - address) // self.page_size, (high - address) // self.page_size
            fits[first:last] = b"\1" * (last - first)
        add_counts(reasons, {"unaligned": without(mask, bytes(fits)).count(1)})
        return both(mask, bytes(fits))

    def _all_blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        # After a hole a block begins at the next page that is there, maybe in the middle of a huge page's place.
        for address, states in super()._all_blocks(vma, start, end):
            low = max(address - address % self.huge_size, start)
            yield low, bytes((address - low) // self.page_size) + states

    def _places(self, start: int, end: int) -> Iterator[Range]:
        """Yield the aligned places of one huge page between two addresses."""
        for low in range(start + -start % self.huge_size, end - self.huge_size + 1, self.huge_size):
            yield low, low + self.huge_size

    def spans(self, address: int, mask: bytes, whole: bool) -> list[Range]:
        size = self.page_size
        return [
            (low, high)
            for low, high in self._places(address, address + len(mask) * size)
            if 1 in mask[(low - address) // size : (high - address) // size]
        ]

    def advise(self, ranges: list[Range]) -> list[Range]:
        _, refused = self.advisor.advise(ranges, ADVICE[self.name])
        for start, _, code in refused:
            self._refused[start] = COLLAPSE_REASONS.get(code, "refused")
        return [(start, end) for start, end, _ in refused]

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        return both(mask, self.reader.huge_mask(address, address + len(mask) * self.page_size))

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        reasons: dict[str, int] = {}
        for low, high in self._places(address, address + len(mask) * self.page_size):
            nr_pages = mask[(low - address) // self.page_size : (high - address) // self.page_size].count(1)
            add_counts(reasons, {self._refused.get(low, "busy"): nr_pages})
        return reasons


COLLAPSE_REASONS = {errno.ENOMEM: "no memory", errno.EBUSY: "cgroup", errno.EAGAIN: "busy"}
"""madvise(2), MADV_COLLAPSE; all else, EINVAL above all, is a refusal: VM_NOHUGEPAGE, PR_SET_THP_DISABLE, ..."""

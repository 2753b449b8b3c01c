"""What all advice has in common: what it asks for, how it is given, and how its effect is seen.

An `Advice` holds the open files of one plan or act. It reads a block of pages, says which of them can move, advises
those, and reads them again.
"""

from __future__ import annotations

import errno

from mematlas.actions.effects import Whereabouts
from mematlas.actions.options import CHUNK_SIZES
from mematlas.analysis.movable import NOT_MADVISED, Rules, add_counts
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.madvise import ADVICE, Advisor
from mematlas.kernel.pagemap import BLOCK_SIZE, CACHED, ENTRY_SIZE, EXCLUSIVE, PAGE_IS_HUGE, to_marks
from mematlas.kernel.smaps import read_vm_flags
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.folios import SharedFolios
from mematlas.model.page_set import either, masked, runs, without
from mematlas.model.pages import STATE_OF_BYTE, PageReader
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.actions.options import Options, Stop
    from mematlas.actions.rooms import SwapRoom
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

    Range = tuple[int, int]
    Piece = tuple[Vma, int, int]
    """A VMA, and the part of it that is meant."""


def states_to_marks(*states: str) -> bytes:
    """Return a translation table: 1 for the pages in these states."""
    return to_marks({byte for byte, state in enumerate(STATE_OF_BYTE) if state in states})


OUTSIDE = bytes((CACHED,)) + bytes(255)
"""From a mask to states: pages outside it look like those that no advice is about."""


class Tally:
    """The counts of one VMA, or of a part of it, while its pages are gone through."""

    def __init__(self, vma: Vma) -> None:
        self.vma = vma
        self.nr_requested = 0
        self.nr_advised = 0
        self.nr_moved = 0
        self.reasons: dict[str, int] = {}
        self.refused = False


class Outlook:
    """Where the pages that can move would go, while a plan is made."""

    def __init__(self, nr_dirty: int | None) -> None:
        self.nr_needs_swap = 0
        self.nr_dirty = nr_dirty
        """Begins at None when it is not to be counted."""
        self.nr_given_up: int | None = 0


class Advice:
    """One piece of advice for one process. Reads everything; advises only once `open` was called."""

    name: AdviceName
    wanted = "in RAM"
    """Where the pages are that it is about."""
    repeats = False
    """Whether pages that stayed without a reason may move when advised again."""
    is_refused_by_vma = True
    """Whether a refusal is about the whole VMA, so that there is no use in going on with it."""
    shows_pages = True
    """Whether the effect can be seen page by page."""
    spares_shared_folios = False
    """Whether a page stays because others map its large folio in part."""
    spares_mlocked = False
    """Whether the kernel refuses it of VMAs that are mlocked."""

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        self.process = process
        self.page_size = process.page_size
        self.huge_size = huge_size()
        self.choice = choice
        self.only = only
        self.notes = Notes()
        self._rules: dict[str, Rules] = {}
        self.status = read_status(process.dir)
        self._flags = self._vm_flags()
        self._advisor: Advisor | None = None
        self.reader = PageReader(process.dir)
        self.folios = SharedFolios(process.procfs)

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

    def open(self, options: Options) -> None:
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
        if status_bytes(self.status, "VmLck") == 0:
            return {}
        try:
            return read_vm_flags(self.process.dir)
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(Note("mlocked-unknown", f"which VMAs are mlocked is unknown: {error}"))
            return {}

    def rules(self, vma: Vma) -> Rules:
        """Return the rules for the pages of a VMA."""
        if vma.kind not in self._rules:
            is_known = self.only is not None
            self._rules[vma.kind] = Rules(self, vma.kind, self.choice, is_known)
        return self._rules[vma.kind]

    def vma_reason(self, vma: Vma) -> str:
        """Return why a whole VMA stays as it is, empty when it does not."""
        if vma.kind in NOT_MADVISED:
            return NOT_MADVISED[vma.kind]
        is_mlocked = "lo" in self._flags.get(vma.start, ())
        return "mlocked" if is_mlocked and self.spares_mlocked else ""

    def all_notes(self) -> Notes:
        """Return what is to be said beside the counts, as far as it is known by now."""
        return Notes((*self.notes, *self.folios.notes, *self.reader.backings.uncertain))

    # The rules

    @staticmethod
    def asks_for(kind: str, byte: int, known: bool) -> bool:
        """Whether a page in such a state is what the advice is for; ``known`` as in `Rules`."""
        return STATE_OF_BYTE[byte] not in ("absent", "swapped", "cached", "unknown")

    @staticmethod
    def reason_of(byte: int) -> str:
        """Return why the kernel leaves a page in such a state, empty when it does not."""
        state = STATE_OF_BYTE[byte]
        if state != "present":
            return state
        return "" if byte & EXCLUSIVE else "shared"

    # What is there

    def movable(self, piece: Piece, tally: Tally) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the pages of a piece that can move, a block at a time: its address, its states, their mask.

        ``tally`` counts the pages that are asked for, and why the others cannot move.
        """
        vma, start, end = piece
        rules, why = self.rules(vma), self.vma_reason(vma)
        for address, states in self.blocks(vma, start, end):
            nr_pages = states.translate(rules.wanted).count(1)
            tally.nr_requested += nr_pages
            if why:
                add_counts(tally.reasons, {why: nr_pages})
            elif nr_pages:
                mask = self.select(vma, address, states, tally.reasons)
                if 1 in mask:
                    yield address, states, mask

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

    def states_at(self, vma: Vma, address: int, mask: bytes) -> bytes:
        """Return the states of as many pages as a mask has, as they are now."""
        return self.reader.states(vma, address, address + len(mask) * self.page_size)

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

    def quiesce(self) -> None:
        """Have the kernel finish what it put off, as far as a plan would be wrong for it."""

    def foresee(self, outlook: Outlook, vma: Vma, address: int, states: bytes, mask: bytes) -> None:
        """Count where the pages of a mask would go."""

    def blind_spots(self) -> list[Note]:
        """Return why some pages are not asked for that may be what it is about; known once all were gone through."""
        return []

    # What is done

    def prepare(self, pieces: list[Piece], nr_pages: int, room: SwapRoom) -> None:
        """Make ready for some ``nr_pages`` in these pieces: look at what will be compared at the end."""

    def note(self, address: int, mask: bytes) -> None:
        """Look at pages just before they are advised."""

    def spans(self, address: int, mask: bytes, whole: bool) -> list[Range]:
        """Return the ranges to advise; ``whole`` takes along what lies between the pages, which costs less."""
        size = self.page_size
        if whole:
            return [(address + mask.find(1) * size, address + (mask.rfind(1) + 1) * size)]
        return [(address + first * size, address + end * size) for first, end in runs(mask)]

    def together(self, start: int, end: int) -> list[Range]:
        """Return the ranges of huge pages, each to be advised in one piece.

        The kernel splits one that advice ends in the middle of (mm/madvise.c).
        """
        try:
            mapped = self.reader.pagemap.ranges(start, end, PAGE_IS_HUGE)
        except NotSupported:
            # Before Linux 6.7, wherever one may be; of 512 MiB (pages of 64 KiB) that would hold the target too long.
            mapped = [(start, end)] if self.huge_size <= max(CHUNK_SIZES) else []
        return [huge for low, high in mapped for huge in self.huge_ranges(low, high)]

    def huge_ranges(self, start: int, end: int) -> Iterator[Range]:
        """Yield the aligned ranges of one huge page between two addresses."""
        for low in range(start + -start % self.huge_size, end - self.huge_size + 1, self.huge_size):
            yield low, low + self.huge_size

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

    def whereabouts(self, gone: bool) -> Whereabouts:
        """Return where the pages are that moved; ``gone`` says that the process ended before all was settled."""
        return Whereabouts()

"""MADV_PAGEOUT, seen from both ends: what left the process, and what left RAM.

The two are not the same. A page that was swapped out leaves the process at once, and its frame stays in the swap
cache until it is needed; a page of a file that is not yet written leaves the process and stays in the page cache.
Source: mm/madvise.c, madvise_cold_or_pageout_pte_range(); mm/vmscan.c, shrink_folio_list().
"""

from __future__ import annotations

import os

from mematlas.actions.advice.base import Advice, states_to_marks
from mematlas.actions.effects import Whereabouts
from mematlas.actions.pins import Pins
from mematlas.analysis.movable import add_counts
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kpage import (
    KPF_ANON,
    KPF_DIRTY,
    KPF_SWAPBACKED,
    KPF_SWAPCACHE,
    KPF_WRITEBACK,
    FrameWords,
)
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.pagemap import IS_PRESENT, IS_SHARED, frames_hidden
from mematlas.kernel.rights import effective_capabilities
from mematlas.kernel.swaps import free_swap, read_swaps
from mematlas.model.origins import MANY, SAMPLE, Origins
from mematlas.model.page_set import PageSet, both, either, masked, without
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.actions.advice.base import Outlook, Piece, Tally
    from mematlas.actions.options import Options
    from mematlas.actions.rooms import SwapRoom
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.observe.process import Process

IS_SWAPPED = states_to_marks("swapped")
IS_CACHED = states_to_marks("cached")
IS_UNKNOWN = states_to_marks("unknown")
IS_OUT = states_to_marks("swapped", "cached", "unknown")
"""Out of the process, for memory without a file on disk. An empty entry is no page that moved: it is gone."""
IS_OUT_OF_FILE = states_to_marks("swapped", "cached", "absent")
IS_EMPTY = states_to_marks("absent")

DIRTY = KPF_DIRTY | KPF_WRITEBACK


class PageOut(Advice):
    """Out of RAM: to swap, or back to the file."""

    name: AdviceName = "pageout"
    repeats = True
    spares_shared_folios = True
    spares_mlocked = True

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        super().__init__(process, choice, only)
        self.room: SwapRoom | None = None
        """What the plan found that can go to swap; None while it is made."""
        self.swapped = PageSet(self.page_size)
        """What went to swap."""
        self.nr_given_up = 0
        """Pages that were freed without being kept: MADV_FREE."""
        self.nr_page_cached = 0
        """Pages that left the process and are in the page cache."""
        self.nr_unknown_file = self.nr_unknown_shmem = 0
        """Pages that left the process, of which we may not see where they are now."""
        self.origins = Origins(self.reader.pagemap)
        self.nr_swap_cached: int | None = None
        """Pages of ``swapped`` that are in the swap cache still; None while that is not known."""
        self.kept: PageSet | None = None
        """Which these are; None when not each page was looked at."""
        self._ours: dict[int, bool] = {}
        self._pins = Pins(process, self.status)
        self.notes += self._pins.notes
        self._to_swap = b""
        """Which pages of the block that was selected last go to swap."""
        self._exact = False

    def open(self, options: Options) -> None:
        super().open(options)
        self._exact = options.exact

    def quiesce(self) -> None:
        if self.process.procfs.live:
            drain_batches()  # what was given up a moment ago waits there, and looks as if it was not

    def prepare(self, pieces: list[Piece], nr_pages: int, room: SwapRoom) -> None:
        self.room = room
        if nr_pages > MANY and not self._exact:
            self.origins.stride = -(-nr_pages // SAMPLE)

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        mask = super().select(vma, address, states, reasons)
        pinned = self._pins.among(self.reader, address, mask)
        add_counts(reasons, {"pinned": pinned.count(1)})
        self._to_swap = mask = without(mask, pinned)
        lacking = self.room.lacking if self.room and self.room.size < self.page_size else ""
        if vma.kind != "file" and not lacking:
            return mask
        self._to_swap = needs_swap = both(mask, states.translate(self.rules(vma).needs_swap))
        if vma.kind == "file" and not self._is_ours(vma):
            add_counts(reasons, {"not ours": mask.count(1) - needs_swap.count(1)})
            mask = needs_swap
        if not lacking:
            return mask
        # What was given up needs no room: it is freed.
        given_up = self.given_up(address, needs_swap) or bytes(len(mask))
        needs_swap = without(needs_swap, given_up)
        add_counts(reasons, {lacking: needs_swap.count(1)})
        return without(mask, needs_swap)

    def foresee(self, outlook: Outlook, vma: Vma, address: int, states: bytes, mask: bytes) -> None:
        needs_swap = both(mask, states.translate(self.rules(vma).needs_swap))
        if outlook.nr_dirty is not None:
            nr_dirty = self.count_dirty(address, without(mask, needs_swap))
            outlook.nr_dirty = None if nr_dirty is None else outlook.nr_dirty + nr_dirty
        given_up = self.given_up(address, needs_swap)
        nr_given_up = given_up.count(1) if given_up else 0
        outlook.nr_needs_swap += needs_swap.count(1) - nr_given_up
        if given_up is None or outlook.nr_given_up is None:
            outlook.nr_given_up = None
        else:
            outlook.nr_given_up += nr_given_up

    def _is_ours(self, vma: Vma) -> bool:
        """Whether we may have the kernel drop pages of a file: mm/madvise.c, can_do_file_pageout()."""
        if vma.start not in self._ours:
            self._ours[vma.start] = not self.process.procfs.live or owns(vma)
        return self._ours[vma.start]

    def note(self, address: int, mask: bytes) -> None:
        # Of a page of a file, its file says whether it is still in RAM.
        self.origins.note(address, both(mask, self._to_swap))

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        states = self.states_at(vma, address, mask)
        out = both(mask, states.translate(IS_OUT_OF_FILE if vma.kind == "file" else IS_OUT))
        swapped = both(out, states.translate(IS_SWAPPED))
        self.swapped.add(address, swapped)
        self.nr_page_cached += both(out, states.translate(IS_CACHED)).count(1)
        if vma.start not in self.reader.blind:
            return out
        # Where the file may not be asked, an empty entry says nothing about the page cache.
        if vma.kind == "file":
            self.nr_unknown_file += both(out, states.translate(IS_EMPTY)).count(1)
        else:
            self.nr_unknown_shmem += both(out, states.translate(IS_UNKNOWN)).count(1)
        return out

    def admit(self, vma: Vma, address: int, mask: bytes) -> bytes:
        moved = self.measure(vma, address, mask)
        if vma.kind == "file" or moved == mask:
            return moved
        # A page that is gone though its VMA is there was given up by the process, and freed by us: MADV_FREE.
        states = self.states_at(vma, address, mask)
        given_up = both(without(mask, moved), states.translate(IS_EMPTY))
        self.nr_given_up += given_up.count(1)
        return either(moved, given_up)

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        if vma is None:
            return {"gone": mask.count(1)}
        whole = self.states_at(vma, address, mask)
        states = masked(whole, mask)
        present, shared = states.translate(IS_PRESENT), states.translate(IS_SHARED)
        stuck = self.folios.among(self.reader, address, whole, without(present, shared))
        reasons = {
            "shared": shared.count(1),
            "shared folio": stuck.count(1),
            "special": mask.count(1) - present.count(1),
        }
        own = without(without(present, shared), stuck)
        swappable = both(own, states.translate(self.rules(vma).needs_swap))
        reasons[self._lack(swappable.count(1))] = swappable.count(1)
        add_counts(reasons, self._explain_file(address, without(own, swappable)))
        return reasons

    def _lack(self, nr_pages: int) -> str:
        # Swap is given out in clusters to each CPU, so the last few slots may be free and yet out of reach.
        free = free_swap(read_swaps(self.process.procfs))
        return "no swap" if free < nr_pages * self.page_size else "busy"

    def _explain_file(self, address: int, mask: bytes) -> dict[str, int]:
        """Return why pages of a file stayed mapped."""
        nr_dirty = self.count_dirty(address, mask)
        if nr_dirty is None:
            return {"busy or dirty": mask.count(1)}
        return {"dirty": nr_dirty, "busy": mask.count(1) - nr_dirty}

    def count_dirty(self, address: int, mask: bytes) -> int | None:
        """Return how many pages of a mask are not written to disk yet; None when that is unknown."""
        words = self._flag_words(address, mask)
        if words is None:
            return None
        return sum(word & DIRTY != 0 for word in words if word is not None)

    def given_up(self, address: int, mask: bytes) -> bytes | None:
        """Return which pages of a mask were given up by the process: freed, not swapped; None when that is unknown.

        MADV_FREE and MAP_DROPPABLE take the flag off an anonymous page that says that swap is behind it. One that was
        written to since MADV_FREE gets it back no sooner than it is looked at.
        """
        words = self._flag_words(address, mask)
        if words is None:
            return None
        flags = KPF_ANON | KPF_SWAPBACKED
        lost = (word is not None and word & flags == KPF_ANON for word in words)
        return bytes(map(int, lost)).ljust(len(mask), b"\0")

    def _flag_words(self, address: int, mask: bytes) -> list[int | None] | None:
        """Return the flags of the frames of a mask, None for other pages; None when they are unknown."""
        if 1 not in mask:
            return []
        pfns = self.reader.pagemap.frames(address, address + len(mask) * self.page_size)
        wanted = [pfn if is_meant else 0 for pfn, is_meant in zip(pfns, mask, strict=True)]
        try:
            if not any(wanted):
                raise frames_hidden(self.process.dir.path)
            with FrameWords(self.process.procfs, "kpageflags") as words:
                flags = words.get(filter(None, wanted))
        except (PermissionDenied, NotSupported):
            return None
        return [flags.get(pfn, 0) if pfn else None for pfn in wanted]

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        self.nr_swap_cached = self._count_swap_cached()

    def _count_swap_cached(self) -> int | None:
        nr_swapped = self.swapped.nr_pages
        if not nr_swapped:
            self.kept = PageSet(self.page_size)
            return 0
        if self.origins.why:
            self.notes.add(swap_cache_unknown(self.origins.why))
            return None
        kept = PageSet(self.page_size)
        nr_seen = 0
        try:
            for address, seen, cached in self.origins.masks(self.swapped, KPF_SWAPCACHE):
                nr_seen += seen.count(1)
                # One that came back is in the swap cache as well, and in the process.
                states = self.reader.pagemap.states(address, address + len(cached) * self.page_size)
                kept.add(address, without(cached, states.translate(IS_PRESENT)))
        except (PermissionDenied, NotSupported) as error:
            self.notes.add(swap_cache_unknown(error))
            return None
        if nr_seen == nr_swapped:
            self.kept = kept
            return kept.nr_pages
        if not nr_seen:
            return None
        text = f"what is left in the swap cache is estimated from a sample of {nr_seen} pages"
        self.notes.add(Note("swap-cache-sampled", text))
        return round(kept.nr_pages / nr_seen * nr_swapped)

    def whereabouts(self, gone: bool) -> Whereabouts:
        size = self.page_size
        nr_unknown = self.nr_unknown_file + self.nr_unknown_shmem
        is_swap_known = not self.nr_unknown_shmem
        is_cache_known = not nr_unknown
        if gone:
            text = "cannot tell which moved pages are still in RAM: the process is gone"
            self.notes.add(Note("gone", text))
        if nr_unknown:
            reasons = sorted(set(self.reader.backings.unknown.values()))
            why = "; ".join(reasons)
            text = f"{nr_unknown} pages left the process; cannot tell whether they are still in RAM: {why}"
            self.notes.add(Note("in-ram-unknown", text))
        nr_swap_cached = self.nr_swap_cached if is_swap_known else None
        return Whereabouts(
            swap=self.swapped.nr_pages * size if is_swap_known else None,
            swap_cached=None if nr_swap_cached is None else nr_swap_cached * size,
            page_cached=self.nr_page_cached * size if is_cache_known else None,
            nr_given_up=self.nr_given_up,
            kept=self.kept,
        )


def swap_cache_unknown(why: object) -> Note:
    """Return the note that the swap cache could not be looked at."""
    return Note("swap-cache-unknown", f"what is left in the swap cache is unknown: {why}")


def owns(vma: Vma) -> bool:
    """Whether we own the file of a VMA or may write to it, as far as its path shows."""
    if "CAP_FOWNER" in effective_capabilities():
        return True
    try:
        status = os.stat(vma.path)
    except OSError:
        return True  # deleted, or of another mount namespace: what stays will show
    if status.st_ino != vma.inode or status.st_uid == os.geteuid():
        return True
    return os.access(vma.path, os.W_OK, effective_ids=True)

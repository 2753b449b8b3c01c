"""An act under way, and what it came to: `mematlas.actions.plans` begins it.

It goes over the planned pages block by block: advises, compares, and advises again what stayed without a reason.
"""

from __future__ import annotations

import time

from mematlas.actions.advising import Tally, WillNeed, pieces
from mematlas.actions.freeing import PageOut
from mematlas.analysis.movable import add_counts, in_order
from mematlas.frozen import record, replace
from mematlas.kernel.cgroups import Room
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.swaps import SwapArea, free_swap
from mematlas.model.address_space import Selection, parts
from mematlas.model.page_set import PageSet, without
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.actions.advising import Advice, Piece, Range, Stop
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.maps import Vma
    from mematlas.observe.process import Process

    Progress = Callable[[int, int], None]


@record
class PlannedVma:
    """A VMA, or the part of it that was asked for, with what an advice can do there."""

    vma: Vma
    start: int
    end: int
    nr_requested: int
    nr_movable: int
    nr_needs_swap: int
    """Those of the movable pages that have nowhere to go but swap, where there is room for them."""
    nr_dirty: int | None
    """Those that are of files and not yet written to disk: they leave the process, and stay in RAM. None when that was
    not looked at, or is not told."""
    reasons: dict[str, int]
    """Why the others will stay, as in `mematlas.analysis.movable.REASONS`."""
    nr_given_up: int | None = 0
    """Those of the movable pages that will be freed, and kept nowhere (MADV_FREE, MAP_DROPPABLE), unless they are
    written to since. None when that was not looked at, or is not told."""
    nr_without_swap: int = 0
    """Pages that could move if there were more swap; they are no part of the movable ones."""


@record
class Plan:
    """What an advice would do, with nothing done yet."""

    advice: str
    selection: Selection
    choice: Choice
    only: PageSet | None
    """Only these pages, when given."""
    vmas: tuple[PlannedVma, ...]
    page_size: int
    swaps: tuple[SwapArea, ...]
    """Where memory without a file can go."""
    room: Room
    """What the memory cgroup of the process still allows."""
    notes: tuple[Note, ...]

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(item.nr_requested for item in self.vmas)

    @property
    def nr_needs_swap(self) -> int:
        """Pages that go to swap, where there is room for them."""
        return sum(item.nr_needs_swap for item in self.vmas)

    @property
    def nr_dirty(self) -> int | None:
        """Pages that can leave the process, and will stay in RAM until they are written; None when not known."""
        counts = [item.nr_dirty for item in self.vmas]
        return None if None in counts else sum(filter(None, counts))

    @property
    def nr_given_up(self) -> int | None:
        """Pages that will be freed, and kept nowhere; None when not known."""
        counts = [item.nr_given_up for item in self.vmas]
        return None if None in counts else sum(filter(None, counts))

    @property
    def swap_room(self) -> int:
        """Bytes that can go to swap."""
        return swap_room(self.swaps, self.room)

    @property
    def nr_without_swap(self) -> int:
        """Pages that could move if there were more swap."""
        return sum(item.nr_without_swap for item in self.vmas)

    @property
    def nr_movable(self) -> int:
        """Pages that can move."""
        return sum(item.nr_movable for item in self.vmas)

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others will stay."""
        total: dict[str, int] = {}
        for item in self.vmas:
            add_counts(total, item.reasons)
        return in_order(total)


def swap_room(swaps: Iterable[SwapArea], room: Room) -> int:
    """Return how many bytes can go to swap: what is free, or what the cgroup allows of it."""
    free = free_swap(swaps)
    return free if room.swap is None else min(free, room.swap)


def within(vmas: Iterable[PlannedVma], nr_pages: int, why: str) -> Iterator[PlannedVma]:
    """Yield what can be done to VMAs, one after the other, where there is room for so many pages in swap."""
    for item in vmas:
        nr_lacking = max(item.nr_needs_swap - nr_pages, 0)
        nr_pages -= item.nr_needs_swap - nr_lacking
        yield replace(
            item,
            nr_movable=item.nr_movable - nr_lacking,
            nr_needs_swap=item.nr_needs_swap - nr_lacking,
            nr_without_swap=nr_lacking,
            reasons=in_order({why: nr_lacking} | item.reasons),
        )


@record
class Freed:
    """What a second round did to pages that the first had left in the swap cache: read back, so that they were clean,
    and paged out once more.
    """

    nr_kept: int
    """Pages that the swap cache kept after the first round."""
    nr_freed: int | None
    """Those of them that it no longer keeps; None when not known."""


@record
class VmaEffect:
    """What an act did to one VMA."""

    vma: Vma
    nr_requested: int
    nr_advised: int
    nr_moved: int
    reasons: dict[str, int]


@record
class Effect:
    """What an act did, as the pages themselves show it."""

    advice: str
    nr_requested: int
    """Pages asked for. pageout, cold, collapse: those in RAM; willneed: those that are not."""
    nr_advised: int
    """Those about which the kernel took advice."""
    nr_moved: int
    """pageout: out of the process, if not yet out of RAM: see ``nr_freed``. willneed: in RAM. cold: no longer
    referenced. collapse: part of a huge page."""
    reasons: dict[str, int]
    """Why the others stayed, as in `mematlas.analysis.movable.REASONS`; their sum is ``nr_stayed``."""
    passes: int
    seconds: float
    advise_s: float
    """The part of it that acting took: the system call and, to bring pages back, reading a byte of each. The rest
    is measuring."""
    swap: int | None
    """Bytes of the moved pages that went to swap; None when some may not be asked about."""
    swap_cached: int | None
    """The part of it that is in the swap cache, and so in RAM still: it is written to a disk in the background, and
    given up when memory is needed. Swap in RAM (zram) writes at once and leaves nothing. None when not known."""
    page_cached: int | None
    """Bytes of the moved pages that are in the page cache still: not yet written, or in use elsewhere."""
    nr_given_up: int
    """Moved pages that the process had given up (MADV_FREE): freed, and kept nowhere."""
    freed: Freed | None
    """What reading back and paging out once more did; None when it was not asked for."""
    moved: PageSet
    """Which pages moved; empty for cold, which no entry shows."""
    kept: PageSet | None
    """Which of them the swap cache keeps; None when not each was looked at."""
    vmas: tuple[VmaEffect, ...]
    stopped: str
    """Why it ended before all was done; empty when it did not."""
    gone: bool
    """Whether that is because the process ended, or started another program."""
    notes: tuple[Note, ...]
    nr_reading: int | None = 0
    """After a willneed: moved pages of files that were still being read at the end; None when not known."""

    @property
    def nr_stayed(self) -> int:
        """Pages that did not move."""
        return self.nr_requested - self.nr_moved

    @property
    def nr_freed(self) -> int | None:
        """After a pageout: moved pages that left RAM too, so that their frames are free; None when not known."""
        if self.swap_cached is None or self.page_cached is None:
            return None
        return self.nr_moved - (self.swap_cached + self.page_cached) // self.moved.page_size


class Act:
    """An act under way."""

    def __init__(
        self,
        process: Process,
        plan: Plan,
        kind: Advice,
        chunk_size: int,
        progress: Progress | None,
        stop: Stop,
    ) -> None:
        self.before = time.perf_counter()
        self.process = process
        self.plan = plan
        self.kind = kind
        self.chunk_size = chunk_size
        self.progress = progress
        self.stop = stop
        self.whole = plan.choice.is_everything and plan.only is None
        self.tallies: dict[int, Tally] = {}
        """By the start of the VMA."""
        self.tally_of: dict[int, Tally] = {}
        """By the address of a block."""
        self.left: list[tuple[Vma, int, bytes]] = []
        """Pages that were advised and did not move: masks by address."""
        self.moved = PageSet(process.page_size)
        self.notes = Notes()
        self.nr_calls = 0
        self.nr_done = 0
        self.passes = 0
        self.stopped = ""
        self.gone = False

    def run(self, passes: int, exact: bool = False) -> None:
        """Go over all VMAs, then again over what stayed, until nothing more moves."""
        wanted = self._pieces()
        self.kind.prepare(wanted, self.plan.nr_movable, exact)
        self.passes = 1
        for vma, start, end in wanted:
            self._first_pass(vma, start, end)
        while self.left and self.kind.repeats and not self.stopped and self.passes < passes:
            self.passes += 1
            drain_batches()
            if not self._next_pass():
                break
        self._confirm()
        self._explain()
        self.kind.settle(self.tallies.values(), self.moved)

    def _pieces(self) -> list[Piece]:
        """Return what was planned, as far as it is there now."""
        planned = [item.vma for item in self.plan.vmas]
        ranges = [(item.start, item.end) for item in self.plan.vmas]
        # The filters hold for what is there now; which part of each VMA is meant, the plan says.
        selection = replace(self.plan.selection, area=None)
        found = pieces(self.process, self.process.address_space(), selection, ranges)
        if [vma for vma, _, _ in found] != planned:
            self.notes.add(Note("plan-outdated", "VMAs changed between the plan and the act: what is there now counts"))
        return found

    def _first_pass(self, vma: Vma, start: int, end: int) -> None:
        kind = self.kind
        rules, why = kind.rules(vma), kind.vma_reason(vma)
        tally = self.tallies.setdefault(vma.start, Tally(vma))
        for address, states in kind.blocks(vma, start, end):
            nr_pages = states.translate(rules.wanted).count(1)
            tally.nr_requested += nr_pages
            if why or self.stopped:
                add_counts(tally.reasons, {why or "unfinished": nr_pages})
            elif nr_pages and 1 in (mask := kind.select(vma, address, states, tally.reasons)):
                kind.note(address, mask)
                tally.nr_advised += self._advise(tally, address, mask, self.whole)
                self.nr_done += mask.count(1)
                self._measure(tally, address, mask)
                if self.progress:
                    self.progress(self.nr_done, max(self.plan.nr_movable, self.nr_done))

    def _next_pass(self) -> int:
        """Advise what stayed once more; return how many pages moved."""
        left, self.left = self.left, []
        nr_moved = 0
        for vma, address, mask in left:
            tally = self.tallies[vma.start]
            if tally.refused or self.stopped:
                self.left.append((vma, address, mask))
                continue
            self._advise(tally, address, mask, False)
            nr_moved += self._measure(tally, address, mask)
        return nr_moved

    def _advise(self, tally: Tally, address: int, mask: bytes, whole: bool) -> int:
        """Advise the pages of a mask; return how many the kernel took advice about."""
        size = self.process.page_size
        taken = bytearray(len(mask))
        for ranges in chunks(self.kind.spans(address, mask, whole), self.chunk_size):
            if self.stop():
                self.stopped = "interrupted"
            if self.stopped or tally.refused:
                break
            self.kind.check_alive(address)
            refused = self.kind.advise(ranges)
            self.nr_calls += 1
            tally.refused = bool(refused) and self.kind.is_refused_by_vma
            for start, end in set(ranges).difference(refused):
                low, high = (start - address) // size, (end - address) // size
                taken[low:high] = mask[low:high]
        if not self.kind.follow(tally.vma, address, bytes(taken), self.stop):
            self.stopped = "interrupted"
        return taken.count(1)

    def _measure(self, tally: Tally, address: int, mask: bytes) -> int:
        """Look at the pages of a mask again; return how many moved, and keep the others in mind."""
        moved = self.kind.measure(tally.vma, address, mask)
        nr_moved = moved.count(1)
        tally.nr_moved += nr_moved
        self.moved.add(address, moved)
        self.tally_of[address] = tally
        if moved != mask:
            self.left.append((tally.vma, address, without(mask, moved)))
        return nr_moved

    def _confirm(self) -> None:
        """Take back what moved for a moment only."""
        for address, mask in list(self.moved.blocks()):
            tally = self.tally_of[address]
            still = self.kind.confirm(tally.vma, address, mask)
            if still != mask:
                lost = without(mask, still)
                tally.nr_moved -= lost.count(1)
                self.moved.put(address, still)
                self.left.append((tally.vma, address, lost))

    def _explain(self) -> None:
        """Count why pages stayed."""
        if not self.kind.shows_pages:
            return
        space = self.process.address_space()
        for vma, address, mask in self.left:
            tally = self.tallies[vma.start]
            if tally.refused or self.stopped:
                add_counts(tally.reasons, {"refused" if tally.refused else "unfinished": mask.count(1)})
                continue
            size = self.process.page_size
            for low, high, now in parts(space, address, address + len(mask) * size):
                part = mask[(low - address) // size : (high - address) // size]
                if now and 1 in (late := self.kind.admit(now, low, part)):
                    tally.nr_moved += late.count(1)
                    self.moved.add(address, bytes((low - address) // size) + late)
                    part = without(part, late)
                if 1 in part:
                    add_counts(tally.reasons, self.kind.explain(now, low, part))
        self.left = []

    def effect(self) -> Effect:
        """Return what was done so far."""
        tallies = self.tallies.values()
        reasons: dict[str, int] = {}
        for tally in tallies:
            # Whatever was not explained was not reached: the process ended, or somebody stopped us.
            known = tally.nr_moved + sum(tally.reasons.values())
            add_counts(tally.reasons, {"unfinished": tally.nr_requested - known})
            add_counts(reasons, tally.reasons)
        nr_requested = sum(tally.nr_requested for tally in tallies)
        if self.gone:
            add_counts(reasons, {"unfinished": max(self.plan.nr_requested - nr_requested, 0)})
            nr_requested = max(nr_requested, self.plan.nr_requested)
        return Effect(
            self.plan.advice,
            nr_requested,
            sum(tally.nr_advised for tally in tallies),
            sum(tally.nr_moved for tally in tallies),
            in_order(reasons),
            self.passes,
            time.perf_counter() - self.before,
            self.kind.seconds,
            *self._where(),
            None,
            self.moved,
            self.kind.kept if isinstance(self.kind, PageOut) else None,
            tuple(map(effect_of, tallies)),
            self.stopped,
            self.gone,
            tuple(Notes((*self.plan.notes, *self.kind.notes, *self.notes, *self.kind.reader.backings.uncertain))),
            self.kind.nr_reading if isinstance(self.kind, WillNeed) else 0,
        )

    def _where(self) -> tuple[int | None, int | None, int | None, int]:
        """Return where moved pages are: bytes in swap, of these in RAM still, in the page cache; pages given up."""
        kind, size = self.kind, self.process.page_size
        if not isinstance(kind, PageOut):
            return 0, 0, 0, 0
        in_swap, in_cache = kind.swapped.nr_pages * size, kind.nr_page_cached * size
        swap_cached = None if kind.nr_swap_cached is None else kind.nr_swap_cached * size
        if self.gone:
            text = "what of the moved pages was in RAM still is not known: the process is gone"
            self.notes.add(Note("gone", text))
        if kind.nr_unknown_file or kind.nr_unknown_shmem:
            nr_pages = kind.nr_unknown_file + kind.nr_unknown_shmem
            why = "; ".join(sorted(kind.reader.backings.unknown))
            text = f"{nr_pages} pages left the process, and whether they are in RAM still is not told: {why}"
            self.notes.add(Note("in-ram-unknown", text))
            if kind.nr_unknown_shmem:
                return None, None, None, kind.nr_given_up
            return in_swap, swap_cached, None, kind.nr_given_up
        return in_swap, swap_cached, in_cache, kind.nr_given_up


def effect_of(tally: Tally) -> VmaEffect:
    """Return the counts of one VMA."""
    return VmaEffect(tally.vma, tally.nr_requested, tally.nr_advised, tally.nr_moved, in_order(tally.reasons))


def chunks(spans: list[Range], size: int) -> Iterator[list[Range]]:
    """Yield the ranges in groups of at most so many bytes; those that are longer are cut.

    >>> list(chunks([(0, 3), (5, 6), (7, 9)], 4))
    [[(0, 3), (5, 6)], [(7, 9)]]
    """
    group: list[Range] = []
    room = size
    for start, end in spans:
        while start < end:
            high = min(end, start + room)
            group.append((start, high))
            room -= high - start
            start = high
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group


def never() -> bool:
    """Whether to stop: no."""
    return False


def together(effect: Effect, back: Effect, again: Effect, seconds: float) -> Effect:
    """Return the effect of a pageout, of bringing some of it back, and of paging that out once more, as one."""
    assert effect.freed
    size = effect.moved.page_size
    lost = back.moved.without(again.moved)
    vmas = tuple(less(item, lost, again) for item in effect.vmas)
    reasons: dict[str, int] = {}
    for item in vmas:
        add_counts(reasons, item.reasons)
    nr_back = back.nr_moved
    nr_freed = None
    if effect.freed.nr_freed is not None and again.swap_cached is not None:
        nr_freed = effect.freed.nr_freed + again.nr_moved - again.swap_cached // size
    known = None not in (effect.swap_cached, again.swap_cached)
    return replace(
        effect,
        nr_moved=effect.nr_moved - lost.nr_pages,
        reasons=in_order(reasons),
        passes=effect.passes + (again.passes if again.nr_requested else 0),
        seconds=effect.seconds + seconds,
        advise_s=effect.advise_s + back.advise_s + again.advise_s,
        swap=None if effect.swap is None or again.swap is None else effect.swap - nr_back * size + again.swap,
        swap_cached=(effect.swap_cached or 0) - nr_back * size + (again.swap_cached or 0) if known else None,
        nr_given_up=effect.nr_given_up + again.nr_given_up,
        freed=Freed(effect.freed.nr_kept, nr_freed),
        moved=effect.moved.without(lost),
        kept=None,
        vmas=vmas,
        stopped=back.stopped or again.stopped,
        gone=back.gone or again.gone,
        notes=tuple(Notes((*effect.notes, *back.notes, *again.notes))),
    )


def less(item: VmaEffect, lost: PageSet, again: Effect) -> VmaEffect:
    """Return the effect on a VMA without the pages that did not go out a second time."""
    vma = item.vma
    nr_lost = sum(mask.count(1) for address, mask in lost.blocks() if vma.start <= address < vma.end)
    reasons = dict(item.reasons)
    for other in again.vmas:
        if vma.start <= other.vma.start < vma.end:
            add_counts(reasons, other.reasons)
    nr_told = sum(reasons.values()) - sum(item.reasons.values())
    add_counts(reasons, {"busy": max(nr_lost - nr_told, 0)})
    return replace(item, nr_moved=item.nr_moved - nr_lost, reasons=in_order(reasons))

"""An act: doing what was planned, to what is there now, and finding out what that did.

What process_madvise returns is how much it was asked for. What moved is found out here by comparing the pages before
and after, block by block; what stayed is counted by reason. Pages that wait in another CPU's LRU batch are out of the
kernel's reach for a moment, so those that stayed without a reason are advised again, after the batches were drained,
until nothing more moves.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from mematlas.actions.advice import ADVICE
from mematlas.actions.advice.base import Tally
from mematlas.actions.effects import Effect, VmaEffect
from mematlas.actions.options import DEFAULTS
from mematlas.actions.plans import pieces
from mematlas.analysis.movable import add_counts, in_order
from mematlas.errors import ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.madvise import drain_batches
from mematlas.model.address_space import parts
from mematlas.model.page_set import PageSet, without
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.actions.advice.base import Advice, Piece, Range
    from mematlas.actions.options import Options
    from mematlas.actions.plans import Plan
    from mematlas.kernel.maps import Vma
    from mematlas.observe.process import Process

OUTDATED = Note("plan-outdated", "VMAs changed after the plan was made: the action used the new ones")


def act(process: Process, plan: Plan, options: Options = DEFAULTS) -> Effect:
    """Do what was planned to what is there now; return what that did.

    Raises:
        PermissionDenied: needs CAP_SYS_NICE, and CAP_SYS_PTRACE for the process of another user.
        NotSupported: the kernel does not take this advice for another process.
        ProcessGone: the process ended before anything was done. Later, the effect says so.
    """
    options.check()
    with ADVICE[plan.advice](process, plan.choice, plan.only) as advice:
        advice.open(options)
        work = Act(process, plan, advice, options)
        try:
            work.run()
        except ProcessGone as error:
            if not work.nr_calls:
                raise
            work.stopped, work.gone = str(error), True
        return work.effect()


class Act:
    """An act under way."""

    def __init__(self, process: Process, plan: Plan, advice: Advice, options: Options) -> None:
        self.before = time.perf_counter()
        self.process = process
        self.plan = plan
        self.advice = advice
        self.options = options
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

    def run(self) -> None:
        """Go over all VMAs, then again over what stayed, until nothing more moves."""
        wanted = self._pieces()
        self.advice.prepare(wanted, self.plan.nr_movable, self.plan.room)
        self.passes = 1
        for piece in wanted:
            self._first_pass(piece)
        most = self.options.passes if self.advice.repeats else 1
        while self.left and not self.stopped and self.passes < most:
            self.passes += 1
            drain_batches()
            if not self._next_pass():
                break
        self._confirm()
        self._explain()
        self.advice.settle(self.tallies.values(), self.moved)

    def _pieces(self) -> list[Piece]:
        """Return what was planned, as far as it is there now."""
        planned = [item.vma for item in self.plan.vmas]
        ranges = [(item.start, item.end) for item in self.plan.vmas]
        # The filters hold for what is there now; which part of each VMA is meant, the plan says.
        selection = replace(self.plan.selection, name=None, span=None)
        there_now = pieces(self.process, self.process.address_space(), selection, ranges=ranges)
        if [vma for vma, _, _ in there_now] != planned:
            self.notes.add(OUTDATED)
        return there_now

    def _first_pass(self, piece: Piece) -> None:
        vma = piece[0]
        tally = self.tallies.setdefault(vma.start, Tally(vma))
        for address, _, mask in self.advice.movable(piece, tally):
            nr_pages = mask.count(1)
            if self.stopped:
                add_counts(tally.reasons, {"unfinished": nr_pages})
                continue
            self.advice.note(address, mask)
            tally.nr_advised += self._advise(tally, address, mask, self.whole)
            self.nr_done += nr_pages
            self._measure(tally, address, mask)
            if self.options.progress:
                self.options.progress(self.nr_done, max(self.plan.nr_movable, self.nr_done))

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
        spans, most = self.advice.spans(address, mask, whole), self.options.chunk_size
        is_cut = bool(spans) and spans[-1][1] - spans[0][0] > most
        together = self.advice.together(address, address + len(mask) * size) if is_cut else []
        for ranges in chunks(spans, most, together):
            if self.options.stop():
                self.stopped = "interrupted"
            if self.stopped or tally.refused:
                break
            self.advice.check_alive(address)
            refused = self.advice.advise(ranges)
            self.nr_calls += 1
            tally.refused = bool(refused) and self.advice.is_refused_by_vma
            for start, end in set(ranges).difference(refused):
                low, high = (start - address) // size, (end - address) // size
                taken[low:high] = mask[low:high]
        if not self.advice.follow(tally.vma, address, bytes(taken), self.options.stop):
            self.stopped = "interrupted"
        return taken.count(1)

    def _measure(self, tally: Tally, address: int, mask: bytes) -> int:
        """Look at the pages of a mask again; return how many moved, and keep the others in mind."""
        moved = self.advice.measure(tally.vma, address, mask)
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
            still = self.advice.confirm(tally.vma, address, mask)
            if still != mask:
                lost = without(mask, still)
                tally.nr_moved -= lost.count(1)
                self.moved.put(address, still)
                self.left.append((tally.vma, address, lost))

    def _explain(self) -> None:
        """Count why pages stayed."""
        if not self.advice.shows_pages:
            return
        space = self.process.address_space()
        for vma, address, mask in self.left:
            tally = self.tallies[vma.start]
            if tally.refused or self.stopped:
                why = "refused" if tally.refused else "unfinished"
                add_counts(tally.reasons, {why: mask.count(1)})
                continue
            size = self.process.page_size
            for low, high, now in parts(space, address, address + len(mask) * size):
                part = mask[(low - address) // size : (high - address) // size]
                late = self.advice.admit(now, low, part) if now else b""
                if 1 in late:
                    tally.nr_moved += late.count(1)
                    self.moved.add(address, bytes((low - address) // size) + late)
                    part = without(part, late)
                if 1 in part:
                    add_counts(tally.reasons, self.advice.explain(now, low, part))
        self.left = []

    def effect(self) -> Effect:
        """Return what was done so far."""
        tallies = self.tallies.values()
        reasons: dict[str, int] = {}
        for tally in tallies:
            # Whatever was not explained was not reached: the process ended, or somebody stopped us.
            nr_explained = tally.nr_moved + sum(tally.reasons.values())
            add_counts(tally.reasons, {"unfinished": tally.nr_requested - nr_explained})
            add_counts(reasons, tally.reasons)
        nr_requested = sum(tally.nr_requested for tally in tallies)
        if self.gone:
            add_counts(reasons, {"unfinished": max(self.plan.nr_requested - nr_requested, 0)})
            nr_requested = max(nr_requested, self.plan.nr_requested)
        where = self.advice.whereabouts(self.gone)
        notes = Notes((*self.plan.notes, *self.advice.all_notes(), *self.notes))
        return Effect(
            advice=self.plan.advice,
            nr_requested=nr_requested,
            nr_advised=sum(tally.nr_advised for tally in tallies),
            nr_moved=sum(tally.nr_moved for tally in tallies),
            reasons=in_order(reasons),
            passes=self.passes,
            seconds=time.perf_counter() - self.before,
            advise_s=self.advice.seconds,
            swap=where.swap,
            swap_cached=where.swap_cached,
            page_cached=where.page_cached,
            nr_given_up=where.nr_given_up,
            nr_reading=where.nr_reading,
            freed=None,
            moved=self.moved,
            kept=where.kept,
            vmas=tuple(map(effect_of, tallies)),
            stopped=self.stopped,
            gone=self.gone,
            notes=tuple(notes),
        )


def effect_of(tally: Tally) -> VmaEffect:
    """Return the counts of one VMA."""
    return VmaEffect(
        vma=tally.vma,
        nr_requested=tally.nr_requested,
        nr_advised=tally.nr_advised,
        nr_moved=tally.nr_moved,
        reasons=in_order(tally.reasons),
    )


def chunks(spans: list[Range], size: int, together: list[Range]) -> Iterator[list[Range]]:
    """Yield the ranges in groups of so many bytes; those that are longer are cut, but not in what belongs together.

    >>> list(chunks([(0, 3), (5, 6), (7, 9)], 4, []))
    [[(0, 3), (5, 6)], [(7, 9)]]
    >>> list(chunks([(3, 17)], 4, [(4, 8), (8, 12), (12, 20)]))
    [[(3, 4)], [(4, 8)], [(8, 12)], [(12, 17)]]
    """
    group: list[Range] = []
    room = size
    for start, end in spans:
        while start < end:
            high = cut(start, min(end, start + room), end, together)
            if group and high - start > room:
                yield group
                group, room = [], size
                continue
            group.append((start, high))
            room -= high - start
            start = high
            if room <= 0:
                yield group
                group, room = [], size
    if group:
        yield group


def cut(start: int, at: int, end: int, together: list[Range]) -> int:
    """Return where to cut a range that goes on to ``end``, at ``at`` or where what belongs together begins or ends."""
    index = bisect_left(together, (at, 0)) - 1
    if at == end or index < 0 or at >= together[index][1]:
        return at
    low, high = together[index]
    return low if low > start else min(high, end)

"""Influence: page out, make cold, bring back, collapse. Planned first, then done, and measured page by page.

What process_madvise returns is how much it was asked for. What moved is found out here by comparing the pages
before and after, block by block; what stayed is counted by reason. Pages that wait in another CPU's LRU batch are
out of the kernel's reach for a moment, so those that stayed without a reason are advised again, after the batches
were drained, until nothing more moves.

>>> from mematlas.process import Process
>>> with Process(4211) as process:                                        # doctest: +SKIP
...     effect = pageout(process, Selection(kinds=frozenset(("heap",))))
>>> effect.nr_requested, effect.nr_moved, effect.reasons, effect.passes   # doctest: +SKIP
(16384, 16381, {'shared': 3}, 2)
"""

from __future__ import annotations

import os
import time

from mematlas.advising import KINDS, Tally
from mematlas.analysis.movable import ALL_PAGES, Choice, add_counts, in_order
from mematlas.errors import BadInput, ProcessGone
from mematlas.kernel.cgroups import NO_LIMIT, Room, read_room
from mematlas.kernel.madvise import ADVICE, drain_batches
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.swaps import SwapArea, free_swap, read_swaps
from mematlas.model.address_space import EVERYTHING, AddressSpace, Selection, parse_range
from mematlas.model.page_set import PageSet, both, without
from mematlas.model.target import ancestors
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mematlas.advising import Advice, Piece, Range
    from mematlas.kernel.maps import Vma
    from mematlas.process import Process

    Progress = Callable[[int, int], None]

MAX_PASSES = 8
CHUNK_SIZE = 2 << 20
"""Bytes advised in one call: the target cannot map or unmap meanwhile, which for 2 MiB is 1 to 3 ms."""
CHUNK_SIZES = (2 << 20, 32 << 20)


# What would happen


@record
class PlannedVma:
    """A VMA, or the part of it that was asked for, with what an advice can do there."""

    vma: Vma
    start: int
    end: int
    nr_requested: int
    nr_movable: int
    nr_needs_swap: int
    """Those of the movable pages that have nowhere to go but swap."""
    reasons: dict[str, int]
    """Why the others will stay, as in `mematlas.analysis.movable.REASONS`."""


@record
class Plan:
    """What an advice would do, with nothing done yet."""

    advice: str
    choice: Choice
    only: PageSet | None
    """Only these pages, when given."""
    vmas: tuple[PlannedVma, ...]
    page_size: int
    swaps: tuple[SwapArea, ...]
    """Where memory without a file can go."""
    room: Room
    """What the memory cgroup of the process still allows."""
    notes: tuple[str, ...]

    @property
    def nr_requested(self) -> int:
        """Pages asked for."""
        return sum(item.nr_requested for item in self.vmas)

    @property
    def nr_needs_swap(self) -> int:
        """Pages that can move if there is room in swap."""
        return sum(item.nr_needs_swap for item in self.vmas)

    @property
    def swap_room(self) -> int:
        """Bytes that can go to swap: what is free, or what the cgroup allows of it."""
        free = free_swap(self.swaps)
        return free if self.room.swap is None else min(free, self.room.swap)

    @property
    def nr_without_swap(self) -> int:
        """Pages that could move if there were more swap."""
        return max(self.nr_needs_swap - self.swap_room // self.page_size, 0)

    @property
    def nr_movable(self) -> int:
        """Pages that can move."""
        return sum(item.nr_movable for item in self.vmas) - self.nr_without_swap

    @property
    def reasons(self) -> dict[str, int]:
        """Why the others will stay."""
        is_full = self.swap_room == free_swap(self.swaps)
        total = {"no swap" if is_full else "cgroup": self.nr_without_swap}
        for item in self.vmas:
            add_counts(total, item.reasons)
        return in_order(total)


def plan(
    process: Process,
    advice: str,
    selection: Selection = EVERYTHING,
    choice: Choice = ALL_PAGES,
    ranges: Iterable[Range] | None = None,
    only: PageSet | None = None,
    nr_coldest: int | None = None,
) -> Plan:
    """Return what an advice would do to the VMAs of a selection, to ``ranges`` of them, to the pages of ``only``.

    A range of addresses in ``selection.area`` means just these pages, not the whole of each VMA that it touches.
    ``nr_coldest`` takes so many of the coldest pages among those that can move.

    Raises:
        NotSupported: with ``nr_coldest``, where the kernel does not tell cold pages from others.
        PermissionDenied: reading another user's process needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    """
    if advice not in ADVICE:
        raise BadInput(f"no advice {advice!r} (there are {', '.join(ADVICE)})")
    space = process.address_space()
    with KINDS[advice](process, choice, only) as kind:
        wanted = pieces(process, space, selection, ranges, only)
        if nr_coldest is not None:
            from mematlas.coldness import find_coldest

            found = find_coldest(kind, wanted, nr_coldest)
            kind.notes.append(found.note)
            kind.only = only = found.pages
            wanted = pieces(process, space, selection, only=only)
        vmas = [plan_vma(kind, piece) for piece in wanted]
        notes = (*kind.notes, *sorted(kind.reader.unknown_backing))
    live = process.procfs.live
    return Plan(
        advice,
        choice,
        only,
        tuple(item for item in vmas if item.nr_requested),
        process.page_size,
        tuple(read_swaps(process.procfs)) if live else (),
        read_room(process.dir) if live else NO_LIMIT,
        notes,
    )


def plan_vma(kind: Advice, piece: Piece) -> PlannedVma:
    """Return what an advice would do to a part of a VMA."""
    vma, start, end = piece
    rules, why = kind.rules(vma), kind.vma_reason(vma)
    reasons: dict[str, int] = {}
    nr_requested = nr_movable = nr_needs_swap = 0
    for address, states in kind.blocks(vma, start, end):
        nr_pages = states.translate(rules.wanted).count(1)
        nr_requested += nr_pages
        if why:
            add_counts(reasons, {why: nr_pages})
        elif nr_pages:
            mask = kind.select(vma, address, states, reasons)
            nr_movable += mask.count(1)
            if kind.name == "pageout":
                nr_needs_swap += both(mask, states.translate(rules.needs_swap)).count(1)
    return PlannedVma(vma, start, end, nr_requested, nr_movable, nr_needs_swap, in_order(reasons))


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


def check_target(process: Process, force: bool = False) -> None:
    """Refuse processes whose loss of memory would hurt those who ask for it, unless forced.

    Raises:
        BadInput: it is init, ourselves, or one of our ancestors: a shell, a terminal, sshd.
    """
    if force or not process.procfs.live:
        return
    who = ""
    if process.pid == os.getpid():
        who = "ourselves"
    elif process.pid == 1:
        who = "the init process"
    elif process.pid in ancestors(os.getpid(), process.procfs):
        who = "one of our own ancestors"
    if who:
        raise BadInput(f"{process.pid} ({process.stat.name}) is {who}; --force influences it all the same")


# What was done


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
    """pageout: out of the process. willneed: in RAM. cold: no longer referenced. collapse: part of a huge page."""
    reasons: dict[str, int]
    """Why the others stayed, as in `mematlas.analysis.movable.REASONS`; their sum is ``nr_stayed``."""
    passes: int
    seconds: float
    advise_s: float
    """The part of it that the system call took; the rest is measuring."""
    swap: int
    """Bytes of the moved pages that went to swap."""
    swap_cached: int
    """The part of it that is in RAM still, as far as the machine's SwapCached tells: written to a disk in the
    background, and given up when memory is needed. Swap in RAM (zram) writes at once and leaves nothing."""
    moved: PageSet
    """Which pages moved; empty for cold, which no entry shows."""
    vmas: tuple[VmaEffect, ...]
    stopped: str
    """Why it ended before all was done; empty when it did not."""
    gone: bool
    """Whether that is because the process ended, or started another program."""
    notes: tuple[str, ...]

    @property
    def nr_stayed(self) -> int:
        """Pages that did not move."""
        return self.nr_requested - self.nr_moved


def act(
    process: Process,
    plan: Plan,
    *,
    passes: int = MAX_PASSES,
    chunk_size: int = CHUNK_SIZE,
    touch: bool = True,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Effect:
    """Do what was planned to what is there now; return what that did.

    ``progress`` is called with the pages done and to do. ``stop`` is asked before each call whether to end, with a
    report of what was done. ``touch`` is for willneed: the advice takes what is in swap no further than the
    swap cache, where no entry shows it, so a byte of each page is read.

    Raises:
        PermissionDenied: needs CAP_SYS_NICE, and CAP_SYS_PTRACE for the process of another user.
        NotSupported: the kernel does not take this advice for another process.
        ProcessGone: the process ended before anything was done. Later, the effect says so.
    """
    if not CHUNK_SIZES[0] <= chunk_size <= CHUNK_SIZES[1]:
        raise BadInput(f"bad chunk size {chunk_size}: {CHUNK_SIZES[0]} to {CHUNK_SIZES[1]} bytes")
    with KINDS[plan.advice](process, plan.choice, plan.only) as kind:
        if hasattr(kind, "touch"):
            kind.touch = touch
        kind.open()
        work = Act(process, plan, kind, chunk_size, progress, stop)
        try:
            work.run(passes)
        except ProcessGone as error:
            if not work.nr_calls:
                raise
            work.stopped, work.gone = str(error), True
        return work.effect()


class Act:
    """An act under way."""

    def __init__(
        self,
        process: Process,
        plan: Plan,
        kind: Advice,
        chunk_size: int,
        progress: Progress | None,
        stop: Callable[[], bool] | None,
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
        self.notes: list[str] = []
        self.nr_calls = 0
        self.nr_done = 0
        self.passes = 0
        self.stopped = ""
        self.gone = False
        self.cached_before = self._swap_cached()

    def _swap_cached(self) -> int:
        return read_meminfo(self.process.procfs).get("SwapCached", 0)

    def run(self, passes: int) -> None:
        """Go over all VMAs, then again over what stayed, until nothing more moves."""
        wanted = self._pieces()
        self.kind.prepare(wanted)
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
        self.kind.settle(self.tallies.values())

    def _pieces(self) -> list[Piece]:
        """Return what was planned, as far as it is there now."""
        planned = [item.vma for item in self.plan.vmas]
        ranges = [(item.start, item.end) for item in self.plan.vmas]
        found = pieces(self.process, self.process.address_space(), ranges=ranges)
        if [vma for vma, _, _ in found] != planned:
            self.notes.append("VMAs changed between the plan and the act: what is there now counts")
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
            if self.stop and self.stop():
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
                self.moved.masks[address] = still
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
        swap = self.kind.nr_swapped * self.process.page_size
        return Effect(
            self.plan.advice,
            nr_requested,
            sum(tally.nr_advised for tally in tallies),
            sum(tally.nr_moved for tally in tallies),
            in_order(reasons),
            self.passes,
            time.perf_counter() - self.before,
            self.kind.advisor.seconds,
            swap,
            min(max(self._swap_cached() - self.cached_before, 0), swap),
            self.moved,
            tuple(map(effect_of, tallies)),
            self.stopped,
            self.gone,
            tuple(dict.fromkeys((*self.plan.notes, *self.kind.notes, *self.notes))),
        )


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


def parts(space: AddressSpace, start: int, end: int) -> Iterator[tuple[int, int, Vma | None]]:
    """Yield a range cut at the VMAs in it; None stands for the gaps."""
    for vma, low, high in space.pieces(start, end):
        if start < low:
            yield start, low, None
        yield low, high, vma
        start = high
    if start < end:
        yield start, end, None


def pageout(process: Process, selection: Selection = EVERYTHING, **how: Any) -> Effect:
    """Move pages out of a process: private and shared memory to swap, pages of files back to their files.

    The keyword arguments of all four are those of `act`.
    """
    return act(process, plan(process, "pageout", selection), **how)


def cold(process: Process, selection: Selection = EVERYTHING, **how: Any) -> Effect:
    """Make pages the first to go when memory is short; nothing leaves RAM now."""
    return act(process, plan(process, "cold", selection), **how)


def willneed(process: Process, selection: Selection = EVERYTHING, **how: Any) -> Effect:
    """Bring pages back into RAM, and map those that were in swap."""
    return act(process, plan(process, "willneed", selection), **how)


def collapse(process: Process, selection: Selection = EVERYTHING, **how: Any) -> Effect:
    """Put small pages together into huge ones, wherever a whole aligned one fits."""
    return act(process, plan(process, "collapse", selection), **how)


def undo(process: Process, effect: Effect, **how: Any) -> Effect:
    """Bring back what a pageout moved."""
    return act(process, plan(process, "willneed", only=effect.moved), **how)

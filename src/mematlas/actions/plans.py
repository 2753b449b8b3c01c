"""Influence: page out, make cold, bring back, collapse. Planned first, then done, and measured page by page.

What process_madvise returns is how much it was asked for. What moved is found out here by comparing the pages
before and after, block by block; what stayed is counted by reason. Pages that wait in another CPU's LRU batch are
out of the kernel's reach for a moment, so those that stayed without a reason are advised again, after the batches
were drained, until nothing more moves.

>>> from mematlas.observe.process import Process
>>> with Process(4211) as process:                                        # doctest: +SKIP
...     effect = pageout(process, Selection(kinds=frozenset(("heap",))))
>>> effect.nr_requested, effect.nr_moved, effect.reasons, effect.passes   # doctest: +SKIP
(16384, 16381, {'shared': 3}, 2)
"""

from __future__ import annotations

import time

from mematlas.actions.acts import Act, Effect, Freed, Plan, PlannedVma, never, swap_room, together, within
from mematlas.actions.advising import Cold, Collapse, WillNeed, pieces
from mematlas.actions.freeing import PageOut
from mematlas.analysis.movable import ALL_PAGES, Choice, add_counts, in_order
from mematlas.errors import BadInput, ProcessGone
from mematlas.frozen import replace
from mematlas.kernel.cgroups import NO_LIMIT, read_room
from mematlas.kernel.madvise import ADVICE, check_first_thread, drain_batches
from mematlas.kernel.maps import KINDS as KINDS_OF_VMAS
from mematlas.kernel.meminfo import read_meminfo
from mematlas.kernel.swaps import free_swap, read_swaps
from mematlas.model.address_space import EVERYTHING, Selection
from mematlas.model.page_set import both, without
from mematlas.model.search import ancestors, ourselves
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mematlas.actions.acts import Progress
    from mematlas.actions.advising import Advice, Piece, Range, Stop
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

__all__ = [
    "Effect",
    "Plan",
    "PlannedVma",
    "act",
    "check_target",
    "cold",
    "collapse",
    "free_frames",
    "pageout",
    "plan",
    "undo",
    "willneed",
]

KINDS: dict[str, type[Advice]] = {kind.name: kind for kind in (PageOut, Cold, WillNeed, Collapse)}

MAX_PASSES = 8
CHUNK_SIZE = 2 << 20
"""Bytes advised in one call: the target cannot map or unmap meanwhile, which for 2 MiB is 1 to 3 ms."""
CHUNK_SIZES = (2 << 20, 32 << 20)

WRITING, WRITING_LOOKS = 1.0, 0.01
"""Seconds to wait for the next page that is written to swap, and between two looks."""


# What would happen


UNTOLD = "which pages of shared memory are out of RAM is not told, so they are left alone"


def plan(
    process: Process,
    advice: str,
    selection: Selection = EVERYTHING,
    choice: Choice = ALL_PAGES,
    ranges: Iterable[Range] | None = None,
    only: PageSet | None = None,
    nr_coldest: int | None = None,
    dirty: bool = True,
) -> Plan:
    """Return what an advice would do to the VMAs of a selection, to ``ranges`` of them, to the pages of ``only``.

    A range of addresses in ``selection.area`` means just these pages, not the whole of each VMA that it touches.
    ``nr_coldest`` takes so many of the coldest pages among those that can move. ``dirty`` looks which pages of files
    a pageout would leave in RAM, since they are not written to disk yet.

    Raises:
        BadInput: no VMA is as asked for.
        NotSupported: with ``nr_coldest``, where the kernel does not tell cold pages from others.
        PermissionDenied: reading another user's process needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    """
    if advice not in ADVICE:
        raise BadInput(f"no advice {advice!r} (there are {', '.join(ADVICE)})")
    check_first_thread(process.dir)  # a plan promises nothing that the act could not do
    space = process.address_space()
    if advice == "pageout" and process.procfs.live:
        drain_batches()  # what was given up a moment ago waits there, and looks as if it was not
    with KINDS[advice](process, choice, only) as kind:
        wanted = pieces(process, space, selection, ranges, only)
        if not wanted and ranges is None and only is None:
            raise BadInput(f"no VMA of {process.stat.name} ({process.pid}) is as asked for")
        if nr_coldest is not None:
            from mematlas.actions.coldest import find_coldest

            found = find_coldest(kind, wanted, nr_coldest)
            kind.notes.add(found.note)
            kind.only = only = found.pages
            wanted = pieces(process, space, selection, only=only)
        vmas = [plan_vma(kind, piece, dirty) for piece in wanted]
        notes = tuple(kind.notes)
        untold = sorted(kind.reader.backings.unknown) if advice == "willneed" else []
    notes += tuple(Note("out-of-ram-unknown", f"{UNTOLD}: {why}") for why in untold)
    if ranges is None and only is None and not untold and not any(item.nr_requested for item in vmas):
        notes += (Note("nothing-to-do", why_nothing(advice, choice, len(wanted))),)
    live = process.procfs.live
    swaps = tuple(read_swaps(process.procfs)) if live else ()
    room = read_room(process.dir) if live else NO_LIMIT
    nr_fitting = swap_room(swaps, room) // process.page_size
    lacking = "no swap" if swap_room(swaps, room) == free_swap(swaps) else "cgroup"
    chosen = tuple(within((item for item in vmas if item.nr_requested), nr_fitting, lacking))
    return Plan(advice, selection, choice, only, chosen, process.page_size, swaps, room, notes)


def plan_vma(kind: Advice, piece: Piece, dirty: bool) -> PlannedVma:
    """Return what an advice would do to a part of a VMA."""
    vma, start, end = piece
    rules, why = kind.rules(vma), kind.vma_reason(vma)
    reasons: dict[str, int] = {}
    nr_requested = nr_movable = nr_needs_swap = 0
    nr_dirty: int | None = 0 if dirty else None
    nr_given_up: int | None = 0
    for address, states in kind.blocks(vma, start, end):
        nr_pages = states.translate(rules.wanted).count(1)
        nr_requested += nr_pages
        if why:
            add_counts(reasons, {why: nr_pages})
            continue
        if not nr_pages:
            continue
        mask = kind.select(vma, address, states, reasons)
        nr_movable += mask.count(1)
        if isinstance(kind, PageOut):
            needs_swap = both(mask, states.translate(rules.needs_swap))
            nr_needs_swap += needs_swap.count(1)
            if nr_dirty is not None:
                found = kind.count_dirty(address, without(mask, needs_swap))
                nr_dirty = None if found is None else nr_dirty + found
            given_up = kind.given_up(address, needs_swap)
            if given_up is None or nr_given_up is None:
                nr_given_up = None
            else:
                nr_given_up += given_up.count(1)
                nr_needs_swap -= given_up.count(1)
    counts = (nr_requested, nr_movable, nr_needs_swap, nr_dirty)
    return PlannedVma(vma, start, end, *counts, in_order(reasons), nr_given_up)


WANTED = {"pageout": "in RAM", "cold": "in RAM", "willneed": "out of RAM", "collapse": "in RAM"}


def why_nothing(advice: str, choice: Choice, nr_vmas: int) -> str:
    """Return why nothing is asked for, though VMAs are."""
    asked = [WANTED[advice]]
    if choice.states is not None:
        asked.append(f"in state {' or '.join(sorted(choice.states))}")
    if choice.anon:
        asked.append("of no file")
    if choice.file:
        asked.append("of a file on disk")
    whose = "the VMA" if nr_vmas == 1 else f"the {nr_vmas} VMAs"
    return f"nothing to do: no page of {whose} chosen is {' and '.join(asked)}"


def check_target(process: Process, force: bool = False) -> None:
    """Refuse processes whose loss of memory would hurt those who ask for it, unless forced.

    Raises:
        BadInput: it is init, ourselves, or one of our ancestors: a shell, a terminal, sshd.
    """
    if force or not process.procfs.live:
        return
    # By the numbers of this /proc: getpid() is that of our own PID namespace.
    own = ourselves(process.procfs)
    who = ""
    if process.pid in own:
        who = "ourselves"
    elif process.pid == 1:
        who = "the init process"
    elif any(process.pid in ancestors(pid, process.procfs) for pid in own):
        who = "one of our own ancestors"
    if who:
        raise BadInput(f"{process.pid} ({process.stat.name}) is {who}; --force influences it all the same")


# What was done


def act(
    process: Process,
    plan: Plan,
    *,
    passes: int = MAX_PASSES,
    chunk_size: int = CHUNK_SIZE,
    touch: bool = True,
    exact: bool = False,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Effect:
    """Do what was planned to what is there now; return what that did.

    ``progress`` is called with the pages done and to do. ``stop`` is asked before each call whether to end, with a
    report of what was done. ``touch`` is for willneed: the advice takes what is in swap no further than the
    swap cache, where no entry shows it, so a byte of each page is read. ``exact`` is for pageout: it looks for each
    page that the swap cache keeps, instead of for a sample of many.

    Raises:
        PermissionDenied: needs CAP_SYS_NICE, and CAP_SYS_PTRACE for the process of another user.
        NotSupported: the kernel does not take this advice for another process.
        ProcessGone: the process ended before anything was done. Later, the effect says so.
    """
    if not CHUNK_SIZES[0] <= chunk_size <= CHUNK_SIZES[1]:
        raise BadInput(f"bad chunk size {chunk_size}: {CHUNK_SIZES[0]} to {CHUNK_SIZES[1]} bytes")
    with KINDS[plan.advice](process, plan.choice, plan.only) as kind:
        kind.touch = touch
        kind.open()
        work = Act(process, plan, kind, chunk_size, progress, stop or never)
        try:
            work.run(passes, exact)
        except ProcessGone as error:
            if not work.nr_calls:
                raise
            work.stopped, work.gone = str(error), True
        return work.effect()


def pageout(process: Process, selection: Selection = EVERYTHING, *, free: bool = False, **how: Any) -> Effect:
    """Move pages out of a process: private and shared memory to swap, pages of files back to their files.

    ``free`` reads back what the swap cache keeps, and pages it out once more: then its frames are free. The other
    keyword arguments of all four are those of `act`.
    """
    effect = act(process, plan(process, "pageout", selection, dirty=False), exact=free, **how)
    return free_frames(process, effect, **how) if free else effect


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


PRIVATE = Selection(kinds=frozenset(KINDS_OF_VMAS).difference(("shmem",)))
SHARED = Selection(kinds=frozenset(("shmem",)))
SWAPPED = Choice(frozenset(("swapped",)))


def free_frames(process: Process, effect: Effect, **how: Any) -> Effect:
    """Free the frames that the swap cache keeps after a pageout; return the effect of all together.

    A page that is read back is clean: it keeps its place in swap, and goes out again without being written. Shared
    memory is left as it is: it loses its place each time that it comes back.
    """
    kept = effect.moved if effect.kept is None else effect.kept
    effect = replace(effect, freed=Freed(kept.nr_pages, 0))
    stop = how.get("stop") or never
    try:
        for number in range(how.get("passes", MAX_PASSES)):
            if effect.stopped or not kept:
                break
            effect, again = free_once(process, effect, kept, stop, how)
            if number == 0 and again.nr_requested < kept.nr_pages:
                effect = replace(effect, notes=(*effect.notes, *why_not_freed(process, kept)))
            if again.kept is None or again.kept.nr_pages >= kept.nr_pages:
                break
            kept = again.kept
    except ProcessGone as error:
        return replace(effect, stopped=str(error), gone=True)
    return effect


def free_once(
    process: Process, effect: Effect, kept: PageSet, stop: Stop, how: dict[str, Any]
) -> tuple[Effect, Effect]:
    """Read pages back and page them out; return the effect of all together, and that of paging out."""
    before = time.perf_counter()
    wait_for_writing(process, stop)
    back = act(process, plan(process, "willneed", PRIVATE, SWAPPED, only=kept), **how)
    # A page that waits in the batch of a processor is held by that, and its frame would not be freed.
    drain_batches()
    # What is in RAM again goes out again, even when somebody asks us to stop meanwhile.
    again = act(
        process, plan(process, "pageout", PRIVATE, only=back.moved, dirty=False), exact=True, **how | {"stop": None}
    )
    return together(effect, back, again, time.perf_counter() - before), again


def why_not_freed(process: Process, kept: PageSet) -> list[Note]:
    """Return why some of what the swap cache keeps is left there."""
    nr_shared = plan(process, "willneed", SHARED, SWAPPED, only=kept).nr_requested
    text = f"{nr_shared} pages of shared memory stay in the swap cache: they cannot be freed so"
    return [Note("shared-not-freed", text)] if nr_shared else []


def wait_for_writing(process: Process, stop: Stop) -> None:
    """Wait until the machine has written to its disks what it is writing, or gets no further.

    A page that is being written cannot be paged out once more.
    """
    end = time.monotonic() + WRITING
    least = 1 << 63
    while (writing := read_meminfo(process.procfs).get("Writeback", 0)) and time.monotonic() < end and not stop():
        if writing < least:
            least, end = writing, time.monotonic() + WRITING
        time.sleep(WRITING_LOOKS)

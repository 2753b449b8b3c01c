"""What is different between two looks at a process, or at two: captures, moments of recordings, or as they run.

A change is told by VMA, with which pages went which way; or by path or kind, where addresses say nothing: two processes
have the same library in different places.
"""

from __future__ import annotations

import time

from mematlas.analysis.difference import (
    DiffResult,
    PageChanges,
    Side,
    amounts_of,
    content_of,
    first_byte_of,
    grouped,
    matched,
    row_of,
    weight,
)
from mematlas.arrays import np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.pagemap import FILE, GUARD, MARK_A, MARK_B, PM_PFRAME, PRESENT, SWAP, Block
from mematlas.model.machine import machine_of
from mematlas.model.pages import WITHOUT_HUGE
from mematlas.notes import Note, Notes
from mematlas.observe.moments import with_states
from mematlas.timeline.words import Sparse, empty, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.analysis.results import MapsResult, VmaUsage
    from mematlas.arrays import Bools, Bytes, NDArray, Words
    from mematlas.observe.process import Process
    from mematlas.words import Source

SOME = 1 << 13
"""Words that are looked at together."""
TOP = np.uint64(56)
"""The bits of a word below its state byte."""


class Look:
    """A process as it was once: its VMAs with what of them is in memory, and where single pages are."""

    def __init__(self, process: Process, at: str, source: Source = "auto", with_pages: bool = True) -> None:
        """Look at a process; ``at`` is what to call this look."""
        self.result: MapsResult = process.maps(source, first_pages=False)
        self.machine = machine_of(process.procfs)
        self.seconds = time.monotonic() if process.procfs.live else None
        stat = process.stat
        self.identity = (stat.pid, stat.start_time, self.machine["host"])
        self.page_size = process.page_size
        self.why_no_pages = ""
        self.pages: Sparse | None = None
        if with_pages:
            try:
                self.pages = states_of(process)
            except (PermissionDenied, NotSupported) as error:
                self.why_no_pages = str(error)
        amounts = amounts_of(self.result.vmas)
        self.side = Side(stat.pid, stat.name, stat.start_time, at, amounts, self.result.reading.source)


def states_of(process: Process) -> Sparse:
    """Return the entry of each page that there is something to say about, with our marks, by the number of the page."""
    size = process.page_size
    indexes, words = [], []
    for _, piece in process.pages():
        states: Bytes
        if isinstance(piece, Block):
            entries = np.frombuffer(piece.raw, np.uint64)
            # Which pages huge entries map is known of captures alone.
            states = np.frombuffer(piece.states.translate(WITHOUT_HUGE), np.uint8)
            first = piece.address // size
            numbers = np.arange(first, first + len(states), dtype=np.uint64)
            if not states.all():
                there = states != 0
                numbers, entries, states = numbers[there], entries[there], states[there]
            indexes.append(numbers)
            words.append(with_states(entries, states))
    return Sparse(np.concatenate(indexes), np.concatenate(words)) if indexes else empty()


def difference(before: Look, after: Look, by: str | None = None) -> DiffResult:
    """Return what is different between two looks, ``by`` VMA, path or kind; by VMA where addresses can be compared.

    >>> import mmap, os
    >>> from mematlas.observe.process import Process
    >>> with Process(os.getpid()) as process:
    ...     before = Look(process, "before")
    ...     more = mmap.mmap(-1, 8 << 20)
    ...     nr_written = more.write(b"x" * len(more))
    ...     result = difference(before, Look(process, "after"))
    >>> result.changes["rss"] > 7 << 20
    True
    >>> sum(row.changes["rss"] for row in result.rows) == result.changes["rss"]
    True
    """
    is_same = before.identity == after.identity
    by = by or ("vma" if is_same else "path")
    notes = Notes((*before.result.reading.notes, *after.result.reading.notes))
    pairs: list[tuple[Sequence[VmaUsage], Sequence[VmaUsage]]]
    if by == "vma":
        found = matched(before.result.vmas, after.result.vmas) if is_same else unmatched(before, after)
        pairs = [([one] if one else [], [other] if other else []) for one, other in found]
    else:
        pairs = list(grouped(before.result.vmas, after.result.vmas, by))
    pages = page_changes(before, after, pairs) if is_same else None
    if is_same and (why := before.why_no_pages or after.why_no_pages):
        notes.add(Note("pages-not-compared", f"single pages are not compared: {why}"))
    rows = [row_of(*pair, by, pages[index] if pages else None) for index, pair in enumerate(pairs)]
    different = sorted(filter(None, rows), key=weight, reverse=True)
    later = None if before.seconds is None or after.seconds is None else after.seconds - before.seconds
    return DiffResult(
        before=before.side,
        after=after.side,
        is_same=is_same,
        by=by,
        rows=tuple(different),
        nr_same=len(rows) - len(different),
        seconds=later,
        notes=tuple(notes),
    )


def unmatched(before: Look, after: Look) -> list[tuple[VmaUsage | None, VmaUsage | None]]:
    """Return the VMAs of two address spaces, which have nothing to do with one another."""
    return [*((None, item) for item in after.result.vmas), *((item, None) for item in before.result.vmas)]


def page_changes(
    before: Look, after: Look, pairs: Sequence[tuple[Sequence[VmaUsage], Sequence[VmaUsage]]]
) -> list[PageChanges] | None:
    """Return which pages went which way, of each of some groups of VMAs; None where that is not known."""
    if before.pages is None or after.pages is None:
        return None
    things: dict[tuple[str, ...], int] = {}
    was_in, is_in = (Places(pairs, side, after.page_size, things) for side in (0, 1))
    # Of what stayed where it was, pages that are the same are passed over; else they may be of something else now.
    indexes, *words = side_by_side(before.pages, after.pages, only_different=was_in.spans == is_in.spans)
    was, now = (places.placed(indexes, of_side) for places, of_side in zip((was_in, is_in), words, strict=True))
    ways = ways_of(was, now)
    nr = len(pairs)
    counts = {}
    for name, mask in ways.items():
        first, second = (was, now) if name == "went" else (now, was)
        owners = np.where(first.owners < 0, second.owners, first.owners)
        counts[name] = np.bincount(owners[mask & (owners >= 0)], minlength=nr)
    has_frames = frames_known(before.pages) and frames_known(after.pages)
    return [
        PageChanges(
            **{name: int(count[index]) for name, count in counts.items() if name != "moved"},
            moved=int(counts["moved"][index]) if has_frames else None,
        )
        for index in range(nr)
    ]


class Placed:
    """Pages as one of two looks found them: in which VMA, and what is mapped there."""

    def __init__(self, indexes: Words, words: Words, places: Places, at: NDArray[np.intp]) -> None:
        """``at`` is in which VMA each of the pages is; -1 in none."""
        self.indexes = indexes
        self.words = words
        self.at = at
        self.owners = places.owners[at]
        self.things = places.things[at]
        self.positions = np.where(places.are_files[at], places.bases[at] + indexes, np.uint64(0))
        """Which page of a file each is; of memory without one, a page is what stands at its address."""


class Places:
    """The VMAs of a look, in groups, and what is mapped in them."""

    def __init__(
        self,
        pairs: Sequence[tuple[Sequence[VmaUsage], Sequence[VmaUsage]]],
        side: int,
        page_size: int,
        things: dict[tuple[str, ...], int],
    ) -> None:
        """Take a side of groups of VMAs; ``things`` are numbered as they are met, on both sides alike."""
        held = sorted(
            ((item, at) for at, pair in enumerate(pairs) for item in pair[side]), key=lambda one: one[0].start
        )
        known = [(things.setdefault(content_of(item), len(things)), first_byte_of(item)) for item, _ in held]
        self.spans = [(item.start, item.end, *of_item) for (item, _), of_item in zip(held, known, strict=True)]
        """Where they are, with what is mapped there."""
        starts = [item.start // page_size for item, _ in held]
        self._starts = np.array(starts, np.uint64)
        self._ends = np.array([item.end // page_size for item, _ in held], np.uint64)
        # One more, for pages that are in none.
        self.owners = np.array([*(at for _, at in held), -1], np.intp)
        self.things = np.array([*(number for number, _ in known), -1], np.intp)
        self.are_files = np.array([*(first is not None for _, first in known), False], np.bool_)
        bases = [(first or 0) // page_size % (1 << 64) for _, first in known]
        self.bases = np.array([*bases, 0], np.uint64)

    def placed(self, indexes: Words, words: Words) -> Placed:
        """Return pages by their numbers, with their words, as they are in these VMAs."""
        at = np.searchsorted(self._starts, indexes, side="right") - 1
        is_in = at >= 0
        is_in[is_in] = indexes[is_in] < self._ends[at[is_in]]
        return Placed(indexes, words, self, np.where(is_in, at, -1))


def ways_of(was: Placed, now: Placed) -> dict[str, Bools]:
    """Return which of some pages went which way, between two looks."""
    is_same = (was.things == now.things) & (was.positions == now.positions)
    went_on = is_same | (was.at < 0) | (now.at < 0)
    ways = {name: mask & went_on for name, mask in classes(was.words, now.words).items()}
    # Where something else is mapped now, all that was there went, and all that is there came.
    gone, new = (is_resident((pages.words >> TOP).astype(np.uint8)) & ~went_on for pages in (was, now))
    ways["went"] |= gone
    ways["came"] |= new
    # What is mapped at another address now has taken its pages along.
    left = np.flatnonzero(ways["went"] & ~is_same)
    found = np.flatnonzero(ways["came"] & ~is_same)
    left, found = taken_along(was, now, left, found)
    ways["went"][left] = ways["came"][found] = False
    ways["moved"][found] = True
    return ways


def taken_along(
    was: Placed, now: Placed, left: NDArray[np.intp], found: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which of the pages that left an address were moved, as by mremap(2), and where each is found.

    The frame of a page that was given back may be another's at once. So most of what left a VMA has to be found by
    its frames, and as far from where it was, page by page.
    """
    frames, frames_now = (pages.words[at] & np.uint64(PM_PFRAME) for pages, at in ((was, left), (now, found)))
    nr_left = np.bincount(was.at[left], minlength=1) if len(left) else np.zeros(1, np.intp)
    known, known_now = frames != 0, frames_now != 0
    left, found = left[known], found[known_now]
    _, which, which_now = np.intersect1d(frames[known], frames_now[known_now], return_indices=True)
    left, found = left[which], found[which_now]
    is_same = (was.things[left] == now.things[found]) & (was.positions[left] == now.positions[found])
    left, found = left[is_same], found[is_same]
    if not len(left):
        return left, found
    distances = now.indexes[found] - was.indexes[left]
    moves = np.stack((was.at[left].astype(np.uint64), distances))
    _, number, nr_pages = np.unique(moves, axis=1, return_inverse=True, return_counts=True)
    are_most = 2 * nr_pages[number.reshape(-1)] > nr_left[was.at[left]]
    return left[are_most], found[are_most]


def classes(one: Words, other: Words) -> dict[str, Bools]:
    """Return which of some pages went which way, given their words before and after."""
    was, now = ((words >> TOP).astype(np.uint8) for words in (one, other))
    in_ram, in_ram_now = (is_resident(states) for states in (was, now))
    in_swap, in_swap_now = (is_swapped(states) for states in (was, now))
    stayed = in_ram & in_ram_now
    copied = stayed & (was & FILE != 0) & (now & FILE == 0)
    frames, frames_now = ((words & np.uint64(PM_PFRAME)) for words in (one, other))
    return {
        "came": in_ram_now & ~in_ram & ~in_swap,
        "went": in_ram & ~in_ram_now & ~in_swap_now,
        "out": in_ram & in_swap_now,
        "back": in_swap & in_ram_now,
        "copied": copied,
        "moved": stayed & ~copied & (frames != frames_now) & (frames != 0) & (frames_now != 0),
    }


def is_resident(states: Bytes) -> Bools:
    """Return which pages the kernel counts as resident: not those that show the zero page."""
    resident: Bools = states & (PRESENT | MARK_A) == PRESENT
    return resident


def is_swapped(states: Bytes) -> Bools:
    """Return which pages are in swap, shared memory that this process has no entry for among them."""
    by_entry = states & (PRESENT | SWAP | GUARD | MARK_A) == SWAP
    behind = states & (PRESENT | SWAP | MARK_A | MARK_B) == MARK_A
    swapped: Bools = by_entry | behind
    return swapped


def frames_known(pages: Sparse) -> bool:
    """Whether the frames of present pages are known: one that is shows it."""
    has_present = False
    for start in range(0, len(pages), SOME):
        words = pages.words[start : start + SOME]
        present = words[words >> np.uint64(63) != 0]
        if (present & np.uint64(PM_PFRAME)).any():
            return True
        has_present |= len(present) > 0
    return not has_present

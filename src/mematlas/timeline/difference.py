"""What is different between two looks at a process, or at two: captures, moments of recordings, or as they run.

A change is told by VMA, with which pages went which way; or by path or kind, where addresses say nothing: two processes
have the same library in different places.
"""

from __future__ import annotations

import time

from mematlas.analysis.difference import DiffResult, PageChanges, Side, amounts_of, grouped, matched, row_of, weight
from mematlas.arrays import np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.pagemap import FILE, GUARD, MARK_A, MARK_B, PM_PFRAME, PRESENT, SWAP, Block
from mematlas.model.machine import machine_of
from mematlas.notes import Note, Notes
from mematlas.observe.moments import with_states
from mematlas.timeline.words import Sparse, empty, side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.analysis.results import MapsResult, VmaUsage
    from mematlas.arrays import Bools, Bytes, NDArray, Words
    from mematlas.observe.process import Process
    from mematlas.words import Source

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
            states = np.frombuffer(piece.states, np.uint8)
            # Which pages huge entries map is known of captures alone.
            states = np.where(states & PRESENT, states & ~np.uint8(MARK_B), states)
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
    # Of what stayed where it was, pages that are the same are passed over; else they may be of something else now.
    stayed = all(
        [(item.start, item.end) for item in pair[0]] == [(item.start, item.end) for item in pair[1]] for pair in pairs
    )
    indexes, one, other = side_by_side(before.pages, after.pages, only_different=stayed)
    was_in, is_in = (owner_of(indexes, pairs, side, after.page_size) for side in (0, 1))
    nr = len(pairs)
    has_frames = frames_known(before.pages) and frames_known(after.pages)
    went_on = (was_in == is_in) | (was_in < 0) | (is_in < 0)
    owners = np.where(is_in < 0, was_in, is_in)
    counts = {
        name: np.bincount(owners[mask & went_on & (owners >= 0)], minlength=nr)
        for name, mask in classes(one, other).items()
    }
    # Where something else is mapped now, all that was there went, and all that is there came.
    gone, new = (is_resident((words >> TOP).astype(np.uint8)) & ~went_on for words in (one, other))
    counts["went"] += np.bincount(was_in[gone], minlength=nr)
    counts["came"] += np.bincount(is_in[new], minlength=nr)
    return [
        PageChanges(
            **{name: int(count[index]) for name, count in counts.items() if name != "moved"},
            moved=int(counts["moved"][index]) if has_frames else None,
        )
        for index in range(nr)
    ]


def owner_of(
    indexes: Words, pairs: Sequence[tuple[Sequence[VmaUsage], Sequence[VmaUsage]]], side: int, page_size: int
) -> NDArray[np.intp]:
    """Return in which of some groups of VMAs pages were, or with ``side`` 1 are now; -1 in none."""
    owners = np.full(len(indexes), -1, np.intp)
    spans = sorted(
        (item.start // page_size, item.end // page_size, at) for at, pair in enumerate(pairs) for item in pair[side]
    )
    if not spans:
        return owners
    starts, ends = (np.array([span[column] for span in spans], np.uint64) for column in (0, 1))
    numbers = np.array([span[2] for span in spans], np.intp)
    place = np.searchsorted(starts, indexes, side="right") - 1
    is_in = place >= 0
    is_in[is_in] = indexes[is_in] < ends[place[is_in]]
    owners[is_in] = numbers[place[is_in]]
    return owners


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
    """Whether the frames of present pages are known."""
    is_present = pages.words >> np.uint64(63) != 0
    numbers: Any = pages.words[is_present] & np.uint64(PM_PFRAME)
    return bool(numbers.any()) or not len(numbers)

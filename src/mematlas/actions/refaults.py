"""Pages that were moved out of RAM, watched as they come back: what never does was cold. Works on any kernel.

A page counts as returned once its entry is present again: the process touched it, or, for a page of a file, a
neighbour of it (the kernel maps up to 16 cached pages around a fault: mm/memory.c, do_fault_around()). A page that the
process gave back, or unmapped, is gone: it was not needed, and whether it was cold is unknown.
"""

from __future__ import annotations

import time

from mematlas.errors import ProcessGone
from mematlas.frozen import Record, record
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.pagemap import IS_PRESENT, to_marks
from mematlas.model.address_space import AddressSpace, parts
from mematlas.model.page_set import PageSet, both, without
from mematlas.model.pages import STATE_OF_BYTE, PageReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.maps import Vma
    from mematlas.observe.process import Process

INTERVAL = 0.1
"""Seconds between two looks."""
LOOKING = 0.1
"""The part of the time that looking takes at most."""

IS_GONE = to_marks({byte for byte, state in enumerate(STATE_OF_BYTE) if state == "absent"})


@record
class VmaRefaults(Record):
    """The pages of one VMA that were watched."""

    vma: Vma | None
    """None for addresses that were unmapped before the watch began."""
    nr_moved: int
    nr_returned: int
    nr_gone: int
    """Pages that the process gave back or unmapped."""
    first_s: float | None
    """Seconds until a page was first seen back."""
    last_s: float | None


@record
class Refaults(Record):
    """Which of the pages that moved came back, and when."""

    seconds: float
    nr_moved: int
    nr_returned: int
    nr_gone: int
    """Pages that the process gave back or unmapped; all that had not returned when it ended."""
    curve: tuple[tuple[float, int], ...]
    """Seconds, and how many pages had come back by then: a point for each change."""
    vmas: tuple[VmaRefaults, ...]
    never: PageSet
    """The pages that did not come back, and are not gone."""
    stopped: str
    """Why the watch ended early; empty when it did not."""
    gone: bool
    """Whether that is because the process ended, or started another program."""

    @property
    def nr_never(self) -> int:
        """How many pages did not come back, and are still there."""
        return self.nr_moved - self.nr_returned - self.nr_gone

    @property
    def is_whole(self) -> bool:
        """Whether the watch lasted as long as it was meant to, so that what did not come back counts as cold."""
        return not self.stopped


def watch_refaults(
    process: Process,
    moved: PageSet,
    seconds: float,
    *,
    interval: float = INTERVAL,
    progress: Callable[[float, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Refaults:
    """Watch pages that were moved out, for so many seconds; return which came back.

    >>> from mematlas import Process, pageout
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     refaults = watch_refaults(process, pageout(process).moved, 10.0)
    >>> refaults.nr_returned, refaults.nr_never                             # doctest: +SKIP
    (97, 583)

    Args:
        moved: the pages, as an `Effect` has them.
        interval: seconds between two looks; it gets longer where looking takes more than a tenth of it.
        progress: called with the seconds gone and the pages back.
        stop: asked after each look whether to end.

    Raises:
        PermissionDenied: needs CAP_SYS_PTRACE for the process of another user.
    """
    watch = Watch(process, moved)
    stopped, gone = "", False
    start = now = time.monotonic()
    try:
        with PageReader(process.dir) as reader:
            while True:
                before = time.monotonic()
                watch.look(reader, before - start)
                now = time.monotonic()
                if progress:
                    progress(now - start, watch.nr_returned)
                if now - start >= seconds:
                    break
                if stop and stop():
                    stopped = "interrupted"
                    break
                # On a large target a look takes long: then look less often.
                pause = max(interval, (now - before) / LOOKING)
                time.sleep(max(min(pause, start + seconds - now), 0))
            watch.look_for_holes(reader, process)
    except ProcessGone as error:
        stopped, gone = str(error), True
        watch.give_up()
    return watch.result(time.monotonic() - start, stopped, gone)


class Seen:
    """The counts of one VMA while it is watched."""

    def __init__(self, vma: Vma | None) -> None:
        self.vma = vma
        self.nr_moved = self.nr_returned = self.nr_gone = 0
        self.first_s: float | None = None
        self.last_s: float | None = None


class Watch:
    """The pages that are still out, VMA by VMA."""

    def __init__(self, process: Process, moved: PageSet) -> None:
        self.page_size = process.page_size
        self.nr_moved = moved.nr_pages
        self.nr_returned = 0
        self.curve: list[tuple[float, int]] = []
        self.out: dict[int, bytes] = {}
        """Masks by address, each in one VMA."""
        self.seen: dict[Vma | None, Seen] = {}
        self.seen_at: dict[int, Seen] = {}
        try:
            space = process.address_space()
        except ProcessGone:
            space = AddressSpace([])  # the first look says so, and what was moved before is still to be reported
        for address, mask in moved.blocks():
            for low, high, vma in parts(space, address, address + len(mask) * self.page_size):
                part = mask[(low - address) // self.page_size : (high - address) // self.page_size]
                if 1 in part:
                    seen = self.seen_at[low] = self.seen.setdefault(vma, Seen(vma))
                    seen.nr_moved += part.count(1)
                    self.out[low] = part

    def look(self, reader: PageReader, seconds: float) -> None:
        """Read the entries of the pages that are still out."""
        before = self.nr_returned
        for address, mask in self.out.items():
            if 1 not in mask:
                continue
            seen = self.seen_at[address]
            states = reader.pagemap.states(address, address + len(mask) * self.page_size)
            returned = both(mask, states.translate(IS_PRESENT))
            if nr_pages := returned.count(1):
                self.out[address] = mask = without(mask, returned)
                self.nr_returned += nr_pages
                seen.nr_returned += nr_pages
                seen.first_s = seconds if seen.first_s is None else seen.first_s
                seen.last_s = seconds
            # Of private memory an empty entry shows it at once; others keep theirs empty while they are out.
            if seen.vma is None or seen.vma.kind in ANON_KINDS:
                self._lose(address, both(mask, states.translate(IS_GONE)))
        if self.nr_returned > before:
            self.curve.append((seconds, self.nr_returned))

    def look_for_holes(self, reader: PageReader, process: Process) -> None:
        """Count, at the end, what is no longer there of mappings and of shared memory."""
        space = process.address_space()
        for address, mask in self.out.items():
            for low, high, vma in parts(space, address, address + len(mask) * self.page_size):
                first = (low - address) // self.page_size
                end = (high - address) // self.page_size
                part = bytes(first) + mask[first:end] + bytes(len(mask) - end)
                if 1 not in part:
                    continue
                if vma is None:
                    self._lose(address, part)
                elif vma.kind == "shmem":
                    holes = reader.states(vma, low, high).translate(IS_GONE)
                    around = bytes(first) + holes + bytes(len(mask) - end)
                    self._lose(address, both(part, around))

    def give_up(self) -> None:
        """Count all that is still out as gone: so is the process."""
        for address, mask in self.out.items():
            self._lose(address, mask)

    def _lose(self, address: int, mask: bytes) -> None:
        if 1 in mask:
            self.out[address] = without(self.out[address], mask)
            self.seen_at[address].nr_gone += mask.count(1)

    def result(self, seconds: float, stopped: str, gone: bool) -> Refaults:
        """Return what was seen."""
        never = PageSet(self.page_size)
        for address, mask in self.out.items():
            never.add(address, mask)
        vmas = tuple(
            VmaRefaults(
                vma=seen.vma,
                nr_moved=seen.nr_moved,
                nr_returned=seen.nr_returned,
                nr_gone=seen.nr_gone,
                first_s=seen.first_s,
                last_s=seen.last_s,
            )
            for seen in self.seen.values()
        )
        nr_gone = sum(seen.nr_gone for seen in self.seen.values())
        curve = tuple(self.curve)
        return Refaults(
            seconds=seconds,
            nr_moved=self.nr_moved,
            nr_returned=self.nr_returned,
            nr_gone=nr_gone,
            curve=curve,
            vmas=vmas,
            never=never,
            stopped=stopped,
            gone=gone,
        )

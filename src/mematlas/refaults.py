"""Pages that were moved out of RAM, watched as they come back: what never does was cold. Works on any kernel.

A page counts as returned once its entry is present again: the process touched it, or, for a page of a file, a
neighbour of it (the kernel maps up to 16 cached pages around a fault: mm/memory.c, do_fault_around()).
"""

from __future__ import annotations

import time

from mematlas.errors import ProcessGone
from mematlas.kernel.pagemap import PRESENT, Pagemap, to_marks
from mematlas.model.address_space import AddressSpace
from mematlas.model.page_set import PageSet, both, without
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.maps import Vma
    from mematlas.process import Process

INTERVAL = 0.1
"""Seconds between two looks."""
LOOKING = 0.1
"""The part of the time that looking takes at most."""

IS_PRESENT = to_marks({byte for byte in range(256) if byte & PRESENT})


@record
class VmaRefaults:
    """The pages of one VMA that were watched."""

    vma: Vma | None
    """None for addresses that were unmapped before the watch began."""
    nr_moved: int
    nr_returned: int
    first_s: float | None
    """Seconds until a page was first seen back."""
    last_s: float | None


@record
class Refaults:
    """Which of the pages that moved came back, and when."""

    seconds: float
    nr_moved: int
    nr_returned: int
    curve: tuple[tuple[float, int], ...]
    """Seconds, and how many pages had come back by then: a point for each change."""
    vmas: tuple[VmaRefaults, ...]
    never: PageSet
    """The pages that did not come back."""
    stopped: str
    """Why the watch ended early; empty when it did not."""
    gone: bool
    """Whether that is because the process ended, or started another program."""

    @property
    def nr_never(self) -> int:
        """How many pages did not come back."""
        return self.nr_moved - self.nr_returned


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

    ``progress`` is called with the seconds gone and the pages back, ``stop`` is asked whether to end.
    """
    watch = Watch(process, moved)
    stopped, gone = "", False
    start = now = time.monotonic()
    try:
        with Pagemap(process.dir) as pagemap:
            while True:
                before = time.monotonic()
                watch.look(pagemap, before - start)
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
    except ProcessGone as error:
        stopped, gone = str(error), True
    return watch.result(time.monotonic() - start, stopped, gone)


class Watch:
    """The pages that are still out, VMA by VMA."""

    def __init__(self, process: Process, moved: PageSet) -> None:
        self.page_size = process.page_size
        self.nr_moved = moved.nr_pages
        self.nr_returned = 0
        self.curve: list[tuple[float, int]] = []
        self.out = dict(moved.blocks())
        try:
            space = process.address_space()
        except ProcessGone:
            space = AddressSpace([])  # the first look says so, and what was moved before is still to be told
        self.vma_of = {address: space.find(address) for address in self.out}
        self.counts: dict[Vma | None, tuple[int, int, float | None, float | None]] = {}
        for address, mask in self.out.items():
            self._count(self.vma_of[address], mask.count(1), 0, None)

    def look(self, pagemap: Pagemap, seconds: float) -> None:
        """Read the entries of the pages that are still out."""
        before = self.nr_returned
        for address, mask in self.out.items():
            if 1 not in mask:
                continue
            present = bytearray(len(mask))
            for block in pagemap.blocks(address, address + len(mask) * self.page_size):
                place = (block.address - address) // self.page_size
                present[place : place + len(block)] = block.states.translate(IS_PRESENT)
            returned = both(mask, bytes(present))
            if nr_pages := returned.count(1):
                self.out[address] = without(mask, returned)
                self.nr_returned += nr_pages
                self._count(self.vma_of[address], 0, nr_pages, seconds)
        if self.nr_returned > before:
            self.curve.append((seconds, self.nr_returned))

    def _count(self, vma: Vma | None, nr_moved: int, nr_returned: int, seconds: float | None) -> None:
        moved, returned, first, last = self.counts.get(vma, (0, 0, None, None))
        first = seconds if first is None else first
        last = last if seconds is None else seconds
        self.counts[vma] = (moved + nr_moved, returned + nr_returned, first, last)

    def result(self, seconds: float, stopped: str, gone: bool) -> Refaults:
        """Return what was seen."""
        never = PageSet(self.page_size)
        for address, mask in self.out.items():
            never.add(address, mask)
        vmas = tuple(VmaRefaults(vma, *counts) for vma, counts in self.counts.items())
        return Refaults(seconds, self.nr_moved, self.nr_returned, tuple(self.curve), vmas, never, stopped, gone)

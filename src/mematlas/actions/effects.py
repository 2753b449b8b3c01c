"""What came of an act, as the pages themselves show it."""

from __future__ import annotations

from mematlas.analysis.movable import add_counts, in_order
from mematlas.analysis.ram import total_of
from mematlas.frozen import Record, record, replace
from mematlas.notes import Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.page_set import PageSet
    from mematlas.notes import Note


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
class VmaEffect(Record):
    """What an act did to one VMA."""

    vma: Vma
    nr_requested: int
    nr_advised: int
    nr_moved: int
    reasons: dict[str, int]


@record
class Effect(Record):
    """What an act did, as the pages themselves show it. Numbers that begin with ``nr_`` are pages, sizes are bytes.

    >>> from mematlas import Process, pageout
    >>> with Process(4211) as process:                                      # doctest: +SKIP
    ...     effect = pageout(process)
    >>> effect.nr_moved, effect.nr_freed, effect.swap, effect.reasons       # doctest: +SKIP
    (680, 0, 2785280, {})
    """

    advice: AdviceName
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


@record
class Whereabouts:
    """Where the pages are that moved, as far as that is known at the end."""

    swap: int | None = 0
    """Bytes that went to swap; None when some may not be asked about."""
    swap_cached: int | None = 0
    """The part of it that is in the swap cache; None when not known."""
    page_cached: int | None = 0
    """Bytes that are in the page cache; None when some may not be asked about."""
    nr_given_up: int = 0
    """Pages that are kept nowhere."""
    nr_reading: int | None = 0
    """Pages that are still being read; None when not known."""
    kept: PageSet | None = None
    """Which pages the swap cache keeps; None when not each was looked at."""


def together(effect: Effect, back: Effect, again: Effect, seconds: float) -> Effect:
    """Return the effect of a pageout, of bringing some of it back, and of paging that out once more, as one."""
    assert effect.freed
    size = effect.moved.page_size
    lost = back.moved.without(again.moved)
    vmas = tuple(less(item, lost, again) for item in effect.vmas)
    reasons: dict[str, int] = {}
    for item in vmas:
        add_counts(reasons, item.reasons)
    nr_freed = None
    if effect.freed.nr_freed is not None and again.swap_cached is not None:
        nr_freed = effect.freed.nr_freed + again.nr_moved - again.swap_cached // size
    size_back = back.nr_moved * size
    return replace(
        effect,
        nr_moved=effect.nr_moved - lost.nr_pages,
        reasons=in_order(reasons),
        passes=effect.passes + (again.passes if again.nr_requested else 0),
        seconds=effect.seconds + seconds,
        advise_s=effect.advise_s + back.advise_s + again.advise_s,
        swap=total_of(effect.swap, -size_back, again.swap),
        swap_cached=total_of(effect.swap_cached, -size_back, again.swap_cached),
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
    masks = [mask for address, mask in lost.blocks() if vma.start <= address < vma.end]
    nr_lost = sum(mask.count(1) for mask in masks)
    reasons = dict(item.reasons)
    for other in again.vmas:
        if vma.start <= other.vma.start < vma.end:
            add_counts(reasons, other.reasons)
    nr_explained = sum(reasons.values()) - sum(item.reasons.values())
    add_counts(reasons, {"busy": max(nr_lost - nr_explained, 0)})
    return replace(item, nr_moved=item.nr_moved - nr_lost, reasons=in_order(reasons))

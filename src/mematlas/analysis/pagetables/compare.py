"""Whether page tables and the kernel's other files say the same: page by page beside pagemap, and in sums."""

from __future__ import annotations

from mematlas.analysis.pagetables.entries import hold_frames
from mematlas.arrays import Words, np
from mematlas.frozen import record
from mematlas.kernel.pagemap import PM_PFRAME, PM_PRESENT, PM_SWAP
from mematlas.model.pagetables.blocks import PageBlock
from mematlas.model.pagetables.entries import (
    EMPTY,
    TABLE,
    PagingMode,
    holds,
    maps_memory,
    migration_frame,
    swap_fields,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MARKERS = frozenset(("uffd-wp-marker", "poison", "marker"))
"""What pagemap does not show where hugetlb has it."""
EXPLAINED = frozenset(("special", "guard", "migration", "race")) | MARKERS
SUMS = ("table bytes", "thp", "hugetlb")
"""What the tables and the kernel both add up."""
MAY_DIFFER = {"table bytes": "kept aside", "thp": "left out"}
"""By how much the kernel may say something else, the other sum of ours that says so."""


@record
class Disagreement:
    """A page of which the tables and pagemap say different things."""

    address: int
    entry: int
    pagemap: int
    reason: str
    """`special`: device or vvar memory, that pagemap does not show; otherwise what differs: `presence`, `frame`, ..."""
    area: str = ""
    """The path of its VMA."""

    @property
    def is_explained(self) -> bool:
        """Whether the reason is one that is no error."""
        return self.reason in EXPLAINED


def differing_pages(mode: PagingMode, block: PageBlock, pagemap: Words) -> list[Disagreement]:
    """Return the pages of a block that /proc/PID/pagemap, read for the same pages, shows otherwise.

    Frames are compared where pagemap has them: without CAP_SYS_ADMIN it shows 0. A page that differs because the
    target ran meanwhile does not differ a second time.

    >>> [page.reason for page in differing_pages(mode, block, words)]  # doctest: +SKIP
    ['special']
    """
    present = maps_memory(block.states)
    swapped = ~present & (block.states != EMPTY) & (block.states != TABLE)
    kinds, offsets = swap_fields(mode, block.entries)
    offsets = np.where(hold_frames(block.states), migration_frame(mode, offsets), offsets)
    slots = (kinds | offsets << np.uint64(5)) & np.uint64(PM_PFRAME)
    fields = pagemap & np.uint64(PM_PFRAME)
    shown_present = pagemap & np.uint64(PM_PRESENT) != 0
    shown_swapped = pagemap & np.uint64(PM_SWAP) != 0
    reasons = (
        ("presence", present != shown_present),
        ("swap", swapped != shown_swapped),
        ("frame", present & shown_present & (fields != block.pfns) & (fields != 0)),
        ("slot", swapped & shown_swapped & (fields != slots) & (fields != 0)),
    )
    differs = np.any([which for _, which in reasons], axis=0)
    disagreements = []
    for index in np.flatnonzero(differs).tolist():
        entry = int(block.entries[index])
        reason = next(name for name, which in reasons if which[index])
        if reason == "presence" and present[index] and holds(entry, mode.special):
            reason = "special"
        address = block.start + (index << mode.page_shift)
        page = Disagreement(address=address, entry=entry, pagemap=int(pagemap[index]), reason=reason)
        disagreements.append(page)
    return disagreements


def nr_hidden(pagemap: Words) -> int:
    """Return how many entries of pagemap have a frame or a swap slot that is shown as 0: without CAP_SYS_ADMIN, all.

    >>> nr_hidden(np.array([1 << 63, 1 << 63 | 5, 0], np.uint64))
    1
    """
    shown = pagemap & np.uint64(PM_PRESENT | PM_SWAP | PM_PFRAME)
    return int(np.count_nonzero((shown != 0) & (shown & np.uint64(PM_PFRAME) == 0)))


@record
class Check:
    """One thing that the tables and another source of the kernel both report."""

    what: str
    tables: int
    kernel: int | None
    """None where it reports nothing to compare with."""
    reason: str = ""
    """Why they differ, or could not be compared; empty where they agree:

    listed        pages differ, and each is given with a reason of its own
    hidden        frames and swap slots are hidden from us
    not-reported  the kernel does not say
    changed       the process ran meanwhile
    kept-aside    tables are in reserve, to split huge pages with
    left-out      smaps leaves out huge pages that nobody may access
    unexplained   no reason is known
    """
    amount: int = 0
    """How many tables are kept aside; of pages, how many frames and swap slots are hidden."""
    is_explained: bool = True
    """Whether what differs has a reason that is no error."""


def check_pages(nr_pages: int, nr_unseen: int, differing: Sequence[Disagreement]) -> Check:
    """Return the check of all pages, of which some differ and some could not be seen."""
    reason = "hidden" if nr_unseen else ""
    return Check(
        what="pages",
        tables=nr_pages,
        kernel=nr_pages - len(differing),
        reason="listed" if differing else reason,
        amount=nr_unseen,
        is_explained=all(page.is_explained for page in differing),
    )


def agree(name: str, ours: dict[str, int], reported: dict[str, int | None]) -> bool:
    """Whether a sum is what the kernel reports, or less by as much as it may be; nothing reported contradicts none."""
    amount = reported[name]
    may_differ = ours[MAY_DIFFER[name]] if name in MAY_DIFFER else 0
    return amount is None or amount - ours[name] in (0, may_differ)


def check_sum(name: str, ours: dict[str, int], reported: dict[str, int | None], changed: bool, page_size: int) -> Check:
    """Return the check of a sum; ``changed`` says whether either changed while they were added up."""
    reason, amount = "", 0
    if reported[name] is None:
        reason = "not-reported"
    elif not agree(name, ours, reported):
        reason = "changed" if changed else "unexplained"
    elif reported[name] != ours[name] and name == "thp":
        reason = "left-out"
    elif reported[name] != ours[name]:
        reason, amount = "kept-aside", ours["kept aside"] // page_size
    return Check(
        what=name,
        tables=ours[name],
        kernel=reported[name],
        reason=reason,
        amount=amount,
        is_explained=reason != "unexplained",
    )

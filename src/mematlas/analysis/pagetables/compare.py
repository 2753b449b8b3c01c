"""Whether page tables and the kernel's other files say the same: page by page beside pagemap, and in sums."""

from __future__ import annotations

import numpy as np

from mematlas.arrays import Words
from mematlas.frozen import record
from mematlas.kernel.pagemap import PM_PFRAME, PM_PRESENT, PM_SWAP
from mematlas.kernel.smaps import LEFT_OUT
from mematlas.model.pagetables.entries import (
    DEVICE,
    EMPTY,
    HWPOISON,
    MIGRATION,
    TABLE,
    PagingMode,
    holds,
    maps_memory,
    migration_frame,
    swap_fields,
)
from mematlas.model.pagetables.walk import PageBlock

MARKERS = frozenset(("uffd-wp-marker", "poison", "marker"))
"""What pagemap does not show where hugetlb has it."""
EXPLAINED = frozenset(("special", "guard", "migration", "race")) | MARKERS
UNEXPLAINED = "no known reason: please report it"
SUMS = ("table bytes", "thp", "hugetlb")
"""What the tables and the kernel both add up."""
MAY_DIFFER = {"table bytes": "kept aside", "thp": "left out"}
"""By how much the kernel may say something else, the other sum of ours that tells."""


@record
class Disagreement:
    """A page of which the tables and pagemap say different things."""

    address: int
    entry: int
    pagemap: int
    reason: str
    """`special`: device or vvar memory, that pagemap does not show; otherwise what differs: `presence`, `frame`, ..."""


def differing_pages(mode: PagingMode, block: PageBlock, pagemap: Words) -> list[Disagreement]:
    """Return the pages of a block that /proc/PID/pagemap, read for the same pages, shows otherwise.

    Frames are compared where pagemap has them: without CAP_SYS_ADMIN it shows 0. A page that differs because the
    target ran meanwhile does not differ a second time.

    >>> [each.reason for each in differing_pages(mode, block, words)]  # doctest: +SKIP
    ['special']
    """
    present = maps_memory(block.states)
    swapped = ~present & (block.states != EMPTY) & (block.states != TABLE)
    kinds, offsets = swap_fields(mode, block.entries)
    frames_only = (block.states == MIGRATION) | (block.states == HWPOISON) | (block.states == DEVICE)
    offsets = np.where(frames_only, migration_frame(mode, offsets), offsets)
    slots = (kinds | offsets << np.uint64(5)) & np.uint64(PM_PFRAME)
    fields = pagemap & np.uint64(PM_PFRAME)
    shown_present, shown_swapped = pagemap & np.uint64(PM_PRESENT) != 0, pagemap & np.uint64(PM_SWAP) != 0
    reasons = (
        ("presence", present != shown_present),
        ("swap", swapped != shown_swapped),
        ("frame", present & shown_present & (fields != block.pfns) & (fields != 0)),
        ("slot", swapped & shown_swapped & (fields != slots) & (fields != 0)),
    )
    differ = np.flatnonzero(reasons[0][1] | reasons[1][1] | reasons[2][1] | reasons[3][1])
    found = []
    for index in differ.tolist():
        entry = int(block.entries[index])
        reason = next(name for name, which in reasons if which[index])
        if reason == "presence" and present[index] and holds(entry, mode.special):
            reason = "special"
        address = block.start + (index << mode.page_shift)
        found.append(Disagreement(address, entry, int(pagemap[index]), reason))
    return found


def nr_hidden(pagemap: Words) -> int:
    """Return how many entries of pagemap have a frame or a swap slot that is shown as 0: without CAP_SYS_ADMIN, all.

    >>> nr_hidden(np.array([1 << 63, 1 << 63 | 5, 0], np.uint64))
    1
    """
    shown = pagemap & np.uint64(PM_PRESENT | PM_SWAP | PM_PFRAME)
    return int(np.count_nonzero((shown != 0) & (shown & np.uint64(PM_PFRAME) == 0)))


@record
class Check:
    """One thing that the tables and another source of the kernel both tell."""

    what: str
    tables: int
    kernel: int | None
    """None where it tells nothing to compare with."""
    explained: bool
    reason: str


@record
class Verification:
    """What a comparison with the kernel's own numbers has found."""

    checks: tuple[Check, ...]
    pages: tuple[tuple[Disagreement, str], ...]
    """Pages of which pagemap says something else, each with the path of its VMA."""

    @property
    def unexplained(self) -> list[str]:
        """What differs without a reason that is no error."""
        return [check.what for check in self.checks if not check.explained]


def agree(name: str, ours: dict[str, int], told: dict[str, int | None]) -> bool:
    amount = told[name]
    return amount is None or amount - ours[name] in (0, ours[MAY_DIFFER[name]] if name in MAY_DIFFER else 0)


def check_of(name: str, ours: dict[str, int], told: dict[str, int | None], changed: bool, page_size: int) -> Check:
    reason = ""
    if told[name] is None:
        reason = "not compared: the kernel does not tell"
    elif not agree(name, ours, told):
        reason = "the process ran meanwhile" if changed else UNEXPLAINED
    elif told[name] != ours[name]:
        number = ours["kept aside"] // page_size
        kept = f"{number} table{' is' if number == 1 else 's are'} kept aside, to split huge pages with"
        reason = LEFT_OUT if name == "thp" else kept
    return Check(name, ours[name], told[name], reason != UNEXPLAINED, reason)

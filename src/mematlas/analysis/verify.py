"""Two sources compared: what differs, and why."""

from __future__ import annotations

from operator import attrgetter

from mematlas.analysis.usage import Usage, total
from mematlas.frozen import record, replace
from mematlas.kernel.smaps import LEFT_OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mematlas.analysis.results import MapsResult
    from mematlas.kernel.maps import Vma

MEASURES = ("rss", "anon", "file", "shmem", "pss", "uss", "swap", "hugetlb", "thp", "zero")
OF_OTHERS = ("pss", "uss")
"""Those that others change, by mapping the same pages, though the process itself stands still."""
ABOUT = {
    **dict.fromkeys(("rss", "anon", "zero"), ("zero-unknown",)),
    "pss": ("pss-unknown",),
    "uss": ("huge-estimate",),
    "swap": ("backing-unknown", "swap-cache-unseen"),
    "thp": ("huge-unknown",),
}
"""The codes of the notes that say why a measure is unknown."""
SMAPS_UNIT = 1024


@record
class Comparison:
    """One measure in two sources, in bytes."""

    measure: str
    first: int | None
    second: int | None
    third: int | None
    """By page tables; None when they could not be read."""
    difference: int | None
    """Second minus first, or third minus first where that is more; None when neither is known."""
    explained: bool | None
    """Whether they agree, or differ for a reason that is no error; None when they could not be compared."""
    reason: str


class VmaAmounts:
    """The amounts of each VMA in a reading, in little memory: readings of the same VMAs share these."""

    def __init__(self, result: MapsResult, like: VmaAmounts | None = None) -> None:
        vmas = [item.vma for item in result.vmas]
        self.vmas: list[Vma] = vmas
        if like and list(map(what_counts, like.vmas)) == list(map(what_counts, vmas)):
            self.vmas = like.vmas
        self.usages = [item.usage for item in result.vmas]
        self.reading = result.reading
        self.total = total(self.usages)

    def amounts(self, measure: str) -> dict[tuple[int, int], int | None]:
        """Return a measure of each VMA, by its addresses."""
        pairs = zip(self.vmas, self.usages, strict=True)
        return {(vma.start, vma.end): getattr(usage, measure) for vma, usage in pairs}


what_counts = attrgetter("start", "end", "perms", "kind")
"""What is looked at of a VMA here."""


def compare(
    before: VmaAmounts,
    counted: VmaAmounts,
    after: VmaAmounts,
    captured: bool = False,
    tables: VmaAmounts | None = None,
    leaves_out: Callable[[], bool] = lambda: False,
    stopped: bool = False,
) -> list[Comparison]:
    """Return smaps against pagemap, and against page tables where they could be read, measure by measure.

    smaps is read twice, around the count: where its own two answers differ the process was running, and the count may
    differ by as much as they do. A capture holds one smaps, taken after its pagemap: nothing says how much changed
    between the two, but that a process that was ``stopped`` changed nothing. ``leaves_out`` says whether smaps leaves
    out huge pages that nobody may access; it is asked only where that would explain a difference.
    """
    ran: Collection[str] = ()
    if captured:
        ran = OF_OTHERS if stopped else MEASURES
    by_pagemap = compare_with(before, counted, after, ran, leaves_out)
    if tables is None:
        return by_pagemap
    by_tables = compare_with(before, tables, after, ran, leaves_out)
    return list(map(joined, by_pagemap, by_tables))


def compare_with(
    before: VmaAmounts, counted: VmaAmounts, after: VmaAmounts, ran: Collection[str], leaves_out: Callable[[], bool]
) -> list[Comparison]:
    """Return smaps against one other source. Of the measures in ``ran`` nobody knows by how much they changed."""
    rows = []
    for measure in MEASURES:
        row = compare_measure(measure, counted, before, after, measure in ran)
        rows.append(with_limit(row, before, counted, leaves_out))
    return rows


def need_of_explaining(side: Comparison) -> tuple[bool, bool, int]:
    """Return what to sort comparisons by: first what is unexplained, then what is unknown, then the largest."""
    return (side.explained is not False, side.explained is None, -abs(side.difference or 0))


def joined(by_pagemap: Comparison, by_tables: Comparison) -> Comparison:
    """Return both comparisons of a measure as one: that which needs more explaining, with both values."""
    sides = (by_pagemap, by_tables)
    worse = min(sides, key=need_of_explaining)
    return replace(worse, second=by_pagemap.second, third=by_tables.second)


def compare_measure(
    measure: str, counted: VmaAmounts, smaps: VmaAmounts, after: VmaAmounts, has_run: bool
) -> Comparison:
    """Return the comparison of one measure, with its reason."""
    one, two = getattr(smaps.total, measure), getattr(counted.total, measure)
    difference: int | None = None
    explained: bool | None = None
    reason: str | None = ""
    if one is None or two is None:
        notes = (smaps if one is None else counted).reading.notes
        about = [note.text for note in notes if note.code in ABOUT.get(measure, ())]
        reason = "; ".join(about) or "not known"
    else:
        difference = two - one
        if difference:
            changed = change_of(measure, smaps, after, counted)
            reason = reason_of(measure, difference, changed, smaps, has_run)
        explained = reason is not None
    return Comparison(
        measure=measure,
        first=one,
        second=two,
        third=None,
        difference=difference,
        explained=explained,
        reason=UNEXPLAINED if reason is None else reason,
    )


def change_of(measure: str, before: VmaAmounts, after: VmaAmounts, counted: VmaAmounts) -> int:
    """Return by how many bytes a measure may differ since the process ran, or one that shares its pages.

    That is what changed in smaps, VMA by VMA, up and down, and all that was counted of VMAs that only came meanwhile.
    """
    if before.vmas is after.vmas is counted.vmas:
        usages = zip(before.usages, after.usages, strict=True)
        changed = [(one, other) for one, other in usages if one is not other]
        pairs = [(getattr(one, measure), getattr(other, measure)) for one, other in changed]
    else:
        one, other, between = (reading.amounts(measure) for reading in (before, after, counted))
        pairs = [(one.get(key, 0), other.get(key, 0)) for key in one.keys() | other.keys()]
        pairs += [(0, between[key]) for key in between.keys() - one.keys() - other.keys()]
    # What is not known explains nothing.
    return sum(abs(high - low) for low, high in pairs if low is not None and high is not None)


UNEXPLAINED = "no known reason: please report it, with a capture"


def reason_of(measure: str, difference: int, changed: int, smaps: VmaAmounts, has_run: bool) -> str | None:
    """Return why pagemap's sum may differ from that of smaps; None when it should not."""
    rounding = SMAPS_UNIT * len(smaps.vmas) if measure == "pss" else 0
    if 0 <= difference < rounding:
        return f"smaps rounds each of {len(smaps.vmas)} VMAs down to 1 KiB"
    if changed and abs(difference) <= changed + rounding:
        return "smaps changed by as much during the count: the process, or one that shares its pages, was running"
    if has_run:
        return "the capture read its sources in turn while the process, or one that shares its pages, was running"
    return None


def with_limit(row: Comparison, smaps: VmaAmounts, counted: VmaAmounts, leaves_out: Callable[[], bool]) -> Comparison:
    """Return a comparison, explained where a limit of an older kernel does."""
    if row.explained is not False:
        return row
    reason = limit_of(row.measure, smaps, counted, leaves_out)
    return row if reason is None else replace(row, explained=True, reason=reason)


def limit_of(measure: str, smaps: VmaAmounts, counted: VmaAmounts, leaves_out: Callable[[], bool]) -> str | None:
    """Return which limit of an older kernel explains each VMA that differs; None when none does."""
    unit = SMAPS_UNIT if measure == "pss" else 1
    differing: list[tuple[Vma, Usage, Usage]] = []
    for vma, one, two in zip(counted.vmas, smaps.usages, counted.usages, strict=False):
        if abs(difference_of(measure, one, two)) >= unit:
            differing.append((vma, one, two))
    if not differing:
        return None
    if measure == "swap":
        rest = [each for each in differing if not is_counted_twice(*each)]
        if not rest:
            return COUNTED_TWICE
        is_unseen = all(may_be_unseen(measure, vma, one, two) for vma, one, two in rest)
        return text_of(counted, "swap-cache-unseen") if is_unseen else None
    if measure == "uss":
        estimate = text_of(counted, "huge-estimate")
        if estimate and all(is_of_huge_pages(measure, one, two) for _, one, two in differing):
            return estimate
    if measure in OF_HUGE_PAGES:
        may_be = all(may_be_left_out(measure, vma, one, two) for vma, one, two in differing)
        if may_be and leaves_out():
            return LEFT_OUT
    return None


def text_of(amounts: VmaAmounts, code: str) -> str | None:
    """Return the text of the note with a code, that a reading has; None where it has none."""
    return next((note.text for note in amounts.reading.notes if note.code == code), None)


OF_HUGE_PAGES = ("rss", "anon", "file", "shmem", "pss", "uss", "thp")


def difference_of(measure: str, by_smaps: Usage, counted: Usage) -> int:
    """Return by how much more was counted in a VMA."""
    difference: int = getattr(counted, measure) - getattr(by_smaps, measure)
    return difference


COUNTED_TWICE = "smaps counts what a file has in swap also where a private, read-only mapping has its own copy"


def is_counted_twice(vma: Vma, by_smaps: Usage, counted: Usage) -> bool:
    """Whether smaps may have more in swap of a VMA because it counts some pages of it twice, or ones not seen there.

    To what the page tables have it adds all that the file has in swap, unless the mapping is private and writable: then
    only where no page of its own lies (fs/proc/task_mmu.c, smap_gather_stats; Linux commit 6a15a37097c7, in v4.5). A
    private mapping that was writable once has such pages.
    """
    if vma.kind != "shmem" or vma.perms[3] != "p" or "w" in vma.perms:
        return False
    return 0 < -difference_of("swap", by_smaps, counted) <= (counted.anon or 0) + (counted.swap or 0)


def may_be_unseen(measure: str, vma: Vma, by_smaps: Usage, counted: Usage) -> bool:
    """Whether what was counted less of a VMA may be shared memory in the swap cache."""
    return vma.kind == "shmem" and difference_of(measure, by_smaps, counted) < 0


def is_of_huge_pages(measure: str, by_smaps: Usage, counted: Usage) -> bool:
    """Whether a VMA differs by no more than its huge pages are, which are an estimate for who cannot count them."""
    most = (counted.rss if counted.thp is None else counted.thp) or 0
    return abs(difference_of(measure, by_smaps, counted)) <= most


def may_be_left_out(measure: str, vma: Vma, by_smaps: Usage, counted: Usage) -> bool:
    """Whether what smaps has less of a VMA may be huge pages that nobody may access."""
    most = vma.size if counted.thp is None else counted.thp - (by_smaps.thp or 0)
    return vma.perms[:3] == "---" and 0 < difference_of(measure, by_smaps, counted) <= most

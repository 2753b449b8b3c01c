"""Two sources compared: what differs, and why."""

from __future__ import annotations

from mematlas.analysis.usage import Usage, total
from mematlas.kernel.backing import SWAP_CACHE_UNSEEN
from mematlas.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.results import MapsResult, VmaUsage

MEASURES = ("rss", "anon", "file", "shmem", "pss", "uss", "swap", "hugetlb", "thp", "zero")
ABOUT = {"rss": "zero", "anon": "zero", "thp": "huge"}
"""How the notes begin that say why a measure is unknown, where that is not its name."""
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


def compare(
    before: MapsResult,
    counted: MapsResult,
    after: MapsResult,
    captured: bool = False,
    tables: MapsResult | None = None,
) -> list[Comparison]:
    """Return smaps against pagemap, and against page tables where they could be read, measure by measure.

    smaps is read twice, around the count: where its own two answers differ the process was running, and no third
    one can be held to either. A capture holds one smaps, taken before or after its pagemap.
    """
    first, second, again = (total(vma.usage for vma in result.vmas) for result in (before, counted, after))
    found = [compare_measure(measure, first, second, again, counted, before, captured) for measure in MEASURES]
    if tables is None:
        return found
    third = total(vma.usage for vma in tables.vmas)
    others = [compare_measure(measure, first, third, again, tables, before, captured) for measure in MEASURES]
    return list(map(joined, found, others))


def joined(by_pagemap: Comparison, by_tables: Comparison) -> Comparison:
    """Return both comparisons of a measure as one: that which needs more explaining, with both values."""
    sides = (by_pagemap, by_tables)
    told = min(
        sides, key=lambda side: (side.explained is not False, side.explained is None, -abs(side.difference or 0))
    )
    return replace(told, second=by_pagemap.second, third=by_tables.second)


def compare_measure(
    measure: str, first: Usage, second: Usage, third: Usage, counted: MapsResult, smaps: MapsResult, captured: bool
) -> Comparison:
    """Return the comparison of one measure, with its reason."""
    one, two, again = (getattr(usage, measure) for usage in (first, second, third))
    if one is None or two is None:
        notes = (smaps if one is None else counted).reading.notes
        about = [note for note in notes if note.lower().startswith(ABOUT.get(measure, measure))]
        return Comparison(measure, one, two, None, None, None, "; ".join(about) or "not known")
    difference = two - one
    reason = "" if not difference else reason_of(measure, difference, one, again, smaps, captured)
    if reason is None:
        reason = limit_of(measure, difference, smaps, counted)
    explained = reason is not None
    return Comparison(measure, one, two, None, difference, explained, UNEXPLAINED if reason is None else reason)


UNEXPLAINED = "no known reason: please report it, with a capture"


def reason_of(
    measure: str, difference: int, before: int, after: int | None, smaps: MapsResult, captured: bool
) -> str | None:
    """Return why pagemap's sum may differ from that of smaps; None when it should not."""
    if measure == "pss" and 0 <= difference < SMAPS_UNIT * len(smaps.vmas):
        return f"smaps rounds each of {len(smaps.vmas)} VMAs down to 1 KiB"
    if after is not None and before != after:
        return "smaps itself changed during the count: the process ran, or one that shares pages with it"
    if smaps.reading.torn:
        return "the address space changed during the count"
    if captured:
        return "the capture read one after the other, and the process, or one that shares its pages, was running"
    return None


def limit_of(measure: str, difference: int, smaps: MapsResult, counted: MapsResult) -> str | None:
    """Return which limit of an older kernel explains a difference; None when none does."""
    if measure == "swap" and difference < 0 and SWAP_CACHE_UNSEEN in counted.reading.notes:
        return SWAP_CACHE_UNSEEN
    unit = SMAPS_UNIT if measure == "pss" else 1
    pairs = [
        (one, two)
        for one, two in zip(smaps.vmas, counted.vmas, strict=False)
        if abs(getattr(one.usage, measure) - getattr(two.usage, measure)) >= unit
    ]
    # Since Linux commit 8b9c1cc0418a (v6.6) smaps has them too.
    hidden = [two.vma.perms[:3] == "---" and may_hide_huge_pages(one, two) for one, two in pairs]
    if difference > 0 and hidden and all(hidden):
        return "smaps before Linux 6.6 leaves out huge pages that nobody may access"
    return None


def may_hide_huge_pages(by_smaps: VmaUsage, counted: VmaUsage) -> bool:
    """Whether a VMA has more in huge pages than smaps says, as far as is known."""
    return counted.usage.thp is None or counted.usage.thp > (by_smaps.usage.thp or 0)

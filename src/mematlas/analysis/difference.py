"""Two looks at memory, compared: which VMAs are new, gone, larger or smaller, and what there is more or less of."""

from __future__ import annotations

from bisect import bisect_right

from mematlas.analysis.usage import total
from mematlas.frozen import Record, Tabular, record
from mematlas.kernel.maps import ANON_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mematlas.analysis.results import VmaUsage
    from mematlas.notes import Note

NEW, GONE, GROWN, SHRUNK, CHANGED = "new", "gone", "grown", "shrunk", "changed"
AMOUNTS = ("rss", "uss", "pss", "swap", "anon", "file", "shmem", "hugetlb", "thp")
"""Amounts that are compared, in bytes; of each VMA or group they add up to the change of the whole."""
OF_OTHERS = "pss"
"""The one that others change, by mapping the same pages: what it alone has changed is the same."""
BY = ("vma", "path", "kind")
"""What rows can be of."""


@record
class PageChanges(Record):
    """How many pages went which way. A page that did so and came back in between is in none of them."""

    came: int
    """In RAM now and nowhere before: touched for the first time, or read in."""
    went: int
    """Given back, or dropped."""
    out: int
    """In RAM before and in swap now."""
    back: int
    """In swap before and in RAM now."""
    copied: int
    """A page of a file before, and a copy of its own now: written to."""
    moved: int | None
    """In another frame, or with its frame at another address; None where frames are hidden, or were not recorded."""


@record
class DiffRow(Record):
    """What is different of a VMA, or of several together."""

    how: str
    """``new``, ``gone``, ``grown``, ``shrunk`` or ``changed``."""
    start: int | None
    """Where it begins now, or began; None of several."""
    end: int | None
    perms: str | None
    kind: str
    path: str | None
    nr_vmas: int
    size: int
    """By how much its address space has changed, in bytes."""
    changes: dict[str, int | None]
    """By how much each of `AMOUNTS` has; None where that is not known."""
    pages: PageChanges | None
    """None where single pages were not compared."""


@record
class Side(Record):
    """One of the two."""

    pid: int
    name: str
    start_time: int
    at: str
    """What named it, and when."""
    amounts: dict[str, int | None]
    source: str


@record
class DiffResult(Tabular, Record):
    """What is different between two looks."""

    before: Side
    after: Side
    is_same: bool
    """Whether they are of the same process, so that addresses can be compared."""
    by: str
    rows: tuple[DiffRow, ...]
    """Those that differ, that of which RSS and swap together have changed the most first."""
    nr_same: int
    """How many do not."""
    seconds: float | None
    """How much later the second look was, where that is known."""
    notes: tuple[Note, ...]

    @property
    def changes(self) -> dict[str, int | None]:
        """By how much each of `AMOUNTS` has changed: the sum of all rows."""
        return {name: less(self.after.amounts[name], self.before.amounts[name]) for name in AMOUNTS}


def less(one: int | None, other: int | None) -> int | None:
    """Return a difference; None where it is not known.

    >>> less(5, 3), less(5, None)
    (2, None)
    """
    return None if one is None or other is None else one - other


def amounts_of(vmas: Iterable[VmaUsage]) -> dict[str, int | None]:
    """Return the amounts of some VMAs together."""
    usage = total(item.usage for item in vmas)
    return {name: getattr(usage, name) for name in AMOUNTS}


def matched(before: Sequence[VmaUsage], after: Sequence[VmaUsage]) -> list[tuple[VmaUsage | None, VmaUsage | None]]:
    """Return the VMAs of two looks at one address space in pairs: those that are the same, or went on from one another.

    Of the same object and rights, a VMA goes on from one that began, or ended, where it does, or that it overlaps.
    """
    found: dict[int, VmaUsage] = {}
    left = {item.start: item for item in before}
    rest = list(after)
    for ends in (("start", "end"), ("start",), ("end",)):
        places = {(object_of(one), *(getattr(one, end) for end in ends)): one for one in left.values()}
        still = []
        for item in rest:
            match = places.pop((object_of(item), *(getattr(item, end) for end in ends)), None)
            if match is None:
                still.append(item)
            else:
                found[item.start] = left.pop(match.start)
        rest = still
    match_overlaps(left, rest, found)
    pairs: list[tuple[VmaUsage | None, VmaUsage | None]] = [(found.get(item.start), item) for item in after]
    return [*pairs, *((item, None) for item in left.values())]


def match_overlaps(left: dict[int, VmaUsage], rest: Iterable[VmaUsage], found: dict[int, VmaUsage]) -> None:
    """Find for each of the rest the first VMA of the same object that is left, and overlaps it."""
    groups = by_object(sorted(left.values(), key=lambda one: one.start))
    ends = {key: [one.end for one in group] for key, group in groups.items()}
    for item in rest:
        key = object_of(item)
        group = groups.get(key, ())
        at = bisect_right(ends.get(key, ()), item.start)
        while at < len(group) and group[at].start < item.end:
            if group[at].start in left:
                found[item.start] = left.pop(group[at].start)
                break
            at += 1


def by_object(vmas: Iterable[VmaUsage]) -> Mapping[tuple[str, ...], list[VmaUsage]]:
    """Return VMAs by what is mapped, and how."""
    groups: dict[tuple[str, ...], list[VmaUsage]] = {}
    for item in vmas:
        groups.setdefault(object_of(item), []).append(item)
    return groups


def object_of(item: VmaUsage) -> tuple[str, ...]:
    """Return what is mapped, and how."""
    vma = item.vma
    return vma.kind, vma.path, vma.dev, str(vma.inode), vma.perms


def content_of(item: VmaUsage) -> tuple[str, ...]:
    """Return whose pages a VMA has, whatever its rights and its name are: memory without a file is all alike."""
    vma = item.vma
    if vma.kind in ANON_KINDS:
        return ("anon",)
    return (vma.dev, str(vma.inode)) if vma.inode else (vma.dev, vma.path)


def first_byte_of(item: VmaUsage) -> int | None:
    """Return which byte of its file would stand at address 0; None of memory without one."""
    vma = item.vma
    return None if vma.kind in ANON_KINDS else vma.offset - vma.start


def grouped(
    before: Iterable[VmaUsage], after: Iterable[VmaUsage], by: str
) -> Iterator[tuple[list[VmaUsage], list[VmaUsage]]]:
    """Yield VMAs of one kind together, or of one path, with those of the other look."""
    groups: dict[tuple[str, ...], tuple[list[VmaUsage], list[VmaUsage]]] = {}
    for index, vmas in enumerate((before, after)):
        for item in vmas:
            key = (item.kind,) if by == "kind" else (item.kind, item.path)
            groups.setdefault(key, ([], []))[index].append(item)
    yield from groups.values()


def row_of(before: Sequence[VmaUsage], after: Sequence[VmaUsage], by: str, pages: PageChanges | None) -> DiffRow | None:
    """Return what is different of some VMAs; None where nothing is."""
    one, other = amounts_of(before), amounts_of(after)
    changes = {name: less(other[name], one[name]) for name in AMOUNTS}
    size = sum(item.size for item in after) - sum(item.size for item in before)
    item = (after or before)[0]
    is_one = by == "vma"
    how = how_of(before, after, size)
    own = [change for name, change in changes.items() if name != OF_OTHERS]
    if (
        how == CHANGED
        and not any(change is None or change for change in own)
        and (pages is None or not any(pages.to_dict().values()))
    ):
        return None
    return DiffRow(
        how=how,
        start=item.start if is_one else None,
        end=item.end if is_one else None,
        perms=item.perms if is_one else None,
        kind=item.kind,
        path=None if by == "kind" else item.path,
        nr_vmas=len(after) or len(before),
        size=size,
        changes=changes,
        pages=pages,
    )


def how_of(before: Sequence[VmaUsage], after: Sequence[VmaUsage], size: int) -> str:
    """Return in one word what became of some VMAs."""
    if not before or not after:
        return NEW if after else GONE
    return GROWN if size > 0 else SHRUNK if size < 0 else CHANGED


def weight(row: DiffRow) -> tuple[int, int]:
    """Return how much of a change a row is."""
    return abs((row.changes["rss"] or 0) + (row.changes["swap"] or 0)), abs(row.size)

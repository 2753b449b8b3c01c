"""The VMAs of a process at a moment as a list to be looked at: what each line says, in which order, which are shown."""

from __future__ import annotations

from mematlas.analysis.groups import NAME_BY
from mematlas.analysis.vma_amounts import VmaAmounts, VmaChanges
from mematlas.arrays import np
from mematlas.frozen import record, replace
from mematlas.kernel.maps import KINDS
from mematlas.views.picture import SHARED_ANON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from typing import Any

    from mematlas.analysis.results import VmaUsage
    from mematlas.arrays import NDArray

    Key = Hashable
    """What names a line: the first address of a VMA, that of one that is gone, or what the VMAs of a group share."""

SUMMED = ("size", "rss", "pss", "uss", "swap", "nr_dirty")
TEXTS: dict[str, Callable[[VmaUsage], Any]] = {
    "name": lambda item: (item.path or item.kind).casefold(),
    "kind": lambda item: item.kind,
    "perms": lambda item: item.perms,
    "end": lambda item: item.end,
}
"""What lines are sorted by besides amounts."""
GONE = "gone"
SHARED = "shared anon"
"""What shared memory without a file is called, in place of what the kernel says."""


@record
class Line:
    """One line: a VMA, or several together. An amount that is not known is None."""

    name: str
    kind: str
    perms: str
    start: int
    end: int | None
    """None of several."""
    nr: int
    """VMAs."""
    size: int | None
    rss: int | None
    pss: int | None
    uss: int | None
    dirty: int | None
    swap: int | None
    change: int | None
    """Of RSS, in bytes."""
    mark: str
    """``+`` is new, ``-`` is gone."""

    @property
    def held(self) -> int:
        """RSS and swap, as far as they are known."""
        return (self.rss or 0) + (self.swap or 0)


def known(value: float) -> int | None:
    """Return a sum as a number of bytes; None where it is not known."""
    return None if value != value else int(value)


class VmaList:
    """The VMAs of a moment, and how they have changed."""

    def __init__(self, amounts: VmaAmounts, before: VmaAmounts | None, page_size: int) -> None:
        self.amounts = amounts
        self.page_size = page_size
        self.changes = VmaChanges(before or amounts, amounts)
        """From ``before``; from nothing, none."""
        self.gone = {(GONE, item.start): item for item in self.changes.gone}
        self._by_kind: tuple[list[Line], Line] | None = None

    # What there is of each kind

    def by_kind(self) -> tuple[list[Line], Line]:
        """Return a line for each kind that there is, that first which has the most; and the line of all."""
        if self._by_kind is None:
            lines = self._together([str(kind) for kind in KINDS], self.amounts.kinds)
            lines.sort(key=lambda line: (-line.held, -(line.size or 0)))
            (total,) = self._together(["total"], np.zeros(len(self.amounts), np.int64), are_empty_too=True)
            self._by_kind = lines, total
        return self._by_kind

    def _together(self, names: Sequence[str], codes: NDArray[np.int64], are_empty_too: bool = False) -> list[Line]:
        """Return lines of VMAs that are added up, by the number of their group."""
        nr = len(names)
        counts = np.bincount(codes, minlength=nr).tolist()
        sums = {name: self.amounts.sums(name, codes, nr).tolist() for name in SUMMED}
        changes = np.bincount(codes, self.changes.of_rss, nr).tolist()
        is_unknown = np.bincount(codes, ~self.changes.is_known, nr).tolist()
        firsts = np.full(nr, -1, np.int64)
        firsts[codes[::-1]] = np.arange(len(codes))[::-1]
        lines = []
        for code, name in enumerate(names):
            if not counts[code] and not are_empty_too:
                continue
            item = self.amounts.vmas[firsts[code]] if counts[code] else None
            dirty = known(sums["nr_dirty"][code])
            lines.append(
                Line(
                    name=name,
                    kind=item.kind if item else "",
                    perms="",
                    start=item.start if item else 0,
                    end=None,
                    nr=int(counts[code]),
                    dirty=None if dirty is None else dirty * self.page_size,
                    change=None if is_unknown[code] else int(changes[code]),
                    mark="",
                    **{key: known(sums[key][code]) for key in SUMMED if key != "nr_dirty"},
                )
            )
        return lines

    # Lines one by one

    def line(self, key: Any) -> Line:
        """Return the line of a VMA by its first address, or of one that is gone."""
        item = self.item(key)
        place = self.amounts.place_of(item)
        is_gone = place is None
        change = None if place is None or not self.changes.is_known[place] else int(self.changes.of_rss[place])
        if place is None:
            change = None if item.rss is None else -item.rss
        return Line(
            name=SHARED if item.path == SHARED_ANON else item.path or item.kind,
            kind=item.kind,
            perms=item.perms,
            start=item.start,
            end=item.end,
            nr=1,
            size=item.size,
            rss=item.rss,
            pss=item.pss,
            uss=item.uss,
            dirty=None if item.nr_dirty is None else item.nr_dirty * self.page_size,
            swap=item.swap,
            change=change,
            mark="-" if is_gone else "+" if item.start in self.changes.new else "",
        )

    def item(self, key: Any) -> VmaUsage:
        """Return the VMA of a key."""
        if type(key) is tuple:
            return self.gone[key]
        place = self.amounts.place(key)
        assert place is not None
        return self.amounts.vmas[place]

    def search(self, keys: Sequence[Any], wanted: str, first: int, step: int) -> int | None:
        """Return the index of the next of some keys whose line has a text, from an index on and round the end."""
        items: dict[Any, VmaUsage] = {item.start: item for item in self.amounts.vmas}
        items |= self.gone
        matches = Matcher(wanted, None)
        nr = len(keys)
        places = ((first + step * away) % nr for away in range(1, nr + 1))
        return next((place for place in places if matches(items[keys[place]])), None)

    def most(self) -> int:
        """Return the most that a VMA holds, in bytes: what bars are to be measured by."""
        held = np.maximum(self.amounts.of("rss"), 0) + np.maximum(self.amounts.of("swap"), 0)
        return int(held.max()) if len(held) else 0

    def keys(self, sort: str, is_up: bool, wanted: str, within: tuple[str, str] | None, with_gone: bool) -> list[Any]:
        """Return the keys of the lines that have a text, in order; ``within`` is what they are to have in common.

        The largest are first, of texts and addresses the lowest; ``is_up`` turns that round.
        """
        places = self._shown(wanted, within)
        order = self._order(sort, places)
        shown: list[Any] = self.amounts.starts[order[::-1] if is_up else order].tolist()
        if with_gone:
            matches = Matcher(wanted, within)
            shown += [key for key, item in self.gone.items() if matches(item)]
        return shown

    def _shown(self, wanted: str, within: tuple[str, str] | None) -> NDArray[np.int64]:
        if not wanted and within is None:
            return np.arange(len(self.amounts))
        matches = Matcher(wanted, within)
        return np.flatnonzero(np.fromiter(map(matches, self.amounts.vmas), bool, len(self.amounts)))

    def _order(self, sort: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return places in the order in which their lines stand."""
        if sort == "start":
            return places
        if sort in TEXTS:
            text_of, vmas = TEXTS[sort], self.amounts.vmas
            return np.array(sorted(places.tolist(), key=lambda place: text_of(vmas[place])), np.int64)
        if sort == "change":
            values = np.where(self.changes.is_known, self.changes.of_rss, np.iinfo(np.int64).min + 1)
        elif sort == "held":
            values = np.maximum(self.amounts.of("rss"), 0) + np.maximum(self.amounts.of("swap"), 0)
        else:
            values = self.amounts.of("nr_dirty" if sort == "dirty" else sort)
        ordered: NDArray[np.int64] = places[np.argsort(-values[places], kind="stable")]
        return ordered

    # Groups

    def groups(self, by: str, sort: str, is_up: bool, wanted: str) -> list[Line]:
        """Return a line for the VMAs that have their path, or their kind, in common."""
        name_of = NAME_BY[by]
        names: dict[str, int] = {}
        numbers = (names.setdefault(str(name_of(item)), len(names)) for item in self.amounts.vmas)
        codes = np.fromiter(numbers, np.int64, len(self.amounts))
        lost: dict[str, int] = {}
        for item in self.changes.gone:
            name = str(name_of(item))
            lost[name] = lost.get(name, 0) + (item.rss or 0)
        lines = [
            replace(line, change=line.change - lost[line.name])
            if line.name in lost and line.change is not None
            else line
            for line in self._together(list(names), codes)
            if is_in_line(line, wanted.casefold())
        ]
        values = {"name": lambda line: line.name.casefold(), "kind": lambda line: line.kind}
        if sort == "start":
            lines.sort(key=lambda line: line.start, reverse=is_up)
        elif sort in values:
            lines.sort(key=values[sort], reverse=is_up)
        else:
            lines.sort(key=lambda line: amount_of(line, sort), reverse=not is_up)
        return lines


def amount_of(line: Line, sort: str) -> int:
    """Return what a line is sorted by; what is not known is less than nothing."""
    value = getattr(line, sort, None)
    return -(1 << 63) if not isinstance(value, int) else value


def is_in_line(line: Line, wanted: str) -> bool:
    """Whether a line of several VMAs has a text, in lower case."""
    return wanted in line.name.casefold() or wanted in line.kind


class Matcher:
    """Whether VMAs have a text: in their name, kind, rights or addresses. What they share is looked at once."""

    def __init__(self, wanted: str, within: tuple[str, str] | None) -> None:
        self.wanted = wanted.casefold()
        self.within = within
        self._known: dict[str, bool] = {}
        number = self.wanted.removeprefix("0x")
        self._is_number = bool(number) and not number.strip("0123456789abcdef")
        self._number = number

    def __call__(self, item: VmaUsage) -> bool:
        vma = item.vma
        if self.within is not None and str(NAME_BY[self.within[0]](item)) != self.within[1]:
            return False
        if not self.wanted or self._has(vma.path) or self._has(vma.kind) or self._has(vma.perms):
            return True
        return self._is_number and (self._number in f"{vma.start:x}" or self._number in f"{vma.end:x}")

    def _has(self, text: str) -> bool:
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self.wanted in text.casefold()
        return found

"""One process at one moment as the map needs it: its VMAs as arrays, its pages, what has changed, made once."""

from __future__ import annotations

from functools import cached_property

from mematlas.analysis.page_cells import CellCounts, class_totals, signed, space_of, state_bytes
from mematlas.arrays import np
from mematlas.errors import NotSupported, TargetNotFound
from mematlas.kernel.nodes import UNREPORTED
from mematlas.kernel.pagemap import PM_PFRAME, PRESENT
from mematlas.model.nodes import HAS_NODE
from mematlas.model.pages import IS_HUGE
from mematlas.views.picture import short_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.analysis.page_cells import PageSpace, Pieces, Places
    from mematlas.analysis.results import VmaUsage
    from mematlas.arrays import Bools, NDArray, Words
    from mematlas.kernel.nodes import NodeMap
    from mematlas.timeline.timeline import Moments
    from mematlas.timeline.watch import Seen
    from mematlas.timeline.words import Sparse

IS_PRESENT = np.array([bool(byte & PRESENT) for byte in range(256)])
SOME = 1 << 12
"""Pages that are looked through together."""
NO_PAGES: Words = np.zeros(0, np.uint64)
IS_ON_NODE = np.frombuffer(HAS_NODE, np.uint8) != 0
HUGE_BYTES = np.frombuffer(IS_HUGE, np.uint8) != 0


class VmaArrays:
    """The VMAs of a process as arrays."""

    def __init__(self, items: list[VmaUsage], page_size: int) -> None:
        self.items = items
        vmas = [item.vma for item in items]
        self.firsts = np.array([vma.start // page_size for vma in vmas], np.int64)
        self.ends = np.array([vma.end // page_size for vma in vmas], np.int64)
        known: dict[tuple[str, str], int] = {}
        self.names: Places = np.array([known.setdefault((vma.path, vma.kind), len(known)) for vma in vmas], np.int64)
        """Of each VMA its name, as a number."""
        self.is_hidden = np.array([item.usage.nr_present is None for item in items], np.bool_)
        """Whether nothing is known of its pages."""

    def lie_as(self, other: VmaArrays) -> bool:
        """Whether others lie where these do, and are called as these are."""
        names = ("firsts", "ends", "names", "is_hidden")
        return self is other or all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    @cached_property
    def accessed(self) -> tuple[Places, Places]:
        """Of each VMA how many pages were accessed, -1 where that is not known, and how many are present."""
        accessed = [-1 if item.nr_accessed is None else item.nr_accessed for item in self.items]
        return np.array(accessed, np.int64), np.array([item.usage.nr_present or 0 for item in self.items], np.int64)

    @cached_property
    def has_huge(self) -> bool | None:
        """Whether huge entries map anything, by the amounts; None where these do not say."""
        amounts = {amount for item in self.items for amount in (item.usage.thp, item.usage.hugetlb)}
        return True if any(amounts) else None if None in amounts else False

    def index_of(self, page: int) -> int | None:
        """Return which VMA has a page; None for none."""
        index = int(np.searchsorted(self.firsts, page, "right")) - 1
        return index if index >= 0 and page < self.ends[index] else None

    def name(self, index: int) -> str:
        """Return what a VMA is called where there is little room."""
        return short_name(self.items[index].vma)


class MapMoment:
    """A process at a moment."""

    def __init__(
        self,
        timeline: Moments,
        elapsed: float,
        seen: Seen,
        page_size: int,
        before: MapMoment | None,
        nodes: Callable[[], NodeMap | str],
    ) -> None:
        """``elapsed`` is the moment by the timeline's clock; of one before is taken what is the same. ``nodes`` returns
        where the RAM of each node is, or why that is not known.

        Raises:
            NotSupported: its single pages or its VMAs are not known.
        """
        if not seen.vmas:
            raise NotSupported(f"the VMAs of process {seen.pid}", "record --what pages")
        self.timeline = timeline
        self.elapsed = elapsed
        self._nodes = nodes
        self.seen = seen
        self.page_size = page_size
        self.pages: Sparse = timeline.pages(elapsed, seen.pid)
        is_same = before is not None and before.vmas.items is seen.vmas
        self.vmas: VmaArrays = before.vmas if before and is_same else VmaArrays(seen.vmas, page_size)
        has_same_pages = before is not None and before.pages.indexes is self.pages.indexes
        self.space: PageSpace = (
            before.space
            if before and has_same_pages and self.vmas.lie_as(before.vmas)
            else space_of(self.vmas.firsts, self.vmas.ends, self.pages.indexes)
        )
        self._counted: tuple[Pieces, CellCounts] | None = None
        self._by_byte: Places
        if before is not None and before.space is self.space:
            self._take_changes(before)
        else:
            self._by_byte = np.bincount(state_bytes(self.pages.words), minlength=256)
        self.totals = class_totals(self._by_byte, self.space.nr_pages, self._nr_hidden())
        """Pages of each class that occurs."""
        self.accessed: Words | None = None
        """The numbers of the pages that were accessed, ascending; None where that is not known of single pages."""
        self.frames: Sparse | None = None
        """Its pages with the numbers of their frames, where these were asked for."""
        self._changed: tuple[float, Words | str] | None = None
        self._changed_at: tuple[Words, NDArray[np.float64]] | str | None = None

    def _nr_hidden(self) -> int:
        """Return how many pages without an entry are in VMAs of which nothing is known."""
        firsts, ends = self.vmas.firsts[self.vmas.is_hidden], self.vmas.ends[self.vmas.is_hidden]
        there = signed(self.pages.indexes)
        return int((ends - firsts - np.searchsorted(there, ends) + np.searchsorted(there, firsts)).sum())

    def _take_changes(self, before: MapMoment) -> None:
        """Count what is other than at a moment before, of the same pages, rather than all."""
        was, now = before.pages.words, self.pages.words
        self._by_byte, self._counted = before._by_byte, before._counted
        if was is now:
            return
        # Bytes are compared faster than words.
        places = np.flatnonzero(state_bytes(was) != state_bytes(now))
        old, new = state_bytes(was)[places], state_bytes(now)[places]
        self._by_byte = self._by_byte - np.bincount(old, minlength=256) + np.bincount(new, minlength=256)
        if before._counted is not None:
            pieces, counts = before._counted
            after = counts.after(self.pages.indexes[places], old, new)
            self._counted = None if after is None else (pieces, after)

    def count(self, pieces: Pieces) -> CellCounts:
        """Return how many pages of each state lie in cells: those that were counted last need not be again."""
        if self._counted is None or self._counted[0] is not pieces:
            self._counted = pieces, self.count_few(pieces)
        return self._counted[1]

    def count_few(self, pieces: Pieces) -> CellCounts:
        """Return the same of cells that are soon counted."""
        return CellCounts(pieces, self.pages.indexes, self.pages.words, self.vmas.is_hidden)

    def word(self, page: int) -> int:
        """Return the word of a page; 0 where there is none."""
        at = int(np.searchsorted(self.pages.indexes, np.uint64(page)))
        is_there = at < len(self.pages) and int(self.pages.indexes[at]) == page
        return int(self.pages.words[at]) if is_there else 0

    def changed(self, other: float) -> Words:
        """Return which pages are not what they were at another moment; none where that is not known."""
        if self._changed is None or self._changed[0] != other:
            first, last = sorted((other, self.elapsed))
            try:
                found: Words | str = self.timeline.changed_pages(self.seen.pid, first, last)
            except (NotSupported, TargetNotFound) as error:
                found = str(error)
            self._changed = other, found
        pages = self._changed[1]
        return NO_PAGES if isinstance(pages, str) else pages

    def changed_at(self) -> tuple[Words, NDArray[np.float64]] | str:
        """Return which pages have changed since the first look that is known, and when last; or why that is not."""
        if self._changed_at is None:
            try:
                self._changed_at = self.timeline.changed_at(self.seen.pid, self.elapsed)
            except (NotSupported, TargetNotFound) as error:
                self._changed_at = str(error)
        return self._changed_at

    @property
    def nr_present(self) -> int:
        """Present pages."""
        return int(self._by_byte[IS_PRESENT].sum())

    @property
    def nr_huge(self) -> int | None:
        """Pages that huge entries map; None where state bytes do not say so."""
        if number := int(self._by_byte[HUGE_BYTES].sum()):
            return number
        return 0 if self.vmas.has_huge is False else None

    @cached_property
    def has_frames(self) -> bool:
        """Whether present pages have the numbers of their frames: the first shows it."""
        for start in range(0, len(self.pages), SOME):
            words = self.pages.words[start : start + SOME]
            there = words[IS_PRESENT[state_bytes(words)]][:1]
            if len(there):
                return bool(int(there[0]) & PM_PFRAME)
        return False

    @property
    def takes_frames(self) -> bool:
        """Whether nodes are known by frames alone, and these not yet."""
        nodes = self._nodes()
        return not isinstance(nodes, str) and nodes.only is None and not self.has_frames

    @property
    def on_nodes(self) -> list[tuple[int | None, Words]] | str:
        """The pages on each node, ascending, and under None those on one that is not known; or why nothing is known."""
        nodes = self._nodes()
        if isinstance(nodes, str):
            return nodes
        every = self.frames or self.pages
        has_node = IS_ON_NODE[state_bytes(every.words)]
        pages = every.indexes[has_node]
        if nodes.only is not None:
            return [(nodes.only, pages)]
        pfns = every.words[has_node] & np.uint64(PM_PFRAME)
        if not pfns.any():
            return "it takes the frames of pages (mematlas maps --nodes has amounts)"
        found = np.where(pfns > 0, nodes.of_frames(pfns), UNREPORTED)
        known = sorted({*nodes.with_memory, *np.unique(found).tolist()} - {UNREPORTED})
        parts: list[tuple[int | None, Words]] = [(node, pages[found == node]) for node in known]
        rest = pages[found == UNREPORTED]
        return [*parts, (None, rest)] if len(rest) else parts

    def is_hidden(self, index: int) -> bool:
        """Whether nothing is known of the pages of a VMA."""
        hidden: Bools = self.vmas.is_hidden
        return bool(hidden[index])

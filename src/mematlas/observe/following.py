"""A process that is followed: looked at again and again by its page tables, of which what has changed is found out.

Amounts and pages are those that `mematlas.observe.page_counter` and a capture find, but for what a note says.
"""

from __future__ import annotations

from mematlas.analysis.page_usage import usage_of_tables
from mematlas.analysis.results import Counted, VmaUsage
from mematlas.errors import FormatError, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.maps import read_mark
from mematlas.kernel.status import read_stat
from mematlas.model.address_space import AddressSpace
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.notes import Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.model.pagetables.followed import FollowedPages
    from mematlas.model.pagetables.room import TableRoom
    from mematlas.observe.sources import Sources


class Following:
    """One process that is followed, and how it was at the last look."""

    def __init__(self, sources: Sources, room: TableRoom, with_pages: bool) -> None:
        """``with_pages`` says whether anybody wants to know what files behind shared memory have in RAM."""
        self.sources = sources
        self.room = room
        self.with_pages = with_pages
        self.number = 0
        """How many looks there were; where the one before had to be forgotten, one more."""
        self.items: list[VmaUsage] = []
        """The VMAs of the last look."""
        self._pages: FollowedPages | None = None
        self._space = AddressSpace([], 0)
        self._holes: list[int] = []
        self._touched: set[int] = set()
        """The starts of VMAs of which there is anything that is not in ``items`` yet."""

    @property
    def pages(self) -> FollowedPages:
        """The pages, after a look."""
        if self._pages is None:
            raise NotSupported("pages of a process that was not looked at")
        return self._pages

    @property
    def vmas(self) -> Sequence[Vma]:
        """The VMAs of the last look."""
        return self._space.vmas

    @property
    def is_begun(self) -> bool:
        """Whether there is anything that the next look can go on from."""
        return self._pages is not None

    @property
    def is_counting(self) -> bool:
        """Whether amounts were counted at the last look that anything was asked for."""
        return bool(self.items)

    def close(self) -> None:
        """Forget all that is known."""
        if self._pages is not None:
            self._pages.close()
            self._pages = None
        self._space, self.items, self._holes, self._touched = AddressSpace([], 0), [], [], set()
        self.number += 1

    def look(self) -> Counted:
        """Return how much there is now.

        Raises:
            ProcessGone: it has ended, or has just started another program.
            NotSupported: it cannot be followed.
        """
        self.look_at_pages(are_counted=True)
        pages, vmas = self.pages, self._space.vmas
        holes = list(map(pages.hole, vmas))
        known = {item.start: (item, hole) for item, hole in zip(self.items, self._holes, strict=True)}
        items = []
        use = pages.with_use(vmas)
        for index, (vma, hole) in enumerate(zip(vmas, holes, strict=True)):
            item, hole_before = known.get(vma.start, (None, 0))
            is_same = item is not None and (item.vma is vma or item.vma == vma)
            if item is None or not is_same or hole != hole_before or vma.start in self._touched:
                item = self._of_vma(pages, vma, hole)
            elif index in use:
                item = with_use(item, *use[index])
            items.append(item)
        self._touched, self.items, self._holes = set(), items, holes
        torn = bool(pages.tables.torn) or self.is_torn()
        return Counted(source="tables", vmas=items, torn=torn, notes=Notes(pages.notes()))

    def look_at_pages(self, are_counted: bool = False) -> None:
        """Bring what is known of the pages up to date, and count nothing. Raises what `look` does.

        ``are_counted`` says that they are counted next, and their use with them.
        """
        try:
            try:
                return self._look_at_pages(are_counted)
            except (ProcessGone, NotSupported, FormatError):
                if not self.is_begun:
                    raise
            # Perhaps it runs another program now; or there was no room for what it has and for what it had once.
            self.close()
            self._look_at_pages(are_counted)
        except (ProcessGone, PermissionDenied, NotSupported, FormatError):
            self.close()
            raise

    def _look_at_pages(self, are_counted: bool) -> None:
        sources = self.sources
        space = self._address_space()
        if self._pages is None:
            from mematlas.model.pagetables.followed import FollowedPages

            self._pages = FollowedPages(sources.dir, sources.page_table_access(), self.room, self.with_pages)
        self._pages.look(space.vmas)
        self.number += 1
        self._space = space
        if self.items:
            touched = self._pages.with_touched(space.vmas)
            if not are_counted:
                touched.update(self._pages.with_use(space.vmas))
            self._touched |= {space.vmas[index].start for index in touched}

    def is_torn(self) -> bool:
        """Whether the VMAs are others than at the last look."""
        return self.sources.is_torn(self._space)

    def _address_space(self) -> AddressSpace:
        """Return the VMAs: those of the look before, if maps says the same."""
        mark = read_mark(self.sources.dir)
        if not mark or mark != self._space.mark:
            return self.sources.address_space()
        self.sources.stat = read_stat(self.sources.dir)
        return self._space

    def _of_vma(self, pages: FollowedPages, vma: Vma, hole: int) -> VmaUsage:
        counts, state = pages.count(vma), STATE_OF_BYTE[hole]
        usage = usage_of_tables(vma, counts, self.sources.page_size, state)
        return VmaUsage(vma, usage, state, None, counts.nr_accessed, counts.nr_dirty)


def with_use(item: VmaUsage, nr_accessed: int, nr_dirty: int) -> VmaUsage:
    """Return a VMA with so many more pages accessed, and dirty; of these fewer where that is negative."""
    accessed, dirty = (item.nr_accessed or 0) + nr_accessed, (item.nr_dirty or 0) + nr_dirty
    return VmaUsage(item.vma, item.usage, item.first_state, item.phys, accessed, dirty)

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

    @property
    def pages(self) -> FollowedPages:
        """The pages, after a look."""
        if self._pages is None:
            raise NotSupported("pages of a process that was not looked at")
        return self._pages

    @property
    def is_begun(self) -> bool:
        """Whether there is anything that the next look can go on from."""
        return self._pages is not None

    def close(self) -> None:
        """Forget all that is known."""
        if self._pages is not None:
            self._pages.close()
            self._pages = None
        self._space, self.items, self._holes = AddressSpace([], 0), [], []
        self.number += 1

    def look(self) -> Counted:
        """Return how much there is now.

        Raises:
            ProcessGone: it has ended, or has just started another program.
            NotSupported: it cannot be followed.
        """
        try:
            try:
                return self._look()
            except (ProcessGone, NotSupported, FormatError):
                if not self.is_begun:
                    raise
            # Perhaps it runs another program now; or there was no room for what it has and for what it had once.
            self.close()
            return self._look()
        except (ProcessGone, PermissionDenied, NotSupported, FormatError):
            self.close()
            raise

    def is_torn(self) -> bool:
        """Whether the VMAs are others than at the last look."""
        return self.sources.is_torn(self._space)

    def _look(self) -> Counted:
        sources = self.sources
        space = self._address_space()
        if self._pages is None:
            from mematlas.model.pagetables.followed import FollowedPages

            self._pages = FollowedPages(sources.dir, sources.page_table_access(), self.room, self.with_pages)
        pages = self._pages
        pages.look(space.vmas)
        self.number += 1
        holes = list(map(pages.hole, space.vmas))
        touched = pages.with_touched(space.vmas)
        known = {item.start: (item, hole) for item, hole in zip(self.items, self._holes, strict=True)}
        items = []
        for index, (vma, hole) in enumerate(zip(space.vmas, holes, strict=True)):
            item, hole_before = known.get(vma.start, (None, 0))
            if item is None or hole != hole_before or index in touched or (item.vma is not vma and item.vma != vma):
                item = self._of_vma(pages, vma, hole)
            items.append(item)
        self._space, self.items, self._holes = space, items, holes
        torn = bool(pages.tables.torn) or self.is_torn()
        return Counted(source="tables", vmas=items, torn=torn, notes=Notes(pages.notes()))

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

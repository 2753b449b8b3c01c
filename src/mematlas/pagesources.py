"""What `mematlas.Process.maps` is made of where entries are counted: VMAs by pagemap, or by page tables."""

from __future__ import annotations

from mematlas.analysis.counting import PageCounts, nr_shared, shared_frames, usage_of_pages, usage_of_tables
from mematlas.analysis.results import VmaUsage
from mematlas.errors import NotSupported
from mematlas.kernel.pagemap import Block
from mematlas.model.pages import STATE_OF_BYTE, PageReader, place_of
from mematlas.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.choosing import Chooser
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.nodes import PageNodes, Sizes
    from mematlas.model.sharers import Sharers
    from mematlas.model.tableaccess import TableAccess
    from mematlas.model.tablecounts import TableCounter
    from mematlas.model.tablereader import TableReader


class PageCounter:
    """Counts VMAs of one process by its pages. What is unknown, and why, goes to the notes."""

    def __init__(
        self, process: ProcessDir, pacer: Pacer | None, first_pages: bool, nodes: PageNodes | None, notes: list[str]
    ) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self.torn = False
        """Whether tables changed while they were walked, in spite of all."""
        self._pacer = pacer
        self._first_pages = first_pages
        self._nodes = nodes
        self._notes = notes

    def by_pagemap(self, vmas: Iterable[Vma]) -> list[VmaUsage]:
        """Return what the entries of pagemap add up to, with pauses; who shares the pages is told by kpagecount."""
        from mematlas.model.sharers import Sharers

        with (
            PageReader(self.process, self._pacer, cached=False) as reader,
            Sharers(self.process.procfs, self._notes) as sharers,
        ):
            result = [self._of_pages(reader, sharers, vma) for vma in vmas]
        self._notes += reader.notes()
        return result

    def _of_pages(self, reader: PageReader, sharers: Sharers, vma: Vma) -> VmaUsage:
        counts = PageCounts()
        state, phys = None, None
        thp: int | None = 0
        by_node: Sizes = {}
        sharers.begin()
        # The nodes of hidden frames are asked for by address.
        for block in reader.blocks(vma) if self._nodes else reader.lots(vma):
            counts.add(block.kinds)
            if self._nodes and isinstance(block, Block):
                self._nodes.add(by_node, block)
            if self._first_pages and block.address == vma.start:
                state, phys = place_of(block, self.page_size, self._notes)
            if vma.kind != "hugetlb":
                if nr_shared(block.kinds):
                    sharers.add(shared_frames(block))
                if isinstance(block, Block):
                    thp = self._add_huge(reader, vma, block, thp)
        hole = STATE_OF_BYTE[reader.hole(vma)]
        if self._first_pages and vma.kind == "shmem" and (state or hole) == "absent":
            state = self._in_file(reader, vma)
        usage = usage_of_pages(
            vma,
            counts,
            self.page_size,
            zero_known=reader.zero_known,
            hole=hole,
            sharers=sharers.by_count(),
            thp=thp,
        )
        return VmaUsage(vma, usage, state or hole, phys, nodes=by_node if self._nodes else None)

    def _add_huge(self, reader: PageReader, vma: Vma, block: Block, thp: int | None) -> int | None:
        if thp is None:
            return None
        try:
            return thp + reader.huge_size(vma, block)
        except NotSupported as error:
            self._notes.append(f"huge pages unknown with this source: {error}")
            return None

    def by_tables(self, vmas: Sequence[Vma], chooser: Chooser) -> list[VmaUsage]:
        """Return what page tables and struct pages add up to, counted in the kernel where that can be done.

        Raises:
            NotSupported: they cannot be read after all.
        """
        counted = None if self._nodes else self._counted(vmas, chooser)
        return self._read(vmas, chooser.tables_access()) if counted is None else counted

    def _counted(self, vmas: Sequence[Vma], chooser: Chooser) -> list[VmaUsage] | None:
        """Return what is counted in the kernel; None where tables must be read."""
        access = chooser.count_access()
        if access is None:
            return None
        from mematlas.model.tablecounts import TableCounter

        try:
            with TableCounter(self.process, access) as counter:
                if not all(map(counter.can_count, vmas)):
                    return None
                result = [self._of_counts(counter, vma) for vma in vmas]
        except NotSupported:
            return None
        self._notes += counter.notes()
        self.torn = bool(counter.torn)
        return result

    def _of_counts(self, counter: TableCounter, vma: Vma) -> VmaUsage:
        sums = counter.count(vma)
        hole = STATE_OF_BYTE[counter.hole(vma)]
        state, phys = counter.first_page(vma) if self._first_pages else (hole, None)
        usage = usage_of_tables(vma, sums, self.page_size, hole)
        return VmaUsage(vma, usage, state, phys, sums.nr_accessed, sums.nr_dirty)

    def _read(self, vmas: Sequence[Vma], access: TableAccess) -> list[VmaUsage]:
        from mematlas.model.tablereader import TableReader

        if not vmas:
            return []
        with TableReader(self.process, access, vmas[0].start, vmas[-1].end) as reader:
            result = [self._of_tables(reader, vma) for vma in vmas]
            if self._nodes:
                result = [replace(item, nodes=self._nodes.of_vma(reader, item.vma)) for item in result]
        self._notes += reader.notes()
        self.torn = bool(reader.torn)
        return result

    def _of_tables(self, reader: TableReader, vma: Vma) -> VmaUsage:
        sums = reader.count(vma)
        hole = STATE_OF_BYTE[reader.hole(vma)]
        state, phys = None, None
        if self._first_pages and (block := reader.block_at(vma, vma.start)):
            state, phys = place_of(block, self.page_size, self._notes)
        usage = usage_of_tables(vma, sums, self.page_size, hole)
        return VmaUsage(vma, usage, state or hole, phys, sums.nr_accessed, sums.nr_dirty)

    def _in_file(self, reader: PageReader, vma: Vma) -> str:
        """Return what the file of shared memory tells of the first page, which has no entry here."""
        return STATE_OF_BYTE[reader.states(vma, vma.start, vma.start + self.page_size)[0]]

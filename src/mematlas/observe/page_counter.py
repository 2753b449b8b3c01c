"""What `mematlas.Process.maps` is made of where entries are counted: VMAs by pagemap, or by page tables."""

from __future__ import annotations

from itertools import compress

from mematlas.analysis.page_usage import (
    AlikeUsages,
    PageCounts,
    nr_shared,
    shared_frames,
    usage_of_pages,
    usage_of_tables,
)
from mematlas.analysis.results import Counted, VmaUsage
from mematlas.errors import NotSupported
from mematlas.kernel.pagemap import ACCESSED, DIRTY, ENTRY_SIZE, IS_SHARED, PM_PFRAME, Block
from mematlas.model.address_space import EVERYTHING
from mematlas.model.pages import RUN_PAGES, STATE_OF_BYTE, PageReader, place_of
from mematlas.model.runs import cut, runs_of
from mematlas.notes import Note, Notes
from mematlas.observe.sources import pagemap_instead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.address_space import Selection
    from mematlas.model.nodes import PageNodes, Sizes
    from mematlas.model.pagetables.access import PageTableAccess
    from mematlas.model.pagetables.counts import TableCounter
    from mematlas.model.pagetables.reader import PageTableReader
    from mematlas.model.sharers import Sharers
    from mematlas.observe.sources import Sources, Taker
    from mematlas.words import State

MANY = 1 << 12


def by_pages(
    sources: Sources,
    source: str,
    is_choice: bool,
    selection: Selection,
    first_pages: bool,
    nodes: PageNodes | None,
) -> Counted:
    """Return what entries add up to; from pagemap where page tables were our choice, and cannot be read after all."""
    if source == "tables" and sources.following and selection is EVERYTHING and not (first_pages or nodes):
        try:
            return sources.following.look()
        except NotSupported:
            sources.following = None  # it has let go of all that it had
    counter = PageCounter(sources.dir, sources.pacer(), first_pages, nodes)
    space = sources.address_space()
    wanted = space.vmas if selection is EVERYTHING else list(filter(selection.matches, space.vmas))
    vmas: list[VmaUsage] | None = None
    if source == "tables":
        try:
            vmas = counter.by_tables(wanted, sources)
        except NotSupported as error:
            if not is_choice:
                raise
            counter.notes.add(pagemap_instead(error))
            source = "pagemap"
    if vmas is None:
        vmas = counter.by_pagemap(wanted, None if selection is not EVERYTHING or first_pages else sources.taker)
    return Counted(source=source, vmas=vmas, torn=counter.torn or sources.is_torn(space), notes=counter.notes)


class PageCounter:
    """Counts VMAs of one process by its pages."""

    def __init__(self, process: ProcessDir, pacer: Pacer | None, first_pages: bool, nodes: PageNodes | None) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self.torn = False
        """Whether tables changed while they were walked, in spite of all."""
        self._pacer = pacer
        self._first_pages = first_pages
        self._nodes = nodes
        self.notes = Notes()
        """What is unknown, and why."""
        self._alike = AlikeUsages(self.page_size)

    def by_pagemap(self, vmas: Sequence[Vma], taker: Taker | None = None) -> list[VmaUsage]:
        """Return what the entries of pagemap add up to, with pauses; who shares the pages is read from kpagecount.

        All pages are given to the ``taker``, too.
        """
        from mematlas.model.sharers import Sharers

        has_taker = taker is not None
        with PageReader(self.process, self._pacer, cached=has_taker) as reader, Sharers(self.process.procfs) as sharers:

            def in_file(vma: Vma) -> State:
                return self._in_file(reader, vma)

            if taker:
                result = [self._of_pages(reader, sharers, vma, taker) for vma in vmas]
                taker.end_blocks(reader, vmas)
                vmas = ()
            else:
                result = []
            for run, block in reader.runs(vmas):
                if block is None:
                    result.append(self._of_pages(reader, sharers, run[0]))
                else:
                    result += self._of_run(run, block, reader.zero_known, sharers.map_counts, in_file=in_file)
        self.notes += sharers.notes
        self.notes += reader.notes()
        return result

    def _of_pages(self, reader: PageReader, sharers: Sharers, vma: Vma, taker: Taker | None = None) -> VmaUsage:
        counts = PageCounts()
        state, phys = None, None
        thp: int | None = 0
        by_node: Sizes = {}
        sharers.begin()
        # The nodes of hidden frames are asked for by address.
        for block in reader.blocks(vma) if self._nodes or taker else reader.lots(vma):
            counts.add(block.kinds)
            if taker and isinstance(block, Block):
                taker.take_block(reader, vma, block)
            if self._nodes and isinstance(block, Block):
                self._nodes.add(by_node, block)
            if self._first_pages and block.address == vma.start:
                state, phys = place_of(block, self.page_size)
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
        return VmaUsage(
            vma=vma, usage=usage, first_state=state or hole, phys=phys, nodes=by_node if self._nodes else None
        )

    def _add_huge(self, reader: PageReader, vma: Vma, block: Block, thp: int | None) -> int | None:
        if thp is None:
            return None
        try:
            return thp + reader.huge_size(vma, block)
        except NotSupported as error:
            self.notes.add(Note("huge-unknown", f"this source does not show huge pages: {error}"))
            return None

    def by_tables(self, vmas: Sequence[Vma], sources: Sources) -> list[VmaUsage]:
        """Return what page tables and struct pages add up to, counted in the kernel where that can be done.

        Raises:
            NotSupported: they cannot be read after all.
        """
        is_read = self._nodes or self._has_many_small(vmas)
        counted = None if is_read else self._counted(vmas, sources)
        return self._read(vmas, sources.page_table_access()) if counted is None else counted

    def _has_many_small(self, vmas: Sequence[Vma]) -> bool:
        """Whether so many VMAs can be read together that loading numpy for that pays: the kernel counts one by one."""
        if len(vmas) < MANY:
            return False
        return len(vmas) - sum(1 for _ in runs_of(vmas, self.page_size, RUN_PAGES)) >= MANY

    def _counted(self, vmas: Sequence[Vma], sources: Sources) -> list[VmaUsage] | None:
        """Return what is counted in the kernel; None where tables must be read."""
        access = sources.count_access()
        if access is None:
            return None
        from mematlas.model.pagetables.counts import TableCounter

        try:
            with TableCounter(self.process, access) as counter:
                if not all(map(counter.can_count, vmas)):
                    return None
                result = [self._of_counts(counter, vma) for vma in vmas]
        except NotSupported:
            return None
        self.notes += counter.notes()
        self.torn = bool(counter.torn)
        return result

    def _of_counts(self, counter: TableCounter, vma: Vma) -> VmaUsage:
        sums = counter.count(vma)
        hole = STATE_OF_BYTE[counter.hole(vma)]
        state, phys = counter.first_page(vma) if self._first_pages else (hole, None)
        usage = usage_of_tables(vma, sums, self.page_size, hole)
        return VmaUsage(
            vma=vma, usage=usage, first_state=state, phys=phys, nr_accessed=sums.nr_accessed, nr_dirty=sums.nr_dirty
        )

    def _read(self, vmas: Sequence[Vma], access: PageTableAccess) -> list[VmaUsage]:
        from mematlas.model.pagetables.reader import PageTableReader

        if not vmas:
            return []
        with PageTableReader(self.process, access, vmas[0].start, vmas[-1].end) as reader:

            def look_closer(vma: Vma) -> VmaUsage:
                return self._of_tables(reader, vma)

            result: list[VmaUsage] = []
            for run, block in reader.runs(vmas):
                if block is None:
                    result.append(self._of_tables(reader, run[0]))
                else:
                    result += self._of_run(run, block, True, reader.counts_of, look_closer=look_closer)
        self.notes += reader.notes()
        self.torn = bool(reader.torn)
        return result

    def _of_tables(self, reader: PageTableReader, vma: Vma) -> VmaUsage:
        sums = reader.count(vma)
        hole = STATE_OF_BYTE[reader.hole(vma)]
        state, phys = None, None
        if self._first_pages and (block := reader.block_at(vma, vma.start)):
            state, phys = place_of(block, self.page_size)
        usage = usage_of_tables(vma, sums, self.page_size, hole)
        nodes = self._nodes.of_vma(reader, vma) if self._nodes else None
        return VmaUsage(
            vma=vma,
            usage=usage,
            first_state=state or hole,
            phys=phys,
            nr_accessed=sums.nr_accessed,
            nr_dirty=sums.nr_dirty,
            nodes=nodes,
        )

    def _of_run(
        self,
        run: list[Vma],
        block: Block,
        zero_known: bool,
        map_counts: Callable[[list[int]], list[int]],
        *,
        in_file: Callable[[Vma], State] | None = None,
        look_closer: Callable[[Vma], VmaUsage] | None = None,
    ) -> Iterator[VmaUsage]:
        """Yield what the entries of VMAs that lie side by side add up to, given one block of all of them.

        ``in_file`` returns the state of a first page without an entry by its file, where a block does not have that.
        ``look_closer`` counts a VMA by itself: where a page is not exclusive, though mapped once or unknown times.
        """
        states, use = block.states, block.use
        counts = shared_counts(block, map_counts)
        for vma, first, last in cut(run, block, self.page_size):
            shared: list[int] = []
            if counts:
                shared = [counts[index] for index in range(first, last) if index in counts]
            if shared and look_closer and min(shared) < 2:
                yield look_closer(vma)
                continue
            usage = self._alike.usage(vma, states[first:last], shared, zero_known)
            state: State = "absent"
            phys: int | None = None
            if self._first_pages:
                state, phys = place_of(block, self.page_size, first)
                if in_file and state == "absent" and vma.kind == "shmem":
                    state = in_file(vma)
            nodes: Sizes | None = None
            if self._nodes:
                raw = block.raw[first * ENTRY_SIZE : last * ENTRY_SIZE]
                self._nodes.add(nodes := {}, Block(vma.start, raw, states[first:last]))
            nr_accessed, nr_dirty = nr_used(use, first, last) if use else (None, None)
            # There may be very many: keywords take three times as long.
            yield VmaUsage(vma, usage, state, phys, nr_accessed, nr_dirty, nodes)

    def _in_file(self, reader: PageReader, vma: Vma) -> State:
        """Return what the file of shared memory says of the first page, which has no entry here."""
        return STATE_OF_BYTE[reader.states(vma, vma.start, vma.start + self.page_size)[0]]


def shared_counts(block: Block, map_counts: Callable[[list[int]], list[int]]) -> dict[int, int]:
    """Return how often each page is mapped that is resident and not exclusive, by its index in a block."""
    if not nr_shared(block.kinds):
        return {}
    marks = block.states.translate(IS_SHARED)
    indices = list(compress(range(len(marks)), marks))
    frames = [block.entries[index] & PM_PFRAME for index in indices]
    return dict(zip(indices, map_counts(frames), strict=True))


def nr_used(use: bytes, first: int, last: int) -> tuple[int, int]:
    """Return how many pages, from one index to another, have the accessed bit, and how many the dirty bit."""
    nr_both = use.count(ACCESSED | DIRTY, first, last)
    return nr_both + use.count(ACCESSED, first, last), nr_both + use.count(DIRTY, first, last)

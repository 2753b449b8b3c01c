"""What `mematlas.Process.maps` is made of: VMAs counted by smaps, by pagemap, or by page tables."""

from __future__ import annotations

from mematlas.analysis.results import Counters, VmaUsage
from mematlas.analysis.usage import (
    PageCounts,
    nr_shared,
    shared_frames,
    usage_of_fields,
    usage_of_pages,
    usage_of_tables,
)
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.ksm_stat import read_merging_pages
from mematlas.kernel.maps import ANON_KINDS
from mematlas.kernel.pagemap import LAST_ADDRESS, PAGE_IS_PFNZERO, PM_PFRAME, PRESENT
from mematlas.kernel.status import status_bytes
from mematlas.model.pages import HIDDEN_FRAMES, MAY_BE_HIDDEN, STATE_OF_BYTE, PageReader
from mematlas.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block, Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.nodes import PageNodes, Sizes
    from mematlas.model.sharers import Sharers
    from mematlas.model.tableaccess import TableAccess
    from mematlas.model.tablereader import TableReader

ZERO_UNKNOWN = "zero pages cannot be told from shared ones: needs Linux 6.7, or CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH"


class VmaCounter:
    """Counts VMAs of one process, each of its methods by one source. What is unknown, and why, goes to the notes."""

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

    # By smaps

    def by_smaps(self, entries: Sequence[tuple[Vma, dict[str, int]]]) -> list[VmaUsage]:
        """Return what smaps tells of VMAs; what it does not, by pagemap: zero pages, and the first page."""
        try:
            reader = PageReader(self.process, self._pacer, cached=False, exclusive=False)
        except (PermissionDenied, NotSupported) as error:
            self._notes.append(f"zero pages and first pages unknown: {error}")
            return self._of_entries(None, entries)
        with reader:
            return self._of_entries(reader, entries)

    def _of_entries(self, reader: PageReader | None, entries: Sequence[tuple[Vma, dict[str, int]]]) -> list[VmaUsage]:
        result = [self._of_fields(reader, vma, fields) for vma, fields in entries]
        if self._nodes:
            sizes = self._nodes.of_entries(reader, entries)
            result = [replace(item, nodes=each) for item, each in zip(result, sizes, strict=True)]
        return result

    def _of_fields(self, reader: PageReader | None, vma: Vma, fields: dict[str, int]) -> VmaUsage:
        is_hidden = reader.hidden.is_hidden(vma) if reader else vma.kind in MAY_BE_HIDDEN
        usage = usage_of_fields(vma, fields, self.page_size, self._nr_zero(reader, vma, fields), is_hidden)
        state, phys = self._first_page(reader, vma) if reader and self._first_pages else (None, None)
        return VmaUsage(vma, usage, state, phys)

    def _nr_zero(self, reader: PageReader | None, vma: Vma, fields: dict[str, int]) -> int | None:
        # Only where there is room besides what smaps counts. Not anonymous memory alone maps the zero page:
        # UFFDIO_ZEROPAGE puts it into private mappings of memfds, DAX into holes of files.
        if vma.kind == "hugetlb" or vma.start >= LAST_ADDRESS or fields["Rss"] + fields["Swap"] >= vma.size:
            return 0
        if reader is None:
            return None
        if vma.kind not in ANON_KINDS and (nr_zero := self._nr_zero_found(reader, vma)) is not None:
            return nr_zero
        counts = PageCounts()
        for block in reader.blocks(vma):
            counts.add(block.kinds)
        if not reader.zero_known:
            self._notes.append(ZERO_UNKNOWN)
            return None
        return counts.nr_state("zero")

    def _nr_zero_found(self, reader: PageReader, vma: Vma) -> int | None:
        # One search that reads no entry, since there is hardly ever any. The reader is asked later whether it lives.
        try:
            ranges = reader.pagemap.scanner.ranges(vma.start, vma.end, PAGE_IS_PFNZERO)
            return sum(high - low for low, high in ranges) // self.page_size
        except NotSupported:
            return None

    def _first_page(self, reader: PageReader, vma: Vma) -> tuple[str | None, int | None]:
        block = reader.block_at(vma, vma.start)
        return self._place(block) if block else (STATE_OF_BYTE[reader.hole(vma)], None)

    # By pagemap

    def by_pagemap(self, vmas: Iterable[Vma]) -> list[VmaUsage]:
        """Return what the entries of pagemap add up to, with pauses; who shares the pages is told by kpagecount."""
        from mematlas.model.sharers import Sharers

        with (
            PageReader(self.process, self._pacer, cached=False) as reader,
            Sharers(self.process.procfs, self._notes) as sharers,
        ):
            result = [self._of_pages(reader, sharers, vma) for vma in vmas]
        note_unknown(reader, self._notes)
        return result

    def _of_pages(self, reader: PageReader, sharers: Sharers, vma: Vma) -> VmaUsage:
        counts = PageCounts()
        state, phys = None, None
        thp: int | None = 0
        by_node: Sizes = {}
        sharers.begin()
        for block in reader.blocks(vma):
            counts.add(block.kinds)
            if self._nodes:
                self._nodes.add(by_node, block)
            if self._first_pages and block.address == vma.start:
                state, phys = self._place(block)
            if vma.kind != "hugetlb":
                if nr_shared(block.kinds):
                    sharers.add(shared_frames(block))
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

    # By page tables

    def by_tables(self, vmas: Sequence[Vma], access: TableAccess) -> list[VmaUsage]:
        """Return what page tables and struct pages add up to.

        Raises:
            NotSupported: they cannot be read after all.
        """
        from mematlas.model.tablereader import TableReader

        if not vmas:
            return []
        with TableReader(self.process, access, vmas[0].start, vmas[-1].end) as reader:
            result = [self._of_tables(reader, vma) for vma in vmas]
            if self._nodes:
                result = [replace(item, nodes=self._nodes.of_vma(reader, item.vma)) for item in result]
        note_unknown(reader, self._notes)
        self.torn = bool(reader.torn)
        return result

    def _of_tables(self, reader: TableReader, vma: Vma) -> VmaUsage:
        sums = reader.count(vma)
        hole = STATE_OF_BYTE[reader.hole(vma)]
        state, phys = None, None
        if self._first_pages and (block := reader.block_at(vma, vma.start)):
            state, phys = self._place(block)
        usage = usage_of_tables(vma, sums, self.page_size, hole)
        return VmaUsage(vma, usage, state or hole, phys, sums.nr_accessed, sums.nr_dirty)

    def _in_file(self, reader: PageReader, vma: Vma) -> str:
        """Return what the file of shared memory tells of the first page, which has no entry here."""
        return STATE_OF_BYTE[reader.states(vma, vma.start, vma.start + self.page_size)[0]]

    def _place(self, block: Block) -> tuple[str, int | None]:
        """Return the state and the physical address of the first page of a block."""
        byte, entry = block.states[0], block.entries[0]
        pfn = entry & PM_PFRAME
        if byte & PRESENT and pfn == 0:
            self._notes.append(HIDDEN_FRAMES)
        return STATE_OF_BYTE[byte], pfn * self.page_size if byte & PRESENT and pfn else None


def note_cut(vmas: Iterable[Vma], notes: list[str]) -> None:
    """Say how many paths are not whole."""
    if nr_cut := sum(vma.path_cut for vma in vmas):
        whose = "the path of a VMA is" if nr_cut == 1 else f"the paths of {nr_cut:,} VMAs are"
        notes.append(f"{whose} too long to be kept whole: cut, as the dots at the end say")


def note_unknown(reader: PageReader | TableReader, notes: list[str]) -> None:
    """Say what a reader could not tell of the pages that it has read, and why."""
    if why := sorted(reader.backings.unknown):
        vmas = "a shared VMA" if len(why) == 1 else f"{len(why)} shared VMAs"
        notes.append(f"swap and untouched pages of {vmas} unknown: {why[0]}")
    notes.extend(sorted(reader.backings.uncertain))
    if not isinstance(reader, PageReader):
        notes.extend(reader.notes())
        return
    if not reader.zero_known:
        notes.append(ZERO_UNKNOWN)
    if reader.huge_counts.note:
        notes.append(reader.huge_counts.note)


def read_counters(process: ProcessDir, status: dict[str, str], nr_vmas: int) -> Counters:
    """Return what the kernel counts of a process as it goes, given the lines of its status."""
    ksm: int | None = None
    try:
        ksm = read_merging_pages(process) * process.procfs.page_size
    except (PermissionDenied, NotSupported):
        pass  # another user's, or a kernel that does not tell
    return Counters(
        nr_vmas=nr_vmas,
        size=status_bytes(status, "VmSize"),
        peak_size=status_bytes(status, "VmPeak"),
        peak_rss=status_bytes(status, "VmHWM"),
        locked=status_bytes(status, "VmLck"),
        pinned=status_bytes(status, "VmPin"),
        ksm=ksm,
    )

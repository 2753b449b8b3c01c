"""The page tables of one process, or of the kernel: walked, counted, compared with what the kernel says elsewhere.

This is the library behind ``mematlas tables``. Nothing is locked and nothing is written; see
`mematlas.model.pagetables.walk` for how a walk of tables that change meanwhile stays true.

>>> with Process(4211) as process, PageTables(process) as page_tables:   # doctest: +SKIP
...     page_tables.summary().counted.mapped
1090519040
"""

from __future__ import annotations

from itertools import count, islice

from mematlas.analysis.pagetables.audit import Covers, Finding, audit, join_neighbours
from mematlas.analysis.pagetables.compare import differing_pages, nr_hidden
from mematlas.analysis.pagetables.entries import EntryFilter, entry_runs, first_entries, list_entries
from mematlas.analysis.pagetables.leaves import used_entries
from mematlas.analysis.pagetables.regions import Region, kernel_regions, region_of, region_sizes, unmapped_ram
from mematlas.analysis.pagetables.results import (
    AuditResult,
    KernelMap,
    MappedRegion,
    MappedTables,
    Origin,
    RawTable,
    Stream,
    SummaryResult,
    TableTree,
    Verification,
    WalkedAddress,
    WalkedAddresses,
)
from mematlas.analysis.pagetables.summary import Summary, summarize
from mematlas.analysis.pagetables.tables import map_of, tree_of
from mematlas.arrays import Words, np
from mematlas.errors import BadInput, NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.memory.structpage import KernelFrames
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.pagetables.entries import TABLE
from mematlas.notes import Note
from mematlas.observe.pagetable_check import PageTableCheck
from mematlas.observe.pagetable_look import NR_SUM_TABLES, HeldTables, PageTableLook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from mematlas.analysis.pagetables.entries import EntryBatch, EntryRun
    from mematlas.model.address_space import AddressSpace
    from mematlas.model.pagetables.walk import Span, TableLevel
    from mematlas.observe.process import Process

NR_LIST_TABLES = 256
"""Tables of a part that is listed: the first line should come soon."""
NR_AUDIT_TABLES = 1 << 10
"""The same of a part that is audited: some columns are made of its entries."""
NR_REGION_TABLES = 1 << 14
"""The same where what each region maps is added up."""
DATA_KINDS = ("heap", "stack")
"""VMAs that should never be executable."""
NR_TRIES = 3
EVERY_ENTRY = EntryFilter()


class PageTables:
    """The page tables of one process, held open: they stay its own until this is closed.

    ``half`` is ``user`` or ``kernel``; with ``user_copy`` the top table is that which user space runs with, under
    page-table isolation. ``span``, the first address and the end, narrows the range. Every question returns a result
    with its ``reading``.

    Raises:
        PermissionDenied: a right is missing; ``needs`` names it.
        NotSupported: no reader works here, or there is no copy for user space.
    """

    def __init__(
        self,
        process: Process,
        reader: str = "auto",
        half: str = "user",
        user_copy: bool = False,
        span: tuple[int, int] | None = None,
    ) -> None:
        access = process.page_table_access(reader)
        self.process = process
        self.access = access
        self.memory = access.memory
        self.mode = access.mode
        self.half = half
        low, high = 0, self.mode.user_end
        if half == "kernel":
            low, high = self.mode.kernel_start, 1 << 64
        self.start, self.end = span or (low, high)
        if not low <= self.start < self.end <= high:
            raise BadInput(f"{self.start:#x}-{self.end:#x} is not in the {half} half, {low:#x}-{high:#x}")
        self.mm = self.memory.open_mm(process.pid, process.dir)
        pgd = self.memory.user_pgd(self.mm.pgd) if user_copy else self.mm.pgd
        if pgd is None:
            self.mm.close()
            raise NotSupported("a separate top table for user space", "page-table isolation (pti=on)")
        self.origin = Origin(reader=access.name, mode=self.mode, half=half, pgd=pgd, memory_end=self.memory.memory_end)
        is_whole = (self.start, self.end) == (low, high)
        self._held = HeldTables(
            process=process.dir,
            memory=self.memory,
            mm=self.mm,
            origin=self.origin,
            pgd=pgd,
            start=self.start,
            end=self.end,
            is_whole=is_whole,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process."""
        self.mm.close()

    def level_number(self, name: str) -> int:
        """Return the number of a level by its name; 0 is the top."""
        names = [level.name for level in self.mode.levels]
        if name not in names:
            raise BadInput(f"no level {name!r} here: {', '.join(names)}")
        return names.index(name)

    # Single addresses

    def walk(self, addresses: Iterable[int]) -> WalkedAddresses:
        """Return how addresses are translated, each beside what pagemap says of its page.

        >>> page_tables.walk([0x7F3C1A2B4010]).items[0].steps[-1].phys   # doctest: +SKIP
        4733476880
        """
        look = PageTableLook(self._held)
        space = self.process.address_space()
        items = tuple(self._walk(look, address, space) for address in addresses)
        return WalkedAddresses(items, look.finish())

    def _walk(self, look: PageTableLook, address: int, space: AddressSpace) -> WalkedAddress:
        """Walk an address; its entry is read again until pagemap agrees, or does not for good."""
        mode = self.mode
        if mode.user_end <= address < mode.kernel_start:
            raise BadInput(f"{address:#x} is not a valid address: it lies between the user and the kernel half")
        if address >= mode.user_end:
            region = region_of(self.regions(), address)
            return WalkedAddress(
                address=address, steps=look.steps(address), pagemap=None, reason=None, area=region or ""
            )
        area = space.name_at(address)
        for _ in range(NR_TRIES):
            steps = look.steps(address)
            try:
                word = look.pagemap(address, 1)
            except (PermissionDenied, NotSupported) as error:
                look.notes.add(Note("pagemap-not-beside", f"cannot show pagemap next to it: {error}"))
                return WalkedAddress(address=address, steps=steps, pagemap=None, reason=None, area=area)
            differing = differing_pages(mode, look.one_page(address, steps), word)
            if not differing:
                reason = "hidden" if nr_hidden(word) else ""
                return WalkedAddress(address=address, steps=steps, pagemap=int(word[0]), reason=reason, area=area)
        return WalkedAddress(address=address, steps=steps, pagemap=int(word[0]), reason=differing[0].reason, area=area)

    # Entry by entry

    def entries(self, wanted: EntryFilter = EVERY_ENTRY, limit: int | None = None) -> Stream[EntryBatch]:
        """Return the entries that are asked for, made while they are read; a table stands before what it points at."""
        look = PageTableLook(self._held)
        entries = list_entries(look.parts(NR_LIST_TABLES), wanted)
        if limit is not None:
            entries = first_entries(entries, limit)
        return Stream(self.origin, entries, look.finish)

    def runs(self, wanted: EntryFilter = EVERY_ENTRY, limit: int | None = None) -> Stream[EntryRun]:
        """Return runs of like entries, made while they are read."""
        look = PageTableLook(self._held)
        entries = list_entries(look.parts(NR_LIST_TABLES), wanted)
        runs = entry_runs(self.mode, entries)
        return Stream(self.origin, islice(runs, limit), look.finish)

    def raw(self, level: int, number: int | None = None, address: int | None = None) -> Stream[RawTable]:
        """Return the tables of a level: all, the one with this number, or the one that translates an address."""
        look = PageTableLook(self._held)
        return Stream(self.origin, self._raw(look, level, number, address), look.finish)

    def _raw(self, look: PageTableLook, level: int, number: int | None, address: int | None) -> Iterator[RawTable]:
        if number is not None:
            address = self._address_of_table(look, level, number)
        if address is not None:
            table = look.walk(address, address + 1, level + 1).levels[level]
            if not len(table):
                raise BadInput(f"no table of level {self.mode.levels[level].name} translates {address:#x}")
            yield raw_table(table, 0, number)
        elif level < len(self.mode.levels) - 1:
            table = look.walk(self.start, self.end, level + 1).levels[level]
            yield from (raw_table(table, row, row) for row in range(len(table)))
        else:
            numbers = count()
            for part in look.parts(NR_LIST_TABLES):
                table = part.levels[level]
                yield from (raw_table(table, row, next(numbers)) for row in range(len(table)))

    def _address_of_table(self, look: PageTableLook, level: int, number: int) -> int:
        """Return an address that the table of this number is asked for, by the entries that point at the tables."""
        addresses: Words = np.array([self.start], np.uint64)
        if level:
            above = look.walk(self.start, self.end, level)
            _, _, addresses, codes = used_entries(above, level - 1)
            addresses = np.maximum(addresses[codes == TABLE], np.uint64(self.start))
        if number >= len(addresses):
            name = self.mode.levels[level].name
            nr_tables = len(addresses)
            noun = "table" if nr_tables == 1 else "tables"
            raise BadInput(f"level {name} has {nr_tables} {noun}, numbered from 0; an address begins with 0x")
        return int(addresses[number])

    # All of them

    def summary(self) -> SummaryResult:
        """Return how many tables and leaves there are, and what they cost; of the kernel half, its regions as well."""
        look = PageTableLook(self._held)
        kernel = self._kernel_map(look) if self.half == "kernel" else None
        counted = summarize(look.parts(NR_SUM_TABLES))
        return SummaryResult(counted=counted, reserve=self._reserve(counted), kernel=kernel, reading=look.finish())

    def _reserve(self, counted: Summary) -> int | None:
        """Return what VmPTE, which leaves out the top table, has beyond the tables in use; None where not known."""
        if self.half == "kernel":
            return None
        reported = status_bytes(read_status(self.process.dir), "VmPTE")
        in_use = sum(level.size for level in counted.levels[1:])
        return None if reported is None else max(reported - in_use, 0)

    def tree(self) -> TableTree:
        """Return every table, each with what is below it."""
        look = PageTableLook(self._held)
        return TableTree(tree_of(look.parts(NR_SUM_TABLES)), look.finish())

    def table_map(self, most: int | None = None) -> MappedTables:
        """Return every table with the same sums, as columns: no more than some ``most`` of the last level."""
        look = PageTableLook(self._held)
        return MappedTables(map_of(look.parts(NR_SUM_TABLES), most), look.finish())

    def audit(self, both: bool = False) -> AuditResult:
        """Return what is dangerous, or maps the same memory with different rights; with ``both``, in both halves."""
        look = PageTableLook(self._held)
        space = self.process.address_space()
        regions = self.regions() if both or self.half == "kernel" else []
        data_areas: list[Span] = []
        if self.half == "user":
            data_areas = [(vma.start, vma.end - 1) for vma in space.vmas if vma.kind in DATA_KINDS]
        findings = self._audit(look, None, data_areas)
        if both:
            findings += self._audit(look, (self.mode.kernel_start, 1 << 64), [])
        named = []
        for finding in join_neighbours(findings):
            area = space.name_at(finding.start) or region_of(regions, finding.start)
            named.append(replace(finding, area=area or ""))
        return AuditResult(named, ("user", "kernel") if both else (self.half,), look.finish())

    def _audit(self, look: PageTableLook, span: Span | None, areas: list[Span]) -> list[Finding]:
        findings: list[Finding] = []
        covers = Covers()
        for part in look.parts(NR_AUDIT_TABLES, span):
            findings += audit(part, areas)
            covers.add(part)
        return sorted(findings + covers.aliases(), key=lambda finding: finding.start)

    def verify(self) -> Verification:
        """Return what pagemap, status and smaps say otherwise than the tables. Of a part, only pages are compared.

        What differs is read again, in both: what agrees then, or has changed in either, was changed meanwhile.

        Raises:
            ProcessGone: the process ended, or started another program, meanwhile.
        """
        return PageTableCheck(self.process, self._held).verify()

    # The kernel half

    def regions(self) -> list[Region]:
        """Return the named regions of the kernel half."""
        known = self.memory.vmcoreinfo
        vmemmap = known.get("SYMBOL(vmemmap)")
        if not isinstance(vmemmap, int):
            vmemmap = self._vmemmap()
        image = known.get("NUMBER(KERNEL_IMAGE_SIZE)")
        return kernel_regions(
            self.memory.levels,
            self.memory.base,
            self.memory.memory_end,
            vmemmap,
            self.memory.layout["page"],
            image if isinstance(image, int) else 1 << 30,
        )

    def _vmemmap(self) -> int | None:
        try:
            frames = self.access.frames
        except (PermissionDenied, NotSupported):
            return None
        return None if isinstance(frames, KernelFrames) else frames.base

    def _kernel_map(self, look: PageTableLook) -> KernelMap:
        """Return the regions of the kernel half, with what is mapped in them."""
        regions = self.regions()
        sizes: dict[str | None, int] = {}
        left: int | None = None
        for part in look.parts(NR_REGION_TABLES):
            for name, size in region_sizes(part, regions).items():
                sizes[name] = sizes.get(name, 0) + size
            left = unmapped_ram(part, self.memory.base, self.memory.ram.ranges, left)
        # A name may stand for several, with the sum of all.
        first = {region.name: region for region in reversed(regions)}
        named = [region for region in regions if first[region.name] is region]
        return KernelMap(
            regions=tuple(MappedRegion(region, sizes.get(region.name, 0)) for region in named),
            others=sizes.get(None, 0),
            direct_map=sizes.get("direct map", 0),
            ram=self.memory.ram.size,
            unmapped_ram=left or 0,
        )


def raw_table(table: TableLevel, row: int, number: int | None) -> RawTable:
    """Return one of the tables of a level."""
    address, phys = int(table.addresses[row]), int(table.tables[row])
    return RawTable(level=table.level, number=number, address=address, table=phys, entries=table.entries[row])

"""The page tables of one process, or of the kernel: walked, counted, compared with what the kernel says elsewhere.

This is the library behind ``mematlas tables``. Nothing is locked and nothing is written; see
`mematlas.model.pagetables.walk` for how a walk of tables that change meanwhile stays true.

>>> with Process(4211) as process, PageTables(process) as page_tables:   # doctest: +SKIP
...     page_tables.summary().mapped
1090519040
"""

from __future__ import annotations

import time
from itertools import count

import numpy as np

from mematlas.analysis.pagetables.audit import Covers, Finding, audit, join_neighbours
from mematlas.analysis.pagetables.compare import (
    EXPLAINED,
    MARKERS,
    MAY_DIFFER,
    SUMS,
    Check,
    Disagreement,
    Verification,
    agree,
    check_of,
    differing_pages,
    nr_hidden,
)
from mematlas.analysis.pagetables.entries import TreeNode, tree_of
from mematlas.analysis.pagetables.leaves import used_entries
from mematlas.analysis.pagetables.regions import Region, kernel_regions, region_of, region_sizes, unmapped_ram
from mematlas.analysis.pagetables.summary import Summary, summarize
from mematlas.arrays import Words
from mematlas.errors import BadInput, NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import record, replace
from mematlas.kernel.kpage import KPF_ANON, KPF_HUGE, KPF_ZERO_PAGE, read_frame_words
from mematlas.kernel.memory.structpage import StructPages
from mematlas.kernel.pagemap import ENTRY_SIZE, LAST_ADDRESS, PACED_BLOCK_SIZE, Pacer
from mematlas.kernel.smaps import leaves_out_huge_pages, read_smaps
from mematlas.kernel.status import read_status, status_bytes
from mematlas.model.pagetables.entries import EMPTY, PROT_NONE, STATE_NAMES, TABLE, leaf_address, maps_memory, state_of
from mematlas.model.pagetables.walk import PageBlock, page_blocks, upper_entries, walk, walk_address, walk_parts
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from mematlas.model.address_space import AddressSpace
    from mematlas.model.pagetables.walk import Span, TableLevel, Walk, WalkStep
    from mematlas.observe.process import Process

NR_LIST_TABLES = 256
"""Tables of a part that is listed: the first line should come soon."""
NR_AUDIT_TABLES = 1 << 10
"""The same of a part that is audited: some columns are made of its entries."""
NR_TRIES = 3
PAUSES = (0, 0.001, 0.004, 0.016, 0.064, 0.256)
"""Seconds before what differs is read again. What is being unmapped is still in the tables and no longer in pagemap, as
long as the target, which does it, has to wait for a processor."""


@record
class Walked:
    """How one address is translated, beside what pagemap says of its page."""

    address: int
    steps: tuple[WalkStep, ...]
    pagemap: int | None
    """The page's entry there; None where pagemap may not be read, and in the kernel half."""
    reason: str | None
    """What differs; empty when nothing does, None when nothing was compared. `hidden`: pagemap shows us no frame."""
    area: str
    """The VMA's path, or the region of the kernel half."""


@record
class RawTable:
    """One table as it stands in memory."""

    level: int
    number: int | None
    """Which of its level it is, in the order of addresses; None where it was found by an address."""
    address: int
    """The first that it translates."""
    table: int
    """Its physical address."""
    entries: Words


@record
class KernelMap:
    """The kernel half: its regions, and whether the direct map maps all RAM."""

    regions: tuple[tuple[Region, int], ...]
    """Each with the bytes mapped in it."""
    others: int
    """Bytes mapped outside of all regions."""
    direct_map: int
    """Bytes mapped there."""
    ram: int
    unmapped_ram: int
    """Bytes of RAM that it leaves out."""


class PageTables:
    """The page tables of one process, held open: they stay its own until this is closed.

    ``half`` is ``user`` or ``kernel``; with ``user_copy`` the top table is that which user space runs with, under
    page-table isolation. ``start`` and ``end`` narrow the range.

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
        access = process.tables_access(reader)
        self.process = process
        self.access = access
        self.memory = access.memory
        self.mode = access.mode
        self.kernel_half = half == "kernel"
        low, high = (self.mode.kernel_start, 1 << 64) if self.kernel_half else (0, self.mode.user_end)
        self.start, self.end = span or (low, high)
        self.is_whole = (self.start, self.end) == (low, high)
        """Whether this is all of the half."""
        if not low <= self.start < self.end <= high:
            raise BadInput(f"{self.start:#x}-{self.end:#x} is not in the {half} half, {low:#x}-{high:#x}")
        self.mm = self.memory.open_mm(process.pid, process.dir)
        self.pgd = self.mm.pgd
        if user_copy:
            copy = self.memory.user_pgd(self.mm.pgd)
            if copy is None:
                self.mm.close()
                raise NotSupported("a top table of user space's own", "page-table isolation (pti=on)")
            self.pgd = copy
        self.torn: list[Span] = []
        self.audited = ""
        """Which halves the last audit looked at."""
        self._begun = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.mm.close()

    def begin(self) -> None:
        """Start the clock of a reading."""
        self.torn = []
        self._begun = time.perf_counter()

    def finish(self) -> dict[str, Any]:
        """Return how the reading came about, for the ``target`` of a result.

        Raises:
            ProcessGone: the process ended, or started another program, so that its tables were emptied meanwhile.
        """
        duration = time.perf_counter() - self._begun
        self._check_current()
        return {
            "reader": self.access.name,
            "paging": self.mode.name,
            "pgd": f"{self.pgd:#x}",
            "duration_s": round(duration, 6),
            "torn": bool(self.torn),
        }

    def _check_current(self) -> None:
        if not self.kernel_half and not self.memory.is_current(self.mm):
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")

    def parts(self, nr_tables: int = NR_LIST_TABLES, span: tuple[int, int] | None = None) -> Iterator[Walk]:
        """Yield the walk, in parts; of another range with ``span``."""
        start, end = span or (self.start, self.end)
        for part in walk_parts(self.memory, self.mode, self.pgd, start, end, nr_tables):
            self.torn += part.torn
            yield part

    def _walk(self, start: int, end: int, nr_levels: int) -> Walk:
        found = walk(self.memory, self.mode, self.pgd, start, end, nr_levels)
        self.torn += found.torn
        return found

    def level_number(self, name: str) -> int:
        """Return the number of a level by its name; 0 is the top."""
        names = [level.name for level in self.mode.levels]
        if name not in names:
            raise BadInput(f"no level {name!r} here: {', '.join(names)}")
        return names.index(name)

    # One address

    def walked(self, address: int, space: AddressSpace, notes: Notes) -> Walked:
        """Return how an address is translated. The entry is read again until pagemap agrees, or does not for good."""
        mode = self.mode
        if mode.user_end <= address < mode.kernel_start:
            raise BadInput(f"{address:#x} is no address: it lies between the halves")
        if address >= mode.user_end:
            steps = walk_address(self.memory, mode, self.pgd, address)
            return Walked(address, steps, None, None, region_of(self.regions(), address) or "")
        vma = space.find(address)
        area = "" if vma is None else vma.path or vma.kind
        for _ in range(NR_TRIES):
            steps = walk_address(self.memory, mode, self.pgd, address)
            try:
                word = self._words(address, 1)
            except (PermissionDenied, NotSupported) as error:
                notes.add(Note("pagemap-not-beside", f"pagemap is not beside it: {error}"))
                return Walked(address, steps, None, None, area)
            differing = differing_pages(mode, self._one_page(address, steps), word)
            if not differing:
                return Walked(address, steps, int(word[0]), "hidden" if nr_hidden(word) else "", area)
        return Walked(address, steps, int(word[0]), differing[0].reason, area)

    def _one_page(self, address: int, steps: tuple[WalkStep, ...]) -> PageBlock:
        depth = len(steps) - 1
        entry = steps[-1].entry if steps else 0
        code = state_of(self.mode, depth, entry) if steps else EMPTY
        phys = steps[-1].phys if steps else None
        shift = self.mode.page_shift
        pfn = 0 if phys is None else phys >> shift
        start = address >> shift << shift
        column = np.array([entry], np.uint64)
        return PageBlock(start, np.array([code], np.uint8), np.array([pfn], np.uint64), column)

    # All of them

    def summary(self) -> Summary:
        """Return how many tables and leaves there are, and what they cost."""
        return summarize(self.parts(1 << 12))

    def reserve(self, summary: Summary) -> int | None:
        """Return the bytes of tables that hold nothing yet: kept aside, one for each huge page, to split it with.

        It is what VmPTE, which leaves out the top table, has beyond those in use; None where that is not told.
        """
        told = None if self.kernel_half else status_bytes(read_status(self.process.dir), "VmPTE")
        return None if told is None else max(told - sum(level.size for level in summary.levels[1:]), 0)

    def tree(self) -> list[TreeNode]:
        """Return every table, each with what is below it."""
        return tree_of(self.parts(1 << 12))

    def raw(self, level: int, number: int | None, address: int | None) -> Iterator[RawTable]:
        """Yield the tables of a level: all, the one with this number, or the one that translates an address."""
        if number is not None:
            address = self._address_of_table(level, number)
        if address is not None:
            table = self._walk(address, address + 1, level + 1).levels[level]
            if not len(table):
                raise BadInput(f"no table of level {self.mode.levels[level].name} translates {address:#x}")
            yield _raw_table(table, 0, number)
        elif level < len(self.mode.levels) - 1:
            table = self._walk(self.start, self.end, level + 1).levels[level]
            yield from (_raw_table(table, row, row) for row in range(len(table)))
        else:
            numbers = count()
            for part in self.parts():
                table = part.levels[level]
                yield from (_raw_table(table, row, next(numbers)) for row in range(len(table)))

    def _address_of_table(self, level: int, number: int) -> int:
        """Return an address that the table of this number is asked for, by the entries that point at the tables."""
        addresses: Words = np.array([self.start], np.uint64)
        if level:
            above = self._walk(self.start, self.end, level)
            _, _, addresses, codes = used_entries(above, level - 1)
            addresses = np.maximum(addresses[codes == TABLE], np.uint64(self.start))
        if number >= len(addresses):
            name = self.mode.levels[level].name
            raise BadInput(f"there are {len(addresses)} tables of level {name}, from 0 (an address begins with 0x)")
        return int(addresses[number])

    def audit(self, both: bool = False) -> list[Finding]:
        """Return what is dangerous, or maps the same memory with different rights; with ``both``, in both halves."""
        self.audited = "user and kernel" if both else "kernel" if self.kernel_half else "user"
        areas = []
        if not self.kernel_half:
            vmas = self.process.address_space().vmas
            areas = [(vma.start, vma.end - 1) for vma in vmas if vma.kind in ("heap", "stack")]
        findings = self._audit(None, areas)
        if both:
            findings += self._audit((self.mode.kernel_start, 1 << 64), [])
        return join_neighbours(findings)

    def _audit(self, span: tuple[int, int] | None, areas: list[Span]) -> list[Finding]:
        findings: list[Finding] = []
        covers = Covers()
        for part in self.parts(NR_AUDIT_TABLES, span):
            findings += audit(part, areas)
            covers.add(part)
        return sorted(findings + covers.aliases(), key=lambda finding: finding.start)

    def place_names(self) -> Callable[[int], str]:
        """Return a function that names the VMA, or the region of the kernel half, that an address lies in."""
        space, regions = self.process.address_space(), self.regions()

        def name_of(address: int) -> str:
            vma = space.find(address)
            return (vma.path or vma.kind) if vma else region_of(regions, address) or ""

        return name_of

    # The kernel half

    def regions(self) -> list[Region]:
        """Return the named regions of the kernel half."""
        told = self.memory.vmcoreinfo
        vmemmap = told.get("SYMBOL(vmemmap)")
        if not isinstance(vmemmap, int):
            vmemmap = self._vmemmap()
        image = told.get("NUMBER(KERNEL_IMAGE_SIZE)")
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
        return frames.base if isinstance(frames, StructPages) else None

    def kernel_map(self) -> KernelMap:
        """Return the regions of the kernel half, with what is mapped in them."""
        regions = self.regions()
        sizes: dict[str | None, int] = {}
        left: int | None = None
        for part in self.parts(1 << 14):
            for name, size in region_sizes(part, regions).items():
                sizes[name] = sizes.get(name, 0) + size
            left = unmapped_ram(part, self.memory.base, self.memory.ram.ranges, left)
        mapped = {region.name: region for region in reversed(regions)}
        return KernelMap(
            regions=tuple((region, sizes.get(region.name, 0)) for region in regions if mapped[region.name] is region),
            others=sizes.get(None, 0),
            direct_map=sizes.get("direct map", 0),
            ram=self.memory.ram.size,
            unmapped_ram=left or 0,
        )

    # Whether it is true

    def verify(self) -> Verification:
        """Return what pagemap, status and smaps say otherwise than the tables. Of a part, only pages are compared.

        What differs is read again, in both: what agrees then, or has changed in either, was changed meanwhile.

        Raises:
            ProcessGone: the process ended, or started another program, meanwhile.
        """
        space = self.process.address_space()
        pages, check = self._compare_pages()
        checks = [check]
        if self.is_whole:
            checks += self._compare_sums()
        self._check_current()
        named = []
        for each in pages:
            vma = space.find(each.address)
            named.append((each, "" if vma is None else vma.path or vma.kind))
        return Verification(tuple(checks), tuple(named))

    def _compare_pages(self) -> tuple[list[Disagreement], Check]:
        nr_pages, nr_unseen = 0, 0
        differing: list[Disagreement] = []
        for part in self.parts(1 << 12):
            for block in page_blocks(part, self.start, min(self.end, LAST_ADDRESS)):
                words = self._words(block.start, len(block))
                nr_pages += len(block)
                nr_unseen += nr_hidden(words)
                differing += differing_pages(self.mode, block, words)
        differing = self._with_reasons(differing)
        reasons = ["those that differ are listed"] if differing else []
        if nr_unseen:
            reasons.append(f"{nr_unseen:,} frames and swap slots are hidden, so not compared: needs CAP_SYS_ADMIN")
        known = all(each.reason in EXPLAINED for each in differing)
        return differing, Check("pages", nr_pages, nr_pages - len(differing), known, "; ".join(reasons))

    def _compare_sums(self) -> list[Check]:
        """Compare table bytes and huge pages. They are of no one moment, so what differs is added up again."""
        told = self._sums_told()
        ours, changed = self._sums(), False
        for pause in PAUSES:
            earlier, told = told, self._sums_told()
            changed = changed or earlier != told
            if changed or all(agree(name, ours, told) for name in SUMS):
                break
            time.sleep(pause)
            before, ours = ours, self._sums()
            changed = before != ours
        return [check_of(name, ours, told, changed, self.process.page_size) for name in SUMS]

    def _sums(self) -> dict[str, int]:
        sums = dict.fromkeys((*SUMS, *MAY_DIFFER.values()), 0)
        tables: set[int] = set()
        for part in self.parts(1 << 12):
            # The kernel counts the tables of the last three levels (mm_inc_nr_ptes and its like), neither the top one
            # nor, of five levels, the one below it.
            tables.update(*(level.tables.tolist() for level in part.levels[max(1, len(part.levels) - 3) :]))
            self._add_huge(part, sums)
        if sums["left out"] and not leaves_out_huge_pages():
            sums["left out"] = 0
        return sums | {"table bytes": len(tables) * self.process.page_size}

    def _add_huge(self, part: Walk, sums: dict[str, int]) -> None:
        for level in range(len(part.levels) - 1):
            places, entries, codes = upper_entries(part, level)
            addresses = part.entry_addresses(level, places)
            inside = maps_memory(codes) & (addresses >= part.first) & (addresses <= part.last)
            entries, codes = entries[inside], codes[inside]
            heads = leaf_address(self.mode, level, entries) >> np.uint64(self.mode.page_shift)
            flags, _ = read_frame_words(self.process.procfs, "kpageflags", heads)
            size = self.mode.levels[level].size
            hugetlb = flags & np.uint64(KPF_HUGE) != 0
            zero = flags & np.uint64(KPF_ZERO_PAGE) != 0
            anon = flags & np.uint64(KPF_ANON) != 0
            sums["hugetlb"] += size * int(np.count_nonzero(hugetlb))
            sums["thp"] += size * int(np.count_nonzero(~hugetlb & ~zero))
            sums["left out"] -= size * int(np.count_nonzero(~hugetlb & ~zero & (codes == PROT_NONE)))
            # Each huge page of anonymous memory has a table in reserve (pgtable_trans_huge_deposit).
            sums["kept aside"] += self.process.page_size * int(np.count_nonzero(~hugetlb & (zero | anon)))

    def _sums_told(self) -> dict[str, int | None]:
        """Return the sums that the kernel tells, of status and smaps."""
        sums = dict.fromkeys(SUMS[1:], 0)
        for _, fields in read_smaps(self.process.dir, self.process.files):
            sums["thp"] += sum(fields.get(name, 0) for name in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"))
            sums["hugetlb"] += sum(fields.get(name, 0) for name in ("Private_Hugetlb", "Shared_Hugetlb"))
        return {"table bytes": status_bytes(read_status(self.process.dir), "VmPTE"), **sums}

    def _with_reasons(self, differing: list[Disagreement]) -> list[Disagreement]:
        """Return disagreements with the reason for each, as exact as can be told."""
        reasons = {each.address: each.reason for each in differing}
        left = [each for each in differing if each.reason != "special"]
        for pause in PAUSES:
            if not left:
                break
            time.sleep(pause)
            again = {each.address: self._differs_still(each) for each in left}
            reasons |= {address: reason or "race" for address, reason in again.items()}
            left = [each for each in left if again[each.address]]
        return [replace(each, reason=reasons[each.address]) for each in differing]

    def _differs_still(self, each: Disagreement) -> str | None:
        """Read a page again; return the reason why it differs as it did, None when it does no more."""
        steps = walk_address(self.memory, self.mode, self.pgd, each.address)
        again = differing_pages(self.mode, self._one_page(each.address, steps), self._words(each.address, 1))
        if not again or (again[0].entry, again[0].pagemap) != (each.entry, each.pagemap):
            return None
        name = STATE_NAMES[state_of(self.mode, len(steps) - 1, each.entry)]
        return name if name in EXPLAINED and (name not in MARKERS or each.reason == "swap") else each.reason

    def _words(self, start: int, nr_pages: int) -> Words:
        """Return the entries of pagemap for consecutive pages, read with pauses."""
        words = np.zeros(nr_pages, np.uint64)
        buffer = words.data.cast("B")
        pacer = Pacer()
        file = self.process.dir.open("pagemap")
        try:
            for at in range(0, len(buffer), PACED_BLOCK_SIZE):
                before = time.perf_counter()
                place = start // self.process.page_size * ENTRY_SIZE + at
                file.read_into(buffer[at : at + PACED_BLOCK_SIZE], place)
                if nr_pages > 1:
                    pacer.spend(time.perf_counter() - before)
        finally:
            file.close()
        return words


def _raw_table(table: TableLevel, row: int, number: int | None) -> RawTable:
    return RawTable(table.level, number, int(table.addresses[row]), int(table.tables[row]), table.entries[row])

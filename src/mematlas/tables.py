"""The page tables of one process, or of the kernel: walked, counted, compared with what the kernel says elsewhere.

This is the library behind ``mematlas tables``. Nothing is locked and nothing is written; see
`mematlas.model.pagetable` for how a walk of tables that change meanwhile stays true.

>>> with Process(4211) as process, Tables(process) as tables:   # doctest: +SKIP
...     tables.summary().mapped
1090519040
"""

from __future__ import annotations

import time

import numpy as np

from mematlas.analysis.findings import join_neighbours
from mematlas.analysis.pagetable import (
    Disagreement,
    Finding,
    Region,
    Summary,
    aliases,
    audit,
    kernel_regions,
    region_of,
    region_sizes,
    summarize,
    unmapped_ram,
    verify,
)
from mematlas.analysis.tablelist import TreeNode, tree_of
from mematlas.arrays import Words
from mematlas.errors import BadInput, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.kpage import KPF_HUGE, KPF_ZERO_PAGE
from mematlas.kernel.pagemap import ENTRY_SIZE, LAST_ADDRESS, PACED_BLOCK_SIZE, Pacer
from mematlas.kernel.smaps import read_smaps
from mematlas.kernel.status import read_status, status_bytes
from mematlas.kernel.structpage import KPF_ANON, StructPages
from mematlas.model.pagetable import PageBlock, huge_leaves, page_blocks, walk, walk_address, walk_parts
from mematlas.model.paging import EMPTY, GUARD, MIGRATION, STATE_NAMES, leaf_address, state_of
from mematlas.model.tableaccess import frame_flags
from mematlas.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from mematlas.model.address_space import AddressSpace
    from mematlas.model.pagetable import Span, Step, Walk
    from mematlas.process import Process

NR_LIST_TABLES = 256
"""Tables of a part that is listed: the first line should come soon."""
NR_TRIES = 3


@record
class Walked:
    """How one address is translated, beside what pagemap says of its page."""

    address: int
    steps: tuple[Step, ...]
    pagemap: int | None
    """The page's entry there; None where pagemap may not be read, and in the kernel half."""
    reason: str | None
    """What differs; empty when nothing does, None when nothing was compared."""
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


@record
class Check:
    """One thing that the tables and another source of the kernel both tell."""

    what: str
    tables: int
    kernel: int
    explained: bool
    reason: str


@record
class Verification:
    """What a comparison with the kernel's own numbers has found."""

    checks: tuple[Check, ...]
    pages: tuple[tuple[Disagreement, str], ...]
    """Pages of which pagemap says something else, each with the path of its VMA."""

    @property
    def unexplained(self) -> list[str]:
        """What differs without a reason that is no error."""
        return [check.what for check in self.checks if not check.explained]


class Tables:
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
        if not self.kernel_half and not self.memory.is_current(self.mm):
            raise ProcessGone(self.process.pid, "ended, or started another program, during the reading")
        return {
            "reader": self.access.name,
            "paging": self.mode.name,
            "pgd": f"{self.pgd:#x}",
            "duration_s": round(duration, 6),
            "torn": bool(self.torn),
        }

    def parts(self, nr_tables: int = NR_LIST_TABLES) -> Iterator[Walk]:
        """Yield the walk, in parts."""
        for part in walk_parts(self.memory, self.mode, self.pgd, self.start, self.end, nr_tables):
            self.torn += part.torn
            yield part

    def level_number(self, name: str) -> int:
        """Return the number of a level by its name; 0 is the top."""
        names = [level.name for level in self.mode.levels]
        if name not in names:
            raise BadInput(f"no level {name!r} here: {', '.join(names)}")
        return names.index(name)

    # One address

    def walked(self, address: int, space: AddressSpace, notes: list[str]) -> Walked:
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
                notes.append(f"pagemap is not beside it: {error}")
                return Walked(address, steps, None, None, area)
            differing = verify(mode, self._one_page(address, steps), word)
            if not differing:
                return Walked(address, steps, int(word[0]), "", area)
        return Walked(address, steps, int(word[0]), differing[0].reason, area)

    def _one_page(self, address: int, steps: tuple[Step, ...]) -> PageBlock:
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

    def tree(self) -> list[TreeNode]:
        """Return every table, each with what is below it."""
        return tree_of(self.parts(1 << 12))

    def raw(self, level: int, number: int | None, address: int | None) -> Iterator[RawTable]:
        """Yield the tables of a level: all, the one with this number, or the one that translates an address."""
        start, end = (self.start, self.end) if address is None else (address, address + 1)
        found = walk(self.memory, self.mode, self.pgd, start, end, level + 1)
        self.torn += found.torn
        table = found.levels[level]
        if number is not None and number >= len(table):
            name = self.mode.levels[level].name
            raise BadInput(f"there are {len(table)} tables of level {name}, from 0 (an address begins with 0x)")
        if address is not None and not len(table):
            raise BadInput(f"no table of level {self.mode.levels[level].name} translates {address:#x}")
        for row in range(len(table)) if number is None else [number]:
            shown = row if address is None else None
            yield RawTable(level, shown, int(table.addresses[row]), int(table.tables[row]), table.entries[row])

    def audit(self, both: bool = False) -> list[Finding]:
        """Return what is dangerous, or maps the same memory with different rights; with ``both``, in both halves."""
        self.audited = "user and kernel" if both else "kernel" if self.kernel_half else "user"
        areas = []
        if not self.kernel_half:
            vmas = self.process.address_space().vmas
            areas = [(vma.start, vma.end - 1) for vma in vmas if vma.kind in ("heap", "stack")]
        findings = self._audit(self.parts(1 << 12), areas)
        if both:
            kernel = walk_parts(self.memory, self.mode, self.pgd, self.mode.kernel_start, 1 << 64)
            findings += self._audit(kernel, [])
        return join_neighbours(findings)

    def _audit(self, walked: Iterable[Walk], areas: list[Span]) -> list[Finding]:
        findings: list[Finding] = []
        parts = list(walked)
        for part in parts:
            findings += audit(part, areas)
        return sorted(findings + aliases(*parts), key=lambda finding: finding.start)

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
        """Return what pagemap, status and smaps say otherwise than the tables.

        A page that differs is read again, in both: what agrees then was changed meanwhile.
        """
        process = self.process
        space = process.address_space()
        before = status_bytes(read_status(process.dir), "VmPTE") or 0
        fields_before = self._huge_of_smaps()
        nr_pages, differing = 0, []
        sizes = {"thp": 0, "hugetlb": 0, "kept aside": 0}
        tables: set[int] = set()
        for part in self.parts(1 << 12):
            tables.update(*(level.tables.tolist() for level in part.levels[1:]))
            self._add_huge(part, sizes)
            for block in page_blocks(part, self.start, min(self.end, LAST_ADDRESS)):
                nr_pages += len(block)
                differing += verify(self.mode, block, self._words(block.start, len(block)))
        pages = []
        for each in differing:
            vma = space.find(each.address)
            pages.append((self._looked_at_again(each), "" if vma is None else vma.path or vma.kind))
        after = status_bytes(read_status(process.dir), "VmPTE") or 0
        nr_wrong = len(pages)
        known = all(each.reason in EXPLAINED for each, _ in pages)
        reason = "those that differ are listed" if nr_wrong else ""
        checks = [Check("pages", nr_pages, nr_pages - nr_wrong, known, reason)]
        checks.append(self._check_tables(len(tables), sizes["kept aside"], before, after))
        told = self._huge_of_smaps()
        for name in ("thp", "hugetlb"):
            ran = told[name] != fields_before[name]
            same = sizes[name] == told[name]
            reason = "" if same else "the process ran meanwhile" if ran else UNEXPLAINED
            checks.append(Check(name, sizes[name], told[name], same or ran, reason))
        return Verification(tuple(checks), tuple(pages))

    def _check_tables(self, nr_tables: int, kept: int, before: int, after: int) -> Check:
        # The kernel counts no top table (mm_inc_nr_ptes and its like), but those that it keeps to split huge pages.
        size = nr_tables * self.process.page_size
        if size == after:
            return Check("table bytes", size, after, True, "")
        if size + kept == after:
            nr = kept // self.process.page_size
            return Check("table bytes", size, after, True, f"{nr} tables are kept aside, to split huge pages with")
        ran = before != after
        return Check("table bytes", size, after, ran, "the process ran meanwhile" if ran else UNEXPLAINED)

    def _huge_of_smaps(self) -> dict[str, int]:
        names = {
            "thp": ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"),
            "hugetlb": ("Private_Hugetlb", "Shared_Hugetlb"),
        }
        every = [fields for _, fields in read_smaps(self.process.dir, self.process.devices)]
        return {key: sum(fields.get(name, 0) for fields in every for name in names[key]) for key in names}

    def _add_huge(self, part: Walk, sizes: dict[str, int]) -> None:
        for level in range(len(part.levels) - 1):
            if not self.mode.levels[level].can_map:
                continue
            places, entries = huge_leaves(part, level)
            addresses = part.entry_addresses(level, places)
            entries = entries[(addresses >= part.first) & (addresses <= part.last)]
            heads = leaf_address(self.mode, level, entries) >> np.uint64(self.mode.page_shift)
            flags = frame_flags(self.process.procfs, heads)
            size = self.mode.levels[level].size
            hugetlb = flags & np.uint64(KPF_HUGE) != 0
            zero = flags & np.uint64(KPF_ZERO_PAGE) != 0
            anon = flags & np.uint64(KPF_ANON) != 0
            sizes["hugetlb"] += size * int(np.count_nonzero(hugetlb))
            sizes["thp"] += size * int(np.count_nonzero(~hugetlb & ~zero))
            # Each huge page of anonymous memory has a table in reserve (pgtable_trans_huge_deposit).
            sizes["kept aside"] += self.process.page_size * int(np.count_nonzero(~hugetlb & (zero | anon)))

    def _looked_at_again(self, each: Disagreement) -> Disagreement:
        """Return a disagreement with the reason for it, as exact as can be told."""
        if each.reason == "special":
            return each
        for _ in range(NR_TRIES):
            steps = walk_address(self.memory, self.mode, self.pgd, each.address)
            again = verify(self.mode, self._one_page(each.address, steps), self._words(each.address, 1))
            if not again:
                return replace(each, reason="race")
            if again[0].entry != each.entry or again[0].pagemap != each.pagemap:
                continue
        code = state_of(self.mode, len(steps) - 1, each.entry)
        return replace(each, reason=STATE_NAMES[code]) if code in (GUARD, MIGRATION) else each

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


EXPLAINED = frozenset(("special", "guard", "migration", "race"))
UNEXPLAINED = "no known reason: please report it"

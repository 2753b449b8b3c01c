"""Questions about page tables that were walked: how big, how full, how safe, and whether pagemap says the same.

Pure functions over a `Walk`, or over its parts as `walk_parts` yields them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mematlas.arrays import Bools, Bytes, Words
from mematlas.frozen import record
from mematlas.model.pagetables.entries import (
    DEVICE,
    EMPTY,
    HWPOISON,
    MIGRATION,
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    TABLE,
    PagingMode,
    holds,
    leaf_address,
    maps_memory,
    migration_frame,
    states,
    swap_fields,
)
from mematlas.model.pagetables.walk import (
    EXECUTABLE,
    USER,
    WRITABLE,
    PageBlock,
    Span,
    Walk,
    rights_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NR_FEW = 16
"""A table with no more entries in use than these is nearly empty."""
U64 = (1 << 64) - 1


@record
class Leaves:
    """The leaves of one level inside the range of a walk, a row for each."""

    level: int
    size: int
    addresses: Words
    entries: Words
    rights: Bytes
    """What the leaf and all tables above it allow together."""

    def __len__(self) -> int:
        return len(self.entries)


def leaves_of(found: Walk, level: int) -> Leaves:
    """Return the leaves of a level. PROT_NONE ones are among them, and have no rights.

    >>> len(leaves_of(found, 3))  # doctest: +SKIP
    264329
    """
    places, entries, addresses, codes = used_entries(found, level)
    chosen = maps_memory(codes)
    places, entries, addresses = places[chosen], entries[chosen], addresses[chosen]
    table = found.levels[level]
    above = table.rights[places // table.entries.shape[1]]
    own = rights_of(found.mode, entries)
    return Leaves(level, found.mode.levels[level].size, addresses, entries, own & above)


def used_entries(found: Walk, level: int) -> tuple[NDArray[np.intp], Words, Words, Bytes]:
    """Return flat places, entries, addresses and states of all entries of a level that are not empty, in range."""
    table = found.levels[level]
    flat = table.entries.reshape(-1)
    places = np.flatnonzero(flat)
    addresses = found.entry_addresses(level, places)
    size = np.uint64(found.mode.levels[level].size - 1)
    if len(addresses) and not (addresses[0] >= found.first and addresses[-1] + size <= found.last):
        inside = (addresses <= found.last) & (addresses + size >= found.first)
        places, addresses = places[inside], addresses[inside]
    entries = flat[places]
    return places, entries, addresses, states(found.mode, level, entries)


@record
class LevelSummary:
    """The tables of one level."""

    name: str
    nr_tables: int
    size: int
    """Bytes of all the tables."""
    nr_used: int
    """Entries that are not empty."""
    nr_few: int
    """Tables nearly empty: with 16 entries in use or less."""


@record
class LeafSummary:
    """The leaves of one size."""

    size: int
    nr_leaves: int
    nr_writable: int
    nr_user: int
    nr_executable: int
    nr_accessed: int
    nr_dirty: int
    nr_global: int
    nr_special: int
    nr_hidden: int
    """Those that the processor does not follow: PROT_NONE, NUMA balancing. They have no rights, and are not global."""

    @property
    def mapped(self) -> int:
        """Bytes that these leaves map."""
        return self.size * self.nr_leaves


@record
class Summary:
    """What page tables hold, and cost."""

    levels: tuple[LevelSummary, ...]
    leaves: tuple[LeafSummary, ...]
    nr_others: dict[str, int]
    """Entries that map nothing, by state: swap, guard, migration, ... (Not PROT_NONE: those are leaves.)"""
    torn: tuple[Span, ...]

    @property
    def table_size(self) -> int:
        """Bytes of all tables."""
        return sum(level.size for level in self.levels)

    @property
    def mapped(self) -> int:
        """Bytes that all leaves map."""
        return sum(leaf.mapped for leaf in self.leaves)

    @property
    def nr_hidden(self) -> int:
        """Leaves that the processor does not follow."""
        return sum(leaf.nr_hidden for leaf in self.leaves)

    @property
    def table_bytes_per_mib(self) -> float | None:
        """Bytes of tables for each MiB mapped; None when nothing is. Full tables of 4 KiB pages cost 2,052."""
        return self.table_size * (1 << 20) / self.mapped if self.mapped else None


class _Sums:
    """One level's sums over the parts of a walk."""

    def __init__(self) -> None:
        self.tables: set[int] = set()
        self.nr_used = self.nr_few = 0
        self.leaves = np.zeros(9, np.int64)


def summarize(parts: Iterable[Walk]) -> Summary:
    """Return the summary of a walk, given as its parts; of one part, as ``[found]``.

    >>> summary = summarize(walk_parts(memory, mode, mm.pgd))  # doctest: +SKIP
    >>> [(level.name, level.nr_tables) for level in summary.levels]  # doctest: +SKIP
    [('pgd', 1), ('pud', 3), ('pmd', 5), ('pte', 522)]
    """
    sums: list[_Sums] = []
    others: dict[str, int] = {}
    torn: list[Span] = []
    mode = None
    for part in parts:
        mode = part.mode
        sums = sums or [_Sums() for _ in part.levels]
        torn += part.torn
        for level, each in enumerate(sums):
            _add_level(each, part, level, others)
    if mode is None:
        raise ValueError("no parts")
    return Summary(
        levels=tuple(_level_summary(mode, level, each) for level, each in enumerate(sums)),
        leaves=tuple(
            LeafSummary(mode.levels[level].size, *each.leaves.tolist())
            for level, each in enumerate(sums)
            if mode.levels[level].can_map
        ),
        nr_others=others,
        torn=tuple(torn),
    )


def _level_summary(mode: PagingMode, level: int, sums: _Sums) -> LevelSummary:
    size = len(sums.tables) * mode.levels[level].nr_entries * 8
    # Linux gives a table of fewer entries (arm64's top) a place in a page of its own all the same, or less.
    return LevelSummary(mode.levels[level].name, len(sums.tables), size, sums.nr_used, sums.nr_few)


def _add_level(sums: _Sums, part: Walk, level: int, others: dict[str, int]) -> None:
    table = part.levels[level]
    # Tables that several parts share (upper ones) are counted once, with the entries of each part's own range.
    per_table = np.count_nonzero(table.entries, axis=1)
    fresh = np.array([address not in sums.tables for address in table.tables.tolist()], np.bool_)
    sums.tables.update(table.tables.tolist())
    sums.nr_few += int(np.count_nonzero(per_table[fresh] <= NR_FEW))
    places, entries, addresses, codes = used_entries(part, level)
    # An entry that reaches into two parts belongs to the one where it begins.
    own = (addresses >= part.first) | (level == len(part.levels) - 1)
    sums.nr_used += int(np.count_nonzero(own))
    counts = np.bincount(codes[own], minlength=len(STATE_NAMES)).tolist()
    for code, nr in enumerate(counts):
        if nr and code not in (EMPTY, TABLE, PRESENT, PROT_NONE):
            others[STATE_NAMES[code]] = others.get(STATE_NAMES[code], 0) + nr
    if not part.mode.levels[level].can_map:
        return
    shown = own & maps_memory(codes)
    above = table.rights[places[shown] // table.entries.shape[1]]
    sums.leaves += _count_leaves(part.mode, entries[shown], above & rights_of(part.mode, entries[shown]))


def _count_leaves(mode: PagingMode, entries: Words, rights: Bytes) -> NDArray[np.int64]:
    by_right = [np.count_nonzero(rights & bit) for bit in (WRITABLE, USER, EXECUTABLE)]
    accessed, dirty, special = (
        np.count_nonzero(holds(entries, test)) for test in (mode.accessed, mode.dirty, mode.special)
    )
    # What tells PROT_NONE is the global bit of other entries.
    followed = np.asarray(holds(entries, mode.present), np.bool_)
    nr_global = np.count_nonzero(followed & holds(entries, mode.global_))
    nr_hidden = len(entries) - np.count_nonzero(followed)
    return np.array([len(entries), *by_right, accessed, dirty, nr_global, special, nr_hidden], np.int64)


@record
class Run:
    """Leaves that follow one another and say the same."""

    start: int
    size: int
    level: str
    phys: int
    """Of the first leaf. The others need not follow it in memory."""
    entry: int
    """The first leaf's."""
    rights: int


def merged_runs(mode: PagingMode, leaves: Leaves) -> Iterator[Run]:
    """Yield leaves of one level, merged where they touch and have the same flags."""
    if not len(leaves):
        return
    # Accessed and dirty change all the time, and would cut everything in pieces.
    volatile = sum(mask for test in (mode.accessed, mode.dirty) for mask, _ in test[:1])
    address_bits = sum(mask for mask, _ in mode.address_fields)
    phys = np.asarray(leaf_address(mode, leaves.level, leaves.entries))
    size = np.uint64(leaves.size)
    kind = leaves.entries & np.uint64(U64 & ~(volatile | address_bits))
    cut = (np.diff(leaves.addresses) != size) | (np.diff(kind) != 0) | (np.diff(leaves.rights) != 0)
    starts = [0, *(np.flatnonzero(cut) + 1).tolist(), len(leaves)]
    for low, high in pairwise(starts):
        yield Run(
            start=int(leaves.addresses[low]),
            size=(high - low) * leaves.size,
            level=mode.levels[leaves.level].name,
            phys=int(phys[low]),
            entry=int(leaves.entries[low]),
            rights=int(leaves.rights[low]),
        )


@record
class Finding:
    """Something that an audit has found."""

    kind: str
    """`writable-executable`, `user-in-kernel`, `executable-data`, `writable-alias`, `alias`."""
    start: int
    size: int
    rights: int
    phys: int | None = None
    other: int | None = None
    """For an alias, the other address of the same memory."""
    other_rights: int | None = None

    @property
    def is_harmless(self) -> bool:
        """Whether it is no more than the same memory to be read in two ways, written in neither.

        In the kernel half that it can be written at one place means nothing: the direct map has all memory so.
        """
        writable = (self.rights | (self.other_rights or 0)) & WRITABLE
        return self.kind == "alias" and (not writable or self.start >= 1 << 63)


def audit(found: Walk, data_areas: Sequence[Span] = ()) -> list[Finding]:
    """Return what is dangerous: memory both writable and executable, kernel pages open to user space, executable data.

    ``data_areas`` are the first and last addresses of what should never be executable: heap and stacks.

    >>> audit(walk(memory, mode, mm.pgd, mode.kernel_start, 1 << 64))  # doctest: +SKIP
    []
    """
    both = WRITABLE | EXECUTABLE
    findings = []
    for level, description in enumerate(found.mode.levels):
        if not description.can_map:
            continue
        leaves = leaves_of(found, level)
        in_kernel = leaves.addresses >= np.uint64(found.mode.kernel_start)
        in_data = np.zeros(len(leaves), np.bool_)
        for first, last in data_areas:
            in_data |= (leaves.addresses <= last) & (leaves.addresses + np.uint64(leaves.size - 1) >= first)
        kinds = (
            ("writable-executable", leaves.rights & both == both),
            ("user-in-kernel", in_kernel & (leaves.rights & USER != 0)),
            ("executable-data", in_data & (leaves.rights & EXECUTABLE != 0)),
        )
        for kind, chosen in kinds:
            for run in merged_runs(found.mode, chosen_leaves(leaves, chosen)):
                findings.append(Finding(kind, run.start, run.size, run.rights, run.phys))
    return sorted(findings, key=lambda finding: finding.start)


def chosen_leaves(leaves: Leaves, chosen: Bools) -> Leaves:
    """Return only the chosen leaves.

    >>> executable = chosen_leaves(leaves, leaves.rights & EXECUTABLE != 0)  # doctest: +SKIP
    """
    columns = (leaves.addresses[chosen], leaves.entries[chosen], leaves.rights[chosen])
    return Leaves(leaves.level, leaves.size, *columns)


def aliases(*parts: Walk) -> list[Finding]:
    """Return memory that a walk, given as its parts, maps more than once with different rights; see `Covers`.

    >>> aliases(found)[:1]  # doctest: +SKIP
    [Finding(kind='alias', start=140063, size=4096, rights=2, phys=7151616, other=140064)]
    """
    covers = Covers()
    for part in parts:
        covers.add(part)
    return covers.aliases()


class Covers:
    """The memory that leaves map, by the rights that they give: rows of (phys, end, address), in order of phys.

    The parts of a walk are added one by one, so that only these rows are held of all. What the processor does not
    follow gives no rights to anybody and is left out, as is what has no owner (devices, the zero page).
    """

    def __init__(self) -> None:
        self._by_rights: dict[int, list[Words]] = {}

    def add(self, part: Walk) -> None:
        """Add what the leaves of a part map."""
        mode = part.mode
        for level, description in enumerate(mode.levels):
            if not description.can_map:
                continue
            leaves = leaves_of(part, level)
            left_out = np.asarray(holds(leaves.entries, mode.special), np.bool_)
            left_out |= ~np.asarray(holds(leaves.entries, mode.present), np.bool_)
            leaves = chosen_leaves(leaves, ~left_out)
            phys = np.asarray(leaf_address(mode, level, leaves.entries))
            rows = np.stack([phys, phys + np.uint64(leaves.size), leaves.addresses], axis=1)
            for each in np.unique(leaves.rights).tolist():
                self._by_rights.setdefault(each, []).append(_in_order(rows[leaves.rights == each]))

    def aliases(self) -> list[Finding]:
        """Return what is mapped more than once with different rights.

        A `writable-alias` is writable at one address and executable at the other; an `alias` differs otherwise.
        """
        covers = [(each, _in_order(np.concatenate(rows))) for each, rows in sorted(self._by_rights.items())]
        findings = []
        for index, (rights, mine) in enumerate(covers):
            for other_rights, others in covers[index + 1 :]:
                dangerous = _writes_code(rights, other_rights) or _writes_code(other_rights, rights)
                kind = "writable-alias" if dangerous else "alias"
                for phys, end, address, other in _overlaps(mine, others):
                    findings.append(Finding(kind, address, end - phys, rights, phys, other, other_rights))
        return findings


def _writes_code(rights: int, other_rights: int) -> bool:
    return bool(rights & WRITABLE and other_rights & EXECUTABLE)


def _in_order(rows: Words) -> Words:
    return _merged(rows[np.argsort(rows[:, 0], kind="stable")])


def _merged(rows: Words) -> Words:
    # Leaves that continue each other, in memory and in addresses alike, become one; what repeats is left out.
    ends = np.maximum.accumulate(rows[:, 1])
    follows = (rows[1:, 0] == rows[:-1, 1]) & (rows[1:, 2] - rows[:-1, 2] == rows[1:, 0] - rows[:-1, 0])
    repeats = rows[1:, 1] <= ends[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(rows)), np.bool_), ~(follows | repeats)]))
    merged = rows[starts].copy()
    if len(starts):
        merged[:, 1] = np.maximum.reduceat(rows[:, 1], starts)
    return merged


def _overlaps(mine: Words, others: Words) -> Iterator[tuple[int, int, int, int]]:
    # Rows of each are in order and do not overlap among themselves.
    low = np.searchsorted(others[:, 1], mine[:, 0], side="right")
    high = np.searchsorted(others[:, 0], mine[:, 1], side="left")
    for row in np.flatnonzero(high > low).tolist():
        start, end, address = mine[row].tolist()
        for other_start, other_end, other_address in others[low[row] : high[row]].tolist():
            first, last = max(start, other_start), min(end, other_end)
            yield first, last, address + first - start, other_address + first - other_start


@record
class Region:
    """A named part of the kernel half."""

    name: str
    start: int
    end: int


# Documentation/arch/x86/x86_64/mm.rst: what has the same place on every kernel, with 4 levels and with 5.
X86_FIXED = (
    Region("cpu entry area", 0xFFFFFE0000000000, 0xFFFFFE8000000000),
    Region("espfix", 0xFFFFFF0000000000, 0xFFFFFF8000000000),
    Region("efi", 0xFFFFFFEF00000000, 0xFFFFFFFF00000000),
    Region("kernel text", 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000),
    Region("modules", 0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000),
    Region("fixmap", 0xFFFFFFFFFF000000, 0xFFFFFFFFFF600000),
    Region("vsyscall", 0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000),
    Region("fixmap", 0xFFFFFFFFFF601000, 0xFFFFFFFFFFE00000),
)
# LDT_BASE_ADDR and the size of an entry of the top table: entry -240 with 4 levels and with 5 since d52888aa2753
# ("x86/mm: Move LDT remap out of KASLR region on 5-level paging", v4.20). Not moved with the direct map behind it.
X86_LDT = {4: (0xFFFF880000000000, 1 << 39), 5: (0xFF10000000000000, 1 << 48)}


def kernel_regions(
    nr_levels: int, direct_map: int, ram_end: int, vmemmap: int | None, page_struct_size: int, image_size: int = 1 << 30
) -> list[Region]:
    """Return the regions of the kernel half of x86-64, in order, by what is known of this boot.

    The direct map, vmalloc and vmemmap are moved by KASLR, in this order; vmalloc is what lies between. The kernel's
    image may take ``image_size`` (KERNEL_IMAGE_SIZE: 512 MiB without KASLR); modules follow it.

    >>> [region.name for region in kernel_regions(4, 0xFFFF888000000000, 24 << 30, None, 64)][:3]
    ['ldt', 'direct map', 'vmalloc']
    """
    ldt, ldt_size = X86_LDT[nr_levels]
    direct_end = -(-(direct_map + ram_end) >> 30) << 30
    regions = [Region("ldt", ldt, ldt + ldt_size), Region("direct map", direct_map, direct_end)]
    if vmemmap is None:
        regions.append(Region("vmalloc", direct_end, X86_FIXED[0].start))
    else:
        vmemmap_end = -(-(vmemmap + (ram_end >> 12) * page_struct_size) >> 30) << 30
        regions += [Region("vmalloc", direct_end, vmemmap), Region("vmemmap", vmemmap, vmemmap_end)]
    for region in X86_FIXED:
        start, end = region.start, region.end
        if region.name == "kernel text":
            end = start + image_size
        elif region.name == "modules":
            start = 0xFFFFFFFF80000000 + image_size
        regions.append(Region(region.name, start, end))
    return regions


def region_of(regions: Sequence[Region], address: int) -> str | None:
    """Return the name of the region that an address lies in; None between regions."""
    return next((region.name for region in regions if region.start <= address < region.end), None)


def region_sizes(found: Walk, regions: Sequence[Region]) -> dict[str | None, int]:
    """Return the bytes mapped in each region, by name; under None, those in no region.

    >>> region_sizes(kernel_half, regions)["direct map"]  # doctest: +SKIP
    25769803776
    """
    sizes: dict[str | None, int] = {}
    starts = np.array([region.start for region in regions], np.uint64)
    lasts = np.array([region.end - 1 & U64 for region in regions], np.uint64)
    for level, description in enumerate(found.mode.levels):
        if not description.can_map:
            continue
        # A leaf belongs to the region where it begins: regions begin and end at 1 GiB, or where small pages are.
        leaves = leaves_of(found, level)
        places = np.searchsorted(starts, leaves.addresses, side="right") - 1
        outside = (places < 0) | (leaves.addresses > lasts[places])
        counts = np.bincount(np.where(outside, len(regions), places), minlength=len(regions) + 1).tolist()
        for place, nr in enumerate(counts):
            name = regions[place].name if place < len(regions) else None
            if nr:
                sizes[name] = sizes.get(name, 0) + nr * leaves.size
    return sizes


def unmapped_ram(found: Walk, base: int, ranges: Sequence[tuple[int, int]], left: int | None = None) -> int:
    """Return the bytes of RAM that the direct map, from ``base`` on, leaves out; of ``left``, from the parts before."""
    total = sum(end - start for start, end in ranges) if left is None else left
    highest = max((end for _, end in ranges), default=0)
    spans: list[Span] = []
    for level, description in enumerate(found.mode.levels):
        if not description.can_map:
            continue
        leaves = leaves_of(found, level)
        starts = leaves.addresses[(leaves.addresses >= base) & (leaves.addresses < base + highest)] - np.uint64(base)
        if len(starts):
            cuts = np.flatnonzero(np.diff(starts) != leaves.size) + 1
            edges = [0, *cuts.tolist(), len(starts)]
            spans += [(int(starts[low]), int(starts[high - 1]) + leaves.size) for low, high in pairwise(edges)]
    pairs = [(span, each) for span in spans for each in ranges]
    return total - sum(max(0, min(span[1], each[1]) - max(span[0], each[0])) for span, each in pairs)


@record
class Disagreement:
    """A page of which the tables and pagemap say different things."""

    address: int
    entry: int
    pagemap: int
    reason: str
    """`special`: device or vvar memory, that pagemap does not show; otherwise what differs: `presence`, `frame`, ..."""


PM_PFN = (1 << 55) - 1
PM_SWAP, PM_PRESENT = 1 << 62, 1 << 63


def verify(mode: PagingMode, block: PageBlock, pagemap: Words) -> list[Disagreement]:
    """Return the pages of a block that /proc/PID/pagemap, read for the same pages, shows otherwise.

    Frames are compared where pagemap has them: without CAP_SYS_ADMIN it shows 0. A page that differs because the
    target ran meanwhile does not differ a second time.

    >>> [each.reason for each in verify(mode, block, words)]  # doctest: +SKIP
    ['special']
    """
    present = maps_memory(block.states)
    swapped = ~present & (block.states != EMPTY) & (block.states != TABLE)
    kinds, offsets = swap_fields(mode, block.entries)
    frames_only = (block.states == MIGRATION) | (block.states == HWPOISON) | (block.states == DEVICE)
    offsets = np.where(frames_only, migration_frame(mode, offsets), offsets)
    slots = (kinds | offsets << np.uint64(5)) & np.uint64(PM_PFN)
    fields = pagemap & np.uint64(PM_PFN)
    shown_present, shown_swapped = pagemap & np.uint64(PM_PRESENT) != 0, pagemap & np.uint64(PM_SWAP) != 0
    reasons = (
        ("presence", present != shown_present),
        ("swap", swapped != shown_swapped),
        ("frame", present & shown_present & (fields != block.pfns) & (fields != 0)),
        ("slot", swapped & shown_swapped & (fields != slots) & (fields != 0)),
    )
    differ = np.flatnonzero(reasons[0][1] | reasons[1][1] | reasons[2][1] | reasons[3][1])
    found = []
    for place in differ.tolist():
        entry = int(block.entries[place])
        reason = next(name for name, which in reasons if which[place])
        if reason == "presence" and present[place] and holds(entry, mode.special):
            reason = "special"
        address = block.start + (place << mode.page_shift)
        found.append(Disagreement(address, entry, int(pagemap[place]), reason))
    return found


def nr_hidden(pagemap: Words) -> int:
    """Return how many entries of pagemap have a frame or a swap slot that is shown as 0: without CAP_SYS_ADMIN, all.

    >>> nr_hidden(np.array([1 << 63, 1 << 63 | 5, 0], np.uint64))
    1
    """
    shown = pagemap & np.uint64(PM_PRESENT | PM_SWAP | PM_PFN)
    return int(np.count_nonzero((shown != 0) & (shown & np.uint64(PM_PFN) == 0)))

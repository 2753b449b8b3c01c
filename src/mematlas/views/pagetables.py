"""Page tables as text and as rows: a summary, a walk, lists, raw tables, a tree, regions."""

from __future__ import annotations

from mematlas.analysis.pagetables.entries import LETTERS, EntryFilter, entry_runs, entry_targets, list_entries
from mematlas.kernel.memory.x86 import U64
from mematlas.model.pages import decode_place, entry_flags
from mematlas.model.pagetables.entries import EMPTY, PRESENT, PROT_NONE, STATE_NAMES, SWAP, TABLE, flag_names, holds
from mematlas.notes import Notes
from mematlas.views.format import fold, format_address, format_path, format_seconds, format_size
from mematlas.views.table import NR_TOGETHER, Column, Drawn, Table, batch_of, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mematlas.analysis.pagetables.entries import EntryBatch, TreeNode
    from mematlas.analysis.pagetables.summary import LeafSummary, Summary
    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.observe.pagetables import KernelMap, PageTables, RawTable, Walked
    from mematlas.views.columns import Batch

    Lines = Iterator[str]

ENTRY_COLUMNS = (
    Column("level", "LEVEL", width=11),
    Column("index", "INDEX", "count"),
    Column("address", "ADDRESS", "address", width=18),
    Column("entry", "ENTRY", "entry", width=18),
    Column("phys", "PHYSICAL", "address", width=14),
    Column("leaf", "LEAF", "flag", shown=False),
    Column("state", "STATE", width=9),
    Column("swap_type", "SWAP", "count"),
    Column("swap_offset", "SLOT", "hex", width=8),
    Column("flags", "FLAGS", "list"),
)
WALK_COLUMNS = (
    Column("level", "LEVEL"),
    Column("index", "INDEX", "count"),
    Column("address", "ADDRESS", "address", shown=False),
    # The one before leads to it, and to the first the heading.
    Column("table", "TABLE AT", "address", shown=False),
    Column("entry", "ENTRY", "entry"),
    Column("state", "STATE", shown=False),
    Column("phys", "LEADS TO", "hex"),
    Column("leaf", "LEAF", "flag", shown=False),
    Column("pagemap", "PAGEMAP", "entry", shown=False),
    Column("agrees", "AGREES", "flag", shown=False),
    Column("flags", "FLAGS", "list"),
)
RUN_COLUMNS = (
    Column("level", "LEVEL", width=5),
    Column("start", "START", "address", width=18),
    Column("end", "END", "address", shown=False),
    Column("size", "SIZE", "size", width=9),
    Column("nr_entries", "ENTRIES", "count"),
    Column("state", "STATE", width=9),
    Column("entry", "FIRST ENTRY", "entry", width=18),
    Column("phys", "FIRST AT", "address", width=14),
    Column("contiguous", "CONTIGUOUS", "flag"),
    Column("nr_accessed", "ACCESSED", "count"),
    Column("nr_dirty", "DIRTY", "count"),
    Column("flags", "FLAGS", "list"),
)
TREE_COLUMNS = (
    Column("level", "LEVEL"),
    Column("address", "TRANSLATES FROM", "address"),
    Column("table", "TABLE AT", "address"),
    Column("nr_used", "ENTRIES", "count"),
    Column("nr_tables", "TABLES BELOW", "count"),
    Column("mapped", "MAPPED", "size"),
)
LEAF_COUNTS = ("writable", "user", "nx", "accessed", "dirty", "global", "special")
SUMMARY_COLUMNS = (
    Column("level", "LEVEL"),
    Column("nr_tables", "TABLES", "count"),
    Column("size", "SIZE", "size"),
    Column("nr_used", "ENTRIES IN USE", "count"),
    Column("nr_few", "NEARLY EMPTY", "count"),
    Column("leaf_size", "LEAF", "size", shown=False),
    Column("nr_leaves", "LEAVES", "count"),
    Column("mapped", "MAPPED", "size"),
    *(Column(f"nr_{name}", name.upper(), "count", shown=False) for name in LEAF_COUNTS),
)
REGION_COLUMNS = (
    Column("region", "REGION"),
    Column("start", "START", "address"),
    Column("end", "END", "address"),
    Column("size", "SIZE", "size"),
    Column("mapped", "MAPPED", "size"),
)
RAW_COLUMNS = (*ENTRY_COLUMNS[:6], ENTRY_COLUMNS[6], ENTRY_COLUMNS[9])
MEANINGS = {
    "special": "vvar or device memory, which pagemap does not show",
    "guard": "guard marker",
    "migration": "being migrated",
    "race": "changed meanwhile: read again, both agree",
    "presence": "one says present, the other not",
    "swap": "one says swapped, the other not",
    "frame": "another frame",
    "slot": "another swap slot",
    "uffd-wp-marker": "marker in hugetlb memory, which pagemap does not show",
    "poison": "poisoned hugetlb memory, which pagemap does not show",
    "hidden": "the same, but for the place, which is hidden from us: needs CAP_SYS_ADMIN",
}
HEAD = "{name}, PID {pid}: {paging}, {half}top table at {pgd}, read with {reader} in {took}"


def heading(target: dict[str, Any], half: str, width: int = 0) -> str:
    """Return the line above a result, folded where the screen is narrower: what was read, how, and how long it took."""
    took = format_seconds(target["duration_s"])
    torn = ", torn: what kept changing is left out" if target["torn"] else ""
    values = {key: target[key] for key in ("pid", "paging", "pgd", "reader")}
    half = f"{half} half, " if half else ""
    line = HEAD.format(name=format_path(target["name"]), half=half, took=took, **values) + torn
    return "\n  ".join(fold(line, width - 2)) if width else line


def half_of(page_tables: PageTables) -> str:
    """Return the name of the half that was read."""
    return "kernel" if page_tables.kernel_half else "user"


# The summary


def summary_view(
    summary: Summary,
    mode: PagingMode,
    target: dict[str, Any],
    half: str,
    kernel: KernelMap | None = None,
) -> Drawn:
    """Return how many tables and leaves there are, what they cost, and what lies where in the kernel half."""
    by_size = {leaf.size: leaf for leaf in summary.leaves}
    rows: list[tuple[Any, ...]] = []
    for level, described in zip(summary.levels, mode.levels, strict=True):
        leaf = by_size.get(described.size)
        counts = (None,) * 10 if leaf is None else (leaf.size, leaf.nr_leaves, leaf.mapped, *leaf_counts(leaf))
        rows.append((level.name, level.nr_tables, level.size, level.nr_used, level.nr_few, *counts))
    rows.append(total_row(summary))
    target |= {"others": summary.nr_others, "table_bytes_per_mib": summary.table_bytes_per_mib}
    target |= {"nr_hidden": summary.nr_hidden}

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        yield heading(target, half, width)
        if kernel:
            yield from region_lines(kernel, in_bytes, colour, width)
        yield ""
        yield from Table("tables-summary/1", SUMMARY_COLUMNS, rows).lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        leaves = [leaf for leaf in reversed(summary.leaves) if leaf.nr_leaves]
        if leaves:
            yield from leaf_lines(leaves, in_bytes, colour)
        others = ", ".join(f"{nr:,} {name}" for name, nr in summary.nr_others.items())
        yield f"entries that map nothing: {others or 'none'}"
        if summary.nr_hidden:
            yield f"{summary.nr_hidden:,} leaves are hidden from the processor: PROT_NONE, or NUMA balancing"
        yield from waste_lines(summary, target["reserve"])

    return Drawn("tables-summary/1", SUMMARY_COLUMNS, rows, target=target, draw=draw)


def waste_lines(summary: Summary, reserve: int | None) -> Lines:
    """Yield what the tables cost for what they map, and what is kept aside for later."""
    nr_few = sum(level.nr_few for level in summary.levels)
    nr_tables = sum(level.nr_tables for level in summary.levels)
    yield f"{nr_few} of {nr_tables} tables are nearly empty (at most 16 entries in use)"
    each = summary.table_bytes_per_mib
    if each is not None:
        size = format_size(summary.table_size)
        yield f"{size} of tables for {format_size(summary.mapped)}: {each:,.0f} bytes for each MiB mapped"
    if reserve:
        yield f"{format_size(reserve)} more in reserve: a table for each huge page, to split it with"


def leaf_counts(leaf: LeafSummary) -> tuple[int, ...]:
    """Return writable, user, no-execute, accessed, dirty, global, special."""
    nr_nx = leaf.nr_leaves - leaf.nr_executable
    return (leaf.nr_writable, leaf.nr_user, nr_nx, leaf.nr_accessed, leaf.nr_dirty, leaf.nr_global, leaf.nr_special)


def leaf_lines(leaves: list[LeafSummary], in_bytes: bool, colour: bool) -> Lines:
    """Yield what the leaves allow, with shares: a line for each right, a column for each size of leaves."""
    columns = [
        Column("what", "LEAVES"),
        *(Column(f"{leaf.size}", str(leaf.size) if in_bytes else format_size(leaf.size)) for leaf in leaves),
    ]
    rows: list[tuple[Any, ...]] = [
        ("number", *(str(leaf.nr_leaves) for leaf in leaves)),
        ("mapped", *(str(leaf.mapped) if in_bytes else format_size(leaf.mapped) for leaf in leaves)),
    ]
    counts = zip(*map(leaf_counts, leaves), strict=True)
    for name, each in zip(LEAF_COUNTS, counts, strict=True):
        rows.append((name, *(share(nr, leaf.nr_leaves) for nr, leaf in zip(each, leaves, strict=True))))
    yield from Table("tables-summary/1", columns, rows).lines(colour=colour)


def share(nr: int, of: int) -> str:
    """Return a count with its share.

    >>> share(3, 4), share(0, 4)
    ('3 (75 %)', '0')
    """
    return f"{nr} ({100 * nr / of:.0f} %)" if nr else "0"


def total_row(summary: Summary) -> tuple[Any, ...]:
    """Return the sums over all levels."""
    sums = [sum(column) for column in zip(*(leaf_counts(leaf) for leaf in summary.leaves), strict=True)]
    nr_leaves = sum(leaf.nr_leaves for leaf in summary.leaves)
    nr_used, nr_few = (sum(getattr(level, key) for level in summary.levels) for key in ("nr_used", "nr_few"))
    nr_tables = sum(level.nr_tables for level in summary.levels)
    return ("all", nr_tables, summary.table_size, nr_used, nr_few, None, nr_leaves, summary.mapped, *sums)


def region_rows(kernel: KernelMap) -> list[tuple[Any, ...]]:
    """Return the regions of the kernel half, with what is mapped in each."""
    rows: list[tuple[Any, ...]] = [
        (region.name, region.start, region.end, region.end - region.start, mapped) for region, mapped in kernel.regions
    ]
    if kernel.others:
        rows.append(("elsewhere", None, None, None, kernel.others))
    return rows


def region_lines(kernel: KernelMap, in_bytes: bool, colour: bool, width: int) -> Lines:
    """Yield the regions, and whether the direct map maps all RAM."""
    yield ""
    yield from Table("tables-kernel/2", REGION_COLUMNS, region_rows(kernel)).lines(
        in_bytes=in_bytes, colour=colour, width=width
    )
    size, ram = format_size(kernel.direct_map), format_size(kernel.ram)
    left = f"{format_size(kernel.unmapped_ram)} of it not" if kernel.unmapped_ram else "all of it"
    yield f"the direct map maps {size}; System RAM is {ram}, and mapped there: {left}"


def kernel_view(kernel: KernelMap, summary: Drawn, target: dict[str, Any]) -> Drawn:
    """Return the regions and the levels of tables as rows; text shows them as two tables."""
    target |= {"direct_map": kernel.direct_map, "ram": kernel.ram, "unmapped_ram": kernel.unmapped_ram}
    columns = {column.key: column for column in (*REGION_COLUMNS, *SUMMARY_COLUMNS)}
    keyed = [dict(zip((column.key for column in REGION_COLUMNS), row, strict=True)) for row in region_rows(kernel)]
    keyed += summary.records()
    rows = [tuple(row.get(key) for key in columns) for row in keyed]
    return Drawn("tables-kernel/2", columns.values(), rows, target=target, draw=summary.draw)


# One address


def walk_view(found: list[Walked], mode: PagingMode, target: dict[str, Any], notes: Notes) -> Drawn:
    """Return each level's entry on the way from an address to its byte, and what pagemap says of it."""
    rows = [row for item in found for row in walk_rows(item)]
    halves = {"kernel" if item.address >= mode.kernel_start else "user" for item in found}

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        yield heading(target, " and ".join(sorted(halves, reverse=True)), width)
        for item in found:
            yield ""
            where = f"in {format_path(item.area)}" if item.area else "in no VMA and no region"
            yield f"{format_address(item.address)} {where}"
            table = Table("tables/1", WALK_COLUMNS, walk_rows(item))
            yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)
            for line in end_lines(item, mode):
                yield from fold(line, width) if width else [line]

    return Drawn("tables/1", WALK_COLUMNS, rows, target=target, notes=notes, draw=draw)


def walk_rows(item: Walked) -> list[tuple[Any, ...]]:
    """Return the steps of one address; pagemap stands beside the last."""
    rows: list[tuple[Any, ...]] = []
    for step in item.steps:
        is_leaf = step.state in ("present", "prot-none")
        row = (step.level, step.index, item.address, step.table, step.entry, step.state, step.phys, is_leaf)
        rows.append((*row, None, None, step.flags))
    if rows and item.pagemap is not None:
        rows[-1] = (*rows[-1][:-3], item.pagemap, None if item.reason == "hidden" else not item.reason, rows[-1][-1])
    return rows


def end_lines(item: Walked, mode: PagingMode) -> Lines:
    """Yield where the walk ends, and what pagemap says."""
    last = item.steps[-1] if item.steps else None
    if last is None:
        yield "the top table could not be read"
    elif last.phys is not None and last.state in ("present", "prot-none"):
        page = format_size(last.size)
        inside = item.address & (last.size - 1)
        yield f"byte {inside:#x} of a {page} page: physical {last.phys:#x}, frame {last.phys >> mode.page_shift}"
    else:
        yield f"ends at the {last.level}: {last.state}"
    if item.pagemap is not None:
        byte = item.pagemap >> 56
        pfn, swap_type, slot = decode_place(byte, item.pagemap)
        place = f", frame {pfn}" if pfn else f", swap {swap_type} slot {slot:#x}" if slot is not None else ""
        names = ",".join(entry_flags(byte, item.pagemap)) or "empty"
        verdict = "the same" if not item.reason else f"DIFFERS: {MEANINGS.get(item.reason, item.reason)}"
        verdict = MEANINGS["hidden"] if item.reason == "hidden" else verdict
        yield f"pagemap {item.pagemap:#018x}: {names}{place}: {verdict}"


# Lists


class Names:
    """Flag names of entries, worked out once for all that differ in nothing else than where they lead."""

    def __init__(self, mode: PagingMode) -> None:
        self.mode = mode
        address_bits = sum(mask for mask, _ in mode.address_fields)
        # Of a huge leaf, the lower bits of the address are flags.
        self.masks = [~(address_bits & -level.size) for level in mode.levels]
        self.known: dict[tuple[int, int], tuple[str, ...]] = {}
        self.briefs: dict[tuple[int, str, int], str] = {}

    def of(self, level: int, state: int, entry: int) -> tuple[str, ...]:
        """Return the names of the flags of an entry; what is not present has none but its state, an empty one none."""
        if state not in (TABLE, PRESENT, PROT_NONE):
            return (STATE_NAMES[state],) if state != EMPTY else ()
        key = level, entry & self.masks[level]
        if key not in self.known:
            self.known[key] = flag_names(self.mode, level, entry)
        return self.known[key]

    def brief(self, level: int, state: str, entry: int, names: Iterable[str]) -> str:
        """Return what `brief_flags` makes of an entry and the names of its flags."""
        if state not in FOLLOWED:
            return state
        key = level, state, entry & self.masks[level]
        if key not in self.briefs:
            self.briefs[key] = brief_flags(self.mode, state, entry, names)
        return self.briefs[key]


FOLLOWED = ("table", "present", "prot-none")
"""States of entries that have flags."""
LETTERED = frozenset(("present", "nx", *LETTERS.values()))
"""The flags that letters stand for."""


def brief_flags(mode: PagingMode, state: str, entry: int, names: Iterable[str], letters: str = "wxuadg") -> str:
    """Return the flags of an entry as --flags takes them: a letter or a dash for each of these, then other names."""
    held = set(names)
    if state not in FOLLOWED:
        return state
    if state != "prot-none" and holds(entry, mode.executable):
        held.add("executable")
    marks = "".join(letter if LETTERS[letter] in held else "-" for letter in letters)
    others = ",".join(name for name in names if name not in LETTERED)
    return f"{marks} {others}".rstrip()


def address_width(page_tables: PageTables) -> int:
    """Return the columns that addresses of the half take."""
    return 18 if page_tables.kernel_half else 14


def phys_width(page_tables: PageTables) -> int:
    """Return the columns that addresses in memory take."""
    return len(f"{page_tables.memory.memory_end:#x}")


def list_view(page_tables: PageTables, wanted: EntryFilter, target: dict[str, Any]) -> Drawn:
    """Return the entries that are asked for, made while they are read: indented by level."""
    mode = page_tables.mode
    names = Names(mode)
    depths = {level.name: depth for depth, level in enumerate(mode.levels)}

    def batches() -> Iterator[Batch]:
        for found in list_entries(page_tables.parts(), wanted):
            for low in range(0, len(found), NR_TOGETHER):
                yield entry_columns(mode, names, found.chosen(slice(low, low + NR_TOGETHER)))
        target.update(page_tables.finish())

    def line(row: tuple[Any, ...]) -> tuple[Any, ...]:
        level, index, address, entry, phys, _, state, kind, slot, flags = row
        said = f"swap {kind} slot {slot:#x}" if state == "swap" else names.brief(depths[level], state, entry, flags)
        return ("  " * depths[level] + level, index, address, entry, phys, said)

    columns = (
        Column("level", "LEVEL", width=2 * len(depths) + 1),
        Column("index", "INDEX", "count"),
        Column("address", "ADDRESS", "address", width=address_width(page_tables)),
        Column("entry", "ENTRY", "entry", width=18),
        Column("phys", "LEADS TO", "hex", width=phys_width(page_tables)),
        Column("flags", "FLAGS"),
    )
    return streamed(ENTRY_COLUMNS, batches(), page_tables, target, columns, line)


def streamed(
    columns: tuple[Column, ...],
    batches: Iterator[Batch],
    page_tables: PageTables,
    target: dict[str, Any],
    shown: tuple[Column, ...],
    line: Callable[[tuple[Any, ...]], tuple[Any, ...]],
) -> Drawn:
    """Return rows that are still being read; text has columns of its own, and how the reading went at the end."""

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        lines = (batch_of([line(row) for row in zip(*piece, strict=True)]) for piece in pieces_of(batches))
        table = Table("tables/1", shown, batches=lines)
        yield from table.lines(in_bytes=in_bytes, colour=colour, width=width)
        yield heading(target, half_of(page_tables), width)

    return Drawn("tables/1", columns, batches=batches, target=target, draw=draw)


def entry_columns(mode: PagingMode, names: Names, found: EntryBatch) -> Batch:
    """Return the columns of entries."""
    phys, kinds, offsets = (column.tolist() for column in entry_targets(mode, found))
    levels, states, entries = found.levels.tolist(), found.states.tolist(), found.entries.tolist()
    level_names = [level.name for level in mode.levels]
    leads = [state in (PRESENT, PROT_NONE, TABLE) for state in states]
    return (
        [level_names[level] for level in levels],
        found.indices.tolist(),
        found.addresses.tolist(),
        entries,
        [place if place or led else None for place, led in zip(phys, leads, strict=True)],
        [led and state != TABLE for state, led in zip(states, leads, strict=True)],
        [STATE_NAMES[state] for state in states],
        [kind if state == SWAP else None for kind, state in zip(kinds, states, strict=True)],
        [offset if state == SWAP else None for offset, state in zip(offsets, states, strict=True)],
        list(map(names.of, levels, states, entries)),
    )


def runs_view(page_tables: PageTables, wanted: EntryFilter, target: dict[str, Any]) -> Drawn:
    """Return runs of like entries, made while they are read."""
    mode = page_tables.mode
    volatile = {"accessed", "dirty", "saved-dirty"}

    def batches() -> Iterator[Batch]:
        names = Names(mode)
        for run in entry_runs(mode, list_entries(page_tables.parts(), wanted)):
            flags = tuple(name for name in names.of(run.level, run.state, run.entry) if name not in volatile)
            row = (
                mode.levels[run.level].name,
                run.start,
                run.start + run.size,
                run.size,
                run.nr_entries,
                STATE_NAMES[run.state],
                run.entry,
                run.phys,
                run.contiguous if run.phys is not None or run.state == SWAP else None,
                run.nr_accessed,
                run.nr_dirty,
                flags,
            )
            yield batch_of([row])
        target.update(page_tables.finish())

    def line(row: tuple[Any, ...]) -> tuple[Any, ...]:
        level, start, _, size, nr_entries, state, entry, phys, contiguous, nr_accessed, nr_dirty, flags = row
        place = None if phys is None else f"{phys:#x}" + ("" if contiguous or nr_entries == 1 else " ~")
        said = brief_flags(mode, state, entry, flags, "wxug")
        present = state in ("present", "prot-none")
        used = [of_all(nr, nr_entries) if present else None for nr in (nr_accessed, nr_dirty)]
        return (level, start, size, place, *used, said)

    columns = (
        Column("level", "LEVEL", width=5),
        Column("start", "START", "address", width=address_width(page_tables)),
        Column("size", "SIZE", "size", width=8),
        Column("phys", "FIRST AT", width=phys_width(page_tables) + 2),
        Column("nr_accessed", "ACCESSED", width=9),
        Column("nr_dirty", "DIRTY", width=9),
        Column("flags", "FLAGS"),
    )
    return streamed(RUN_COLUMNS, batches(), page_tables, target, columns, line)


def of_all(nr: int, nr_all: int) -> str:
    """Return how many of all have something.

    >>> of_all(0, 5), of_all(3, 5), of_all(5, 5)
    ('none', '3/5', 'all')
    """
    return "none" if nr == 0 else "all" if nr == nr_all else f"{nr}/{nr_all}"


def raw_view(found: Iterable[RawTable], page_tables: PageTables, target: dict[str, Any]) -> Drawn:
    """Return whole tables, every entry of them: text as a dump in hexadecimal, four to a line."""
    mode = page_tables.mode

    def batches() -> Iterator[Batch]:
        names = Names(mode)
        for raw in found:
            yield raw_columns(raw, mode, names)
        target.update(page_tables.finish())

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        for raw in found:
            level = mode.levels[raw.level]
            last = raw.address + level.size * level.nr_entries - 1
            spans = [(raw.address, last)]
            if raw.level == 0:
                # The one table of this level is that of both halves.
                spans = [(0, mode.user_end - 1), (mode.kernel_start, U64)]
            place = " and ".join(f"{format_address(first)}-{format_address(last)}" for first, last in spans)
            number = "" if raw.number is None else f" {raw.number}"
            line = f"{level.name} table{number} at {raw.table:#x}, translates {place}"
            yield from fold(line, width) if width else [line]
            entries = raw.entries.tolist()
            for at in range(0, len(entries), 4):
                yield f"{at:>5}  " + " ".join(f"{entry:016x}" for entry in entries[at : at + 4])
        target.update(page_tables.finish())
        yield heading(target, half_of(page_tables), width)

    return Drawn("tables/1", RAW_COLUMNS, batches=batches(), target=target, draw=draw)


def raw_columns(raw: RawTable, mode: PagingMode, names: Names) -> Batch:
    """Return the columns of one table's entries, empty ones too."""
    from mematlas.analysis.pagetables.entries import whole_table

    columns = entry_columns(mode, names, whole_table(mode, raw.level, raw.address, raw.entries))
    return (*columns[:7], columns[9])


def tree_view(nodes: list[TreeNode], mode: PagingMode, target: dict[str, Any], half: str, depth: int) -> Drawn:
    """Return every table down to a level, indented, with the sums of what is below it."""
    shown = [node for node in nodes if node.level <= depth]

    def row_of(node: TreeNode, indent: str = "") -> tuple[Any, ...]:
        name = indent + mode.levels[node.level].name
        return (name, node.address, node.table, node.nr_used, node.nr_tables, node.mapped)

    def draw(in_bytes: bool, colour: bool, before: set[str] | None, width: int) -> Lines:
        yield heading(target, half, width)
        drawn = [row_of(node, "  " * node.level) for node in shown]
        yield from Table("tables-tree/1", TREE_COLUMNS, drawn).lines(in_bytes=in_bytes, colour=colour, width=width)

    return Drawn("tables-tree/1", TREE_COLUMNS, map(row_of, shown), target=target, draw=draw)


# Findings and comparisons

"""How many page tables and leaves there are, what they cost, and what lies where in the kernel half."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.views.columns import Aside, Column
from mematlas.views.format import format_size
from mematlas.views.pagetables.heading import folded, heading, walk_target
from mematlas.views.table import Drawn, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mematlas.analysis.pagetables.results import KernelMap, MappedRegion, SummaryResult
    from mematlas.analysis.pagetables.summary import LeafSummary, LevelSummary, Summary
    from mematlas.views.pagetables.heading import Lines


@record
class LevelRow:
    """The tables of one level, with its leaves where it can have any."""

    tables: LevelSummary
    leaves: LeafSummary | None


def of_leaves(name: str) -> Callable[[LevelRow], Any]:
    """Return what gets an amount of a level's leaves; None where it can have none."""
    return lambda row: None if row.leaves is None else getattr(row.leaves, name)


LEAF_COUNTS = ("nr_writable", "nr_user", "nr_nx", "nr_accessed", "nr_dirty", "nr_global", "nr_special")
SUMMARY_COLUMNS: tuple[Column[LevelRow], ...] = (
    Column("level", "LEVEL", value=lambda row: row.tables.name),
    Column("nr_tables", "TABLES", "count", lambda row: row.tables.nr_tables),
    Column("size", "SIZE", "size", lambda row: row.tables.size, rank=1),
    Column("nr_used", "ENTRIES IN USE", "count", lambda row: row.tables.nr_used, rank=2),
    Column("nr_few", "NEARLY EMPTY", "count", lambda row: row.tables.nr_few, rank=3),
    Column("leaf_size", "LEAF", "size", of_leaves("size"), shown=False),
    Column("nr_leaves", "LEAVES", "count", of_leaves("nr_leaves")),
    Column("mapped", "MAPPED", "size", of_leaves("mapped")),
    *(Column(key, key.removeprefix("nr_").upper(), "count", of_leaves(key), shown=False) for key in LEAF_COUNTS),
)
REGION_COLUMNS: tuple[Column[MappedRegion], ...] = (
    Column("region", "REGION", value=lambda item: item.region.name),
    Column("start", "START", "address", lambda item: item.region.start),
    Column("end", "END", "address", lambda item: item.region.end, rank=2),
    Column("size", "SIZE", "size", lambda item: item.region.end - item.region.start, rank=1),
    Column("mapped", "MAPPED", "size"),
)


def summary_view(result: SummaryResult, who: dict[str, Any]) -> Drawn:
    """Return the levels of tables with what they map, and of the kernel half its regions."""
    counted, kernel = result.counted, result.kernel
    target = walk_target(who, result.reading) | {
        "reserve": result.reserve,
        "others": counted.nr_others,
        "table_bytes_per_mib": counted.table_bytes_per_mib,
        "nr_hidden": counted.nr_hidden,
    }
    levels = level_table(result)

    def draw(in_bytes: bool, colour: bool, width: int) -> Lines:
        yield from heading(target, [result.reading.origin.half], width)
        if kernel:
            yield from region_lines(kernel, in_bytes, colour, width)
        yield ""
        yield from levels.lines(in_bytes=in_bytes, colour=colour, width=width)
        yield ""
        leaves = [leaf for leaf in reversed(counted.leaves) if leaf.nr_leaves]
        if leaves:
            yield from leaf_table(leaves, in_bytes).lines(colour=colour, width=width)
        for line in (*other_lines(counted), *waste_lines(counted, result.reserve)):
            yield from folded(line, width)

    if kernel is None:
        return Drawn("tables-summary/1", SUMMARY_COLUMNS, levels.items, target=target, draw=draw)
    target |= {"direct_map": kernel.direct_map, "ram": kernel.ram, "unmapped_ram": kernel.unmapped_ram}
    columns: dict[str, Column[Any]] = {column.key: column for column in REGION_COLUMNS}
    columns |= {column.key: column for column in SUMMARY_COLUMNS}
    rows = [*region_table(kernel).records(), *levels.records()]
    return Drawn("tables-kernel/2", columns.values(), map(Aside, rows), target=target, draw=draw)


def level_table(result: SummaryResult) -> Table:
    """Return a row for each level, and one of all together."""
    by_size = {leaf.size: leaf for leaf in result.counted.leaves}
    sizes = [level.size for level in result.reading.origin.mode.levels]
    pairs = zip(result.counted.levels, sizes, strict=True)
    rows = [LevelRow(level, by_size.get(size)) for level, size in pairs]
    items: list[LevelRow | Aside] = [*rows, sum_row(rows)]
    return Table("tables-summary/1", SUMMARY_COLUMNS, items)


def sum_row(rows: Sequence[LevelRow]) -> Aside:
    """Return the sums over all levels."""
    sums: dict[str, Any] = {"level": "all"}
    for column in SUMMARY_COLUMNS:
        if column.key not in ("level", "leaf_size"):
            sums[column.key] = sum(filter(None, column.values(rows)))
    return Aside(sums)


def leaf_table(leaves: Sequence[LeafSummary], in_bytes: bool) -> Table:
    """Return what the leaves allow, with shares: a row for each right, a column for each size of leaves."""

    def amount(size: int) -> str:
        return str(size) if in_bytes else format_size(size)

    def count_of(leaf: LeafSummary) -> Callable[[str], str]:
        fixed = {"number": str(leaf.nr_leaves), "mapped": amount(leaf.mapped)}
        return lambda key: fixed.get(key) or share(getattr(leaf, key), leaf.nr_leaves)

    columns: list[Column[str]] = [
        Column("what", "LEAVES", value=lambda key: key.removeprefix("nr_")),
        *(Column(str(leaf.size), amount(leaf.size), value=count_of(leaf)) for leaf in leaves),
    ]
    return Table("tables-summary/1", columns, ["number", "mapped", *LEAF_COUNTS])


def share(nr: int, of: int) -> str:
    """Return a count with its share.

    >>> share(3, 4), share(0, 4)
    ('3 (75 %)', '0')
    """
    return f"{nr} ({100 * nr / of:.0f} %)" if nr else "0"


def other_lines(counted: Summary) -> Lines:
    """Yield how many entries map nothing, and how many leaves the processor does not follow."""
    others = ", ".join(f"{nr:,} {name}" for name, nr in counted.nr_others.items())
    yield f"entries that map nothing: {others or 'none'}"
    if counted.nr_hidden:
        yield f"{counted.nr_hidden:,} leaves are hidden from the processor: PROT_NONE, or NUMA balancing"


def waste_lines(counted: Summary, reserve: int | None) -> Lines:
    """Yield what the tables cost for what they map, and what is kept aside for later."""
    nr_few = sum(level.nr_few for level in counted.levels)
    nr_tables = sum(level.nr_tables for level in counted.levels)
    yield f"{nr_few} of {nr_tables} tables are nearly empty (at most 16 entries in use)"
    per_mib = counted.table_bytes_per_mib
    if per_mib is not None:
        size = format_size(counted.table_size)
        yield f"{size} of tables for {format_size(counted.mapped)}: {per_mib:,.0f} bytes for each MiB mapped"
    if reserve:
        yield f"{format_size(reserve)} more in reserve: a table for each huge page, to split it with"


def region_table(kernel: KernelMap) -> Table:
    """Return the regions of the kernel half, with what is mapped in each."""
    items: list[MappedRegion | Aside] = [*kernel.regions]
    if kernel.others:
        items.append(Aside({"region": "elsewhere", "mapped": kernel.others}))
    return Table("tables-kernel/2", REGION_COLUMNS, items)


def region_lines(kernel: KernelMap, in_bytes: bool, colour: bool, width: int) -> Lines:
    """Yield the regions, and whether the direct map maps all RAM."""
    yield ""
    yield from region_table(kernel).lines(in_bytes=in_bytes, colour=colour, width=width)
    size, ram = format_size(kernel.direct_map), format_size(kernel.ram)
    left = f"all but {format_size(kernel.unmapped_ram)}" if kernel.unmapped_ram else "all"
    yield from folded(f"the direct map maps {size}: {left} of the {ram} of System RAM", width)

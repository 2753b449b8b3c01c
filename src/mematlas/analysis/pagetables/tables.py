"""Page tables one by one, each with the sums of what is below it: as columns, since there may be very many."""

from __future__ import annotations

from mematlas.analysis.pagetables.entries import own_entries
from mematlas.analysis.pagetables.leaves import used_entries
from mematlas.arrays import NDArray, Words, np
from mematlas.frozen import record
from mematlas.model.pagetables.entries import PagingMode, holds, maps_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.model.pagetables.walk import Walk

    Numbers = NDArray[np.int64]

COUNTS = ("nr_used", "nr_leaves", "nr_accessed", "nr_dirty")
"""Of the entries of a table itself."""


@record
class TableColumns:
    """The tables of one level, in the order of the addresses that they translate: a row for each."""

    addresses: Words
    """The first that each translates."""
    tables: Words
    """The physical address of each."""
    nr_used: Numbers
    """Entries that are not empty."""
    nr_leaves: Numbers
    """Entries of its own that map memory."""
    nr_tables: Numbers
    """Tables below it."""
    mapped: Numbers
    """Bytes that it and the tables below it map; so of what follows."""
    accessed: Numbers
    """Of them, those that have been used since the kernel last looked."""
    dirty: Numbers
    """Of them, those that have been written to since they were last clean."""
    leaf_addresses: Words
    """Of its huge leaves, the first address of each; none of the last level."""
    leaf_entries: Words

    def __len__(self) -> int:
        return len(self.addresses)


@record
class TableMap:
    """All tables of a half of an address space."""

    mode: PagingMode
    levels: tuple[TableColumns, ...]
    """Top first."""
    is_cut: bool
    """Whether there are more than were asked for: those of the highest addresses are left out."""

    @property
    def nr_tables(self) -> int:
        """How many tables there are, at all levels."""
        return sum(len(level) for level in self.levels)

    @property
    def size(self) -> int:
        """Bytes of all tables."""
        pairs = zip(self.mode.levels, self.levels, strict=True)
        return sum(len(columns) * level.nr_entries * 8 for level, columns in pairs)

    def parents(self, level: int) -> NDArray[np.intp]:
        """Return for each table of a level but the top one the row of that which points at it."""
        return rows_above(self.mode, self.levels, level, self.levels[level].addresses)

    def leaf_parents(self, level: int) -> NDArray[np.intp]:
        """Return for each huge leaf of a level the row of the table that it stands in."""
        return rows_above(self.mode, self.levels, level + 1, self.levels[level].leaf_addresses)


def rows_above(
    mode: PagingMode, levels: tuple[TableColumns, ...] | list[TableColumns], level: int, addresses: Words
) -> NDArray[np.intp]:
    """Return the rows of the tables above a level that translate some addresses."""
    if level == 1:
        # There is one top table, of both halves or of one.
        return np.zeros(len(addresses), np.intp)
    above = levels[level - 1].addresses
    return np.searchsorted(above, addresses & ~np.uint64(table_span(mode, level - 1) - 1))


def table_span(mode: PagingMode, level: int) -> int:
    """Return the bytes that a table of a level translates.

    >>> from mematlas.model.pagetables.modes import x86_64
    >>> table_span(x86_64(), 3) >> 20
    2
    """
    return mode.levels[level].size * mode.levels[level].nr_entries


def map_of(parts: Iterable[Walk], most: int | None = None) -> TableMap:
    """Return all tables of a walk, given as its parts: no more than ``most`` of the last level, or little more.

    Raises:
        ValueError: there are no parts.
    """
    gathered: list[list[dict[str, Words | Numbers]]] = []
    mode: PagingMode | None = None
    nr_last, is_cut = 0, False
    for part in parts:
        if most is not None and nr_last >= most:
            is_cut = True
            break
        is_first = mode is None
        mode = part.mode
        gathered = gathered or [[] for _ in part.levels]
        for level, some in enumerate(gathered):
            some.append(_of_part(part, level, is_first))
        nr_last += len(part.levels[-1])
    if mode is None:
        raise ValueError("no parts")
    levels = [_joined(mode, level, some) for level, some in enumerate(gathered)]
    for level in range(len(levels) - 1, 0, -1):
        _add_to_parents(mode, level, levels)
    return TableMap(mode, tuple(levels), is_cut)


def _of_part(part: Walk, level: int, is_first: bool) -> dict[str, Words | Numbers]:
    """Return what a part has of one level; leaves of the last one are counted alone."""
    table = part.levels[level]
    flat, entries, addresses, codes = used_entries(part, level)
    own = own_entries(part, addresses, is_first)
    if not own.all():
        flat, entries, addresses, codes = flat[own], entries[own], addresses[own], codes[own]
    rows = flat // table.entries.shape[1]
    leaves = maps_memory(codes)
    leaf_rows, leaf_entries = rows[leaves], entries[leaves]
    nr = len(table)
    which = {
        "nr_used": rows,
        "nr_leaves": leaf_rows,
        "nr_accessed": leaf_rows[np.asarray(holds(leaf_entries, part.mode.accessed), np.bool_)],
        "nr_dirty": leaf_rows[np.asarray(holds(leaf_entries, part.mode.dirty), np.bool_)],
    }
    found: dict[str, Words | Numbers] = {name: np.bincount(some, minlength=nr) for name, some in which.items()}
    is_last = level == len(part.levels) - 1
    found["leaf_addresses"] = addresses[leaves][: 0 if is_last else None]
    found["leaf_entries"] = leaf_entries[: 0 if is_last else None]
    return found | {"addresses": table.addresses, "tables": table.tables}


def _joined(mode: PagingMode, level: int, parts: list[dict[str, Words | Numbers]]) -> TableColumns:
    """Return what all parts have of one level: a table that reaches into several of them is one."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    addresses = joined["addresses"]
    starts = np.flatnonzero(np.concatenate([[True], addresses[1:] != addresses[:-1]])[: len(addresses)])
    size = mode.levels[level].size
    counts = {name: np.add.reduceat(joined[name], starts) if len(starts) else joined[name] for name in COUNTS}
    return TableColumns(
        addresses=addresses[starts],
        tables=joined["tables"][starts],
        nr_used=counts["nr_used"],
        nr_leaves=counts["nr_leaves"],
        nr_tables=np.zeros(len(starts), np.int64),
        mapped=counts["nr_leaves"] * size,
        accessed=counts["nr_accessed"] * size,
        dirty=counts["nr_dirty"] * size,
        leaf_addresses=joined["leaf_addresses"],
        leaf_entries=joined["leaf_entries"],
    )


def _add_to_parents(mode: PagingMode, level: int, levels: list[TableColumns]) -> None:
    columns, above = levels[level], levels[level - 1]
    rows = rows_above(mode, levels, level, columns.addresses)
    np.add.at(above.nr_tables, rows, columns.nr_tables + 1)
    for name in ("mapped", "accessed", "dirty"):
        np.add.at(getattr(above, name), rows, getattr(columns, name))


@record
class TreeNode:
    """One table, with all that is below it."""

    level: int
    """Its own level; 0 is the top."""
    address: int
    """The first that it translates."""
    table: int
    """Its physical address."""
    nr_used: int
    nr_tables: int
    """Tables below it."""
    mapped: int
    """Bytes that it and the tables below it map."""


def tree_of(parts: Iterable[Walk]) -> list[TreeNode]:
    """Return every table of a walk, each before those below it, with the sums of what is below it."""
    nodes = []
    for level, columns in enumerate(map_of(parts).levels):
        names = ("addresses", "tables", "nr_used", "nr_tables", "mapped")
        rows = zip(*(getattr(columns, name).tolist() for name in names), strict=True)
        nodes += [TreeNode(level, *row) for row in rows]
    # A table that begins where its parent does comes after it.
    return sorted(nodes, key=lambda node: (node.address, node.level))

"""How big page tables are, how full, and what they map."""

from __future__ import annotations

from collections import Counter

from mematlas.analysis.pagetables.leaves import used_entries
from mematlas.arrays import Bytes, Words, np
from mematlas.frozen import fields_of, record
from mematlas.model.pagetables.entries import (
    EMPTY,
    PRESENT,
    PROT_NONE,
    STATE_NAMES,
    TABLE,
    PagingMode,
    holds,
    maps_memory,
)
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, Span, Walk, rights_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NR_FEW = 16
"""A table with no more entries in use than these is nearly empty."""


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
    def nr_nx(self) -> int:
        """Those that may not be executed."""
        return self.nr_leaves - self.nr_executable

    @property
    def mapped(self) -> int:
        """Bytes that these leaves map."""
        return self.size * self.nr_leaves


LEAF_COUNTS = tuple(name for name in fields_of(LeafSummary) if name != "size")


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
        self.leaves: Counter[str] = Counter()
        """How many leaves there are, by the fields of `LeafSummary`."""


def summarize(parts: Iterable[Walk]) -> Summary:
    """Return the summary of a walk, given as its parts; of one part, as ``[walked]``.

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
        for level, level_sums in enumerate(sums):
            _add_level(level_sums, part, level, others)
    if mode is None:
        raise ValueError("no parts")
    levels = [_level_summary(mode, level, level_sums) for level, level_sums in enumerate(sums)]
    leaves = [
        _leaf_summary(description.size, level_sums)
        for description, level_sums in zip(mode.levels, sums, strict=True)
        if description.can_map
    ]
    return Summary(levels=tuple(levels), leaves=tuple(leaves), nr_others=others, torn=tuple(torn))


def _level_summary(mode: PagingMode, level: int, sums: _Sums) -> LevelSummary:
    nr_tables = len(sums.tables)
    return LevelSummary(
        name=mode.levels[level].name,
        nr_tables=nr_tables,
        # Linux gives a table of fewer entries (arm64's top) a page of its own all the same, or a part of one.
        size=nr_tables * mode.levels[level].nr_entries * 8,
        nr_used=sums.nr_used,
        nr_few=sums.nr_few,
    )


def _leaf_summary(size: int, sums: _Sums) -> LeafSummary:
    return LeafSummary(size=size, **{name: sums.leaves[name] for name in LEAF_COUNTS})


def _add_level(sums: _Sums, part: Walk, level: int, others: dict[str, int]) -> None:
    table = part.levels[level]
    # Tables that several parts share (upper ones) are counted once, with the entries of each part's own range.
    per_table = np.count_nonzero(table.entries, axis=1)
    fresh = np.array([address not in sums.tables for address in table.tables.tolist()], np.bool_)
    sums.tables.update(table.tables.tolist())
    sums.nr_few += int(np.count_nonzero(per_table[fresh] <= NR_FEW))
    indices, entries, addresses, codes = used_entries(part, level)
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
    above = table.rights[indices[shown] // table.entries.shape[1]]
    leaves = entries[shown]
    sums.leaves.update(_count_leaves(part.mode, leaves, above & rights_of(part.mode, leaves)))


def _count_leaves(mode: PagingMode, entries: Words, rights: Bytes) -> dict[str, int]:
    # What marks PROT_NONE is the global bit of other entries.
    followed = np.asarray(holds(entries, mode.present), np.bool_)
    which = {
        "nr_writable": rights & WRITABLE,
        "nr_user": rights & USER,
        "nr_executable": rights & EXECUTABLE,
        "nr_accessed": holds(entries, mode.accessed),
        "nr_dirty": holds(entries, mode.dirty),
        "nr_global": followed & holds(entries, mode.global_),
        "nr_special": holds(entries, mode.special),
        "nr_hidden": ~followed,
    }
    counts = {name: int(np.count_nonzero(mask)) for name, mask in which.items()}
    return {"nr_leaves": len(entries), **counts}

"""The tree of page tables as a list: rows of what is opened, made of columns, since there may be very many."""

from __future__ import annotations

from mematlas.analysis.pagetables.tables import table_span
from mematlas.arrays import NDArray, Words, np
from mematlas.frozen import record
from mematlas.kernel.memory.x86 import U64
from mematlas.tui.rows import RowList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from mematlas.analysis.pagetables.results import RawTable
    from mematlas.analysis.pagetables.tables import TableMap
    from mematlas.arrays import Bools

    Rows = RowList["OutlineRow"]
else:
    Rows = RowList

TABLE, LEAF, ENTRY = range(3)
"""What a row is: a table; a huge leaf in one; an entry of a table of the last level."""
MOST_RAW = 64
"""Tables of which single entries are in sight."""


@record
class OutlineRow:
    """One row: where it is in the columns of its level."""

    kind: int
    level: int
    """Of the table, or of that which the entry stands in."""
    address: int
    """The first that it translates."""
    index: int
    """Its row among the tables, or the huge leaves, of its level; or its place in its table."""

    @property
    def depth(self) -> int:
        """How far it is indented."""
        return self.level + (self.kind != TABLE)


class Outline:
    """Which tables are opened, and the rows that there are then: a sequence of `OutlineRow`."""

    def __init__(self) -> None:
        self.tables: TableMap | None = None
        self.raw: dict[int, RawTable] = {}
        """Tables whose entries are known, by the first address that each translates."""
        self.opened: dict[tuple[int, int], None] = {}
        """Level and first address of each table that is opened, in the order in which they were."""
        self.spans: Words | None = None
        """Ranges that are shown alone: first addresses, and those of their ends; None for all."""
        self._columns: tuple[NDArray[Any], ...] = (np.zeros(0, np.uint64),) + 3 * (np.zeros(0, np.int64),)

    def put(self, tables: TableMap) -> None:
        """Have other tables; what is opened stays so."""
        self.tables = tables
        self.make()

    @property
    def last_level(self) -> int:
        """The number of the last level."""
        return len(self.tables.mode.levels) - 1 if self.tables else 0

    @property
    def raw_opened(self) -> list[int]:
        """The addresses of tables whose entries are to be shown, the newest ones."""
        last = self.last_level
        return [address for level, address in self.opened if level == last][-MOST_RAW:]

    def is_opened(self, row: OutlineRow) -> bool:
        """Whether what is below a row is shown."""
        return row.kind == TABLE and (row.level, row.address) in self.opened

    def open(self, row: OutlineRow) -> None:
        """Show what is below a table."""
        if row.kind == TABLE:
            self.opened[row.level, row.address] = None
            self.make()

    def close(self, row: OutlineRow) -> None:
        """Show that no more."""
        self.opened.pop((row.level, row.address), None)
        self.make()

    def open_all(self, row: OutlineRow) -> None:
        """Show all tables below one; of their entries none."""
        tables = self.tables
        if row.kind != TABLE or tables is None:
            return
        first, span = np.uint64(row.address), np.uint64(table_span(tables.mode, row.level) - 1)
        for level in range(row.level, self.last_level):
            addresses = tables.levels[level].addresses
            low, high = np.searchsorted(addresses, first), np.searchsorted(addresses, first + span, "right")
            self.opened |= dict.fromkeys((level, address) for address in addresses[low:high].tolist())
        self.make()

    def open_to(self, address: int) -> None:
        """Show the tables that translate an address."""
        if self.tables is None:
            return
        for level in range(self.last_level):
            self.opened[level, self.first_of(level, address)] = None
        self.make()

    def first_of(self, level: int, address: int) -> int:
        """Return the first address that the table of a level translates which translates an address."""
        assert self.tables
        columns = self.tables.levels[level]
        if level == 0:
            return int(columns.addresses[0]) if len(columns) else 0
        return address & ~(table_span(self.tables.mode, level) - 1)

    def make(self) -> None:
        """Make the rows anew."""
        tables = self.tables
        if tables is None:
            return
        made: list[tuple[NDArray[Any], ...]] = []
        above: Bools = np.ones(1, np.bool_)
        for level, columns in enumerate(tables.levels):
            shown: Bools = above[tables.parents(level)] if level else np.ones(len(columns), np.bool_)
            made.append(self._rows(TABLE, level, columns.addresses, shown, columns.addresses))
            opened = np.array([address for number, address in self.opened if number == level], np.uint64)
            above = shown & np.isin(columns.addresses, opened)
            if len(columns.leaf_addresses):
                shown = above[tables.leaf_parents(level)]
                made.append(self._rows(LEAF, level, columns.leaf_addresses, shown, columns.leaf_addresses))
            # A table may have gone since: an address that is looked up must be of one.
            above = np.append(above, False)
        made += self._entries(above)
        addresses, kinds, levels, indexes = (np.concatenate(some) for some in zip(*made, strict=True))
        order = np.lexsort((levels + (kinds != TABLE), addresses))
        self._columns = addresses[order], kinds[order], levels[order], indexes[order]

    def _entries(self, shown: Bools) -> Iterable[tuple[NDArray[Any], ...]]:
        """Yield the rows of entries of the tables that are opened."""
        assert self.tables
        level = self.last_level
        columns, mode = self.tables.levels[level], self.tables.mode
        for address in self.raw_opened:
            raw = self.raw.get(address)
            row = int(np.searchsorted(columns.addresses, np.uint64(address)))
            if raw is not None and shown[row] and columns.addresses[row] == address:
                steps = np.arange(len(raw.entries), dtype=np.uint64) << np.uint64(mode.levels[level].shift)
                yield self._rows(ENTRY, level, np.uint64(address) + steps, np.ones(len(steps), np.bool_), None)

    def _rows(
        self, kind: int, level: int, addresses: Words, shown: Bools, of_spans: Words | None
    ) -> tuple[NDArray[Any], ...]:
        """Return the columns of those that are shown."""
        if self.spans is not None and of_spans is not None and self.tables:
            size = self.tables.mode.levels[level].size if kind == LEAF else table_span(self.tables.mode, level)
            starts, ends = self.spans
            # Of the spans that end after the first address, the first one begins before the end.
            first = np.searchsorted(ends, addresses, "right")
            begins = np.append(starts, np.uint64(U64))[first]
            shown = shown & (begins <= addresses + np.uint64(size - 1)) & (first < len(starts))
            if level == 0 and kind == TABLE:
                shown = np.ones(len(addresses), np.bool_)
        (indexes,) = np.nonzero(shown)
        nr = len(indexes)
        return addresses[indexes], np.full(nr, kind), np.full(nr, level), indexes

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, which: Any) -> Any:
        addresses, kinds, levels, indexes = (column[which] for column in self._columns)
        if not isinstance(which, slice):
            return OutlineRow(int(kinds), int(levels), int(addresses), int(indexes))
        columns = (kinds.tolist(), levels.tolist(), addresses.tolist(), indexes.tolist())
        return [OutlineRow(*row) for row in zip(*columns, strict=True)]

    def place_of(self, depth: int, address: int) -> int:
        """Return the number of the row of an address at a depth; where there is none, of that which it would be in."""
        addresses, kinds, levels, _ = self._columns
        if not len(addresses):
            return 0
        end = int(np.searchsorted(addresses, np.uint64(address), "right"))
        place = max(end - 1, 0)
        depths = levels + (kinds != TABLE)
        while place and addresses[place - 1] == addresses[place] and depths[place] > depth:
            place -= 1
        return place

    def above(self, row: OutlineRow) -> int:
        """Return the number of the row of the table that a row is in."""
        if row.depth == 0:
            return 0
        return self.place_of(row.depth - 1, self.first_of(row.depth - 1, row.address))

    def next_in(self, starts: Sequence[int], ends: Sequence[int], place: int, step: int) -> int | None:
        """Return the next row, or with -1 the previous one, that lies in one of some ranges, round the end too."""
        addresses = self._columns[0]
        if not len(addresses) or not len(starts):
            return None
        lows, highs = np.array(starts, np.uint64), np.array(ends, np.uint64)
        first = np.searchsorted(highs, addresses, "right")
        inside = np.append(lows, np.uint64(U64))[first] <= addresses
        (places,) = np.nonzero(inside)
        if not len(places):
            return None
        at = np.searchsorted(places, place, "right" if step > 0 else "left")
        return int(places[at % len(places)] if step > 0 else places[at - 1])


class OutlineList(Rows):
    """Scrolls through the rows of an outline: where the cursor was is found without looking at all of them."""

    def __init__(self, outline: Outline) -> None:
        super().__init__(lambda row: (row.depth, row.address))
        self.outline = outline
        self._at: tuple[int, int] | None = None

    def follow(self) -> None:
        """Have the rows that there are now; the cursor stays where it was."""
        self.items = self.outline  # type: ignore[assignment]  # a sequence in all that is asked of it
        if self._at is not None:
            self.index = self.outline.place_of(*self._at)
        self.index = max(min(self.index, len(self.outline) - 1), 0)

    def keep(self) -> None:
        """Remember where the cursor is: by what it is on, since rows come and go."""
        here = self.current
        self._at = (here.depth, here.address) if here else None

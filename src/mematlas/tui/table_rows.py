"""Rows of the tree of page tables: of tables, of huge leaves, of single entries; and what there is of all of them."""

from __future__ import annotations

from mematlas.analysis.pagetables.decoded import EntryDecoder
from mematlas.analysis.pagetables.entries import EntryBatch
from mematlas.analysis.pagetables.tables import table_span
from mematlas.arrays import np
from mematlas.model.pagetables.entries import states
from mematlas.tui.drawing import bar, cell, fitted, name_cell, width_of_row
from mematlas.tui.frame import between
from mematlas.tui.outline import LEAF, TABLE
from mematlas.views.format import format_address, format_share, format_size, number_of
from mematlas.views.pagetables.entries import brief_maker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.pagetables.decoded import DecodedEntries
    from mematlas.analysis.pagetables.results import MappedTables, SummaryResult
    from mematlas.tui.drawing import Row
    from mematlas.tui.outline import Outline, OutlineRow
    from mematlas.tui.vma_names import VmaNames

BAR = 8
WITH_HUGE, WITH_END, WITH_BELOW = 96, 116, 150
"""Columns of a screen from which on there are columns for more: huge leaves and what was used, ends, tables below."""
ADDRESS, SIZE, SHARE = 14, 8, 5
HUGE = 13
LEAST_NAME = 8
ROLES = {"present": "own", "prot-none": "guard", "swap": "swapped", "empty": "absent", "guard": "guard"}
"""How an entry is coloured, by its state."""


def used_width(most: int) -> int:
    """Return the columns of how many of so many entries are used.

    >>> used_width(512)
    7
    """
    return 2 * len(str(most)) + 1


def address_width(width: int) -> int:
    """Return the columns of what a table translates."""
    return 2 * ADDRESS + 1 if width >= WITH_END else ADDRESS


class TableRows:
    """Makes rows of what was found."""

    def __init__(self, found: MappedTables, outline: Outline, vmas: VmaNames) -> None:
        self.tables = found.map
        self.outline = outline
        self.vmas = vmas
        self.mode = found.map.mode
        self._decoder = EntryDecoder(self.mode)
        self._brief = brief_maker()

    @property
    def names_width(self) -> int:
        """The columns of what a row is, indented."""
        return 2 * len(self.mode.levels) + 6

    @property
    def used_width(self) -> int:
        """The columns of how many entries are used, of the largest tables."""
        return used_width(max(level.nr_entries for level in self.mode.levels))

    def header(self, width: int) -> Row:
        """Return the headings."""
        row = cell("TABLE", self.names_width) + " " + cell("TRANSLATES", address_width(width))
        row += " " + cell("ENTRIES USED", BAR + 1 + self.used_width) + " " + cell("MAPPED", SIZE, right=True)
        if width >= WITH_BELOW:
            row += " " + cell("PAGES", 13, right=True) + " " + cell("TABLES BELOW", 12, right=True)
        if width >= WITH_HUGE:
            row += " " + cell("HUGE", HUGE, right=True)
            row += " " + cell("ACC", SHARE, right=True) + " " + cell("DIRTY", SHARE, right=True)
        return fitted([(row + "  VMA", "muted")], width)

    def row(self, row: OutlineRow, width: int) -> Row:
        """Return a row of the tree."""
        return self._of_table(row, width) if row.kind == TABLE else self._of_entry(row, width)

    def _of_table(self, row: OutlineRow, width: int) -> Row:
        columns, level = self.tables.levels[row.level], self.mode.levels[row.level]
        index = row.index
        used, mapped = int(columns.nr_used[index]), int(columns.mapped[index])
        is_last = row.level == len(self.mode.levels) - 1
        mark = "▾" if self.outline.is_opened(row) else "▸"
        end = row.address + table_span(self.mode, row.level)
        where = format_address(row.address) + (f"-{end - 1:012x}" if width >= WITH_END else "")
        made: Row = [
            (cell("  " * row.depth + f"{mark} {level.name}", self.names_width), "title" if not is_last else "text"),
            (" " + cell(where, address_width(width)), "muted"),
            (" " + bar(used / level.nr_entries, BAR), "own"),
            (" " + cell(f"{used}/{level.nr_entries}", self.used_width, right=True), "text"),
            (" " + cell(format_size(mapped), SIZE, right=True), "text" if mapped else "muted"),
        ]
        if width >= WITH_BELOW:
            below = int(columns.nr_tables[index])
            made.append((" " + cell(f"{mapped >> self.mode.page_shift:,}", 13, right=True), "text"))
            made.append((" " + cell(f"{below:,}" if below else "", 12, right=True), "muted"))
        if width >= WITH_HUGE:
            nr_huge = 0 if is_last else int(columns.nr_leaves[index])
            huge = f"{nr_huge:,} × {format_size(level.size)}" if nr_huge else ""
            made.append((" " + cell(huge, HUGE, right=True), "shared"))
            for amounts in (columns.accessed, columns.dirty):
                share = format_share(int(amounts[index]) / mapped) if mapped else ""
                made.append((" " + cell(share, SHARE, right=True), "muted"))
        return self._with_vma(made, row.address, end, width)

    def _with_vma(self, made: Row, start: int, end: int, width: int) -> Row:
        name, more = self.vmas.of(start, end)
        count = f" +{more:,}" if more else ""
        room = width - width_of_row(made) - 2 - len(count)
        if name and room >= LEAST_NAME:
            made += [("  " + name_cell(name, room) + count, "muted")]
        return made

    def _of_entry(self, row: OutlineRow, width: int) -> Row:
        """Return the row of a huge leaf, or of a single entry."""
        found = self.decoded(row)
        state, phys = found.states[0], found.phys[0]
        is_huge = row.kind == LEAF
        size = self.mode.levels[row.level].size
        name = f"■ {format_size(size)}" if is_huge else f"{row.index:>3}"
        where = format_address(row.address)
        if is_huge and width >= WITH_END:
            where += f"-{row.address + size - 1:012x}"
        role = "shared" if is_huge else ROLES.get(state, "unknown")
        indent = "  " * row.depth
        if state == "empty":
            return [(cell(indent + name, self.names_width), "muted"), (" " + where, "muted"), (" ·", "absent")]
        frame = "" if phys is None else f"pfn {phys >> self.mode.page_shift:#x}"
        if found.swap_types[0] is not None:
            frame = f"swap {found.swap_types[0]} slot {found.swap_offsets[0]:#x}"
        flags = self._brief(state, found.flags[0], found.executable[0])
        made: Row = [
            (cell(indent + name, self.names_width), role),
            (" " + cell(where, address_width(width)), "muted"),
            (f" {found.entries[0]:#018x}", "text"),
            (f" {flags:<6}", role),
            (f"  {frame}", "muted"),
        ]
        return self._with_vma(made, row.address, row.address + size, width) if width >= WITH_HUGE else made

    def decoded(self, row: OutlineRow) -> DecodedEntries:
        """Return a huge leaf, or an entry, decoded."""
        if row.kind == LEAF:
            word = self.tables.levels[row.level].leaf_entries[row.index]
            index = row.address // self.mode.levels[row.level].size % self.mode.levels[row.level].nr_entries
        else:
            first = self.outline.first_of(row.level, row.address)
            word, index = self.outline.raw[first].entries[row.index], row.index
        entries = np.array([word], np.uint64)
        return self._decoder.decode(
            EntryBatch(
                levels=np.array([row.level], np.uint8),
                indices=np.array([index]),
                addresses=np.array([row.address], np.uint64),
                entries=entries,
                states=states(self.mode, row.level, entries),
            )
        )

    def detail(self, row: OutlineRow, width: int) -> Row:
        """Return what the row of the cursor is, in words."""
        text = self._table_words(row) if row.kind == TABLE else self._entry_words(row)
        return fitted([(" " + text, "text")], width)

    def _table_words(self, row: OutlineRow) -> str:
        columns, index = self.tables.levels[row.level], row.index
        mapped = int(columns.mapped[index])
        name = self.mode.levels[row.level].name
        words = [f"{name} table at {int(columns.tables[index]):#x}: {number_of(int(columns.nr_used[index]), 'entry')}"]
        words[0] = words[0].replace("entrys", "entries") + " used"
        if below := int(columns.nr_tables[index]):
            words.append(f"{number_of(below, 'table')} below")
        words.append(f"maps {format_size(mapped)}")
        if mapped:
            words.append(f"accessed {format_size(int(columns.accessed[index]))}")
            words.append(f"dirty {format_size(int(columns.dirty[index]))}")
        return ", ".join(words)

    def _entry_words(self, row: OutlineRow) -> str:
        found = self.decoded(row)
        state, phys = found.states[0], found.phys[0]
        what = "huge leaf" if row.kind == LEAF else "entry"
        flags = [name for name in found.flags[0] if name != state]
        leads = "" if phys is None else f" → {phys:#x}"
        return f"{what} {found.indices[0]} of {found.levels[0]}: {', '.join([state, *flags])}{leads}"


def summary_rows(found: MappedTables, age: str, width: int) -> list[Row]:
    """Return what there is of all tables, and how that was found out."""
    tables = found.map
    top = tables.levels[0]
    mapped = int(top.mapped.sum())
    left: Row = [(f" {number_of(tables.nr_tables, 'table')}, {format_size(tables.size)}", "title")]
    if mapped:
        per_mib = tables.size * (1 << 20) / mapped
        left += [(f" for {format_size(mapped)}", "text"), (f" · {per_mib:,.0f} B per MiB", "muted")]
    if tables.is_cut:
        left += [(" · the first ones alone: there are more", "bad")]
    if found.reading.torn:
        left += [(" · torn: some changed while they were read", "bad")]
    levels: Row = []
    for level, columns in zip(tables.mode.levels, tables.levels, strict=True):
        full = int(columns.nr_used.sum()) / (len(columns) * level.nr_entries) if len(columns) else 0
        levels += [
            (f" {level.name} ", "muted"),
            (f"{len(columns):,}", "text"),
            (f" {format_share(full)} full ", "muted"),
        ]
    age_row: Row = [(age + " ", "muted")]
    if width >= WITH_END:
        return [between(left, age_row, width), fitted(levels, width)]
    return [fitted(left, width), fitted(levels, width), fitted([(" " + age, "muted")], width)]


def recorded_rows(result: SummaryResult, width: int) -> list[Row]:
    """Return what a recording has of page tables: a row for each level."""
    counted, origin = result.counted, result.reading.origin
    nr = sum(level.nr_tables for level in counted.levels)
    head: Row = [(f" {number_of(nr, 'table')}, {format_size(counted.table_size)}", "title")]
    if counted.table_bytes_per_mib is not None:
        head += [(f" for {format_size(counted.mapped)}", "text")]
        head += [(f" · {counted.table_bytes_per_mib:,.0f} B per MiB", "muted")]
    has_few = width >= WITH_HUGE
    titles = f" {'LEVEL':<6} {'TABLES':>9} {'SIZE':>8}  {'FULL':<{BAR + 6}} {'LEAVES':>11} {'MAPPED':>8}"
    titles += f" {'ACC':>5} {'DIRTY':>5}"
    rows: list[Row] = [fitted(head, width), [], fitted([(titles + "  NEARLY EMPTY" * has_few, "muted")], width)]
    by_size = {leaf.size: leaf for leaf in counted.leaves}
    for level, shape in zip(counted.levels, origin.mode.levels, strict=True):
        full = level.nr_used / (level.nr_tables * shape.nr_entries) if level.nr_tables else 0
        leaf = by_size.get(shape.size)
        row: Row = [(f" {level.name:<6}", "title"), (f" {level.nr_tables:>9,} {format_size(level.size):>8}  ", "text")]
        row += [(bar(full, BAR), "own"), (f" {format_share(full):>5}", "text")]
        leaves, amounts = "", ["", ""]
        if leaf and leaf.nr_leaves:
            leaves = f"{leaf.nr_leaves:,}"
            amounts = [format_share(nr / leaf.nr_leaves) for nr in (leaf.nr_accessed, leaf.nr_dirty)]
        row.append((f" {leaves:>11} {format_size(leaf.mapped) if leaf else '':>8}", "text"))
        row.append((f" {amounts[0]:>5} {amounts[1]:>5}", "muted"))
        if has_few:
            row.append((f"  {level.nr_few:>12,}", "text"))
        rows.append(fitted(row, width))
    others = ", ".join(f"{nr_of:,} {name}" for name, nr_of in counted.nr_others.items()) or "none"
    words = [f"entries that map nothing: {others}"]
    if result.reserve:
        words.append(f"{format_size(result.reserve)} more in reserve: a table for each huge page, to split it with")
    words += [note.text for note in result.reading.notes]
    words.append("single tables are not recorded: look at a running process")
    return [*rows, [], *(fitted([(" " + line, "muted")], width) for line in words)]

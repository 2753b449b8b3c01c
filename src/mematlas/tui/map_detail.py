"""What is known of the cell that the cursor of the map is on: its addresses, its VMA, its pages, and its first page."""

from __future__ import annotations

from mematlas.analysis.grid import CLASSES
from mematlas.frozen import record
from mematlas.kernel.pagemap import PM_PFRAME
from mematlas.model.entry_flags import entry_flags
from mematlas.model.pages import HUGE, STATE_OF_BYTE, decode_place, is_hidden
from mematlas.tui.drawing import bar, cell, fitted, name_cell
from mematlas.views.format import fold, format_address, format_list, format_path, format_size, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mematlas.analysis.frame_owners import FrameOwners, OwnedFrames
    from mematlas.analysis.pagetables.results import WalkedAddress
    from mematlas.timeline.timeline import Detail
    from mematlas.tui.drawing import Row
    from mematlas.tui.map_moment import MapMoment
    from mematlas.tui.viewing import Viewing

NUMBER = 11
"""Columns of a number of pages."""
WORD = 9
"""Columns of what stands before a value."""
LEAST_BAR = 6
MOST_OWNERS = 6


@record
class Cursor:
    """What the cursor is on."""

    ranges: tuple[tuple[int, int], ...]
    """Pages, as first and one past the last."""
    is_folded: bool
    classes: dict[str, int]
    """Pages of each class; nothing of what is folded."""
    nr_changed: int

    @property
    def nr_pages(self) -> int:
        """How many pages there are."""
        return sum(end - first for first, end in self.ranges)

    @property
    def page(self) -> int:
        """The first."""
        return self.ranges[0][0]

    def holds(self, page: int) -> bool:
        """Whether a page is among them."""
        return any(first <= page < end for first, end in self.ranges)


def cell_rows(cursor: Cursor, page: int, moment: MapMoment, width: int) -> Iterator[Row]:
    """Yield what is known of a cell by the moment alone, of which ``page`` is one."""
    size = moment.page_size
    first, end = cursor.ranges[0][0], cursor.ranges[-1][1]
    yield [(format_address(first * size), "title"), (" to ", "muted"), (format_address(end * size), "text")]
    yield [(format_size(cursor.nr_pages * size), "text"), (f", {number_of(cursor.nr_pages, 'page')}", "muted")]
    yield []
    yield from vma_rows(cursor, page, moment, width)
    if cursor.is_folded:
        return
    yield []
    yield from class_rows(cursor, width)


def vma_rows(cursor: Cursor, page: int, moment: MapMoment, width: int) -> Iterator[Row]:
    """Yield in which VMA a cell is, or what is folded."""
    if cursor.is_folded:
        yield from folded_rows(cursor, moment, width)
        return
    index = moment.vmas.index_of(page)
    if index is None:
        return
    vma = moment.vmas.items[index].vma
    last = moment.vmas.index_of(cursor.ranges[-1][1] - 1)
    yield [(f"{vma.kind} ", "title"), (vma.perms, "text"), (f"  {format_size(vma.size)}", "muted")]
    if vma.path:
        yield [(name_cell(vma.path, width).rstrip(), "text")]
    if last is not None and last > index:
        yield [(f"and {number_of(last - index, 'VMA')} behind it", "muted")]


def folded_rows(cursor: Cursor, moment: MapMoment, width: int) -> Iterator[Row]:
    """Yield what of the addresses that are not drawn is of a VMA."""
    first, end = cursor.ranges[0]
    vmas, size = moment.vmas, moment.page_size
    chosen = (vmas.firsts < end) & (vmas.ends > first)
    low, high = vmas.firsts[chosen].clip(min=first), vmas.ends[chosen].clip(max=end)
    untouched = int((high - low).sum())
    yield [("folded", "title")]
    if untouched:
        text = f"{format_size(untouched * size)} untouched, of {number_of(int(chosen.sum()), 'VMA')}"
        yield from ([(line, "text")] for line in fold(text, width))
        yield [(name_cell(vmas.name(int(chosen.argmax())), width).rstrip(), "muted")]
    if untouched < end - first:
        yield [(f"{format_size((end - first - untouched) * size)} of no VMA", "muted")]


def class_rows(cursor: Cursor, width: int) -> Iterator[Row]:
    """Yield the pages of a cell by state, with bars."""
    room = width - WORD - NUMBER - 1
    for name in CLASSES:
        number = cursor.classes.get(name, 0)
        if not number:
            continue
        row: Row = [(cell(name, WORD), name), (f"{number:>{NUMBER},} ", "text")]
        if room >= LEAST_BAR:
            row.append((bar(number / cursor.nr_pages, room), name))
        yield row
    if cursor.nr_changed:
        yield [(cell("changed", WORD), "title"), (f"{cursor.nr_changed:>{NUMBER},}", "title")]


def page_rows(page: int, moment: MapMoment, width: int) -> Iterator[Row]:
    """Yield what the moment itself knows of a page: its word."""
    word = moment.word(page)
    byte = word >> 56
    yield [("page ", "title"), (format_address(page * moment.page_size), "title")]
    index = moment.vmas.index_of(page)
    state = "unknown" if not word and index is not None and moment.is_hidden(index) else STATE_OF_BYTE[byte]
    flags = [name for name in entry_flags(byte, word) if name != state]
    if byte & HUGE == HUGE:
        flags.append("by a huge entry")
    yield from pairs((("state", ", ".join((state, *flags))),), width)
    pfn, swap_type, slot = decode_place(byte, word)
    if pfn is not None:
        yield from pairs((("frame", f"{pfn}, at {pfn * moment.page_size:#x}"),), width)
    elif slot is not None:
        yield from pairs((("swap", f"area {swap_type}, slot {slot:#x}"),), width)


def why_no_frame(detail: Detail | None, is_now: bool) -> str:
    """Return why it cannot be told who has a page, given what was found out of it."""
    if not is_now:
        return "who has a page is found out live, at the newest moment: it is not recorded"
    if detail is None:
        return "the page is looked up first: once more in a moment"
    if detail.translation.hidden:
        return "its frame is hidden, and so who has it: needs CAP_SYS_ADMIN"
    return "no page in RAM here, so nobody has it"


def pairs(values: Sequence[tuple[str, str]], width: int) -> Iterator[Row]:
    """Yield values behind the words for them, folded where they are long."""
    for name, value in values:
        for number, line in enumerate(fold(value, max(width - WORD, 8))):
            yield [(cell("" if number else name, WORD), "muted"), (line, "text")]


def detail_rows(detail: Detail, moment: MapMoment, width: int, owners: Iterable[Row] = ()) -> Iterator[Row]:
    """Yield what was found out about an address just now: its frame, who has it, how page tables lead there.

    Who was asked for comes first: on a small screen there is no room for all.
    """
    found = detail.translation
    size = moment.page_size
    values = []
    if found.pfn is not None and not moment.word(found.address // size) & PM_PFRAME:
        values.append(("frame", f"{found.pfn}, at {found.pfn * size:#x}"))
    if found.hidden:
        values.append(("frame", "hidden: needs CAP_SYS_ADMIN"))
    if found.file_offset is not None:
        values.append(("in file", f"at {found.file_offset:#x}"))
    yield from pairs(values, width)
    yield from owners
    if detail.owners is not None:
        yield []
        yield from owner_rows(detail.owners, width)
    if detail.walk is not None:
        yield []
        yield from walk_rows(detail.walk, width)
    for note in detail.notes:
        yield from ([(line, "muted")] for line in fold(note.text, width))


def asked_rows(viewing: Viewing, width: int) -> Iterator[Row]:
    """Yield what a frame is, and who has it, or why that is not known, once that was asked for."""
    yield []
    if why := viewing.why_not("owners"):
        yield from ([(line, "muted")] for line in fold(why, width))
    elif (owners := viewing.answer("owners")) is None:
        yield [("looking through all processes ...", "muted")]
    else:
        yield from owner_rows(owners, width)


def owner_rows(owners: FrameOwners, width: int) -> Iterator[Row]:
    """Yield what a frame is, and who has it."""
    items = owners.items
    if not items:
        return
    one = items[0]
    values = [("kind", one.kind), ("mapped", number_of(one.count, "time")), ("flags", ", ".join(one.flags) or "none")]
    if one.node is not None:
        values.append(("node", str(one.node)))
    if one.cgroup:
        values.append(("cgroup", format_path(one.cgroup)))
    yield [("who has it", "title")]
    for item in items[:MOST_OWNERS]:
        yield who(item, width)
    if len(items) > MOST_OWNERS:
        yield [(f"and {len(items) - MOST_OWNERS:,} more: mematlas owner {one.pfn}", "muted")]
    yield from pairs(values, width)


def who(item: OwnedFrames, width: int) -> Row:
    """Return who has a frame, and where."""
    mapper = item.mapper
    if mapper is None:
        return [("nobody that was found", "muted")]
    at = "" if item.address is None else " " + format_address(item.address)
    name = name_cell(mapper.name, max(width - 8 - len(at), 4))
    return [(f"{mapper.pid:>7} ", "text"), (name, "title"), (at, "muted")]


def walk_rows(walk: WalkedAddress, width: int) -> Iterator[Row]:
    """Yield each entry on the way through page tables, as ``tables`` has them."""
    yield [("page tables", "title")]
    for step in walk.steps:
        row: Row = [(f"{step.level:<4}{step.index:>4} ", "muted"), (f"{step.entry:#018x}", "text")]
        if not step.is_leaf:
            yield [*row, (f" {step.state}", "muted")]
            continue
        yield row
        size = "" if step.level == "pte" else f"{format_size(step.size)}, "
        text = size + format_list(step.flags)
        yield from ([(" " * WORD + line, "muted")] for line in fold(text, max(width - WORD, 8)))
    if walk.reason:
        yield from ([(line, "bad")] for line in fold(walk.reason, width) if walk.reason != "hidden")


def brief_row(cursor: Cursor, page: int, moment: MapMoment, width: int) -> Row:
    """Return what the cursor is on in one row."""
    size = moment.page_size
    row: Row = [(f" {format_address(cursor.page * size)} ", "title"), (format_size(cursor.nr_pages * size), "text")]
    if cursor.is_folded:
        return fitted([*row, (" folded", "muted")], width)
    if (index := moment.vmas.index_of(page)) is not None:
        row += [(f" {moment.vmas.name(index)} {moment.vmas.items[index].vma.perms}", "text")]
    if cursor.nr_pages == 1 and (word := moment.word(page)) and not is_hidden(word >> 56, word):
        pfn, _, slot = decode_place(word >> 56, word)
        where = f" frame {pfn}" if pfn is not None else "" if slot is None else f" slot {slot:#x}"
        row.append((where, "muted"))
    for name in CLASSES:
        if number := cursor.classes.get(name, 0):
            row += [(f" {name}", name), (f" {number:,}", "text")]
    if cursor.nr_changed:
        row.append((f" changed {cursor.nr_changed:,}", "title"))
    return fitted(row, width)

"""The VMAs: how much of each kind there is, and the list of them, with how each has changed."""

from __future__ import annotations

from mematlas.analysis.vma_amounts import VmaAmounts
from mematlas.errors import TargetNotFound
from mematlas.timeline.timeline import seen_of
from mematlas.tui.bars import IN_RAM, layers, legend
from mematlas.tui.drawing import cell, fitted, name_cell, sentence, width_of_row
from mematlas.tui.page import Page
from mematlas.tui.rows import Heading, RowList
from mematlas.tui.vma_lists import Line, VmaList
from mematlas.tui.waiting import why_no_vmas
from mematlas.views.format import format_address, format_change, format_path, format_size, format_span, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.analysis.results import VmaUsage
    from mematlas.timeline.watch import Seen
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing

    Column = tuple[str, str, int, bool]

MINUTE = 60.0
"""Seconds over which change is shown where nothing is compared with."""
COLUMNS: tuple[tuple[str, str, int, bool, int], ...] = (
    ("start", "START", 14, False, 1),
    ("end", "END", 14, False, 11),
    ("nr", "VMAS", 7, True, 0),
    ("perms", "PERM", 4, False, 7),
    ("kind", "KIND", 8, False, 9),
    ("size", "SIZE", 8, True, 3),
    ("held", "", 8, False, 4),
    ("rss", "RSS", 8, True, 2),
    ("uss", "USS", 8, True, 12),
    ("pss", "PSS", 8, True, 13),
    ("dirty", "DIRTY", 8, True, 8),
    ("swap", "SWAP", 8, True, 6),
    ("change", "", 9, True, 5),
    ("name", "NAME", 14, False, 0),
)
"""Each with its key, heading, least width, whether it is right-aligned, and how soon it goes where there is no room."""
OF_KINDS = (
    ("nr", "VMAS", 7),
    *((key, key.upper(), 8) for key in ("size", "rss", "pss", "uss", "dirty", "swap")),
)
KIND_WIDTH = 9
LEAST_BAR, MOST_BAR, MOST_NAME = 8, 32, 48
GROUPS = ("", "path", "kind")
LEAST_NAME = 4


class VmasPage(Page):
    """The VMAs of one process."""

    name = "VMAs"
    needs = "closely"
    keys = (("Enter", "map"), ("< >", "sort"), ("I", "reverse"), ("g", "group"), ("\\", "filter"), ("/", "search"))

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.list: RowList[Any] = RowList(lambda key: key.name if isinstance(key, Line) else key)
        self.heading = Heading([], "held")
        self.by = ""
        """What VMAs are added up by; empty for none."""
        self.within: tuple[str, str] | None = None
        """The group that is looked into."""
        self._wanted = ""
        self._found: VmaList | None = None
        self._made_of: tuple[Any, ...] = ()
        self._before: VmaAmounts | None = None
        self._ordered_by: tuple[Any, ...] = ()
        self._address: int | None = None
        """Where the cursor was put last, by whatever page."""
        self._list_top = 0
        self._most = 0

    # What there is

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return the sums by kind, and the list below them."""
        viewing = self.viewing
        seen = viewing.seen()
        if seen is None or seen.vmas is None:
            return sentence(why_no_vmas(viewing, seen), width, height)
        before, seconds = self._earlier(seen.vmas)
        found = self._list_of(seen.vmas, before)
        if self.heading.sort in self._left_out():
            self.heading.sort = "held"
        self._put(found)
        rows: list[Row] = [fitted(self._title(seen, found, width), width)] if height > 3 else []
        rows += self._kinds(found, width, (height - 8) // 2)
        columns, bar_width = self._columns(found, width, seconds)
        self.heading.columns = columns
        rows.append(fitted([(" ", "text"), *self.heading.draw()], width))
        self._list_top = len(rows)
        rows += self.list.draw(height - len(rows), width, lambda key: self._row(found, key, bar_width))
        if not self.list.items:
            rows += sentence(self._why_empty(), width, height - len(rows))
        return rows

    def _earlier(self, now: list[VmaUsage]) -> tuple[list[VmaUsage] | None, float]:
        """Return the VMAs that those of now are compared with, and how many seconds before they were."""
        viewing = self.viewing
        timeline = viewing.closely
        at = viewing.now(timeline)
        if viewing.compared is not None:
            old = viewing.seen_before()
            return (old.vmas if old else None), viewing.clock - viewing.compared
        if timeline is None or at is None or viewing.focus is None:
            return None, 0.0
        try:
            moment = timeline.at(max(at - MINUTE, timeline.times[0]))
        except TargetNotFound:
            return None, 0.0  # it was let go of meanwhile
        old = seen_of(moment, viewing.focus)
        return (old.vmas if old else None), at - moment.elapsed

    def _list_of(self, vmas: list[VmaUsage], before: list[VmaUsage] | None) -> VmaList:
        """Return what is listed: what it was, if nothing has changed."""
        made_of = (vmas, before, self.viewing.page_size)
        if self._found is not None and all(map(is_same, made_of, self._made_of)):
            return self._found
        amounts = self._found.amounts if self._found else None
        if amounts is None or amounts.vmas is not vmas:
            amounts = VmaAmounts(vmas, amounts)
        if before is vmas:
            self._before = amounts
        elif before is None:
            self._before = None
        elif self._before is None or self._before.vmas is not before:
            self._before = VmaAmounts(before, self._before or amounts)
        self._found = VmaList(amounts, self._before, self.viewing.page_size)
        self._made_of = made_of
        return self._found

    def _put(self, found: VmaList) -> None:
        """Have the list in its order, with the cursor where it is in the address space."""
        heading, is_compared = self.heading, self.viewing.compared is not None
        by = (found, heading.sort, heading.is_up, self.by, self.within, self._wanted, is_compared)
        if not (len(self._ordered_by) == len(by) and found is self._ordered_by[0] and by[1:] == self._ordered_by[1:]):
            self._ordered_by = by
            is_sorted_anew = self.list.is_sorted_anew
            if self.by and self.within is None:
                self.list.put(found.groups(self.by, heading.sort, heading.is_up, self._wanted))
                self._most = max((line.held for line in self.list.items), default=0)
            else:
                self.list.put(found.keys(heading.sort, heading.is_up, self._wanted, self.within, is_compared))
                self._most = found.most()
            self._address = None
            if is_sorted_anew:
                self._point()
        address = self.viewing.address
        if address != self._address:
            self._address = address
            self._go_to(found, address)

    def _go_to(self, found: VmaList, address: int | None) -> None:
        """Put the cursor on the VMA, or the group, that an address is in."""
        place = None if address is None else found.amounts.place(address)
        if place is None:
            return
        items = self.list.items
        if self.by and self.within is None:
            name = str(group_name(found, place, self.by))
            index = next((index for index, line in enumerate(items) if line.name == name), None)
        else:
            key = found.amounts.vmas[place].start
            index = items.index(key) if key in items else None
        if index is not None:
            self.list.go_to(index)

    # What is drawn

    def _title(self, seen: Seen, found: VmaList, width: int) -> Row:
        row: Row = [(" " + name_cell(seen.name, min(len(seen.name), 24)), "title"), (f" {seen.pid}", "muted")]
        row.append((f" · {number_of(len(found.amounts), 'VMA')}", "text"))
        if self.by:
            what = f"{format_path(self.within[1])} alone (Esc)" if self.within else f"by {self.by}"
            row.append((f" · {what}", "text"))
        if self._wanted:
            row.append((f" · with {self._wanted!r}: {len(self.list.items):,}", "text"))
        key = legend(IN_RAM)
        room = width - width_of_row(row) - width_of_row(key)
        return [*row, (" " * room, "text"), *key] if room > 0 else row

    def _kinds(self, found: VmaList, width: int, most: int) -> list[Row]:
        """Return the sums by kind with their heading, and the total; as many as there is room for."""
        if most < 1:
            return []
        kinds, total = found.by_kind()
        columns = list(OF_KINDS)
        unknown = [key for key, _, _ in OF_KINDS if all(getattr(line, key) is None for line in kinds)]
        for key in (*unknown, "pss", "dirty", "uss", "nr"):
            if width - 2 - KIND_WIDTH - sum(size + 1 for _, _, size in columns) < LEAST_BAR:
                columns = [column for column in columns if column[0] != key]
        shown = kinds if len(kinds) <= most else kinds[: most - 1]
        bar_width = width - 2 - KIND_WIDTH - sum(size + 1 for _, _, size in columns)
        scale = kinds[0].held if kinds else 0
        head: Row = [(" " + cell("KIND", KIND_WIDTH), "muted")]
        head += [(" " + cell(title, size, right=True), "muted") for _, title, size in columns]
        head.append((scale_text(scale, bar_width), "muted"))
        rows = [fitted(head, width)]
        for line in shown:
            rows.append(fitted([*kind_cells(line, columns, "text"), *bar_of(line, scale, bar_width)], width))
        more = number_of(len(kinds) - len(shown), "more kind")
        last: Row = [
            *kind_cells(total, columns, "title"),
            *([(f" + {more}", "muted")] if len(kinds) > len(shown) else []),
        ]
        return [*rows, fitted(last, width), []]

    def _columns(self, found: VmaList, width: int, seconds: float) -> tuple[list[Column], int]:
        """Return the columns that there is room for, and how wide the bar is."""
        wanted = [column for column in COLUMNS if column[0] not in self._left_out()]
        room = width - 1
        kept: list[str] = []
        unknown = {key for key in ("dirty", "pss", "uss", "swap") if getattr(found.by_kind()[1], key) is None}

        def rank(column: tuple[str, str, int, bool, int]) -> tuple[bool, bool, int]:
            return column[0] != self.heading.sort, column[0] in unknown, column[4]

        for column in sorted(wanted, key=rank):
            if column[2] + 1 <= room or not kept:
                kept.append(column[0])
                room -= column[2] + 1
            elif column[0] == "name" and room > LEAST_NAME:
                kept.append("name")
                room -= column[2] + 1
                break
        more_of_bar = 0
        if room > 0 and "held" in kept:
            more_of_bar = min(room - min(room // 2, MOST_NAME), MOST_BAR - LEAST_BAR)
        more_of_name = room - more_of_bar
        bar_width = LEAST_BAR + more_of_bar
        titles = {"held": scale_text(self._most, bar_width).strip(), "change": self._since(seconds)}
        more = {"held": more_of_bar, "name": more_of_name}
        columns = [
            (key, titles.get(key, title), size + more.get(key, 0), is_right)
            for key, title, size, is_right, _ in COLUMNS
            if key in kept
        ]
        return columns, bar_width

    def _left_out(self) -> tuple[str, ...]:
        """Return the columns that say nothing of what is listed."""
        return ("start", "end", "perms") if self.by and self.within is None else ("nr",)

    def _since(self, seconds: float) -> str:
        """Return the heading of how much has changed."""
        seconds = abs(seconds)
        return f"Δ {format_span(round(seconds)) if seconds >= 1 else '0 s'}"

    def _row(self, found: VmaList, key: Any, bar_width: int) -> Row:
        """Return the row of a VMA, or of several."""
        line = key if isinstance(key, Line) else found.line(key)
        role = "muted" if line.mark == "-" else "text"
        row: Row = [(line.mark or " ", "title" if line.mark == "+" else role)]
        for name, _, width, is_right in self.heading.columns:
            if name == "held":
                row += bar_of(line, self._most, bar_width)[1:] if line.mark != "-" else [(" " * bar_width, "text")]
            else:
                row.append((self._cell(line, name, width, is_right), role_of(line, name, role)))
            row.append((" ", "text"))
        return row

    def _cell(self, line: Line, name: str, width: int, is_right: bool) -> str:
        if name == "name":
            return name_cell(line.name, width)
        if name in ("perms", "kind"):
            return cell(getattr(line, name), width)
        if name in ("start", "end"):
            address = getattr(line, name)
            return cell("" if address is None else format_address(address), width)
        return cell(amount_text(line, name), width, is_right)

    def _why_empty(self) -> str:
        if self._wanted:
            return f"no VMA has {self._wanted!r}: \\ and Enter shows all"
        return "it has no VMA: a kernel thread, or one that has ended"

    # Keys and mouse

    def press(self, key: str) -> bool:
        """Move, sort, group, or go to the map."""
        if self.list.press(key):
            self._point()
        elif key == "enter":
            self._enter()
        elif key in ("escape", "backspace"):
            return self._back()
        elif key == "g":
            self.by, self.within = GROUPS[(GROUPS.index(self.by) + 1) % len(GROUPS)], None
        else:
            self.list.is_sorted_anew = bool(self.heading.columns) and self.heading.press(key)
            return self.list.is_sorted_anew
        return True

    def _point(self) -> None:
        """Have the cursor in the address space where that of the list is."""
        here = self.list.current
        if here is None or type(here) is tuple:
            return
        start = here.start if isinstance(here, Line) else here
        place = self._found.amounts.place(start) if self._found else None
        address = self.viewing.address
        is_inside = (
            place is not None
            and self._found is not None
            and address is not None
            and start <= address < self._found.amounts.vmas[place].end
        )
        if not is_inside:
            self.viewing.address = start
        self._address = self.viewing.address

    def _enter(self) -> None:
        """Look into a group, or go to a VMA on the map."""
        here = self.list.current
        if isinstance(here, Line):
            self.within = (self.by, here.name)
        elif type(here) is tuple:
            self.viewing.said = "it is gone: [ leads to moments at which it was there"
        elif here is not None:
            self._point()
            self.viewing.leads_to = "Map"

    def _back(self) -> bool:
        """Go back from a group, or to all VMAs; return whether there was anything to go back from."""
        if self.within is not None:
            self.within = None
        elif self._wanted:
            self._wanted = ""
        elif self.by:
            self.by = ""
        else:
            return False
        return True

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Go to a line, or sort by a heading."""
        if y == self._list_top - 1:
            self.list.is_sorted_anew = self.heading.click(x - 1)
        elif self.list.at_row(y - self._list_top):
            self._point()
            if is_double:
                self._enter()

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.list.scroll(step)
        self._point()

    def search(self, text: str, step: int = 1) -> bool:
        """Go to the next line that has a text in its name, kind, rights or addresses."""
        found, items = self._found, self.list.items
        if found is None or not items:
            return False
        if isinstance(items[0], Line):
            if not self.list.search(text, lambda line: f"{line.name} {line.kind}", step):
                return False
        elif (index := found.search(items, text, self.list.index, step)) is not None:
            self.list.go_to(index)
        else:
            return False
        self._point()
        return True

    def filter(self, text: str) -> None:
        """Show only the lines that have a text; all, if that is empty."""
        self._wanted = text

    def command(self) -> str:
        """Return the command line that shows the same."""
        by = f" --by {self.by}" if self.by else ""
        return f"mematlas maps {self.viewing.target}{by}"


def is_same(one: Any, other: Any) -> bool:
    """Whether two are the same, or equal numbers."""
    return one is other or (isinstance(one, int) and one == other)


def group_name(found: VmaList, place: int, by: str) -> object:
    """Return the name of the group that a VMA is in."""
    from mematlas.analysis.groups import NAME_BY

    return NAME_BY[by](found.amounts.vmas[place])


def amount_text(line: Line, name: str) -> str:
    """Return an amount of a line; ``-`` where it is not known."""
    value = getattr(line, name)
    if value is None:
        return "-"
    if name == "nr":
        return f"{value:,}"
    return format_change(value) if name == "change" else format_size(value)


def role_of(line: Line, name: str, role: str) -> str:
    """Return the role of a cell: what has changed stands out, and 0 does not."""
    if role == "muted":
        return role
    value = getattr(line, name)
    if name == "change":
        return "muted" if not value else "title"
    if name == "name":
        return "text" if line.name != line.kind else "muted"
    return "muted" if value in (0, None) or name in ("end", "kind", "perms") else role


def kind_cells(line: Line, columns: Sequence[tuple[str, str, int]], role: str) -> Row:
    """Return the amounts of a kind."""
    row: Row = [(" " + cell(line.name, KIND_WIDTH), role)]
    for name, _, size in columns:
        row.append((" " + cell(amount_text(line, name), size, right=True), role_of(line, name, role)))
    return row


def bar_of(line: Line, scale: int, width: int) -> Row:
    """Return what a line has in RAM, what of it is dirty, and what is in swap, after a blank."""
    rss = line.rss or 0
    dirty = min(line.dirty or 0, rss)
    parts = ((rss - dirty, "own"), (dirty, "dirty"), (line.swap or 0, "swapped"))
    return [(" ", "text"), *layers([(size / (scale or 1), role) for size, role in parts], width)]


def scale_text(scale: int, width: int) -> str:
    """Return what stands above bars: where they begin and end."""
    most = format_size(scale)
    return " 0" + most.rjust(width - 1) if width > len(most) + 2 else " " + cell(most, width, right=True)

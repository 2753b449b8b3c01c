"""The page map of one process: a cell is a page or many, by what they are, or by when they have changed."""

from __future__ import annotations

import time

from mematlas.analysis.grid import CLASSES
from mematlas.arrays import np
from mematlas.errors import Error, NotSupported
from mematlas.tui.drawing import cut_to, fitted, name_cell, sentence, width_of_row
from mematlas.tui.looking import accessed_of, detail_of, frames_of
from mematlas.tui.map_detail import Cursor, asked_rows, brief_row, cell_rows, detail_rows, page_rows, why_no_frame
from mematlas.tui.map_moment import MapMoment
from mematlas.tui.page import Page
from mematlas.tui.page_rows import MARK, PageRows, rows_that_fit
from mematlas.tui.palettes import PAINTERS, Fading, Strokes, legend_row, with_cursor
from mematlas.tui.viewing import PALETTES
from mematlas.tui.waiting import NOBODY
from mematlas.views.format import fold, format_address, format_size, number_of, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mematlas.analysis.page_cells import CellCounts, Pieces
    from mematlas.arrays import Words
    from mematlas.timeline.watch import Seen
    from mematlas.tui.drawing import Row
    from mematlas.tui.page_rows import Part, Place
    from mematlas.tui.palettes import Painted
    from mematlas.tui.viewing import Viewing

WIDE = 100
"""Columns from which on what is under the cursor stands beside the cells."""
SIDES = ((160, 48), (120, 40), (WIDE, 36))
"""From so many columns on, so many for that."""
RESTS = 0.3
"""Seconds that the cursor has to rest before its page is looked up."""
ADDRESS = 14
LEAST_HALF = 36
"""Columns that each half takes at the least where two stand side by side."""
MOVES = {"left": -1, "h": -1, "right": 1, "l": 1}
ROW_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}
ZOOMS = {"+": -1, "=": -1, "-": 1, "_": 1}
ASKS = {"accessed": accessed_of, "node": frames_of}
"""What palettes ask for of each look, under their names."""
LOOKED_BACK = 3
"""Moments for which a process that is gone is looked for."""


class MapPage(Page):
    """The pages of one process."""

    name = "Map"
    needs = "closely"
    rests = RESTS + 0.05
    keys = (
        ("+ -", "zoom"),
        ("c", "palette"),
        ("i", "detail"),
        ("o", "who has it"),
        ("f", "follow"),
        ("w", "whole"),
        ("/", "VMA or 0x..."),
    )

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self._cut: tuple[PageRows, list[Part], Pieces] | None = None
        self._owned: int | None = None
        """The frame of which it was asked who has it."""
        self.cell_pages: int | None = None
        """How large a cell is to be; None for what makes all fit."""
        self.is_following = self.is_open = False
        """Whether the cursor goes to what changes; whether what it is on is shown where there is little room."""
        self.top = 0
        self.rows: PageRows | None = None
        self._moment: MapMoment | None = None
        self._fitted: PageRows | None = None
        self._laid: tuple[object, ...] = ()
        self._laid_of: object = None
        """Of what rows were laid out; held, so that nothing else has its id()."""
        self._counted: tuple[tuple[object, ...], CellCounts] | None = None
        self.painted: Painted | None = None
        """The cells that are in sight."""
        self._drawn: tuple[str, Words, Any, Strokes] | None = None
        self._fading = Fading()
        self._anchor: int | None = None
        """In which row of the screen the cursor is to stay."""
        self._shown_cursor: Place | None = None
        self._followed: float | None = None
        self._height = 1
        self._left = 0
        self._rested: tuple[int, float] | None = None
        self._asked: tuple[int, float] | None = None
        self._asked_for: tuple[str, float] | None = None
        """Of which look what its palette takes was asked for."""

    # What is looked at

    def moment(self) -> MapMoment:
        """Return the process at the moment that is looked at; one that has ended as it was last.

        Raises:
            NotSupported: there is none, or single pages are not known.
        """
        viewing = self.viewing
        timeline, focus = viewing.closely, viewing.focus
        if focus is None:
            raise NotSupported("a map of nobody", "a process")
        at = viewing.now(timeline)
        if timeline is None or at is None:
            raise NotSupported("the map", f"a first look at process {focus[0]}")
        seen, elapsed = self._seen(at)
        before = self._moment
        if before and before.timeline is timeline and before.elapsed == elapsed and before.seen is seen:
            return before
        is_same = before is not None and before.timeline is timeline and before.seen.pid == seen.pid
        self._moment = MapMoment(
            timeline, elapsed, seen, viewing.page_size, before if is_same else None, lambda: viewing.nodes
        )
        return self._moment

    def _seen(self, at: float) -> tuple[Seen, float]:
        timeline, focus = self.viewing.closely, self.viewing.focus
        assert timeline is not None
        times = timeline.times
        index = int(np.searchsorted(np.array(times), at, "right")) - 1
        for number in range(index, max(index - LOOKED_BACK, -1), -1):
            if self._moment and self._moment.timeline is timeline and self._moment.elapsed == times[number]:
                return self._moment.seen, times[number]
            for one in timeline.at(times[number]).found.seen:
                if (one.pid, one.start_time) == focus:
                    return one, times[number]
        last = self._moment
        if last and last.timeline is timeline and last.elapsed <= at and focus == (last.seen.pid, last.seen.start_time):
            return last.seen, last.elapsed
        assert focus is not None
        raise NotSupported(
            f"the map of process {focus[0]} at this moment", "[ or ] to another moment, or 1 to another process"
        )

    def _changed(self, moment: MapMoment) -> Words:
        """Return which pages are marked: since the moment before, or since that which is compared with."""
        viewing, times = self.viewing, moment.timeline.times
        if viewing.compared is not None:
            other = viewing.compared - viewing.shift(moment.timeline)
            return moment.changed(min(max(other, times[0]), times[-1]))
        index = int(np.searchsorted(np.array(times), moment.elapsed)) - 1
        return moment.changed(times[index] if index >= 0 else moment.elapsed)

    def _more(self, moment: MapMoment) -> Any:
        """Return what the palette takes besides, as far as that is asked for and known: of the newest look alone."""
        viewing, palette = self.viewing, self.viewing.palette
        if palette not in ASKS or viewing.ask is None or not viewing.is_live:
            return None
        if palette == "node" and not moment.takes_frames:
            return None
        asked = palette, moment.elapsed
        if self._asked_for != asked and moment.elapsed == moment.timeline.times[-1]:
            self._asked_for = asked
            viewing.ask(palette, ASKS[palette](moment.seen.pid), is_each_time=True)
        found: tuple[float, Any] | None = viewing.answer(palette)
        # While the answer about a new look is waited for, that about the one before.
        is_meant = found is not None and (viewing.at is None or found[0] == moment.elapsed)
        return found[1] if found and is_meant else None

    # Drawing

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return what is seen, the cells with what explains them."""
        try:
            moment = self.moment()
        except Error as error:
            return sentence(self._why(error), width, height)
        side = next((columns for least, columns in SIDES if width >= least), 0)
        body = max(height - (1 if height >= 3 else 0) - (1 if height >= 5 else 0), 1)
        is_brief = not side and body >= 6
        opened = min(2 * body // 3, 24) if self.is_open and is_brief else 0
        body -= opened or is_brief
        self._lay_out(moment, width - side - bool(side), body)
        self._follow(moment)
        self._scroll(body)
        drawn = list(self._cells(moment, body))
        cursor = self._cursor(moment)
        if side:
            drawn = self._beside(drawn, cursor, moment, width, body, side)
        drawn = drawn[:body] + [[] for _ in range(body - len(drawn))]
        rows = [self._head(moment, width), *drawn] if height >= 3 else drawn
        if opened:
            rows += self._below(cursor, moment, width, opened)
        elif is_brief:
            rows.append(brief_row(cursor, self._page, moment, width))
        if height >= 5 and self.painted:
            rows.append(legend_row(self.painted, self.viewing.palette, moment.page_size, width))
        return rows[:height]

    def _why(self, error: Error) -> str:
        """Return why there is nothing to see, and what to do."""
        viewing = self.viewing
        if viewing.focus is None:
            return NOBODY
        if viewing.closely is None or not viewing.closely.times:
            return f"looking at the pages of process {viewing.focus[0]} ..."
        return str(error)

    def _head(self, moment: MapMoment, width: int) -> Row:
        """Return of whom this is, how much there is, and how much a cell is: as much as there is room for."""
        rows, size = self.rows, moment.page_size
        assert rows is not None
        who: Row = [(f" {name_cell(moment.seen.name, 24).rstrip()} ", "title"), (f"{moment.seen.pid} ", "muted")]
        present: Row = [(f" {format_size(moment.nr_present * size)}", "text"), (" present", "muted")]
        space: Row = [(" of ", "muted"), (format_size(moment.space.nr_pages * size), "text")]
        vmas: Row = [(f" in {number_of(len(moment.vmas.items), 'VMA')}", "muted")]
        pages = f", {number_of(rows.cell_pages, 'page')}" if rows.cell_pages > 1 else ", a page"
        a_cell: Row = [(f"  a cell is {format_size(rows.cell_pages * size)}", "text")]
        in_pages: Row = [(pages, "text")]
        last = min(self.top + self._height, rows.nr_rows)
        place = "all" if rows.nr_rows <= self._height else f"row {self.top + 1:,} to {last:,} of {rows.nr_rows:,}"
        following = ", following" if self.is_following else ""
        right: Row = [(f"  {place}{following} · {self.viewing.palette} ", "muted")]
        forms = (
            [*who, *present, *space, *vmas, *a_cell, *in_pages],
            [*who, *present, *space, *a_cell, *in_pages],
            [*who, *present, *a_cell, *in_pages],
            [*who, *a_cell, *in_pages],
            [*who, *a_cell],
        )
        room = width - width_of_row(right)
        left = next((form for form in forms if width_of_row(form) <= room), None)
        return fitted(forms[-1], width) if left is None else [*fitted(left, room), *right]

    def _lay_out(self, moment: MapMoment, width: int, height: int) -> None:
        """Lay the space out in rows, unless they are the same."""
        self._margin = margin_of(width)
        left = sum(self._margin) + 1
        columns = max((width - left - 1) // 8 * 8, MARK + 1)
        if columns > width - left - 1 and width > MARK:
            columns = max(width - left - 1, MARK)
        self._height, self._left = height, left
        laid = (id(moment.space), columns, height, self.cell_pages)  # of VMAs that lie elsewhere it is another
        if laid == self._laid:
            return
        names = moment.vmas.names
        self._fitted = rows_that_fit(moment.space, names, columns, height, self._fitted)
        if self.cell_pages is not None and self.cell_pages >= self._fitted.cell_pages:
            self.cell_pages = None
        if self.cell_pages is None:
            self.rows = self._fitted
        else:
            self.rows = PageRows(moment.space, names, self.cell_pages, columns, is_dense=False)
        self._laid = (*laid[:3], self.cell_pages)
        self._laid_of = moment.space
        self._counted = self._drawn = None

    def _follow(self, moment: MapMoment) -> None:
        """Go to where most has changed, once a moment."""
        assert self.rows is not None
        if self.viewing.address is None:
            largest = self.viewing.largest()
            word = next(word for word, nr_cells in enumerate(self.rows.cells) if nr_cells or self.rows.has_mark[word])
            self.viewing.address = self.rows.page_of((word, 0)) * moment.page_size if largest is None else largest
        if self.is_following and self._followed != moment.elapsed:
            self._followed = moment.elapsed
            page = self.rows.most_of(self._changed(moment))
            if page is not None:
                self._go(page)

    @property
    def _page(self) -> int:
        """The page that the cursor is on."""
        return (self.viewing.address or 0) // self.viewing.page_size

    def _go(self, page: int) -> None:
        self.viewing.address = page * self.viewing.page_size
        self._rested = None

    def _scroll(self, height: int) -> None:
        """Have the cursor in sight, in the row where it was, if need be."""
        assert self.rows is not None
        row = self.rows.where(self.rows.place_of(self._page))[0]
        if self._anchor is not None:
            self.top = row - self._anchor
            self._anchor = None
        self.top = max(min(self.top, row, self.rows.nr_rows - height), row - height + 1, 0)

    def _cells(self, moment: MapMoment, height: int) -> Iterator[Row]:
        """Yield the rows of cells that are in sight."""
        rows = self.rows
        assert rows is not None
        shown = [rows.row(number) for number in range(self.top, min(self.top + height, rows.nr_rows))]
        strokes = self._strokes(moment, shown)
        here = rows.place_of(self._page)
        slot = 0
        for parts in shown:
            row = self._margin_of(parts, moment, here)
            for number, (word, first, end, is_marked) in enumerate(parts):
                spans = strokes.spans(slot, slot + end - first)
                if word == here[0] and first <= here[1] < end:
                    spans = with_cursor(spans, here[1] - first)
                row += spans
                slot += end - first
                if is_marked:
                    role = "text+cursor" if here == (word, rows.cells[word]) else "muted"
                    gap = int(rows.segments.word_gaps[word])
                    text = f"[{brief_size(gap * moment.page_size)}]"
                    row += [(text, role), (" " * (MARK - len(text)), "text")]
                elif number + 1 < len(parts):
                    row.append(("│", "muted"))
            yield row

    def _pieces(self, rows: PageRows, parts: list[Part]) -> Pieces:
        """Return what the cells in sight are made of: as long as they are the same, the same."""
        if self._cut is None or self._cut[0] is not rows or self._cut[1] != parts:
            pieces = rows.segments.pieces(*([part[index] for part in parts] for index in (0, 1, 2)))
            self._cut = rows, parts, pieces
        return self._cut[2]

    def _strokes(self, moment: MapMoment, shown: list[list[Part]]) -> Strokes:
        """Return the cells in sight as they are painted."""
        rows, palette = self.rows, self.viewing.palette
        assert rows is not None
        changed, more = self._changed(moment), self._more(moment)
        moment.accessed = more if palette == "accessed" else None
        moment.frames = more if palette == "node" else None
        key = (moment, rows, self.top, len(shown))
        if self._counted is None or self._counted[0] != key:
            parts = [part for row in shown for part in row]
            pieces = self._pieces(rows, parts)
            self._counted, self._drawn = (key, moment.count(pieces)), None
        drawn = self._drawn
        if drawn is None or drawn[0] != palette or drawn[1] is not changed or drawn[2] is not more:
            counts = self._counted[1]
            self.painted = PAINTERS[palette](counts, moment)
            is_changed = counts.pieces.numbers(changed) > 0
            faded = self._fading.after(moment.elapsed, counts.pieces, is_changed)
            strokes = Strokes(self.painted, is_changed, faded)
            self._drawn = drawn = palette, changed, more, strokes
        return drawn[3]

    def _margin_of(self, parts: list[Part], moment: MapMoment, here: Place) -> Row:
        """Return the name of what begins in a row, and its address."""
        rows, (name_width, address_width) = self.rows, self._margin
        assert rows is not None
        if not address_width:
            return [(" ", "text")]
        is_here = any(
            word == here[0] and (first <= here[1] < end or (is_marked and here[1] >= end))
            for word, first, end, is_marked in parts
        )
        word, first, end, _ = parts[0]
        name = self._name_of(parts, moment) if first == 0 and end > first else ""
        address = format_address(rows.page_of((word, first)) * moment.page_size) if end > first else ""
        row: Row = [("▸" if is_here else " ", "title")]
        # The address of [vsyscall] is the longest: what it takes more, the name takes less.
        name_width -= len(address) - ADDRESS if address and name_width else 0
        if name_width:
            row.append((name_cell(shorten(name, name_width - 1), name_width), "title" if is_here else "text"))
        row.append((f"{address:<{address_width - 1}} ", "text" if is_here else "muted"))
        return row

    def _name_of(self, parts: list[Part], moment: MapMoment) -> str:
        """Return what the VMAs of a row are called: the first, and how many others there are."""
        assert self.rows is not None
        segments = self.rows.segments
        low = int(segments.word_segments[parts[0][0]])
        high = int(segments.word_ends[parts[-1][0]])
        vmas = segments.vmas[low:high]
        nr_others = len(np.unique(moment.vmas.names[vmas])) - 1
        more = f" +{nr_others:,}" if nr_others else ""
        return shorten(moment.vmas.name(int(vmas[0])), self._margin[0] - 1 - len(more)) + more

    # What the cursor is on

    def _cursor(self, moment: MapMoment) -> Cursor:
        rows = self.rows
        assert rows is not None
        word, number = rows.place_of(self._page)
        ranges = tuple(rows.segments.ranges(word, number))
        if number >= rows.cells[word]:
            return Cursor(ranges, True, {}, 0)
        pieces = rows.segments.pieces([word], [number], [number + 1])
        counts = moment.count_few(pieces).classes[0].tolist()
        nr_changed = int(pieces.numbers(self._changed(moment))[0])
        return Cursor(ranges, False, dict(zip(CLASSES, counts, strict=True)), nr_changed)

    def _beside(
        self, drawn: list[Row], cursor: Cursor, moment: MapMoment, width: int, height: int, side: int
    ) -> list[Row]:
        """Return rows of cells with what the cursor is on beside them."""
        room = width - side - 1
        explained = self._explained(cursor, moment, side - 1, height)
        drawn = drawn + [[] for _ in range(height - len(drawn))]
        pairs = zip(drawn, explained, strict=True)
        return [[*fitted(row, room), ("│", "muted"), (" ", "text"), *other] for row, other in pairs]

    def _below(self, cursor: Cursor, moment: MapMoment, width: int, height: int) -> list[Row]:
        """Return rows of what the cursor is on below the cells; where there is room its page beside it."""
        line: Row = [("─" * width, "muted")]
        if width < 2 * LEAST_HALF:
            return [line, *self._explained(cursor, moment, width, height - 1)]
        half = width // 2
        page = self._page if cursor.holds(self._page) else cursor.page
        parts = (
            list(cell_rows(cursor, page, moment, half - 2)),
            [] if cursor.is_folded else [*page_rows(page, moment, half - 1), *self._found(page, moment, half - 1)],
        )
        left, right = (cut_to(part, height - 1) for part in parts)
        return [
            line,
            *([(" ", "text"), *fitted(one, half - 1), *other] for one, other in zip(left, right, strict=True)),
        ]

    def _explained(self, cursor: Cursor, moment: MapMoment, width: int, height: int) -> list[Row]:
        """Return all that is known of what the cursor is on."""
        page = self._page if cursor.holds(self._page) else cursor.page
        rows = list(cell_rows(cursor, page, moment, width))
        if not cursor.is_folded:
            rows += [[], *page_rows(page, moment, width), *self._found(page, moment, width)]
        return [fitted(row, width) for row in cut_to(rows, height)]

    def _found(self, page: int, moment: MapMoment, width: int) -> Iterator[Row] | list[Row]:
        """Return what was found out of a page besides, once the cursor rests there."""
        viewing = self.viewing
        times = moment.timeline.times
        if not viewing.is_live or viewing.at is not None or moment.elapsed != times[-1]:
            what = "flags, map count" if moment.word(page) and moment.has_frames else "frame, flags"
            text = f"{what}, page tables, and who else has it: not recorded for this moment"
            return [[(line, "muted")] for line in fold(text, width)]
        now = time.monotonic()
        if self._rested is None or self._rested[0] != page:
            self._rested = page, now
        key = page, float(self._rested[1])
        if self._asked != key and now - self._rested[1] >= RESTS and viewing.ask:
            self._asked = key
            viewing.answers.pop("detail", None)
            viewing.ask("detail", detail_of(moment.seen.pid, page * moment.page_size))
        if why := viewing.why_not("detail") if self._asked == key else "":
            return [[(line, "muted")] for line in fold(why, width)]
        detail = viewing.answer("detail")
        if detail is None or detail.translation.address != page * moment.page_size:
            return [[("looking the page up ...", "muted")]]
        pfn = detail.translation.pfn
        if pfn is None or self._owned != pfn:
            hint: list[Row] = [] if pfn is None else [[], [("o: what the frame is, and who has it", "muted")]]
            return [*detail_rows(detail, moment, width), *hint]
        return list(detail_rows(detail, moment, width, asked_rows(viewing, width)))

    def _ask_for_owners(self) -> None:
        """Have it looked up what the frame of the page is, and who has it."""
        viewing = self.viewing
        detail = viewing.answer("detail")
        pfn = detail.translation.pfn if detail else None
        if pfn is None or viewing.ask_aside is None:
            viewing.said = viewing.why_not("detail") or why_no_frame(detail, viewing.is_live and viewing.at is None)
            return
        if viewing.ask_aside("owners", lambda timeline: timeline.owners(pfn)):
            self._owned = pfn

    # Keys and mouse

    def press(self, key: str) -> bool:
        """Do what a key means here."""
        viewing = self.viewing
        if key == "c":
            viewing.palette = PALETTES[(PALETTES.index(viewing.palette) + 1) % len(PALETTES)]
        elif key == "o":
            self._ask_for_owners()
        elif key in ("i", "enter"):
            self.is_open = not self.is_open if key == "i" else True
            self._asked = None
        elif key in ("escape", "backspace") and self.is_open:
            self.is_open = False
        elif key == "f":
            self.is_following = not self.is_following
            viewing.said = "the cursor goes to where most changes" if self.is_following else "the cursor stays"
        elif self.rows is None:
            return False
        elif key in ZOOMS:
            self.zoom(ZOOMS[key])
        elif key == "w":
            self.cell_pages = None
        else:
            return self._move(key, self.rows)
        return True

    def _move(self, key: str, rows: PageRows) -> bool:
        """Move the cursor as a key says; return whether it says so."""
        place = rows.place_of(self._page)
        pages = {"pageup": -self._height, "pagedown": self._height}
        if key in MOVES:
            place = rows.step(place, MOVES[key])
        elif key in ROW_MOVES or key in pages:
            row, column = rows.where(place)
            by = ROW_MOVES.get(key) or pages[key]
            if key in pages:
                self.top = max(min(self.top + by, rows.nr_rows - self._height), 0)
            place = rows.at(max(min(row + by, rows.nr_rows - 1), 0), column)
        elif key in ("home", "end"):
            last = len(rows.cells) - 1
            place = (0, 0) if key == "home" else (last, max(rows.cells[last] + rows.has_mark[last] - 1, 0))
        else:
            return False
        if place != rows.place_of(self._page):
            self._go(rows.page_of(place))
            self.is_following = False
        return True

    def zoom(self, by: int) -> None:
        """Make cells half as large with -1, twice as large with 1; what the cursor is on stays where it is."""
        rows = self.rows
        if rows is None:
            return
        self._anchor = rows.where(rows.place_of(self._page))[0] - self.top
        self.cell_pages = max(rows.cell_pages * 2 if by > 0 else rows.cell_pages // 2, 1)

    def _place_at(self, x: int, y: int) -> Place | None:
        """Return what is drawn at a place of the page."""
        row = self.top + y - 1
        if self.rows is None or not (0 < y <= self._height and row < self.rows.nr_rows) or x < self._left:
            return None
        return self.rows.at(row, x - self._left)

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Put the cursor where the click is; a second one shows the page."""
        if self.rows is not None and (place := self._place_at(x, y)):
            self._go(self.rows.page_of(place))
            self.is_open |= is_double

    def wheel(self, x: int, y: int, step: int) -> None:
        """Zoom to what is under the pointer, or away from it."""
        self.click(x, y, is_double=False)
        self.zoom(step)

    def search(self, text: str, step: int = 1) -> bool:
        """Go to an address, or to the next VMA whose name or path has a text."""
        moment = self._moment
        if moment is None:
            return False
        if (address := address_of(text)) is not None:
            index = moment.vmas.index_of(address // moment.page_size)
            if index is not None:
                self._go(address // moment.page_size)
            return index is not None
        items, wanted = moment.vmas.items, text.casefold()
        here = int(np.searchsorted(moment.vmas.firsts, self._page, "right")) - 1
        for away in range(1, len(items) + 1):
            index = (here + step * away) % len(items)
            if wanted in (items[index].vma.path or items[index].vma.kind).casefold():
                self._go(int(moment.vmas.firsts[index]))
                return True
        return False

    def command(self) -> str:
        """Return the command line that shows the same."""
        size = "" if self.cell_pages is None else f" --cell {self.cell_pages}"
        return f"mematlas map {self.viewing.target}{size}"


def margin_of(width: int) -> tuple[int, int]:
    """Return the columns of names and of addresses left of the cells, where there are so many for all of it.

    >>> margin_of(119), margin_of(50), margin_of(20)
    ((17, 15), (0, 15), (0, 0))
    """
    names = 17 if width >= 76 else 13 if width >= 58 else 0
    return (names, ADDRESS + 1) if width >= 36 else (0, 0)


def brief_size(size: int) -> str:
    """Return a size in at most five columns.

    >>> brief_size(4096), brief_size(1536 << 20), brief_size(1 << 40)
    ('4K', '1.50G', '1T')
    """
    return format_size(size).replace(" ", "").removesuffix("iB")


def address_of(text: str) -> int | None:
    """Return the address that a text is; None where it is none.

    >>> address_of("0x1000"), address_of("heap")
    (4096, None)
    """
    try:
        return int(text, 16) if text[:2] in ("0x", "0X") else None
    except ValueError:
        return None

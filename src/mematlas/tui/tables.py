"""The page tables of a process as a tree: what each translates, how full it is, and what lies below it."""

from __future__ import annotations

import time

from mematlas.errors import Error, NotSupported, TargetNotFound
from mematlas.model.address_space import parse_address
from mematlas.tui.drawing import sentence
from mematlas.tui.outline import ENTRY, LEAF, MOST_RAW, TABLE, Outline, OutlineList
from mematlas.tui.page import Page
from mematlas.tui.table_rows import TableRows, recorded_rows, summary_rows
from mematlas.tui.vma_names import VmaNames
from mematlas.views.format import format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mematlas.analysis.pagetables.results import MappedTables
    from mematlas.timeline.watch import Seen
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing

LEAST_PAUSE = 3.0
"""Seconds between two looks at all page tables, at the least."""
PART = 0.01
"""Of a core that looking at them may take."""
TABLES, RAW = "tables", "raw tables"
"""The names under which they are asked for."""
RIGHT, LEFT = ("right", "l", "+", "enter"), ("left", "h", "-", "backspace")
KEYS = (
    ("→ ←", "open, close"),
    ("*", "open all"),
    (".", "map's cursor"),
    ("m", "on map"),
    ("u", "update"),
)
DETAIL_HEIGHT = 12
"""Rows of a page from which on its last one explains that of the cursor."""
NO_PROCESS = "No process is looked at: 1 leads to all of them, Enter there chooses one."


class TablesPage(Page):
    """The page tables of a process."""

    name = "Tables"
    needs = "closely"

    def __init__(self, viewing: Viewing, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(viewing)
        self.outline = Outline()
        self.list = OutlineList(self.outline)
        self._clock = clock
        self._focus: tuple[int, int] | None = None
        """Of whom the tables are."""
        self._found: MappedTables | None = None
        self._found_at = 0.0
        self._asked_at: float | None = None
        self._is_asked = False
        """Whether an answer is waited for."""
        self._raw: object = None
        self._vmas = VmaNames(None)
        self._wanted = ""
        """What VMAs have in their name, of which alone tables are shown."""
        self._top = 0

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """What can be done: a recording has no tree."""
        return KEYS if self.viewing.is_live else ()

    # What is known

    def _begin(self) -> None:
        """Forget what was of another process."""
        self._focus = self.viewing.focus
        self.outline = Outline()
        self.list = OutlineList(self.outline)
        self._found, self._asked_at, self._raw, self._is_asked = None, None, None, False

    @property
    def pause(self) -> float:
        """Seconds between two looks: such that they take no more of a core than they may."""
        return max(LEAST_PAUSE, self._found.reading.duration_s / PART) if self._found else LEAST_PAUSE

    def _ask(self) -> None:
        """Have all tables read by the thread that looks."""
        viewing = self.viewing
        if viewing.ask is None or viewing.focus is None:
            return
        pid = viewing.focus[0]
        self._asked_at, self._is_asked = self._clock(), True
        viewing.answers.pop(TABLES, None)
        viewing.ask(TABLES, lambda timeline: timeline.tables(pid))

    def _ask_raw(self) -> None:
        """Have the entries read of the tables that are opened."""
        viewing = self.viewing
        if viewing.ask and viewing.focus and (addresses := self.outline.raw_opened):
            pid = viewing.focus[0]
            viewing.ask(RAW, lambda timeline: timeline.raw_tables(pid, addresses))

    def _follow(self) -> None:
        """Take what was answered; ask anew where that is long ago."""
        viewing = self.viewing
        if viewing.focus != self._focus:
            self._begin()
        answer: Any = viewing.answers.get(TABLES)
        if answer is not None and self._is_asked:
            self._is_asked = False
            if not isinstance(answer, Error):
                self._found, self._found_at = answer, self._clock()
                is_first = self.outline.tables is None
                self.outline.put(answer.map)
                if is_first:
                    self.outline.open_to(self.viewing.address or 0)
                self.list.follow()
                self._ask_raw()
        raw: Any = viewing.answers.get(RAW)
        if raw is not None and raw is not self._raw:
            self._raw = raw
            if not isinstance(raw, Error):
                self.outline.raw = raw
                self.outline.make()
                self.list.follow()
        is_due = self._asked_at is None or self._clock() - self._asked_at >= self.pause
        is_now = viewing.at is None and not viewing.is_frozen
        if not self._is_asked and is_due and (is_now or self._asked_at is None):
            self._ask()

    def _name_vmas(self, seen: Seen | None) -> None:
        vmas = seen.vmas if seen else None
        if vmas is None or vmas is self._vmas.vmas:
            return
        self._vmas = VmaNames(vmas)
        if self._wanted:
            self.filter(self._wanted)

    # What is drawn

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return the tree; of a recording, what there was on each level."""
        viewing = self.viewing
        if viewing.focus is None:
            return sentence(NO_PROCESS, width, height)
        if not viewing.is_live:
            return self._draw_recorded(width, height)
        self._follow()
        self._name_vmas(viewing.seen())
        if self._found is None:
            return sentence(self._why_nothing(), width, height)
        rows = [*summary_rows(self._found, self._age(), width), self._made().header(width)]
        if height <= len(rows) + 2:
            rows = rows[-1:] if height > 2 else []
        self._top = len(rows)
        has_detail = height >= DETAIL_HEIGHT
        room = height - len(rows) - has_detail
        made = self._made()
        rows += self.list.draw(room, width, lambda row: made.row(row, width))
        self.list.keep()
        rows += [[] for _ in range(height - len(rows) - has_detail)]
        if has_detail:
            here = self.list.current
            rows.append(made.detail(here, width) if here else [])
        return rows

    def _made(self) -> TableRows:
        assert self._found
        return TableRows(self._found, self.outline, self._vmas)

    def _age(self) -> str:
        """Return how old it is what is shown, and when it is looked at anew."""
        found = self._found
        assert found
        why = self.viewing.why_not(TABLES)
        ago = self._clock() - self._found_at
        text = "just now" if ago < 1 else f"{format_seconds(ago)} ago"
        took = f"read with {found.reading.origin.reader} in {format_seconds(found.reading.duration_s)}"
        if why:
            return f"{took}, {text}; no more: {why}"
        if self.viewing.at is not None or self.viewing.is_frozen:
            return f"{took}, {text}: earlier ones are not kept"
        return f"{took}, {text}, again every {format_seconds(self.pause)}"

    def _why_nothing(self) -> str:
        """Return why there are no tables to be seen, and what to type."""
        viewing = self.viewing
        why = viewing.why_not(TABLES)
        assert viewing.focus
        pid = viewing.focus[0]
        if not why:
            return f"Reading the page tables of process {pid} ..."
        from mematlas.doctor.hints import line_with_rights

        line = line_with_rights(["top", str(pid)])
        more = f"\n\nWith all rights: {line}" if line else ""
        return f"Page tables of process {pid} cannot be read: {why}{more}\n\nu tries again; 3 has what VMAs say."

    def _draw_recorded(self, width: int, height: int) -> Sequence[Row]:
        viewing = self.viewing
        timeline = viewing.closely
        at = viewing.now(timeline)
        if timeline is None or at is None or viewing.focus is None:
            return sentence("There is no moment to look at.", width, height)
        pid = viewing.focus[0]
        try:
            result = timeline.tables_at(at, pid)
        except NotSupported:
            why = f"Page tables of process {pid} are not recorded at this moment (record --what tables)."
            return sentence(why, width, height)
        except TargetNotFound as error:
            return sentence(str(error), width, height)
        return recorded_rows(result, width)[:height]

    # What keys do

    def press(self, key: str) -> bool:
        """Move, open and close, update."""
        here = self.list.current
        if not self.viewing.is_live:
            return False
        if key == "u":
            self._ask()
        elif key in RIGHT:
            self._into()
        elif key in LEFT:
            self._out()
        elif key == "*":
            if here:
                self.outline.open_all(here)
                self.list.follow()
        elif key == ".":
            self._go_to_cursor()
        elif key == "m" and here:
            self.viewing.address = here.address
            self.viewing.leads_to = "Map"
        elif self.list.press(key):
            self.list.keep()
        else:
            return False
        return True

    def _into(self) -> None:
        """Open what the cursor is on; where that is open, go on to the next row."""
        here = self.list.current
        if here is None:
            return
        if here.kind != TABLE or self.outline.is_opened(here):
            self.list.go_to(self.list.index + 1)
        else:
            self.outline.open(here)
            if here.level == self.outline.last_level:
                self._ask_raw()
                if len(self.outline.raw_opened) == MOST_RAW:
                    self.viewing.said = f"entries of the last {MOST_RAW} tables that were opened are shown"
        self._keep()

    def _out(self) -> None:
        """Close what the cursor is on; where that is closed, go to the table that it is in."""
        here = self.list.current
        if here is None:
            return
        if here.kind == TABLE and self.outline.is_opened(here):
            self.outline.close(here)
        else:
            self.list.go_to(self.outline.above(here))
        self._keep()

    def _keep(self) -> None:
        """Have the cursor stay on what it is on."""
        self.list.keep()
        self.list.follow()

    def _go_to_cursor(self) -> None:
        """Open the way to where the cursor of the map is."""
        address = self.viewing.address
        if address is None:
            self.viewing.said = "no place is chosen on the map, or in the list of VMAs"
        else:
            self._go_to(address)

    def _go_to(self, address: int) -> None:
        self.outline.open_to(address)
        self.list.follow()
        self.list.go_to(self.outline.place_of(len(self._modes()) + 1, address))
        self._keep()

    def _modes(self) -> Sequence[Any]:
        return self.outline.tables.levels if self.outline.tables else ()

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Put the cursor there; open or close what was clicked at twice."""
        if self.list.at_row(y - self._top):
            self.list.keep()
            here = self.list.current
            if is_double and here:
                (self._out if self.outline.is_opened(here) else self._into)()

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.list.scroll(step)
        self.list.keep()

    def search(self, text: str, step: int = 1) -> bool:
        """Go to an address, or to the next row in a VMA whose name has a text."""
        address = parse_address(text) if text.startswith("0x") else None
        if address is not None and self.outline.tables:
            self._go_to(address)
            return True
        place = self.outline.next_in(*self._vmas.spans_with(text), self.list.index, step)
        if place is None:
            return False
        self.list.go_to(place)
        self.list.keep()
        return True

    def filter(self, text: str) -> None:
        """Show only tables of VMAs whose name has a text."""
        from mematlas.arrays import np

        self._wanted = text
        self.outline.spans = np.array(self._vmas.spans_with(text), np.uint64) if text else None
        self.outline.make()
        self.list.follow()

    def command(self) -> str:
        """Return the command line that shows the same: of an entry, how its address is translated."""
        here = self.list.current if self.viewing.is_live else None
        if here and here.kind in (ENTRY, LEAF):
            return f"mematlas tables {self.viewing.target} {here.address:#x}"
        return f"mematlas tables {self.viewing.target}" + (" --tree" if self.viewing.is_live else "")

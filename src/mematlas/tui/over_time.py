"""Time: curves of what a process has, and what each of its VMAs had, with one cursor through both."""

from __future__ import annotations

from bisect import bisect_right

from mematlas.tui.bars import FILLS
from mematlas.tui.curves import CURVES, column, height_of, layers_of, runs
from mematlas.tui.drawing import cell, fitted, name_cell, sentence, width_of_row
from mematlas.tui.heat import MODES, RSS, SWAP, chosen, heat_of, is_use_known, legend_of, shaded, shares_of
from mematlas.tui.page import Page
from mematlas.tui.samples import Samples
from mematlas.tui.time_axis import TimeAxis
from mematlas.tui.waiting import why_no_process
from mematlas.views.format import format_seconds, format_size, number_of
from mematlas.views.picture import SHARED_ANON
from mematlas.views.tracks import NO_VMA, NOT_ACCESSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mematlas.analysis.results import VmaUsage
    from mematlas.timeline.timeline import Moments
    from mematlas.timeline.watch import Happening
    from mematlas.tui.drawing import Row
    from mematlas.tui.heat import Heat, Table
    from mematlas.tui.samples import Amounts, RowKey
    from mematlas.tui.viewing import Viewing

BEGIN = 45.0
"""Seconds in sight at first, of a live process."""
PER_DRAW = 0.06
"""Seconds that adding up VMAs may take each time that all is drawn: what is left is done the next time."""
LEAST_GUTTER, MOST_GUTTER = 15, 30
AMOUNT = 9
"""Columns of the amounts on the right, with the blank before them."""
WIDE = 100
"""Columns from which on there are two blanks between amounts."""
LEAST_HEAT = 6
"""Rows that the heatmap takes at the least: its legend, three of VMAs, and what is not shown."""
MOST_CURVE = 14
LETTERS = {"exec": "E", "exit": "X", "hidden": "H", "held": "C"}
DELETED = " (deleted)"
"""What the kernel writes behind the path of a file that has none any more."""
WITH_KIND = 18
"""Columns from which on a label has room for the kind and an address."""
FAR = 10
"""Columns that the page keys move by."""


class TimePage(Page):
    """One process over time."""

    name = "Time"
    needs = "closely"
    keys = (
        ("← →", "moment"),
        ("↑ ↓", "VMA"),
        ("+ -", "zoom"),
        ("c", "curves"),
        ("v", "shades"),
        ("Enter", "map"),
        ("End", "newest"),
    )

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.axis = TimeAxis()
        self.curves = next(iter(CURVES))
        self.mode = next(iter(MODES))
        self._samples: Samples | None = None
        self._rows: list[int] = []
        """The numbers of the rows in sight."""
        self._row: int | None = None
        """That which the cursor is on."""
        self._address: int | None = None
        self._events: tuple[object, list[tuple[float, Happening]]] = (None, [])
        self._left = 0
        self._gutter = LEAST_GUTTER
        self._heat_top = 0

    # What there is

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return the curves, the axis, and the heatmap below it."""
        samples = self._sampled()
        if samples is None or not samples.times:
            return sentence(why_no_process(self.viewing), width, height)
        times = samples.times
        at = self._at(samples)
        self._gutter = min(max(width // 6, LEAST_GUTTER), MOST_GUTTER) if width >= 60 else min(LEAST_GUTTER, width // 3)
        right = AMOUNT if width >= 60 else 0
        columns = max(width - self._gutter - right - 1, 1)
        if not self.axis.step:
            held = times[-1] - times[0]
            self.axis.fit(BEGIN if self.viewing.is_live else held, columns)
        is_newest = self.viewing.at is None
        left = self._left = self.axis.place(columns, times[0], times[-1], None if is_newest else at)
        moments = [samples.moment(*self.axis.span(number)) for number in range(left - 1, left + columns)]
        here = self.axis.number(at) - left
        amounts = self._amounts(samples, moments[1:])
        now = samples.amounts([at])[0]
        if all(value is None for value in now.values()) and not any(amounts):
            return sentence(why_no_process(self.viewing), width, height)
        rows: list[Row] = [fitted(self._title(samples, at, columns, width), width)] if height > 4 else []
        if height > 3:
            rows.append(fitted(self._amounts_row(now, width), width))
        room = height - len(rows)
        curve_height = room - 1 if room < LEAST_HEAT + 5 else min(max(room // 3, 4), MOST_CURVE)
        rows += self._curve_rows(amounts, here, max(curve_height, 1))
        if room > 1:
            rows += self._axis_rows(samples, left, columns, here)
        if height - len(rows) >= LEAST_HEAT - 1:
            self._heat_top = len(rows)
            rows += self._heat_rows(samples, moments, at, here, width, height - len(rows))
        else:
            self._rows = []
        return [fitted(row, width) for row in rows[:height]]

    def _timeline(self) -> Moments | None:
        """Return the timeline that has the process: that which looks at it closely, or that of everybody until then."""
        closely = self.viewing.closely
        return closely if closely is not None and closely.times else self.viewing.everybody

    def _sampled(self) -> Samples | None:
        """Return what is known of the process so far."""
        timeline, who = self._timeline(), self.viewing.focus
        if timeline is None or who is None:
            return None
        if self._samples is None or self._samples.timeline is not timeline or self._samples.who != who:
            self._samples = Samples(timeline, who)
            self._row = None
        self._samples.look()
        return self._samples

    def _at(self, samples: Samples) -> float:
        """Return the moment that is looked at, by the clock of the timeline."""
        at = self.viewing.now(samples.timeline)
        found = None if at is None else samples.at_or_before(at)
        return samples.times[-1] if found is None else found

    def _amounts(self, samples: Samples, moments: Sequence[float | None]) -> list[Amounts | None]:
        """Return what the process had in each column; None where nobody looked, or it was not there."""
        known = [at for at in moments if at is not None]
        found = dict(zip(known, samples.amounts(known), strict=True))
        every = [None if at is None else found[at] for at in moments]
        return [one if one and any(value is not None for value in one.values()) else None for one in every]

    def _vmas(self, samples: Samples) -> list[VmaUsage]:
        """Return the VMAs at the moment that is looked at."""
        moment = self.viewing.moment(samples.timeline)
        seen = moment.found.seen if moment else ()
        return next((one.vmas or [] for one in seen if (one.pid, one.start_time) == samples.who), [])

    # What is drawn

    def _title(self, samples: Samples, at: float, columns: int, width: int) -> Row:
        viewing = self.viewing
        seen = viewing.seen()
        row: Row = [(f" {name_cell(seen.name, min(len(seen.name), 24))}" if seen else " process", "title")]
        row += [(f" {samples.who[0]}", "muted"), (f" · {self.curves}", "text")]
        row.append((f" · {format_seconds(columns * self.axis.step)} in sight", "muted"))
        clock = at + viewing.shift(samples.timeline)
        is_newest = at == samples.times[-1]
        right: Row = [("at ", "muted"), (f"{clock:.1f} s", "title"), (", the newest " if is_newest else " ", "muted")]
        room = width - width_of_row(row) - width_of_row(right)
        return (
            [*row, (" " * room, "text"), *right]
            if room > 0
            else [*fitted(row, width + room - 1), (" ", "text"), *right]
        )

    def _amounts_row(self, now: Amounts, width: int) -> Row:
        """Return what the process has at the cursor, with what fills its curves, and what else there is room for."""
        shown = CURVES[self.curves]
        row: Row = [(" ", "text")]
        size = 10 if width >= WIDE else 9
        for measure, role, word in shown:
            row += [(FILLS[role], role), (f" {word} ", "muted"), (f"{text_of(now[measure]):<{size}}", "title")]
        for measure in ("rss", "uss", "pss", "swap"):
            if measure not in [one[0] for one in shown]:
                word = measure if measure == "swap" else measure.upper()
                more: Row = [(f"{word} ", "muted"), (text_of(now[measure]), "text")]
                if width_of_row(row) + width_of_row(more) > width:
                    break
                row += [more[0], (f"{more[1][0]:<{size}}", "text")]
        row[-1] = (row[-1][0].rstrip(), row[-1][1])  # blanks that have no room would be cut with a mark
        return row

    def _curve_rows(self, amounts: Sequence[Amounts | None], here: int, height: int) -> list[Row]:
        """Return the curves, the highest row first, with their scale."""
        layers = [layers_of(self.curves, one) for one in amounts]
        scale = max((top for one in layers if (top := height_of(one)) is not None), default=0.0)
        cells = [column(one, scale, height) for one in layers]
        labels = {height - 1: format_size(int(scale)), 0: "0"} if scale else {0: "0"}
        if height >= 8 and scale:
            labels[height // 2 - 1] = format_size(int(scale / height * (height // 2)))
        rows = []
        for level in range(height - 1, -1, -1):
            label = cell(labels.get(level, "") if height > 1 else format_size(int(scale)), self._gutter - 1, right=True)
            line = [one[level] for one in cells]
            rows.append([(label + " ", "muted"), *runs(line, marking(here))])
        return rows

    def _axis_rows(self, samples: Samples, left: int, columns: int, here: int) -> list[Row]:
        """Return the row of times, and one of what has happened, if anything has."""
        shift = self.viewing.shift(samples.timeline)
        line = [" "] * columns
        for place, text in self.axis.ticks(left, shift):
            words = f"╵{text}"
            if place + len(words) <= columns:
                line[place : place + len(words)] = words
        row: Row = [(" " * self._gutter, "text"), *runs([(mark, "muted") for mark in line], marking(here))]
        events = self._event_row(samples, left, columns)
        return [row, events] if events else [row]

    def _event_row(self, samples: Samples, left: int, columns: int) -> Row:
        """Return what has happened in the columns in sight, each below its own."""
        key = (samples, len(samples.times), samples.times[-1])
        if self._events[0] != key:
            self._events = key, samples.timeline.events(samples.who)
        line: list[tuple[str, str]] = [(" ", "text")] * columns
        is_any = False
        for at, one in self._events[1]:
            place = self.axis.number(at) - left
            if not 0 <= place < columns:
                continue
            is_any = True
            words = f"{LETTERS.get(one.kind, '!')} {one.kind}: {one.text}"
            words = name_cell(words, min(len(words), columns - place))
            line[place : place + len(words)] = [(mark, "muted") for mark in words]
            line[place] = (words[0], "bad")
        return [(cell("happened", self._gutter - 1, right=True) + " ", "muted"), *runs(line)] if is_any else []

    def _heat_rows(
        self, samples: Samples, moments: Sequence[float | None], at: float, here: int, width: int, height: int
    ) -> list[Row]:
        """Return the VMAs over time, below what the shades mean."""
        known = [moment for moment in reversed(moments) if moment is not None]
        nr_left = samples.fill([at, *known], PER_DRAW)
        if not samples.has_vmas:
            return self._no_vmas(width, height)
        heat = heat_of([samples.fold(moment) for moment in moments])
        shares = shares_of(heat, self.mode, self.viewing.page_size)
        if self.mode == "accessed" and not is_use_known(heat):
            return [[], [(" " + NOT_ACCESSED, "muted")], [(" v shows something else", "muted")]]
        most = height - 1
        places = chosen(heat, shares, self.mode, most if len(heat.rows) <= most else most - 1)
        order = sorted(places.tolist(), key=lambda place: samples.starts[heat.rows[place]])
        self._rows = [int(heat.rows[place]) for place in order]
        self._point_at_row(samples)
        rows: list[Row] = [self._legend(nr_left, len(known), width)]
        for place, number in zip(order, self._rows, strict=True):
            rows.append(self._heat_row(samples, heat, shares, place, number, here, width))
        if len(places) < len(heat.rows):
            rows.append(self._more(heat, set(places.tolist()), here))
        return rows

    def _no_vmas(self, width: int, height: int) -> list[Row]:
        """Return why there is no heatmap."""
        self._rows = []
        text = NO_VMA
        if self.viewing.is_live:
            text = (
                "its VMAs are seen once it is looked at closely, which takes the rights of its user, or those of root"
            )
        return sentence(text, width, height)

    def _heat_row(
        self, samples: Samples, heat: Heat, shares: Table, place: int, number: int, here: int, width: int
    ) -> Row:
        room = self._gutter - 2
        label = name_cell(label_of(samples.keys[number], samples.starts[number], room >= WITH_KIND), room)
        role = "title+cursor" if number == self._row else "text"
        row: Row = [(" " + label, role), (" ", "text")]
        row += runs(shaded(heat, shares, place, self.mode)[1:], marking(here))
        if width >= 60 and 0 <= here + 1 < heat.sums.shape[2] and heat.is_done[here + 1]:
            amount = heat.sums[RSS, place, here + 1]
            row.append((cell("-" if amount != amount else format_size(int(amount)), AMOUNT, right=True), "muted"))
        return row

    def _legend(self, nr_left: int, nr: int, width: int) -> Row:
        """Return what the shades mean; or how far adding up has come."""
        what, short, role, _ = MODES[self.mode]
        steps: Row = []
        for mark, word in legend_of(self.mode):
            steps += [(mark, role), (f" {word}  ", "muted")]
        if self.mode in ("present", "level"):
            steps += [("s", "swapped"), (" more in swap", "muted")]
        if nr_left:
            steps = [(f"{nr - nr_left:,} of {number_of(nr, 'column')} so far", "muted")]
        room = width - AMOUNT - 4 - width_of_row(steps)
        row: Row = [(f" {what if len(what) <= room else short}  ", "title"), *steps]
        if width >= 60:
            row = [*fitted(row, width - AMOUNT - 1), (cell("RSS", AMOUNT, right=True), "muted")]
        return row

    def _more(self, heat: Heat, shown: set[int], here: int) -> Row:
        """Return how much is not shown."""
        rest = [place for place in range(len(heat.rows)) if place not in shown]
        text = f" and {len(rest):,} more"
        if 0 <= here + 1 < heat.sums.shape[2]:
            held = heat.sums[RSS, rest, here + 1].sum() + heat.sums[SWAP, rest, here + 1].sum()
            text += f", with {'-' if held != held else format_size(int(held))} together"
        return [(text, "muted")]

    # The cursor

    def _point_at_row(self, samples: Samples) -> None:
        """Have the cursor on the row that the address is in which all pages look at."""
        address = self.viewing.address
        if address == self._address:
            return
        self._address = address
        vmas = self._vmas(samples)
        if address is None or not vmas:
            return
        place = bisect_right(vmas, address, key=lambda item: item.start) - 1
        if place >= 0 and address < vmas[place].end:
            self._row = samples.row_of(vmas[place])

    def _move_row(self, step: int) -> None:
        """Put the cursor on another row, and the address that all pages look at into its first VMA."""
        samples = self._samples
        if not self._rows or samples is None:
            return
        place = (
            self._rows.index(self._row) + step if self._row in self._rows else 0 if step > 0 else len(self._rows) - 1
        )
        self._row = number = self._rows[max(min(place, len(self._rows) - 1), 0)]
        key = samples.keys[number]
        first = next((item for item in self._vmas(samples) if samples.row_of(item) == number), None)
        self._address = self.viewing.address = samples.starts[number] if first is None else first.start
        if first is None:
            self.viewing.said = f"{label_of(key, samples.starts[number])} is not there at this moment"

    def _move(self, step: int) -> None:
        """Look at the moment of another column: the next that has one."""
        samples = self._samples
        if samples is None or not samples.times or not self.axis.step:
            return
        number = self.axis.number(self._at(samples)) + step
        if step < 0:
            at = samples.at_or_before(self.axis.span(number + 1)[0] - 1e-6)
            at = samples.times[0] if at is None else at
        else:
            first = samples.after(self.axis.span(number)[0])
            at = samples.times[-1]
            if first is not None:
                at = samples.at_or_before(self.axis.span(self.axis.number(first) + 1)[0] - 1e-6) or at
        self._look_at(samples, at)

    def _look_at(self, samples: Samples, at: float) -> None:
        """Look at a moment; at the newest as it comes, unless all is frozen."""
        viewing = self.viewing
        is_newest = at >= samples.times[-1] and not viewing.is_frozen
        viewing.at = None if is_newest else at + viewing.shift(samples.timeline)

    # Keys and mouse

    def press(self, key: str) -> bool:
        """Move in time and among VMAs, zoom, or show something else."""
        samples = self._samples
        if key in ("left", "h", "right", "l"):
            self._move(-1 if key in ("left", "h") else 1)
        elif key in ("pageup", "pagedown"):
            self._move(-FAR if key == "pageup" else FAR)
        elif key in ("up", "k", "down", "j"):
            self._move_row(-1 if key in ("up", "k") else 1)
        elif key in ("home", "end"):
            if samples is not None and samples.times:
                self._look_at(samples, samples.times[0 if key == "home" else -1])
        elif key in ("+", "-", "="):
            self._zoom(-1 if key == "-" else 1)
        elif key == "c":
            self.curves = next_of(list(CURVES), self.curves)
        elif key == "v":
            self.mode = next_of(list(MODES), self.mode)
        elif key == "enter":
            self.viewing.leads_to = "Map"
        else:
            return False
        return True

    def _zoom(self, by: int) -> None:
        samples = self._samples
        if samples is None or not samples.times or not self.axis.step:
            return
        at = None if self.viewing.at is None else self._at(samples)
        if not self.axis.zoom(by, samples.times[0], samples.times[-1], at):
            self.viewing.said = "no less time than this" if by > 0 else "that is all that there is"

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Look at the moment of a column, and at the VMA of a row."""
        samples = self._samples
        if samples is None or not samples.times or not self.axis.step:
            return
        row = y - self._heat_top - 1
        if self._heat_top and 0 <= row < len(self._rows):
            self._row = None if row else self._rows[0]
            if row:
                self._row = self._rows[row - 1]
                self._move_row(1)
            else:
                self._move_row(0)
        place = x - self._gutter
        if 0 <= place < self.axis.width:
            at = samples.moment(*self.axis.span(self._left + place))
            if at is not None:
                self._look_at(samples, at)
        if is_double:
            self.viewing.leads_to = "Map"

    def wheel(self, x: int, y: int, step: int) -> None:
        """Zoom."""
        self._zoom(-step)

    def search(self, text: str, step: int = 1) -> bool:
        """Go to the next VMA in sight whose name has a text."""
        samples = self._samples
        if samples is None or not self._rows:
            return False
        here = self._rows.index(self._row) if self._row in self._rows else -1
        nr = len(self._rows)
        for away in range(1, nr + 1):
            place = (here + step * away) % nr
            kind, path, _ = samples.keys[self._rows[place]]
            if text.casefold() in f"{kind} {path}".casefold():
                self._row = self._rows[place]
                self._move_row(0)
                return True
        return False

    def command(self) -> str:
        """Return the command line that shows the same."""
        viewing = self.viewing
        if viewing.is_live:
            return f"mematlas report -d 60s {viewing.target} heatmap"
        of = "" if self.mode == "level" else f" --of {self.mode}"
        return f"mematlas report {viewing.place} heatmap{of}"


def marking(here: int) -> Callable[[int, str], str]:
    """Return what marks the column of the cursor."""
    return lambda place, role: f"{role}+cursor" if place == here else role


def text_of(value: int | None) -> str:
    """Return an amount; ``-`` where it is not known."""
    return "-" if value is None else format_size(value)


def next_of(names: list[str], name: str) -> str:
    """Return the name after another, round the end."""
    return names[(names.index(name) + 1) % len(names)]


def label_of(key: RowKey, start: int, with_kind: bool = True) -> str:
    """Return what to call a row: by the last part of its path, or its kind and where it begins.

    >>> label_of(("file", "/usr/lib/libc.so.6", 7), 4096), label_of(("shmem", "/dev/zero (deleted)", 7), 0x7F0000001000)
    ('libc.so.6', 'shmem 7f0000001000')
    """
    kind, path, _ = key
    if path and path != SHARED_ANON:
        return path.removesuffix(DELETED).rsplit("/", 1)[-1] or path
    return f"{kind} {start:x}" if with_kind else f"{start:x}"

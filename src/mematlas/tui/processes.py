"""The processes: how much each uses, and how that has changed; as a list, as a tree, or in groups."""

from __future__ import annotations

from mematlas.analysis.listing import UNANSWERED, sum_known
from mematlas.frozen import record
from mematlas.model.processes import REFUSED
from mematlas.tui.drawing import bar, cell, fitted, name_cell, sentence, spark, width_of_row
from mematlas.tui.fitting import ListColumn, fit
from mematlas.tui.page import Page
from mematlas.tui.past import REACH, Past, moment_before
from mematlas.tui.process_lines import (
    CHANGE,
    FILE_OR_SHMEM,
    SIZES,
    Lines,
    group_of_process,
    place_of_line,
    user_of,
    what_of,
    words_of_kind,
)
from mematlas.tui.rows import Heading, RowList
from mematlas.views.format import format_change, format_path, format_size, format_span, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.timeline.sampler import Snapshot
    from mematlas.timeline.timeline import Amounts, Moments
    from mematlas.timeline.watch import Look, Seen
    from mematlas.tui.drawing import Row
    from mematlas.tui.process_lines import ProcessLine
    from mematlas.tui.viewing import Viewing

LIST, TREE, GROUPS = "list", "tree", "groups"
BY = ("name", "container", "unit", "user")
"""What groups are made by, one after the other."""
SINCE = 60.0
"""Seconds that the change is of, unless it is since another moment."""
JITTER = 2.0
"""Seconds by which looks may be off that."""
TEXTS = frozenset(("pid", "name", "user", "where"))
"""Columns that are sorted with the least first."""
ROLES = {"anon": "own", "shmem": "shared", "file": "cached", FILE_OR_SHMEM: "cached", "hugetlb": "dirty"}
SORTS = {"where": "cgroup", "spark": "pss", "bar": "pss", "what": "pss"}
"""What `mematlas ps` sorts by in the place of columns that it has not."""
IN_GROUPS = {"user": "pss", "cgroup": "pss"}
"""The same for groups, which have these not."""
MOST_NAME = {LIST: 16, TREE: 40, GROUPS: 32}
"""Columns that names can make use of: those of processes have 15 characters."""
WIDE = 100
"""Columns from which on there is room for more words."""
LEAST_SPARK, MOST_SPARK = 7, 20
NOT_RECORDED = (
    "what each process belongs to is not recorded: record --what pages keeps it.\ng groups by something else."
)
KEYS = (
    ("g", "groups"),
    ("t", "tree"),
    ("< >", "sort"),
    ("\\", "filter"),
    ("space", "tag"),
    ("I", "reverse"),
    ("- +", "fold"),
)
NO_SNAPSHOT = "the snapshot is no longer held"


@record
class Shown:
    """What the lines are of."""

    moment: Snapshot[Look]
    measure: str
    """What the change and the curves are of: USS, or what there is."""
    before: Amounts | None
    """What that was at the moment that the change is since."""
    seconds: float | None
    """How long ago that was; None where there is no such moment."""
    ended: tuple[Seen, ...]
    """Who was there then, and is no more; of a comparison."""


class ProcessesPage(Page):
    """All processes."""

    name = "Processes"
    needs = "everybody"

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.list: RowList[ProcessLine] = RowList(lambda line: line.key)
        self.heading = Heading((), "pss")
        self.shape = LIST
        self.by = BY[0]
        self._opened: set[Any] = set()
        """Groups that are open."""
        self._folded: set[Any] = set()
        """Processes that are folded in the tree."""
        self._filter = ""
        self._past = Past()
        self._drawn: tuple[object, ...] = ()
        """What the lines were made of that the list has."""
        self._shown: Shown | None = None
        self._nr_shown = 0
        """Processes that pass the filter."""
        self._most = 0
        """The most PSS of a line, which the bars are drawn to."""

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """What can be done here; Enter to the line of the cursor."""
        line = self.list.current
        enter = "map" if line is None or not line.is_group else "close" if line.is_open else "open"
        return (("Enter", enter), *KEYS)

    # What is drawn

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return the headings, the lines in sight, and what they come to."""
        timeline = self.viewing.everybody
        moment = self.viewing.moment(timeline)
        if timeline is None or moment is None:
            return sentence("looking at all processes ...", width, height)
        self._look(timeline, moment, width)
        assert self._shown
        found = moment.found.seen
        if not found and not self._shown.ended:
            return sentence(self._why_nobody(moment.found), width, height)
        if self._is_unknown(found):
            return sentence(NOT_RECORDED, width, height)
        foot = self._foot(width)[: max(height - 2, 0)]
        rows = [fitted(self.heading.draw(), width), *self.list.draw(height - 1 - len(foot), width, self._row)]
        if not self.list.items:
            rows += sentence(f"no process has {self._filter!r}: Esc shows all", width, 3)
        rows += [[] for _ in range(height - len(rows) - len(foot))]
        return [*rows[: height - len(foot)], *foot]

    def _why_nobody(self, look: Look) -> str:
        if not self.viewing.is_live:
            return "no process was there at this moment: [ and ] lead to others"
        nr_hidden = (look.unseen or {}).get(REFUSED, 0)
        return f"all processes are hidden from us, {nr_hidden:,} of them: run it as root, or with CAP_SYS_PTRACE"

    def _is_unknown(self, found: Sequence[Seen]) -> bool:
        """Whether what groups are made by is not known of anybody."""
        return self.shape == GROUPS and not any(group_of_process(one, self.by) is not None for one in found)

    def _look(self, timeline: Moments, moment: Snapshot[Look], width: int) -> None:
        """Have the list as it is at a moment, with the columns that there is room for."""
        shown = self._shown_at(timeline, moment)
        self._fit(shown, width)
        nr_steps = next((size for key, _, size, _ in self.heading.columns if key == "spark"), LEAST_SPARK)
        self._past.look(timeline, shown.measure, moment.elapsed, nr_steps)
        options = self.shape, self.by, self.heading.sort, self.heading.is_up, self._filter, nr_steps
        folds = frozenset(self._opened), frozenset(self._folded)
        drawn = (id(moment.found.seen), moment.elapsed, self.viewing.compared, *options, *folds)
        if drawn == self._drawn:
            return
        self._drawn, self._shown = drawn, shown
        seen = [one for one in moment.found.seen if self._passes(one)]
        ended = [one for one in shown.ended if self._passes(one)]
        self._nr_shown = len(seen)
        self.list.put(self._lines(shown, seen, ended))
        most = max((line.sizes["pss"] or 0 for line in self.list.items), default=0)
        if most != self._most:
            self._most = most
            self._fit(shown, width)

    def _shown_at(self, timeline: Moments, moment: Snapshot[Look]) -> Shown:
        seen = moment.found.seen
        measure = next((name for name in SIZES if any(getattr(one.usage, name) is not None for one in seen)), "uss")
        compared = self.viewing.moment_compared(timeline)
        if compared is not None:
            there = {(one.pid, one.start_time) for one in seen}
            ended = tuple(one for one in compared.found.seen if (one.pid, one.start_time) not in there)
            before = {(one.pid, one.start_time): getattr(one.usage, measure) for one in compared.found.seen}
            return Shown(moment, measure, before, abs(moment.elapsed - compared.elapsed), ended)
        at = moment_before(timeline.times, moment.elapsed, SINCE)
        if at is None:
            return Shown(moment, measure, None, None, ())
        return Shown(moment, measure, self._past.before(timeline, measure, at), moment.elapsed - at, ())

    def _lines(self, shown: Shown, seen: Sequence[Seen], ended: Sequence[Seen]) -> list[ProcessLine]:
        lines = Lines(shown.before, shown.measure, self._is_compared, self._order)
        if self.shape == GROUPS:
            return [*lines.groups(seen, self.by, self._opened), *lines.flat((), ended)]
        if self.shape == TREE:
            return [*lines.tree(seen, self._folded), *lines.flat((), ended)]
        return lines.flat(seen, ended)

    @property
    def _is_compared(self) -> bool:
        return self.viewing.moment_compared(self.viewing.everybody) is not None

    def _order(self, line: ProcessLine) -> tuple[Any, ...]:
        """Return what lines are sorted by: what is not known comes last, whichever way."""
        value = self._value(line)
        sign = -1 if self.heading.is_up else 1
        if isinstance(value, str):
            # Letters have no sign: each is told apart from the end of the alphabet.
            folded = value.casefold()
            keyed: Any = (*(-ord(character) for character in folded), 1) if sign < 0 else folded
        else:
            keyed = None if value is None else sign * (value if self.heading.sort in TEXTS else -value)
        return value is None, keyed if value is not None else 0, line.pid

    def _value(self, line: ProcessLine) -> Any:
        """Return what a line has in the column that it is sorted by."""
        key = self.heading.sort
        if key in (*SIZES, CHANGE, "bar"):
            return line.whole["pss" if key == "bar" else key]
        if key == "pid":
            return -len(line.members) if line.is_group else line.pid
        if key == "spark":
            return sum_known(map(self._past.growth, line.keys))
        if key == "what":
            return words_of_kind(what_of(line.members)).partition(" ")[0]
        return {"user": user_of, "where": place_of_line}[key](line.members[0]) if key != "name" else line.name

    def _passes(self, one: Seen) -> bool:
        """Whether a process is shown: by its name, PID, user, container, unit or cgroup."""
        return not self._filter or self._filter in text_of_process(one).casefold()

    # Columns

    def _fit(self, shown: Shown, width: int) -> None:
        """Have the columns that there is room for."""
        name = shown.measure.upper()
        several = self.shape == GROUPS
        columns = (
            ListColumn("pid", "N / PID" if several else "PID", 8, 8, True, 1),
            ListColumn("name", self.by.upper() if several else "NAME", 15, MOST_NAME[self.shape], False, 0),
            ListColumn("uss", "≥USS" if several else "USS", 8, 8, True, 3),
            ListColumn("pss", "PSS", 8, 8, True, 2),
            ListColumn("rss", "ΣRSS" if several else "RSS", 8, 8, True, 4),
            ListColumn("swap", "ΣSWAP" if several else "SWAP", 8, 8, True, 6),
            ListColumn("change", f"Δ{name} {span_in_words(shown.seconds)}", 11, 11, True, 5, f"Δ{name}"),
            ListColumn("spark", f"{name} {format_span(REACH)}", LEAST_SPARK, MOST_SPARK, True, 7, format_span(REACH)),
            ListColumn("bar", f"PSS of {format_size(self._most)}", 15, 30, False, 9, "PSS"),
            ListColumn("what", "MOSTLY", 13, 13, False, 8),
            ListColumn("user", "USER", 10, 12, False, 10),
            ListColumn("where", "CONTAINER, UNIT", 18, 28, False, 11),
        )
        self.heading.columns = fit(columns, width, (self.heading.sort,))

    def _row(self, line: ProcessLine) -> Row:
        """Return the row of a line."""
        row: Row = []
        for key, _, width, is_right in self.heading.columns:
            row += [*self._cells(line, key, width, is_right), (" ", "text")]
        row.pop()
        return [(text, "muted") for text, _ in row] if line.is_ended else row

    def _cells(self, line: ProcessLine, key: str, width: int, is_right: bool) -> Row:
        if key in SIZES:
            size = line.sizes[key]
            return [(cell("-" if size is None else format_size(size), width, True), "text" if size else "muted")]
        if key == "pid":
            number = f"{len(line.members):,}" if line.is_group else str(line.pid)
            return [(self._mark(line), "title"), (cell(number, width - 1, True), "text" if line.is_group else "muted")]
        if key == "name":
            return self._name(line, width)
        if key == "change":
            return [(cell("-" if line.change is None else format_change(line.change), width, True), role_of(line))]
        if key == "spark":
            return [(spark(self._past.curve(line.keys), width), "shared")]
        if key == "bar":
            return [(bar((line.sizes["pss"] or 0) / (self._most or 1), width), "own")]
        if key == "what":
            what = what_of(line.members)
            return [(cell(words_of_kind(what), width), ROLES[what[0]] if what else "muted")]
        texts = {({"user": user_of, "where": place_of_line}[key])(one) for one in line.members}
        return [(name_cell(texts.pop() if len(texts) == 1 else f"{len(texts)} of them", width), "muted")]

    def _mark(self, line: ProcessLine) -> str:
        if line.key in self.list.tagged:
            return "*"
        return "-" if line.is_ended else "+" if line.is_new else " "

    def _name(self, line: ProcessLine, width: int) -> Row:
        """Return the name, after what leads to it, and before how many are folded away."""
        lead = line.lead
        if line.is_group or line.is_open is False:
            lead += "▾ " if line.is_open else "▸ "
        if len(lead) > width // 2:
            lead = lead[: width // 4] + "~" + lead[len(lead) - width // 4 :]
        more = "" if line.is_group or len(line.members) == 1 else f" ({len(line.members):,})"
        room = max(width - len(lead) - len(more), 0)
        name = shorten(format_path(line.name), room)
        return fitted([(lead, "bar"), (name, "title" if line.is_group else "text"), (more, "muted")], width)

    # What they come to

    def _foot(self, width: int) -> list[Row]:
        rows = [fit_parts(self._totals(width), width)]
        if tagged := self._tagged():
            rows.append(fit_parts(tagged, width))
        return rows

    def _totals(self, width: int) -> list[tuple[Row, int]]:
        """Return what there is to say of all that are listed, each with a rank: that with a high one goes first."""
        assert self._shown
        look = self._shown.moment.found
        seen = [one for one in look.seen if self._passes(one)]
        unseen = look.unseen or {}
        pss, rss = (sum_known(getattr(one.usage.usage, name) for one in seen) for name in ("pss", "rss"))
        is_whole = look.unseen is not None and len(seen) == len(look.seen) and not any(unseen.values())
        is_whole &= all(one.usage.usage.pss is not None for one in seen)
        count = "1 process" if len(seen) == 1 else f"{len(seen):,} processes"
        if self._filter:
            count = f"{len(seen):,} of {len(look.seen):,} with {format_path(self._filter)!r}"
        parts: list[tuple[Row, int]] = [([(count, "text")], 0)]
        if pss is not None:
            # A page that somebody maps who is not seen, or was not recorded, counts in part.
            words = "each page once" if is_whole else "PSS together"
            parts.append(([(f"{words} ", "muted"), (format_size(pss), "title")], 1))
        if rss is not None:
            parts.append(([("plain sum of RSS ", "muted"), (format_size(rss), "text")], 4))
        if nr := unseen.get(REFUSED):
            why = ": needs CAP_SYS_PTRACE" if width >= WIDE else ""
            parts.append(([(f"{nr:,} hidden{why}", "unknown")], 2))
        if nr := unseen.get(UNANSWERED):
            parts.append(([(f"{nr:,} without an answer", "unknown")], 2))
        if self.viewing.compared is not None and not self._is_compared:
            parts.append(([(NO_SNAPSHOT, "unknown")], 3))
        if self.shape != LIST:
            parts.append(([("of several: USS at least, RSS and SWAP plain sums", "muted")], 5))
        return parts

    def _tagged(self) -> list[tuple[Row, int]]:
        """Return what those come to that are tagged; nothing where none is."""
        tagged = self.list.tagged
        lines = [line for line in self.list.items if line.key in tagged and not line.is_ended]
        members = {key: one for line in lines for key, one in zip(line.keys, line.members, strict=True)}
        if not members:
            return []
        sums = {size: sum_known(getattr(one.usage.usage, size) for one in members.values()) for size in SIZES}
        words = {"pss": "PSS ", "uss": "USS at least ", "rss": "plain sum of RSS ", "swap": "of SWAP "}
        parts: list[tuple[Row, int]] = [([(f"* {len(members):,} tagged", "title")], 0)]
        for rank, (size, text) in enumerate(words.items(), 1):
            if (amount := sums[size]) is not None:
                parts.append(([(text, "muted"), (format_size(amount), "text")], rank))
        return parts

    # Keys and mouse

    def press(self, key: str) -> bool:
        """Move, sort, fold, group, tag, or go to the map of a process."""
        if self.list.press(key):
            return True
        if self.heading.press(">" if key == "f6" else key):
            self.list.is_sorted_anew = True
            return True
        line = self.list.current
        if key in ("t", "f5"):
            self.shape = LIST if self.shape == TREE else TREE
        elif key == "g":
            self._group()
        elif key == "space":
            self.list.tag()
        elif key == "enter":
            self._enter(line)
        elif key in ("right", "l", "+", "left", "h", "-"):
            self._fold(line, key in ("right", "l", "+"))
        elif key in ("escape", "backspace") and self._filter:
            self._filter = ""
        elif key == "escape" and self.list.tagged:
            self.list.tagged.clear()
        else:
            return False
        return True

    def _group(self) -> None:
        """Group by the next thing, after the last one by none."""
        if self.shape != GROUPS:
            self.shape, self.by = GROUPS, BY[0]
        elif self.by == BY[-1]:
            self.shape = LIST
        else:
            self.by = BY[BY.index(self.by) + 1]

    def _enter(self, line: ProcessLine | None) -> None:
        """Go to the map of a process; open a group, or close it."""
        if line is None:
            return
        if line.is_group:
            self._fold(line, not line.is_open)
        elif line.is_ended:
            self.viewing.said = f"process {line.pid} has ended: [ goes back to when it was there"
        else:
            one = line.members[0]
            self.viewing.focus = one.pid, one.start_time
            self.viewing.leads_to = "Map"

    def _fold(self, line: ProcessLine | None, is_open: bool) -> None:
        """Open what is below a line, or close it; of what has nothing below it that can be closed, go up."""
        if line is None or self.shape == LIST:
            return
        if not is_open and not line.is_open:
            self._go_up(line)
        elif line.is_group:
            self._opened = self._opened | {line.key} if is_open else self._opened - {line.key}
        elif line.is_open is not None:
            self._folded = self._folded - {line.key} if is_open else self._folded | {line.key}

    def _go_up(self, line: ProcessLine) -> None:
        """Put the cursor on what a line is below."""
        items = self.list.items
        for index in range(self.list.index - 1, -1, -1):
            if len(items[index].lead) < len(line.lead) and (items[index].is_group or self.shape == TREE):
                self.list.go_to(index)
                return

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Sort by the column of a heading; put the cursor on a line, and with a double click go into it."""
        if y == 0:
            self.list.is_sorted_anew = self.heading.click(x)
        elif self.list.at_row(y - 1) and is_double:
            self._enter(self.list.current)

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.list.scroll(step)

    def search(self, text: str, step: int = 1) -> bool:
        """Go to the next line, or the previous one, that has a text."""
        return self.list.search(text, text_of_line, step)

    def filter(self, text: str) -> None:
        """Show only processes that have a text: in the name, PID, user, container, unit or cgroup."""
        self._filter = text.casefold()

    def command(self) -> str:
        """Return the command line that shows the same."""
        if not self.viewing.is_live:
            return f"mematlas report {self.viewing.place}"
        sort = SORTS.get(self.heading.sort, self.heading.sort)
        if self.shape == GROUPS:
            sort = IN_GROUPS.get(sort, sort)
        words = ["mematlas ps", f"--by {self.by}" if self.shape == GROUPS else ""]
        words.append("-i 1s --sort change" if sort == "change" else f"--sort {sort}")
        return " ".join(filter(None, words))


def text_of_process(one: Seen) -> str:
    """Return what is searched of a process."""
    who = one.who
    return " ".join(filter(None, (one.name, str(one.pid), who.user, who.container, who.unit, who.cgroup)))


def text_of_line(line: ProcessLine) -> str:
    """Return what is searched of a line."""
    return line.name if line.is_group else text_of_process(line.members[0])


def role_of(line: ProcessLine) -> str:
    """Return the role of a change: its sign says the same."""
    if not line.change:
        return "muted"
    return "dirty" if line.change > 0 else "good"


def span_in_words(seconds: float | None) -> str:
    """Return since when a change is, short, and so that it does not change with each look.

    >>> span_in_words(60.9), span_in_words(23.4), span_in_words(3000), span_in_words(None)
    ('1 min', '23 s', '50 min', '')
    """
    if seconds is None:
        return ""
    if abs(seconds - SINCE) < JITTER:
        seconds = SINCE
    return format_span(round(seconds) if seconds < 10 * SINCE else round(seconds / SINCE) * SINCE)


def fit_parts(parts: Sequence[tuple[Row, int]], width: int) -> Row:
    """Return parts side by side, as many as there is room for: those with the highest ranks are left out."""
    kept = list(parts)
    while True:
        row: Row = [(" ", "text")]
        for index, (part, _) in enumerate(kept):
            row += [(" · ", "muted"), *part] if index else part
        if width_of_row(row) <= width or len(kept) < 2:
            return fitted(row, width)
        kept.remove(max(kept, key=lambda item: item[1]))

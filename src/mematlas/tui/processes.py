"""The processes: how much each uses, and how that has changed."""

from __future__ import annotations

from mematlas.tui.drawing import cell, fitted, name_cell, sentence
from mematlas.tui.page import Page
from mematlas.tui.rows import Heading, RowList
from mematlas.views.format import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.timeline.watch import Seen
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing


COLUMNS = (
    ("pid", "PID", 8, True),
    ("name", "NAME", 16, False),
    ("uss", "USS", 10, True),
    ("pss", "PSS", 10, True),
    ("rss", "RSS", 10, True),
    ("swap", "SWAP", 10, True),
    ("change", "Δ 1 min", 11, True),
)
SIZES = ("uss", "pss", "rss", "swap")


class ProcessesPage(Page):
    """All processes."""

    name = "Processes"
    needs = "everybody"
    keys = (("Enter", "map"), ("< >", "sort"), ("I", "reverse"), ("space", "tag"))

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.list: RowList[Seen] = RowList(lambda one: (one.pid, one.start_time))
        self.heading = Heading(COLUMNS, "pss")
        self._wanted = ""

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return the list."""
        moment = self.viewing.moment(self.viewing.everybody)
        if moment is None:
            return sentence("looking at all processes ...", width, height)
        self.list.put(sorted(moment.found.seen, key=lambda one: -(one.usage.pss or 0)))
        return [fitted(self.heading.draw(), width), *self.list.draw(height - 1, width, self._row)]

    def _row(self, one: Seen) -> Row:
        usage = one.usage
        sizes = [getattr(usage, name) for name in SIZES]
        texts = ["-" if size is None else format_size(size) for size in sizes]
        row: Row = [(cell(str(one.pid), 8, right=True), "muted"), (" " + name_cell(one.name, 16), "title")]
        row += [(" " + cell(text, 10, right=True), "text") for text in texts]
        return row

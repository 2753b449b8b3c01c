"""All of RAM: what it is used for, how free memory is cut up, and the largest files of the page cache."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.tui.drawing import MARK, cell, cut_to, fitted, sentence, width_of_row
from mematlas.tui.page import Page
from mematlas.tui.ram_rows import (
    block_line,
    block_rows,
    heading,
    kind_rows,
    pressure_rows,
    total_of,
    uses_of,
    whole_bar,
    zone_rows,
)
from mematlas.tui.rows import Heading, RowList
from mematlas.views.format import fold, format_change, format_path, format_size, number_of, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.analysis.cached import CachedFile
    from mematlas.timeline.timeline import Counted
    from mematlas.timeline.watch import Look
    from mematlas.tui.drawing import Row
    from mematlas.tui.viewing import Viewing

SIDE_BY_SIDE = 110
"""Columns from which on files are beside what RAM is used for; below that they are under it."""
LEFT, MOST_LEFT = 60, 100
"""Columns of the left part, at the least and the most."""
OF_NO_MATTER = ("files-nameless", "files-gone")
"""Codes of notes on single files, which the list shows."""
RECENT = 60.0
"""Seconds that the curve of pressure has."""
MOST_NOTES = 6
"""Rows of what is not known, and why."""
BOTH, USES, FILES = "both", "uses", "files"
VIEWS = (BOTH, USES, FILES)
COLUMNS = (
    ("resident", "IN RAM", 9, True),
    ("change", "CHANGE", 10, True),
    ("dirty", "DIRTY", 9, True),
    ("path", "FILE", 5, False),
)


@record
class FileRow:
    """A file of the page cache, with by how much it has grown there."""

    file: CachedFile
    change: int | None
    """None where nothing is known from before."""
    is_new: bool
    """Whether it was not among the largest before."""

    @property
    def name(self) -> str:
        """Its path, or what tells it where that is not known."""
        return self.file.path or f"{self.file.dev}, inode {self.file.inode}"


class RamPage(Page):
    """All of RAM."""

    name = "RAM"
    needs = "machine everybody"
    keys = (("v", "uses, files, both"), ("\\", "filter files"), ("< >", "sort files"), ("I", "reverse"))

    def __init__(self, viewing: Viewing) -> None:
        super().__init__(viewing)
        self.list: RowList[FileRow] = RowList(lambda row: (row.file.dev, row.file.inode))
        self.heading = Heading(COLUMNS, "resident")
        self.view = BOTH
        self._wanted = ""
        self._place: tuple[int, int] = (0, 0)
        """The column and the row of the list of files."""

    # What is known

    def _counted(self) -> list[Counted]:
        """Return the machine's counters of late: of that timeline which is looked at more often."""
        viewing = self.viewing
        return viewing.counted(viewing.everybody, RECENT) or viewing.counted(viewing.machine, RECENT)

    def _now(self) -> Look | None:
        """Return what is known of all of RAM; of counters alone where that is all that there is yet."""
        viewing = self.viewing
        moment = viewing.moment(viewing.machine)
        if moment is not None and (moment.found.ram is not None or viewing.is_live):
            return moment.found
        moment = viewing.moment(viewing.everybody) or moment
        return moment.found if moment else None

    def _before(self) -> Look | None:
        moment = self.viewing.moment_before(self.viewing.machine)
        return moment.found if moment else None

    def _missing(self, now: Look) -> list[str]:
        """Return why something is not known, and what to do."""
        if now.ram is None:
            if self.viewing.captured:
                return ["What every frame is used for is not in a capture of processes."]
            if not self.viewing.is_live:
                return ["What every frame is used for is not recorded (record --what ram,files)."]
            return ["Counting what every frame of RAM is used for ..."]
        notes = [*now.ram.reading.notes, *(now.cache.reading.notes if now.cache else ())]
        texts = [note.text for note in notes if note.code not in OF_NO_MATTER]
        if texts and self.viewing.is_live and now.ram.uses_meminfo:
            from mematlas.doctor.hints import line_with_rights

            if line := line_with_rights(["top"]):
                texts.insert(1, f"with all rights: {line}")
        return texts

    # What is drawn

    def draw(self, width: int, height: int) -> Sequence[Row]:
        """Return what RAM is used for, and the largest files."""
        now = self._now()
        if now is None:
            return sentence("Looking at all of RAM ...", width, height)
        before = self._before() if now.ram is not None else None
        self._put_files(now, before)
        total = total_of(now.ram, now.counters)
        rows: list[Row] = [whole_bar(uses_of(now.ram, now.counters), total, width)]
        room = height - len(rows)
        if self.view == USES:
            rows += self._uses(now, before, width, room)
        elif self.view == FILES:
            rows += self._files(now, width, room, (0, 1))
        elif width >= SIDE_BY_SIDE:
            left = min(max(LEFT, width // 2), MOST_LEFT)
            uses = self._uses(now, before, left, room)
            files = self._files(now, width - left - 3, room, (left + 3, 1))
            for number in range(room):
                one = uses[number] if number < len(uses) else []
                other = files[number] if number < len(files) else []
                rows.append([*fitted(one, left), (" │ ", "muted"), *other])
        else:
            rows += self._stacked(now, before, width, room)
        return rows[:height]

    def _uses(self, now: Look, before: Look | None, width: int, height: int) -> list[Row]:
        """Return kinds, pressure, zones and blocks: as many of each as there is room for."""
        pressure = pressure_rows(self._counted(), width)
        missing: list[Row] = []
        for text in self._missing(now):
            missing += [fitted([(" " + line, "muted")], width) for line in fold(text, width - 1)]
        ram = now.ram
        zones = zone_rows(ram.groups, width) if ram else []
        blocks = block_rows(ram, width) if ram else []
        nr_kinds = len(uses_of(ram, now.counters))
        parts = [pressure, cut_to(missing, min(len(missing), MOST_NOTES)), zones, blocks]
        while parts and sum(len(one) + bool(one) for one in parts) + min(nr_kinds, 8) + 1 > height:
            parts.pop()
        taken = sum(len(one) + bool(one) for one in parts)
        rows = [heading(width, has_mapped(now)), *kind_rows(now, before, max(height - taken - 1, 1), width)]
        for one in parts:
            rows += [[], *one] if one else []
        return rows[:height]

    def _stacked(self, now: Look, before: Look | None, width: int, height: int) -> list[Row]:
        """Return the same with files below it, for a narrow screen."""
        nr_kinds = len(uses_of(now.ram, now.counters))
        pressure = pressure_rows(self._counted(), width)[: 2 if height < 30 else 3]
        blocks = [row] if now.ram and (row := block_line(now.ram, width)) else []
        texts = self._missing(now)
        if now.cache and now.cache.files:  # each in a row: files are what the rest of the screen is for
            missing = [fitted([(" " + text, "muted")], width) for text in texts[: 1 if height < 30 else 3]]
        else:
            missing = [[(" " + line, "muted")] for text in texts for line in fold(text, width - 1)]
            missing = cut_to(missing, min(len(missing), MOST_NOTES))
        taken = 1 + len(pressure) + len(blocks) + len(missing)
        most = max(min(nr_kinds, (height - taken) * 3 // 5), 1)
        rows = [heading(width, has_mapped(now)), *kind_rows(now, before, most, width), *pressure, *blocks, *missing]
        rows = rows[:height]
        left = height - len(rows)
        return [*rows, *self._files(now, width, left, (0, 1 + len(rows)))] if left > 2 else rows

    def _put_files(self, now: Look, before: Look | None) -> None:
        """Have the largest files in the list, as they are wanted."""
        files = now.cache.files if now.cache else ()
        cache = before.cache if before else None
        was = {(file.dev, file.inode): file.resident for file in cache.files} if cache else {}
        wanted = self._wanted.casefold()
        rows = []
        for file in files:
            sooner = was.get((file.dev, file.inode))
            change = None if sooner is None else file.resident - sooner
            row = FileRow(file, change, is_new=cache is not None and sooner is None)
            if wanted in row.name.casefold():
                rows.append(row)
        sort = self.heading.sort
        if sort == "path":
            rows.sort(key=lambda row: row.name)
        else:
            rows.sort(key=lambda row: -(self._amount(row, sort) or 0))
        self.list.put(rows[::-1] if self.heading.is_up else rows)

    def _amount(self, row: FileRow, name: str) -> int | None:
        amount: int | None = row.change if name == "change" else getattr(row.file, name)
        return amount

    def _files(self, now: Look, width: int, height: int, place: tuple[int, int]) -> list[Row]:
        """Return the largest files of the page cache, with what there is of all."""
        if height < 1:
            return []
        cache = now.cache
        if cache is None:
            if now.ram is not None and not self.viewing.is_live:
                return sentence("Files of the page cache are not recorded (record --what files).", width, height)
            return [] if now.ram is None else sentence("Looking for files ...", width, height)
        if not cache.files:
            return sentence("No file of the page cache is to be seen with these rights: root sees all.", width, height)
        head: Row = [(" PAGE CACHE ", "muted"), (format_size(cache.resident), "title")]
        head.append((f" in {number_of(cache.nr_files, 'file')}", "muted"))
        if self._wanted:
            head.append((f", {len(self.list.items):,} of {len(cache.files):,} have {self._wanted!r}", "text"))
        elif cache.others:
            head.append((f", the largest {len(cache.files):,}", "muted"))
        self._place = place[0], place[1] + 2
        rows = [fitted(head, width), fitted([(" ", "text"), *self.heading.draw()], width)]
        if not self.list.items:
            return [*rows, [(f" none has {self._wanted!r} in its path", "muted")]][:height]
        return [*rows, *self.list.draw(height - 2, width, lambda row: self._file_row(row, width))][:height]

    def _file_row(self, row: FileRow, width: int) -> Row:
        file = row.file
        dirty = None if file.dirty is None else file.dirty + (file.writeback or 0)
        moved = "new" if row.is_new else "" if row.change is None else format_change(row.change)
        made: Row = [
            (" " + cell(format_size(file.resident), 9, right=True), "cached"),
            (" " + cell(moved, 10, right=True), "text" if row.change else "muted"),
            (" " + cell("-" if dirty is None else format_size(dirty), 9, right=True), "dirty" if dirty else "muted"),
        ]
        room = width - width_of_row(made) - 1
        gone = " (deleted)" if file.is_deleted else ""
        name = format_path(row.name)
        shown = shorten(name, max(room - len(gone), 4)) + gone
        return [*made, (" " + (shown if room > 4 else MARK), "text")]

    # What keys do

    def press(self, key: str) -> bool:
        """Choose what is shown, sort, and move."""
        if key == "v":
            self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
            return True
        if self.heading.press(key):
            self.list.is_sorted_anew = True
            return True
        return self.list.press(key)

    def click(self, x: int, y: int, is_double: bool) -> None:
        """Sort by the column, or put the cursor on the file, that was clicked at."""
        left, top = self._place
        if x < left:
            return
        if y == top - 1:
            self.list.is_sorted_anew = self.heading.click(x - left - 1)
        else:
            self.list.at_row(y - top)

    def wheel(self, x: int, y: int, step: int) -> None:
        """Scroll."""
        self.list.scroll(step)

    def search(self, text: str, step: int = 1) -> bool:
        """Go to the next file that has a text in its path."""
        return self.list.search(text, lambda row: row.name, step)

    def filter(self, text: str) -> None:
        """Show only files that have a text in their path."""
        self._wanted = text

    def command(self) -> str:
        """Return the command line that shows the same."""
        viewing = self.viewing
        name = "cache" if self.view == FILES else "ram"
        if viewing.is_live:
            return f"mematlas {name}"
        at = viewing.now(viewing.machine)
        return f"mematlas {name} {viewing.place}@{'end' if at is None else f'{at:g}s'}"


def has_mapped(now: Look) -> bool:
    """Whether it is known what of each kind is mapped."""
    return now.ram is not None and not now.ram.uses_meminfo

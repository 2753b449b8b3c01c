"""Tables: items under named columns. All commands but the pictures give one, and a picture has one below it.

A row is the item itself. A column knows how its value is got of it, and its total: a new column is one line.
"""

from __future__ import annotations

from itertools import chain, compress, islice

from mematlas.frozen import replace
from mematlas.notes import Note, Notes
from mematlas.views.columns import (
    HIDDEN,
    NR_TOGETHER,
    Aside,
    Column,
    batch_of,
    node_columns,
    pieces_of,
    text_form,
    texts_of,
    widths_of,
)
from mematlas.views.format import padded
from mematlas.views.terminal import paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from mematlas.analysis.results import Reading
    from mematlas.kernel.status import Stat
    from mematlas.views.columns import AnItem, Batch, Texts
    from mematlas.views.layout import Layout

__all__ = ("HIDDEN", "NR_TOGETHER", "Aside", "Column", "Drawn", "Table", "batch_of", "node_columns", "pieces_of")


class Padding:
    """How rows stand where a line may be as long as it likes: in columns as wide as what is known of them."""

    lost = ()

    def __init__(self, columns: list[Column[Any]], known: Sequence[Texts]) -> None:
        self.widths = widths_of(columns, known)
        self.is_right = [column.right for column in columns]

    def lines(self, texts: Texts) -> Iterator[str]:
        """Yield the lines of rows, given as the cells of all columns."""
        columns = map(padded, texts, self.widths, self.is_right)
        return map(str.rstrip, map("  ".join, zip(*columns, strict=True)))


def layout_of(columns: list[Column[Any]], known: Sequence[Texts], width: int, streams: bool) -> Padding | Layout:
    """Return how rows stand in lines of at most this width, 0 for any."""
    if not width:
        return Padding(columns, known)
    from mematlas.views.layout import Layout  # pipes need none

    return Layout(columns, known, width, streams)


class Table:
    """Items under columns, with what they are about.

    Rows that are still being read are ``batches`` instead; ``target`` and ``notes`` are then complete at
    their end: the target may be a function that returns it.
    """

    def __init__(
        self,
        schema: str,
        columns: Iterable[Column[AnItem]],
        items: Iterable[AnItem | Aside] = (),
        *,
        batches: Iterable[Batch] | None = None,
        target: dict[str, Any] | Callable[[], dict[str, Any]] | None = None,
        notes: Iterable[Note] = (),
        fine_print: Iterable[Note] = (),
        failures: Iterable[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> None:
        """Items are put in order by the values of the column whose key ``sort`` is. Of more than ``limit`` text has the
        others summed up in a row.
        """
        self.schema = f"mematlas.{schema}"
        # What rows are sorted by is to be seen.
        self.columns: tuple[Column[Any], ...] = tuple(
            replace(column, shown=True, rank=0) if column.key == sort else column for column in columns
        )
        every: list[Any] = list(items)
        for column in self.columns:
            if column.key == sort:
                every = column.in_order(every)
        self.items = every[:limit]
        self.others = [] if limit is None else every[limit:]
        """Items beyond the limit."""
        self.batches = batches
        """Rows as they come, written as soon as they are there; None when all are in ``items``."""
        self._target = target
        self.notes = notes if isinstance(notes, Notes) else Notes(notes)
        self.fine_print = fine_print
        """Notes on what text does not show; JSON has them among the others."""
        self.failures = list(failures)
        """What a check that was asked for found: the result is shown, and the command fails."""

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as values by key."""
        keys = [column.key for column in self.columns]
        for piece in self.pieces(self.columns):
            yield from (dict(zip(keys, row, strict=True)) for row in zip(*piece, strict=True))

    @property
    def headings(self) -> list[str]:
        """The headings of the columns that text shows."""
        return [column.heading for column in self._shown()]

    def cells(self, *, in_bytes: bool = False) -> Iterator[list[str]]:
        """Yield the rows as formatted cells under `headings`: whatever draws a table draws these."""
        for texts in self._texts(self._shown(), in_bytes):
            yield from map(list, zip(*texts, strict=True))

    def totals(self, *, in_bytes: bool = False) -> list[str] | None:
        """Return the formatted totals; None where there are none, as of one item, which is its own total."""
        footer = self._footer_of(self._shown(), in_bytes)
        return None if footer is None else [cell for (cell,) in footer]

    def total_record(self) -> dict[str, Any] | None:
        """Return the sums over all items by key, those beyond the limit too; None where there are none."""
        summed = [column for column in self.columns if column.total and column.right]
        items = summable([*self.items, *self.others])
        if not summed or not items:
            return None
        return {column.key: column.total_of(items) for column in summed}

    def lines(
        self,
        *,
        in_bytes: bool = False,
        colour: bool = False,
        width: int = 0,
        height: int = 0,
    ) -> Iterator[str]:
        """Yield the lines of the text form.

        No line is wider than ``width``, the columns of the screen; what there is no room for is given up by rank, and
        said below. No more lines than ``height`` are shown of rows that do not stream, the totals among them. 0 is for
        any number.
        """
        columns = self._shown()
        texts = self._texts(columns, in_bytes)
        streams = self.batches is not None
        nr_known = 1 if width else 0  # of rows that stream
        known = list(islice(texts, nr_known if streams else None))
        beyond = summable(self.others)
        others = [self._sums_of(columns, beyond, "others", in_bytes)] if beyond else []
        footer = self._footer_of(columns, in_bytes)
        sums = others if footer is None else [*others, footer]
        layout = layout_of(columns, [*known, *sums], width, streams)
        head = list(layout.lines([[column.heading] for column in columns]))
        foot = list(chain.from_iterable(map(layout.lines, sums)))
        body: Iterable[str] = chain.from_iterable(map(layout.lines, chain(known, texts)))
        if height and not streams:
            from mematlas.views.layout import limited

            body = limited(list(body), max(height - len(head) - len(foot) - bool(layout.lost), 1))
        yield from (paint(line, "title", colour) for line in head)
        yield from body
        yield from (paint(line, "title", colour) for line in foot)
        if layout.lost:
            from mematlas.views.layout import lost_line

            yield paint(lost_line(layout.lost, width), "dim", colour)

    @property
    def target(self) -> dict[str, Any] | None:
        """Who was looked at, and how."""
        return self._target() if callable(self._target) else self._target

    def _shown(self) -> list[Column[Any]]:
        return [column for column in self.columns if column.shown]

    def _texts(self, columns: Sequence[Column[Any]], in_bytes: bool) -> Iterator[Texts]:
        """Yield the cells of columns, some rows at a time."""
        forms = [text_form(column, in_bytes) for column in columns]
        return (texts_of(piece, forms) for piece in self.pieces(columns))

    def pieces(self, columns: Sequence[Column[Any]]) -> Iterator[Batch]:
        """Yield the values of columns, some rows at a time."""
        if self.batches is not None:
            yield from (self._of_rows(piece, columns) for piece in pieces_of(self.batches))
            return
        for low in range(0, len(self.items), NR_TOGETHER):
            items = self.items[low : low + NR_TOGETHER]
            if Aside in set(map(type, items)):
                yield [column.values_beside(items) for column in columns]
            else:
                yield [column.values(items) for column in columns]

    def _of_rows(self, piece: Batch, columns: Sequence[Column[Any]]) -> Batch:
        """Return what rows that are values already have of columns."""
        keys = {column.key for column in columns}
        return list(compress(piece, [column.key in keys for column in self.columns]))

    def _footer_of(self, columns: Sequence[Column[Any]], in_bytes: bool) -> Texts | None:
        """Return the totals as the cells of a single row."""
        items = summable([*self.items, *self.others])
        if len(items) < 2 or not any(column.total for column in columns):
            return None
        return self._sums_of(columns, items, "total", in_bytes)

    def _sums_of(self, columns: Sequence[Column[Any]], items: list[Any], name: str, in_bytes: bool) -> Texts:
        """Return the sums over items as the cells of a single row, which has its name in the first, or in the last."""
        texts: Texts = []
        for column in columns:
            text = text_form(column, in_bytes)[1]
            texts.append([text(column.total_of(items)) if column.total else ""])
        if columns[0].total:
            texts[-1] = [f"{name}: {cell}" if cell else name for cell in texts[-1]]
        else:
            texts[0] = [name]
        return texts

    def all_notes(self) -> Notes:
        """Return the notes with those on what text does not show."""
        notes = Notes((*self.notes, *self.fine_print))
        if self.others:
            nr_all = len(self.items) + self.nr_others
            notes.add(Note("rows-left-out", f"{self.nr_others:,} of {nr_all:,} rows are left out (--limit)"))
        return notes

    @property
    def nr_others(self) -> int:
        """How many rows there are beyond the limit."""
        return len(self.others)


class Drawn(Table):
    """A table that text shows in a form of its own: ``draw`` gives the lines, JSON and CSV have the rows."""

    def __init__(self, *args: Any, draw: Callable[[bool, bool, int], Iterable[str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.draw = draw

    def lines(
        self,
        *,
        in_bytes: bool = False,
        colour: bool = False,
        width: int = 0,
        height: int = 0,
    ) -> Iterator[str]:
        return iter(self.draw(in_bytes, colour, width))


def summable(items: list[Any]) -> list[Any]:
    """Return what sums are over: the rows that are items."""
    return [item for item in items if type(item) is not Aside]


def target_of(stat: Stat, reading: Reading | None = None) -> dict[str, Any]:
    """Return the ``target`` of a result: who, and how the reading went."""
    target: dict[str, Any] = {"pid": stat.pid, "name": stat.name, "start_time": stat.start_time}
    if reading:
        target |= {
            "source": reading.source,
            "duration_s": round(reading.duration_s, 6),
            "torn": reading.torn,
        }
        if reading.reader:
            target["reader"] = reading.reader
    return target

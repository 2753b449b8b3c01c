"""The rows of the map: words of cells are put into lines as words of a text are, long ones over several."""

from __future__ import annotations

from bisect import bisect_right

from mematlas.analysis.page_cells import Segments
from mematlas.arrays import np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.page_cells import PageSpace, Places
    from mematlas.arrays import Words

    Place = tuple[int, int]
    """A word, and a cell of it; behind the last cell is what is folded there."""
    Part = tuple[int, int, int, bool]
    """A word, the first of its cells in a row and one past the last, and whether what is folded behind it is there."""

MARK = 7
"""Columns of what stands for folded addresses: ``[1.20G]``."""
SEPARATOR = 1
"""Columns between words that nothing lies between."""
MOST_CELL = 1 << 44


class PageRows:
    """The rows of a map of so many columns. Only what stands where is known; rows are not held."""

    def __init__(self, space: PageSpace, names: Places, cell_pages: int, columns: int, is_dense: bool) -> None:
        """``names`` says of each VMA what it is called, as a number; a word of another name begins a row, unless rows
        are to be dense.
        """
        self.segments = segments = Segments(space, cell_pages)
        self.columns = columns
        self.cell_pages = cell_pages
        self.is_dense = is_dense
        self.has_mark = (segments.word_gaps > 0).tolist()
        self.cells: list[int] = segments.word_cells.tolist()
        tails = np.where(segments.word_gaps > 0, MARK, SEPARATOR)
        widths = segments.word_cells + tails
        is_long = widths > (columns if is_dense else max(columns // 4, 1 + MARK))
        is_long &= segments.word_cells > 0
        begins = is_long.copy()
        begins[1:] |= is_long[:-1]
        begins[:1] = True
        if not is_dense:
            of_word = names[np.maximum(segments.vmas[segments.word_segments], 0)]
            begins[1:] |= (of_word[1:] != of_word[:-1]) & (segments.word_gaps[:-1] > 0)
        self._ends = [0, *np.cumsum(widths).tolist()]
        """Columns up to each word, were all in one row."""
        self._blocks: list[int] = []
        """The first word of each block: a row of short words, or a long one alone."""
        self._rows: list[int] = []
        """The first row of each block."""
        self._fill(np.flatnonzero(begins).tolist(), is_long.tolist())

    def _fill(self, begins: list[int], is_long: list[bool]) -> None:
        row, ends, nr_words = 0, self._ends, len(is_long)
        for first, end in zip(begins, [*begins[1:], nr_words], strict=True):
            word = first
            while word < end:
                self._blocks.append(word)
                self._rows.append(row)
                row += self._rows_of(word) if is_long[word] else 1
                word = max(bisect_right(ends, ends[word] + self.columns, word + 1, end + 1) - 1, word + 1)
        self.nr_rows = row

    def _rows_of(self, word: int) -> int:
        """Return the rows of a long word."""
        nr_rows, rest = divmod(self.cells[word], self.columns)
        if not self.has_mark[word]:
            return nr_rows + bool(rest)
        return nr_rows + 1 + (rest > 0 and rest + MARK > self.columns)

    def row(self, number: int) -> list[Part]:
        """Return what is in a row: words, each with its first cell there, one past the last, and whether its mark is.

        >>> from mematlas.analysis.page_cells import space_of
        >>> space = space_of(np.array([0, 40]), np.array([20, 44]), np.array([1], np.uint64))
        >>> rows = PageRows(space, np.array([0, 1]), 1, 16, is_dense=False)
        >>> [rows.row(number) for number in range(rows.nr_rows)]
        [[(0, 0, 16, False)], [(0, 16, 20, True)], [(1, 0, 4, False)]]
        """
        block = bisect_right(self._rows, number) - 1
        first = self._blocks[block]
        end = self._blocks[block + 1] if block + 1 < len(self._blocks) else len(self.cells)
        if end - first > 1 or self.cells[first] <= self.columns:
            within = number - self._rows[block]
            if within:
                return [(first, self.cells[first], self.cells[first], True)]
            return [(word, 0, self.cells[word], self._is_mark_in(word, number)) for word in range(first, end)]
        low = (number - self._rows[block]) * self.columns
        low, high = min(low, self.cells[first]), min(low + self.columns, self.cells[first])
        return [(first, low, high, self._is_mark_in(first, number))]

    def _is_mark_in(self, word: int, row: int) -> bool:
        return self.has_mark[word] and self.where((word, self.cells[word]))[0] == row

    def where(self, place: Place) -> tuple[int, int]:
        """Return the row and the column of a place."""
        word, cell = place
        block = bisect_right(self._blocks, word) - 1
        first, row = self._blocks[block], self._rows[block]
        column = self._ends[word] - self._ends[first] + cell
        if first != word or (self.cells[word] <= self.columns and cell < self.cells[word]):
            return row, column
        down, column = divmod(column, self.columns)
        if cell == self.cells[word] and column and column + MARK > self.columns:
            return row + down + 1, 0
        return row + down, column

    def at(self, row: int, column: int) -> Place:
        """Return what stands at a row and a column, or nearest to it in that row."""
        parts = self.row(max(min(row, self.nr_rows - 1), 0))
        left = max(column, 0)
        for word, first, end, is_marked in parts:
            width = end - first + (MARK if is_marked else SEPARATOR)
            if left < width or word == parts[-1][0]:
                if left >= end - first and is_marked:
                    return word, self.cells[word]
                return word, max(min(first + left, end - 1), first)
            left -= width
        return parts[-1][0], parts[-1][1]

    def step(self, place: Place, by: int) -> Place:
        """Return the next place, or with -1 the one before; the same at either end."""
        word, cell = place
        if by > 0:
            if cell + 1 < self.cells[word] + self.has_mark[word]:
                return word, cell + 1
            return (word + 1, 0) if word + 1 < len(self.cells) else place
        if cell:
            return word, cell - 1
        return (word - 1, max(self.cells[word - 1] + self.has_mark[word - 1] - 1, 0)) if word else place

    def place_of(self, page: int) -> Place:
        """Return where a page is, or what is nearest to it."""
        return self.segments.place_of(page)

    def page_of(self, place: Place) -> int:
        """Return the first page of a place."""
        return self.segments.first_page(*place)

    def most_of(self, pages: Words) -> int | None:
        """Return the first page of those in the cell that has most of them."""
        return self.segments.most_of(pages)


def rows_that_fit(space: PageSpace, names: Places, columns: int, height: int, before: PageRows | None) -> PageRows:
    """Return all of a space in so many rows, with the smallest cells for which there is room.

    Cells stay as large as they were ``before``, if that is not much larger than need be: so they do not flicker.
    """
    drawn = space.nr_pages - int((space.run_ends - space.run_firsts).sum())
    cell_pages = 1
    while drawn > cell_pages * columns * height:
        cell_pages *= 2
    while True:
        dense = PageRows(space, names, cell_pages, columns, is_dense=True)
        if dense.nr_rows <= height or cell_pages >= MOST_CELL:
            break
        cell_pages *= 2
    if before and before.columns == columns and before.cell_pages == 2 * cell_pages:
        larger = PageRows(space, names, before.cell_pages, columns, before.is_dense)
        if larger.nr_rows <= height:
            return larger
    roomy = PageRows(space, names, cell_pages, columns, is_dense=False)
    return roomy if roomy.nr_rows <= height else dense

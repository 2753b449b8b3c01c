"""The pages of a process as cells of equal size, with what nobody has touched left out: as arrays, for many of them.

Addresses are numbers of pages here (address / page size). What is drawn are *segments*: parts of VMAs between long runs
of absent pages. Small ones that lie close together are one *word* of cells, end to end; all others are one each.
"""

from __future__ import annotations

from copy import copy

from mematlas.analysis.grid import CLASS_OF_BYTE, CLASSES
from mematlas.arrays import np
from mematlas.frozen import record
from mematlas.kernel.pagemap import PRESENT
from mematlas.model.pages import IS_HUGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Bools, Bytes, NDArray, Words

    Places = NDArray[np.int64]

FOLD_CELLS = 64
"""Cells that a run of absent pages has to take so that it is folded: a line of them."""
MOST_RUNS = 1 << 15
"""Runs inside of VMAs that are folded, the longest."""
WORD_SHIFT = 45
"""Bits for the pages of a word: more than an address space has."""
CLASS_INDEX = np.array([CLASSES.index(name) for name in CLASS_OF_BYTE], np.uint8)
ABSENT, UNKNOWN_CLASS = CLASSES.index("absent"), CLASSES.index("unknown")
UPPER = 7 if np.little_endian else 0


def state_bytes(words: Words) -> Bytes:
    """Return the state byte of each word, as a view.

    >>> state_bytes(np.array([0x81 << 56 | 5], np.uint64)).tolist()
    [129]
    """
    found: Bytes = words.view(np.uint8)[UPPER::8]
    return found


def signed(pages: Words) -> Places:
    """Return numbers of pages as signed ones, which they fit: the same memory."""
    return pages.view(np.int64)


@record
class PageSpace:
    """Where the VMAs of a process are, and which long runs of their pages are absent: all in pages, ascending."""

    firsts: Places
    ends: Places
    run_firsts: Places
    run_ends: Places

    @property
    def nr_pages(self) -> int:
        """Pages of all VMAs."""
        return int((self.ends - self.firsts).sum())


def space_of(firsts: Places, ends: Places, pages: Words) -> PageSpace:
    """Return the space of VMAs, given where they begin and end, and which pages have an entry, ascending.

    >>> space = space_of(np.array([0, 500]), np.array([400, 600]), np.array([3, 300, 500], np.uint64))
    >>> space.run_firsts.tolist(), space.run_ends.tolist()
    ([4, 301, 501], [300, 400, 600])
    """
    there = signed(pages)
    low, high = np.searchsorted(there, firsts), np.searchsorted(there, ends)
    is_empty = low == high
    if len(there):
        until = np.where(is_empty, ends, there[np.minimum(low, len(there) - 1)])
        since = np.where(is_empty, ends, there[np.maximum(high - 1, 0)] + 1)
    else:
        until, since = ends, ends
    gaps = np.flatnonzero(there[1:] - there[:-1] > FOLD_CELLS)
    left, right = there[gaps] + 1, there[gaps + 1]
    owner = np.searchsorted(firsts, left, "right") - 1
    # What lies between two VMAs is no run of either.
    is_inside = (owner >= 0) & (right <= ends[np.maximum(owner, 0)]) if len(firsts) else np.zeros(len(gaps), bool)
    begin = np.concatenate((firsts, left[is_inside], since))
    end = np.concatenate((until, right[is_inside], ends))
    chosen = np.flatnonzero(end - begin >= FOLD_CELLS)
    if len(chosen) > MOST_RUNS:
        sizes = end[chosen] - begin[chosen]
        chosen = chosen[np.argpartition(sizes, len(sizes) - MOST_RUNS)[-MOST_RUNS:]]
    chosen = chosen[np.argsort(begin[chosen], kind="stable")]
    return PageSpace(firsts, ends, begin[chosen], end[chosen])


class Segments:
    """What of a space is drawn with cells of so many pages, and how these lie in words."""

    def __init__(self, space: PageSpace, cell_pages: int) -> None:
        self.cell_pages = cell_pages
        least = FOLD_CELLS * cell_pages
        is_folded = space.run_ends - space.run_firsts >= least
        self.firsts = np.sort(np.concatenate((space.firsts, space.run_ends[is_folded])), kind="stable")
        self.ends = np.sort(np.concatenate((space.ends, space.run_firsts[is_folded])), kind="stable")
        """Where each segment ends; the first may have no page, where the space begins with a run."""
        kept = self.ends > self.firsts
        kept[:1] = True
        self.firsts, self.ends = self.firsts[kept], self.ends[kept]
        self.vmas = np.searchsorted(space.firsts, self.firsts, "right") - 1
        """Which VMA each is of, or begins in."""
        after = np.append(self.firsts[1:], space.ends[-1:])
        self.gaps = after - self.ends
        """Pages that are not drawn behind each."""
        self._lay()

    def _lay(self) -> None:
        """Put segments into words."""
        size, cell_pages = self.ends - self.firsts, self.cell_pages
        is_small = (size < cell_pages) & (size > 0)
        joined = is_small[:-1] & is_small[1:] & (self.gaps[:-1] < FOLD_CELLS * cell_pages)
        begins = np.ones(len(size), np.bool_)
        begins[1:] = ~joined
        self.word_segments = np.flatnonzero(begins)
        """The first segment of each word."""
        self.words = np.cumsum(begins) - 1
        """The word of each segment."""
        before = np.cumsum(size) - size
        self.indexes = before - before[self.word_segments][self.words]
        """Pages of its word before each segment."""
        self.word_pages = np.add.reduceat(size, self.word_segments)
        self.word_cells = -(-self.word_pages // cell_pages)
        ends = np.append(self.word_segments[1:], len(size)) - 1
        self.word_ends = ends + 1
        self.word_gaps = self.gaps[ends]

    @property
    def nr_words(self) -> int:
        """How many words there are."""
        return len(self.word_segments)

    def place_of(self, page: int) -> tuple[int, int]:
        """Return the word and the cell in which a page is; behind the last cell where it is folded, or the nearest."""
        segment = max(int(np.searchsorted(self.firsts, page, "right")) - 1, 0)
        word = int(self.words[segment])
        first, end = int(self.firsts[segment]), int(self.ends[segment])
        if page >= end and segment == self.word_ends[word] - 1 and self.word_gaps[word]:
            return word, int(self.word_cells[word])
        within = int(self.indexes[segment]) + max(min(page, end - 1) - first, 0)
        return word, within // self.cell_pages

    def first_page(self, word: int, cell: int) -> int:
        """Return the first page of a cell; of what is folded behind a word, the first of that."""
        low, end = int(self.word_segments[word]), int(self.word_ends[word])
        if cell >= self.word_cells[word]:
            return int(self.ends[end - 1])
        index = cell * self.cell_pages
        if end - low > 1:
            low += int(np.searchsorted(self.indexes[low:end], index, "right")) - 1
        return int(self.firsts[low]) + index - int(self.indexes[low])

    def ranges(self, word: int, cell: int) -> list[tuple[int, int]]:
        """Return which pages a cell has, as first and one past the last; of what is folded behind a word, that."""
        last = int(self.word_ends[word]) - 1
        if cell >= self.word_cells[word]:
            end = int(self.ends[last])
            return [(end, end + int(self.gaps[last]))]
        pieces = self.pieces([word], [cell], [cell + 1])
        return list(zip(pieces.firsts.tolist(), pieces.ends.tolist(), strict=True))

    def pieces(self, words: list[int], first_cells: list[int], end_cells: list[int]) -> Pieces:
        """Return runs of cells, each of a word, as pieces of pages; the cells are numbered one after the other."""
        size = self.cell_pages
        which = np.array(words, np.int64)
        low, high = np.array(first_cells, np.int64), np.array(end_cells, np.int64)
        slots = np.cumsum(high - low) - (high - low)
        # The segments of each run, and of each what lies in the run.
        begin, end = self.word_segments[which], self.word_ends[which]
        if (end - begin > 1).any():
            keys = (self.words << WORD_SHIFT) + self.indexes
            begin = np.searchsorted(keys, (which << WORD_SHIFT) + low * size, "right") - 1
            end = np.searchsorted(keys, (which << WORD_SHIFT) + high * size, "left")
        run = np.repeat(np.arange(len(which)), np.maximum(end - begin, 0))
        segment = counted_from(begin, end)
        index, length = self.indexes[segment], (self.ends - self.firsts)[segment]
        since = np.maximum(index, low[run] * size)
        until = np.minimum(index + length, high[run] * size)
        # Cut where cells end.
        first_cell, last_cell = since // size, -(-until // size)
        part = np.repeat(np.arange(len(run)), np.maximum(last_cell - first_cell, 0))
        cell = counted_from(first_cell, last_cell)
        since, until = np.maximum(since[part], cell * size), np.minimum(until[part], (cell + 1) * size)
        shift = self.firsts[segment][part] - index[part]
        return Pieces(
            firsts=since + shift,
            ends=until + shift,
            slots=slots[run][part] + cell - low[run][part],
            vmas=self.vmas[segment][part],
            nr_slots=int((high - low).sum()),
        )

    def most_of(self, pages: Words) -> int | None:
        """Return the first of those pages that lie in the cell with most of them; None where none is drawn."""
        there = signed(pages)
        segment = np.searchsorted(self.firsts, there, "right") - 1
        is_drawn = (segment >= 0) & (there < self.ends[np.maximum(segment, 0)])
        there, segment = there[is_drawn], segment[is_drawn]
        if not len(there):
            return None
        cells = (self.indexes[segment] + there - self.firsts[segment]) // self.cell_pages
        begins = np.flatnonzero((np.diff(cells, prepend=-1) != 0) | (np.diff(self.words[segment], prepend=-1) != 0))
        sizes = np.diff(begins, append=len(there))
        return int(there[begins[np.argmax(sizes)]])


def counted_from(firsts: Places, ends: Places) -> Places:
    """Return all numbers of some ranges, one range after the other.

    >>> counted_from(np.array([3, 9]), np.array([5, 10])).tolist()
    [3, 4, 9]
    """
    lengths = np.maximum(ends - firsts, 0)
    starts = np.cumsum(lengths) - lengths
    return np.repeat(firsts - starts, lengths) + np.arange(int(lengths.sum()))


@record
class Pieces:
    """Parts of cells: pages that lie side by side, each of one cell, in one VMA."""

    firsts: Places
    ends: Places
    slots: Places
    """The number of its cell."""
    vmas: Places
    nr_slots: int

    @property
    def sizes(self) -> Places:
        """Pages of each cell."""
        return summed(self.slots, self.ends - self.firsts, self.nr_slots)

    def edges(self, pages: Words) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return where among some pages, ascending, those of each piece are."""
        there = signed(pages)
        return np.searchsorted(there, self.firsts), np.searchsorted(there, self.ends)

    def numbers(self, pages: Words) -> Places:
        """Return how many of some pages, ascending, lie in each cell."""
        low, high = self.edges(pages)
        return summed(self.slots, high - low, self.nr_slots)

    def latest(self, pages: Words, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the last of the times that belong to pages, ascending, in each cell; minus infinity of none."""
        low, high = self.edges(pages)
        latest = np.full(self.nr_slots, -np.inf)
        some = high > low
        if some.any():
            edges = np.stack((low[some], high[some]), 1).ravel()
            # What lies between two pieces is every other part; the last edge may be the end of all.
            found = np.maximum.reduceat(np.append(times, -np.inf), edges)[::2]
            np.maximum.at(latest, self.slots[some], found)
        return latest


def summed(slots: Places, amounts: Places, nr_slots: int) -> Places:
    """Return the sum of the amounts of each cell."""
    sums: Places = np.bincount(slots, amounts, nr_slots).astype(np.int64)
    return sums


class CellCounts:
    """How many pages of each state lie in each of some cells."""

    def __init__(self, pieces: Pieces, pages: Words, words: Words, is_hidden: Bools) -> None:
        """Count pages, ascending, by their words; ``is_hidden`` says of which VMAs nothing is known but that."""
        self.pieces = pieces
        low, high = pieces.edges(pages)
        numbers = high - low
        first, end = (int(low.min()), int(high.max())) if len(low) else (0, 0)
        total = int(numbers.sum())
        is_whole = total == end - first and bool((low[1:] == high[:-1]).all())
        states = state_bytes(words[first:end] if is_whole else words[counted_from(low, high)])
        kinds = np.unique(states) if len(states) < 256 else np.flatnonzero(np.bincount(states, minlength=256))
        column = np.zeros(256, np.int64)
        column[kinds] = np.arange(len(kinds))
        keys = np.repeat(pieces.slots * len(kinds), numbers)
        keys += column[states]
        shape = pieces.nr_slots, max(len(kinds), 1)
        self.counts = np.bincount(keys, minlength=shape[0] * shape[1]).reshape(shape)
        self.kinds = kinds.tolist()
        """The state bytes that occur, a column of ``counts`` each."""
        absent = summed(pieces.slots, pieces.ends - pieces.firsts - numbers, pieces.nr_slots)
        hidden = (pieces.ends - pieces.firsts - numbers) * is_hidden[pieces.vmas]
        unknown = summed(pieces.slots, hidden, pieces.nr_slots)
        self.classes = np.zeros((pieces.nr_slots, len(CLASSES)), np.int64)
        """Pages of each class of `mematlas.analysis.grid.CLASSES`; they add up to the cell."""
        for index, byte in enumerate(self.kinds):
            self.classes[:, CLASS_INDEX[byte]] += self.counts[:, index]
        self.classes[:, ABSENT] += absent - unknown
        self.classes[:, UNKNOWN_CLASS] += unknown
        self.sizes = pieces.sizes

    def after(self, pages: Words, old: Bytes, new: Bytes) -> CellCounts | None:
        """Return the counts once the states of some pages are others; None where all have to be counted anew."""
        pieces, there = self.pieces, signed(pages)
        columns = np.full(256, -1, np.int64)
        columns[self.kinds] = np.arange(len(self.kinds))
        if (columns[old] < 0).any() or (columns[new] < 0).any() or (np.diff(pieces.firsts) <= 0).any():
            return None
        at = np.searchsorted(pieces.firsts, there, "right") - 1
        inside = (at >= 0) & (there < pieces.ends[at])
        slots, old, new = pieces.slots[at[inside]], old[inside], new[inside]
        made = copy(self)
        made.counts, made.classes = self.counts.copy(), self.classes.copy()
        for states, sign in ((old, -1), (new, 1)):
            np.add.at(made.counts, (slots, columns[states]), sign)
            np.add.at(made.classes, (slots, CLASS_INDEX[states]), sign)
        return made

    @property
    def present(self) -> Places:
        """Present pages of each cell."""
        return self._of([byte for byte in self.kinds if byte & PRESENT])

    @property
    def huge(self) -> Places:
        """Pages of each cell that huge entries map, as far as state bytes say so."""
        return self._of([byte for byte in self.kinds if IS_HUGE[byte]])

    def _of(self, chosen: list[int]) -> Places:
        columns = [self.kinds.index(byte) for byte in chosen]
        found: Places = self.counts[:, columns].sum(axis=1)
        return found


def class_totals(by_byte: Places, nr_pages: int, nr_hidden: int) -> dict[str, int]:
    """Return how many pages of a process are of each class that occurs, given how many entries have which state byte,
    how many pages its VMAs have, and of how many of these without an entry nothing is known.

    >>> class_totals(np.bincount([0x81, 0x80], minlength=256), 5, 1)
    {'own': 1, 'shared': 1, 'absent': 2, 'unknown': 1}
    """
    totals = np.bincount(CLASS_INDEX, by_byte, len(CLASSES)).astype(np.int64)
    totals[ABSENT] += max(nr_pages - int(by_byte.sum()) - nr_hidden, 0)
    totals[UNKNOWN_CLASS] += nr_hidden
    return {name: number for name, number in zip(CLASSES, totals.tolist(), strict=True) if number}

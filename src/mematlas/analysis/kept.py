"""What was read of the pages of a process, kept so that it need not be read again to be drawn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from mematlas.kernel.pagemap import Block
from mematlas.kernel.scattered import Scattered
from mematlas.model.pages import Hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.analysis.grid import Range
    from mematlas.kernel.maps import Vma
    from mematlas.model.address_space import AddressSpace
    from mematlas.model.pages import PageReader
    from mematlas.model.pagetables.reader import TableReader

    Piece = Block | Scattered | Hole

MOST = 20 << 20
"""Bytes that are kept at most, roughly; more is read again."""
PIECE_SIZE = 500
RANGE_SIZE = 48


class Kept:
    """The pieces of ranges of addresses, ascending, without their entries."""

    def __init__(
        self, space: AddressSpace, chosen: list[tuple[Vma, int, int]], started: float, exclusive: bool
    ) -> None:
        self.space = space
        self.chosen = chosen
        """What was read."""
        self.started = started
        self.exclusive = exclusive
        """Whether the states tell which pages are mapped once."""
        self.reader: PageReader | TableReader | None = None
        """What they were read with, once all is read and kept."""
        self.pieces: list[Piece] = []
        self._ends: list[int] = []
        self._room = MOST

    def keep(self, pieces: Iterable[Piece], page_size: int) -> Iterator[Piece]:
        """Yield pieces, and keep them as long as there is room."""
        for piece in pieces:
            yield piece
            if self._room > 0:
                self._room -= size_of(piece)
                if not isinstance(piece, Hole):
                    piece.raw = memoryview(b"")  # the entries are another block's by then
                self.pieces.append(piece)
                self._ends.append(piece.end(page_size))
            elif self.pieces:
                self.pieces, self._ends = [], []

    def finish(self, reader: PageReader | TableReader) -> None:
        """Take note that all was read; of what was too much nothing is left."""
        if self._room > 0:
            self.reader = reader

    def between(self, start: int, end: int, page_size: int) -> Iterator[Piece]:
        """Yield the pieces from ``start`` to ``end``."""
        for place in range(bisect_right(self._ends, start), len(self.pieces)):
            piece = self.pieces[place]
            if piece.address >= end:
                return
            if piece.address >= start and self._ends[place] <= end:
                yield piece
            elif (part := clip(piece, start, end, page_size)) is not None:
                yield part


class Folds(list["Range"]):
    """Runs of untouched memory, with what was read to find them."""

    def __init__(self, runs: Iterable[Range] = (), kept: Kept | None = None) -> None:
        super().__init__(runs)
        self.kept = kept if kept and kept.reader else None
        """All that was read; None where that was too much, or nothing."""


def kept_of(folds: list[Range] | None, chosen: list[tuple[Vma, int, int]], exclusive: bool) -> Kept | None:
    """Return what was read to find folds, if that is all of what was chosen, and tells what is asked for."""
    kept = folds.kept if isinstance(folds, Folds) else None
    return kept if kept and kept.chosen == chosen and kept.exclusive >= exclusive else None


def size_of(piece: Piece) -> int:
    """Return about how many bytes a piece takes."""
    if isinstance(piece, Hole):
        return PIECE_SIZE
    return PIECE_SIZE + len(piece) + (RANGE_SIZE * len(piece.starts) if isinstance(piece, Scattered) else 0)


def clip(piece: Piece, start: int, end: int, page_size: int) -> Piece | None:
    """Return what of a piece lies between addresses; ranges of pages that lie apart are not cut, but in or out."""
    if isinstance(piece, Scattered):
        return piece.between(bisect_left(piece.starts, start), bisect_left(piece.starts, end))
    low, high = max(start, piece.address), min(end, piece.end(page_size))
    first, last = (low - piece.address) // page_size, (high - piece.address) // page_size
    if isinstance(piece, Hole):
        return Hole(low, last - first, piece.byte)
    states, use = piece.states[first:last], piece.use
    return Block(low, piece.raw, states, use if use is None else use[first:last])

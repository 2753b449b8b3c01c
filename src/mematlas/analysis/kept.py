"""What was read of the pages of a process, kept so that it need not be read again to be drawn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from mematlas.kernel.pagemap import Block
from mematlas.kernel.scattered import Scattered
from mematlas.model.pages import Hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Piece = Block | Scattered | Hole

MOST = 20 << 20
"""Bytes that are kept at most, roughly; more is read again."""
PIECE_SIZE = 500
RANGE_SIZE = 48


class Kept:
    """The pieces of ranges of addresses, ascending, without their entries."""

    def __init__(self) -> None:
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

    @property
    def is_whole(self) -> bool:
        """Whether all of it was kept; of what was too much nothing is left."""
        return self._room > 0

    def between(self, start: int, end: int, page_size: int) -> Iterator[Piece]:
        """Yield the pieces from ``start`` to ``end``."""
        for index in range(bisect_right(self._ends, start), len(self.pieces)):
            piece = self.pieces[index]
            if piece.address >= end:
                return
            if piece.address >= start and self._ends[index] <= end:
                yield piece
            elif (part := clip(piece, start, end, page_size)) is not None:
                yield part


def size_of(piece: Piece) -> int:
    """Return about how many bytes a piece takes."""
    if isinstance(piece, Hole):
        return PIECE_SIZE
    size = PIECE_SIZE + len(piece)
    if isinstance(piece, Scattered):
        size += RANGE_SIZE * len(piece.starts)
    return size


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

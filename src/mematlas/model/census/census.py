"""A census of frames: a byte for each frame of RAM, and what they add up to.

Memory is a byte for each frame, a 4,096th of RAM. Sums go through it in pieces that fit the cache.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bytes, NDArray, Words, np
from mematlas.model.census.kinds import KIND_MASK, NR_KINDS, START, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 1 << 16
"""Frames that are added up at a time."""
NR_STATES = 4
MOST_ORDER = 32


class FrameCensus:
    """What every frame is.

    Frames lie in *pages*, as many in each as are told apart together; ``pages`` has their numbers, and ``bytes`` a row
    for each: the kind, how often it is mapped, and whether something begins there (`mematlas.model.census.kinds`).
    """

    def __init__(self, pages: Words, rows: Bytes, shift: int, offline: Iterable[tuple[int, int]] = ()) -> None:
        self.pages = pages
        self.bytes = rows
        self.shift = shift
        self.offline = tuple(offline)
        """Ranges of frames that are there and were switched off."""
        self.knows_free_orders = True
        """Whether each free block begins where something begins; kpageflags does not say."""

    def __repr__(self) -> str:
        return f"<FrameCensus of {self.nr_frames:,} frames>"

    @property
    def nr_frames(self) -> int:
        """Frames of RAM, those that are offline with them."""
        return int(self.counts().sum())

    def counts(self, spans: Iterable[tuple[int, int]] | None = None) -> NDArray[np.int64]:
        """Return how many frames there are of each kind (a row) in each map state, of all or of some ranges of frames.

        >>> census.counts()[Kind.ANON].tolist()  # doctest: +SKIP
        [1024, 250131, 9120, 0]
        """
        total = np.zeros(256, np.int64)
        everywhere = [(0, self.bytes.size)]
        for low, high in everywhere if spans is None else self._places_of(spans):
            for part in self._pieces(low, high):
                total += np.bincount(part, minlength=256)
        folded = (total[:START] + total[START:]).reshape(NR_STATES, NR_KINDS).T.copy()
        folded[Kind.NO_RAM] = 0
        for first, end in self.offline if spans is None else within(self.offline, spans):
            folded[Kind.OFFLINE, 0] += end - first
        return folded

    def sizes(self) -> NDArray[np.int64]:
        """Return how many folios and free blocks there are of each kind (a row) and of each order; single pages too.

        What is of no power of two, since it changed meanwhile, counts as the next lower one.
        """
        flat = self.bytes.reshape(-1)
        table = np.zeros((NR_KINDS, MOST_ORDER), np.int64)
        rest = 0  # where what the piece before began last
        edges = [*range(0, len(flat), PIECE * 16), len(flat)]
        last = -1
        for low, high in pairwise(edges):
            starts = np.flatnonzero(flat[low:high] & START) + low
            if last >= 0:
                starts = np.concatenate(([last], starts))
            if not len(starts):
                continue
            last = int(starts[-1])
            rest = high
            self._add_sizes(table, flat[starts[:-1]], np.diff(starts))
        if last >= 0:
            self._add_sizes(table, flat[last : last + 1], np.array([rest - last]))
        table[Kind.NO_RAM] = 0
        return table

    def free_blocks(self) -> list[int]:
        """Return how many free blocks there are of each order; the same as `sizes`, sooner."""
        flat = self.bytes.reshape(-1)
        firsts = np.flatnonzero(flat == Kind.FREE | START)
        numbers: list[int] = []
        for order in range(MOST_ORDER):
            if not len(firsts):
                break
            # One of twice the size goes on where one of this size ends.
            behind = np.minimum(firsts + (1 << order), len(flat) - 1)
            larger = firsts[(flat[behind] == Kind.FREE) & (behind == firsts + (1 << order))]
            numbers.append(len(firsts) - len(larger))
            firsts = larger
        return numbers

    @staticmethod
    def _add_sizes(table: NDArray[np.int64], kinds: Bytes, lengths: NDArray[np.int64]) -> None:
        orders = np.frexp(lengths)[1].astype(np.int64) - 1
        keys = (kinds & KIND_MASK).astype(np.int64) * MOST_ORDER + np.minimum(orders, MOST_ORDER - 1)
        table += np.bincount(keys, minlength=table.size).reshape(table.shape)

    def of_frames(self, pfns: Words) -> Bytes:
        """Return the bytes of frames, in any order; that of a frame that is not RAM is of the kind `NO_RAM`."""
        numbers = pfns >> np.uint64(self.shift)
        places = np.minimum(np.searchsorted(self.pages, numbers), max(len(self.pages) - 1, 0))
        inside = (pfns & np.uint64((1 << self.shift) - 1)).astype(np.intp)
        found: Bytes = np.where(self.pages[places] == numbers, self.bytes[places, inside], np.uint8(Kind.NO_RAM))
        return found

    def kind_of(self, pfn: int) -> Kind:
        """Return the kind of a frame."""
        return Kind(int(self.of_frames(np.array([pfn], np.uint64))[0]) & KIND_MASK)

    def pages_in(self, kind: Kind) -> Words:
        """Return the first frame of each page that is of one folio of a kind: behind that frame nothing begins."""
        seen = np.uint8(KIND_MASK | START)
        places = np.flatnonzero(self.bytes[:, 1] & seen == kind)
        alike = (self.bytes[places, 1:] & seen == kind).all(axis=1) & (self.bytes[places, 0] & KIND_MASK == kind)
        frames: Words = self.pages[places[alike]] << np.uint64(self.shift)
        return frames

    def set_kind(self, first: int, nr: int, kind: Kind) -> None:
        """Let some frames be of a kind that nothing in them tells."""
        for low, high in self._places_of([(first, first + nr)]):
            flat = self.bytes.reshape(-1)[low:high]
            flat &= np.uint8(~KIND_MASK & 0xFF)
            flat |= np.uint8(kind)

    def frames_of(self, chosen: Iterable[Kind]) -> Iterator[tuple[Words, Bytes]]:
        """Yield the frames of some kinds, ascending, and the kind of each, `PIECE` at a time at most."""
        table = np.isin(np.arange(256) & KIND_MASK, list(chosen))
        low = 0
        for part in self._pieces(0, self.bytes.size):
            inside = np.flatnonzero(table.take(part))
            places = inside + low
            frames: Words = self.pages[places >> self.shift] << np.uint64(self.shift)
            frames += (places & (1 << self.shift) - 1).astype(np.uint64)
            yield frames, part[inside] & np.uint8(KIND_MASK)
            low += len(part)

    def _places_of(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield where the bytes of ranges of frames are, one after another."""
        for first, end in spans:
            low, high = self._place_of(first), self._place_of(end)
            if low < high:
                yield low, high

    def _place_of(self, frame: int) -> int:
        """Return where the byte of a frame is, or of the next that has one."""
        number = np.uint64(frame >> self.shift)
        place = int(np.searchsorted(self.pages, number))
        inside = place < len(self.pages) and self.pages[place] == number
        return (place << self.shift) + (frame & (1 << self.shift) - 1 if inside else 0)

    def _pieces(self, low: int, high: int) -> Iterator[Bytes]:
        flat = self.bytes.reshape(-1)
        for start in range(low, high, PIECE):
            yield flat[start : min(start + PIECE, high)]


def within(ranges: Iterable[tuple[int, int]], spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what of some ranges lies in others.

    >>> list(within([(0, 10)], [(5, 8), (9, 20)]))
    [(5, 8), (9, 10)]
    """
    ranges = list(ranges)
    for low, high in spans:
        for first, end in ranges:
            if max(first, low) < min(end, high):
                yield max(first, low), min(end, high)

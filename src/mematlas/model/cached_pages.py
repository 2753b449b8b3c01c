"""The page cache by file: the pages of all RAM, added up by the mapping that they are of, and by who is charged."""

from __future__ import annotations

from mematlas.arrays import Bools, NDArray, Words, np
from mematlas.errors import NotSupported
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.kernel.memory.framearray import FrameArray, FrameBatch
    from mematlas.model.census.decode import Decoder

    Numbers = NDArray[np.int64]


@record
class CachedPages:
    """What is in the page cache, as columns with an item for each mapping, by its address, and who is charged."""

    mappings: Words
    charges: Words
    """Numbers that stand for memory cgroups, see `Charges`; all 0 where that was not asked for."""
    nr_resident: Numbers
    nr_mapped: Numbers
    nr_dirty: Numbers
    nr_writeback: Numbers

    def take(self, rows: NDArray[np.intp]) -> CachedPages:
        """Return some of them, in the order of ``rows``."""
        return CachedPages(*(getattr(self, name)[rows] for name in self.__match_args__))


MOST_IN_PARTS = 1 << 6
"""Frames of a folio that is mapped page by page alone: as a whole is what an entry of a higher table maps."""


class Charges:
    """Numbers the memory cgroups that folios are charged to, and keeps frames of each.

    Which cgroup it is the kernel says of a frame (`mematlas.model.charged`): its own structures need not be followed,
    and no word of them is kept.
    """

    MOST_FRAMES = 8

    def __init__(self, array: FrameArray) -> None:
        self.array = array
        at = array.memory.layout["page.memcg_data"]
        if at % 8 or at >= array.size:
            raise NotSupported(f"page.memcg_data at {at}", "struct pages as this version knows them")
        self._at = at // 8
        self._numbers: dict[int, int] = {0: 0}
        self.frames: list[list[int]] = [[]]
        """Some frames that were charged to each."""

    def of(self, batch: FrameBatch, rows: NDArray[np.intp]) -> Words:
        """Return the number of whom each row is charged to; 0 for nobody."""
        words, first, which = np.unique(batch.words[rows, self._at], return_index=True, return_inverse=True)
        frames = batch.frames_of(rows[first]).tolist()
        numbers = [self._number(word, frame) for word, frame in zip(words.tolist(), frames, strict=True)]
        return np.array(numbers, np.uint64)[which]

    def _number(self, word: int, frame: int) -> int:
        number = self._numbers.setdefault(word, len(self.frames))
        if number == len(self.frames):
            self.frames.append([])
        if number and len(self.frames[number]) < self.MOST_FRAMES:
            self.frames[number].append(frame)
        return number

    def still(self, number: int, frames: Words) -> Bools:
        """Return which of some frames are charged to that one now."""
        words = self.array.batch_of(frames).words[:, self._at]
        numbers = [self._numbers.get(word, 0) for word in words.tolist()]
        are_still: Bools = np.array(numbers, np.intp) == number
        return are_still


def count_cached_pages(array: FrameArray, decoder: Decoder, charges: Charges | None = None) -> CachedPages:
    """Return the pages of the page cache by their mappings, and by who is charged: of all frames of RAM."""
    return added_up(list(cached_parts(array, decoder, charges)))


def cached_parts(array: FrameArray, decoder: Decoder, charges: Charges | None) -> Iterator[CachedPages]:
    """Yield the same as it is read; a mapping may come again."""
    swapbacked, *bits = (np.uint64(array.bits[name]) for name in ("PG_swapbacked", "PG_dirty", "PG_writeback"))
    for batch in array.batches(skip=True):
        frames = batch.nr_frames
        rows = np.flatnonzero(frames)
        rows = rows[decoder.is_cache[decoder.kinds(batch, rows)]]
        if not rows.size:
            continue
        flags, numbers = batch.flags[rows], frames[rows]
        # Memory without a disk always has the flag: there is nowhere to write it to.
        on_disk = numbers * (flags >> swapbacked & np.uint64(1) == 0)
        dirty, written = (on_disk * (flags >> bit & np.uint64(1)).astype(np.int64) for bit in bits)
        mapped = nr_mapped(batch, decoder, rows, numbers)
        charged = np.zeros(len(rows), np.uint64) if charges is None else charges.of(batch, rows)
        yield runs_added_up(CachedPages(batch.mapping[rows], charged, numbers, mapped, dirty, written))


def nr_mapped(batch: FrameBatch, decoder: Decoder, rows: NDArray[np.intp], numbers: Numbers) -> Numbers:
    """Return how many frames are mapped of those that some rows speak for, which are so many."""
    are_mapped = batch.map_counts > 0
    mapped: Numbers = are_mapped[rows].astype(np.int64)
    large = np.flatnonzero(numbers > 1)
    if large.size:
        if batch.ends is None and are_mapped.any():
            # Its pages one by one, up to where the next begins.
            are_mapped = np.append(are_mapped, False).astype(np.int64)
            spans = np.stack((rows[large], rows[large] + numbers[large]), axis=1).reshape(-1)
            mapped[large] = np.add.reduceat(are_mapped, np.minimum(spans, len(batch)))[::2]
        whole = large[numbers[large] > MOST_IN_PARTS]
        whole = whole[decoder.entire_counts(batch, rows[whole]) > 0]
        mapped[whole] = numbers[whole]
    return mapped


def runs_added_up(pages: CachedPages) -> CachedPages:
    """Return neighbours of the same mapping and charge as one: pages of a file lie mostly side by side.

    >>> some, nobody = np.arange(4), np.zeros(4, np.uint64)
    >>> mappings = np.array([8, 8, 16, 8], np.uint64)
    >>> runs_added_up(CachedPages(mappings, nobody, some, some, some, some)).nr_resident.tolist()
    [1, 2, 3]
    """
    mappings, charges = pages.mappings, pages.charges
    is_new = (mappings[1:] != mappings[:-1]) | (charges[1:] != charges[:-1])
    starts = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), is_new)))
    columns = (np.add.reduceat(column, starts) for column in columns_of(pages))
    return CachedPages(mappings[starts], charges[starts], *columns)


def columns_of(pages: CachedPages) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return what is to be added up."""
    return pages.nr_resident, pages.nr_mapped, pages.nr_dirty, pages.nr_writeback


def added_up(parts: Sequence[CachedPages]) -> CachedPages:
    """Return parts together, each mapping once for each charge, in order.

    >>> one = CachedPages(*(np.array(pair, np.uint64) for pair in ((16, 8), (0, 0))), *(np.array([3, 4]),) * 4)
    >>> [column.tolist() for column in (added_up([one, one]).mappings, added_up([one, one]).nr_resident)]
    [[8, 16], [8, 6]]
    """
    if not parts:
        none = np.empty(0, np.int64)
        return CachedPages(*(np.empty(0, np.uint64),) * 2, *(none,) * 4)
    mappings, charges = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mappings", "charges"))
    order = np.lexsort((charges, mappings)) if charges.any() else np.argsort(mappings, kind="stable")
    mappings, charges = mappings[order], charges[order]
    is_new = np.concatenate((np.ones(1, np.bool_), (mappings[1:] != mappings[:-1]) | (charges[1:] != charges[:-1])))
    which = np.empty(len(order), np.intp)
    which[order] = np.cumsum(is_new) - 1
    sums = []
    for columns in zip(*map(columns_of, parts), strict=True):
        column = np.concatenate(columns)
        rows = np.flatnonzero(column)  # of most columns few are
        sums.append(np.bincount(which[rows], column[rows], np.count_nonzero(is_new)).astype(np.int64))
    return CachedPages(mappings[is_new], charges[is_new], *sums)


NR_SAMPLED = 1 << 16
"""Frames that are looked at to find large files: of 24 GiB one in each 384 KiB."""


def sampled_mappings(array: FrameArray, decoder: Decoder) -> Words:
    """Return mappings that pages of the page cache are of, each once: those of large files are among them.

    Frames are looked at evenly over all of RAM, and no more of them where that is larger.
    """
    whole = len(array.pages) << array.shift
    places = np.arange(0, whole, max(1, whole // NR_SAMPLED))
    pfns = (array.pages[places >> array.shift] << np.uint64(array.shift)) + (places & (1 << array.shift) - 1).astype(
        np.uint64
    )
    batch = array.batch_of(pfns)
    heads = np.unique(batch.heads_of(np.flatnonzero(batch.are_tails)))
    parts = []
    for some in (batch, array.batch_of(heads)):
        is_cached = decoder.is_cache[decoder.kinds(some)] & ~some.are_tails
        parts.append(some.mapping[is_cached])
    mappings: Words = np.unique(np.concatenate(parts))
    return mappings

"""A census from the kernel's files of words per frame: slower than struct pages, and on every kernel and processor.

kpageflags has one word for several kinds (`mematlas.model.census.kinds.FAMILIES`), and does not say where in free
memory a block begins.
"""

from __future__ import annotations

from mematlas.arrays import Bools, Bytes, NDArray, Words, np
from mematlas.kernel.kpage import KPF_COMPOUND_TAIL, KPF_NOPAGE, RUN, FrameWords, tells_ksm
from mematlas.model.census.census import FrameCensus
from mematlas.model.census.decode import map_states
from mematlas.model.census.kinds import KIND_MASK, START, STATE_SHIFT, Kind
from mematlas.model.census.words import kinds_of_words
from mematlas.model.frame_facts import FrameFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.kernel.procfs import ProcFS

SHIFT = 6
"""Frames are kept in pages of 64, as struct pages of 64 bytes are."""
HASH_BITS = 13
HASH = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: neighbouring words land far apart."""


class KindTable:
    """Tells the kinds of words of kpageflags. Of those there are millions, and some hundred different."""

    def __init__(self, has_ksm: bool) -> None:
        self.has_ksm = has_ksm
        self._words = np.zeros(1 << HASH_BITS, np.uint64)
        self._kinds = np.zeros(1 << HASH_BITS, np.uint8)
        self._words[0] = ~np.uint64(0)  # 0 is a word, and belongs there

    def kinds(self, words: Words) -> Bytes:
        """Return the kind of each word."""
        places = (words * HASH >> np.uint64(64 - HASH_BITS)).astype(np.intp)
        kinds: Bytes = self._kinds[places]
        new = np.flatnonzero(self._words[places] != words)
        if new.size:
            kinds[new] = found = kinds_of_words(words[new], self.has_ksm)
            self._words[places[new]] = words[new]
            # Of words that fall on the same place the last stays: its kind must be the one that stays too.
            self._kinds[places[new]] = found
        return kinds


def census_of_files(procfs: ProcFS, spans: list[tuple[int, int]], offline: list[tuple[int, int]]) -> FrameCensus:
    """Return a census of some ranges of frames, by kpageflags and kpagecount.

    Raises:
        PermissionDenied: they cannot be read.
        NotSupported: a kernel without CONFIG_PROC_PAGE_MONITOR.
    """
    nr = 1 << SHIFT
    parts = [np.arange(first >> SHIFT, (end + nr - 1) >> SHIFT, dtype=np.uint64) for first, end in spans]
    pages = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    rows = np.full((len(pages), nr), Kind.NO_RAM | START, np.uint8)
    flat = rows.reshape(-1)
    table = KindTable(bool(tells_ksm(procfs)))
    with FrameWords(procfs, "kpageflags") as flags, FrameWords(procfs, "kpagecount") as counts:
        for first, end in spans:
            place = (int(np.searchsorted(pages, np.uint64(first >> SHIFT))) << SHIFT) + first % nr
            before = np.uint8(Kind.CHANGED)
            for low in range(first, end, RUN):
                high = min(low + RUN, end)
                some = counted(flags, counts, table, low, high - low, before)
                before = some[-1] & np.uint8(KIND_MASK)
                flat[place : place + high - low] = some
                place += high - low
    census = FrameCensus(pages, rows, SHIFT, offline)
    census.knows_free_orders = False
    return census


def census_of_frames(procfs: ProcFS, pfns: Words, shift: int = SHIFT) -> FrameCensus:
    """Return a census of some frames, ascending; those beside them in pages of the census are no RAM.

    Heads that tails have elsewhere are looked up.
    """
    pages, which = np.unique(pfns >> np.uint64(shift), return_inverse=True)
    rows = np.full((len(pages), 1 << shift), Kind.NO_RAM, np.uint8)
    with FrameFiles(procfs) as files:
        states = map_states(np.minimum(files.counts(pfns), 2).astype(np.int32))
        told = files.kinds(pfns) | states << np.uint8(STATE_SHIFT)
    rows[which, (pfns & np.uint64((1 << shift) - 1)).astype(np.intp)] = told
    return FrameCensus(pages, rows, shift)


def counted(flags: FrameWords, counts: FrameWords, table: KindTable, first: int, nr: int, before: np.uint8) -> Bytes:
    """Return the bytes of consecutive frames; ``before`` is the kind of the frame that comes before them."""
    kinds, starts = kinds_of_lot(words_of(flags, first, nr), table, before)
    states = map_states(np.minimum(words_of(counts, first, nr), np.uint64(2)).astype(np.int32))
    result: Bytes = kinds | states << np.uint8(STATE_SHIFT) | starts.view(np.uint8) * np.uint8(START)
    return result


def kinds_of_lot(words: Words, table: KindTable, before: np.uint8) -> tuple[Bytes, Bools]:
    """Return the kinds of consecutive frames, those of tails as their heads', and which are no tails.

    ``before`` is the kind of the frame that comes before them.
    """
    kinds = table.kinds(words)
    starts: Bools = words & np.uint64(KPF_COMPOUND_TAIL) == 0
    if not starts.all():
        owners = np.maximum.accumulate(np.where(starts, np.arange(len(words)), -1))
        kinds = np.where(owners < 0, before, kinds[owners])
    return kinds, starts


def words_of(file: FrameWords, first: int, nr: int) -> Words:
    """Return the words of consecutive frames; where memory ends before, what is beyond is no RAM."""
    data = file.read(first, nr)
    words: Words = np.frombuffer(data, np.uint64)
    if len(words) < nr:
        words = np.concatenate([words, np.full(nr - len(words), KPF_NOPAGE, np.uint64)])
    return words


def ranges_of_ram(procfs: ProcFS) -> Iterator[tuple[int, int]]:
    """Yield what is there by kpageflags alone, where nothing says where RAM is."""
    with FrameWords(procfs, "kpageflags") as flags:
        first, at = -1, 0
        while data := flags.read(at, RUN):
            there: NDArray[np.bool_] = np.frombuffer(data, np.uint64) & np.uint64(KPF_NOPAGE) == 0
            for place in np.flatnonzero(np.diff(there, prepend=first >= 0)).tolist():
                if first >= 0:
                    yield first, at + place
                first = at + place if first < 0 else -1
            at += len(there)
        if first >= 0:
            yield first, at

"""Files of words with large holes, as pagemap is one, at one moment after another: what changed is kept.

A file is its words that are not zero, in order, each with its index. One coding serves for a whole file and for what
changed since the moment before: runs of words that lie side by side, in which a zero says that there is none any more.
Little-endian throughout, and packed by zlib as a whole::

    nr_runs     u32
    nr_words    u64
    gaps        nr_runs x u64       from the end of the run before, or from 0, to where this one begins
    lengths     nr_runs x u32
    planes      8 x nr_words x u8   the lowest byte of each word, then the next of each, ...

It may come from a stranger: what it is unpacked to is bounded by what its head says, and that by `MOST_WORDS`.
"""

from __future__ import annotations

import struct
import zlib

from mematlas.arrays import np
from mematlas.errors import FormatError, NotSupported
from mematlas.frozen import record
from mematlas.kernel.pagemap import PM_PFRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mematlas.arrays import NDArray, Words

HEAD = struct.Struct("<IQ")
MOST_WORDS = 1 << 24
"""Of one file: 64 GiB of pages of 4 KiB. Each takes some 40 bytes while it is unpacked."""
WORD = 8
ROW_BITS, LOW, MOST_ROOM = 9, np.uint64((1 << 9) - 1), 8
"""Files are compared in rows, by so many bits of an index, unless that takes more than so many times their room."""
LEVEL = 1
"""How hard zlib tries: what it costs is of the look."""


@record
class Sparse:
    """The words of a file that are not zero."""

    indexes: Words
    """Where they are, ascending: byte offset / 8."""
    words: Words

    def __len__(self) -> int:
        return len(self.indexes)


@record
class Followed:
    """A file of which is known what has changed since the look before."""

    number: int
    """Of the look: that before has one less, or it was another file's."""
    delta: Sparse
    """What has changed, as `changes` returns it."""
    whole: Callable[[], Sparse]
    """Returns all of it, until the next look."""


def empty() -> Sparse:
    """Return a file that is a hole."""
    return Sparse(np.zeros(0, np.uint64), np.zeros(0, np.uint64))


def from_parts(parts: Iterable[tuple[int, bytes]]) -> Sparse:
    """Return a file by its parts: byte offsets, ascending, and bytes.

    >>> file = from_parts([(16, (5).to_bytes(8, "little") + bytes(8)), (80, (6).to_bytes(8, "little"))])
    >>> file.indexes.tolist(), file.words.tolist()
    ([2, 10], [5, 6])
    """
    every = list(parts)
    words = np.frombuffer(b"".join([data for _, data in every]), "<u8").astype(np.uint64, copy=False)
    lengths = np.array([len(data) // WORD for _, data in every], np.intp)
    firsts = np.array([offset // WORD for offset, _ in every], np.uint64)
    # From where a part begins, less how many words there are before it.
    shifts = firsts - (np.cumsum(lengths) - lengths).astype(np.uint64)
    indexes = np.arange(len(words), dtype=np.uint64)
    indexes += np.repeat(shifts, lengths)
    there = words != 0
    return Sparse(indexes, words) if there.all() else Sparse(indexes[there], words[there])


def without_frames(pagemap: Sparse) -> Sparse:
    """Return a pagemap in which no present page has the number of its frame, as those have it who may not know."""
    return Sparse(pagemap.indexes, hidden_frames(pagemap.words))


def hidden_frames(words: Words) -> Words:
    """Return words of a pagemap without the numbers of frames.

    >>> hidden_frames(np.array([1 << 63 | 4711, 1 << 62 | 4711], np.uint64)).tolist() == [1 << 63, 1 << 62 | 4711]
    True
    """
    is_present = words >> np.uint64(63) != 0
    return np.where(is_present, words & ~np.uint64(PM_PFRAME), words)


def parts_of(file: Sparse) -> Iterable[tuple[int, bytes]]:
    """Yield the parts of a file that hold something: byte offsets and bytes."""
    firsts, lengths = runs_of(file.indexes)
    at = 0
    for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True):
        yield first * WORD, file.words[at : at + length].astype("<u8").tobytes()
        at += length


def runs_of(indexes: Words) -> tuple[Words, NDArray[np.uint32]]:
    """Return where runs of neighbours begin, and how long they are."""
    if not len(indexes):
        return indexes, np.zeros(0, np.uint32)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(indexes) != 1) + 1))
    lengths = np.diff(starts, append=len(indexes)).astype(np.uint32)
    return indexes[starts], lengths


def changes(before: Sparse, now: Sparse) -> Sparse:
    """Return what makes one file of another: words that are new or others, and zeros for those that are no more.

    >>> one, other = (Sparse(*np.array(both, np.uint64)) for both in ([[1, 2], [7, 8]], [[2, 3], [8, 9]]))
    >>> delta = changes(one, other)
    >>> delta.indexes.tolist(), delta.words.tolist(), changed(one, delta).indexes.tolist()
    ([1, 3], [0, 9], [2, 3])
    """
    # Most is where it was, up to something that came or went, and behind it.
    nr = min(len(before), len(now))
    nr_first = nr_alike(before.indexes[:nr], now.indexes[:nr])
    nr -= nr_first
    nr_last = nr_alike(before.indexes[len(before) - nr :][::-1], now.indexes[len(now) - nr :][::-1])
    ends = len(before) - nr_last, len(now) - nr_last
    parts = (
        rewritten(part_of(before, 0, nr_first), part_of(now, 0, nr_first)),
        moved(part_of(before, nr_first, ends[0]), part_of(now, nr_first, ends[1])),
        rewritten(part_of(before, ends[0], len(before)), part_of(now, ends[1], len(now))),
    )
    return Sparse(np.concatenate([part.indexes for part in parts]), np.concatenate([part.words for part in parts]))


def nr_alike(some: Words, others: Words) -> int:
    """Return how many numbers at the beginning of two arrays, equally long, are the same."""
    differ = some != others
    return int(np.argmax(differ)) if differ.any() else len(differ)


def part_of(file: Sparse, first: int, end: int) -> Sparse:
    """Return a part of a file, from one of its words to another."""
    return Sparse(file.indexes[first:end], file.words[first:end])


def rewritten(before: Sparse, now: Sparse) -> Sparse:
    """Return which words are others, of files that have words at the same places."""
    differ = before.words != now.words
    return Sparse(now.indexes[differ], now.words[differ])


def moved(before: Sparse, now: Sparse) -> Sparse:
    """Return what `changes` does, of files that have words anywhere."""
    pages, _, new = side_by_side(before, now, only_different=True)
    return Sparse(pages, new)


def side_by_side(before: Sparse, now: Sparse, only_different: bool) -> tuple[Words, Words, Words]:
    """Return all places at which one of two files has a word, or those that differ, ascending, and the words of each
    there; 0 is none.

    >>> one, other = (Sparse(*np.array(both, np.uint64)) for both in ([[1, 2], [7, 8]], [[2, 3], [8, 9]]))
    >>> [array.tolist() for array in side_by_side(one, other, only_different=False)]
    [[1, 2, 3], [7, 8, 0], [0, 8, 9]]
    """
    if np.array_equal(before.indexes, now.indexes):
        return chosen(now.indexes, before.words, now.words, only_different)
    rows, firsts = zip(*(rows_of(file.indexes) for file in (before, now)), strict=True)
    every = np.unique(np.concatenate([row[first] for row, first in zip(rows, firsts, strict=True)]))
    if len(every) << ROW_BITS > MOST_ROOM * (len(before) + len(now)):
        return chosen(*far_apart(before, now), only_different)
    # Where they lie close together they are put into rows, holes and all.
    was, new = np.zeros((2, len(every) << ROW_BITS), np.uint64)
    for side, file, row, first in zip((was, new), (before, now), rows, firsts, strict=True):
        which = np.searchsorted(every, row[first])[np.cumsum(first) - 1]
        side[(which << ROW_BITS) + (file.indexes & LOW).astype(np.intp)] = file.words
    at = np.flatnonzero(was != new if only_different else was | new)
    return (every[at >> ROW_BITS] << np.uint64(ROW_BITS)) + (at & int(LOW)).astype(np.uint64), was[at], new[at]


def chosen(indexes: Words, was: Words, new: Words, only_different: bool) -> tuple[Words, Words, Words]:
    """Return all places with their words, or those that differ."""
    if not only_different:
        return indexes, was, new
    differ = was != new
    return indexes[differ], was[differ], new[differ]


def rows_of(indexes: Words) -> tuple[Words, NDArray[np.bool_]]:
    """Return in which row each index is, and which are the first of theirs."""
    rows = indexes >> np.uint64(ROW_BITS)
    firsts = np.ones(len(rows), np.bool_)
    firsts[1:] = rows[1:] != rows[:-1]
    return rows, firsts


def far_apart(before: Sparse, now: Sparse) -> tuple[Words, Words, Words]:
    """Return the same of files whose words lie far apart."""
    every = np.union1d(before.indexes, now.indexes)
    was, new = np.zeros((2, len(every)), np.uint64)
    was[np.searchsorted(every, before.indexes)] = before.words
    new[np.searchsorted(every, now.indexes)] = now.words
    return every, was, new


def changed(before: Sparse, delta: Sparse) -> Sparse:
    """Return a file after what `changes` has returned."""
    indexes, words = put_over(before, delta)
    kept = words != 0
    return Sparse(indexes, words) if kept.all() else Sparse(indexes[kept], words[kept])


def together(first: Sparse, second: Sparse) -> Sparse:
    """Return what has changed by one change and another after it.

    >>> one, other = (Sparse(*np.array(both, np.uint64)) for both in ([[1, 2], [7, 0]], [[2, 3], [8, 0]]))
    >>> both = together(one, other)
    >>> both.indexes.tolist(), both.words.tolist()
    ([1, 2, 3], [7, 8, 0])
    """
    return Sparse(*put_over(first, second))


def put_over(before: Sparse, delta: Sparse) -> tuple[Words, Words]:
    """Return words with others in their place, and those that are in no place yet."""
    is_there, place = found_in(delta.indexes, before.indexes)
    words = before.words.copy()
    words[place[is_there]] = delta.words[is_there]
    indexes = before.indexes
    if not is_there.all():
        indexes = np.concatenate((indexes, delta.indexes[~is_there]))
        words = np.concatenate((words, delta.words[~is_there]))
        order = np.argsort(indexes, kind="stable")
        indexes, words = indexes[order], words[order]
    return indexes, words


def last_of_each(parts: Iterable[tuple[Words, NDArray[Any] | float]]) -> tuple[Words, NDArray[Any]]:
    """Return all numbers of some parts, ascending, each once, with what it has in the last part that has it: one value
    for each, or for all.

    >>> pages, times = last_of_each([(np.array([2, 5], np.uint64), 1.0), (np.array([5], np.uint64), 3.0)])
    >>> pages.tolist(), times.tolist()
    ([2, 5], [1.0, 3.0])
    """
    some = [(numbers, value) for numbers, value in parts if len(numbers)]
    if not some:
        return np.zeros(0, np.uint64), np.zeros(0, np.float64)
    numbers = np.concatenate([numbers for numbers, _ in some])
    values = np.concatenate([np.broadcast_to(np.asarray(value), numbers.shape) for numbers, value in some])
    order = np.argsort(numbers, kind="stable")
    numbers, values = numbers[order], values[order]
    is_last = np.append(numbers[1:] != numbers[:-1], True)
    return numbers[is_last], values[is_last]


def found_in(wanted: Words, indexes: Words) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return which of some numbers are among others, and where."""
    place = np.searchsorted(indexes, wanted)
    is_there = place < len(indexes)
    is_there[is_there] = indexes[place[is_there]] == wanted[is_there]
    return is_there, place


def pack(file: Sparse) -> bytes:
    """Return a file, or changes, as bytes.

    Raises:
        NotSupported: it has more words than are read again.
    """
    if len(file) > MOST_WORDS:
        raise NotSupported(f"a recording of {len(file):,} pages", f"{MOST_WORDS:,} at the most: record --what vmas")
    firsts, lengths = runs_of(file.indexes)
    ends = firsts + lengths.astype(np.uint64)
    gaps = firsts.copy()
    gaps[1:] -= ends[:-1]
    planes = np.ascontiguousarray(file.words.astype("<u8").view(np.uint8).reshape(-1, WORD).T)
    data = b"".join(
        (
            HEAD.pack(len(firsts), len(file)),
            gaps.astype("<u8").tobytes(),
            lengths.astype("<u4").tobytes(),
            planes.tobytes(),
        )
    )
    return zlib.compress(data, LEVEL)


def unpack(data: bytes) -> Sparse:
    """Return what `pack` was given.

    >>> unpack(pack(from_parts([(16, b"abcdefgh" * 2)]))).indexes.tolist()
    [2, 3]

    Raises:
        FormatError: it is nothing of the kind, or too much.
    """
    unpacker = zlib.decompressobj()
    try:
        head = unpacker.decompress(data, HEAD.size)
        nr_runs, nr_words = HEAD.unpack(head)
        if not nr_runs <= nr_words <= MOST_WORDS:
            raise FormatError("words", expected=f"at most {MOST_WORDS:,} of them")
        size = nr_runs * 12 + nr_words * WORD
        rest = unpacker.decompress(unpacker.unconsumed_tail, size + 1)
    except (zlib.error, struct.error):
        raise FormatError("words", expected="words, packed") from None
    if len(rest) != size:
        raise FormatError("words", expected=f"{size} bytes, packed")
    gaps = np.frombuffer(rest, "<u8", nr_runs).astype(np.uint64)
    lengths = np.frombuffer(rest, "<u4", nr_runs, nr_runs * 8).astype(np.uint64)
    if int(lengths.sum()) != nr_words or (nr_runs and not lengths.all()) or (gaps >> np.uint64(61)).any():
        raise FormatError("words", expected="runs that lie one behind the other")
    firsts = np.cumsum(gaps + lengths, dtype=np.uint64) - lengths
    if nr_runs and float(gaps.astype(np.float64).sum()) + nr_words >= 1 << 61:
        raise FormatError("words", expected="offsets of 64 bits")
    within = np.arange(nr_words, dtype=np.uint64) - np.repeat(
        np.cumsum(lengths, dtype=np.uint64) - lengths, lengths.astype(np.intp)
    )
    indexes = np.repeat(firsts, lengths.astype(np.intp)) + within
    planes = np.frombuffer(rest, np.uint8, offset=nr_runs * 12).reshape(WORD, nr_words)
    return Sparse(indexes, np.ascontiguousarray(planes.T).view("<u8").reshape(-1).astype(np.uint64))

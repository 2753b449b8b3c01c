"""Kinds by words of kpageflags."""

from __future__ import annotations

import numpy as np
import pytest

from mematlas.kernel.kpage import FrameWords
from mematlas.model.census.kernelfiles import KindTable, counted
from mematlas.model.census.kinds import START, STATE_SHIFT, Kind
from mematlas.model.census.words import kinds_of_words

BUDDY, ANON, SLAB, HEAD, TAIL, LRU, UPTODATE, DIRTY, MMAP = (1 << bit for bit in (10, 12, 7, 15, 16, 5, 3, 4, 11))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0, Kind.KERNEL),
        (MMAP | DIRTY, Kind.KERNEL),  # of the kernel, and mapped: a ring of perf
        (UPTODATE, Kind.FILE),
        (UPTODATE | LRU | DIRTY, Kind.FILE_DIRTY),
        (UPTODATE | LRU | DIRTY | 1 << 8, Kind.FILE_WRITEBACK),
        (UPTODATE | LRU | 1 << 14, Kind.SHMEM),
        (UPTODATE | 1 << 14 | 1 << 13, Kind.SWAPCACHE),
        (ANON | LRU | MMAP | 1 << 13, Kind.ANON),
        (ANON | 1 << 21, Kind.KSM),
        (SLAB | ANON, Kind.SLAB),  # what else stands there is the slab's
        (1 << 32 | 1 << 24, Kind.ZERO),
        (1 << 20, Kind.NO_RAM),
    ],
)
def test_a_word_is_of_one_kind(word: int, kind: Kind) -> None:
    assert Kind(kinds_of_words(np.array([word], np.uint64))[0]) == kind


def test_ksm_is_not_believed_where_it_says_nothing() -> None:
    words = np.array([ANON | 1 << 21], np.uint64)
    assert [Kind(kinds_of_words(words, told)[0]) for told in (True, False)] == [Kind.KSM, Kind.ANON]


def test_a_table_of_words_says_the_same_as_each_word() -> None:
    # More different words than it has places: some fall on one another.
    words = np.random.default_rng(5).integers(0, 1 << 40, 40_000, np.uint64)
    words[::7] = 0
    table = KindTable(has_ksm=True)
    for _ in range(2):
        for part in np.split(words, 8):
            assert (table.kinds(part) == kinds_of_words(part)).all()


class Words:
    """A file of words per frame."""

    def __init__(self, words: list[int]) -> None:
        self.words = np.array(words, np.uint64)

    def read(self, first: int, nr_frames: int) -> memoryview:
        return self.words[first : first + nr_frames].data


def seen(flags: list[int], counts: list[int], nr: int) -> list[int]:
    files: tuple[FrameWords, FrameWords] = (Words(flags), Words(counts))  # type: ignore[assignment]
    made: list[int] = counted(*files, KindTable(has_ksm=True), 0, nr, np.uint8(Kind.SLAB)).tolist()
    return made


def test_a_tail_is_what_its_head_is_also_where_that_came_before() -> None:
    assert seen([TAIL, ANON | HEAD, TAIL, BUDDY], [0, 1, 2, 0], 4) == [
        Kind.SLAB,
        Kind.ANON | 1 << STATE_SHIFT | START,
        Kind.ANON | 2 << STATE_SHIFT,
        Kind.FREE | START,
    ]


def test_what_lies_behind_the_end_of_memory_is_no_ram() -> None:
    assert seen([BUDDY], [0], 3) == [Kind.FREE | START] + [Kind.NO_RAM | START | 2 << STATE_SHIFT] * 2

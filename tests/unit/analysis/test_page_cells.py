"""Cells of pages: every page is in one of them or folded, and what is counted in them is what is there."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from mematlas.analysis.grid import CLASSES, class_of
from mematlas.analysis.page_cells import (
    FOLD_CELLS,
    MOST_RUNS,
    CellCounts,
    PageSpace,
    Pieces,
    Segments,
    class_totals,
    space_of,
)

BYTES = (0x81, 0x80, 0x88, 0x91, 0x40, 0x10, 0x08, 0x44, 0x18)


def random_space(random: Random) -> tuple[PageSpace, list[tuple[int, int]], dict[int, int]]:
    """Return VMAs of few and of many pages, with gaps and without, and their pages with a word each."""
    vmas, pages, at = [], {}, random.randrange(50)
    for _ in range(random.randrange(1, 9)):
        at += random.choice([0, 0, 1, 5, 300, 20_000])
        size = random.choice([1, 2, 7, 70, 600, 1500])
        vmas.append((at, at + size))
        place = at
        while random.random() < 0.9 and place < at + size:
            for page in range(place, min(place + random.choice([1, 3, 90]), at + size)):
                pages[page] = random.choice(BYTES) << 56
            place += random.choice([1, 40, 64, 65, 66, 150, 1500])
        at += size
    firsts, ends = (np.array(edges, np.int64) for edges in zip(*vmas, strict=True))
    space = space_of(firsts, ends, numbers(pages))
    return space, vmas, pages


def numbers(pages: dict[int, int]) -> np.ndarray:
    return np.array(sorted(pages), np.uint64)


def words(pages: dict[int, int]) -> np.ndarray:
    return np.array([pages[page] for page in sorted(pages)], np.uint64)


def every_cell(segments: Segments) -> list[tuple[int, int]]:
    return [(word, cell) for word, nr in enumerate(segments.word_cells.tolist()) for cell in range(nr)]


@pytest.mark.parametrize("seed", range(25))
def test_every_page_is_in_one_cell_or_folded_and_absent(seed: int) -> None:
    random = Random(seed)
    space, vmas, pages = random_space(random)
    for cell_pages in (1, 4, 64, 1024):
        segments = Segments(space, cell_pages)
        drawn: dict[int, tuple[int, int]] = {}
        for word, cell in every_cell(segments):
            ranges = segments.ranges(word, cell)
            assert 0 < sum(end - first for first, end in ranges) <= cell_pages
            assert segments.first_page(word, cell) == ranges[0][0]
            for first, end in ranges:
                assert not drawn.keys() & set(range(first, end))
                drawn |= dict.fromkeys(range(first, end), (word, cell))
        assert all(segments.place_of(page) == place for page, place in drawn.items())
        every = {page for first, end in vmas for page in range(first, end)}
        folded = every - drawn.keys()
        assert drawn.keys() <= every
        assert not folded & pages.keys()
        for page in folded:
            word, cell = segments.place_of(page)
            ((first, end),) = segments.ranges(word, cell)
            assert (cell, first <= page < end) == (segments.word_cells[word], True)


@pytest.mark.parametrize("seed", range(25))
def test_cells_have_the_pages_that_are_there(seed: int) -> None:
    random = Random(seed)
    space, vmas, pages = random_space(random)
    hidden = np.array([random.random() < 0.2 for _ in vmas])
    for cell_pages in (1, 16, 512):
        segments = Segments(space, cell_pages)
        cells = [one for one in every_cell(segments) if random.random() < 0.8][:200]
        if not cells:
            continue
        runs = [(word, cell, cell + 1) for word, cell in cells]
        pieces = segments.pieces(*([run[index] for run in runs] for index in range(3)))
        counts = CellCounts(pieces, numbers(pages), words(pages), hidden)
        some = {page for page in pages if random.random() < 0.3}
        nr_some = pieces.numbers(np.array(sorted(some), np.uint64))
        times = np.array([float(page % 97) for page in sorted(some)])
        latest = pieces.latest(np.array(sorted(some), np.uint64), times)
        for slot, (word, cell) in enumerate(cells):
            expected = dict.fromkeys(CLASSES, 0)
            mine = [page for first, end in segments.ranges(word, cell) for page in range(first, end)]
            for page in mine:
                is_hidden = hidden[next(index for index, (first, end) in enumerate(vmas) if first <= page < end)]
                name = class_of(pages[page] >> 56) if page in pages else "unknown" if is_hidden else "absent"
                expected[name] += 1
            assert dict(zip(CLASSES, counts.classes[slot].tolist(), strict=True)) == expected
            assert counts.huge[slot] == sum(pages.get(page, 0) >> 56 == 0x91 for page in mine)
            assert counts.present[slot] == sum(expected[name] for name in ("own", "shared", "zero"))
            assert nr_some[slot] == len(some & set(mine))
            assert latest[slot] == max((page % 97 for page in some & set(mine)), default=-np.inf)


def test_runs_of_cells_are_numbered_one_after_the_other() -> None:
    space = space_of(np.array([0, 5000]), np.array([40, 5010]), np.arange(40, dtype=np.uint64))
    segments = Segments(space, 8)

    pieces = segments.pieces([0, 1], [2, 0], [5, 2])

    assert pieces.slots.tolist() == [0, 1, 2, 3, 4]
    assert pieces.firsts.tolist() == [16, 24, 32, 5000, 5008]
    assert (pieces.sizes.tolist(), pieces.nr_slots) == ([8, 8, 8, 8, 2], 5)


def test_small_vmas_that_lie_close_together_share_cells() -> None:
    firsts = np.arange(40_000) * 3
    space = space_of(firsts, firsts + 1, firsts.astype(np.uint64))

    segments = Segments(space, 1024)

    assert (segments.nr_words, segments.word_cells.tolist(), segments.word_pages.tolist()) == (1, [40], [40_000])
    assert segments.ranges(0, 0)[-1] == (3 * 1023, 3 * 1023 + 1)


def test_runs_are_folded_from_a_line_of_cells_on() -> None:
    pages = np.array([0, FOLD_CELLS, 2 * FOLD_CELLS + 1], np.uint64)
    space = space_of(np.array([0]), np.array([2 * FOLD_CELLS + 2]), pages)
    assert (space.run_firsts.tolist(), space.run_ends.tolist()) == ([FOLD_CELLS + 1], [2 * FOLD_CELLS + 1])


def test_only_the_longest_runs_are_folded_where_there_are_too_many() -> None:
    sizes = np.full(MOST_RUNS + 50, FOLD_CELLS + 1)
    sizes[:20] += 5
    pages = np.cumsum(sizes + 1)
    space = space_of(np.array([int(pages[0])]), np.array([int(pages[-1]) + 1]), pages.astype(np.uint64))

    assert len(space.run_firsts) == MOST_RUNS
    assert (space.run_ends - space.run_firsts)[:19].tolist() == sizes[1:20].tolist()


def test_a_process_without_pages_is_one_fold() -> None:
    segments = Segments(space_of(np.array([100]), np.array([9000]), np.zeros(0, np.uint64)), 1)

    assert (segments.word_cells.tolist(), segments.ranges(0, 0)) == ([0], [(100, 9000)])


def test_the_cell_with_most_of_some_pages_is_found() -> None:
    pages = np.array([3, 900, 901, 902, 40_000], np.uint64)
    segments = Segments(space_of(np.array([0, 30_000]), np.array([1000, 41_000]), pages), 16)

    assert segments.most_of(pages) == 900
    assert segments.most_of(np.array([40_000], np.uint64)) == 40_000
    assert segments.most_of(np.array([20_000, 35_000], np.uint64)) is None


def test_totals_are_those_of_all_vmas() -> None:
    by_byte = np.bincount(np.array([0x81, 0x81, 0x40]), minlength=256)

    assert class_totals(by_byte, 10, 3) == {"own": 2, "swapped": 1, "absent": 4, "unknown": 3}


@pytest.mark.parametrize("seed", range(20))
def test_what_has_changed_is_counted_as_all_of_it_would_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    firsts = np.cumsum(random.integers(1, 50, 9)).astype(np.int64)
    ends = firsts + random.integers(1, 7, 9)
    ends[:-1] = np.minimum(ends[:-1], firsts[1:])
    pieces = Pieces(firsts, ends, np.arange(9) // 2, np.arange(9), 5)
    pages = np.arange(500, dtype=np.uint64)[random.random(500) < 0.7]
    states = random.choice([0x80, 0x81, 0x40], len(pages)).astype(np.uint64)
    hidden = np.zeros(9, np.bool_)
    before = CellCounts(pieces, pages, states << np.uint64(56), hidden)
    places = np.flatnonzero(random.random(len(pages)) < 0.2)
    now = states.copy()
    now[places] = random.choice([0x80, 0x81, 0x40], len(places))
    after = before.after(pages[places], states[places].astype(np.uint8), now[places].astype(np.uint8))
    whole = CellCounts(pieces, pages, now << np.uint64(56), hidden)

    assert after is not None
    assert (after.classes == whole.classes).all()
    assert dict(zip(after.kinds, after.counts.T.tolist(), strict=True)) == dict(
        zip(whole.kinds, whole.counts.T.tolist(), strict=True)
    )
    assert before.after(pages[:1], states[:1].astype(np.uint8), np.array([0x20], np.uint8)) is None

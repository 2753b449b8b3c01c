"""Which frames flags choose, and how like ones are put together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mematlas.analysis.frame_list import FlagCounts, FrameRows, Runs, check_spans, first_rows, parse_frame_flags
from mematlas.errors import BadInput
from mematlas.kernel.kpage import KPF_NAMES
from mematlas.model.census.kinds import Kind

LRU, DIRTY, ANON, HEAD, TAIL, NAMELESS = (1 << bit for bit in (5, 4, 12, 15, 16, 27))
WORDS = np.array([0, LRU, LRU | DIRTY, LRU | ANON | HEAD, LRU | ANON | TAIL, LRU | NAMELESS], np.uint64)
KINDS = np.array([Kind.KERNEL, Kind.FILE, Kind.FILE_DIRTY, Kind.ANON, Kind.ANON, Kind.FILE], np.uint8)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("lru", [1, 2, 3, 4, 5]),
        ("lru,!dirty", [1, 3, 4, 5]),
        ("lru,~dirty,~anon", [1, 5]),
        ("anonymous", [3, 4]),  # as page-types calls it
        ("compound", [3, 4]),
        ("lru,!compound", [1, 2, 5]),
        ("compound_head", [3]),
        ("bit_27", [5]),
        ("bit_4", [2]),
        ("bit_63", []),
        ("file", [1, 2, 5]),
        ("file,!dirty", [1, 5]),
        ("kernel", [0]),
        ("!file,!kernel", [3, 4]),
        ("file,kernel", []),
        ("lru,!lru", []),
    ],
)
def test_flags_choose_frames(text: str, chosen: list[int]) -> None:
    assert np.flatnonzero(parse_frame_flags(text).takes(WORDS, KINDS)).tolist() == chosen


@pytest.mark.parametrize(
    ("text", "meant"),
    [("dirtty", "dirty"), ("anon,buddi", "buddy"), ("hugetbl", "hugetlb"), ("!swapbaked", "swapbacked")],
)
def test_an_unknown_flag_is_refused_with_what_was_probably_meant(text: str, meant: str) -> None:
    with pytest.raises(BadInput, match=rf"did you mean {meant}\?\): locked, error"):
        parse_frame_flags(text)


@pytest.mark.parametrize("text", ["", "lru,", "!", "!!lru", "bit_64", "bit_07", "LRU", "lru dirty", "no_ram"])
def test_what_is_no_flag_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_frame_flags(text)


def test_every_flag_has_a_name_and_a_number() -> None:
    for bit, name in KPF_NAMES.items():
        assert parse_frame_flags(name) == parse_frame_flags(f"bit_{bit}")


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1), st.integers(0, 1)), max_size=12), max_size=5))
def test_runs_are_those_of_a_plain_loop_however_frames_are_cut_up(lots: list[list[tuple[int, int, int]]]) -> None:
    expected: list[list[int]] = []
    runs, pfn, found = Runs(), 0, []
    for lot in lots:
        frames = []
        for step, word, kind in lot:
            pfn += step
            frames.append((pfn, word, kind))
            if expected and (pfn, word, kind) == (expected[-1][0] + expected[-1][1], *expected[-1][2:]):
                expected[-1][1] += 1
            else:
                expected.append([pfn, 1, word, kind])
        columns = np.array(frames, np.uint64).reshape(-1, 3).T
        found.append(runs.add(columns[0], columns[1], columns[2].astype(np.uint8)))
    rows = [rows for rows in (*found, runs.end()) if rows]
    assert [pair for each in rows for pair in zip(each.pfns, each.nr_pages, strict=True)] == [
        (first, nr) for first, nr, _, _ in expected
    ]


def test_no_more_rows_than_asked_for_and_nothing_is_read_beyond() -> None:
    def batches() -> Iterator[FrameRows]:
        yield FrameRows([1, 2], [1, 1], ["anon"] * 2, [()] * 2)
        yield FrameRows([3, 4], [1, 1], ["anon"] * 2, [()] * 2)
        raise AssertionError("read too far")

    assert [rows.pfns for rows in first_rows(batches(), 3)] == [[1, 2], [3]]
    assert [rows.pfns for rows in first_rows(batches(), 4)] == [[1, 2], [3, 4]]


def test_frames_are_counted_by_their_flags_the_most_frequent_first() -> None:
    counts = FlagCounts()
    counts.add(WORDS[[1, 1, 5]])
    counts.add(WORDS[[5, 1]])
    assert [(use.flags, use.nr_pages, use.size) for use in counts.uses(4096)] == [
        (("lru",), 3, 12288),
        (("lru", "bit_27"), 2, 8192),
    ]


@pytest.mark.parametrize("span", [(5, 5), (7, 5), (-1, 5)])
def test_an_empty_range_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(BadInput):
        check_spans([span])

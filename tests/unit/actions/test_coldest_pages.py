"""The order of coldness, from flags that are made up, and where there is none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.actions.coldest import check_order
from mematlas.analysis.coldness import IDLE, UNRANKED, UNTOUCHED, coldest, count_ranks, rank_of
from mematlas.errors import NotSupported
from mematlas.kernel.kpage import KPF_ACTIVE, KPF_LRU, KPF_REFERENCED
from mematlas.kernel.page_idle import idle_frames, is_multigen

FAR = 1 << 40
ranks = st.binary(max_size=20).map(lambda data: bytes(byte % (UNRANKED + 1) for byte in data))


def test_inactive_comes_before_active_and_unreferenced_before_referenced() -> None:
    words = [KPF_LRU | flags for flags in (0, KPF_REFERENCED, KPF_ACTIVE, KPF_ACTIVE | KPF_REFERENCED)]
    order = [rank_of(word) for word in words]
    assert order == sorted(order)
    assert len(set(order)) == 4
    assert order[0] > IDLE


def test_page_on_no_list_is_unknown_and_last() -> None:
    assert rank_of(KPF_ACTIVE) == rank_of(None) == UNRANKED > rank_of(KPF_LRU | KPF_ACTIVE | KPF_REFERENCED)


@given(st.lists(ranks, max_size=4), st.integers(0, 100))
def test_no_page_that_is_left_is_colder_than_one_that_is_taken(parts: list[bytes], nr_pages: int) -> None:
    blocks = {number * FAR: part for number, part in enumerate(parts)}
    taken: list[int] = []
    left = {address: bytearray(part) for address, part in blocks.items()}
    for address, mask in coldest(blocks, nr_pages):
        for place, marked in enumerate(mask):
            if marked:
                taken.append(blocks[address][place])
                assert left[address][place], "taken twice, or not there"
                left[address][place] = 0
    total = sum(count_ranks(blocks).values())
    assert len(taken) == min(nr_pages, total)
    rest = [rank for part in left.values() for rank in part if rank]
    assert max(taken, default=0) <= min(rest, default=UNRANKED)


def test_idle_frames_are_the_bits_of_the_bitmap(tmp_path: Path) -> None:
    bitmap = tmp_path / "bitmap"
    bitmap.write_bytes(struct.pack("=3Q", 1 << 5, 0, 1 << 63 | 1))
    assert idle_frames([4, 5, 63, 64, 128, 191, 192, 100_000], str(bitmap)) == {5, 128, 191}
    assert idle_frames([5], str(tmp_path / "none")) == set()


@pytest.mark.parametrize(("text", "truth"), [("0x0007\n", True), ("0x0000\n", False), ("0x0006\n", False), ("", False)])
def test_first_bit_says_whether_the_multi_gen_lru_is_on(tmp_path: Path, text: str, truth: bool) -> None:
    path = tmp_path / "enabled"
    path.write_text(text)
    assert is_multigen(str(path)) is truth
    assert not is_multigen(str(tmp_path / "none"))


def test_where_nothing_tells_pages_apart_is_refused_with_the_reason() -> None:
    with pytest.raises(NotSupported, match="all 7 pages as active and referenced"):
        check_order({rank_of(KPF_LRU | KPF_ACTIVE | KPF_REFERENCED): 7}, multigen=False)
    with pytest.raises(NotSupported, match="multi-gen LRU"):
        check_order({IDLE + 1: 3, IDLE + 2: 4}, multigen=True)
    check_order({IDLE + 1: 3, IDLE + 2: 4}, multigen=False)
    check_order({IDLE: 3, IDLE + 1: 4}, multigen=True)
    check_order({UNTOUCHED: 3, IDLE + 1: 4}, multigen=True)

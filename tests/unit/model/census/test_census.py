"""A census of a machine made by hand: every byte is known."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from constructed_frames import LAYOUT, RAM, ConstructedFrames, machine
from mematlas.kernel.memory.btf import StructLayout
from mematlas.model.census.blocks import choose_blocks
from mematlas.model.census.census import FrameCensus
from mematlas.model.census.decode import Decoder
from mematlas.model.census.kinds import KIND_MASK, START, Kind
from mematlas.model.census.tell import Teller


def census_of(made: ConstructedFrames, skip: bool = True) -> FrameCensus:
    return Teller(Decoder(made.array()), in_kernel=False).census(skip)


def frames() -> np.ndarray:
    return np.concatenate([np.arange(first, end, dtype=np.uint64) for first, end in RAM])


@pytest.mark.parametrize("skip", [False, True])
def test_every_byte_is_what_is_true(skip: bool) -> None:
    made = machine()
    seen = census_of(made, skip).of_frames(frames())
    wrong = np.flatnonzero(seen != made.expected())
    assert [(hex(int(frames()[at])), int(seen[at]), int(made.expected()[at])) for at in wrong[:5].tolist()] == []


def test_kinds_add_up_to_the_frames_that_there_are() -> None:
    census = census_of(machine())
    assert census.nr_frames == len(frames())
    assert census.counts()[Kind.NO_RAM].sum() == 0


def test_ranges_add_up_to_the_whole() -> None:
    census = census_of(machine())
    parts = census.counts([(0, 0x133)]) + census.counts([(0x133, 0x2801)]) + census.counts([(0x2801, 1 << 20)])
    assert (parts == census.counts()).all()


def test_frames_of_kinds_come_in_lots_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.model.census.census.PIECE", 96)
    made = machine()
    wanted = np.isin(made.expected() & KIND_MASK, [Kind.FREE, Kind.FILE])

    lots = list(census_of(made).frames_of([Kind.FREE, Kind.FILE]))

    assert max(len(pfns) for pfns, _ in lots) <= 96
    assert np.concatenate([pfns for pfns, _ in lots]).tolist() == frames()[wanted].tolist()
    assert np.concatenate([kinds for _, kinds in lots]).tolist() == (made.expected()[wanted] & KIND_MASK).tolist()


def test_sizes_of_folios_and_blocks_are_counted() -> None:
    sizes = census_of(machine()).sizes()
    assert np.flatnonzero(sizes[Kind.FREE]).tolist() == [3, 6, 10]
    assert sizes[Kind.FREE, [3, 6, 10]].tolist() == [1, 1, 2]
    assert census_of(machine()).free_blocks() == sizes[Kind.FREE, :11].tolist()
    assert sizes[Kind.ANON, 9] == 2
    assert sizes[Kind.HUGETLB, [0, 9, 12]].tolist() == [1, 1, 1]
    # Whatever is put together, the pages are all there.
    assert int((sizes << np.arange(sizes.shape[1])).sum()) == len(frames())


@pytest.mark.parametrize("skip", [False, True])
def test_copies_of_a_head_are_no_heads(skip: bool) -> None:
    made = machine()
    made.share_pages(0x800, 9)
    made.share_pages(0x2000, 12)
    seen = census_of(made, skip).of_frames(frames())
    assert (seen == made.expected()).all()


def test_a_tail_whose_head_is_gone_has_changed() -> None:
    made = machine()
    made.put(0x180, Kind.SLAB)
    seen = census_of(made, skip=False).of_frames(np.array([0x181, 0x18F], np.uint64))
    assert [int(byte) & KIND_MASK for byte in seen] == [Kind.CHANGED] * 2


def test_a_type_that_we_do_not_know_is_of_the_kernel() -> None:
    made = machine()
    made.numbers[0x140, 12] = np.uint32(0xFB000000).astype(np.int32)
    assert census_of(made).kind_of(0x140) == Kind.KERNEL


def test_a_frame_beside_ram_has_no_kind() -> None:
    assert census_of(machine()).kind_of(0xA0) == Kind.NO_RAM


def test_frames_that_are_offline_are_counted_and_not_read() -> None:
    array = machine().array(online=[(0, 0x1000 << 12)])
    census = Teller(Decoder(array), in_kernel=False).census()
    assert census.counts()[Kind.OFFLINE, 0] == 0x3FD0 - 0x1000 + 1  # one is a balloon's
    assert census.nr_frames == len(frames())


def test_pages_of_large_folios_are_found_and_can_be_named() -> None:
    made = machine()
    made.put(0x1800, Kind.KERNEL, order=9)
    made.put(0x1A00, Kind.KERNEL, order=5)
    made.put(0x1A40, Kind.FILE, order=6)
    census = census_of(made)
    assert census.pages_in(Kind.KERNEL).tolist() == list(range(0x1800, 0x1A00, 64))
    census.set_kind(0x1800, 64, Kind.ZERO)
    assert census.counts()[Kind.ZERO, 0] == 64
    assert int(census.of_frames(np.array([0x1800], np.uint64))[0]) & START


def test_blocks_that_are_told_alone_are_what_they_are_in_the_whole() -> None:
    made = machine()
    made.share_pages(0x800, 9)
    teller = Teller(Decoder(made.array()), in_kernel=False)
    pfns = frames()
    for seed in range(20):
        blocks = choose_blocks(RAM, teller.array.shift, 0.3, Random(seed))
        census = teller.census_of(blocks)
        inside = np.isin(pfns >> np.uint64(teller.array.shift), blocks.numbers.astype(np.uint64))
        assert 0.2 < np.count_nonzero(inside) / len(pfns) < 0.4
        seen, truth = census.of_frames(pfns[inside]), made.expected()[inside]
        assert ((seen | START) == (truth | START)).all()
        assert census.nr_frames == np.count_nonzero(inside)


def test_kernel_that_knows_no_memory_to_be_accepted_has_none() -> None:
    made = machine()
    made.layout = StructLayout({name: value for name, value in LAYOUT.items() if "unaccepted" not in name})
    is_told = made.expected() & KIND_MASK != Kind.UNACCEPTED
    teller = Teller(Decoder(made.array()), in_kernel=False)

    for census in (teller.census(), teller.census_of(choose_blocks(RAM, teller.array.shift, 1.0, Random(1)))):
        seen = census.of_frames(frames())
        assert (seen[is_told] == made.expected()[is_told]).all()
        assert Kind.UNACCEPTED not in seen & KIND_MASK


def test_all_blocks_are_all_frames() -> None:
    blocks = choose_blocks(RAM, 6, 1.0, Random(1))
    assert blocks.frames_in(RAM).tolist() == frames().tolist()

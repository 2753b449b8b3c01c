"""The array of struct pages from end to end: what is alike is skipped, and nothing beside RAM is read."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_frames import PAGE, RAM, ConstructedFrames, machine
from mematlas.errors import NotSupported


def frames_of_ram() -> list[int]:
    return [frame for first, end in RAM for frame in range(first, end)]


def test_every_frame_of_ram_comes_once_and_no_other() -> None:
    array = machine().array()
    seen = [batch.pfns if batch.good is None else batch.pfns[batch.good] for batch in array.batches()]
    assert np.concatenate(seen).tolist() == frames_of_ram()


@pytest.mark.parametrize("skip", [False, True])
def test_rows_speak_for_all_frames_together(skip: bool) -> None:
    array = machine().array()
    assert sum(int(batch.nr_frames.sum()) for batch in array.batches(skip)) == array.nr_frames == len(frames_of_ram())


def test_a_folio_speaks_at_its_head_and_a_free_block_at_its_first_frame() -> None:
    spoken: dict[int, int] = {}
    for batch in machine().array().batches():
        spoken |= dict(zip(batch.pfns.tolist(), batch.nr_frames.tolist(), strict=True))
    assert [spoken[frame] for frame in (0x180, 0x181, 0x200, 0x0C00, 0x0C01, 0x2000, 0x2001)] == [
        *(16, 0, 512, 1024, 0, 4096, 0)
    ]


def test_what_is_alike_is_not_read() -> None:
    made = machine()
    list(made.array().batches())
    all_pages, made.nr_pages_read = made.nr_pages_read, 0
    list(made.array().batches(skip=True))
    # The huge folios, of which one is mapped by page, the blocks, and the gigantic page.
    assert all_pages - made.nr_pages_read == (512 + 128 + 512 + 3 * 1024 + 64 + 4096) // 64


def test_heads_are_those_that_tails_lead_to() -> None:
    array = machine().array()
    batch = array.batch_of(np.array([0x2FF, 0x200, 0x140, 0x2001], np.uint64))
    assert batch.heads.tolist() == [0x200, 0x200, 0x140, 0x2000]
    assert batch.orders.tolist() == [0, 9, 0, 0]


def test_frames_that_are_no_ram_are_not_read() -> None:
    batch = machine().array().batch_of(np.array([0, 0x9F, 0x140, 1 << 40], np.uint64))
    assert batch.good is not None
    assert batch.good.tolist() == [False, False, True, False]
    assert not batch.words[~batch.good].any()


def test_a_head_that_is_no_frame_of_ram_is_not_followed() -> None:
    made = machine()
    made.words[0x201, 1] = 0xFFFF888000000001
    assert made.array().batch_of(np.array([0x201], np.uint64)).heads.tolist() == [0x201]


def test_blocks_of_memory_that_are_offline_are_left_out() -> None:
    array = machine().array(online=[(0, 0x1000 * PAGE)])
    assert array.spans == [(1, 0x9F), (0x100, 0x1000)]
    assert array.offline == [(0x1000, 0x3FD0)]


@pytest.mark.parametrize("missing", ["pagetype.PGTY_buddy", "pageflags.PG_head", "page.private"])
def test_a_kernel_that_does_not_say_enough_is_refused(missing: str) -> None:
    made = ConstructedFrames()
    del made.layout.values[missing]
    with pytest.raises(NotSupported):
        made.array()


def test_struct_pages_that_cannot_be_read_are_counted_and_speak_for_nothing() -> None:
    made = machine()
    whole = made.frame_pages

    def broken(addresses, size=PAGE):  # type: ignore[no-untyped-def]
        for rows, words, good in whole(addresses, size):
            yield rows, words, good & (np.arange(len(good)) != 1)

    made.frame_pages = broken  # type: ignore[method-assign]
    array = made.array()
    spoken = sum(int(batch.nr_frames.sum()) for batch in array.batches())
    assert array.nr_unread > 0
    assert spoken <= array.nr_frames - array.nr_unread + 2 * 4096

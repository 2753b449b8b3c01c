"""The kernel's memory in parts: nothing counts twice, and what no item has is what is left."""

from __future__ import annotations

import pytest

from mematlas.analysis.kernel_memory import (
    KernelItem,
    KernelPart,
    TaskCounts,
    dmabuf_part,
    drm_part,
    memmap_part,
    other_part,
    reserved_part,
    slab_part,
    stack_size,
    table_part,
    vmalloc_parts,
    zswap_part,
)
from mematlas.kernel.fdinfo import DmaBuf, DrmClient, DrmRegion
from mematlas.kernel.slabinfo import SlabCache
from mematlas.kernel.vmallocinfo import VmallocUse

PAGE = 4096
KIB = 1 << 10
TASKS = [TaskCounts(7, "shop", 40 * KIB, 3), TaskCounts(8, "worker", None, 1), TaskCounts(0, "threads", None, 2)]
"""Six, of which the second runs in the address space of the first."""


def test_what_no_cache_has_is_the_rest() -> None:
    caches = [
        SlabCache("small", 100, 128, 64, 2, 1),
        SlabCache("large", 3, 4, 8192, 1, 8),
        SlabCache("no", 0, 0, 8, 0, 1),
    ]
    part = slab_part({"Slab": 13 * PAGE}, caches, {"small": ("bio",)}, PAGE)
    assert [(item.name, item.size, item.used, item.nr, item.aliases) for item in part.items] == [
        ("large", 8 * PAGE, 3 * 8192, 3, ()),
        ("small", 2 * PAGE, 6400, 100, ("bio",)),
    ]
    assert (part.rest, part.used, part.nr) == (3 * PAGE, 3 * 8192 + 6400, 103)


def test_stacks_are_no_part_of_vmalloc_though_they_are_asked_for_there() -> None:
    uses = [VmallocUse("kernel_clone", 8, 32, 4), VmallocUse("module", 1, 10, 10)]
    meminfo = {"VmallocUsed": 42 * PAGE, "KernelStack": 6 * 4 * PAGE}
    vmalloc, stack = vmalloc_parts(meminfo, uses, TASKS, 6, PAGE)
    assert (vmalloc.size, stack.size) == (18 * PAGE, 24 * PAGE)
    assert {item.name: item.size for item in vmalloc.items} == {"module": 10 * PAGE, "stacks of no task": 8 * PAGE}
    assert vmalloc.rest == stack.rest == 0
    assert {item.name: item.nr for item in stack.items} == {"shop": 3, "threads": 2, "worker": 1}


def test_stacks_that_are_not_asked_for_there_are_beside_it() -> None:
    uses = [VmallocUse("module", 1, 10, 10)]
    vmalloc, stack = vmalloc_parts({"VmallocUsed": 10 * PAGE, "KernelStack": 24 * PAGE}, uses, TASKS, 6, PAGE)
    assert (vmalloc.size, stack.size, stack.rest) == (10 * PAGE, 24 * PAGE, 0)


@pytest.mark.parametrize(
    ("frames", "zspages", "zswap", "size"),
    [(0, 0, None, 0), (None, 7, 0, 7), (7, 7, 0, 7), (0, 0, 5, 5), (None, None, None, None)],
    ids=["none", "of zram, by its allocator", "of zram, by frames", "of another allocator", "untold"],
)  # fmt: skip
def test_compressed_swap_is_that_of_zram_too(
    frames: int | None, zspages: int | None, zswap: int | None, size: int | None
) -> None:
    vmstat = {} if zspages is None else {"nr_zspages": zspages}
    assert zswap_part(frames, vmstat, {} if zswap is None else {"Zswap": zswap}, 1).size == size


@pytest.mark.parametrize(
    ("stacks", "nr", "page", "size"), [(96, 6, 4, 16), (100, 6, 4, 16), (384, 6, 64, 64), (0, 6, 4, 0)]
)
def test_the_stack_of_a_task_is_a_power_of_two_pages(stacks: int, nr: int, page: int, size: int) -> None:
    assert stack_size((), stacks * KIB, nr, page * KIB) == size * KIB


def test_page_tables_are_of_those_that_have_them() -> None:
    part = table_part({"PageTables": 60 * KIB, "SecPageTables": 4 * KIB}, TASKS)
    assert (part.size, part.rest) == (64 * KIB, 24 * KIB)
    assert [(item.name, item.pids, item.size) for item in part.items] == [("shop", (7,), 40 * KIB)]


def test_what_a_kernel_does_not_count_is_not_known_and_no_zero() -> None:
    for part in (slab_part({}, (), {}, PAGE), table_part({}, TASKS), *vmalloc_parts({}, None, TASKS, None, PAGE)):
        assert part.size is part.rest is None


def test_struct_pages_and_the_image_are_reserved() -> None:
    part = reserved_part(100 * PAGE, {"nr_memmap_boot_pages": 70}, {"Kernel code": 20 * PAGE}, PAGE)
    assert [item.name for item in part.items] == ["struct pages", "Kernel code"]
    assert part.rest == 10 * PAGE
    assert not reserved_part(None, {}, {}, PAGE).is_summed


def test_struct_pages_of_memory_that_was_added_are_a_part_of_their_own() -> None:
    assert memmap_part({"nr_memmap_boot_pages": 70, "nr_memmap_pages": 3}, PAGE).size == 3 * PAGE
    assert memmap_part({}, PAGE).size is None


def test_what_no_part_has_is_a_part() -> None:
    parts = [KernelPart("slab", 30), KernelPart("percpu", None), KernelPart("drm", 500, is_summed=False)]
    assert other_part(100, parts).size == 70


def test_a_buffer_counts_once_whoever_has_it() -> None:
    seen = [DmaBuf(5, 8 * KIB, "system", ""), DmaBuf(5, 8 * KIB, "system", ""), DmaBuf(6, KIB, "drm", "frame")]
    part = dmabuf_part([DmaBuf(5, 8 * KIB, "system", ""), DmaBuf(9, 2 * KIB, "heap", "")], {5: {7, 8}, 6: {7}}, seen)
    assert [(item.name, item.size, item.pids) for item in part.items] == [
        ("system", 8 * KIB, (7, 8)),
        ("heap", 2 * KIB, ()),
        ("drm frame", KIB, (7,)),
    ]
    assert (part.size, part.nr, part.is_summed) == (11 * KIB, 3, False)
    assert dmabuf_part(None, {}, seen).size is None


def client(number: str, size: int | None, device: str = "0000:03:00.0") -> DrmClient:
    return DrmClient("xe", device, number, (DrmRegion("vram0", 3 * KIB, None, size),))


def test_a_client_counts_once_and_another_device_has_others() -> None:
    seen = [(7, client("1", KIB)), (8, client("1", KIB)), (8, client("2", None)), (8, client("1", KIB, "0000:04:00.0"))]
    part = drm_part(seen, is_whole=True)
    assert [(item.name, item.size, item.pids) for item in part.items] == [
        ("xe 0000:03:00.0 2", 3 * KIB, (8,)),  # what is resident is not told: all of its buffers
        ("xe 0000:03:00.0 1", KIB, (7, 8)),
        ("xe 0000:04:00.0 1", KIB, (8,)),
    ]
    assert (part.size, part.nr) == (5 * KIB, 3)
    assert drm_part(seen, is_whole=False).size is None
    assert drm_part([], is_whole=True).size == 0


def test_nothing_has_no_items() -> None:
    assert KernelPart("x", 7, (KernelItem("a", 7),)).rest == 0
    assert KernelPart("x", 7).rest is None

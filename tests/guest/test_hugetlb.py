"""Huge pages of both sizes: counted apart from RSS, and leaves of their level."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers import Program, program
from inside import Facts
from mematlas import Process
from mematlas.analysis.pagetables.compare import differing_pages
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.model.pagetables.blocks import page_blocks
from mematlas.model.pagetables.modes import mode_of
from mematlas.model.pagetables.walk import walk, walk_address
from mematlas.words import Source

pytestmark = pytest.mark.guest

GIB, MIB2 = 1 << 30, 2 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")

HUGE = """
import ctypes, json, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def make(size, shift):
    address = libc.mmap(None, size, 3, 0x40022 | shift << 26, -1, 0)
    assert address != 2 ** 64 - 1, ctypes.get_errno()
    for place in range(0, size, 1 << shift):
        ctypes.memset(address + place, 1, 1)
    return address
print(json.dumps([make(3 << 21, 21), make(1 << 30, 30)]), flush=True)
"""


@pytest.fixture
def huge() -> Iterator[Program]:
    POOL.write_text("3")
    try:
        with program(HUGE) as running:
            yield running
    finally:
        POOL.write_text("0")


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_both_sizes_are_hugetlb_and_not_rss(source: Source, huge: Program) -> None:
    with Process(huge.pid) as process:
        usage = process.usage(source).usage
    assert usage.hugetlb == GIB + 3 * MIB2
    assert usage.rss is not None
    assert usage.rss < GIB


def test_every_frame_inside_is_found(huge: Program) -> None:
    with Process(huge.pid) as process:
        for start, size in zip(huge.told, (3 * MIB2, GIB), strict=True):
            first, middle = process.translate([start, start + size // 2 + 4097])
            assert (first.state, middle.state) == ("present", "present")
            assert first.phys is not None
            if size == GIB:
                assert first.phys % GIB == 0
                assert middle.phys == first.phys + GIB // 2 + 4097


def test_they_are_leaves_of_their_level(huge: Program, facts: Facts) -> None:
    if facts.lockdown == "confidentiality":
        pytest.skip("lockdown=confidentiality: no tables")
    with open_kernel_memory() as memory, memory.open_mm(huge.pid) as mm:
        mode = mode_of(memory)
        levels = [walk_address(memory, mode, mm.pgd, start)[-1].level for start in huge.told]
        assert levels == ["pmd", "pud"]
        nr_pages = 0
        with open(f"/proc/{huge.pid}/pagemap", "rb", buffering=0) as file:
            for start, size in zip(huge.told, (3 * MIB2, GIB), strict=True):
                for block in page_blocks(walk(memory, mode, mm.pgd, start, start + size)):
                    words = np.frombuffer(os.pread(file.fileno(), 8 * len(block), block.start >> 9), np.uint64)
                    assert differing_pages(mode, block, words) == []
                    nr_pages += len(block)
        assert nr_pages == (GIB + 3 * MIB2) // 4096

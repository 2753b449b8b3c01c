"""Processes that map the same GiB of a hugetlb file share the page table of its huge pages, each mapped once then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import Program, look, program, read_smaps, skip_without_tables
from mematlas import Process
from mematlas.kernel.madvise import MADV_COLLAPSE, takes
from mematlas.kernel.pagemap import EXCLUSIVE, PRESENT
from mematlas.model.pages import Hole
from mematlas.words import PagesFrom, Source

GIB = 1 << 30

CODE = """
import ctypes, json, mmap, os, signal, sys
GIB, RW, SHARED, PRIVATE, FIXED, ANON, NORESERVE, HUGETLB = 1 << 30, 3, 1, 2, 0x10, 0x20, 0x4000, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
fd = os.memfd_create("pool", HUGETLB)
size = os.fstat(fd).st_blksize
os.ftruncate(fd, 2 * GIB)
raw = libc.mmap(None, 3 * GIB, 0, PRIVATE | ANON | NORESERVE, -1, 0)
start = -(-raw // GIB) * GIB
assert libc.mmap(start, 2 * GIB, RW, SHARED | FIXED | NORESERVE, fd, 0) == start
def write(places):
    for place in places:
        ctypes.memset(start + place, 1, 1)
write([0, size, GIB])
ready, told = os.pipe()
if os.fork() == 0:
    libc.prctl(1, signal.SIGKILL)
    write([0, size])
    os.write(told, b"x")
    while True:
        signal.pause()
os.read(ready, 1)
print(json.dumps([start, size]), flush=True)
"""


@pytest.fixture
def parent(hugetlb_pages: int) -> Iterator[Program]:
    """A process with three huge pages in two GiB of a file, of which a child of it has touched two, in one GiB."""
    assert hugetlb_pages == 3
    with program(CODE) as running:
        yield running


def forks_copy() -> bool:
    """Whether a fork has entries of shared huge pages that it has not touched: in 5.10, not in 6.1 (mm/memory.c,
    copy_page_range()).
    """
    return not takes(MADV_COLLAPSE)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
def test_pages_in_a_shared_table_are_not_exclusive(source: Source, parent: Program) -> None:
    start, size = parent.told
    with Process(parent.pid) as process:
        if source == "tables":
            skip_without_tables(process)
        smaps, result = look(process.pid, lambda: process.maps(source))

    (item,) = (item for item in result.vmas if item.vma.start == start)
    told = smaps[start]
    assert told["Private_Hugetlb"] in (size, 0 if forks_copy() else size)
    assert told["Private_Hugetlb"] + told["Shared_Hugetlb"] == 3 * size
    assert (item.usage.hugetlb, item.usage.uss) == (3 * size, 0)
    assert item.usage.nr_exclusive == told["Private_Hugetlb"] // process.page_size


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("source", ["pagemap", "tables"])
def test_each_page_of_them_says_so(source: PagesFrom, parent: Program) -> None:
    start, size = parent.told
    private = read_smaps(parent.pid)[start]["Private_Hugetlb"]
    assert private in (size, 0 if forks_copy() else size)
    with Process(parent.pid) as process:
        if source == "tables":
            skip_without_tables(process)
        found = {
            block.address + place * process.page_size: bool(byte & EXCLUSIVE)
            for _, block in process.pages(start, start + 2 * GIB, source=source)
            if not isinstance(block, Hole)
            for place, byte in enumerate(block.states)
            if byte & PRESENT
        }

    assert {address for address, exclusive in found.items() if exclusive} == set(
        range(start + GIB, start + GIB + private, process.page_size)
    )
    assert len(found) == 3 * size // process.page_size

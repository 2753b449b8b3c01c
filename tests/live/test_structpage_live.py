"""USS and PSS from tables and struct pages, against smaps; map counts, against kpagecount."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from mematlas.errors import Error, NotSupported
from mematlas.kernel.kmem import KernelMemory, open_kernel_memory
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.structpage import StructPages, find_base, open_struct_pages, read_kernel_counts
from mematlas.model.paging import PagingMode
from mematlas.model.paging_modes import mode_of
from mematlas.model.tableusage import TableUsage, read_usage
from victim import Victim, process_state, wait_until

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")

DEADLINE = 60.0


@pytest.fixture(scope="module")
def memory() -> Iterator[KernelMemory]:
    try:
        memory = open_kernel_memory()
    except Error as error:
        pytest.skip(f"no reader of kernel memory works: {error}")
    with memory:
        yield memory


@pytest.fixture(scope="module")
def pages(memory: KernelMemory) -> StructPages:
    try:
        return open_struct_pages(memory)
    except NotSupported as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def mode(memory: KernelMemory) -> PagingMode:
    return mode_of(memory)


def rollup(pid: int) -> dict[str, int]:
    """Return smaps_rollup in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        lines = file.read().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def assert_equal_to_smaps(memory: KernelMemory, mode: PagingMode, pages: StructPages, pid: int) -> TableUsage:
    end = time.monotonic() + DEADLINE
    while True:  # pages of libraries are shared with whatever else runs: smaps must say the same before and after
        told = rollup(pid)
        with memory.open_mm(pid) as mm:
            usage = read_usage(memory, mode, mm.pgd, pages)
        if rollup(pid) == told and usage.pss // 1024 * 1024 == told["Pss"]:
            break
        assert time.monotonic() < end, f"{usage} is not what smaps_rollup says: {told}"
    assert usage.rss == told["Rss"]
    assert usage.uss == told["Private_Clean"] + told["Private_Dirty"]
    # The kernel cuts to whole kB.
    assert usage.pss // 1024 * 1024 == told["Pss"]
    assert (usage.unknown, usage.nr_torn) == (0, 0)
    assert usage.thp == told["AnonHugePages"] + told["ShmemPmdMapped"] + told["FilePmdMapped"]
    assert usage.hugetlb == told["Private_Hugetlb"] + told["Shared_Hugetlb"]
    return usage


ORDINARY = ("anon", "private_file", "shared_file", "shared_anon", "tmpfs", "memfd", "zero", "prot_none", "locked")


@pytest.mark.parametrize("kind", [*ORDINARY, "anon_full", "guard", "thp", "huge_zero"])
def test_usage_is_that_of_smaps(
    kind: str, memory: KernelMemory, mode: PagingMode, pages: StructPages, victim: Callable[..., Victim]
) -> None:
    target = victim(kind)
    with target.stopped():
        assert_equal_to_smaps(memory, mode, pages, target.pid)


def test_usage_of_a_parent_and_its_child_is_that_of_smaps(
    memory: KernelMemory, mode: PagingMode, pages: StructPages, victim: Callable[..., Victim]
) -> None:
    target = victim(*ORDINARY, "forked")
    child = target.fork()
    target.rewrite_half()
    with target.stopped():
        for pid in (target.pid, child.pid):
            usage = assert_equal_to_smaps(memory, mode, pages, pid)
            assert usage.pss > usage.uss


def test_swap_is_that_of_smaps(
    memory: KernelMemory, mode: PagingMode, pages: StructPages, victim: Callable[..., Victim], swap: object
) -> None:
    target = victim("swapped")
    with target.stopped():
        assert assert_equal_to_smaps(memory, mode, pages, target.pid).swap == rollup(target.pid)["Swap"]


def test_hugetlb_is_not_resident(
    memory: KernelMemory, mode: PagingMode, pages: StructPages, victim: Callable[..., Victim], hugetlb_pages: int
) -> None:
    target = victim("hugetlb")
    with target.stopped():
        usage = assert_equal_to_smaps(memory, mode, pages, target.pid)
    assert usage.hugetlb == target["hugetlb"].nr_present * target["hugetlb"].page_size


def test_merged_pages_have_the_kernels_counts(
    memory: KernelMemory, mode: PagingMode, pages: StructPages, victim: Callable[..., Victim], ksm: None
) -> None:
    target = victim("ksm")
    with target.stopped():
        assert_equal_to_smaps(memory, mode, pages, target.pid)


# What large folios can be: mapped whole, in part, by parts, and by two processes in different ways.
LARGE = {
    "whole": "",
    "split in the middle by mprotect": "libc.mprotect(ctypes.c_void_p(start + 77 * 4096), 101 * 4096, 1)",
    "partly unmapped": "libc.munmap(ctypes.c_void_p(start + 77 * 4096), 101 * 4096)",
    "forked": "fork()",
    "forked, then the child splits": "fork(lambda: libc.munmap(ctypes.c_void_p(start + 77 * 4096), 101 * 4096))",
    "forked, then the child writes": "fork(lambda: touch(range(0, 512, 7)))",
    "partly unmapped, then forked": "libc.munmap(ctypes.c_void_p(start + 77 * 4096), 101 * 4096); fork()",
}

PROGRAM = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, 6 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
start = -(-base >> 21 << 21) if base % (1 << 21) == 0 else (base >> 21) + 1 << 21
area.madvise(mmap.MADV_HUGEPAGE)

def touch(pages):
    for page in pages:
        area[start - base + page * 4096] = 1

def fork(child=lambda: None):
    ready, done = os.pipe()
    if os.fork() == 0:
        libc.prctl(1, 9, 0, 0, 0)
        child()
        os.write(done, b"x")
        time.sleep(600)
    os.read(ready, 1)

touch(range(512))
{act}
print(flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def stopped_program(act: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.replace("{act}", act)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, 19)
        wait_until(lambda: process_state(process.pid) == "T", "the program stops")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", LARGE)
def test_large_folios_are_counted_as_smaps_does(
    name: str, memory: KernelMemory, mode: PagingMode, pages: StructPages
) -> None:
    with stopped_program(LARGE[name]) as pid:
        usage = assert_equal_to_smaps(memory, mode, pages, pid)
        if name == "whole" and not usage.thp:
            pytest.skip("no huge page was to be had")


def test_counts_of_own_frames_are_those_of_kpagecount(memory: KernelMemory, pages: StructPages) -> None:
    with mmap.mmap(-1, 997 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = bytes(997 * 4096)
        view = np.frombuffer(area, np.uint8)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            words = np.frombuffer(os.pread(file.fileno(), 997 * 8, view.ctypes.data >> 9), np.uint64)
        pfns = words & np.uint64((1 << 55) - 1)
        del view
        assert pages.map_counts(pfns).tolist() == read_kernel_counts(memory.procfs, pfns).tolist() == [1] * 997


def test_frames_in_any_order_have_the_same_counts(memory: KernelMemory, pages: StructPages) -> None:
    # Frames that do not change: the first MiBs, of which many are the kernel's own or reserved.
    pfns = np.arange(0x1000, 0x1000 + 4001, dtype=np.uint64)
    shuffled = np.random.default_rng(7).permutation(pfns)
    in_order = dict(zip(pfns.tolist(), pages.map_counts(pfns).tolist(), strict=True))
    assert [in_order[pfn] for pfn in shuffled.tolist()] == pages.map_counts(shuffled).tolist()


def test_a_frame_that_is_no_ram_has_no_count(memory: KernelMemory, pages: StructPages) -> None:
    beyond = np.array([memory.ram.end // 4096 + (1 << 20), 1 << 39], np.uint64)
    assert pages.map_counts(beyond).tolist() == [-1, -1]


def test_a_wrong_base_is_refused_and_shows_both_counts(memory: KernelMemory, pages: StructPages) -> None:
    wrong = StructPages(memory, pages.base + 4096)
    with mmap.mmap(-1, 307 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = bytes(307 * 4096)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            view = np.frombuffer(area, np.uint8)
            words = np.frombuffer(os.pread(file.fileno(), 307 * 8, view.ctypes.data >> 9), np.uint64)
            del view
        # Frames of the lowest gigabytes are somebody else's there.
        wrong.base = pages.base - 4096 * 1024
        with pytest.raises(NotSupported, match="kpagecount"):
            wrong.check(words & np.uint64((1 << 55) - 1))


def test_the_pipe_and_vmcoreinfo_agree_on_the_array(memory: KernelMemory, pages: StructPages) -> None:
    told = memory.vmcoreinfo.get("SYMBOL(vmemmap)")
    if told is None:
        pytest.skip("needs a kernel whose vmcoreinfo tells vmemmap")
    assert pages.base == told


def test_a_kernel_before_folios_had_counts_asks_kpagecount(
    memory: KernelMemory, mode: PagingMode, pages: StructPages
) -> None:
    older = StructPages(memory, pages.base)
    older._entire = None
    with stopped_program("fork()") as pid:
        assert_equal_to_smaps(memory, mode, older, pid)


def test_without_the_pipe_vmcoreinfo_is_asked(
    memory: KernelMemory, pages: StructPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoPipe:
        def struct_page_addresses(self, memory: KernelMemory) -> list[int]:
            raise NotSupported("pipes")

    monkeypatch.setitem(memory.vmcoreinfo, "SYMBOL(vmemmap)", 0x1234000)
    assert find_base(memory, NoPipe()) == 0x1234000  # type: ignore[arg-type]
    monkeypatch.delitem(memory.vmcoreinfo, "SYMBOL(vmemmap)")
    with pytest.raises(NotSupported, match="pipes"):
        find_base(memory, NoPipe())  # type: ignore[arg-type]


def test_own_procfs_is_used(memory: KernelMemory) -> None:
    assert isinstance(memory.procfs, ProcFS)

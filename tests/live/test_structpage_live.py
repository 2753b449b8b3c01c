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

from mematlas import Process
from mematlas.analysis.usage import Usage
from mematlas.arrays import Words
from mematlas.errors import Error, NotSupported
from mematlas.kernel.backing import SWAP_CACHE_UNSEEN, has_cachestat
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.memory.structpage import StructPages, find_base, open_struct_pages, read_kernel_counts
from mematlas.kernel.pagemap import PM_PFRAME, Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pagetables.access import NR_COMPARED
from mematlas.words import PagesFrom
from victim import FIXTURES, KINDS, PLAIN_KINDS, Area, Victim, process_state, wait_until

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), pytest.mark.machine]

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


def rollup(pid: int) -> dict[str, int]:
    """Return smaps_rollup in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        lines = file.read().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def assert_equal_to_smaps(pid: int, pages: StructPages | None = None) -> Usage:
    """Compare what reading tables gives with smaps_rollup; return it. ``pages`` takes the place of the array that is
    found. (`test_pagetable_counts` compares what counting them in the kernel gives with this.)
    """
    end = time.monotonic() + DEADLINE
    with Process(pid) as process:
        process.sources.count_access = lambda: None  # type: ignore[method-assign]
        if pages:
            process.page_table_access()._frames = pages
        while True:  # pages of libraries are shared with others that run: smaps must say the same before and after
            told = rollup(pid)
            result = process.usage("tables")
            usage = result.usage
            if rollup(pid) == told and usage.pss is not None and -1 < usage.pss - told["Pss"] < 1024:
                break
            assert time.monotonic() < end, f"{usage} is not what smaps_rollup says: {told}"
        access = process.page_table_access()
        assert isinstance(access.frames, StructPages)
        assert access.nr_compared > 20
    assert (result.reading.source, result.reading.torn) == ("tables", False)
    assert (usage.rss, usage.anon) == (told["Rss"], told["Anonymous"])
    if result.reading.notes:
        assert result.reading.notes == (SWAP_CACHE_UNSEEN,)
        assert not has_cachestat()
    swap = usage.swap or 0
    assert swap <= told["Swap"] if result.reading.notes else swap == told["Swap"]
    assert usage.uss == told["Private_Clean"] + told["Private_Dirty"]
    assert usage.thp == told["AnonHugePages"] + told["ShmemPmdMapped"] + told["FilePmdMapped"]
    assert usage.hugetlb == told["Private_Hugetlb"] + told["Shared_Hugetlb"]
    return usage


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "forked"])
def test_usage_is_that_of_smaps(kind: str, request: pytest.FixtureRequest, victim: Callable[..., Victim]) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    target = victim(kind)
    area = target[kind]
    with target.stopped():
        usage = assert_equal_to_smaps(target.pid)
    assert usage.hugetlb == area.nr_hugetlb * area.page_size
    assert usage.zero is not None
    assert usage.zero >= area.nr_zero * area.page_size


def test_usage_of_a_parent_and_its_child_is_that_of_smaps(victim: Callable[..., Victim]) -> None:
    target = victim(*PLAIN_KINDS)
    child = target.fork()
    target.rewrite_half()
    with target.stopped():
        for pid in (target.pid, child.pid):
            usage = assert_equal_to_smaps(pid)
            assert usage.pss is not None
            assert usage.uss is not None
            assert usage.pss > usage.uss


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
def test_large_folios_are_counted_as_smaps_does(name: str) -> None:
    with stopped_program(LARGE[name]) as pid:
        usage = assert_equal_to_smaps(pid)
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


def test_a_kernel_before_folios_had_counts_asks_kpagecount(memory: KernelMemory, pages: StructPages) -> None:
    older = StructPages(memory, pages.base)
    older._entire = None
    with stopped_program("fork()") as pid:
        assert_equal_to_smaps(pid, older)


def own_frames(view: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Words:
    """Return the frames of memory of our own."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        words = np.frombuffer(os.pread(file.fileno(), len(view) // 4096 * 8, view.ctypes.data >> 9), np.uint64)
    return words & np.uint64((1 << 55) - 1)


def test_a_wrong_place_of_the_mapping_is_refused(memory: KernelMemory, pages: StructPages) -> None:
    wrong = StructPages(memory, pages.base)
    wrong._mapping_word = memory.layout["page._mapcount"] // 8
    with mmap.mmap(-1, 307 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = bytes(307 * 4096)
        frames = own_frames(np.frombuffer(area, np.uint8))
        assert pages.check(frames) > 200
        with pytest.raises(NotSupported, match="owners from struct page"):
            wrong.check(frames)


def test_frames_are_compared_all_along(victim: Callable[..., Victim], monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    plain = StructPages.check

    def noted(self: StructPages, pfns: Words) -> int:
        compared.extend(pfns.tolist())
        return plain(self, pfns)

    def frames(process: Process, area: Area, source: PagesFrom) -> set[int]:
        pieces = process.pages(area.address, area.end, source=source)
        return {each & PM_PFRAME for _, piece in pieces if isinstance(piece, Block) for each in piece.entries}

    # Not those of the whole process: how many frames of files come before these differs from machine to machine.
    kinds = ("anon_full", "thp", "shmem_thp")
    target = victim(*kinds)
    with target.stopped(), Process(target.pid) as process:
        _ = process.page_table_access().frames
        monkeypatch.setattr(StructPages, "check", noted)
        for kind in kinds:
            frames(process, target[kind], "tables")
        found = {kind for kind in kinds if frames(process, target[kind], "pagemap") & set(compared)}
    assert found == set(kinds)
    assert len(compared) < NR_COMPARED * 20


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

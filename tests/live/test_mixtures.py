"""Mixed memory, where tools go wrong: copies of shared memory, parts of files and of huge pages, all half in swap."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import (
    PAGE,
    TOLD_BY_SMAPS,
    assert_equal_smaps,
    look,
    program,
    skip_without_tables,
    steadily,
    swap_agrees,
    tells_huge_pages,
)
from mematlas import Process
from mematlas.analysis.verify import COUNTED_TWICE
from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.frozen import as_dict
from mematlas.kernel import scattered
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.pagemap import Block, Pagemap
from mematlas.kernel.scattered import Scattered
from mematlas.words import Source
from victim import process_state, wait_until

CODE = """
import ctypes, errno, json, mmap, os, signal, sys
P, RW, SHARED, PRIVATE, ANON = mmap.PAGESIZE, 3, 1, 2, 0x20
DONTNEED, FREE, HUGE, NOHUGE, PAGEOUT = 4, 8, 14, 15, 21
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
made = {}

def area(name, nr_pages, flags, fd=-1, first=0, prot=RW):
    address = libc.mmap(None, nr_pages * P, prot, flags, fd, first * P)
    assert address != ctypes.c_void_p(-1).value, name
    made[name] = address
    return address

def write(address, pages):
    for page in pages:
        ctypes.memmove(address + page * P, (page + 1).to_bytes(8, "little"), 8)

def read(address, pages):
    for page in pages:
        ctypes.string_at(address + page * P, 1)

def out(address, nr_pages):
    for _ in range(5):
        libc.madvise(address, nr_pages * P, PAGEOUT)

def memfd(name, nr_pages):
    fd = os.memfd_create(name)
    os.ftruncate(fd, nr_pages * P)
    return fd

# One file of shared memory, mapped in seven ways.
fd = memfd("parts", 64)
whole = area("shared", 64, SHARED, fd)
write(whole, range(48))
out(whole, 32)
read(whole, range(4))
private = area("private", 64, PRIVATE, fd)
write(private, [0, 5, 10, 33])
read(private, [1, 34])
read(area("private, read only", 64, PRIVATE, fd, prot=1), [2])
area("a part", 20, SHARED, fd, 10)
area("a part, read only", 20, SHARED, fd, 15, prot=1)
area("beyond the end", 64, SHARED, fd, 32)
copied = area("copied, then read only", 64, PRIVATE, fd)
write(copied, [20, 21, 40])
libc.mprotect(copied, 64 * P, 1)
read(whole, [20, 21])
out(whole, 32)
out(private, 64)

# Twice in one process: each page has two mappings and one owner.
fd = memfd("twice", 30)
write(area("twice", 30, SHARED, fd), range(30))
read(area("twice again", 30, SHARED, fd), range(0, 30, 3))

# Huge pages with holes.
huge, path = json.loads(sys.argv[1])
if huge:
    raw = area("huge", 4 * huge, PRIVATE | ANON)
    base = -(-raw // (huge * P)) * huge * P
    libc.madvise(base, 3 * huge * P, HUGE)
    write(base, range(0, 3 * huge, 7))
    libc.munmap(base + 100 * P, 50 * P)
    libc.madvise(base + huge * P, 10 * P, DONTNEED)
    out(base + 2 * huge * P, 100)

zero = os.open("/dev/zero", os.O_RDWR)
read(area("/dev/zero", 20, PRIVATE, zero), range(10))
write(made["/dev/zero"], [3, 4])
write(area("/dev/zero, shared", 20, SHARED, zero), range(5))

fd = os.open(path, os.O_RDONLY)
file = area("a file", 40, PRIVATE, fd)
read(file, range(40))
write(file, range(20))
out(file, 10)

lazy = area("given back lazily", 40, PRIVATE | ANON)
libc.madvise(lazy, 40 * P, NOHUGE)
write(lazy, range(40))
libc.madvise(lazy, 20 * P, FREE)

key = libc.shmget(0, 64 * P, 0o1600)
if key >= 0:
    made["System V"] = segment = libc.shmat(key, None, 0)
    libc.shmctl(key, 0, None)
    write(segment, range(20))
    out(segment, 10)

family = area("a family's", 60, PRIVATE | ANON)
libc.madvise(family, 60 * P, NOHUGE)
write(family, range(20))
read(family, range(20, 40))
out(family, 10)
child = os.fork()
if child == 0:
    libc.prctl(1, signal.SIGKILL)
    while True:
        signal.pause()
write(family, [0, 1, 12, 13, 25])
print(json.dumps({"made": made, "child": child}), flush=True)
"""


def huge_pages() -> int:
    """Return the pages in a transparent huge page; 0 where there are none."""
    try:
        size = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text()
    except FileNotFoundError:
        return 0
    return int(size) // PAGE


@pytest.fixture(scope="module")
def family(swap: Path, disk_path: Path) -> Iterator[dict[str, int]]:
    """A parent and its child that stand still: their PIDs."""
    file = disk_path / "mixtures"
    file.write_bytes(b"x" * PAGE * 40)
    with program(CODE, [huge_pages(), str(file)]) as target:
        pids = {"parent": target.pid, "child": target.told["child"]}
        try:
            for pid in pids.values():
                os.kill(pid, signal.SIGSTOP)
                wait_until(lambda pid=pid: process_state(pid) == "T", "it stops")  # type: ignore[misc]
            yield pids
        finally:
            # The parent is alive and never reaps, so this PID is still the child's.
            os.kill(pids["child"], signal.SIGKILL)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("who", ["parent", "child"])
@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
@steadily
def test_mixed_memory_equals_smaps(source: Source, who: str, family: dict[str, int]) -> None:
    with Process(family[who]) as process:
        if source == "tables":
            skip_without_tables(process)
        smaps, result = look(process.pid, lambda: process.maps(source))

    assert len(result.vmas) == len(smaps)
    for item in result.vmas:
        assert_equal_smaps(item.usage, smaps[item.vma.start], source, item.vma)


def found_apart(pagemap: Pagemap, start: int, end: int, exclusive: bool = True) -> Iterator[Block | Scattered]:
    """Take all pages for such as lie far apart, but for those that fill a table."""
    while start < end:
        start = yield from scattered.read_scattered(pagemap, start, end, exclusive)
        block = next(pagemap.blocks(start, end), None)
        if block:
            yield block
        start = block.end(PAGE) if block else end


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("who", ["parent", "child"])
@steadily
def test_mixed_memory_found_page_by_page_equals_smaps(
    who: str, family: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scattered, "lots", found_apart)
    with Process(family[who]) as process:
        with Pagemap(process.dir) as pagemap:
            try:
                pagemap.shows(0)
            except NotSupported as why:
                pytest.skip(str(why))
        smaps, result = look(process.pid, lambda: process.maps("pagemap"))

    for item in result.vmas:
        assert_equal_smaps(item.usage, smaps[item.vma.start], "pagemap", item.vma)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("who", ["parent", "child"])
@steadily
def test_both_sources_agree_on_mixed_memory(who: str, family: dict[str, int]) -> None:
    with Process(family[who]) as process:
        _, (first, second) = look(process.pid, lambda: (process.maps("smaps"), process.maps("pagemap")))

    for one, two in zip(first.vmas, second.vmas, strict=True):
        untold = ["pss", "swap", "nr_swapped", *(key for key in TOLD_BY_SMAPS if getattr(two.usage, key) is None)]
        assert one.usage.swap is not None
        assert swap_agrees(two.usage, one.usage.swap, "pagemap", one.vma)
        known = {key: value for key, value in as_dict(one.usage).items() if key not in untold and value is not None}
        if two.usage.thp is None:
            assert not tells_huge_pages()
            del known["thp"]
        assert {key: as_dict(two.usage)[key] for key in known} == known


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("who", ["parent", "child"])
@steadily
def test_verify_explains_mixed_memory(who: str, family: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    """Where a page was copied and the file's own is in swap, smaps counts both."""
    _, code = look(family[who], lambda: main(["usage", "--verify", str(family[who])]))

    assert code == 0
    swap = [line for line in capsys.readouterr().out.splitlines() if line.startswith("swap ")]
    assert not has_cachestat() or all(COUNTED_TWICE in line for line in swap)
    assert swap

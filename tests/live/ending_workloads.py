"""Programs with a known amount of memory, each to be ended: ``python ending_workloads.py KIND PAGES DIRECTORY``.

It runs alone, with the standard library only. When the memory is there it prints one line of JSON: ``others`` are the
processes that it started, ``files`` and ``segments`` what must be removed after it. Then it waits to be killed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PAGE = mmap.PAGESIZE
HUGE = PAGE // 8 * PAGE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_PAGEOUT, MADV_COLLAPSE = 12, 14, 15, 21, 25
CLONE_VM, CLONE_FILES = 0x100, 0x400
IPC_PRIVATE, IPC_RMID = 0, 0
MFD_HUGETLB = 4
DEADLINE = 45.0

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
kept: list[Any] = []
"""What must live as long as we do."""


class Unavailable(Exception):
    """This machine cannot make that memory."""


def entries(area: mmap.mmap, nr_pages: int) -> list[int]:
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(address // PAGE * 8)
        return list(memoryview(file.read(nr_pages * 8)).cast("Q"))


def wait_for(condition: Callable[[], bool], why: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise Unavailable(why)
        time.sleep(0.01)


def fill(area: mmap.mmap, nr_pages: int, first: int = 0, same: bool = False) -> mmap.mmap:
    for page in range(first, first + nr_pages):
        area[page * PAGE : page * PAGE + 8] = (7 if same else page + 1).to_bytes(8, "little")
    kept.append(area)
    return area


def anonymous(nr_pages: int, advice: int = MADV_NOHUGEPAGE) -> mmap.mmap:
    area = mmap.mmap(-1, nr_pages * PAGE, ANON)
    area.madvise(advice)
    return area


def fork(child: Callable[[], object] = lambda: None) -> int:
    """Start a child that does something, then waits; return when it has been done."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child()
        os.write(write, b".")
        os.close(1)
        while True:
            time.sleep(60)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


def anon(nr_pages: int) -> dict[str, Any]:
    fill(anonymous(nr_pages), nr_pages)
    return {}


def forked(nr_pages: int) -> dict[str, Any]:
    """A child has all of it too; then the parent writes to a third, and so has copies of its own."""
    area = fill(anonymous(nr_pages), nr_pages)
    pid = fork()
    fill(area, nr_pages // 3)
    return {"others": [pid]}


def huge(nr_pages: int) -> dict[str, Any]:
    """Huge pages, all its own."""
    nr_huge = -(-nr_pages * PAGE // HUGE)
    fill_huge(nr_huge)
    return {"nr_huge": nr_huge}


def fill_huge(nr_huge: int) -> tuple[mmap.mmap, int]:
    """Return memory that is huge pages from an offset on."""
    area = mmap.mmap(-1, (nr_huge + 1) * HUGE, ANON)
    area.madvise(MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    first = -address % HUGE
    area.madvise(MADV_HUGEPAGE, first, nr_huge * HUGE)
    fill(area, nr_huge * HUGE // PAGE, first // PAGE)
    if libc.madvise(ctypes.c_void_p(address + first), ctypes.c_size_t(nr_huge * HUGE), MADV_COLLAPSE):
        raise Unavailable(f"huge pages, by MADV_COLLAPSE: {os.strerror(ctypes.get_errno())}")
    area.madvise(MADV_NOHUGEPAGE)  # they stay, but khugepaged makes none whole again of which parts are given back
    return area, first // PAGE


def huge_forked(nr_pages: int) -> dict[str, Any]:
    """A child keeps 3 pages of each huge page, and gives back the rest."""
    nr_huge = max(nr_pages * PAGE // HUGE, 1)
    area, first = fill_huge(nr_huge)

    def drop() -> None:
        for number in range(nr_huge):
            area.madvise(mmap.MADV_DONTNEED, first * PAGE + number * HUGE + 3 * PAGE, HUGE - 3 * PAGE)

    return {"nr_huge": nr_huge, "others": [fork(drop)]}


def huge_partly(nr_pages: int) -> dict[str, Any]:
    """Huge pages of which only 5 small ones are mapped any more; the rest is nobody's until they are split."""
    nr_huge = max(nr_pages * PAGE // HUGE, 1)
    area, first = fill_huge(nr_huge)
    for number in range(nr_huge):
        area.madvise(mmap.MADV_DONTNEED, first * PAGE + number * HUGE + 5 * PAGE, HUGE - 5 * PAGE)
    return {"nr_huge": nr_huge}


def file(nr_pages: int) -> dict[str, Any]:
    """A file on a disk, read through a mapping; a tenth of it is written to."""
    path = f"{sys.argv[3]}/mematlas-ending-{os.getpid()}"
    with open(path, "wb") as made:
        for page in range(nr_pages):
            made.write((page + 1).to_bytes(8, "little") * (PAGE // 8))
        os.fsync(made.fileno())
    with open(path, "r+b") as opened:
        area = mmap.mmap(opened.fileno(), nr_pages * PAGE, mmap.MAP_SHARED)
    kept.append(area)
    assert sum(area[page * PAGE] for page in range(nr_pages)) > 0
    fill(area, nr_pages // 10)
    return {"files": [path]}


def memfd(nr_pages: int, times: int = 3) -> dict[str, Any]:
    """A memfd mapped several times, as ZGC maps its heap; the descriptor is closed."""
    fd = os.memfd_create("ending")
    os.ftruncate(fd, nr_pages * PAGE)
    for _ in range(times):
        area = mmap.mmap(fd, nr_pages * PAGE, mmap.MAP_SHARED)
        fill(area, nr_pages)
    os.close(fd)
    return {}


def memfd_open(nr_pages: int) -> dict[str, Any]:
    """A memfd that is written to, and never mapped."""
    fd = os.memfd_create("ending")
    for _ in range(nr_pages):
        os.write(fd, b"x" * PAGE)
    kept.append(fd)
    return {}


def memfd_held(nr_pages: int) -> dict[str, Any]:
    """A memfd of which a child has the descriptor, and no mapping."""
    fd = os.memfd_create("ending")
    os.ftruncate(fd, nr_pages * PAGE)
    pid = fork()
    fill(mmap.mmap(fd, nr_pages * PAGE, mmap.MAP_SHARED), nr_pages)
    os.close(fd)
    return {"others": [pid]}


def shared_anon(nr_pages: int) -> dict[str, Any]:
    fill(mmap.mmap(-1, nr_pages * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), nr_pages)
    return {}


def shared_anon_forked(nr_pages: int) -> dict[str, Any]:
    """A child maps it too, and touches nothing of it: only its maps tell."""
    area = mmap.mmap(-1, nr_pages * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    pid = fork()
    fill(area, nr_pages)
    return {"others": [pid]}


def tmpfs(nr_pages: int) -> dict[str, Any]:
    path = f"/dev/shm/mematlas-ending-{os.getpid()}"
    with open(path, "w+b") as opened:
        opened.truncate(nr_pages * PAGE)
        fill(mmap.mmap(opened.fileno(), nr_pages * PAGE, mmap.MAP_SHARED), nr_pages)
    return {"files": [path]}


def tmpfs_removed(nr_pages: int) -> dict[str, Any]:
    os.unlink(tmpfs(nr_pages)["files"][0])
    return {}


def segment(nr_pages: int, removed: bool = False) -> dict[str, Any]:
    shmid = libc.shmget(IPC_PRIVATE, ctypes.c_size_t(nr_pages * PAGE), 0o1600)
    address = libc.shmat(shmid, None, 0)
    for page in range(nr_pages):
        ctypes.memset(address + page * PAGE, 1, 1)
    if removed:
        libc.shmctl(shmid, IPC_RMID, None)
        return {}
    return {"segments": [shmid]}


def segment_removed(nr_pages: int) -> dict[str, Any]:
    return segment(nr_pages, removed=True)


def ksm(nr_pages: int) -> dict[str, Any]:
    """Equal pages, merged to few frames, all of one process."""
    area = fill(anonymous(nr_pages), nr_pages, same=True)
    area.madvise(MADV_MERGEABLE)

    def merged() -> bool:
        return len({entry & (1 << 55) - 1 for entry in entries(area, nr_pages)}) < nr_pages // 50

    wait_for(merged, "KSM does not merge: use the fixture `ksm`")
    return {"nr_frames": len({entry & (1 << 55) - 1 for entry in entries(area, nr_pages)})}


def hugetlb(nr_pages: int) -> dict[str, Any]:
    """Two huge pages of the pool, private, and one of a file without a name."""
    with open("/proc/meminfo") as told:
        size = next(int(line.split()[1]) * 1024 for line in told if line.startswith("Hugepagesize:"))
    try:
        area = mmap.mmap(-1, 2 * size, ANON | 0x40000)
        fd = libc.memfd_create(b"huge", MFD_HUGETLB)
        os.ftruncate(fd, size)
        shared = mmap.mmap(fd, size, mmap.MAP_SHARED)
    except OSError as error:
        raise Unavailable(f"hugetlb pages: {error.strerror}: use the fixture `hugetlb_pages`") from None
    area[0] = area[size] = shared[0] = 1
    kept.extend((area, shared))
    fill(anonymous(nr_pages), nr_pages)
    return {"huge_size": size}


def swapped(nr_pages: int) -> dict[str, Any]:
    """Half of it in swap."""
    area = fill(anonymous(nr_pages), nr_pages)
    half = nr_pages // 2

    def is_out() -> bool:
        area.madvise(MADV_PAGEOUT, 0, half * PAGE)
        return not any(entry >> 63 for entry in entries(area, half))

    wait_for(is_out, "pages stay in memory: use the fixture `swap`")
    return {"nr_swapped": half}


def swapped_forked(nr_pages: int) -> dict[str, Any]:
    """Half of it in swap, and a child that has all of it; the child writes to a third of what is in swap."""
    told = swapped(nr_pages)
    area = kept[-1]
    return {**told, "others": [fork(lambda: fill(area, told["nr_swapped"] // 3))]}


def one_memory(nr_pages: int) -> dict[str, Any]:
    """Another process in the same address space."""
    fill(anonymous(nr_pages), nr_pages)
    stack = mmap.mmap(-1, 1 << 16, ANON)
    kept.append(stack)
    body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
    kept.append(body)
    top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
    pid = libc.clone(body, ctypes.c_void_p(top), CLONE_VM | signal.SIGCHLD, None)
    return {"others": [pid]}


def main() -> None:
    kind, nr_pages = sys.argv[1], int(sys.argv[2])
    try:
        told = globals()[kind](nr_pages)
    except Unavailable as error:
        told = {"unavailable": str(error)}
    print(json.dumps(told), flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()

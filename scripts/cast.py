"""The programs that the examples in the documents look at: scripts/examples.py starts them.

Each says in one line what there is to look at (processes, addresses), and lives until somebody ends it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
PAGE = mmap.PAGESIZE
HUGE = PAGE // 8 * PAGE
NORESERVE, FIXED_ADDRESS = 0x4000, 0x7E0000000000  # include/uapi/asm-generic/mman.h
CLONE_VM = 0x100


def anonymous(size: int, flags: int = mmap.MAP_PRIVATE, protection: int = 3) -> tuple[mmap.mmap, int]:
    """Map memory without a file; return it, and where it is."""
    area = mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS, protection)
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area)) if protection & 2 else 0


def write(area: mmap.mmap, start: int, end: int, step: int = PAGE) -> None:
    """Touch pages."""
    for at in range(start, end, step):
        area[at] = 1


def shop() -> None:
    """A server that holds 64 MiB, and two workers that have written to a quarter of it, each to its own copies."""
    table, address = anonymous(64 * MIB)
    table.madvise(mmap.MADV_NOHUGEPAGE)
    write(table, 0, 64 * MIB)
    workers = []
    for number in range(2):
        if (pid := os.fork()) == 0:
            write(table, 16 * number * MIB, 16 * (number + 1) * MIB)
            os.write(workers_say, b".")
            signal.pause()
        workers.append(pid)
    for _ in workers:
        os.read(workers_heard, 1)
    ready(*workers, hex(address))


def partial() -> None:
    """32 huge pages, of each of which all but a page was given back."""
    area, address = anonymous(33 * HUGE)
    first = -address % HUGE
    area.madvise(mmap.MADV_HUGEPAGE)
    write(area, first, first + 32 * HUGE)
    for number in range(32):
        area.madvise(mmap.MADV_DONTNEED, first + number * HUGE + PAGE, HUGE - PAGE)
    ready(hex(address))


def reserve() -> None:
    """64 GiB and 1 TiB that are reserved, and three places in them that are used."""
    areas = [anonymous(64 << 30, mmap.MAP_PRIVATE | NORESERVE), anonymous(1 << 40, mmap.MAP_PRIVATE | NORESERVE, 0)]
    table, address = areas[0]
    table.madvise(mmap.MADV_NOHUGEPAGE)
    for start, size in ((3 << 30, 3 * MIB), (40 << 30, MIB)):
        write(table, start, start + size)
    ready(hex(address))


def growing() -> None:
    """A program that takes a MiB more five times a second, up to 96."""
    area, address = anonymous(96 * MIB)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    say(hex(address))
    for number in range(96):
        write(area, number * MIB, (number + 1) * MIB)
        time.sleep(0.2)
    signal.pause()


def huge() -> None:
    """Room for four huge pages, half of it in huge pages and the rest untouched."""
    area, address = anonymous(4 * HUGE)
    area.madvise(mmap.MADV_HUGEPAGE)
    write(area, 0, 2 * HUGE)
    ready(hex(address))


def clonevm() -> None:
    """Two processes with one address space, and 64 MiB in it."""
    area, address = anonymous(64 * MIB)
    write(area, 0, 64 * MIB)
    _, stack_at = anonymous(MIB)
    libc = ctypes.CDLL(None)
    pause = ctypes.cast(libc.pause, ctypes.c_void_p)
    child = libc.clone(pause, ctypes.c_void_p(stack_at + MIB), CLONE_VM | signal.SIGCHLD, None)
    ready(child, hex(address))


def tables() -> None:
    """Four huge pages of which two were used of late, a file in memory mapped twice, and a page that is wx."""
    area, address = anonymous(4 * HUGE)
    area.madvise(mmap.MADV_HUGEPAGE)
    write(area, 0, 4 * HUGE)
    file = os.memfd_create("m")
    os.ftruncate(file, MIB)
    views = [mmap.mmap(file, MIB, mmap.MAP_SHARED, protection) for protection in (3, 1)]
    write(views[0], 0, MIB)
    code, _ = anonymous(7 * PAGE, mmap.MAP_SHARED, 7)
    write(code, 0, 7 * PAGE)
    assert all(views[1][at] for at in range(0, MIB, PAGE))
    Path("/proc/self/clear_refs").write_text("1\n", encoding="ascii")
    scratch, _ = anonymous(MIB)
    write(scratch, 0, MIB)
    scratch.madvise(mmap.MADV_DONTNEED)  # the processor forgets which entries it knows: it will mark them again
    for number in (0, 2):
        area[number * HUGE] = 1
    ready(hex(address))


def say(*words: object) -> None:
    """Say what there is to look at."""
    print(*words, flush=True)


def ready(*words: object) -> None:
    """Say it, and do nothing more."""
    say(*words)
    signal.pause()


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program for program in (shop, partial, reserve, growing, clonevm, huge, tables)
}

if __name__ == "__main__":
    workers_heard, workers_say = os.pipe()
    Path("/proc/self/comm").write_text(sys.argv[1], encoding="ascii")
    PROGRAMS[sys.argv[1]]()

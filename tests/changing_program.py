"""A program that changes its memory as it is told: it reads lines of JSON, [NAME, ARGUMENT, ...], and answers each.

    python changing_program.py DIRECTORY

``areas`` answers with where each area is; every other name is a function below, and answers null when it is done.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys

PAGE = mmap.PAGESIZE
NR_PAGES = 1543
"""Of each area: more than two page tables hold."""
HUGE = 2 << 20
PROT_READ, PROT_WRITE, PROT_NONE = mmap.PROT_READ, mmap.PROT_WRITE, 0
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
ADVICE = {
    "free": 4,
    "remove": 9,
    "huge": 14,
    "small": 15,
    "cold": 20,
    "pageout": 21,
    "collapse": 25,
    "guard": 102,
    "unguard": 103,
}
RIGHTS = {"none": PROT_NONE, "read": PROT_READ, "write": PROT_READ | PROT_WRITE}

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.sbrk.argtypes = [ctypes.c_long]

areas: dict[str, int] = {}
files: dict[str, int] = {}
children: list[tuple[int, int]] = []


def mapped(name: str, address: int, size: int) -> int:
    """Map an area afresh, at an address or, with 0, anywhere."""
    where = MAP_FIXED if address else 0
    flags = MAP_SHARED if name in ("memfd", "file") else MAP_PRIVATE
    fd = files.get(name, -1)
    flags |= where | (MAP_ANONYMOUS if fd < 0 else 0) | MAP_NORESERVE
    return int(libc.mmap(address or None, size, PROT_READ | PROT_WRITE, flags, fd, 0))


def make(directory: str) -> None:
    """Map all areas. Room is reserved first: nothing else comes to lie between them, or takes a place that was left."""
    files["memfd"] = os.memfd_create("changing")
    for name in ("file", "private"):
        files[name] = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT, 0o600)
    for fd in files.values():
        os.truncate(fd, NR_PAGES * PAGE)
    os.pwrite(files["private"], b"x" * (NR_PAGES * PAGE), 0)
    names = ("anon", "memfd", "file", "private", "moving", "huge")
    start = mapped("room", 0, (2 * len(names) + 1) * 8 * HUGE)
    start += -start % HUGE
    for number, name in enumerate(names):
        areas[name] = mapped(name, start + number * 16 * HUGE, 4 * HUGE if name == "huge" else NR_PAGES * PAGE)
        if name != "huge":
            libc.madvise(areas[name], NR_PAGES * PAGE, ADVICE["small"])


def touch(name: str, first: int, end: int, step: int = 1) -> None:
    """Write to pages."""
    for page in range(first, end, step):
        ctypes.memset(areas[name] + page * PAGE, 7, 1)


def look(name: str, first: int, end: int) -> None:
    """Read pages."""
    for page in range(first, end):
        ctypes.string_at(areas[name] + page * PAGE, 1)


def advise(name: str, first: int, end: int, advice: str) -> None:
    """Call madvise(2); what this kernel does not know is nothing done."""
    # Pages that were touched just now may be in a batch of a processor, out of reach.
    for _ in range(5 if advice == "pageout" else 1):
        libc.madvise(areas[name] + first * PAGE, (end - first) * PAGE, ADVICE[advice])


def protect(name: str, first: int, end: int, rights: str) -> None:
    """Call mprotect(2)."""
    libc.mprotect(areas[name] + first * PAGE, (end - first) * PAGE, RIGHTS[rights])


def remap(name: str, first: int, end: int, other: str) -> None:
    """Unmap a part of an area, and map there what another area is: its first pages."""
    fd = files.get(other, -1)
    flags = (MAP_SHARED if other in ("memfd", "file") else MAP_PRIVATE) | (MAP_ANONYMOUS if fd < 0 else 0)
    at, size = areas[name] + first * PAGE, (end - first) * PAGE
    libc.munmap(at, size)
    libc.mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0)


def move(name: str, first: int, end: int, to: int) -> None:
    """Move a part of an area to a page behind it, mremap(2), and map anonymous memory where it was."""
    at, size = areas[name] + first * PAGE, (end - first) * PAGE
    libc.mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, areas[name] + (NR_PAGES + to) * PAGE)
    mapped("hole", at, size)


def grow(nr_pages: int) -> None:
    """Move the end of the heap, and write to what is new."""
    ctypes.memset(libc.sbrk(nr_pages * PAGE), 3, nr_pages * PAGE)


def fork() -> None:
    """Start a child that waits."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        for line in os.fdopen(told):
            name, *rest = json.loads(line)
            globals()[name](*rest)
        os._exit(0)
    os.close(told)
    children.append((pid, tell))


def child(*words: object) -> None:
    """Have the last child do something, and wait until it has."""
    if children:
        pid, tell = children[-1]
        os.write(tell, (json.dumps(words) + "\n").encode())
        os.write(tell, b'["stop"]\n')
        os.waitpid(pid, os.WUNTRACED)
        os.kill(pid, signal.SIGCONT)


def stop() -> None:
    """Say that all is done: stop."""
    os.kill(os.getpid(), signal.SIGSTOP)


def reap() -> None:
    """End the last child."""
    if children:
        pid, tell = children.pop()
        os.close(tell)
        os.waitpid(pid, 0)


def main() -> None:
    """Make all areas, and do what is said."""
    make(sys.argv[1])
    print(json.dumps(areas), flush=True)
    for line in sys.stdin:
        name, *rest = json.loads(line)
        globals()[name](*rest)
        print("null", flush=True)


if __name__ == "__main__":
    main()

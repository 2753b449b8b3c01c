"""Memory cgroups of our own, of whichever version this machine has, and programs that are charged to them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, Program, program
from mematlas import Cgroup, Charge
from mematlas.kernel.madvise import MADV_WILLNEED, takes
from victim import DEADLINE, wait_until

JOIN = ("/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"')
"""The shell joins the group, and the program that it then becomes has all its memory there."""
NAMES = {
    2: {"usage": "memory.current", "max": "memory.max"},
    1: {"usage": "memory.usage_in_bytes", "max": "memory.limit_in_bytes"},
}
FILL = """
import ctypes, json, mmap, os, sys
told = json.loads(sys.argv[1])
page, kept = mmap.PAGESIZE, []
def anon(nr_pages):
    area = mmap.mmap(-1, nr_pages * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        area.madvise(15)  # MADV_NOHUGEPAGE
    except OSError:
        pass
    for index in range(nr_pages):
        area[index * page] = 1
    kept.append(area)
def huge(nr_pages):
    size = page // 8 * page  # entries of a table: what a huge page is made of
    area = mmap.mmap(-1, (nr_pages + 1) * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(14)  # MADV_HUGEPAGE
    for index in range(0, len(area), page):
        area[index] = 1
    kept.append(area)
def torn(nr_pages):
    size = page // 8 * page
    area = mmap.mmap(-1, (nr_pages + 1) * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(14)
    for index in range(0, len(area), page):
        area[index] = 1
    kept.append(area)
    with open("/proc/self/smaps") as file:
        is_huge = any(line.split()[0] == "AnonHugePages:" and int(line.split()[1]) * 1024 >= nr_pages * size
                      for line in file)
    area.madvise(15)  # MADV_NOHUGEPAGE: or khugepaged makes them whole again
    # All but a page of each is unmapped, and stays charged until the kernel splits it.
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    first = -address % size
    for index in range(nr_pages):
        area.madvise(mmap.MADV_DONTNEED, first + index * size + page, size - page)
    return nr_pages * (size // page - 1) if is_huge else 0
def write(path, nr_pages):
    with open(path, "wb") as file:
        for index in range(nr_pages):
            file.write(b"x" * page)
        file.flush()
        os.fsync(file.fileno())
def share(path):
    with open(path, "rb") as file:
        area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for index in range(len(area) // page):
        area[index * page]
    kept.append(area)
anon(told.get("anon", 0) or 1)
nr_torn = torn(told["torn"]) if "torn" in told else None
if "huge" in told:
    huge(told["huge"])
for path, nr_pages in told.get("write", ()):
    write(path, nr_pages)
for path in told.get("share", ()):
    share(path)
memfd = os.memfd_create("held")
def hold(nr_pages):
    for index in range(nr_pages):
        os.write(memfd, b"x" * page)
hold(told.get("memfd", 0))
print(json.dumps(nr_torn), flush=True)
"""
"""Takes memory of each kind, as it is asked to."""


@dataclass
class MemoryGroup:
    """A memory cgroup of ours."""

    path: Path
    version: int

    def read(self, name: str) -> int:
        """Return the number in a file: ``usage``, ``max`` or its whole name."""
        return int((self.path / NAMES[self.version].get(name, name)).read_text())

    def write(self, name: str, value: object) -> None:
        """Write to a file."""
        (self.path / NAMES[self.version].get(name, name)).write_text(str(value))

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator[MemoryGroup]:
        """Make a group below this one; it is removed in the end."""
        if self.version == 2:
            self.write("cgroup.subtree_control", "+memory")
        path = self.path / name
        path.mkdir()
        made = MemoryGroup(path, self.version)
        # Whatever swap others have: what is there stays there.
        made.write(*(("memory.swappiness", 0) if self.version == 1 else ("memory.swap.max", 0)))
        try:
            yield made
        finally:
            remove(made)

    @contextlib.contextmanager
    def running(self, *, wait: str = "\nsys.stdin.read()\n", **told: Any) -> Iterator[Program]:
        """Run a program in the group that has the memory that it is told to; see `FILL`."""
        with program(FILL, told, wait=wait, prefix=(*JOIN, str(self.path))) as running:
            yield running


def remove(group: MemoryGroup) -> None:
    """Remove a group once all that was in it has ended."""
    path = group.path
    wait_until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
    if group.version == 1:
        # Page cache that is charged to it, as of the interpreter, would keep its hierarchy alive.
        group.write("memory.force_empty", 0)
    end = time.monotonic() + DEADLINE
    while True:
        try:
            path.rmdir()
            return
        except OSError:  # a task that is on its way out may be in it still
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def highest_group() -> MemoryGroup:
    """Return the root of the hierarchy that charges memory."""
    if Path("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists():
        return MemoryGroup(Path("/sys/fs/cgroup/memory"), 1)
    for mounted in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        controllers = mounted / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            return MemoryGroup(mounted, 2)
    pytest.skip("needs a mounted hierarchy of cgroups with the memory controller")


@contextlib.contextmanager
def memory_group(name: str = "charge") -> Iterator[MemoryGroup]:
    """Make a memory cgroup below the root."""
    with highest_group().child(f"mematlas-{name}-{os.getpid()}") as group:
        yield group


def charge_of(group: MemoryGroup) -> Charge:
    with Cgroup(group.path) as cgroup:
        return cgroup.charge()


def left(charge: Charge, kind: str) -> int | None:
    """Return the pages of a kind that none of its processes maps."""
    (part,) = (part for part in charge.parts if part.kind == kind)
    return None if part.left is None else part.left // PAGE


def settled(group: MemoryGroup, **nr_left: int) -> Charge:
    """Return the charge once memory.stat has been brought up to date, which the kernel does every two seconds.

    Before 5.12 what CPUs have counted stays with them until it is a batch: then it is up to date to within these.
    """
    charge = charge_of(group)

    def is_there() -> bool:
        nonlocal charge
        charge = charge_of(group)
        slack = 0 if takes(MADV_WILLNEED) else charge.unsure // PAGE
        return all(abs((left(charge, kind) or 0) - number) <= slack for kind, number in nr_left.items())

    wait_until(is_there, f"{nr_left} pages are left: {charge.parts}")
    return charge

"""The process that the tests look at. It builds memory whose truth is known, then does as it is told.

It runs alone, with the standard library only, and is never imported by the tests: `victim.py` starts it and
talks to it, one JSON object per line each way::

    {"command": "build", "kind": "anon"}      ->  {"areas": [{...}]}
    {"command": "pageout", "name": "anon"}    ->  {"areas": [{...}]}
    ...                                       ->  {"unavailable": "why this machine cannot"}

Every area is a VMA of its own: unmapped-like guards (PROT_NONE, MADV_DONTDUMP) keep its neighbours from being
merged with it. The truth is one word per page:

    absent          nothing there: never touched, or given back
    present         a frame that this page table entry alone maps
    shared          a frame that is mapped more than once
    zero            the kernel's zero page: present, but not resident
    hugetlb         present, in a hugetlb page: not resident either
    swapped         a swap entry
    shmem_swapped   shared memory that is in swap: its page table entry is empty
    marker_swapped  the same, but its entry is a marker that says "protected"
    guard_swapped   a guard marker, and the shared memory behind it is in swap
    guard           a guard marker
    marker          a marker that says "protected": of a page that was never there (userfaultfd)
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

PAGE = mmap.PAGESIZE
DEADLINE = 45.0
"""Seconds until something that the kernel does in its own time counts as impossible."""

# Source: include/uapi/asm-generic/mman-common.h, mman.h, linux/prctl.h, linux/memfd.h
PROT_NONE = 0
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MADV_DONTNEED = 4
MADV_DONTFORK = 10
MADV_MERGEABLE = 12
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
MADV_PAGEOUT = 21
MADV_COLLAPSE = 25
MADV_GUARD_INSTALL = 102
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_VMA = 0x53564D41
# include/uapi/linux/userfaultfd.h, x86 and the generic table of system calls.
SYS_USERFAULTFD = 323 if os.uname().machine == "x86_64" else 282
UFFD_USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_REGISTER_MODE_MISSING = 1
UFFDIO_REGISTER_MODE_WP = 2
UFFDIO_ZEROPAGE = 0xC020AA04
UFFDIO_WRITEPROTECT = 0xC018AA06
UFFDIO_WRITEPROTECT_MODE_WP = 1
PM_PRESENT = 1 << 63
PM_SWAP = 1 << 62

RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED_ANON = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 3, ctypes.c_char_p]


class Unavailable(Exception):
    """This machine cannot make that memory; the text says what is missing."""


class Area:
    """One VMA, and the truth about each of its pages."""

    def __init__(self, kind: str, address: int, nr_pages: int, path: bytes = b"", deleted: bool = False) -> None:
        self.kind = kind
        self.pid = os.getpid()
        self.address = address
        self.nr_pages = nr_pages
        self.path = path
        self.deleted = deleted
        self.states = ["absent"] * nr_pages
        self.facts: dict[str, Any] = {}

    @property
    def shmem(self) -> bool:
        return self.kind in SHMEM_KINDS

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "pid": self.pid,
            "address": hex(self.address),
            "nr_pages": self.nr_pages,
            "page_size": PAGE,
            "path": os.fsdecode(self.path),
            "deleted": self.deleted,
            "states": self.states,
            "facts": self.facts,
        }

    def write(self, pages: Iterable[int], value: int | None = None) -> None:
        """Write to pages. Each differs from its neighbours, so that KSM cannot take them for one."""
        for page in pages:
            word = (page + 1 if value is None else value).to_bytes(8, "little")
            ctypes.memmove(self.address + page * PAGE, word, len(word))
            self.states[page] = "present"

    def read(self, pages: Iterable[int], state: str) -> None:
        for page in pages:
            ctypes.string_at(self.address + page * PAGE, 1)
            self.states[page] = state
        if self.path:
            self.undo_fault_around()

    def undo_fault_around(self) -> None:
        """Unmap what was mapped unasked: reading one page of a file maps its cached neighbours too."""
        for page, state in enumerate(self.states):
            if state == "absent":
                self.advise(MADV_DONTNEED, page, page + 1)

    def advise(self, advice: int, start: int = 0, end: int | None = None) -> None:
        """Call madvise(2) for pages from ``start`` up to ``end``."""
        size = ((self.nr_pages if end is None else end) - start) * PAGE
        check(libc.madvise(self.address + start * PAGE, size, advice), f"madvise({advice})")

    def entries(self) -> list[int]:
        """Return what our own pagemap says."""
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            words = memoryview(os.pread(file.fileno(), self.nr_pages * 8, self.address // PAGE * 8))
        return words.cast("Q").tolist()

    def pageout(self, start: int = 0, end: int | None = None) -> None:
        """Swap the resident pages of a range out, and do not return before they are out."""
        end = self.nr_pages if end is None else end
        out = [page for page in range(start, end) if self.states[page] in ("present", "shared")]

        def all_out() -> bool:
            # Pages that were touched just now may sit in a CPU's batch of the LRU, out of reach: ask again.
            self.advise(MADV_PAGEOUT, start, end)
            entries = self.entries()
            return not any(entries[page] & PM_PRESENT for page in out)

        if not poll(all_out):
            raise Unavailable(f"{self.kind}: pages are still in memory after {DEADLINE:.0f} s (no free swap?)")
        for page in out:
            self.states[page] = "shmem_swapped" if self.shmem else "swapped"


def check(result: int, what: str) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def poll(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return whether it came to hold before the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def place(size: int, align: int = PAGE) -> int:
    """Reserve addresses with a guard on either side; return the first aligned one between them."""
    whole = libc.mmap(None, size + align + 2 * PAGE, PROT_NONE, ANON | MAP_NORESERVE, -1, 0)
    if whole in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(size)
    check(libc.madvise(whole, size + align + 2 * PAGE, MADV_DONTDUMP), "madvise(MADV_DONTDUMP)")
    return int((whole + PAGE + align - 1) // align * align)


def map_area(kind: str, nr_pages: int, flags: int = ANON, fd: int = -1, align: int = PAGE, **more: Any) -> Area:
    """Map memory in a reserved place. Huge pages are out, unless asked for."""
    size = nr_pages * PAGE
    address = place(size, align)
    if libc.mmap(address, size, RW, flags | MAP_FIXED, fd, 0) != address:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap: {os.strerror(code)}")
    area = Area(kind, address, nr_pages, **more)
    # EINVAL: a kernel without huge pages. Not for hugetlb, where it makes no sense.
    if align == PAGE and libc.madvise(address, size, MADV_NOHUGEPAGE) and ctypes.get_errno() != errno.EINVAL:
        check(-1, "madvise(MADV_NOHUGEPAGE)")
    return area


def map_file(kind: str, name: bytes, nr_pages: int, flags: int, *, sparse: bool = False, **more: Any) -> Area:
    """Make a file, named from the directory of the victim unless ``name`` is absolute, and map it."""
    path = os.path.join(os.fsencode(directory), name)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if sparse:
            os.ftruncate(fd, nr_pages * PAGE)
        else:
            for page in range(nr_pages):
                os.write(fd, page.to_bytes(8, "little") * (PAGE // 8))
        return map_area(kind, nr_pages, flags, fd, path=path, **more)
    finally:
        os.close(fd)


def anon() -> Area:
    area = map_area("anon", 101)
    area.write(range(0, 23 * 4, 4))
    return area


def anon_full() -> Area:
    area = map_area("anon_full", 97)
    area.write(range(97))
    return area


def anon_named() -> Area:
    area = map_area("anon_named", 13)
    if libc.prctl(PR_SET_VMA, 0, area.address, area.nr_pages * PAGE, b"a name: with blanks"):
        raise Unavailable("names of anonymous VMAs: needs Linux 5.17 and CONFIG_ANON_VMA_NAME")
    area.path = b"[anon:a name: with blanks]"
    area.write(range(5))
    return area


def private_file() -> Area:
    area = map_file("private_file", b"private", 71, mmap.MAP_PRIVATE)
    area.read(range(31), "present")
    area.write(range(0, 62, 7))
    area.facts["nr_anon"] = len(range(0, 62, 7))
    return area


def shared_file() -> Area:
    area = map_file("shared_file", b"shared", 67, mmap.MAP_SHARED)
    area.write(range(3, 20))
    area.read(range(40, 53), "present")
    return area


def shared_anon() -> Area:
    area = map_area("shared_anon", 83, SHARED_ANON, path=b"/dev/zero", deleted=True)
    area.write(range(0, 82, 2))
    return area


def shared_anon_swapped() -> Area:
    area = map_area("shared_anon_swapped", 89, SHARED_ANON, path=b"/dev/zero", deleted=True)
    area.write(range(59))
    area.pageout(0, 41)
    return area


def tmpfs() -> Area:
    name = f"mematlas-victim-{os.getpid()}"
    area = map_file("tmpfs", b"/dev/shm/" + name.encode(), 61, mmap.MAP_SHARED, sparse=True)
    area.write(range(1, 60, 3))
    return area


def memfd() -> Area:
    fd = os.memfd_create("victim")
    os.ftruncate(fd, 59 * PAGE)
    area = map_area("memfd", 59, mmap.MAP_SHARED, fd, path=b"/memfd:victim", deleted=True)
    os.close(fd)
    area.write(range(17))
    return area


def huge_size() -> int:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") as file:
            size = int(file.read())
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
            if "[never]" in file.read():
                raise Unavailable("transparent huge pages are off (transparent_hugepage/enabled: never)")
    except FileNotFoundError:
        raise Unavailable("transparent huge pages: needs CONFIG_TRANSPARENT_HUGEPAGE") from None
    return size


def map_huge(kind: str) -> tuple[Area, int]:
    size = huge_size()
    area = map_area(kind, 3 * size // PAGE, align=size)
    area.advise(MADV_HUGEPAGE)
    return area, size // PAGE


def thp() -> Area:
    area, step = map_huge("thp")
    area.write(range(2 * step))
    # A fault takes small pages when no huge one is free; the kernel can be asked to put them together (v6.1).
    if area_field(area, "AnonHugePages") < 2 * step * PAGE:
        for start in (0, step):
            libc.madvise(area.address + start * PAGE, step * PAGE, MADV_COLLAPSE)
    area.facts["nr_huge"] = area_field(area, "AnonHugePages") // PAGE
    return area


def collapse(area: Area, nr_pages: int, step: int, field: str) -> int:
    """Have small pages put together to huge ones; return how many pages those are. Other kinds need them all."""
    for start in range(0, nr_pages, step):
        libc.madvise(area.address + start * PAGE, step * PAGE, MADV_COLLAPSE)
    nr_huge = area_field(area, field) // PAGE
    if nr_huge < nr_pages:
        raise Unavailable(f"{area.kind}: {nr_huge} of {nr_pages} pages are in huge ones (memory in pieces, or v6.0?)")
    return nr_huge


def hide(area: Area) -> Area:
    """Take all rights away. What is there stays there, behind entries that the processor does not follow."""
    check(libc.mprotect(area.address, area.nr_pages * PAGE, PROT_NONE), "mprotect")
    return area


def thp_prot_none() -> Area:
    area, step = map_huge("thp_prot_none")
    area.write(range(2 * step))
    area.facts["nr_huge"] = collapse(area, 2 * step, step, "AnonHugePages")
    return hide(area)


def shmem_thp() -> Area:
    size = huge_size()
    step = size // PAGE
    fd = os.memfd_create("huge")
    os.ftruncate(fd, 3 * size)
    area = map_area("shmem_thp", 3 * step, mmap.MAP_SHARED, fd, align=size, path=b"/memfd:huge", deleted=True)
    os.close(fd)
    area.write(range(2 * step))
    area.facts["nr_huge"] = collapse(area, 2 * step, step, "ShmemPmdMapped")
    return area


def shmem_thp_prot_none() -> Area:
    area = shmem_thp()
    area.kind = "shmem_thp_prot_none"
    return hide(area)


def huge_zero() -> Area:
    area, step = map_huge("huge_zero")
    area.read([0], "zero")
    if not all(entry & PM_PRESENT for entry in area.entries()[:step]):
        raise Unavailable("huge zero page: a small one came instead (transparent_hugepage/use_zero_page)")
    area.states[:step] = ["zero"] * step
    return area


def ksm() -> Area:
    if read_int("/sys/kernel/mm/ksm/run") != 1:
        raise Unavailable("KSM is not running (/sys/kernel/mm/ksm/run is not 1): use the fixture `ksm`")
    area = map_area("ksm", 53)
    area.write(range(47), value=0x5EED)
    area.advise(MADV_MERGEABLE)
    frames: set[int] = set()

    def merged() -> bool:
        nonlocal frames
        frames = {entry & (1 << 55) - 1 for entry in area.entries()[:47]}
        return len(frames) == 1 and frames != {0}

    # ksmd looks twice before it merges. Without CAP_SYS_ADMIN all frames read as 0, and nothing can be seen.
    if not poll(merged):
        raise Unavailable(f"KSM left {len(frames)} frames of 47 equal pages after {DEADLINE:.0f} s")
    area.states[:47] = ["shared"] * 47
    return area


def hugetlb_size() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("Hugepagesize:"):
                return int(line.split()[1]) * 1024
    raise Unavailable("hugetlb: needs CONFIG_HUGETLBFS")


def hugetlb() -> Area:
    size = hugetlb_size()
    more: dict[str, Any] = {"path": b"/anon_hugepage", "deleted": True}
    try:
        area = map_area("hugetlb", 3 * size // PAGE, ANON | MAP_HUGETLB, align=size, **more)
    except OSError as error:
        raise Unavailable(f"{error.strerror} (/proc/sys/vm/nr_hugepages): use `hugetlb_pages`") from None
    for page in range(0, 2 * size // PAGE, size // PAGE):
        area.write([page])
        area.states[page : page + size // PAGE] = ["hugetlb"] * (size // PAGE)
    area.facts["huge_size"] = size
    return area


def hugetlb_prot_none() -> Area:
    area = hugetlb()
    area.kind = "hugetlb_prot_none"
    return hide(area)


def protect(area: Area, fd: int) -> None:
    """Protect all of an area from being written to, by userfaultfd(2): also what is not there."""
    size = area.nr_pages * PAGE
    for request, words in (
        (UFFDIO_REGISTER, (area.address, size, UFFDIO_REGISTER_MODE_WP, 0)),
        (UFFDIO_WRITEPROTECT, (area.address, size, UFFDIO_WRITEPROTECT_MODE_WP)),
    ):
        if libc.ioctl(fd, ctypes.c_ulong(request), (ctypes.c_uint64 * len(words))(*words)):
            raise Unavailable(f"userfaultfd write protection: {os.strerror(ctypes.get_errno())} (needs Linux 6.4)")


def userfaultfd() -> int:
    """Return a descriptor that stays open as long as the process."""
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    api = (ctypes.c_uint64 * 3)(UFFD_API, UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED, 0)
    if fd < 0 or libc.ioctl(fd, ctypes.c_ulong(UFFDIO_API), api):
        raise Unavailable(f"userfaultfd: {os.strerror(ctypes.get_errno())} (needs CONFIG_USERFAULTFD, Linux 6.4)")
    return int(fd)


def uffd_wp() -> Area:
    area = map_area("uffd_wp", 61)
    area.write(range(17))
    protect(area, userfaultfd())
    area.states[17:] = ["marker"] * (area.nr_pages - 17)
    return area


def uffd_wp_swapped() -> Area:
    area = map_area("uffd_wp_swapped", 53)
    area.write(range(31))
    protect(area, userfaultfd())
    area.states[31:] = ["marker"] * (area.nr_pages - 31)
    area.pageout(0, 19)
    return area


def uffd_wp_memfd() -> Area:
    """Protected memory of a file: an entry that was protected stays one, though its page goes to swap."""
    area = memfd()
    area.kind = "uffd_wp_memfd"
    protect(area, userfaultfd())
    area.states[17:] = ["marker"] * (area.nr_pages - 17)
    area.pageout(0, 11)
    area.states[:11] = ["marker_swapped"] * 11
    return area


def uffd_zero_memfd() -> Area:
    """Zero pages in a private mapping of a file of memory."""
    fd = os.memfd_create("victim")
    os.ftruncate(fd, 67 * PAGE)
    area = map_area("uffd_zero_memfd", 67, mmap.MAP_PRIVATE, fd, path=b"/memfd:victim", deleted=True)
    os.close(fd)
    area.write(range(40, 47))
    fd = userfaultfd()
    for request, words in (
        (UFFDIO_REGISTER, (area.address, area.nr_pages * PAGE, UFFDIO_REGISTER_MODE_MISSING, 0)),
        (UFFDIO_ZEROPAGE, (area.address, 13 * PAGE, 0, 0)),
    ):
        check(libc.ioctl(fd, ctypes.c_ulong(request), (ctypes.c_uint64 * 4)(*words)), "userfaultfd")
    area.states[:13] = ["zero"] * 13
    return area


def guard_memfd() -> Area:
    """Guard regions over memory of a file that is in swap."""
    area = memfd()
    area.kind = "guard_memfd"
    area.pageout(0, 11)
    try:
        area.advise(MADV_GUARD_INSTALL, 0, 5)
    except OSError as error:
        raise Unavailable(f"guard regions in files: {error.strerror} (needs Linux 6.15)") from None
    area.states[:5] = ["guard_swapped"] * 5
    return area


def uffd_wp_hugetlb() -> Area:
    """The third page is not there: pagemap says of it only that it is protected, and shows no marker."""
    area = hugetlb()
    area.kind = "uffd_wp_hugetlb"
    protect(area, userfaultfd())
    return area


def zero() -> Area:
    area = map_area("zero", 79)
    area.read(range(29), "zero")
    area.write(range(40, 47))
    return area


def prot_none() -> Area:
    area = map_area("prot_none", 43)
    area.write(range(19))
    return hide(area)


def prot_none_code() -> Area:
    """Memory that was written to as code is, then hidden: nobody can execute it."""
    area = map_area("prot_none_code", 37)
    area.write(range(29))
    check(libc.mprotect(area.address, area.nr_pages * PAGE, mmap.PROT_READ | mmap.PROT_EXEC), "mprotect")
    return hide(area)


def swapped() -> Area:
    area = map_area("swapped", 103)
    area.write(range(73))
    area.pageout(0, 53)
    return area


def guard() -> Area:
    area = map_area("guard", 47)
    area.write(range(11))
    try:
        area.advise(MADV_GUARD_INSTALL, 20, 33)
    except OSError as error:
        raise Unavailable(f"guard regions: {error.strerror} (needs Linux 6.13)") from None
    area.states[20:33] = ["guard"] * 13
    return area


def locked() -> Area:
    area = map_area("locked", 31)
    try:
        check(libc.mlock(area.address, area.nr_pages * PAGE), "mlock")
    except OSError as error:
        raise Unavailable(f"mlock: {error.strerror} (needs CAP_IPC_LOCK, or a higher ulimit -l)") from None
    area.states = ["present"] * area.nr_pages
    return area


def forked() -> Area:
    """Memory that is to be shared with a child by the command ``fork``."""
    area = map_area("forked", 89)
    area.write(range(61))
    return area


NAMES = {
    "path_blank": b" two  blanks ",
    "path_newline": b"new\nline",
    "path_backslash": b"back\\slash",
    "path_octal": b"not a newline: \\012",
    "path_brackets": b"[heap]",
    "path_deleted_name": b"a name (deleted)",
    "path_not_utf8": b"\xff\xfe\x80 bytes",
    "path_escapes": b"\x1b]0;title\x07\xc2\x9b31m\xe2\x80\xae\rx",
    "path_deleted": b"gone",
    "path_deleted_twice": b"gone (deleted)",
}
SHMEM_KINDS = (
    "shared_anon",
    "shared_anon_swapped",
    "tmpfs",
    "memfd",
    "shmem_thp",
    "shmem_thp_prot_none",
    "uffd_wp_memfd",
    "guard_memfd",
)


def named_file(kind: str) -> Area:
    area = map_file(kind, NAMES[kind], 7, mmap.MAP_PRIVATE)
    area.read(range(3), "present")
    if kind in ("path_deleted", "path_deleted_twice"):
        os.unlink(area.path)
        area.deleted = True
    return area


BUILDERS: dict[str, Callable[[], Area]] = {
    builder.__name__: builder
    for builder in (
        *(anon, anon_full, anon_named, zero, prot_none, guard, locked, forked, swapped),
        *(private_file, shared_file, shared_anon, shared_anon_swapped, tmpfs, memfd),
        *(thp, huge_zero, ksm, hugetlb, prot_none_code),
        *(thp_prot_none, shmem_thp, shmem_thp_prot_none, hugetlb_prot_none),
        *(uffd_wp, uffd_wp_swapped, uffd_wp_hugetlb),
        *(uffd_wp_memfd, uffd_zero_memfd, guard_memfd),
    )
}


def read_int(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read())
    except FileNotFoundError:
        raise Unavailable(f"{path} is missing") from None


def area_field(area: Area, field: str) -> int:
    """Return a field of our own smaps in bytes."""
    ours = False
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            name, _, rest = line.partition(b" ")
            if b"-" in name:
                ours = name.startswith(b"%x-" % area.address)
            elif ours and name == field.encode() + b":":
                return int(rest.split()[0]) * 1024
    return 0


# --- commands


areas: dict[str, Area] = {}
directory = ""


def build(kind: str) -> list[Area]:
    areas[kind] = named_file(kind) if kind in NAMES else BUILDERS[kind]()
    return [areas[kind]]


def touch(name: str, pages: list[int]) -> list[Area]:
    """Write to pages."""
    areas[name].write(pages)
    return [areas[name]]


def read(name: str, pages: list[int]) -> list[Area]:
    """Read pages that are absent; those of anonymous memory become the zero page."""
    area = areas[name]
    state = "present" if area.path else "zero"
    area.read([page for page in pages if area.states[page] == "absent"], state)
    return [area]


def pageout(name: str, start: int = 0, end: int | None = None) -> list[Area]:
    areas[name].pageout(start, end)
    return [areas[name]]


def drop(name: str, start: int = 0, end: int | None = None) -> list[Area]:
    """Give anonymous pages back."""
    area = areas[name]
    end = area.nr_pages if end is None else end
    area.advise(MADV_DONTNEED, start, end)
    area.states[start:end] = ["absent"] * (end - start)
    return [area]


def fork() -> list[Area]:
    """Start a child that shares `forked`, and nothing else that has a truth, and that dies with us."""
    assert "forked_child" not in areas, "one child is all there is"
    area = areas["forked"]
    for other in areas.values():
        if other is not area:
            other.advise(MADV_DONTFORK)
    ready, told = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, None)
        if os.getppid() == parent:
            os.write(told, b"!")
            while True:
                signal.pause()
        os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    child = areas["forked_child"] = Area("forked_child", area.address, area.nr_pages)
    child.pid = pid
    for one in (area, child):
        one.states = ["shared" if state in ("present", "shared") else state for state in area.states]
    return [area, child]


def rewrite(part: str = "half") -> list[Area]:
    """Write to every second page of `forked` that is shared with the child: each now has its own."""
    area, child = areas["forked"], areas["forked_child"]
    shared = [page for page in range(area.nr_pages) if area.states[page] == "shared"]
    area.write(shared[::2] if part == "half" else shared)
    for page in range(area.nr_pages):
        if area.states[page] == "present":
            child.states[page] = "present"
    return [area, child]


def become(uid: int) -> list[Area]:
    """Turn into another user, as a service does that starts as root; stay dumpable, as after an exec."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, None)
    # The kernel forgets this when the user changes.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, None)
    return []


def dumpable(value: int) -> list[Area]:
    """Be dumpable, or not: then /proc/PID belongs to root."""
    libc.prctl(PR_SET_DUMPABLE, value, 0, 0, None)
    return []


def rename(name: str) -> list[Area]:
    """Take another command name, of which the kernel keeps 15 bytes."""
    with open("/proc/self/comm", "wb") as file:
        file.write(os.fsencode(name))
    return []


COMMANDS: dict[str, Callable[..., list[Area]]] = {
    command.__name__: command
    for command in (build, touch, read, pageout, drop, fork, rewrite, become, dumpable, rename)
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    command = COMMANDS[request.pop("command")]
    try:
        return {"areas": [area.as_json() for area in command(**request)]}
    except Unavailable as why:
        return {"unavailable": str(why)}


def main() -> None:
    global directory
    directory = sys.argv[1]
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, None)
    print(json.dumps({"pid": os.getpid(), "page_size": PAGE}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "exit":
            return
        print(json.dumps(answer(request)), flush=True)


if __name__ == "__main__":
    main()

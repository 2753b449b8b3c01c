"""cachestat(2) and mincore(2): how much of an open file is in the page cache, and where. Neither reads any of it.

cachestat (Linux commit cf264e1329fb, "cachestat: implement cachestat syscall", in v6.5) counts the pages that are
in the cache, dirty, being written, and evicted from it. mincore has a bit for each page. It is for kernels before that,
and for files whose pages are those of another file (overlayfs), of which cachestat sees nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
from itertools import pairwise

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.libc import libc
from mematlas.kernel.rights import effective_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.procfs import ProcFS

    Counts = tuple[int, int | None, int | None, int | None, int | None]
    """Pages in the cache, dirty, being written, evicted, and evicted so recently that a return is a loss."""
    Cached = tuple[Counts, tuple[float, ...], str]

SYS_CACHESTAT = 451  # the same number on every architecture
BLOCK = 512
"""Bytes that st_blocks of stat(2) counts in."""
NR_CELLS = 16
"""Parts of a file of which it is told how much of each is in the cache."""
NR_MINCORE = 1 << 16
"""Pages that mincore is asked about together."""
MOST_PAGES = 1 << 28
"""Pages of a file that are gone through one after the other: 1 TiB, of which mincore tells in 8 s. Who makes a file of
holes may make it as long as numbers go (2^51 pages), and it would keep us for years."""
FOWNER = "CAP_FOWNER"
OWNER_OR_WRITER = "being the owner of the file, the right to write to it, or CAP_FOWNER"


def cachestat_counts(fd: int, offset: int, size: int) -> tuple[int, int, int, int, int]:
    """Return how many pages of a range are in the page cache, dirty, being written, evicted, and recently evicted."""
    import ctypes

    span = (ctypes.c_uint64 * 2)(offset, size)
    counts = (ctypes.c_uint64 * 5)()
    if libc().syscall(SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0):
        # Since v6.14 (commit 5f537664e705) only an owner or writer of the file may ask.
        if ctypes.get_errno() == errno.EPERM:
            raise PermissionDenied("cachestat", FOWNER, text=OWNER_OR_WRITER)
        raise NotSupported("cachestat", "Linux 6.5")
    nr_cached, nr_dirty, nr_writeback, nr_evicted, nr_recent = counts
    return nr_cached, nr_dirty, nr_writeback, nr_evicted, nr_recent


def call_mincore(fd: int, offset: int, size: int, page_size: int) -> bytes:
    """Return a byte per page of a file: bit 0 is set when it is in RAM. Maps the file, touches nothing of it."""
    import ctypes

    address = map_file(fd, offset, size)
    try:
        vector = ctypes.create_string_buffer((size + page_size - 1) // page_size)
        if libc().mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector):
            raise NotSupported("mincore", os.strerror(ctypes.get_errno()))
        return vector.raw
    finally:
        libc().munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def map_file(fd: int, offset: int, size: int) -> int:
    """Map a part of a file, for reading; return where."""
    import ctypes

    library = libc()
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    address: int | None = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise NotSupported("mincore", f"a mapping of the file: {os.strerror(ctypes.get_errno())}")
    return address


def may_see(fd: int) -> bool:
    """Whether mincore tells us the truth about a file.

    mm/mincore.c, can_do_mincore(): to others than its owner and writers all pages are said to be in RAM.
    """
    if os.geteuid() == os.fstat(fd).st_uid or FOWNER in effective_capabilities():
        return True
    return os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)


def count_cached(fd: int, status: os.stat_result, kind: str | None, page_size: int) -> Cached:
    """Return how many pages of an open regular file are in the page cache, how much of each part, and who said so.

    ``kind`` is what `mematlas.kernel.vmfile` knows of its file system. Parts are sixteenths, or pages where those are
    fewer.

    Raises:
        PermissionDenied: this file's cache is only for its owner and writers to see.
        NotSupported: it cannot be mapped, or is too long for mincore, where that is needed.
    """
    nr_pages = -(-status.st_size // page_size)
    if kind == "hugetlb":
        # Neither call knows its pages, all of which are in RAM: what it has is what it was given.
        nr_cached = status.st_blocks * BLOCK // page_size
        return (nr_cached, None, None, None, None), (min(nr_cached / nr_pages, 1.0),) * bool(nr_pages), "stat"
    if kind != "stacked":
        try:
            return *by_cachestat(fd, nr_pages, page_size), "cachestat"
        except NotSupported:
            pass
    return *by_mincore(fd, nr_pages, page_size), "mincore"


def refuse_endless(nr_pages: int) -> None:
    """Raise `NotSupported` for a file that is too long to be gone through page by page."""
    if nr_pages > MOST_PAGES:
        raise NotSupported(f"a file of more than {MOST_PAGES:,} pages")


def bounds_of(nr_pages: int) -> list[int]:
    """Return where the parts of a file begin, in pages, and where the last ends.

    >>> bounds_of(3), bounds_of(40)[:4], bounds_of(0)
    ([0, 1, 2, 3], [0, 2, 5, 7], [0])
    """
    nr_cells = min(NR_CELLS, nr_pages)
    return [nr_pages * cell // nr_cells for cell in range(nr_cells)] + [nr_pages] if nr_cells else [0]


def cells_of(nr_pages: int, nr_cached: int, count: Callable[[int, int], int]) -> tuple[float, ...]:
    """Return how much of each part of a file is in the cache; ``count`` is asked about parts where that is needed.

    >>> cells_of(4, 0, min), cells_of(4, 4, min), cells_of(2, 1, lambda low, high: low)
    ((0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0))
    """
    bounds = bounds_of(nr_pages)
    if nr_cached in (0, nr_pages):
        return (float(bool(nr_cached)),) * (len(bounds) - 1)
    return tuple(count(low, high) / (high - low) for low, high in pairwise(bounds))


def by_cachestat(fd: int, nr_pages: int, page_size: int) -> tuple[Counts, tuple[float, ...]]:
    """Return what `count_cached` does, by cachestat."""
    # Of a size of 0 it would look for pages to the end of what a file may be.
    counts = cachestat_counts(fd, 0, max(nr_pages, 1) * page_size)

    def count(low: int, high: int) -> int:
        return min(cachestat_counts(fd, low * page_size, (high - low) * page_size)[0], high - low)

    return counts, cells_of(nr_pages, counts[0], count)


def by_mincore(fd: int, nr_pages: int, page_size: int) -> tuple[Counts, tuple[float, ...]]:
    """Return what `count_cached` does, by mincore: it tells nothing of dirty pages and of evicted ones."""
    if not may_see(fd):
        raise PermissionDenied("mincore", FOWNER, text=OWNER_OR_WRITER)
    refuse_endless(nr_pages)

    def resident(low: int, high: int) -> bytes:
        pages = call_mincore(fd, low * page_size, (high - low) * page_size, page_size)
        return pages.translate(LOWEST_BIT)

    whole = resident(0, nr_pages) if 0 < nr_pages <= NR_MINCORE else b""

    def count(low: int, high: int) -> int:
        if whole:
            return whole.count(1, low, high)
        return sum(resident(at, min(high, at + NR_MINCORE)).count(1) for at in range(low, high, NR_MINCORE))

    bounds = bounds_of(nr_pages)
    parts = [count(low, high) for low, high in pairwise(bounds)]
    cells = tuple(nr / (high - low) for nr, (low, high) in zip(parts, pairwise(bounds), strict=True))
    return (sum(parts), None, None, None, None), cells


LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def name_in_maps(procfs: ProcFS, fd: int) -> tuple[str, int] | None:
    """Return the device and inode that maps shows for an open file; None where it cannot be mapped.

    On btrfs and overlayfs these are others than those of stat(2). The kernel is asked: by a mapping of ours.
    """
    import ctypes

    try:
        address = map_file(fd, 0, procfs.page_size)
    except NotSupported:
        return None
    try:
        start = b"%08x-" % address
        line = next((line for line in procfs.lines("self/maps") if line.startswith(start)), None)
        if line is None:
            return None
        dev, inode = line.split(None, 5)[3:5]
        return dev.decode("ascii"), int(inode)
    finally:
        libc().munmap(ctypes.c_void_p(address), ctypes.c_size_t(procfs.page_size))

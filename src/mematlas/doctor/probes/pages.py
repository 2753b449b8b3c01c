"""Probes for what is known of single pages: pagemap, PAGEMAP_SCAN, marks that a page can have, the files behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from mematlas.doctor.bench import MAP_SHARED_ANON, MISSING, WORKS, Bench, Missing, Reason, has_sysfs
from mematlas.doctor.probes.faults import ACCESSES, WRITES, open_tracking
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.backing import call_cachestat
from mematlas.kernel.cachestat import call_mincore
from mematlas.kernel.madvise import MADV_COLLAPSE, MADV_GUARD_INSTALL, MADV_HUGEPAGE, MADV_PAGEOUT
from mematlas.kernel.pagemap import (
    NR_CATEGORIES,
    PAGE_IS_ACCESSED,
    PAGE_IS_HUGE,
    PAGE_IS_PRESENT,
    PAGE_IS_WRITTEN,
    PM_GUARD_REGION,
    PM_PFRAME,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
)
from mematlas.kernel.swaps import read_swaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.doctor.bench import Probing

UFFDIO_REGISTER = 0xC020AA00  # _IOWR(0xAA, 0x00, struct uffdio_register)
UFFDIO_WRITEPROTECT = 0xC018AA06  # _IOWR(0xAA, 0x06, struct uffdio_writeprotect)
UFFDIO_RWPROTECT = 0xC018AA09  # _IOWR(0xAA, 0x09, struct uffdio_rwprotect)
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_REGISTER_MODE_RWP = 1 << 3
PROTECT = 1
"""UFFDIO_WRITEPROTECT_MODE_WP, UFFDIO_RWPROTECT_MODE_RWP: protect, where 0 takes protection away."""


def pagemap(bench: Bench) -> Reason | None:
    if not bench.entry(bench.page) & PM_PRESENT:
        raise Missing(MISSING, Reason("not-present"))
    return None


def frames(bench: Bench) -> Reason | None:
    if not bench.entry(bench.page) & PM_PFRAME:
        raise PermissionDenied("/proc/self/pagemap")
    return None


def scans(category: int, make: Callable[[Bench], int]) -> Probing:
    """Return a probe for one category of PAGEMAP_SCAN: it is to find a page that ``make`` puts into it."""

    def probe(bench: Bench) -> Reason | None:
        # A kernel may accept a category and never find anything in it; one that it does not know it refuses.
        bench.scan(bench.page, bench.page_size, category)
        page = make(bench)
        if bench.scan(page, bench.page_size, category) != page:
            raise Missing(MISSING, Reason("finds-nothing"))
        return None

    return probe


def not_seen(code: str) -> Missing:
    """Return the outcome for a category of which no page could be made here."""
    return Missing(WORKS, Reason(code))


def present_page(bench: Bench) -> int:
    return bench.page


def file_page(bench: Bench) -> int:
    page = bench.map(bench.page_size, MAP_SHARED_ANON)
    bench.touch(page)
    return page


def zero_page(bench: Bench) -> int:
    import ctypes

    page = bench.map(bench.page_size)
    ctypes.string_at(page, 1)
    return page


def swapped_page(bench: Bench) -> int:
    # One page of our own; its slot comes free with the bench.
    page = bench.map(bench.page_size)
    bench.touch(page)
    if read_swaps(bench.procfs):
        with contextlib.suppress(OSError):
            bench.call("madvise", page, bench.page_size, MADV_PAGEOUT)
    if bench.entry(page) & (PM_PRESENT | PM_SWAP) != PM_SWAP:
        raise not_seen("none-swapped")
    return page


def huge_page(bench: Bench) -> int:
    try:
        address, size = bench.map_huge()
    except FileNotFoundError:
        if not has_sysfs():
            raise
        raise not_seen("no-thp") from None
    for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
        bench.touch(address)
        with contextlib.suppress(OSError):
            bench.call("madvise", address, size, advice)
    if bench.scan(address, size, PAGE_IS_HUGE) != address:
        raise not_seen("none-huge")
    return address


def soft_dirty_page(bench: Bench) -> int:
    # Without the option the write succeeds all the same, and does nothing: only the bit's going and coming shows it.
    page = bench.map(bench.page_size)
    bench.touch(page)
    before = bench.entry(page)
    fd = bench.keep(os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC))
    os.write(fd, b"4")
    cleared = bench.entry(page)
    bench.touch(page)
    after = bench.entry(page)
    if not before & after & ~cleared & PM_SOFT_DIRTY:
        raise Missing(MISSING, Reason("kernel", ("CONFIG_MEM_SOFT_DIRTY",)))
    return page


def guard_page(bench: Bench) -> int:
    page = bench.map(bench.page_size)
    bench.call("madvise", page, bench.page_size, MADV_GUARD_INSTALL)
    return page


def tracked(bench: Bench, features: int, mode: int, protect: int) -> int:
    """Return a page that was written to, and that a userfaultfd with these features protects now."""
    page = bench.map(bench.page_size)
    bench.touch(page)
    fd = open_tracking(bench, features)
    area = (page, bench.page_size)
    fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(struct.pack("4Q", *area, mode, 0)))
    fcntl.ioctl(fd, protect, bytearray(struct.pack("3Q", *area, PROTECT)))
    return page


def tracked_page(bench: Bench) -> int:
    """Return a page that is tracked for writes, and was written to before that."""
    try:
        return tracked(bench, WRITES, UFFDIO_REGISTER_MODE_WP, UFFDIO_WRITEPROTECT)
    except OSError:
        raise not_seen("none-tracked") from None


def written_page(bench: Bench) -> int:
    page = tracked_page(bench)
    if bench.scan(page, bench.page_size, PAGE_IS_WRITTEN) is not None:
        raise Missing(MISSING, Reason("all-written"))
    bench.touch(page)
    return page


def accessed_page(bench: Bench) -> int:
    try:
        page = tracked(bench, ACCESSES, UFFDIO_REGISTER_MODE_RWP, UFFDIO_RWPROTECT)
    except OSError:
        raise not_seen("none-tracked-rw") from None
    if bench.scan(page, bench.page_size, PAGE_IS_ACCESSED) is not None:
        raise Missing(MISSING, Reason("all-accessed"))
    bench.touch(page)
    return page


def scan(bench: Bench) -> Reason | None:
    """Find a present page; say which categories there are that we have no name for."""
    if bench.scan(bench.page, bench.page_size, PAGE_IS_PRESENT) != bench.page:
        raise Missing(MISSING, Reason("finds-nothing"))
    unknown = []
    for bit in range(NR_CATEGORIES, 64):
        # What a kernel does not know it refuses (EINVAL), whatever else is asked.
        with contextlib.suppress(NotSupported):
            bench.scan(bench.page, bench.page_size, 1 << bit)
            unknown.append(bit)
    return Reason("unknown-categories", tuple(unknown)) if unknown else None


def soft_dirty(bench: Bench) -> Reason | None:
    soft_dirty_page(bench)
    return None


def guard(bench: Bench) -> Reason | None:
    guard_page(bench)
    return None


def guard_bit(bench: Bench) -> Reason | None:
    if not bench.entry(guard_page(bench)) & PM_GUARD_REGION:
        raise OSError(errno.ENOTSUP, "guard bit")
    return None


def make_file_page(bench: Bench) -> int:
    """Return a descriptor of a file of one page that is in RAM."""
    fd = bench.keep(os.memfd_create("mematlas", os.MFD_CLOEXEC))
    os.write(fd, bytes(bench.page_size))
    return fd


def cachestat(bench: Bench) -> Reason | None:
    if call_cachestat(make_file_page(bench), 0, bench.page_size)[0] != 1:
        raise Missing(MISSING, Reason("cache-unseen"))
    return None


def mincore(bench: Bench) -> Reason | None:
    if not call_mincore(make_file_page(bench), 0, bench.page_size, bench.page_size)[0] & 1:
        raise Missing(MISSING, Reason("cache-unseen"))
    return None

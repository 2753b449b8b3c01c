"""Probes for page faults: handled by a program (userfaultfd), and counted (perf)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from mematlas.doctor.bench import (
    MISSING,
    NEEDED,
    SYS_PERF_EVENT_OPEN,
    SYS_USERFAULTFD,
    Bench,
    Missing,
    Reason,
    read_number,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.doctor.bench import Probing

UFFDIO_API = 0xC018AA3F  # _IOWR(0xAA, 0x3F, struct uffdio_api)
UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_ASYNC = 1 << 15
# Linux 7.3, "mm/userfaultfd: add RWP fault delivery and expose UFFDIO_REGISTER_MODE_RWP".
UFFD_FEATURE_RWP = 1 << 17
UFFD_FEATURE_RWP_ASYNC = 1 << 18
PERF_TYPE_SOFTWARE = 1
PERF_COUNT_SW_PAGE_FAULTS = 2
PERF_EXCLUDE_KERNEL = 1 << 5
PERF_EXCLUDE_HV = 1 << 6
PERF_FLAG_FD_CLOEXEC = 8


def open_userfaultfd(bench: Bench, flags: int = 0) -> int:
    return bench.keep(bench.system_call(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | flags))


def userfaultfd(bench: Bench) -> Reason | None:
    try:
        open_userfaultfd(bench)
    except PermissionError:
        open_userfaultfd(bench, UFFD_USER_MODE_ONLY)
        return Reason("user-mode")
    return None


def open_tracking(bench: Bench, features: int) -> int:
    """Return a userfaultfd that has agreed on these features; the kernel refuses those that it lacks (EINVAL)."""
    try:
        fd = open_userfaultfd(bench)
    except PermissionError:
        fd = open_userfaultfd(bench, UFFD_USER_MODE_ONLY)
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, features, 0)))
    return fd


WRITES = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC
ACCESSES = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC


def tracks(features: int) -> Probing:
    """Return a probe for features of userfaultfd: what the kernel agrees on, it has."""

    def probe(bench: Bench) -> Reason | None:
        open_tracking(bench, features)
        return None

    return probe


def open_perf(bench: Bench, pid: int, cpu: int) -> int:
    """Return a descriptor that counts page faults of a process, or of all on one CPU."""
    import ctypes

    flags = PERF_EXCLUDE_KERNEL | PERF_EXCLUDE_HV
    # struct perf_event_attr, its first version: type, size, config, period, sample_type, read_format, flags, ...
    attributes = ctypes.create_string_buffer(
        struct.pack("2I5Q2IQ", PERF_TYPE_SOFTWARE, 64, PERF_COUNT_SW_PAGE_FAULTS, 0, 0, 0, flags, 0, 0, 0), 64
    )
    numbers = (ctypes.addressof(attributes), pid, cpu, -1, PERF_FLAG_FD_CLOEXEC)
    try:
        return bench.keep(bench.system_call(SYS_PERF_EVENT_OPEN, *numbers))
    except PermissionError:
        # Above 2, which upstream does not know, Debian's and Ubuntu's kernels ask for more than CAP_PERFMON.
        with contextlib.suppress(OSError):
            if read_number("/proc/sys/kernel/perf_event_paranoid") > 2:
                setting = "perf" if pid >= 0 else "perf-all"
                raise Missing(NEEDED, Reason("type", (setting,)), ("CAP_SYS_ADMIN",)) from None
        raise


def faults(bench: Bench) -> Reason | None:
    page = bench.map(bench.page_size)
    fd = open_perf(bench, 0, -1)
    bench.touch(page)
    if not int.from_bytes(os.read(fd, 8), "little"):
        raise Missing(MISSING, Reason("uncounted"))
    return None


def all_faults(bench: Bench) -> Reason | None:
    open_perf(bench, -1, min(os.sched_getaffinity(0)))
    return None

"""Probes for the machine: words per frame, swap, huge pages, and what can be switched on."""

from __future__ import annotations

import errno
import os

from mematlas.doctor.bench import (
    MISSING,
    NEEDED,
    Bench,
    Missing,
    Reason,
    chosen,
    in_sysfs,
    names_in,
    read_number,
    read_text,
)
from mematlas.errors import NotSupported
from mematlas.kernel.hugepage import THP
from mematlas.kernel.kpage import KPF_KNOWN
from mematlas.kernel.madvise import MADV_COLLAPSE, MADV_HUGEPAGE
from mematlas.kernel.mounts import HUGE_PAGES
from mematlas.kernel.pagemap import ENTRY_SIZE, PAGE_IS_HUGE
from mematlas.kernel.swaps import read_swaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.doctor.bench import Probing


def reads_word(path: str) -> Probing:
    """Return a probe that reads the first word of a file of words."""

    def probe(bench: Bench) -> Reason | None:
        fd = bench.open(path)
        if len(os.pread(fd, ENTRY_SIZE, 0)) != ENTRY_SIZE:
            raise Missing(MISSING, Reason("empty"))
        return None

    return probe


NR_SAMPLES = 64
"""Places of RAM whose frames are looked at for flags that we have no name for, a page of words each."""


def flags(bench: Bench) -> Reason | None:
    """Read flags of frames from all over RAM; say which there are that we have no name for."""
    fd = bench.open("/proc/kpageflags")
    # What is not RAM makes room between its parts: the last frame is behind that many.
    step = max(os.sysconf("SC_PHYS_PAGES") // NR_SAMPLES, 1) * ENTRY_SIZE
    seen = 0
    for number in range(2 * NR_SAMPLES):
        words = os.pread(fd, bench.page_size, number * step)
        if number == 0 and len(words) < ENTRY_SIZE:
            raise Missing(MISSING, Reason("empty"))
        for word in set(memoryview(words[: len(words) // ENTRY_SIZE * ENTRY_SIZE]).cast("Q")):
            seen |= word
    unknown = tuple(bit for bit in range(64) if seen & ~KPF_KNOWN & 1 << bit)
    return Reason("unknown-flags", unknown) if unknown else None


def idle(bench: Bench) -> Reason | None:
    # Opened only: reading it looks for accesses, and that clears accessed bits.
    bench.open("/sys/kernel/mm/page_idle/bitmap")
    return None


def swap(bench: Bench) -> Reason | None:
    areas = read_swaps(bench.procfs)
    if not areas:
        raise Missing(NEEDED, Reason("type", ("swap",)))
    return Reason("swap-areas", (len(areas), sum(area.size for area in areas)))


def zram(bench: Bench) -> Reason | None:
    if in_sysfs("/sys/class/zram-control") or in_sysfs("/sys/block/zram0"):
        return None
    if has_module("zram"):
        raise Missing(NEEDED, Reason("type", ("zram",)))
    raise NotSupported("zram")


def has_module(name: str) -> bool:
    """Whether a module of the running kernel lies ready to be loaded."""
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep", "rb") as file:
            return any(f"/{name}.ko".encode() in line.partition(b":")[0] for line in file)
    except OSError:
        return False


def zswap(bench: Bench) -> Reason | None:
    if read_text("/sys/module/zswap/parameters/enabled") != "Y":
        raise Missing(NEEDED, Reason("type", ("zswap",)))
    return None


def hugetlb(bench: Bench) -> Reason | None:
    counts = {name: read_number(f"{HUGE_PAGES}/{name}/nr_hugepages") for name in names_in(HUGE_PAGES)}
    pools = [(count, name.removeprefix("hugepages-")) for name, count in counts.items() if count]
    if not pools:
        raise Missing(NEEDED, Reason("type", ("hugetlb",)))
    return Reason("pools", pools)


def thp(bench: Bench) -> Reason | None:
    mode = chosen(read_text(f"{THP}/enabled"))
    if mode == "never":
        raise Missing(NEEDED, Reason("type", ("thp",)))
    address, size = bench.map_huge()
    bench.call("madvise", address, size, MADV_HUGEPAGE)
    bench.touch(address)
    try:
        got_one = bench.scan(address, size, PAGE_IS_HUGE) == address
    except (NotSupported, OSError):
        got_one = True
    return Reason("thp", (mode,)) if got_one else Reason("thp-scattered", (mode, size))


def collapse(bench: Bench) -> Reason | None:
    address, size = bench.map_huge()
    bench.touch(address)
    try:
        bench.call("madvise", address, size, MADV_COLLAPSE)
    except OSError as error:
        # EINVAL is a kernel that does not know it; these are one that tried.
        if error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EBUSY):
            raise
        return Reason("scattered", (size,))
    return None


def ksm(bench: Bench) -> Reason | None:
    if read_number("/sys/kernel/mm/ksm/run") != 1:
        raise Missing(NEEDED, Reason("type", ("ksm",)))
    return None


def numa(bench: Bench) -> Reason | None:
    bench.process.read("numa_maps")
    names = names_in("/sys/devices/system/node")
    nodes = [name for name in names if name[:4] == "node" and name[4:].isdigit()]
    return Reason("nodes", (len(nodes),))

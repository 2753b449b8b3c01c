"""What this kernel and our rights offer, found by doing it: never by version numbers, and leaving nothing behind.

Where a probe fails, the error tells what is missing: EPERM and EACCES a right, everything else the kernel.
"""

from __future__ import annotations

import errno
import os

from mematlas.doctor import probes
from mematlas.doctor.bench import LACKS, NEEDED, WORKS, Bench, Missing
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.madvise import MADV_COLD, MADV_WILLNEED
from mematlas.kernel.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SOFT_DIRTY,
    PAGE_IS_SWAPPED,
    PAGE_IS_WPALLOWED,
    PAGE_IS_WRITTEN,
)
from mematlas.kernel.procfs import WHOLE_PROC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@record
class Feature:
    """One interface, and whether it is there for us."""

    interface: str
    status: str
    """``works``, ``needs`` a right or a setting, the kernel ``lacks`` it, or ``unknown``: it could not be tried."""
    gives: str
    """What it is good for."""
    detail: str | None
    """The right or the line to type; the kernel option or version; or what more is known of it when it works."""


@record
class Probe:
    """How to find out about one interface."""

    interface: str
    gives: str
    needs: str
    """What is missing when the answer is EPERM or EACCES."""
    lacks: str
    """What is missing for any other error."""
    run: Callable[[Bench], str | None]
    """Does it; returns a detail, raises what went wrong."""


def find_features() -> Iterator[Feature]:
    """Yield every interface that mematlas knows of, with its state here."""
    with Bench() as bench:
        for probe in PROBES:
            status, detail = run(probe, bench)
            yield Feature(probe.interface, status, probe.gives, detail)


def run(probe: Probe, bench: Bench) -> tuple[str, str | None]:
    """Return the state of one interface, and what is to be said about it."""
    try:
        return WORKS, probe.run(bench)
    except Missing as missing:
        return missing.status, missing.detail
    except PermissionDenied as error:
        return NEEDED, probe.needs or error.text or None
    except Error as error:
        return hidden_by_mount(error, bench) or (LACKS, probe.lacks)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return NEEDED, probe.needs or None
        return hidden_by_mount(error, bench) or (LACKS, probe.lacks)


def hidden_by_mount(error: Error | OSError, bench: Bench) -> tuple[str, str] | None:
    """Return the state of what may be there, in a /proc that shows processes alone; None for anything else."""
    path = error.what if isinstance(error, NotSupported) else str(getattr(error, "filename", ""))
    directory, _, name = path.rpartition("/")
    is_hidden = directory == bench.procfs.root and not os.path.lexists(path) and bench.procfs.is_subset
    return (NEEDED, WHOLE_PROC) if is_hidden and name else None


PAGE_MONITOR = "CONFIG_PROC_PAGE_MONITOR"
SCAN = f"Linux 6.7 (commit 52526ca7fdb9), {PAGE_MONITOR}"
TRACE = "CAP_SYS_PTRACE"
SEARCH = "CAP_DAC_READ_SEARCH"
ADMIN = "CAP_SYS_ADMIN"
NICE = "CAP_SYS_NICE"

PROBES = (
    Probe("/proc/PID/maps", "the VMAs", TRACE, "CONFIG_PROC_FS", probes.reads("maps")),
    Probe("/proc/PID/smaps", "RSS, PSS, USS, swap of each VMA", TRACE, PAGE_MONITOR, probes.reads("smaps")),
    Probe("/proc/PID/smaps_rollup", "their sums", TRACE, f"Linux 4.14, {PAGE_MONITOR}", probes.reads("smaps_rollup")),
    Probe("/proc/PID/status VmPTE", "bytes of page tables", "", "CONFIG_MMU", probes.tables),
    Probe("/proc/PID/numa_maps", "pages by NUMA node", TRACE, "CONFIG_NUMA", probes.numa),
    Probe("/proc/PID/pagemap", "the state of every page", SEARCH, PAGE_MONITOR, probes.pagemap),
    Probe("frame numbers", "physical addresses", ADMIN, PAGE_MONITOR, probes.frames),
    Probe(
        "PAGEMAP_SCAN",
        "finding pages without reading holes",
        "",
        SCAN,
        probes.scans(PAGE_IS_PRESENT, probes.present_page),
    ),
    Probe(
        "PAGEMAP_SCAN WPALLOWED",
        "pages tracked for writes",
        "",
        SCAN,
        probes.scans(PAGE_IS_WPALLOWED, probes.tracked_page),
    ),
    Probe(
        "PAGEMAP_SCAN WRITTEN", "tracked pages written to", "", SCAN, probes.scans(PAGE_IS_WRITTEN, probes.written_page)
    ),
    Probe("PAGEMAP_SCAN FILE", "pages of files", "", SCAN, probes.scans(PAGE_IS_FILE, probes.file_page)),
    Probe("PAGEMAP_SCAN PRESENT", "present pages", "", SCAN, probes.scans(PAGE_IS_PRESENT, probes.present_page)),
    Probe("PAGEMAP_SCAN SWAPPED", "pages in swap", "", SCAN, probes.scans(PAGE_IS_SWAPPED, probes.swapped_page)),
    Probe("PAGEMAP_SCAN PFNZERO", "zero pages", "", SCAN, probes.scans(PAGE_IS_PFNZERO, probes.zero_page)),
    Probe("PAGEMAP_SCAN HUGE", "huge entries", "", SCAN, probes.scans(PAGE_IS_HUGE, probes.huge_page)),
    Probe(
        "PAGEMAP_SCAN SOFT_DIRTY",
        "soft-dirty pages",
        "",
        "Linux 6.8 (commit e6a9a2cbc13b)",
        probes.scans(PAGE_IS_SOFT_DIRTY, probes.soft_dirty_page),
    ),
    Probe(
        "PAGEMAP_SCAN GUARD",
        "guard regions",
        "",
        "Linux 6.16 (commit a516403787e0)",
        probes.scans(PAGE_IS_GUARD, probes.guard_page),
    ),
    Probe("PROCMAP_QUERY", "one VMA without reading all", "", "Linux 6.11", probes.procmap_query),
    Probe("soft-dirty bits", "pages written since a moment", "", "CONFIG_MEM_SOFT_DIRTY", probes.soft_dirty),
    Probe("guard regions", "madvise(2), MADV_GUARD_INSTALL", "", "Linux 6.13", probes.guard),
    Probe("guard bit in pagemap", "guard regions told from swap", "", "Linux 6.15", probes.guard_bit),
    Probe("names of anonymous VMAs", "[anon:NAME] in maps", "", "Linux 5.17, CONFIG_ANON_VMA_NAME", probes.names),
    Probe(
        "/proc/PID/map_files",
        "shared memory that was swapped out",
        "CAP_CHECKPOINT_RESTORE",
        "Linux 4.3, or CONFIG_CHECKPOINT_RESTORE",
        probes.map_files,
    ),
    Probe("cachestat", "what of a file is in RAM, in swap", "", "Linux 6.5 (commit cf264e1329fb)", probes.cachestat),
    Probe("mincore", "what of a file is in RAM", "", "CONFIG_MMU", probes.mincore),
    Probe("PID 1", "the memory of the first process", TRACE, "CONFIG_PROC_FS", probes.first),
    Probe("other users' processes", "the memory of any process", TRACE, "CONFIG_PROC_FS", probes.others),
    Probe("ptrace of one's own", "/proc/PID/mem, debuggers", TRACE, "CONFIG_PROC_FS", probes.ptrace),
    Probe(
        "process_madvise COLD",
        "pageout and cold of any process",
        NICE,
        "Linux 5.10, CONFIG_ADVISE_SYSCALLS",
        probes.advises(MADV_COLD),
    ),
    Probe(
        "process_madvise WILLNEED",
        "willneed of any process",
        NICE,
        "Linux 5.15 (commit d5fffc5aff26)",
        probes.advises(MADV_WILLNEED),
    ),
    Probe("MADV_COLLAPSE", "collapse to huge pages", "", "Linux 6.1, CONFIG_TRANSPARENT_HUGEPAGE", probes.collapse),
    Probe("kpagecount", "how often a frame is mapped", SEARCH, PAGE_MONITOR, probes.reads_word("/proc/kpagecount")),
    Probe("kpageflags", "what a frame is used for", SEARCH, PAGE_MONITOR, probes.reads_word("/proc/kpageflags")),
    Probe(
        "kpagecgroup",
        "who pays for a frame",
        SEARCH,
        f"{PAGE_MONITOR}, CONFIG_MEMCG",
        probes.reads_word("/proc/kpagecgroup"),
    ),
    Probe("idle page bitmap", "frames not used since a moment", SEARCH, "CONFIG_IDLE_PAGE_TRACKING", probes.idle),
    Probe("swap areas", "room for pages that are paged out", "", "CONFIG_SWAP", probes.swap),
    Probe("zram", "swap in compressed RAM", "", "CONFIG_ZRAM", probes.zram),
    Probe("zswap", "a compressed cache before swap", "", "CONFIG_ZSWAP", probes.zswap),
    Probe("hugetlb pools", "huge pages set aside", "", "CONFIG_HUGETLBFS", probes.hugetlb),
    Probe("transparent huge pages", "anonymous memory by huge entries", "", "CONFIG_TRANSPARENT_HUGEPAGE", probes.thp),
    Probe("KSM", "equal pages merged", "", "CONFIG_KSM", probes.ksm),
    Probe(
        "userfaultfd",
        "page faults handled by a program",
        "sudo sysctl vm.unprivileged_userfaultfd=1",
        "CONFIG_USERFAULTFD",
        probes.userfaultfd,
    ),
    Probe(
        "userfaultfd WP_ASYNC",
        "writes tracked without stopping",
        "sudo sysctl vm.unprivileged_userfaultfd=1",
        "Linux 6.7, CONFIG_PTE_MARKER_UFFD_WP",
        probes.write_tracking,
    ),
    Probe("perf page faults", "faults of one's own", f"{probes.PARANOID}2", "CONFIG_PERF_EVENTS", probes.faults),
    Probe("perf page faults, all", "faults of every process", "CAP_PERFMON", "CONFIG_PERF_EVENTS", probes.all_faults),
    Probe(
        "BPF",
        "raw page-table entries",
        "CAP_BPF and CAP_PERFMON",
        "CONFIG_BPF_SYSCALL, Linux 5.10, and no lockdown=confidentiality",
        probes.bpf,
    ),
    Probe(
        "BTF", "the kernel's own types, for BPF", "", "CONFIG_DEBUG_INFO_BTF", probes.opens("/sys/kernel/btf/vmlinux")
    ),
    Probe("/proc/kcore", "kernel memory, without BPF", "CAP_SYS_RAWIO", "CONFIG_PROC_KCORE", probes.kcore),
    Probe(
        "mematlas module",
        "page tables without BPF and kcore",
        "CAP_SYS_ADMIN",
        "CONFIG_MODULES",
        probes.module,
    ),
    Probe("no lockdown", "kernel memory may be read", "", "CONFIG_SECURITYFS", probes.lockdown),
)

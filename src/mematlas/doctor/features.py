"""What this kernel and our rights offer, found by doing it: never by version numbers, and leaving nothing behind.

Where a probe fails, the error says what is missing: EPERM and EACCES a right, everything else the kernel.
"""

from __future__ import annotations

import errno
import os

from mematlas.doctor.bench import MISSING, NEEDED, UNTRIED, WORKS, Bench, Missing, Reason, has_sysfs
from mematlas.doctor.probes import faults, machine, memory, pages, processes
from mematlas.errors import Error, FormatError, NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.madvise import MADV_COLD, MADV_WILLNEED
from mematlas.kernel.pagemap import (
    PAGE_IS_ACCESSED,
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
from mematlas.kernel.rights import TABLES_NEED, effective_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mematlas.doctor.bench import Probing


@record
class Feature:
    """One interface, and whether it is there for us."""

    code: str
    """Its name: a slug that stays."""
    status: str
    """``works``, ``needs`` a right or a setting, is ``missing`` from the kernel, or ``unknown``: it cannot be tried."""
    needs: tuple[str, ...] = ()
    """The capabilities that would do, all together."""
    reason: Reason | None = None
    """What else would do, why it is missing, or what more is known of it."""


@record
class Probe:
    """How to find out about one interface."""

    code: str
    needs: Sequence[str]
    """The capabilities that are missing when the answer is EPERM or EACCES."""
    kernel: Sequence[str]
    """What the kernel lacks for any other error: an option, a version with the commit."""
    run: Probing
    """Does it; returns what more is known, raises what went wrong."""
    setting: str = ""
    """What would do instead of a capability, by its code."""


def find_features() -> Iterator[Feature]:
    """Yield every interface that mematlas knows of, with its state here."""
    with Bench() as bench:
        for probe in PROBES:
            yield run(probe, bench)


def run(probe: Probe, bench: Bench) -> Feature:
    """Return the state of one interface."""
    try:
        return Feature(code=probe.code, status=WORKS, needs=(), reason=probe.run(bench))
    except Missing as missing:
        return feature_of(probe, missing)
    except PermissionDenied as error:
        return feature_of(probe, refusal(probe, sorted(error.needs)))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return feature_of(probe, refusal(probe))
        return feature_of(probe, hidden_by_mount(str(error.filename), bench) or lacking(probe))
    except FormatError as error:
        return feature_of(probe, Missing(UNTRIED, Reason("not-understood", (str(error),))))
    except NotSupported as error:
        return feature_of(probe, hidden_by_mount(error.what, bench) or lacking(probe))
    except Error:
        return feature_of(probe, lacking(probe))


def feature_of(probe: Probe, missing: Missing) -> Feature:
    """Return the state of an interface of which something is missing; where we hold all rights, it is not those."""
    reason = missing.reason
    if missing.needs and effective_capabilities().issuperset(missing.needs):
        reason = Reason("held")
    return Feature(code=probe.code, status=missing.status, needs=tuple(missing.needs), reason=reason)


def refusal(probe: Probe, needs: Sequence[str] = ()) -> Missing:
    """Return what is missing where the kernel refused, and said that ``needs`` would do."""
    if probe.setting:
        return Missing(NEEDED, Reason("type", (probe.setting,)))
    needs = probe.needs or needs
    return Missing(NEEDED, None if needs else Reason("root"), needs)


def lacking(probe: Probe) -> Missing:
    """Return what is missing where the kernel has no such interface."""
    return Missing(MISSING, Reason("kernel", probe.kernel))


def hidden_by_mount(path: str, bench: Bench) -> Missing | None:
    """Return what is missing where /proc shows processes alone, or /sys nothing; None for any other file."""
    if path.startswith("/sys/") and not has_sysfs():
        return Missing(UNTRIED, Reason("type", ("sysfs",)))
    directory, _, name = path.rpartition("/")
    is_of_proc = directory == bench.procfs.root and name != ""
    if is_of_proc and bench.procfs.is_subset and not os.path.lexists(path):
        return Missing(NEEDED, Reason("whole-proc"))
    return None


PAGE_MONITOR = "CONFIG_PROC_PAGE_MONITOR"
SCAN = ("Linux 6.7 (commit 52526ca7fdb9)", PAGE_MONITOR)
SCAN_SOFT_DIRTY = ("Linux 6.8 (commit e6a9a2cbc13b)",)
SCAN_GUARD = ("Linux 6.16 (commit a516403787e0)",)
TRACE = ("CAP_SYS_PTRACE",)
SEARCH = ("CAP_DAC_READ_SEARCH",)
ADMIN = ("CAP_SYS_ADMIN",)
NICE = ("CAP_SYS_NICE",)
USERFAULTFD = ("CONFIG_USERFAULTFD",)
WP_ASYNC = ("Linux 6.7", "CONFIG_PTE_MARKER_UFFD_WP")
RWP = ("Linux 7.3", "CONFIG_USERFAULTFD_RWP")
PERF = ("CONFIG_PERF_EVENTS",)
ANY_PROC = ("CONFIG_PROC_FS",)

PROBES = (
    Probe("maps", TRACE, ANY_PROC, processes.reads("maps")),
    Probe("smaps", TRACE, (PAGE_MONITOR,), processes.reads("smaps")),
    Probe("smaps-rollup", TRACE, ("Linux 4.14", PAGE_MONITOR), processes.reads("smaps_rollup")),
    Probe("status-vmpte", (), ("CONFIG_MMU",), processes.tables),
    Probe("numa-maps", TRACE, ("CONFIG_NUMA",), machine.numa),
    Probe("pagemap", SEARCH, (PAGE_MONITOR,), pages.pagemap),
    Probe("frame-numbers", ADMIN, (PAGE_MONITOR,), pages.frames),
    Probe("scan", (), SCAN, pages.scan),
    Probe("scan-wpallowed", (), SCAN, pages.scans(PAGE_IS_WPALLOWED, pages.tracked_page)),
    Probe("scan-written", (), SCAN, pages.scans(PAGE_IS_WRITTEN, pages.written_page)),
    Probe("scan-file", (), SCAN, pages.scans(PAGE_IS_FILE, pages.file_page)),
    Probe("scan-present", (), SCAN, pages.scans(PAGE_IS_PRESENT, pages.present_page)),
    Probe("scan-swapped", (), SCAN, pages.scans(PAGE_IS_SWAPPED, pages.swapped_page)),
    Probe("scan-pfnzero", (), SCAN, pages.scans(PAGE_IS_PFNZERO, pages.zero_page)),
    Probe("scan-huge", (), SCAN, pages.scans(PAGE_IS_HUGE, pages.huge_page)),
    Probe("scan-soft-dirty", (), SCAN_SOFT_DIRTY, pages.scans(PAGE_IS_SOFT_DIRTY, pages.soft_dirty_page)),
    Probe("scan-guard", (), SCAN_GUARD, pages.scans(PAGE_IS_GUARD, pages.guard_page)),
    Probe("scan-accessed", (), RWP, pages.scans(PAGE_IS_ACCESSED, pages.accessed_page)),
    Probe("procmap-query", (), ("Linux 6.11",), processes.procmap_query),
    Probe("soft-dirty", (), ("CONFIG_MEM_SOFT_DIRTY",), pages.soft_dirty),
    Probe("guard", (), ("Linux 6.13",), pages.guard),
    Probe("guard-bit", (), ("Linux 6.15",), pages.guard_bit),
    Probe("anon-names", (), ("Linux 5.17", "CONFIG_ANON_VMA_NAME"), processes.names),
    Probe(
        "map-files",
        ("CAP_CHECKPOINT_RESTORE",),
        ("Linux 4.3, or CONFIG_CHECKPOINT_RESTORE",),
        processes.map_files,
    ),
    Probe("cachestat", (), ("Linux 6.5 (commit cf264e1329fb)",), pages.cachestat),
    Probe("mincore", (), ("CONFIG_MMU",), pages.mincore),
    Probe("first-process", TRACE, ANY_PROC, processes.first),
    Probe("other-users", TRACE, ANY_PROC, processes.others),
    Probe("ptrace", TRACE, ANY_PROC, processes.ptrace),
    Probe("madvise-cold", NICE, ("Linux 5.10", "CONFIG_ADVISE_SYSCALLS"), processes.advises(MADV_COLD)),
    Probe("madvise-willneed", NICE, ("Linux 5.15 (commit d5fffc5aff26)",), processes.advises(MADV_WILLNEED)),
    Probe("madvise-collapse", (), ("Linux 6.1", "CONFIG_TRANSPARENT_HUGEPAGE"), machine.collapse),
    Probe("kpagecount", SEARCH, (PAGE_MONITOR,), machine.reads_word("/proc/kpagecount")),
    Probe("kpageflags", SEARCH, (PAGE_MONITOR,), machine.flags),
    Probe("kpagecgroup", SEARCH, (PAGE_MONITOR, "CONFIG_MEMCG"), machine.reads_word("/proc/kpagecgroup")),
    Probe("idle-pages", SEARCH, ("CONFIG_IDLE_PAGE_TRACKING",), machine.idle),
    Probe("swap", (), ("CONFIG_SWAP",), machine.swap),
    Probe("zram", (), ("CONFIG_ZRAM",), machine.zram),
    Probe("zswap", (), ("CONFIG_ZSWAP",), machine.zswap),
    Probe("hugetlb", (), ("CONFIG_HUGETLBFS",), machine.hugetlb),
    Probe("thp", (), ("CONFIG_TRANSPARENT_HUGEPAGE",), machine.thp),
    Probe("ksm", (), ("CONFIG_KSM",), machine.ksm),
    Probe("userfaultfd", (), USERFAULTFD, faults.userfaultfd, "userfaultfd"),
    Probe("write-tracking", (), WP_ASYNC, faults.tracks(faults.WRITES), "userfaultfd"),
    Probe("access-faults", (), RWP, faults.tracks(faults.UFFD_FEATURE_RWP), "userfaultfd"),
    Probe("access-tracking", (), RWP, faults.tracks(faults.ACCESSES), "userfaultfd"),
    Probe("perf-faults", (), PERF, faults.faults, "perf"),
    Probe("perf-faults-all", ("CAP_PERFMON",), PERF, faults.all_faults),
    Probe(
        "bpf",
        TABLES_NEED,
        ("CONFIG_BPF_SYSCALL", "Linux 5.10", "and no lockdown=confidentiality"),
        memory.bpf,
    ),
    Probe("btf", (), ("CONFIG_DEBUG_INFO_BTF",), memory.opens("/sys/kernel/btf/vmlinux")),
    Probe("kcore", ("CAP_SYS_RAWIO",), ("CONFIG_PROC_KCORE",), memory.kcore),
    Probe("module", ADMIN, ("CONFIG_MODULES",), memory.module),
    Probe("lockdown", (), ("CONFIG_SECURITYFS",), memory.lockdown),
)

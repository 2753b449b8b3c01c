"""The probes behind `mematlas.doctor.features`: each uses one interface, really.

A probe uses memory and a child of its own, looks at other processes without touching them, and leaves nothing
behind. It returns a detail worth telling, or None; it raises what the kernel answered, or `Missing`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct

from mematlas.doctor.bench import (
    LACKS,
    MAP_SHARED_ANON,
    NEEDED,
    SYS_PERF_EVENT_OPEN,
    SYS_USERFAULTFD,
    UNKNOWN,
    WORKS,
    Bench,
    Missing,
    chosen,
    read_number,
    read_text,
)
from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.backing import call_cachestat, call_mincore
from mematlas.kernel.hugepage import THP
from mematlas.kernel.libc import PR_SET_PDEATHSIG, PR_SET_VMA, PR_SET_VMA_ANON_NAME, libc
from mematlas.kernel.lockdown import LOCKDOWN_PATH, read_lockdown
from mematlas.kernel.madvise import (
    MADV_COLLAPSE,
    MADV_GUARD_INSTALL,
    MADV_HUGEPAGE,
    MADV_PAGEOUT,
    SYS_PROCESS_MADVISE,
)
from mematlas.kernel.memory.bpfcall import (
    BPF_F_SLEEPABLE,
    BPF_PROG_LOAD,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SYSCALL,
    SYS_BPF,
)
from mematlas.kernel.pagemap import (
    ENTRY_SIZE,
    PAGE_IS_HUGE,
    PAGE_IS_WRITTEN,
    PM_GUARD_REGION,
    PM_PFRAME,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
)
from mematlas.kernel.procfs import NEEDS, ProcFS
from mematlas.kernel.status import read_stat, read_status, status_bytes
from mematlas.kernel.swaps import read_swaps
from mematlas.kernel.vmfile import PROCMAP_QUERY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCMAP_QUERY_ARGUMENT = struct.Struct("9Q4I2Q")

UFFDIO_API = 0xC018AA3F  # _IOWR(0xAA, 0x3F, struct uffdio_api)
UFFDIO_REGISTER = 0xC020AA00  # _IOWR(0xAA, 0x00, struct uffdio_register)
UFFDIO_WRITEPROTECT = 0xC018AA06  # _IOWR(0xAA, 0x06, struct uffdio_writeprotect)
UFFDIO_REGISTER_MODE_WP = 2
UFFDIO_WRITEPROTECT_MODE_WP = 1
UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_ASYNC = 1 << 15

# r1 = r10; r1 -= 8; r2 = 8; r3 = 0; call probe_read_kernel; r0 = 0; exit. It is loaded, never run.
BPF_PROGRAM = b"".join(
    struct.pack("BBhi", code, registers, 0, value)
    for code, registers, value in (
        (0xBF, 0xA1, 0),
        (0x07, 0x01, -8),
        (0xB7, 0x02, 8),
        (0xB7, 0x03, 0),
        (0x85, 0x00, 113),
        (0xB7, 0x00, 0),
        (0x95, 0x00, 0),
    )
)

PERF_TYPE_SOFTWARE = 1
PERF_COUNT_SW_PAGE_FAULTS = 2
PERF_EXCLUDE_KERNEL = 1 << 5
PERF_EXCLUDE_HV = 1 << 6
PERF_FLAG_FD_CLOEXEC = 8

DEBUGFS = "/sys/kernel/debug"
PARANOID = "sudo sysctl kernel.perf_event_paranoid="
MAKE_SWAP = "fallocate -l 1G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile"


# One process


def reads(name: str) -> Callable[[Bench], str | None]:
    """Return a probe that reads a file of ours."""

    def probe(bench: Bench) -> str | None:
        if not bench.process.read(name):
            raise Missing(LACKS, "the file is empty")
        return None

    return probe


def pagemap(bench: Bench) -> str | None:
    if not bench.entry(bench.page) >> 63:
        raise Missing(LACKS, "the entry of a page just written to is not present")
    return None


def frames(bench: Bench) -> str | None:
    if not bench.entry(bench.page) & PM_PFRAME:
        raise PermissionDenied("/proc/self/pagemap")
    return None


def scans(category: int, make: Callable[[Bench], int]) -> Callable[[Bench], str | None]:
    """Return a probe for one category of PAGEMAP_SCAN: it is to find a page that ``make`` puts into it."""

    def probe(bench: Bench) -> str | None:
        # A kernel may accept a category and never find anything in it; one that it does not know it refuses.
        bench.scan(bench.page, bench.page_size, category)
        page = make(bench)
        if bench.scan(page, bench.page_size, category) != page:
            raise Missing(LACKS, "accepted, but it does not find such a page")
        return None

    return probe


def not_seen(why: str) -> Missing:
    """Return the outcome for a category of which no page could be made here."""
    return Missing(WORKS, f"accepted, not seen: {why}")


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
        raise not_seen("no page of ours goes to swap here")
    return page


def huge_page(bench: Bench) -> int:
    try:
        address, size = bench.map_huge()
    except FileNotFoundError:
        raise not_seen("this kernel has no transparent huge pages") from None
    for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
        bench.touch(address)
        with contextlib.suppress(OSError):
            bench.call("madvise", address, size, advice)
    if bench.scan(address, size, PAGE_IS_HUGE) != address:
        raise not_seen("no huge page of ours could be made just now")
    return address


def soft_dirty_page(bench: Bench) -> int:
    # Without the option the write succeeds all the same, and does nothing: only the bit's going and coming tells.
    page = bench.map(bench.page_size)
    bench.touch(page)
    before = bench.entry(page)
    fd = bench.keep(os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC))
    os.write(fd, b"4")
    cleared = bench.entry(page)
    bench.touch(page)
    after = bench.entry(page)
    if not before & after & ~cleared & PM_SOFT_DIRTY:
        raise Missing(LACKS, "CONFIG_MEM_SOFT_DIRTY")
    return page


def guard_page(bench: Bench) -> int:
    page = bench.map(bench.page_size)
    bench.call("madvise", page, bench.page_size, MADV_GUARD_INSTALL)
    return page


def tracked_page(bench: Bench) -> int:
    """Return a page that is tracked for writes, and was written to before that."""
    page = bench.map(bench.page_size)
    bench.touch(page)
    try:
        fd = open_write_tracking(bench)
        area = (page, bench.page_size)
        fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(struct.pack("4Q", *area, UFFDIO_REGISTER_MODE_WP, 0)))
        fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, bytearray(struct.pack("3Q", *area, UFFDIO_WRITEPROTECT_MODE_WP)))
    except OSError:
        raise not_seen("it takes userfaultfd WP_ASYNC") from None
    return page


def written_page(bench: Bench) -> int:
    page = tracked_page(bench)
    if bench.scan(page, bench.page_size, PAGE_IS_WRITTEN) is not None:
        raise Missing(LACKS, "accepted, but it takes every page for a written one")
    bench.touch(page)
    return page


def procmap_query(bench: Bench) -> str | None:
    argument = bytearray(PROCMAP_QUERY_ARGUMENT.pack(PROCMAP_QUERY_ARGUMENT.size, 0, bench.page, *(0,) * 12))
    fd = bench.keep(os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC))
    fcntl.ioctl(fd, PROCMAP_QUERY, argument)
    start, end = PROCMAP_QUERY_ARGUMENT.unpack(argument)[3:5]
    if not start <= bench.page < end:
        raise Missing(LACKS, "it answers with another VMA")
    return None


def soft_dirty(bench: Bench) -> str | None:
    soft_dirty_page(bench)
    return None


def map_files(bench: Bench) -> str | None:
    start = bench.map(bench.page_size, MAP_SHARED_ANON)
    bench.keep(bench.process.open_fd(f"map_files/{start:x}-{start + bench.page_size:x}"))
    return None


def make_file_page(bench: Bench) -> int:
    """Return a descriptor of a file of one page that is in RAM."""
    fd = bench.keep(os.memfd_create("mematlas", os.MFD_CLOEXEC))
    os.write(fd, bytes(bench.page_size))
    return fd


def cachestat(bench: Bench) -> str | None:
    if call_cachestat(make_file_page(bench), 0, bench.page_size)[0] != 1:
        raise Missing(LACKS, "it does not see a page that is in RAM")
    return None


def mincore(bench: Bench) -> str | None:
    if not call_mincore(make_file_page(bench), 0, bench.page_size, bench.page_size)[0] & 1:
        raise Missing(LACKS, "it does not see a page that is in RAM")
    return None


def guard(bench: Bench) -> str | None:
    guard_page(bench)
    return None


def guard_bit(bench: Bench) -> str | None:
    if not bench.entry(guard_page(bench)) & PM_GUARD_REGION:
        raise OSError(errno.ENOTSUP, "guard bit")
    return None


def names(bench: Bench) -> str | None:
    import ctypes

    name = ctypes.create_string_buffer(b"mematlas")
    page = bench.map(bench.page_size)
    bench.call("prctl", PR_SET_VMA, PR_SET_VMA_ANON_NAME, page, bench.page_size, ctypes.addressof(name))
    return None


def tables(bench: Bench) -> str | None:
    if status_bytes(read_status(bench.process), "VmPTE") is None:
        raise NotSupported("VmPTE")
    return None


# Other processes


def opens_all(pid: int) -> str | None:
    """Open what tells of a process's memory; raise what is refused."""
    refused = []
    for name in ("maps", "smaps", "pagemap"):
        try:
            os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except PermissionError:
            refused.append(name)
    if not refused:
        return None
    opened = [name for name in ("maps", "smaps", "pagemap") if name not in refused]
    but = f", though not {' and '.join(opened)}" if opened else ""
    raise Missing(NEEDED, f"{' and '.join(NEEDS[refused[-1]])} for {', '.join(refused)}{but}")


def first(bench: Bench) -> str | None:
    return opens_all(1)


def others(bench: Bench) -> str | None:
    user = os.geteuid()
    for pid, owner in sorted(other_processes(bench.procfs), key=lambda found: found[1] == user):
        try:
            opens_all(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        return f"tried on {pid}" if owner != user else f"tried on {pid}, for want of another user's"
    return "there is no other process here"


def other_processes(procfs: ProcFS) -> Iterator[tuple[int, int]]:
    """Yield each process but PID 1 and ourselves, kernel threads left out, with the user it belongs to."""
    for pid in procfs.pids():
        if pid in (1, os.getpid()):
            continue
        try:
            with procfs.process(pid) as process:
                owner = os.stat("stat", dir_fd=process.fd).st_uid
                stat = read_stat(process)
        except (Error, OSError):
            continue
        if not stat.is_kernel_thread and not stat.is_zombie:
            yield pid, owner


def advises(advice: int) -> Callable[[Bench], str | None]:
    """Return a probe that advises on a page of a child of ours: what works there needs no more for others."""

    def probe(bench: Bench) -> str | None:
        import ctypes

        pid = start_child()
        try:
            pidfd = bench.keep(os.pidfd_open(pid))
            vector = (ctypes.c_size_t * 2)(bench.page, bench.page_size)
            bench.call("syscall", SYS_PROCESS_MADVISE, pidfd, ctypes.addressof(vector), 1, advice, 0)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return None

    return probe


def start_child() -> int:
    """Start a process that has our memory and waits to be killed."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            while os.getppid() == parent:
                signal.pause()
        finally:
            # Whatever happens, such as Ctrl-C: nothing of the parent's work may go on here.
            os._exit(0)
    return pid


def ptrace(bench: Bench) -> str | None:
    """Have a child read our memory: we are of its user, and no child of it, as any process of one's own."""
    code = read_memory_from_child(bench)
    try:
        scope: int | None = read_number("/proc/sys/kernel/yama/ptrace_scope")
    except FileNotFoundError:
        scope = None
    if code == 0:
        return "no Yama in this kernel" if scope is None else f"kernel.yama.ptrace_scope={scope}"
    if scope and code in (errno.EPERM, errno.EACCES):
        # Yama lets 1 parents, 2 those with the right, 3 nobody until the next boot.
        if scope == 3:
            raise Missing(LACKS, "kernel.yama.ptrace_scope=3, until the machine is booted without it")
        raise Missing(NEEDED, "CAP_SYS_PTRACE, or: sudo sysctl kernel.yama.ptrace_scope=0")
    raise OSError(code, os.strerror(code))


def read_memory_from_child(bench: Bench) -> int:
    """Return the error that a child gets when it reads our memory by /proc/PID/mem; 0 when it gets none."""
    path = f"/proc/{os.getpid()}/mem"
    pid = os.fork()
    if pid == 0:
        code = errno.EIO
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            code = 0 if os.pread(fd, 1, bench.page) == b"\1" else errno.EIO
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# The machine


def reads_word(path: str) -> Callable[[Bench], str | None]:
    """Return a probe that reads the first word of a file of words."""

    def probe(bench: Bench) -> str | None:
        fd = bench.keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if len(os.pread(fd, ENTRY_SIZE, 0)) != ENTRY_SIZE:
            raise Missing(LACKS, "the file is empty")
        return None

    return probe


def idle(bench: Bench) -> str | None:
    # Opened only: reading it looks for accesses, and that clears accessed bits.
    bench.keep(os.open("/sys/kernel/mm/page_idle/bitmap", os.O_RDONLY | os.O_CLOEXEC))
    return None


def swap(bench: Bench) -> str | None:
    areas = read_swaps(bench.procfs)
    if not areas:
        raise Missing(NEEDED, f"sudo sh -c '{MAKE_SWAP}'")
    return f"{len(areas)} in use, {sum(area.size for area in areas) >> 20} MiB"


def zram(bench: Bench) -> str | None:
    if os.path.exists("/sys/class/zram-control") or os.path.exists("/sys/block/zram0"):
        return None
    if has_module("zram"):
        raise Missing(NEEDED, "sudo modprobe zram")
    raise NotSupported("zram")


def has_module(name: str) -> bool:
    """Whether a module of the running kernel lies ready to be loaded."""
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep", "rb") as file:
            return any(f"/{name}.ko".encode() in line.partition(b":")[0] for line in file)
    except OSError:
        return False


def zswap(bench: Bench) -> str | None:
    path = "/sys/module/zswap/parameters/enabled"
    if read_text(path) != "Y":
        raise Missing(NEEDED, f"echo Y | sudo tee {path}")
    return None


def hugetlb(bench: Bench) -> str | None:
    pools = "/sys/kernel/mm/hugepages"
    counts = {name: read_number(f"{pools}/{name}/nr_hugepages") for name in sorted(os.listdir(pools))}
    if not any(counts.values()):
        raise Missing(NEEDED, "sudo sysctl vm.nr_hugepages=16")
    return ", ".join(f"{count} of {name[10:]}" for name, count in counts.items() if count)


def thp(bench: Bench) -> str | None:
    mode = chosen(read_text(f"{THP}/enabled"))
    if mode == "never":
        raise Missing(NEEDED, f"echo madvise | sudo tee {THP}/enabled")
    address, size = bench.map_huge()
    bench.call("madvise", address, size, MADV_HUGEPAGE)
    bench.touch(address)
    try:
        got_one = bench.scan(address, size, PAGE_IS_HUGE) == address
    except (NotSupported, OSError):
        return mode
    return mode if got_one else f"{mode}; just now no {size >> 20} MiB of RAM lie together"


def collapse(bench: Bench) -> str | None:
    address, size = bench.map_huge()
    bench.touch(address)
    try:
        bench.call("madvise", address, size, MADV_COLLAPSE)
    except OSError as error:
        # EINVAL is a kernel that does not know it; these are one that tried.
        if error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EBUSY):
            raise
        return f"just now no {size >> 20} MiB of RAM lie together"
    return None


def ksm(bench: Bench) -> str | None:
    path = "/sys/kernel/mm/ksm/run"
    if read_number(path) != 1:
        raise Missing(NEEDED, f"echo 1 | sudo tee {path}")
    return None


def numa(bench: Bench) -> str | None:
    bench.process.read("numa_maps")
    nodes = [name for name in os.listdir("/sys/devices/system/node") if name[:4] == "node" and name[4:].isdigit()]
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}"


def open_userfaultfd(bench: Bench, flags: int = 0) -> int:
    return bench.keep(bench.system_call(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | flags))


def userfaultfd(bench: Bench) -> str | None:
    try:
        open_userfaultfd(bench)
    except PermissionError:
        open_userfaultfd(bench, UFFD_USER_MODE_ONLY)
        return "faults in user mode only; for all: sudo sysctl vm.unprivileged_userfaultfd=1"
    return None


def open_write_tracking(bench: Bench) -> int:
    try:
        fd = open_userfaultfd(bench)
    except PermissionError:
        fd = open_userfaultfd(bench, UFFD_USER_MODE_ONLY)
    wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, wanted, 0)))
    return fd


def write_tracking(bench: Bench) -> str | None:
    open_write_tracking(bench)
    return None


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
                enough = 2 if pid >= 0 else 0
                raise Missing(NEEDED, f"CAP_SYS_ADMIN, or: {PARANOID}{enough}") from None
        raise


def faults(bench: Bench) -> str | None:
    page = bench.map(bench.page_size)
    fd = open_perf(bench, 0, -1)
    bench.touch(page)
    if not int.from_bytes(os.read(fd, 8), "little"):
        raise Missing(LACKS, "it does not count a fault that happened")
    return None


def all_faults(bench: Bench) -> str | None:
    open_perf(bench, -1, min(os.sched_getaffinity(0)))
    return None


def bpf(bench: Bench) -> str | None:
    try:
        load_program(bench, BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before v5.14 (commit 79a7f8bdb159) there are no programs of that type; these take their place.
        load_program(bench, BPF_PROG_TYPE_RAW_TRACEPOINT, 0)
    return None


def load_program(bench: Bench, kind: int, flags: int) -> None:
    """Have the kernel check a program that reads kernel memory, and let go of it."""
    import ctypes

    code = ctypes.create_string_buffer(BPF_PROGRAM, len(BPF_PROGRAM))
    licence = ctypes.create_string_buffer(b"GPL")
    # union bpf_attr for BPF_PROG_LOAD: type, count, program, licence, log level, size, buffer, version, flags.
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "2I2Q2IQ2I",
            *(kind, len(BPF_PROGRAM) // 8, ctypes.addressof(code), ctypes.addressof(licence)),
            *(0, 0, 0, 0, flags),
        ),
        48,
    )
    bench.keep(bench.system_call(SYS_BPF, BPF_PROG_LOAD, ctypes.addressof(attributes), 48))


def opens(path: str) -> Callable[[Bench], str | None]:
    """Return a probe that opens a file and reads a little of it."""

    def probe(bench: Bench) -> str | None:
        fd = bench.keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        os.read(fd, 16)
        return None

    return probe


def kcore(bench: Bench) -> str | None:
    try:
        return opens("/proc/kcore")(bench)
    except PermissionError:
        # Under lockdown no right helps (fs/proc/kcore.c, open_kcore).
        if read_lockdown() == "confidentiality":
            raise Missing(LACKS, "a kernel that is not locked down to confidentiality") from None
        raise


def module(bench: Bench) -> str | None:
    if not os.path.exists("/sys/module/mematlas"):
        if not os.path.exists("/proc/modules"):
            raise NotSupported("/proc/modules")
        mode = read_lockdown()
        if mode not in (None, "none"):
            raise Missing(LACKS, f"lockdown={mode}: an unsigned module is refused")
        raise Missing(NEEDED, "sudo insmod mematlas.ko, from native/kmod of the source")
    if os.path.isdir(DEBUGFS) and not os.path.ismount(DEBUGFS):
        raise Missing(NEEDED, f"sudo mount -t debugfs debugfs {DEBUGFS}")
    from mematlas.kernel.memory.kmod import ModuleReader

    try:
        ModuleReader().close()
    except NotSupported as error:
        raise Missing(LACKS, error.needs or str(error)) from None
    return None


def lockdown(bench: Bench) -> str | None:
    try:
        opens(LOCKDOWN_PATH)(bench)
    except FileNotFoundError:
        if os.path.isdir("/sys/kernel/security") and not os.listdir("/sys/kernel/security"):
            raise Missing(UNKNOWN, "sudo mount -t securityfs securityfs /sys/kernel/security") from None
        return "no lockdown in this kernel"
    mode = read_lockdown()
    if mode == "confidentiality":
        raise Missing(LACKS, "a kernel that is not locked down to confidentiality")
    return mode

"""Probes for what reads the memory of the kernel itself: BPF with its types, kcore, our module, and lockdown."""

from __future__ import annotations

import errno
import os
import struct

from mematlas.doctor.bench import MISSING, NEEDED, UNTRIED, Bench, Missing, Reason, in_sysfs
from mematlas.errors import NotSupported
from mematlas.kernel.lockdown import LOCKDOWN_PATH, read_lockdown
from mematlas.kernel.memory.bpfcall import (
    BPF_F_SLEEPABLE,
    BPF_PROG_LOAD,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SYSCALL,
    SYS_BPF,
)
from mematlas.kernel.memory.x86 import is_x86_64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.doctor.bench import Probing

DEBUGFS = "/sys/kernel/debug"
SECURITYFS = "/sys/kernel/security"
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


def bpf(bench: Bench) -> Reason | None:
    try:
        load_program(bench, BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before v5.14 (commit 79a7f8bdb159) there are no programs of that type; these take their place.
        load_program(bench, BPF_PROG_TYPE_RAW_TRACEPOINT, 0)
    return use_of_memory()


def use_of_memory() -> Reason | None:
    """Return what is to be said of reading kernel memory where no page tables are read for all that."""
    return None if is_x86_64() else Reason("no-tables", (os.uname().machine,))


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


def opens(path: str) -> Probing:
    """Return a probe that opens a file and reads a little of it."""

    def probe(bench: Bench) -> Reason | None:
        fd = bench.open(path)
        os.read(fd, 16)
        return None

    return probe


def kcore(bench: Bench) -> Reason | None:
    try:
        opens("/proc/kcore")(bench)
    except PermissionError:
        # Under lockdown no right helps (fs/proc/kcore.c, open_kcore).
        if read_lockdown() == "confidentiality":
            raise Missing(MISSING, Reason("locked-down", ("confidentiality",))) from None
        raise
    return use_of_memory()


def module(bench: Bench) -> Reason | None:
    if not is_x86_64():
        raise Missing(MISSING, Reason("kernel", ("x86-64",)))
    if not in_sysfs("/sys/module/mematlas"):
        if not os.path.exists("/proc/modules"):
            raise NotSupported("/proc/modules")
        mode = read_lockdown()
        if mode not in (None, "none"):
            raise Missing(MISSING, Reason("unsigned", (mode,)))
        raise Missing(NEEDED, Reason("type", ("module",)))
    if os.path.isdir(DEBUGFS) and not os.path.ismount(DEBUGFS):
        raise Missing(NEEDED, Reason("type", ("debugfs",)))
    from mematlas.kernel.memory.kmod import ModuleReader

    try:
        ModuleReader().close()
    except NotSupported as error:
        raise Missing(MISSING, Reason("kernel", (error.needs or str(error),))) from None
    return None


def lockdown(bench: Bench) -> Reason | None:
    try:
        opens(LOCKDOWN_PATH)(bench)
    except FileNotFoundError:
        if in_sysfs(SECURITYFS) and not os.listdir(SECURITYFS):
            raise Missing(UNTRIED, Reason("type", ("securityfs",))) from None
        return Reason("no-lockdown")
    mode = read_lockdown()
    if mode == "confidentiality":
        raise Missing(MISSING, Reason("locked-down", (mode,)))
    return Reason("lockdown", (mode,)) if mode else None

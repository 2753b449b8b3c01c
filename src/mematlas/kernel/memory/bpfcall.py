"""bpf(2) itself: maps that are shared with a program, programs loaded, and what a refusal means.

Sources: include/uapi/linux/bpf.h (union bpf_attr); kernel/bpf/syscall.c (who may), net/bpf/test_run.c (how a program
is run); kernel/bpf/btf.c (the types of a program's functions).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

from mematlas.errors import Error, NotSupported, PermissionDenied
from mematlas.kernel.libc import libc
from mematlas.kernel.memory.x86 import U64
from mematlas.kernel.rights import TABLES_NEED, effective_capabilities, tables_refused

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}

BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_PROG_TEST_RUN, BPF_BTF_LOAD = 0, 5, 10, 18
BPF_MAP_TYPE_ARRAY = 2
BPF_F_MMAPABLE = 1 << 10
BPF_F_SLEEPABLE = 1 << 4
BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SYSCALL = 17, 31
HELPER_GET_CURRENT_TASK, HELPER_PROBE_READ_KERNEL, HELPER_LOOP = 35, 113, 181
LICENCE = b"Dual MIT/GPL"
RUN_SIZE = 80
"""Bytes of the attributes of a run, of which the program alone is set: test_run refuses what it has no use for."""


class Bpf:
    """The system call on this machine.

    Raises:
        NotSupported: a machine of which we do not know its number.
    """

    def __init__(self) -> None:
        self._libc = libc()
        machine = os.uname().machine
        if machine not in SYS_BPF:
            raise NotSupported(f"bpf(2) on {machine}")
        self._number = SYS_BPF[machine]

    def call(self, command: int, attr: bytes) -> int:
        """Return what a command returns, a descriptor mostly."""
        try:
            return self._call(command, attr)
        except PermissionError:
            # Before v5.11 (the series that ends with Linux commit 3ac1f01b43b6) maps and programs are locked memory.
            before = raise_locked_memory()
            try:
                return self._call(command, attr)
            finally:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, before)

    def _call(self, command: int, attr: bytes) -> int:
        buffer = ctypes.create_string_buffer(attr, len(attr))
        result: int = self._libc.syscall(self._number, command, buffer, len(attr))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def run(self, attr: ctypes.Array[ctypes.c_char]) -> None:
        """Run a program once, in our own context; ``attr`` is of `run_attr`."""
        if self._libc.syscall(self._number, BPF_PROG_TEST_RUN, attr, RUN_SIZE) < 0:
            code = ctypes.get_errno()
            raise NotSupported(f"running a BPF program ({os.strerror(code)})", "Linux 5.10")

    def create_map(self, size: int) -> int:
        """Return a map of one element of so many bytes, that can be mapped into our memory."""
        attr = struct.pack("=5I", BPF_MAP_TYPE_ARRAY, 4, size, 1, BPF_F_MMAPABLE) + bytes(60)
        try:
            return self.call(BPF_MAP_CREATE, attr)
        except OSError as error:
            raise refusal(error) from None

    def load(
        self,
        kind: int,
        flags: int,
        program: bytes,
        functions: bytes = b"",
        types_fd: int = 0,
        log: ctypes.Array[ctypes.c_char] | None = None,
    ) -> int:
        """Return a program, loaded; ``functions`` says where its functions begin, and of what types they are."""
        parts = (program, LICENCE + b"\0", functions)
        buffers = [ctypes.create_string_buffer(part, len(part)) for part in parts]
        code, licence, infos = (ctypes.addressof(buffer) for buffer in buffers)
        log_fields = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
        nr_instructions = len(program) // 8
        attr = struct.pack("=IIQQIIQII16xII", kind, nr_instructions, code, licence, *log_fields, 0, flags, 0, 0)
        if functions:
            nr_functions = len(functions) // FUNCTION_INFO.size
            attr += struct.pack("=IIQI", types_fd, FUNCTION_INFO.size, infos, nr_functions)
        return self.call(BPF_PROG_LOAD, attr.ljust(128, b"\0"))

    def verifier_log(self, kind: int, flags: int, program: bytes, functions: bytes = b"", types_fd: int = 0) -> str:
        """Return what the verifier says of a program that it refuses."""
        log = ctypes.create_string_buffer(1 << 18)
        try:
            os.close(self.load(kind, flags, program, functions, types_fd, log))
        except OSError:
            pass  # as before
        return log.value.decode(errors="replace")

    def load_types(self, data: bytes) -> int:
        """Return the types of a program's functions, loaded."""
        buffer = ctypes.create_string_buffer(data, len(data))
        attr = struct.pack("=QQIII4x", ctypes.addressof(buffer), 0, len(data), 0, 0)
        return self.call(BPF_BTF_LOAD, attr)


def raise_locked_memory() -> tuple[int, int]:
    """Have this process lock as much memory as it may; return its limits before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        # Going beyond the hard limit takes CAP_SYS_RESOURCE.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return soft, hard


LOCKED_MEMORY = "before Linux 5.11 CAP_SYS_RESOURCE too, or leave to lock more memory: ulimit -l"
FUNCTION_INFO = struct.Struct("=II")
"""struct bpf_func_info: the first instruction of a function, and its type."""


def run_attr(program_fd: int) -> ctypes.Array[ctypes.c_char]:
    """Return the attributes of a run of a program."""
    attr = struct.pack("=I", program_fd).ljust(RUN_SIZE, b"\0")
    return ctypes.create_string_buffer(attr, RUN_SIZE)


def lowest_kernel_address(task: int) -> int:
    """Return where the kernel half of the address space begins, by where the kernel keeps a task_struct.

    With 47 bits for each half (4 levels) that is in the highest of them, with 56 (5 levels) below it
    (Documentation/arch/x86/x86_64/mm.rst).

    >>> hex(lowest_kernel_address(0xFFFF888012345680)), hex(lowest_kernel_address(0xFF11000012345680))
    ('0xffff800000000000', '0xff00000000000000')
    """
    return -(1 << (47 if task >> 47 == 0x1FFFF else 56)) & U64


def refusal(error: OSError, log: str = "") -> Error:
    """Return our error for a refused bpf(2), as exact as is known."""
    if error.errno in (errno.EPERM, errno.EACCES) and not log.strip():
        held = effective_capabilities()
        if "CAP_SYS_ADMIN" in held:
            return PermissionDenied("bpf(2)", text="no seccomp filter on it, and the initial user namespace")
        if held.issuperset(TABLES_NEED) and "CAP_SYS_RESOURCE" not in held:
            return PermissionDenied("bpf(2)", "CAP_SYS_RESOURCE", text=LOCKED_MEMORY)
        return tables_refused("bpf(2)")
    if error.errno == errno.ENOSYS:
        return NotSupported("bpf(2)", "CONFIG_BPF_SYSCALL")
    # kernel/trace/bpf_trace.c withholds the helper when security_locked_down(LOCKDOWN_BPF_READ_KERNEL) says so.
    if f"#{HELPER_PROBE_READ_KERNEL}" in log:
        return NotSupported("reading kernel memory with BPF", "a kernel that is not locked down to confidentiality")
    last = log.strip().splitlines()[-1:] or [os.strerror(error.errno or 0)]
    return NotSupported(f"loading a BPF program that reads memory ({last[0]})", "Linux 5.10")

"""bpf(2): a small program that copies pages of kernel memory into a map we share with it.

The program is assembled here, instruction by instruction: no compiler, no library, no attach point. It runs only
when we call it, in our own context (BPF_PROG_TEST_RUN), and does nothing but call bpf_probe_read_kernel for the
addresses that lie in the map. Sources: include/uapi/linux/bpf.h, Documentation/bpf/standardization/
instruction-set.rst; kernel/bpf/syscall.c (who may), net/bpf/test_run.c (how it is run).
"""

from __future__ import annotations

import mmap
import os
import struct

from mematlas.arrays import np
from mematlas.errors import NotSupported
from mematlas.kernel.memory.bpfcall import (
    BPF_F_SLEEPABLE,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SYSCALL,
    HELPER_GET_CURRENT_TASK,
    HELPER_PROBE_READ_KERNEL,
    Bpf,
    lowest_kernel_address,
    refusal,
    run_attr,
)
from mematlas.kernel.memory.btf import FITTING
from mematlas.kernel.memory.x86 import PAGE, U64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Bools, Words
    from mematlas.kernel.memory.btf import StructLayout

PSEUDO_MAP_VALUE = 2
RAW_TRACEPOINT = "raw_tracepoint"

NR_SLOTS = 192
"""Pages per call: some 40 µs of copying. What is done for each call takes as long as copying these; with more of them
we are kept longer on one CPU, and they stay in its cache no longer.
"""

# The value of the map's single element, in bytes; the data begins at a page of its own.
AT_COUNT, AT_SIZE, AT_TASK, AT_ADDRESSES = 0, 8, 16, 64
AT_ERRORS = AT_ADDRESSES + 8 * NR_SLOTS
AT_DATA = PAGE
VALUE_SIZE = AT_DATA + NR_SLOTS * PAGE


def instruction(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one instruction, 8 bytes: instruction-set.rst, "Instruction encoding"."""
    return struct.pack("=BBhi", opcode, src << 4 | dst, offset, value)


def assemble(map_fd: int, nr_slots: int = NR_SLOTS) -> bytes:
    """Return the program. r6 holds the count, r7 the size of each copy, r8 the map's value.

    In C::

        value->task = bpf_get_current_task();
        if (value->size > 4096) return 0;
        if (value->count <= i) return 0;                                     for each slot i, unrolled:
        value->errors[i] = bpf_probe_read_kernel(value->data[i], value->size, value->addresses[i]);
    """
    load, store, jump_le, jump_gt = 0x79, 0x7B, 0xB5, 0x25
    move, move_value, add_value, call, leave = 0xBF, 0xB7, 0x07, 0x85, 0x95
    head = [
        instruction(0x18, 8, PSEUDO_MAP_VALUE, 0, map_fd) + instruction(0),
        instruction(call, value=HELPER_GET_CURRENT_TASK),
        instruction(store, 8, 0, AT_TASK),
        instruction(load, 6, 8, AT_COUNT),
        instruction(load, 7, 8, AT_SIZE),
    ]
    nr_left = 7 * nr_slots
    head.append(instruction(jump_gt, 7, 0, nr_left, PAGE))
    body = []
    for slot in range(nr_slots):
        nr_left -= 7
        body += [
            instruction(jump_le, 6, 0, nr_left + 6, slot),
            instruction(move, 1, 8),
            instruction(add_value, 1, 0, 0, AT_DATA + slot * PAGE),
            instruction(move, 2, 7),
            instruction(load, 3, 8, AT_ADDRESSES + 8 * slot),
            instruction(call, value=HELPER_PROBE_READ_KERNEL),
            instruction(store, 8, 0, AT_ERRORS + 8 * slot),
        ]
    return b"".join(head + body) + instruction(move_value, 0) + instruction(leave)


class BpfReader:
    """Copies kernel memory, from up to `NR_SLOTS` addresses a call. Not for two threads at once: they share one map.

    Raises:
        PermissionDenied: without CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), or behind a seccomp filter.
        NotSupported: a kernel without bpf(2), before 5.10, or locked down to confidentiality.
    """

    name = "bpf"
    batch_size = NR_SLOTS

    def __init__(self) -> None:
        self._bpf = Bpf()
        self._map_fd = self._program_fd = -1
        try:
            self._map_fd = self._bpf.create_map(VALUE_SIZE)
            self._program_fd, self.program_type = self._load()
            # The mapping outlives the descriptor's closing, and goes with its last view.
            shared = mmap.mmap(self._map_fd, VALUE_SIZE)
            self._head = np.frombuffer(shared, np.uint64, 3)
            self._addresses = np.frombuffer(shared, np.uint64, NR_SLOTS, AT_ADDRESSES)
            self._errors = np.frombuffer(shared, np.int64, NR_SLOTS, AT_ERRORS)
            data = np.frombuffer(shared, np.uint64, NR_SLOTS * PAGE // 8, AT_DATA)
            self._data = data.reshape(NR_SLOTS, PAGE // 8)
            self._run_attr = run_attr(self._program_fd)
            self._lowest = np.uint64(lowest_kernel_address(self.current_task()))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<BpfReader {self.program_type}>"

    def close(self) -> None:
        """Let go of the program and the map."""
        for fd in (self._program_fd, self._map_fd):
            if fd >= 0:
                os.close(fd)
        self._program_fd = self._map_fd = -1

    @property
    def is_one_section(self) -> bool:
        """Whether what one call reads is read inside of one RCU read-side critical section."""
        return self.program_type == RAW_TRACEPOINT

    def read_batch(self, addresses: Words, size: int) -> tuple[Words, Bools]:
        """Return what lies at up to `batch_size` kernel addresses, ``size`` bytes at each, and which could be read.

        Both are views of the shared map: they hold until the next call.
        """
        nr = len(addresses)
        # What lies below fails by itself, as 0 does. But with 4 levels of tables on a processor that could have 5 the
        # kernel takes more addresses for possible than there are, and warns in its log when one of them is read (seen
        # on 6.1: copy_from_kernel_nofault_allowed, ex_handler_uaccess).
        self._addresses[:nr] = np.where(addresses < self._lowest, np.uint64(0), addresses)
        self._run(nr, size)
        return self._data[:nr, : size // 8], self._errors[:nr] == 0

    def current_task(self) -> int:
        """Return the address of the calling thread's task_struct."""
        self._run(0, 8)
        return int(self._head[2])

    def mm_address(self, pid: int, mem_fd: int, layout: StructLayout) -> int:
        """Return the address of the mm_struct behind our own descriptor of /proc/PID/mem.

        task->files->fdt->fd[mem_fd]->private_data: whoever could open the file has passed the kernel's own check,
        and the open file keeps the mm_struct where it is (fs/proc/base.c, mem_open).
        """
        return self.private_data(mem_fd, layout)

    def forget(self, pgd: int) -> None:
        """Nothing is held."""

    def private_data(self, fd: int, layout: StructLayout) -> int:
        """Return what our own open file ``fd`` is made of: for a pipe, the address of its pipe_inode_info."""
        at = self.current_task()
        for step in (layout["task_struct.files"], layout["files_struct.fdt"], layout["fdtable.fd"]):
            at = self._pointer(at + step)
        return self._pointer(self._pointer(at + 8 * fd) + layout["file.private_data"])

    def direct_map_bases(self) -> list[int]:
        """Return the direct-map bases this source knows of: none, they are searched for."""
        return []

    def _pointer(self, address: int) -> int:
        data, good = self.read_batch(np.array([address & U64], np.uint64), 8)
        if not good[0]:
            # Neither the address nor what was read is said: they are the kernel's.
            raise NotSupported("finding an open file with BPF", FITTING)
        return int(data[0, 0])

    def _run(self, count: int, size: int) -> None:
        self._head[0] = count
        self._head[1] = size
        self._bpf.run(self._run_attr)

    def _load(self) -> tuple[int, str]:
        program = assemble(self._map_fd)
        # A raw tracepoint that is attached nowhere can be run since 1b4d60ec162f (v5.10), inside of one RCU read-side
        # critical section (net/bpf/test_run.c, __bpf_prog_test_run_raw_tp). The type that is made for being called
        # (79a7f8bdb159, v5.14, "bpf: Introduce bpf_sys_bpf() helper and program type.") may sleep, and is in none.
        refused: OSError | None = None
        try:
            return self._bpf.load(BPF_PROG_TYPE_RAW_TRACEPOINT, 0, program), RAW_TRACEPOINT
        except OSError as error:
            refused = error
        try:
            return self._bpf.load(BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE, program), "syscall"
        except OSError:
            log = self._bpf.verifier_log(BPF_PROG_TYPE_RAW_TRACEPOINT, 0, program)
            raise refusal(refused, log) from None

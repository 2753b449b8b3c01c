"""A program of ours that shares a map of one element with us, loaded. It runs when we call it, in our own context."""

from __future__ import annotations

import mmap
import os

from mematlas.kernel.memory.bpfcall import (
    BPF_F_SLEEPABLE,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SYSCALL,
    Bpf,
    refusal,
    run_attr,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.kernel.memory.bpfcode import Code


SLEEPABLE = BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE
ONE_SECTION = BPF_PROG_TYPE_RAW_TRACEPOINT, 0
"""What runs inside of one RCU read-side critical section, and is not preempted (net/bpf/test_run.c)."""


class SharedProgram:
    """A program, given what writes it for the descriptor of its map. Not for two threads at once: they share the map.

    Raises:
        PermissionDenied: without CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), or behind a seccomp filter.
        NotSupported: the kernel lacks what the program needs, or is locked down to confidentiality.
    """

    kinds: tuple[tuple[int, int], ...] = (SLEEPABLE,)
    """What it may be: its type and flags. The first that the kernel takes is taken."""

    def __init__(self, size: int, write: Callable[[int], Code]) -> None:
        self._bpf = Bpf()
        map_fd = self._bpf.create_map(size)
        self._fds = [map_fd]
        self.is_one_section = False
        """Whether what one call reads is read inside of one RCU read-side critical section."""
        try:
            self._shared = mmap.mmap(map_fd, size)
        except BaseException:
            os.close(map_fd)
            raise
        try:
            self._run_attr = run_attr(self._load(write(map_fd)))
        except BaseException:
            self.close()
            raise

    def _load(self, code: Code) -> int:
        types, functions = code.types()
        program = code.assembled()
        try:
            self._fds.append(types_fd := self._bpf.load_types(types))
        except OSError as error:
            raise refusal(error) from None
        refused: list[OSError] = []
        for kind in self.kinds:
            try:
                self._fds.append(program_fd := self._bpf.load(*kind, program, functions, types_fd))
            except OSError as error:
                refused.append(error)
                continue
            self.is_one_section = kind == ONE_SECTION
            return program_fd
        log = self._bpf.verifier_log(*self.kinds[0], program, functions, types_fd)
        raise refusal(refused[0], log)

    def close(self) -> None:
        """Let go of the program and the map, which lives for as long as it is mapped, too."""
        self._shared.close()
        while self._fds:
            os.close(self._fds.pop())

    def run(self) -> None:
        """Call it once."""
        self._bpf.run(self._run_attr)

"""kcmp(2): whether two processes have something in common, such as one address space.

Numbers: include/uapi/linux/kcmp.h; CONFIG_KCMP.
"""

from __future__ import annotations

import errno
import os

from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.libc import libc

SYS_KCMP = {"x86_64": 312, "i686": 349, "ppc64le": 354, "s390x": 343}
SYS_KCMP_GENERIC = 272  # arm64, riscv: include/uapi/asm-generic/unistd.h
KCMP_VM = 1


def has_same_memory(pid: int, other: int) -> bool:
    """Whether two processes, or threads, run in one address space.

    >>> has_same_memory(os.getpid(), os.getpid())
    True

    Raises:
        PermissionDenied: one of them is not ours to look at: needs CAP_SYS_PTRACE.
        ProcessGone: one of them has ended.
        NotSupported: a kernel without CONFIG_KCMP.
    """
    import ctypes

    number = SYS_KCMP.get(os.uname().machine, SYS_KCMP_GENERIC)
    result: int = libc().syscall(*map(ctypes.c_long, (number, pid, other, KCMP_VM, 0, 0)))
    if result >= 0:
        return result == 0
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.EACCES):
        raise PermissionDenied("kcmp", "CAP_SYS_PTRACE")
    if code == errno.ESRCH:
        raise ProcessGone(other)
    raise NotSupported("kcmp", "CONFIG_KCMP")

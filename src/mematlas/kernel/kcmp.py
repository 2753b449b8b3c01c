"""kcmp(2): whether two processes have something in common, such as one address space.

Numbers: include/uapi/linux/kcmp.h; CONFIG_KCMP. Each architecture has its own for the call.
"""

from __future__ import annotations

import errno
import os

from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

SYS_KCMP = {
    "x86_64": 312,
    "i686": 349,
    "armv7l": 378,
    "ppc64le": 354,
    "s390x": 343,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 272),  # include/uapi/asm-generic/unistd.h
}
KCMP_VM = 1
SAME, LESS, GREATER = range(3)
"""What the call answers: address spaces are in some order, which stays as it is."""


def compare_memory(process: ProcessDir, other: int) -> int:
    """Return whether a process and another, or a thread, run in one address space: `SAME`; if not, which comes first.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:
    ...     compare_memory(process, os.getpid()) == SAME
    True

    Raises:
        PermissionDenied: one of them is not ours to look at: needs CAP_SYS_PTRACE.
        ProcessGone: one of them has ended.
        NotSupported: a kernel without CONFIG_KCMP.
    """
    import ctypes

    number = SYS_KCMP.get(os.uname().machine)
    if number is None:
        raise NotSupported("kcmp", "a machine whose number of the call is known")
    result: int = libc().syscall(*map(ctypes.c_long, (number, process.tid, other, KCMP_VM, 0, 0)))
    if result >= 0:
        return result
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.EACCES):
        raise PermissionDenied("kcmp", "CAP_SYS_PTRACE")
    if code == errno.ESRCH:
        raise ProcessGone(other)
    raise NotSupported("kcmp", "CONFIG_KCMP")

"""move_pages(2), asked for nothing but where pages are: the way that needs no frame numbers.

Format: move_pages(2); mm/migrate.c, do_pages_stat(). With no nodes given nothing moves. Of another process the kernel
asks for PTRACE_MODE_READ_REALCREDS (since Linux 4.13). It takes the target's mmap lock for 16 pages at a time, 3 us.
"""

from __future__ import annotations

import ctypes
import errno
import os

from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.libc import libc
from mematlas.kernel.status import counts_as_we_do

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.kernel.procfs import ProcessDir

SYS_MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239, "ppc64le": 301, "ppc64": 301, "s390x": 310}
"""The system call's number. Source: the tables of arch/*/kernel/syscalls, include/uapi/asm-generic/unistd.h."""
NEEDS = "CONFIG_NUMA and CONFIG_MIGRATION"


def read_page_nodes(process: ProcessDir, addresses: Sequence[int]) -> list[int]:
    """Return the node of the page at each address; a negative error number where there is none.

    That is -ENOENT where nothing is present, -EFAULT for the zero page and outside every VMA.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> with ProcFS().process(os.getpid()) as process:   # doctest: +SKIP
    ...     read_page_nodes(process, [id(process), 0])
    [0, -14]

    Raises:
        NotSupported: a kernel without CONFIG_NUMA, or a capture.
        PermissionDenied: another user's process needs CAP_SYS_PTRACE.
        ProcessGone: the process has ended.
    """
    if not process.procfs.live:
        raise NotSupported("move_pages(2)", "a running process, not a capture")
    number = SYS_MOVE_PAGES.get(os.uname().machine)
    if number is None or not counts_as_we_do(process.procfs):
        raise NotSupported("move_pages(2)", "a process of our own PID namespace, and a known architecture")
    nr_pages = len(addresses)
    pages = (ctypes.c_void_p * nr_pages)(*addresses)
    status = (ctypes.c_int * nr_pages)()
    pid = process.tid
    numbers = ctypes.c_long(number), ctypes.c_int(pid), ctypes.c_ulong(nr_pages)
    failed = libc().syscall(*numbers, pages, None, status, 0)
    code = ctypes.get_errno() if failed else 0
    if code not in (0, errno.ESRCH, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS):
        raise Error(f"move_pages(2) of {pid}: {os.strerror(code)}")
    # The call takes a number. If the process that we hold still lives, the number was not given away meanwhile.
    process.read("stat")
    if code in (errno.ESRCH, errno.EINVAL):
        raise ProcessGone(pid, "has no memory (it is ending)")
    if code == errno.ENOSYS:
        raise NotSupported("move_pages(2)", NEEDS)
    if code:
        raise PermissionDenied(f"move_pages(2) of {pid}", "CAP_SYS_PTRACE")
    return list(status)

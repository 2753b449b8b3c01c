"""/proc/vmallocinfo: what the kernel has in its vmalloc space, and which function asked for it, root's.

Format: Documentation/filesystems/proc.rst; mm/vmalloc.c, vmalloc_info_show(). Of an area of devices, or of pages that
are another's (vmap), no page is its own: the pages that ``vmalloc`` areas have are VmallocUsed of /proc/meminfo.
"""

from __future__ import annotations

from mematlas.errors import FormatError
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.procfs import ProcFS

OF_STACKS = frozenset(
    ("alloc_thread_stack_node", "dup_task_struct", "copy_process", "kernel_clone", "fork_idle", "create_io_thread")
)
"""Who asks for the stacks of tasks: functions of kernel/fork.c, as the compiler has put them into one another."""
MOST_CALLERS = 1 << 16


@record
class VmallocUse:
    """The areas with pages of their own that one function has asked for."""

    caller: str
    nr_areas: int
    nr_pages: int
    most_pages: int
    """Of one area."""


def read_vmalloc_uses(procfs: ProcFS) -> list[VmallocUse]:
    """Return what each function has asked for.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> max(read_vmalloc_uses(ProcFS()), key=lambda use: use.nr_pages).caller   # doctest: +SKIP
    'pcpu_create_chunk'

    Raises:
        PermissionDenied: needs CAP_DAC_READ_SEARCH.
        NotSupported: a kernel without it.
    """
    return procfs.parsed_lines("vmallocinfo", parse_vmallocinfo)


def parse_vmallocinfo(lines: Iterable[bytes]) -> list[VmallocUse]:
    """Return what each function has asked for.

    >>> parse_vmallocinfo([b"0x1-0x2   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4",
    ...     b"0x2-0x3    8192 memremap+0x123/0x210 phys=0x00000000000df000 ioremap",
    ...     b"0x3-0x4   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4"])
    [VmallocUse(caller='kernel_clone', nr_areas=2, nr_pages=8, most_pages=4)]
    """
    uses: dict[bytes, list[int]] = {}
    for line in lines:
        words = line.split()
        if b"vmalloc" not in words[2:]:
            continue
        pages = next((word for word in words[2:] if word.startswith(b"pages=")), b"")
        if not pages:
            continue  # per-CPU memory, whose pages Percpu of meminfo has
        digits = pages[len(b"pages=") :]
        if not digits.isdigit() or len(digits) > len("18446744073709551615"):
            raise FormatError("vmallocinfo", line[:200].decode("utf-8", "replace"), expected="pages=NUMBER")
        if len(uses) < MOST_CALLERS:
            sums = uses.setdefault(caller_of(words), [0, 0, 0])
            sums[0] += 1
            sums[1] += int(digits)
            sums[2] = max(sums[2], int(digits))
    return [VmallocUse(caller.decode("utf-8", "replace"), *sums) for caller, sums in uses.items()]


def caller_of(words: list[bytes]) -> bytes:
    """Return the function that asked for an area, with its module: nothing where the kernel does not say.

    An address stands there in a kernel without names, and for code of a module that is gone: it is not for showing.

    >>> caller_of(b"0x1-0x2 8192 init+0x1/0x2 [xfs] pages=1 vmalloc".split()), caller_of(b"0x1-0x2 1 pages=1".split())
    (b'init [xfs]', b'')
    """
    name, module = (*words[2:4], b"", b"")[:2]
    if b"=" in name or b"+" not in name:
        return b""
    function = name.partition(b"+")[0]
    return function + b" " + module if module.startswith(b"[") else function

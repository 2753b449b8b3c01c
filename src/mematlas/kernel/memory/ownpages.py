"""Pages of our own: what is known of them proves what is read of others."""

from __future__ import annotations

import ctypes
import mmap
import os

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.libc import libc
from mematlas.kernel.memory.x86 import PAGE, PMD_SIZE
from mematlas.kernel.pagemap import PM_PFRAME, PM_PRESENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from mematlas.kernel.procfs import ProcFS

    T = TypeVar("T")

NR_PROBES = 3
"""Own pages whose struct pages must all lie where the base says."""


class OwnPages:
    """Pages of our own to measure with: some of 4 KiB, and a huge one where the kernel gives it."""

    def __init__(self, procfs: ProcFS) -> None:
        self.procfs = procfs
        self.pid = os.getpid()
        # Not next to each other, so that a wrong size of struct page is noticed.
        self.area = mmap.mmap(-1, 3 * PMD_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = address_of(self.area)
        self.huge_start = -(-self.start // PMD_SIZE) * PMD_SIZE
        self.area.madvise(mmap.MADV_HUGEPAGE, self.huge_start - self.start, PMD_SIZE)
        self.area[self.huge_start - self.start] = 1
        after = self.huge_start + PMD_SIZE - self.start
        # The 4 KiB pages must not be huge themselves, whatever the system's setting.
        self.area.madvise(mmap.MADV_NOHUGEPAGE, after, PMD_SIZE // 2)
        self.probes = [after + step * 7 * PAGE for step in range(NR_PROBES)]
        for offset in self.probes:
            self.area[offset] = 1

    def __enter__(self) -> OwnPages:
        return self

    def __exit__(self, *exc: object) -> None:
        self.area.close()

    def pfns_at(self, addresses: Sequence[int]) -> list[int]:
        """Return the frames at own addresses; 0 where there is none.

        Raises:
            PermissionDenied: they are hidden from us, so that nothing can be proven by them.
        """
        entry = bytearray(8)
        pfns = []
        with self.procfs.process(self.pid) as directory:
            file = directory.open("pagemap")
            try:
                for address in addresses:
                    file.read_into(memoryview(entry), address // self.procfs.page_size * 8)
                    word = int.from_bytes(entry, "little")
                    if word & PM_PRESENT and not word & PM_PFRAME:
                        raise PermissionDenied("frame numbers of our own pages", "CAP_SYS_ADMIN")
                    pfns.append(word & PM_PFRAME if word & PM_PRESENT else 0)
            finally:
                file.close()
        return pfns

    def probe_pfns(self) -> list[int]:
        """Return the frames of the pages that `struct_page_addresses` is about."""
        return self.pfns_at([self.start + offset for offset in self.probes])

    def pfns(self) -> list[int]:
        """Return the frames of all own pages here that are present, and of some code that others map too."""
        huge = range(self.huge_start, self.huge_start + PMD_SIZE, 16 * PAGE)
        shared = ctypes.cast(libc().getpid, ctypes.c_void_p).value or self.start
        return [pfn for pfn in self.pfns_at([*huge, shared]) + self.probe_pfns() if pfn]

    def struct_page_addresses(self, pipe_pages: Callable[[int, int], list[int]]) -> list[int]:
        """Return where the struct pages of the probes are: spliced into a pipe, its buffers point at them.

        ``pipe_pages`` returns what the first so many buffers of our own pipe point at.
        """
        ends = os.pipe2(os.O_CLOEXEC)
        try:
            addresses = [self.start + offset for offset in self.probes]
            numbers = [number for address in addresses for number in (address, PAGE)]
            pieces = (ctypes.c_size_t * (2 * NR_PROBES))(*numbers)
            # vmsplice(2): the pipe takes the pages themselves, and pins them where they are.
            if libc().vmsplice(ends[1], pieces, NR_PROBES, 0) != NR_PROBES * PAGE:
                raise NotSupported(f"vmsplice(2) ({os.strerror(ctypes.get_errno())})")
            return pipe_pages(ends[0], NR_PROBES)
        finally:
            for fd in ends:
                os.close(fd)

    def array_base(self, addresses: list[int], size: int) -> int:
        """Return the address of the struct page of frame 0, from those of the probes, each of so many bytes."""
        pairs = zip(addresses, self.probe_pfns(), strict=True)
        bases = {address - pfn * size for address, pfn in pairs}
        if len(bases) != 1:
            raise NotSupported("struct pages that are no array", "CONFIG_SPARSEMEM_VMEMMAP")
        return bases.pop()


def on_protected_page(ask: Callable[[int], T]) -> T:
    """Return what ``ask`` returns of the address of a page of ours that was written to, and may be no more."""
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 1
        address = address_of(page)
        libc().mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ)
        return ask(address)


def address_of(area: mmap.mmap) -> int:
    """Return where a mapping of ours lies."""
    view = ctypes.c_char.from_buffer(area)
    try:
        return ctypes.addressof(view)
    finally:
        # The mapping could not be closed while anything points into it.
        del view

"""Memory of our own whose truth is known: anonymous, page by page, in a VMA of its own.

The kernel likes to do more than it was asked for: it makes one VMA of two alike neighbours, and gives a huge
page for one byte. A workload that is to be checked page by page has to stop it from both.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from mematlas.errors import NotSupported
from mematlas.kernel.libc import PR_SET_VMA, PR_SET_VMA_ANON_NAME
from mematlas.kernel.madvise import MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE_SIZE = mmap.PAGESIZE


class KnownMemory:
    """Pages of this process, and which of them were touched."""

    def __init__(
        self,
        size: int,
        name: str,
        *,
        executable: bool = False,
        shared: bool = False,
        huge: bool = False,
        alignment: int = PAGE_SIZE,
    ) -> None:
        """``shared`` with children that are forked; ``huge`` pages wherever the kernel finds one."""
        self.size = size
        """What was asked for, in bytes."""
        self.nr_pages = -(-size // PAGE_SIZE)
        self.touched: set[int] = set()
        prot = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
        flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
        # More than is used, where the start matters: the kernel gives any multiple of the page size.
        self._length = self.nr_pages * PAGE_SIZE
        try:
            self._map = mmap.mmap(-1, self._length + alignment - PAGE_SIZE, flags, prot)
        except OSError as error:
            # SELinux (execmem) and systemd (MemoryDenyWriteExecute=) refuse what can be both written and run.
            what = f"{self.nr_pages} pages of memory"
            if executable:
                what = "writable and executable memory"
            raise NotSupported(what, os.strerror(error.errno or 0).lower()) from None
        start = self._find_address()
        self._first = -start % alignment
        self.address = start + self._first
        self._keep_apart(name, huge)

    def touch(self, pages: Iterable[int]) -> None:
        """Write one byte to each page, so that it gets a frame of its own."""
        for page in pages:
            self._map[self._first + page * PAGE_SIZE] = 1
            self.touched.add(page)

    def read(self, first: int, nr_pages: int) -> None:
        """Read one byte of each of some consecutive pages."""
        low = self._first + first * PAGE_SIZE
        assert len(self._map[low : low + nr_pages * PAGE_SIZE : PAGE_SIZE]) == nr_pages

    def advise(self, advice: int, first: int = 0, nr_pages: int | None = None) -> None:
        """Give the kernel advice about pages, all of them by default. Raises OSError as madvise(2) does."""
        nr_pages = self.nr_pages - first if nr_pages is None else nr_pages
        self._map.madvise(advice, self._first + first * PAGE_SIZE, nr_pages * PAGE_SIZE)

    def nr_in_ram(self) -> int:
        """Return how many pages are in RAM, be it in the swap cache, where no entry shows them: mincore(2)."""
        import ctypes

        is_in_ram = (ctypes.c_ubyte * self.nr_pages)()
        mincore = ctypes.CDLL(None).mincore
        if mincore(ctypes.c_void_p(self.address), ctypes.c_size_t(self._length), is_in_ram):
            raise NotSupported("mincore(2)")
        return sum(byte & 1 for byte in is_in_ram)

    def clear(self) -> None:
        """Give every page back to the kernel. The addresses stay ours; they read as zero again."""
        self.advise(mmap.MADV_DONTNEED)
        self.touched.clear()

    def page_address(self, page: int) -> int:
        """Return where a page starts."""
        return self.address + page * PAGE_SIZE

    def close(self) -> None:
        """Unmap it."""
        self._map.close()

    def _find_address(self) -> int:
        import ctypes

        # What from_buffer() returns pins the mmap, which then cannot be closed: it must die with this line.
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def _keep_apart(self, name: str, huge: bool) -> None:
        import ctypes

        # A kernel without CONFIG_TRANSPARENT_HUGEPAGE answers EINVAL: it makes no huge pages anyway.
        for advice in (MADV_HUGEPAGE if huge else MADV_NOHUGEPAGE, MADV_DONTDUMP):
            with contextlib.suppress(OSError):
                self.advise(advice)
        # MADV_DONTDUMP gives the VMA a flag that the interpreter's own memory has not, and the name sets it
        # apart from others made here: VMAs are merged only when flags and names are equal. /proc/PID/maps shows the
        # name as [anon:NAME]. Since Linux commit 9a10064f5625 (in v5.17), with CONFIG_ANON_VMA_NAME; without
        # it the call fails, and nothing else changes.
        prctl = ctypes.CDLL(None).prctl
        prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 3, ctypes.c_char_p]
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, self.address, self._length, name.encode())

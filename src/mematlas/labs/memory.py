"""Memory of our own whose truth is known: private, anonymous, page by page, in a VMA of its own.

The kernel likes to do more than it was asked for: it makes one VMA of two alike neighbours, and gives 2 MiB
for one byte. A workload that is to be checked page by page has to stop it from both.
"""

from __future__ import annotations

import mmap
import os

from mematlas.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE_SIZE = mmap.PAGESIZE

# Source: include/uapi/linux/prctl.h
PR_SET_VMA = 0x53564D41
PR_SET_VMA_ANON_NAME = 0


class KnownMemory:
    """Pages of this process, and which of them were touched."""

    def __init__(self, size: int, name: str, *, executable: bool = False) -> None:
        self.size = size
        """What was asked for, in bytes."""
        self.nr_pages = -(-size // PAGE_SIZE)
        self.touched: set[int] = set()
        prot = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
        try:
            self._map = mmap.mmap(-1, self.nr_pages * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot)
        except OSError as error:
            # SELinux (execmem) and systemd (MemoryDenyWriteExecute=) refuse what can be both written and run.
            what = "writable and executable memory" if executable else f"{self.nr_pages} pages of memory"
            raise NotSupported(what, os.strerror(error.errno or 0).lower()) from None
        self.address = self._find_address()
        self._keep_apart(name)

    def touch(self, pages: Iterable[int]) -> None:
        """Write one byte to each page, so that it gets a frame of its own."""
        for page in pages:
            self._map[page * PAGE_SIZE] = 1
            self.touched.add(page)

    def clear(self) -> None:
        """Give every page back to the kernel. The addresses stay ours; they read as zero again."""
        self._map.madvise(mmap.MADV_DONTNEED)
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

    def _keep_apart(self, name: str) -> None:
        import ctypes

        # A kernel without CONFIG_TRANSPARENT_HUGEPAGE answers EINVAL: it makes no huge pages anyway.
        for advice in ("MADV_NOHUGEPAGE", "MADV_DONTDUMP"):
            if hasattr(mmap, advice):
                try:
                    self._map.madvise(getattr(mmap, advice))
                except OSError:
                    continue
        # MADV_DONTDUMP gives the VMA a flag that the interpreter's own memory has not, and the name tells it
        # from others made here: VMAs are merged only when flags and names are equal. /proc/PID/maps shows the
        # name as [anon:NAME]. Since Linux commit 9a10064f5625 (in v5.17), with CONFIG_ANON_VMA_NAME; without
        # it the call fails, and nothing else changes.
        prctl = ctypes.CDLL(None).prctl
        prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 3, ctypes.c_char_p]
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, self.address, len(self._map), name.encode())

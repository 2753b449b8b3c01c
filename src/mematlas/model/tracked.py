"""Memory whose program tracks accesses itself, by userfaultfd: read-write protection, since Linux 7.3.

Its pages are made inaccessible (UFFDIO_RWPROTECT); the first access to each is noted, and the page is as before. So
the program, and we by PAGEMAP_SCAN, know to the page what was accessed since.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.pagemap import PAGE_IS_ACCESSED, UFFD_WP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pagemap


class TrackedMemory:
    """What is known of the accesses that one process tracks."""

    def __init__(self, pagemap: Pagemap) -> None:
        self._pagemap = pagemap
        self._starts: frozenset[int] | None = None

    def untouched(self, vma: Vma, address: int, states: bytes) -> bytes:
        """Return a mask of the pages that were not accessed since their program protected them; none where it does not.

        ``states`` are those of the pages from ``address`` on.
        """
        # A page that is protected, from reading or from writing, has the bit in its entry: most processes have none.
        if not any(byte & UFFD_WP for byte in set(states)) or vma.start not in self._tracked_starts():
            return bytes(len(states))
        size = self._pagemap.page_size
        mask = bytearray(bool(byte & UFFD_WP) for byte in states)
        for low, high in self._pagemap.ranges(address, address + len(states) * size, PAGE_IS_ACCESSED):
            first, last = (low - address) // size, (high - address) // size
            mask[first:last] = bytes(last - first)
        return bytes(mask)

    def _tracked_starts(self) -> frozenset[int]:
        """Return where the VMAs begin whose program tracks accesses."""
        if self._starts is None:
            from mematlas.kernel.smaps import TRACKED, read_vm_flags

            flags: dict[int, frozenset[str]] = {}
            try:
                # smaps holds up the target: only for a kernel that knows the rest.
                if self._pagemap.tells_accessed():
                    flags = read_vm_flags(self._pagemap.process)
            except (PermissionDenied, NotSupported):
                pass
            self._starts = frozenset(start for start, its in flags.items() if TRACKED in its)
        return self._starts

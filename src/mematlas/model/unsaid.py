"""What smaps leaves unsaid of a VMA: its zero pages, and whether it has pages that no file of the kernel shows."""

from __future__ import annotations

import time

from mematlas.errors import NotSupported
from mematlas.kernel.pagemap import LAST_ADDRESS, PAGE_IS_PFNZERO, Pagemap
from mematlas.model.hidden import HiddenVmas

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.pages import PageReader

SCAN_SPAN = 1 << 28
"""Addresses searched for zero pages under one hold of the target's lock: a millisecond where all are present."""


class Unsaid:
    """Asks pagemap for what smaps does not tell. Leaving it without an error is as with `PageReader`."""

    def __init__(self, process: ProcessDir, pacer: Pacer | None) -> None:
        self.process = process
        self._pacer = pacer
        self._pagemap = Pagemap(process, pacer)
        self._hidden = HiddenVmas(process, self._pagemap)
        self._reader: PageReader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            if kind is None:
                self._pagemap.check()
        finally:
            self._pagemap.close()
            if self._reader:
                self._reader.close()

    @property
    def reader(self) -> PageReader:
        """What reads single pages; most looks need none."""
        if self._reader is None:
            from mematlas.model.pages import PageReader

            self._reader = PageReader(self.process, self._pacer, cached=False, exclusive=False)
        return self._reader

    def is_hidden(self, vma: Vma) -> bool:
        """Whether nothing of a VMA can be seen."""
        return self._hidden.is_hidden(vma)

    def nr_zero(self, vma: Vma, fields: dict[str, int]) -> int | None:
        """Return how many pages of a VMA show the zero page, given what smaps says; None where that is not told."""
        if not may_show_zero(vma, fields):
            return 0
        try:
            return self._nr_zero_found(vma) if self.process.procfs.live else self._nr_zero_counted(vma)
        except NotSupported:  # before Linux 6.7
            return self._nr_zero_counted(vma)

    def _nr_zero_found(self, vma: Vma) -> int:
        # A search that reads no entry, since there is hardly ever any. It is asked at the end whether the target lives.
        size = 0
        for start in range(vma.start, vma.end, SCAN_SPAN):
            before = time.perf_counter()
            ranges = self._pagemap.scanner.ranges(start, min(vma.end, start + SCAN_SPAN), PAGE_IS_PFNZERO)
            size += sum(high - low for low, high in ranges)
            if self._pacer:
                self._pacer.spend(time.perf_counter() - before)
        return size // self.process.procfs.page_size

    def _nr_zero_counted(self, vma: Vma) -> int | None:
        from mematlas.model.pages import STATE_OF_BYTE

        nr_zero = 0
        for block in self.reader.blocks(vma):
            nr_zero += sum(number for byte, number in block.kinds.items() if STATE_OF_BYTE[byte] == "zero")
        return nr_zero if self.reader.zero_known else None


def may_show_zero(vma: Vma, fields: dict[str, int]) -> bool:
    """Whether there is room for the zero page in a VMA, besides what smaps counts.

    Not anonymous memory alone maps it: UFFDIO_ZEROPAGE puts it into private mappings of memfds, DAX into holes of
    files.
    """
    return vma.kind != "hugetlb" and vma.start < LAST_ADDRESS and fields["Rss"] + fields["Swap"] < vma.size

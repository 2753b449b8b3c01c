"""What smaps leaves unsaid of a VMA: its zero pages, and whether it has pages that no file of the kernel shows."""

from __future__ import annotations

import time

from mematlas.errors import NotSupported
from mematlas.kernel.pagemap import GAP, LAST_ADDRESS, PAGE_IS_ACCESSED, PAGE_IS_PFNZERO, Pagemap
from mematlas.model.hidden import HiddenVmas

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.pages import PageReader

SCAN_SPAN = 1 << 28
"""Addresses searched for zero pages under one hold of the target's lock: a millisecond where all are present."""


class Unsaid:
    """Asks pagemap for what smaps does not report. Leaving it without an error is as with `PageReader`."""

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

    def nr_zeros(self, entries: Sequence[tuple[Vma, dict[str, int]]]) -> list[int | None]:
        """Return how many pages of each VMA show the zero page, given what smaps says; None where that is not known."""
        wanted = [vma for vma, fields in entries if may_show_zero(vma, fields)]
        counts: dict[int, int | None] = {}
        try:
            if not self.process.procfs.live:
                raise NotSupported("PAGEMAP_SCAN", "a running process, not a capture")
            for group in groups_of(wanted, GAP * self.process.procfs.page_size):
                self._find(group, counts)
        except NotSupported:  # before Linux 6.7 as well
            counts = {vma.start: nr_zero for vma, nr_zero in self._counted(wanted)}
        return [counts.get(vma.start, 0) for vma, _ in entries]

    def nr_accessed(self, vma: Vma) -> int | None:
        """Return how many pages of a VMA were accessed since its program, which tracks that, protected them."""
        nr_bytes = 0
        try:
            for start in range(vma.start, vma.end, SCAN_SPAN):
                before = time.perf_counter()
                ranges = self._pagemap.scanner.ranges(start, min(vma.end, start + SCAN_SPAN), PAGE_IS_ACCESSED)
                nr_bytes += sum(high - low for low, high in ranges)
                if self._pacer:
                    self._pacer.spend(time.perf_counter() - before)
        except NotSupported:  # as of a capture
            return None
        return nr_bytes // self.process.procfs.page_size

    def _find(self, group: list[Vma], counts: dict[int, int | None]) -> None:
        # A search that reads no entry, since there is hardly ever any. It is asked at the end whether the target lives.
        page_size = self.process.procfs.page_size
        scanner = self._pagemap.scanner  # what is loaded for it is not the target's to rest from
        end = group[-1].end
        start, index = group[0].start, 0
        while start < end:
            if end - start > SCAN_SPAN:
                # Of memory that is only reserved there may be terabytes.
                start = self._pagemap.seek(start, end)
            until = min(end, start + SCAN_SPAN)
            before = time.perf_counter()
            for low, high in scanner.ranges(start, until, PAGE_IS_PFNZERO):
                while group[index].end <= low:
                    index += 1
                # It may reach over several VMAs, and over what lies between them.
                at = index
                while at < len(group) and (vma := group[at]).start < high:
                    size = min(high, vma.end) - max(low, vma.start)
                    counts[vma.start] = (counts.get(vma.start) or 0) + size // page_size
                    at += 1
            if self._pacer:
                self._pacer.spend(time.perf_counter() - before)
            start = until

    def _counted(self, vmas: Sequence[Vma]) -> Iterator[tuple[Vma, int | None]]:
        from mematlas.model.pages import IS_ZERO
        from mematlas.model.runs import cut

        reader, page_size = self.reader, self.process.procfs.page_size
        for run, block in reader.runs(vmas):
            if block is None:
                parts = reader.blocks(run[0])
                nr_zero = sum(part.states.translate(IS_ZERO).count(1) for part in parts)
                yield run[0], nr_zero if reader.zero_known else None
            else:
                zeros = block.states.translate(IS_ZERO)
                for vma, first, last in cut(run, block, page_size):
                    yield vma, zeros.count(1, first, last) if reader.zero_known else None


def groups_of(vmas: Iterable[Vma], gap: int) -> Iterator[list[Vma]]:
    """Yield VMAs in groups that are searched in one go: no more than ``gap`` bytes lie between them."""
    group: list[Vma] = []
    for vma in vmas:
        if group and (vma.start - group[-1].end > gap or vma.end - group[0].start > SCAN_SPAN):
            yield group
            group = []
        group.append(vma)
    if group:
        yield group


def may_show_zero(vma: Vma, fields: dict[str, int]) -> bool:
    """Whether there is room for the zero page in a VMA, besides what smaps counts.

    Not anonymous memory alone maps it: UFFDIO_ZEROPAGE puts it into private mappings of memfds, DAX into holes of
    files.
    """
    if vma.kind == "hugetlb" or vma.start >= LAST_ADDRESS:
        return False
    return fields["Rss"] + fields["Swap"] < vma.size

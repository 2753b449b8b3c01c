"""MADV_COLLAPSE: small pages into huge ones, wherever a whole aligned one fits."""

from __future__ import annotations

import errno

from mematlas.actions.advice.base import Advice
from mematlas.analysis.movable import add_counts
from mematlas.kernel.madvise import ADVICE
from mematlas.model.page_set import both, without
from mematlas.model.pages import STATE_OF_BYTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.actions.advice.base import Range
    from mematlas.analysis.movable import Choice
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.page_set import PageSet
    from mematlas.observe.process import Process

REASONS = {errno.ENOMEM: "no memory", errno.EBUSY: "cgroup", errno.EAGAIN: "busy"}
"""madvise(2), MADV_COLLAPSE; all else, EINVAL above all, is a refusal: VM_NOHUGEPAGE, PR_SET_THP_DISABLE, ..."""


class Collapse(Advice):
    """It is given for one aligned huge page at a time, and refused for each."""

    name: AdviceName = "collapse"
    is_refused_by_vma = False

    def __init__(self, process: Process, choice: Choice, only: PageSet | None) -> None:
        super().__init__(process, choice, only)
        self._refused: dict[int, str] = {}

    @staticmethod
    def reason_of(byte: int) -> str:
        # Pages are copied, so those that others map go as well, and a zero page becomes memory.
        state = STATE_OF_BYTE[byte]
        return "" if state in ("present", "zero") else state

    def select(self, vma: Vma, address: int, states: bytes, reasons: dict[str, int]) -> bytes:
        mask = super().select(vma, address, states, reasons)
        if 1 not in mask:
            return mask
        end = address + len(mask) * self.page_size
        huge = self.reader.huge_mask(address, end)
        add_counts(reasons, {"huge": both(mask, huge).count(1)})
        mask = without(mask, huge)
        fits = self._fitting(vma, address, len(mask))
        add_counts(reasons, {"unaligned": without(mask, fits).count(1)})
        return both(mask, fits)

    def _fitting(self, vma: Vma, address: int, nr_pages: int) -> bytes:
        """Return which pages lie in whole aligned huge ones of a VMA."""
        size = self.page_size
        fits = bytearray(nr_pages)
        end = address + nr_pages * size
        for low, high in self.huge_ranges(max(address, vma.start), min(end, vma.end)):
            first, last = (low - address) // size, (high - address) // size
            fits[first:last] = b"\1" * (last - first)
        return bytes(fits)

    def _all_blocks(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        # After a hole a block begins at the next page that is there, maybe in the middle of a huge page's range.
        for address, states in super()._all_blocks(vma, start, end):
            low = max(address - address % self.huge_size, start)
            yield low, bytes((address - low) // self.page_size) + states

    def spans(self, address: int, mask: bytes, whole: bool) -> list[Range]:
        size = self.page_size
        return [
            (low, high)
            for low, high in self.huge_ranges(address, address + len(mask) * size)
            if 1 in mask[(low - address) // size : (high - address) // size]
        ]

    def together(self, start: int, end: int) -> list[Range]:
        return list(self.huge_ranges(start, end))

    def advise(self, ranges: list[Range]) -> list[Range]:
        _, refused = self.advisor.advise(ranges, ADVICE[self.name])
        for start, _, code in refused:
            self._refused[start] = REASONS.get(code, "refused")
        return [(start, end) for start, end, _ in refused]

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        return both(mask, self.reader.huge_mask(address, address + len(mask) * self.page_size))

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        reasons: dict[str, int] = {}
        for low, high in self.huge_ranges(address, address + len(mask) * self.page_size):
            part = mask[(low - address) // self.page_size : (high - address) // self.page_size]
            add_counts(reasons, {self._refused.get(low, "busy"): part.count(1)})
        return reasons

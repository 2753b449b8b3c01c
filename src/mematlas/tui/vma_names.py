"""What ranges of addresses are called: by the VMAs that lie in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from mematlas.views.picture import SHARED_ANON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mematlas.analysis.results import VmaUsage


class VmaNames:
    """The VMAs of a process, asked by address."""

    def __init__(self, vmas: Sequence[VmaUsage] | None) -> None:
        self.vmas = vmas
        """None where they are not known."""
        self._starts = [item.vma.start for item in vmas or ()]
        self._ends = [item.vma.end for item in vmas or ()]

    def of(self, start: int, end: int) -> tuple[str, int]:
        """Return the name of the first VMA that lies in a range, and how many more do; nothing where none does."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if self.vmas is None or first >= last:
            return "", 0
        return self._name(first), last - first - 1

    def _name(self, index: int) -> str:
        assert self.vmas
        vma = self.vmas[index].vma
        return "shared anon" if vma.path == SHARED_ANON else vma.path or vma.kind

    def spans_with(self, text: str) -> tuple[list[int], list[int]]:
        """Return the first addresses, and the ends, of VMAs whose name has a text."""
        wanted = text.casefold()
        found = [number for number in range(len(self._starts)) if wanted in self._name(number).casefold()]
        return [self._starts[number] for number in found], [self._ends[number] for number in found]

"""MADV_COLD: first to go when memory is short. Nothing leaves RAM now."""

from __future__ import annotations

from mematlas.actions.advice.base import Advice
from mematlas.analysis.movable import add_counts
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.smaps import read_smaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.actions.advice.base import Piece, Tally
    from mematlas.actions.rooms import SwapRoom
    from mematlas.kernel.madvise import AdviceName
    from mematlas.kernel.maps import Vma
    from mematlas.model.page_set import PageSet


class Cold(Advice):
    """What it changes are accessed bits, which smaps counts for each VMA."""

    name: AdviceName = "cold"
    shows_pages = False
    spares_shared_folios = True
    spares_mlocked = True

    def prepare(self, pieces: list[Piece], nr_pages: int, room: SwapRoom) -> None:
        drain_batches()
        self._starts = {vma.start for vma, _, _ in pieces}
        self._before = self._referenced()

    def _referenced(self) -> dict[int, int]:
        """Return how many pages of each VMA count as referenced."""
        return {
            vma.start: fields["Referenced"] // self.page_size
            for vma, fields in read_smaps(self.process.dir)
            if vma.start in self._starts
        }

    def measure(self, vma: Vma, address: int, mask: bytes) -> bytes:
        return bytes(len(mask))

    def explain(self, vma: Vma | None, address: int, mask: bytes) -> dict[str, int]:
        return {}

    def settle(self, tallies: Iterable[Tally], moved: PageSet) -> None:
        after = self._referenced()
        for tally in tallies:
            start = tally.vma.start
            nr_less = self._before.get(start, 0) - after.get(start, 0)
            tally.nr_moved = max(min(nr_less, tally.nr_advised), 0)
            add_counts(tally.reasons, {"idle": tally.nr_advised - tally.nr_moved})

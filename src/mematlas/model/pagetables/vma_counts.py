"""The pages of a VMA, counted from page tables: by what they are, and by how many share them."""

from __future__ import annotations

from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Counts

NR_FEW = 1 << 12


class VmaCounts:
    """The pages of one VMA, counted."""

    def __init__(self) -> None:
        self.by_byte: dict[int, int] = {}
        """How many pages have which state byte."""
        self.sharers: dict[int, int] = {}
        """How many resident pages have which map count, where that is more than one."""
        self.thp = self.nr_accessed = self.nr_dirty = self.nr_unknown = 0

    def add(self, byte: int, nr_pages: int) -> None:
        """Count pages of one state."""
        if nr_pages:
            self.by_byte[byte] = self.by_byte.get(byte, 0) + nr_pages

    def add_sharers(self, counts: Counts, size: int = 1) -> None:
        """Count resident pages by how often they are mapped; each count stands for ``size`` of them."""
        from mematlas.arrays import np

        self.nr_unknown += size * int(np.count_nonzero(counts < 0))
        few = np.bincount(counts[(counts > 1) & (counts < NR_FEW)])
        for count in np.flatnonzero(few).tolist():
            self.sharers[count] = self.sharers.get(count, 0) + size * int(few[count])
        for count in counts[counts >= NR_FEW].tolist():
            self.sharers[count] = self.sharers.get(count, 0) + size


def left_out(nr_device: int, nr_ranges: int) -> list[Note]:
    """Return the notes on pages of devices, and on ranges that changed each time they were read."""
    notes = []
    if nr_device:
        text = f"{nr_device} pages of device memory are shown as absent, as in pagemap"
        notes.append(Note("devices-absent", text))
    if nr_ranges:
        text = f"torn: {nr_ranges} ranges changed each time they were read, and are left out"
        notes.append(Note("ranges-left-out", text))
    return notes

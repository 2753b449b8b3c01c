"""Folios: in pieces of which size the pages of a process lie in RAM, and what of the large ones nobody maps.

The kernel gives memory out in folios: single pages, or 2, 4, 8 ... of them that lie in a row. Only a huge page that is
mapped as a whole shows in smaps. The frames' own flags show them: one head, and tails up to the next folio.
"""

from __future__ import annotations

from itertools import pairwise

from mematlas.arrays import Bools, NDArray, Words, np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.kpage import KPF_ANON, KPF_MMAP, FrameWords, open_flags_and_counts
from mematlas.kernel.pagemap import ENTRY_SIZE, MARK_A, PM_PFRAME, PRESENT
from mematlas.model.frames import any_of, folio_numbers
from mematlas.model.pages import PageReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Pacer
    from mematlas.kernel.procfs import ProcessDir, ProcFS

NR_FRAMES = 1 << 17
"""Frames looked at together: some megabytes of arrays."""


@record
class FolioSizes:
    """The resident pages of a process by the size of the folio that they lie in; nothing of hugetlb."""

    by_size: dict[int, int]
    """Bytes of RSS by the size of their folio, in bytes: from one page on."""
    held: int
    """Bytes of its large anonymous folios that no process maps: parts were given back, and the folio is whole yet."""


def read_folio_sizes(process: ProcessDir, vmas: Iterable[Vma], pacer: Pacer | None) -> FolioSizes:
    """Return the folios of VMAs, from kpageflags and kpagecount.

    Raises:
        PermissionDenied: frame numbers are CAP_SYS_ADMIN's, the files of frames CAP_DAC_READ_SEARCH's.
        NotSupported: of a capture, which holds too little of the frames.
    """
    if not process.procfs.live:
        raise NotSupported("folios", "a running process, not a capture")
    frames, times = np.unique(resident_frames(process, vmas, pacer), return_counts=True)
    page_size = process.procfs.page_size
    with FolioReader(process.procfs) as reader:
        for low, high in reader.lots(frames):
            reader.add(frames[low:high], times[low:high])
        by_length = sorted(reader.by_length.items())
        by_size = {length * page_size: nr_pages * page_size for length, nr_pages in by_length}
        return FolioSizes(by_size, reader.nr_held * page_size)


def resident_frames(process: ProcessDir, vmas: Iterable[Vma], pacer: Pacer | None) -> Words:
    """Return the frame of each resident page of VMAs, but for zero pages and hugetlb."""
    parts = []
    with PageReader(process, pacer, cached=False) as reader:
        for vma in vmas:
            if vma.kind == "hugetlb":
                continue
            for block in reader.lots(vma):
                states = np.frombuffer(block.states, np.uint8)
                entries = np.frombuffer(block.raw, np.uint64)
                parts.append(entries[states & (PRESENT | MARK_A) == PRESENT] & np.uint64(PM_PFRAME))
    frames: Words = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    if not frames.all():
        raise PermissionDenied("folios", "CAP_SYS_ADMIN")
    return frames


class FolioReader:
    """Looks at frames window by window: of the size of a huge page, which no folio but of hugetlb exceeds, and to whose
    size each is aligned, so that a folio lies in one window.
    """

    def __init__(self, procfs: ProcFS) -> None:
        self.nr_frames = procfs.page_size // ENTRY_SIZE
        """Of a window: as many as one table maps (a PMD's)."""
        self.by_length: dict[int, int] = {}
        """Pages that were counted, by the pages of their folio."""
        self.nr_held = 0
        self.flags, self.counts = open_flags_and_counts(procfs)

    def __enter__(self) -> FolioReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.flags.close()
        self.counts.close()

    def lots(self, frames: Words) -> Iterable[tuple[int, int]]:
        """Yield indexes between which sorted frames lie in few windows."""
        if not len(frames):
            return
        windows = frames // np.uint64(self.nr_frames)
        starts = np.flatnonzero(np.diff(windows, prepend=windows[:1] + np.uint64(1)))
        step = max(NR_FRAMES // self.nr_frames, 1)
        edges = [*starts[::step].tolist(), len(frames)]
        yield from pairwise(edges)

    def add(self, frames: Words, times: NDArray[np.intp]) -> None:
        """Count pages by the frames that they map, each of which so many of them do."""
        size = np.uint64(self.nr_frames)
        windows, rows = np.unique(frames // size, return_inverse=True)
        flags = self._read(self.flags, windows)
        folios = folio_numbers(flags)
        lengths = np.bincount(folios)
        at = rows * self.nr_frames + (frames % size).astype(np.intp)
        mapped = flags[at] & np.uint64(KPF_MMAP) != 0  # others are no part of RSS
        at, times = at[mapped], times[mapped]
        nr_by_length = np.bincount(lengths[folios[at]], weights=times)
        for length in np.flatnonzero(nr_by_length).tolist():
            # A folio that is made or split just now may look like any number of pages.
            order = 1 << (length.bit_length() - 1)
            self.by_length[order] = self.by_length.get(order, 0) + int(nr_by_length[length])
        nr_ours = np.bincount(folios[at], minlength=len(lengths))
        is_anon = any_of(flags & np.uint64(KPF_ANON) != 0, folios)
        in_part = is_anon & (lengths > 1) & (nr_ours > 0) & (nr_ours < lengths)
        self._add_held(windows, in_part[folios])

    def _add_held(self, windows: Words, in_part: Bools) -> None:
        """Count the pages that nobody maps among the frames of windows that are of a folio which we map in part."""
        rows = in_part.reshape(-1, self.nr_frames)
        chosen = np.flatnonzero(rows.any(axis=1))
        if not chosen.size:
            return
        counts = self._read(self.counts, windows[chosen])
        self.nr_held += int(np.count_nonzero(rows[chosen].ravel() & (counts == 0)))

    def _read(self, file: FrameWords, windows: Words) -> Words:
        """Return the words of windows, one after the other; of frames beyond the end of memory 0."""
        size = np.uint64(self.nr_frames)
        frames: Words = np.add.outer(windows * size, np.arange(size, dtype=np.uint64)).ravel()
        words, _ = file.array(frames)
        return words

"""Large folios of which some pages are mapped more than once: the kernel reclaims all of such a folio or nothing.

mm/madvise.c, madvise_cold_or_pageout_pte_range(), leaves a large folio alone that another process maps in part
(folio_maybe_mapped_shared()), the pages of it too that only one maps.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kpage import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, FrameWords, open_flags_and_counts
from mematlas.kernel.pagemap import ENTRY_SIZE, IS_SHARED
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.pages import PageReader


UNREPORTED = "pages of large folios that are partly mapped more than once stay too; which ones is unknown: {why}"


class SharedFolios:
    """Knows which frames are of large folios that are shared in part."""

    def __init__(self, procfs: ProcFS) -> None:
        self.notes = Notes()
        """Why it is unknown of some pages."""
        self.nr_frames = procfs.page_size // ENTRY_SIZE
        """Frames looked at together, as many as a huge page has: folios are aligned to their size."""
        self._procfs = procfs
        self._files: tuple[FrameWords, FrameWords] | None = None
        self._regions: dict[int, bytes] = {}

    def close(self) -> None:
        """Let go of the files of frames."""
        for file in self._files or ():
            file.close()

    def among(self, reader: PageReader, address: int, states: bytes, mask: bytes) -> bytes:
        """Return which pages of a mask are of folios shared in part; none where that may not be known, with a note.

        ``states`` are those of all pages from ``address`` on. Only where pages of both sorts lie together, as those of
        one folio do, is anything read.
        """
        marks = bytearray(len(mask))
        size = reader.page_size
        vpn = address // size
        low = 0
        while low < len(mask):
            high = min(len(mask), low + self.nr_frames - (vpn + low) % self.nr_frames)
            if 1 in mask[low:high] and 1 in states[low:high].translate(IS_SHARED):
                frames = reader.pagemap.frames(address + low * size, address + high * size)
                pairs = zip(mask[low:high], frames, strict=True)
                marks[low:high] = bytes(is_meant and self._is_shared(frame) for is_meant, frame in pairs)
            low = high
        return bytes(marks)

    def _is_shared(self, frame: int) -> int:
        base = frame - frame % self.nr_frames
        if base not in self._regions:
            try:
                self._regions[base] = self._look(base if frame else None)
            except (PermissionDenied, NotSupported) as error:
                self.notes.add(Note("shared-folios-unknown", UNREPORTED.format(why=error)))
                self._regions[base] = bytes(self.nr_frames)
        return self._regions[base][frame - base]

    def _look(self, base: int | None) -> bytes:
        """Return 1 for each of consecutive frames that is of a folio shared in part; None is a hidden frame."""
        if base is None:
            raise PermissionDenied("frame numbers", "CAP_SYS_ADMIN")
        if self._files is None:
            self._files = open_flags_and_counts(self._procfs)
        flags, counts = (file.read(base, self.nr_frames).cast("Q").tolist() for file in self._files)
        return shared_in_part(flags, counts).ljust(self.nr_frames, b"\0")


def shared_in_part(flags: list[int], counts: list[int]) -> bytes:
    """Return 1 for each frame of a large folio one of whose pages is mapped more than once.

    >>> head, tail = KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL
    >>> shared_in_part([0, head, tail, head, tail], [2, 1, 1, 1, 2])
    b'\\x00\\x00\\x00\\x01\\x01'
    """
    marks = bytearray(len(flags))
    low = 0
    while low < len(flags):
        high = low + 1
        if flags[low] & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL):
            while high < len(flags) and flags[high] & KPF_COMPOUND_TAIL:
                high += 1
            if any(count > 1 for count in counts[low:high]):
                marks[low:high] = b"\1" * (high - low)
        low = high
    return bytes(marks)

"""Pages that somebody holds in place: registered with io_uring, RDMA or a driver, they cannot be moved.

The kernel counts them by process (VmPin), and does not report which they are. Its struct pages do.
"""

from __future__ import annotations

from mematlas.errors import FormatError, NotSupported, PermissionDenied
from mematlas.kernel.status import status_bytes
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.structpage import StructPages
    from mematlas.model.pages import PageReader
    from mematlas.model.pagetables.lent_frames import LentFrames
    from mematlas.observe.process import Process


class Pins:
    """Finds which pages of a process are pinned, where it has any."""

    def __init__(self, process: Process, status: dict[str, str]) -> None:
        """``status`` is what /proc/PID/status says."""
        self.notes = Notes()
        """Why it is unknown which pages are pinned."""
        size = status_bytes(status, "VmPin")
        self.nr_pages = None if size is None else size // process.page_size
        """How many are pinned; those pinned twice count twice. None when unknown."""
        self._frames: StructPages | LentFrames | None = None
        if self.nr_pages != 0:
            self._frames = self._open(process)

    def _open(self, process: Process) -> StructPages | LentFrames | None:
        why = "needs struct pages"
        try:
            frames = process.page_table_access().frames
            from mematlas.kernel.memory.structpage import KernelFrames

            if not isinstance(frames, KernelFrames):
                return frames
        except (PermissionDenied, NotSupported, FormatError) as error:
            why = str(error)
        some = "pages may be" if self.nr_pages is None else f"up to {self.nr_pages} pages are"
        text = f"{some} pinned (VmPin) and will stay; cannot see which: {why}"
        self.notes.add(Note("pinned-unknown", text))
        return None

    def among(self, reader: PageReader, address: int, mask: bytes) -> bytes:
        """Return which pages of a mask, each mapped once, are pinned; none where that is unknown."""
        if self._frames is None or 1 not in mask:
            return bytes(len(mask))
        from mematlas.arrays import np

        end = address + len(mask) * reader.page_size
        frames = np.array(reader.pagemap.frames(address, end), np.uint64)
        wanted = np.flatnonzero((np.frombuffer(mask, np.uint8) != 0) & (frames != 0))
        pinned = self._frames.are_pinned(frames[wanted])
        marks = np.zeros(len(mask), np.uint8)
        if pinned is not None:
            marks[wanted[pinned]] = 1
        return marks.tobytes()

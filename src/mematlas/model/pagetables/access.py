"""What page tables are read with: a reader of kernel memory, its paging mode, and what is known about frames."""

from __future__ import annotations

from mematlas.arrays import NDArray, np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.memory.btf import asked_twice
from mematlas.kernel.memory.memory import KernelMemory
from mematlas.kernel.memory.readers import open_kernel_memory
from mematlas.kernel.memory.structpage import KernelFrames, StructPages, open_struct_pages, spread
from mematlas.model.pagetables.modes import mode_of
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Counts, Words
    from mematlas.kernel.procfs import ProcFS
    from mematlas.model.pagetables.lent_frames import LentFrames


NR_COMPARED = 1 << 6
"""Frames of a lot that are compared with the kernel's own files."""


class PageTableAccess:
    """What page tables are read with: kernel memory, its paging mode, and what is known about frames."""

    def __init__(self, memory: KernelMemory) -> None:
        self.memory = memory
        self.mode = mode_of(memory)
        self.note: Note | None = None
        """Why map counts are read from kpagecount instead of struct pages; None where they are not."""
        self.nr_compared = 0
        """Frames of targets that were compared with the kernel's own files."""
        # How many have come by, of large folios and of others, and from how many on the next are compared.
        self._nr_seen = [0, 0]
        self._next = [0, 0]
        self._frames: StructPages | KernelFrames | LentFrames | None = None

    @property
    def name(self) -> str:
        """The reader's name."""
        return self.memory.name

    @property
    def frames(self) -> StructPages | KernelFrames | LentFrames:
        """What map counts and flags of frames come from: struct pages, proven against kpagecount, or kpagecount itself.

        Raises:
            PermissionDenied: not even kpagecount can be read.
        """
        if self._frames is None:
            try:
                self._frames = asked_twice(self.memory.layout, lambda: open_struct_pages(self.memory))
            except (NotSupported, PermissionDenied) as error:
                self._frames = KernelFrames(self.memory.procfs)
                text = f"map counts are read from kpagecount, frame by frame: {error}"
                self.note = Note("slow-map-counts", text)
        return self._frames

    def map_counts(self, pfns: Words) -> Counts:
        """Return how often each frame of the target is mapped; some are compared with the kernel's own files.

        A process maps the files of its program first, and large folios anywhere. So some are taken each time that twice
        as many have come by, and those of large folios count apart.

        Raises:
            NotSupported: they disagree. The message names a frame and what both say.
        """
        frames = self.frames
        counts = frames.map_counts(pfns)
        if isinstance(frames, StructPages):
            large = frames.large
            if len(large):
                self._compare(frames, 0, pfns, large)
            if len(large) < len(pfns):
                self._compare(frames, 1, pfns, large)
        return counts

    def _compare(self, frames: StructPages, kind: int, pfns: Words, large: NDArray[np.intp]) -> None:
        self._nr_seen[kind] += len(pfns) - len(large) if kind else len(large)
        if self._nr_seen[kind] >= self._next[kind]:
            self._next[kind] = 2 * self._nr_seen[kind]
            chosen = np.delete(pfns, large) if kind else pfns[large]
            self.nr_compared += frames.check(spread(chosen, NR_COMPARED))

    def close(self) -> None:
        """Let go of the reader."""
        self.memory.close()


def open_access(procfs: ProcFS, reader: str = "auto") -> PageTableAccess:
    """Return what page tables are read with. Raises what `open_kernel_memory` raises."""
    memory = open_kernel_memory(reader, procfs)
    try:
        return PageTableAccess(memory)
    except BaseException:
        memory.close()
        raise

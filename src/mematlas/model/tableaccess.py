"""What page tables are read with: a reader of kernel memory, its paging mode, and what tells about frames."""

from __future__ import annotations

import numpy as np

from mematlas.errors import NotSupported
from mematlas.kernel.btf import asked_twice
from mematlas.kernel.kmem import KernelMemory, open_kernel_memory
from mematlas.kernel.kpage import FrameWords
from mematlas.kernel.structpage import KernelFrames, StructPages, open_struct_pages
from mematlas.model.paging_modes import mode_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Words
    from mematlas.kernel.procfs import ProcFS


NR_CHECKED = 1 << 10
"""Frames of the target that are compared with kpagecount before its map counts are believed."""


class TableAccess:
    """What page tables are read with: kernel memory, its paging mode, and what tells about frames."""

    def __init__(self, memory: KernelMemory) -> None:
        self.memory = memory
        self.mode = mode_of(memory)
        self.note = ""
        """Why map counts come from kpagecount, when they do."""
        self.nr_to_check = NR_CHECKED
        """How many frames are still to be compared with kpagecount."""
        self._frames: StructPages | KernelFrames | None = None

    @property
    def name(self) -> str:
        """The reader's name."""
        return self.memory.name

    @property
    def frames(self) -> StructPages | KernelFrames:
        """What tells about frames: struct pages, proven against kpagecount, or kpagecount itself.

        Raises:
            PermissionDenied: not even kpagecount can be read.
        """
        if self._frames is None:
            try:
                self._frames = asked_twice(self.memory.layout, lambda: open_struct_pages(self.memory))
            except NotSupported as error:
                self._frames = KernelFrames(self.memory.procfs)
                self.note = f"map counts are read from kpagecount, frame by frame: {error}"
        return self._frames

    def close(self) -> None:
        """Let go of the reader."""
        self.memory.close()


def open_access(procfs: ProcFS, reader: str = "auto") -> TableAccess:
    """Return what page tables are read with. Raises what `open_kernel_memory` raises."""
    memory = open_kernel_memory(reader, procfs)
    try:
        return TableAccess(memory)
    except BaseException:
        memory.close()
        raise


def frame_flags(procfs: ProcFS, pfns: Words) -> Words:
    """Return /proc/kpageflags of a few frames; 0 for one that it does not tell about."""
    if not len(pfns):
        return np.zeros(0, np.uint64)
    with FrameWords(procfs, "kpageflags") as file:
        words = file.get(pfns.tolist())
    return np.array([words.get(pfn, 0) for pfn in pfns.tolist()], np.uint64)

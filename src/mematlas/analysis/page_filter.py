"""Which pages are asked for, by what their entries and their frames say."""

from __future__ import annotations

from mematlas.frozen import record
from mematlas.kernel.kpage import KPF_DIRTY
from mematlas.kernel.pagemap import ACCESSED, EXCLUSIVE, PRESENT
from mematlas.model.entry_flags import is_soft_dirty
from mematlas.model.pages import STATE_OF_BYTE


@record
class PageFilter:
    """Which pages are asked for; everything that is set must hold.

    >>> PageFilter(present=True).takes(PRESENT, 1 << 63 | 74565), PageFilter(swapped=True).takes(PRESENT, 1 << 63)
    (True, False)
    """

    present: bool = False
    swapped: bool = False
    exclusive: bool = False
    dirty: bool = False
    """By the frame's own flag, from kpageflags."""
    soft_dirty: bool = False
    accessed: bool = False
    """By their use: see `mematlas.observe.process.Process.pages`, whose ``accessed`` has to be set as well."""

    @property
    def asks_frames(self) -> bool:
        """Whether the frames, too, decide which pages are taken."""
        return self.exclusive or self.dirty

    def takes(self, byte: int, entry: int, use: int = 0) -> bool:
        """Whether a page is asked for, as far as its state byte, its entry and its use show."""
        return not (
            (self.present and not byte & PRESENT)
            or (self.swapped and STATE_OF_BYTE[byte] != "swapped")
            or (self.exclusive and byte & (PRESENT | EXCLUSIVE) != PRESENT | EXCLUSIVE)
            or (self.soft_dirty and not is_soft_dirty(entry))
            or (self.accessed and not use & ACCESSED)
            or (self.dirty and not byte & PRESENT)
        )

    def takes_frame(self, flags: int | None) -> bool:
        """Whether a page is asked for, by the flags of its frame; what is not known is not dirty."""
        return not self.dirty or bool((flags or 0) & KPF_DIRTY)

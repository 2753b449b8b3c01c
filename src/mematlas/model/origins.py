"""The frames that pages had before they were moved, to see afterwards whether these are free.

A page that was paged out may stay in RAM: its frame is then in the swap cache. No entry of the process shows that;
the flags of the frame do. A frame that is free may be given to somebody else at once, whose flags we then read:
among thousands that is rare, and counts one page too many as still in RAM, never one too few.
"""

from __future__ import annotations

from mematlas.kernel.kpage import FrameWords
from mematlas.kernel.pagemap import frames_hidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.errors import Error
    from mematlas.kernel.pagemap import Pagemap
    from mematlas.model.page_set import PageSet

MANY = 1 << 14
"""Pages from which on a sample of them is looked at: each costs 1 to 2 us."""
SAMPLE = 1 << 11
"""Pages in a sample, evenly spread."""


class Origins:
    """The frames of pages at one moment: of all, or of one part in ``stride`` of them."""

    def __init__(self, pagemap: Pagemap, stride: int = 1) -> None:
        self.pagemap = pagemap
        self.page_size = pagemap.page_size
        self.stride = stride
        self.why: Error | None = None
        """Why nothing is known; None while it is."""
        self._frames: dict[int, list[int]] = {}
        """By the address of the first page; 0 for the pages that are not meant."""
        self._nr_noted = 0

    def note(self, address: int, mask: bytes) -> None:
        """Remember the frames of the pages of a mask, which begins at an address."""
        if self.why:
            return
        # Another part of each block, so that the sample is spread over it.
        size = -(-len(mask) // self.stride)
        first = self._nr_noted % self.stride * size
        self._nr_noted += 1
        part = mask[first : first + size]
        if 1 not in part:
            return
        start = address + first * self.page_size
        frames = self.pagemap.frames(start, start + len(part) * self.page_size)
        if not any(frames):
            self.why = frames_hidden(self.pagemap.process.path)
            return
        self._frames[start] = meant(frames, part)

    def masks(self, pages: PageSet, bits: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield, by address, which pages of a set were noted, and which of these had frames with any of these flags.

        Raises:
            PermissionDenied: the flags of frames need CAP_DAC_READ_SEARCH.
            NotSupported: a kernel without them.
        """
        with FrameWords(self.pagemap.process.procfs, "kpageflags") as words:
            for address, frames in self._frames.items():
                wanted = meant(frames, pages.mask(address, address + len(frames) * self.page_size))
                flags = words.get(filter(None, wanted))
                noted = bytes(frame != 0 for frame in wanted)
                yield address, noted, bytes(flags.get(frame, 0) & bits != 0 for frame in wanted)


def meant(frames: list[int], mask: bytes) -> list[int]:
    """Return the frames of the pages in a mask; 0 for the others.

    >>> meant([7, 8, 9], bytes((1, 0, 1)))
    [7, 0, 9]
    """
    return [frame if is_meant else 0 for frame, is_meant in zip(frames, mask, strict=True)]

"""/sys/kernel/mm/page_idle/bitmap, and lru_gen/enabled: what the kernel knows of how long pages were not used.

Format: Documentation/admin-guide/mm/idle_page_tracking.rst (one bit per page frame, in 64-bit words) and
multigen_lru.rst.
"""

from __future__ import annotations

import os

from mematlas.kernel.kpage import WORD_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

BITMAP = "/sys/kernel/mm/page_idle/bitmap"
LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
WORD_BITS = 64


def idle_frames(frames: Iterable[int], path: str = BITMAP) -> set[int]:
    """Return those of these frames that nobody used since somebody marked them idle; none where that is unknown.

    To read the bitmap is to look for accesses, which takes the accessed bits of the frames away.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        words: dict[int, int] = {}
        idle = set()
        for frame in frames:
            index, bit = divmod(frame, WORD_BITS)
            if index not in words:
                data = os.pread(fd, WORD_SIZE, index * WORD_SIZE)
                words[index] = memoryview(data).cast("Q")[0] if len(data) == WORD_SIZE else 0
            if words[index] >> bit & 1:
                idle.add(frame)
        return idle
    finally:
        os.close(fd)


def is_multigen(path: str = LRU_GEN) -> bool:
    """Whether the multi-gen LRU sorts the pages: then the active flag says nothing, and no file has the generations."""
    try:
        with open(path, "rb") as file:
            return bool(int(file.read(), 16) & 1)
    except (OSError, ValueError):
        return False

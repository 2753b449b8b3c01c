"""Whether a page that a huge entry maps is mapped once: its own map count says so.

A fork may have unmapped, or copied, single pages of a transparent huge page that another process still maps by one
entry (PMD). Bit 56 of pagemap speaks for the first of its pages only, then for all (fs/proc/task_mmu.c,
pagemap_pmd_range(): seen on 6.1 and 6.18, while 6.12 looks at each). kpagecount counts each page on every kernel but
those that keep no such counts, whose bit 56 is about the whole folio, and stays as it is.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kconfig import counts_are_averages
from mematlas.kernel.kpage import WORD_SIZE, FrameWords
from mematlas.kernel.pagemap import ENTRY_SIZE, EXCLUSIVE, MARK_A, PACED_BLOCK_SIZE, PM_PFRAME, PRESENT
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.kernel.pagemap import Block
    from mematlas.kernel.procfs import ProcFS

ESTIMATE = "USS is an estimate: for a huge page the kernel reports only whether its first page is shared"
"""Why follows. It is so of what is called exclusive as well."""

WITH_EXCLUSIVE = bytes(byte | EXCLUSIVE for byte in range(256))
WITHOUT_EXCLUSIVE = bytes(byte & ~EXCLUSIVE for byte in range(256))


class HugeCounts:
    """Sets the exclusive bit of pages that huge entries map, in states and entries, by kpagecount."""

    def __init__(self, procfs: ProcFS) -> None:
        self.procfs = procfs
        self.note: Note | None = None
        """What is to be said once the bit had to be left as the kernel reports it."""
        self._file: FrameWords | None = None

    def close(self) -> None:
        """Let go of kpagecount, if it was needed."""
        if self._file:
            self._file.close()

    def settle(self, block: Block, ranges: Iterable[tuple[int, int]]) -> None:
        """Put right the pages of a block that lie in ranges of huge entries."""
        if counts_are_averages(self.procfs):
            return
        states = bytearray(block.states)
        per_table = self.procfs.page_size // ENTRY_SIZE
        first = block.address // self.procfs.page_size
        for low, high in ranges:
            while low < high:
                # What one huge entry maps lies in one piece in memory, and ends where what its table would map does.
                end = min(high, low + per_table - (first + low) % per_table)
                if states[low] & (PRESENT | MARK_A) == PRESENT:
                    frame = block.entries[low] & PM_PFRAME
                    states[low:end] = self._settled(frame, bytes(states[low:end]))
                low = end
        if states != block.states:
            block.raw[7::ENTRY_SIZE] = with_bit(bytes(block.raw[7::ENTRY_SIZE]), states)
            block.states = bytes(states)

    def _settled(self, frame: int, states: bytes) -> bytes:
        """Return the states of consecutive frames, with the exclusive bit of each as its map count has it."""
        words = self._words(frame, len(states))
        if words is None:
            return states
        counts = words.cast("Q")
        if words == bytes(words[:WORD_SIZE]) * len(states):
            return states.translate(WITH_EXCLUSIVE if is_single(counts[0]) else WITHOUT_EXCLUSIVE)
        exclusive = bytes(EXCLUSIVE if is_single(count) else 0 for count in counts)
        return with_bit(states, exclusive)

    def _words(self, frame: int, nr_frames: int) -> memoryview | None:
        if self.note:
            return None
        try:
            if not frame:
                raise PermissionDenied("frame numbers", "CAP_SYS_ADMIN")
            self._file = self._file or FrameWords(self.procfs, "kpagecount")
        except (PermissionDenied, NotSupported) as error:
            self.note = Note("huge-estimate", f"{ESTIMATE} ({error})")
            return None
        words = self._file.read(frame, nr_frames)
        return words if len(words) == nr_frames * WORD_SIZE else None


def is_single(map_count: int) -> bool:
    """Whether the kernel counts such a page as private: mapped less than twice."""
    return map_count < 2


def with_bit(upper: bytes, states: bytes | bytearray) -> bytes:
    """Return the upper bytes of entries with the exclusive bit that the states have."""
    kept = int.from_bytes(upper.translate(WITHOUT_EXCLUSIVE), "little")
    exclusive = int.from_bytes(bytes(states).translate(ONLY_EXCLUSIVE), "little")
    return (kept | exclusive).to_bytes(len(upper), "little")


ONLY_EXCLUSIVE = bytes(byte & EXCLUSIVE for byte in range(256))


def guessed_ranges(block: Block, page_size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of indexes in a block that huge entries may map, where PAGEMAP_SCAN cannot be asked.

    Their frames follow one another and have the alignment of their addresses. Pages that small entries map may look the
    same; to count them does no harm.
    """
    per_table = page_size // ENTRY_SIZE
    least = min(per_table, PACED_BLOCK_SIZE // ENTRY_SIZE)
    first = block.address // page_size
    low = 0
    while low < len(block):
        high = min(len(block), low + per_table - (first + low) % per_table)
        if block.states[low] & (PRESENT | MARK_A) == PRESENT:
            entries = block.entries[low:high].tolist()
            frame = entries[0] & PM_PFRAME
            if not frame:  # hidden from us, in a whole table of equal entries, or as much of it as is read at once
                is_huge = len(entries) >= least and entries == entries[:1] * len(entries)
            else:
                follows = entries == list(range(entries[0], entries[0] + len(entries)))
                is_huge = follows and (frame - first - low) % per_table == 0
            if is_huge:
                yield low, high
        low = high

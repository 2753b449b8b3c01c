"""What is known of frames, through a broker (`mematlas.model.pagetables.served`): for who has no right to know it."""

from __future__ import annotations

from mematlas.arrays import np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mematlas.arrays import Bools, Counts, Words
    from mematlas.kernel.procfs import Lending

NR_FRAMES = 1 << 12
"""Frames of one question."""


class LentFrames:
    """What is known of frames: what `StructPages` is elsewhere."""

    def __init__(self, lender: Lending, reader: str, base: int | None) -> None:
        self.lender = lender
        self.reader = reader
        self.base = base
        """The address of the first struct page, where that is shown."""
        self.nr_read = 0

    def map_counts(self, pfns: Words, question: str = "count_maps_alone") -> Counts:
        """Return how often each frame is mapped; -1 where it is not known."""

        def ask(part: bytes) -> bytes:
            data: bytes
            data, self.nr_read = self.lender.ask(question, self.reader, part)[0]
            return data

        return np.frombuffer(in_parts(ask, pfns), np.int32).copy()

    def are_anonymous(self, pfns: Words) -> Bools:
        """Return which frames belong to no file."""
        found = in_parts(lambda part: self.lender.ask("find_anonymous", self.reader, part)[0], pfns)
        return np.frombuffer(found, np.bool_)

    def are_pinned(self, pfns: Words) -> Bools | None:
        """Return which frames are pinned; None where that is unknown."""
        found = bytearray()
        for at in range(0, len(pfns), NR_FRAMES):
            answer: bytes | None = self.lender.ask("find_pinned", self.reader, pfns[at : at + NR_FRAMES].tobytes())[0]
            if answer is None:
                return None
            found += answer
        return np.frombuffer(bytes(found), np.bool_)

    def table_shares(self, tables: Words) -> Counts:
        """Return how many more processes each page table is part of; -1 where unknown."""
        found = in_parts(lambda part: self.lender.ask("count_shares", self.reader, part)[0], tables)
        return np.frombuffer(found, np.int32)


def in_parts(ask: Callable[[bytes], bytes], numbers: Words) -> bytes:
    """Return the answers about numbers, which are asked about some at a time."""
    return b"".join(ask(numbers[at : at + NR_FRAMES].tobytes()) for at in range(0, len(numbers), NR_FRAMES))

"""How often shared pages are mapped: what PSS needs besides pagemap."""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kpage import FrameWords
from mematlas.model.pages import HIDDEN_FRAMES
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mematlas.kernel.procfs import ProcFS

FRAME_BATCH = 1 << 16
UNREPORTED = -1


def pss_unknown(why: object) -> Note:
    """Return the note that PSS is not known, and why."""
    return Note("pss-unknown", f"PSS unknown with this source: {why}")


class Sharers:
    """How often the shared pages of a VMA are mapped, from kpagecount."""

    def __init__(self, procfs: ProcFS) -> None:
        self.notes = Notes()
        """Why some counts are unknown."""
        self.file: FrameWords | None = None
        try:
            self.file = FrameWords(procfs, "kpagecount")
        except (PermissionDenied, NotSupported) as error:
            self.why = pss_unknown(error)
        self.frames: list[int] = []
        self.counts: dict[int, int] = {}
        self.known = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.file:
            self.file.close()

    def map_counts(self, frames: list[int]) -> list[int]:
        """Return how often each of some shared pages is mapped; `UNREPORTED`, with a note, where nobody says."""
        if 0 in frames:
            self.why = pss_unknown(HIDDEN_FRAMES)
        if self.file is None or 0 in frames:
            self.notes.add(self.why)
        if self.file is None:
            return [UNREPORTED] * len(frames)
        words = self.file.get(filter(None, frames)) | {0: UNREPORTED}
        return [words.get(frame, 0) for frame in frames]

    def begin(self) -> None:
        """Start with the next VMA."""
        self.frames, self.counts, self.known = [], {}, True

    def add(self, frames: list[int]) -> None:
        """Take in the frames of shared pages."""
        if 0 in frames:
            self.why = pss_unknown(HIDDEN_FRAMES)
            self.known = False
        elif self.file is None:
            self.known = False
        else:
            self.frames += frames
            if len(self.frames) >= FRAME_BATCH:
                self._look_up()

    def by_count(self) -> dict[int, int] | None:
        """Return the number of pages of each map count; None when that cannot be known."""
        if not self.known:
            self.notes.add(self.why)
            return None
        self._look_up()
        return self.counts

    def _look_up(self) -> None:
        if self.file and self.frames:
            for map_count, nr_pages in self.file.tally(self.frames).items():
                self.counts[map_count] = self.counts.get(map_count, 0) + nr_pages
            self.frames = []

"""What a capture holds of a process, in memory: for a recording, which keeps of each moment what has changed.

It is taken as a capture is, but for what is recorded as amounts: smaps, and the machine's own files.
"""

from __future__ import annotations

import contextlib
import io
import sys

from mematlas.arrays import np
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.kpage import WORD_SIZE, FrameWords
from mematlas.kernel.newdir import HeldDirectory
from mematlas.kernel.pagemap import PM_PFRAME
from mematlas.kernel.procfs import MACHINE
from mematlas.model.pages import HIDDEN_FRAMES
from mematlas.observe.captures import FRAME_FILES, PROCESS_FILES, Recorder, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from mematlas.arrays import Bytes, Words
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block
    from mematlas.model.pages import PageReader
    from mematlas.model.pagetables.followed import FollowedPages
    from mematlas.observe.captures import Redactor
    from mematlas.observe.following import Following
    from mematlas.observe.process import Process

COUNTED = ("maps", "smaps", "smaps_rollup", "statm")
"""Files that a recording has as rows."""
TEXTS = tuple(name for name in PROCESS_FILES if name not in COUNTED)


UPPERMOST = 7 if sys.byteorder == "little" else 0
"""The byte of a word that has the state of a page."""
WORDS = ("pagemap", *FRAME_FILES)
"""Files of words, of which most stay as they are."""


def with_states(entries: Words, states: Bytes) -> Words:
    """Return entries with the states of their pages in the place of their uppermost bytes, as a capture has them."""
    words = entries.copy()
    words.view(np.uint8)[UPPERMOST::WORD_SIZE] = states
    return words


class Held(HeldDirectory):
    """A directory that is in memory alone."""

    def __init__(self) -> None:
        super().__init__(-1, None)
        self.texts: dict[str, bytes] = {}

    def below(self, name: str) -> HeldDirectory:
        """Make a directory in it: all files are in one here."""
        return self

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """Make a file in it."""
        with io.BytesIO() as file:
            yield file
            self.texts[name] = file.getvalue()


class MomentRecorder(Recorder):
    """Takes what a capture of a process holds, in memory."""

    def __init__(self, process: Process, with_frames: bool, redactor: Redactor | None = None) -> None:
        """With a ``redactor``, take names out."""
        self.held = Held()
        super().__init__(process, self.held, redact=False)
        self.redactor = redactor
        self.with_frames = with_frames
        self.words: dict[str, list[tuple[int, bytes]]] = {}
        """The parts of files of words that hold something, by the names of the files."""
        self._taken: list[tuple[int, bytes]] = []

    def take(self, vmas: list[Vma], followed: Following | None = None) -> dict[str, bytes]:
        """Return its texts, by the names of the files; ``words`` has the rest then.

        Of a process that was ``followed`` to this moment there is no pagemap in it: that is known to who follows it.
        """
        if followed:
            self._note_facts(followed.pages, followed.vmas)
        has_pagemap = followed or "pagemap" in self.words or self._save_pagemap(self.held, vmas)
        if has_pagemap and self.with_frames:
            self._save_words_of_frames(followed.pages.every()[1] if followed else self._words_taken())
        for name in TEXTS:
            self._save_text(self.held, name, self.process.dir)
        self._save_threads(self.held)
        if not self.redactor:
            self._keep_paths(vmas)
        torn = followed.is_torn() if followed else self.process.address_space().vmas != vmas
        return self.held.texts | {MACHINE: text_of(self._facts(torn, None))}

    def take_block(self, reader: PageReader, vma: Vma, block: Block) -> None:
        """Take the pages of a block that somebody else has read, to count them."""
        self._taken += self._marked_parts(reader, vma, block)

    def end_blocks(self, reader: PageReader, vmas: Iterable[Vma]) -> None:
        """Take note that all was read, and of what is not known of it."""
        for vma in vmas:
            self._note_hidden(reader, vma)
        self._note_reader(reader)
        self.words["pagemap"] = self._taken

    def _parts_of(self, block: Block, states: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield all entries of a block: which of them hold something is for who takes them."""
        held = np.frombuffer(states, np.uint8)
        words = with_states(np.frombuffer(block.raw, np.uint64), held)
        if not held.all():
            words[held == 0] = 0
        yield block.address // self.process.page_size * WORD_SIZE, words.tobytes()

    def _note_facts(self, pages: FollowedPages, vmas: Iterable[Vma]) -> None:
        """Take note of what is not known of pages that are followed, and why."""
        for vma in vmas:
            self._note_hidden(pages, vma)
        self.uncertain = list(pages.backings.uncertain)
        self._note_unknown()

    def _words_taken(self) -> Words:
        """Return the words of pagemap that were taken."""
        parts = [np.frombuffer(data, np.uint64) for _, data in self.words["pagemap"]]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def _save_words_of_frames(self, words: Words) -> None:
        """Take the words of the frames that the process maps, given those of its pages."""
        present = words[words >> np.uint64(63) != 0] & np.uint64(PM_PFRAME)
        frames = np.unique(present[present != 0])
        if not len(frames):
            self.notes.add(HIDDEN_FRAMES)
            return
        for name in FRAME_FILES:
            try:
                with FrameWords(self.process.procfs, name) as file:
                    found, _ = file.array(frames)
            except (PermissionDenied, NotSupported) as error:
                self.unreadable[name] = str(error)
                continue
            starts = np.concatenate(([0], np.flatnonzero(np.diff(frames) != 1) + 1)).tolist()
            ends = [*starts[1:], len(frames)]
            self.words[name] = [
                (int(frames[low]) * WORD_SIZE, found[low:high].tobytes())
                for low, high in zip(starts, ends, strict=True)
            ]

    def _save_words(self, directory: HeldDirectory, name: str, parts: Iterable[tuple[int, bytes]]) -> None:
        self.words[name] = list(parts)

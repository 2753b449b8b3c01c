"""What is said beside an answer: why something is unknown, or how a number is to be taken.

A note has a code, by which programs know it, and a text for people. Nobody reads the text back.
"""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self


@record
class Note(Record):
    """One remark.

    >>> print(Note("torn", "VMAs changed during the reading"))
    VMAs changed during the reading
    """

    code: str
    """A slug, such as ``torn`` or ``hidden-frames``. It stays when the text is worded better."""
    text: str

    @classmethod
    def again(cls, code: str, text: str) -> Self:
        """Return a note that was made before, and kept."""
        return cls(code, text)

    def __str__(self) -> str:
        return self.text


class Notes:
    """Collects the notes of one reading: each once, in the order in which they came.

    >>> notes = Notes()
    >>> notes.add(Note("torn", "VMAs changed during the reading"))
    >>> notes += [Note("torn", "VMAs changed during the reading")]
    >>> len(notes), notes.has("torn"), notes.has("hidden-frames")
    (1, True, False)
    """

    __slots__ = ("_notes",)

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._notes = dict.fromkeys(notes)

    def add(self, note: Note) -> None:
        """Add a note, unless it is there already."""
        self._notes[note] = None

    def __iadd__(self, notes: Iterable[Note]) -> Self:
        self._notes.update(dict.fromkeys(notes))
        return self

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes)

    def __len__(self) -> int:
        return len(self._notes)

    def has(self, code: str) -> bool:
        """Whether one of them has this code."""
        return any(note.code == code for note in self._notes)

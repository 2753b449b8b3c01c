"""What a recording holds of a process at a moment: amounts, as one more file of a capture that is made of it.

The kernel's own texts have other units and other parts than what was counted; this has it as it was counted.
"""

from __future__ import annotations

from mematlas.analysis.measures import OF_PROCESS, result_of
from mematlas.analysis.results import Counted, Reading, VmaUsage
from mematlas.analysis.usage import Usage
from mematlas.errors import FormatError, NotHeld, NotSupported, PermissionDenied
from mematlas.frozen import Record, as_dict, fields_of, record
from mematlas.kernel.maps import MAX_CAPTURED_VMAS
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mematlas.analysis.results import UsageResult
    from mematlas.kernel.directory import Directory
    from mematlas.kernel.maps import Vma
    from mematlas.model.address_space import Selection
    from mematlas.model.pages import PageReader
    from mematlas.observe.sources import Sources
    from mematlas.words import State

    First = tuple[State | None, int | None]

NAME = "amounts"
COLUMNS = (*fields_of(Usage), "nr_accessed", "nr_dirty")
MOST_BYTES = 256 << 20
MOST_NOTES = 1000
MOST_TEXT = 1 << 13
SOURCES = frozenset(("smaps", "pagemap", "tables", "smaps_rollup"))


@record
class Recorded(Record):
    """The amounts of the VMAs of a process, as they were recorded."""

    source: str
    """What they were counted by."""
    torn: bool
    notes: tuple[Note, ...]
    rows: dict[tuple[int, int], tuple[int | None, ...]]
    """Of each VMA, by where it begins and ends: one of each of `COLUMNS`."""
    sums: dict[str, int | None] | None = None
    """Where there is nothing of VMAs: the amounts of the process, by the names of `OF_PROCESS`."""

    def usage(self) -> UsageResult | None:
        """Return the amounts of the process; None where there are those of its VMAs."""
        if self.sums is None:
            return None
        return result_of(self.sums, Reading(self.source, 0.0, self.torn, self.notes))


def to_save(
    source: str,
    torn: bool,
    notes: Iterable[Note],
    vmas: Iterable[VmaUsage],
    sums: Mapping[str, int | None] | None = None,
) -> bytes:
    """Return amounts as the text of a file."""
    import json

    rows = []
    for item in vmas:
        amounts = as_dict(item.usage) | {"nr_accessed": item.nr_accessed, "nr_dirty": item.nr_dirty}
        rows.append([item.start, item.end, *map(amounts.get, COLUMNS)])
    told = [[note.code, note.text] for note in notes]
    value: dict[str, object] = {"source": source, "torn": torn, "notes": told, "columns": COLUMNS, "vmas": rows}
    if sums is not None:
        value["sums"] = {name: sums[name] for name in OF_PROCESS}
    return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")


def parse_amounts(data: bytes) -> Recorded:
    """Return the amounts that such a text has.

    >>> from mematlas.analysis.usage import total
    >>> from mematlas.kernel.maps import Vma
    >>> item = VmaUsage(Vma(4096, 8192, "rw-p", 0, "00:00", 0, "", "anon"), total([]), None, None)
    >>> parse_amounts(to_save("smaps", False, [], [item])).rows[4096, 8192][:3]
    (0, 0, 0)

    Raises:
        FormatError: it has none, or ones that cannot be.
    """
    import json

    try:
        value = json.loads(data)
        source, torn, notes, columns, rows = map(value.__getitem__, ("source", "torn", "notes", "columns", "vmas"))
        whole = tuple(Note.again(code, text) for code, text in notes)
        amounts = {(start, end): tuple(row) for start, end, *row in rows}
        sums = value.get("sums")
        are_sums = sums is None or (tuple(sums) == OF_PROCESS and all(map(is_amount, sums.values())))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(NAME, expected="what a recording holds of a process") from None
    are_texts = all(type(text) is str and len(text) <= MOST_TEXT for note in whole for text in (note.code, note.text))
    if (
        type(source) is not str
        or source not in SOURCES
        or type(torn) is not bool
        or not are_texts
        or len(whole) > MOST_NOTES
    ):
        raise FormatError(NAME, expected="how it was read")
    if columns != list(COLUMNS) or len(amounts) > MAX_CAPTURED_VMAS:
        raise FormatError(NAME, expected=f"the columns of version 1, of at most {MAX_CAPTURED_VMAS:,} VMAs")
    if not all(len(row) == len(COLUMNS) and all(map(is_amount, row)) for row in amounts.values()):
        raise FormatError(NAME, expected="amounts of 64 bits")
    if not are_sums or (sums and sums["nr_pages"] is None):
        raise FormatError(NAME, expected="the amounts of a process")
    return Recorded(source, torn, whole, amounts, sums)


def is_amount(value: object) -> bool:
    """Whether this is an amount, or unknown."""
    return value is None or (type(value) is int and 0 <= value < 1 << 64)


def read_recorded(process: Directory) -> Recorded | None:
    """Return what a recording holds of a process; None of a capture that was made otherwise."""
    if not process.captured:
        return None
    try:
        return process.parsed(NAME, parse_amounts, MOST_BYTES)
    except NotHeld:
        return None


def by_record(
    sources: Sources,
    recorded: Recorded,
    selection: Selection,
    pages_of: Callable[[PageReader, Sequence[Vma]], Iterable[First]] | None,
) -> Counted:
    """Return what was recorded of VMAs; and where pages were recorded too, what ``pages_of`` says of their first."""
    vmas = [vma for vma in sources.address_space().vmas if selection.matches(vma)]
    firsts: list[First] = [(None, None)] * len(vmas)
    if pages_of:
        from mematlas.model.pages import PageReader

        try:
            with PageReader(sources.dir, None, cached=False, exclusive=False) as reader:
                firsts = list(pages_of(reader, vmas))
        except (NotSupported, PermissionDenied):
            pass  # they were not recorded
    size = sources.procfs.page_size
    found = [counted(vma, recorded, vma.size // size, *first) for vma, first in zip(vmas, firsts, strict=True)]
    return Counted(source=recorded.source, vmas=found, torn=recorded.torn, notes=Notes(recorded.notes))


def counted(vma: Vma, recorded: Recorded, nr_pages: int, first_state: State | None, phys: int | None) -> VmaUsage:
    """Return a VMA of so many pages with what was recorded of it."""
    row = recorded.rows.get((vma.start, vma.end))
    if row is None or row[COLUMNS.index("nr_pages")] != nr_pages:
        raise FormatError(NAME, expected=f"amounts of the VMA at {vma.start:#x}")
    *amounts, nr_accessed, nr_dirty = row
    return VmaUsage(vma, Usage(*amounts), first_state, phys, nr_accessed, nr_dirty)  # type: ignore[arg-type]

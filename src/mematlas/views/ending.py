"""What ending a process would do: how much, and why."""

from __future__ import annotations

from mematlas.notes import Note, Notes
from mematlas.views.format import first_of, fold_message, format_path, format_seconds
from mematlas.views.table import Column, Drawn, Table
from mematlas.views.usage import WHO, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.analysis.ending import EndingPart, EndingResult
    from mematlas.views.usage import Subject

FATES = (
    ("freed", "at once, if it ended now"),
    ("pool", "back to the hugetlb pools"),
    ("reclaimable", "no longer mapped: reclaimed when memory is short"),
    ("stays", "in use elsewhere, or in a file with a name"),
    ("unknown", "freed, unless a process that we cannot see uses it"),
)

REASONS = {
    ("anon", "alone"): "anonymous memory that it alone maps",
    ("anon", "folio"): "parts of huge pages that others map in part: freed once those are split",
    ("anon", "others"): "anonymous memory that other processes map too",
    ("anon", "slots"): "anonymous memory also in swap, where others may share it",
    ("shmem", "last"): "shared memory without a name that nobody else holds",
    ("shmem", "held"): "shared memory that other processes hold",
    ("shmem", "named"): "files on tmpfs: until they are removed",
    ("shmem", "sysv"): "System V segments: until they are removed (ipcrm)",
    ("shmem", "unseen"): "shared memory without a name: processes that we cannot see may hold it",
    ("shmem", "elsewhere"): "shared memory of a mount or IPC namespace that may end with it",
    ("swap", "alone"): "in swap, of anonymous memory that it alone has",
    ("swap", "last"): "in swap, of shared memory that nobody else holds",
    ("swap", "others"): "in swap, of anonymous memory that other processes have too",
    ("swap", "slots"): "in swap, of anonymous memory that other processes may have too",
    ("tables", "alone"): "page tables",
    ("file", "alone"): "pages of files that nobody else maps",
    ("file", "others"): "pages of files that other processes map too",
    ("hugetlb", "alone"): "huge pages that it alone maps",
    ("hugetlb", "last"): "huge pages of a file without a name that nobody else holds",
    ("hugetlb", "others"): "huge pages that other processes map too",
    ("hugetlb", "held"): "huge pages of a file that other processes hold",
    ("hugetlb", "named"): "huge pages of files on hugetlbfs: until they are removed",
    ("hugetlb", "sysv"): "huge pages of System V segments: until they are removed (ipcrm)",
    ("hugetlb", "unseen"): "huge pages of a file without a name: processes that we cannot see may hold it",
    ("hugetlb", "elsewhere"): "huge pages of a mount or IPC namespace that may end with it",
    ("kernel", "others"): "kernel pages that all processes map ([vdso])",
    ("kernel", "kernel"): "device memory or rings (io_uring, perf): freed with their last descriptor",
    ("all", "same_memory"): "all of it: other processes run in the same address space",
}

ALONE = "each row is of ending that process alone: ended together, they free what only they share as well"


def amount(fate: str) -> Callable[[Subject[EndingResult]], int | None]:
    """Return what gets how much of a result has a fate."""
    return lambda item: item.result.total(fate)


def parts_of(item: Subject[EndingResult]) -> dict[str, int]:
    """Return the size of each part by its name."""
    return {f"{part.fate}_{part.kind}_{part.reason}": part.size for part in item.result.parts}


RANKS = {"unknown": 1, "pool": 2}
"""Fates that a narrow screen may do without."""
COLUMNS: tuple[Column[Subject[EndingResult]], ...] = (
    *WHO,
    *(Column(fate, fate.upper(), "size", amount(fate), rank=RANKS.get(fate, 0)) for fate, _ in FATES),
    Column("distinct", "DISTINCT", "size", lambda item: item.result.distinct, rank=3),
    Column("dirty", "DIRTY", "size", lambda item: item.result.dirty, rank=4),
    Column("parts", "PARTS", "amounts", parts_of, rank=6),
    Column("source", "SOURCE", value=lambda item: item.result.reading.source, rank=5),
)
LINE_COLUMNS: tuple[Column[Line], ...] = (
    Column("fate", "WHAT", value=lambda line: line.measure),
    Column("size", "SIZE", "size"),
    Column("why", "WHY", value=lambda line: line.meaning),
)


def ending_table(results: list[Subject[EndingResult]], more: Iterable[Note] = ()) -> Table:
    """Return what ending would do of one process as lines, of several, each ended alone, as a row each."""
    notes = Notes((*more, *(note for item in results for note in item.result.reading.notes)))
    if len(results) != 1:
        notes.add(Note("each-alone", ALONE))
        return Table("ending/1", COLUMNS, results, notes=notes)
    (item,) = results

    def draw(in_bytes: bool, colour: bool, width: int) -> Iterator[str]:
        reading = item.result.reading
        who = f"{format_path(item.target['name'])}, PID {item.target['pid']}"
        heading = f"{who}: if it ended now, from {reading.source} in {format_seconds(reading.duration_s)}"
        yield from fold_message(heading, width)
        yield from Table("ending/1", LINE_COLUMNS, lines_of(item.result)).lines(
            in_bytes=in_bytes, colour=colour, width=width
        )

    return Drawn("ending/1", COLUMNS, results, target=item.target, notes=notes, draw=draw)


def lines_of(result: EndingResult) -> Iterator[Line]:
    """Yield the lines for people: what becomes of it, and under each the parts that there are."""
    for fate, text in FATES:
        parts = [part for part in result.parts if part.fate == fate]
        if parts or fate != "pool":
            yield Line(fate, result.total(fate), text)
        for part in parts:
            yield Line(f"  {part.kind}", part.size, why(part))
        if fate == "reclaimable" and result.dirty:
            yield Line("  dirty", result.dirty, "of this: to be written to a disk first")
    yield Line("distinct", result.distinct, "resident now, each frame counted once")


def why(part: EndingPart) -> str:
    """Return why a part becomes what it does, and because of whom."""
    text = REASONS[part.kind, part.reason]
    if part.pids:
        text += f": PID {first_of(part.pids)}"
    elif part.paths and part.fate != "freed":
        text += f": {first_of(part.paths)}"
    return text

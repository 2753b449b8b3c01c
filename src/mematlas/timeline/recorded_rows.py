"""What is asked of a recording, and what the answers become: everything in a row may be anybody's, and is checked."""

from __future__ import annotations

from mematlas.analysis.results import VmaUsage
from mematlas.analysis.usage import Usage
from mematlas.errors import FormatError, NotSupported
from mematlas.frozen import Record, record
from mematlas.kernel.maps import KINDS, Vma, is_device, is_perms
from mematlas.timeline.recording_files import MOST_TEXT
from mematlas.timeline.schema import AMOUNTS, AMOUNTS_OF_VMA, USE, unsigned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mematlas.notes import Note

MOST_SIZE = (1 << 63) - 1
"""Bytes of a VMA: no address space of a process is larger, and columns of sizes have signed numbers."""
MOST_POINTS = 300
"""Moments that a series has at the most."""
OF_VMA = ("start", "end", "offset", "inode", "perms", "dev", "path", "kind")
SELECTED = [*(f'vma."{name}"' for name in OF_VMA), *(f'vma_usage."{name}"' for name in (*AMOUNTS_OF_VMA, *USE))]
VMAS_AT = (
    f"SELECT {', '.join(SELECTED)}"
    " FROM vma JOIN vma_usage ON vma_usage.vma = vma.id AND vma_usage.moment ="
    " (SELECT max(moment) FROM vma_usage WHERE vma = vma.id AND moment <= ?)"
    " LEFT JOIN vma_end ON vma_end.vma = vma.id"
    " WHERE vma.process = ? AND vma.moment <= ? AND (vma_end.moment IS NULL OR vma_end.moment > ?) LIMIT ?"
)
"""The VMAs of a process at a moment."""
LAST_PEAK = "coalesce((SELECT max(moment) FROM peak WHERE process = {0}), 0)"
"""The last moment of a process up to which the most RSS is recorded of several together."""
MOST_RSS = (
    "max(coalesce((SELECT max(rss) FROM peak WHERE process = id), 0), coalesce((SELECT max(rss) FROM usage"
    f" WHERE process = id AND moment > {LAST_PEAK.format('id')}), 0))"
)
PROCESSES = (
    "SELECT id, pid, start_time, name, target, process.moment, process_end.moment"
    " FROM process LEFT JOIN process_end ON process_end.process = id"
)


@record
class RecordedProcess(Record):
    """A process of a recording."""

    number: int
    pid: int
    start_time: int
    name: str
    target: str
    """What named it."""
    first: int
    """The moment that it was first seen at."""
    end: int | None
    """The moment that it was found to have ended at; None where it had not."""


@record
class RecordedUsage(Record):
    """What was known of a process at a moment."""

    source: str
    duration_s: float
    torn: bool
    amounts: dict[str, int | None]
    """By the names of `mematlas.timeline.schema.AMOUNTS`."""
    notes: tuple[Note, ...]


def vma_of(path: str, row: Sequence[Any]) -> VmaUsage:
    """Return a VMA and what was in it, of a row of `VMAS_AT`.

    Raises:
        FormatError: it is none.
    """
    *numbers, perms, dev, name, kind = row[:8]
    amounts = row[8:]
    are_texts = all(type(text) is str and len(text) <= MOST_TEXT for text in (perms, dev, name))
    are_numbers = all(type(number) is int for number in numbers)
    if not are_texts or not are_numbers or kind not in KINDS or not (is_perms(perms) and is_device(dev)):
        raise FormatError(path, expected="a VMA")
    if not all(value is None or (type(value) is int and value >= 0) for value in amounts):
        raise FormatError(path, expected="amounts of a VMA")
    start, end, offset, inode = map(unsigned, numbers)
    if not 0 < end - start <= MOST_SIZE:
        raise FormatError(path, expected="a VMA that ends behind its start, in the same half of all addresses")
    vma = Vma(start, end, perms, offset, dev, inode, name, kind)
    usage = Usage(*amounts[: len(AMOUNTS_OF_VMA)])
    nr_accessed, nr_dirty = amounts[len(AMOUNTS_OF_VMA) :]
    return VmaUsage(vma, usage, None, None, nr_accessed, nr_dirty)


def some_of(first: int, last: int, most: int = MOST_POINTS) -> Sequence[int]:
    """Return moments from one to another: all, or so many of them, with the first and the last.

    >>> list(some_of(3, 6)), len(some_of(1, 100_000)), list(some_of(1, 100_000))[-1]
    ([3, 4, 5, 6], 300, 100000)
    """
    nr = last - first + 1
    if nr <= most:
        return range(first, last + 1)
    return [first + (nr - 1) * number // (most - 1) for number in range(most)]


def column(measure: str) -> str:
    """Return the column of a measure, by its name: nothing else gets into a statement."""
    if measure not in AMOUNTS:
        raise NotSupported(f"{measure} in recordings")
    return measure


def amount_at(measure: str) -> str:
    """Return what selects an amount of each process at a moment, with its PID and its start.

    >>> amount_at("uss; DROP TABLE usage")
    Traceback (most recent call last):
    mematlas.errors.NotSupported: uss; DROP TABLE usage in recordings: not supported here
    """
    return (
        f'SELECT pid, start_time, (SELECT "{column(measure)}" FROM usage WHERE usage.process = process.id'
        " AND usage.moment <= ?1 ORDER BY usage.moment DESC LIMIT 1) FROM process"
        " LEFT JOIN process_end ON process_end.process = process.id"
        " WHERE process.moment <= ?1 AND (process_end.moment IS NULL OR process_end.moment > ?1) LIMIT ?2"
    )

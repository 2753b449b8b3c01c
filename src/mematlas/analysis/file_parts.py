"""What several processes have of the same files of memory, each part of a file once.

Of shared memory in swap, and of huge pages, no process has a share of its own as it has of PSS: each that maps a file
reports all of it. Which files they map, and which parts of these, tells what they have together.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Part = tuple[str, int, int, int, int]
    """A part of a file, or of a swap area: its device and inode as maps has them, the first byte and the one behind the
    last, and how many bytes of that are meant: in swap, or in huge pages."""

MOST_PARTS = 256
"""Parts that are kept of a process: what it tells of them is one message."""


def bounded(parts: Iterable[Part], pid: int) -> list[Part]:
    """Return the parts of a process, no more than `MOST_PARTS`: of more, those of one file count as one.

    Of yet more files the smallest count as one that nobody else maps, which has ``pid`` for a name.

    >>> bounded([("0:1", 7, 0, 8, 4), ("0:1", 7, 8, 16, 8)], 1)
    [('0:1', 7, 0, 8, 4), ('0:1', 7, 8, 16, 8)]
    """
    parts = list(parts)
    if len(parts) <= MOST_PARTS:
        return parts
    files: dict[tuple[str, int], tuple[int, int, int]] = {}
    for device, inode, start, end, size in parts:
        low, high, known = files.get((device, inode), (start, end, 0))
        files[device, inode] = min(low, start), max(high, end), known + size
    whole = [(*file, low, high, min(size, high - low)) for file, (low, high, size) in files.items()]
    whole.sort(key=lambda part: part[-1], reverse=True)
    rest = sum(part[-1] for part in whole[MOST_PARTS - 1 :])
    return [*whole[: MOST_PARTS - 1], ("", pid, 0, rest, rest)] if rest else whole


def together(parts: Iterable[Part]) -> int:
    """Return the bytes of parts of files, each once: where some overlap, what most is said to be of.

    >>> together([("0:1", 7, 0, 8, 8), ("0:1", 7, 4, 16, 6), ("0:1", 9, 0, 8, 8)])   # 8 and half of 8; and 8
    20
    """
    files: dict[tuple[str, int], dict[tuple[int, int], int]] = {}
    for device, inode, start, end, size in parts:
        sizes = files.setdefault((device, inode), {})
        sizes[start, end] = max(sizes.get((start, end), 0), size)
    return sum(map(of_one_file, files.values()))


def of_one_file(sizes: dict[tuple[int, int], int]) -> int:
    """Return the bytes of parts of one file, given what is meant of each by its ends."""
    from heapq import heappop, heappush
    from itertools import pairwise

    parts = sorted((start, end, size / (end - start)) for (start, end), size in sizes.items() if start < end)
    ends = sorted({end for part in parts for end in part[:2]})
    densest: list[tuple[float, int]] = []  # of the parts that are here; with what they are negative by
    total, index = 0.0, 0
    for low, high in pairwise(ends):
        while index < len(parts) and parts[index][0] <= low:
            heappush(densest, (-parts[index][2], parts[index][1]))
            index += 1
        while densest and densest[0][1] <= low:
            heappop(densest)
        if densest:
            total -= densest[0][0] * (high - low)
    return round(total)

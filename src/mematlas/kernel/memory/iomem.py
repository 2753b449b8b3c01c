"""/proc/iomem: which frames are RAM.

Format: Documentation/filesystems/proc.rst; kernel/resource.c.
"""

from __future__ import annotations

from bisect import bisect_right

from mematlas.errors import FormatError, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Bools, Words
    from mematlas.kernel.procfs import ProcFS


class RamRanges:
    """Which physical addresses are System RAM, by /proc/iomem.

    >>> ram = RamRanges([(0x1000, 0xA0000), (0x100000, 0x8000000)])
    >>> 0x2000 in ram, 0xB0000 in ram
    (True, False)
    """

    def __init__(self, ranges: list[tuple[int, int]], memory_end: int = 0) -> None:
        self.ranges = sorted(ranges)
        self.end = max((end for _, end in ranges), default=0)
        self.memory_end = max(self.end, memory_end)
        self.size = sum(end - start for start, end in ranges)
        self._starts = [start for start, _ in self.ranges]
        self._edges: Words | None = None

    def __contains__(self, address: int) -> bool:
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and address < self.ranges[index][1]

    def contain(self, addresses: Words) -> Bools:
        """Return which addresses are RAM. Between an odd and an even edge lies a range."""
        from mematlas.arrays import np

        if self._edges is None:
            self._edges = np.array([edge for pair in self.ranges for edge in pair], np.uint64)
        inside: Bools = np.searchsorted(self._edges, addresses, side="right") & 1 == 1
        return inside


def parse_iomem(data: bytes, names: tuple[str, ...] = ("System RAM",)) -> list[tuple[int, int]]:
    """Return the ranges of System RAM, half-open, in the order of the file; ranges that touch become one."""
    ranges: list[tuple[int, int]] = []
    for line in data.decode("utf-8", "replace").split("\n"):
        span, _, what = line.strip().partition(" : ")
        if not what.startswith(names):
            continue
        try:
            first, last = (int(word, 16) for word in span.split("-"))
        except ValueError:
            raise FormatError("/proc/iomem", line) from None
        if ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], last + 1)
        else:
            ranges.append((first, last + 1))
    return ranges


def read_ram(procfs: ProcFS) -> RamRanges:
    """Return the ranges of System RAM.

    Raises:
        PermissionDenied: nothing says where RAM is.
    """
    data = procfs.read("iomem")
    ranges = parse_iomem(data)
    if not ranges or max(end for _, end in ranges) <= 1:
        # Without CAP_SYS_ADMIN every address is shown as 0 (kernel/resource.c). Blocks of memory are no secret; they
        # are coarser: a block that is RAM in part counts as RAM.
        from mematlas.kernel.memory.memory_blocks import read_memory_blocks

        ranges = read_memory_blocks()
        if not ranges:
            raise PermissionDenied(f"{procfs.root}/iomem", "CAP_SYS_ADMIN")
        return RamRanges(ranges)
    # Pages of persistent and of CXL memory are mapped like any others, but hold no tables.
    others = parse_iomem(data, ("Persistent Memory", "Soft Reserved", "CXL"))
    return RamRanges(ranges, max((end for _, end in others), default=0))

"""/proc/buddyinfo: the free memory of each zone, by the size of its pieces.

Format: proc_buddyinfo(5); mm/vmstat.c, frag_show_print(). The n-th number counts the free blocks of 2^n pages.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS


def read_free_blocks(procfs: ProcFS) -> list[int]:
    """Return how many free blocks of each order there are in all zones together."""
    return procfs.parsed("buddyinfo", parse_buddyinfo)


def parse_buddyinfo(data: bytes) -> list[int]:
    """Return the sums by order in the text of a buddyinfo file.

    >>> parse_buddyinfo(b"Node 0, zone   Normal     3     0     7 \\nNode 0, zone  Movable     1     2     0 \\n")
    [4, 2, 7]
    """
    total: list[int] = []
    for line in data.split(b"\n"):
        if not line:
            continue
        try:
            counts = [int(word) for word in line.partition(b"zone")[2].split()[1:]]
        except ValueError:
            raise FormatError("buddyinfo", line.decode("utf-8", "replace")) from None
        total += [0] * (len(counts) - len(total))
        for order, count in enumerate(counts):
            total[order] += count
    return total

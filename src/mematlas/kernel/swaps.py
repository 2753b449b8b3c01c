"""/proc/swaps: where anonymous memory can go.

Format: proc_swaps(5); mm/swapfile.c, swap_show(). Sizes are in kB, less the header page.
"""

from __future__ import annotations

from mematlas.errors import FormatError
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mematlas.kernel.procfs import ProcFS


ESCAPES = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\134": b"\\"}
"""How the kernel writes what would end a path; the backslash is the last to be put back."""


@record
class SwapArea:
    """One swap device or file, in bytes."""

    path: str
    kind: str
    """``partition`` (any block device, zram too) or ``file``."""
    size: int
    used: int
    priority: int


def read_swaps(procfs: ProcFS) -> list[SwapArea]:
    """Return the swap areas in use; none means that anonymous memory has nowhere to go."""
    return procfs.parsed("swaps", parse_swaps)


def parse_swaps(data: bytes) -> list[SwapArea]:
    """Return the swap areas that the text of a swaps file lists."""
    return [parse_swap(line) for line in data.split(b"\n")[1:] if line]


def unescape(path: bytes) -> str:
    """Return a path that the kernel has written without blanks, here or in mountinfo.

    >>> unescape(b"/a\\\\040b\\\\134\\\\134")
    '/a b\\\\\\\\'
    """
    for escape, character in ESCAPES.items():
        path = path.replace(escape, character)
    return path.decode("utf-8", "surrogateescape")


def parse_swap(line: bytes) -> SwapArea:
    """Return one swap area. Blanks in its path are escaped, so splitting at blanks is safe."""
    try:
        path, kind, size, used, priority = line.split()
        return SwapArea(
            path=unescape(path),
            kind=kind.decode("ascii"),
            size=int(size) * 1024,
            used=int(used) * 1024,
            priority=int(priority),
        )
    except ValueError:
        raise FormatError("swaps", line.decode("utf-8", "replace")) from None


def free_swap(areas: Iterable[SwapArea]) -> int:
    """Return the bytes of swap that are free."""
    return sum(area.size - area.used for area in areas)


def zram_ratio(path: str) -> float | None:
    """Return how many bytes a zram device holds in one byte of memory; None for others, and while it is empty.

    Format: Documentation/admin-guide/blockdev/zram.rst, mm_stat: orig_data_size, compr_data_size, mem_used_total.
    """
    name = path.rpartition("/")[2]
    if not name.startswith("zram"):
        return None
    try:
        with open(f"/sys/block/{name}/mm_stat", "rb") as file:
            original, _, used, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return None
    return original / used if original and used else None

"""/proc/vmstat: counters of the memory management, by name.

Format: Documentation/admin-guide/mm; mm/vmstat.c.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS


def read_vmstat(procfs: ProcFS) -> dict[str, int]:
    """Return the counters; what they count is of each its own, pages mostly.

    >>> from mematlas.kernel.procfs import ProcFS
    >>> read_vmstat(ProcFS())["nr_free_pages"] > 0
    True
    """
    return procfs.parsed("vmstat", parse_vmstat)


def parse_vmstat(data: bytes) -> dict[str, int]:
    """Return the counters in the text of a vmstat file.

    >>> parse_vmstat(b"nr_free_pages 4629\\nnr_memmap_boot_pages 98304\\n")
    {'nr_free_pages': 4629, 'nr_memmap_boot_pages': 98304}
    """
    counters = {}
    for line in data.split(b"\n"):
        name, _, number = line.partition(b" ")
        if not name:
            continue
        digits = number.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 20:
            raise FormatError("vmstat", line[:200].decode("utf-8", "replace"), expected="NAME NUMBER")
        counters[name.decode("ascii", "replace")] = int(number)
    return counters

"""/proc/zoneinfo: each zone of RAM, with the free pages that each CPU keeps for itself.

Format: Documentation/filesystems/proc.rst; mm/vmstat.c, zoneinfo_show_print(). Those pages are no part of MemFree, nor
of MemAvailable; since Linux commit 90b41691b988 ("mm: add framework for PCP high auto-tuning") (in v6.7) they may be
many.
"""

from __future__ import annotations

from mematlas.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

COUNT = b"count:"


def read_cpu_free(procfs: ProcFS) -> int:
    """Return the bytes of all pages that CPUs keep free for themselves."""
    return procfs.parsed("zoneinfo", parse_cpu_free) * procfs.page_size


def parse_cpu_free(data: bytes) -> int:
    """Return the number of such pages in the text of a zoneinfo file.

    >>> parse_cpu_free(b"Node 0, zone   DMA\\n  pagesets\\n    cpu: 0\\n      count:    7\\n      high: 9\\n")
    7
    """
    try:
        counts = (line for line in data.split(b"\n") if line.lstrip().startswith(COUNT))
        return sum(int(line.split()[1]) for line in counts)
    except (ValueError, IndexError):
        raise FormatError("zoneinfo", expected="count: NUMBER") from None

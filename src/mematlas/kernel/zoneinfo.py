"""/proc/zoneinfo: each zone of RAM, with the frames it spans and the free pages that each CPU keeps for itself.

Format: Documentation/filesystems/proc.rst; mm/vmstat.c, zoneinfo_show_print(). What CPUs keep is no part of MemFree,
nor of MemAvailable; since Linux commit 90b41691b988 ("mm: add framework for PCP high auto-tuning") (in v6.7) it may be
much.
"""

from __future__ import annotations

from mematlas.errors import FormatError
from mematlas.frozen import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcFS

    Span = tuple[int, int, int]
    """First frame, first frame after it, node."""

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


@record
class Zone:
    """A zone with memory."""

    node: int
    name: str
    start_pfn: int
    spanned: int
    """Frames from there on, those of other nodes and holes among them."""


def read_zones(procfs: ProcFS) -> list[Zone]:
    """Return the zones with memory."""
    return procfs.parsed("zoneinfo", parse_zones)


def read_zone_spans(procfs: ProcFS) -> list[Span]:
    """Return the frames that each zone with memory spans, with its node."""
    return procfs.parsed("zoneinfo", parse_zone_spans)


def parse_zone_spans(data: bytes) -> list[Span]:
    """Return the frames that each zone with memory spans, with its node. Zones of two nodes may overlap.

    >>> parse_zone_spans(b"Node 1, zone   Normal\\n        spanned  64\\n  start_pfn:           128\\n")
    [(128, 192, 1)]
    """
    return [(zone.start_pfn, zone.start_pfn + zone.spanned, zone.node) for zone in parse_zones(data)]


def parse_zones(data: bytes) -> list[Zone]:
    """Return the zones with memory in the text of a zoneinfo file.

    >>> parse_zones(b"Node 1, zone   Normal\\n        spanned  64\\n  start_pfn:           128\\n")
    [Zone(node=1, name='Normal', start_pfn=128, spanned=64)]
    """
    zones: list[Zone] = []
    node = spanned = 0
    name = ""
    for line in data.split(b"\n"):
        words = line.split()
        try:
            if line.startswith(b"Node "):
                node, spanned = int(words[1].rstrip(b",")), 0
                name = words[-1].decode("ascii", "replace")
            elif words[:1] == [b"spanned"]:
                spanned = int(words[1])
            elif words[:1] == [b"start_pfn:"] and spanned:
                zones.append(Zone(node, name, int(words[1]), spanned))
        except (IndexError, ValueError):
            raise FormatError("zoneinfo", line.decode("utf-8", "replace")) from None
    return zones

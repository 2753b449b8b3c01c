"""What a look at all memory of a process would cost us, by what it is read from, in seconds of processor time.

Estimated from what the process's counters say, by what was measured on 6.18 (docs/performance.md). It chooses between
sources that report the same, so a factor of two does no harm.
"""

from __future__ import annotations

from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.pagemap import ENTRY_SIZE, PAGE_IS_PRESENT, Pagemap
from mematlas.kernel.status import read_memory_status, status_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir

PAGEMAP_PAGE, LONELY_PAGE, CLUSTER = 40e-9, 1.7e-6, 10e-6
"""Pagemap: a page among others, one that lies far from the next, and a table that holds some together."""
SHARED_PAGE = 250e-9
"""What pagemap leaves to kpagecount: how often a page is mapped that others may map too."""
HOLE_PAGE = 4e-9
"""A page that is not there, where no PAGEMAP_SCAN finds the next one."""
COUNT_START, COUNT_PAGE, COUNT_TABLE = 8e-3, 17e-9, 0.8e-6
"""Page tables that are counted in the kernel."""
READ_START, READ_PAGE, READ_TABLE = 0.12, 60e-9, 3e-6
"""Page tables that are read and decoded, with numpy."""
MANY_HOLES = 1 << 36
"""Bytes of addresses from which on it matters whether holes can be passed over."""


@record
class Costs:
    """Seconds of processor time."""

    pagemap: float
    shared: float
    """Besides, where it matters how often a page is mapped."""
    counts: float
    """By page tables, counted in the kernel."""
    reads: float
    """By page tables, read."""


def costs_of(process: ProcessDir) -> Costs:
    """Return what counting the pages of a process would cost."""
    status = read_memory_status(process)
    page_size = process.procfs.page_size

    def pages(*names: str) -> int:
        return sum(status_bytes(status, name) or 0 for name in names) // page_size

    nr_pages, nr_shared = pages("VmRSS", "VmSwap"), pages("RssFile", "RssShmem")
    nr_tables = (status_bytes(status, "VmPTE") or 0) // page_size
    per_table = nr_pages / nr_tables if nr_tables else 0
    pagemap = nr_pages * PAGEMAP_PAGE
    if per_table < page_size // ENTRY_SIZE / 2:  # less than half full
        pagemap += nr_tables * (LONELY_PAGE if per_table < 8 else CLUSTER)
    size = status_bytes(status, "VmSize") or 0
    if size >= MANY_HOLES and not passes_over_holes(process):
        pagemap += size // page_size * HOLE_PAGE
    return Costs(
        pagemap=pagemap,
        shared=nr_shared * SHARED_PAGE,
        counts=COUNT_START + nr_pages * COUNT_PAGE + nr_tables * COUNT_TABLE,
        reads=READ_START + nr_pages * READ_PAGE + nr_tables * READ_TABLE,
    )


def passes_over_holes(process: ProcessDir) -> bool:
    """Whether PAGEMAP_SCAN (since Linux 6.7) finds the next page for us."""
    try:
        with Pagemap(process) as pagemap:
            pagemap.scanner.first(0, process.procfs.page_size, PAGE_IS_PRESENT)
    except (NotSupported, PermissionDenied):
        return False
    return True

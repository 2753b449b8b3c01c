"""What `mematlas.observe.process.Process` returns, and how it came about."""

from __future__ import annotations

from mematlas.analysis.usage import HasUsage
from mematlas.frozen import Record, Tabular, record
from mematlas.notes import Note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.owners import Owner
    from mematlas.analysis.usage import Usage
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import Hold
    from mematlas.model.folio_sizes import FolioSizes
    from mematlas.model.nodes import Sizes
    from mematlas.notes import Notes
    from mematlas.words import State


TORN = Note("torn", "torn: VMAs changed while they were read, so the numbers do not belong to one moment")
TORN_OURSELVES = Note("torn", "torn: the process reads itself, which takes memory: its VMAs changed meanwhile")


@record
class Reading(Record):
    """How a result came about."""

    source: str
    """``smaps``, ``pagemap`` or ``tables``; ``smaps_rollup`` for sums alone."""
    duration_s: float
    torn: bool
    """Whether the VMAs changed meanwhile, so that the numbers are not of a single moment."""
    notes: tuple[Note, ...]
    """Why something is unknown: each reason once."""
    reader: str | None = None
    """What page tables were read with."""
    hold: Hold | None = None
    """For how long smaps held up the target, where it was read from a running process."""


WITH_FRAME = frozenset(("present", "zero"))
"""The states of pages that have a physical address."""


@record
class VmaUsage(HasUsage, Record):
    """One VMA with what of it is in memory."""

    vma: Vma
    usage: Usage
    first_state: State | None
    """The state of its first page, one of `mematlas.model.pages.STATES`; None when it could not be read."""
    phys: int | None
    """Physical address of its first page; None unless that is present and the reader may know."""
    nr_accessed: int | None = None
    """Pages whose entry has the accessed bit: used since the kernel last looked. Only page tables show that. Of memory
    that its program tracks (userfaultfd RWP), smaps and PAGEMAP_SCAN show what was used since it was protected.
    """
    nr_dirty: int | None = None
    """Pages whose entry has the dirty bit: written to since they were last clean."""
    nodes: Sizes | None = None
    """Bytes by NUMA node of what is resident, and of hugetlb pages; under None, on a node that is not known. None
    unless asked for."""
    owner: Owner | None = None
    """Who made it, and how that is known. None unless asked for."""

    @property
    def start(self) -> int:
        """Its first address."""
        return self.vma.start

    @property
    def end(self) -> int:
        """First address after it."""
        return self.vma.end

    @property
    def size(self) -> int:
        """Bytes of address space, whether memory stands behind them or not."""
        return self.vma.size

    @property
    def perms(self) -> str:
        """``r`` ``w`` ``x``, each or ``-``, then ``p`` or ``s``."""
        return self.vma.perms

    @property
    def kind(self) -> str:
        """One of `mematlas.kernel.maps.KINDS`."""
        return self.vma.kind

    @property
    def path(self) -> str:
        """As the kernel shows it; empty for unnamed anonymous memory."""
        return self.vma.path

    @property
    def is_phys_hidden(self) -> bool:
        """Whether its first page has a physical address that the reader may not know."""
        return self.phys is None and self.first_state in WITH_FRAME


@record
class Counted:
    """The VMAs of a process as one source counted them."""

    source: str
    vmas: list[VmaUsage]
    torn: bool
    notes: Notes
    """What is unknown, and why."""


@record
class MapsResult(Tabular, Record):
    """The VMAs of a process, and how they were read."""

    vmas: list[VmaUsage]
    reading: Reading
    nodes: tuple[int, ...] = ()
    """The NUMA nodes that have memory, when amounts by node were asked for."""


@record
class Counters(Record):
    """What the kernel counts of a process as it goes, in bytes; None where it does not report them."""

    nr_vmas: int | None
    size: int | None
    """Of all VMAs (VmSize)."""
    peak_size: int | None
    """The most that this has been (VmPeak)."""
    peak_rss: int | None
    """The most that RSS has been (VmHWM); the kernel counts in lots, so it may be some pages behind."""
    locked: int | None
    """Of VMAs that mlock holds in RAM (VmLck)."""
    pinned: int | None
    """Held in place by drivers, io_uring or RDMA (VmPin). Pages pinned twice count twice."""
    ksm: int | None
    """The part of RSS that KSM has merged with equal pages (ksm_stat)."""


@record
class UsageResult(HasUsage, Tabular, Record):
    """The memory of a process, and how it was read."""

    usage: Usage
    tables: int | None
    """Bytes of page tables (VmPTE)."""
    reading: Reading
    nodes: Sizes | None = None
    """Bytes by NUMA node, when asked for: every node with memory, and under None what is not known. They add up to
    RSS and hugetlb."""
    distinct: int | None = None
    """Bytes of RSS with each frame counted once; None unless asked for, and where frames are hidden."""
    counters: Counters | None = None
    folios: FolioSizes | None = None
    """When asked for."""

"""What `mematlas.observe.pagetables.PageTables` returns, and how it came about."""

from __future__ import annotations

from typing import Generic, TypeVar

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mematlas.analysis.pagetables.audit import Finding
    from mematlas.analysis.pagetables.compare import Check, Disagreement
    from mematlas.analysis.pagetables.regions import Region
    from mematlas.analysis.pagetables.summary import Summary
    from mematlas.analysis.pagetables.tables import TableMap, TreeNode
    from mematlas.arrays import Words
    from mematlas.model.pagetables.entries import PagingMode
    from mematlas.model.pagetables.walk import WalkStep
    from mematlas.notes import Note

Item = TypeVar("Item")


@record
class Origin:
    """Which page tables are read, and with what."""

    reader: str
    mode: PagingMode
    half: str
    """``user`` or ``kernel``."""
    pgd: int | None
    """The physical address of the top table; None in a recording, which does not have it."""
    memory_end: int
    """Where memory ends; 0 in a recording."""


@record
class WalkReading:
    """How a result of page tables came about."""

    origin: Origin
    duration_s: float
    torn: bool
    """Whether some tables changed each time they were read: they are left out."""
    notes: tuple[Note, ...] = ()


class Stream(Generic[Item]):
    """Items that are read while they are taken, once; ``reading`` says how that went, and is None before the end."""

    def __init__(self, origin: Origin, items: Iterable[Item], finish: Callable[[], WalkReading]) -> None:
        self.origin = origin
        self.reading: WalkReading | None = None
        self._items = items
        self._finish = finish

    def __iter__(self) -> Iterator[Item]:
        yield from self._items
        self.reading = self._finish()


@record
class WalkedAddress:
    """How one address is translated, beside what pagemap says of its page."""

    address: int
    steps: tuple[WalkStep, ...]
    pagemap: int | None
    """The page's entry there; None where pagemap may not be read, and in the kernel half."""
    reason: str | None
    """What differs; empty when nothing does, None when nothing was compared. `hidden`: pagemap shows us no frame."""
    area: str
    """The VMA's path, or the region of the kernel half."""


@record
class WalkedAddresses(Record):
    """How addresses are translated, in the order asked."""

    items: tuple[WalkedAddress, ...]
    reading: WalkReading


@record
class MappedRegion:
    """A region of the kernel half."""

    region: Region
    mapped: int
    """Bytes mapped in it."""


@record
class KernelMap:
    """The kernel half: its regions, and whether the direct map maps all RAM."""

    regions: tuple[MappedRegion, ...]
    others: int
    """Bytes mapped outside of all regions."""
    direct_map: int
    """Bytes mapped there."""
    ram: int
    unmapped_ram: int
    """Bytes of RAM that it leaves out."""


@record
class SummaryResult(Record):
    """How many tables and leaves there are, and what they cost."""

    counted: Summary
    reserve: int | None
    """Bytes of tables that hold nothing yet: kept aside, one for each huge page, to split it with."""
    kernel: KernelMap | None
    """Of the kernel half."""
    reading: WalkReading


@record
class RawTable:
    """One table as it stands in memory."""

    level: int
    number: int | None
    """Which of its level it is, in the order of addresses; None where it was found by an address."""
    address: int
    """The first that it translates."""
    table: int
    """Its physical address."""
    entries: Words


@record
class TableTree(Record):
    """Every table, each before those below it."""

    nodes: list[TreeNode]
    reading: WalkReading


@record
class MappedTables:
    """The same as columns."""

    map: TableMap
    reading: WalkReading


@record
class AuditResult(Record):
    """What is dangerous, or maps the same memory with different rights."""

    findings: list[Finding]
    halves: tuple[str, ...]
    """Those that were looked at."""
    reading: WalkReading

    @property
    def nr_bad(self) -> int:
        """How many are not harmless."""
        return sum(not finding.is_harmless for finding in self.findings)


@record
class Verification(Record):
    """The result of a comparison with the kernel's own numbers."""

    checks: tuple[Check, ...]
    pages: tuple[Disagreement, ...]
    """Pages of which pagemap says something else."""
    reading: WalkReading

    @property
    def unexplained(self) -> list[str]:
        """What differs without a reason that is no error."""
        return [check.what for check in self.checks if not check.is_explained]

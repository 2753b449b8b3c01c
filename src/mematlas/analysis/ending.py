"""What ending a process would do to the memory that it uses: the parts, and what becomes of each."""

from __future__ import annotations

from mematlas.frozen import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.results import Reading

FATES = ("freed", "pool", "reclaimable", "stays", "unknown")
"""What becomes of memory:

freed        at once: RAM, swap space and page tables that nothing else needs
pool         huge pages go back to their pool, which keeps them
reclaimable  nobody maps it any more, and the kernel takes it back when it needs room
stays        others use it, or it belongs to a file that has a name
unknown      freed, unless somebody holds it whom we cannot see
"""

KINDS = ("anon", "shmem", "swap", "tables", "file", "hugetlb", "kernel", "all")
"""What memory it is; ``all`` where one reason holds for everything."""

REASONS = (
    *("alone", "last", "folio", "others", "held", "named", "sysv", "unseen", "elsewhere", "slots", "kernel"),
    "same_memory",
)
"""Why it becomes that:

alone        no other process maps it
last         no other process maps its file or has it open, and the file has no name
folio        of a huge page of which others map another part: freed when the kernel splits it
others       other processes map it too
held         other processes map its file or have it open
named        it belongs to a file that has a name, on a mounted file system
sysv         it is a System V segment, which nobody has removed
unseen       processes that we cannot see may map its file or have it open
elsewhere    its file system, or its IPC namespace, is none of ours, and may end with the process
slots        other processes may have the same swap slots
kernel       it belongs to a device or to the kernel (io_uring, perf), and goes with its last descriptor
same_memory  other processes run in the same address space
"""


@record
class EndingPart(Record):
    """Memory of one kind that becomes the same for the same reason."""

    fate: str
    """One of `FATES`."""
    kind: str
    """One of `KINDS`."""
    reason: str
    """One of `REASONS`."""
    size: int
    """Bytes."""
    pids: tuple[int, ...] = ()
    """The processes that are the reason, as far as they are known."""
    paths: tuple[str, ...] = ()
    """The files concerned, as the process's maps name them."""


@record
class EndingResult(Record):
    """What ending a process would do, in bytes, and how that was found out.

    The parts may be more than ``distinct``: a file of memory goes as a whole, pages that this process never touched and
    swap included.
    """

    parts: tuple[EndingPart, ...]
    distinct: int
    """Resident, each frame counted once."""
    dirty: int
    """The part of ``reclaimable`` that is to be written to a disk first."""
    reading: Reading

    def total(self, fate: str) -> int:
        """Return the bytes of which this becomes."""
        return sum(part.size for part in self.parts if part.fate == fate)

    @property
    def freed(self) -> int:
        """Bytes that are free at once."""
        return self.total("freed")

    @property
    def pool(self) -> int:
        """Bytes that go back to the hugetlb pools."""
        return self.total("pool")

    @property
    def reclaimable(self) -> int:
        """Bytes that the kernel takes back when it needs room."""
        return self.total("reclaimable")

    @property
    def stays(self) -> int:
        """Bytes that remain in use."""
        return self.total("stays")

    @property
    def unknown(self) -> int:
        """Bytes that are freed unless somebody whom we cannot see holds them."""
        return self.total("unknown")


@record
class DistinctResult(Record):
    """Resident memory with each frame counted once, and how it was read."""

    distinct: int
    """Bytes."""
    reading: Reading


def private_slots(nr_slots: int, swap_pss: int, page_size: int) -> tuple[int, int]:
    """Return the least and the most of these swap slots that no other process has, by what SwapPss says of them.

    A slot of one process counts in full there, one of several half or less: with n of the first and m of the others
    SwapPss is at most n + m/2 pages, and at least n. The kernel rounds it down to 1 KiB.

    >>> private_slots(100, 100 * 4096, 4096), private_slots(100, 50 * 4096, 4096), private_slots(100, 75 * 4096, 4096)
    ((100, 100), (0, 50), (50, 75))
    """
    most = min((swap_pss + 1023) // page_size, nr_slots)
    least = -(-(2 * swap_pss - nr_slots * page_size) // page_size)
    return min(max(least, 0), most), most

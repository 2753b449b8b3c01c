"""What a set of processes uses as one thing."""

from __future__ import annotations

from mematlas.frozen import Record, Tabular, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.analysis.charge import Charge
    from mematlas.analysis.results import Reading


@record
class SetUsage(Tabular, Record):
    """The memory of several processes, in bytes, with each page counted once; None is "not known".

    Without the right to see frames only what adds up is known: PSS, and the sum of RSS.
    """

    name: str
    """What named them: ``name:postgres``, or what was given."""
    pids: tuple[int, ...]
    """All that it named."""
    rss: int | None
    """Resident: what any of them maps, each page once."""
    anon: int | None
    """The part of RSS that belongs to no file."""
    file: int | None
    """The part that belongs to files on disk."""
    shmem: int | None
    """The part that is shared memory."""
    pss: int | None
    """Each page divided by how often it is mapped, added up: what others map too counts in part."""
    uss: int | None
    """Pages that nobody else maps."""
    swap: int | None
    """Each slot once; without the right to see slots, of those of private memory the part that is theirs."""
    hugetlb: int | None
    """Pages of the hugetlb pools, each once; no part of RSS."""
    tables: int | None
    """Page tables of all."""
    rss_sum: int | None
    """RSS as adding up that of each gives it, where what they share counts many times."""
    reading: Reading
    cgroup: str | None = None
    """The one cgroup that they are, as /proc/PID/cgroup has it; None where they were named by something else."""
    unseen: tuple[int, ...] = ()
    """Those of them that we may not look at: their memory is no part of this."""
    same_memory: dict[int, int] | None = None
    """Those that run in the address space of another one, which counts once, and of which."""
    charge: Charge | None = None
    """What the one cgroup that they are is charged; None where they are none, or it is not known."""

    @property
    def nr_processes(self) -> int:
        """How many processes it names."""
        return len(self.pids)

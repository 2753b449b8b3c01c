"""Several processes together: what they have of RAM and swap, with each page and each slot counted once.

Each process is read once, however many of the sets it is in. What is kept of it is its frames, which are added to those
of its sets: memory is for the distinct frames, not for the processes.
"""

from __future__ import annotations

from mematlas.analysis.ram import total_of
from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.frozen import Record, record, replace
from mematlas.kernel.backing import KnownBackings
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.pagemap import BEHIND_MARKER, PM_PFRAME, PRESENT, SWAP, UNKNOWN
from mematlas.kernel.status import read_memory_status, status_bytes
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.model.shared_mm import AddressSpaces
from mematlas.notes import Notes
from mematlas.observe.sources import MAX_STALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from mematlas.arrays import NDArray, Words
    from mematlas.kernel.backing import Backing
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.pagemap import Block, Entries
    from mematlas.kernel.scattered import Scattered
    from mematlas.model.tally import FrameSharing
    from mematlas.notes import Note
    from mematlas.observe.process import Process
    from mematlas.words import PagesFrom, Source

ANON, FILE, SHMEM, POOL = range(4)
"""Whose a frame is."""
NR_OWNERS = 4

IS_SLOT = bytes(bool(byte & SWAP) and STATE_OF_BYTE[byte] == "swapped" for byte in range(256))
"""Which entries hold a swap slot."""
IS_FILE_SLOT = bytes(
    byte & (PRESENT | BEHIND_MARKER) == BEHIND_MARKER or (not byte & SWAP and STATE_OF_BYTE[byte] == "swapped")
    for byte in range(256)
)
"""Of shared memory, which pages its file has in swap: no entry holds the slot."""
FILE_BITS = 40
"""Of a page in a file: 4 PiB in pages of 4 KiB. The rest is the file's number."""


@record
class Together(Record):
    """What several processes have, in bytes, each page once."""

    anon: int
    file: int
    shmem: int
    hugetlb: int
    uss: int
    """What nobody else maps; without hugetlb."""
    pss: int
    """The part of each page that is theirs, of all who map it."""
    rss_sum: int
    """Their RSS added up, in which a page counts for each of them."""
    swap: int | None
    """Each slot once; None where it is not known what shared memory has in swap."""
    tables: int | None
    gone: tuple[int, ...]
    """Those that ended meanwhile."""
    refused: tuple[int, ...]
    """Those that we may not look at."""
    same_memory: dict[int, int]
    """Those that run in the address space of another, and of which."""
    sources: tuple[str, ...]
    torn: bool
    """Whether VMAs of some changed meanwhile."""
    notes: tuple[Note, ...]
    charged_to: dict[tuple[int, int], int] | None = None
    """Frames by whose they are and by the inode of the cgroup that they are charged to; None unless asked for, and of a
    kernel without CONFIG_MEMCG."""

    @property
    def rss(self) -> int:
        """What is resident: hugetlb is no part of it."""
        return self.anon + self.file + self.shmem


def count_together(
    processes: Sequence[Process], source: Source = "auto", max_stall: float = MAX_STALL, charges: bool = False
) -> Together:
    """Return what processes of one machine have together. One that ends meanwhile is left out.

    >>> count_together([Process(4211), Process(4212)]).rss   # doctest: +SKIP
    110194688

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
    """
    (together,) = count_sets([processes], source, max_stall, charges)
    return together


def count_sets(
    sets: Sequence[Sequence[Process]], source: Source = "auto", max_stall: float = MAX_STALL, charges: bool = False
) -> list[Together]:
    """Return what each of several sets of processes has together; all are of one machine.

    With ``charges`` it is found out which cgroups their frames are charged to.

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH); or no
            process may be looked at.
    """
    from mematlas.model.tally import FrameSharing

    members: dict[int, tuple[Process, list[Account]]] = {}
    accounts = []
    procfs = sets[0][0].procfs
    for processes in sets:
        account = Account(procfs.page_size)
        accounts.append(account)
        for process in processes:
            members.setdefault(process.pid, (process, []))[1].append(account)
    with FrameSharing(procfs) as sharing:  # refused before anything is read
        reading = SetReading(members[next(iter(members))][0], source, max_stall)
        for process, its_accounts in members.values():
            reading.add(process, its_accounts)
        counted = [account.together(sharing) for account in accounts]
    if not charges:
        return counted
    from mematlas.model.charged import FrameCharges

    try:
        charged = FrameCharges(procfs)
    except NotSupported:
        return counted
    with charged:
        pairs = zip(counted, accounts, strict=True)
        return [replace(one, charged_to=charged.count(account.frames.settled()[0])) for one, account in pairs]


class Account:
    """What is known of a set of processes so far."""

    def __init__(self, page_size: int) -> None:
        from mematlas.model.tally import Tally

        self.page_size = page_size
        self.frames, self.slots, self.file_slots = Tally(), Tally(), Tally()
        self.knows_swap = True
        self.pids: list[int] = []
        """Those that were read."""
        self.rss_again = 0
        """Bytes of RSS of those that run in the address space of another."""
        self.tables: int | None = 0
        self.gone: list[int] = []
        self.refused: dict[int, PermissionDenied] = {}
        self.same_memory: dict[int, int] = {}
        self.sources: dict[str, None] = {}
        self.torn = False
        self.notes = Notes()

    def add(self, part: Part) -> None:
        """Take in a process."""
        self.pids.append(part.pid)
        for tally, parts in ((self.frames, part.keys), (self.slots, part.slots), (self.file_slots, part.file_slots)):
            for words in parts:
                tally.add(words)
        self.knows_swap &= part.knows_swap
        self.tables = total_of(self.tables, part.tables)
        self.sources[part.source] = None
        self.torn |= part.torn
        self.notes += part.notes

    def together(self, sharing: FrameSharing) -> Together:
        """Return what it comes to."""
        if not self.pids and self.refused:
            raise next(iter(self.refused.values()))  # there is nobody left to look at
        if not self.pids and self.gone:
            raise ProcessGone(self.gone[0])
        shares = sharing.of(self.frames, NR_OWNERS)
        anon, file, shmem, hugetlb = (int(number) * self.page_size for number in shares.mapped)
        swap = (len(self.slots) + len(self.file_slots)) * self.page_size if self.knows_swap else None
        return Together(
            anon=anon,
            file=file,
            shmem=shmem,
            hugetlb=hugetlb,
            uss=int(without_pool(shares.alone)) * self.page_size,
            pss=round(float(without_pool(shares.shares)) * self.page_size),
            rss_sum=int(without_pool(shares.times)) * self.page_size + self.rss_again,
            swap=swap,
            tables=self.tables,
            gone=tuple(self.gone),
            refused=tuple(self.refused),
            same_memory=self.same_memory,
            sources=tuple(self.sources),
            torn=self.torn,
            notes=tuple(self.notes),
        )


def without_pool(amounts: NDArray[Any]) -> Any:
    """Return the sum over all owners but the hugetlb pools."""
    return amounts.sum() - amounts[POOL]


class Part:
    """What was read of one process. It is added to the rest once it is whole: of who ends meanwhile nothing is."""

    def __init__(self, pid: int, source: str) -> None:
        self.pid = pid
        self.source = source
        self.keys: list[Words] = []
        """The frame of each page, and whose it is."""
        self.slots: list[Words] = []
        self.file_slots: list[Words] = []
        """Pages of files of shared memory that are in swap."""
        self.nr_resident = 0
        self.knows_swap = True
        self.tables: int | None = None
        self.torn = False
        self.notes = Notes()


class SetReading:
    """Reads the processes of sets, one after the other."""

    def __init__(self, any_process: Process, source: Source, max_stall: float) -> None:
        self.page_size = any_process.page_size
        self.source: PagesFrom = "auto" if source == "smaps" else source
        self.max_stall = max_stall
        self._spaces = AddressSpaces(any_process.procfs)
        self._files: dict[tuple[str, int], int] = {}
        """The number of each file of shared memory of which something is in swap."""
        self._known: dict[tuple[str, int, int, int], Backing] = {}
        """What parts of files have in swap."""
        self._resident: dict[int, int] = {}
        """Bytes of RSS, by PID."""

    def add(self, process: Process, accounts: Sequence[Account]) -> None:
        """Read a process into accounts; of memory that is in one already, only that there is another process in it."""
        if self._spaces.is_met_again(process.dir):
            first = self._spaces.earlier[process.pid]
            for account in accounts:
                if first in account.pids:
                    account.same_memory[process.pid] = first
                    account.rss_again += self._resident[first]
            accounts = [account for account in accounts if first not in account.pids]
            if not accounts:
                return
        try:
            part = self.read(process)
        except ProcessGone:
            for account in accounts:
                account.gone.append(process.pid)
        except PermissionDenied as error:
            for account in accounts:
                account.refused[process.pid] = error
        else:
            for account in accounts:
                account.add(part)

    def read(self, process: Process) -> Part:
        """Return what a process has."""
        sources = process.sources
        space = sources.address_space()
        choice = sources.choose(self.source, self.max_stall, span=(0, 1 << 64))
        part = Part(process.pid, choice.source)
        backings = KnownBackings(process.dir, self._known)
        with sources.open_pages(choice.source, cached=False, backings=backings) as reader:
            for run, block in reader.runs(space.vmas):
                vma = run[0]
                self._take(part, vma, reader.lots(vma) if block is None else (block,))
                if block is None and vma.kind == "shmem" and reader.hole(vma) == UNKNOWN:
                    part.knows_swap = False
            part.notes += (*choice.why, *reader.notes())
        part.tables = status_bytes(read_memory_status(process.dir), "VmPTE")
        part.torn = sources.is_torn(space)
        if counts_are_averages(process.procfs):
            part.notes.add(AVERAGE_COUNTS)
        self._resident[process.pid] = part.nr_resident * self.page_size
        return part

    def _take(self, part: Part, vma: Vma, blocks: Iterable[Block | Scattered]) -> None:
        """Add what blocks of a VMA, or of a run of its kind, hold."""
        from mematlas.model.frames import keys_of

        owner = {"shmem": SHMEM, "hugetlb": POOL}.get(vma.kind, FILE)
        anon = POOL if vma.kind == "hugetlb" else ANON
        for block in blocks:
            keys = keys_of(block, owner, anon)
            if len(keys):
                part.keys.append(keys)
                part.nr_resident += len(keys) if anon != POOL else 0
            if any(IS_SLOT[byte] for byte in block.kinds):
                part.slots.append(slots_of(block))
            if vma.kind == "shmem" and any(IS_FILE_SLOT[byte] for byte in block.kinds):
                part.file_slots.append(self._file_slots_of(vma, block))

    def _file_slots_of(self, vma: Vma, block: Block | Scattered) -> Words:
        """Return the pages that the file of a VMA has in swap: the file, and which page of it."""
        from mematlas.arrays import np

        number = self._files.setdefault((vma.dev, vma.inode), len(self._files))
        first = (vma.offset + block.address - vma.start) // self.page_size
        inside = np.flatnonzero(np.frombuffer(block.states.translate(IS_FILE_SLOT), np.bool_)).astype(np.uint64)
        pages: Words = inside + np.uint64(number << FILE_BITS | first)
        return pages


def slots_of(block: Entries) -> Words:
    """Return the swap slots that the entries of a block hold, each as one word: type and offset."""
    from mematlas.arrays import np

    wanted = np.frombuffer(block.states.translate(IS_SLOT), np.bool_)
    slots: Words = (np.frombuffer(block.raw, np.uint64) & np.uint64(PM_PFRAME))[wanted]
    return slots

"""What `mematlas.Process.if_ended` and `distinct` are made of: frames counted once, and the files behind memory."""

from __future__ import annotations

import time
from functools import cached_property

from mematlas.analysis.ending import FATES, DistinctResult, EndingPart, EndingResult, private_slots
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import record
from mematlas.kernel.kconfig import counts_are_averages
from mematlas.kernel.mounts import parse_mountinfo
from mematlas.kernel.pagemap import SWAP
from mematlas.kernel.smaps import read_smaps
from mematlas.kernel.status import read_memory_status, status_bytes
from mematlas.kernel.sysvipc import is_in_our_namespace, read_segments
from mematlas.kernel.vmfile import NOBODY_ANSWERS, LiveFiles, devices_of, internal_devices, memory_devices
from mematlas.model.holders import Holders, find_holders, first_of_program, open_memory_files
from mematlas.model.pages import STATE_OF_BYTE
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.kernel.sysvipc import ShmSegment
    from mematlas.model.frames import FrameSums
    from mematlas.model.holders import File
    from mematlas.model.page_source import PageSource
    from mematlas.observe.sources import SourceChoice, Sources
    from mematlas.words import PagesFrom

ANON, POOL, FILE, KERNEL, FIRST_FILE = range(5)
"""Whom frames belong to: anonymous, small and huge; ordinary files; the kernel and devices; then each file of memory
by its own number."""

UNSURE_COUNTS = Note(
    "unsure-map-counts",
    "this kernel keeps one map count for each huge page (CONFIG_NO_PAGE_MAPCOUNT):"
    " what is mapped here alone is an estimate",
)
TABLES_UNKNOWN = Note(
    "tables-unknown",
    "page tables are unknown and not counted: /proc/PID/status has no VmPTE line here",
)
SHARING_UNKNOWN = Note(
    "sharing-unknown",
    "cannot see whether others run in its address space (CLONE_VM, vfork): if any do, all of it stays",
)
CAPTURED = Note(
    "holders-unknown",
    "a capture does not say who else maps or holds its memory-backed files, nor whether they have a name",
)
OPEN_FILES_UNKNOWN = Note(
    "open-files-unknown",
    "memory-backed files that are open but not mapped are unknown: needs CAP_SYS_PTRACE",
)
SWAP_AS_MEMORY = Note(
    "swap-as-memory",
    "swapped pages of memory-backed files count as RAM: telling them apart needs cachestat, Linux 6.5",
)
SEGMENT = "/SYSV"
SECRET = "/secretmem"


@record
class MemoryFile:
    """A file whose content is memory alone: shared anonymous memory, memfd, tmpfs, System V, hugetlbfs, secretmem."""

    file: File
    kind: str
    """``shmem`` or ``hugetlb``: where its pages come from."""
    path: str
    link: str
    """Where the process's directory leads to it: in ``map_files``, or in ``fd`` where it is open and not mapped."""
    is_secret: bool = False
    """Whether it was made by memfd_secret(2)."""


@record
class FileFacts:
    """What the kernel reports of a file of memory."""

    has_name: bool
    size: int
    """Bytes of memory and swap that are its."""
    swap: int
    """The part that is in swap, as far as that is reported."""


def find_distinct(sources: Sources, wanted: PagesFrom, max_stall: float) -> DistinctResult:
    """Return what is resident with each frame counted once."""
    began = time.perf_counter()
    accounts = Accounts(sources.address_space().vmas)
    choice = read_accounts(sources, accounts, wanted, max_stall)
    reading = finished(sources, choice, began, accounts)
    return DistinctResult(accounts.nr_distinct * sources.page_size, reading)


def find_ending(
    sources: Sources, find_sharing: Callable[[], list[int] | None], wanted: PagesFrom, max_stall: float
) -> EndingResult:
    """Return what would become of its memory. ``find_sharing`` finds who else runs in its address space."""
    began = time.perf_counter()
    sources.procfs.open("kpagecount").close()  # a refusal comes before others are looked at
    accounts = Accounts(sources.address_space().vmas)
    ending = Ending(sources.dir, accounts)
    sharing = find_sharing()
    if sharing is None:
        ending.notes.add(SHARING_UNKNOWN)
    if not sharing:
        ending.look_around()
    choice = read_accounts(sources, accounts, wanted, max_stall)
    if sharing:
        ending.keep_all(sharing)
    else:
        ending.add_frames()
        ending.add_swap(ending.swap_pss(sources, max_stall) if accounts.slots else {})
        ending.add_tables()
    parts = ending.sorted_parts()
    return EndingResult(
        parts=parts,
        distinct=accounts.nr_distinct * sources.page_size,
        dirty=0 if sharing else accounts.sums.dirty[FILE] * sources.page_size,
        reading=finished(sources, choice, began, accounts, ending.notes),
    )


def read_accounts(sources: Sources, accounts: Accounts, wanted: PagesFrom, max_stall: float) -> SourceChoice:
    """Count the frames of a process; return what they were read from."""
    choice = sources.choose(wanted, max_stall, span=(0, 1 << 64))
    with sources.open_pages(choice.source, cached=False) as reader:
        accounts.read(reader)
    return choice


def finished(
    sources: Sources, choice: SourceChoice, began: float, accounts: Accounts, notes: Iterable[Note] = ()
) -> Reading:
    """Return how an account came about."""
    torn = sources.address_space().vmas != accounts.vmas  # raises where it has ended
    unsure = [UNSURE_COUNTS] if counts_are_averages(sources.procfs) else []
    return sources.reading(choice.source, began, torn, (*choice.why, *notes, *unsure))


class Accounts:
    """The pages of a process by whom their frames belong to, and its swap slots by VMA."""

    def __init__(self, vmas: Sequence[Vma]) -> None:
        self.vmas = vmas
        self.files: dict[File, MemoryFile] = {}
        """By device and inode, in the order of their owners' numbers."""
        self.slots: dict[int, int] = {}
        """Private swap slots by the start of their VMA."""
        self.sums: FrameSums
        """How many distinct frames belong to whom, after `read`."""
        self._numbers: dict[File, int] = {}
        self.nr_vmas: dict[File, int] = {}
        """How many VMAs show a file of memory."""
        self._owners = {vma.start: self._owner(vma) for vma in vmas}

    def _owner(self, vma: Vma) -> int:
        if vma.kind in ("shmem", "hugetlb") or is_secret(vma):
            file = vma.dev, vma.inode
            self.nr_vmas[file] = self.nr_vmas.get(file, 0) + 1
            if file not in self.files:
                kind = "hugetlb" if vma.kind == "hugetlb" else "shmem"
                link = f"map_files/{vma.start:x}-{vma.end:x}"
                self.files[file] = MemoryFile(file=file, kind=kind, path=vma.path, link=link, is_secret=is_secret(vma))
                self._numbers[file] = FIRST_FILE + len(self._numbers)
            return self._numbers[file]
        return FILE if vma.kind == "file" else KERNEL

    def read(self, reader: PageSource) -> None:
        """Count the pages.

        Raises:
            PermissionDenied: frames, or how often they are mapped, are hidden from us.
        """
        from mematlas.model.frames import FrameCounter, FrameKeys

        # Refused before anything is read.
        with FrameCounter(reader.process.procfs, FIRST_FILE + len(self.files)) as counter:
            keys = FrameKeys()
            for vma in self.vmas:
                owner = self._owners[vma.start]
                owner_of_anon = POOL if vma.kind == "hugetlb" else ANON
                for block in reader.lots(vma):
                    keys.add(block, owner, owner_of_anon)
                    if nr_slots := sum(n for byte, n in block.kinds.items() if IS_SLOT[byte]):
                        self.slots[vma.start] = self.slots.get(vma.start, 0) + nr_slots
            self.sums = counter.count(keys.take())

    @property
    def nr_distinct(self) -> int:
        """The number of resident frames: hugetlb pages are none."""
        huge = [POOL]
        for owner, file in enumerate(self.files.values(), FIRST_FILE):
            if file.kind == "hugetlb":
                huge.append(owner)
        return sum(self.sums.mapped) - sum(self.sums.mapped[owner] for owner in huge)


def is_secret(vma: Vma) -> bool:
    """Whether a VMA shows secret memory: memfd_secret(2)."""
    return vma.kind == "special" and vma.path.startswith(SECRET)


IS_SLOT = tuple(bool(byte & SWAP) and STATE_OF_BYTE[byte] == "swapped" for byte in range(256))


class Ending:
    """Puts together what ending a process would do."""

    def __init__(self, process: ProcessDir, accounts: Accounts) -> None:
        self.process = process
        self.page_size = process.procfs.page_size
        self.accounts = accounts
        self.notes = Notes()
        """What is unknown, and why."""
        self._sizes: dict[tuple[str, str, str], int] = {}
        """By fate, kind and reason."""
        self._pids: dict[tuple[str, str, str], dict[int, None]] = {}
        self._paths: dict[tuple[str, str, str], dict[str, None]] = {}
        self.files = dict(accounts.files)
        """Those mapped, then those that are open alone."""
        self.facts: dict[File, FileFacts] = {}
        self.holders = Holders(pids={}, refused=(), silent=(), is_inside=False)

    def add(self, fate: str, kind: str, reason: str, size: int, pids: Iterable[int] = (), path: str = "") -> None:
        """Add to the part with this fate, kind and reason."""
        if size <= 0:
            return
        key = (fate, kind, reason)
        self._sizes[key] = self._sizes.get(key, 0) + size
        self._pids.setdefault(key, {}).update(dict.fromkeys(pids))
        self._paths.setdefault(key, {}).update({path: None} if path else {})

    # Who else

    def look_around(self) -> None:
        """Find out about the files: what they are, and who else holds them."""
        if not self.process.procfs.live:
            if self.files:
                self.notes.add(CAPTURED)
            return
        devices = memory_devices(self.process)
        open_files = open_memory_files(self.process, devices)
        if open_files is None:
            self.notes.add(OPEN_FILES_UNKNOWN)
        for open_file in open_files or ():
            if open_file.file not in self.files and open_file.size:
                kind = "hugetlb" if open_file.file[0] in devices.hugetlb else "shmem"
                link = f"fd/{open_file.number}"
                try:
                    path = self.process.readlink(link)
                except NotSupported:
                    continue  # closed meanwhile
                self.files[open_file.file] = MemoryFile(file=open_file.file, kind=kind, path=path, link=link)
        for file in self.files.values():
            self._ask(file)
        nameless = [file for file, facts in self.facts.items() if not facts.has_name]
        self.holders = find_holders(self.process, nameless)

    def _ask(self, file: MemoryFile) -> None:
        directory, _, span = file.link.partition("/")
        if directory == "map_files" and self._live_files.is_silent(span, file.file[0]):
            self.notes.add(files_unknown(NOBODY_ANSWERS))
            return
        try:
            self.facts[file.file] = self._facts_of(file)
        except PermissionDenied as error:
            self.notes.add(files_unknown(error))
        except NotSupported:
            # The link is gone: unmapped, closed, or another program was started.
            what = file.path or file.kind
            self.notes.add(files_unknown(f"{what} was unmapped or closed meanwhile"))

    def _facts_of(self, file: MemoryFile) -> FileFacts:
        # Not opened: secret memory cannot be.
        status = self.process.stat(file.link)
        # The inode of secret memory has a count of 1 and no name.
        has_name = status.st_nlink > 0 and not file.is_secret
        size, swap = status.st_blocks * 512, 0
        if file.kind == "shmem" and size:
            cached, swap = self._pages_of(file)
            # Two counts of the same that are not of one moment.
            size = max(size, cached + swap)
        return FileFacts(has_name, size, swap)

    def _pages_of(self, file: MemoryFile) -> tuple[int, int]:
        """Return the bytes of a file that are in RAM, and those in swap."""
        from mematlas.kernel.backing import pages_of_link
        from mematlas.kernel.swaps import read_swaps

        try:
            nr_cached, nr_evicted = self.process.procfs.ask(pages_of_link, self.process, file.link)
            return nr_cached * self.page_size, nr_evicted * self.page_size
        except (PermissionDenied, NotSupported):
            if read_swaps(self.process.procfs):
                self.notes.add(SWAP_AS_MEMORY)
            return 0, 0

    # What becomes of it

    def add_frames(self) -> None:
        """Add what is in RAM: anonymous memory, pages of files, and what is the kernel's."""
        size, sums = self.page_size, self.accounts.sums
        mapped = [nr_frames * size for nr_frames in sums.mapped]
        alone = [nr_frames * size for nr_frames in sums.alone]
        bound, unsure = sums.nr_bound * size, sums.nr_slots_unsure * size
        self.add("freed", "anon", "alone", alone[ANON] - bound - unsure + sums.nr_unmapped * size)
        self.add("pool", "hugetlb", "alone", alone[POOL])
        self.add("reclaimable", "file", "alone", alone[FILE])
        self.add("reclaimable", "anon", "folio", bound)
        self.add("stays", "anon", "others", mapped[ANON] - alone[ANON])
        self.add("stays", "hugetlb", "others", mapped[POOL] - alone[POOL])
        self.add("stays", "file", "others", mapped[FILE] - alone[FILE])
        self.add("stays", "kernel", "others", mapped[KERNEL] - alone[KERNEL])
        self.add("unknown", "anon", "slots", unsure)
        self.add("unknown", "kernel", "kernel", alone[KERNEL])
        for index, file in enumerate(self.files.values(), FIRST_FILE):
            size = mapped[index] if index < len(mapped) else 0
            self._add_file(file, size, is_shared=size > 0 and size > alone[index])

    def _add_file(self, file: MemoryFile, mapped: int, is_shared: bool) -> None:
        facts = self.facts.get(file.file)
        if facts is None:
            self.add("unknown", file.kind, "unseen", mapped, path=file.path)
            return
        dev, inode = file.file
        if facts.has_name:
            fate, reason = ("stays", "named") if dev in self._own_mounts else ("unknown", "elsewhere")
            self.add(fate, file.kind, reason, mapped, path=file.path)
            return
        is_alone = False
        if file.path.startswith(SEGMENT) and dev in self._kernel_mounts:
            segment = self._segments.get(inode)
            if segment is None or not segment.is_doomed:
                fate, reason = ("unknown", "elsewhere") if segment is None else ("stays", "sysv")
                self.add(fate, file.kind, reason, mapped, path=file.path)
                return
            is_alone = segment.nr_attached == self.accounts.nr_vmas[file.file]
        pids = self.holders.pids.get(file.file, ())
        if pids or is_shared:
            self.add("stays", file.kind, "held", mapped, pids, file.path)
            return
        whole = max(facts.size, mapped)
        if not is_alone and self._is_unseen(file):
            self.add("unknown", file.kind, "unseen", whole, path=file.path)
        elif file.kind == "hugetlb":
            self.add("pool", "hugetlb", "last", whole, path=file.path)
        else:
            self.add("freed", "shmem", "last", whole - facts.swap, path=file.path)
            self.add("freed", "swap", "last", facts.swap)

    def _is_unseen(self, file: MemoryFile) -> bool:
        """Whether somebody whom we cannot see may hold a file."""
        unseen = self.holders.refused + self.holders.silent
        if file.path.startswith(NO_DESCRIPTOR) and file.file[0] in self._kernel_mounts:
            unseen = tuple(one for one in unseen if one.start_time >= self._first_start)
        return bool(unseen) or self.holders.is_inside

    # The same for each of its files, which may be many.

    @cached_property
    def _live_files(self) -> LiveFiles:
        return LiveFiles(self.process)

    @cached_property
    def _first_start(self) -> int:
        return first_of_program(self.process)

    @cached_property
    def _own_mounts(self) -> frozenset[str]:
        """The memory file systems that we see mounted: they are there when the process is not."""
        mounted = devices_of(self.process.procfs.parsed_lines("self/mountinfo", parse_mountinfo))
        return mounted.shmem | mounted.hugetlb

    @cached_property
    def _kernel_mounts(self) -> frozenset[str]:
        devices = internal_devices()
        return devices.shmem | devices.hugetlb

    @cached_property
    def _segments(self) -> dict[int, ShmSegment]:
        return read_segments(self.process.procfs) if is_in_our_namespace(self.process) else {}

    def swap_pss(self, sources: Sources, max_stall: float) -> dict[int, int] | None:
        """Return SwapPss of each VMA by its start; None where reading it would hold up the target for too long."""
        hold = sources.smaps_hold(max_stall)
        if self.process.procfs.live and hold > max_stall:
            text = (
                f"whether swap is shared with forks is unknown: smaps shows it, and holds up the target for about"
                f" {hold * 1e3:.0f} ms (--max-stall allows it)"
            )
            self.notes.add(Note("shared-swap-unknown", text))
            return None
        every = read_smaps(self.process, sources.files)
        return {vma.start: fields["SwapPss"] for vma, fields in every if "SwapPss" in fields}

    def add_swap(self, swap_pss: dict[int, int] | None) -> None:
        """Add the slots of private memory, given SwapPss by the start of each VMA; None where it is not known."""
        for start, nr_slots in self.accounts.slots.items():
            pss = None if swap_pss is None else swap_pss.get(start)
            least, most = 0, nr_slots
            if pss is not None:
                least, most = private_slots(nr_slots, pss, self.page_size)
            self.add("freed", "swap", "alone", least * self.page_size)
            self.add("unknown", "swap", "slots", (most - least) * self.page_size)
            self.add("stays", "swap", "others", (nr_slots - most) * self.page_size)

    def add_tables(self) -> None:
        """Add the page tables."""
        self.add("freed", "tables", "alone", self._size_of_tables())

    def _size_of_tables(self) -> int:
        size = status_bytes(read_memory_status(self.process), "VmPTE")
        if size is None:
            self.notes.add(TABLES_UNKNOWN)
        return size or 0

    def sorted_parts(self) -> tuple[EndingPart, ...]:
        """Return the parts by what becomes of them, the largest first; say why some of it is unknown."""
        parts = [
            EndingPart(
                fate=key[0],
                kind=key[1],
                reason=key[2],
                size=size,
                pids=tuple(self._pids[key]),
                paths=tuple(self._paths[key]),
            )
            for key, size in self._sizes.items()
        ]
        if any(part.reason == "unseen" for part in parts) and self.process.procfs.live:
            self.notes.add(Note("holders-unseen", unseen(self.holders)))
        return tuple(sorted(parts, key=lambda part: (FATES.index(part.fate), -part.size)))

    def keep_all(self, pids: Iterable[int]) -> None:
        """Add everything as what other processes with the same address space keep."""
        nr_pages = sum(self.accounts.sums.mapped) + sum(self.accounts.slots.values())
        size = nr_pages * self.page_size + self._size_of_tables()
        self.add("stays", "all", "same_memory", size, pids)


NO_DESCRIPTOR = "/dev/zero"
"""Shared anonymous memory: nobody ever had a descriptor of it."""


def files_unknown(why: object) -> Note:
    """Return the note that what a file of memory is, and who holds it, is not known."""
    return Note("files-unknown", f"memory-backed files unknown: {why}")


def unseen(holders: Holders) -> str:
    """Return who could not be looked at, in words."""
    if holders.is_inside:
        return "processes outside of this PID namespace cannot be seen: they may hold files that this one maps"
    texts = []
    for processes, why in ((holders.refused, "may not be looked at"), (holders.silent, "did not answer in time")):
        if processes:
            more = ", ..." if len(processes) > 1 else ""
            texts.append(f"{len(processes)} {why} (PID {processes[0].pid}{more})")
    return f"other processes may hold files that this one maps: {' and '.join(texts)}"

"""Several processes as one thing: a group by name, user, cgroup, container, or whichever are given."""

from __future__ import annotations

import time
from itertools import chain

from mematlas.analysis.ram import total_of
from mematlas.analysis.results import Reading
from mematlas.analysis.set_usage import SetUsage
from mematlas.errors import (
    BadInput,
    CgroupGone,
    NoAddressSpace,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.frozen import replace
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.smaps_rollup import read_rollup
from mematlas.kernel.status import read_memory_status, status_bytes
from mematlas.model.processes import first_of
from mematlas.model.search import distinct, find
from mematlas.model.shared_mm import AddressSpaces
from mematlas.model.target import is_group
from mematlas.notes import Note, Notes
from mematlas.observe.cgroup import NO_CHARGES, Cgroup, charge_of_level, unseen
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL, SOURCES, check_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from mematlas.analysis.charge import Charge
    from mematlas.model.containers import Level
    from mematlas.model.target import Target
    from mematlas.observe.cgroup import Frames
    from mematlas.observe.together import Together
    from mematlas.words import Source

    Named = tuple[str, Level | None, tuple[Process, ...]]
    """What processes are called together, the one cgroup that they are, and themselves."""

PSS_ADDS_UP = "only PSS can be added up: shared pages are in the RSS of each"
CGROUP = "cgroup:"
TORN_SET = Note("torn", "torn: VMAs of some changed while they were read, so the numbers do not belong to one moment")
SWAP_SHARES = Note(
    "swap-shares",
    "swap is SwapPss: a slot that others have as well counts in part, and shared memory in swap is left out",
)


class ProcessSet:
    """Processes that are looked at as one, each held as `Process` holds it. Each address space counts once.

    The target is a group as the command line takes it (``name:postgres``, ``user:www-data``, ``tree:812``,
    ``cgroup:/shop``, ``container:9ec39b91f3d7``, ``pod:2c48913c``, ``unit:nginx``), anything that `Process` takes, or
    several of these. Who answers to a group later is not in it: make another one.

    >>> with ProcessSet("name:postgres") as postgres:   # doctest: +SKIP
    ...     usage = postgres.usage()
    >>> usage.nr_processes, usage.rss, usage.rss_sum   # doctest: +SKIP
    (61, 851443712, 38654705664)

    Raises:
        TargetNotFound: there is no such group, or nobody in it.
        TargetAmbiguous: several containers, pods or units are called so; or several processes that must be one.
    """

    def __init__(self, target: int | str | Iterable[int | str], procfs: ProcFS | None = None) -> None:
        """Find the processes, and open them."""
        procfs = procfs or ProcFS()
        texts = [str(target)] if isinstance(target, int | str) else list(map(str, target))
        if not texts:
            raise BadInput("a set of processes needs one at the least")
        self.name = ", ".join(texts)
        self.level: Level | None = None
        """The one cgroup that they are, with what it is; None where they were named by something else."""
        self.processes: tuple[Process, ...] = ()
        """Those that were found, by PID."""
        self.silent: tuple[int, ...] = ()
        """The PIDs of those that were found and do not answer: reading their memory blocks."""
        found: list[Target] = []
        notes = Notes()
        try:
            for text in texts:
                named = find(text, procfs)
                found += named
                notes += named.notes
                self.silent += named.silent
                self.level = named.level if len(texts) == 1 else None
            targets = distinct(found)
        except BaseException:
            for one in found:
                one.close()
            raise
        self.notes = tuple(notes)
        """Which processes could not be looked at when they were searched for."""
        self.processes = opened(targets, must_be_there=not any(map(is_group, texts)))
        if not self.processes:
            raise TargetNotFound(f"every process of {self.name} has ended")
        self.procfs = self.processes[0].procfs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ProcessSet {self.name!r} of {len(self)}>"

    def __len__(self) -> int:
        return len(self.processes)

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes)

    def close(self) -> None:
        """Let go of the processes."""
        for process in self.processes:
            process.close()

    def usage(self, source: Source = "auto", max_stall: float = MAX_STALL) -> SetUsage:
        """Return how much memory they use, with each page, each swap slot and each page of hugetlb pools once.

        Frames are read of each process, by pagemap or page tables as `Process.pages` chooses, with pauses. Without the
        rights for that, and for ``smaps``, only what adds up is known, as the kernel sums it: a note says so.

        Raises:
            PermissionDenied: none of them may be looked at.
            ProcessGone: all of them have ended.
        """
        return measure_sets([self], source, max_stall)[0]


def opened(targets: Sequence[Target], must_be_there: bool) -> tuple[Process, ...]:
    """Return processes, without those that have ended by now, or have no memory."""
    processes: list[Process] = []
    try:
        for target in targets:
            try:
                processes.append(Process(target.dir))
            except (ProcessGone, TargetNotFound, NoAddressSpace):
                if must_be_there:
                    raise
    except BaseException:
        for process in processes:
            process.close()
        for target in targets:
            target.close()
        raise
    return tuple(processes)


def measure_sets(sets: Sequence[ProcessSet], source: Source = "auto", max_stall: float = MAX_STALL) -> list[SetUsage]:
    """Return the usage of each of several sets; behind these, of more than one, that of all together.

    Raises:
        PermissionDenied: there is a set of which no process may be looked at.
        ProcessGone: there is a set of which all have ended.
    """
    check_source(source, SOURCES)
    wanted = [(one.name, one.level, one.processes) for one in sets]
    if len(sets) > 1:
        every = {process.pid: process for one in sets for process in one}
        wanted.append(("total", None, tuple(every.values())))
    why = "smaps does not show frames"
    usages: list[SetUsage] = []
    if source != "smaps":
        try:
            usages = by_frames(wanted, source, max_stall)
        except (PermissionDenied, NotSupported) as error:
            why = str(error)
    usages = usages or [by_shares(*one, why) for one in wanted]
    silent = [one.silent for one in sets]
    silent.append(tuple(dict.fromkeys(chain.from_iterable(silent))))
    return [with_silent(usage, pids) for usage, pids in zip(usages, silent, strict=False)]


def with_silent(usage: SetUsage, pids: tuple[int, ...]) -> SetUsage:
    """Return the usage of processes with those among them that do not answer."""
    if not pids:
        return usage
    return replace(usage, pids=tuple(sorted({*usage.pids, *pids})), unseen=(*usage.unseen, *pids))


def by_frames(wanted: Sequence[Named], source: Source, max_stall: float) -> list[SetUsage]:
    """Return the usage of sets by their frames."""
    from mematlas.observe.together import count_sets

    began = time.perf_counter()
    has_charge = any(level for _, level, processes in wanted if processes[0].procfs.live)
    counted = count_sets([processes for _, _, processes in wanted], source, max_stall, has_charge)
    seconds = time.perf_counter() - began
    return [usage_of(*one, together, seconds) for one, together in zip(wanted, counted, strict=True)]


def usage_of(
    name: str, level: Level | None, processes: Sequence[Process], together: Together, seconds: float
) -> SetUsage:
    """Return what the frames of processes come to."""
    notes = Notes((*together.notes, *left_out(together.gone, together.refused)))
    if together.torn:
        notes.add(TORN_SET)
    charge, more = charge_of(level, processes, together.charged_to)
    notes += more
    reading = Reading(source=",".join(together.sources), duration_s=seconds, torn=together.torn, notes=tuple(notes))
    return SetUsage(
        name=name,
        pids=tuple(process.pid for process in processes),
        rss=together.rss,
        anon=together.anon,
        file=together.file,
        shmem=together.shmem,
        pss=together.pss,
        uss=together.uss,
        swap=together.swap,
        hugetlb=together.hugetlb,
        tables=together.tables,
        rss_sum=together.rss_sum,
        reading=reading,
        cgroup=level.path if level else None,
        unseen=together.refused,
        same_memory=together.same_memory,
        charge=charge,
    )


def charge_of(
    level: Level | None, processes: Sequence[Process], frames: Frames | Note | None
) -> tuple[Charge | None, Iterable[Note]]:
    """Return what the one cgroup is charged that processes are, where they are one, with what there is to say of it."""
    if level is None or not processes[0].procfs.live:
        return None, ()
    charge = charge_of_level(level, processes, unseen(NO_CHARGES) if frames is None else frames)
    return (None, (charge,)) if isinstance(charge, Note) else (charge, charge.reading.notes)


def left_in(text: str, procfs: ProcFS) -> SetUsage | None:
    """Return what a cgroup without processes is charged; None where that is nothing, or there is no such cgroup."""
    try:
        with Cgroup(text.removeprefix(CGROUP), procfs) as cgroup:
            charge = cgroup.charge()
    except (TargetNotFound, NotSupported, CgroupGone):
        return None
    return None if charge.nr_processes or not charge.charged else charged_alone(text, (), 0, charge)


def charged_alone(
    name: str, pids: tuple[int, ...], amount: int | None, charge: Charge, more: Sequence[Note] = ()
) -> SetUsage:
    """Return what a cgroup is charged whose processes have nothing; or, with None, may not be looked at."""
    return SetUsage(
        name=name,
        pids=pids,
        rss=amount,
        anon=amount,
        file=amount,
        shmem=amount,
        pss=amount,
        uss=amount,
        swap=amount,
        hugetlb=amount,
        tables=amount,
        rss_sum=amount,
        reading=replace(charge.reading, notes=(*more, *charge.reading.notes)),
        cgroup=charge.cgroup,
        unseen=pids,
        charge=charge,
    )


# Without frames


def by_shares(name: str, level: Level | None, processes: Sequence[Process], why: str) -> SetUsage:
    """Return what adds up of what the kernel sums for each process.

    Raises:
        PermissionDenied: none of them may be looked at.
    """
    began = time.perf_counter()
    charge, notes_on_charge = charge_of(level, processes, unseen(why))
    try:
        sums = Shares(processes)
    except PermissionDenied as error:
        if charge is None:
            raise
        note = Note("unseen", f"none of the processes may be looked at: {error}")
        return charged_alone(name, tuple(process.pid for process in processes), None, charge, [note])
    notes = Notes((Note("pss-adds-up", f"{PSS_ADDS_UP}: {why}"), *left_out(tuple(sums.gone), tuple(sums.refused))))
    if sums.swap != sums.swap_shares:
        notes.add(SWAP_SHARES)
    notes += notes_on_charge
    reading = Reading(source="smaps", duration_s=time.perf_counter() - began, torn=False, notes=tuple(notes))
    return SetUsage(
        name=name,
        pids=tuple(process.pid for process in processes),
        rss=None,
        anon=None,
        file=None,
        shmem=None,
        pss=sums.pss,
        uss=None,
        swap=sums.swap_shares,
        hugetlb=sums.hugetlb,
        tables=sums.tables,
        rss_sum=sums.rss,
        reading=reading,
        cgroup=level.path if level else None,
        unseen=tuple(sums.refused),
        same_memory=sums.same_memory,
        charge=charge,
    )


class Shares:
    """What smaps says of processes, added up."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.rss = self.pss = self.swap = 0
        self.swap_shares: int | None = 0
        self.hugetlb: int | None = 0
        """None where some of it is shared: how often it counts is not known."""
        self.tables: int | None = 0
        self.refused: dict[int, PermissionDenied] = {}
        self.gone: list[int] = []
        spaces = AddressSpaces(processes[0].procfs)
        for process in processes:
            try:
                self._add(process, is_again=spaces.is_met_again(process.dir))
            except ProcessGone:
                self.gone.append(process.pid)
            except PermissionDenied as error:
                self.refused[process.pid] = error
        self.same_memory = spaces.earlier
        if len(self.refused) + len(self.gone) == len(processes):
            raise next(iter(self.refused.values()), None) or ProcessGone(processes[0].pid)

    def _add(self, process: Process, is_again: bool) -> None:
        fields = read_rollup(process.dir)
        self.rss += fields["Rss"]
        if is_again:
            return
        self.pss += fields["Pss"]
        self.swap += fields["Swap"]
        self.swap_shares = total_of(self.swap_shares, fields.get("SwapPss"))
        hugetlb = None if fields.get("Shared_Hugetlb") else fields.get("Private_Hugetlb", 0)
        self.hugetlb = total_of(self.hugetlb, hugetlb)
        self.tables = total_of(self.tables, status_bytes(read_memory_status(process.dir), "VmPTE"))


def left_out(gone: Sequence[int], refused: Sequence[int]) -> Iterator[Note]:
    """Yield notes on the processes of which nothing is known."""
    if gone:
        yield Note("left-out", f"left out, since they ended meanwhile: PID {first_of(gone)}")
    if refused:
        whom = "1 process" if len(refused) == 1 else f"{len(refused):,} processes"
        yield Note("unseen", f"{whom} could not be looked at (needs CAP_SYS_PTRACE): PID {first_of(refused)}")

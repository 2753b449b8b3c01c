"""Many processes with what each uses: what `mematlas.Machine.processes` is made of.

The counters that the kernel keeps are read here: they wait for nobody. Its sums over pages wait for the mmap lock of
whoever they are of. A thread asks for those of small processes; where it falls silent, children that can be left behind
go on, many processes a message, and one by one with those that a message was not answered for. They ask about large
processes too, which are looked at as `mematlas.Process.usage` does. Whoever asks does so by the directories that we
hold: it is the processes that were looked at, whoever has their numbers by then.
"""

from __future__ import annotations

import time

from mematlas.analysis.listing import (
    BY,
    LATE,
    UNANSWERED,
    DistinctFrames,
    GroupsResult,
    ProcessesResult,
    ProcessUsage,
    group_of,
    members_by,
)
from mematlas.analysis.ram import total_of
from mematlas.errors import BadInput, NoAddressSpace, NotSupported, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.frozen import record, replace
from mematlas.kernel.aside import ask_aside
from mematlas.kernel.cgroups import read_cgroups
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.smaps_rollup import RollupReader
from mematlas.kernel.status import parse_memory_counters, parse_name, parse_parent, read_stat
from mematlas.model.processes import ENDED, SKIPPED, Processes, named, reason
from mematlas.model.stalls import hold_by_counters
from mematlas.model.target import Target
from mematlas.model.who import WhoFinder
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Any, NoReturn

    from mematlas.analysis.listing import ProcessGroup
    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.status import MemoryCounters
    from mematlas.observe.process import Process

NR_HELD = 512
"""Processes that are held open at a time: half of the files that a process usually may have."""
MESSAGE_SECONDS, OPENING = 0.004, 0.00015
"""What a child is to find out for one message, and what any process takes."""
SILENCE, LARGE_SILENCE = 0.1, 0.5
"""Seconds after which another child goes on with the next message; and beside one that looks at a large process: what
it has opened for that, another would have to open again."""
DETAILS = frozenset(("cgroup", "start_time"))
"""What is read of each process, unless something else is asked for: ``exe`` as well."""
NR_AT_WORK = 4
"""Children that count large processes at a time: what they read with pauses leaves room for others."""
SMALL = "smaps_rollup"
"""The source for those that it does not hold up for long."""
NO_PARTS: Any = ((), ())
"""Where nothing is in swap of any file, and there are no huge pages."""
EXACT = None
"""In the place of the ends of intervals."""
HELD_UP = "smaps-instead"
"""The note that a process was held up though its size says that it should not be."""


@record
class Wanted:
    """What is to be found out about processes."""

    max_stall: float
    seconds: float
    """After which no more is found out."""
    details: frozenset[str] = DETAILS
    distinct: bool = False
    """Whether frames are to be counted as well."""
    sample: float | None = None
    """How large a part of large processes is to be counted."""
    seed: int | None = None
    """What decides which part; None for chance."""


class Seen:
    """One process, held open, with its counters; and what was found out about its pages."""

    __slots__ = ("cgroup", "counters", "dir", "exe", "found", "hold", "name", "parent", "space", "start_time")

    def __init__(self, process: ProcessDir, status: bytes, details: Collection[str]) -> None:
        self.dir = process
        self.name = parse_name(status)
        self.parent = parse_parent(status)
        self.counters = counters = parse_memory_counters(status)
        self.cgroup = read_cgroups(process) if "cgroup" in details else None
        self.exe = read_exe(process) if "exe" in details else None
        self.start_time = read_stat(process).start_time if "start_time" in details else None
        sizes = counters.rss or 0, counters.swap or 0, counters.tables or 0
        self.hold = 0.0 if has_sums(process) else hold_by_counters(*sizes, process.procfs.page_size)
        """For how many seconds the kernel's sums hold it up, if all pages are small ones."""
        self.found: tuple[Any, ...] | str | None = None
        """The sums over its pages, or why they are not known."""
        self.space: object = None
        """What those have alike that run in one address space, and few others."""

    def take(self, answer: tuple[Any, ...] | str) -> str:
        """Keep what was found out; return why the process was held up, if it was."""
        if isinstance(answer, str):
            self.found = answer
            return ""
        self.found, self.space, held_up = answer
        return str(held_up)


def has_sums(process: ProcessDir) -> bool:
    """Whether the sums were recorded: then nobody is held up by them, and there may be nothing else."""
    if not process.captured:
        return False
    try:
        return bool(process.read_start(SMALL, 1))
    except NotSupported:
        return False


def read_exe(process: ProcessDir) -> str | None:
    """Return the program that a process runs; None where we may not know."""
    try:
        return process.readlink("exe")
    except (NotSupported, PermissionDenied):
        return None


# The questions


def look_at(procfs: ProcFS, targets: Iterable[int | str | Target] | None, wanted: Wanted) -> ProcessesResult:
    """Return what `mematlas.Machine.processes` does."""
    return look_in_groups(procfs, targets, wanted, None)[0]


def look_at_groups(
    procfs: ProcFS, by: str, targets: Iterable[int | str | Target] | None, wanted: Wanted
) -> GroupsResult:
    """Return what `mematlas.Machine.groups` does."""
    if by not in BY:
        raise BadInput(f"no groups by {by!r}: choose from {', '.join(BY)}")
    result, groups = look_in_groups(procfs, targets, wanted, by)
    from mematlas.observe.limits import with_nearness

    found = GroupsResult(by=by, groups=groups, processes=result)
    return with_nearness(found) if procfs.live else found


def look_in_groups(
    procfs: ProcFS, targets: Iterable[int | str | Target] | None, wanted: Wanted, by: str | None
) -> tuple[ProcessesResult, tuple[ProcessGroup, ...]]:
    """Return processes, and with ``by`` their groups."""
    deadline = time.monotonic() + wanted.seconds
    if wanted.distinct:
        wanted = replace(wanted, details=wanted.details | {"start_time"})  # they are opened once more
    chosen = None if targets is None else Chosen(procfs, targets)
    try:
        everybody = chosen.processes(deadline) if chosen else Processes(procfs, deadline=deadline)
        result = list_processes(everybody, deadline, chosen is None, wanted)
        if chosen:
            if not result.processes:
                chosen.raise_nobody(result)
            result = replace(result, notes=(*chosen.notes, *result.notes))
        members = members_by(by, result.processes) if by else {}
        frames: list[DistinctFrames | None] = [None] * len(members)
        if wanted.distinct:
            together, *frames = count_frames(everybody, [result.processes, *members.values()], wanted.max_stall)
            result = replace(result, distinct=together)
    finally:
        if chosen:
            chosen.close()
    groups = (group_of(by or "", *pair, its) for pair, its in zip(members.items(), frames, strict=True))
    return result, tuple(groups)


def count_frames(
    everybody: Processes, sets: Sequence[Sequence[ProcessUsage]], max_stall: float
) -> list[DistinctFrames | None]:
    """Return what sets of processes have with each frame once, of those processes whose pages could be counted.

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
    """
    from mematlas.observe.process import Process
    from mematlas.observe.together import count_sets

    held: dict[int, Process] = {}
    try:
        for one in {one.pid: one for processes in sets for one in processes if one.source}.values():
            if pair := everybody.open(one.pid):
                directory, stat = pair
                if stat.start_time == one.start_time:
                    held[one.pid] = Process(directory)
                else:
                    directory.close()
        if not held:
            everybody.procfs.open("kpagecount").close()  # most likely it is this right that is missing
        opened_sets = [[held[one.pid] for one in processes if one.pid in held] for processes in sets]
        counted = iter(count_sets([some for some in opened_sets if some], max_stall=max_stall) if held else ())
        together = [next(counted) if some else None for some in opened_sets]
    finally:
        for process in held.values():
            process.close()
    return [
        DistinctFrames(rss=one.rss, uss=one.uss, swap=one.swap, hugetlb=one.hugetlb) if one else None
        for one in together
    ]


class Chosen:
    """The processes that are meant, each once, held open."""

    def __init__(self, procfs: ProcFS, targets: Iterable[int | str | Target]) -> None:
        self.procfs = procfs
        self.notes = Notes()
        """On those that could not be looked at in a search."""
        self._all: list[Target] = []
        self._ours: list[Target] = []
        """Those that were found here."""
        try:
            for target in targets:
                self._all += [target] if isinstance(target, Target) else self._search(str(target))
        except BaseException:
            self.close()
            raise

    def _search(self, text: str) -> tuple[Target, ...]:
        from mematlas.model.search import resolve_all

        found = resolve_all(text, self.procfs)
        self._ours += found.targets
        self.notes += found.notes
        return found.targets

    def processes(self, deadline: float) -> Processes:
        """Return what goes over them."""
        from mematlas.kernel.group import first_fd
        from mematlas.model.search import distinct

        once = distinct(self._all)
        held = {target.pid: first_fd(target.dir) for target in once}
        return Processes(once[0].procfs if once else self.procfs, sorted(held), (), deadline, held)

    def raise_nobody(self, result: ProcessesResult) -> NoReturn:
        """Say why there is none of those that were meant."""
        from mematlas.kernel.group import first_fd
        from mematlas.model.target import open_process

        gone = {pid for pids in result.skipped.values() for pid in pids}
        for target in self._all:
            if target.pid in gone:
                try:
                    process, stat = open_process(target.pid, target.procfs, first_fd(target.dir))
                except TargetNotFound:
                    raise ProcessGone(target.pid) from None
                process.close()
                if stat.is_kernel_thread:
                    raise NoAddressSpace(target.pid, stat.name)
                raise ProcessGone(target.pid)
        raise TargetNotFound("no process was given")

    def close(self) -> None:
        """Let go of those that were found here."""
        for target in self._ours:
            target.close()


def list_processes(everybody: Processes, deadline: float, is_whole: bool, wanted: Wanted) -> ProcessesResult:
    """Return processes with what each uses; after a time of `time.monotonic` no more is found out about them.

    ``is_whole`` says that these are all that there are.
    """
    began = time.monotonic()
    rows = Rows()
    processes: list[ProcessUsage] = []
    spaces: dict[object, list[int]] = {}
    skipped = {**everybody.skipped, UNANSWERED: [], LATE: []}
    listing = Listing(everybody, wanted, deadline)
    for one in listing:
        if isinstance(one.found, str):
            skipped[one.found].append(one.dir.pid)
        elif one.space is not None:
            spaces.setdefault(one.space, []).append(one.dir.pid)
        if one.found != ENDED:
            processes.append(rows.of(one))
    skipped[LATE] += everybody.late
    alike = [pids for pids in spaces.values() if len(pids) > 1]
    sharing: dict[int, int] = {}
    if alike:
        from mematlas.model.shared_mm import find_alike

        sharing = find_alike(alike, everybody.procfs, deadline)
    if counts_are_averages(everybody.procfs):
        listing.notes.add(AVERAGE_COUNTS)
    if listing.slow:
        processes.sort(key=lambda one: one.pid)
    return ProcessesResult(
        processes=tuple(one for one in processes if one.pid not in sharing),
        skipped={why: tuple(sorted(pids)) for why, pids in skipped.items()},
        sharing=sharing,
        is_whole=is_whole,
        duration_s=time.monotonic() - began,
        notes=tuple(listing.notes),
    )


# What their pages come to


class Listing:
    """Yields processes once it is known what their pages come to: the large ones last, so that none waits for them."""

    def __init__(self, everybody: Processes, wanted: Wanted, deadline: float) -> None:
        self.everybody = everybody
        self.wanted = wanted
        self.deadline = deadline
        self.notes = Notes()
        """Complete at the end."""
        self.slow: list[Seen] = []
        """Those that the kernel's sums would hold up for too long."""

    def __iter__(self) -> Iterator[Seen]:
        try:
            for held in self._lots():
                small = [one for one in held if one.hold <= self.wanted.max_stall]
                self.slow += [one for one in held if one.hold > self.wanted.max_stall]
                try:
                    self._find(small)
                finally:
                    close(small)
                yield from small
            self._ask_alone(self.slow)
        finally:
            close(self.slow)
        yield from self.slow

    def _lots(self) -> Iterator[list[Seen]]:
        """Yield the processes, held open, as many at a time as there are files for."""
        held: list[Seen] = []
        for process, status in self.everybody.with_status():
            try:
                held.append(Seen(process, status, self.wanted.details))
            except SKIPPED as error:
                process.close()
                self.everybody.skipped[reason(error)].append(process.pid)
            if len(held) == NR_HELD:
                yield held
                held = []
        if held:
            yield held

    def _find(self, small: Sequence[Seen]) -> None:
        """Find out about processes; where they do not answer, by children."""
        rollups = RollupReader()
        answers = ask_aside(lambda one: by_sums(one.dir, rollups), small, SILENCE, self.deadline)
        for one, answer in zip(small, answers, strict=False):
            one.take(answer)
        if len(answers) < len(small):
            first, *others = small[len(answers) :]
            self._ask_alone([first, *self._ask_together(others)])

    def _ask_together(self, some: Sequence[Seen]) -> list[Seen]:
        """Have children ask, about many for each message; return those that are to be asked about alone."""
        from mematlas.kernel.abandon import Inquiry

        rollups = RollupReader()

        def ask(part: range) -> tuple[list[Any], int]:
            answers = [by_sums(some[index].dir, rollups) for index in part]
            return [answer if is_short(answer) else None for answer in answers], -1

        inquiry = Inquiry(ask, in_messages(some), deadline=self.deadline, silence=SILENCE)
        again = []
        for part, answers, _ in inquiry:
            for index, answer in zip(part, answers, strict=True):
                if answer is None:
                    again.append(some[index])
                else:
                    some[index].take(answer)
        for part in inquiry.unasked:
            for index in part:
                some[index].found = LATE
        return again + [some[index] for part in inquiry.unanswered for index in part]

    def _ask_alone(self, some: Sequence[Seen]) -> None:
        """Have children ask about one process after the other."""
        if not some:
            return
        from mematlas.kernel.abandon import Inquiry

        if self.slow:
            import mematlas.observe.process  # noqa: F401 (here, and not in each child)
        tools = Tools(self.wanted)
        inquiry = Inquiry(
            lambda index: (tools.look_at(some[index]), -1),
            range(len(some)),
            deadline=self.deadline,
            silence=LARGE_SILENCE if some is self.slow else SILENCE,
            most=NR_AT_WORK,
        )
        held_up = {some[index].dir.pid: why for index, answer, _ in inquiry if (why := some[index].take(answer))}
        for index in inquiry.unanswered:
            some[index].found = UNANSWERED
        for index in inquiry.unasked:
            some[index].found = LATE
        if held_up:
            who = named(held_up, self.everybody.procfs)
            self.notes.add(Note("smaps-instead", f"{who}: {next(iter(held_up.values()))}"))


def close(some: Iterable[Seen]) -> None:
    """Let go of processes."""
    for one in some:
        one.dir.close()


def is_short(answer: tuple[Any, ...] | str) -> bool:
    """Whether an answer has a place in a message with others: the parts of files may be many."""
    return isinstance(answer, str) or not any(answer[0][-2:])


def in_messages(some: Sequence[Seen]) -> list[range]:
    """Return which processes, by their indexes, are asked about for one message each."""
    parts = []
    first, left = 0, MESSAGE_SECONDS
    for index, one in enumerate(some):
        cost = OPENING + one.hold
        if cost > left and index > first:
            parts.append(range(first, index))
            first, left = index, MESSAGE_SECONDS
        left -= cost
    return [*parts, range(first, len(some))] if some else parts


def by_sums(process: ProcessDir, rollups: RollupReader) -> tuple[Any, ...] | str:
    """Return what the kernel's sums say of a process, or why they do not. It may wait for ever."""
    try:
        rollup = rollups.read(process)
        if not rollup.fields:
            return ENDED
        get = rollup.fields.get
        swap, swap_pss = get("Swap"), get("SwapPss")  # since Linux 4.3, commit 8334b96221ff
        hugetlb = total_of(get("Private_Hugetlb"), get("Shared_Hugetlb"))
        own_hugetlb, parts = hugetlb, NO_PARTS
        if hugetlb or swap != swap_pss:  # smaps says of which files it is
            from mematlas.observe.measuring import parts_by_smaps

            own_hugetlb, *parts = parts_by_smaps(process)
    except SKIPPED as error:
        return reason(error)
    thp = get("AnonHugePages", 0) + get("ShmemPmdMapped", 0) + get("FilePmdMapped", 0)
    uss = total_of(get("Private_Clean"), get("Private_Dirty"))
    sums = (get("Rss"), get("Pss"), uss, swap, swap_pss, None, thp, hugetlb, own_hugetlb, SMALL, EXACT, *parts)
    return sums, rollup.span, ""


class Tools:
    """What a child looks at one process after the other with."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._rollups = RollupReader()
        self._last: Process | None = None

    def look_at(self, one: Seen) -> tuple[Any, ...] | str:
        """Return what a process's pages come to, or why that is not known. It may wait for ever."""
        max_stall = self.wanted.max_stall
        if one.hold <= max_stall:
            return by_sums(one.dir, self._rollups)
        from mematlas.analysis.usage import total
        from mematlas.model.shared_mm import layout_of
        from mematlas.observe.measuring import by_vmas
        from mematlas.observe.process import Process

        try:
            space = layout_of(one.dir)
            process = Process(one.dir)
            if self._last:
                process.sources.take_over(self._last.sources)
            self._last = process
            if found := self._sampled(one, process):
                return found, space, ""
            result = process.maps(max_stall=max_stall, first_pages=False)
            measured = by_vmas(process.dir, result.vmas)
        except SKIPPED as error:
            return reason(error)
        usage, reading = total(item.usage for item in result.vmas), result.reading
        own_swap = 0 if usage.swap_pss is None and measured.swap_pss is not None else None
        amounts = (usage.rss, usage.pss, usage.uss, usage.swap, usage.swap_pss, own_swap, usage.thp, usage.hugetlb)
        parts = measured.swap_parts, measured.hugetlb_parts
        sums = (*amounts, measured.own_hugetlb, reading.source, EXACT, *parts)
        return sums, space, next((note.text for note in reading.notes if note.code == HELD_UP), "")

    def _sampled(self, one: Seen, process: Process) -> tuple[Any, ...] | None:
        """Return estimates of what a process's pages come to, where they are wanted and pay."""
        if self.wanted.sample is None:
            return None
        from random import Random

        from mematlas.observe.sampled_usage import sample_usage

        seed = None if self.wanted.seed is None else hash((self.wanted.seed, one.dir.pid))
        found = sample_usage(process.sources, self.wanted.sample, Random(seed), self.wanted.max_stall)
        if found is None:
            return None
        pss, uss, counters = found.pss, found.uss, one.counters
        amounts = found.rss, pss.value, uss.value, counters.swap, None, None, None, counters.hugetlb, None
        return *amounts, found.source, (pss.low, pss.high, uss.low, uss.high), *NO_PARTS


def only_counters(counters: MemoryCounters) -> tuple[Any, ...]:
    """Return what is known of a process that was not measured, in the order of `by_sums`."""
    return counters.rss, *[None] * 2, counters.swap, *[None] * 3, counters.hugetlb, *[None] * 2, EXACT, *NO_PARTS


# Rows


class Rows:
    """Makes rows."""

    def __init__(self) -> None:
        self._finder = WhoFinder()

    def of(self, one: Seen) -> ProcessUsage:
        """Return the row of a process."""
        counters = one.counters
        found = one.found if isinstance(one.found, tuple) else only_counters(counters)
        rss, pss, uss, swap, swap_pss, own_swap, thp, hugetlb, own_hugetlb, source, bounds, *parts = found
        swap_parts, hugetlb_parts = parts
        pss_low, pss_high, uss_low, uss_high = bounds or (pss, pss, uss, uss)
        who = self._finder.of(one.parent, counters.uid, one.cgroup)
        return ProcessUsage(
            pid=one.dir.pid,
            name=one.name,
            start_time=one.start_time,
            parent=one.parent,
            uid=who.uid,
            user=who.user,
            cgroup=who.cgroup,
            container=who.container,
            pod=who.pod,
            unit=who.unit,
            exe=one.exe,
            rss=rss,
            pss=pss,
            uss=uss,
            swap=swap,
            swap_pss=swap_pss,
            own_swap=counters.swap if own_swap is None else own_swap,
            thp=thp,
            hugetlb=hugetlb,
            own_hugetlb=own_hugetlb,
            tables=counters.tables,
            source=source,
            swap_parts=swap_parts,
            hugetlb_parts=hugetlb_parts,
            is_estimate=bounds is not EXACT,
            pss_low=pss_low,
            pss_high=pss_high,
            uss_low=uss_low,
            uss_high=uss_high,
        )

"""What `mematlas.Machine.share` is made of: the frames of every process, read by children, and put into sets.

A child reads the entries of a process, and hands over those of pages that are mapped more than once: nobody shares the
others. How often each frame is mapped in the whole machine is asked here, once, when it is met first. So what processes
that were not looked at have of it is known too, to the page.
"""

from __future__ import annotations

import marshal
import os
import time
from itertools import starmap

from mematlas.analysis.results import TORN, Reading
from mematlas.analysis.sharing import (
    COW,
    FILE,
    HUGETLB,
    KINDS,
    KSM,
    OTHER,
    SHMEM,
    FrameSets,
    Holding,
    SharedVma,
    ShareResult,
    Sharing,
    Through,
    TooManySets,
)
from mematlas.arrays import Bools, Counts, NDArray, Words, np
from mematlas.errors import Error, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.kconfig import AVERAGE_COUNTS, counts_are_averages
from mematlas.kernel.kpage import KPF_KSM, KPF_ZERO_PAGE, open_flags_and_counts, tells_ksm
from mematlas.kernel.pagemap import ENTRY_SIZE, PM_FILE, PM_PFRAME
from mematlas.model.page_frames import KSM_NOT_SHOWN
from mematlas.model.processes import ENDED, REFUSED, Processes, left_out, named
from mematlas.model.search import distinct
from mematlas.model.shared_mm import AddressSpaces
from mematlas.model.target import Target, is_group
from mematlas.notes import Note, Notes
from mematlas.observe.shared_pages import FRAMES_NEED, LAST, error_of, read_part, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Self

    from mematlas.observe.process_set import ProcessSet
    from mematlas.observe.shared_pages import PartAnswer, Refusal, Span

    Groups = Sequence[tuple[str, Sequence[int]]]
    Indexes = NDArray[np.int64]

SILENCE = 0.25
"""Seconds without an answer after which another child goes on: parts take 0.1 s, and more where others work."""
SLICE = 1 << 16
"""Entries that are looked at together."""
MOST_CAPTURED_LEAVES = 1 << 19
"""Of frames in a capture: some 400 MiB, where they lie apart as those of no machine of that size do."""
KIND_OF_VMA = {"file": FILE, "shmem": SHMEM, "hugetlb": HUGETLB}
COPIED = Through(KINDS[COW], "")
MERGED = Through(KINDS[KSM], "")


class Member:
    """One process, with what it was found to map so far."""

    __slots__ = ("is_whole", "name", "nr_alone", "nr_parts", "nr_resident", "number", "pid", "start_time")

    def __init__(self, pid: int, name: str, start_time: int, number: int) -> None:
        self.pid = pid
        self.name = name
        self.start_time = start_time
        self.number = number
        self.nr_alone = self.nr_resident = 0
        self.nr_parts = 0.0
        self.is_whole = False


def share_of_sets(sets: Sequence[ProcessSet], limit: int, deadline: float) -> ShareResult:
    """Return what several sets of processes share, each one thing; of a single one, what its processes do.

    Raises:
        BadInput: some run, others are of a capture; or they are of several.
    """
    one_each = distinct([Target(process.dir) for one in sets for process in one])
    left = {target.pid for target in one_each}
    groups = []
    for one in sets:
        pids = [process.pid for process in one if process.pid in left]
        left.difference_update(pids)
        name = one.name if is_group(one.name) else one.processes[0].stat.name
        groups.append((name, pids))
    are_named = not any(is_group(one.name) for one in sets)
    held = {target.pid: target.dir.fd for target in one_each}
    everybody = Processes(one_each[0].procfs, held, without=(), held=held)
    return find_sharing(
        everybody,
        None if are_named or len(sets) == 1 else groups,
        limit=limit,
        by_vma=len(one_each) == 2 and are_named,
        are_named=are_named,
        deadline=deadline,
    )


def find_sharing(
    everybody: Processes,
    groups: Groups | None = None,
    *,
    limit: int,
    deadline: float,
    by_vma: bool = False,
    are_named: bool = False,
) -> ShareResult:
    """Return what processes share with each other, and with those that are not among them.

    ``groups`` are names of groups with PIDs, to be one each. ``by_vma`` asks which VMAs of two processes show the same.
    ``are_named`` says that somebody named each process: then what keeps us from one is an error.

    Raises:
        PermissionDenied: frames are hidden (needs CAP_SYS_ADMIN), or their counts (needs CAP_DAC_READ_SEARCH).
    """
    began = time.perf_counter()
    with (LookByVma if by_vma else Look)(everybody, are_named) as look:
        look.find_members()
        look.read(deadline)
        return look.result(groups, limit, began)


class Look:
    """One look at the frames of some processes."""

    def __init__(self, everybody: Processes, are_named: bool) -> None:
        self.everybody = everybody
        self.procfs = everybody.procfs
        self.are_named = are_named
        self.members: dict[int, Member] = {}
        """By PID."""
        self.sets = FrameSets(None if self.procfs.live else MOST_CAPTURED_LEAVES)
        self.notes = Notes()
        self.is_torn = False
        self._last: Error | None = None
        """Why one of them could not be read."""
        self._spaces = AddressSpaces(self.procfs)
        self._tells_ksm: bool | None = None
        self._is_ksm_checked = False
        self._flags, self._counts = open_flags_and_counts(self.procfs)  # refused before anything is read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._flags.close()
        self._counts.close()

    # Who

    def find_members(self) -> None:
        """Find the processes that have an address space of their own."""
        for process, stat in self.everybody:
            if not self._spaces.is_met_again(process):
                self.members[stat.pid] = Member(stat.pid, stat.name, stat.start_time, len(self.members))
        skipped = self.everybody.skipped
        if skipped[REFUSED] and self.are_named:
            raise PermissionDenied(f"{self.procfs.root}/{skipped[REFUSED][0]}", "CAP_SYS_PTRACE")
        if skipped[REFUSED]:
            self.notes.add(Note("left-out", f"{named(skipped[REFUSED], self.procfs)}: skipped: not ours to look at"))
        if self.are_named:
            for pid in skipped[ENDED]:
                self._last = ProcessGone(pid)
                self.notes.add(Note("left-out", f"left out: {self._last}"))

    # What they map

    def read(self, deadline: float) -> None:
        """Read the pages of all."""
        self.read_some(list(self.members), deadline)

    def read_some(self, pids: Sequence[int], deadline: float) -> None:
        """Have children read the pages of processes, and put their frames into sets."""
        things = [(pid, 0) for pid in pids]
        while things:
            inquiry = Inquiry(self._ask, things, deadline=deadline, silence=SILENCE, is_heavy=True)
            things = []
            for (pid, _), answer, fd in inquiry:
                try:
                    if isinstance(answer[0], str):
                        self._pass_over(pid, answer)
                    elif (after := self._add(self.members[pid], answer, fd)) != LAST:
                        things.append((pid, after))
                except TooManySets:
                    self._stop()
                    return
                finally:
                    if fd >= 0:
                        os.close(fd)
            self._note_left_out(inquiry)

    def _ask(self, thing: tuple[int, int]) -> tuple[Any, int]:
        """Read a part of a process, in a child."""
        pid, start = thing
        try:
            pair = self.everybody.open(pid)
            if pair is None:
                raise ProcessGone(pid)
            with pair[0]:
                if pair[1].start_time != self.members[pid].start_time:
                    raise ProcessGone(pid)
                return read_part(*pair, start)
        except Error as error:
            return told(error), -1

    def _pass_over(self, pid: int, refusal: Refusal) -> None:
        """Leave out a process that could not be read.

        Raises:
            PermissionDenied: frames are hidden, of whatever process.
            Error: somebody named it.
        """
        self._last = error = error_of(pid, refusal)
        is_hidden = isinstance(error, PermissionDenied) and error.needs == FRAMES_NEED
        if is_hidden or (self.are_named and not isinstance(error, ProcessGone)):
            raise error
        if self.are_named or not isinstance(error, ProcessGone):
            self.notes.add(Note("left-out", f"left out: {error}"))

    def _note_left_out(self, inquiry: Inquiry) -> None:
        for things in (inquiry.unanswered, inquiry.unasked):
            things[:] = [pid for pid, _ in things]
        self.notes += left_out(inquiry, self.procfs)

    def _stop(self) -> None:
        """Leave out whom there is no room for."""
        late = [member.pid for member in self.members.values() if not member.is_whole]
        why = f"skipped: all others share memory in {self.sets.most:,} ways, and no more are kept apart"
        self.notes.add(Note("too-many-sets", f"{named(late, self.procfs)}: {why}"))

    def _add(self, member: Member, answer: PartAnswer, fd: int) -> int:
        """Take in a part of what a process maps; return where the next one begins."""
        nr_alone, nr_entries, after, is_torn, notes = answer
        self.notes += starmap(Note, notes)
        self.is_torn = self.is_torn or is_torn
        member.nr_alone += nr_alone
        if nr_entries:
            with open(fd, "rb", closefd=False) as file:
                file.seek(0)
                entries = np.frombuffer(file.read(nr_entries * ENTRY_SIZE), np.uint64)
                spans: list[Span] = marshal.load(file)
            self._add_entries(member, entries, spans)
        member.is_whole = after == LAST
        return after

    def _add_entries(self, member: Member, entries: Words, spans: list[Span]) -> None:
        is_pool = np.array([span[2] == "hugetlb" for span in spans])
        throughs = np.array([self.throughs_of(member, span) for span in spans], np.int64)
        which = np.repeat(np.arange(len(spans)), [span[-1] for span in spans])
        for low in range(0, len(entries), SLICE):
            part, of_span = entries[low : low + SLICE], which[low : low + SLICE]
            frames = part & np.uint64(PM_PFRAME)
            is_anon = (part & np.uint64(PM_FILE) == 0) & ~is_pool[of_span]
            places = self.sets.places(frames)
            new = self.sets.unknown(frames, places)
            if len(new):
                self._learn(frames[new], places[new], is_anon[new], throughs[of_span[new]])
            mapped = self.sets.add(member.number, places)
            member.nr_resident += mapped.nr_resident
            member.nr_parts += mapped.nr_parts
            self.met(member, frames, mapped.before, spans, of_span)

    def throughs_of(self, member: Member, span: Span) -> tuple[int, int, int]:
        """Return the numbers of what memory of a VMA is shared through: its file, or two others if anonymous."""
        _, _, kind, dev, inode, path, _ = span
        file = Through(KINDS[KIND_OF_VMA.get(kind, OTHER)], path, (dev, inode))
        number_of = self.sets.number_of
        return number_of(file), number_of(COPIED), number_of(MERGED)

    def _learn(self, frames: Words, places: Indexes, is_anon: Bools, throughs: Indexes) -> None:
        """Find out about frames that are met for the first time, which are in ascending order."""
        counts, _ = self._counts.array(frames)
        columns = np.where(is_anon, 1, 0)
        if is_anon.any():
            flags, _ = self._flags.array(frames[is_anon])
            counts[is_anon] *= flags & np.uint64(KPF_ZERO_PAGE) == 0
            columns[is_anon] += (flags & np.uint64(KPF_KSM) != 0) & self._means_ksm(flags)
        self.sets.learn(places, counts, throughs[np.arange(len(frames)), columns])

    def _means_ksm(self, flags: Words) -> bool:
        """Whether a frame with the flag ``ksm`` is one that KSM merged; that is found out where any has it."""
        if not self._is_ksm_checked and (flags & np.uint64(KPF_KSM)).any():
            self._is_ksm_checked = True
            self._tells_ksm = tells_ksm(self.procfs)
            if not self._tells_ksm:
                self.notes.add(KSM_NOT_SHOWN)
        return bool(self._tells_ksm)

    def met(self, member: Member, frames: Words, before: Counts, spans: list[Span], of_span: Indexes) -> None:
        """Look at frames that a process maps, with the sets that they were in before that was known."""

    # What that comes to

    def result(self, groups: Groups | None, limit: int, began: float) -> ShareResult:
        """Return sums over the sets.

        Raises:
            Error: there is nobody left.
        """
        whole = [member for member in self.members.values() if member.is_whole]
        if not whole:
            raise self._last or TargetNotFound("; ".join(["no process could be looked at", *map(str, self.notes)]))
        rows = [self._held_by(*group) for group in groups or [(member.name, [member.pid]) for member in whole]]
        sharing = Sharing(self.sets, [row for row in rows if row.pids], self.procfs.page_size)
        if counts_are_averages(self.procfs):
            self.notes.add(AVERAGE_COUNTS)
        if self.is_torn:
            self.notes.add(TORN)
        pairs, nr_pairs = sharing.pairs(limit)
        sets, nr_sets = sharing.sets(limit)
        reading = Reading(
            source="pagemap",
            duration_s=time.perf_counter() - began,
            torn=self.is_torn,
            notes=tuple(self.notes),
        )
        return ShareResult(
            sharers=sharing.sharers,
            pairs=tuple(pairs),
            nr_pairs=nr_pairs,
            sets=tuple(sets),
            nr_sets=nr_sets,
            vmas=self.vmas() if len(whole) == 2 else None,
            sharing=dict(self._spaces.earlier),
            refused=tuple(self.everybody.skipped[REFUSED]),
            reading=reading,
        )

    def _held_by(self, name: str, pids: Iterable[int]) -> Holding:
        members = [member for pid in pids if (member := self.members.get(pid)) and member.is_whole]
        nr_alone = sum(member.nr_alone for member in members)
        return Holding(
            name=name,
            pids=tuple(member.pid for member in members),
            members=sum(1 << member.number for member in members),
            nr_rss=nr_alone + sum(member.nr_resident for member in members),
            nr_parts=nr_alone + sum(member.nr_parts for member in members),
            nr_alone=nr_alone,
        )

    def vmas(self) -> tuple[SharedVma, ...] | None:
        """Return the VMAs that two processes show the same by, if that was asked."""
        return None


class LookByVma(Look):
    """A look at two processes: what VMAs of theirs have in common."""

    def __init__(self, everybody: Processes, are_named: bool) -> None:
        super().__init__(everybody, are_named)
        self._nr_frames: dict[tuple[int, int], int] = {}
        """By what the first maps them through, and the start of the VMA of the second."""
        self._spans: dict[int, Span] = {}
        """The VMAs of the second."""

    def read(self, deadline: float) -> None:
        """Read the first to its end, then the second."""
        for pid in self.members:
            self.read_some([pid], deadline)

    def throughs_of(self, member: Member, span: Span) -> tuple[int, int, int]:
        """Return the same with the VMA, of the first process."""
        if member.number:
            return super().throughs_of(member, span)
        start, end, kind, dev, inode, path, _ = span
        files = ((KIND_OF_VMA.get(kind, OTHER), (dev, inode)), (COW, None), (KSM, None))
        own, copied, merged = (Through(KINDS[number], path, file, (start, end)) for number, file in files)
        number_of = self.sets.number_of
        return number_of(own), number_of(copied), number_of(merged)

    def met(self, member: Member, frames: Words, before: Counts, spans: list[Span], of_span: Indexes) -> None:
        """Count the frames that the first maps, and that the second shows here for the first time."""
        if not member.number:
            return
        self._spans.update((span[0], span) for span in spans)
        first = np.unique(frames, return_index=True)[1]
        sets = before[first]
        for number in np.unique(sets).tolist():
            members, through = self.sets.members_of(number)
            if members != 1:
                continue
            nr_frames = np.bincount(of_span[first[sets == number]])
            for index in np.flatnonzero(nr_frames).tolist():
                key = through, spans[index][0]
                self._nr_frames[key] = self._nr_frames.get(key, 0) + int(nr_frames[index])

    def vmas(self) -> tuple[SharedVma, ...]:
        """Return what was counted, the largest first."""
        size = self.procfs.page_size
        rows = []
        for (through, start), nr_frames in self._nr_frames.items():
            _, end, _, _, _, path, _ = self._spans[start]
            rows.append(SharedVma(self.sets.throughs[through], (start, end), path, nr_frames * size))
        return tuple(sorted(rows, key=lambda row: (-row.size, row.through.span, row.other_span)))

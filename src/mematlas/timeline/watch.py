"""What is watched: processes and groups, whose members join as they appear; how each is at a moment."""

from __future__ import annotations

from mematlas.analysis.listing import UNANSWERED
from mematlas.errors import (
    FormatError,
    NoAddressSpace,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.frozen import record, replace
from mematlas.kernel.aside import Asker, is_left_behind
from mematlas.kernel.status import PROGRAM, ask_stat, parse_faults, parse_layout, parse_stat, read_layout
from mematlas.model.pagetables.room import TableRoom
from mematlas.model.processes import REFUSED
from mematlas.model.search import distinct, find
from mematlas.model.target import Target, is_group
from mematlas.model.who import NOT_KNOWN, WhoFinder
from mematlas.notes import Note, Notes
from mematlas.observe.accesses import Accesses
from mematlas.observe.counters import read_counters
from mematlas.observe.process import Process
from mematlas.observe.sources import MAX_STALL, no_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    Answer = tuple["Seen", list["Happening"]] | ProcessGone | PermissionDenied
    from collections.abc import Collection, Iterator, Sequence
    from typing import Self

    from mematlas.analysis.cached import CacheResult
    from mematlas.analysis.frames import FramesResult
    from mematlas.analysis.results import Reading, UsageResult, VmaUsage
    from mematlas.kernel.procfs import ProcFS
    from mematlas.kernel.status import Faults
    from mematlas.model.pagetables.followed import FollowedPages
    from mematlas.model.who import Who
    from mematlas.observe.captures import Redactor
    from mematlas.observe.following import Following
    from mematlas.observe.frames import Frames
    from mematlas.observe.moments import MomentRecorder
    from mematlas.timeline.words import Followed, Sparse
    from mematlas.words import Source

REDACTED = "redacted"
MOST_REGIONS = 128
"""GiB of addresses of which the page tables are kept, of all processes together: they may take 0.7 GiB of memory."""
MANY_PROCESSES = 32
"""From which on those that do nothing have their pages counted in turn."""
MANY_PAGES = 1 << 16
"""Of a process from which on its pages are followed, though its amounts are counted by smaps: of huge pages that is
quick, where pagemap has each of their small ones."""
EXEC, EXIT, HIDDEN, HELD = "exec", "exit", "hidden", "held"
OF_PROCESS = {
    "usage": "amounts of each process",
    "vmas": "amounts of each VMA",
    "pages": "the state of each page",
    "frames": "which frames pages are in, with their flags and map counts",
}
"""What of a process can be looked at; each takes those before it."""
TABLES = "tables"
BESIDES = {TABLES: "page tables: how many, how full, and what they map"}
"""What of a process can be looked at besides."""
RAM, FILES = "ram", "files"
OF_MACHINE = {RAM: "what every frame of RAM is used for", FILES: "the largest files of the page cache"}
WHAT = OF_PROCESS | BESIDES | OF_MACHINE
"""What can be looked at."""
MACHINE = "machine"
"""What named a process where all are watched."""
SILENCE = 1.0
"""Seconds for which one of all processes may say nothing."""
AGAIN = 30
"""Looks after which those that were left out are looked at again: another process may have their number; and after
which it is found out anew who a process is."""


def with_what_it_needs(what: Collection[str]) -> frozenset[str]:
    """Return what is to be looked at, with what that takes.

    >>> sorted(with_what_it_needs(["pages"])), sorted(with_what_it_needs(["ram"]))
    (['pages', 'usage', 'vmas'], ['ram', 'usage'])
    """
    names = list(OF_PROCESS)
    most = max((names.index(name) for name in what if name in OF_PROCESS), default=0)
    return frozenset((*names[: most + 1], *(name for name in what if name not in OF_PROCESS)))


@record
class Files:
    """Files of a capture of a process."""

    texts: dict[str, bytes]
    words: dict[str, Sparse | Followed]


@record
class Seen:
    """One process at a moment."""

    pid: int
    start_time: int
    name: str
    target: str
    """What named it."""
    usage: UsageResult
    faults: Faults
    vmas: list[VmaUsage] | None
    """None unless they are watched."""
    files: Files | None = None
    """What a capture would hold besides; None unless single pages are watched, or page tables."""
    who: Who = NOT_KNOWN
    """As of up to `AGAIN` looks before; of a recording as far as it holds that."""


@record
class Happening:
    """Something that has happened to a process since the moment before."""

    pid: int
    start_time: int
    kind: str
    """``exec``, ``exit`` or ``hidden``; ``held``: a condition that was waited for holds."""
    text: str


@record
class Look:
    """What is watched, at one moment."""

    seen: tuple[Seen, ...]
    happenings: tuple[Happening, ...]
    counters: dict[str, int]
    """Of the machine, see `mematlas.analysis.counters`."""
    ram: FramesResult | None = None
    """What frames were used for; None unless that is watched."""
    cache: CacheResult | None = None
    """What the page cache had; None unless that is watched."""
    unseen: dict[str, int] | None = None
    """Of all processes, how many may not be looked at (``refused``), and how many did not answer (``unanswered``); None
    where not all are watched, and of a recording."""

    @property
    def readings(self) -> Iterator[Reading]:
        """How each was read."""
        return (one.usage.reading for one in self.seen)


class Watched:
    """A process that is watched."""

    def __init__(self, process: Process, target: str, room: TableRoom, pages: bool) -> None:
        self.process = process
        self.target = target
        self.following = process.follow(room, pages)
        self.can_follow = True
        """Whether its page tables can be read, as far as was tried."""
        self.layout = read_layout(process.dir)
        self.start_time = process.stat.start_time
        self.who: Who | None = None
        """None before the first look."""

    def happened(self, kind: str, text: str) -> Happening:
        """Return something that has happened to it."""
        return Happening(self.process.pid, self.start_time, kind, text)


class Watch:
    """Looks at processes and groups again and again; those of a group are found anew each time.

    >>> with Watch(["self"], ProcFS()) as watch:  # doctest: +SKIP
    ...     watch.look().seen[0].usage.rss
    24117248

    Raises:
        TargetNotFound: at the start, none of a target is there.
        PermissionDenied: a process that was named alone may not be looked at; or page tables, or frames, may not be.
        NotSupported: page tables are to be looked at, and cannot be read here.
    """

    def __init__(
        self,
        targets: Sequence[str],
        procfs: ProcFS,
        source: Source = "auto",
        max_stall: float = MAX_STALL,
        what: Collection[str] = ("usage", "vmas"),
        redactor: Redactor | None = None,
        everybody: bool = False,
    ) -> None:
        """With a ``redactor``, what is seen has no names of processes, of files, or of who they are of.

        With ``everybody``, all processes are watched, and those that may not be looked at are left out.
        """
        self.everybody = everybody
        self.targets = tuple(dict.fromkeys(targets))
        self.procfs = procfs
        self.source = source
        self.max_stall = max_stall
        self.what = with_what_it_needs(what)
        """What is looked at: see `WHAT`."""
        self.redactor = redactor
        self._room = TableRoom(MOST_REGIONS)
        self._accesses = Accesses(procfs)
        self._watched: dict[tuple[int, int], Watched] = {}
        self._refused: set[tuple[int, int]] = set()
        self._nr_looks = 0
        self._is_silent = False
        self._silent: list[Watched] = []
        """Those that did not answer."""
        self._frames: Frames | None = None
        self._left_out: set[int] = set()
        """Numbers of processes of the machine that have no memory, or may not be looked at."""
        self._unseen: dict[int, str] = {}
        """Those of them that have memory, each with why it is not seen."""
        self._finder = WhoFinder(are_ours=procfs.live)
        self._asker = Asker(procfs.seconds)
        try:
            if TABLES in self.what:
                self._accesses.tables()
            if "frames" in self.what:
                procfs.open("kpagecount").close()
            for target in self.targets:
                self._find(target)
            if everybody:
                self._find_everybody()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all."""
        for one in self._watched.values():
            one.process.close()
        self._watched.clear()
        self._asker.close()
        self._accesses.close()
        if self._frames:
            self._frames.close()
            self._frames = None

    def _find_everybody(self) -> None:
        """Watch all processes that there are now."""
        if self._nr_looks % AGAIN == 0:
            self._left_out.clear()
        if self._silent and not is_left_behind():
            self._forgive()
        known = {pid for pid, _ in self._watched} | self._left_out
        there = self.procfs.pids()
        still = {pid for pid in there if pid in self._left_out or self._unseen.get(pid) == UNANSWERED}
        self._unseen = {pid: why for pid, why in self._unseen.items() if pid in still}
        for pid in there:
            if pid in known:
                continue
            try:
                target = Target(self.procfs.process(pid))
            except (ProcessGone, TargetNotFound, PermissionDenied):
                continue
            try:
                self._take(target, MACHINE)
            except (ProcessGone, TargetNotFound, NoAddressSpace, PermissionDenied) as error:
                target.close()
                self._left_out.add(pid)
                if isinstance(error, PermissionDenied):
                    self._unseen[pid] = REFUSED

    def _forgive(self) -> None:
        """Let go of those that did not answer, once no thread waits for them: they are found again in time."""
        for one in self._silent:
            self._refused.discard((one.process.pid, one.start_time))
            one.process.close()
        self._silent.clear()

    def _find(self, text: str) -> None:
        """Find the processes of a target, and open those that are new."""
        for target in distinct(list(find(text, self.procfs))):
            try:
                self._take(target, text)
            except (ProcessGone, TargetNotFound, NoAddressSpace):
                target.close()
                if not is_group(text):
                    raise

    def _take(self, target: Target, text: str) -> None:
        """Watch a process that was found, unless it is watched."""
        key = target.dir.identity
        if key in self._watched or key in self._refused:
            target.close()
            return
        process = Process(target.dir)
        process.sources.share(self._accesses)
        self._watched[key] = Watched(process, text, self._room, "pages" in self.what)
        self._unseen.pop(process.pid, None)

    @property
    def label(self) -> str:
        """A name for what is watched: of one process its own."""
        names = {one.process.stat.name for one in self._watched.values()}
        if self.everybody:
            return MACHINE
        alone = len(self._watched) == 1 and len(self.targets) == 1
        return f"{min(names)}-{next(iter(self._watched))[0]}" if alone else self.targets[0]

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return not self._watched and not self.everybody and not self.what & OF_MACHINE.keys()

    def process(self, pid: int) -> Process:
        """Return a process that is watched, held open.

        Raises:
            TargetNotFound: none of that number is.
        """
        return self._one(pid).process

    def followed(self, pid: int) -> FollowedPages:
        """Return the pages of a process as of the last look.

        From the first time on its page tables are followed, however few pages it has.

        Raises:
            TargetNotFound: none of that number is watched.
            PermissionDenied, NotSupported, FormatError: its page tables cannot be followed.
            ProcessGone: it has ended meanwhile.
        """
        following = self._one(pid).following
        if not following.is_begun:
            following.look_at_pages()
        return following.pages

    def _one(self, pid: int) -> Watched:
        for (number, _), one in self._watched.items():
            if number == pid:
                return one
        raise TargetNotFound(f"process {pid} is not watched")

    def seconds(self) -> float:
        """Return the processor seconds of this thread, which has to be that which looks, and of what works for it."""
        return self.procfs.seconds() + self._asker.seconds

    def look(self) -> Look:
        """Return how all are now, and what has happened to them since the look before."""
        happenings: list[Happening] = []
        if self._nr_looks:
            for text in filter(is_group, self.targets):
                self._find_more(text)
            if self.everybody:
                self._find_everybody()
        self._nr_looks += 1
        seen = []
        watched = list(self._watched.items())
        # A process that waits for ever with its address space locked holds up who reads it, too. Who was named is
        # waited for; of all processes one such must not keep the others from being seen.
        answers = self._ask_aside(watched) if self.everybody else []
        for number, (key, one) in enumerate(watched):
            if number == len(answers) < len(watched) and self._is_silent:
                self._leave(key, happenings)
                continue
            found = answers[number] if number < len(answers) else self._try(one)
            if isinstance(found, tuple):
                seen.append(found[0])
                happenings += found[1]
            elif isinstance(found, PermissionDenied) or one.process.dir.is_ending():
                self._let_go(key, found, happenings)
            # else it has just started another program: that is seen at the next look
        machine = read_counters(self.procfs), self._ram(), self._cache()
        return Look(tuple(seen), tuple(happenings), *machine, self._nr_unseen() if self.everybody else None)

    def _nr_unseen(self) -> dict[str, int]:
        """Return how many of all processes are not seen, by the reason."""
        reasons = list(self._unseen.values())
        return {why: reasons.count(why) for why in (REFUSED, UNANSWERED)}

    def _ask_aside(self, watched: Sequence[tuple[tuple[int, int], Watched]]) -> list[Answer]:
        """Return how processes are, in order, up to one that does not answer; none where a thread waits for one yet."""
        self._is_silent = False
        if is_left_behind():
            return []
        answers: list[Answer] = self._asker.ask(lambda item: self._try(item[1]), watched, SILENCE, float("inf"))
        self._is_silent = is_left_behind()
        return answers

    def _try(self, one: Watched) -> Answer:
        """Return how a process is, and what has happened to it; or why that is not known."""
        happenings: list[Happening] = []
        try:
            return self._see(one, happenings), happenings
        except (ProcessGone, PermissionDenied) as error:
            return error

    def _leave(self, key: tuple[int, int], happenings: list[Happening]) -> None:
        """Watch a process no longer that does not answer. A thread waits for it, which has what it is read from."""
        one = self._watched.pop(key)
        self._silent.append(one)
        self._refused.add(key)
        self._left_out.add(key[0])
        self._unseen[key[0]] = UNANSWERED
        happenings.append(one.happened(HIDDEN, f"process {key[0]} does not answer"))

    def _ram(self) -> FramesResult | None:
        """Return what frames are used for, in each zone too if they can be looked up, where that is watched."""
        if RAM not in self.what:
            return None
        if self._frames is None:
            from mematlas.observe.frames import Frames

            self._frames = Frames(self.procfs)
        try:
            return self._frames.look("zone")  # with the kinds of all zones together
        except (PermissionDenied, NotSupported):
            return self._frames.look("kind")

    def _cache(self) -> CacheResult | None:
        """Return the largest files of the page cache, where these are watched."""
        if FILES not in self.what:
            return None
        from mematlas.observe.machine import Machine
        from mematlas.observe.recorded_cache import FILES as MOST

        result = Machine(self.procfs).cache(limit=MOST, details=["path"])
        return redacted_cache(result, self.redactor) if self.redactor else result

    def _find_more(self, text: str) -> None:
        try:
            self._find(text)
        except TargetNotFound:
            pass  # there is nobody of that group now

    def _see(self, one: Watched, happenings: list[Happening]) -> Seen:
        """Return how one process is now."""
        process = one.process
        data = ask_stat(process.dir)
        layout = parse_layout(data)
        is_other = is_other_program(one.layout, layout)
        if is_other:
            happenings.append(one.happened(EXEC, "started another program"))
        one.layout = layout
        recorder = self._recorder(process)
        process.sources.taker = recorder
        usage, vmas = self._amounts(process, data)
        files = None
        if recorder and vmas is not None:
            followed = self._followed(one, vmas)
            files = self._files(recorder, followed, vmas)
            if followed and followed.items is not vmas:
                notes = Notes((*usage.reading.notes, *followed.pages.notes(are_counted=False)))
                usage = replace(usage, reading=replace(usage.reading, notes=tuple(notes)))
        if TABLES in self.what:
            usage, files = self._with_tables(process, usage, files or Files({}, {}))
        # They have their turns one after the other.
        if one.who is None or is_other or (self._nr_looks + process.pid) % AGAIN == 0:
            process.sources.stat = parse_stat(data)
            one.who = self._finder.read(process.dir)
        seen = Seen(
            pid=process.pid,
            start_time=one.start_time,
            name=process.stat.name,
            target=one.target,
            usage=usage,
            faults=parse_faults(data),
            vmas=vmas,
            files=files,
            who=one.who,
        )
        return redacted(seen, self.redactor) if self.redactor else seen

    def _amounts(self, process: Process, stat: bytes) -> tuple[UsageResult, list[VmaUsage] | None]:
        """Return the amounts of a process, and those of its VMAs where they are watched."""
        if "vmas" not in self.what:
            if self.source != "auto":
                return process.usage(self.source, self.max_stall), None
            are_many = len(self._watched) > MANY_PROCESSES
            return process.sums(self.max_stall, stat if are_many else None), None
        result = process.maps(self.source, self.max_stall, first_pages=False)
        return process.sum_of(result), result.vmas

    def _with_tables(self, process: Process, usage: UsageResult, files: Files) -> tuple[UsageResult, Files]:
        """Return the amounts of a process, with why its page tables are not known if so; and its files, with those."""
        from mematlas.observe import recorded_tables
        from mematlas.observe.pagetables import PageTables

        try:
            with PageTables(process) as tables:
                text = recorded_tables.to_save(tables.summary())
        except (PermissionDenied, NotSupported, FormatError) as error:
            notes = Notes((*usage.reading.notes, no_tables(error)))
            return replace(usage, reading=replace(usage.reading, notes=tuple(notes))), files
        return usage, Files({**files.texts, recorded_tables.NAME: text}, files.words)

    def _recorder(self, process: Process) -> MomentRecorder | None:
        """Return what takes what a capture of a process would hold; None unless that is watched."""
        if "pages" not in self.what:
            return None
        from mematlas.observe.moments import MomentRecorder

        return MomentRecorder(process, "frames" in self.what, self.redactor)

    def _files(self, recorder: MomentRecorder, followed: Following | None, items: list[VmaUsage]) -> Files:
        """Return what a capture of a process would hold."""
        from mematlas.timeline.words import from_parts, without_frames

        has_frames = "frames" in self.what
        texts = recorder.take([item.vma for item in items], followed)
        words: dict[str, Sparse | Followed] = {}
        for name, parts in recorder.words.items():
            file = from_parts(parts)
            words[name] = without_frames(file) if name == "pagemap" and not has_frames else file
        if followed:
            words["pagemap"] = followed_words(followed, has_frames)
        return Files(texts, words)

    def _followed(self, one: Watched, items: list[VmaUsage]) -> Following | None:
        """Return what follows a process, where it has its pages as they are now: where they were counted one by one; or
        of many, however they were counted, where that can be done.
        """
        following = one.following
        if following.items is items:
            return following
        nr_pages = sum((item.usage.nr_present or 0) + (item.usage.nr_swapped or 0) for item in items)
        if not one.can_follow or (nr_pages < MANY_PAGES and not following.is_begun):
            return None
        try:
            following.look_at_pages()
        except (PermissionDenied, NotSupported, FormatError):
            one.can_follow = False
            return None
        return following

    def _let_go(self, key: tuple[int, int], error: ProcessGone | PermissionDenied, happenings: list[Happening]) -> None:
        """Watch a process no longer, which has ended, or may not be looked at.

        Raises:
            PermissionDenied: this is the first look, it was named, and nothing else is watched.
        """
        one = self._watched.pop(key)
        one.process.close()
        if isinstance(error, ProcessGone):
            happenings.append(one.happened(EXIT, str(error)))
            return
        if one.target == MACHINE and self.everybody:
            self._left_out.add(key[0])
            self._unseen[key[0]] = REFUSED
        elif is_group(one.target):
            self._refused.add(key)
        elif not self._watched and self._nr_looks == 1:
            raise error
        happenings.append(one.happened(HIDDEN, str(error)))


def followed_words(following: Following, has_frames: bool) -> Followed:
    """Return the pagemap of a process that is followed, with the numbers of frames or without."""
    from mematlas.timeline.words import Followed, Sparse, hidden_frames, without_frames

    pages, before, now = following.pages.changes()
    if not has_frames:
        before, now = hidden_frames(before), hidden_frames(now)
        differ = before != now
        pages, now = pages[differ], now[differ]

    def whole() -> Sparse:
        every = Sparse(*following.pages.every())
        return every if has_frames else without_frames(every)

    return Followed(following.number, Sparse(pages, now), whole)


def redacted_cache(result: CacheResult, redactor: Redactor) -> CacheResult:
    """Return files without their names."""
    files = tuple(
        replace(file, path=None if file.path is None else redactor.redact_path(file.path)) for file in result.files
    )
    return replace(result, files=files, reading=without_texts(result.reading))


def without_texts(reading: Reading) -> Reading:
    """Return how something was read with the codes of its notes alone: their texts have names in them."""
    return replace(reading, notes=tuple(Note.again(note.code, REDACTED) for note in reading.notes))


def redacted(seen: Seen, redactor: Redactor) -> Seen:
    """Return a process without names."""
    vmas = seen.vmas
    if vmas is not None:
        vmas = [replace(item, vma=replace(item.vma, path=redactor.redact_path(item.vma.path))) for item in vmas]
    usage = replace(seen.usage, reading=without_texts(seen.usage.reading))
    return replace(seen, name=REDACTED, target=REDACTED, usage=usage, vmas=vmas, who=NOT_KNOWN)


def is_other_program(before: tuple[bytes, ...], now: tuple[bytes, ...]) -> bool:
    """Whether a layout is that of another program: not where one of them may not be known, or is gone.

    Who may not know is shown 1 for where the code is, and 0 for the rest (fs/proc/array.c, do_task_stat()).

    >>> is_other_program((b"4096", b"8192", b"512"), (b"1", b"1", b"0"))
    False
    >>> is_other_program((b"4096", b"8192", b"512"), (b"4096", b"8192", b"768"))
    True
    >>> is_other_program((b"4096", b"8192", b"512"), (b"0", b"0", b"0"))
    False
    """
    return before[PROGRAM] != now[PROGRAM] and not {b"0", b"1"} & {before[0], now[0]}

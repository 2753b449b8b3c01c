"""What the page cache has of files: those that paths lead to, and those of processes.

A file system may never answer: one with a server (FUSE, NFS), or on a disk that is gone. So all asking is done by a
child that can be left behind (`mematlas.kernel.abandon`), and it sends what it finds as it goes. It reads no file.
"""

from __future__ import annotations

import os
import time

from mematlas.analysis.cached import CachedFile, CacheResult, in_order
from mematlas.analysis.results import Reading
from mematlas.errors import (
    BadInput,
    Error,
    NotSupported,
    PermissionDenied,
    ProcessGone,
    put_together,
    taken_apart,
)
from mematlas.frozen import record, replace
from mematlas.kernel.abandon import Reports
from mematlas.kernel.cachestat import FOWNER, count_cached, name_in_maps
from mematlas.kernel.mounts import format_device, parse_mountinfo
from mematlas.kernel.process_files import ProcessFiles
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.tree import Tree, reopened
from mematlas.kernel.vmfile import KIND_OF_MAGIC, LOCAL_MAGICS, is_renamed, magic_of
from mematlas.model.holders import find_mappers
from mematlas.model.processes import NAMED, first_of
from mematlas.model.search import find
from mematlas.model.target import Target
from mematlas.notes import Note, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Thing = str | ProcessDir
    """A path, or a process of which all files are meant."""
    Row = tuple[Any, ...]

PATH, MAPPERS, PLACES, CHARGED = "path", "mappers", "places", "cgroup"
"""What can be found out beside amounts: see `Wanted`."""
PATIENCE = 5.0
"""Seconds for which a file system may say nothing: a disk may have to be woken."""
MESSAGE_SECONDS, MESSAGE_ROWS, MESSAGE_SIZE = 0.1, 200, 1 << 15
"""After which what was found is sent: by time, number, and the length of the paths."""
ROWS, LEFT, FAILED = 0, 1, 2
"""What a piece of an answer is: files, how many were left out, or an error."""
FS_OF_KIND = {"shmem": "tmpfs", "hugetlb": "hugetlbfs"}
"""The file systems that the kernel has mounted for itself, which no mount in sight tells."""
UNCOUNTED = "dirty and evicted pages of {files} are unknown: mincore was asked, since {why}"


@record
class Wanted:
    """What is to be found out about files."""

    sort: str
    """What puts them in order."""
    limit: int
    """Of how many it is found out who maps them; and how many are listed of the whole page cache."""
    details: frozenset[str]
    """What is found out beside amounts: `MAPPERS`; of the whole page cache `PATH`, and `PLACES`, where in files it is
    and what was evicted; or, in place of files, who is `CHARGED`."""
    seconds: float
    """After which no more is found out."""


def find_cached(
    procfs: ProcFS, paths: Iterable[str], targets: Iterable[int | str | Target], wanted: Wanted
) -> CacheResult:
    """Return what `mematlas.Machine.cache` does of files that were named."""
    if CHARGED in wanted.details:
        raise BadInput("who is charged is known of the whole page cache alone: name no files or processes")
    start = time.monotonic()
    notes = Notes()
    ours: list[Target] = []
    try:
        things: list[Thing] = list(paths)
        for target in targets:
            if not isinstance(target, Target):
                named = find(str(target), procfs)
                notes += named.notes
                ours += named
                things += [one.dir for one in named]
            else:
                things.append(target.dir)
        if any(isinstance(thing, ProcessDir) and thing.captured for thing in things):
            raise NotSupported("the page cache of a capture", "a running process")
        found = Found(procfs, things)
        found.ask(start + wanted.seconds)
    finally:
        for target in ours:
            target.close()
    files = in_order(found.files(), wanted.sort)
    if MAPPERS in wanted.details:
        shown = files[: wanted.limit]
        mappers, unseen = mappers_of(procfs, (name for file in shown if (name := found.name_in_maps(file))))
        files[: wanted.limit] = [
            with_mappers(file, mappers.get(found.name_in_maps(file)), not unseen) for file in shown
        ]
        notes += unseen
    reading = Reading(
        source=" and ".join(sorted(found.sources)) or "cachestat",
        duration_s=time.monotonic() - start,
        torn=False,
        notes=(*found.notes, *notes),
    )
    return CacheResult(tuple(files), reading)


def with_mappers(file: CachedFile, mappers: tuple[int, ...] | None, all_seen: bool) -> CachedFile:
    """Return a file with who maps it, and whether these are all."""
    return replace(file, mappers=mappers, all_seen=None if mappers is None else all_seen)


def mappers_of(
    procfs: ProcFS, names: Iterable[tuple[str, int]]
) -> tuple[dict[tuple[str, int] | None, tuple[int, ...]], list[Note]]:
    """Return which processes map files, by what maps calls these, and what is to be said about that."""
    wanted = set(names)
    if not wanted:
        return {}, []
    holders = find_mappers(procfs, wanted)
    notes = []
    for unseen, why in ((holders.refused, "may not be looked at"), (holders.silent, "did not answer in time")):
        if unseen:
            who = "1 process" if len(unseen) == 1 else f"{len(unseen):,} processes"
            notes.append(Note("mappers-unseen", f"{who} {why}, and may map these files as well"))
    return {name: holders.pids.get(name, ()) for name in wanted}, notes


class Found:
    """What was found, as it comes in, each file once; and what is to be said about it."""

    def __init__(self, procfs: ProcFS, things: Sequence[Thing]) -> None:
        self.procfs = procfs
        self.things = things
        self.sources: set[str] = set()
        """What told how much of them is in the page cache: ``cachestat``, ``mincore``, ``stat``."""
        self._rows: dict[tuple[int, int], Row] = {}
        """By device and inode, as stat(2) has them: a file may have several names, and paths may overlap."""
        self._unnamed: set[tuple[str, int]] = set()
        """Files by what stat(2) calls them, where maps would call them otherwise."""
        self._left = [0, 0, 0, 0]
        self._lost: list[Error] = []
        """Why processes were left out, of many."""
        self._notes = Notes()

    def ask(self, deadline: float) -> None:
        """Find everything out, until ``deadline``.

        Raises:
            TargetNotFound, BadInput, PermissionDenied, ProcessGone: one of the things that were named is not to be had.
            Error: nothing answered.
        """
        reports = Reports(lambda thing: pieces_of(thing, self.procfs), self.things, PATIENCE, deadline)
        for thing, (kind, piece) in reports:
            if kind == ROWS:
                for row in piece:
                    self._rows.setdefault(row[:2], row)
                    if row[4] is None:
                        self._unnamed.add((format_device(row[0]), row[1]))
            elif kind == LEFT:
                self._left = [sum(pair) for pair in zip(self._left, piece, strict=True)]
            else:
                self._fail(thing, put_together(*piece))
        if reports.unanswered:
            text = f"{names_of(reports.unanswered)}: not all of it: its file system does not answer"
            self._notes.add(Note("unanswered", text))
        if reports.unasked:
            self._notes.add(Note("unasked", f"{names_of(reports.unasked)}: not all of it: no time left"))
        if not self._rows and reports.unanswered:
            raise Error(f"{names_of(reports.unanswered)}: its file system does not answer")
        self.sources = {row[-1] for row in self._rows.values()}

    def _fail(self, thing: Thing, error: Error) -> None:
        # Of many processes some may end, or be others'.
        if isinstance(thing, str) or len(self.things) == 1:
            raise error
        self._lost.append(error)

    @property
    def notes(self) -> Notes:
        """What could not be looked at, and what is unknown of the rest."""
        notes = Notes((*self._notes, *left_notes(self._left)))
        if len(self._lost) <= NAMED:
            notes += [Note("left-out", f"left out: {error}") for error in self._lost]
        else:
            notes.add(Note("left-out", f"left out: {len(self._lost):,} processes, such as: {self._lost[0]}"))
        for is_stacked, why in (
            (True, "their pages are those of files of another file system (overlayfs, FUSE)"),
            (False, "cachestat needs Linux 6.5"),
        ):
            nr = sum(row[-1] == "mincore" and (row[3] == "stacked") == is_stacked for row in self._rows.values())
            if nr:
                files = "1 file" if nr == 1 else f"{nr:,} files"
                notes.add(Note("by-mincore", UNCOUNTED.format(files=files, why=why)))
        return notes

    def name_in_maps(self, file: CachedFile) -> tuple[str, int] | None:
        """Return what maps calls a file; None where that is not known."""
        name = file.dev, file.inode
        return None if name in self._unnamed else name

    def files(self) -> list[CachedFile]:
        """Return the files."""
        try:
            mounts = self.procfs.parsed_lines("self/mountinfo", parse_mountinfo)
        except (NotSupported, PermissionDenied, ProcessGone):
            mounts = {}
        page_size = self.procfs.page_size
        return [file_of(row, mounts, page_size) for row in self._rows.values()]


def left_notes(left: Sequence[int]) -> Iterator[Note]:
    """Yield what there is to say about files that were left out: how many, in the order of `rows_at`."""
    nr_refused, nr_hidden, nr_failed, nr_elsewhere = left
    if nr_refused:
        text = f"{nr_refused:,} files or directories left out: permission denied (needs CAP_DAC_READ_SEARCH)"
        yield Note("files-refused", text)
    if nr_hidden:
        files = "1 file" if nr_hidden == 1 else f"{nr_hidden:,} files"
        text = f"{files} left out: only owners and writers may know what of them is in RAM"
        yield Note("files-hidden", f"{text} (needs CAP_FOWNER)")
    if nr_failed:
        text = f"{nr_failed:,} files or directories left out: they cannot be opened or are too long"
        yield Note("files-failed", text)
    if nr_elsewhere:
        points = "1 mount point" if nr_elsewhere == 1 else f"{nr_elsewhere:,} mount points"
        yield Note("other-file-systems", f"{points} left out: each file system is to be named itself")


def file_of(row: Row, mounts: dict[str, str], page_size: int) -> CachedFile:
    """Return a file that a child has told of."""
    device, number, path, kind, name, size, counts, cells, is_deleted, _ = row
    dev, inode = name or (format_device(device), number)
    resident, dirty, writeback, evicted, recent = (None if nr is None else nr * page_size for nr in counts)
    in_memory = kind in FS_OF_KIND
    return CachedFile(
        path=path,
        dev=dev,
        inode=inode,
        fs=mounts.get(dev) or FS_OF_KIND.get(kind or ""),
        size=-(-size // page_size) * page_size,
        resident=resident or 0,
        dirty=dirty,
        writeback=writeback,
        evicted=0 if in_memory and evicted is not None else evicted,
        recently_evicted=0 if in_memory and recent is not None else recent,
        swap=evicted if kind == "shmem" else 0,
        cells=cells,
        is_deleted=is_deleted,
    )


# In the child


def pieces_of(thing: Thing, procfs: ProcFS) -> Iterator[tuple[int, Any]]:
    """Yield what `look_at` does, by a broker where there is one."""
    if procfs.lender is None:
        return look_at(thing, procfs)
    if isinstance(thing, str):
        return procfs.lender.each("look_at_path", thing)
    return procfs.lender.each("look_at_process", *thing.identity)


def look_at(thing: Thing, procfs: ProcFS) -> Iterator[tuple[int, Any]]:
    """Yield pieces of what there is at or below a path, or of a process: files, what is left out, an error."""

    def find(path: str, fd: int, status: os.stat_result, magic: int) -> Row | None:
        return row_of(procfs, path, fd, status, magic)

    return rows_at(thing, find)


def rows_at(
    thing: Thing, find: Callable[[str, int, os.stat_result, int], Row | None], at_once: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield the same pieces of what ``find`` returns of each file, given its path, a descriptor that reads nothing,
    what fstat(2) says of it, and the magic number of its file system. The third item of a row is the path.

    With ``at_once`` no row waits for others.
    """
    source = Tree(thing) if isinstance(thing, str) else ProcessFiles(thing)
    nr_refused = nr_hidden = nr_failed = 0
    batch = Batch()
    failure: Error | None = None
    try:
        for path, fd, status in source:
            magic = magic_of(fd) or 0
            try:
                batch.add(find(path, fd, status, magic))
            except PermissionDenied as error:
                if path == thing:
                    raise
                nr_hidden += FOWNER in error.needs
                nr_refused += FOWNER not in error.needs
            except (OSError, NotSupported) as error:
                if path == thing:
                    text = str(error) if isinstance(error, Error) else os.strerror(error.errno or 0)
                    raise Error(f"{path}: {text}") from None
                nr_failed += 1
            # What comes next may never answer, and what was found until then would be lost with us.
            if at_once or batch.is_full() or magic not in LOCAL_MAGICS or not isinstance(source, Tree):
                yield ROWS, batch.take()
    except Error as error:
        failure = error
    yield ROWS, batch.take()
    yield LEFT, (nr_refused + source.nr_refused, nr_hidden, nr_failed + source.nr_failed, source.nr_elsewhere)
    if failure is not None:
        yield FAILED, taken_apart(failure)


class Batch:
    """Files that are to be sent together."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._size = 0
        self._since = time.monotonic()

    def add(self, row: Row | None) -> None:
        """Add one, if it is one."""
        if row:
            self.rows.append(row)
            self._size += len(row[2].encode("utf-8", "surrogatepass"))  # as marshal has it

    def is_full(self) -> bool:
        """Whether it is time to send them."""
        is_late = time.monotonic() - self._since > MESSAGE_SECONDS
        return is_late or len(self.rows) >= MESSAGE_ROWS or self._size >= MESSAGE_SIZE

    def take(self) -> list[Row]:
        """Return them, and begin anew."""
        rows, self.rows, self._size, self._since = self.rows, [], 0, time.monotonic()
        return rows


def row_of(procfs: ProcFS, path: str, place: int, status: os.stat_result, magic: int) -> Row | None:
    """Return what `file_of` takes, of an unopened file; None of one of the kernel's own, which has no page cache."""
    kind = KIND_OF_MAGIC.get(magic)
    if kind == "special":
        return None
    try:
        fd = reopened(place)
    except PermissionError:
        raise PermissionDenied(path, "CAP_DAC_READ_SEARCH") from None
    try:
        try:
            counts, cells, source = count_cached(fd, status, kind, procfs.page_size)
        except PermissionDenied as error:
            raise PermissionDenied(path, *error.needs, text=error.text) from None
        name: tuple[str, int] | None = (format_device(status.st_dev), status.st_ino)
        if is_renamed(magic):
            name = name_in_maps(procfs, fd) if counts[0] else None
        return (
            status.st_dev,
            status.st_ino,
            path,
            kind,
            name,
            status.st_size,
            counts,
            cells,
            status.st_nlink == 0,
            source,
        )
    finally:
        os.close(fd)


def names_of(things: Sequence[Thing]) -> str:
    """Return what paths and processes are called, the first of them."""
    return first_of([thing if isinstance(thing, str) else f"process {thing.pid}" for thing in things])

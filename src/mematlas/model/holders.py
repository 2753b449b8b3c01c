"""Who else holds a file that is memory: which processes map it, and which have it open.

A memfd, shared anonymous memory, or a removed file of a tmpfs goes with the last mapping and the last descriptor, in
whatever process these are. Both are looked for in every process of the machine: mappings in its maps, descriptors in
its fd links. What we cannot see is counted, since any of it may be a holder.
"""

from __future__ import annotations

import errno
import os
import time

from mematlas.errors import Error, PermissionDenied, TooLarge
from mematlas.frozen import record
from mematlas.kernel.abandon import Inquiry
from mematlas.kernel.mounts import format_device
from mematlas.kernel.rights import INITIAL_PID_NAMESPACE
from mematlas.kernel.status import counts_as_we_do, read_stat
from mematlas.model.processes import REFUSED, Processes, ourselves

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mematlas.kernel.procfs import ProcessDir, ProcFS
    from mematlas.kernel.vmfile import Devices

    Find = Callable[[ProcessDir, set["File"]], set["File"]]
    """Returns which of some files a process has, in the sense that is asked about."""

File = tuple[str, int]
"""A file, by its device as maps prints it, and its inode number."""

NR_FILES, NR_DESCRIPTORS = 1 << 13, 1 << 10
"""Files, and descriptors of a process, that are asked about together: the answer is one message."""
SILENCE = 0.2
"""Seconds for one answer until another child goes on: starting one takes long on a slow machine."""
SECONDS = 10.0
"""For all processes; those that are left then are left out."""
REMOVED = (" (deleted)", "/memfd:")
"""What the link of a descriptor has in it where the file has no name any more."""


@record
class Unseen:
    """A process that could not be looked at."""

    pid: int
    start_time: int
    """As `Stat` has it."""


@record
class Holders:
    """Who else holds some files."""

    pids: dict[File, tuple[int, ...]]
    """The processes that map a file, or have it open where that was asked for, by PID."""
    refused: tuple[Unseen, ...]
    """The processes that we may not look at."""
    silent: tuple[Unseen, ...]
    """Those that did not answer in time."""
    is_inside: bool
    """Whether we are in a PID namespace, and do not see the processes outside it."""


@record
class OpenFile:
    """A file of memory that a process has open, and that has no name any more."""

    file: File
    number: int
    """One of its descriptors."""
    size: int
    """Bytes of memory and swap that are the file's."""


def find_holders(process: ProcessDir, wanted: Iterable[File]) -> Holders:
    """Return who holds these files beside a process that does; we are left out too."""
    others = Processes(process.procfs, without={process.pid, *ourselves(process.procfs)})
    return ask_everybody(others, wanted, held_files)


def find_mappers(procfs: ProcFS, wanted: Iterable[File]) -> Holders:
    """Return which processes map these files, whatever they have open; we are left out."""
    return ask_everybody(Processes(procfs), wanted, lambda process, files: set(mapped_files(process, files)))


def ask_everybody(others: Processes, wanted: Iterable[File], find: Find) -> Holders:
    """Return in which processes some files are found."""
    procfs = others.procfs
    files = list(dict.fromkeys(wanted))
    things = [(pid, low) for pid in others.pids for low in range(0, len(files), NR_FILES)]
    holders: dict[File, list[int]] = {}
    refused: list[int] = []

    def ask(thing: tuple[int, int]) -> tuple[object, int]:
        pid, low = thing
        return held_by(others, pid, files[low : low + NR_FILES], find), -1

    inquiry = Inquiry(ask, things, deadline=time.monotonic() + SECONDS, silence=SILENCE)
    for (pid, low), answer, _ in inquiry:
        if answer == REFUSED:
            refused.append(pid)
            continue
        for index in answer:
            holders.setdefault(files[low + index], []).append(pid)
    silent = [pid for pid, _ in (*inquiry.unanswered, *inquiry.unasked)]
    pids = {file: tuple(sorted(held)) for file, held in holders.items()}
    return Holders(
        pids=pids,
        refused=as_unseen(procfs, refused),
        silent=as_unseen(procfs, silent),
        is_inside=is_inside(procfs),
    )


def is_inside(procfs: ProcFS) -> bool:
    """Whether we are in a PID namespace, or look into one, and others are outside of it."""
    if not counts_as_we_do(procfs):
        return True
    try:
        return os.stat(f"{procfs.root}/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE
    except OSError:
        return False  # a kernel without CONFIG_PID_NS has but one


def as_unseen(procfs: ProcFS, pids: Iterable[int]) -> tuple[Unseen, ...]:
    """Return processes with their start; those that have ended hold nothing any more."""
    unseen = []
    for pid in dict.fromkeys(pids):
        try:
            with procfs.process(pid) as process:
                unseen.append(Unseen(pid, read_stat(process).start_time))
        except Error:
            continue
    return tuple(unseen)


def first_of_program(process: ProcessDir) -> int:
    """Return the start time of the process that started the program that this one runs.

    Memory that has no name and no descriptor passes by fork alone: older processes cannot have it. Where a parent has
    ended its children were given to an older one, so that the answer is too early and never too late.
    """
    stat = read_stat(process)
    while stat.is_fork:
        try:
            with process.procfs.process(stat.parent) as parent:
                stat = read_stat(parent)
        except Error:
            return 0
    return stat.start_time


def held_by(others: Processes, pid: int, files: Sequence[File], find: Find) -> object:
    """Return the indexes of the files that are found in a process; `REFUSED` where that cannot be seen."""
    pair = others.open(pid)
    if pair is None:
        return () if pid not in others.skipped[REFUSED] else REFUSED
    try:
        with pair[0] as process:
            held = find(process, set(files))
    except (PermissionDenied, TooLarge):
        return REFUSED
    except Error:
        return ()  # ended meanwhile
    return [index for index, file in enumerate(files) if file in held] if held else ()


def held_files(process: ProcessDir, wanted: set[File]) -> set[File]:
    """Return which of the wanted files a process maps, or has open though they have no name."""
    held = set(mapped_files(process, wanted))
    return held | wanted.intersection(file for _, file, _ in removed_files(process))


def mapped_files(process: ProcessDir, wanted: set[File]) -> Iterator[File]:
    """Yield which of the wanted files a process maps. Any length of text is read in little memory."""
    files = {f"{dev} {inode}".encode("ascii"): (dev, inode) for dev, inode in wanted}
    for line in process.lines("maps"):
        # The path, which may look like anything, is the last field.
        if (file := files.get(b" ".join(line.split(None, 5)[3:5]))) is not None:
            yield file


def removed_files(process: ProcessDir, part: int = 0, nr_parts: int = 1) -> Iterator[tuple[int, File, os.stat_result]]:
    """Yield the descriptors of a process whose file has no name: number, file, and what stat(2) says of it."""
    fd = process.open_fd("fd")
    try:
        for name in os.listdir(fd):
            try:
                if int(name) % nr_parts != part:
                    continue
                link = process.link(f"fd/{name}")
                if any(mark in link for mark in REMOVED):
                    status = process.status(f"fd/{name}")
                    if status.st_nlink == 0:
                        yield int(name), (format_device(status.st_dev), status.st_ino), status
            except OSError:
                continue  # closed meanwhile
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied("fd") from None
    finally:
        os.close(fd)


def open_memory_files(process: ProcessDir, devices: Devices) -> list[OpenFile] | None:
    """Return the files of memory without a name that a process has open; None where that cannot be seen."""
    memory = devices.shmem | devices.hugetlb

    def ask(part: int) -> tuple[object, int]:
        held = []
        try:
            for number, (dev, inode), status in removed_files(process, part, nr_parts):
                if dev in memory:
                    held.append((dev, inode, number, status.st_blocks * 512))
        except Error:
            return REFUSED, -1
        return held, -1

    try:
        fd = process.open_fd("fd")
    except PermissionDenied:
        return None
    try:
        nr_parts = len(os.listdir(fd)) // NR_DESCRIPTORS + 1
    finally:
        os.close(fd)
    files: dict[File, OpenFile] = {}
    inquiry = Inquiry(ask, range(nr_parts), deadline=time.monotonic() + SECONDS, silence=SILENCE)
    for _, answer, _ in inquiry:
        if answer == REFUSED:
            return None
        for dev, inode, number, size in answer:
            files[dev, inode] = OpenFile((dev, inode), number, size)
    return None if inquiry.unanswered or inquiry.unasked else list(files.values())

"""Who else holds a file that is memory: which processes map it, and which have it open.

A memfd, shared anonymous memory, or a removed file of a tmpfs goes with the last mapping and the last descriptor, in
whatever process these are. Both are looked for in every process of the machine: mappings in its maps, descriptors in
its fd links. What we cannot see is counted, since any of it may be a holder.
"""

from __future__ import annotations

import errno
import os

from mematlas.errors import Error, PermissionDenied, TooLarge
from mematlas.kernel.apart import ask_apart
from mematlas.kernel.mounts import format_device
from mematlas.kernel.status import counts_as_we_do, read_stat
from mematlas.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mematlas.kernel.mounts import Devices, LiveDevices
    from mematlas.kernel.procfs import ProcessDir, ProcFS

File = tuple[str, int]
"""A file, by its device as maps prints it, and its inode number."""

REFUSED, SILENT = b"refused", b"silent"
PROC_PID_INIT_INO = 0xEFFFFFFC  # the first PID namespace; include/uapi/linux/nsfs.h
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
    """The processes that map a file or have it open, beside the one that was asked about."""
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
    procfs = process.procfs
    files = dict.fromkeys(wanted)
    skipped = {process.pid, os.getpid()}
    is_inside = not counts_as_we_do(procfs) or os.stat(f"{procfs.root}/self/ns/pid").st_ino != PROC_PID_INIT_INO
    pids: dict[File, tuple[int, ...]] = {}
    refused: list[Unseen] = []
    silent: list[Unseen] = []
    others = [pid for pid in procfs.pids() if pid not in skipped] if files else []
    for pid, answer in ask_apart(others, lambda pid: held_by(procfs, pid, files)):
        if answer is None or answer == SILENT:
            silent += as_unseen(procfs, pid)
        elif answer == REFUSED:
            refused += as_unseen(procfs, pid)
        else:
            for line in answer.split():
                file = parse_file(line)
                pids[file] = (*pids.get(file, ()), pid)
    return Holders(pids, tuple(refused), tuple(silent), is_inside)


def as_unseen(procfs: ProcFS, pid: int) -> list[Unseen]:
    """Return a process as a list of one; nothing when it has ended."""
    try:
        with procfs.process(pid) as process:
            return [Unseen(pid, read_stat(process).start_time)]
    except Error:
        return []


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


def parse_file(text: bytes) -> File:
    """Return a file as `format_file` wrote it.

    >>> parse_file(b"00:01/7")
    ('00:01', 7)
    """
    dev, _, inode = text.decode("ascii").partition("/")
    return dev, int(inode)


def format_file(file: File) -> bytes:
    """Return a file as text."""
    return f"{file[0]}/{file[1]}".encode("ascii")


def held_by(procfs: ProcFS, pid: int, files: Iterable[File]) -> bytes:
    """Return which of the files a process holds, as text; `REFUSED` or `SILENT` where that cannot be seen."""
    wanted = set(files)
    devices = {dev for dev, _ in wanted}
    try:
        with procfs.process(pid) as process:
            held = {file for file in mapped_files(process, wanted) if file in wanted}
            held |= {file for _, file, _ in removed_files(process) if file[0] in devices and file in wanted}
    except PermissionDenied:
        return REFUSED
    except TooLarge:
        return SILENT
    except Error:
        return b""  # ended meanwhile
    return b" ".join(map(format_file, held))


def mapped_files(process: ProcessDir, wanted: set[File]) -> Iterator[File]:
    """Yield the files that a process maps, of those that may be wanted. Any length of text is read in little memory."""
    tokens = [f" {dev} {inode} ".encode("ascii") for dev, inode in wanted]
    for line in process.lines("maps"):
        # Few processes hold any: lines are taken apart only where one does, or has a path that looks like it.
        if any(token in line for token in tokens):
            fields = line.split(None, 5)
            yield fields[3].decode("ascii"), int(fields[4])


def removed_files(process: ProcessDir) -> Iterator[tuple[int, File, os.stat_result]]:
    """Yield the descriptors of a process whose file has no name: number, file, and what stat(2) tells of it."""
    fd = process.open_fd("fd")
    try:
        for name in os.listdir(fd):
            try:
                link = os.readlink(name, dir_fd=fd)
                if any(mark in link for mark in REMOVED):
                    found = os.stat(name, dir_fd=fd)
                    if found.st_nlink == 0:
                        yield int(name), (format_device(found.st_dev), found.st_ino), found
            except OSError:
                continue  # closed meanwhile
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied("fd") from None
    finally:
        os.close(fd)


def open_memory_files(process: ProcessDir, devices: Devices | LiveDevices) -> list[OpenFile] | None:
    """Return the files of memory without a name that a process has open; None where that cannot be seen."""
    memory = devices.shmem | devices.hugetlb

    def ask(pid: int) -> bytes:
        try:
            found = {file: (number, told.st_blocks * 512) for number, file, told in removed_files(process)}
        except Error:
            return REFUSED
        return b" ".join(b"%d:%d:" % place + format_file(file) for file, place in found.items() if file[0] in memory)

    ((_, answer),) = ask_apart([process.pid], ask)
    if answer is None or answer == REFUSED:
        return None
    files = []
    for text in answer.split():
        number, size, file = text.split(b":", 2)
        files.append(OpenFile(parse_file(file), int(number), int(size)))
    return files

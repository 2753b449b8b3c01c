"""A moment of a recording, unpacked: the processes of that moment as captures, in a directory of our own.

The recording may be anybody's. A child reads it, without rights where we have any, and tells us the files; what it may
name is few, and how much it may tell is bounded.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from mematlas.errors import BadInput, Error, FormatError, NotSupported, PermissionDenied, TargetNotFound
from mematlas.frozen import Record, record
from mematlas.kernel.confine import leave_rights
from mematlas.kernel.procfs import is_number
from mematlas.kernel.rights import effective_capabilities
from mematlas.timeline.moment import OF_ALL, OF_PROCESS, files_at
from mematlas.timeline.recording import Recording, RecordingFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, NoReturn, Self

    from mematlas.timeline.recording import RecordedProcess

ERRORS = {kind.__name__: kind for kind in (BadInput, FormatError, NotSupported, PermissionDenied, TargetNotFound)}
"""Those that the child may meet, by their names; any other is an `Error`."""
MOST_HEAD = 256
MOST_ERROR = 1 << 13
MOST_FILE = 512 << 20
MOST_BYTES = 4 << 30
"""Of one file, and of all."""
END, FAILED = "end", "error"


@record
class Unpacked(Record):
    """The processes of a moment as a capture; it is there until `close`."""

    directory: str
    captures: dict[int, str]
    """The directory of each process in it, by its PID."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it away."""
        shutil.rmtree(self.directory, ignore_errors=True)


def unpack(path: str, seconds: float, pid: int | None = None) -> Unpacked:
    """Unpack the processes that a recording has at a moment so long after its first; or the one of a PID.

    Raises:
        TargetNotFound: there is no such file, the moment is outside, or nobody of that PID was there.
        FormatError: it is no recording.
        NotSupported: VMAs were not recorded.
    """
    files = RecordingFiles(path)
    try:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            run(files, seconds, pid, tell)
        os.close(tell)
    finally:
        files.close()
    directory = tempfile.mkdtemp(prefix="mematlas-")
    try:
        with open(told, "rb") as file:
            pids = {save(name, data, directory) for name, data in heard(file, path)}
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.waitpid(child, 0)
    return Unpacked(directory, {each: f"{directory}/{each}" for each in sorted(filter(None, pids))})


def heard(file: BinaryIO, path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that the child tells of, and raise the error that it met."""
    left = MOST_BYTES
    while True:
        head = file.readline(MOST_HEAD).decode("ascii", "replace").split()
        if head == [END]:
            return
        if len(head) != 2 or not head[1].isdigit() or (size := int(head[1])) > min(left, MOST_FILE):
            raise Error(f"{path}: what reads it has ended")
        data = file.read(size)
        left -= size
        name, _, kind = head[0].partition(":")
        if name == FAILED:
            error = Error(data[:MOST_ERROR].decode("utf-8", "replace"))
            error.exit_code = ERRORS.get(kind, Error).exit_code
            raise error
        yield head[0], data


def save(name: str, data: bytes, directory: str) -> int | None:
    """Write a file of a capture; return the PID of whose it is, None of what is of all.

    Raises:
        FormatError: no capture has such a file.
    """
    pid, _, own = name.rpartition("/")
    if name not in OF_ALL and not (is_number(pid) and own in OF_PROCESS):
        raise FormatError("a moment", name, expected="files of a capture")
    if pid:
        os.makedirs(f"{directory}/{pid}", mode=0o700, exist_ok=True)
    with open(f"{directory}/{name}", "xb") as file:
        file.write(data)
    return int(pid) if pid else None


# In the child


def run(files: RecordingFiles, seconds: float, pid: int | None, tell: int) -> NoReturn:
    """Tell of the files of a moment, and end."""
    with open(tell, "wb") as out:
        try:
            has_rights = os.geteuid() == 0 or bool(effective_capabilities())
            if has_rights:
                leave_rights({*files.fds, tell})
            with Recording(files, is_private=has_rights) as recording:
                for name, data in files_at(*found_at(recording, seconds, pid)):
                    out.write(b"%b %d\n" % (name.encode("ascii"), len(data)))
                    out.write(data)
            out.write(f"{END}\n".encode("ascii"))
            out.flush()
        except (Error, OSError, MemoryError) as error:
            text = (str(error) or type(error).__name__).encode("utf-8", "replace")[:MOST_ERROR]
            kind = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS), "")
            out.write(b"%b:%b %d\n" % (FAILED.encode("ascii"), kind.encode("ascii"), len(text)))
            out.write(text)
            out.flush()
        except BaseException:
            import traceback

            traceback.print_exc()  # a mistake of ours, to be shown
        finally:
            os._exit(0)


def found_at(recording: Recording, seconds: float, pid: int | None) -> tuple[Recording, list[RecordedProcess], int]:
    """Return the processes of a moment that are wanted, and the moment."""
    moment = recording.moment_at(seconds)
    processes = [one for one in recording.processes_at(moment) if pid in (None, one.pid)]
    if not processes:
        who = "no process" if pid is None else f"no process {pid}"
        raise TargetNotFound(f"{recording.path} has {who} at {seconds:g} s")
    return recording, processes, moment

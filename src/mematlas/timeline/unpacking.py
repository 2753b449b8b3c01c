"""A moment of a recording, unpacked: the processes of that moment as captures, in a directory of our own.

The recording may be anybody's. A child reads it, without rights where we have any, and tells us the files; what it may
name is few, and how much it may tell is bounded.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile

from mematlas.errors import BadInput, Error, FormatError, NotSupported, PermissionDenied, TargetNotFound
from mematlas.frozen import Record, record
from mematlas.kernel.confine import leave_rights
from mematlas.kernel.procfs import is_number
from mematlas.kernel.rights import has_rights
from mematlas.timeline.moment import OF_ALL, OF_PROCESS, files_at
from mematlas.timeline.recording import END as LAST
from mematlas.timeline.recording import MOST_SECONDS as MOST_TIME
from mematlas.timeline.recording import Recording
from mematlas.timeline.recording_files import RecordingFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO, NoReturn, Self

    from mematlas.timeline.recorded_rows import RecordedProcess

ERRORS = {kind.__name__: kind for kind in (BadInput, FormatError, NotSupported, PermissionDenied, TargetNotFound)}
"""Those that the child may meet, by their names; any other is an `Error`."""
MOST_HEAD = 256
MOST_ERROR = 1 << 13
MOST_FILE = 512 << 20
MOST_BYTES = 4 << 30
"""Of one file, and of all."""
MOST_SECONDS = 90
MOST_MEMORY = 4 << 30
"""Bytes of address space that reading it may take."""
END, FAILED, WHEN = "end", "error", "when"


@record
class Unpacked(Record):
    """The processes of a moment as a capture; it is there until `close`."""

    directory: str
    captures: dict[int, str]
    """The directory of each process in it, by its PID."""
    elapsed: float
    """When the moment was: seconds after the first one, and after 1970."""
    time: float

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it away."""
        shutil.rmtree(self.directory, ignore_errors=True)


def unpack(path: str, seconds: float, pid: int | None = None, of_machine: bool = False) -> Unpacked:
    """Unpack the processes that a recording has at a moment so long after its first; or the one of a PID.

    With ``of_machine`` no process, but what was recorded of the machine as a whole.

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
            run(files, seconds, pid, of_machine, tell)
        os.close(tell)
    finally:
        files.close()
    directory = tempfile.mkdtemp(prefix="mematlas-")
    try:
        pids: set[int | None] = set()
        elapsed = at = 0.0
        with open(told, "rb") as file:
            for name, data in heard(file, path):
                if name == WHEN:
                    elapsed, at = parse_times(data)
                else:
                    pids.add(save(name, data, directory))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        os.kill(child, signal.SIGTERM)  # it takes its own away
        raise
    finally:
        os.waitpid(child, 0)
    captures = {each: f"{directory}/{each}" for each in sorted(filter(None, pids))}
    return Unpacked(directory, captures, elapsed, at)


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


def parse_times(data: bytes) -> tuple[float, float]:
    """Return when a moment was.

    >>> parse_times(b"1.5 1796015000.25")
    (1.5, 1796015000.25)

    Raises:
        FormatError: it is no two times.
    """
    try:
        elapsed, at = map(float, data.split())
    except ValueError:
        raise FormatError("a moment", expected="when it was") from None
    if not (0 <= elapsed < MOST_TIME and 0 <= at < MOST_TIME):
        raise FormatError("a moment", expected="when it was")
    return elapsed, at


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
    try:
        with open(f"{directory}/{name}", "xb") as file:
            file.write(data)
    except FileExistsError:
        raise FormatError("a moment", name, expected="each process once") from None
    return int(pid) if pid else None


# In the child


def run(files: RecordingFiles, seconds: float, pid: int | None, of_machine: bool, tell: int) -> NoReturn:
    """Tell of the files of a moment, and end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with who waits for it
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(MOST_SECONDS)
    bound_memory()
    with open(tell, "wb") as out:
        try:
            is_private = has_rights()
            if is_private:
                files.connect_now()
                leave_rights({*files.fds, tell})
            with Recording(files, is_private=is_private) as recording:
                moment = recording.moment_at(seconds)
                if not of_machine:
                    moment = moment_of(recording, seconds, moment, pid)
                processes = [] if of_machine else of_pid(recording.processes_at(moment), pid)
                when = b"%r %r" % recording.when(moment)
                out.write(b"%b %d\n%b" % (WHEN.encode("ascii"), len(when), when))
                for name, data in files_at(recording, processes, moment):
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
        except KeyboardInterrupt:
            pass  # nobody waits for it any more
        except BaseException:
            import traceback

            traceback.print_exc()  # a mistake of ours, to be shown
        finally:
            os._exit(0)


def bound_memory() -> None:
    """Have no more memory than `MOST_MEMORY`, or than we were allowed."""
    soft, hard = (min(MOST_MEMORY, most % (1 << 64)) for most in resource.getrlimit(resource.RLIMIT_AS))
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def end(number: int, _: object) -> None:
    """End what is being done, since nobody waits for it, or it takes too long."""
    if number == signal.SIGALRM:
        raise Error(f"reading the recording took longer than {MOST_SECONDS} s")
    raise KeyboardInterrupt


def moment_of(recording: Recording, seconds: float, moment: int, pid: int | None) -> int:
    """Return the moment that is meant where processes are wanted, all or that of a PID: of `END`, the last with one.

    Raises:
        TargetNotFound: there was none then.
    """
    if of_pid(recording.processes_at(moment), pid):
        return moment
    who = "no process" if pid is None else f"no process {pid}"
    ever = of_pid(recording.processes(), pid)
    if not ever:
        raise TargetNotFound(f"{recording.path} has {who}: mematlas report {recording.path} shows what it has")
    last = max(map(recording.last_moment, ever))
    if seconds == LAST:
        return last
    first_s, last_s = (recording.elapsed(number) for number in (min(one.first for one in ever), last))
    named = "" if pid is None else f":{pid}"
    there = "were some" if pid is None else "was one"
    raise TargetNotFound(
        f"{recording.path} has {who} at {seconds:g} s: there {there} from {first_s:.1f} s to {last_s:.1f} s;"
        f" the last moment of that is @end{named}"
    )


def of_pid(processes: Iterable[RecordedProcess], pid: int | None) -> list[RecordedProcess]:
    """Return those processes that are wanted."""
    return [one for one in processes if pid in (None, one.pid)]

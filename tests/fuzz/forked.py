"""Command lines in a child of their own, which may leave its rights: that cannot be undone; and what needs none, as
another user.

What it took, and what it leaves behind, is looked at from outside.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from commands import PR_SET_PDEATHSIG, WALL, Line, Ran, children, clock, contents, open_descriptors, open_stream
from engine import Overrun, kind_of, limit_memory
from mematlas import cli

USER = 65534
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
libc = ctypes.CDLL(None)
FONT = ".ttf"
FAILED = 99
"""How a child ends that has raised something, which it tells us."""
MOST_TOLD = 1 << 16
MOST_WRITTEN = 512 << 20
"""Bytes of a file that it may write."""
GRACE = 5
"""Seconds that somebody who is being ended may need."""


class Forked:
    """Runs command lines, one after the other, each in a child that takes so many seconds of a processor at the most,
    with all that it starts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._streams = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
        self._told = mmap.mmap(-1, MOST_TOLD)
        # What is there already is not written to by each child, as looking for garbage does.
        gc.collect()
        gc.freeze()
        # Whom it leaves behind becomes ours.
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def run(self, line: Line) -> Ran:
        """Run a command line; raise `AssertionError` for what it raises, takes, or leaves behind."""
        for fd in self._streams:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
        os.pwrite(self._streams[0], line.stdin, 0)
        self._told[:4] = bytes(4)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._run(line)
        try:
            # It has less itself, and so can tell where it waits.
            with clock(WALL + GRACE):
                _, status, usage = os.wait4(child, 0)
        except Overrun:
            end(child)
            raise AssertionError(f"waits for ever\n{line.words}") from None
        code = os.waitstatus_to_exitcode(status)
        if is_somebody_left():
            end_all()
            raise AssertionError(f"a child left behind\n{line.words}")
        taken = usage.ru_utime + usage.ru_stime
        assert taken < self.seconds, f"more than {self.seconds:g} s of the processor\n{taken:.1f} s: {line.words}"
        assert code != FAILED, f"{self._heard()}\n{line.words}"
        _, out, err = map(contents, self._streams)
        return Ran(code, out, err.decode("utf-8", "surrogateescape"))

    def _heard(self) -> str:
        size = int.from_bytes(self._told[:4], "little")
        return self._told[4 : 4 + size].decode("utf-8", "replace")

    def _tell(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")[: MOST_TOLD - 4]
        self._told[: 4 + len(data)] = len(data).to_bytes(4, "little") + data

    def _run(self, line: Line) -> NoReturn:
        """Run a command line in the child, and end."""
        code = FAILED
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            self._prepare(line)
            before = open_descriptors()
            with clock(WALL):
                code = cli.main(line.words)
            with suppress(OSError):
                sys.stderr.flush()
            if left := left_open(before):
                self._tell(f"descriptors left open\n{left}")
                code = FAILED
        except BaseException as error:
            self._tell(f"{kind_of(error)}\n{''.join(traceback.format_exception(error)[-40:])}")
            code = FAILED
        finally:
            os._exit(code)

    def _prepare(self, line: Line) -> None:
        """Have the streams, the bounds and the variables that the command line is to have."""
        os.setpgid(0, 0)
        for number, fd in enumerate(self._streams):
            os.dup2(fd, number)
        os.closerange(3, max(map(int, open_descriptors())) + 1)
        sys.stdin, sys.stdout, sys.stderr = map(open_stream, range(3))
        os.environ.update(line.environment)
        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            limit_memory()  # a worker has a bound already
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_WRITTEN, MOST_WRITTEN))
        seconds = round(self.seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds + GRACE, seconds + GRACE))  # of each that it starts, too

        def overrun(number: int, frame: FrameType | None) -> NoReturn:
            raise Overrun(f"more than {seconds} s")

        signal.signal(signal.SIGPROF, overrun)
        signal.setitimer(signal.ITIMER_PROF, seconds)


@contextmanager
def being_user() -> Iterator[None]:
    """Be a user without rights, with a way back: nothing that could go it is run."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(USER, USER, 0)
    os.setresuid(USER, USER, 0)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # or our own files in /proc are root's
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def left_open(before: set[str]) -> list[str]:
    """Return what is open that was not before, but for what is held where rights are left: directories of modules, and
    the fonts of matplotlib.
    """
    if not open_descriptors() - before:
        return []
    gc.collect()  # an error that was reported may hold what it came by
    held = {path.split("/")[4] for path in sys.path if path.startswith("/proc/self/fd/")}
    left = []
    for fd in open_descriptors() - before - held:
        with suppress(FileNotFoundError):  # it was let go of meanwhile
            left.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in left if not path.endswith(FONT)]


def is_somebody_left() -> bool:
    """Whether a child of a child of ours goes on. One that was killed may need a while."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return False
    return True


def end(child: int) -> None:
    """End a child, and whom it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    end_all()


def end_all() -> None:
    """End all children that we have."""
    with suppress(ChildProcessError):
        while True:
            for pid in map(int, children()):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)

"""A recorder beside a screen: a child that is started before rights are left, and records when it is told to.

Whoever tells it may be somebody who has taken over a screen without rights. So as root it records one process, which
was named at the start, into a file of a name of its own making: nothing of either can be told.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys

from mematlas.errors import Error
from mematlas.kernel.descriptors import close_all_but, write_within
from mematlas.kernel.procfs import ProcFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    Recorder = subprocess.Popen[bytes]

BEGIN, END = b"r", b"s"
MOST_WORD = 64
"""Bytes that are told at a time."""
MOST_DIGITS = 10
MOST_SAID = 1 << 12
MOST_WAIT = 1
"""Seconds that an answer waits to be taken."""
ENDING = "the recording before is being made whole: once more in a moment"
MISTAKE, NOTHING = "mematlas: ", "nothing was recorded"
GONE = "what records has been killed: nothing is recorded from here on"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAITS = 60.0
"""Seconds that a recorder has to make its file whole."""


class RecorderBeside:
    """Records the process of a screen, from when it is told to until it is told to end, or the screen has ended."""

    def __init__(self, only: tuple[int, int] | None) -> None:
        """``only`` is the PID and the start of the one process that may be recorded; None where whoever tells has our
        rights itself.
        """
        told, self._tell = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)  # each word is read by itself: pipe(2)
        self._heard, says = os.pipe()
        self.is_recording = False
        self.why_not = ""
        """Why nothing can be recorded just now; empty where it can."""
        self.pid = os.fork()
        if self.pid == 0:
            serve(told, says, only)
        os.close(told)
        os.close(says)
        os.set_blocking(self._heard, False)

    @property
    def fds(self) -> set[int]:
        """What is needed to the end."""
        return {self._tell, self._heard}

    def begin(self, pid: int) -> None:
        """Have it record a process, unless there is a reason not to: once it has ended, it says something."""
        self.is_recording = True
        self._send(b"%b%d\n" % (BEGIN, pid))

    def end(self) -> None:
        """Have it end the recording."""
        self.is_recording, self.why_not = False, ENDING
        self._send(END + b"\n")

    def _send(self, data: bytes) -> None:
        try:
            os.write(self._tell, data)
        except BrokenPipeError:
            pass  # it was killed: that is heard

    def heard(self) -> str:
        """Return what it has said since it was asked last."""
        try:
            data = os.read(self._heard, MOST_SAID)
        except BlockingIOError:
            return ""
        if not data and self.why_not == GONE:
            return ""
        self.is_recording, self.why_not = False, "" if data else GONE
        if not data:
            return GONE
        return data.decode("utf-8", "replace").strip()

    def close(self) -> str:
        """Have it end; what it records is made whole before. Return what there is to say of that."""
        os.close(self._tell)
        os.set_blocking(self._heard, True)
        with open(self._heard, "rb") as file:
            said = file.read(MOST_SAID).decode("utf-8", "replace").strip()
        os.waitpid(self.pid, 0)
        return said


def serve(told: int, says: int, only: tuple[int, int] | None) -> NoReturn:
    """Record when told to, in the child: nothing here may return."""
    recorder: Recorder | None = None
    try:
        os.setsid()  # what is typed at the terminal is for the screen
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        close_all_but({told, says})
        recorder = listen(told, says, only)
    finally:
        if recorder is not None:
            say(says, ended(recorder))
        os._exit(0)


def listen(told: int, says: int, only: tuple[int, int] | None) -> Recorder | None:
    """Do what is told until nobody is there any more; return what records then."""
    recorder: Recorder | None = None
    while True:
        is_told = bool(select.select([told], [], [], 0.5 if recorder else None)[0])
        if not is_told:
            if recorder is not None and recorder.poll() is not None:
                say(says, ended(recorder))
                recorder = None
            continue
        word = os.read(told, MOST_WORD)
        if not word:
            return recorder
        if word.startswith(END) and recorder is not None:
            say(says, ended(recorder))
            recorder = None
        elif word.startswith(BEGIN) and recorder is None:
            pid = pid_of(word)
            if pid is not None and (only is None or is_still(pid, only)):
                try:
                    recorder = begun(pid)
                except OSError as error:
                    say(says, f"the recorder cannot be started: {error.strerror}")
            else:
                say(says, "as root, only the process that was named at the start is recorded: mematlas top PID")


def pid_of(word: bytes) -> int | None:
    """Return which process is to be recorded; None where that is no number.

    >>> pid_of(b"r4211\\n"), pid_of(b"r../x\\n")
    (4211, None)
    """
    digits = word[1:].strip()
    return int(digits) if digits.isdigit() and len(digits) <= MOST_DIGITS else None


def is_still(pid: int, only: tuple[int, int]) -> bool:
    """Whether a number is still that of the process that was named by it."""
    try:
        with ProcFS().process(pid) as process:
            return process.identity == only
    except Error:
        return False


def begun(pid: int) -> Recorder:
    """Begin to record a process, with its pages, into a file of a name that says whose and when."""
    # Without -P it would import from the directory that we are in, where somebody may have put something.
    line = [sys.executable, "-P", "-m", "mematlas", "--apart", "record", str(pid), "--what", "pages"]

    def end_with_us() -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # Its input is closed when we end it, and when we are killed: as root it can be told no other way then, since it
        # becomes somebody else, whom PR_SET_PDEATHSIG would not reach (prctl(2)).
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGINT)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)

    return subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=end_with_us)


def ended(recorder: Recorder) -> str:
    """End a recording; return the last that its recorder had to say."""
    try:
        # Closes its input, at which it gets SIGINT.
        _, said = recorder.communicate(timeout=WAITS)
    except subprocess.TimeoutExpired:
        return "the recording is not whole yet: its recorder does not end"
    line = (said.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    # Ended before there was a first moment it has nothing to say, and Python may.
    is_heard = line.startswith(MISTAKE) or not recorder.returncode
    return (is_heard and line) or NOTHING


def say(says: int, text: str) -> None:
    """Say something to the screen."""
    write_within(MOST_WAIT, says, text.encode()[:MOST_SAID] + b"\n")

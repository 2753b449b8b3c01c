"""Recorders that are killed or stopped at a random moment: of what had been recorded nothing is lost, whoever reads it.

An input is the seed of all that happens. The moment cannot be made again: a kept input is run many times.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import NoReturn

from commands import CODES, CONTROL, PR_SET_PDEATHSIG, WALL, children, clear, clock, open_stream, start_victim
from everything import import_everything
from forked import PR_SET_CHILD_SUBREAPER, being_user, libc
from histories import read_all
from made_recordings import NAME
from mematlas import cli
from mematlas.errors import FormatError, TargetNotFound
from mematlas.timeline.recording import Recording
from mematlas.timeline.writing import BESIDE, LOG
from victim import wait_until

CHANGING = "import time\nx = []\nwhile True:\n    x = [*x[-60:], bytearray(70000)]\n    time.sleep(0.02)"
"""A small program whose memory changes."""
FAST = ("-i", "50ms", "--budget", "100%")
OF_PROCESS = ("usage", "vmas", "pages", "pages", "frames")
RECORDER, WRITER = "recorder", "writer"
VICTIMS = ((RECORDER,), (WRITER,), (RECORDER, WRITER), (WRITER, RECORDER))
NOTHING = -1
"""What a reader sees where there is no recording yet."""
PATIENCE = 20.0
"""Seconds in which a recorder begins, and in which it ends when its writer does, or when it is told to."""
TOLD, KILLED = frozenset((128 + signal.SIGTERM,)), frozenset((-signal.SIGTERM,))
"""How a recorder ends that is told to in the middle of its first look, and before it listens."""


class Kills:
    """Recorders of a small process, which are killed or stopped."""

    name = "kills"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        import_everything()
        self._place = Path()
        self._watched = 0

    def make(self, random: Random) -> bytes:
        return b"%d" % random.randrange(1 << 32)

    def run(self, data: bytes) -> None:
        if not self._watched:
            self._prepare()
        before, tempfile.tempdir = tempfile.tempdir, str(self._place / "tmp")
        try:
            with clock(WALL):
                Kill(self._place, self._watched, Random(int(data))).run()
        finally:
            tempfile.tempdir = before
            for pid in set(map(int, children())) - {self._watched}:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _prepare(self) -> None:
        self._watched = start_victim(CHANGING)
        # A writer whose recorder is killed is ours to wait for.
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._place = Path(tempfile.mkdtemp(prefix="mematlas-fuzz-kills-"))
        self._place.chmod(0o711)
        for name in ("in", "tmp"):
            (self._place / name).mkdir()
        (self._place / "tmp").chmod(0o1777)


class Kill:
    """One recorder, and what becomes of it."""

    def __init__(self, place: Path, watched: int, random: Random) -> None:
        self.place, self.watched, self.random = place / "in", watched, random
        self.tmp, self.said = place / "tmp", place / "said"
        self.path = self.place / NAME
        self.place.chmod(0o755)
        clear(self.place)
        self.said.write_bytes(b"")
        what = [random.choice(OF_PROCESS if os.geteuid() == 0 else OF_PROCESS[:3])]
        what += [name for name, often in (("tables", 0.2), ("ram", 0.03), ("files", 0.03)) if random.random() < often]
        words = ["record", str(watched), "-o", str(self.path), *FAST, "--what", ",".join(what)]
        words += ["--keep", "300ms"] if random.random() < 0.25 else []
        self.recorder = start(words, self.said)
        self.code: int | None = None
        """How the recorder has ended."""

    def run(self) -> None:
        """Have something happen to it, and look at what it leaves."""
        random = self.random
        if random.random() < 0.9:
            wait_until(lambda: last_moment(self.path) > 0 or self._has_ended(), "it begins", PATIENCE)
        time.sleep(random.uniform(0, 0.5))
        whom = random.choice(VICTIMS)
        if random.random() < 0.7:
            self._kill(whom)
        else:
            self._stop(whom)
        said = self.said.read_text(errors="surrogateescape")
        assert "Traceback" not in said, f"traceback\n{said}"
        assert not CONTROL.search(said), f"control characters on standard error\n{said!r}"
        left = sorted(path.name for path in self.tmp.iterdir())
        assert not left, f"something temporary is left\n{left}"

    def _kill(self, whom: tuple[str, ...]) -> None:
        """Kill a recorder, its writer, or both: who is left ends by himself."""
        writer = self._writer()
        whom = whom if writer else (RECORDER,)
        seen = last_moment(self.path)
        self._meet()
        self._signal(whom, writer, signal.SIGKILL)
        wait_until(self._are_gone, "all of it ends", PATIENCE)
        if whom == (WRITER,):
            assert self.code in CODES, f"it ends with {self.code}\n{self.said.read_text()}"
        elif whom == (RECORDER,) and self.path.exists():
            assert os.listdir(self.place) == [NAME], f"a writer that lives on leaves {os.listdir(self.place)}"
        self._read(seen)

    def _stop(self, whom: tuple[str, ...]) -> None:
        """Stop a recorder, its writer, or both; read what there is; and have it go on, and end well, or kill it."""
        writer = self._writer()
        seen = last_moment(self.path)
        self._meet()
        self._signal(whom, writer, signal.SIGSTOP)
        time.sleep(self.random.uniform(0, 0.1))
        self._read_by_others(seen)
        self._opens(seen)
        seen = max(seen, last_moment(self.path))
        if self.random.random() < 0.3:
            self._signal((RECORDER, WRITER), writer, signal.SIGKILL)
            wait_until(self._are_gone, "all of it ends", PATIENCE)
        else:
            self._signal(whom, writer, signal.SIGCONT)
            self._signal((RECORDER,), writer, signal.SIGTERM)
            wait_until(self._are_gone, "all of it ends", PATIENCE)
            assert self.code in (CODES | TOLD if writer else CODES | TOLD | KILLED), (
                f"it ends with {self.code}\n{self.said.read_text()}"
            )
            assert seen < 1 or os.listdir(self.place) == [NAME], f"what ends well leaves {os.listdir(self.place)}"
        self._read(seen)

    def _meet(self) -> None:
        """Come when something has just been written, half of the time: else most of it is rest."""
        log = f"{self.path}{LOG}"
        if self.random.random() < 0.5:
            before = written_at(log)
            wait_until(lambda: written_at(log) != before or self._has_ended(), "something is written", PATIENCE)
            time.sleep(self.random.uniform(0, 0.004))

    def _read(self, seen: int) -> None:
        """Read what is left, as somebody who may write nothing there, and as whose it is."""
        nr = self._read_by_others(seen)
        own = self._opens(seen)
        assert own == nr, f"its owner reads {own} moments, and others {nr}"
        if own is None:
            return
        left = sorted(os.listdir(self.place))
        assert left == [NAME], f"a reader leaves something beside it\n{left}"
        with closing(sqlite3.connect(self.path)) as database:
            found = database.execute("PRAGMA integrity_check").fetchall()
        assert found == [("ok",)], f"it is not whole\n{found}"

    def _read_by_others(self, seen: int) -> int | None:
        """Read it as somebody who may read it, and write nothing there; return how many moments it has, if any."""
        files = [self.path.with_name(NAME + suffix) for suffix in ("", *BESIDE)]
        for file in files:
            with suppress(FileNotFoundError):
                file.chmod(0o644)
        self.place.chmod(0o555)
        try:
            with being_user():
                return self._opens(seen)
        finally:
            self.place.chmod(0o755)

    def _opens(self, seen: int) -> int | None:
        """Read all that there is; return how many moments; None where there was no recording yet."""
        try:
            nr = read_all(self.path)
            with Recording(str(self.path)) as recording:
                last = recording.last
        except FormatError as error:
            if seen != NOTHING:
                raise AssertionError(f"what had been recorded is refused\n{seen} moments: {error}") from None
            return None
        except TargetNotFound:
            assert seen < 1, f"what had been recorded is gone\n{seen} moments"
            return None
        assert last >= max(seen, 0), f"moments are lost\n{seen} before, {last} left"
        return nr

    def _writer(self) -> int:
        """Return the PID of who writes; 0 where nobody does yet."""
        for pid in children_of(self.recorder):
            with suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == str(self.path):
                        return pid
        return 0

    def _signal(self, whom: tuple[str, ...], writer: int, number: int) -> None:
        for one in whom:
            if pid := self.recorder if one == RECORDER else writer:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _has_ended(self) -> bool:
        """Whether the recorder has. Whom it leaves is ours to wait for, too."""
        while pid := (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if pid == self.recorder:
                self.code = os.waitstatus_to_exitcode(ended[1])
        return self.code is not None

    def _are_gone(self) -> bool:
        """Whether the recorder has ended, and all that it had started."""
        return self._has_ended() and set(map(int, children())) <= {self.watched}


def start(words: list[str], said: Path) -> int:
    """Run a command line in a child that ends with us; return its PID."""
    pid = os.fork()
    if pid == 0:
        run(words, said)
    return pid


def last_moment(path: Path) -> int:
    """Return the last moment that a reader sees, 0 before the first."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)) as database:
            return int(database.execute("SELECT coalesce(max(id), 0) FROM moment").fetchone()[0])
    except sqlite3.Error:
        return NOTHING


def written_at(path: str) -> int:
    """Return when a file was written to; 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def children_of(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def run(words: list[str], said: Path) -> NoReturn:
    """Run a command line, and end."""
    code = 99
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        fds = (
            os.open(os.devnull, os.O_RDONLY),
            os.open(os.devnull, os.O_WRONLY),
            os.open(said, os.O_WRONLY | os.O_APPEND),
        )
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
        sys.stdin, sys.stdout, sys.stderr = map(open_stream, range(3))
        code = cli.main(words)
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)

"""Walks of a process that changes everything while it is walked: its memory, its program, its user, its life.

In a PID namespace of our own each victim has the PID of the one before it. The moment cannot be made again: a kept
input is walked many times.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import NoReturn

from commands import ACTS, PR_SET_PDEATHSIG, Line, check, run_line
from engine import Overrun

VICTIM = Path(__file__).with_name("racing_program.py")
VARIABLE = "MEMATLAS_FUZZ_OWN_PIDS"
"""Set where we are in a PID namespace of our own."""
LAST_PID = "/proc/sys/kernel/ns_last_pid"
FIRST_PID = 300

SEEN = frozenset((0, 6))
MISSED = frozenset((3,))
"""There is none at this moment, or it has become a zombie."""
REFUSED = frozenset((4,))
"""By the kernel, where we are not root: it may have become another user."""
NO_AREA = frozenset((2,))
"""It has no memory of this kind at this moment."""
NO_LEADER = frozenset((5,))
"""process_madvise(2) needs the first thread of a process, which ends before the others sometimes."""
DIFFERS = frozenset((10,))

LINES = (
    *("usage PID", "usage PID --json", "usage PID --source smaps", "usage PID --source pagemap", "usage PID --numa"),
    *("usage PID --source tables", "maps PID", "maps PID --gaps", "maps PID --source smaps", "maps PID --format csv"),
    *("maps PID --source pagemap --numa", "maps PID --source tables", "maps PID --kind anon", "pages PID --limit 500"),
    *("pages PID --runs", "pages PID --present --runs", "pages PID [stack]", "pages PID --source tables --runs"),
    *(
        "hist PID",
        "map PID --width 60",
        "hist PID --json",
        "map PID --source tables",
        "tables PID",
        "tables PID --list",
    ),
    *("tables PID --tree", "tables PID --verify", "usage PID --verify", "translate PID 0x400000", "tables PID --audit"),
    *("pageout PID --dry-run", "cold PID --dry-run", "pageout PID --anon", "cold PID", "willneed PID --dry-run"),
    *("pageout PID --passes 2 --undo", "collapse PID --dry-run", "collapse PID [heap]", "capture PID COPY"),
    *("usage NAME", "usage ~MARK", "maps ~MARK"),
)


class Races:
    """Command lines on a process that does not stand still."""

    name = "races"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._place = Path()
        self._nr_runs = 0

    def make(self, random: Random) -> bytes:
        return json.dumps(random.choice(LINES)).encode()

    def run(self, data: bytes) -> None:
        if not self._place.name:
            self._place = Path(tempfile.mkdtemp(prefix="mematlas-fuzz-races-"))
            start_keeper(self._place / "pid")
        words: list[str] = json.loads(data).split()
        self._nr_runs += 1
        places = {
            "PID": (self._place / "pid").read_text(),
            "COPY": str(self._place / f"copy{self._nr_runs}"),
            "NAME": "racing-victim",
            "MARK": f"{VICTIM.name}.*{self._place.name}",
        }
        line = Line([re.sub("PID|COPY|NAME|MARK", lambda found: places[found[0]], word) for word in words])
        codes = SEEN | MISSED
        codes |= NO_AREA if words[-1] in ("[stack]", "[heap]", "anon") else frozenset()
        codes |= NO_LEADER if words[0] in ACTS else frozenset()
        codes |= DIFFERS if "--verify" in words else frozenset()
        codes |= REFUSED if os.geteuid() else frozenset()
        check(line, run_line(line), codes)


def start_keeper(told: Path) -> int:
    """Start the child that keeps a victim running; return once the first one runs."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(3, 256)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                keep(told)
        finally:
            os._exit(1)
    end = time.monotonic() + 60
    while not told.exists():
        if time.monotonic() > end:
            raise Overrun("no victim starts")
        time.sleep(0.01)
    return pid


def keep(told: Path) -> NoReturn:
    """Start a victim, write down its PID, wait for its end, and so on."""
    wanted = 0
    victim = 0

    def end(number: int, frame: object) -> NoReturn:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Far from the numbers that others get.
    if VARIABLE in os.environ:
        wanted = FIRST_PID + 100 * (os.getpid() % 90)
    while True:
        with contextlib.suppress(OSError):
            if wanted:
                Path(LAST_PID).write_text(str(wanted - 1))
        victim = os.fork()
        if victim == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execv(sys.executable, [sys.executable, "-I", "-S", str(VICTIM), told.parent.name])
        fresh = told.with_suffix(".new")
        fresh.write_text(str(victim))
        fresh.rename(told)
        # One that has stopped, or only its first thread, is ended.
        deadline = time.monotonic() + 2
        while os.waitpid(victim, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
            if time.monotonic() > deadline:
                os.kill(victim, signal.SIGKILL)

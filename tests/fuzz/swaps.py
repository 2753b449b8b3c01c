"""Captures that are written while somebody exchanges the directory for another one, which they must not touch."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from random import Random
from typing import NoReturn

from commands import CODES, PR_SET_PDEATHSIG, Line, check, clear, run_line, start_victim

USER = 65534
PRECIOUS = ("machine.json", "meminfo", "swaps", "kpagecount.packed", "shadow")


class Swaps:
    """`capture` into a directory whose parent is another's, who puts a link to a directory of root's in its place."""

    name = "swaps"
    seconds = 20.0
    allowed: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._place = Path()
        self._victim = 0

    def make(self, random: Random) -> bytes:
        return json.dumps([random.choice((0, 0.0005, 0.002, 0.005, 0.01, 0.02, 0.05)), random.random() < 0.5]).encode()

    def run(self, data: bytes) -> None:
        delay, as_root = json.loads(data)
        if not self._victim:
            self._victim = start_victim()
            self._place = Path(tempfile.mkdtemp(prefix="mematlas-fuzz-swaps-"))
            self._place.chmod(0o711)
        hall, precious = self._place / "hall", self._place / "precious"
        for directory in (hall, precious):
            directory.mkdir(exist_ok=True)
            clear(directory)
        for name in (*PRECIOUS, str(self._victim)):
            (precious / name).mkdir() if name.isdigit() else (precious / name).write_text(name)
        before = picture(precious)
        if os.geteuid() == 0:
            os.chown(hall, USER, USER)
        enemy = start_enemy(hall, precious, delay)
        caller = {} if as_root else {"SUDO_UID": str(USER), "SUDO_GID": str(USER)}
        line = Line(["capture", str(self._victim), str(hall / "cap")], environment=caller)
        try:
            ran = run_line(line)
        finally:
            os.kill(enemy, signal.SIGKILL)
            os.waitpid(enemy, 0)
        check(line, ran, CODES)
        assert picture(precious) == before, "what was there was changed"


def picture(directory: Path) -> list[tuple[str, int, int, int, str]]:
    """Return all that can be seen of a directory and what is in it."""
    found = []
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found.append((str(path), status.st_uid, status.st_gid, status.st_mode, text))
    return found


def start_enemy(hall: Path, precious: Path, delay: float) -> int:
    """Start a child that waits for the directory, and some time more, and exchanges it."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(USER, USER, USER)
                os.setresuid(USER, USER, USER)
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                exchange(hall, precious, delay)
        finally:
            os._exit(1)
    return pid


def exchange(hall: Path, precious: Path, delay: float) -> NoReturn:
    """Put a link in the place of the directory as soon as it is there; again when it comes back."""
    number = 0
    while True:
        if (hall / "cap").exists() and not (hall / "cap").is_symlink():
            time.sleep(delay)
            number += 1
            with contextlib.suppress(OSError):
                (hall / "cap").rename(hall / f"old{number}")
                (hall / "cap").symlink_to(precious)

"""The cache folder of guests, held by one process at a time, and the programs that fill it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "guest"


class Unavailable(Exception):
    """What is needed for a guest cannot be had here; the text says what to do."""


_depth = 0


@contextlib.contextmanager
def cache_alone() -> Iterator[None]:
    """Hold the cache for this process alone: two runs that set up the same thing would break one another's.

    May be nested. The kernel lets go when we end, however that happens.
    """
    global _depth
    if _depth:
        yield
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    fd = os.open(CACHE / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("guest: waiting for another run's set-up", file=sys.stderr, flush=True)
            fcntl.flock(fd, fcntl.LOCK_EX)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
    finally:
        os.close(fd)


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it wrote; its messages become the error."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout


def need_programs(what: str = "guests") -> None:
    """Install the programs that are not there, as root; raise `Unavailable` otherwise."""
    done = subprocess.run([ROOT / "scripts" / "packages", what], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unavailable(done.stderr.strip().splitlines()[-1])
    print(done.stderr, end="", file=sys.stderr, flush=True)

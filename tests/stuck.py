"""A process whose mmap lock a dead file system holds: whoever reads its maps, smaps or command line waits for ever."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from victim import DEADLINE, process_state, wait_until

PROGRAM = Path(__file__).with_name("stuck_program.py")
WAYS = ("fault", "map")
"""How it comes to be stuck; `stuck_program` explains them."""
SERVER_WAYS = ("server", "mounted")
"""How the file system alone comes to be stuck."""
GIVEN_UP = 0.5
"""Seconds; who waits for the lock for as long, twice, waits for ever."""


@contextlib.contextmanager
def stuck(way: str, directory: Path, size: int = 8 << 20, name: str = "stuck") -> Iterator[int]:
    """Yield the PID of a process that is stuck, with so many bytes of memory; or skip, naming what is missing.

    Tests beside these have some that are stuck as well: who looks for one by name gives it a name of its own.
    """
    if not Path("/dev/fuse").exists():
        pytest.skip("needs CONFIG_FUSE_FS and /dev/fuse")
    words = [sys.executable, "-I", "-S", str(PROGRAM), way, str(directory), str(size), name]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        assert select.select([server.stdout], [], [], DEADLINE)[0], "it says nothing"
        told = server.stdout.readline()
        if not told:
            _, why = server.communicate(timeout=DEADLINE)
            pytest.skip(f"needs to mount a file system of FUSE: {why.splitlines()[-1:]}")
        if way in WAYS:
            wait_until(lambda: not answers(int(told)), "it is stuck")
        yield int(told)
    finally:
        # The target ends with it, and meets an error where it waits.
        server.kill()
        server.wait(DEADLINE)
        server.stdout.close()  # type: ignore[union-attr]
        server.stderr.close()  # type: ignore[union-attr]


def answers(pid: int) -> bool:
    """Whether the command line of a process can be read, found out by a child that can be abandoned."""
    done, ours = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.read(os.open(f"/proc/{pid}/cmdline", os.O_RDONLY), 1)
        os._exit(0)
    os.close(ours)
    try:
        nr_waits = 0
        while nr_waits < 2:  # on a busy machine it may not have begun to ask
            if select.select([done], [], [], GIVEN_UP)[0]:
                return True
            nr_waits += process_state(child) == "D"
        return False
    finally:
        os.close(done)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

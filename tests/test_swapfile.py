"""Swap space for a while: nothing of it stays, whenever its maker ends; what is said where there is no room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from helpers import alone
from mematlas.errors import NotSupported
from mematlas.kernel.signals import signals_held
from mematlas.kernel.swapfile import TemporarySwap
from victim import DEADLINE, wait_until

pytestmark = pytest.mark.machine


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_directory_goes_with_a_maker_that_is_killed_as_it_begins(number: signal.Signals, tmp_path: Path) -> None:
    # The keeper makes the directory, and here ends its parent at that very moment.
    code = (
        "import os, sys, tempfile\n"
        f"sys.path[:0] = {list(filter(None, sys.path))!r}\n"
        "from mematlas.kernel.swapfile import TemporarySwap\n"
        "make = tempfile.mkdtemp\n"
        "def make_and_kill(**where):\n"
        "    path = make(**where)\n"
        f"    os.kill(os.getppid(), {int(number)})\n"
        "    return path\n"
        "tempfile.mkdtemp = make_and_kill\n"
        f"TemporarySwap(16 << 20, ({str(tmp_path)!r},))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == -number, done.stderr
    wait_until(lambda: not os.listdir(tmp_path), "the directory is gone")


@pytest.mark.root("CAP_SYS_ADMIN")
@alone
def test_directory_goes_with_a_maker_that_is_interrupted_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp

    def interrupting(prefix: str, dir: str) -> str:
        path = make(prefix=prefix, dir=dir)
        os.kill(os.getppid(), signal.SIGINT)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", interrupting)
    with pytest.raises(KeyboardInterrupt):
        TemporarySwap(16 << 20, (str(tmp_path),))
    assert not os.listdir(tmp_path)


def test_places_with_the_same_reason_are_named_together(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("one", "two")]
    for place in places:
        os.mkdir(place)
    with pytest.raises(NotSupported, match=rf"{places[0]}, {places[1]}: \d+ MiB free\)"):
        TemporarySwap(1 << 50, tuple(places))


@alone
def test_held_signal_comes_afterwards() -> None:
    seen = []

    def work() -> None:
        with signals_held():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["to the end"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

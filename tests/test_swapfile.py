"""Swap space for a while: nothing of it stays, whenever its maker ends; what is said where there is no room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mematlas.errors import NotSupported
from mematlas.kernel.swapfile import TemporarySwap, signals_held
from victim import DEADLINE, wait_until


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


def test_message_says_what_there_is_and_what_must_be() -> None:
    said = r"of 10,485,760 MiB: .*/var/tmp.*: [\d,]+ MiB are free, and 10,486,784 MiB must"
    with pytest.raises(NotSupported, match=said) as caught:
        TemporarySwap(10 << 40)
    assert str(caught.value).count("10,486,784") == len(
        {os.stat(place).st_dev for place in ("/var/tmp", "/var/lib", "/")}
    )


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

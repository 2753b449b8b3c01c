"""Swap space for a while: nothing of it stays, whenever its maker ends; what is said where there is no room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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
        "import os, sys\n"
        f"sys.path[:0] = {list(filter(None, sys.path))!r}\n"
        "from mematlas.kernel.swapfile import TemporarySwap\n"
        "make = os.mkdir\n"
        "def make_and_kill(*what, **where):\n"
        "    make(*what, **where)\n"
        f"    os.kill(os.getppid(), {int(number)})\n"
        "os.mkdir = make_and_kill\n"
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
    make = os.mkdir

    def interrupting(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.kill(os.getppid(), signal.SIGINT)

    monkeypatch.setattr(os, "mkdir", interrupting)
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
            signal.raise_signal(signal.SIGINT)
            seen.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["to the end"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@alone
def test_held_signal_comes_afterwards_where_another_thread_takes_it() -> None:
    seen: list[int] = []
    let_go = threading.Event()
    other = threading.Thread(target=let_go.wait)

    def work() -> None:
        with signals_held():
            os.kill(os.getpid(), signal.SIGINT)
            # Python is told by the other thread; the line that runs then would be the last.
            wait_until(lambda: not is_pending(signal.SIGINT), "the other thread takes it")
            seen.extend(number for number in range(10_000))

    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        let_go.set()
        other.join()
    assert len(seen) == 10_000
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def is_pending(number: int) -> bool:
    """Return whether a signal of this process waits to be taken by any thread."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("ShdPnd:"))
    return bool(int(line.split()[1], 16) >> number - 1 & 1)


@alone
def test_signal_that_would_end_the_process_waits_too() -> None:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        with signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: not is_pending(signal.SIGTERM), "the other thread takes it")
            os.write(write, b"to the end")
        os._exit(0)
    os.close(write)
    assert os.read(read, 100) == b"to the end"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@alone
def test_signals_are_held_in_other_threads_as_far_as_they_can_be() -> None:
    handler = signal.getsignal(signal.SIGINT)
    found = []

    def work() -> None:
        with signals_held():
            found.append(signal.getsignal(signal.SIGINT))
            found.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [handler, True]
    assert signal.getsignal(signal.SIGINT) == handler


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("what", ["a link", "another user's directory"])
def test_what_is_put_in_the_place_of_the_directory_is_not_written_to(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, precious = tmp_path / "theirs", tmp_path / "precious"
    for directory in (place, precious):
        directory.mkdir()
    (precious / "swap").write_text("precious")
    make = os.mkdir

    def exchange(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        (place / name).rename(tmp_path / "moved")
        if what == "a link":
            (place / name).symlink_to(precious)
        else:
            precious.rename(place / name)
            os.chown(place / name, 1000, 1000)

    monkeypatch.setattr(os, "mkdir", exchange)
    with pytest.raises(NotSupported):
        TemporarySwap(16 << 20, (str(place),))
    (kept,) = tmp_path.rglob("swap")
    assert kept.read_text() == "precious"


@pytest.mark.root("CAP_SYS_ADMIN")
def test_swap_whose_directory_was_moved_away_is_ended_all_the_same(disk_path: Path) -> None:
    precious = disk_path / "precious"
    precious.mkdir()
    (precious / "swap").write_text("precious")

    with TemporarySwap(16 << 20, (str(disk_path),)) as swap:
        directory = Path(swap.path).parent
        directory.rename(disk_path / "moved")
        directory.symlink_to(precious)
        assert str(disk_path / "moved") in Path("/proc/swaps").read_text()
    assert str(disk_path) not in Path("/proc/swaps").read_text()
    assert (precious / "swap").read_text() == "precious"
    assert not list((disk_path / "moved").iterdir())

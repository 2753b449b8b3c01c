"""What root makes is made where it was meant to be, whoever moves directories meanwhile; nothing half made stays."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import NOBODY
from mematlas import ProcFS
from mematlas.cli import main
from mematlas.kernel.newdir import NewDirectory
from mematlas.observe.captures import Recorder
from victim import DEADLINE, Victim

Start = Callable[..., Victim]
Swap = Callable[[], None]


def state(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return owner, mode and content of everything in a directory, and of itself."""
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(directory))] = (status.st_uid, status.st_gid, status.st_mode, content)
    return found


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Return a directory that no capture may touch."""
    directory = tmp_path / "precious"
    (directory / "sub").mkdir(parents=True)
    for name in ("shadow", "machine.json", "maps", "sub/maps"):
        (directory / name).write_text("precious")
    return directory


@pytest.fixture
def swap(tmp_path: Path, precious: Path) -> Swap:
    """Return what a hostile owner of the parent does: another directory takes the place of ours, by a link."""

    def exchange() -> None:
        (tmp_path / "saved").rename(tmp_path / "old")
        (tmp_path / "saved").symlink_to(precious)

    return exchange


def under_sudo(monkeypatch: pytest.MonkeyPatch, uid: int = NOBODY) -> None:
    if os.geteuid():
        pytest.skip("needs root: sudo is nothing without it")
    monkeypatch.setenv("SUDO_UID", str(uid))
    monkeypatch.setenv("SUDO_GID", str(uid))


def during(step: str, act: Swap, monkeypatch: pytest.MonkeyPatch, ends: BaseException | None = None) -> None:
    """Have something happen before a step of the recorder, and the step fail then."""
    whole = getattr(Recorder, step)

    def acting(*args: object) -> object:
        act()
        if ends:
            raise ends
        return whole(*args)

    monkeypatch.setattr(Recorder, step, acting)


STEPS = ("_save_pagemap", "_save_frames", "_process_files", "_facts")


@pytest.mark.parametrize("step", STEPS)
def test_a_directory_put_in_the_place_of_a_capture_that_fails_is_not_cleared(
    step: str, swap: Swap, precious: Path, victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(precious)
    during(step, swap, monkeypatch, OSError(28, "No space left on device"))

    assert main(["capture", str(victim("anon").pid), str(tmp_path / "saved")]) == 1
    assert state(precious) == before
    assert list((tmp_path / "old").iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_directory_put_in_the_place_of_a_capture_is_neither_written_to_nor_given_away(
    step: str,
    swap: Swap,
    precious: Path,
    victim: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    under_sudo(monkeypatch)
    before = state(precious)
    during(step, swap, monkeypatch)

    assert main(["capture", str(victim("anon").pid), str(tmp_path / "saved")]) == 1
    assert "was moved away while it was written" in capsys.readouterr().err
    assert state(precious) == before
    assert list((tmp_path / "old").iterdir()) == []


@pytest.mark.parametrize("what", ["a link", "another user's directory", "a full directory"])
def test_what_is_put_in_its_place_as_soon_as_it_is_made_is_not_taken(
    what: str, precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_sudo(monkeypatch)
    make = os.mkdir

    def exchange(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        (tmp_path / "saved").rename(tmp_path / "old")
        if what == "a link":
            (tmp_path / "saved").symlink_to(precious)
        elif what == "a full directory":
            precious.rename(tmp_path / "saved")
        else:
            make(tmp_path / "saved")
            os.chown(tmp_path / "saved", 1000, 1000)

    before = state(precious)
    monkeypatch.setattr(os, "mkdir", exchange)
    assert main(["capture", str(os.getpid()), str(tmp_path / "saved")]) == 2
    kept = tmp_path / "saved" if what == "a full directory" else precious
    assert state(kept) == before
    assert list((tmp_path / "old").iterdir()) == []


# In a directory that the user who calls sudo owns, everything can be exchanged at any time.


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory of the user who calls sudo."""
    under_sudo(monkeypatch)
    directory = tmp_path / "saved"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    return directory


@pytest.mark.parametrize("fails", [False, True])
def test_a_link_in_the_place_of_the_process_leads_nowhere(
    fails: bool, theirs: Path, precious: Path, victim: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = victim("anon")

    def exchange() -> None:
        (theirs / str(it.pid)).rename(theirs / "moved")
        (theirs / str(it.pid)).symlink_to(precious)

    before = state(precious)
    during("_process_files", exchange, monkeypatch, OSError(28, "No space left on device") if fails else None)
    assert main(["capture", str(it.pid), str(theirs)]) == 1
    assert state(precious) == before
    if fails:
        assert not (theirs / "moved").exists() or list((theirs / "moved").iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_of_root_in_the_place_of_the_process_is_neither_filled_nor_given_away(
    fails: bool, theirs: Path, precious: Path, victim: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as one that root once made in a directory of theirs: they may move it.
    it, make = victim("anon"), os.mkdir

    def exchange(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        if name == str(it.pid):
            (theirs / name).rename(theirs / "moved")
            precious.rename(theirs / name)

    precious.chmod(0o700)
    before = state(precious)
    monkeypatch.setattr(os, "mkdir", exchange)
    if fails:
        during("_save_pagemap", lambda: None, monkeypatch, OSError(28, "No space left on device"))
    assert main(["capture", str(it.pid), str(theirs)]) == 1
    assert state(theirs / str(it.pid)) == before


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_a_link_in_the_place_of_a_file_is_refused_and_what_it_leads_to_kept(
    kind: str, theirs: Path, precious: Path, victim: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(precious)
    place = theirs / "machine.json"
    during("_facts", lambda: getattr(place, kind)(precious / "shadow"), monkeypatch)

    assert main(["capture", str(victim("anon").pid), str(theirs)]) == 1
    assert state(precious) == before


def test_a_file_exchanged_while_it_is_written_is_not_given_away(
    theirs: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(precious)
    with NewDirectory(str(theirs), (NOBODY, NOBODY)) as made, made.file("meminfo") as file:
        file.write(b"ours")
        (theirs / "meminfo").rename(theirs / "moved")
        (theirs / "meminfo").hardlink_to(precious / "shadow")

    assert state(precious) == before
    assert (theirs / "moved").stat().st_uid == NOBODY


# What may be taken


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("through_link", [False, True])
def test_an_empty_directory_of_root_is_not_given_to_who_calls_sudo(
    through_link: bool, victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_sudo(monkeypatch)
    directory = tmp_path / "sbin"
    directory.mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(directory)
    before = state(directory)

    assert main(["capture", str(victim("anon").pid), str(tmp_path / ("link" if through_link else "sbin"))]) == 2
    assert state(directory) == before


@pytest.mark.root("CAP_SYS_ADMIN")
def test_an_empty_directory_of_a_user_is_not_taken_by_root(victim: Start, tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    before = state(directory)

    assert main(["capture", str(victim("anon").pid), str(directory)]) == 2
    assert state(directory) == before


def test_a_directory_that_anybody_may_write_to_is_not_taken(
    victim: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    assert main(["capture", str(victim("anon").pid), str(tmp_path / "open")]) == 2
    assert "others may write to" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["", ".", "..", "/", "x/.."])
def test_what_is_no_name_is_bad_input(
    path: str, victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["capture", str(victim("anon").pid), path]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_directory_over_a_link_on_the_way_is_made_where_that_leads(victim: Start, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    it = victim("anon")

    assert main(["capture", str(it.pid), f"{tmp_path}/link/saved/"]) == 0
    assert ProcFS(str(tmp_path / "real" / "saved")).pids() == [it.pid]


# Nothing half made


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_made(
    number: signal.Signals, step: str, victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during(step, lambda: signal.raise_signal(number), monkeypatch)

    assert main(["capture", str(victim("anon").pid), str(tmp_path / "saved")]) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_signal_right_after_the_directory_was_made_leaves_nothing(
    victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def interrupted(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        signal.raise_signal(signal.SIGTERM)  # to this thread: another one of the process has it not blocked

    it = victim("anon")
    monkeypatch.setattr(os, "mkdir", interrupted)
    assert main(["capture", str(it.pid), str(tmp_path / "saved")]) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_leaves_nothing_half_made(victim: Start, tmp_path: Path) -> None:
    it = victim("anon")
    done = subprocess.run(
        [sys.executable, "-m", "mematlas", "capture", str(it.pid), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"mematlas: {tmp_path / 'saved'}: File too large\n")
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_stays_open(victim: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = victim("anon")
    counts = []
    for place, step in enumerate((None, *STEPS, None)):
        with monkeypatch.context() as patch:
            if step:
                during(step, lambda: None, patch, OSError(28, "No space left on device"))
            assert main(["capture", str(it.pid), str(tmp_path / str(place))]) == int(step is not None)
        gc.collect()  # an error holds on to where it came from
        counts.append(len(os.listdir("/proc/self/fd")))
    assert len(set(counts)) == 1

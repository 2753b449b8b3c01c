"""A file in the making: whole or not there, for its owner alone, and nothing of anybody's is lost."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mematlas.errors import BadInput, Error
from mematlas.kernel.newfile import NewFile
from victim import DEADLINE

DATA = bytes(range(256)) * 5


def test_a_file_that_is_finished_stays_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    with NewFile(str(path)) as file:
        file.write(DATA)
        file.write(b"end")
        assert file.size == len(DATA) + 3
        file.finish()

    assert path.read_bytes() == DATA + b"end"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x.svg"]


def test_a_file_that_is_not_finished_is_taken_away(tmp_path: Path) -> None:
    with NewFile(str(tmp_path / "x.svg")) as file:
        file.write(DATA)
        assert os.listdir(tmp_path) == ["x.svg"]
    with pytest.raises(KeyboardInterrupt), NewFile(str(tmp_path / "x.svg")) as file:
        raise KeyboardInterrupt

    assert os.listdir(tmp_path) == []


WRITER = """
import sys, time
from mematlas.kernel.newfile import NewFile
file = NewFile(sys.argv[1], force=True)
file.write(b"half")
print(file._pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("before", [None, b"before"])
def test_who_is_killed_while_writing_leaves_what_was_there(before: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    if before:
        path.write_bytes(before)
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            keeper = int(process.stdout.readline())
        finally:
            process.kill()
    end = time.monotonic() + DEADLINE
    while Path(f"/proc/{keeper}").exists() and time.monotonic() < end:
        time.sleep(0.01)

    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == ([("x.svg", before)] if before else [])


def test_nothing_is_replaced_unless_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(b"before")
    with pytest.raises(BadInput, match=r"x\.svg exists: give another name, or --force"):
        NewFile(str(path))
    with NewFile(str(path), force=True) as file:
        file.write(b"half")
        assert path.read_bytes() == b"before"
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("x.svg", b"before")]

    with NewFile(str(path), force=True) as file:
        file.write(DATA)
        file.finish()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("x.svg", DATA)]


@pytest.mark.parametrize("force", [False, True])
def test_no_link_is_followed_and_nothing_but_files_replaced(force: bool, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    (tmp_path / "link.svg").symlink_to(other)
    (tmp_path / "nowhere.svg").symlink_to(tmp_path / "none")
    (tmp_path / "directory.svg").mkdir()
    os.mkfifo(tmp_path / "pipe.svg")
    before = sorted(os.listdir(tmp_path))
    for name in ("link.svg", "nowhere.svg", "directory.svg", "pipe.svg"):
        with pytest.raises(BadInput, match="is no regular file" if force else "exists"):
            NewFile(str(tmp_path / name), force)

    assert other.read_bytes() == b"other"
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(("path", "why"), [("none/x.svg", "No such file"), ("/proc/x.svg", "No such file")])
def test_what_cannot_be_made_is_bad_input(path: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=why):
        NewFile(os.path.join(tmp_path, path))


def test_a_file_that_was_moved_away_is_an_error_and_what_took_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    with NewFile(str(path)) as file:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another")
        with pytest.raises(Error, match="was moved away while it was written"):
            file.finish()

    assert path.read_bytes() == b"another"


def test_a_file_whose_keeper_was_killed_is_an_error(tmp_path: Path) -> None:
    with NewFile(str(tmp_path / "x.svg")) as file:
        os.kill(file._pid, signal.SIGKILL)
        with pytest.raises(Error, match="was killed"):
            file.finish()


def test_no_room_is_an_error_with_the_name(tmp_path: Path) -> None:
    with NewFile(str(tmp_path / "x.svg")) as file:
        os.dup2(os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC), file.fd, inheritable=False)
        with pytest.raises(Error, match=r"x\.svg: No space left on device"):
            file.write(DATA)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_picture_under_sudo_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    (tmp_path / "roots").mkdir(mode=0o700)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    with NewFile(str(tmp_path / "x.svg")) as file:
        file.write(DATA)
        file.finish()
    with pytest.raises(BadInput, match="Permission denied"):
        NewFile(str(tmp_path / "roots" / "x.svg"))

    status = (tmp_path / "x.svg").stat()
    assert (status.st_uid, status.st_gid, status.st_size) == (65534, 65534, len(DATA))
    assert os.listdir(tmp_path / "roots") == []

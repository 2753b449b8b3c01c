"""A recorder beside a screen: it records when it is told to, whom it may, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mematlas.cli.beside import ENDING, GONE, NOTHING, RecorderBeside, is_still, pid_of
from mematlas.cli.record import default_path
from mematlas.kernel.procfs import ProcFS
from victim import wait_until


@pytest.fixture
def target() -> Iterator[tuple[int, int]]:
    with subprocess.Popen(["sleep", "1000"]) as process, ProcFS().process(process.pid) as directory:
        yield directory.identity
        process.kill()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said_by(recorder: RecorderBeside) -> str:
    found = ""

    def has_said() -> bool:
        nonlocal found
        found = found or recorder.heard()
        return bool(found)

    wait_until(has_said, "something said")
    return found


def wait_for_a_moment(here: Path) -> Path:
    """Wait until there is a recording with something in it; return its path."""

    def has_one() -> bool:
        for path in here.glob("*.mematlas"):
            try:
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                    return bool(database.execute("SELECT count(*) FROM moment").fetchone()[0])
            except sqlite3.Error:
                return False
        return False

    wait_until(has_one, "a moment")
    return next(here.glob("*.mematlas"))


def test_it_records_from_when_it_is_told_to_until_it_is_told_to_end(target: tuple[int, int], here: Path) -> None:
    recorder = RecorderBeside(target)
    recorder.begin(target[0])
    wait_for_a_moment(here)
    assert recorder.is_recording
    recorder.end()
    said = said_by(recorder)
    (file,) = here.iterdir()
    assert file.name in said
    assert recorder.close() == ""
    assert file.read_bytes().startswith(b"SQLite format 3")


def test_what_is_recorded_at_the_end_of_the_screen_is_made_whole(target: tuple[int, int], here: Path) -> None:
    recorder = RecorderBeside(None)
    recorder.begin(target[0])
    wait_for_a_moment(here)
    said = recorder.close()
    (file,) = here.iterdir()
    assert file.name in said


def test_nobody_is_recorded_who_was_not_named(target: tuple[int, int], here: Path) -> None:
    for only in ((0, 0), (target[0], target[1] + 1), (os.getpid(), target[1])):
        recorder = RecorderBeside(only)
        recorder.begin(target[0])
        assert "named at the start" in said_by(recorder)
        recorder.close()
    assert not list(here.iterdir())


def test_what_is_no_number_is_nobody(target: tuple[int, int]) -> None:
    assert [pid_of(word) for word in (b"r\n", b"r-1\n", b"r1 2\n", b"r" + b"9" * 40, b"r\xb2")] == [None] * 5
    assert is_still(target[0], target)
    assert not is_still(target[0], (target[0], 1))
    assert not is_still(0, (0, 0))


def test_a_target_that_ends_is_said_to_have_been_recorded(here: Path) -> None:
    recorder = RecorderBeside(None)
    with subprocess.Popen(["sleep", "1000"]) as process:
        recorder.begin(process.pid)
        wait_for_a_moment(here)
        process.kill()
    assert ".mematlas" in said_by(recorder)
    recorder.close()


def test_what_is_told_at_once_is_done_one_after_the_other(target: tuple[int, int], here: Path) -> None:
    recorder = RecorderBeside(target)
    recorder.begin(target[0])
    wait_for_a_moment(here)
    recorder.end()
    assert recorder.why_not == ENDING
    recorder.begin(target[0])  # though it is not whole yet: told before the answer is there
    assert ".mematlas" in said_by(recorder)
    assert recorder.why_not == ""
    first = next(here.iterdir())
    wait_until(lambda: any(path != first for path in here.glob("*.mematlas")), "a second recording")
    said = recorder.close()
    left = {path.name for path in here.iterdir()} - {first.name}
    assert said == NOTHING if not left else any(said.startswith(f"{name}: ") for name in left)


def test_what_ends_before_its_first_moment_is_said_to_be_nothing(target: tuple[int, int], here: Path) -> None:
    recorder = RecorderBeside(target)
    recorder.begin(target[0])
    recorder.end()
    assert said_by(recorder) == NOTHING
    recorder.close()
    assert not list(here.iterdir())


def test_a_recorder_that_is_killed_is_said_to_be_and_what_it_recorded_is_made_whole(
    target: tuple[int, int], here: Path
) -> None:
    recorder = RecorderBeside(target)
    recorder.begin(target[0])
    file = wait_for_a_moment(here)
    os.kill(recorder.pid, signal.SIGKILL)
    assert said_by(recorder) == GONE
    assert not recorder.is_recording
    wait_until(lambda: list(here.iterdir()) == [file], "it is one file")
    assert (recorder.heard(), recorder.why_not) == ("", GONE)
    recorder.close()


def test_a_recording_that_cannot_be_begun_says_why(
    target: tuple[int, int], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    recorder = RecorderBeside(None)
    recorder.begin(target[0])
    assert "cannot be started" in said_by(recorder)
    recorder.begin(target[0])
    assert "cannot be started" in said_by(recorder)
    recorder.close()


def test_recordings_of_one_second_have_names_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20261130-204500")
    names = []
    for _ in range(3):
        names.append(default_path("shop/1"))
        (here / names[-1]).touch()
    assert names == [f"shop-1-20261130-204500{more}.mematlas" for more in ("", "-2", "-3")]

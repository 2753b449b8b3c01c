"""Recordings of programs whose life is known; of recorders that are stopped, killed, and run by others."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from helpers import PAGE, mematlas, program
from mematlas.timeline.recording import Recording
from victim import DEADLINE

STEP = 61 * PAGE
EVERY = 0.05
GROWING = f"""
import mmap, sys, time
area = mmap.mmap(-1, 4000 * {STEP}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
print("0", flush=True)
began = time.monotonic()
for number in range(4000):
    area[number * {STEP} : (number + 1) * {STEP}] = b"x" * {STEP}
    time.sleep(max(began + (number + 1) * {EVERY} - time.monotonic(), 0))
"""
RATE = STEP / EVERY
FAST = ("-i", "100ms", "--budget", "100%")


def recorded(path: Path, sql: str) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def reported(path: Path) -> dict[str, Any]:
    run = mematlas("report", path, "--json")
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.mematlas"


def test_growth_is_recorded_and_reported(path: Path) -> None:
    with program(GROWING) as running:
        run = mematlas("record", running.pid, "-o", path, "-d", "2s", *FAST)
    assert run.returncode == 0, run.stderr
    assert f"next: mematlas report {path}" in run.stderr
    result = reported(path)
    (row,) = result["rows"]
    assert (row["pid"], row["label"], row["ended"]) == (running.pid, "leak", None)
    assert row["growth"] == pytest.approx(RATE, rel=0.25)
    assert row["change"] == pytest.approx(RATE * result["target"]["seconds"], rel=0.25)
    (grown, *_) = row["grown"]
    assert (grown["kind"], grown["path"]) == ("anon", "")
    assert grown["change"] == pytest.approx(row["change"], rel=0.1)
    assert result["machine"]["kernel"] == os.uname().release


def test_amounts_at_each_moment_add_up_by_vma(path: Path) -> None:
    with program(GROWING) as running:
        mematlas("record", running.pid, "-o", path, "-d", "2s", *FAST)
    with Recording(str(path)) as recording:
        (process,) = recording.processes()
        times, amounts = recording.series(process, "rss")
        sums = [
            sum(item.rss or 0 for item in recording.vmas_at(process, moment)) for moment in range(1, len(times) + 1)
        ]
    assert amounts == sums
    assert len(times) > 2


def test_a_program_is_recorded_to_its_end_and_its_exit_code_passed_on(path: Path) -> None:
    code = "import time; a = bytearray(1 << 24); time.sleep(1.5); raise SystemExit(7)"
    run = mematlas("record", "-o", path, *FAST, "--", sys.executable, "-c", code)
    assert run.returncode == 7
    assert recorded(path, "SELECT why LIKE 'process % ended' FROM process_end") == [(1,)]
    assert recorded(path, "SELECT max(rss) > 1 << 24 FROM usage") == [(1,)]


def test_our_own_failure_is_125_where_a_program_was_started(tmp_path: Path) -> None:
    run = mematlas("record", "-o", tmp_path / "none" / "x", "--", "sleep", "0.1")
    assert run.returncode == 125
    assert "No such file or directory" in run.stderr


def test_another_program_and_the_end_are_events(path: Path) -> None:
    code = "import os, time; time.sleep(0.4); os.execlp('sleep', 'sleep', '0.4')"
    run = mematlas("record", "-o", path, *FAST, "--", sys.executable, "-c", code)
    assert run.returncode == 0
    assert [kind for (kind,) in recorded(path, "SELECT kind FROM event ORDER BY moment")] == ["exec", "exit"]
    assert [name for (name,) in recorded(path, "SELECT name FROM process")][-1] == "sleep"


def test_members_of_a_group_join_as_they_appear_and_leave(path: Path) -> None:
    script = "sleep 0.4; sleep 1.6 & sleep 1.6 & wait; sleep 0.4"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL) as shell:
        mematlas("record", f"tree:{shell.pid}", "-o", path, *FAST)
    names = [name for (name,) in recorded(path, "SELECT name FROM process")]
    assert names.count("sh") == 1
    assert names.count("sleep") >= 3
    assert len(recorded(path, "SELECT * FROM process_end")) == len(names)
    at_once = (
        "SELECT count(*) FROM process LEFT JOIN process_end ON process_end.process = id"
        " WHERE process.moment <= moment.id AND (process_end.moment IS NULL OR process_end.moment > moment.id)"
    )
    (most,) = recorded(path, f"SELECT max(({at_once})) FROM moment")
    assert most[0] >= 3


def test_a_recording_can_be_read_while_it_grows(path: Path, recorder: Callable[..., subprocess.Popen[str]]) -> None:
    with program(GROWING) as running:
        process = recorder(running.pid)
        seen = []
        for _ in range(3):
            seen.append(reported(path)["target"]["nr_moments"])
            assert json.loads(mematlas("usage", f"{path}@0s", "--json").stdout)["target"]["pid"] == running.pid
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    assert seen == sorted(seen)
    assert reported(path)["target"]["nr_moments"] >= seen[-1] > 1
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_it_begins_when_a_condition_holds(path: Path) -> None:
    with program(GROWING) as running:
        mematlas("record", running.pid, "-o", path, "-d", "2s", "--when", "anon > 12MiB", *FAST)
    (least,) = recorded(path, "SELECT min(anon) FROM usage")
    assert least[0] > 12 << 20
    assert recorded(path, "SELECT min(id), min(elapsed) FROM moment") == [(1, 0.0)]


@pytest.fixture
def recorder(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "mematlas", "record", *map(str, words), "-o", str(path), *FAST]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        end = time.monotonic() + DEADLINE
        while nr_moments(path) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def nr_moments(path: Path) -> int:
    """Return how many moments there are in a recording that is being written."""
    try:
        return int(recorded(path, "SELECT count(*) FROM moment")[0][0]) if path.exists() else 0
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_well(number: int, path: Path, recorder: Callable[..., subprocess.Popen[str]]) -> None:
    with program(GROWING) as running:
        process = recorder(running.pid)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "recorded " in said
    assert os.listdir(path.parent) == [path.name]
    assert reported(path)["rows"]


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_recorder_that_is_killed_leaves_all_that_it_had(
    path: Path, recorder: Callable[..., subprocess.Popen[str]]
) -> None:
    with program(GROWING) as running:
        process = recorder(running.pid)
        (writer,) = children_of(process.pid)
        process.kill()
        process.wait(DEADLINE)
        end = time.monotonic() + DEADLINE
        while Path(f"/proc/{writer}").exists() and time.monotonic() < end:
            time.sleep(0.02)
    assert os.listdir(path.parent) == [path.name]
    assert reported(path)["target"]["nr_moments"] >= 2


@pytest.mark.parametrize("seed", range(6))
def test_of_all_that_is_killed_at_once_no_more_than_a_moment_is_lost(
    seed: int, path: Path, recorder: Callable[..., subprocess.Popen[str]]
) -> None:
    with program(GROWING) as running:
        process = recorder(running.pid)
        time.sleep(Random(seed).uniform(0, 0.3))
        before = nr_moments(path)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
    nr_left = reported(path)["target"]["nr_moments"]
    assert before <= nr_left <= before + 4
    assert recorded(path, "PRAGMA integrity_check") in ([("ok",)], [])


def test_a_stream_can_be_piped(path: Path) -> None:
    with program(GROWING) as running:
        words = ["record", running.pid, "-o", "-", "-d", "0.5s", *FAST]
        line = [sys.executable, "-m", "mematlas", *map(str, words)]
        data = subprocess.run(line, capture_output=True, timeout=DEADLINE, check=True).stdout
    assert data.startswith(b"mematlas-stream\n\x01")
    assert not path.exists()


@pytest.mark.root("CAP_SYS_ADMIN")
def test_under_sudo_the_file_is_the_callers(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break
    path = tmp_path / "x.mematlas"
    with program(GROWING) as running:
        run = mematlas(
            *("record", running.pid, "-o", path, "-d", "0.3s", *FAST), env={"SUDO_UID": "65534", "SUDO_GID": "65534"}
        )
    assert run.returncode == 0, run.stderr
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_root_reads_a_recording_without_rights(path: Path) -> None:
    with program(GROWING) as running:
        mematlas("record", running.pid, "-o", path, "-d", "0.3s", *FAST)
    told = (
        "import os, sys\n"
        "from mematlas.timeline import recording\n"
        "connect = recording.connect\n"
        "def watched(*arguments):\n"
        "    print(os.getresuid(), open('/proc/thread-self/status').read().count('CapEff:\\t0000000000000000'))\n"
        "    return connect(*arguments)\n"
        "recording.connect = watched\n"
        "from mematlas.cli import main\n"
        "sys.exit(main(['report', sys.argv[1]]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", told, str(path)], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    users, nr = run.stdout.splitlines()[0].rsplit(" ", 1)
    assert nr == "1"
    assert "(0, 0, 0)" not in users
    assert str(running.pid) in run.stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["record", "self", "--when", "growth(rss) < 1MiB/s"], 2, "about a moment"),
        (["record"], 2, "which process?"),
        (["record", "self", "--what", "all"], 2, "--what"),
        (["record", "999999999"], 3, ""),
        (["report"], 2, "FILE"),
        (["report", "/dev/null"], 1, "a regular file"),
        (["report", "/none"], 3, "no recording"),
    ],
)
def test_wrong_words_are_refused(words: list[str], code: int, text: str) -> None:
    run = mematlas(*words)
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr

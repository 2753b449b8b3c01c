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

from conftest import Outcome
from helpers import PAGE, mematlas, program
from mematlas.kernel.procfs import ProcFS
from mematlas.timeline.recording import Recording
from mematlas.timeline.series import several_series
from mematlas.timeline.watch import Watch
from victim import DEADLINE, libc, process_state, wait_until

PR_SET_DUMPABLE = 4  # include/uapi/linux/prctl.h

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
        times, series = several_series(recording, process, ("rss",))
        amounts = series["rss"]
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
    ran = tmp_path / "ran"
    for words, why in (
        (("-o", tmp_path / "none" / "x"), "none is no directory"),
        (("-o", tmp_path), "exists: give another name, or --force"),
        (("--what", "all"), "there are usage, vmas"),
        (("--when", "charged > 1"), "charged is not known"),
    ):
        run = mematlas("record", *words, "--", "touch", ran)
        assert (run.returncode, run.stdout) == (125, "")
        assert why in run.stderr
    assert not ran.exists()
    run = mematlas("record", "-o", tmp_path / "x", "--", "/nonexistent")
    assert run.returncode == 125
    assert "cannot start /nonexistent" in run.stderr


@pytest.mark.parametrize("code", [0, 7])
def test_a_program_that_is_over_at_once_has_its_exit_code_passed_on(code: int, path: Path) -> None:
    run = mematlas("record", "-o", path, "--", "sh", "-c", f"exit {code}")
    assert run.returncode == code
    assert run.stderr.splitlines()[-1] == "nothing recorded: the program ended before the first look" or path.exists()


def is_begun(path: Path) -> bool:
    """Whether there is a moment in a recording."""
    try:
        return bool(path.stat().st_size and recorded(path, "SELECT count(*) FROM moment")[0][0])
    except (FileNotFoundError, sqlite3.OperationalError):
        return False  # it is just being made


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_who_does_not_wait_for_the_look_has_what_was_recorded_before(gap: float, path: Path) -> None:
    with program("import sys; print(0, flush=True); ") as running:
        line = [sys.executable, "-m", "mematlas", "record", str(running.pid), "-o", str(path), *FAST]
        recorder = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: is_begun(path), "it records")
        recorder.send_signal(signal.SIGINT)
        time.sleep(gap)
        recorder.send_signal(signal.SIGINT)
        _, err = recorder.communicate(timeout=DEADLINE)
    assert recorder.returncode in (0, 128 + signal.SIGINT)
    assert "Traceback" not in err
    assert f"next: mematlas report {path}" in err
    assert recorded(path, "SELECT count(*) FROM moment")[0][0] > 0


def looks_at_who_hides() -> list[tuple[int, list[str], bool]]:
    """Watch a child before and after it has hidden itself; return how many were seen, what happened, and whether that
    was all.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        libc.prctl(PR_SET_DUMPABLE, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        found = []
        with Watch([str(child)], ProcFS()) as watch:
            for is_hidden in (False, True):
                if is_hidden:
                    os.write(tell, b"x")
                    wait_until(lambda: process_state(child) == "T", "it has hidden itself")
                look = watch.look()
                found.append((len(look.seen), [one.kind for one in look.happenings], watch.is_over))
        return found
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_process_that_may_no_longer_be_looked_at_is_an_event_and_the_end(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(looks_at_who_hides)
    assert outcome.value == [(1, [], False), (0, ["hidden"], True)], outcome.stderr


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
    assert recorded(path, "SELECT min(id), min(elapsed), max(elapsed) > 1.9 FROM moment") == [(1, 0.0, 1)]
    assert recorded(path, "SELECT moment, kind, text FROM event") == [(1, "held", "anon > 12MiB")]


def test_a_ring_has_no_more_than_the_end(path: Path) -> None:
    with program(GROWING) as running:
        run = mematlas("record", running.pid, "-o", path, "--keep", "1s", "-i", "50ms", "-d", "4s", "--budget", "100%")
    assert run.returncode == 0, run.stderr
    assert "a ring: the last 1 s; next: mematlas report" in run.stderr
    assert "\na ring: the last 1 s\n" in mematlas("report", path).stdout
    result = reported(path)
    (row,) = result["rows"]
    target = result["target"]
    assert (target["keep"], target["when"], target["held_at"]) == (1.0, None, None)
    assert target["seconds"] >= 1
    assert recorded(path, "SELECT min(id) > 1, max(id) - min(id) + 1 FROM moment") == [(1, target["nr_moments"])]
    (first, last) = (json.loads(mematlas("usage", f"{path}@{at}", "--json").stdout)["rows"][0] for at in ("0s", "end"))
    assert first["anon"] > 2 * RATE
    assert last["uss"] - first["uss"] == row["change"] == pytest.approx(RATE * target["seconds"], rel=0.3)
    assert row["began"] == 0
    assert row["peak_at"] <= target["seconds"] + 1e-6


def test_a_ring_has_what_was_before_a_condition_held(path: Path) -> None:
    limit = 20 << 20
    with program(GROWING) as running:
        words = ("--when", "anon > 20MiB", "--keep", "1s", "-d", "500ms")
        run = mematlas("record", running.pid, "-o", path, *words, *FAST)
    assert "a ring: the 1 s before anon > 20MiB held, and all since" in run.stderr
    ((held, process),) = recorded(path, "SELECT moment, process FROM event WHERE kind = 'held'")
    amounts = dict(recorded(path, f"SELECT moment, anon FROM usage WHERE process = {process}"))
    assert next(moment for moment in sorted(amounts) if amounts[moment] > limit) == held > min(amounts) > 1
    target = reported(path)["target"]
    assert (target["when"], target["keep"]) == ("anon > 20MiB", 1.0)
    assert target["held_at"] >= 1
    assert target["seconds"] >= target["held_at"] + 0.4


def test_a_condition_that_never_holds_is_said(path: Path) -> None:
    with program("import time; print(0, flush=True); time.sleep(1.5)") as running:
        run = mematlas("record", running.pid, "-o", path, "--when", "rss > 1TiB", "--keep", "300ms", *FAST)
    assert run.returncode == 0
    assert "a ring: the last 300 ms; rss > 1TiB has not held" in run.stderr
    assert reported(path)["target"]["nr_moments"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_ring_whose_recorder_is_killed_is_whole(
    seed: int, path: Path, recorder: Callable[..., subprocess.Popen[str]]
) -> None:
    with program(GROWING) as running:
        process = recorder(running.pid, "--keep", "300ms", "--what", "pages")
        wait_until(lambda: first_moment(path) > 1, "the ring turns")
        assert reported(path)["target"]["seconds"] >= 0.3
        time.sleep(Random(seed).uniform(0, 0.3))
        before = first_moment(path)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
    target = reported(path)["target"]
    assert target["seconds"] >= 0.3
    (first, last, nr) = recorded(path, "SELECT min(id), max(id), count(*) FROM moment")[0]
    assert last - first + 1 == nr == target["nr_moments"]
    assert before <= first
    assert recorded(path, "PRAGMA integrity_check") == [("ok",)]
    for at in ("0s", "end"):
        answer = json.loads(mematlas("pages", f"{path}@{at}", "--runs", "--json").stdout)
        assert sum(row["nr_pages"] for row in answer["rows"] if row["state"] == "present") > 0


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
    return number(path, "SELECT count(*) FROM moment")


def first_moment(path: Path) -> int:
    """Return the first of them."""
    return number(path, "SELECT coalesce(min(id), 0) FROM moment")


def number(path: Path, sql: str) -> int:
    """Return a number that is asked of a recording that is being written; 0 before there is one."""
    try:
        return int(recorded(path, sql)[0][0]) if path.exists() else 0
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
@pytest.mark.parametrize("more", [(), ("--keep", "200ms", "--what", "pages")])
def test_under_sudo_the_file_is_the_callers(more: tuple[str, ...], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break
    path = tmp_path / "x.mematlas"
    with program(GROWING) as running:
        run = mematlas(
            *("record", running.pid, "-o", path, "-d", "0.7s", *more, *FAST),
            env={"SUDO_UID": "65534", "SUDO_GID": "65534"},
        )
    assert run.returncode == 0, run.stderr
    assert recorded(path, "SELECT min(id) > 1 FROM moment") == [(1 if more else 0,)]
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)


def test_a_report_of_a_process_records_it_first_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with program(GROWING) as running:
        run = mematlas(
            "report", running.pid, "growth", "-d", "2s", "-i", "100ms", "--json", env={"TMPDIR": str(tmp_path)}
        )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    fastest = result["rows"][0]
    assert (fastest["pid"], fastest["kind"], fastest["label"]) == (running.pid, "anon", "leak")
    assert fastest["growth"] == pytest.approx(RATE, rel=0.25)
    assert result["target"]["recording"] == str(running.pid)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("no-such-program", "-d", "1s"), 3, "no process is called"),
        (("no-such-program",), 3, "mematlas report no-such-program -d 30s"),
        (("no.mematlas",), 3, "no recording no.mematlas\n"),
        (("self", "-i", "1s"), 2, "add -d"),
    ],
)
def test_what_is_no_target_of_a_report_is_refused(words: tuple[str, ...], code: int, text: str, tmp_path: Path) -> None:
    run = mematlas("report", *words, env={"TMPDIR": str(tmp_path)})
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_root_reads_a_recording_without_rights(path: Path) -> None:
    with program(GROWING) as running:
        mematlas("record", running.pid, "-o", path, "-d", "0.3s", *FAST)
    told = (
        "import os, sys\n"
        "from mematlas.timeline import recording\n"
        "ask = recording.Recording._rows\n"
        "def watched(*arguments):\n"
        "    print(os.getresuid(), open('/proc/thread-self/status').read().count('CapEff:\\t0000000000000000'))\n"
        "    return ask(*arguments)\n"
        "recording.Recording._rows = watched\n"
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
        (["record", "self", "--when", "charged > 1MiB"], 2, "about a process, of which charged is not known"),
        (
            ["record", "self", "--when", "nr_vmas > 1", "--what", "usage"],
            5,
            "nr_vmas by sums alone: not supported here",
        ),
        (["record"], 2, "which process?"),
        (["record", "self", "--what", "all"], 2, "--what"),
        (["record", "self", "--keep", "1s"], 2, "--keep 1s is too short: two intervals or more, which are 2s (-i)"),
        (["record", "self", "--keep", "1m", "-o", "-"], 2, "cannot be taken back: --keep takes a file, -o FILE"),
        (["record", "self", "--keep", "soon"], 2, "bad time 'soon'"),
        (["record", "999999999"], 3, ""),
        (["report"], 2, "FILE"),
        (["report", "/dev/null"], 1, "a regular file"),
        (["report", "/none"], 3, "no recording"),
    ],
)
def test_wrong_words_are_refused(words: list[str], code: int, text: str) -> None:
    before = set(os.listdir())
    run = mematlas(*words)
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr
    assert set(os.listdir()) == before


def test_what_never_held_leaves_no_file(path: Path) -> None:
    run = mematlas("record", "-o", path, "--when", "rss > 1TiB", *FAST, "--", "sleep", "0.3")
    assert run.returncode == 0
    first, second = run.stderr.splitlines()[-2:]
    assert first.startswith("recorded nothing in ")
    assert second == "no file: rss > 1TiB has not held"
    assert not path.exists()

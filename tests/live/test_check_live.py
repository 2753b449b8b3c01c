"""Checks of programs whose memory is known: the verdict, the words and the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, mematlas, program
from mematlas.cli import main
from victim import DEADLINE, Victim, wait_until

NR_PAGES = 1009
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
"""Takes so many pages more so often, until it is ended."""
RATE = STEP / EVERY
ENDING = "import sys, time\nprint('0', flush=True)\ntime.sleep(0.7)\nsys.exit()\n"


def growing() -> Any:
    return program(GROWING)


def test_growth_is_as_fast_as_the_program_grows() -> None:
    with growing() as running:
        run = mematlas(
            *("check", running.pid, "-d", "2s", "-i", "100ms", "--budget", "100%", "--json"),
            *("--assert", f"growth(uss) < {RATE / 2:.0f}B/s", "--assert", f"growth(uss) < {RATE * 2:.0f}B/s"),
        )
    too_much, enough = json.loads(run.stdout)["rows"]
    assert [too_much["passed"], enough["passed"]] == [False, True]
    assert too_much["found"] == pytest.approx(RATE, rel=0.25)
    assert too_much["label"] == "leak"
    assert run.returncode == 10
    assert f": growth(uss) < {RATE / 2:.0f}B/s fails: +" in run.stderr


@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
def test_amounts_are_those_of_the_program(source: str, victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    size = one["anon_full"].size
    run = mematlas(
        "check", one.pid, "--assert", f"anon >= {size}", "--assert", f"anon < {size}", "--source", source, "--json"
    )
    if run.returncode in (4, 5):
        pytest.skip(run.stderr)
    assert [row["passed"] for row in json.loads(run.stdout)["rows"]] == [True, False]
    assert run.returncode == 10


def test_a_target_that_ends_is_told_with_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with program(ENDING) as running:
        code = main(["check", str(running.pid), "-d", "60s", "-i", "100ms", "--assert", "rss < 1GiB"])
    shown = capsys.readouterr()
    assert code == 6
    assert "rss < 1GiB  holds" in shown.out
    assert re.search(rf"process {running.pid} ended after 0\.\d* of 60 s", shown.err)


def test_a_failure_is_told_of_a_target_that_ended_too(capsys: pytest.CaptureFixture[str]) -> None:
    with program(ENDING) as running:
        code = main(["check", str(running.pid), "-d", "60s", "-i", "100ms", "--assert", "rss < 1KiB"])
    lines = capsys.readouterr().err.splitlines()
    failure, end = [line for line in lines if line.startswith("mematlas: ")]
    assert code == 10
    assert "rss < 1KiB fails: " in failure
    assert " ended after " in end


def test_a_program_is_started_and_its_exit_code_passed_on() -> None:
    words = ["check", "--after", "0.1", "--assert", "rss > 0", "--", "sh", "-c", "sleep 0.5; exit 3"]
    assert mematlas(*words).returncode == 3
    assert mematlas(*words[:4], "rss < 1KiB", *words[5:]).returncode == 10
    # It may end sooner, when it is done; then growth may have too few looks to be judged.
    over = ["check", "-d", "9s", "-i", "100ms", "--assert"]
    assert mematlas(*over, "rss > 0", "--", "sleep", "2").returncode == 0
    assert mematlas(*over, "growth(rss) < 1TiB/s", "--", "sleep", "1.1").returncode == 6


def test_a_group_is_checked_as_one() -> None:
    with growing() as running:
        words = ["check", f"tree:{running.pid}", "--json", "--assert", "nr_processes == 1", "--assert", "pss > 1MiB"]
        result = json.loads(mematlas(*words).stdout)
    assert [row["passed"] for row in result["rows"]] == [True, True]
    assert result["target"]["pids"] == [running.pid]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "nothing is asserted"),
        (["--assert", "uzz < 1"], 2, "no measure 'uzz'"),
        (["--assert", "charged < 1"], 2, "charged is not known of such a target"),
        (["--assert", "growth(rss) < 1MiB/s"], 2, "5 looks at the least"),
        (["--assert", "rss > 0", "-i", "1s"], 2, "add -d"),
        (["--assert", "rss > 0", "-i", "2s", "-d", "1s"], 2, "longer than -d"),
        (["--assert", "rss > 0", "1"], 2, "check takes one target"),
        (["--assert", "rss > 0", "--budget", "0"], 2, "--budget"),
        (["--assert", "rss > 0", "--format", "xml"], 2, "github"),
    ],
)
def test_wrong_words_are_refused(words: list[str], code: int, text: str) -> None:
    run = mematlas("check", "self", *words)
    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr


def test_a_capture_is_one_moment(victim: Callable[..., Victim], tmp_path: Path) -> None:
    one = victim("anon_full")
    assert mematlas("capture", one.pid, tmp_path / "saved").returncode == 0
    size = one["anon_full"].size
    assert mematlas("check", tmp_path / "saved", "--assert", f"anon >= {size}").returncode == 0
    run = mematlas("check", tmp_path / "saved", "--assert", "rss > 0", "-d", "1s")
    assert (run.returncode, "one moment" in run.stderr) == (2, True)


def test_what_nobody_may_know_is_no_pass(as_nobody: Callable[..., Any]) -> None:
    run = as_nobody(["check", "1", "--assert", "rss > 0"])
    assert run.code == 4
    assert "try: " in run.stderr


def test_of_its_own_a_user_is_told_what_is_hidden(as_nobody: Callable[..., Any]) -> None:
    run = as_nobody(["check", "self", "--source", "pagemap", "--assert", "pss > 0"])
    assert "pss > 0    not known  pss: permission denied" in run.stdout
    assert run.code == 4
    assert "pss" in run.stderr


def test_a_runner_of_github_reads_one_command_a_line() -> None:
    with program(
        "import sys\nopen('/proc/self/comm', 'w').write('a\\n::error::b')\nprint('0', flush=True)\n"
    ) as running:
        run = mematlas("check", running.pid, "--format", "github", "--assert", "rss > 0", "--assert", "rss < 1")
    lines = run.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::notice", "::error"]
    assert run.returncode == 10


def test_a_runner_of_github_is_told_what_kept_it_from_checking() -> None:
    run = mematlas("check", "~nothing-is-called-so", "--format", "github", "--assert", "rss > 0")
    assert run.returncode == 3
    assert run.stdout.startswith("::error title=mematlas check::")


def catches(pid: int, number: int) -> bool:
    """Whether a process handles a signal: proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_whoever_stops_it_has_what_was_seen() -> None:
    words = [sys.executable, "-m", "mematlas", "check", "self", "-i", "50ms", "-d", "1h"]
    asserted = ["--assert", "rss > 0", "--assert", "growth(rss) < 1TiB/s", "--json"]
    with subprocess.Popen([*words, *asserted], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: catches(run.pid, signal.SIGTERM), "it is about to look")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=DEADLINE)
    answer = json.loads(out)
    assert (run.returncode, err) == (130, "")
    assert answer["target"]["stopped"]
    assert answer["target"]["seconds"] < 3600
    assert answer["rows"][0]["passed"]


def test_looking_keeps_to_its_budget() -> None:
    with growing() as running:
        run = mematlas(
            "check", running.pid, "-d", "4s", "-i", "50ms", "--budget", "1%", "--assert", "rss > 0", "--json"
        )
    result = json.loads(run.stdout)
    assert run.returncode == 0
    assert result["rows"][0]["nr_looks"] <= 81
    if result["rows"][0]["nr_looks"] < 54:
        assert [note["code"] for note in result["notes"]] == ["slowed-down"]


def test_one_who_runs_apart_is_told_the_same() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    with growing() as running:
        words = ["check", running.pid, "-d", "3s", "--budget", "100%", "--assert", "growth(uss) < 1KiB/s"]
        run = mematlas("--apart", *words)
    assert run.returncode == 10
    assert "growth(uss) < 1KiB/s  FAILS" in run.stdout

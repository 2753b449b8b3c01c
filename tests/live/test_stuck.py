"""Processes that make whoever looks wait: for a lock that is held for ever, or with more text than there is memory."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Program, mematlas, program, texts
from mematlas import Machine, Process
from mematlas.errors import TargetNotFound
from mematlas.kernel.cmdline import MAX_COMMAND, read_command
from mematlas.kernel.maps import read_maps
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.vmfile import ANSWER_SECONDS, LiveFiles
from mematlas.model.search import DESCRIBED, answering, command_of, resolve, resolve_all
from mematlas.model.target import Target
from stuck import SERVER_WAYS, WAYS, stuck
from victim import DEADLINE, process_state, wait_until

QUIET = "import sys; print(1, flush=True)"
NAME = "hung here"
NAMED = f"import ctypes; ctypes.CDLL(None).prctl(15, {NAME.encode()!r}, 0, 0, 0); {QUIET}"
"""A program of the same name, that answers."""

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")


@pytest.fixture(scope="module", params=WAYS)
def hung(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A process that does not let anybody read what it maps."""
    with stuck(request.param, tmp_path_factory.mktemp("mount"), 96 << 20, NAME) as pid:
        yield pid


def test_search_by_expression_goes_on_and_names_who_does_not_answer(hung: int) -> None:
    with program(QUIET, "found-by-this") as running:
        targets = resolve_all("~found-by-this", ProcFS())

    assert [target.pid for target in targets] == [running.pid]
    assert f"{hung} (" in texts(targets.notes)[0]


def test_all_processes_are_recorded_but_who_does_not_answer(hung: int, tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    with program(QUIET) as running:
        run = mematlas("record", "--machine", "-o", path, "-d", "3s", "-i", "500ms", "--budget", "100%")
    assert run.returncode == 0, run.stderr
    rows = json.loads(mematlas("ps", f"{path}@end", "--json").stdout)["rows"]
    assert running.pid in {row["pid"] for row in rows}
    assert hung not in {row["pid"] for row in rows}
    database = sqlite3.connect(path)
    events = database.execute("SELECT kind, text FROM event WHERE text LIKE ?", (f"%{hung}%",)).fetchall()
    database.close()
    assert events == [("hidden", f"process {hung} does not answer")]


def test_search_that_finds_nothing_says_where_it_could_not_look(hung: int) -> None:
    with pytest.raises(TargetNotFound, match=rf"matches 'no such[^;]*; .*\b{hung} \("):
        resolve("~no such words", ProcFS())


def test_list_of_candidates_has_who_does_not_answer(hung: int) -> None:
    with program(NAMED):
        run = mematlas("usage", NAME)

    assert run.returncode == 3
    assert re.search(rf"^ +{hung} .*  \(does not answer\)$", run.stderr, re.MULTILINE)


def test_group_of_processes_goes_on_without_who_does_not_answer(hung: int) -> None:
    with program(QUIET) as running:
        targets = [Target(ProcFS().process(pid)) for pid in (running.pid, hung)]
        found = answering(targets)

    assert [target.pid for target in found] == [running.pid]
    assert f"{hung} ({NAME}): skipped" in texts(found.notes)[0]


def test_list_of_processes_goes_on_and_names_who_does_not_answer(hung: int) -> None:
    with program(QUIET) as running:
        run = mematlas("ps", "--json")
    result = json.loads(run.stdout)
    rows = {row["pid"]: row for row in result["rows"]}

    assert run.returncode == 0
    assert rows[running.pid]["pss"] is not None
    assert (rows[hung]["pss"], rows[hung]["name"]) == (None, NAME)
    assert rows[hung]["rss"] >= 96 << 20
    # A test beside this one may have processes that do not answer as well.
    unanswered = result["target"]["skipped"]["unanswered"]
    assert [pid for pid in unanswered if pid in (running.pid, hung)] == [hung]
    assert any(note["code"] == "unanswered" and f"{hung} ({NAME})" in note["text"] for note in result["notes"])


def test_looks_at_processes_go_on_beside_a_thread_that_waits(hung: int) -> None:
    with program(QUIET) as running:
        looks = [Machine().processes([running.pid, hung]) for _ in range(3)]
        nr_threads = len(os.listdir("/proc/self/task"))
        again = Machine().processes([running.pid, hung])

    assert all([one.pss is not None for one in look] == [running.pid < hung, hung < running.pid] for look in looks)
    assert again.skipped["unanswered"] == (hung,)
    assert len(os.listdir("/proc/self/task")) == nr_threads


def test_usage_of_a_group_counts_who_does_not_answer(hung: int) -> None:
    with program(NAMED) as running:
        run = mematlas("usage", f"name:{NAME}", "--json")
        (row,) = json.loads(run.stdout)["rows"]
        alone = mematlas("usage", running.pid, f"tree:{running.pid}", "--json")

    assert (row["nr_processes"], row["nr_unseen"]) == (2, 1)
    assert 0 < row["rss"] < 96 << 20
    assert f"{hung} ({NAME}): skipped" in run.stdout
    assert json.loads(alone.stdout)["total"]["nr_unseen"] == 0


# --- texts without end

ENDLESS = """
import ctypes, json, os, struct, sys
PR_SET_MM, PR_SET_MM_MAP = 35, 14
lib = ctypes.CDLL(None, use_errno=True)
lib.mmap.restype = ctypes.c_void_p
lib.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
size = 64 << 30
start = lib.mmap(None, size, 1, 0x4022, -1, 0)
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
# start_code end_code start_data end_data start_brk, then brk, start_stack
start_code, end_code, start_stack = (int(fields[place]) for place in (23, 24, 25))
start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end = (int(each) for each in fields[42:49])
brk = lib.sbrk
brk.restype = ctypes.c_void_p
words = [start_code, end_code, start_data, end_data, start_brk, brk(0), start_stack, start, start + size - 1,
         env_start, env_end, 0]
buffer = struct.pack("12QII", *words, 0, 0xFFFFFFFF)
done = lib.prctl(PR_SET_MM, PR_SET_MM_MAP, buffer, len(buffer), 0)
print(json.dumps(ctypes.get_errno() if done else 0), flush=True)
"""


@pytest.fixture(scope="module")
def endless() -> Iterator[Program]:
    """A process whose command line is 64 GiB of nothing."""
    with program(ENDLESS) as running:
        if running.told:
            pytest.skip(f"needs PR_SET_MM_MAP (CONFIG_CHECKPOINT_RESTORE): {os.strerror(running.told)}")
        yield running


def test_command_line_of_gigabytes_is_read_for_some_kilobytes(endless: Program) -> None:
    with ProcFS().process(endless.pid) as process:
        assert read_command(process) == "\0" * MAX_COMMAND
        assert len(command_of(process) or "") <= DESCRIBED


def test_search_passes_by_a_command_line_of_gigabytes(endless: Program) -> None:
    with program(QUIET, "found-by-this") as running:
        targets = resolve_all("~found-by-this", ProcFS())

    assert [target.pid for target in targets] == [running.pid]
    assert f"{endless.pid} (" not in "".join(texts(targets.notes))


def test_search_ends_though_an_expression_does_not() -> None:
    with (
        program(QUIET, "Z" + "a" * 30_000 + "!") as running,
        pytest.raises(TargetNotFound, match=rf"\b{running.pid} \("),
    ):
        resolve("~Z(?:aa|a)+Y", ProcFS())


# --- ending

ENDINGS = [
    *(((words, signal.SIGINT)) for words in ("usage", "maps", "usage -i 1s", "pageout", "cold --dry-run", "capture")),
    ("usage", signal.SIGTERM),
    ("pageout", signal.SIGTERM),
    ("pageout", signal.SIGHUP),
]


@pytest.mark.parametrize(("words", "number"), ENDINGS)
def test_signal_ends_whoever_waits_for_it(words: str, number: signal.Signals, hung: int, tmp_path: Path) -> None:
    command, *options = words.split()
    more = [str(tmp_path / "saved")] if command == "capture" else []
    line = [sys.executable, "-m", "mematlas", command, str(hung), *more, *options]
    # A run in the background of a shell ignores SIGINT, and with it whoever it starts.
    running = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: is_held_up(running.pid), "it waits in the kernel")
        running.send_signal(number)
        out, err = running.communicate(timeout=DEADLINE)
    finally:
        running.kill()
        running.wait()

    assert running.returncode in (128 + number, -number)
    assert out == ""
    assert "Traceback" not in err


def is_held_up(pid: int) -> bool:
    """Whether a process waits in the kernel, and not for a moment: for somebody's mmap lock, that is."""
    for _ in range(40):
        if process_state(pid) != "D":
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("command", ["usage", "pageout"])
def test_who_waits_at_a_terminal_is_told_for_what(command: str, hung: int) -> None:
    ours, theirs = os.openpty()
    line = [sys.executable, "-m", "mematlas", command, str(hung)]
    running = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    try:
        assert select.select([ours], [], [], DEADLINE)[0], "it says nothing"
        assert f"waiting for /proc/{hung}" in os.read(ours, 4096).decode()
    finally:
        running.kill()
        running.wait()
        os.close(ours)


SIGNALLED = """
import os, signal
from mematlas.cli.watchdog import pending
assert pending() is None
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
os.kill(os.getpid(), signal.SIGHUP)
assert pending() is None  # whoever started us wants it to wait
assert signal.sigwait({signal.SIGHUP}) == signal.SIGHUP
"""


def test_signal_that_is_taken_does_not_wake_the_watchdog() -> None:
    # In a process of one thread: another one of ours would take the signal.
    subprocess.run([sys.executable, "-c", SIGNALLED], check=True, timeout=DEADLINE)


# --- file systems whose server does not answer

LOOKS = ["maps", "usage --verify", "usage --if-ended", "pages --runs", "map", "pageout --dry-run", "willneed --dry-run"]


@pytest.fixture(scope="module", params=SERVER_WAYS)
def unanswered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A process that maps a file of a file system that answers nothing any more."""
    with stuck(request.param, tmp_path_factory.mktemp("mount")) as pid:
        yield pid


@pytest.mark.parametrize("words", LOOKS)
def test_file_system_that_does_not_answer_holds_up_nobody(words: str, unanswered: int) -> None:
    # Whoever waits for its server cannot even be killed, and would keep our pipes open.
    command, *options = words.split()
    assert mematlas(command, str(unanswered), *options).returncode == 0


def test_file_of_a_server_that_does_not_answer_is_a_file_and_that_is_said(unanswered: int) -> None:
    with Process(unanswered) as process:
        kinds = {vma.kind for vma in process.address_space().vmas if vma.path.endswith("/file")}
        notes = process.files.notes()

    assert kinds == {"file"}
    assert {note.code for note in notes} <= {"silent-files"}


def test_one_file_system_that_does_not_answer_is_waited_for_and_no_other(unanswered: int) -> None:
    with ProcFS().process(unanswered) as process:
        files = LiveFiles(process)
        span = next(f"{vma.start:x}-{vma.end:x}" for vma in read_maps(process) if vma.path.endswith("/file"))
        files._own_mounts = files._mounts = {}
        assert files.is_silent(span, "00:fff00")
        before = time.monotonic()
        assert all(files.is_silent(span, f"00:fff{minor}") for minor in range(10, 50))
        assert time.monotonic() - before < ANSWER_SECONDS

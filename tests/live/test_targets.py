"""Which process is meant: whose first thread has ended, whose PID goes to another, who is in other namespaces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PAGE, Program, mematlas, program, skip_without_tables
from mematlas import Process
from mematlas.errors import NoAddressSpace
from mematlas.kernel.group import LiveThread, is_alive, seen_whole
from mematlas.kernel.move_pages import read_page_nodes
from mematlas.kernel.procfs import ProcFS
from mematlas.model.search import resolve_all
from mematlas.words import Source
from victim import process_state, wait_until

# --- a process whose first thread has ended

NR_PAGES = 1013
FIRST_ENDED = """
import ctypes, json, mmap, sys, threading
name, nr_pages = json.loads(sys.argv[-1])
lib = ctypes.CDLL(None)
lib.prctl(15, name.encode(), 0, 0, 0)
area = mmap.mmap(-1, nr_pages * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(b"x" * (nr_pages * mmap.PAGESIZE))
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
def live():
    lib.prctl(15, b"one of many", 0, 0, 0)
    print(json.dumps([address, threading.get_native_id()]), flush=True)
    sys.stdin.read()
    lib._exit(0)
threading.Thread(target=live).start()
lib.pthread_exit(None)
"""
NAME = f"first {os.getpid()}"


@pytest.fixture(scope="module")
def headless() -> Iterator[Program]:
    """A process of `NR_PAGES` pages whose first thread, the one with the name, has ended."""
    with program(FIRST_ENDED, [NAME, NR_PAGES], wait="") as running:
        wait_until(lambda: process_state(running.pid) == "Z", "the first thread has ended")
        yield running


def test_it_is_found_by_every_way_to_name_it(headless: Program) -> None:
    groups = Path(f"/proc/{headless.told[1]}/cgroup").read_text().splitlines()
    path = next((line.split(":", 2)[2] for line in groups if "memory" in line or line.startswith("0:")), None)
    for text in (str(headless.pid), NAME, f"~{NAME}", *([f"cgroup:{path}"] if path else [])):
        found = {target.pid: target for target in resolve_all(text, ProcFS())}

        assert headless.pid in found, text
        assert headless.told[1] not in found
        with Process(found[headless.pid].dir) as process:
            assert (process.pid, process.stat.pid, process.stat.name) == (headless.pid, headless.pid, NAME)


@pytest.mark.parametrize("command", ["usage", "maps", "pages", "hist", "map", "tables"])
def test_every_look_shows_it_under_its_own_pid_and_name(command: str, headless: Program) -> None:
    if command == "tables":
        with Process(headless.pid) as process:
            skip_without_tables(process)
    run = mematlas(command, NAME, "--json")
    if run.returncode == 4 and os.geteuid():
        pytest.skip("needs root for page tables")

    assert run.returncode == 0, run.stderr
    target = json.loads(run.stdout)["target"]
    assert (target["pid"], target["name"]) == (headless.pid, NAME)


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_its_memory_is_what_it_touched(source: Source, headless: Program) -> None:
    fields = Path(f"/proc/{headless.told[1]}/smaps_rollup").read_text()
    with Process(headless.pid) as process:
        usage = process.usage(source).usage

    assert usage.anon == int(re.findall(r"Anonymous: +(\d+) kB", fields)[0]) * 1024 >= NR_PAGES * PAGE


def test_nodes_of_its_pages_are_known_without_frames(headless: Program) -> None:
    if not Path("/sys/devices/system/node").exists():
        pytest.skip("needs CONFIG_NUMA")
    with Process(headless.pid) as process:
        (node,) = read_page_nodes(process.dir, [headless.told[0]])

    assert node >= 0


def test_capture_of_it_is_of_the_process_and_not_of_a_thread(headless: Program, tmp_path: Path) -> None:
    saved = mematlas("capture", NAME, tmp_path / "saved")
    assert saved.returncode == 0, saved.stderr
    live, kept = (json.loads(mematlas("usage", what, "--json").stdout) for what in (NAME, tmp_path / "saved"))

    assert kept["rows"][0]["anon"] == live["rows"][0]["anon"]
    assert kept["target"]["start_time"] == live["target"]["start_time"]
    assert (kept["target"]["pid"], kept["target"]["name"]) == (headless.pid, NAME)
    assert [path.name for path in (tmp_path / "saved").iterdir() if path.is_dir()] == [str(headless.pid)]
    assert mematlas("usage", tmp_path / "saved", "--verify").returncode == 0


@pytest.mark.root("CAP_SYS_NICE")
@pytest.mark.parametrize("act", ["pageout", "cold", "willneed", "collapse"])
def test_plan_promises_nothing_that_the_act_cannot_do(act: str, headless: Program) -> None:
    runs = [mematlas(act, NAME, "anon", *more) for more in ([], ["--dry-run"])]

    assert [run.returncode for run in runs] == [5, 5]
    assert all("its first thread, which has ended" in run.stderr for run in runs)


def test_thread_whose_number_went_to_another_process_is_not_it(headless: Program) -> None:
    with ProcFS().process(headless.pid) as first:
        assert is_alive(LiveThread(ProcFS().process(headless.pid), headless.told[1]))
        assert not is_alive(LiveThread(first, os.getpid()))


def test_zombie_has_no_thread_to_look_through() -> None:
    process = subprocess.Popen(["true"])
    wait_until(lambda: process_state(process.pid) == "Z", "the program ends")
    with ProcFS().process(process.pid) as directory, pytest.raises(NoAddressSpace, match="zombie"):
        seen_whole(directory)
    process.wait()


# --- a number that goes to another

REUSED = """
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from mematlas import Process
from mematlas.errors import Error
from mematlas.kernel.procfs import ProcFS
from mematlas.model.search import resolve

def start(number, *words):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(number - 1))
    told, tell = os.pipe()
    os.set_inheritable(tell, True)
    pid = os.fork()
    if pid == 0:
        code = f"import os; os.write({tell}, b'x'); input()"
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code, *words])
    os.read(told, 1)
    return pid

text = sys.argv[2]
# Held open at its other end, so that nobody reads the end of it.
os.dup2(os.pipe()[0], 0)
pid = start(300, "marked")
target = resolve(text.format(name=open(f"/proc/{pid}/comm").read().strip()), ProcFS())
assert target.pid == pid, target
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
assert start(300, "victim") == pid
try:
    with Process(target.dir) as process:
        process.usage()
    print("looked at another")
except Error as error:
    print(type(error).__name__)
"""


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("text", ["~marked", "300", "{name}"])
def test_process_that_was_found_is_never_another_with_its_number(text: str) -> None:
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", REUSED]
    run = subprocess.run([*words, json.dumps(sys.path), text], capture_output=True, text=True, timeout=60, check=False)
    if "unshare:" in run.stderr or "ns_last_pid" in run.stderr:
        pytest.skip(f"needs PID namespaces with PIDs of our choice: {run.stderr}")

    assert run.stdout == "ProcessGone\n", run.stderr


# --- numbers of other namespaces


@pytest.mark.root("CAP_SYS_ADMIN")
def test_number_of_a_namespace_in_between_is_looked_up() -> None:
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    inner = next(pid for pid in range(most - 1, 1, -1) if not os.path.exists(f"/proc/{pid}"))
    # Its own number is 1 in the innermost namespace, `inner` in the one around it, and some other here. Another run of
    # this test beside us has one with the same numbers.
    asleep = f"sleep {100_000 + os.getpid()}"
    middle = f"echo {inner - 1} > /proc/sys/kernel/ns_last_pid && exec unshare --pid --fork --kill-child {asleep}"
    outer = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", middle], stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: outer.poll() is not None or asleep in found(), "the innermost starts")
        if outer.poll() is not None:
            assert outer.stderr
            pytest.skip(f"needs nested PID namespaces: {outer.stderr.read()!r}")
        run = mematlas("usage", inner)

        assert run.returncode == 3
        assert re.search(rf"no process \d+; in another PID namespace it is (?:.*; )?\d+  {asleep}\b", run.stderr)
    finally:
        outer.kill()
        outer.communicate()


def found() -> list[str]:
    """Return the command lines of all programs called sleep."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " ").rstrip())
        except OSError:
            continue
    return [line for line in lines if line.startswith("sleep")]


# --- a name that is not enough


def test_candidates_are_listed_so_that_one_can_be_picked() -> None:
    name = f"cand {os.getpid()}"
    code = f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0); print(1, flush=True)"
    with program(code, "a" * 300) as one, program(code, "second\n\x1b[2J") as other:
        run = mematlas("usage", name)
        pids = sorted((one.pid, other.pid))
        alone = mematlas("usage", name, "--verify")
        together = mematlas("usage", f"name:{name}", "--json")

    assert run.returncode == 3
    head, titles, *rows, hint = run.stderr.splitlines()
    assert head == f"mematlas: '{name}' names 2 processes; give one PID:"
    assert titles.split() == ["PID", "USER", "RSS", "COMMAND"]
    assert [int(row.split()[0]) for row in rows] == pids
    assert (hint[:5], hint.rpartition(" usage ")[2]) == ("try: ", f"'name:{name}'")
    assert (alone.returncode, "try: " in alone.stderr) == (3, False)  # that takes one
    assert json.loads(together.stdout)["target"]["pids"] == pids
    assert all(" MiB  " in row and len(row) <= 120 for row in rows)
    assert "\x1b" not in run.stderr

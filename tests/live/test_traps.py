"""Processes that are odd, that end or change while one looks, or that may not be looked at."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import mematlas, program, sparse
from mematlas import Process
from mematlas.errors import (
    NoAddressSpace,
    PermissionDenied,
    ProcessGone,
    TargetNotFound,
)
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.status import PF_KTHREAD, read_stat
from mematlas.words import Source
from victim import DEADLINE, Victim, process_state, wait_until

NOBODY = 65534
QUIET = "import sys; print(1, flush=True)"
LOOKS = ("usage", "maps", "pages", "hist", "map")
Start = Callable[..., Victim]


def kernel_thread() -> int:
    """Return the PID of some thread of the kernel."""
    for pid in ProcFS().pids():
        try:
            with ProcFS().process(pid) as process:
                if read_stat(process).flags & PF_KTHREAD:
                    return pid
        except (ProcessGone, TargetNotFound):
            continue
    pytest.skip("no thread of the kernel is visible (a PID namespace)")


# --- what has no memory


@pytest.mark.parametrize("command", LOOKS)
def test_kernel_thread_has_nothing_to_look_at(command: str) -> None:
    run = mematlas(command, kernel_thread())

    assert (run.returncode, run.stdout) == (3, "")
    assert "is a kernel thread" in run.stderr
    with pytest.raises(NoAddressSpace):
        Process(kernel_thread())


@pytest.fixture
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    wait_until(lambda: process_state(process.pid) == "Z", "the program ends")
    yield process.pid
    process.wait()


@pytest.mark.parametrize("command", LOOKS)
def test_zombie_has_nothing_to_look_at_either(command: str, zombie: int) -> None:
    run = mematlas(command, zombie)

    assert (run.returncode, run.stdout) == (3, "")
    assert "zombie" in run.stderr


def free_pid() -> int:
    """Return a PID that nobody has, nor will get before all others were given."""
    child = subprocess.Popen(["true"])
    child.wait(DEADLINE)
    return next(pid for pid in range(child.pid, 1, -1) if not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize("command", [*LOOKS, "translate"])
def test_pid_that_nobody_has_is_not_found(command: str) -> None:
    pid = free_pid()
    run = mematlas(command, pid, *(["0x1000"] if command == "translate" else []))

    assert (run.returncode, run.stdout) == (3, "")
    assert f"no process {pid}" in run.stderr


# --- what ends or changes meanwhile


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_process_killed_before_the_reading_is_gone(source: Source) -> None:
    with program(QUIET) as target, Process(target.pid) as process:
        target.kill()
        with pytest.raises(ProcessGone):
            process.usage(source)
        with pytest.raises(ProcessGone):
            process.translate([0x1000])


def test_process_killed_in_the_middle_is_gone_and_not_empty() -> None:
    size = mmap.PAGESIZE << 24
    with sparse(size, range(0, 16 << 20, 1 << 18)) as target, Process(target.pid) as process:
        pages = process.pages(target.told, target.told + size)
        next(pages)
        target.kill()
        with pytest.raises(ProcessGone):
            list(pages)


def test_smaps_that_ends_early_is_no_smaller_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel just stops writing smaps when the target ends while it is read.
    with program(QUIET) as target, Process(target.pid) as process:
        whole = type(process.dir)._piece

        def half(self: ProcessDir, name: str, fd: int, size: int) -> bytes:
            piece = whole(self, name, fd, size)
            if name != "smaps" or not piece:
                return piece
            target.kill()
            return piece[: piece.find(b"VmFlags")]

        monkeypatch.setattr(type(process.dir), "_piece", half)
        with pytest.raises(ProcessGone):
            process.usage("smaps")


EXEC = """
import mmap, os, sys
area = mmap.mmap(-1, 64 << 20)
print(1, flush=True)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"])
"""


def stack_end(process: Process) -> int:
    """Return where the stack ends, somewhere else after each exec; 0 in the middle of one."""
    try:
        return next((vma.end for vma in process.address_space().vmas if vma.kind == "stack"), 0)
    except ProcessGone:
        return 0  # just in the middle of an exec


def test_process_that_starts_another_program_is_not_taken_for_it() -> None:
    with program(EXEC, wait="") as target, Process(target.pid) as process:
        before = stack_end(process)
        pages = process.pages()
        next(pages)
        assert target.process.stdin
        target.process.stdin.write("\n")
        target.process.stdin.flush()
        wait_until(lambda: stack_end(process) not in (0, before), "it execs")
        with pytest.raises(ProcessGone, match="another program"):
            list(pages)


def take_pid(pid: int) -> subprocess.Popen[bytes] | None:
    """Return a new process with this PID, if the kernel gives it."""
    for _ in range(200):
        # The next process gets the next number, unless somebody else starts one just now.
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        taker = subprocess.Popen(["sleep", "1000"])
        if taker.pid == pid:
            return taker
        taker.kill()
        taker.wait()
    return None


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pid_that_was_given_to_another_is_not_followed() -> None:
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("needs CONFIG_CHECKPOINT_RESTORE")
    with program(QUIET) as target, Process(target.pid) as process:
        target.kill()
        taker = take_pid(target.pid)
        if taker is None:
            pytest.skip("PID was never given out again: other processes start too fast")
        try:
            assert ProcFS().process(target.pid).pid == taker.pid
            for look in (process.usage, process.address_space, lambda: process.dir.read("stat")):
                with pytest.raises(ProcessGone):
                    look()
        finally:
            taker.kill()
            taker.wait()


# --- what may not be looked at


@pytest.mark.parametrize("command", LOOKS)
def test_process_of_another_user_is_refused_with_what_to_type(
    command: str, as_nobody: Callable[..., Outcome], victim: Start
) -> None:
    outcome = as_nobody([command, str(victim("anon").pid)])

    assert (outcome.code, outcome.stdout) == (4, "")
    assert "needs CAP_SYS_PTRACE" in outcome.stderr
    assert "try: sudo -- " in outcome.stderr


def test_process_that_is_no_longer_dumpable_is_refused(as_nobody: Callable[..., Outcome], victim: Start) -> None:
    made = victim("anon", uid=NOBODY)
    assert as_nobody(["usage", str(made.pid)]).code == 0

    made.set_dumpable(False)
    outcome = as_nobody(["usage", str(made.pid)])
    assert outcome.code == 4
    assert "permission denied" in outcome.stderr


def test_process_that_becomes_closed_while_held_is_refused_and_not_empty(
    as_nobody: Callable[..., Outcome], victim: Start
) -> None:
    made = victim("anon", uid=NOBODY)

    def look() -> str:
        with Process(made.pid) as process:
            process.usage()
            made.set_dumpable(False)
            try:
                process.usage()
            except PermissionDenied as error:
                return error.text
        return "not refused"

    assert as_nobody(look).value == "CAP_SYS_PTRACE"


NAMESPACE = """
mount -t proc proc /proc
echo {last} > /proc/sys/kernel/ns_last_pid
sleep 1000 &
echo $!
wait
"""


@pytest.fixture
def elsewhere() -> Iterator[tuple[int, int]]:
    """A process in a PID namespace of its own: its PID there, which nobody has here, and its parent's here."""
    inner = free_pid()
    words = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", NAMESPACE.format(last=inner - 1)]
    try:
        outer = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    try:
        assert outer.stdout
        told = outer.stdout.readline()
        if told.strip() != str(inner):
            pytest.skip(f"no PID namespace with PIDs of our choice: {told!r}")
        yield inner, outer.pid
    finally:
        outer.kill()
        outer.wait(DEADLINE)
        assert outer.stdout
        outer.stdout.close()


@pytest.mark.root("CAP_SYS_ADMIN")
def test_pid_of_another_namespace_is_explained(elsewhere: tuple[int, int]) -> None:
    inner, _ = elsewhere
    run = mematlas("usage", inner)

    assert run.returncode == 3
    assert "in another PID namespace it is" in run.stderr
    real = int(run.stderr.split(" it is ")[1].split()[0])
    assert Path(f"/proc/{real}/comm").read_text() == "sleep\n"
    assert mematlas("usage", real).returncode == 0


# --- a program of our own


def run_command(*words: str, **more: str) -> subprocess.Popen[str]:
    """Start ``mematlas usage -- sh -c ...`` whose program ends when our pipe does."""
    line = [sys.executable, "-m", "mematlas", "usage", "--json", "--after", "200ms", "--", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **more})


@pytest.mark.parametrize(("end", "code"), [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 128 + signal.SIGTERM)])
def test_command_passes_its_exit_code_through(end: str, code: int) -> None:
    with run_command("sh", "-c", f"echo its own words; read x; {end}") as running:
        assert running.stdout
        first = running.stdout.readline()
        out, err = running.communicate("\n", DEADLINE)
    assert (running.returncode, first[:10]) == (code, '{"schema":')
    assert "its own words" in err
    assert "its own words" not in out


@pytest.mark.root("CAP_SYS_ADMIN")
def test_command_runs_as_the_user_who_called_sudo() -> None:
    with run_command("sh", "-c", "id -u; id -g; read x", SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY)) as running:
        assert running.stdout
        running.stdout.readline()
        _, err = running.communicate("\n", DEADLINE)
    assert running.returncode == 0
    assert err.split()[:2] == [str(NOBODY), str(NOBODY)]


@pytest.mark.parametrize(("words", "code"), [(["false"], 6), (["/no/such/program"], 3), ([], 2)])
def test_command_that_cannot_be_looked_at_says_so(words: list[str], code: int) -> None:
    run = mematlas("usage", "--", *words)

    assert (run.returncode, run.stdout) == (code, "")
    assert run.stderr.startswith("mematlas: ")
    assert "Traceback" not in run.stderr


def test_tiny_process_is_seen_whole() -> None:
    with subprocess.Popen(["sleep", "1000"]) as tiny:
        try:
            with Process(tiny.pid) as process:
                result = process.usage()
            assert result.usage.rss
            assert result.usage.rss < 16 << 20
            assert result.tables
        finally:
            tiny.kill()

"""A target that ends in the middle: each command says so, whatever it was just reading.

The target is killed before the first, the second, ... system call that a command makes on it, and is a zombie then, or
reaped. Kernels differ in what PAGEMAP_SCAN says of a dead address space, and older ones know no such call: all are
here.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, Program, program, tells_huge_pages
from mematlas.cli import main
from mematlas.errors import Error, NotSupported, ProcessGone, TargetNotFound
from mematlas.kernel.pagemap import PAGE_IS_PRESENT, PAGEMAP_SCAN, Pagemap
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.status import read_memory_status, read_stat, read_status
from victim import process_state, wait_until

TEMPLATE = """
import ctypes, json, mmap, os, signal, sys
def area(size, flags, pages):
    made = mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS)
    for page in pages:
        made[page * mmap.PAGESIZE] = 1
    return made
sparse = area(mmap.PAGESIZE << 21, mmap.MAP_PRIVATE | 0x4000, (3, 1000003))
sparse[7 * mmap.PAGESIZE]
shared = area(1 << 20, mmap.MAP_SHARED, (5, 11))
print(json.dumps(ctypes.addressof(ctypes.c_char.from_buffer(sparse))), flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    print(child, flush=True)
    if sys.stdin.readline() == "reap\\n":
        os.waitpid(child, 0)
        print("reaped", flush=True)
"""
"""Forks the targets, so that all are alike. Tells the address of its sparse area, then the PID of each."""
CALLS = (
    (os, "open"),
    (os, "read"),
    (os, "pread"),
    (os, "preadv"),
    (os, "readlink"),
    (os, "stat"),
    (fcntl, "ioctl"),
)
"""What a command asks the kernel with."""
COMMANDS = {
    "usage {pid} --source smaps": 99,
    "usage {pid} --source pagemap": 12,
    "usage {pid} --source tables": 12,
    "usage {pid} --verify": 8,
    "maps {pid} --source smaps": 12,
    "maps {pid} --source pagemap": 8,
    "maps {pid} --numa": 8,
    "pages {pid} {area}+4G --runs": 12,
    "map {pid} {area}+4G": 12,
    "hist {pid}": 12,
    "translate {pid} {area}": 99,
    "pageout {pid} {area}+4G --dry-run": 12,
    "tables {pid}": 12,
}
"""Each with how many places it is interrupted at, spread over its calls."""
EXACT = frozenset(
    ("start", "end", "anon", "zero", "swap", "nr_pages", "nr_zero", "nr_swapped", "nr_absent", "nr_movable")
)
"""What is the same of each target, whatever else runs on this machine. Of the rest, whether it is known."""


def esrch(fd: int, request: int, argument: Any) -> int:
    """Answer as the kernel that fails for a dead address space."""
    if not os.pread(fd, 8, 0):
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    return int(IOCTL(fd, request, argument))


def nothing(fd: int, request: int, argument: Any) -> int:
    """Answer as the kernel that finds nothing in a dead address space."""
    if not os.pread(fd, 8, 0):
        argument[4] = argument[3]
        return 0
    return int(IOCTL(fd, request, argument))


def unknown(fd: int, request: int, argument: Any) -> int:
    """Answer as the kernels before 6.7."""
    raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


IOCTL = fcntl.ioctl
KERNELS = {"fails": esrch, "finds nothing": nothing, "has no search": unknown}


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have PAGEMAP_SCAN answer for a dead address space as one kernel or another does."""
    answer = KERNELS[request.param]
    if answer is not unknown and not tells_huge_pages():
        pytest.skip("needs Linux 6.7: PAGEMAP_SCAN")
    monkeypatch.setattr(
        fcntl, "ioctl", lambda fd, request, *rest: (answer if request == PAGEMAP_SCAN else IOCTL)(fd, request, *rest)
    )
    return str(request.param)


class Targets:
    """Makes targets that are all alike, one at a time."""

    def __init__(self, template: Program) -> None:
        self.area = f"{template.told:#x}"
        self._template = template
        self.is_running = self._is_there = False
        self.pid = 0

    def make(self) -> None:
        """Start another target."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
        if self._is_there:
            self._say("reap")
        self.pid = int(self._say("make"))
        wait_until(lambda: process_state(self.pid) == "S", "the target stands still")
        self.is_running = self._is_there = True

    def end(self, reap: bool) -> None:
        """End it, be it that nobody has noticed yet."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: process_state(self.pid) == "Z", "the target ends")
        self.is_running = False
        if reap:
            self._say("reap")
            self._is_there = False

    def _say(self, word: str) -> str:
        assert self._template.process.stdin
        assert self._template.process.stdout
        print(word, file=self._template.process.stdin, flush=True)
        return self._template.process.stdout.readline()


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    with program(TEMPLATE, wait="") as template:
        made = Targets(template)
        yield made
        made.make()
        made.end(True)


class Counted:
    """Counts the calls that ask the kernel, and ends the target before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: int, strike: Callable[[], None]) -> None:
        self.nr_calls, self.when, self.strike = 0, when, strike
        self.owner = os.getpid()
        for module, name in CALLS:
            monkeypatch.setattr(module, name, self._counting(getattr(module, name)))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.nr_calls += 1
            # A child that asks counts on from where it was made, and what it did nobody here would know.
            if self.nr_calls == self.when and os.getpid() == self.owner:
                self.strike()
            return call(*args, **kwargs)

        return counted


def run(
    command: str, targets: Targets, capsys: pytest.CaptureFixture[str], when: int = 0, reap: bool = False
) -> tuple[int, Any, int]:
    """Run a command, and end the target before call number ``when``; return exit code, rows, and number of calls."""
    targets.make()
    with tempfile.TemporaryDirectory() as parent, pytest.MonkeyPatch.context() as patch:
        line = command.format(pid=targets.pid, area=targets.area, saved=f"{parent}/saved")
        counted = Counted(patch, when, lambda: targets.end(reap))
        code = main([*line.split(), "--format", "json"])
    out = capsys.readouterr().out
    rows = json.loads(out)["rows"] if code == 0 else []
    return (
        code,
        [{key: row[key] if key in EXACT else row[key] is None for key in row} for row in rows],
        counted.nr_calls,
    )


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_said_is_whole_or_the_target_has_ended(
    command: str, kernel: str, targets: Targets, capsys: pytest.CaptureFixture[str]
) -> None:
    code, whole, nr_calls = run(command, targets, capsys)
    if code == NotSupported.exit_code:
        pytest.skip("page tables cannot be read here")
    assert code == 0
    assert whole
    step = max(nr_calls // COMMANDS[command], 1)
    for when, reap in zip(range(1, nr_calls + 1, step), itertools.cycle((False, True)), strict=False):
        code, rows, _ = run(command, targets, capsys, when, reap)
        assert rows == whole or code in (ProcessGone.exit_code, TargetNotFound.exit_code), when


def test_capture_of_a_target_that_ends_leaves_nothing(kernel: str, targets: Targets, tmp_path: Path) -> None:
    targets.make()
    saved = tmp_path / "saved"
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch, 0, lambda: None)
        assert main(["capture", str(targets.pid), str(saved)]) == 0
    shutil.rmtree(saved)
    for when in range(20, counted.nr_calls - 100, counted.nr_calls // 8):
        targets.make()
        with pytest.MonkeyPatch.context() as patch:
            Counted(patch, when, lambda: targets.end(False))
            assert main(["capture", str(targets.pid), str(saved)]) == ProcessGone.exit_code, when
        assert not saved.exists()


def test_mountinfo_of_a_task_that_is_just_ending_is_a_target_that_has_ended(targets: Targets) -> None:
    # Its namespaces are gone before it is a zombie: EINVAL (fs/proc_namespace.c, mounts_open_common).
    targets.make()
    with ProcFS().process(targets.pid) as process:
        targets.end(False)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.open(f"/proc/{targets.pid}/mountinfo", os.O_RDONLY)
        with pytest.raises(ProcessGone):
            process.read("mountinfo")


def test_files_that_are_refused_while_the_target_lives_are_other_errors(
    targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets.make()
    with ProcFS().process(targets.pid) as process:
        monkeypatch.setattr(os, "open", refuse(errno.EINVAL, "mountinfo"))
        with pytest.raises(Error, match="mountinfo: Invalid argument") as caught:
            process.read("mountinfo")
    assert not isinstance(caught.value, ProcessGone)


def refuse(code: int, name: str) -> Callable[..., int]:
    """Return an open that fails for one file."""
    opened = os.open

    def refusing(path: str, *args: Any, **kwargs: Any) -> int:
        if path == name:
            raise OSError(code, os.strerror(code))
        return opened(path, *args, **kwargs)

    return refusing


@pytest.mark.parametrize("name", ["maps", "smaps", "numa_maps"])
def test_listing_that_just_stops_is_of_a_target_that_has_ended(
    name: str, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets.make()
    read = os.read

    def read_little(fd: int, size: int) -> bytes:
        part = read(fd, 512)
        if part and targets.is_running:
            targets.end(False)
        return part

    with ProcFS().process(targets.pid) as process:
        whole = process.read("maps")
        monkeypatch.setattr(os, "read", read_little)
        with pytest.raises(ProcessGone, match="ended"):
            process.read(name)
    assert len(whole) > 512


@pytest.mark.parametrize("when", ["before its first line", "after it"])
@pytest.mark.parametrize("name", ["maps", "smaps"])
def test_listing_that_stops_at_an_exec_is_of_another_program(
    name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sh", "-c", "echo; read x; exec sleep 100"], stdin=-1, stdout=-1) as shell:
        assert shell.stdin
        assert shell.stdout
        stdin = shell.stdin
        shell.stdout.readline()
        with ProcFS().process(shell.pid) as process:
            read = os.read

            def read_little(fd: int, size: int) -> bytes:
                part = read(fd, 512) if when == "after it" else b""
                if not stdin.closed:
                    stdin.close()
                    wait_until(
                        lambda: Path(f"/proc/{shell.pid}/comm").read_text() == "sleep\n", "it runs another program"
                    )
                return part or read(fd, 512)

            monkeypatch.setattr(os, "read", read_little)
            with pytest.raises(ProcessGone, match="runs another program now"):
                process.read(name)
        shell.kill()


def test_memory_of_a_zombie_is_not_unknown_but_gone(targets: Targets) -> None:
    targets.make()
    with ProcFS().process(targets.pid) as process:
        assert "VmRSS" in read_memory_status(process)
        targets.end(False)
        assert "VmRSS" not in read_status(process)
        with pytest.raises(ProcessGone):
            read_memory_status(process)


@pytest.mark.parametrize("text", [b"", b"7 (cut sh"], ids=["empty", "short"])
def test_stat_of_a_target_that_ended_is_no_format_error(
    text: bytes, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def ends(fd: int, size: int) -> bytes:
        monkeypatch.setattr(os, "read", read)
        targets.end(True)
        return text

    targets.make()
    with ProcFS().process(targets.pid) as process:
        monkeypatch.setattr(os, "read", ends)
        with pytest.raises(ProcessGone):
            read_stat(process)


@pytest.mark.parametrize("kernel", ["fails", "finds nothing"], indirect=True)
def test_search_that_finds_nothing_in_a_dead_address_space_is_no_answer(kernel: str, targets: Targets) -> None:
    targets.make()
    with ProcFS().process(targets.pid) as process, Pagemap(process) as pagemap:
        assert pagemap.ranges(0, PAGE, PAGE_IS_PRESENT) == []
        targets.end(False)
        with pytest.raises(ProcessGone):
            pagemap.ranges(0, PAGE, PAGE_IS_PRESENT)

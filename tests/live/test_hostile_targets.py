"""Programs that make their own files in /proc as long as they can: what looks at them stays small, and ends."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Program, program, texts
from mematlas import Process, ProcFS
from mematlas.cli import main
from mematlas.kernel.cmdline import MAX_COMMAND
from mematlas.kernel.maps import MAX_PATH
from victim import DEADLINE

LONG_COMMAND = """
import ctypes, json, mmap, re, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_MM, PR_SET_MM_MAP = 35, 14
size, what = json.loads(sys.argv[1])
NORESERVE = 0x4000
area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
code, brk = list(map(int, fields[23:26])), list(map(int, fields[42:49]))
start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end = brk
libc.sbrk.restype = ctypes.c_long
lies = {"arguments": (address, address + size - 1, env_start, env_end),
        "environment": (arg_start, arg_end, address, address + size - 1),
        "both": (address, address + size // 2, address + size // 2, address + size - 1)}
# struct prctl_mm_map of include/uapi/linux/prctl.h; no auxv, no exe_fd
words = (*code[:2], start_data, end_data, start_brk, libc.sbrk(0), code[2], *lies[what], 0)
block = (ctypes.c_uint64 * 13)(*words, 0xFFFFFFFF << 32)
done = libc.prctl(PR_SET_MM, PR_SET_MM_MAP, block, ctypes.sizeof(block), 0)
print(json.dumps(ctypes.get_errno() if done else 0), flush=True)
"""
"""Says that its arguments are all of a large area. That needs no right."""

LONG_PATHS = """
import ctypes, json, mmap, os, sys
place, depth, number = json.loads(sys.argv[1])
os.chdir(place)
for _ in range(depth):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
fd = os.open("file", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 2 * mmap.PAGESIZE)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
for place in range(number):
    # By turns with other rights, so that none is merged with the one beside it.
    libc.mmap(None, mmap.PAGESIZE, 1 + 2 * (place & 1), mmap.MAP_PRIVATE, fd, 0)
print(len(os.getcwd()), flush=True)
"""
"""Maps a file of a path that no single call can open, many times."""

ROOM = 768 << 20
"""Bytes of address space for a command: far less than what it is told."""


def within_room(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command line that may not take more memory than so."""
    return subprocess.run(
        [sys.executable, "-m", "mematlas", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM)),
        check=False,
    )


@pytest.fixture(params=["arguments", "environment", "both"])
def long_command(request: pytest.FixtureRequest) -> Iterator[Program]:
    """Start a program that says its arguments are gigabytes."""
    with program(LONG_COMMAND, [64 << 30, request.param]) as running:
        if running.told:
            pytest.skip("needs CONFIG_CHECKPOINT_RESTORE: prctl(PR_SET_MM_MAP) is refused")
        yield running


def test_a_search_is_not_filled_by_arguments_without_an_end(long_command: Program) -> None:
    done = within_room("usage", "~no such program anywhere")
    assert (done.returncode, "no command line matches" in done.stderr) == (3, True), done.stderr


def test_a_capture_takes_the_beginning_of_arguments_without_an_end(long_command: Program, tmp_path: Path) -> None:
    done = within_room("capture", long_command.pid, tmp_path / "saved", "--json")
    assert done.returncode == 0, done.stderr
    size = (tmp_path / "saved" / str(long_command.pid) / "cmdline").stat().st_size
    assert size <= MAX_COMMAND
    notes = texts(json.loads(done.stdout)["notes"])
    assert (size == MAX_COMMAND) == ("only the first 128 KiB of the command line are saved" in notes)


@pytest.fixture
def long_paths(tmp_path: Path) -> Iterator[tuple[Program, int]]:
    """Start a program that maps a file by a path of 25,000 bytes and more, a thousand times; return that length."""
    place = tmp_path / "deep"
    place.mkdir()
    try:
        with program(LONG_PATHS, [str(place), 100, 1009]) as running:
            yield running, running.told
    finally:
        shutil.rmtree(place)


def test_paths_longer_than_can_be_opened_are_cut_and_counted(
    long_paths: tuple[Program, int], capsys: pytest.CaptureFixture[str]
) -> None:
    running, length = long_paths
    assert length > 25_000
    assert main(["maps", str(running.pid), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    cut = [row for row in result["rows"] if row["path_cut"]]
    assert len(cut) == 1009
    assert {len(row["path"]) for row in cut} == {MAX_PATH + 3}
    assert any("the paths of 1,009 VMAs are too long and cut" in note for note in texts(result["notes"]))


def test_a_capture_has_the_same_cut_paths(long_paths: tuple[Program, int], tmp_path: Path) -> None:
    running, _ = long_paths
    assert main(["capture", str(running.pid), str(tmp_path / "saved")]) == 0
    with Process(running.pid) as live, Process(running.pid, ProcFS(str(tmp_path / "saved"))) as saved:
        assert saved.address_space().vmas == live.address_space().vmas
        assert saved.usage("smaps").usage.rss == live.usage("smaps").usage.rss


@pytest.mark.parametrize("command", ["maps", "usage", "hist"])
def test_long_paths_do_not_fill_memory(command: str, long_paths: tuple[Program, int]) -> None:
    # 26 MB of text, and twice as much as that when it is kept whole and as text.
    running, _ = long_paths
    code = (
        "import sys, os; from mematlas.cli import main; code = main(sys.argv[1:]); sys.stdout.flush(); "
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], file=sys.stderr); os._exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(running.pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 60 << 10

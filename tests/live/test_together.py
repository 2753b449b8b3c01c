"""Several targets: a row each, and what they have together with each page counted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, make_process, mematlas, program, steadily, texts
from mematlas import Process
from mematlas.cli import main
from mematlas.errors import BadInput, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.cgroups import mounts_of
from mematlas.kernel.procfs import ProcFS
from mematlas.model.search import distinct, resolve
from mematlas.observe.together import count_together
from victim import DEADLINE

NR_SHARED, NR_COPIED, NR_OWN, NR_SHMEM = 1009, 307, 103, 211
FAMILY = """
import json, mmap, os, signal, sys
nr_shared, nr_copied, nr_own, nr_shmem = json.loads(sys.argv[-1])
def area(nr, flags):
    made = mmap.mmap(-1, nr * mmap.PAGESIZE, flags)
    if flags & mmap.MAP_PRIVATE:
        made.madvise(getattr(mmap, "MADV_NOHUGEPAGE", 15))
    made.write(b"x" * len(made))
    return made
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
inherited, shared = area(nr_shared, private), area(nr_shmem, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
told, tell = os.pipe()
pid = os.fork()
if pid == 0:
    for page in range(nr_copied):
        inherited[page * mmap.PAGESIZE] = 1
    for page in range(nr_shmem):
        shared[page * mmap.PAGESIZE]
    own = area(nr_own, private)
    os.write(tell, b"x")
    signal.pause()
os.read(told, 1)
print(pid, flush=True)
"""


@pytest.fixture(scope="module")
def family() -> Iterator[list[int]]:
    """A process and its child, which has rewritten `NR_COPIED` pages of those that it was born with."""
    with program(FAMILY, [NR_SHARED, NR_COPIED, NR_OWN, NR_SHMEM]) as running:
        yield [running.pid, running.told]
        os.kill(running.told, 9)


def usage(*words: object) -> dict[str, Any]:
    run = mematlas("usage", *words, "--json")
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@steadily
def test_total_is_less_than_the_sum_by_what_they_share(family: list[int]) -> None:
    if os.geteuid():
        pytest.skip("needs root for frames")
    result = usage(*family)
    rows, total = result["rows"], result["total"]

    assert [row["pid"] for row in rows] == family
    shared = total["rss"] - max(row["rss"] for row in rows)
    assert sum(row["rss"] for row in rows) - total["rss"] >= (NR_SHARED - NR_COPIED + NR_SHMEM) * PAGE
    assert shared >= (NR_COPIED + NR_OWN) * PAGE
    assert total["shmem"] == NR_SHMEM * PAGE
    assert total["rss"] == total["anon"] + total["file"] + total["shmem"]
    assert total["pss"] == sum(row["pss"] for row in rows)
    # Nobody else has their anonymous memory.
    assert total["uss"] >= total["anon"] + total["shmem"]


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_total_is_what_the_entries_of_all_say(family: list[int]) -> None:
    frames = set[int]()
    for pid in family:
        frames |= frames_of(pid)

    with ExitStack() as stack:
        together = count_together([stack.enter_context(Process(pid)) for pid in family])
    assert together.rss == len(frames) * PAGE


def frames_of(pid: int) -> set[int]:
    """Return the frames that a process maps, as its pagemap has them; without the zero page."""
    found = set[int]()
    with open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap, open("/proc/kpageflags", "rb", 0) as flags:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if start >> 63:
                continue
            words = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            entries = (int.from_bytes(words[at : at + 8], "little") for at in range(0, len(words), 8))
            found |= {entry & (1 << 55) - 1 for entry in entries if entry >> 63}
        zero_page = 1 << 24
        return {
            frame for frame in found if not int.from_bytes(os.pread(flags.fileno(), 8, frame * 8), "little") & zero_page
        }


def test_each_process_is_looked_at_once(family: list[int]) -> None:
    result = usage(family[0], family[1], family[0])

    assert [row["pid"] for row in result["rows"]] == family
    assert result["target"]["nr_processes"] == 2


def test_without_frames_the_sum_of_pss_is_what_adds_up(as_nobody: Callable[..., Outcome]) -> None:
    def look() -> None:
        with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
            main(["usage", str(one.pid), str(other.pid), "--json"])
            one.kill()
            other.kill()

    outcome = as_nobody(look)
    result = json.loads(outcome.stdout)
    total = result["total"]
    assert (total["rss"], total["uss"]) == (None, None)
    assert total["pss"] == sum(row["pss"] for row in result["rows"])
    assert any(
        "only PSS can be added up: shared pages are in the RSS of each: " in text for text in texts(result["notes"])
    )


@pytest.fixture
def cgroup(family: list[int]) -> Iterator[str]:
    """A cgroup with the family in it."""
    with open("/proc/self/mountinfo", "rb") as file:
        point = next((mount.point for mount in mounts_of(file) if not mount.is_version_1), None)
    if os.geteuid() or point is None:
        pytest.skip("needs root, and the hierarchy of cgroup v2")
    path = Path(point, f"mematlas-{os.getpid()}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"needs a cgroup that can be made: {error}")
    try:
        for pid in family:
            (path / "cgroup.procs").write_text(str(pid))
        yield str(path)
    finally:
        for pid in family:
            Path(point, "cgroup.procs").write_text(str(pid))
        path.rmdir()


def test_cgroup_is_one_row_or_with_each_one_for_every_process(cgroup: str, family: list[int]) -> None:
    (whole,) = usage(f"cgroup:{cgroup}")["rows"]
    each = usage(f"cgroup:{cgroup}", "--each")

    assert [row["pid"] for row in each["rows"]] == sorted(family)
    assert (whole["nr_processes"], whole["rss"]) == (2, each["total"]["rss"])
    assert max(row["rss"] for row in each["rows"]) < whole["rss"] < sum(row["rss"] for row in each["rows"])
    assert whole["rss_sum"] == sum(row["rss"] for row in each["rows"])


def test_those_who_end_are_left_out_until_nobody_is_left() -> None:
    words = [sys.executable, "-m", "mematlas", "usage", "-i", "50ms", "--format", "jsonl"]
    with (
        subprocess.Popen(["sleep", "60"]) as one,
        subprocess.Popen(["sleep", "60"]) as other,
        subprocess.Popen([*words, str(one.pid), str(other.pid)], stdout=subprocess.PIPE, text=True) as run,
    ):
        assert run.stdout
        first = [json.loads(run.stdout.readline()) for _ in range(4)]
        one.kill()
        last = next(json.loads(line) for line in run.stdout if "left out: process" in line)
        other.kill()
        run.stdout.read()
        code = run.wait(DEADLINE)

    assert [row["pid"] for row in first[1:3]] == [one.pid, other.pid]
    # Before Linux 5.19 there is another, of KSM.
    assert [note for note in texts(last["notes"]) if not note.startswith("ksm")] == [
        f"left out: process {one.pid} ended"
    ]
    assert last["target"]["nr_processes"] == 1
    assert code == ProcessGone.exit_code


def test_every_target_that_is_named_must_be_there(family: list[int]) -> None:
    run = mematlas("usage", family[0], "nobody is called so")

    assert (run.returncode, run.stdout) == (TargetNotFound.exit_code, "")
    assert "no process is called 'nobody is called so' (cmdline:nobody is called so searches" in run.stderr


def test_one_that_may_not_be_looked_at_is_refused(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["usage", "self", "1"])

    assert outcome.code == PermissionDenied.exit_code
    assert outcome.stdout == ""


@pytest.mark.parametrize("command", ["maps", "map", "pages", "hist"])
def test_commands_that_look_at_one_process_say_so(command: str, family: list[int]) -> None:
    run = mematlas(command, *family)

    assert (run.returncode, run.stdout) == (BadInput.exit_code, "")
    assert f"one process at a time: {family[1]} is another one (usage takes several)" in run.stderr


def test_verify_takes_one_process(family: list[int]) -> None:
    run = mematlas("usage", *family, "--verify")

    assert run.returncode == BadInput.exit_code
    assert "--verify takes one process" in run.stderr


def test_captures_and_running_processes_are_not_looked_at_together(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": PAGE}))
    make_process(tmp_path, pid=12)

    with pytest.raises(BadInput, match="captures and moments of recordings cannot be combined"):
        distinct([resolve("self", ProcFS()), resolve(str(tmp_path), ProcFS())])

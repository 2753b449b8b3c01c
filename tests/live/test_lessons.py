"""Each lesson is true on this machine: the predictions of the theory hold, and what was measured the kernel confirms.

What a lesson sees of memory it sees through a few methods of its stage. Here each of them is compared, while the
workload stands still, with smaps and pagemap as read by the test itself.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import mematlas.labs.running_workload
from conftest import DEADLINE, Outcome
from helpers import Forked
from mematlas.analysis.results import VmaUsage
from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.labs.lesson import Stage
from mematlas.labs.lessons import LESSONS

pytestmark = pytest.mark.machine

PAGE = os.sysconf("SC_PAGESIZE")
HUGE_FILE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
NR_SMALL = int(HUGE_FILE.read_text()) // PAGE if HUGE_FILE.exists() else 512
HUGE_ORDER = NR_SMALL.bit_length() - 1
NR_ORDERS = len(Path("/proc/buddyinfo").read_text().splitlines()[0].split()) - 4
"""The sizes of free blocks, behind "Node", its number, "zone" and the name of that."""

RIGHT: dict[str, dict[str, Any]] = {
    "reserve": {"reserved": 0, "touched": 100, "scattered": "99000 // page_size + 1", "given_back": "b"},
    "zero": {"resident": 0, "present": 64, "frames": 1, "written": 10},
    "fork": {"own": 0, "sum": 200, "map_count": 2, "frames": 130, "parent": 30},
    "translate": {
        "page_number": "byte // page_size",
        "page_offset": "byte % page_size",
        "file_offset": "page_number * 8",
        "pfn": "entry & ((1 << 55) - 1)",
        "physical": "pfn * page_size + page_offset",
        "hidden": "The kernel does not show us the number",
    },
    "stack": {"size": "b", "grown": 100, "resident": 1, "returned": "b"},
    "malloc": {"allocated": "22-43 MiB", "freed": "c", "trimmed": "a", "large": "b", "thread": "b"},
    "cache": {"mapped": 0, "read": "Several", "unmapped": 256, "evicted": "c"},
    "faults": {"fresh": 500, "again": 0, "disk": 1, "cache": "b"},
    "sharing": {"alone": 120, "rss": 120, "uss": 0, "pss": 40, "alone_again": 120},
    "pageout": {"out": 0, "swapped": 1000, "cost": "c", "back": 10},
    "shmem": {"entries": 0, "entry": "c", "smaps": 100, "found": 100},
    "huge": {
        "small_faults": 16 * NR_SMALL,
        "small_tables": f"{16 * NR_SMALL * 8} bytes",
        "huge_faults": 16,
        "huge_tables": "b",
        "one_byte": NR_SMALL,
    },
    "fragments": {
        "buddies": " + ".join(f"(free_{order} << {order}) // {NR_SMALL}" for order in range(HUGE_ORDER, NR_ORDERS)),
        "kept": 8 * NR_SMALL,
        "whole": 0,
        "collapsed": 16 * NR_SMALL,
        "moved": "a",
    },
}
NEED_SWAP = ("pageout", "shmem")
NEED_RIGHTS = {"zero": ["frames"], "fork": ["map_count"], "translate": ["pfn", "physical"], "shmem": ["found"],
               "fragments": ["whole", "moved"]}  # fmt: skip
"""Questions that are left out without rights."""
FOR_THOSE_WITHOUT = {"translate": ["hidden"]}


def smaps_of(pid: int, address: int) -> dict[str, int]:
    """Return the fields of the VMA at an address, in bytes, and where it ends."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_bytes().split(b"\n"):
        name, _, rest = line.partition(b" ")
        if name.endswith(b":"):
            if fields and rest.endswith(b" kB"):
                fields[name[:-1].decode()] = int(rest.split()[0]) * 1024
        elif name:
            start, end = (int(part, 16) for part in name.split(b"-"))
            if fields:
                break
            if start <= address < end:
                fields = {"start": start, "end": end}
    return fields


def entries_of(pid: int, address: int, nr_pages: int) -> Sequence[int]:
    """Return the entries of pagemap."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return struct.unpack(f"={nr_pages}Q", os.pread(file.fileno(), nr_pages * 8, address // PAGE * 8))


class Witness:
    """Looks on, and compares each thing that a lesson sees with what the test reads itself."""

    def __init__(self) -> None:
        self.nr_checked = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        see_vma, see_states, see_frames = Stage.vma, Stage.states, Stage.frames

        def vma(stage: Stage, address: int | None = None, pid: int | None = None) -> VmaUsage:
            place = stage.facts["address"] if address is None else address
            end = time.monotonic() + DEADLINE
            while True:
                # What is shared with others, as libraries are, changes when they come and go.
                truth = smaps_of(pid or stage.workload.pid, place)
                seen = see_vma(stage, address, pid)
                if truth == smaps_of(pid or stage.workload.pid, place):
                    break
                assert time.monotonic() < end, "smaps never stands still: the machine is too busy"
            assert (seen.vma.start, seen.vma.end) == (truth["start"], truth["end"])
            usage = seen.usage
            own = truth["Private_Clean"] + truth["Private_Dirty"]
            assert (usage.rss, usage.pss, usage.uss) == (truth["Rss"], truth["Pss"], own)
            assert (usage.swap, usage.thp) == (truth["Swap"], truth["AnonHugePages"])
            self.nr_checked += 1
            return seen

        def states(stage: Stage, pid: int | None = None) -> list[str]:
            seen = see_states(stage, pid)
            entries = entries_of(stage.workload.pid, stage.facts["address"], stage.facts["nr_pages"])
            assert len(seen) == len(entries)
            for state, entry in zip(seen, entries, strict=True):
                assert (state in ("present", "zero")) == bool(entry >> 63)
                # Of shared memory the entry is empty though it is in swap: that is what a lesson is about.
                assert state == "swapped" or not entry >> 62 & 1
            self.nr_checked += 1
            return seen

        def frames(stage: Stage, first: int, count: int) -> list[int]:
            seen = see_frames(stage, first, count)
            entries = entries_of(stage.workload.pid, stage.facts["address"] + first * PAGE, count)
            assert seen == [entry & (1 << 55) - 1 for entry in entries if entry >> 63]
            self.nr_checked += 1
            return seen

        patch.setattr(Stage, "vma", vma)
        patch.setattr(Stage, "frames", frames)
        patch.setattr(Stage, "states", states)


def take(name: str, path: str, forked: bool = False) -> tuple[int, str, int]:
    """Take a lesson with the right answers; return exit code, JSON and how often the kernel was asked to confirm."""
    witness = Witness()
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        out.reconfigure = lambda **settings: None  # type: ignore[attr-defined]
        witness.watch(patch)
        if forked:
            patch.setattr(mematlas.labs.running_workload, "start", Forked)
        code = main(["lab", name, "--answers", path, "--json"])
    return code, out.getvalue(), witness.nr_checked


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(Path(mematlas.labs.running_workload.__file__).parents[2]))
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(RIGHT))
    # Nobody must get at it too.
    for place in (tmp_path, *tmp_path.parents[:-1]):
        if place.stat().st_uid == os.geteuid():
            place.chmod(place.stat().st_mode | 0o011)
    path.chmod(0o644)
    return str(path)


def must_be_possible(name: str, request: pytest.FixtureRequest) -> None:
    """Make what a lesson needs, or skip."""
    if name in NEED_SWAP:
        request.getfixturevalue("swap")
    check = LESSONS[name].check
    if check:
        try:
            check()
        except NotSupported as error:
            pytest.skip(str(error))


def assert_all_right(name: str, text: str, left_out: list[str]) -> None:
    rows = json.loads(text)["rows"]
    assert [row["key"] for row in rows] == list(RIGHT[name])
    wrong = [(row["key"], row["prediction"], row["reality"]) for row in rows if row["right"] is False]
    assert wrong == []
    unexpected = [(row["key"], row["reason"]) for row in rows if (row["right"] is None) != (row["key"] in left_out)]
    # A machine may lack a disk for files, or memory in one piece; it then says so, and that is what is shown here.
    if unexpected:
        pytest.skip(f"left out: {unexpected}")


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_NICE")
@pytest.mark.parametrize("name", LESSONS)
def test_theory_holds_and_the_kernel_confirms_what_was_seen(
    name: str, answers: str, request: pytest.FixtureRequest
) -> None:
    must_be_possible(name, request)
    code, text, nr_checked = take(name, answers)
    assert_all_right(name, text, FOR_THOSE_WITHOUT.get(name, []))
    assert code == 0
    assert nr_checked > 0 or name == "faults"


@pytest.mark.root("CAP_SYS_ADMIN")
def test_the_sample_for_teachers_gives_its_output(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/labs.md").read_text()
    sample = text.partition("```json\n")[2].partition("```")[0]
    line, shown = text.partition("$ mematlas lab --answers ann.json")[2].splitlines()[:2]
    (tmp_path / "ann.json").write_text(sample)
    words = ["lab", "--answers", str(tmp_path / "ann.json"), "--json"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "mematlas", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        env=environment,
    )

    assert line == " --json > ann.result"
    assert (done.returncode, done.stderr) == (10, f"{shown}\n")
    assert f"of {json.loads(done.stdout)['target']['nr_asked']} predictions" in shown


@pytest.mark.parametrize("name", LESSONS)
def test_it_works_without_any_right(
    name: str, answers: str, request: pytest.FixtureRequest, as_nobody: Callable[..., Outcome]
) -> None:
    must_be_possible(name, request)
    outcome = as_nobody(lambda: take(name, answers, forked=True))
    assert outcome.value, outcome.stderr
    code, text, _ = outcome.value
    assert_all_right(name, text, NEED_RIGHTS.get(name, []))
    assert code == 0


def test_without_swap_it_says_how_to_get_some(
    answers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mematlas.labs.lessons.swapped.read_swaps", lambda procfs: [])
    monkeypatch.setattr(sys, "stdin", StringIO())
    assert main(["lab", "pageout"]) == 5
    message = capsys.readouterr().err
    assert "--temporary-swap 64M" in message
    assert "swapon /var/tmp/swapfile" in message


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_NICE")
def test_temporary_swap_is_gone_afterwards(answers: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("/proc/swaps").read_text().count("mematlas-swap-")
    code = main(["lab", "pageout", "--answers", answers, "--json", "--temporary-swap", "64M"])
    assert code == 0, capsys.readouterr()
    assert Path("/proc/swaps").read_text().count("mematlas-swap-") == before
    assert not list(Path("/var/tmp").glob("mematlas-swap-*"))

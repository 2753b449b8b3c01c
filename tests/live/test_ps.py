"""`ps` and `Machine.processes`: what the kernel says of each, in sums in which everything counts once."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program, read_smaps, steadily
from mematlas import Machine, Process
from mematlas.analysis.listing import ProcessesResult, ProcessUsage
from mematlas.errors import NoAddressSpace, NotSupported, ProcessGone, TargetNotFound
from mematlas.kernel.status import read_stat
from mematlas.model.target import Target
from mematlas.observe import listing
from mematlas.observe.page_counter import PageCounter
from mematlas.observe.sampled_usage import counter_lag, sample_usage
from mematlas.observe.sources import SourceChoice, Sources
from test_together import FAMILY, NR_COPIED, NR_OWN, NR_SHARED, NR_SHMEM
from victim import DEADLINE, Victim, process_state, wait_until

NR_PAGES = 1009
QUIET = f"""
import mmap, sys
area = mmap.mmap(-1, {NR_PAGES} * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(b"x" * len(area))
print(1, flush=True)
"""
CLONE = """
import ctypes, mmap, signal, sys
libc = ctypes.CDLL(None)
stack = mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
print(libc.clone(body, ctypes.c_void_p(top), 0x100 | signal.SIGCHLD, None), flush=True)  # CLONE_VM
"""


def row_of(result: ProcessesResult, pid: int) -> ProcessUsage:
    """Return the row of a process."""
    (row,) = (one for one in result if one.pid == pid)
    return row


def sum_of(pid: int, *names: str) -> int:
    """Return the sum of what smaps says of all VMAs."""
    return sum(fields.get(name, 0) for fields in read_smaps(pid).values() for name in names)


@pytest.mark.parametrize("kind", ["anon_full", "shared_anon", "private_file", "thp", "forked"])
@pytest.mark.parametrize("max_stall", [1.0, 0.0], ids=["sums", "source"])
@steadily
def test_process_that_stands_still_is_what_smaps_says(
    kind: str, max_stall: float, victim: Callable[..., Victim]
) -> None:
    pid = victim(kind).pid
    os.kill(pid, signal.SIGSTOP)
    row = row_of(Machine().processes([pid], max_stall=max_stall), pid)

    assert (row.rss, row.swap) == (sum_of(pid, "Rss"), sum_of(pid, "Swap"))
    assert row.uss == sum_of(pid, "Private_Clean", "Private_Dirty")
    assert row.thp == sum_of(pid, "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
    assert abs((row.pss or 0) - sum_of(pid, "Pss")) <= 1024 * len(read_smaps(pid))
    assert (row.source == "smaps_rollup") == (max_stall > 0)


def test_row_says_who_it_is() -> None:
    with program(QUIET) as running:
        row = row_of(Machine().processes(details=("cgroup", "start_time", "exe")), running.pid)
        with Process(running.pid) as process:
            stat = process.stat

    assert (row.name, row.parent, row.start_time) == (stat.name, os.getpid(), stat.start_time)
    assert (row.uid, row.user) == (os.getuid(), "root" if os.getuid() == 0 else row.user)
    assert row.exe
    assert os.path.samefile(row.exe, "/proc/self/exe")


def test_name_may_hold_anything() -> None:
    name = "a\\\n\x1b\\n"
    code = f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0); print(1, flush=True)"
    with program(code) as running:
        assert row_of(Machine().processes([running.pid]), running.pid).name == name
        assert r"  a\\n\x1b\n  " in mematlas("ps", running.pid).stdout


@pytest.mark.root("CAP_SYS_PTRACE")
def test_everybody_has_a_row_or_a_reason() -> None:
    result = Machine().processes()
    pids = [one.pid for one in result]
    passed_over = {pid for why, some in result.skipped.items() for pid in some}

    assert pids == sorted(set(pids))
    assert os.getpid() not in pids
    assert os.getppid() in pids
    for one in result:
        assert one.source or one.pid in passed_over
    assert result.pss == sum(one.pss for one in result if one.pss is not None)


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A process and its child, which has rewritten a part of what it was born with."""
    with program(FAMILY, [NR_SHARED, NR_COPIED, NR_OWN, NR_SHMEM]) as running:
        yield [running.pid, running.told]
        os.kill(running.told, signal.SIGKILL)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@steadily
def test_sum_of_pss_is_the_frames_that_a_family_has_each_once(family: list[int]) -> None:
    """Of what others map as well, libraries, both have a part: that is left out by taking what the family alone has."""
    result = Machine().processes(family, distinct=True)
    together = result.distinct
    shared = sum(one.shared or 0 for one in result)

    assert together
    assert result.pss is not None
    assert together.uss <= result.pss <= together.rss
    assert together.rss < sum(one.rss or 0 for one in result) - NR_SHARED * PAGE + NR_COPIED * PAGE
    assert together.uss >= (NR_SHARED + NR_COPIED + NR_OWN + NR_SHMEM) * PAGE
    assert shared >= 2 * (NR_SHARED - NR_COPIED) * PAGE


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_frames_are_counted_whatever_details_are_asked_for(family: list[int]) -> None:
    counted = Machine().processes(family, details=(), distinct=True).distinct

    assert counted
    assert counted.uss >= (NR_SHARED + NR_COPIED + NR_OWN + NR_SHMEM) * PAGE


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("words", [(), ("--distinct",), ("--max-stall", "0")])
def test_low_bound_of_open_files_is_raised(words: tuple[str, ...]) -> None:
    run = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -S -n 16 && exec "$@"', "sh", sys.executable, "-m", "mematlas", "ps", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert run.returncode == 0, run.stderr


LARGE = "held = bytes([7]) * (256 << 20)\nprint(1, flush=True)\nimport sys\n"


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_sum_of_pss_over_all_is_the_distinct_frames_of_all() -> None:
    """They agree to what changes meanwhile, and to what is shared with those who are not counted: us, and the init
    process, where it is refused.
    """
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    ours = 2 * sum(int(status[name].split()[0]) << 10 for name in ("RssFile", "RssShmem"))
    with program(LARGE):
        for _ in range(9):
            before = Machine().processes()
            counted = Machine().processes(distinct=True)
            after = Machine().processes()
            assert counted.distinct
            frames = counted.distinct.rss
            sums = [result.pss or 0 for result in (before, counted, after)]
            moved = max(sums) - min(sums) + ours
            if abs(frames - sums[1]) <= moved < sums[1] // 2:
                return
    pytest.fail(f"distinct frames {frames:,}, sums of PSS {sums}, {moved:,} of others or in motion")


@steadily
def test_processes_in_one_address_space_are_one() -> None:
    with program(CLONE) as one:
        try:
            result = Machine().processes([one.pid, one.told])
            everybody = Machine().processes()
        finally:
            os.kill(one.told, signal.SIGKILL)

    assert [row.pid for row in result] == [one.pid]
    assert result.sharing == {one.told: one.pid}
    assert everybody.sharing[one.told] == one.pid


def test_forks_are_not_taken_for_one_address_space(family: list[int]) -> None:
    result = Machine().processes(family)

    assert [row.pid for row in result] == sorted(family)
    assert result.sharing == {}


def test_process_that_has_ended_is_gone() -> None:
    with program(QUIET) as running, Process(running.pid) as process:
        target = Target(process.dir)
        running.kill()
        with pytest.raises(ProcessGone):
            Machine().processes([target])
    with pytest.raises(TargetNotFound):
        Machine().processes([running.pid])


def test_zombie_alone_is_said_to_be_one() -> None:
    process = subprocess.Popen(["true"])
    wait_until(lambda: process_state(process.pid) == "Z", "the program ends")

    runs = [mematlas(command, process.pid) for command in ("ps", "usage")]

    process.wait()
    assert [run.returncode for run in runs] == [3, 3]
    assert runs[0].stderr == runs[1].stderr
    assert "(a zombie)" in runs[0].stderr


def test_thread_of_the_kernel_has_nothing_to_show() -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("needs a guest: threads of the kernel are not seen in this PID namespace")
    with pytest.raises(NoAddressSpace):
        Machine().processes([2])


def test_lots_are_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "NR_HELD", 3)
    with ExitStack() as stack:
        pids = [stack.enter_context(program(QUIET)).pid for _ in range(7)]
        result = Machine().processes(pids)
        fds = os.listdir("/proc/self/fd")
        again = Machine().processes(pids)

    assert [row.pid for row in result] == sorted(pids) == [row.pid for row in again]
    assert all((row.uss or 0) >= NR_PAGES * PAGE for row in result)
    assert len(os.listdir("/proc/self/fd")) <= len(fds)


@steadily
def test_children_answer_where_no_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        pids = [stack.enter_context(program(QUIET)).pid for _ in range(5)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        by_thread = Machine().processes(pids)
        with monkeypatch.context() as patched:
            patched.setattr(listing, "ask_aside", lambda ask, things, silence, deadline: [])
            by_children = Machine().processes(pids)

    assert [(row.pid, row.rss, row.uss) for row in by_thread] == [(row.pid, row.rss, row.uss) for row in by_children]


def test_no_time_leaves_counters_and_says_so() -> None:
    with program(QUIET) as running:
        found = Machine().processes(seconds=0.0)

    assert running.pid in found.skipped["late"]
    assert found.pss is None


# --- without rights


def test_who_may_not_look_sees_counters_and_how_many_are_hidden(as_nobody: Callable[..., Outcome]) -> None:
    with program(QUIET) as running:
        outcome = as_nobody(["ps", str(running.pid), "--json"])
    result = json.loads(outcome.stdout)
    (row,) = result["rows"]

    assert outcome.code == 0
    assert row["rss"] >= NR_PAGES * PAGE
    assert (row["pss"], row["uss"], row["shared"], row["source"]) == (None,) * 4
    assert {"hidden-processes", "sum-of-some"} <= {note["code"] for note in result["notes"]}
    assert result["target"]["skipped"]["refused"] == [running.pid]


def test_frames_that_are_hidden_are_refused(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["ps", "--distinct"])

    assert outcome.code == 4
    assert "CAP_" in outcome.stderr


# --- the command


@steadily
def test_every_format_has_the_same_rows() -> None:
    with program(QUIET) as running:
        os.kill(running.pid, signal.SIGSTOP)
        words = ("ps", running.pid, "--columns", "pid,name,rss,swap")
        row = json.loads(mematlas(*words, "--json").stdout)["rows"][0]
        (line,) = csv.DictReader(io.StringIO(mematlas(*words, "--format", "csv").stdout))
        text = mematlas(*words, "--bytes").stdout.splitlines()

    assert list(row) == ["pid", "name", "rss", "swap"]
    assert {key: str(value) for key, value in row.items()} == line
    assert text[1].split()[-2:] == [line["rss"], line["swap"]]


def test_rows_are_sorted_and_limited() -> None:
    rows = json.loads(mematlas("ps", "--sort", "rss", "--limit", "3", "--json").stdout)["rows"]

    assert [row["rss"] for row in rows] == sorted((row["rss"] for row in rows), reverse=True)
    assert len(rows) == 3


@pytest.mark.parametrize("by", ["name", "exe", "user", "cgroup", "container", "pod", "unit", "tree"])
def test_groups_have_everybody_once(by: str) -> None:
    result = json.loads(mematlas("ps", "--by", by, "--json").stdout)
    pids = [pid for row in result["rows"] for pid in row["pids"]]

    assert len(pids) == len(set(pids)) == result["total"]["nr_processes"]
    assert os.getpid() in pids


def test_tree_is_a_row_with_its_children() -> None:
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '300']); print(child.pid, flush=True)"
    with program(code) as running:
        try:
            words = ("ps", running.pid, running.told, "--by", "tree", "--json")
            (row,) = json.loads(mematlas(*words).stdout)["rows"]
        finally:
            os.kill(running.told, signal.SIGKILL)

    assert (row["pids"], row["nr_processes"]) == (sorted([running.pid, running.told]), 2)
    assert row["name"].endswith(f" {running.pid}")


GROWING = """
import mmap, sys
print(1, flush=True)
kept = []
for line in sys.stdin:
    kept.append(mmap.mmap(-1, 1009 * mmap.PAGESIZE))
    kept[-1].write(b"x" * len(kept[-1]))
    print(2, flush=True)
"""


def test_repeated_look_shows_what_has_changed() -> None:
    with program(GROWING, wait="") as running:
        line = ["ps", str(running.pid), "-i", "100ms", "--format", "jsonl", "--columns", "pid,rss,change"]
        looking = subprocess.Popen([sys.executable, "-m", "mematlas", *line], stdout=subprocess.PIPE, text=True)
        try:
            assert looking.stdout
            end = time.monotonic() + DEADLINE
            change = None
            while time.monotonic() < end:
                told = json.loads(looking.stdout.readline())
                if "change" not in told:
                    continue
                if change is None:
                    assert told["change"] == 0
                    assert running.process.stdin
                    running.process.stdin.write("\n")
                    running.process.stdin.flush()
                change = told["change"]
                if change >= 1009 * PAGE:
                    break
        finally:
            looking.kill()
            looking.communicate()
    assert change is not None
    assert change >= 1009 * PAGE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--columns", "pid,nonsense"], "no column 'nonsense'"),
        (["--columns", "pid,nr_processes"], "only groups have it: add --by"),
        (["--by", "name", "--sort", "user"], "groups have no such column"),
        (["--sort", "change"], "needs -i"),
    ],
)
def test_column_that_there_is_not_is_bad_input(words: list[str], said: str) -> None:
    run = mematlas("ps", *words)

    assert run.returncode == 2
    assert said in run.stderr


def test_nobody_of_that_name_is_an_error() -> None:
    run = mematlas("ps", "nobody-is-called-so")

    assert (run.returncode, run.stdout) == (3, "")


@steadily
def test_capture_is_listed_too(tmp_path: Path) -> None:
    with program(QUIET) as running:
        os.kill(running.pid, signal.SIGSTOP)
        saved = tmp_path / str(running.pid)
        assert mematlas("capture", running.pid, saved).returncode == 0
        live = json.loads(mematlas("ps", running.pid, "--json").stdout)["rows"][0]
        (row,) = json.loads(mematlas("ps", saved, "--json").stdout)["rows"]

    keys = ("pid", "name", "rss", "uss", "swap", "thp", "tables")
    assert {key: row[key] for key in keys} == {key: live[key] for key in keys}


def test_start_time_is_that_of_stat(family: list[int]) -> None:
    with Process(family[0]) as process:
        assert row_of(Machine().processes(family), family[0]).start_time == read_stat(process.dir).start_time


@pytest.fixture(scope="module")
def mixed() -> Iterator[int]:
    """Run a process with memory of its own, and memory that its child maps too, in blocks of their own."""
    code = f"""
import mmap, os, sys
own, shared = (mmap.mmap(-1, nr << 20, flags) for nr, flags in (({NR_OWN_MIB}, 0x22), ({NR_SHARED_MIB}, 0x21)))
for area in (own, shared):
    area.madvise(mmap.MADV_NOHUGEPAGE)
    area.write(bytes(len(area) - 1) + b"x")
ready = os.pipe()
if os.fork() == 0:
    sum(shared[::mmap.PAGESIZE])
    own.close()
    os.write(ready[1], b"1")
    sys.stdin.read()
    os._exit(0)
os.read(ready[0], 1)
print(1, flush=True)
"""
    with program(code) as running:
        yield running.pid


NR_OWN_MIB, NR_SHARED_MIB = 120, 60


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("how", ["tables", "pagemap"])
def test_truth_lies_between_the_ends_of_estimates(how: str, mixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sources, "choose", lambda *_, **__: SourceChoice(how))
    exact = row_of(Machine().processes([mixed]), mixed)
    assert exact.pss
    assert exact.uss
    assert (exact.is_estimate, exact.pss_low, exact.uss_high) == (False, exact.pss, exact.uss)
    nr_inside = 0
    for seed in range(10):
        row = row_of(Machine().processes([mixed], max_stall=0, sample=0.4, seed=seed), mixed)
        assert row.is_estimate
        assert (row.source, abs((row.rss or 0) - (exact.rss or 0)) <= counter_lag() * PAGE) == (how, True)
        assert (row.pss_low or 0) <= (row.pss or 0) <= (row.pss_high or 0) <= (row.rss or 0)
        nr_inside += (row.pss_low or 0) <= exact.pss <= (row.pss_high or 0)
        nr_inside += (row.uss_low or 0) <= exact.uss <= (row.uss_high or 0)
    assert nr_inside >= 16  # of 20: PSS and USS by one seed lie outside together


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_tables_that_cannot_be_read_after_all_give_no_estimate(mixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotSupported("page tables")

    monkeypatch.setattr(Sources, "choose", lambda *_, **__: SourceChoice("tables"))
    with Process(mixed) as process:
        assert sample_usage(process.sources, 0.4, Random(1), 0)
        monkeypatch.setattr(PageCounter, "by_tables", refuse)
        assert sample_usage(process.sources, 0.4, Random(1), 0) is None


@steadily
def test_small_process_is_counted_exactly(family: list[int]) -> None:
    result = Machine().processes(family, sample=0.01)
    assert not any(one.is_estimate for one in result)
    assert [one.uss for one in result] == [one.uss for one in Machine().processes(family)]


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_sample_shows_its_interval(mixed: int) -> None:
    result = mematlas("ps", mixed, "--sample", "40%", "--max-stall", "0")
    assert result.returncode == 0, result.stderr
    assert "LOW" in result.stdout.splitlines()[0]
    assert "PSS and USS of 1 process are estimates" in result.stderr
    refused = mematlas("ps", "--sample", "0.1", "--by", "user")
    assert (refused.returncode, "not with --by" in refused.stderr) == (2, True)

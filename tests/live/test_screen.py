"""The first screen, of processes that are made for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, Program, mematlas, program, steadily, texts
from mematlas.analysis.overview import Group
from mematlas.analysis.ranking import SORTS, grouped, largest
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.kernel.memory.x86 import is_x86_64
from mematlas.kernel.procfs import WHOLE_PROC, ProcFS
from mematlas.model.holders import is_inside
from mematlas.model.stalls import HOLD_PER_PAGE
from mematlas.observe import machine, measuring, ranking
from mematlas.observe.sources import MAX_STALL
from stuck import WAYS, stuck
from victim import DEADLINE, Victim

NAME = f"many {os.getpid()}"
NR_CHILDREN = 23
NR_SHARED, NR_OWN = 4999, 257
BACKENDS = """
import ctypes, json, mmap, os, signal, sys
name, nr_children, nr_shared, nr_own = json.loads(sys.argv[-1])
lib = ctypes.CDLL(None)
lib.prctl(15, name.encode(), 0, 0, 0)
shared = mmap.mmap(-1, nr_shared * mmap.PAGESIZE)
shared.write(b"x" * len(shared))
pids = [os.getpid()]
for _ in range(nr_children):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        lib.prctl(1, signal.SIGKILL, 0, 0, 0)
        for place in range(0, len(shared), mmap.PAGESIZE):
            shared[place]
        own = mmap.mmap(-1, nr_own * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        own.write(b"x" * len(own))
        os.write(tell, b"x")
        signal.pause()
    os.read(told, 1)
    pids.append(pid)
print(json.dumps(pids), flush=True)
"""


@pytest.fixture(scope="module")
def backends() -> Iterator[Program]:
    """A program and its children, which share some memory and have some of their own."""
    with program(BACKENDS, [NAME, NR_CHILDREN, NR_SHARED, NR_OWN]) as running:
        yield running


def group_of(pid: int) -> Group:
    """Return the group of a process, measured though others are larger."""
    procfs = ProcFS()
    groups = [group for group in grouped(machine.Machine(procfs).census()) if holds(group, pid)]
    passed_over = ranking.measure_groups(groups, procfs, float("inf"), 1 << 20)
    assert not passed_over
    return groups[0]


def holds(group: Group, pid: int) -> bool:
    return any(each.pid == pid for each in group.members)


def rollup(pid: int) -> dict[str, int]:
    """Return the kernel's own sums of a process, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def test_group_is_the_sum_of_its_processes(backends: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(backends.pid)
    sums = [rollup(pid) for pid in backends.told]

    assert sorted(each.pid for each in group.members) == sorted(backends.told)
    assert group.is_measured
    assert group.pss is not None
    # Other programs come and go that map the same libraries.
    assert abs(group.pss - sum(each["Pss"] for each in sums)) < sum(each["Pss_File"] for each in sums)
    assert group.pss >= (NR_SHARED + NR_CHILDREN * NR_OWN) * PAGE
    assert group.most >= NR_CHILDREN * NR_SHARED * PAGE  # what a sum of RSS would say


def test_group_is_estimated_from_a_part_of_it(backends: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.analysis.overview.SHARE", 0.005)
    whole = sum(rollup(pid)["Pss"] for pid in backends.told)
    group = group_of(backends.pid)

    assert 0 < len(group.measured) < len(group.members)
    assert group.pss is not None
    assert whole / 2 < group.pss < whole * 2


def test_large_process_is_measured_with_pauses_to_the_same(backends: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("needs root for the map counts of frames")
    by_sums = group_of(backends.pid)
    monkeypatch.setattr(measuring, "MAX_STALL", 1e-9)
    monkeypatch.setattr(measuring, "PER_SHARED_PAGE", 0)
    by_pages = group_of(backends.pid)

    assert by_pages.is_measured
    assert by_pages.pss is not None
    assert by_sums.pss is not None
    assert abs(by_pages.pss - by_sums.pss) < NR_OWN * PAGE


def test_process_that_is_all_in_swap_has_a_row(
    swap: Path, victim: Callable[..., Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = victim("anon_full")
    one.pageout("anon_full")
    group = group_of(one.pid)

    assert group.swap is not None
    assert group.swap >= one["anon_full"].nr_swapped * PAGE > 0
    monkeypatch.setattr("mematlas.analysis.ranking.WORTH_A_ROW", 1)
    groups = grouped(machine.Machine().census())
    assert max(groups, key=lambda each: each.swap or 0) in largest(groups, 2)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("way", WAYS)
def test_screen_goes_on_without_who_does_not_answer_and_names_it(way: str, tmp_path: Path) -> None:
    with stuck(way, tmp_path, size=256 << 20) as pid:
        run = mematlas("--json")

    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert len(told["rows"]) >= 2
    assert any(f"{pid} (" in note and "skipped" in note for note in texts(told["notes"]))
    # What others of its name use is said, and that theirs is an estimate for all.
    row = next(row for row in told["rows"] if row["pid"] == pid)
    assert row["nr_measured"] < row["nr_processes"]


@pytest.mark.parametrize("bound", [20, 9])
def test_screen_goes_on_where_few_files_may_be_open(bound: int) -> None:
    run = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -n {bound} && exec "$@"', "sh", sys.executable, "-m", "mematlas", "--json"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert json.loads(run.stdout)["rows"]


LONG_PATHS = """
import json, mmap, os, resource, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each map keeps a descriptor
directory, depth, nr_vmas, size = json.loads(sys.argv[-1])
os.chdir(directory)
for _ in range(depth):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
file = os.open("f", os.O_RDWR | os.O_CREAT)
os.truncate(file, mmap.PAGESIZE)
areas = [mmap.mmap(file, mmap.PAGESIZE, mmap.MAP_SHARED, (1, 3)[place % 2]) for place in range(nr_vmas)]
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"x" * size)
print("1", flush=True)
"""


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory that may be filled with names too long for anybody to remove by."""
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


def test_screen_goes_on_beside_a_process_whose_map_is_a_hundred_megabytes_of_text(deep: Path) -> None:
    # Too large for the kernel's sums: it would be read VMA by VMA.
    size = int(MAX_STALL / HOLD_PER_PAGE) * PAGE + (8 << 20)
    named = (
        "open('/proc/self/comm', 'w').write('long-paths')\n" + LONG_PATHS
    )  # its parent has the name that it would have
    with program(named, [str(deep), 100, 4001, size]) as running:
        run = mematlas("--json", "--limit", "1000")  # beside what else is large here
        rows = json.loads(run.stdout)["rows"]

    assert run.returncode == 0, run.stderr
    assert [row["name"] for row in rows if row["pid"] == running.pid] == ["long-paths"]


def test_who_cannot_be_looked_at_is_known_by_its_counters(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody([])

    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert len(lines) <= 20
    assert any(re.search(r" hidden\. ", line) for line in lines)
    tried = re.findall(r" (usage|map) (\S+) ", outcome.stdout)
    assert [command for command, _ in tried] == ["usage", "map"]
    assert PermissionDenied.exit_code not in [as_nobody([*words]).code for words in tried]


def test_screen_of_a_proc_without_meminfo_goes_on() -> None:
    line = f"mount -t proc -o subset=pid proc /proc && exec {sys.executable} -m mematlas"
    words = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", line]
    run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if "unshare:" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"needs a mount of proc with subset=pid (Linux 5.8): {run.stderr}")

    assert run.returncode == 0, run.stderr
    assert "in use     unknown: this /proc has no meminfo" in run.stdout


# In a guest there is the host's below it.
UNMOUNT = "umount -l /proc && { test ! -e /proc/self || mount -t tmpfs none /proc; }"


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize(
    ("change", "words", "needs"),
    [
        (UNMOUNT, "usage somebody", "proc mounted there: as root, mount -t proc proc /proc"),
        ("mount -t tmpfs none /proc", "usage ~some.*", "proc mounted there: as root, mount -t proc proc /proc"),
        (UNMOUNT, "usage 1", "proc mounted there: as root, mount -t proc proc /proc"),
        ("mount -t tmpfs none /sys", "usage self --source tables", "sysfs mounted on /sys"),
    ],
)
def test_what_is_not_mounted_is_named(change: str, words: str, needs: str) -> None:
    if "tables" in words and not is_x86_64():
        pytest.skip("page tables cannot be read: needs x86-64")
    line = f"{change} && exec {sys.executable} -m mematlas {words}"
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert run.returncode == NotSupported.exit_code, run.stderr
    assert f"not supported here (needs {needs})" in run.stderr


COMMANDS_OF_A_WHOLE_PROC = (
    ["usage", "self", "--if-ended"],
    *([["tables", "self"]] if is_x86_64() else []),
    *([advice, "self", "--dry-run"] for advice in ("pageout", "cold", "willneed", "collapse")),
    ["usage", "self", "--folios"],
)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_proc_of_processes_alone_is_named_with_what_to_do() -> None:
    mount = "mount -t proc -o subset=pid proc /proc"
    script = "import sys; from mematlas.cli import main; print([main(each) for each in eval(sys.argv[1])])"
    line = f'{mount} && "$0" -c "$1" "$2" && "$0" -m mematlas doctor --format csv'
    words = ["unshare", "--mount", "sh", "-c", line, sys.executable, script, repr(COMMANDS_OF_A_WHOLE_PROC)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if "unshare:" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"needs a mount of proc with subset=pid (Linux 5.8): {run.stderr}")
    codes, *found = run.stdout.splitlines()

    assert codes == str([5] * len(COMMANDS_OF_A_WHOLE_PROC)), run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("mematlas:")]
    assert len(errors) == len(COMMANDS_OF_A_WHOLE_PROC)
    assert all(WHOLE_PROC in line for line in errors)
    assert {line.split(",")[0] for line in found if "subset=pid" in line} >= {"kpagecount", "kpageflags", "swap"}
    # PAGEMAP_SCAN needs a newer kernel besides.
    assert not [line for line in found if "CONFIG_PROC_PAGE_MONITOR" in line and "Linux 6.7" not in line]


@pytest.mark.root("CAP_SYS_ADMIN")
def test_process_that_proc_hides_is_not_said_to_be_missing() -> None:
    line = (
        'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" -c "$1"'
    )
    script = "from mematlas.cli import main; print(main(['usage', '1']), main(['usage', '4194304']))"
    words = ["unshare", "--mount", "sh", "-c", line, sys.executable, script]
    run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if "unshare:" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"needs a mount of proc with hidepid, and a user who may run us: {run.stderr}")

    assert run.stdout == "4 3\n", run.stderr
    assert "/proc/1: permission denied (needs CAP_SYS_PTRACE in a /proc mounted with hidepid)\ntry: sudo" in run.stderr


@pytest.mark.root("CAP_SYS_ADMIN")
def test_screen_does_not_list_itself_in_another_pid_namespace() -> None:
    line = (
        "unshare --pid --fork --kill-child sleep 60 >/dev/null 2>&1 & outer=$!; "
        'until [ -n "$inner" ]; do inner=$(cat /proc/$outer/task/$outer/children) || exit 1; done; '
        'nsenter --pid --target $inner "$@"; kill -KILL $outer'
    )
    code = "import os; from mematlas.observe.machine import Machine; " + (
        "print(os.readlink('/proc/self'), *(each.pid for each in Machine().census()))"
    )
    words = ["sh", "-c", line, "sh", sys.executable, "-c", code]
    run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if not run.stdout:
        pytest.skip(f"needs nsenter(1) and PID namespaces: {run.stderr}")
    own, *found = run.stdout.split()

    assert len(found) > 1
    assert own not in found


# --- the machine as a whole


def meminfo() -> dict[str, int]:
    """Return the lines of /proc/meminfo, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


@steadily
def test_parts_of_ram_are_those_of_meminfo_and_add_up() -> None:
    before, ram, after = meminfo(), machine.Machine().ram(), meminfo()

    def is_between(size: int | None, *names: str) -> bool:
        sums = [sum(lines[name] for name in names) for lines in (before, after)]
        return size is not None and min(sums) <= size <= max(sums)

    assert is_between(ram.total, "MemTotal")
    assert is_between(ram.available, "MemAvailable")
    assert is_between(ram.anon, "AnonPages")
    assert is_between(ram.shmem, "Shmem")
    assert is_between(ram.free, "MemFree")
    assert is_between(ram.pss, "AnonPages", "Mapped")
    assert ram.page_cache is not None
    assert ram.shmem is not None
    assert is_between(ram.page_cache + ram.shmem, "Cached", "Buffers")
    used = (ram.anon, ram.shmem, ram.hugetlb, ram.kernel, ram.cpu_free, ram.reserve, ram.other)
    assert sum(size or 0 for size in used) == ram.in_use == (ram.total or 0) - (ram.available or 0)


@steadily
def test_what_a_program_takes_is_seen_where_it_belongs() -> None:
    size = 16_381 * PAGE
    code = """
import mmap, sys
size = int(sys.argv[-1])
private = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, size)
private.write(b"x" * size)
shared.write(b"x" * size)
print(1, flush=True)
"""
    before = machine.Machine().ram()
    with program(code, size):
        after = machine.Machine().ram()

    grown = {name: getattr(after, name) - getattr(before, name) for name in ("anon", "shmem", "pss", "other", "in_use")}
    # Other programs come and go; and the counters of the machine lag behind by some pages for each CPU.
    assert size * 0.8 < grown["anon"] < size * 1.4
    assert size * 0.8 < grown["shmem"] < size * 1.4
    assert size * 1.7 < grown["pss"]
    assert abs(grown["other"]) < size / 2
    # What CPUs keep free is in use before a program takes it, and after.
    assert size * 1.5 < grown["in_use"] + (before.cpu_free or 0) - (after.cpu_free or 0)


def test_pools_of_huge_pages_are_a_part_of_ram(hugetlb_pages: int) -> None:
    ram = machine.Machine().ram()
    huge = meminfo()["Hugepagesize"]

    assert ram.hugetlb is not None
    assert ram.hugetlb_free is not None
    assert ram.hugetlb >= ram.hugetlb_free >= hugetlb_pages * huge


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_all_that_is_mapped_is_the_sum_of_every_pss() -> None:
    if is_inside(ProcFS()):
        pytest.skip("needs to see every process: this is a PID namespace")
    total = unseen = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            total += rollup(int(path.name)).get("Pss", 0)
        except PermissionError:
            unseen += int(path.joinpath("statm").read_text().split()[1]) * PAGE
        except (FileNotFoundError, ProcessLookupError):
            continue
    pss = machine.Machine().ram().pss

    assert pss is not None
    assert total - pss * 0.02 < pss < total + unseen + pss * 0.02 + (8 << 20)


def screen(*words: object) -> dict[str, Any]:
    run = mematlas(*words, "--json")
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


@pytest.mark.parametrize("by", SORTS)
def test_rows_are_in_the_order_asked_for(by: str, backends: Program) -> None:
    rows = screen("--sort", by, "--limit", 9)["rows"]

    amounts = [row[by] or 0 for row in rows if row["nr_measured"]]
    assert 1 < len(rows) <= 9
    assert amounts == sorted(amounts, reverse=True)


def test_all_processes_have_a_row_when_there_is_room(backends: Program) -> None:
    told = screen("--limit", 100_000)
    members = sum(row["nr_processes"] for row in told["rows"])
    row = next(row for row in told["rows"] if row["name"] == NAME)

    assert (row["nr_processes"], row["uid"]) == (NR_CHILDREN + 1, os.geteuid())
    assert told["target"]["others"]["nr_processes"] == 1  # mematlas itself
    assert members >= NR_CHILDREN + 1


def test_one_row_is_the_largest_and_the_others_are_counted(backends: Program) -> None:
    many, one = screen("--limit", 100_000, "--sort", "rss"), screen("--limit", 1, "--sort", "rss")

    assert len(one["rows"]) == 1
    assert one["rows"][0]["rss"] >= NR_CHILDREN * NR_SHARED * PAGE
    others = one["target"]["others"]
    assert others["nr_processes"] >= len(many["rows"]) - 1 - 5  # programs end meanwhile


def test_screen_repeats() -> None:
    run = mematlas("-i", "50ms", "-n", 2, "--format", "jsonl", "--limit", 1)

    assert run.returncode == 0, run.stderr
    heads = [json.loads(line) for line in run.stdout.splitlines() if '"schema"' in line]
    assert [head["schema"] for head in heads] == ["mematlas.overview/4"] * 2


@steadily
def test_who_is_refused_is_known_however_few_are_shown() -> None:
    few, all_of_them = (screen("--limit", str(limit))["target"]["refused"] for limit in (1, 10_000))

    assert few == all_of_them


@steadily
def test_who_is_refused_is_named() -> None:
    told = screen()["target"]
    line = next(line for line in mematlas().stdout.splitlines() if line.startswith("You "))

    if told["missing"]:
        assert f"Missing: {', '.join(told['missing'])}." in line
    elif told["refused"]:
        named = ", ".join(map(str, told["refused"][:3]))
        assert re.search(rf"but PID {named}\b.*: the kernel refuses (it|them) \(why: .* doctor\)", line)
    else:
        assert line.endswith("all processes are visible, with physical addresses.")


def test_mistakes_are_of_mematlas_itself() -> None:
    for words in (["--formt"], ["--limit", "0"], ["--sort", "size"]):
        run = mematlas(*words)
        assert run.returncode == 2
        assert run.stderr.startswith("mematlas: ")
        assert "overview" not in run.stderr


def test_no_command_has_numpy_start_threads() -> None:
    code = """
import os
os.environ.pop("OPENBLAS_NUM_THREADS", None)
from mematlas.cli import main
print(main(["--limit", "1", "--json"]), os.environ.get("OPENBLAS_NUM_THREADS"))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert run.stdout.splitlines()[-1] == "0 1", run.stderr

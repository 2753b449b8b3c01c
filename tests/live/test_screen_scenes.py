"""Who must be on the first screen: a database of many backends, the only user of swap, the holder of huge pages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, program
from mematlas.analysis.overview import Group, Measured
from mematlas.frozen import replace
from mematlas.kernel.procfs import ProcFS
from mematlas.model.containers import place_of
from mematlas.model.processes import ENDED
from mematlas.model.target import open_process
from mematlas.observe import machine, measuring, ranking
from mematlas.observe.limits import find_tightest, read_pressure
from memory_groups import NAMES, MemoryGroup, memory_group

NAME = f"scene {os.getpid()}"
BEGIN = """
import ctypes, json, mmap, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
name, *rest = json.loads(sys.argv[-1])
libc.prctl(15, name.encode(), 0, 0, 0)
pids = [os.getpid()]
def fork(work):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        work()
        os.write(tell, b"x")
        while True:
            signal.pause()
    os.read(told, 1)
    pids.append(pid)
"""
END = """
print(json.dumps(pids), flush=True)
"""
NR_CHILDREN, NR_PAGES = 5, 4999


@pytest.fixture(autouse=True)
def in_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the screen the time that it needs on a machine where much else runs."""
    for name in ("FIND_SECONDS", "MEASURE_SECONDS", "COUNT_SECONDS"):
        monkeypatch.setattr(machine, name, 60.0)
    monkeypatch.setattr(ranking, "SWAP_SECONDS", 60.0)


@pytest.fixture(params=["sums", "pages"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have processes measured by the kernel's sums, or as large ones are: by their pages, with pauses."""
    way: str = request.param
    if way == "pages":
        monkeypatch.setattr(measuring, "MAX_STALL", 1e-9)
        for name in ("PER_OWN_PAGE", "PER_SHARED_PAGE", "PER_COUNTED_PAGE", "OPENING"):
            monkeypatch.setattr(measuring, name, 0.0)
    return way


def shown(size: int, name: str, limit: int = machine.TOP) -> Group | None:
    """Return the group of the scene, which is on the screen unless as many rows are of others that have more.

    ``name`` is of what it has ``size`` bytes.
    """
    groups = machine.Machine(ProcFS()).usage(limit).groups
    for group in groups:
        if group.name == NAME:
            return group
    assert any((getattr(group, name) or 0) >= size for group in groups), [group.name for group in groups]
    assert len(groups) == limit
    return None


def smaps_sum(pid: int, field: str) -> int:
    """Return the sum of a field over the VMAs of a process, in bytes."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(size) * 1024 for size in re.findall(rf"^{field}: +(\d+) kB$", text, re.MULTILINE))


SHARED = f"""{BEGIN}
shared = mmap.mmap(-1, {NR_PAGES} * mmap.PAGESIZE)
shared.write(b"x" * len(shared))
for _ in range(60):
    fork(lambda: [shared[place] for place in range(0, len(shared), mmap.PAGESIZE)])
{END}"""


def test_many_backends_that_share_their_memory_are_one_row_with_it_once() -> None:
    with program(SHARED, [NAME]) as running:
        group = shown(NR_PAGES * PAGE, "pss", limit=200)
        pss = sum(smaps_sum(pid, "Pss") for pid in running.told)

    assert group is not None
    assert len(group.members) == 61
    assert NR_PAGES * PAGE <= (group.pss or 0) < group.rss / 20
    assert group.is_measured
    assert abs((group.pss or 0) - pss) < 8 << 20  # of libraries, which others map and unmap meanwhile


IN_SWAP = f"""{BEGIN}
shared = mmap.mmap(-1, {NR_PAGES} * mmap.PAGESIZE)
shared.write(b"x" * len(shared))
shared.madvise(21)  # MADV_PAGEOUT
for _ in range({NR_CHILDREN}):
    fork(lambda: None)
{END}"""


@pytest.mark.root("CAP_SYS_ADMIN")
def test_shared_memory_that_is_in_swap_has_a_row_though_no_counter_shows_it(swap: Path, by: str) -> None:
    with program(IN_SWAP, [NAME]) as running:
        assert "VmSwap:\t       0 kB" in Path(f"/proc/{running.pid}/status").read_text()
        size = smaps_sum(running.pid, "Swap")
        group = shown(size, "swap")

    assert size > NR_PAGES * PAGE * 3 / 4
    assert group is None or group.swap == size


FORKED = f"""{BEGIN}
own = mmap.mmap(-1, {NR_PAGES} * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own.write(b"x" * len(own))
own.madvise(21)
for _ in range({NR_CHILDREN}):
    fork(lambda: None)
{END}"""


@pytest.mark.root("CAP_SYS_ADMIN")
def test_slot_of_swap_that_forks_share_counts_once(swap: Path, by: str) -> None:
    with program(FORKED, [NAME]) as running:
        size = smaps_sum(running.pid, "Swap")
        counted = sum(smaps_sum(pid, "Swap") for pid in running.told)
        group = shown(size, "swap")

    assert size > NR_PAGES * PAGE * 3 / 4
    assert counted == size * (NR_CHILDREN + 1)
    # SwapPss is rounded down to a KiB for each process.
    assert group is None or size - (1 << 20) < (group.swap or 0) <= size


IN_POOL = f"""{BEGIN}
size, everywhere = rest
pool = os.memfd_create("pool", 4)  # MFD_HUGETLB
os.ftruncate(pool, 3 * size)
start = libc.mmap(None, 3 * size, 3, 1, pool, 0)
def touch(place):
    for place in range(3) if everywhere else [place]:
        ctypes.memset(start + place * size, 1, 1)
for place in range(1, 3):
    fork(lambda: touch(place))
touch(0)
{END}"""


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("everywhere", [True, False])
def test_huge_page_that_is_shared_counts_once_and_each_that_one_has_touched(
    hugetlb_pages: int, everywhere: bool, by: str
) -> None:
    size = machine_huge_size()
    with program(IN_POOL, [NAME, size, everywhere]) as running:
        listed = [smaps_sum(pid, "(?:Private|Shared)_Hugetlb") for pid in running.told]
        group = shown(3 * size, "hugetlb")

    assert listed == [3 * size if everywhere else size] * 3
    assert group is None or group.hugetlb == 3 * size


def machine_huge_size() -> int:
    """Return the bytes of a page of the default pool."""
    return int(re.findall(r"Hugepagesize: +(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024


@pytest.fixture
def container() -> Iterator[MemoryGroup]:
    """Make a memory cgroup that is called as Docker calls those of containers."""
    name = f"{os.getpid():x}".rjust(64, "5")
    with memory_group("screen") as above, above.child("docker") as docker, docker.child(name) as made:
        yield made


@pytest.mark.root("CAP_SYS_ADMIN")
def test_programs_of_a_container_are_one_row_under_its_name(container: MemoryGroup) -> None:
    with program(SHARED, [NAME]) as one, program(SHARED, ["another"]) as other:
        for pid in (*one.told, *other.told):
            container.write("cgroup.procs", pid)
        groups = machine.Machine(ProcFS()).usage(limit=200).groups

    name = container.path.name
    (group,) = (group for group in groups if group.container and group.container.name == name)
    assert group.name == name[:12]
    assert {facts.pid for facts in group.members} == {*one.told, *other.told}
    assert (group.pss or 0) >= 2 * NR_PAGES * PAGE


@pytest.mark.root("CAP_SYS_ADMIN")
def test_limit_that_is_hit_first_is_on_the_screen(container: MemoryGroup) -> None:
    size = 16_381 * PAGE
    container.write("max", size)
    with program(SHARED, [NAME]) as running:
        container.write("cgroup.procs", running.pid)
        path = place_of(Path(f"/proc/{running.pid}/cgroup").read_text()).path
        found, nr_left = find_tightest([path], float("inf"))
        assert find_tightest([path, "/"], 0.0) == (None, 2)
        tightest = machine.Machine(ProcFS()).usage().tightest

    assert nr_left == 0
    assert found is not None
    assert (found.name, found.path, found.size) == (NAMES[container.version]["max"], path, size)
    assert size * 3 // 4 < found.room <= size
    assert tightest is not None
    assert tightest.room <= found.room


def test_pressure_is_that_of_the_kernels_own_file() -> None:
    path = Path("/proc/pressure/memory")
    if not path.exists():
        pytest.skip("needs CONFIG_PSI")
    before, pressure = path.read_text(), read_pressure(ProcFS())
    after = path.read_text()

    assert pressure is not None
    totals = [[int(number) for number in re.findall(r"total=(\d+)", text)] for text in (before, after)]
    assert totals[0][0] <= pressure.some_us <= totals[1][0]
    assert totals[0][1] <= pressure.full_us <= totals[1][1]


def test_backends_of_others_are_one_row_by_their_counters(as_nobody: Callable[..., Outcome]) -> None:
    with program(SHARED, [NAME]) as running:
        outcome = as_nobody(["--json", "--limit", "200"])

    assert outcome.code == 0, outcome.stderr
    (row,) = (row for row in json.loads(outcome.stdout)["rows"] if row["name"] == NAME)
    assert (row["nr_processes"], row["nr_measured"], row["pss"]) == (len(running.told), 0, None)
    assert row["shmem"] == NR_PAGES * PAGE  # what they share, once
    assert row["rss"] > 60 * NR_PAGES * PAGE


def test_whoever_was_given_the_pid_of_one_that_was_found_is_not_measured_for_it() -> None:
    with program("import sys; print(1, flush=True)") as running:
        process, stat = open_process(running.pid, ProcFS())
        with process:
            facts = ranking.facts_of(process, stat)
        assert facts
        assert isinstance(measuring.measure(facts, ProcFS()), Measured)
        assert measuring.measure(replace(facts, start_time=stat.start_time - 1), ProcFS()) == ENDED

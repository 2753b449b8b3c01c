"""What ending a process frees, beside what was said: each workload has a memory cgroup of its own, and is ended."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers import skip_without_tables, steadily
from mematlas.analysis.ending import EndingResult
from mematlas.observe.process import Process
from victim import DEADLINE, wait_until

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")

PAGE = mmap.PAGESIZE
WORKLOADS = Path(__file__).with_name("ending_workloads.py")
NR_PAGES = 10007
"""A prime number of pages, some 39 MiB: much more than what the kernel needs for a process beside its memory."""

VERSION_2 = (("memory.current", "memory.swap.current"), "memory.reclaim")
VERSION_1 = (("memory.memsw.usage_in_bytes",), "memory.force_empty")
"""What is charged, swap included, and what takes memory back. In version 2 pages that lie in swap and in RAM count
twice."""


@dataclass
class Group:
    """A memory cgroup, of whichever version this machine has."""

    path: Path
    charges: tuple[str, ...]
    reclaims: str

    @property
    def charged(self) -> int:
        """Bytes charged to it, in RAM and in swap."""
        files = (self.path / name for name in self.charges)
        return sum(int(file.read_text()) for file in files if file.exists())

    def reclaim(self) -> None:
        """Have the kernel take back what it can."""
        # memory.reclaim says EAGAIN where it was less than asked for.
        with contextlib.suppress(BlockingIOError):
            (self.path / self.reclaims).write_text(str(self.charged))


def memory_hierarchy() -> tuple[Path, tuple[tuple[str, ...], str]]:
    """Return where groups with a memory controller can be made, and the names of their files."""
    for mounted in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        controllers = mounted / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            (mounted / "cgroup.subtree_control").write_text("+memory")
            return mounted, VERSION_2
    if Path("/sys/fs/cgroup/memory/memory.memsw.usage_in_bytes").exists():
        return Path("/sys/fs/cgroup/memory"), VERSION_1
    pytest.skip("needs a mounted hierarchy of cgroups with the memory controller")


@pytest.fixture
def group() -> Iterator[Group]:
    """Return a new memory cgroup without processes."""
    mounted, names = memory_hierarchy()
    path = mounted / f"mematlas-ending-{os.getpid()}"
    path.mkdir()
    try:
        yield Group(path, *names)
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
        path.rmdir()


@dataclass
class Workload:
    """A process in a group, with what it said of itself."""

    process: subprocess.Popen[str]
    told: dict[str, Any]

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self.process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def workload(group: Group) -> Iterator[Callable[..., Workload]]:
    """Return a function that starts one in the group; each ends with the test, and those that it started."""
    running: list[Workload] = []

    def start(kind: str, directory: Path = Path("/")) -> Workload:
        # The shell joins the group, and the program that it then becomes has all its memory there.
        line = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
        words = [sys.executable, "-I", "-S", str(WORKLOADS), kind, str(NR_PAGES), str(directory)]
        process = subprocess.Popen(
            ["/bin/sh", "-c", line, str(group.path), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(Workload(process, {}))
        assert process.stdout
        assert select.select([process.stdout], [], [], DEADLINE)[0], "the workload says nothing"
        running[-1].told = json.loads(process.stdout.readline() or "{}")
        if why := running[-1].told.get("unavailable"):
            pytest.skip(why)
        return running[-1]

    try:
        yield start
    finally:
        for one in running:
            one.end()
            for pid in one.told.get("others", ()):
                with_it_gone(pid)
            one.process.communicate()
            for path in one.told.get("files", ()):
                Path(path).unlink(missing_ok=True)
            for shmid in one.told.get("segments", ()):
                subprocess.run(["ipcrm", "-m", str(shmid)], check=False)


def with_it_gone(pid: int) -> None:
    """End a process that a workload started: nobody else has its PID before it is reaped by its reaper."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(lambda: not Path(f"/proc/{pid}/maps").exists() or not Path(f"/proc/{pid}/stat").exists(), "it ends")


def say(pid: int) -> EndingResult:
    with Process(pid) as process:
        return process.if_ended()


def pages_of(result: EndingResult, fate: str) -> dict[str, int]:
    """Return the pages of each part of a fate, by kind and reason."""
    return {f"{part.kind}_{part.reason}": part.size // PAGE for part in result.parts if part.fate == fate}


def slack(result: EndingResult) -> int:
    """Return by how much the charge of a group may be off: tables, and what each processor has charged ahead."""
    tables = sum(part.size for part in result.parts if part.kind == "tables")
    # mm/memcontrol.c, MEMCG_CHARGE_BATCH: 64 pages.
    return tables + 64 * PAGE * (os.cpu_count() or 1)


def fall_at_end(one: Workload, group: Group) -> int:
    """End a workload; return by how much the charge of its group fell."""
    before = group.charged
    one.end()
    return before - group.charged


def check_fall(one: Workload, group: Group) -> EndingResult:
    """Ask what ending would do, end it, and hold the one against the other."""
    result = say(one.pid)
    fall = fall_at_end(one, group)
    in_swap_too = 0 if len(group.charges) == 1 else sum(part.size for part in result.parts if part.kind == "swap")
    least, most = result.freed, result.freed + result.unknown + in_swap_too
    assert least - slack(result) <= fall <= most + slack(result), result.parts
    return result


def distinct_frames(pid: int) -> int:
    """Count the frames of a process in the plainest way: a set."""
    frames: set[int] = set()
    with (
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
        open("/proc/kpagecount", "rb", buffering=0) as counts,
    ):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) // PAGE for part in line.split()[0].split("-"))
            if "hugepage" in line or "memfd:huge" in line or start * PAGE >> 63:
                continue
            for entry in memoryview(os.pread(pagemap.fileno(), (end - start) * 8, start * 8)).cast("Q"):
                frame = entry & (1 << 55) - 1
                if entry >> 63 and int.from_bytes(os.pread(counts.fileno(), 8, frame * 8), sys.byteorder):
                    frames.add(frame)
    return len(frames)


# --- what is freed


@pytest.mark.parametrize("kind", ["anon", "huge", "shared_anon", "segment_removed"])
def test_memory_of_its_own_is_freed(kind: str, workload: Callable[..., Workload], group: Group) -> None:
    result = check_fall(workload(kind), group)

    assert result.freed > NR_PAGES * PAGE
    assert result.unknown == 0


def test_what_nobody_maps_of_huge_pages_is_freed_with_the_rest(workload: Callable[..., Workload], group: Group) -> None:
    one = workload("huge_partly")
    result = check_fall(one, group)

    nr_huge = one.told["nr_huge"]
    assert result.freed - result.distinct > (nr_huge * 500 - 2 * NR_PAGES // 5) * PAGE


def test_pages_shared_with_a_fork_stay(workload: Callable[..., Workload], group: Group) -> None:
    result = check_fall(workload("forked"), group)

    assert pages_of(result, "stays")["anon_others"] >= NR_PAGES - NR_PAGES // 3
    assert NR_PAGES // 3 <= pages_of(result, "freed")["anon_alone"] < NR_PAGES // 2


@pytest.mark.parametrize("kind", ["memfd", "memfd_open", "tmpfs_removed"])
def test_file_without_a_name_is_freed_as_far_as_all_processes_can_be_seen(
    kind: str, workload: Callable[..., Workload], group: Group
) -> None:
    result = check_fall(workload(kind), group)

    parts = pages_of(result, "freed") | pages_of(result, "unknown")
    assert parts.get("shmem_last", parts.get("shmem_unseen")) == NR_PAGES
    assert ("shmem_last" in parts) != any(note.code == "holders-unseen" for note in result.reading.notes)


# --- what stays, and what can be reclaimed


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("memfd_held", "held"), ("shared_anon_forked", "held"), ("tmpfs", "named"), ("segment", "sysv")],
)
def test_file_of_memory_stays_with_whoever_has_it(
    kind: str, reason: str, workload: Callable[..., Workload], group: Group
) -> None:
    one = workload(kind)
    result = check_fall(one, group)

    (part,) = (part for part in result.parts if part.kind == "shmem")
    assert (part.fate, part.reason, part.size, part.pids) == (
        *("stays", reason, NR_PAGES * PAGE),
        tuple(one.told.get("others", ())),
    )


def test_pages_of_a_file_can_be_reclaimed(workload: Callable[..., Workload], group: Group, disk_path: Path) -> None:
    result = check_fall(workload("file", directory=disk_path), group)

    assert pages_of(result, "reclaimable")["file_alone"] >= NR_PAGES
    assert result.dirty in range(NR_PAGES // 10 * PAGE, NR_PAGES // 5 * PAGE)


def test_parts_of_huge_pages_can_be_reclaimed_where_a_fork_keeps_the_rest(
    workload: Callable[..., Workload], group: Group
) -> None:
    one = workload("huge_forked")
    nr_huge = one.told["nr_huge"]
    result = check_fall(one, group)

    assert pages_of(result, "reclaimable")["anon_folio"] == nr_huge * (PAGE // 8 - 3)
    assert pages_of(result, "stays")["anon_others"] >= nr_huge * 3
    before = group.charged
    group.reclaim()
    assert before - group.charged >= result.reclaimable - slack(result)


# --- swap, KSM, pools


@pytest.mark.usefixtures("swap")
def test_private_swap_is_freed(workload: Callable[..., Workload], group: Group) -> None:
    one = workload("swapped")
    result = check_fall(one, group)

    assert pages_of(result, "freed")["swap_alone"] == one.told["nr_swapped"]
    assert "swap_slots" not in pages_of(result, "unknown")


@pytest.mark.usefixtures("swap")
def test_of_swap_that_a_fork_has_too_the_bounds_are_reported(workload: Callable[..., Workload], group: Group) -> None:
    one = workload("swapped_forked")
    nr_alone, nr_swapped = one.told["nr_swapped"] // 3, one.told["nr_swapped"]
    result = check_fall(one, group)

    # The child has copies of a third: these slots are the parent's alone, the rest has two users.
    least = pages_of(result, "freed").get("swap_alone", 0)
    unknown = pages_of(result, "unknown").get("swap_slots", 0)
    assert least <= nr_alone <= least + unknown
    assert least + unknown + pages_of(result, "stays").get("swap_others", 0) == nr_swapped


@steadily
def check_distinct(one: Workload) -> None:
    """Hold the distinct frames against a plain count: KSM goes on putting frames together meanwhile."""
    with Process(one.pid) as process:
        usage = process.usage(distinct=True)
    assert usage.distinct == distinct_frames(one.pid) * PAGE < (usage.usage.rss or 0) - NR_PAGES // 2 * PAGE


@pytest.mark.usefixtures("ksm")
def test_pages_merged_within_a_process_are_freed(workload: Callable[..., Workload], group: Group) -> None:
    one = workload("ksm")
    check_distinct(one)

    result = check_fall(one, group)
    assert "anon_others" not in pages_of(result, "stays")


@pytest.mark.usefixtures("hugetlb_pages")
def test_hugetlb_pages_go_back_to_their_pool(workload: Callable[..., Workload], group: Group) -> None:
    one = workload("hugetlb")
    result = check_fall(one, group)

    nr_pages = 2 * one.told["huge_size"] // PAGE
    assert pages_of(result, "pool")["hugetlb_alone"] == nr_pages
    shared = pages_of(result, "pool") | pages_of(result, "unknown")
    assert shared.get("hugetlb_last", shared.get("hugetlb_unseen")) == nr_pages // 2
    assert result.distinct < (2 * NR_PAGES) * PAGE


# --- each frame once, each address space once


def test_memory_mapped_three_times_counts_once(workload: Callable[..., Workload]) -> None:
    one = workload("memfd")
    with Process(one.pid) as process:
        usage = process.usage(distinct=True)
        result = process.distinct()

    assert result.distinct == usage.distinct == distinct_frames(one.pid) * PAGE
    assert (usage.usage.rss or 0) - result.distinct >= 2 * NR_PAGES * PAGE


@steadily
def test_pagemap_and_page_tables_agree(workload: Callable[..., Workload]) -> None:
    one = workload("memfd")
    with Process(one.pid) as process:
        skip_without_tables(process)
        by_pagemap, by_tables = (process.if_ended(source) for source in ("pagemap", "tables"))

    assert by_pagemap.parts == by_tables.parts
    assert by_pagemap.distinct == by_tables.distinct


def test_nothing_is_freed_while_another_process_has_the_address_space(
    workload: Callable[..., Workload], group: Group
) -> None:
    one = workload("one_memory")
    (other,) = one.told["others"]
    result = check_fall(one, group)

    (part,) = result.parts
    assert (part.fate, part.reason, part.pids) == ("stays", "same_memory", (other,))
    assert say(other).freed > NR_PAGES * PAGE  # the last one has it all

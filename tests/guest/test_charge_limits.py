"""Charges and limits of cgroups, with limits that are hit: in version 2 here, in version 1 in cgroup_version_1.py."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PAGE, mematlas, read_smaps
from mematlas import Cgroup, Charge
from memory_groups import MemoryGroup, charge_of, left, memory_group, settled
from test_swap_devices import zram
from victim import DEADLINE, wait_until

pytestmark = pytest.mark.guest

NR_ANON, NR_SHMEM = 4007, 2003
MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    """Return a memory cgroup of ours; in cgroup_version_1.py, which runs some of these tests as well, of version 1."""
    with memory_group() as made:
        assert made.version == 2
        yield made


@pytest.fixture
def tmpfs_file() -> Iterator[Path]:
    path = Path("/dev/shm/mematlas-charge")
    yield path
    path.unlink(missing_ok=True)


def checked(charge: Charge) -> int:
    """Return what is charged, once its parts add up to it within what the kernel itself leaves open."""
    assert charge.charged is not None
    assert charge.rest is not None
    # 5.10 does not say what page tables take.
    most = charge.unsure + (MIB if "tables" in charge.unknown else 0)
    assert -charge.unsure <= charge.rest <= most, charge.parts
    return charge.charged


def test_parts_add_up_and_what_nobody_maps_is_known(group: MemoryGroup, tmpfs_file: Path) -> None:
    with group.running(anon=NR_ANON, write=[[str(tmpfs_file), NR_SHMEM]], memfd=307):
        charge = settled(group, shmem=NR_SHMEM + 307)

    assert checked(charge) >= (NR_ANON + NR_SHMEM + 307) * PAGE
    assert charge.held is not None
    assert charge.held.anon >= NR_ANON * PAGE
    assert charge.version == group.version


def test_huge_pages_are_charged_by_their_heads(group: MemoryGroup) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("needs CONFIG_TRANSPARENT_HUGEPAGE")
    with group.running(huge=4) as running:
        charge = charge_of(group)
        huge = sum(vma.get("AnonHugePages", 0) for vma in read_smaps(running.pid).values())

    assert huge >= 4 * PAGE // 8 * PAGE
    assert charge.held is not None
    # None of the tails is taken for another group's.
    assert charge.held.anon >= huge
    checked(charge)


def test_tmpfs_that_fills_a_limit_belongs_to_nobody(group: MemoryGroup, tmpfs_file: Path) -> None:
    limit = 32 * MIB
    group.write("max", limit)
    if group.version == 1:
        group.write("memory.memsw.limit_in_bytes", limit)
    # It is killed: there is no swap, and nothing else to be taken back.
    with group.running(write=[[str(tmpfs_file), limit // PAGE]]) as running:
        assert running.process.wait(DEADLINE) == -signal.SIGKILL
    wait_until(lambda: not (group.path / "cgroup.procs").read_text(), "it is gone")

    charge = charge_of(group)

    assert charge.nr_processes == 0
    assert charge.events["oom_kill"] >= 1
    assert charge.events["max"] + charge.events.get("memsw_max", 0) >= 1
    assert checked(charge) >= limit // 2
    assert (left(charge, "shmem") or 0) * PAGE >= limit // 2
    assert charge.tightest is not None
    assert charge.headroom == limit - charge.tightest.used
    (row,) = json.loads(mematlas("usage", f"cgroup:{group.path}", "--json").stdout)["rows"]
    assert row["charge"]["charged"] >= limit // 2


def test_high_is_passed_and_told_with_its_pressure(group: MemoryGroup, tmpfs_file: Path) -> None:
    # Each charge beyond it may have to wait for two seconds: there are few.
    grow = "\nhold(int(sys.stdin.readline()))\nprint(1, flush=True)\nsys.stdin.read()\n"
    group.write("memory.swap.max", 0)
    with group.running(write=[[str(tmpfs_file), 17 * MIB // PAGE]], wait=grow) as running:
        group.write("memory.high", 16 * MIB)
        running.process.stdin.write("97\n")  # type: ignore[union-attr]
        running.process.stdin.flush()  # type: ignore[union-attr]
        assert running.process.stdout.readline() == "1\n"  # type: ignore[union-attr]
        charge = charge_of(group)

    assert charge.events["high"] > 0
    (limit,) = (limit for limit in charge.limits if limit.name == "memory.high")
    assert (limit.size, limit.headroom) == (16 * MIB, 0)
    assert charge.tightest is None, "nobody is killed at high"
    assert charge.pressure is None or charge.pressure.some_us >= 0


def test_what_is_in_swap_and_how_much_more_may_go_there(group: MemoryGroup) -> None:
    with zram(), group.running(anon=NR_ANON) as running:
        group.write("memory.swap.max", 64 * MIB)
        done = mematlas("pageout", running.pid, "anon", "--json")
        assert done.returncode == 0, done.stderr
        charge = charge_of(group)
        used = group.read("memory.swap.current")

    assert used > 0
    assert charge.swap == used
    (limit,) = (limit for limit in charge.limits if limit.name == "memory.swap.max")
    assert limit.headroom == 64 * MIB - used
    checked(charge)


def test_whole_group_is_killed_where_it_says_so_and_spared_are_left(group: MemoryGroup) -> None:
    limit = 128 * MIB
    group.write("memory.max", limit)
    group.write("memory.swap.max", 0)
    grow = "\nhold(int(sys.stdin.readline()))\nsys.stdin.read()\n"
    with group.child("inner") as inner:
        inner.write("memory.oom.group", 1)
        with (
            inner.running(anon=40 * MIB // PAGE) as large,
            inner.running() as small,
            inner.running(anon=48 * MIB // PAGE, wait=grow) as spared,
        ):
            Path(f"/proc/{spared.pid}/oom_score_adj").write_text("-1000")
            with Cgroup(inner.path) as cgroup:
                oom, path = cgroup.charge().oom, cgroup.path
            spared.process.stdin.write(f"{limit // PAGE}\n")  # type: ignore[union-attr]
            spared.process.stdin.flush()  # type: ignore[union-attr]
            assert [one.process.wait(DEADLINE) for one in (large, small)] == [-signal.SIGKILL] * 2

    assert oom.victim is not None
    assert (oom.victim.pid, oom.group, oom.nr_spared) == (large.pid, path, 1)
    assert oom.limit is not None
    assert oom.limit.size == limit


def test_group_that_the_controller_does_not_reach_is_a_part_of_one_above() -> None:
    with memory_group("above") as above:
        path = above.path / "below"
        path.mkdir()
        try:
            done = mematlas("usage", f"cgroup:{path}", "--json")
            with pytest.raises(Exception, match=f"ends at /{above.path.name}"):
                charge_of(MemoryGroup(path, 2))
        finally:
            path.rmdir()
    assert done.returncode == 3, "nobody is in it, and nothing is charged to it alone"

"""Charges and limits of cgroups in both versions of the hierarchy, with limits that are hit."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PAGE, mematlas
from mematlas import Cgroup, Charge
from memory_groups import MemoryGroup, memory_group
from test_charge import charge_of, left, settled
from test_swap_devices import zram
from victim import DEADLINE, wait_until

pytestmark = pytest.mark.guest

LIBC = ctypes.CDLL(None, use_errno=True)
UNIFIED, OLD = Path("/sys/fs/cgroup"), Path("/run/memory")
NR_ANON, NR_SHMEM = 4007, 2003
MIB = 1 << 20


@contextlib.contextmanager
def version_1() -> Iterator[MemoryGroup]:
    """Have version 1 charge memory for a while, which version 2 gives up for it."""
    with contextlib.suppress(OSError):
        (UNIFIED / "cgroup.subtree_control").write_text("-memory")
    OLD.mkdir(exist_ok=True)

    def is_mounted() -> bool:
        done = LIBC.mount(b"memory", bytes(OLD), b"cgroup", 0, b"memory")
        if done and ctypes.get_errno() == errno.EINVAL:
            pytest.skip("this kernel has no memory controller of cgroup version 1 (CONFIG_MEMCG_V1)")
        return bool(done == 0)  # EBUSY as long as there are groups that are on their way out

    wait_until(is_mounted, "version 1 is mounted")
    try:
        highest = MemoryGroup(OLD, 1)
        if (OLD / "memory.use_hierarchy").exists():
            with contextlib.suppress(OSError):
                highest.write("memory.use_hierarchy", 1)
        yield highest
    finally:
        subprocess.run(["umount", str(OLD)], check=True)
        controllers = UNIFIED / "cgroup.controllers"
        wait_until(lambda: "memory" in controllers.read_text().split(), "version 2 has the controller again")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def group(request: pytest.FixtureRequest) -> Iterator[MemoryGroup]:
    """Return a memory cgroup of ours, in each version."""
    if request.param == 2:
        with memory_group() as made:
            assert made.version == 2
            yield made
    else:
        with version_1() as highest, highest.child("mematlas-charge") as made:
            yield made


@pytest.fixture
def group_2() -> Iterator[MemoryGroup]:
    with memory_group("limits") as made:
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
    with group.running(huge=4):
        charge = charge_of(group)
        huge = group.stat("anon_thp" if group.version == 2 else "rss_huge")

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


def test_high_is_passed_and_told_with_its_pressure(group_2: MemoryGroup, tmpfs_file: Path) -> None:
    group_2.write("memory.high", 16 * MIB)
    group_2.write("memory.swap.max", 0)
    with group_2.running(write=[[str(tmpfs_file), 17 * MIB // PAGE]]):
        charge = charge_of(group_2)

    assert charge.events["high"] > 0
    (limit,) = (limit for limit in charge.limits if limit.name == "memory.high")
    assert (limit.size, limit.headroom) == (16 * MIB, 0)
    assert charge.tightest is None, "nobody is killed at high"
    assert charge.pressure is None or charge.pressure.some_us >= 0


def test_what_is_in_swap_and_how_much_more_may_go_there(group_2: MemoryGroup) -> None:
    with zram(), group_2.running(anon=NR_ANON) as running:
        group_2.write("memory.swap.max", 64 * MIB)
        done = mematlas("pageout", running.pid, "anon", "--json")
        assert done.returncode == 0, done.stderr
        charge = charge_of(group_2)
        used = group_2.read("memory.swap.current")

    assert used > 0
    assert charge.swap == used
    (limit,) = (limit for limit in charge.limits if limit.name == "memory.swap.max")
    assert limit.headroom == 64 * MIB - used
    checked(charge)


def test_whole_group_is_killed_where_it_says_so_and_spared_are_left(group_2: MemoryGroup) -> None:
    limit = 128 * MIB
    group_2.write("memory.max", limit)
    group_2.write("memory.swap.max", 0)
    grow = "\nhold(int(sys.stdin.readline()))\nsys.stdin.read()\n"
    with group_2.child("inner") as inner:
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


def test_switched_off_killer_is_said_to_be(tmpfs_file: Path) -> None:
    with version_1() as highest, highest.child("mematlas-off") as group, group.running():
        try:
            group.write("memory.oom_control", 1)
        except OSError:
            pytest.skip("this kernel cannot leave the OOM killer off")
        group.write("max", 64 * MIB)

        assert charge_of(group).oom.is_off


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

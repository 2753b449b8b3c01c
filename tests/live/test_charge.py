"""What real cgroups are charged, against known memory, the kernel's own files, and kpagecgroup."""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas
from mematlas import Cgroup, Charge, Process, ProcessSet
from mematlas.errors import CgroupGone, NotSupported
from mematlas.kernel.kpage import KPF_ZERO_PAGE
from mematlas.kernel.madvise import MADV_WILLNEED, takes
from mematlas.model.charged import FrameCharges
from mematlas.observe import cgroup
from memory_groups import NAMES, MemoryGroup, charge_of, left, memory_group, settled
from stuck import WAYS, stuck
from victim import DEADLINE

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")

NR_ANON, NR_SHMEM, NR_FILE, NR_SHARED, NR_MEMFD = 4007, 2003, 1511, 503, 307


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as made:
        yield made


@pytest.fixture
def tmpfs_file() -> Iterator[Path]:
    path = Path(f"/dev/shm/mematlas-charge-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def frames_of(pid: int) -> set[int]:
    """Return the frames of a process, by its pagemap alone, but for the zero page."""
    frames = set()
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start >= 1 << 56:
                continue
            pagemap.seek(start // PAGE * 8)
            data = pagemap.read((end - start) // PAGE * 8)
            frames |= {entry & (1 << 55) - 1 for (entry,) in struct.iter_unpack("=Q", data) if entry >> 63}
    with open("/proc/kpageflags", "rb") as file:
        flags = {frame: struct.unpack("=Q", os.pread(file.fileno(), 8, frame * 8))[0] for frame in frames}
    return {frame for frame in frames if not flags[frame] & KPF_ZERO_PAGE}


def inodes_of(frames: set[int]) -> list[int]:
    """Return the inode of the group that each frame is charged to."""
    with open("/proc/kpagecgroup", "rb") as file:
        return [struct.unpack("=Q", os.pread(file.fileno(), 8, frame * 8))[0] for frame in frames]


def test_what_nobody_maps_is_told_by_kind_and_the_rest_is_within_the_kernels_batches(
    group: MemoryGroup, tmpfs_file: Path, disk_path: Path
) -> None:
    cache = disk_path / "cache"
    with group.running(anon=NR_ANON, write=[[str(tmpfs_file), NR_SHMEM], [str(cache), NR_FILE]], memfd=NR_MEMFD):
        charge = settled(group, shmem=NR_SHMEM + NR_MEMFD)

    assert charge.charged is not None
    assert charge.rest is not None
    assert abs(charge.rest) <= charge.unsure
    assert charge.mapped is not None
    assert charge.mapped >= NR_ANON * PAGE
    late = 0 if takes(MADV_WILLNEED) else charge.unsure  # before 5.12, as `settled` has it
    assert (left(charge, "file") or 0) * PAGE + late >= NR_FILE * PAGE
    assert charge.unmapped_file is not None
    assert charge.unmapped_file + late >= (NR_SHMEM + NR_FILE) * PAGE
    cache.unlink()


def test_pages_that_another_group_touched_first_are_charged_there(group: MemoryGroup, tmpfs_file: Path) -> None:
    with group.child("first") as first, group.child("second") as second:
        with first.running(write=[[str(tmpfs_file), NR_SHARED]]):
            pass
        with second.running(share=[str(tmpfs_file)], anon=NR_ANON) as running:
            origin, own = cgroup_path(first), second.path.stat().st_ino
            charge = charge_of(second)
            inodes = inodes_of(frames_of(running.pid))
            both = charge_of(group)

    assert charge.held is not None
    elsewhere = dict(charge.held.elsewhere)
    assert elsewhere[origin] == NR_SHARED * PAGE
    assert charge.held.anon + charge.held.file + charge.held.shmem == inodes.count(own) * PAGE
    assert charge.mapped is not None
    assert abs(charge.mapped - inodes.count(own) * PAGE) <= charge.unsure
    assert charge.held.charged_elsewhere == sum(inode not in (0, own) for inode in inodes) * PAGE
    assert charge.held.uncharged == inodes.count(0) * PAGE
    assert both.held is not None
    assert origin not in dict(both.held.elsewhere), "it is within the group that holds both"


def cgroup_path(group: MemoryGroup) -> str:
    with Cgroup(group.path) as cgroup:
        return cgroup.path


def test_group_without_processes_is_charged_for_what_they_left(group: MemoryGroup, tmpfs_file: Path) -> None:
    with group.running(write=[[str(tmpfs_file), NR_SHMEM]]):
        pass

    charge = settled(group, shmem=NR_SHMEM, anon=0)

    assert charge.mapped == 0
    assert charge.held is not None
    assert charge.held.elsewhere == ()
    assert charge.oom.victim is None
    assert charge.charged is not None
    assert charge.charged + charge.unsure >= NR_SHMEM * PAGE


def test_process_that_does_not_answer_is_left_out_though_it_is_alone(group: MemoryGroup, tmp_path: Path) -> None:
    with stuck(WAYS[0], tmp_path) as pid:
        group.write("cgroup.procs", pid)
        charge = charge_of(group)

    assert charge.nr_processes == 0
    assert charge.held is not None


def test_processes_that_end_meanwhile_hold_nothing(group: MemoryGroup) -> None:
    with group.running(anon=NR_ANON) as running, Process(running.pid) as process:
        running.kill()

        assert cgroup.frames_of([process]) == {}


def test_frames_are_counted_where_the_kernel_does_not_say_whom_they_are_charged_to(
    group: MemoryGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise NotSupported("/proc/kpagecgroup", "CONFIG_MEMCG")

    monkeypatch.setattr(FrameCharges, "__init__", missing)
    with group.running(anon=NR_ANON), ProcessSet(f"cgroup:{group.path}") as processes:
        usage, charge = processes.usage(), charge_of(group)

    assert usage.rss is not None
    assert usage.rss >= NR_ANON * PAGE
    assert charge.held is None
    assert "CONFIG_MEMCG" in str(charge.reading.notes[0])


def test_headroom_is_the_limit_less_the_charge_of_the_group_above_if_that_is_tighter(group: MemoryGroup) -> None:
    with group.child("inner") as inner:
        group.write("max", 64 << 20)
        inner.write("max", 1 << 30)
        with inner.running(anon=NR_ANON):
            charge, used, path = charge_of(inner), group.read("usage"), cgroup_path(group)

    assert charge.tightest is not None
    assert (charge.tightest.path, charge.tightest.size) == (path, 64 << 20)
    assert charge.headroom is not None
    assert abs(charge.headroom - ((64 << 20) - used)) <= charge.unsure
    hard = NAMES[group.version]["max"]
    assert [limit.size for limit in charge.limits if limit.name == hard] == [1 << 30, 64 << 20]


def test_whom_the_oom_killer_takes_is_whom_we_said(group: MemoryGroup) -> None:
    # What grows is nobody's RSS, so nobody's rank changes.
    grow = "\nhold(int(sys.stdin.readline()))\nprint(flush=True)\nsys.stdin.read()\n"
    limit = 96 << 20
    group.write("max", limit)
    if group.version == 1:
        group.write("memory.memsw.limit_in_bytes", limit)
    else:
        group.write("memory.swap.max", 0)
    nr_pages = (20 << 20) // PAGE
    # Of the whole machine a thousandth is more than these have; of the limit it is 0.1 MiB.
    with group.running(anon=2 * nr_pages) as large, group.running(wait=grow) as adjusted:
        Path(f"/proc/{adjusted.pid}/oom_score_adj").write_text("100")
        oom = charge_of(group).oom
        adjusted.process.stdin.write(f"{limit // PAGE - 2 * nr_pages}\n")  # type: ignore[union-attr]
        adjusted.process.stdin.flush()  # type: ignore[union-attr]
        assert adjusted.process.stdout.readline(), "it has what it wanted"  # type: ignore[union-attr]
        assert adjusted.process.poll() is None
        assert large.process.wait(DEADLINE) == -signal.SIGKILL
        assert charge_of(group).events["oom_kill"] == 1

    assert (oom.limit.size if oom.limit else None) == limit
    assert oom.victim is not None
    assert (oom.victim.pid, oom.is_off, oom.group) == (large.pid, False, None)


def test_group_that_is_removed_is_gone_and_its_namesake_is_not_taken_for_it() -> None:
    with memory_group("gone") as group:
        cgroup = Cgroup(group.path)
    with cgroup, memory_group("gone") as namesake:
        assert namesake.path == group.path
        with pytest.raises(CgroupGone, match="was removed"):
            cgroup.charge()


CONTAINER = "3d1f" + 60 * "7"


def test_container_has_its_charge_below_its_usage_and_its_limit(group: MemoryGroup, tmpfs_file: Path) -> None:
    with group.child("docker") as docker, docker.child(CONTAINER) as inner:
        inner.write("max", 64 << 20)
        with inner.running(anon=NR_ANON, write=[[str(tmpfs_file), NR_SHMEM]]):
            told = mematlas("usage", f"container:{CONTAINER[:12]}", "--json")
            text = mematlas("usage", f"container:{CONTAINER[:12]}").stdout
            listed = {by: mematlas("ps", "--by", by, "--json") for by in ("container", "cgroup", "name")}
            path = cgroup_path(inner)

    assert told.returncode == 0, told.stderr
    (row,) = json.loads(told.stdout)["rows"]
    assert (row["cgroup"], row["charge"]["cgroup"], row["limit"]) == (path, path, 64 << 20)
    assert row["charged"] >= (NR_ANON + NR_SHMEM) * PAGE > row["rss"] - row["file"]
    assert row["headroom"] == (64 << 20) - row["charge"]["limits"][0]["used"]
    assert f"charge of cgroup {path}" in text
    for by, name in (("container", CONTAINER), ("cgroup", path)):
        (row,) = (row for row in json.loads(listed[by].stdout)["rows"] if row["name"] == name)
        assert (row["limit"], row["limit_of"]) == (64 << 20, path)
        assert row["charged"] + row["headroom"] == 64 << 20
    assert {row["charged"] for row in json.loads(listed["name"].stdout)["rows"]} == {None}


def test_cgroup_that_nobody_is_in_and_that_is_charged_nothing_is_not_found(group: MemoryGroup) -> None:
    empty, none = (mematlas("usage", f"cgroup:{path}") for path in (group.path, f"{group.path}/none"))

    assert (empty.returncode, none.returncode) == (3, 3)
    assert "no process in cgroup" in empty.stderr
    assert "no process in cgroup" in none.stderr


def test_command_shows_what_nobody_holds_any_more(group: MemoryGroup, tmpfs_file: Path) -> None:
    with group.running(write=[[str(tmpfs_file), NR_SHMEM]]):
        pass

    done = mematlas("usage", f"cgroup:{group.path}")

    assert done.returncode == 0, done.stderr
    assert "which belongs to nobody: no process is in it" in done.stdout


def test_pages_of_which_no_part_is_mapped_are_told_from_the_rest(group: MemoryGroup) -> None:
    """Of huge pages only a part is left mapped: all of each is charged."""
    with group.running(torn=3) as running:
        if not running.told:
            pytest.skip("needs transparent huge pages: CONFIG_TRANSPARENT_HUGEPAGE, and free ones")
        charge = charge_of(group)
        unmapped = next(part.size for part in charge.parts if part.kind == "unmapped")

    assert charge.rest is not None
    assert abs(charge.rest) <= charge.unsure
    assert unmapped is not None
    assert abs(unmapped - running.told * PAGE) <= charge.unsure


def test_root_is_charged_nothing_and_has_its_parts() -> None:
    with Cgroup("/") as cgroup:
        charge = cgroup.charge_beside(0, {})

    assert (charge.charged, charge.rest, charge.limits, charge.headroom) == (None, None, (), None)
    assert sum(part.size or 0 for part in charge.parts if part.kind in ("anon", "file")) > 0


def test_nobody_sees_the_charge_and_why_not_what_is_mapped(
    group: MemoryGroup, as_nobody: Callable[..., Outcome], tmpfs_file: Path
) -> None:
    with group.running(anon=NR_ANON, write=[[str(tmpfs_file), NR_SHMEM]]) as running:
        charge: Charge = as_nobody(lambda: charge_of(group)).value

    assert charge.charged is not None
    assert charge.charged >= (NR_ANON + NR_SHMEM) * PAGE
    assert (charge.held, charge.mapped) == (None, None)
    assert [note.code for note in charge.reading.notes] == ["held-unknown"]
    assert charge.oom.victim is not None
    assert charge.oom.victim.pid == running.pid

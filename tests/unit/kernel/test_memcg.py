"""A memory cgroup made of files: what it is charged, its limits, and what is mounted in the place of its files."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import alone
from mematlas.errors import CgroupGone, Error, FormatError, NotSupported, TargetNotFound, TooLarge
from mematlas.kernel.cgroups import hierarchy_path, mounts_of
from mematlas.kernel.memcg import (
    MAX_SIZE,
    Limit,
    MemoryCgroup,
    Pressure,
    mount_of,
    open_cgroup,
    open_charged,
    parse_pressure,
    read_room,
)
from mematlas.kernel.procfs import ProcFS

STAT_2 = """\
anon 5000
file 3000
shmem 1000
file_mapped 700
kernel 900
slab 300
inactive_anon 4000
active_anon 2500
inactive_file 1500
active_file 500
unevictable 100
a line of three
weird -1
"""
STAT_1 = """\
cache 1
rss 2
total_cache 3000
total_rss 5000
total_shmem 1000
total_mapped_file 700
total_swap 400
total_inactive_anon 4000
total_active_anon 2500
total_inactive_file 1500
total_active_file 500
total_unevictable 100
"""
NO_LIMIT_1 = "9223372036854771712\n"

Tree = Callable[..., str]


def mount_number(path: Path) -> int:
    fd = os.open(path, os.O_PATH)
    try:
        number = mount_of(fd)
    finally:
        os.close(fd)
    assert number is not None
    return number


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a function that makes a hierarchy of files; it returns the mountinfo that tells of it."""

    def make(files: dict[str, str], version: int = 2, root: str = "/") -> str:
        point = tmp_path / "mounted"
        for name, text in files.items():
            path = point / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for directory, _, _ in os.walk(point):
            Path(directory, "cgroup.procs").touch()
        kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory")
        line = f"{mount_number(point)} 1 0:26 {root} {point} rw shared:4 - {kind} cgroup {options}\n"
        (tmp_path / "mountinfo").write_text(line)
        return str(tmp_path / "mountinfo")

    return make


@pytest.fixture
def group(tree: Tree) -> Iterator[Callable[..., MemoryCgroup]]:
    """Return a function that makes a hierarchy and opens a group in it."""
    opened: list[MemoryCgroup] = []

    def open_one(cgroup: str, files: dict[str, str], version: int = 2) -> MemoryCgroup:
        opened.append(open_cgroup(cgroup, tree(files, version)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


Open = Callable[..., MemoryCgroup]


# --- amounts


def test_amounts_of_version_2_are_lines_of_stat(group: Open) -> None:
    amounts = group("/a", {"a/memory.stat": STAT_2}).amounts()

    assert amounts == {
        "anon": 5000,
        "file": 3000,
        "shmem": 1000,
        "mapped_file": 700,
        "kernel": 900,
        "slab": 300,
        "lru": 8600,
        "lru_anon": 6500,
        "inactive_file": 1500,
        "hugetlb": 0,
    }


def test_amounts_of_version_1_count_groups_below_and_the_kernel_has_a_file(group: Open) -> None:
    files = {"a/memory.stat": STAT_1, "a/memory.kmem.usage_in_bytes": "900\n"}

    amounts = group("/a", files, version=1).amounts()

    assert (amounts["anon"], amounts["file"], amounts["swap"], amounts["kernel"]) == (5000, 3000, 400, 900)
    assert amounts["sock"] == 0, "it is charged to an account of its own"
    assert "slab" not in amounts


def test_missing_files_tell_nothing(group: Open) -> None:
    one = group("/a", {"a/cgroup.procs": ""})

    assert (one.number("memory.current"), one.pressure(), one.limits()) == (None, None, [])
    assert one.amounts() == {"hugetlb": 0}


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 21, "1 2", "١"])
def test_what_is_no_number_is_an_error_that_shows_it(group: Open, text: str) -> None:
    with pytest.raises(FormatError, match=r"memory\.current"):
        group("/a", {"a/memory.current": text}).number("memory.current")


def test_no_file_is_read_without_a_bound(group: Open) -> None:
    one = group("/a", {"a/memory.current": "1" * (MAX_SIZE + 1), "a/memory.stat": "x 1\n" * MAX_SIZE})

    for read in (lambda: one.number("memory.current"), one.amounts):
        with pytest.raises(TooLarge):
            read()


# --- limits


def test_limits_are_those_of_all_groups_above(group: Open) -> None:
    files = {
        "a/memory.max": "9000\n",
        "a/memory.current": "8000\n",
        "a/memory.stat": STAT_2,
        "a/b/memory.max": "max\n",
        "a/b/memory.high": "5000\n",
        "a/b/memory.current": "6000\n",
        "a/b/memory.swap.max": "100\n",
        "a/b/memory.swap.current": "30\n",
    }

    limits = group("/a/b", files).limits()

    # Page cache that nobody used lately, and of 6,500 bytes on the lists of anonymous pages 500 of swap cache.
    assert limits == [
        Limit("memory.high", "/a/b", 5000, 6000, 0),
        Limit("memory.swap.max", "/a/b", 100, 30, 0),
        Limit("memory.max", "/a", 9000, 8000, 2000),
    ]
    assert [(limit.headroom, limit.room) for limit in limits] == [(0, 0), (70, 70), (1000, 3000)]


def test_version_1_has_no_word_for_no_limit(group: Open) -> None:
    files = {
        "a/memory.limit_in_bytes": NO_LIMIT_1,
        "a/memory.usage_in_bytes": "6000\n",
        "a/memory.memsw.limit_in_bytes": "9000\n",
        "a/memory.memsw.usage_in_bytes": "7000\n",
    }

    assert group("/a", files, version=1).limits() == [Limit("memory.memsw.limit_in_bytes", "/a", 9000, 7000, 0)]


def test_group_above_that_does_not_count_those_below_sets_no_limit(group: Open) -> None:
    files = {
        "a/memory.use_hierarchy": "0\n",
        "a/memory.limit_in_bytes": "1\n",
        "a/memory.usage_in_bytes": "1\n",
        "a/b/memory.use_hierarchy": "0\n",
        "a/b/memory.limit_in_bytes": "9\n",
        "a/b/memory.usage_in_bytes": "3\n",
    }

    assert [limit.path for limit in group("/a/b", files, version=1).limits()] == ["/a/b"]


def test_room_in_version_2_is_that_of_the_tightest_group(tmp_path: Path, tree: Tree) -> None:
    mountinfo = tree(
        {
            "a/memory.swap.max": "9000\n",
            "a/memory.swap.current": "8000\n",
            "a/b/memory.swap.max": "max\n",
            "a/b/memory.swap.current": "8000\n",
            "a/b/memory.max": "5000\n",
            "a/b/memory.current": "6000\n",
            "a/b/memory.stat": "anon 5\nshmem 1\nactive_anon 7\ninactive_anon 99\ninactive_file 1100\n",
        }
    )

    assert room(tmp_path, "0::/a/b\n", mountinfo) == (200, 1000)


def test_room_in_version_1_is_that_of_memory_alone(tmp_path: Path, tree: Tree) -> None:
    files = {
        "a/memory.limit_in_bytes": "9000\n",
        "a/memory.usage_in_bytes": "2000\n",
        "a/memory.memsw.limit_in_bytes": "9000\n",
        "a/memory.memsw.usage_in_bytes": "8999\n",
    }

    assert room(tmp_path, "5:cpu:/x\n4:memory:/a\n0::/\n", tree(files, version=1)) == (7000, None)


def room(tmp_path: Path, cgroup: str, mountinfo: str) -> tuple[int | None, int | None]:
    """Return the room of a process that is in a group."""
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(cgroup)
    with ProcFS(str(tmp_path / "proc"), 4096).process(7) as process:
        left = read_room(process, mountinfo)
    return left.memory, left.swap


# --- which group


def test_process_in_a_group_that_is_not_mounted_here_is_not_found(tmp_path: Path, tree: Tree) -> None:
    mountinfo = tree({"x/memory.current": "1\n"}, root="/docker/abc")
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/docker/other\n")

    with (
        ProcFS(str(tmp_path / "proc"), 4096).process(7) as process,
        pytest.raises(TargetNotFound, match="/docker/other"),
    ):
        open_charged(process, mountinfo)


def test_part_of_a_hierarchy_has_its_own_root_and_nothing_above(tree: Tree) -> None:
    mountinfo = tree({"x/memory.max": "5\n", "x/memory.current": "1\n", "memory.current": "2\n"}, root="/docker/abc")

    with open_cgroup("/docker/abc/x", mountinfo) as inner:
        assert [level.cgroup for level in inner.lineage()] == ["/docker/abc/x", "/docker/abc"]
    with open_cgroup("/docker/abc", mountinfo) as top:
        assert (top.parent(), top.number("memory.current")) == (None, 2)


@pytest.mark.parametrize(
    "cgroup", ["/b", "/.", "/a/./", "/a/../a", "/a/cgroup.procs", "/a/b\0", "/" + "x" * 300, "/link"]
)
def test_what_is_no_group_is_not_found(tmp_path: Path, tree: Tree, cgroup: str) -> None:
    mountinfo = tree({"a/cgroup.procs": ""})
    (tmp_path / "mounted" / "link").symlink_to("a")

    with pytest.raises(TargetNotFound):
        open_cgroup(cgroup, mountinfo)


def test_group_of_a_hierarchy_that_charges_no_memory_is_not_supported(tmp_path: Path, tree: Tree) -> None:
    mountinfo = Path(tree({"a/cgroup.procs": ""}, version=1))
    mountinfo.write_text(mountinfo.read_text() + "99 1 0:27 / /unified rw - cgroup2 cgroup2 rw\n")

    with pytest.raises(NotSupported, match="mounted"):
        open_cgroup("/unified/a", str(mountinfo))
    open_cgroup("/a", str(mountinfo)).close()


def test_without_any_hierarchy_a_line_says_how_to_mount_one(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("")

    with pytest.raises(NotSupported, match="mount -t cgroup2"):
        open_cgroup("/", str(tmp_path / "mountinfo"))


def test_groups_below_are_found_with_their_inodes(tmp_path: Path, group: Open) -> None:
    one = group("/a", {f"a/{name}/cgroup.procs": "" for name in ("b/c/d", "b/e", "f")})

    below = dict(one.below())

    assert sorted(below.values()) == ["/a/b", "/a/b/c", "/a/b/c/d", "/a/b/e", "/a/f"]
    assert {path: inode for inode, path in below.items()} == {
        path: (tmp_path / "mounted" / path[1:]).stat().st_ino for path in below.values()
    }


def test_group_that_is_removed_is_gone_whoever_makes_another_of_its_name(tmp_path: Path, group: Open) -> None:
    one = group("/a", {"a/memory.current": "1\n"})
    os.rename(tmp_path / "mounted" / "a", tmp_path / "old")
    (tmp_path / "mounted" / "a").mkdir()
    (tmp_path / "mounted" / "a" / "memory.current").write_text("2\n")
    assert one.number("memory.current") == 1
    for name in ("memory.current", "cgroup.procs"):
        (tmp_path / "old" / name).unlink()

    with pytest.raises(CgroupGone, match="/a was removed"):
        one.number("memory.current")


# --- what else may lie there


def test_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path, group: Open) -> None:
    one = group("/a", {"a/cgroup.procs": ""})
    (tmp_path / "secret").write_text("1234\n")
    (tmp_path / "mounted" / "a" / "memory.current").symlink_to(tmp_path / "secret")

    with pytest.raises(Error):
        one.number("memory.current")


CLONE_NEWNS, MS_BIND, PRIVATE = 0x20000, 0x1000, 0x44000
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount something where nobody but this process, and no longer than it, sees it."""
    LIBC.unshare(CLONE_NEWNS)
    LIBC.mount(b"none", b"/", None, PRIVATE, None)
    done = LIBC.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode())
    assert done == 0, os.strerror(ctypes.get_errno())


PLACES = ("a/memory.current", "a", "")


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("over", PLACES)
@alone
def test_what_is_mounted_over_a_group_or_its_file_is_not_read(tmp_path: Path, tree: Tree, over: str) -> None:
    tree({"a/memory.current": "1\n"})
    lie = tmp_path / "lie"
    (lie / "a").mkdir(parents=True)
    for path in (lie / "memory.current", lie / "a" / "memory.current"):
        path.write_text("2\n")
    target = tmp_path / "mounted" / over
    LIBC.unshare(CLONE_NEWNS)
    mountinfo = tree({})
    mount(str(lie / over if target.is_file() else lie), target, flags=MS_BIND)

    with pytest.raises(FormatError, match="something else is mounted over it"), open_cgroup("/a", mountinfo) as one:
        one.number("memory.current")


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("over", PLACES)
@alone
def test_file_system_that_never_answers_is_not_asked(tmp_path: Path, tree: Tree, over: str) -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("needs CONFIG_FUSE_FS and /dev/fuse")
    tree({"a/memory.current": "1\n"})
    LIBC.unshare(CLONE_NEWNS)
    mountinfo = tree({})
    target, server = tmp_path / "mounted" / over, os.open("/dev/fuse", os.O_RDWR)
    mode = stat.S_IFMT(target.stat().st_mode)
    mount("fuse", target, "fuse", options=f"fd={server},rootmode={mode:o},user_id=0,group_id=0")

    with pytest.raises(FormatError, match="something else is mounted over it"), open_cgroup("/a", mountinfo) as one:
        one.number("memory.current")


# --- pressure


def test_pressure_is_percent_and_microseconds() -> None:
    text = b"some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n"

    assert parse_pressure(text) == Pressure((1.5, 0.25, 0.0), (0.5, 0.0, 0.0), 77, 7)


@pytest.mark.parametrize("text", [b"", b"some avg10=1.50\n", b"some\nfull\n", b"some avg10=x total=1\n", b"\n"])
def test_pressure_that_is_none_is_an_error(text: bytes) -> None:
    with pytest.raises(FormatError, match=r"memory\.pressure"):
        parse_pressure(text)


# --- mounts


def test_blanks_of_a_mount_are_put_back() -> None:
    line = rb"35 1 0:26 /a\040b /mnt/c\134d rw - cgroup2 none rw,memory_hugetlb_accounting"

    (mount,) = mounts_of([line])

    assert (mount.root, mount.point, mount.charges_hugetlb) == ("/a b", "/mnt/c\\d", True)
    assert (mount.directory_of("/a b/x"), mount.cgroup_of("/mnt/c\\d/x")) == ("/mnt/c\\d/x", "/a b/x")


@pytest.mark.parametrize("line", [b"x 1 0:26 / /cg rw - cgroup2 none rw", b"35 1 - cgroup cgroup rw"])
def test_mount_that_is_none_is_an_error_that_shows_it(line: bytes) -> None:
    with pytest.raises(FormatError, match="mountinfo"):
        list(mounts_of([line]))


def test_namesake_of_a_mount_point_is_no_directory_in_it(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("35 1 0:26 /a /cg rw - cgroup2 none rw\n")

    assert hierarchy_path("/cgroup/x", str(tmp_path / "mountinfo")) == ("/cgroup/x", None)

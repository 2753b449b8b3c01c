"""The whole page cache by file: against mincore(2), stat(2) and meminfo, and while files come and go."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program, steadily, texts
from mematlas import CachedFile, CacheResult, Machine
from mematlas.errors import BadInput, NotSupported
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.mounts import format_device
from mematlas.kernel.procfs import ProcFS
from mematlas.observe import whole_cache
from mematlas.observe.frames import open_decoder
from mematlas.observe.largest_files import LargestFiles
from memory_groups import memory_group
from test_cache import MAPS_FILE, in_mounts, in_ram, make_file
from victim import DEADLINE

NR_READINGS = 60
NAMED = Path(__file__).parents[1] / "named_files_program.py"
CHURN = Path(__file__).parents[1] / "churn_program.py"
EVERY = sys.maxsize
IPC_PRIVATE, IPC_RMID = 0, 0
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")


@pytest.fixture(autouse=True, scope="module")
def struct_pages() -> None:
    """Skip where struct pages cannot be read."""
    try:
        open_decoder(ProcFS()).close()
    except NotSupported as error:
        pytest.skip(f"struct pages cannot be read: {error}")


def everything() -> CacheResult:
    return Machine().cache(limit=EVERY, details=["path"])


def largest(nr_files: int) -> CacheResult:
    return Machine().cache(limit=nr_files, details=["path"])


def by_file(result: CacheResult) -> dict[tuple[str, int], CachedFile]:
    return {(file.dev, file.inode): file for file in result.files}


def key_of(path: Path) -> tuple[str, int]:
    status = path.stat()
    return format_device(status.st_dev), status.st_ino


ALL_PLACES = """
PATH="$PATH:/usr/sbin:/sbin"
for name in disk bound tmpfs loop lower upper work merged; do mkdir "$1/$name" || exit; done
mount --bind "$1/disk" "$1/bound" && mount -t tmpfs none "$1/tmpfs" && truncate -s 200M "$1/image" &&
mkfs.ext4 -q -F "$1/image" && mount -o loop "$1/image" "$1/loop" && exec "$0" "$2" "$1"
"""


@steadily
def test_2003_files_of_all_sorts_have_their_paths_and_the_pages_that_mincore_tells(disk_path: Path) -> None:
    top = disk_path / f"named-{os.urandom(4).hex()}"
    top.mkdir()
    run = in_mounts(ALL_PLACES, top, NAMED)
    shutil.rmtree(top)
    assert run.stdout, run.stderr
    said = json.loads(run.stdout)

    assert said["wrong"] == []
    assert said["nr_compared"] > 1900


@steadily
def test_all_files_together_are_cached_and_buffers() -> None:
    def meminfo() -> int:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(int(number) * 1024 for name, number, *_ in lines if name in ("Cached:", "Buffers:"))

    before, result, after = meminfo(), Machine().cache(details=()), meminfo()

    assert min(before, after) * 0.998 < result.resident < max(before, after) * 1.002
    assert result.reading.source == "struct pages"


@steadily
def test_dirty_pages_are_of_the_file_that_was_written(disk_path: Path) -> None:
    path = disk_path / "written"
    path.write_bytes(bytes(8237 * PAGE))
    dirty = by_file(largest(300))[key_of(path)].dirty
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    clean = by_file(largest(300))[key_of(path)].dirty

    assert (dirty, clean) == (8237 * PAGE, 0)


@steadily
def test_linked_moved_deleted_and_nameless_files_are_what_they_are(disk_path: Path) -> None:
    top = disk_path / f"names-{os.urandom(4).hex()}"
    top.mkdir()
    one, moved, gone = (make_file(top / name, 3) for name in ("one", "before", "gone"))
    os.link(one, top / "same")
    os.rename(moved, top / "after")
    with open(gone, "rb") as deleted:
        os.unlink(gone)
        memfd = os.memfd_create("mematlas-test")
        os.write(memfd, bytes(5 * PAGE))
        files = by_file(everything())
        status, nameless = os.fstat(deleted.fileno()), os.fstat(memfd)
        os.close(memfd)

    assert files[key_of(one)].path in (str(one), f"{top}/same")
    assert files[key_of(top / "after")].path == f"{top}/after"
    removed = files[format_device(status.st_dev), status.st_ino]
    assert (removed.path, removed.is_deleted) == (str(gone), True)
    memory = files[format_device(nameless.st_dev), nameless.st_ino]
    assert (memory.path, memory.fs, memory.resident) == ("memfd:mematlas-test", "tmpfs", 5 * PAGE)


@steadily
def test_system_v_segment_is_a_file() -> None:
    number = libc.shmget(IPC_PRIVATE, 7 * PAGE, 0o600)
    assert number >= 0
    address = libc.shmat(number, None, 0)
    try:
        ctypes.memset(address, 1, 7 * PAGE)
        result = everything()
    finally:
        libc.shmctl(number, IPC_RMID, None)
        libc.shmdt(ctypes.c_void_p(address))

    assert any(file.inode == number and file.path == "SYSV00000000" for file in result.files)


@steadily
def test_disk_itself_is_a_file_with_what_is_read_beside_files() -> None:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    buffers = next(int(number) * 1024 for name, number, *_ in lines if name == "Buffers:")
    disks = [file for file in everything().files if file.fs == "bdev"]

    assert all(file.path and Path(file.path).is_block_device() for file in disks)
    assert sum(file.resident for file in disks) == pytest.approx(buffers, rel=0.02)


@steadily
def test_who_maps_a_file_is_told_and_others_are_added_up(disk_path: Path) -> None:
    path = make_file(disk_path / "mapped", 8209)
    with program(MAPS_FILE, [str(path), 3]) as running:
        result = json.loads(mematlas("cache", "--json", "--limit", 2000).stdout)
    row = next(row for row in result["rows"] if row["path"] == str(path))

    assert row["mappers"] == [running.pid]
    assert len(result["rows"]) <= 2000
    assert result["total"]["resident"] >= sum(row["resident"] for row in result["rows"])


@steadily
def test_what_is_mapped_is_told_from_what_is_not(disk_path: Path) -> None:
    path = make_file(disk_path / "mapped-partly", 8233)
    with program(MAPS_SOME, [str(path), [3, 101, 8203]]) as running:
        entries = entries_at(running.pid, running.told, 8233)
        file = by_file(largest(300))[key_of(path)]
        listed = Machine().cache()
    unmapped = by_file(largest(300))[key_of(path)]

    assert 3 <= sum(entry >> 63 for entry in entries) == (file.mapped or 0) // PAGE < 8233
    assert unmapped.mapped == 0
    are_hidden = any(note.code == "mappers-unseen" for note in listed.reading.notes)
    assert not are_hidden or not any(file.all_seen for file in listed.files)


MAPS_SOME = """
import ctypes, json, mmap, os, sys
path, pages = json.loads(sys.argv[1])
with open(path, "rb") as file:
    area = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
area.madvise(mmap.MADV_RANDOM)  # no pages around those that are touched
for page in pages:
    area[page * mmap.PAGESIZE]
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
"""


def entries_at(pid: int, address: int, nr_pages: int) -> list[int]:
    """Return entries of pagemap."""
    with open(f"/proc/{pid}/pagemap", "rb", 0) as file:
        return memoryview(os.pread(file.fileno(), nr_pages * 8, address // PAGE * 8)).cast("Q").tolist()


@steadily
def test_of_files_with_a_path_it_is_told_where_they_are_in_ram(disk_path: Path) -> None:
    path = make_file(disk_path / "holed", 8221, nr_out=4099)
    result = Machine().cache(limit=200, details=["path", "places"])
    file = by_file(result)[key_of(path)]
    pages = in_ram(path)

    assert [round(share, 9) for share in file.cells] == [
        round(sum(pages[low:high]) / (high - low), 9) for low, high in pairwise(8221 * cell // 16 for cell in range(17))
    ]
    assert (file.evicted is None) == (not has_cachestat())
    assert all(not other.cells for other in result.files if other.path is None)


@steadily
def test_file_so_deep_that_no_path_leads_there_has_its_path_and_is_not_looked_up(
    capfd: pytest.CaptureFixture[str],
) -> None:
    top = Path("/dev/shm") / f"mematlas-deep-{os.urandom(4).hex()}"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    name = "d" * 250
    for _ in range(nr_levels := 270):  # a path longer than a message between processes can be
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    made = os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    os.write(made, bytes(8231 * PAGE))
    status = os.fstat(made)
    result = Machine().cache(limit=200, details=["path", "places"])
    with LargestFiles(ProcFS(), 80) as largest:
        largest.ask()
        found = {file.inode: file for file in largest.answer(DEADLINE) or ()}
    os.close(made)
    os.close(fd)
    subprocess.run(["rm", "-r", str(top)], check=True)

    file = by_file(result)[format_device(status.st_dev), status.st_ino]
    assert (file.path, file.cells) == (f"{top}{f'/{name}' * nr_levels}/file", ())
    assert found[status.st_ino].path is None
    assert capfd.readouterr().err == ""


@steadily
def test_what_a_cgroup_is_charged_for_is_its_part_of_the_page_cache(disk_path: Path) -> None:
    with memory_group("cache") as group:
        path = disk_path / f"charged-{os.urandom(4).hex()}"
        with group.running(write=[[str(path), 8231]], memfd=211):
            said = json.loads(mematlas("cache", "--by", "cgroup", "--limit", 100_000, "--json").stdout)
            inode = group.path.stat().st_ino
            row = next(row for row in said["rows"] if row["inode"] == inode)
        path.unlink()

    assert row["name"].endswith(group.path.name)
    assert (8231 + 211) * PAGE <= row["resident"] < (8231 + 211 + 997) * PAGE
    assert 2 <= row["nr_files"] < 100
    assert sum(row["resident"] for row in said["rows"]) == said["total"]["resident"]


def test_charge_is_of_the_whole_page_cache_alone(disk_path: Path) -> None:
    run = mematlas("cache", "--by", "cgroup", disk_path)

    assert run.returncode == 2
    assert "who is charged is known of the whole page cache alone" in run.stderr


def test_groups_have_all_files() -> None:
    by_fs = json.loads(mematlas("cache", "--by", "fs", "--json").stdout)
    by_directory = mematlas("cache", "--by", "directory", "--limit", 3).stdout.splitlines()

    assert {"ext4", "tmpfs"} & {row["name"] for row in by_fs["rows"]}
    assert sum(row["nr_files"] for row in by_fs["rows"]) == by_fs["target"]["nr_files"]
    assert len(by_directory) == 6


def test_what_is_evicted_is_known_of_named_files_alone() -> None:
    with pytest.raises(BadInput, match="evicted is known of files that are named alone"):
        Machine().cache(sort="evicted")


MOUNTED = """
mkdir "$1/to" && mount --bind "$1/from" "$1/to" && mount -t tmpfs none "$1/from" &&
exec "$0" -c "$2"
"""
PATHS_OF = """
import json, sys, mematlas
result = mematlas.Machine().cache(sort="path", limit=sys.maxsize, details=["path"])
print(json.dumps([file.path for file in result.files if file.inode == {inode} and file.fs != "tmpfs"]))
"""


def test_path_is_where_the_file_is_seen(disk_path: Path) -> None:
    top = disk_path / "mounts"
    top.mkdir()
    (top / "from").mkdir()
    (top / "from" / "file").write_bytes(b"x")
    inode = (top / "from" / "file").stat().st_ino
    found = json.loads(in_mounts(MOUNTED, top, PATHS_OF.format(inode=inode)).stdout)

    # What is mounted over its directory hides it there; but where its disk is mounted once more, it is seen.
    hidden, shown = str(top / "from" / "file"), f"{top}/to/file"
    assert found == [shown] or (found != [hidden] and [os.stat(path).st_ino for path in found] == [inode])


BELOW = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged" && mv "$1/file" "$1/lower" &&
mount -t overlay none -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/merged" && mkfifo "$1/fifo" || exit
"$0" -I -S -c "$2" "$3" > "$1/fifo" & read -r said < "$1/fifo"
nsenter --mount=/proc/$4/ns/mnt "$0" -m mematlas cache --json --limit 3000; code=$?
kill $!
exit $code
"""


@steadily
def test_file_that_is_mapped_through_an_overlay_is_where_it_lies_and_nobody_is_not_said_to_map_it(
    disk_path: Path,
) -> None:
    top = disk_path / f"below-{os.urandom(4).hex()}"
    top.mkdir()
    make_file(top / "file", 8219)
    code = f"{MAPS_FILE}import time; time.sleep(1e6)"
    said = in_mounts(BELOW, top, code, json.dumps([f"{top}/merged/file", 3]), os.getpid())
    row = next(row for row in json.loads(said.stdout)["rows"] if row["path"] == f"{top}/lower/file")

    assert (row["resident"], row["mappers"]) == (8219 * PAGE, None)


SEEN = r"""
mkdir "$1/a" "$1/a:b" "$1/upper" "$1/work" "$1/merged" && mv "$1/file" "$1/a" && cp "$1/a/file" "$1/a/hidden" &&
cp "$1/a/file" "$1/a:b/hidden" && mount -t overlay none \
    -o "lowerdir=$1/a\\:b:$1/a,upperdir=$1/upper,workdir=$1/work" "$1/merged" &&
cp "$1/a/file" "$1/merged/written" && mkfifo "$1/fifo" || exit
"$0" -I -S -c "$2" "$3" > "$1/fifo" & read -r said < "$1/fifo"
"$0" -m mematlas cache --json --limit 3000 > "$1/said"; code=$?
echo "$said"; cat "$1/said"
kill $!
exit $code
"""


@steadily
def test_file_below_an_overlay_is_shown_where_the_overlay_has_it_and_who_maps_it_there(disk_path: Path) -> None:
    top = disk_path / f"seen-{os.urandom(4).hex()}"
    top.mkdir()
    make_file(top / "file", 8219)
    code = f"{MAPS_FILE}import time; time.sleep(1e6)"
    pid, said = in_mounts(SEEN, top, code, json.dumps([f"{top}/merged/file", 3])).stdout.split("\n", 1)
    rows = {row["path"]: row for row in json.loads(said)["rows"]}
    seen = {
        name: rows[f"{top}/{name}"]["overlay_path"] for name in ("a/file", "a/hidden", "a:b/hidden", "upper/written")
    }

    assert seen == {
        "a/file": f"{top}/merged/file",
        "a/hidden": None,
        "a:b/hidden": f"{top}/merged/hidden",
        "upper/written": f"{top}/merged/written",
    }
    assert rows[f"{top}/a/file"]["mappers"] == [int(pid)]


# --- while files come and go


def churned(directory: Path, how: str, nr_readings: int, mount: str) -> dict[str, Any]:
    """Return what the program says that reads names while another creates, moves and deletes files."""
    line = f'{mount} && exec "$0" "$2" "$1" "$3" "$4"'
    words = ["unshare", "--mount", "sh", "-c", line, sys.executable, str(directory), str(CHURN), str(nr_readings), how]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        words, env=environment, capture_output=True, text=True, errors="replace", timeout=4 * DEADLINE, check=False
    )
    if "unshare:" in run.stderr or "mount:" in run.stderr or "mkfs" in run.stderr:
        pytest.skip(f"needs to mount: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    said: dict[str, Any] = json.loads(run.stdout)
    return said


MOUNTS = {
    "tmpfs": 'mount -t tmpfs none "$1"',
    "ext4": 'truncate -s 96M "$1.img" && mkfs.ext4 -q -F "$1.img" && mount -o loop "$1.img" "$1"',
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_every_name_that_is_shown_was_the_file_s_while_all_changes(kind: str, disk_path: Path) -> None:
    directory = disk_path / f"churn-{kind}"
    directory.mkdir()
    said = churned(directory, "careful", NR_READINGS, MOUNTS[kind])

    assert said["steps"] > 100
    assert said["named"] > 100
    assert said["wrong"] == []


def test_without_the_checks_names_would_be_shown_that_no_file_had(disk_path: Path) -> None:
    directory = disk_path / "churn-careless"
    directory.mkdir()

    assert churned(directory, "careless", NR_READINGS, MOUNTS["tmpfs"])["wrong"] != []


# --- where struct pages cannot be read


def test_without_rights_there_are_the_files_of_processes_and_a_note(as_nobody: Callable[..., Outcome]) -> None:
    run = as_nobody(["cache", "--json"])
    result = json.loads(run.stdout)

    assert run.code == 0
    assert result["notes"][0]["code"] == "cache-of-processes"


def test_where_struct_pages_cannot_be_read_the_files_of_processes_are_there(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> None:
        raise NotSupported("struct pages")

    path = make_file(disk_path / "of-a-process", 8219)
    monkeypatch.setattr(whole_cache, "open_decoder", refuse)
    with program(MAPS_FILE, [str(path), 3]) as running:
        result = Machine().cache(limit=2000)
    file = next(file for file in result.files if file.path == str(path))

    assert (file.resident, file.mappers) == (8219 * PAGE, (running.pid,))
    assert "only files that processes map or have open are looked at: struct pages" in texts(result.reading.notes)[0]


def test_kernel_memory_is_let_go_of() -> None:
    before = os.listdir("/proc/self/fd")
    Machine().cache(details=())

    assert len(os.listdir("/proc/self/fd")) == len(before)

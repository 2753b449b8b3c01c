"""The kind of memory is what it is, under every name, mounted or not, and the same in all sources.

The kernel's own accounts are the oracle: VmFlags (`ht`), and RssFile, RssShmem and HugetlbPages of status.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, Program, assert_equal_smaps, look, mematlas, program, skip_without_tables
from mematlas import Process
from mematlas.analysis.results import VmaUsage
from mematlas.kernel.backing import SWAP_CACHE_UNSEEN
from mematlas.kernel.hugepage import huge_size
from mematlas.kernel.smaps import read_vm_flags
from mematlas.kernel.status import read_status, status_bytes
from mematlas.kernel.vmfile import PROCMAP_QUERY
from mematlas.notes import Note
from mematlas.words import Source

SOURCES = ("smaps", "pagemap", "tables")
NR_TOUCHED = 211
LAG = 64 * PAGE
"""Bytes by which RssFile and RssShmem of status may be late: before Linux 6.2 each task kept up to 64 changes to itself
(include/linux/mm_types_task.h, TASK_RSS_EVENTS_THRESH)."""

MAPPED = """
import ctypes, json, mmap, os, sys
what = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    arguments = [each.encode() if isinstance(each, str) else each for each in arguments]
    result = getattr(libc, name)(*arguments)
    if result < 0:
        print(json.dumps({"why": name + ": " + os.strerror(ctypes.get_errno())}), flush=True)
        sys.exit()
    return result
for number, (kind, place, options) in enumerate(what["mounts"]):
    if number == 0:
        call("unshare", 0x20000)
        call("mount", "none", "/", None, 0x44000, None)
    os.makedirs(place, exist_ok=True)
    for name in what["dirs"].get(place, ()):
        os.makedirs(name, exist_ok=True)
    call("mount", "none", place, kind, 0, options)
    for name in what["dirs"].get(place, ()):
        os.makedirs(name, exist_ok=True)
if what.get("first_root"):
    call("unshare", 0x20000)
    call("mount", "none", "/", None, 0x44000, None)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("umount2", "/", 2)
    call("setns", own, 0x20000)
path = what["path"]
if what.get("node"):
    os.mknod(path, 0o600 | what["node"][0], os.makedev(*what["node"][1:]))
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
size = what["size"]
if not what.get("node"):
    os.ftruncate(fd, size)
area = mmap.mmap(fd, size, mmap.MAP_PRIVATE if what["private"] else mmap.MAP_SHARED)
try:
    area.madvise(15)  # no huge pages, which private memory of /dev/zero may get where all memory does
except OSError:
    pass
for page in range(what["touched"]):
    area[page * mmap.PAGESIZE] = 1
if what.get("pageout"):
    area.madvise(21, 0, what["pageout"] * mmap.PAGESIZE)
if what["unlinked"]:
    os.unlink(path)
os.close(fd)
if what["lazy"]:
    for kind, place, options in reversed(what["mounts"]):
        call("umount2", place, 2)
if what.get("uid"):
    os.setgid(what["uid"])
    os.setuid(what["uid"])
    libc.prctl(4, 1, 0, 0, 0)
print(json.dumps({"address": ctypes.addressof(ctypes.c_char.from_buffer(area))}), flush=True)
"""


@contextmanager
def mapped(path: str, *mounts: tuple[str, str, str], **more: object) -> Iterator[Program]:
    """Run a program that maps a file, in mounts of its own; it tells the address."""
    what = {"private": False, "lazy": False, "unlinked": False, "touched": NR_TOUCHED, "size": 512 * PAGE, "dirs": {}}
    with program(MAPPED, {**what, "path": path, "mounts": mounts, **more}) as running:
        if "why" in running.told:
            pytest.skip(f"cannot be mounted here: {running.told['why']}")
        yield running


def of_area(running: Program, source: Source) -> VmaUsage:
    """Return what a source says of the area, checked against smaps and status."""
    address = running.told["address"]
    with Process(running.pid) as process:
        fields, result = look(running.pid, lambda: process.maps(source))
        item = next(item for item in result.vmas if item.vma.start == address)
        assert_equal_smaps(item.usage, fields[address], source, item.vma)
        assert (item.vma.kind == "hugetlb") == ("ht" in read_vm_flags(process.dir)[address])
        status = read_status(process.dir)
        for name, field, lag in (("file", "RssFile", LAG), ("shmem", "RssShmem", LAG), ("hugetlb", "HugetlbPages", 0)):
            told = status_bytes(status, field)
            assert told is not None
            assert abs(sum(getattr(each.usage, name) for each in result.vmas) - told) <= lag
    return item


@pytest.fixture(autouse=True)
def tables_where_they_can_be_read(request: pytest.FixtureRequest) -> None:
    if "source" in request.fixturenames and request.getfixturevalue("source") == "tables":
        with Process(os.getpid()) as process:
            skip_without_tables(process)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("lazy", [False, True], ids=["mounted", "unmounted"])
@pytest.mark.parametrize("private", [False, True], ids=["shared", "private"])
@pytest.mark.parametrize(
    "name", ["/dev/x", "/dev/shm/anon_hugepage", "anon_hugepage", "SYSV00000000", "secretmem", "[heap]"]
)
def test_files_of_tmpfs_are_shared_memory_under_every_name(
    name: str, private: bool, lazy: bool, source: Source, tmp_path: Path
) -> None:
    place = os.path.dirname(name) or str(tmp_path)
    path = os.path.join(place, os.path.basename(name))
    with mapped(path, ("tmpfs", place, ""), private=private, lazy=lazy) as running:
        item = of_area(running, source)
    assert item.vma.kind == "shmem"
    assert (item.usage.anon if private else item.usage.shmem) == NR_TOUCHED * PAGE


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("lazy", [False, True], ids=["mounted", "unmounted"])
@pytest.mark.parametrize("place", ["/dev", "/dev/shm", ""])
def test_files_of_hugetlbfs_are_huge_pages_wherever_it_is_mounted(
    place: str, lazy: bool, source: Source, tmp_path: Path, hugetlb_pages: int
) -> None:
    place = place or str(tmp_path)
    size = 2 * huge_size()
    with mapped(f"{place}/x", ("hugetlbfs", place, ""), lazy=lazy, size=size, touched=1) as running:
        item = of_area(running, source)
    assert (item.vma.kind, item.usage.hugetlb, item.usage.rss) == ("hugetlb", size // 2, 0)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("place", ["tmpfs", "a disk"])
def test_the_device_zero_is_anonymous_memory_under_every_name(place: str, source: Source, tmp_path: Path) -> None:
    mounts = [("tmpfs", str(tmp_path), "")] if place == "tmpfs" else []
    path = str(tmp_path / "nothing") if mounts else f"/var/tmp/mematlas-{os.getpid()}-nothing"
    with mapped(path, *mounts, node=[stat.S_IFCHR, 1, 5], private=True, unlinked=True) as running:
        item = of_area(running, source)
    assert (item.vma.kind, item.usage.anon) == ("anon", NR_TOUCHED * PAGE)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["memfd:x", "SYSV00000000", "secretmem", "anon_hugepage", "[aio]", "dmabuf:"])
def test_files_of_a_disk_are_files_under_every_name(name: str, source: Source) -> None:
    with mapped(f"/var/tmp/{name}", unlinked=True) as running:
        assert of_area(running, source).vma.kind == "file"


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("lower", ["tmpfs", "ramfs"])
def test_overlay_shows_memory_of_what_it_lies_upon(lower: str, source: Source, tmp_path: Path) -> None:
    with overlay(lower, tmp_path) as running:
        assert of_area(running, source).vma.kind == ("shmem" if lower == "tmpfs" else "file")


@contextmanager
def overlay(lower: str, place: Path, **more: object) -> Iterator[Program]:
    """Run a program that maps a file of an overlay over a file system."""
    below, top = f"{place}/below", f"{place}/top"
    options = f"lowerdir={below}/low,upperdir={below}/up,workdir={below}/work"
    dirs = {below: [f"{below}/{name}" for name in ("low", "up", "work")]}
    with mapped(f"{top}/x", (lower, below, ""), ("overlay", top, options), dirs=dirs, **more) as running:
        yield running


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
def test_overlay_over_shared_memory_that_is_in_swap_is_counted_or_said_to_be_uncertain(
    source: Source, tmp_path: Path, swap: Path
) -> None:
    # cachestat knows nothing of the file below; mincore takes what is in the swap cache still for RAM.
    with overlay("tmpfs", tmp_path, touched=31, pageout=17) as running, Process(running.pid) as process:
        fields, result = look(running.pid, lambda: process.maps(source))
    address = running.told["address"]
    item = next(item for item in result.vmas if item.vma.start == address)
    assert (item.vma.kind, item.usage.rss) == ("shmem", fields[address]["Rss"])
    assert fields[address]["Swap"] > 0
    assert item.usage.swap is not None
    assert item.usage.swap == fields[address]["Swap"] or (
        item.usage.swap < fields[address]["Swap"] and SWAP_CACHE_UNSEEN in result.reading.notes
    )


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
def test_files_of_the_first_root_are_what_the_kernel_counts_them_as(source: Source) -> None:
    # It is tmpfs or ramfs, and mountinfo says "rootfs" of both; `of_area` holds it against RssShmem and RssFile.
    with mapped("/x", first_root=True, unlinked=True) as running:
        lines = Path(f"/proc/{running.pid}/mountinfo").read_text().splitlines()
        assert any(" - rootfs " in line for line in lines)
        item = of_area(running, source)
    assert {item.usage.file, item.usage.shmem} == {0, NR_TOUCHED * PAGE}


OF_NOBODY = """
import ctypes, json, mmap, os, sys
os.setgid(65534)
os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(0, flush=True)
"""
"""The same interpreter without the file."""


def nr_guessed(notes: Iterable[Note]) -> int:
    """Return of how many files the kind was guessed."""
    return sum(int(note.text.split("(")[1].split()[0]) for note in notes if note.code == "guessed-kinds")


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("query", [PROCMAP_QUERY, 0], ids=["asked", "as before 6.11"])
@pytest.mark.parametrize("lazy", [False, True], ids=["mounted", "unmounted"])
@pytest.mark.parametrize("kind", ["tmpfs", "hugetlbfs"])
def test_without_rights_mounts_and_page_sizes_tell(
    kind: str,
    lazy: bool,
    query: int,
    tmp_path: Path,
    as_nobody: Callable[..., Outcome],
    hugetlb_pages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr("mematlas.kernel.vmfile.PROCMAP_QUERY", query)

    def kinds() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for source in ("smaps", "pagemap"):
            with Process(running.pid) as process, Process(other.pid) as beside:
                result, of_other = process.maps(source), beside.maps(source)
            item = next(item for item in result.vmas if item.vma.start == running.told["address"])
            # In a guest or container the libraries can be of a file system that is mounted nowhere in sight.
            nr_more = nr_guessed(result.reading.notes) - nr_guessed(of_other.reading.notes)
            found.append((item.vma.kind, nr_more))
        return found

    options: dict[str, Any] = {"lazy": lazy, "size": 2 * huge_size(), "touched": 1, "uid": 65534}
    with mapped(f"{tmp_path}/x", (kind, str(tmp_path), ""), **options) as running, program(OF_NOBODY) as other:
        done = as_nobody(kinds)
    # Nothing tells unmounted tmpfs from a file of a disk then: a guess, which is said.
    guess = ("file", 1) if kind == "tmpfs" and lazy else ({"tmpfs": "shmem", "hugetlbfs": "hugetlb"}[kind], 0)
    assert done.value == [guess] * 2, done.stderr


RINGS = """
import ctypes, json, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def area(name, fd, nr_pages, touched):
    made = mmap.mmap(fd, nr_pages * mmap.PAGESIZE)
    keep.append(made)
    for page in range(touched):
        made[page * mmap.PAGESIZE]
    found[name] = ctypes.addressof(ctypes.c_char.from_buffer(made))
keep = []
ring = socket.socket(17, socket.SOCK_RAW)
ring.setsockopt(263, 5, struct.pack("4I", 1 << 16, 16, 2048, 512))
keep.append(ring)
nr_pages = (1 << 20) // mmap.PAGESIZE
area("packet", ring.fileno(), nr_pages, nr_pages)
secret = libc.syscall(447, 0)
if secret >= 0:
    os.ftruncate(secret, 1021 * mmap.PAGESIZE)
    area("secret", secret, 1021, 5)
attribute = struct.pack("2I3Q", 1, 112, 0, 100000000, 0) + bytes(80)
perf = libc.syscall(298, attribute, 0, -1, -1, 0) if os.uname().machine == "x86_64" else -1
if perf >= 0:
    area("perf", perf, 65, 65)
print(json.dumps(found), flush=True)
"""


@pytest.fixture
def rings() -> Iterator[Program]:
    with program(RINGS) as running:
        yield running


def of_rings(rings: Program) -> dict[str, int | None]:
    """Return how many pages of each area are shown as present; None where none can be shown."""
    with Process(rings.pid) as process:
        flags = read_vm_flags(process.dir)
    # A ring of perf events is VM_PFNMAP since Linux commit b709eb872e19 (v6.14): its entries are shown to nobody.
    present = {"packet": (1 << 20) // PAGE, "secret": 5, "perf": 65}
    return {name: None if "pf" in flags[at] else present[name] for name, at in rings.told.items()}


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", ["pagemap", "tables"])
def test_without_a_search_what_is_shown_of_special_memory_is_counted(
    source: Source, rings: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mematlas.kernel.pagemap.PAGEMAP_SCAN", 0)  # as before Linux 6.7
    with Process(rings.pid) as process:
        fields, result = look(rings.pid, lambda: process.maps(source))
    items = {item.vma.start: item.usage for item in result.vmas}
    for name, nr_present in of_rings(rings).items():
        usage = items[rings.told[name]]
        assert (usage.rss, usage.nr_present) == (fields[rings.told[name]]["Rss"], nr_present)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
def test_memory_of_devices_and_of_the_kernel_is_special_and_counted_as_smaps_counts_it(
    source: Source, rings: Program
) -> None:
    with Process(rings.pid) as process:
        fields, result = look(rings.pid, lambda: process.maps(source))
    for name, address in rings.told.items():
        item = next(item for item in result.vmas if item.vma.start == address)
        assert item.vma.kind == "special"
        assert_equal_smaps(item.usage, fields[address], source, item.vma)
        assert item.usage.nr_present == of_rings(rings)[name]


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("what", ["live", "captured"])
def test_pages_of_special_areas_are_in_one_state_and_rows_add_up_to_the_total(
    what: str, rings: Program, tmp_path: Path
) -> None:
    target = str(rings.pid)
    if what == "captured":
        target = str(tmp_path / "saved")
        assert mematlas("capture", rings.pid, target).returncode == 0
    shown = of_rings(rings)
    perf = "unknown" if shown.get("perf") is None else "present"
    for name, states in (("secret", {"present": 5, "absent": 1016}), ("perf", {perf: 65})):
        if name in rings.told:
            first = rings.told[name]
            rows = mematlas(
                "pages", target, f"{first:#x}-{first + sum(states.values()) * PAGE:#x}", "--runs", "--format", "json"
            )
            found: dict[str, int] = {}
            for row in json.loads(rows.stdout)["rows"]:
                found[row["state"]] = found.get(row["state"], 0) + row["nr_pages"]
            assert found == states
    table = mematlas("maps", target, "--kind", "special").stdout.splitlines()
    rows = json.loads(mematlas("maps", target, "--kind", "special", "--format", "json").stdout)["rows"]
    nr_present = sum(number or 0 for number in shown.values())
    assert sum(row["nr_present"] or 0 for row in rows) == nr_present
    assert str(nr_present) in table[-1]

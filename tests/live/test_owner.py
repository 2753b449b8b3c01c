"""Who has frames, of programs whose memory is known: against their own pagemaps, and what the kernel counts."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome
from helpers import PAGE, frames_by_structs, mematlas, program, skip_without_tables, steadily, texts
from mematlas import Machine, OwnedFrames, PageTables, Process
from mematlas.errors import NotSupported, TargetNotFound
from mematlas.kernel.kpage import tells_ksm
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.slabinfo import read_slab_names
from mematlas.model.census.kinds import Kind
from mematlas.model.frame_facts import FrameFiles
from mematlas.observe import frame_details
from mematlas.views.frame_owners import owners_table
from stuck import stuck
from victim import FIXTURES, Victim, disk

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"), pytest.mark.machine]

PRESENT, FRAME = 1 << 63, (1 << 55) - 1
KPF_SLAB, KPF_BUDDY, KPF_COMPOUND_TAIL, KPF_NOPAGE = 1 << 7, 1 << 10, 1 << 16, 1 << 20

SYSV = """
import ctypes, json, mmap, os, signal, sys
nr_pages, page = json.loads(sys.argv[-1]), mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
shmid = libc.shmget(0, ctypes.c_size_t(nr_pages * page), 0o1600)
addresses = [libc.shmat(shmid, None, 0) for _ in range(2)]
libc.shmctl(shmid, 0, None)
for number in range(nr_pages):
    for address in addresses:
        ctypes.memset(address + number * page, 1, 1)
print(json.dumps(addresses[0]), flush=True)
"""


def entries_of(pid: int, start: int, nr_pages: int) -> list[int]:
    with open(f"/proc/{pid}/pagemap", "rb", 0) as file:
        raw = os.pread(file.fileno(), nr_pages * 8, start // PAGE * 8)
    return memoryview(raw).cast("Q").tolist()


def frames_at(pid: int, start: int, nr_pages: int) -> list[int]:
    return [entry & FRAME for entry in entries_of(pid, start, nr_pages) if entry & PRESENT]


def mapped_by(pids: Iterable[int]) -> dict[int, set[tuple[int, int]]]:
    """Return where processes map each frame."""
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if start >> 63:
                continue
            for number, entry in enumerate(entries_of(pid, start, (end - start) // PAGE)):
                if entry & PRESENT:
                    found[entry & FRAME].add((pid, start + number * PAGE))
    return found


def word(name: str, pfn: int) -> int:
    with open(f"/proc/{name}", "rb", 0) as file:
        return int.from_bytes(os.pread(file.fileno(), 8, pfn * 8), "little")


def told(rows: Iterable[OwnedFrames]) -> dict[int, set[tuple[int, int]]]:
    """Return the same by the rows of an answer."""
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for row in rows:
        for number in range(row.nr_pages):
            if row.mapper and row.address is not None:
                found[row.pfn + number].add((row.mapper.pid, row.address + number * PAGE))
    return found


def check(pids: Sequence[int], frames: Sequence[int]) -> list[OwnedFrames]:
    """Hold what is said of frames that stopped processes alone map against their pagemaps; return it."""
    truth = mapped_by(pids)
    result = Machine().owners(sorted(set(frames)))

    assert told(result) == {frame: truth[frame] for frame in frames}
    assert all(row.count == len(truth[row.pfn]) for row in result)
    # Linux 6.12 has the flag on every anonymous page.
    assert {note.code for note in result.reading.notes} <= {"ksm-not-shown"}
    return list(result)


KINDS = {
    "anon_full": "anon",
    "thp": "anon",
    "shared_file": "file",
    "private_file": "file",
    "shared_anon": "shmem",
    "shmem_thp": "shmem",
    "tmpfs": "shmem",
    "memfd": "shmem",
    "hugetlb": "hugetlb",
    "ksm": "ksm",
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_have_just_those_who_map_them(
    kind: str, request: pytest.FixtureRequest, victim: Callable[..., Victim]
) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    target = victim(kind)
    area = target[kind]
    with target.stopped():
        rows = check([target.pid], frames_at(target.pid, area.address, area.nr_pages))

    kinds = {row.kind.removesuffix("_dirty").removesuffix("_writeback") for row in rows}
    assert (KINDS[kind] if kind != "ksm" or tells_ksm(ProcFS()) else "anon") in kinds
    assert kinds <= {KINDS[kind], "anon"}  # of a private file some pages are copies
    for row in rows:
        assert row.mapper
        assert row.mapper.vma
        assert row.mapper.vma.start <= area.address < row.mapper.vma.end or kind == "ksm"
        if row.kind.startswith("file"):
            assert row.mapper.vma.path.startswith(area.path)
            assert row.address is not None
            assert row.file_offset == row.address - row.mapper.vma.start + row.mapper.vma.offset


def test_frames_that_become_something_else_meanwhile_are_said_to(
    victim: Callable[..., Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = victim("anon_full")
    monkeypatch.setattr(FrameFiles, "kinds", lambda files, pfns: np.full(len(pfns), Kind.SHMEM, np.uint8))
    with target.stopped():
        frames = frames_at(target.pid, target["anon_full"].address, 3)
        result = Machine().owners(frames)

    assert [note.code for note in result.reading.notes if note.code == "frames-changed"] == ["frames-changed"]
    assert "3 frames became something else" in " ".join(note.text for note in result.reading.notes)


def test_parent_and_child_have_what_neither_has_written_to(victim: Callable[..., Victim]) -> None:
    target = victim("forked")
    child = target.fork()
    area = target.rewrite_half()
    with target.stopped():
        frames = frames_at(target.pid, area.address, area.nr_pages) + frames_at(child.pid, area.address, area.nr_pages)
        rows = check([target.pid, child.pid], frames)

    assert {row.count for row in rows} == {1, 2}
    assert {row.kind for row in rows} == {"anon"}


def test_a_segment_that_is_attached_twice_is_mapped_twice() -> None:
    with program(SYSV, 53) as running:
        frames = frames_at(running.pid, running.told, 53)
        rows = check([running.pid], frames)

    assert len(frames) == 53
    assert {(row.kind, row.count) for row in rows} == {("shmem", 2)}
    assert all(row.mapper and row.mapper.vma and "SYSV" in row.mapper.vma.path for row in rows)


def test_frames_of_several_programs_are_told_apart(victim: Callable[..., Victim]) -> None:
    one, other = victim("anon_full"), victim("shared_file")
    with one.stopped(), other.stopped():
        frames = [
            *frames_at(one.pid, one["anon_full"].address, one["anon_full"].nr_pages),
            *frames_at(other.pid, other["shared_file"].address, other["shared_file"].nr_pages),
        ]
        check([one.pid, other.pid], frames)


MAPS = """
import json, mmap, os, sys
area = mmap.mmap(os.open(json.loads(sys.argv[-1]), os.O_RDWR), 0)
print(json.dumps(area[0]), flush=True)
"""


def test_what_we_map_as_well_is_counted_and_said(disk_path: Path) -> None:
    path = disk_path / "shared"
    path.write_bytes(b"x" * PAGE)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as area, program(MAPS, str(path)) as other:
        assert area[0] == other.told
        address = np.frombuffer(area, np.uint8).ctypes.data
        (frame,) = frames_at(os.getpid(), address, 1)
        result = Machine().owners([frame])
        count = word("kpagecount", frame)

    assert [row.mapper.pid for row in result if row.mapper] == [other.pid]
    assert [row.count for row in result] == [count] == [2]
    assert [note.code for note in result.reading.notes] == ["ourselves"]


def test_the_zero_page_is_looked_for_in_nobody(victim: Callable[..., Victim]) -> None:
    target = victim("zero")
    (frame, *_) = frames_at(target.pid, target["zero"].address, target["zero"].nr_pages)
    result = Machine().owners([frame])
    (row,) = result

    assert (row.kind, row.mapper) == ("zero", None)
    assert [note.code for note in result.reading.notes] == ["zero-page"]


# --- frames of nobody


def nobodys(frame: int) -> OwnedFrames:
    (row,) = Machine().owners([frame])
    assert row.mapper is None
    return row


def skip_without_kernel_memory() -> None:
    with Process(os.getpid()) as process:
        skip_without_tables(process)


def cached_frames(fd: int, nr_pages: int) -> list[int]:
    """Return the frames of a file that is in RAM and that nobody maps any more."""
    with mmap.mmap(fd, nr_pages * PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as area:
        for number in range(nr_pages):
            area[number * PAGE]
        return frames_at(os.getpid(), np.frombuffer(area, np.uint8).__array_interface__["data"][0], nr_pages)


@contextlib.contextmanager
def unmapped_file(sort: str) -> Iterator[tuple[int, str]]:
    """Yield a file of 1,021 pages in RAM, and what it is called."""
    if sort == "memfd":
        fd, name = os.memfd_create("held"), "memfd:held"
    else:
        fd, name = tempfile.mkstemp(dir="/dev/shm" if sort == "tmpfs" else disk(), prefix="a b\n")
    try:
        # What is written together is put into folios as large as the file system makes them.
        together = 1021 if sort == "large" else 1
        for _ in range(1021 // together):
            os.write(fd, bytes(together * PAGE))
        os.fsync(fd)
        if sort == "deleted":
            os.unlink(name)
        yield fd, name
    finally:
        os.close(fd)
        if sort not in ("memfd", "deleted"):
            os.unlink(name)


@pytest.mark.parametrize("sort", ["small", "large", "deleted", "tmpfs", "memfd"])
@steadily
def test_a_page_of_a_file_that_nobody_maps_has_its_path_and_where_in_it(sort: str) -> None:
    # The kernel may move pages meanwhile (mm/compaction.c).
    skip_without_kernel_memory()
    with unmapped_file(sort) as (fd, name):
        frames = cached_frames(fd, 1021)
        status = os.fstat(fd)
        result = Machine().owners(sorted(frames))
        are_tails = [bool(word("kpageflags", frame) & KPF_COMPOUND_TAIL) for frame in frames]

    offsets = {
        row.pfn + number: (row.file_offset or 0) + number * PAGE for row in result for number in range(row.nr_pages)
    }
    assert offsets == {frame: number * PAGE for number, frame in enumerate(frames)}
    dev = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    assert {row.detail.file for row in result} == {(dev, status.st_ino)}
    assert {(row.detail.path, row.detail.is_deleted) for row in result} == {(name, sort == "deleted")}
    assert {row.kind for row in result} == {"shmem" if sort in ("tmpfs", "memfd") else "file"}
    assert not any(are_tails) or sort != "small"
    if sort == "large" and not any(are_tails):
        pytest.skip("needs large folios of ext4: Linux 6.16")


def test_a_page_that_is_to_be_written_is_called_so() -> None:
    skip_without_kernel_memory()
    with tempfile.NamedTemporaryFile(dir=disk()) as file:
        file.write(bytes(7 * PAGE))
        file.flush()
        with mmap.mmap(file.fileno(), 7 * PAGE) as area:
            area[3 * PAGE] = 1
            address = np.frombuffer(area, np.uint8).__array_interface__["data"][0]
            (frame,) = frames_at(os.getpid(), address + 3 * PAGE, 1)
        (row,) = Machine().owners([frame])

    assert row.kind in ("file_dirty", "file_writeback")
    assert row.file_offset == 3 * PAGE


def test_a_page_table_is_that_of_its_process(victim: Callable[..., Victim]) -> None:
    skip_without_kernel_memory()
    target = victim("anon_full")
    area = target["anon_full"]
    with Process(target.pid) as process, PageTables(process) as tables:
        (walked,) = tables.walk([area.address]).items
        steps = walked.steps
    with target.stopped():
        for step in steps[1:]:
            rows = list(Machine().owners([step.table // PAGE]))
            (row,) = rows

            assert row.mapper
            assert (row.kind, row.mapper.pid, row.mapper.level) == ("table", target.pid, step.level)
            assert row.address is not None
            assert row.address <= area.address
            assert row.mapper.vma is None


def flagged(flag: int, most: int) -> list[int]:
    """Return frames that have a flag of kpageflags, from the whole of RAM."""
    found: list[int] = []
    with open("/proc/kpageflags", "rb", 0) as file:
        at = 0
        while raw := os.pread(file.fileno(), 1 << 20, at):
            words = np.frombuffer(raw, np.uint64)
            places = np.flatnonzero((words & np.uint64(flag) != 0) & (words & np.uint64(KPF_NOPAGE) == 0))
            found += (places + at // 8).tolist()
            at += len(raw)
    return found[:: max(1, len(found) // most)]


@steadily
def test_a_free_frame_is_in_a_free_block() -> None:
    skip_without_kernel_memory()
    frame = flagged(KPF_BUDDY, 7)[3]
    row = nobodys(frame)

    assert row.kind == "free"
    block, order = row.detail.block, row.detail.order
    assert block is not None
    assert order is not None
    assert block <= frame < block + (1 << order)
    assert block % (1 << order) == 0
    assert all(word("kpageflags", pfn) & KPF_BUDDY for pfn in (block, frame, block + (1 << order) - 1))


def test_a_frame_that_was_never_used_is_not_said_to_be_kept_by_a_cpu() -> None:
    with frames_by_structs() as frames:
        pfns = next((pfns for pfns, _ in frames.census().frames_of([Kind.UNTOUCHED]) if len(pfns)), None)
    if pfns is None:
        pytest.skip("this kernel has filled in all struct pages")
    row = nobodys(int(pfns[len(pfns) // 2]))

    assert row.kind == "untouched"


@steadily
def test_slabs_are_of_caches_as_large_as_slabinfo_says() -> None:
    skip_without_kernel_memory()
    frames = flagged(KPF_SLAB, 1 << 30)
    lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    step = max(1, len(frames) >> 15)
    nr_frames: dict[str | None, int] = defaultdict(int)
    for row in Machine().owners(frames[::step]):
        nr_frames[row.detail.slab] += row.nr_pages * step

    assert nr_frames.keys() - {None} <= read_slab_names(ProcFS())
    assert nr_frames[None] <= len(frames) // 50
    for line in sorted(lines, key=lambda line: int(line.split()[5]) * int(line.split()[14]), reverse=True)[:3]:
        fields = line.split()
        assert nr_frames[fields[0]] == pytest.approx(int(fields[5]) * int(fields[14]), rel=0.15, abs=50 * step)


def test_without_kernel_memory_the_kind_is_told_and_why_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise NotSupported("kernel memory", "a kernel that is not locked down")

    monkeypatch.setattr(frame_details, "open_kernel_memory", refuse)
    result = Machine().owners([flagged(KPF_SLAB, 7)[3]])

    assert [row.detail.slab for row in result] == [None]
    assert any(note.code == "kernel-memory-unread" and "locked down" in note.text for note in result.reading.notes)


def test_without_the_names_of_caches_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_kernel_memory()

    def refuse(procfs: ProcFS) -> None:
        raise NotSupported("/proc/slabinfo", "CONFIG_SLUB_DEBUG")

    monkeypatch.setattr(frame_details, "read_slab_names", refuse)
    result = Machine().owners([flagged(KPF_SLAB, 7)[3], *flagged(KPF_BUDDY, 64)[::9]])

    assert {row.detail.slab for row in result} == {None}
    assert any(row.detail.block is not None for row in result)
    assert any(note.code == "kernel-memory-unread" and "slabinfo" in note.text for note in result.reading.notes)


# --- what cannot be had


def test_a_frame_that_does_not_exist_is_exit_code_3() -> None:
    run = mematlas("owner", "pfn:0xfffffffffff")

    assert (run.returncode, run.stdout) == (3, "")
    assert "no such frame: pfn:0xfffffffffff" in run.stderr
    with pytest.raises(TargetNotFound):
        Machine().owners([(1 << 60, 1 << 62)])


def test_of_a_range_those_frames_are_shown_that_exist() -> None:
    last = max(
        int(line.split("-")[1].split()[0], 16) for line in Path("/proc/iomem").read_text().splitlines() if "RAM" in line
    )
    result = Machine().owners([(last // PAGE - 3, last // PAGE + (1 << 16))])

    assert result.nr_missing > 0
    assert {row.pfn for row in result}
    assert any(note.code == "no-such-frames" for note in owners_table(result).notes)


def code_of(pid: int) -> list[int]:
    """Return the frames of a program's code, which all have some of that run it."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    start, end = max(
        ([int(word, 16) for word in line.split()[0].split("-")] for line in lines if " r-xp " in line),
        key=lambda span: span[1] - span[0],
    )
    return frames_at(pid, start, (end - start) // PAGE)


def test_who_does_not_answer_is_named_and_the_others_are_found(tmp_path: Path, victim: Callable[..., Victim]) -> None:
    target = victim("memfd")
    area = target["memfd"]
    (frame, *_) = frames_at(target.pid, area.address, area.nr_pages)
    with stuck("map", tmp_path) as hung:
        alone = Machine().owners([frame])
        shared = Machine().owners(sorted(code_of(target.pid)))

    # Nobody else maps the first, so that it does not matter who cannot be asked.
    assert told(alone) == {frame: mapped_by([target.pid])[frame]}
    assert not texts(alone.reading.notes)
    assert target.pid in {row.mapper.pid for row in shared if row.mapper}
    codes = {note.code: note.text for note in shared.reading.notes}
    assert f"{hung} (" in codes["unanswered"]
    assert "mappers-not-found" in codes


def test_nobody_is_told_what_it_takes(as_nobody: Callable[..., Outcome]) -> None:
    run = as_nobody(["owner", "pfn:1000"])

    assert (run.code, run.stdout) == (4, "")
    assert "CAP_DAC_READ_SEARCH" in run.stderr


def test_who_sees_flags_and_no_frames_is_told_what_it_takes(as_nobody: Callable[..., Outcome]) -> None:
    (frame, *_) = frames_at(os.getpid(), id(PAGE) & -PAGE, 1)
    run = as_nobody(["owner", f"pfn:{frame}"], caps=["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"])

    assert (run.code, run.stdout) == (4, "")
    assert "CAP_SYS_ADMIN" in run.stderr


def test_json_has_a_row_for_each_who_maps_a_frame(victim: Callable[..., Victim]) -> None:
    target = victim("memfd")
    area = target["memfd"]
    (frame, *_) = frames_at(target.pid, area.address, area.nr_pages)
    run = mematlas("owner", f"phys:{frame * PAGE + 7:#x}", "--json")
    (row,) = json.loads(run.stdout)["rows"]

    assert (row["pfn"], row["phys"], row["nr_pages"]) == (frame, f"{frame * PAGE:#x}", 1)
    assert (row["kind"], row["count"], row["pid"]) == ("shmem", 1, target.pid)
    assert int(row["address"], 16) == area.address + area.states.index("present") * PAGE
    assert row["path"].startswith("/memfd:")
    assert int(row["file_offset"], 16) == int(row["address"], 16) - area.address

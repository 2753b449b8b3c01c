"""Who shares what, of known programs: against sets of frames that are read here from pagemap and kpagecount."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program, steadily, texts
from mematlas import Machine, Process
from mematlas.analysis.sharing import KINDS, FrameSets, Mapped, Sharer, ShareResult, TooManySets
from mematlas.arrays import NDArray
from mematlas.errors import NotHeld, PermissionDenied, ProcessGone, TargetNotFound
from mematlas.kernel.kpage import tells_ksm
from mematlas.kernel.procfs import ProcFS
from mematlas.observe import shared_pages
from mematlas.observe.process_set import ProcessSet
from mematlas.observe.shared_pages import LAST
from mematlas.observe.sharing import Look, Member
from mematlas.views.share import pids_of
from stuck import stuck
from victim import process_state, wait_until

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"), pytest.mark.machine]

HUGE = PAGE // 8 * PAGE
KPF_HUGE, KPF_ZERO_PAGE = 1 << 17, 1 << 24

WORKLOADS = """
import ctypes, json, mmap, os, signal, sys
page, huge = mmap.PAGESIZE, mmap.PAGESIZE ** 2 // 8
kind, numbers, path = json.loads(sys.argv[-1])
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
PRIVATE, SHARED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED
pids = []
def child(work=lambda: None):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        work()
        os.write(tell, b"x")
        while True:
            signal.pause()
    os.read(told, 1)
    os.close(told); os.close(tell)
    pids.append(pid)
def write(area, first, last, step=page):
    for at in range(first * step, last * step, step):
        area[at : at + 8] = (at + 1).to_bytes(8, "little")
    return area
def private(nr):
    area = mmap.mmap(-1, nr * page, PRIVATE)
    area.madvise(15)  # no huge pages
    return write(area, 0, nr)
def memory_file(nr):
    if kind == "memfd":
        fd = os.memfd_create("known")
    else:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, nr * page)
    return mmap.mmap(fd, nr * page, SHARED)
def at_address(address, size):
    return (ctypes.c_char * size).from_address(address)
if kind == "file":
    nr_children, nr_pages = numbers
    with open(path, "r+b") as file:
        area = mmap.mmap(file.fileno(), nr_pages * page, SHARED)
    for number in range(nr_children):
        child(lambda: write(area, 0, nr_pages - number))  # reading maps pages around as well
elif kind == "family":
    nr_pages, nr_written = numbers
    area = private(nr_pages)
    child(lambda: write(area, 0, nr_written))
elif kind in ("memfd", "tmpfs"):
    nr_pages, nr_first, first_of_child = numbers
    area = memory_file(nr_pages)
    child(lambda: write(area, first_of_child, nr_pages))
    write(area, 0, nr_first)
elif kind == "sysv":
    nr_pages, nr_first, first_of_child = numbers
    shmid = libc.shmget(0, ctypes.c_size_t(nr_pages * page), 0o1600)
    address = libc.shmat(shmid, None, 0)
    libc.shmctl(shmid, 0, None)
    area = at_address(address, nr_pages * page)
    def touch(first, last):
        for number in range(first, last):
            area[number * page] = b"x"
    child(lambda: touch(first_of_child, nr_pages))
    touch(0, nr_first)
elif kind == "ksm":
    def equal():
        area = mmap.mmap(-1, numbers[0] * page, PRIVATE)
        area.madvise(15)
        for number in range(numbers[0]):
            area[number * page : (number + 1) * page] = (number + 77).to_bytes(8, "little") * (page // 8)
        area.madvise(12)
        return area
    areas = []
    child(lambda: areas.append(equal()))
    areas.append(equal())
elif kind == "thp":
    area = mmap.mmap(-1, 2 * huge, PRIVATE)
    area.madvise(15)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    first = -address % huge
    area.madvise(14, first, huge)
    write(area, first // page, (first + huge) // page)
    is_huge = libc.madvise(ctypes.c_void_p(address + first), ctypes.c_size_t(huge), 25) == 0
    child(lambda: write(area, first // page + 7, first // page + 7 + numbers[0]))
    if not is_huge:
        pids.clear()
elif kind == "hugetlb":
    fd = libc.memfd_create(b"known", 4)
    size = os.fstat(fd).st_blksize
    os.ftruncate(fd, 2 * size)
    area = mmap.mmap(fd, 2 * size, SHARED)
    area[0] = 1
    child(lambda: write(area, 0, 2, size))
elif kind == "shared_table":
    # A GiB of the file, at a multiple of that: the second process gets the page table of the first.
    gib = 1 << 30
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fd = libc.memfd_create(b"known", 4)
    size = os.fstat(fd).st_blksize
    os.ftruncate(fd, gib)
    start = -(-libc.mmap(None, 2 * gib, 0, 0x4022, -1, 0) // gib) * gib
    assert libc.mmap(start, gib, 3, 0x4011, fd, 0) == start
    ctypes.memset(start, 1, 1)
    ctypes.memset(start + size, 1, 1)
    child(lambda: ctypes.memset(start, 1, 1))
elif kind == "twice":
    fd = os.memfd_create("known")
    os.ftruncate(fd, numbers[0] * page)
    areas = [write(mmap.mmap(fd, numbers[0] * page, SHARED), 0, numbers[0]) for _ in range(3)]
elif kind == "one_memory":
    area = private(numbers[0])
    stack = mmap.mmap(-1, 1 << 16, PRIVATE)
    body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pause", libc))
    top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
    pids.append(libc.clone(body, ctypes.c_void_p(top), 0x100 | signal.SIGCHLD, None))
print(json.dumps(pids), flush=True)
"""


@dataclass
class Family:
    """A program and the processes that it has made."""

    pids: list[int]
    path: str

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Have all of them stand still."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in self.pids:
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def family(kind: str, *numbers: int, path: str = "") -> Iterator[Family]:
    with program(WORKLOADS, [kind, numbers, path]) as running:
        try:
            yield Family([running.pid, *running.told], path)
        finally:
            for pid in running.told:
                os.kill(pid, signal.SIGKILL)


# --- the oracle


def words(path: str, places: Sequence[int]) -> dict[int, int]:
    with open(path, "rb", 0) as file:
        return {place: int.from_bytes(os.pread(file.fileno(), 8, place * 8), "little") for place in places}


OURS = ("known", "/SYSV", "/mematlas-share")
"""What paths of files have in them that no other program maps."""


class Truth:
    """How often stopped processes map each frame, and how often all do, as the kernel's files have it.

    Other programs come and go, and have libraries in common with ours: how often these are mapped is of one moment.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.foreign = set[int]()
        self.files: dict[str, set[int]] = {}
        self.mapped = {pid: self._frames_of(pid) for pid in pids}
        every = sorted({frame for frames in self.mapped.values() for frame in frames})
        flags = words("/proc/kpageflags", every)
        self.counts = words("/proc/kpagecount", every)
        known = {frame for frame in every if self.counts[frame] and not flags[frame] & KPF_ZERO_PAGE}
        self.pool = {frame for frame in known if flags[frame] & KPF_HUGE}
        self.small = known - self.pool
        self.by_all = Counter[int]()
        for frames in self.mapped.values():
            self.by_all.update(frames)

    def _frames_of(self, pid: int) -> Counter[int]:
        found = Counter[int]()
        with open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
            for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if start >> 63:
                    continue
                raw = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
                frames = [entry & (1 << 55) - 1 for entry in memoryview(raw).cast("Q") if entry >> 63]
                found.update(frames)
                self.files.setdefault(line.split(None, 5)[-1], set()).update(frames)
                is_anon = [not entry >> 61 & 1 for entry in memoryview(raw).cast("Q") if entry >> 63]
                if "/" in line and not any(word in line for word in OURS):
                    self.foreign.update(frame for frame, anon in zip(frames, is_anon, strict=True) if not anon)
        return found

    def check(self, result: ShareResult) -> None:
        """Compare the sums of each process, and of each pair, with those of frames."""
        assert [sharer.pids for sharer in result.sharers] == [(pid,) for pid in self.mapped]
        for sharer in result.sharers:
            self.check_one(sharer)
        found = {(pair.one.pid, pair.other.pid): pair for pair in result.pairs}
        pids = list(self.mapped)
        for index, one in enumerate(pids):
            for other in pids[index + 1 :]:
                both = self.mapped[one].keys() & self.mapped[other].keys()
                pair = found.get((one, other))
                sizes = (pair.size, pair.hugetlb) if pair else (0, 0)
                assert sizes == (len(both & self.small) * PAGE, len(both & self.pool) * PAGE)

    def check_one(self, sharer: Sharer) -> None:
        times, by_all, counts = self.mapped[sharer.pids[0]], self.by_all, self.counts
        own = times.keys() & self.small
        sure = own - self.foreign
        here = {frame for frame in own if by_all[frame] > times[frame]}
        assert sharer.rss == sum(times[frame] for frame in own) * PAGE
        assert sharer.distinct == len(own) * PAGE
        assert sharer.shared == len(here) * PAGE
        assert sharer.hugetlb == len(times.keys() & self.pool) * PAGE
        least = sum(times[frame] / counts[frame] for frame in sure)
        room = sum(times[frame] / by_all[frame] for frame in own & self.foreign)
        assert least * PAGE - 1 <= sharer.pss <= (least + room) * PAGE + 1
        others = {frame for frame in sure if counts[frame] > by_all[frame]}
        for amount, frames, unsure in (
            (sharer.uss, {frame for frame in sure if counts[frame] == 1}, own),
            (sharer.alone, sure - here - others, own - here),
            (sharer.others, others, own),
            (sharer.others_only, others - here, own - here),
        ):
            assert len(frames) <= amount // PAGE <= len(frames | (unsure & self.foreign))


def share(pids: Sequence[int], limit: int = 10_000) -> ShareResult:
    return Machine().share(pids, limit)


def check(one: Family) -> ShareResult:
    """Hold what is said of stopped processes against the truth; return it."""
    with one.stopped():
        truth = Truth(one.pids)
        result = share(one.pids)
        truth.check(result)
    assert not result.reading.torn
    return result


def size_of(result: ShareResult, kind: str, path: str = "") -> int:
    """Return what the first pair shares through files of this kind whose path ends so."""
    pair = result.pairs[0]
    both = {pair.one, pair.other}
    return sum(
        each.size
        for each in result.sets
        if each.through.kind == kind and path in each.through.path and both <= set(each.sharers)
    )


# --- to the page


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Family]:
    """Three processes of a program that nobody else runs, with libraries that nobody else maps."""
    told = subprocess.run(["ldd", "/bin/sleep"], capture_output=True, text=True, check=True).stdout
    files = [word for line in told.splitlines() for word in line.split() if word.startswith("/")]
    for path in ("/bin/sleep", *files):
        shutil.copy(path, tmp_path / f"known-{Path(path).name}")
        (tmp_path / Path(path).name).symlink_to(f"known-{Path(path).name}")
    loader = next(path for path in files if "ld-" in path)
    line = [f"{tmp_path}/known-{Path(loader).name}", "--library-path", f"{tmp_path}", f"{tmp_path}/known-sleep", "60"]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(line, env={"LC_ALL": "C"})) for _ in range(3)]
        for one in started:
            stack.callback(one.kill)
            wait_until(lambda pid=one.pid: process_state(pid) == "S", "it sleeps")  # type: ignore[misc]
        yield Family([one.pid for one in started], "")


def test_all_amounts_are_those_of_sets_of_frames(sleepers: Family) -> None:
    truth = Truth(sleepers.pids)
    frames = [truth.mapped[pid].keys() & truth.small for pid in sleepers.pids]
    # The vDSO alone is everybody's.
    of_all = {frame for frame in truth.small if truth.counts[frame] > truth.by_all[frame]}
    assert len(of_all) <= 2
    result = share(sleepers.pids[:2])

    for sharer, own, other in zip(result.sharers, frames[:2], frames[1::-1], strict=True):
        others = own & (frames[2] | of_all)
        assert sharer.alone == sharer.uss == len(own - other - others) * PAGE
        assert sharer.shared == len(own & other) * PAGE
        assert sharer.others == len(others) * PAGE
        assert sharer.others_only == len(others - other) * PAGE
        parts = sum(1 / truth.counts[frame] for frame in own - of_all)
        assert parts * PAGE - 1 <= sharer.pss <= (parts + 1) * PAGE
    assert sum(row.size for row in result.vmas or ()) == result.pairs[0].size == len(frames[0] & frames[1]) * PAGE
    total = sum(sharer.pss for sharer in share(sleepers.pids).sharers)
    assert 0 <= total - len(truth.small - of_all) * PAGE <= len(of_all) * PAGE


# --- what is shared through what


@pytest.mark.parametrize(("kind", "path"), [("memfd", "/memfd:known"), ("tmpfs", "/dev/shm/"), ("sysv", "/SYSV")])
@steadily
def test_shared_memory_that_both_have_touched(kind: str, path: str) -> None:
    name = f"/dev/shm/mematlas-share-{os.getpid()}"
    try:
        with family(kind, 101, 71, 30, path=name) as one:
            result = check(one)
    finally:
        Path(name).unlink(missing_ok=True)

    assert size_of(result, "shmem", path) == 41 * PAGE
    assert result.pairs[0].kinds[KINDS.index("shmem")] == 41 * PAGE
    assert sum(row.size for row in result.vmas or () if path in row.through.path) == 41 * PAGE


@steadily
def test_memory_of_before_a_fork_is_shared_until_it_is_written_to() -> None:
    with family("family", 1009, 503) as one:
        result = check(one)

    (pair,) = result.pairs
    # The interpreter's own memory is of before the fork too.
    assert pair.kinds[KINDS.index("cow")] >= 506 * PAGE
    assert next(row.size for row in result.vmas or () if row.through.kind == "cow") == 506 * PAGE
    assert sum(row.size for row in result.vmas or ()) == pair.size


@steadily
def test_huge_page_is_shared_but_for_what_was_written_to() -> None:
    with family("thp", 5) as one:
        if len(one.pids) == 1:
            pytest.skip("no huge page was to be had")
        result = check(one)

    sizes = {vma.size for vma in result.vmas or () if vma.through.kind == "cow"}
    assert max(sizes) == HUGE - 5 * PAGE  # a file of the program may be as large
    assert (result.vmas or ())[0].through.kind == "cow"


@steadily
def test_equal_pages_that_were_merged(ksm: None) -> None:
    with family("ksm", 101) as one:
        wait_until_merged(one.pids[0], 101)
        result = check(one)

    # Where kpageflags does not tell them, they are the anonymous memory that they were.
    assert result.pairs[0].kinds[KINDS.index("ksm" if tells_ksm(ProcFS()) else "cow")] == 101 * PAGE


def wait_until_merged(pid: int, nr_pages: int) -> None:
    end = time.monotonic() + 60
    while int(Path(f"/proc/{pid}/ksm_merging_pages").read_text()) < nr_pages:
        assert time.monotonic() < end, "KSM does not merge"
        time.sleep(0.02)


@steadily
def test_hugetlb_is_counted_apart(hugetlb_pages: int) -> None:
    with family("hugetlb") as one:
        result = check(one)

    first, second = result.sharers
    assert (first.hugetlb, second.hugetlb) == (first.hugetlb_shared, 2 * first.hugetlb)
    assert result.pairs[0].hugetlb == first.hugetlb > 0
    assert result.pairs[0].size == first.shared


@steadily
def test_huge_pages_in_a_page_table_that_two_share_are_shared(hugetlb_pages: int) -> None:
    with family("shared_table") as one:
        result = check(one)

    # The kernel counts each as mapped once.
    first, second = result.sharers
    assert first.hugetlb == second.hugetlb == first.hugetlb_shared == result.pairs[0].hugetlb > 0


@steadily
def test_what_one_process_maps_three_times_is_shared_with_nobody() -> None:
    with family("twice", 101) as one:
        result = check(one)

    (sharer,) = result.sharers
    assert sharer.alone - sharer.uss >= 101 * PAGE
    assert sharer.rss - sharer.distinct >= 202 * PAGE
    assert (result.pairs, result.nr_pairs, sharer.shared) == ((), 0, 0)


@steadily
def test_an_address_space_is_there_once() -> None:
    with family("one_memory", 101) as one:
        result = share(one.pids)
        run = mematlas("share", *one.pids)

    assert [sharer.pid for sharer in result.sharers] == one.pids[:1]
    assert result.sharing == {one.pids[1]: one.pids[0]}
    assert (run.returncode, run.stdout.split()[0]) == (0, "PID")
    assert f"PID {one.pids[1]} runs in the address space of {one.pids[0]}" in run.stderr


@pytest.fixture(scope="module")
def sixty_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """61 processes, of which each maps one page less of a file than the one before; and their parent."""
    path = tmp_path_factory.mktemp("share") / "known"
    path.write_bytes(b"x" * 127 * PAGE)
    with family("file", 61, 127, path=str(path)) as one:
        yield one


@steadily
def test_of_61_processes_that_share_a_file_all_adds_up(sixty_one: Family) -> None:
    with sixty_one.stopped():
        truth = Truth(sixty_one.pids)
        result = share(sixty_one.pids)
    truth.check(result)

    assert result.nr_pairs == 62 * 61 // 2
    # The last one has written to 67 pages, and so has everybody else; the kernel may map more around them.
    expected = Counter[tuple[int, ...]]()
    for frame in truth.files[sixty_one.path]:
        expected[tuple(pid for pid in sixty_one.pids if frame in truth.mapped[pid])] += PAGE
    found = {pids_of(each): each.size for each in result.sets if each.through.path == sixty_one.path}
    assert max(found) == tuple(sixty_one.pids[1:])
    assert found[tuple(sixty_one.pids[1:])] >= 67 * PAGE
    assert found == {pids: size for pids, size in expected.items() if len(pids) > 1}


@steadily
def test_groups_are_one_each(sixty_one: Family) -> None:
    one, server = sixty_one.pids[1], sixty_one.pids[0]
    with sixty_one.stopped():
        result = Machine().share([one, f"tree:{server}"])
        truth = Truth(sixty_one.pids)

    rest = [pid for pid in sixty_one.pids if pid != one]
    mapped = [{frame for pid in pids for frame in truth.mapped[pid]} & truth.small for pids in ([one], rest)]
    assert [(sharer.name, sharer.pid, sharer.distinct) for sharer in result.sharers] == [
        ("python", one, len(mapped[0]) * PAGE),
        (f"tree:{server}", None, len(mapped[1]) * PAGE),
    ]
    assert set(result.sharers[1].pids) == set(rest)
    (pair,) = result.pairs
    assert pair.size == len(mapped[0] & mapped[1]) * PAGE


# --- large ones, in parts


@steadily
def test_parts_of_a_process_come_to_the_same(sixty_one: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_pages, "MOST_ENTRIES", 50)
    check(Family(sixty_one.pids[:5], ""))


@steadily
def test_parts_of_one_vma_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nr_pages = 3 * 8192 + 17
    monkeypatch.setattr(shared_pages, "MOST_ENTRIES", 9000)
    with family("family", nr_pages, 503) as one:
        result = check(one)
    assert next(row.size for row in result.vmas or () if row.through.kind == "cow") == (nr_pages - 503) * PAGE


def test_who_comes_after_the_last_set_that_is_kept_is_named(sixty_one: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    add = FrameSets.add

    def add_few(sets: FrameSets, process: int, places: NDArray[Any]) -> Mapped:
        if process == 3:
            raise TooManySets
        return add(sets, process, places)

    monkeypatch.setattr(FrameSets, "add", add_few)
    result = share(sixty_one.pids)

    assert [sharer.pid for sharer in result.sharers] == sixty_one.pids[:3]
    (note,) = (note for note in result.reading.notes if note.code == "too-many-sets")
    assert f"{min(sixty_one.pids[3:])} (python)" in note.text
    assert "and 54 more: skipped" in note.text


# --- who cannot be read


def test_one_that_does_not_answer_is_named_and_holds_up_nobody(sixty_one: Family, tmp_path: Path) -> None:
    with stuck("fault", tmp_path) as hung:
        result = share([*sixty_one.pids[:2], hung])

    assert [sharer.pid for sharer in result.sharers] == sixty_one.pids[:2]
    assert any(f"{hung} (" in text and "skipped" in text for text in texts(result.reading.notes))


def test_one_alone_that_does_not_answer_is_said_not_to(tmp_path: Path) -> None:
    with stuck("fault", tmp_path) as hung:
        run = mematlas("share", hung)

    assert (run.returncode, run.stdout) == (TargetNotFound.exit_code, "")
    assert f"no process could be looked at; {hung} (" in run.stderr


def test_whoever_was_not_read_to_the_end_is_one_of_the_others(
    sixty_one: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_pages, "MOST_ENTRIES", 50)
    add = Look._add

    def add_some(look: Look, member: Member, answer: Any, fd: int) -> int:
        after = add(look, member, answer, fd)
        if member.number == 2 and after == LAST:
            member.is_whole = False
        return after

    monkeypatch.setattr(Look, "_add", add_some)
    result = share(sixty_one.pids[:3])
    found = [each for each in result.sets if each.through.path == sixty_one.path]
    assert [sharer.pid for sharer in result.sharers] == sixty_one.pids[:2]
    assert sum(each.size for each in found) == sum(each.others for each in found)
    (second,) = (sharer for sharer in result.sharers if sharer.pid == sixty_one.pids[1])
    assert second.others >= 67 * PAGE


def test_without_a_right_to_frames_nothing_is_guessed(as_nobody: Callable[..., Outcome]) -> None:
    outcome = as_nobody(["share"])

    assert (outcome.code, outcome.stdout) == (PermissionDenied.exit_code, "")
    assert "CAP_DAC_READ_SEARCH" in outcome.stderr
    assert "try: sudo -- " in outcome.stderr


def test_hidden_frames_are_a_refusal(sixty_one: Family) -> None:
    words = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "mematlas", "share", str(sixty_one.pids[0])]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert (run.returncode, run.stdout) == (PermissionDenied.exit_code, "")
    assert "needs CAP_SYS_ADMIN for frame numbers" in run.stderr


def test_one_that_has_ended_is_left_out_and_said_so(sixty_one: Family) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as ended,
        ProcessSet(ended.pid) as other,
        ProcessSet(sixty_one.pids[0]) as one,
    ):
        ended.kill()
        ended.wait()
        result = Machine().share([one, other])
        with pytest.raises(ProcessGone):
            Machine().share([other])
    assert any("ended" in text for text in texts(result.reading.notes))
    assert [sharer.pid for sharer in result.sharers] == sixty_one.pids[:1]


# --- on the command line


def rows_of(*words: object) -> dict[str, Any]:
    run = mematlas("share", *words, "--json")
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def test_json_has_pairs_and_everybody(sixty_one: Family) -> None:
    told = rows_of(*sixty_one.pids[1:4])

    assert told["schema"] == "mematlas.share/1"
    assert [(row["pid"], row["other_pid"]) for row in sorted(told["rows"], key=lambda row: row["other_pid"])] != []
    assert {row["pid"] for row in told["rows"]} | {row["other_pid"] for row in told["rows"]} == set(sixty_one.pids[1:4])
    assert [sharer["pids"] for sharer in told["target"]["sharers"]] == [[pid] for pid in sixty_one.pids[1:4]]
    row = told["rows"][0]
    assert row["size"] == sum(row[kind] for kind in KINDS[:-1])


def test_text_of_few_is_a_matrix_and_of_two_has_vmas(sixty_one: Family) -> None:
    few = mematlas("share", *sixty_one.pids[1:4], env={"COLUMNS": "80"}).stdout.splitlines()
    two = mematlas("share", *sixty_one.pids[1:3]).stdout

    assert few[0].split()[:5] == ["PID", *map(str, sixty_one.pids[1:4]), "OTHERS"]
    assert [line.split()[0] for line in few[1:4]] == list(map(str, sixty_one.pids[1:4]))
    assert few[4] == ""
    assert f"IN {sixty_one.pids[1]}" in two
    assert sixty_one.path in two


def test_all_processes_are_looked_at_where_none_is_named(sixty_one: Family) -> None:
    result = Machine().share(limit=10_000, seconds=600)
    run = mematlas("share", "--limit", "1", "--format", "csv")

    found = [each for each in result.sets if each.through.path == sixty_one.path]
    assert max(len(each.sharers) for each in found) == 61
    assert {pid for each in found for pid in pids_of(each)} == set(sixty_one.pids[1:])
    assert os.getpid() not in {sharer.pid for sharer in result.sharers}
    assert run.stdout.startswith("pid,name,other_pid,other_name,size,")
    assert len(run.stdout.splitlines()) == 2


# --- captures


def test_capture_of_several_processes_says_the_same(sixty_one: Family, tmp_path: Path) -> None:
    pids = sixty_one.pids[:3]
    with sixty_one.stopped():
        saved = [tmp_path / str(pid) for pid in pids]
        for pid, path in zip(pids, saved, strict=True):
            assert mematlas("capture", pid, path).returncode == 0
        live = share(pids)
    # One directory of all three, with the words of all their frames.
    for pid, path in zip(pids[1:], saved[1:], strict=True):
        (path / str(pid)).rename(saved[0] / str(pid))
    joined_words(saved, saved[0])
    told = rows_of(saved[0])

    assert [sharer["pids"] for sharer in told["target"]["sharers"]] == [[pid] for pid in pids]
    sizes = {(row["pid"], row["other_pid"]): row["size"] for row in told["rows"]}
    assert sizes == {(pair.one.pid, pair.other.pid): pair.size for pair in live.pairs}


def joined_words(captures: Sequence[Path], into: Path) -> None:
    """Join the words of frames of several captures in one."""
    from mematlas.kernel.packed import PackedFile, write_packed

    for name in ("kpagecount", "kpageflags"):
        found: dict[int, bytes] = {}
        for capture in captures:
            file = PackedFile(os.open(capture / f"{name}.packed", os.O_RDONLY), name)
            for start, end in zip(file.starts, file.ends, strict=True):
                raw = bytearray(end - start)
                file.read_into(memoryview(raw), start)
                found |= {start + at: bytes(raw[at : at + 8]) for at in range(0, len(raw), 8) if any(raw[at : at + 8])}
            file.close()
        with open(into / f"{name}.packed", "wb") as made:
            write_packed(made, sorted(found.items()))


def test_capture_without_frames_is_refused(sixty_one: Family, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert mematlas("capture", sixty_one.pids[0], saved).returncode == 0
    (saved / "kpagecount.packed").unlink()
    run = mematlas("share", saved)

    assert (run.returncode, run.stdout) == (NotHeld.exit_code, "")
    assert "does not hold" in run.stderr


def test_process_is_no_part_of_it_once_it_is_closed(sixty_one: Family) -> None:
    with Process(sixty_one.pids[1]) as process:
        assert [sharer.pid for sharer in share([process.pid]).sharers] == [process.pid]

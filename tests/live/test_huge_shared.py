"""Huge pages that are shared in part: what each source says of a page is what that page's own map count says."""

from __future__ import annotations

import json
import os
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, Program, assert_equal_smaps, look, program, skip_without_tables, steadily, texts
from mematlas import Process
from mematlas.actions.plans import plan
from mematlas.cli import main
from mematlas.kernel.pagemap import EXCLUSIVE, PM_MMAP_EXCLUSIVE, PM_PFRAME, PRESENT
from mematlas.kernel.procfs import ProcFS
from mematlas.model.hugecounts import ESTIMATE, HugeCounts
from mematlas.model.pages import Hole, PageReader
from mematlas.observe.captures import capture
from mematlas.words import PagesFrom, Source
from victim import process_state, wait_until

NR_HUGE = 7
"""Huge pages of private memory."""
NR_COPIED = 97
"""Pages of each that the child writes to."""

CODE = """
import ctypes, json, mmap, os, signal, sys
P, H, RW, SHARED, PRIVATE, ANON, FIXED = mmap.PAGESIZE, *json.loads(sys.argv[1])[:1], 3, 1, 2, 0x20, 0x10
_, nr_huge, nr_copied, first = json.loads(sys.argv[1])
DONTNEED, HUGE, NOHUGE, COLLAPSE = 4, 14, 15, 25
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def area(size, flags, fd=-1):
    raw = libc.mmap(None, size + H, 0, PRIVATE | ANON, -1, 0)
    start = -(-raw // H) * H
    assert libc.mmap(start, size, RW, flags | FIXED, fd, 0) == start
    return start

def write(start, pages):
    for page in pages:
        ctypes.memset(start + page * P, 1, 1)

anon = area(nr_huge * H, PRIVATE | ANON)
libc.madvise(anon, nr_huge * H, HUGE)
write(anon, range(nr_huge * H // P))
libc.madvise(anon, nr_huge * H, NOHUGE)  # they stay, but khugepaged copies none of which parts are another's
fd = os.memfd_create("part")
os.ftruncate(fd, 2 * H)
shmem = area(2 * H, SHARED, fd)
write(shmem, range(2 * H // P))
collapsed = libc.madvise(shmem, 2 * H, COLLAPSE) == 0
write(shmem, range(2 * H // P))
ready, told = os.pipe()
child = os.fork()
if child == 0:
    libc.prctl(1, signal.SIGKILL)
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.munmap(shmem, 2 * H)
    # A page further on, so that small entries map it.
    other = libc.mmap(None, H, RW, SHARED, fd, P)
    for page in range(nr_copied):
        ctypes.string_at(other + page * P, 1)
    for huge in range(nr_huge - 1):
        write(anon + huge * H, range(first, first + nr_copied))
    libc.madvise(anon + 4 * H, H // 2, DONTNEED)
    os.write(told, b"x")
    while True:
        signal.pause()
os.read(ready, 1)
# The last but one of its own huge pages, it takes apart itself.
write(anon + 5 * H, range(3))
print(json.dumps({"anon": anon, "shmem": shmem, "child": child, "collapsed": collapsed}), flush=True)
"""


def huge_size() -> int:
    path = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not path.exists():
        pytest.skip("needs CONFIG_TRANSPARENT_HUGEPAGE")
    return int(path.read_text())


@pytest.fixture(scope="module", params=["first", "later"])
def family(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A parent and its child that stand still, and share huge pages in part: not the first pages, or those."""
    size = huge_size()
    first = 0 if request.param == "first" else 11
    with program(CODE, [size, NR_HUGE, NR_COPIED, first]) as parent:
        pids = (parent.pid, parent.told["child"])
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
                wait_until(lambda pid=pid: process_state(pid) == "T", "it stops")  # type: ignore[misc]
            yield parent
        finally:
            # The parent is alive and never reaps, so this PID is still the child's.
            os.kill(pids[1], signal.SIGKILL)


def pid_of(family: Program, who: str) -> int:
    return family.pid if who == "parent" else int(family.told["child"])


def counted(pid: int, start: int, nr_pages: int) -> list[int | None]:
    """Return how often each page is mapped, by pagemap and kpagecount read word by word; None for one that is none."""
    found: list[int | None] = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as entries, open("/proc/kpagecount", "rb", buffering=0) as kp:
        words = os.pread(entries.fileno(), 8 * nr_pages, start // PAGE * 8)
        for (entry,) in struct.iter_unpack("=Q", words):
            frame = entry & PM_PFRAME
            found.append(struct.unpack("=Q", os.pread(kp.fileno(), 8, frame * 8))[0] if entry >> 63 else None)
    return found


def exclusive_of(process: Process, start: int, end: int, source: PagesFrom) -> list[bool | None]:
    """Return of each page whether a source calls it exclusive; None for one that is not present."""
    found: list[bool | None] = []
    for _, block in process.pages(start, end, source=source):
        if isinstance(block, Hole):
            found += [None] * len(block)
            continue
        by_state = [bool(byte & EXCLUSIVE) if byte & PRESENT else None for byte in block.states]
        assert by_state == [
            bool(entry & PM_MMAP_EXCLUSIVE) if entry >> 63 else None for entry in block.entries.tolist()
        ]
        found += by_state
    return found


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("who", ["parent", "child"])
@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
@steadily
def test_partly_shared_huge_pages_equal_smaps(source: Source, who: str, family: Program) -> None:
    with Process(pid_of(family, who)) as process:
        if source == "tables":
            skip_without_tables(process)
        smaps, result = look(process.pid, lambda: process.maps(source))

    for item in result.vmas:
        assert_equal_smaps(item.usage, smaps[item.vma.start], source, item.vma)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_uss_of_the_parent_is_what_its_child_copied(family: Program) -> None:
    size = huge_size()
    nr_own = [NR_COPIED, NR_COPIED, NR_COPIED, NR_COPIED, size // PAGE // 2, NR_COPIED, 0]
    first = 0 if counted(family.pid, family.told["anon"], 1) == [1] else 11
    # What the child gave back of one holds some of what it had copied, and of another the parent copied three.
    nr_own[4] += max(0, first + NR_COPIED - size // PAGE // 2)
    nr_own[5] = len({*range(first, first + NR_COPIED), *range(3)})
    with Process(family.pid) as process:
        found = exclusive_of(process, family.told["anon"], family.told["anon"] + NR_HUGE * size, "pagemap")

    step = size // PAGE
    assert [found[huge * step : (huge + 1) * step].count(True) for huge in range(NR_HUGE)] == nr_own


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize(("who", "kind"), [("parent", "anon"), ("parent", "shmem"), ("child", "anon")])
@pytest.mark.parametrize("source", ["pagemap", "tables"])
def test_each_page_is_exclusive_as_its_map_count_has_it(
    kind: str, source: PagesFrom, who: str, family: Program
) -> None:
    size = huge_size()
    start = family.told[kind]
    end = start + (NR_HUGE if kind == "anon" else 2) * size
    with Process(pid_of(family, who)) as process:
        if source == "tables":
            skip_without_tables(process)
        found = exclusive_of(process, start, end, source)

    counts = counted(process.pid, start, (end - start) // PAGE)
    assert found == [None if count is None else count < 2 for count in counts]
    assert {True, False} <= set(found)


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_without_a_scan_the_same_is_found_by_the_frames(family: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = family.told["anon"], family.told["anon"] + NR_HUGE * huge_size()
    monkeypatch.setattr("mematlas.kernel.pagemap.PAGEMAP_SCAN", 0)  # as before Linux 6.7

    with Process(family.pid) as process:
        found = exclusive_of(process, start, end, "pagemap")

    counts = counted(family.pid, start, len(found))
    assert found == [None if count is None else count < 2 for count in counts]


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_one_page_alone_is_shown_as_among_others(family: Program) -> None:
    start = family.told["shmem"]
    places = (0, 1, NR_COPIED, huge_size() // PAGE - 1)
    with Process(family.pid) as process:
        flags = [process.translate([start + page * PAGE])[0].flags for page in places]

    counts = [counted(family.pid, start + page * PAGE, 1)[0] for page in places]
    assert ["exclusive" in each for each in flags] == [count == 1 for count in counts] == [True, False, False, True]


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_a_capture_knows_them_too(family: Program, tmp_path: Path) -> None:
    start, end = family.told["anon"], family.told["anon"] + NR_HUGE * huge_size()
    with Process(family.pid) as process:
        saved = capture(process, str(tmp_path / "saved"))
    with Process(family.pid, ProcFS(saved.path)) as copy:
        found = exclusive_of(copy, start, end, "pagemap")

    assert found == [None if count is None else count < 2 for count in counted(family.pid, start, len(found))]


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
def test_no_row_of_pages_is_exclusive_and_counted_twice(family: Program, capsys: pytest.CaptureFixture[str]) -> None:
    area = f"{family.told['anon']:#x}+{NR_HUGE * huge_size():#x}"

    assert main(["pages", str(family.pid), area, "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["count"], "exclusive" in row["flags"]) for row in rows} == {(1, True), (2, False)}


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
@pytest.mark.parametrize("who", ["parent", "child"])
def test_verify_has_nothing_to_say(who: str, family: Program, capsys: pytest.CaptureFixture[str]) -> None:
    @steadily
    def verified() -> None:
        assert look(pid_of(family, who), lambda: main(["usage", "--verify", str(pid_of(family, who))]))[1] == 0

    verified()


@pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_SYS_PTRACE")
def test_pageout_promises_what_it_moves(family: Program, swap: Path) -> None:
    """No page moves of a huge page that two processes map, also none that only one of them maps."""
    from mematlas.actions.verbs import pageout
    from mematlas.model.address_space import Selection

    start = family.told["anon"]
    selection = Selection(span=(start, start + NR_HUGE * huge_size()))
    with Process(family.pid) as process:
        promised = plan(process, "pageout", selection)
        result = pageout(process, selection)

    reasons = [vma.reasons for vma in promised.vmas]
    assert sum(each.get("shared folio", 0) for each in reasons) > 0
    assert sum(vma.nr_movable for vma in promised.vmas) == result.nr_moved
    assert result.reasons.get("busy", 0) == 0


def test_without_rights_it_is_said_that_the_number_is_an_estimate(as_nobody: Callable[..., Outcome]) -> None:
    size = huge_size()

    def look_at_ourselves() -> tuple[int, list[str], list[str]]:
        import ctypes
        import mmap

        with mmap.mmap(-1, 3 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
            area.madvise(mmap.MADV_HUGEPAGE)
            area[:] = b"x" * (3 * size)
            assert ctypes.addressof(ctypes.c_char.from_buffer(area))
            with Process(os.getpid()) as process:
                result = process.maps("pagemap")
                with tempfile.TemporaryDirectory() as parent:
                    saved = capture(process, f"{parent}/saved")
                    with Process(saved.pid, ProcFS(saved.path)) as copy:
                        copied = copy.maps("pagemap")
            thp = sum(item.usage.thp or 0 for item in result.vmas)
            return thp, texts(result.reading.notes), texts(copied.reading.notes)

    outcome = as_nobody(look_at_ourselves)
    assert outcome.value, outcome.stderr
    thp, notes, copied = outcome.value

    if not thp:
        pytest.skip("no huge page was to be had")
    for each in (notes, copied):
        assert [note for note in each if note.startswith(ESTIMATE)], each


def test_a_block_without_huge_pages_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(HugeCounts, "settle", lambda self, block, places: asked.append(block.address))

    with Process(os.getpid()) as process, PageReader(process.dir) as reader:
        stack = next(vma for vma in process.address_space().vmas if vma.kind == "stack")
        assert list(reader.blocks(stack))

    assert asked == []


HUGE_ALONE = """
import ctypes, json, mmap, sys
size = json.loads(sys.argv[1])
area = mmap.mmap(-1, 4 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
start = address + -address % size
area.madvise(mmap.MADV_HUGEPAGE)
area[start - address] = 1
print(json.dumps(start), flush=True)
"""


def test_the_end_of_a_huge_page_is_huge_however_little_of_it_is_looked_at() -> None:
    size = huge_size()
    with program(HUGE_ALONE, size) as running, Process(running.pid) as process, PageReader(process.dir) as reader:
        vma = next(vma for vma in process.address_space().vmas if vma.start <= running.told < vma.end)
        whole = next(reader.blocks(vma, running.told))
        if not reader.huge_ranges(vma, whole):
            pytest.skip("no huge page was to be had")
        nr_pages = size // PAGE
        for first in (1, nr_pages // 2, nr_pages - 1):
            block = next(reader.blocks(vma, running.told + first * PAGE))
            assert len(block) > nr_pages - first  # with pages behind it that are absent
            assert reader.huge_ranges(vma, block) == [(0, nr_pages - first)]

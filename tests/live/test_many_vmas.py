"""Processes of many VMAs: whatever is read together for several of them is said of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from helpers import PAGE, Program, assert_equal_smaps, look, program, read_smaps, skip_without_tables, steadily
from mematlas import Process
from mematlas.cli import main
from mematlas.kernel.maps import read_maps
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pages import PageReader
from mematlas.model.runs import cut
from mematlas.words import Source

pytestmark = pytest.mark.machine

SOURCES = ("smaps", "pagemap", "tables")
NR_AREAS = 601
SMALL = ("anon", "file", "shmem")
MANY = """
import ctypes, json, mmap, os, random, signal, sys, tempfile
(NR, out), PAGE = json.loads(sys.argv[1]), mmap.PAGESIZE
libc = ctypes.CDLL(None)
made = random.Random(1)
shapes = [[made.randrange(8) for _ in range(made.choice((1, 1, 1, 2, 3, 17)))] for _ in range(NR)]
file = tempfile.TemporaryFile()
file.truncate(sum(map(len, shapes)) * PAGE)
known = {}
areas = []
memory = os.memfd_create("many")
os.truncate(memory, sum(map(len, shapes)) * PAGE)
for page in range(0, sum(map(len, shapes)), 5):
    os.pwrite(memory, b"x", page * PAGE)  # in RAM, whoever maps it
private, shared = mmap.MAP_PRIVATE, mmap.MAP_SHARED
for fd, flags in ((-1, private | mmap.MAP_ANONYMOUS), (file.fileno(), private), (memory, shared), (memory, private)):
    area = mmap.mmap(fd, sum(map(len, shapes)) * PAGE, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        area.madvise(15)  # no huge pages
    except OSError:
        pass
    areas.append(area)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    place = 0
    for number, shape in enumerate(shapes):
        for page, what in enumerate(shape, place):
            if what < 3:
                area[page * PAGE] = 1 + what  # written to
            elif what == 3:
                area[page * PAGE]  # read: the zero page, or the file's
        start = address + place * PAGE
        if number % 2:
            assert not libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(len(shape) * PAGE), number % 4 // 2)
        known[start] = [sum(what < 3 for what in shape), shape.count(3), len(shape)]
        place += len(shape)
if out:  # to swap, as far as it goes
    start = ctypes.addressof(ctypes.c_char.from_buffer(areas[2]))
    assert not libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(len(areas[2]) // PAGE // 2 * PAGE), 21)
if os.fork() == 0:
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    signal.pause()
for area in areas:  # some pages are its own again, the others shared with the child
    place = 0
    for number, shape in enumerate(shapes):
        if number % 6 == 0 and shape[0] < 3:
            area[place * PAGE] = 9
        place += len(shape)
print(json.dumps(list(known.items())), flush=True)
"""


@pytest.fixture(scope="module")
def many() -> Iterator[Program]:
    with program(MANY, [NR_AREAS, False]) as running:
        yield running


@pytest.fixture(scope="module")
def paged_out(swap: object) -> Iterator[Program]:
    with program(MANY, [NR_AREAS, True]) as running:
        yield running


@pytest.fixture(autouse=True)
def are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have so few VMAs count as many, so that page tables are read for several of them together."""
    monkeypatch.setattr("mematlas.observe.page_counter.MANY", NR_AREAS)


def starts_of(running: Program) -> set[int]:
    """Return where the VMAs begin that the program has made: all others are of its libraries."""
    return {start for start, _ in running.told}


def tables_or_skip(process: Process, source: str) -> None:
    if source == "tables":
        skip_without_tables(process)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_each_of_many_vmas_equals_smaps(source: Source, many: Program) -> None:
    with Process(many.pid) as process:
        tables_or_skip(process, source)
        smaps, result = look(many.pid, lambda: process.maps(source), starts_of(many))

    assert [item.vma.start for item in result.vmas] == list(read_smaps(many.pid))
    own = [item for item in result.vmas if item.vma.start in smaps]
    assert len(own) == len(smaps) > 3 * NR_AREAS
    for item in own:
        assert_equal_smaps(item.usage, smaps[item.vma.start], source, item.vma)
    assert not result.reading.torn


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_swap_of_shared_memory_of_many_vmas_equals_smaps(source: Source, paged_out: Program) -> None:
    with Process(paged_out.pid) as process:
        tables_or_skip(process, source)
        smaps, result = look(paged_out.pid, lambda: process.maps(source), starts_of(paged_out))

    shared = [item for item in result.vmas if item.vma.kind == "shmem" and item.vma.perms[3] == "s"]
    assert sum(bool(smaps[item.vma.start]["Swap"]) for item in shared) > NR_AREAS // 9
    for item in shared:
        assert_equal_smaps(item.usage, smaps[item.vma.start], source, item.vma)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_zero_pages_of_many_vmas_are_counted_where_they_are(source: Source, many: Program) -> None:
    with Process(many.pid) as process:
        tables_or_skip(process, source)
        by_start = {item.vma.start: item for item in process.maps(source).vmas}

    nr_zero = 0
    for start, (nr_written, nr_read, nr_pages) in many.told[:NR_AREAS]:
        usage = by_start[start].usage
        assert (usage.nr_pages, usage.rss, usage.zero) == (nr_pages, nr_written * PAGE, nr_read * PAGE)
        nr_zero += nr_read
    assert nr_zero > NR_AREAS // 4


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", SOURCES)
@steadily
def test_first_pages_of_many_vmas_are_where_translate_finds_them(source: Source, many: Program) -> None:
    with Process(many.pid) as process:
        tables_or_skip(process, source)
        _, (items, places) = look(
            many.pid,
            lambda: (
                (items := process.maps(source).vmas),
                process.translate(item.vma.start for item in items),
            ),
            starts_of(many),
        )

    ours = [(item.first_state, item.phys) for item in items if item.vma.kind in SMALL]
    theirs = [(place.state, place.phys) for place in places if place.vma and place.vma.kind in SMALL]
    assert ours == theirs
    assert {state for state, _ in ours} >= {"present", "zero", "absent", "cached"}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_run_has_the_pages_that_each_of_its_vmas_has(many: Program) -> None:
    with Process(many.pid) as process, PageReader(process.dir) as reader:
        nr_together = 0
        for run, block in reader.runs(read_maps(process.dir, process.files)):
            if block is None:
                continue
            for vma, first, last in cut(run, block, PAGE):
                states, entries = block.states[first:last], list(block.entries[first:last])
                alone = bytearray(last - first)
                for one in reader.blocks(vma):
                    at = (one.address - vma.start) // PAGE
                    alone[at : at + len(one)] = one.states
                    assert entries[at : at + len(one)] == list(one.entries)
                assert states == alone
                nr_together += 1
    assert nr_together > NR_AREAS


@pytest.mark.root("CAP_SYS_ADMIN")
@steadily
def test_verify_of_many_vmas_finds_nothing_wrong(many: Program, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = look(many.pid, lambda: main(["usage", "--verify", str(many.pid)]), starts_of(many))

    assert (code, re.findall(r" no ", capsys.readouterr().out)) == (0, [])


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_capture_of_many_vmas_tells_the_same(many: Program, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("capture") / "c"
    assert main(["capture", str(many.pid), str(place)]) == 0
    with Process(many.pid) as process:
        live = process.maps("pagemap")
    with Process(many.pid, ProcFS(str(place))) as captured:
        kept = captured.maps("pagemap"), captured.maps("smaps")
    known = {start for start, _ in many.told}
    expected = [(item.vma.start, item.usage.rss, item.usage.zero, item.usage.uss) for item in live.vmas]
    for result in kept:
        found = [(item.vma.start, item.usage.rss, item.usage.zero, item.usage.uss) for item in result.vmas]
        assert [each for each in found if each[0] in known] == [each for each in expected if each[0] in known]

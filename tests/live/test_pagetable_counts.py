"""Page tables counted in the kernel: to the page what reading them gives, and refused where that cannot be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import loaded_by, program, sparse, steadily, texts
from mematlas import Process
from mematlas.errors import Error, NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel.maps import Vma
from mematlas.kernel.memory import bpfcount
from mematlas.kernel.memory.bpfcall import Bpf
from mematlas.kernel.memory.bpfcount import CountProgram, Sums
from mematlas.kernel.memory.bpfprogram import SLEEPABLE
from mematlas.kernel.memory.countmap import SEARCH_WORK, TABLE_WORK
from mematlas.kernel.memory.x86 import NR_ENTRIES, PAGE
from mematlas.kernel.pagemap import PM_PFRAME, PRESENT, SWAP, Block
from mematlas.kernel.procfs import ProcFS
from mematlas.model.pagetables import counts as tablecounts
from mematlas.model.pagetables import served
from mematlas.model.pagetables.count_access import CountAccess
from mematlas.model.pagetables.counts import TableCounter
from mematlas.model.pagetables.reader import PageTableReader
from mematlas.model.pagetables.vma_counts import VmaCounts
from mematlas.observe.sources import Sources
from test_structpage_live import LARGE, stopped_program
from victim import FIXTURES, KINDS, PLAIN_KINDS, Victim

MakeVictim = Callable[..., Victim]

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), pytest.mark.machine]

NR_TRIES = 20


@pytest.fixture(scope="module")
def access() -> Iterator[CountAccess]:
    try:
        access = CountAccess(ProcFS())
    except Error as error:
        pytest.skip(f"page tables cannot be counted in the kernel: {error}")
    with contextlib.closing(access):
        yield access


def as_told(sums: VmaCounts, nr_device: int) -> tuple[object, ...]:
    # Pages of shared memory without an entry have none of the two bits: only reading tells of each what its file holds.
    by_byte = {byte: nr for byte, nr in sums.by_byte.items() if byte & (PRESENT | SWAP)}
    return (by_byte, sums.sharers, sums.thp, sums.nr_accessed, sums.nr_dirty, sums.nr_unknown, nr_device)


def read(process: Process, vma: Vma) -> tuple[object, ...]:
    with PageTableReader(process.dir, process.page_table_access(), vma.start, vma.end) as reader:
        return as_told(reader.count(vma), reader.converter.nr_device)


def counted(process: Process, vma: Vma, access: CountAccess) -> tuple[object, ...]:
    with TableCounter(process.dir, access) as counter:
        assert counter.can_count(vma)
        sums = counter.count(vma)
        assert not counter.torn
        return as_told(sums, counter.nr_device)


def assert_equal(pid: int, access: CountAccess, wanted: Callable[[Vma], bool] = lambda vma: True) -> None:
    """Count each VMA both ways. How many map what others map as well, of libraries, changes as these come and go."""
    with Process(pid) as process:
        for vma in filter(wanted, process.address_space().vmas):
            for _ in range(NR_TRIES):
                before, found, after = read(process, vma), counted(process, vma, access), read(process, vma)
                if found in (before, after):
                    break
            assert found in (before, after), vma


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith("_swapped") or kind == "uffd_wp_swapped"])
def test_counting_finds_what_reading_finds(
    kind: str, access: CountAccess, request: pytest.FixtureRequest, victim: MakeVictim
) -> None:
    if fixture := FIXTURES.get(kind):
        request.getfixturevalue(fixture)
    target = victim(kind)
    with target.stopped(), Process(target.pid) as process, TableCounter(process.dir, access) as counter:
        area = target[kind]
        in_swap = {vma.start for vma in process.address_space().vmas if not counter.can_count(vma)}
        assert in_swap <= {area.address}
        assert_equal(target.pid, access, lambda vma: vma.start not in in_swap)


@pytest.mark.parametrize("name", LARGE)
def test_large_folios_are_counted_page_by_page(name: str, access: CountAccess) -> None:
    with stopped_program(LARGE[name]) as pid:
        assert_equal(pid, access, lambda vma: vma.kind in ("anon", "heap"))


def test_a_parent_and_its_child_are_counted_as_they_are_read(access: CountAccess, victim: MakeVictim) -> None:
    target = victim(*PLAIN_KINDS)
    child = target.fork()
    target.rewrite_half()
    with target.stopped():
        for pid in (target.pid, child.pid):
            assert_equal(pid, access)


MANY_SHARERS = """
import ctypes, json, mmap, sys
length, nr = json.loads(sys.argv[1])
file = mmap.mmap(-1, length)
file[0] = 1
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
address = ctypes.addressof(ctypes.c_char.from_buffer(file))
found = []
for _ in range(nr):
    # Of a shared mapping with an old size of 0, mremap makes another one.
    again = libc.mremap(ctypes.c_void_p(address), ctypes.c_size_t(0), ctypes.c_size_t(length), 1)
    ctypes.memset(again, 1, 1)
print(json.dumps(address), flush=True)
"""


def test_a_page_may_be_mapped_more_often_than_there_are_counters(access: CountAccess) -> None:
    with program(MANY_SHARERS, [os.sysconf("SC_PAGESIZE"), 1100]) as running, Process(running.pid) as process:
        vma = next(vma for vma in process.address_space().vmas if vma.start <= running.told < vma.end)
        with TableCounter(process.dir, access) as counter:
            sums = counter.count(vma)
        assert sums.sharers == {1101: sums.by_byte[max(sums.by_byte)]}


@steadily
def test_work_that_takes_many_calls_is_counted_whole(access: CountAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    with sparse(4 << 30, range(0, 1031 * 512, 512)) as target, Process(target.pid) as process:
        vma = next(vma for vma in process.address_space().vmas if vma.start <= target.told < vma.end)
        expected = counted(process, vma, access)
        with monkeypatch.context() as patched:
            patched.setattr(bpfcount, "BUDGET", 0)
            assert counted(process, vma, access) == expected == read(process, vma)


CROWDED = """
import ctypes, mmap, os, sys
nr_huge, size = 13, 2 << 20
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, (2 * nr_huge + 1) * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
start = -(-base // size) * size
area.madvise(mmap.MADV_HUGEPAGE, 0, start - base + nr_huge * size)
area.madvise(mmap.MADV_NOHUGEPAGE, start - base + nr_huge * size)
for at in range(start - base, len(area), 4096):
    area[at] = 1
ready, done = os.pipe()
if os.fork() == 0:
    libc.prctl(1, 9, 0, 0, 0)
    # Each of its huge pages is mapped page by page from now on, and the parent's are as before.
    for at in range(start, start + nr_huge * size, size):
        libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 1)
    os.write(done, b"x")
    sys.stdin.read()
os.read(ready, 1)
print(start, flush=True)
sys.stdin.read()
"""
"""Small and huge pages that a child maps as well: each of their frames is looked at by itself."""


@pytest.fixture
def crowded() -> Iterator[tuple[Process, Vma, Vma]]:
    """The process, and its VMAs of huge and of small pages."""
    with program(CROWDED) as running, Process(running.pid) as process:
        huge, small, *_ = (vma for vma in process.address_space().vmas if vma.end > running.told)
        yield process, huge, small


@pytest.mark.parametrize("budget", [0, 1021])
def test_a_call_ends_when_its_work_is_done(
    budget: int, crowded: tuple[Process, Vma, Vma], access: CountAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    run = Bpf.run

    def note(self: Bpf, attr: Any) -> None:
        run(self, attr)
        done.append(access.program._get("work"))

    process, *vmas = crowded
    monkeypatch.setattr(Bpf, "run", note)
    monkeypatch.setattr(bpfcount, "BUDGET", budget)
    monkeypatch.setattr(tablecounts, "MANY_LEAVES", 3)
    assert_equal(process.pid, access, vmas.__contains__)
    # What is begun is ended: a search and a table, or a huge page.
    assert budget < max(done) <= budget + SEARCH_WORK + TABLE_WORK + NR_ENTRIES // 8 + NR_ENTRIES


def test_what_an_interrupted_call_has_counted_is_not_in_the_next(
    crowded: tuple[Process, Vma, Vma], access: CountAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: CountProgram, sums: Sums) -> None:
        raise KeyboardInterrupt

    process, _, small = crowded
    add = CountProgram._add
    monkeypatch.setattr(CountProgram, "_add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        counted(process, small, access)
    monkeypatch.setattr(CountProgram, "_add", add)
    assert_equal(process.pid, access, [small].__contains__)


def test_what_changes_all_the_time_is_torn_and_the_rest_is_counted(
    access: CountAccess, victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = victim("anon_full")
    area = target["anon_full"]
    walk = CountProgram.walk

    def shaky(self: CountProgram, sums: Sums, start: int, end: int, first_at: int = 0) -> int | None:
        return None if start == area.address else walk(self, sums, start, end, first_at)

    monkeypatch.setattr(CountProgram, "walk", shaky)
    with target.stopped(), Process(target.pid) as process, TableCounter(process.dir, access) as counter:
        vmas = [vma for vma in process.address_space().vmas if vma.start == area.address]
        sums = counter.count(vmas[0])
    ((low, high),) = counter.torn
    assert low == area.address
    assert sum(sums.by_byte.values()) == (vmas[0].end - 1 - high) // process.page_size
    assert texts(counter.notes()) == ["torn: 1 ranges changed each time they were read, and are left out"]


# --- who is asked


def test_amounts_are_counted_without_numpy(victim: MakeVictim, access: CountAccess) -> None:
    for command in ("usage", "maps"):
        assert not {"numpy", "json", "re", "typing"} & loaded_by(command, str(victim("anon").pid), "--source", "tables")


def test_reading_takes_over_where_counting_cannot_be(victim: MakeVictim, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CountProgram, layout: object) -> None:
        raise NotSupported("loading a BPF program", "Linux 6.2")

    target = victim("anon", "private_file")
    with target.stopped(), Process(target.pid) as process:
        expected = process.maps("tables")
    monkeypatch.setattr(CountProgram, "__init__", refuse)
    with target.stopped(), Process(target.pid) as process:
        assert process.sources.count_access() is None
        found = process.maps("tables")
    assert [item.usage.rss for item in found.vmas] == [item.usage.rss for item in expected.vmas]
    assert found.reading.reader in ("bpf", "kcore", "module")


def test_disagreement_with_kpagecount_leaves_it_to_reading(
    access: CountAccess, victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: CountAccess, pfns: list[int]) -> list[tuple[int, bool]]:
        return [(77, False)] * len(pfns)

    target = victim("anon")
    monkeypatch.setattr(CountAccess, "_theirs", wrong)
    with pytest.raises(NotSupported, match="kpagecount"):
        CountAccess(ProcFS())
    with Process(target.pid) as process:
        assert process.sources.count_access() is None
        assert process.usage("tables").usage.rss


@pytest.mark.parametrize("kind", ["anon_full", "shared_file", "thp", "shmem_thp"])
def test_frames_of_the_target_are_compared(
    kind: str, access: CountAccess, victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: set[int] = set()
    told = CountAccess._theirs

    def note(self: CountAccess, pfns: list[int]) -> list[tuple[int, bool]]:
        noted.update(pfns)
        return told(self, pfns)

    target = victim(kind)
    area = target[kind]
    monkeypatch.setattr(CountAccess, "_theirs", note)
    monkeypatch.setattr(access, "_next", [0, 0])
    with target.stopped(), Process(target.pid) as process, TableCounter(process.dir, access) as counter:
        (vma,) = (vma for vma in process.address_space().vmas if vma.start <= area.address < vma.end)
        counter.count(vma)
        pieces = process.pages(vma.start, vma.end, source="pagemap")
        frames = {entry & PM_PFRAME for _, piece in pieces if isinstance(piece, Block) for entry in piece.entries}
    assert noted
    assert noted <= frames


def test_shared_memory_in_swap_is_left_to_reading(victim: MakeVictim, swap: object, access: CountAccess) -> None:
    target = victim("shared_anon_swapped")
    area = target["shared_anon_swapped"]
    with target.stopped(), Process(target.pid) as process, TableCounter(process.dir, access) as counter:
        (vma,) = (vma for vma in process.address_space().vmas if vma.start == area.address)
        assert not counter.can_count(vma)
        assert process.usage("tables").usage.swap == process.usage("smaps").usage.swap


def test_the_capability_that_is_missing_is_named(as_nobody: Callable[..., object]) -> None:
    def load() -> str:
        try:
            CountAccess(ProcFS()).close()
        except PermissionDenied as error:
            return error.text
        return "taken"

    assert "CAP_" in as_nobody(load).value  # type: ignore[attr-defined]


def test_a_target_that_ends_meanwhile_is_reported(access: CountAccess, victim: MakeVictim) -> None:
    target = victim("anon")
    with Process(target.pid) as process:
        vma = process.address_space().vmas[0]

        def end_meanwhile() -> None:
            with TableCounter(process.dir, access) as counter:
                target.exit()
                counter.count(vma)

        with pytest.raises(ProcessGone):
            end_meanwhile()


def test_the_reader_is_kept_for_the_next_look(victim: MakeVictim, access: CountAccess) -> None:
    target = victim("anon")
    with Process(target.pid) as process:
        process.usage("tables")
        kept = process.sources.count_access()
        process.usage("tables")
        assert kept is not None
        assert process.sources.count_access() is kept
    assert Sources(process.dir, process.stat).reader_name("tables") is None


@pytest.mark.usefixtures("access")
def test_nothing_stays_open() -> None:
    procfs = ProcFS()
    CountAccess(procfs).close()
    before = sorted(os.listdir("/proc/self/fd"))
    access = CountAccess(procfs)
    held = access.program
    access.close()
    assert sorted(os.listdir("/proc/self/fd")) == before, held


def test_a_page_that_is_no_table_any_more_is_shared_by_nobody_that_is_told(
    access: CountAccess, victim: MakeVictim
) -> None:
    """What is in its struct page in the place of that number may be half an address."""
    target = victim("anon_full")
    with Process(target.pid) as process, contextlib.closing(access.hold(process.dir)) as tables:
        address = target["anon_full"].address
        way = access.way_to(tables._pgd, address, 21)
        at, entry = way[-1]
        table = at - at % PAGE - access.base
        elsewhere = [*way[:-2], (way[-2][0], way[-2][1] ^ PAGE)]
        assert len(way) == access.levels - 1
        # A kernel without tables that are shared counts none.
        assert access.nr_shares(table, way[:-1]) == tables.nr_shares(address, 21) in (-1, 0)
        assert access.nr_shares(table, elsewhere) == -1
        assert entry


def test_who_has_no_rights_is_counted_for_in_one_section_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In what may sleep tables are freed, and their pages given to others, in the middle of a walk."""
    access = CountAccess(ProcFS())
    assert access.program.is_one_section
    access.close()
    monkeypatch.setattr(CountProgram, "kinds", (SLEEPABLE,))
    monkeypatch.setattr(served, "_counts", [])
    with contextlib.closing(CountAccess(ProcFS())) as access:
        assert not access.program.is_one_section
    with pytest.raises(NotSupported, match="under RCU"):
        served.open_counts(ProcFS())  # type: ignore[arg-type]

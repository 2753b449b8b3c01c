"""Pages that lie far apart are found many at a time, and are the same as those that are read block by block."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import (
    PAGE,
    Program,
    program,
    read_smaps,
    skip_without_tables,
    sparse,
    steadily,
    tells_huge_pages,
)
from mematlas import Process
from mematlas.analysis.grid import FOLD_FROM, Cells, absent_runs
from mematlas.analysis.kept import clip
from mematlas.errors import NotSupported, ProcessGone
from mematlas.kernel import scattered
from mematlas.kernel.maps import read_maps
from mematlas.kernel.pagemap import (
    MARK_A,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PRESENT,
    Block,
    Pacer,
    Pagemap,
    Scanner,
)
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.scattered import NEAR, ScannedRanges, Scattered, lots
from mematlas.model.pages import STATE_OF_BYTE, Hole, PageReader
from mematlas.observe.drawings import Folds

TIB = 1 << 40
PER_NEAR = NEAR // PAGE
SINGLES = [page * 1543 for page in range(1301)]
"""More than two calls find, each in a table of its own."""
CLUSTERS = [start * 9001 + 2 * page for start in range(67) for page in range(31)]
CROWDED = [1 << 21 | page for page in range(0, 4001, 3)]
RUNS = [(1 << 22) + start * 5003 + page for start in range(41) for page in range(23)]
DENSE = range(1 << 23, (1 << 23) + 3001)
PAGES = sorted({*SINGLES, *(1 << 20 | page for page in CLUSTERS), *CROWDED, *RUNS, *DENSE, (1 << 24) - 1})
SIZE = PAGE << 24

regions = st.lists(
    st.tuples(st.integers(1, 3 * PER_NEAR), st.integers(1, 3), st.sampled_from([PAGE_IS_PRESENT, PAGE_IS_PFNZERO])),
    min_size=1,
    max_size=60,
)
near = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 3), st.sampled_from([PAGE_IS_PRESENT, PAGE_IS_PFNZERO])),
    min_size=1,
    max_size=300,
)


@pytest.fixture(scope="module")
def target() -> Iterator[Program]:
    with sparse(SIZE, PAGES) as running:
        yield running


@pytest.fixture
def scan(target: Program) -> None:
    with ProcFS().process(target.pid) as process, Pagemap(process) as pagemap:
        try:
            pagemap.shows(target.told)
        except NotSupported as why:
            pytest.skip(str(why))


def found_in(gaps: list[tuple[int, int, int]]) -> tuple[ScannedRanges, dict[int, int]]:
    """Return regions with these gaps, lengths and kinds as a call finds them, and the kind of each page."""
    words: list[int] = []
    kinds: dict[int, int] = {}
    at = 0
    for gap, length, kind in gaps:
        at += gap
        words += [at * PAGE, (at + length) * PAGE, kind | PAGE_IS_PRESENT]
        kinds |= dict.fromkeys(range(at, at + length), kind)
        at += length
    return ScannedRanges(memoryview(struct.pack(f"={len(words)}Q", *words)).cast("Q"), PAGE), kinds


def scattered_of(gaps: list[tuple[int, int, int]]) -> tuple[Scattered, dict[int, int]]:
    """Return pages that lie apart, and the state of each."""
    _, kinds = found_in(gaps)
    states = bytes(PRESENT | kind % 7 for kind in kinds.values())
    raw = struct.pack(f"={len(kinds)}Q", *kinds)
    starts = [
        end * PAGE
        for end in accumulate((length + gap for (_, length, _), (gap, _, _) in pairwise(gaps)), initial=gaps[0][0])
    ]
    lot = Scattered(starts, [length for _, length, _ in gaps], memoryview(raw), states)
    return lot, dict(zip(kinds, states, strict=True))


def states_of(found: Iterator[Block | Scattered]) -> dict[int, int]:
    """Return the state of each page that is anything."""
    states: dict[int, int] = {}
    for each in found:
        for block in each.blocks() if isinstance(each, Scattered) else [each]:
            numbers = range(block.address // PAGE, block.address // PAGE + len(block))
            assert states.keys().isdisjoint(numbers)
            states |= dict(zip(numbers, block.states, strict=True))
    return {number: state for number, state in states.items() if state}


@given(st.one_of(regions, near))
def test_each_page_found_is_in_one_range_with_its_mark(gaps: list[tuple[int, int, int]]) -> None:
    found, kinds = found_in(gaps)
    numbers = numbers_of(found)
    assert numbers == sorted(set(numbers))
    assert max(found.lengths, default=0) < PER_NEAR
    taken = {number for number in kinds if found.dense is None or number * PAGE < found.dense}
    assert set(numbers) & kinds.keys() == taken
    assert found.are_near or set(numbers) == taken
    marks = found.zeros() or bytes(len(numbers))
    marked = {number for number, mark in zip(numbers, marks, strict=True) if mark == MARK_A}
    assert marked == {number for number in taken if kinds[number] == PAGE_IS_PFNZERO}


@given(st.one_of(regions, near), st.integers(0, 299), st.sampled_from(["huge", "long"]))
def test_what_is_dense_is_left_to_blocks(gaps: list[tuple[int, int, int]], place: int, why: str) -> None:
    place %= len(gaps)
    gap, length, kind = gaps[place]
    gaps[place] = (gap, length, kind | PAGE_IS_HUGE) if why == "huge" else (gap, PER_NEAR, kind)
    start = (sum(gap + length for gap, length, _ in gaps[:place]) + gap) * PAGE
    found, _ = found_in(gaps)

    assert found.dense is not None
    # With it goes what it would have been read with.
    assert start - 2 * NEAR < found.dense <= start
    assert all(number * PAGE < found.dense for number in numbers_of(found))


def numbers_of(found: ScannedRanges) -> list[int]:
    """Return the number of each page that would be read."""
    both = zip(found.starts, found.lengths, strict=True)
    return [start // PAGE + page for start, length in both for page in range(length)]


@given(regions, st.integers(1, 4000), st.integers(0, 500))
def test_cells_hold_what_lies_apart_as_if_it_were_blocks(
    gaps: list[tuple[int, int, int]], cell_pages: int, place: int
) -> None:
    lot, states = scattered_of(gaps)
    cells, slowly = (Cells(place + max(states) - min(states) + 1, cell_pages) for _ in range(2))
    cells.add_scattered(place, lot, PAGE)
    for block in lot.blocks():
        slowly.add(place + (block.address - lot.address) // PAGE, block)

    assert cells.counted == slowly.counted


@given(regions, st.integers(1, 5000))
def test_gaps_are_those_between_pages(gaps: list[tuple[int, int, int]], least: int) -> None:
    lot, states = scattered_of(gaps)
    numbers = sorted(states)
    wide = [((low + 1) * PAGE, high * PAGE) for low, high in pairwise(numbers) if high - low > least]

    assert lot.gaps(PAGE, least) == wide


@given(regions, st.data())
def test_a_part_of_what_was_kept_has_the_pages_between(gaps: list[tuple[int, int, int]], data: st.DataObject) -> None:
    lot, states = scattered_of(gaps)
    edges = sorted(data.draw(st.sampled_from([*lot.starts, lot.end(PAGE)])) for _ in range(2))
    part = clip(lot, edges[0], edges[1], PAGE)

    within = {number: state for number, state in states.items() if edges[0] <= number * PAGE < edges[1]}
    assert states_of(iter([part] if part else [])) == within  # type: ignore[list-item]


def test_long_runs_end_where_pages_lie_apart() -> None:
    long = FOLD_FROM // PAGE
    gaps = [(5000, 1, PAGE_IS_PRESENT), (long - 1, 1, PAGE_IS_PRESENT), (long, 2, PAGE_IS_PRESENT)]
    lot, _ = scattered_of(gaps)
    pieces: list[Block | Scattered | Hole] = [Hole(0, 5000, 0), lot, Hole(lot.end(PAGE), long, 0)]

    edges = list(accumulate([5000, 1, long - 1, 1, long, 2, long]))
    assert list(absent_runs(pieces, PAGE)) == [
        (low * PAGE, high * PAGE) for low, high in ((0, 5000), (edges[3], edges[4]), (edges[5], edges[6]))
    ]


# --- of a running process


@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("pacer", [None, Pacer()], ids=["unpaced", "paced"])
def test_lots_hold_the_pages_that_blocks_hold(pacer: Pacer | None, exclusive: bool, target: Program) -> None:
    start, end = target.told, target.told + SIZE
    with ProcFS().process(target.pid) as process, Pagemap(process, pacer) as pagemap:
        found = list_lots(pagemap, start, end, exclusive)
        by_block = states_of(pagemap.blocks(start, end))
    # Each shape begins to be read so after some blocks.
    assert len([lot for lot in found if isinstance(lot, Scattered)]) > 10
    by_lot = states_of(iter(found))
    assert by_lot.keys() == by_block.keys() == {start // PAGE + page for page in PAGES}
    if exclusive:
        assert by_lot == by_block


def list_lots(pagemap: Pagemap, start: int, end: int, exclusive: bool) -> list[Block | Scattered]:
    """Return the lots, of blocks a copy."""
    return [
        lot if isinstance(lot, Scattered) else Block(lot.address, memoryview(bytes(lot.raw)), lot.states)
        for lot in lots(pagemap, start, end, exclusive)
    ]


MIXED = """
import ctypes, json, mmap, os, signal, sys
size, step = json.loads(sys.argv[1])
P = mmap.PAGESIZE
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area.madvise(15)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
nr = size // step
for number in range(nr):
    at = number * step
    if number % 7:
        area[at] = 1
    else:
        area[at]
    if number % 11 == 3:
        area[at + P]
    if number % 13 == 4:
        area[at + 3 * P] = 1
child = os.fork()
if child == 0:
    libc.prctl(1, signal.SIGKILL)
    while True:
        signal.pause()
for number in range(0, nr, 5):
    area[number * step] = 2
print(json.dumps([address, child]), flush=True)
"""
"""Maps an area with a page in each step, of which some are the zero page; shares them with a child, but for some."""


@pytest.fixture(scope="module")
def mixed() -> Iterator[Program]:
    with program(MIXED, [8 << 30, 4 << 20]) as running:
        yield running


def fields(usage: object) -> dict[str, int | None]:
    names = ("rss", "pss", "uss", "swap", "anon", "file", "shmem", "thp", "zero", "nr_present", "nr_exclusive")
    return {name: getattr(usage, name) for name in names}


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("who", ["parent", "child"])
def test_pages_that_lie_apart_are_counted_as_smaps_counts_them(
    who: str, mixed: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, child = mixed.told
    read = []
    read_lot = scattered.read_lot

    def counted(pagemap: Pagemap, found: ScannedRanges, exclusive: bool) -> Scattered:
        read.append(found)
        return read_lot(pagemap, found, exclusive)

    monkeypatch.setattr(scattered, "read_lot", counted)
    with Process(mixed.pid if who == "parent" else child) as process:
        by_pages, by_smaps = (
            next(item.usage for item in process.maps(source).vmas if item.vma.start == address)
            for source in ("pagemap", "smaps")
        )
        told = read_smaps(process.pid)[address]
    assert fields(by_pages) == fields(by_smaps)
    assert (by_pages.rss, by_pages.pss, by_pages.uss) == (
        told["Rss"],
        told["Pss"],
        told["Private_Clean"] + told["Private_Dirty"],
    )
    assert by_pages.zero
    assert read or not tells_huge_pages()  # which PAGEMAP_SCAN does too


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", ["pagemap", "tables"])
def test_a_reader_says_the_same_of_pages_apart_as_of_blocks(source: str, mixed: Program) -> None:
    address, child = mixed.told
    with Process(child) as process:
        if source == "tables":
            skip_without_tables(process)
        vma = next(vma for vma in read_maps(process.dir) if vma.start == address)
        with process.sources.open_pages(source, (vma.start, vma.end)) as reader:
            by_lot = states_of(reader.lots(vma))
            by_block = states_of(reader.blocks(vma))
            some = states_of(reader.lots(vma, vma.start + (1 << 30) + PAGE, vma.end - (1 << 30)))
    assert by_lot == by_block
    assert some == {
        number: state
        for number, state in by_block.items()
        if vma.start + (1 << 30) + PAGE <= number * PAGE < vma.end - (1 << 30)
    }
    assert {"present", "zero"} <= {STATE_OF_BYTE[state] for state in by_lot.values()}


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("most", [None, 0], ids=["kept", "too much to keep"])
@pytest.mark.parametrize("exclusive", [True, False])
@steadily
def test_what_was_read_to_find_folds_is_drawn_as_if_read_again(
    exclusive: bool, most: int | None, target: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:
        monkeypatch.setattr("mematlas.analysis.kept.MOST", most)
    with Process(target.pid) as process:
        folds = process.untouched(exclusive=exclusive)
        assert (folds.kept is None) == (most == 0)
        assert folds
        drawn, again = (process.density(117, folds=runs, exclusive=exclusive).cells for runs in (folds, list(folds)))
        strips, strips_again = (process.grid(folds=runs).strips for runs in (folds, list(folds)))

    def classes(cells: Cells, told: bool = True) -> list[dict[str, int]]:
        found = [cells.classes(cell) for cell in range(cells.nr_cells)]
        return found if told else [each | {"own": each["own"] + each["shared"], "shared": 0} for each in found]

    assert classes(drawn, exclusive) == classes(again, exclusive)
    assert [classes(each.cells) for each in strips] == [classes(each.cells) for each in strips_again]
    nr_present = sum(each["own"] + each["shared"] for each in classes(drawn))
    assert nr_present > len(PAGES)


def test_folds_of_something_else_are_no_reading_of_this(target: Program) -> None:
    with Process(target.pid) as process:
        vmas = process.address_space().vmas
        half = target.told + SIZE // 2
        folds = process.untouched(target.told, half)
        cells = process.density(10, target.told, target.told + SIZE, folds=Folds([], folds.kept)).cells
    assert any(vma.start <= target.told < vma.end for vma in vmas)
    nr_present = sum(cells.classes(cell)["own"] + cells.classes(cell)["shared"] for cell in range(cells.nr_cells))
    assert nr_present == len(PAGES)


@pytest.mark.usefixtures("scan")
def test_process_that_ends_while_its_pages_are_found_is_gone() -> None:
    with sparse(SIZE, SINGLES) as target, ProcFS().process(target.pid) as process:
        reader = PageReader(process)
        found = reader.lots(next(vma for vma in read_maps(process) if vma.start == target.told))
        while not isinstance(next(found), Scattered):
            pass
        target.kill()
        with pytest.raises(ProcessGone):
            list(found)
        reader.close()


def test_without_scan_pages_apart_are_read_block_by_block(target: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_scan(*words: object) -> int:
        raise NotSupported("PAGEMAP_SCAN", "Linux 6.7")

    monkeypatch.setattr(Scanner, "_call", no_scan)
    start, end = target.told, target.told + 301 * 1543 * PAGE
    with ProcFS().process(target.pid) as process, Pagemap(process) as pagemap:
        found = states_of(lots(pagemap, start, end))
    assert found.keys() == {start // PAGE + page for page in SINGLES[:301]}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_frames_are_the_same_where_pages_lie_apart(mixed: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> tuple[int, int, dict[int, int]]:
        with Process(mixed.pid) as process:
            sizes = process.usage("smaps", folios=True).folios
            assert sizes is not None
            return process.distinct("pagemap").distinct, process.if_ended("pagemap").freed, sizes.by_size

    apart = look()
    monkeypatch.setattr(scattered, "NR_LONELY", 1 << 30)
    assert apart == look()

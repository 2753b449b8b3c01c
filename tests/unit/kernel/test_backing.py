"""What the file behind shared memory knows: three ways to ask that must agree, and who may not ask."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Outcome
from helpers import PAGE, skip_without_tables, tables_unread, texts
from mematlas import Process, ProcFS
from mematlas.cli import main
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.kernel.backing import (
    SWAP_CACHE_UNSEEN,
    Backing,
    KnownBackings,
    cachestat_ranges,
    call_cachestat,
    data_ranges,
    has_cachestat,
    mincore_ranges,
    pages_of_link,
    read_backing,
)
from mematlas.kernel.maps import Vma
from mematlas.kernel.pagemap import CACHED, SWAPPED_FILE
from mematlas.words import Source
from victim import Area, Victim

NOBODY = 65534
Start = Callable[..., Victim]


def no_cachestat(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Answer as a kernel before v6.5."""
    raise NotSupported("cachestat", "Linux 6.5")


@given(st.lists(st.sampled_from([0, CACHED, SWAPPED_FILE]), min_size=1, max_size=70))
def test_halving_finds_every_page(marks: list[int]) -> None:
    calls = []

    def cachestat(fd: int, offset: int, size: int) -> tuple[int, int]:
        part = marks[offset // PAGE : (offset + size) // PAGE]
        calls.append(size)
        return part.count(CACHED), part.count(SWAPPED_FILE)

    ranges = cachestat_ranges(-1, 0, len(marks) * PAGE, PAGE, cachestat)
    found = bytearray(len(marks))
    for low, high, mark in ranges:
        found[low // PAGE : high // PAGE] = bytes((mark,)) * ((high - low) // PAGE)
    assert list(found) == marks
    assert all(one[1] < two[0] or one[2] != two[2] for one, two in pairwise(ranges))
    assert len(calls) < 2 * len(marks)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=10), st.integers(0, 80))
def test_ranges_are_found_by_address_and_mark_empty_entries_alone(steps: list[tuple[int, int]], at: int) -> None:
    ranges = []
    place = 0
    for gap, size in steps:
        ranges.append(((place + gap) * PAGE, (place + gap + size) * PAGE, SWAPPED_FILE))
        place += gap + size
    inside = {page for low, high, _ in ranges for page in range(low // PAGE, high // PAGE)}
    backing = Backing(ranges)

    assert backing.find(at * PAGE) == min((page * PAGE for page in inside if page >= at), default=None)
    marked = backing.mark(at * PAGE, b"\0\x81" * 10, PAGE)
    wanted = [0x81 if n % 2 else SWAPPED_FILE if at + n in inside else 0 for n in range(20)]
    assert list(marked) == wanted


@pytest.fixture
def swapped(swap: Path, victim: Start) -> Iterator[tuple[Area, Process]]:
    made = victim("shared_anon_swapped")
    with made.stopped(), Process(made.pid) as process:
        yield made["shared_anon_swapped"], process


def pages_of(backing: Backing, area: Area) -> dict[int, int]:
    """Return the mark of each page that the file holds."""
    return {page: mark for low, high, mark in backing.ranges for page in range(low, high, area.page_size)}


@pytest.mark.root("CAP_SYS_ADMIN")
def test_cachestat_and_mincore_agree_but_for_the_swap_cache(
    swapped: tuple[Area, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_cachestat():
        pytest.skip("needs cachestat")
    area, process = swapped
    vma = process.address_space().find(area.address)
    assert vma

    newest = pages_of(read_backing(process.dir, vma), area)
    monkeypatch.setattr("mematlas.kernel.backing.call_cachestat", no_cachestat)
    older = pages_of(read_backing(process.dir, vma), area)
    truth = {"shmem_swapped": SWAPPED_FILE, "present": CACHED}
    assert newest == {area.page_address(n): truth[state] for n, state in enumerate(area.states) if state in truth}
    # mincore takes a page that was written to swap and not freed yet for one in RAM.
    assert older.keys() == newest.keys()
    assert all(newest[page] == SWAPPED_FILE for page, mark in older.items() if mark == SWAPPED_FILE)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_no_kernel_shows_what_was_swapped_out_as_never_touched(
    swapped: tuple[Area, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    area, process = swapped
    monkeypatch.setattr("mematlas.kernel.backing.call_cachestat", no_cachestat)

    found = process.translate([area.page_address(page) for page in range(area.nr_pages)])
    states = [one.state for one in found]
    assert {"swapped", "cached"} >= set(states[:41])
    assert states[41:] == list(area.states[41:])


@pytest.mark.root("CAP_SYS_ADMIN")
def test_without_cachestat_every_source_says_what_is_uncertain(
    swapped: tuple[Area, Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    area, process = swapped
    monkeypatch.setattr("mematlas.kernel.backing.call_cachestat", no_cachestat)
    sources: list[Source] = ["pagemap"] if tables_unread(process) else ["pagemap", "tables"]
    for source in sources:
        assert SWAP_CACHE_UNSEEN in process.maps(source).reading.notes

    assert main(["usage", str(area.pid), "--verify"]) == 0
    assert main(["capture", str(area.pid), str(tmp_path / "saved")]) == 0
    monkeypatch.undo()
    assert SWAP_CACHE_UNSEEN.text in capsys.readouterr().err
    with Process(area.pid, ProcFS(str(tmp_path / "saved"))) as saved:
        assert SWAP_CACHE_UNSEEN in saved.maps("pagemap").reading.notes
    assert main(["usage", str(tmp_path / "saved"), "--verify"]) == 0


@pytest.mark.root
def test_without_the_right_to_ask_it_is_unknown_and_never_absent(
    swap: Path, victim: Start, as_nobody: Callable[..., Outcome]
) -> None:
    area = victim("shared_anon_swapped", uid=NOBODY)["shared_anon_swapped"]

    def look() -> tuple[object, ...]:
        with Process(area.pid) as process:
            result = process.maps("pagemap")
            found = next(item for item in result.vmas if item.vma.start == area.address)
            state = process.translate([area.address])[0].state
            return found.usage.nr_swapped, found.usage.swap, found.first_state, state, texts(result.reading.notes)

    nr_swapped, swap_bytes, first, state, notes = as_nobody(look).value
    assert (nr_swapped, swap_bytes, first, state) == (None, None, "unknown", "unknown")
    assert any("CAP_CHECKPOINT_RESTORE" in note for note in notes)


@pytest.mark.root
@pytest.mark.parametrize("source", ["smaps", "pagemap", "tables"])
@pytest.mark.parametrize("state", ["cached", "absent"])
def test_first_page_without_an_entry_is_what_its_file_says(source: Source, state: str) -> None:
    fd = os.memfd_create("first-page")
    try:
        os.ftruncate(fd, 7 * PAGE)
        os.pwrite(fd, b"x", 0 if state == "cached" else 3 * PAGE)
        with mmap.mmap(fd, 7 * PAGE) as memory, Process(os.getpid()) as process:
            memory[5 * PAGE] = 1  # another page has an entry
            if source == "tables":
                skip_without_tables(process)
            (found,) = (item for item in process.maps(source).vmas if item.vma.path.startswith("/memfd:first-page"))
        assert found.first_state == state
    finally:
        os.close(fd)


@pytest.mark.parametrize("offset", [0, 3])
def test_file_in_memory_is_all_cached_from_any_offset(offset: int) -> None:
    fd = os.memfd_create("x")
    try:
        os.ftruncate(fd, 20 * PAGE - 100)
        os.pwrite(fd, b"x", 5 * PAGE)
        os.pwrite(fd, b"x", 19 * PAGE)
        wanted = [(5 * PAGE, 6 * PAGE, CACHED), (19 * PAGE, 20 * PAGE, CACHED)]
        size = 40 * PAGE
        assert mincore_ranges(fd, offset * PAGE, size, PAGE) == wanted
        assert cachestat_ranges(fd, offset * PAGE, size, PAGE, call_cachestat) == wanted
    except NotSupported as why:
        pytest.skip(str(why))
    finally:
        os.close(fd)


def test_holes_are_no_data() -> None:
    fd = os.memfd_create("x")
    try:
        os.ftruncate(fd, 1 << 40)
        assert data_ranges(fd, 0, 1 << 40) == []
        os.pwrite(fd, b"x", 1 << 30)
        assert data_ranges(fd, 0, 1 << 40) == [(1 << 30, (1 << 30) + PAGE)]
    finally:
        os.close(fd)


class Refusal:
    """A C library whose system calls fail."""

    def syscall(self, *arguments: object) -> int:
        return -1


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.EPERM, PermissionDenied), (errno.ENOSYS, NotSupported), (errno.EOPNOTSUPP, NotSupported)],
)
def test_refusals_of_cachestat_have_their_reason(
    code: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mematlas.kernel.cachestat.libc", Refusal)
    monkeypatch.setattr("ctypes.get_errno", lambda: code)

    with pytest.raises(error):
        call_cachestat(0, 0, PAGE)


SHARED = Vma(
    start=0x10000, end=0x10000 + 8 * PAGE, perms="rw-s", offset=0, dev="00:01", inode=7, path="/memfd:a", kind="shmem"
)


def test_what_several_processes_map_is_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def answer(process: object, vma: Vma, start: int, end: int, cached: bool) -> Backing:
        asked.append((start, end))
        return Backing([(start + PAGE, start + 3 * PAGE, SWAPPED_FILE)])

    monkeypatch.setattr("mematlas.kernel.backing.read_backing", answer)
    known: dict[tuple[str, int, int, int], Backing] = {}
    found = []
    with ProcFS().process(os.getpid()) as process:
        for start in (0x10000, 0x90000):
            vma = replace(SHARED, start=start, end=start + 8 * PAGE)
            backing = KnownBackings(process, known).of(vma)
            assert backing
            found.append([(low - start, high - start, mark) for low, high, mark in backing.ranges])

    assert asked == [(0x10000, 0x10000 + 8 * PAGE)]
    assert found[0] == found[1] == [(PAGE, 3 * PAGE, SWAPPED_FILE)]


def test_another_part_of_the_same_file_is_asked_about() -> None:
    known: dict[tuple[str, int, int, int], Backing] = {}
    with ProcFS().process(os.getpid()) as process, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mematlas.kernel.backing.read_backing", lambda *args, **more: Backing([]))
        for offset in (0, 8 * PAGE):
            KnownBackings(process, known).of(replace(SHARED, offset=offset))

    assert len(known) == 2


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A device may do something then; and whoever writes to a FIFO would wait for us no more."""
    os.mkfifo(tmp_path / "fifo")
    places = [os.open(path, os.O_PATH) for path in (tmp_path / "fifo", "/dev/zero", tmp_path)]
    try:
        with ProcFS().process(os.getpid()) as process:
            for place in places:
                with pytest.raises(NotSupported, match="a regular file"):
                    pages_of_link(process, f"fd/{place}")
    finally:
        for place in places:
            os.close(place)

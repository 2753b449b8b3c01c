"""Accesses that a program tracks by userfaultfd (RWP, Linux 7.3): PAGE_IS_ACCESSED, where the kernel knows it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from helpers import PAGE, Program, program, texts
from inside import Facts
from mematlas import Process
from mematlas.cli import main
from mematlas.kernel.pagemap import Pagemap
from mematlas.words import Source
from test_swap_devices import zram

pytestmark = pytest.mark.guest

NR_PAGES = 61
USED = [0, 1, 2, 17, 40, 60]
PROGRAM = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, 61 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(15)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
def touch(pages):
    for page in pages:
        area[page * mmap.PAGESIZE] += 1
def call(request, *words):
    if libc.ioctl(fd, ctypes.c_ulong(request), (ctypes.c_uint64 * len(words))(*words)):
        print(json.dumps(os.strerror(ctypes.get_errno())), flush=True)
        sys.exit(1)
touch(range(61))
fd = libc.syscall(323 if os.uname().machine == "x86_64" else 282, os.O_CLOEXEC | 1)
call(0xC018AA3F, 0xAA, 1 << 17 | 1 << 18, 0)
call(0xC020AA00, address, len(area), 1 << 3, 0)
call(0xC018AA09, address, len(area), 1)
touch(json.loads(sys.argv[1]))
print(json.dumps(address), flush=True)
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tracker() -> Iterator[Program]:
    with Process("self") as process, Pagemap(process.dir) as pagemap:
        if not pagemap.tells_accessed():
            pytest.skip("userfaultfd RWP: needs Linux 7.3")
    with program(PROGRAM, USED) as running:
        yield running


def answer(capsys: Capture, *words: object) -> dict[str, object]:
    assert main([*map(str, words), "--json"]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_pages_lists_those_that_were_accessed_since(tracker: Program, capsys: Capture) -> None:
    area = f"{tracker.told:#x}+{NR_PAGES * PAGE}"
    told = answer(capsys, "pages", tracker.pid, area, "--accessed", "--source", "pagemap")
    rows = told["rows"]
    assert isinstance(rows, list)
    assert [(int(row["address"], 16) - tracker.told) // PAGE for row in rows] == USED
    assert all("accessed" in row["flags"] for row in rows)


def test_maps_counts_them_with_a_note(tracker: Program) -> None:
    with Process(tracker.pid) as process:
        result = process.maps("smaps")
    assert {item.start: item.nr_accessed for item in result.vmas if item.nr_accessed is not None} == {
        tracker.told: len(USED)
    }
    assert "tracked-accesses" in {note.code for note in result.reading.notes}


def test_every_source_counts_protected_memory_alike(tracker: Program, facts: Facts) -> None:
    sources: tuple[Source, ...] = ("smaps", "pagemap", "tables") if facts.has_tables else ("smaps", "pagemap")
    with Process(tracker.pid) as process:
        found = [next(item for item in process.maps(each).vmas if item.start == tracker.told) for each in sources]
    assert {(item.rss, item.pss, item.uss, item.swap, item.nr_exclusive) for item in found} == {
        (NR_PAGES * PAGE, NR_PAGES * PAGE, NR_PAGES * PAGE, 0, NR_PAGES)
    }


def test_coldest_pages_are_those_that_were_not_accessed(tracker: Program, capsys: Capture) -> None:
    untouched = [page for page in range(NR_PAGES) if page not in USED]
    with zram():
        area = f"{tracker.told:#x}+{NR_PAGES * PAGE}"
        told = answer(capsys, "pageout", tracker.pid, area, "--coldest", 29)
        notes = told["notes"]
        assert isinstance(notes, list)
        (note,) = (text for text in texts(notes) if text.startswith("the coldest"))
        assert "by what the program tracks itself (userfaultfd RWP)" in note
        with Process(tracker.pid) as process:
            found = process.translate(range(tracker.told, tracker.told + NR_PAGES * PAGE, PAGE))
        assert [page for page, each in enumerate(found) if each.state == "swapped"] == untouched[:29]
        tracker.kill()

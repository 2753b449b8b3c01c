"""How long looking holds up a target: measured where it happens, estimated by what there is, and never claimed."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program, read_smaps, tells_huge_pages, texts
from mematlas import Process
from mematlas.kernel import procfs
from mematlas.model.stalls import hold_of, samples_of, smaps_hold
from victim import Victim

HUGE = PAGE // 8 * PAGE
SIZE = max(64 << 20, 4 * HUGE)
FILLED = """
import ctypes, json, mmap, sys
size, advice = json.loads(sys.argv[1])
huge = mmap.PAGESIZE // 8 * mmap.PAGESIZE
area = mmap.mmap(-1, size + 2 * huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
first = -ctypes.addressof(ctypes.c_char.from_buffer(area)) % huge
area.madvise(advice)
for at in range(first, first + size, mmap.PAGESIZE):
    area[at] = 1
print(json.dumps(ctypes.addressof(ctypes.c_char.from_buffer(area))), flush=True)
"""
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15


def test_hold_is_what_the_reads_took(monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = os.read, []

    def counted(fd: int, size: int) -> bytes:
        part = read(fd, size)
        sizes.append(len(part))
        return part

    with Process(os.getpid()) as process:
        monkeypatch.setattr(procfs, "perf_counter", itertools.count().__next__)
        monkeypatch.setattr(os, "read", counted)
        process.dir.read("smaps")
        monkeypatch.undo()
        hold = process.dir.holds["smaps"]
    # Each read took one tick of that clock.
    assert (hold.total_s, hold.longest_s) == (len(sizes), 1)
    assert len(sizes) > 2


@pytest.mark.root("CAP_SYS_ADMIN")
def test_a_capture_holds_up_nobody(victim: Callable[..., Victim], tmp_path: Path) -> None:
    one = victim("anon")
    assert "holding up the target for" in mematlas("usage", one.pid, "--verify").stderr
    assert mematlas("capture", one.pid, tmp_path / "saved").returncode == 0
    done = mematlas("usage", tmp_path / "saved", "--verify")
    assert (done.returncode, "holding up" in done.stderr + done.stdout) == (0, False)


@pytest.fixture
def told() -> None:
    """Which pages are huge is said, else all count as small ones."""
    if not tells_huge_pages():
        pytest.skip("needs Linux 6.7: PAGEMAP_SCAN")


def test_huge_pages_make_smaps_cheap(told: None) -> None:
    with program(FILLED, [SIZE, MADV_NOHUGEPAGE]) as small, Process(small.pid) as process:
        of_small = smaps_hold(process.dir)
    with program(FILLED, [SIZE, MADV_HUGEPAGE]) as huge, Process(huge.pid) as process:
        if sum(fields.get("AnonHugePages", 0) for fields in read_smaps(huge.pid).values()) < SIZE * 3 // 4:
            pytest.skip("no memory in one piece for huge pages")
        of_huge = smaps_hold(process.dir)
        enough = smaps_hold(process.dir, enough=1.0)
    assert of_small >= hold_of(SIZE, PAGE)
    assert of_huge < of_small / 3
    assert enough >= hold_of(SIZE, PAGE)  # nobody asked


def test_huge_pages_count_as_small_ones_where_nobody_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mematlas.kernel.pagemap.PAGEMAP_SCAN", 0)  # as before Linux 6.7
    with program(FILLED, [SIZE, MADV_HUGEPAGE]) as huge, Process(huge.pid) as process:
        assert smaps_hold(process.dir) >= hold_of(SIZE, PAGE)


def test_huge_pages_that_a_fork_shares_are_looked_at_one_by_one(told: None) -> None:
    forking = FILLED.replace("print(", "import os\nif os.fork():\n    print(")
    with program(FILLED, [SIZE, MADV_HUGEPAGE]) as alone, Process(alone.pid) as process:
        of_alone = smaps_hold(process.dir)
    with program(forking, [SIZE, MADV_HUGEPAGE]) as shared, Process(shared.pid) as process:
        if sum(fields.get("AnonHugePages", 0) for fields in read_smaps(shared.pid).values()) < SIZE * 3 // 4:
            pytest.skip("no memory in one piece for huge pages")
        of_shared = smaps_hold(process.dir)
    assert of_shared > 3 * of_alone


def test_places_are_spread_evenly_over_what_is_mapped() -> None:
    assert samples_of([(0, 4 << 30)], 2, PAGE) == [(0, 1 << 30), (2 << 30, 3 << 30)]
    assert samples_of([], 4, PAGE) == samples_of([(0, 3 * PAGE)], 4, PAGE) == []
    assert all(start % PAGE == 0 for start, _ in samples_of([(0, 11 * PAGE), (40 * PAGE, 47 * PAGE)], 5, PAGE))


def test_own_start_is_not_compared() -> None:
    done = mematlas("usage", "self", "--verify", "--format", "json")
    assert done.returncode == 0, done.stdout
    rss = next(row for row in json.loads(done.stdout)["rows"] if row["measure"] == "rss")
    assert abs(rss["difference"]) < 4 << 20


@pytest.mark.root
def test_who_sees_no_frames_gets_all_from_smaps_and_each_reason_once(
    victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("anon", "shared_anon", "memfd", "tmpfs", uid=65534)

    def look() -> tuple[str, bool, list[str], list[str]]:
        with Process(one.pid) as process:
            by_default, by_pagemap = process.usage("auto", max_stall=0.0), process.maps("pagemap")
        usage = by_default.usage
        known = None not in (usage.pss, usage.swap, usage.uss)
        return by_default.reading.source, known, texts(by_default.reading.notes), texts(by_pagemap.reading.notes)

    done = as_nobody(look)
    assert done.value, done.stderr
    source, known, notes, of_pagemap = done.value
    assert (source, known) == ("smaps", True)
    assert sum(note.startswith("read from smaps, which holds up the target") for note in notes) == 1
    assert sum("swapped and untouched pages of 3 shared VMAs unknown" in note for note in of_pagemap) == 1
    assert sum("shared VMA" in note for note in of_pagemap) == 1

"""Programs that reserve far more addresses than they use: pictures show what is used, and say what they fold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers import PAGE, Program, mematlas, program, skip_without_tables
from mematlas import Process
from mematlas.kernel.pagemap import SEEK_SPAN, Scanner
from mematlas.observe.sources import PAGE_SOURCES
from mematlas.words import PagesFrom, Source

TIB, GIB = 1 << 40, 1 << 30
USED = ((3 * GIB, 2003), (20 * GIB, 499))
"""Of a heap of 64 GiB: where it is used, and how many pages."""
COMMITTED = 1009
"""Pages of the reservation that may be written to; every one of them is."""

RESERVER = """
import ctypes, json, mmap, sys
tib, gib, used, committed = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def take(size, rights):
    at = libc.mmap(None, ctypes.c_size_t(size), rights, 0x4022, -1, ctypes.c_long(0))  # PRIVATE, ANONYMOUS, NORESERVE
    assert at != ctypes.c_void_p(-1).value
    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), 15)  # no huge pages
    return at
reserved = take(3 * tib, 0)
libc.mprotect(ctypes.c_void_p(reserved + tib), ctypes.c_size_t(committed * mmap.PAGESIZE), 3)
ctypes.memset(reserved + tib, 1, committed * mmap.PAGESIZE)
heap = take(64 * gib, 3)
for offset, nr_pages in used:
    ctypes.memset(heap + offset, 1, nr_pages * mmap.PAGESIZE)
print(json.dumps([reserved, heap]), flush=True)
"""


@pytest.fixture(scope="module")
def reserver() -> Iterator[Program]:
    with program(RESERVER, [TIB, GIB, USED, COMMITTED]) as target:
        yield target


def rows_of(*words: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(mematlas(*words, "--json").stdout)["rows"]
    return rows


def spans(reserver: Program) -> list[tuple[int, int]]:
    """Return where the heap and what is committed are used."""
    reserved, heap = reserver.told
    used = [(heap + offset, nr_pages) for offset, nr_pages in USED] + [(reserved + TIB, COMMITTED)]
    return sorted((start, start + nr_pages * PAGE) for start, nr_pages in used)


@pytest.mark.root("CAP_SYS_ADMIN")
@pytest.mark.parametrize("source", PAGE_SOURCES)
def test_folds_leave_what_is_used(source: PagesFrom, reserver: Program) -> None:
    with Process(reserver.pid) as process:
        if source == "tables":
            skip_without_tables(process)
        folds = process.untouched(source=source)
        size = sum(vma.size for vma in process.address_space().vmas)

    left = [(high, low) for (_, high), (low, _) in pairwise(folds) if high < low]
    assert set(left) >= set(spans(reserver))
    assert size - sum(high - low for low, high in folds) < 1 << 30


def test_map_has_every_page_once_folded_or_not(reserver: Program) -> None:
    rows, whole = rows_of("map", reserver.pid), rows_of("map", reserver.pid, "--reserved", "--cell", 1 << 24)
    folded = [row for row in rows if row["folded"]]

    assert sum(row["nr_pages"] for row in rows) == sum(row["nr_pages"] for row in whole)
    present = [sum(row["nr_own"] + row["nr_shared"] for row in each) for each in (rows, whole)]
    assert present[0] == present[1] > sum(nr_pages for _, nr_pages in USED)
    assert [row for row in folded if row["nr_absent"] != row["nr_pages"]] == []
    assert [row for row in whole if row["folded"]] == []
    starts = {int(row["start"], 16) for row in rows if not row["folded"]}
    assert starts >= {start for start, _ in spans(reserver)}


def test_map_draws_what_is_used_and_says_what_it_folds(reserver: Program) -> None:
    text = mematlas("map", reserver.pid).stdout

    assert all(f"{size} GiB]" in text for size in (3, 17.0, 44.0))
    assert text.count("█") > 100
    nr_folded = sum(row["nr_pages"] for row in rows_of("map", reserver.pid) if row["folded"])
    assert f"absent too, and folded: {nr_folded:,} pages" in text
    assert text.count("█") > 20 * mematlas("map", reserver.pid, "--reserved").stdout.count("█")


def test_histogram_is_of_what_is_used(reserver: Program) -> None:
    run = mematlas("hist", reserver.pid)
    rows = rows_of("hist", reserver.pid)

    size = sum(row["nr_pages"] + row["nr_folded"] for row in rows) * PAGE
    assert size == sum(row["nr_pages"] for row in rows_of("hist", reserver.pid, "--reserved")) * PAGE > 3 * TIB
    assert run.stdout.count("█") > 20
    assert "3.06 TiB of untouched memory in 5 places is left out (~): --reserved shows it" in run.stderr


def test_reserved_memory_alone_is_drawn(reserver: Program) -> None:
    area = f"{reserver.told[0]:#x}"

    assert "folded" not in mematlas("map", reserver.pid, area).stdout
    assert mematlas("hist", reserver.pid, area).stdout.splitlines()[0].endswith(f"| 0/{TIB // PAGE:,}")


def test_a_capture_folds_the_same(reserver: Program, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert mematlas("capture", reserver.pid, saved).returncode == 0

    live, kept = (
        [(row["start"], row["end"], row["folded"]) for row in rows_of("map", target)]
        for target in (reserver.pid, saved)
    )
    assert kept == live


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_what_is_only_reserved_is_passed_over_in_few_searches(
    source: Source, reserver: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    call = Scanner._call

    def note(self: Scanner, start: int, *others: Any) -> int:
        searched.append(start)
        return call(self, start, *others)

    monkeypatch.setattr(Scanner, "_call", note)
    with Process(reserver.pid) as process:
        size = sum(vma.size for vma in process.address_space().vmas)
        process.usage(source)
    if not searched:
        pytest.skip("PAGEMAP_SCAN needs Linux 6.7")
    assert len(searched) < 2 * size // SEEK_SPAN

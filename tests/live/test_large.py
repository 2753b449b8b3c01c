"""Targets that are large or many-parted: the first line at once, memory flat, every page counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from helpers import PAGE, Program, mematlas, program, sparse
from mematlas import Process
from mematlas.kernel.status import read_status, status_bytes
from mematlas.words import Source
from victim import DEADLINE

TIB = 1 << 40
PAGES = [number * (TIB // PAGE // 1303 | 1) for number in range(1301)]
LIMIT = 60 << 20
"""Most that a command may hold in memory."""
AT_ONCE = DEADLINE / 3
"""Seconds; it takes 0.1, and 268 million pages would take minutes."""

MEASURED = """
import sys
from mematlas.cli import main
code = main(sys.argv[1:])
sys.stdout.flush()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""

MANY = """
import ctypes, json, mmap, sys
NR = json.loads(sys.argv[1])
page = mmap.PAGESIZE
area = mmap.mmap(-1, 2 * NR * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    area.madvise(15)  # no huge pages
except OSError:
    pass
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
mprotect = ctypes.CDLL(None).mprotect
for number in range(NR):
    area[2 * number * page] = 1
    if mprotect(ctypes.c_void_p(address + 2 * number * page), ctypes.c_size_t(page), mmap.PROT_READ):
        raise OSError("mprotect")
print(address, flush=True)
"""


@pytest.fixture(scope="module")
def huge() -> Iterator[Program]:
    with sparse(TIB, PAGES) as target:
        yield target


@pytest.fixture(scope="module")
def many() -> Iterator[Program]:
    with program(MANY, 10_000) as target:
        yield target


def measured(*words: object) -> tuple[str, int]:
    """Run a command; return its output and the most memory it had."""
    line = [sys.executable, "-c", MEASURED, *map(str, words)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return run.stdout, int(run.stderr.splitlines()[-2].split()[1]) * 1024


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
@pytest.mark.parametrize("more", [[], ["--present"], ["--runs"]], ids=["all", "present", "runs"])
def test_first_line_comes_at_once_and_a_closed_pipe_ends_it_quietly(more: list[str], form: str, huge: Program) -> None:
    area = f"{huge.told:#x}+1T"
    line = [sys.executable, "-m", "mematlas", "pages", str(huge.pid), area, "--format", form, *more]
    start = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stderr
        assert run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait(DEADLINE) == 0
    assert time.monotonic() - start < AT_ONCE


@pytest.mark.parametrize(
    "words", [["usage", "--source", "pagemap"], ["usage"], ["maps"], ["hist"], ["map"]], ids=" ".join
)
def test_memory_stays_flat_over_a_tebibyte(words: list[str], huge: Program) -> None:
    out, most = measured(words[0], huge.pid, *words[1:])

    assert out
    assert most < LIMIT


@pytest.mark.parametrize("words", [["--present"], ["--runs"]], ids=" ".join)
def test_pages_of_a_tebibyte_are_listed_in_flat_memory(words: list[str], huge: Program) -> None:
    out, most = measured("pages", huge.pid, f"{huge.told:#x}+1T", "--format", "csv", *words)

    rows = [line.split(",") for line in out.splitlines()[1:]]
    present = [int(row[0], 16) for row in rows if "present" in row[1:5]]
    assert present == [huge.told + page * PAGE for page in PAGES]
    assert most < LIMIT + (40 << 20) * ("--runs" in words)  # numpy


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_scattered_pages_are_counted_exactly(source: Source, huge: Program) -> None:
    with Process(huge.pid) as process:
        item = next(item for item in process.maps(source).vmas if item.vma.start == huge.told)
    assert (item.usage.nr_present, item.usage.nr_pages) == (len(PAGES), TIB // PAGE)
    assert item.usage.rss == item.usage.uss == len(PAGES) * PAGE


def test_histogram_and_map_count_the_same(huge: Program) -> None:
    with Process(huge.pid) as process:
        span = (huge.told, huge.told + TIB)
        cells = process.density(100, *span).cells
        strips = process.grid(*span).strips
    assert sum(cells.classes(cell)["own"] for cell in range(cells.nr_cells)) == len(PAGES)
    grids = [strip.cells for strip in strips]
    assert sum(grid.classes(cell)["own"] for grid in grids for cell in range(grid.nr_cells)) == len(PAGES)


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_twenty_thousand_vmas_are_all_there(source: str, many: Program) -> None:
    run = mematlas("maps", many.pid, "--json", "--source", source)

    found = json.loads(run.stdout)
    rows = [row for row in found["rows"] if many.told <= int(row["start"], 16) < many.told + 20_000 * PAGE]
    assert [row["nr_present"] for row in rows] == [1, 0] * 10_000
    assert sum(row["uss"] for row in rows) == 10_000 * PAGE
    assert found["target"]["torn"] is False


@pytest.mark.parametrize("command", ["usage", "hist", "map", "pages"])
def test_twenty_thousand_vmas_are_looked_at_in_flat_memory(command: str, many: Program) -> None:
    out, most = measured(command, many.pid, *(["--present"] if command == "pages" else []))

    assert len(out.splitlines()) >= {"usage": 10, "hist": 1, "map": 20, "pages": 10_000}[command]
    assert command != "map" or len(out.splitlines()) <= 48, "it fits two screens"
    assert most < 2 * LIMIT


def test_pausing_for_the_target_does_not_take_for_ever(many: Program) -> None:
    with Process(many.pid) as process:
        result = process.usage("pagemap")
        assert status_bytes(read_status(process.dir), "VmPTE") == result.tables
    assert result.reading.duration_s < DEADLINE

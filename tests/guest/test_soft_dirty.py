"""Pages written to since a moment: bit 55 of pagemap, and the category of PAGEMAP_SCAN."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Program, program
from inside import Facts
from mematlas import NotSupported, Process
from mematlas.cli import main
from mematlas.kernel.pagemap import Pagemap

pytestmark = pytest.mark.guest

PAGE = os.sysconf("SC_PAGESIZE")
NR_PAGES = 67
PAGE_IS_SOFT_DIRTY = 1 << 7

WRITER = """
import ctypes, json, mmap, sys
area = mmap.mmap(-1, 67 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(15)
def write(pages):
    for page in pages:
        area[page * mmap.PAGESIZE] = 1
write(range(67))
print(json.dumps(ctypes.addressof(ctypes.c_char.from_buffer(area))), flush=True)
for line in sys.stdin:
    write(json.loads(line))
    print("done", flush=True)
"""


@pytest.fixture
def writer() -> Iterator[Program]:
    with program(WRITER, wait="") as running:
        Path(f"/proc/{running.pid}/clear_refs").write_text("4")
        yield running


def write_to(writer: Program, pages: list[int]) -> None:
    stdin, stdout = writer.process.stdin, writer.process.stdout
    assert stdin
    assert stdout
    stdin.write(f"{pages}\n")
    stdin.flush()
    assert stdout.readline() == "done\n"


def dirty_pages(writer: Program) -> list[int]:
    with Process(writer.pid) as process:
        found = process.translate(range(writer.told, writer.told + NR_PAGES * PAGE, PAGE))
    assert all("present" in each.flags for each in found)
    return [page for page, each in enumerate(found) if "soft-dirty" in each.flags]


def test_a_cleared_bit_comes_back_with_the_next_write(writer: Program) -> None:
    assert dirty_pages(writer) == []
    write_to(writer, [3, 17, 66])
    assert dirty_pages(writer) == [3, 17, 66]


def test_the_command_shows_the_same_pages(writer: Program, capsys: pytest.CaptureFixture[str]) -> None:
    write_to(writer, [0, 5, 66])
    area = f"{writer.told:#x}+{NR_PAGES * PAGE}"
    assert main(["pages", str(writer.pid), area, "--soft-dirty", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(int(row["address"], 16) - writer.told) // PAGE for row in rows] == [0, 5, 66]


def test_pagemap_scan_finds_the_same_pages(writer: Program, facts: Facts) -> None:
    write_to(writer, [3, 4, 17])
    with Process(writer.pid) as process, Pagemap(process.dir) as pagemap:
        end = writer.told + NR_PAGES * PAGE
        if facts.is_before("6.12"):
            with pytest.raises(NotSupported, match=r"needs Linux 6\.7"):
                list(pagemap.scanner.ranges(writer.told, end, PAGE_IS_SOFT_DIRTY))
            return
        ranges = list(pagemap.scanner.ranges(writer.told, end, PAGE_IS_SOFT_DIRTY))
    assert [((start - writer.told) // PAGE, (end - writer.told) // PAGE) for start, end in ranges] == [
        (3, 5),
        (17, 18),
    ]

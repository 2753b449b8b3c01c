"""Captures of machines with pages of 4, 16 and 64 KiB are read by every command, whatever the pages are here.

What is in them is known by construction (`constructed_capture`). MEMATLAS_RECORD=1 writes the expected pages anew, to
be looked at.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from constructed_capture import FIRST_FRAME, FIRST_SLOT, MADE_UP, PID, SWAP_TYPE, Area, areas, make_capture
from mematlas import Process
from mematlas.cli import main

EXPECTED = Path(__file__).parent / "expected"
TIME = re.compile(r"(?<= in )[0-9.]+ [mu]?s$", re.MULTILINE)
PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10)

Row = dict[str, Any]
Look = Callable[..., list[Row]]


@pytest.fixture(params=PAGE_SIZES, ids=lambda size: f"{size >> 10}k")
def page_size(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture
def saved(page_size: int, tmp_path: Path) -> Path:
    return make_capture(tmp_path / "saved", page_size)


@pytest.fixture
def look(saved: Path, page_size: int, capsys: pytest.CaptureFixture[str]) -> Look:
    """Return a function that runs a command on the capture and returns its rows."""

    def run(name: str, *words: str) -> list[Row]:
        assert main([name, str(saved), *words, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["machine"] == MADE_UP | {"page_size": page_size, "huge_size": page_size**2 // 8}
        rows: list[Row] = result["rows"]
        return rows

    return run


def area_of(page_size: int, path: str) -> Area:
    """Return the last VMA of the capture that has a path."""
    return next(area for area in reversed(areas(page_size)) if area.path == path)


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_usage_is_what_was_put_in(source: str, page_size: int, look: Look) -> None:
    sums: Counter[str] = sum((area.fields(page_size) for area in areas(page_size)), Counter())
    (row,) = look("usage", "--source", source)

    assert row["rss"] == sums["Rss"] == (2 + 23 + 13 + 3 + page_size // 8 + 5 + 1 + 11) * page_size
    assert (row["uss"], row["swap"]) == (sums["Private_Dirty"], 8 * page_size)
    assert (row["file"], row["shmem"]) == (6 * page_size, 11 * page_size)
    assert (row["thp"], row["hugetlb"]) == (page_size**2 // 8, page_size**2 // 8)
    assert (row["zero"], row["tables"]) == (2 * page_size, 9 * page_size)
    assert 0 <= row["pss"] - sums["Pss"] // 1024 * 1024 < 8 * 1024


def test_a_capture_agrees_with_itself(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", str(saved), "--verify"]) == 0
    assert "NO" not in capsys.readouterr().out.split()


@pytest.mark.parametrize("source", ["smaps", "pagemap"])
def test_maps_has_each_vma_as_it_was_put_in(source: str, page_size: int, look: Look) -> None:
    frame = FIRST_FRAME
    for area, row in zip(areas(page_size), look("maps", "--source", source), strict=True):
        fields = area.fields(page_size)
        nr_present = sum(part.nr_pages for part in area.parts if part.has_frame or part.what == "zero")
        assert (int(row["start"], 16), row["size"]) == (area.start, area.nr_pages * page_size)
        assert (row["nr_pages"], row["nr_present"]) == (area.nr_pages, nr_present)
        assert (row["rss"], row["uss"], row["swap"]) == (fields["Rss"], fields["Private_Dirty"], fields["Swap"])
        if area.parts[0].has_frame:
            frame += -frame % area.parts[0].alignment
            assert int(row["phys"], 16) == frame * page_size
        frame += area.nr_frames


def test_pages_lie_a_page_apart_and_frames_too(page_size: int, look: Look) -> None:
    heap = area_of(page_size, "[heap]")
    rows = look("pages", "[heap]")
    present, swapped = rows[:23], rows[23:28]

    assert [int(row["address"], 16) for row in rows] == [heap.start + page * page_size for page in range(101)]
    assert [row["pfn"] for row in present] == list(range(FIRST_FRAME + 8, FIRST_FRAME + 31))
    assert all(int(row["phys"], 16) == row["pfn"] * page_size for row in present)
    assert [(row["swap_type"], row["swap_offset"]) for row in swapped] == [
        (SWAP_TYPE, hex(FIRST_SLOT + page)) for page in range(5)
    ]
    assert [row["state"] for row in rows[28:]] == ["zero"] * 2 + ["absent"] * 71


def test_an_area_is_cut_at_pages(page_size: int, look: Look) -> None:
    heap = area_of(page_size, "[heap]")

    assert len(look("pages", f"{heap.start + page_size + 5:#x}")) == 1
    assert len(look("pages", f"{heap.start:#x}+{3 * page_size}")) == 3


def test_an_address_keeps_its_place_in_its_page(page_size: int, look: Look) -> None:
    heap = area_of(page_size, "[heap]")
    last = page_size - 1
    addresses = [heap.start, heap.start + last, heap.start + 22 * page_size + 5, heap.start + 27 * page_size + last]
    rows = look("translate", *map(hex, addresses))

    assert [row["phys"] and int(row["phys"], 16) for row in rows] == [
        (FIRST_FRAME + 8) * page_size,
        (FIRST_FRAME + 8) * page_size + last,
        (FIRST_FRAME + 30) * page_size + 5,
        None,
    ]
    assert rows[-1]["swap_offset"] == hex(FIRST_SLOT + 4)


def test_a_map_has_every_page_once(page_size: int, look: Look) -> None:
    rows = look("map", "--cell", "7")
    heap = [row for row in rows if row["path"] == "[heap]"]

    assert sum(row["nr_pages"] for row in rows) == sum(area.nr_pages for area in areas(page_size))
    assert {int(row["end"], 16) - int(row["start"], 16) for row in heap[:-1]} == {7 * page_size}
    assert sum(row["nr_own"] for row in rows) == sum(
        part.nr_pages for area in areas(page_size) for part in area.parts if part.has_frame and part.count == 1
    )


def test_a_histogram_has_every_page_once(page_size: int, look: Look) -> None:
    rows = look("hist")

    assert sum(row["nr_pages"] for row in rows) == sum(area.nr_pages for area in areas(page_size))
    assert sum(row["nr_present"] for row in rows) == sum(row["nr_present"] for row in look("maps"))
    assert sum(row["nr_swapped"] for row in rows) == 5 + 3


def test_a_plan_is_made_in_pages_of_that_machine(page_size: int, look: Look) -> None:
    (row,) = [row for row in look("pageout", "--dry-run") if row["path"] == "[heap]"]

    assert (row["size_requested"], row["size_movable"]) == (25 * page_size, 23 * page_size)


def test_page_tables_are_not_in_a_capture_and_one_line_says_so(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(saved)]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mematlas: ")


COMMANDS = """
usage
usage --verify
maps
map --width 100
hist --width 100
pages --runs
pages [heap] --limit 3
translate 0xaaaae0012345 0xaaaae0050001 0xffff80000007
"""


@pytest.mark.parametrize("page_size", [16 << 10, 64 << 10])
def test_text_is_as_it_was_looked_at(page_size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = make_capture(tmp_path / "saved", page_size)
    texts = []
    for command in COMMANDS.strip().splitlines():
        name, *words = command.split()
        assert main([name, str(saved), *words]) == 0
        texts.append(f"$ mematlas {name} saved {' '.join(words)}".rstrip() + f"\n{capsys.readouterr().out}\n")
    text = TIME.sub("TIME", "".join(texts))
    path = EXPECTED / f"pages-of-{page_size >> 10}k.txt"
    if os.environ.get("MEMATLAS_RECORD"):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.parametrize("size", [512, 5000, 1 << 21, 1 << 30])
def test_a_size_that_no_kernel_has_is_refused(size: int, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = json.loads((saved / "machine.json").read_text())
    (saved / "machine.json").write_text(json.dumps(machine | {"page_size": size}))

    assert main(["map", str(saved)]) == 1
    assert "expected a page_size that is a power of two from 4096 to 1048576" in capsys.readouterr().err


def test_the_library_counts_in_pages_of_that_machine(page_size: int, saved: Path) -> None:
    with Process(str(saved)) as process:
        assert (process.pid, process.page_size) == (PID, page_size)
        assert process.usage().usage.nr_pages == sum(area.nr_pages for area in areas(page_size))

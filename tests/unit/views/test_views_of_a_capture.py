"""What the tables of a process look like, compared whole. MEMATLAS_RECORD=1 writes the pages anew, to be looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mematlas import Process
from mematlas.notes import Notes
from mematlas.views.maps import BY, maps_table
from mematlas.views.since import Since
from mematlas.views.table import Table
from mematlas.views.translate import translate_table
from mematlas.views.usage import Subject, usage_table
from mematlas.views.vma_groups import groups_table

CAPTURE = Path(__file__).parents[2] / "fuzz" / "corpus" / "captures" / "whole"
EXPECTED = Path(__file__).parent / "expected"
ADDRESSES = [0x41F123, 0x7F0AD64FF000, 0x7F0AD7264000, 0x7F0AD733E010, 0x7FFCC0539000, 0xFFFFFFFFFF600000, 0x10]
TARGET = {"pid": 14569, "name": "python3"}
TIME = re.compile(r"(?<= in )[0-9.]+ [mu]?s$")


def usage(process: Process) -> Table:
    return usage_table([Subject(TARGET, process.usage())], Notes())


def usage_of_several(process: Process) -> Table:
    return usage_table([Subject(TARGET, process.usage())] * 2, Notes())


VIEWS: dict[str, Callable[[Process], Table]] = {
    "usage": usage,
    "usage-of-several": usage_of_several,
    "maps": lambda process: maps_table(process.maps(), TARGET),
    "maps-gaps": lambda process: maps_table(process.maps(), TARGET, gaps=True),
    "maps-sorted": lambda process: maps_table(process.maps(), TARGET, sort="uss", limit=5),
    "maps-by-kind": lambda process: groups_table(process.maps(), TARGET, "kind"),
    "maps-by-path": lambda process: groups_table(process.maps(), TARGET, "path", limit=12),
    "maps-by-perms": lambda process: groups_table(process.maps(), TARGET, "perms", sort="size"),
    "maps-by-owner": lambda process: groups_table(process.maps(owners=True), TARGET, "owner", limit=12),
    "translate": lambda process: translate_table(process.translate(ADDRESSES), TARGET),
}


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Give a process that was captured, of 105 VMAs."""
    with Process(str(CAPTURE)) as captured:
        yield captured


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [80, 0])
def test_view_is_as_it_was_looked_at(name: str, width: int, process: Process) -> None:
    lines = [TIME.sub("TIME", line) for line in VIEWS[name](process).lines(width=width)]
    path = EXPECTED / f"{name}-{width or 'wide'}.txt"
    if os.environ.get("MEMATLAS_RECORD"):
        path.write_text("".join(f"{line}\n" for line in lines))

    assert lines == path.read_text().splitlines()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [60, 100, 120, 200])
def test_view_fits_any_screen(name: str, width: int, process: Process) -> None:
    table = VIEWS[name](process)
    lines = list(table.lines(width=width))

    assert max(map(len, lines)) <= width
    assert len(lines) - len(list(table.lines())) <= 3  # prose is folded, and what is not shown is said


def test_changes_leave_out_the_meaning_where_its_folds_would_fill_the_screen(process: Process) -> None:
    table = usage_table([Subject(TARGET, process.usage())], Notes(), since=Since())
    narrow, wide = (list(table.lines(width=width)) for width in (60, 80))

    assert narrow[1].split() == ["MEASURE", "SIZE", "CHANGE", "RATE"]
    assert wide[1].split()[-1] == "MEANING"
    assert len(narrow) == len(wide)


def test_sums_of_groups_are_those_of_all_vmas(process: Process) -> None:
    whole = maps_table(process.maps(), TARGET).total_record()
    groups = [groups_table(process.maps(owners=True), TARGET, by, limit=1).total_record() for by in BY]

    assert whole
    for sums in groups:
        assert sums
        shared = sums.keys() & whole.keys()
        assert {"size", "rss", "pss", "uss", "swap", "nr_present", "here"} <= shared
        assert {key: sums[key] for key in shared} == {key: whole[key] for key in shared}
        assert sums["nr_vmas"] == 105


def test_rows_are_sorted_by_what_was_asked_for_and_show_it(process: Process) -> None:
    table = maps_table(process.maps(), TARGET, sort="swap", limit=3)
    uss = [record["uss"] for record in maps_table(process.maps(), TARGET, sort="uss").records()]

    assert "SWAP" in table.headings
    assert uss == sorted(uss, reverse=True)
    assert [note.code for note in table.all_notes()] == ["hidden-pages", "rows-left-out"]


def test_changes_of_maps_outlive_the_sizes_on_a_narrow_screen(process: Process) -> None:
    lines = list(maps_table(process.maps(), TARGET, since=Since()).lines(width=60))

    assert lines[0].split() == ["START", "RSS", "CHANGE", "PATH"]
    assert lines[1].endswith("/usr/bin/python3.11")
    assert max(map(len, lines)) <= 60

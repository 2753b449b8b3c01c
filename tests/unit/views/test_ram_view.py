"""What `ram` shows, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mematlas.analysis.estimates import Sample
from mematlas.analysis.frames import FramesCheck, FramesResult, balances_of, by_cgroup, uses_of, uses_of_sample
from mematlas.analysis.results import Reading
from mematlas.model.census.kinds import NR_KINDS, Kind
from mematlas.model.census.sample import Agreement
from mematlas.views.ram import check_table, ram_table

PAGE = 4096
READING = Reading("struct pages", 0.25, False, ())


def counts() -> np.ndarray:
    made = np.zeros((NR_KINDS, 4), np.int64)
    made[Kind.FREE, 0] = 1536
    made[Kind.ANON] = [0, 300, 4, 0]
    made[Kind.FILE] = [100, 20, 60, 0]
    made[Kind.LARGE_KMALLOC, 0] = 4
    return made


def result(by: str = "kind", **more: Any) -> FramesResult:
    nr = int(counts().sum())
    fields: dict[str, Any] = {
        "uses": uses_of(counts(), PAGE),
        "groups": (),
        "free_blocks": (0,) * 9 + (1, 1),
        "page_size": PAGE,
        "huge_size": 512 * PAGE,
        "nr_frames": nr,
        "size": nr * PAGE,
    }
    return FramesResult(by=by, reading=READING, **fields | more)


def test_kinds_the_largest_first_and_a_total_of_all() -> None:
    table = ram_table(result())
    assert list(table.lines()) == [
        "KIND               SIZE  OF RAM  PAGES    MAPPED  MORE THAN ONCE  WHAT IT IS",
        "free              6 MiB     76%   1536         0               0  nobody's",
        "anon           1.19 MiB     15%    304  1.19 MiB          16 KiB  memory of processes",
        "file            720 KiB      9%    180   320 KiB         240 KiB  page cache: clean, can be dropped",
        "large_kmalloc    16 KiB     <1%      4         0               0  large objects of the kernel",
        "total          7.91 MiB           2024  1.50 MiB         256 KiB",
    ]
    assert next(table.lines(width=80)).split() == ["KIND", "SIZE", "OF", "RAM", "MAPPED", "WHAT", "IT", "IS"]
    assert [note.code for note in table.notes] == ["free-blocks"]
    assert "blocks of 2 MiB and more: 3 huge pages" in next(iter(table.notes)).text


def test_huge_pages_that_fit_are_of_this_machines_size() -> None:
    table = ram_table(result(page_size=16 << 10, huge_size=32 << 20, free_blocks=(5, 0, 0) + (0,) * 8 + (1, 1)))
    (note,) = table.notes
    assert note.text == "of 96.1 MiB free, 96 MiB lies in blocks of 32 MiB and more: 3 huge pages"


def test_estimates_stand_between_their_ends_and_kinds_that_were_not_seen_have_one() -> None:
    sample = Sample(nr_parts=1000, nr_seen=32, part_size=64, size=64_000, seen_size=2024)
    unseen = [kind for kind in Kind if kind not in (Kind.FREE, Kind.ANON, Kind.FILE, Kind.LARGE_KMALLOC, Kind.KSM)]
    uses = uses_of_sample(counts(), sample, PAGE, unseen)
    estimated = result(uses=uses, nr_frames=64_000, size=64_000 * PAGE, sample=sample, free_blocks=None)
    table = ram_table(estimated)
    assert list(table.lines()) == [
        "KIND               SIZE       LOW      HIGH  OF RAM  PAGES  WHAT IT IS",
        "free            190 MiB   142 MiB   221 MiB     76%  48569  nobody's",
        "anon           37.5 MiB  9.25 MiB  81.2 MiB     15%   9612  memory of processes",
        "file           22.2 MiB  2.25 MiB  61.8 MiB      9%   5692  page cache: clean, can be dropped",
        "large_kmalloc   508 KiB    16 KiB    40 MiB     <1%    127  large objects of the kernel",
        "ksm                   0         0  26.8 MiB      0%      0  equal pages of processes, put together",
        "total           250 MiB                              64000",
    ]
    assert [note.text for note in table.notes] == [
        "estimates from 7.91 MiB, 32 random blocks of 1,000: the truth lies between LOW and HIGH 95 times of 100"
    ]
    row = next(record for record in table.records() if record["kind"] == "anon")
    assert row["mapped_low"] < row["mapped"] < row["mapped_high"]
    assert row["shared_low"] < row["shared"] < row["shared_high"]
    short = ram_table(estimated, only_seen=True)
    assert [cells[0] for cells in short.cells()] == ["free", "anon", "file", "large_kmalloc"]
    last = list(short.notes)[-1].text
    assert last == "none seen of 1 more kind: there may be up to 26.8 MiB of it (--wide lists it)"


def test_cgroups_the_largest_first_and_the_rest_without_a_name() -> None:
    rest, small, large = np.zeros((3, NR_KINDS), np.int64)
    rest[Kind.FREE], small[Kind.FILE], large[Kind.ANON] = 10, 20, 30
    groups = by_cgroup({7: small, 9: large, 0: small}, rest, {9: "/shop"}, PAGE)
    table = ram_table(result("cgroup", groups=groups))
    assert list(table.lines()) == [
        "   SIZE    FREE     ANON     FILE  CGROUP",
        "120 KiB       0  120 KiB        0  /shop",
        " 80 KiB       0        0   80 KiB  inode 7",
        "120 KiB  40 KiB        0   80 KiB  -",
        "320 KiB  40 KiB  120 KiB  160 KiB  total",
    ]


def check(
    meminfo: dict[str, int], agreement: Agreement | None = None, tells_types: bool = True, nr_untold: int = 0
) -> list[str]:
    balances = balances_of(counts(), meminfo, meminfo, PAGE, 1, tells_types, nr_untold)
    return check_table(FramesCheck(balances, agreement, READING)).failures


def test_sums_that_lag_behind_are_explained_and_others_are_not() -> None:
    assert check({"MemFree": 1500 * PAGE}) == []
    assert check({"MemFree": 1300 * PAGE}) == ["frames and meminfo differ without a reason: MemFree"]


@pytest.mark.parametrize(("tells_types", "nr_failures"), [(True, 1), (False, 0)])
def test_large_objects_are_missed_where_kpageflags_does_not_tell_them(tells_types: bool, nr_failures: int) -> None:
    assert len(check({"Slab": 400 * PAGE}, tells_types=tells_types)) == nr_failures


@pytest.mark.parametrize(("nr_untold", "nr_failures"), [(0, 1), (100_000, 0), (200_000, 1)])
def test_what_was_never_used_is_missed_where_it_is_in_no_free_block(nr_untold: int, nr_failures: int) -> None:
    assert len(check({"MemFree": 101_500 * PAGE}, nr_untold=nr_untold)) == nr_failures


@pytest.mark.parametrize(("nr_dirty", "nr_failures"), [(60, 0), (1000, 1)])
def test_pages_on_their_way_to_swap_are_no_pages_of_files(nr_dirty: int, nr_failures: int) -> None:
    # 600 pages are written to swap, or dirty again: no frame of a file says so, but nothing explains more.
    assert len(check({"Dirty": nr_dirty * PAGE, "Writeback": 600 * PAGE})) == nr_failures


def test_tables_of_guests_are_no_frames_of_that_type() -> None:
    meminfo = {"PageTables": 4 * PAGE, "SecPageTables": 1 << 30}
    tables = np.zeros((NR_KINDS, 4), np.int64)
    tables[Kind.TABLE, 0] = 4
    (balance,) = balances_of(tables, meminfo, meminfo, PAGE, 2)
    assert (balance.name, balance.difference, balance.explained) == ("PageTables", 0, True)


def test_frames_that_differ_fail() -> None:
    agreement = Agreement(100, 3, {(Kind.ANON, Kind.FILE): 2, (Kind.FREE, Kind.FREE): 98}, 2, 0, 0x1000)
    assert check({}, agreement) == [
        "2 frames are something else in kpageflags or kpagecount; see mematlas owner pfn:0x1000"
    ]

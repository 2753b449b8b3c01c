"""Questions about constructed tables, whose answers are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from constructed import ConstructedTables
from mematlas.analysis.counting import shared_pss
from mematlas.analysis.pagetables.audit import aliases, audit
from mematlas.analysis.pagetables.compare import differing_pages, nr_hidden
from mematlas.analysis.pagetables.entries import EntryFilter, list_entries
from mematlas.analysis.pagetables.leaves import leaf_runs, leaves_of
from mematlas.analysis.pagetables.regions import kernel_regions, region_of, region_sizes
from mematlas.analysis.pagetables.summary import summarize
from mematlas.arrays import Counts, Words
from mematlas.model.pagetables.entries import SpecialSwap
from mematlas.model.pagetables.modes import x86_64
from mematlas.model.pagetables.vma_counts import VmaCounts
from mematlas.model.pagetables.walk import EXECUTABLE, USER, WRITABLE, Walk, page_blocks, walk, walk_parts

MODE = x86_64(special_swap=SpecialSwap(nr_device=0, nr_migration=3, nr_hwpoison=1, pfn_bits=34))
PATH = [0x1000, 0x2000, 0x3000, 0x4000]
NX = 1 << 63
CODE, DATA, READ = 0x25, 0x67 | NX, 0x25 | NX


def page(tables: ConstructedTables, address: int, entry: int) -> None:
    tables.map(address, PATH, 0x67, entry)


def swap(kind: int, offset: int) -> int:
    return kind << 59 | (~offset & (1 << 50) - 1) << 9


@pytest.fixture
def tables() -> ConstructedTables:
    """Code, data and swap at 1 GiB, a huge page at 1 GiB + 4 MiB."""
    made = ConstructedTables(MODE)
    for number in range(3):
        page(made, 0x40000000 + number * 4096, 0x700000 + number * 4096 | CODE)
    for number in range(5):
        page(made, 0x40010000 + number * 4096, 0x800000 + number * 8192 | DATA)
    page(made, 0x40020000, swap(0, 77))
    page(made, 0x40021000, swap(31, 4))
    page(made, 0x40022000, 0x900000 | READ | 1 << 9)
    made.map(0x40400000, PATH[:3], 0x67, 0x40000000 | 0xE7 | NX)
    return made


@pytest.fixture
def found(tables: ConstructedTables) -> Walk:
    return walk(tables, MODE, 0x1000)


def test_the_summary_counts_tables_and_leaves(found: Walk) -> None:
    summary = summarize([found])
    assert [(level.name, level.nr_tables, level.size, level.nr_used) for level in summary.levels] == [
        ("pgd", 1, 4096, 1), ("pud", 1, 4096, 1), ("pmd", 1, 4096, 2), ("pte", 1, 4096, 11)]  # fmt: skip
    huge, small = summary.leaves[1], summary.leaves[2]
    assert (huge.nr_leaves, huge.nr_writable, huge.nr_executable, huge.mapped) == (1, 1, 0, 2 << 20)
    assert (small.nr_leaves, small.nr_writable, small.nr_user) == (9, 5, 9)
    assert (small.nr_executable, small.nr_accessed, small.nr_dirty, small.nr_special) == (3, 9, 5, 1)
    assert summary.nr_others == {"swap": 1, "guard": 1}
    assert summary.mapped == (2 << 20) + 9 * 4096
    assert summary.table_bytes_per_mib == pytest.approx(16384 * (1 << 20) / summary.mapped)


def test_nearly_empty_tables_are_counted(found: Walk) -> None:
    assert [level.nr_few for level in summarize([found]).levels] == [1, 1, 1, 1]


def test_nothing_mapped_has_no_ratio() -> None:
    empty = ConstructedTables(MODE)
    empty.by_address[0x1000] = np.zeros(512, np.uint64)
    assert summarize(walk_parts(empty, MODE, 0x1000)).table_bytes_per_mib is None


def test_runs_merge_like_neighbours(found: Walk) -> None:
    by_level = [leaf_runs(MODE, leaves_of(found, level)) for level in (2, 3)]
    assert [(run.level, hex(run.start), run.size >> 12, run.rights) for runs in by_level for run in runs] == [
        ("pmd", "0x40400000", 512, WRITABLE | USER),
        ("pte", "0x40000000", 3, USER | EXECUTABLE),
        ("pte", "0x40010000", 5, WRITABLE | USER),
        ("pte", "0x40022000", 1, USER),
    ]


def test_a_range_shows_its_own_leaves_only(tables: ConstructedTables) -> None:
    part = walk(tables, MODE, 0x1000, 0x40001000, 0x40011000)
    assert leaves_of(part, 3).addresses.tolist() == [0x40001000, 0x40002000, 0x40010000]


def test_what_is_writable_and_executable_is_found(tables: ConstructedTables) -> None:
    for number in range(7):
        page(tables, 0x40030000 + number * 4096, 0xA00000 + number * 4096 | 0x67)
    (finding,) = audit(walk(tables, MODE, 0x1000))
    assert (finding.kind, finding.start, finding.size) == ("writable-executable", 0x40030000, 7 * 4096)


def test_a_table_above_that_forbids_writing_makes_it_harmless(tables: ConstructedTables) -> None:
    page(tables, 0x40030000, 0xA00000 | 0x67)
    tables.by_address[0x3000][0] = 0x4065
    assert audit(walk(tables, MODE, 0x1000)) == []


def test_executable_data_is_found_where_data_is(found: Walk) -> None:
    assert audit(found) == []
    (finding,) = audit(found, [(0x40001000, 0x40001FFF)])
    assert (finding.kind, finding.start, finding.size) == ("executable-data", 0x40001000, 4096)


def test_a_kernel_page_open_to_users_is_found() -> None:
    tables = ConstructedTables(MODE)
    tables.map(0xFFFFC90000000000, PATH, 0x67, 0x800000 | 0x165 | NX)
    tables.map(0xFFFFC90000001000, PATH, 0x67, 0x801000 | 0x161 | NX)
    (finding,) = audit(walk(tables, MODE, 0x1000, MODE.kernel_start, 1 << 64))
    assert (finding.kind, finding.start, finding.size) == ("user-in-kernel", 0xFFFFC90000000000, 4096)


def test_the_same_frame_with_other_rights_is_found(tables: ConstructedTables) -> None:
    page(tables, 0x40050000, 0x701000 | DATA)
    page(tables, 0x40051000, 0x802000 | READ)
    page(tables, 0x40052000, 0x804000 | DATA)
    findings = aliases(walk(tables, MODE, 0x1000))
    assert {(each.kind, each.phys, frozenset((each.start, each.other))) for each in findings} == {
        ("writable-alias", 0x701000, frozenset((0x40001000, 0x40050000))),
        ("alias", 0x802000, frozenset((0x40011000, 0x40051000))),
    }


def test_a_page_inside_of_a_huge_one_is_the_same_frame(tables: ConstructedTables) -> None:
    page(tables, 0x40050000, 0x40123000 | READ)
    (finding,) = aliases(walk(tables, MODE, 0x1000))
    assert (finding.phys, finding.size) == (0x40123000, 4096)
    assert {finding.start, finding.other} == {0x40050000, 0x40523000}


@pytest.mark.parametrize("vmemmap", [None, 0xFFFFEA0000000000])
def test_regions_are_in_order_and_do_not_overlap(vmemmap: int | None) -> None:
    regions = kernel_regions(4, 0xFFFF888000000000, 24 << 30, vmemmap, 64)
    assert all(one.start < one.end for one in regions)
    named = [region for region in regions if region.name != "efi"]
    assert all(one.end <= other.start for one, other in pairwise(named))
    assert region_of(regions, 0xFFFF888000000000) == "direct map"
    assert region_of(regions, 0xFFFFFFFF81000000) == "kernel text"
    assert region_of(regions, 0xFFFFFFFFFF600000) == "vsyscall"
    assert region_of(regions, 0xFFFF800000000000) is None


@pytest.mark.parametrize(("levels", "ldt"), [(4, 0xFFFF880000000000), (5, 0xFF10000000000000)])
def test_the_ldt_stays_where_it_is_when_the_direct_map_is_moved(levels: int, ldt: int) -> None:
    base = ldt + (0x123 << 32) + (1 << 39 if levels == 4 else 1 << 48)
    regions = kernel_regions(levels, base, 24 << 30, None, 64)
    assert region_of(regions, ldt) == "ldt"
    assert region_of(regions, base - 1) is None
    assert region_of(regions, base) == "direct map"


def test_the_regions_have_what_is_mapped_in_them() -> None:
    tables = ConstructedTables(MODE)
    tables.map(0xFFFF888040000000, PATH[:2], 0x63, 0x40000000 | 0x1E3 | NX)
    tables.map(0xFFFFC90000000000, [0x1000, 0x5000, 0x6000, 0x7000], 0x63, 0x800000 | 0x163 | NX)
    kernel = walk(tables, MODE, 0x1000, MODE.kernel_start, 1 << 64)
    regions = kernel_regions(4, 0xFFFF888000000000, 2 << 30, 0xFFFFEA0000000000, 64)
    assert region_sizes(kernel, regions) == {"direct map": 1 << 30, "vmalloc": 4096}


def words(found: Walk) -> Words:
    """Return what pagemap says of the block at 1 GiB, when all is well."""
    block = next(iter(page_blocks(found)))
    said = np.zeros(len(block), np.uint64)
    said[:3] = [1 << 63 | 0x700 + number for number in range(3)]
    said[16:21] = [1 << 63 | 0x800 + 2 * number for number in range(5)]
    said[0x20], said[0x21] = 1 << 62 | 77 << 5, 1 << 62 | 1 << 58 | 4 << 5 | 31
    said[0x22] = 1 << 63 | 0x900
    return said


def test_tables_and_pagemap_agree(found: Walk) -> None:
    block = next(iter(page_blocks(found)))
    assert differing_pages(MODE, block, words(found)) == []


@pytest.mark.parametrize(
    ("place", "word", "reason"),
    [
        (0, 0, "presence"),
        (0, 1 << 63 | 0x999, "frame"),
        (0x20, 1 << 62 | 78 << 5, "slot"),
        (0x20, 0, "swap"),
        (0x22, 0, "special"),
        (0x30, 1 << 63 | 5, "presence"),
    ],
)
def test_each_disagreement_has_its_reason(found: Walk, place: int, word: int, reason: str) -> None:
    block = next(iter(page_blocks(found)))
    said = words(found)
    said[place] = word
    (each,) = differing_pages(MODE, block, said)
    assert (each.address, each.reason, each.pagemap) == (0x40000000 + place * 4096, reason, word)


def test_hidden_frames_are_no_disagreement(found: Walk) -> None:
    block = next(iter(page_blocks(found)))
    said = words(found)
    said[:3] = 1 << 63
    assert differing_pages(MODE, block, said) == []


def counts(*values: int) -> Counts:
    return np.array(values, np.int32)


def shares(*values: int) -> tuple[int, int]:
    """Return the bytes of the shares of pages with these map counts, and how many counts are unknown."""
    sums = VmaCounts()
    sums.add_sharers(counts(*values))
    return shared_pss(sums.sharers, 4096), sums.nr_unknown


def test_shares_are_added_in_the_kernels_fixed_point() -> None:
    assert shares(1, 1, 3, 3, 3, 7) == ((3 * ((4096 << 12) // 3) + (4096 << 12) // 7) >> 12, 0)


def test_an_unknown_count_is_in_no_sum_but_its_own() -> None:
    assert shares(1, -1) == (0, 1)


def test_very_many_sharers_are_counted_too() -> None:
    assert shares(1 << 20, 5000) == (((4096 << 12) // (1 << 20) + (4096 << 12) // 5000) >> 12, 0)


# --- what is hidden from the processor


def hidden(frame: int) -> int:
    """Return the entry of a page under PROT_NONE: its frame flipped, and no bit that forbids execution."""
    return ~(frame << 12) & (1 << 52) - (1 << 12) | 0x160


@pytest.fixture
def hiding(tables: ConstructedTables) -> Walk:
    """The memory above, with 7 pages under PROT_NONE, two of them of frames that are mapped for writing as well."""
    for number in range(7):
        page(tables, 0x40030000 + number * 4096, hidden(0x800 + number))
    return walk(tables, MODE, 0x1000)


def test_hidden_leaves_have_no_rights_and_are_not_global(found: Walk, hiding: Walk) -> None:
    before, after = summarize([found]).leaves[2], summarize([hiding]).leaves[2]
    assert (after.nr_leaves, after.nr_hidden) == (before.nr_leaves + 7, 7)
    assert (after.nr_executable, after.nr_user, after.nr_writable) == (3, 9, 5)
    assert after.nr_global == before.nr_global == 0
    assert after.nr_accessed == before.nr_accessed + 7


def test_hidden_leaves_are_counted_as_leaves_alone(hiding: Walk) -> None:
    summary = summarize([hiding])
    assert summary.nr_others == {"swap": 1, "guard": 1}
    assert summary.nr_hidden == 7


def test_an_audit_finds_nothing_in_what_is_hidden(hiding: Walk) -> None:
    assert audit(hiding, [(0x40030000, 0x40037FFF)]) == []
    assert aliases(hiding) == []


def test_a_list_of_what_is_executable_leaves_out_what_is_hidden(hiding: Walk) -> None:
    listed = {
        name: sum(len(each) for each in list_entries([hiding], EntryFilter(frozenset([3]), ((True, name),))))
        for name in ("executable", "global", "prot-none", "accessed")
    }
    assert listed == {"executable": 3, "global": 0, "prot-none": 7, "accessed": 16}


def test_code_that_may_be_written_to_and_read_elsewhere_is_one_finding(tables: ConstructedTables) -> None:
    page(tables, 0x40040000, 0xA00000 | 0x67)
    page(tables, 0x40050000, 0xA00000 | READ)
    found = walk(tables, MODE, 0x1000)
    assert [each.kind for each in audit(found)] == ["writable-executable"]
    assert [each.kind for each in aliases(found)] == ["alias"]


def test_entries_whose_place_is_hidden_are_counted(found: Walk) -> None:
    said = words(found)
    assert nr_hidden(said) == 0
    said[:3], said[0x20] = 1 << 63, 1 << 62
    assert nr_hidden(said) == 4

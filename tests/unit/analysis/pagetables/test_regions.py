"""Regions of the kernel half, by what is known of a boot."""

from __future__ import annotations

from itertools import pairwise

import pytest

from constructed_pagetables import MODE, NX, PATH, ConstructedTables
from mematlas.analysis.pagetables.regions import kernel_regions, region_of, region_sizes, unmapped_ram
from mematlas.model.pagetables.walk import walk


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


def test_ram_that_the_direct_map_leaves_out_is_counted() -> None:
    tables = ConstructedTables(MODE)
    tables.map(0xFFFF888000000000, PATH[:3], 0x63, 0x1E3 | NX)
    found = walk(tables, MODE, 0x1000, MODE.kernel_start, 1 << 64)

    assert unmapped_ram(found, 0xFFFF888000000000, [(0, 1 << 20), (1 << 20, 3 << 20)]) == 1 << 20

"""VMAs that are taken together for a picture: which, how many, and that none is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers  # noqa: F401  (the settings of hypothesis)
from mematlas.analysis.grid import cut_in_strips
from mematlas.analysis.neighbours import SECTIONS, Fit, by_section, cut_at, one_by_one, section_of
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma, parse_maps

PAGE = 4096  # of the machine that these pictures are of
LIBRARY = parse_maps(
    [
        b"10000-11000 r--p 00000000 08:01 5 /lib/libc.so.6",
        b"11000-31000 r-xp 00001000 08:01 5 /lib/libc.so.6",
        b"31000-32000 rw-p 00021000 08:01 5 /lib/libc.so.6",
        b"32000-33000 r--p 00000000 08:01 6 /lib/libm.so.6",
        b"40000-50000 r--s 00000000 08:01 7 /data/base",
        b"50000-60000 r--s 00010000 08:01 7 /data/base",
    ]
)


def whole(vmas: list[Vma]) -> list[tuple[Vma, int, int]]:
    return [(vma, vma.start, vma.end) for vma in vmas]


def small_ones(nr_vmas: int, size: int = PAGE) -> list[Vma]:
    """Return anonymous VMAs of this size, with a page between each two."""
    lines = [
        b"%x-%x rw-p 00000000 00:00 0" % (at, at + size) for at in range(PAGE, nr_vmas * (size + PAGE), size + PAGE)
    ]
    return parse_maps(lines)


def test_segments_of_a_library_are_one_and_shared_mappings_of_a_file_are_not() -> None:
    groups = by_section(cut_at(whole(LIBRARY), []), 99)

    assert [(group.nr_vmas, group.size) for group in groups] == [
        (3, 0x22000),
        (1, 0x1000),
        (1, 0x10000),
        (1, 0x10000),
    ]


def test_each_kind_is_a_section_by_address_and_what_the_kernel_puts_there_is_one() -> None:
    kinds = ("vvar", "file", "anon", "vdso", "heap", "anon", "special")
    vmas = [replace(vma, kind=kind) for vma, kind in zip(small_ones(8), kinds, strict=False)]
    groups = by_section(cut_at(whole(vmas), []), 99)

    assert [group.section for group in groups] == ["heap", "anon", "anon", "file", "kernel", "kernel", "kernel"]
    assert [section_of(group.parts[0].vma) for group in groups] == [group.section for group in groups]
    assert [group.parts[0].start for group in groups[1:3]] == [vmas[2].start, vmas[5].start]


@pytest.mark.parametrize("nr_vmas", [1, 31, 997, 20_011])
@pytest.mark.parametrize("most", [7, 23])
def test_there_are_no_more_groups_than_asked_for_and_all_vmas_are_in_them(nr_vmas: int, most: int) -> None:
    vmas = small_ones(nr_vmas + 1)
    groups = by_section(cut_at(whole(vmas), []), most)

    assert len(groups) <= most
    assert [part.vma for group in groups for part in group.parts] == vmas
    assert sum(group.nr_vmas for group in groups) == len(vmas)


def test_a_large_vma_among_small_ones_stays_alone() -> None:
    large = replace(small_ones(2)[0], start=1 << 40, end=(1 << 40) + (1 << 30))
    groups = by_section(cut_at(whole([*small_ones(100), large]), []), 7)

    assert [group.nr_vmas for group in groups][-1] == 1


SIZES = st.lists(st.sampled_from([1, 2, 16, 300, 5000]), min_size=1, max_size=60)


@given(SIZES, st.integers(8, 60), st.booleans())
def test_strips_have_every_page_once(sizes: list[int], lines: int, is_joined: bool) -> None:
    at, vmas = PAGE, []
    for number, size in enumerate(sizes):
        vma = small_ones(2)[0]
        vmas.append(replace(vma, start=at, end=at + size * PAGE, kind=("anon", "heap", "shmem")[number % 3]))
        at += (size + 1) * PAGE
    folds = [(vma.start, vma.end) for vma in vmas if vma.size == 5000 * PAGE]
    strips = cut_in_strips(whole(vmas), folds, None, PAGE, Fit(40, lines, is_joined))

    pages = Counter(
        address for strip in strips for part in strip.stretches for address in range(part.start, part.end, PAGE)
    )
    assert set(pages.values()) == {1}
    assert sum(pages.values()) == sum(sizes) == sum(strip.cells.nr_pages for strip in strips)
    assert sum({strip.line: strip.nr_vmas for strip in strips}.values()) == len(vmas)
    assert not is_joined or len({strip.line for strip in strips}) <= max(lines - len(SECTIONS), len(SECTIONS))


def test_untouched_neighbours_share_a_line_where_nothing_is_joined() -> None:
    vmas = small_ones(6)
    folds = [(vma.start, vma.end) for vma in vmas[1:4]]

    assert [group.nr_vmas for group in one_by_one(cut_at(whole(vmas), folds))] == [1, 3, 1, 1]

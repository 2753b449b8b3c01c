"""Rows of frames: what lies side by side and is alike is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers import PAGE, parse_line
from mematlas.analysis.frame_owners import FrameDetail, FrameMapper, OwnedFrames
from mematlas.analysis.frame_rows import Found, rows_of
from mematlas.model.census.kinds import Kind
from mematlas.model.frame_facts import NO_NODE, FrameFacts
from mematlas.observe.frame_mappers import WantedFrames

VMA = parse_line(b"7f0000000000-7f0000100000 rw-p 00003000 fe:00 31 /usr/bin/python3")


def facts_of(pfns: list[int], **columns: list[int]) -> FrameFacts:
    """Return facts of frames that are alike but for what is given."""
    values: dict[str, Any] = {"flags": 0, "kinds": Kind.FILE, "counts": 1, "cgroups": 4211, "nodes": NO_NODE}
    types = {"flags": np.uint64, "kinds": np.uint8, "counts": np.int64, "cgroups": np.uint64, "nodes": np.int32}
    arrays = {name: np.array(columns.get(name, [value] * len(pfns)), types[name]) for name, value in values.items()}
    return FrameFacts(pfns=np.array(pfns, np.uint64), **arrays)


def mapped(pid: int, *pages: tuple[int, int]) -> Found:
    """Return frames that a process maps: pages of the VMA with their frames."""
    addresses = [VMA.start + page * PAGE for page, _ in pages]
    return Found(
        FrameMapper(pid, "python3", 7, VMA),
        np.array(addresses, np.uint64),
        np.array([pfn for _, pfn in pages], np.uint64),
    )


def rows(facts: FrameFacts, *found: Found, details: dict[int, FrameDetail] | None = None) -> tuple[OwnedFrames, ...]:
    return rows_of(facts, found, details or {}, {4211: "/shop"}, PAGE)


def test_frames_side_by_side_in_memory_and_addresses_are_one_row() -> None:
    (row,) = rows(facts_of([10, 11, 12]), mapped(5, (0, 10), (1, 11), (2, 12)))

    assert (row.pfn, row.nr_pages, row.address, row.cgroup) == (10, 3, VMA.start, "/shop")
    assert row.file_offset == 0x3000


def test_each_who_maps_a_frame_has_a_row() -> None:
    found = rows(facts_of([10]), mapped(6, (4, 10)), mapped(5, (0, 10), (2, 10)))

    assert [(row.mapper and row.mapper.pid, row.address) for row in found] == [
        (5, VMA.start),
        (5, VMA.start + 2 * PAGE),
        (6, VMA.start + 4 * PAGE),
    ]


def test_what_differs_is_apart() -> None:
    facts = facts_of([10, 11, 12, 13], counts=[1, 2, 2, 2], nodes=[0, 0, 1, 1])
    found = rows(facts, mapped(5, (0, 10), (1, 11), (2, 12), (3, 13)))

    assert [(row.pfn, row.nr_pages, row.count, row.node) for row in found] == [
        (10, 1, 1, 0),
        (11, 1, 2, 0),
        (12, 2, 2, 1),
    ]


def test_frames_of_nobody_have_a_row_too() -> None:
    facts = facts_of([10, 11, 20, 21], kinds=[Kind.FILE, Kind.FREE, Kind.FREE, Kind.FREE], counts=[1, 0, 0, 0])
    details = {
        11: FrameDetail(block=11, order=0),
        20: FrameDetail(block=16, order=3),
        21: FrameDetail(block=16, order=3),
    }
    found = rows(facts, mapped(5, (0, 10)), details=details)

    assert [(row.pfn, row.nr_pages, row.mapper is None, row.detail.block) for row in found] == [
        (10, 1, False, None),
        (11, 1, True, 11),
        (20, 2, True, 16),
    ]


def test_pages_of_a_file_in_its_order_are_one_row() -> None:
    facts = facts_of([10, 11, 12], counts=[0, 0, 0])
    file = ("fe:00", 31)
    details = {pfn: FrameDetail(file=file, file_offset=offset * PAGE) for pfn, offset in ((10, 4), (11, 5), (12, 9))}

    assert [(row.pfn, row.nr_pages, row.file_offset) for row in rows(facts, details=details)] == [
        (10, 2, 4 * PAGE),
        (12, 1, 9 * PAGE),
    ]


def test_a_copy_is_no_part_of_the_file_that_it_stands_in_for() -> None:
    (row,) = rows(facts_of([10], kinds=[Kind.ANON]), mapped(5, (7, 10)))

    assert row.file_offset is None
    assert row.mapper
    assert row.mapper.vma == VMA


def test_a_segment_of_system_v_may_have_the_inode_0() -> None:
    vma = parse_line(b"7f0000000000-7f0000100000 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)")
    found = Found(FrameMapper(5, "shop", 7, vma), np.array([vma.start + PAGE], np.uint64), np.array([10], np.uint64))
    facts = facts_of([10], kinds=[Kind.SHMEM])
    (row,) = rows(facts, found)

    assert row.file_offset == PAGE
    assert WantedFrames(facts).may_be_in(vma)
    assert not WantedFrames(facts).may_be_in(parse_line(b"1000-2000 rw-p 00000000 00:00 0 [heap]"))

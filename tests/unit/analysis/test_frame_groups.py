"""Frames in rows of zones and orders: each once, and all of them."""

from __future__ import annotations

import numpy as np

from mematlas.analysis.frames import by_order, by_zone
from mematlas.kernel.nodes import NodeMap
from mematlas.kernel.zoneinfo import Zone
from mematlas.model.census.census import FrameCensus
from mematlas.model.census.kinds import START, Kind

PAGE = 4096
OFFLINE = [(512, 576)]


def census() -> FrameCensus:
    """Frames 0 to 511, anonymous ones in folios of 4; 64 that are offline."""
    rows = np.full((8, 64), Kind.ANON, np.uint8)
    rows[:, ::4] |= START
    return FrameCensus(np.arange(8, dtype=np.uint64), rows, 6, OFFLINE)


def test_zones_that_span_frames_of_another_node_do_not_have_them() -> None:
    zones = [Zone(0, "Normal", 0, 384), Zone(1, "Normal", 128, 384)]
    nodes = NodeMap([0, 1], [(0, 128, 0), (128, 256, 1), (256, 384, 0), (384, 512, 1)])

    groups = by_zone(census(), zones, nodes, PAGE)

    assert [(group.node, group.name, group.nr_pages) for group in groups] == [
        (0, "Normal", 256),
        (1, "Normal", 256),
        (None, "unknown", 64),
    ]


def test_zones_of_one_node_that_overlap_leave_open_whose_frames_are() -> None:
    zones = [Zone(0, "Normal", 0, 384), Zone(0, "Movable", 128, 384)]

    groups = by_zone(census(), zones, NodeMap([0], (), 0), PAGE)

    assert [(group.name, group.nr_pages) for group in groups] == [("Normal", 128), ("Movable", 128), ("unknown", 320)]
    assert sum(group.nr_pages for group in groups) == census().nr_frames


def test_orders_have_all_frames_those_that_are_offline_too() -> None:
    groups = by_order(census(), PAGE)
    assert [(group.order, group.nr_pages) for group in groups] == [(2, 512), (None, 64)]


def test_free_memory_has_no_order_where_its_blocks_are_not_told() -> None:
    told = census()
    told.bytes[:2] = Kind.FREE | START
    told.knows_free_orders = False

    groups = by_order(told, PAGE)

    assert [(group.order, group.uses["free"], group.uses["anon"]) for group in groups] == [
        (2, 0, 384 * PAGE),
        (None, 128 * PAGE, 0),
    ]

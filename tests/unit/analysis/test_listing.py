"""Processes added up: what each total may claim, and what processes have in common."""

from __future__ import annotations

from typing import Any

import pytest

from mematlas.analysis.listing import BY, NONE, ProcessUsage, group_of, members_by

MIB = 1 << 20


def usage(pid: int, **more: Any) -> ProcessUsage:
    """Return a process of 10 MiB, 4 of them shared, in nothing."""
    fields: dict[str, Any] = {
        "pid": pid,
        "name": "shop",
        "start_time": pid,
        "parent": 1,
        "uid": 0,
        "user": "root",
        "cgroup": "/",
        **dict.fromkeys(("container", "pod", "unit", "exe")),
        "rss": 10 * MIB,
        "pss": 7 * MIB,
        "uss": 6 * MIB,
        "swap": 0,
        "swap_pss": 0,
        "own_swap": 0,
        "thp": 0,
        "hugetlb": 0,
        "own_hugetlb": 0,
        "tables": 4096,
        "source": "smaps_rollup",
    }
    return ProcessUsage(**fields | more)


UNSEEN: dict[str, Any] = dict.fromkeys(("pss", "uss", "swap_pss", "thp", "own_hugetlb", "source"))
"""Of whom there are counters alone."""


def part(inode: int, size: int, start: int = 0) -> tuple[str, int, int, int, int]:
    return "0:1", inode, start, start + size, size


def test_shared_pages_are_those_that_others_map_too() -> None:
    assert usage(7).shared == 4 * MIB
    assert usage(7, **UNSEEN).shared is None


def test_group_adds_up_what_can_be_added_up() -> None:
    group = group_of("name", "shop", [usage(7), usage(8)])

    assert (group.pss, group.uss, group.tables, group.rss_sum) == (14 * MIB, 12 * MIB, 8192, 20 * MIB)
    assert (group.rss, group.nr_processes, group.nr_measured) == (None, 2, 2)


def test_who_could_not_be_counted_is_in_no_sum_and_that_is_told() -> None:
    group = group_of("name", "shop", [usage(7), usage(8, **UNSEEN)])

    assert (group.pss, group.nr_processes, group.nr_measured, group.rss_sum) == (7 * MIB, 2, 1, 20 * MIB)
    assert group_of("name", "shop", [usage(8, **UNSEEN)]).pss is None


def test_slots_count_once() -> None:
    forks = [usage(7, swap=8192, swap_pss=4096, own_swap=8192), usage(8, swap=8192, swap_pss=4096, own_swap=8192)]
    sharing = [usage(pid, swap=MIB, swap_parts=(part(9, MIB),)) for pid in (9, 10)]
    apart = [usage(11, swap=MIB, swap_parts=(part(9, MIB, 5 * MIB),)), usage(12, swap=MIB, swap_parts=(part(8, MIB),))]

    assert group_of("name", "shop", forks).swap == 8192
    assert group_of("name", "shop", [*forks, *sharing]).swap == 8192 + MIB
    assert group_of("name", "shop", [*sharing, *apart]).swap == 3 * MIB


def test_huge_pages_count_once() -> None:
    sharing = [usage(pid, hugetlb=4 * MIB, hugetlb_parts=(part(9, 4 * MIB),)) for pid in (9, 10)]
    alone = usage(11, hugetlb=2 * MIB, own_hugetlb=2 * MIB)
    unseen = [usage(pid, hugetlb=8 * MIB, **UNSEEN) for pid in (12, 13)]

    assert group_of("name", "shop", [*sharing, alone]).hugetlb == 6 * MIB
    assert group_of("name", "shop", [alone, *unseen]).hugetlb == 10 * MIB


@pytest.mark.parametrize("by", ["container", "pod", "unit"])
def test_who_is_in_none_is_told_from_those_of_whom_it_is_not_known(by: str) -> None:
    processes = [usage(7, **{by: "web"}), usage(8), usage(9, cgroup=None)]

    assert {name: len(some) for name, some in members_by(by, processes).items()} == {"web": 1, NONE: 1, None: 1}


def test_tree_is_of_the_highest_ancestor_below_the_first_process() -> None:
    processes = [usage(1, parent=0, name="init"), usage(7, name="sshd"), usage(8, parent=7), usage(9, parent=8)]
    orphan = usage(12, parent=11)

    trees = {name: [one.pid for one in some] for name, some in members_by("tree", [*processes, orphan]).items()}
    assert trees == {"init 1": [1], "sshd 7": [7, 8, 9], "shop 12": [12]}


def test_parents_that_go_round_are_a_tree_all_the_same() -> None:
    trees = members_by("tree", [usage(7, parent=8), usage(8, parent=7), usage(9, parent=9)])

    assert sum(map(len, trees.values())) == 3


def test_everything_that_groups_are_made_by_is_known() -> None:
    for by in BY:
        assert list(members_by(by, [usage(7)])) in ([NONE], [None], ["shop"], ["root"], ["/"], ["shop 7"])

"""Who uses the most: processes in groups, what they share once, and no more of them measured than it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import pytest

from helpers import sparse, texts
from mematlas.analysis.overview import (
    SHARE,
    SORTS,
    Facts,
    Group,
    Measured,
    grouped,
    holders,
    is_decided,
    largest,
    others_of,
)
from mematlas.analysis.ram import account
from mematlas.cli import main
from mematlas.frozen import replace
from mematlas.kernel.smaps import read_rollup
from mematlas.kernel.status import read_status
from mematlas.observe import machine, ranking
from mematlas.views.overview import estimates, to_try

MIB = 1 << 20
T = TypeVar("T")


def facts(pid: int, name: str = "one", uid: int = 0, cgroup: str = "0::/", **sizes: int) -> Facts:
    """Return the counters of a process; sizes are in MiB."""
    parts = {key: sizes.get(key, 0) * MIB for key in ("anon", "file", "shmem", "swap", "hugetlb")}
    return Facts(pid, name, uid, cgroup, parts["anon"] + parts["file"] + parts["shmem"], **parts)


def measured(pss: int, uss: int = 0, swap: int = 0, swap_pss: int = 0, own: int = 0, shared: int = 0) -> Measured:
    """Return what was measured of a process, in MiB."""
    return Measured(*(size * MIB for size in (pss, uss, swap, swap_pss, own, shared)))


def test_group_has_one_name_user_and_cgroup() -> None:
    groups = grouped(
        [
            facts(1, "a", 0, "0::/x"),
            facts(2, "a", 0, "0::/x"),
            facts(3, "a", 1, "0::/x"),
            facts(4, "a", 0, "0::/y"),
            facts(5, "b", 0, "0::/x"),
        ]
    )

    assert sorted(sorted(each.pid for each in group.members) for group in groups) == [[1, 2], [3], [4], [5]]


def test_shared_memory_of_a_group_counts_once() -> None:
    group = Group(facts(pid, anon=1, shmem=600) for pid in range(60))
    assert group.amount == 660 * MIB  # though nothing was measured

    group.measured = {pid: measured(11, 1) for pid in range(60)}
    assert (group.pss, group.uss, group.amount) == (660 * MIB, 60 * MIB, 660 * MIB)
    assert group.top_kind is not None
    assert group.top_kind[0] == "shmem"


def test_shared_huge_pages_and_swap_of_a_group_count_once() -> None:
    group = Group(facts(pid, anon=1, swap=5, hugetlb=640) for pid in range(4))
    assert (group.swap, group.hugetlb) == (20 * MIB, 640 * MIB)

    # Each has 5 MiB of private swap that all four map, and the same 9 MiB of shared memory.
    group.measured = {pid: measured(1, 1, swap=14, swap_pss=1, own=2, shared=638) for pid in range(4)}
    assert (group.swap, group.hugetlb) == ((4 + 9) * MIB, (8 + 638) * MIB)


def test_what_to_try_is_a_process_that_may_be_looked_at() -> None:
    hidden, sampled, seen = (Group(facts(pid, anon=20 - pid) for pid in pids) for pids in ([1], [2, 3], [4, 5]))
    sampled.measured, seen.measured = {3: measured(1)}, {5: measured(1), 4: measured(1)}

    assert to_try([hidden, sampled, seen]) == 3
    assert to_try([hidden, seen]) == 4
    assert to_try([hidden]) == to_try([]) == "self"


def test_sample_is_spread_and_its_sums_are_an_estimate() -> None:
    group = Group(facts(pid, anon=100 + pid) for pid in range(100))
    taken = group.sample([SHARE / 4] * 100)
    assert [each.pid for each in taken] == [87, 62, 37, 12]

    group.measured = {each.pid: measured(100 + each.pid, 7) for each in taken}
    assert group.pss == sum(100 + pid for pid in range(100)) * MIB
    assert texts(estimates([group])) == ["PSS and USS of one are estimated from 4 of its 100 processes"]


def test_one_is_measured_however_long_it_takes() -> None:
    assert len(Group([facts(1), facts(2)]).sample([99.0, 99.0])) == 1
    assert len(Group([facts(1), facts(2)]).sample([SHARE / 2, SHARE / 2])) == 2


def test_what_the_kernel_does_not_tell_of_one_is_unknown_of_all() -> None:
    untold = replace(facts(2, anon=9, hugetlb=4), swap=None, hugetlb=None)
    group = Group([facts(1, anon=5, swap=3, hugetlb=8), untold])

    assert (group.swap, group.hugetlb, group.top_kind) == (None, None, None)
    assert (group.most, group.amount) == (25 * MIB, 14 * MIB)  # the order is by what is known
    assert [note.split(":")[0] for note in texts(estimates([group]))] == [
        "swap and hugetlb unknown, and not used for ranking"
    ]


def test_own_sums_of_the_kernel_tell_what_its_counters_do_not() -> None:
    group = Group([replace(facts(1, anon=5), hugetlb=None), replace(facts(2, anon=5), hugetlb=None)])
    group.measured = {1: measured(4, own=2, shared=6), 2: measured(4, own=2, shared=6)}
    assert group.hugetlb == (2 + 2 + 6) * MIB

    group.measured[1] = replace(group.measured[1], own_hugetlb=None)
    assert group.hugetlb is None


def test_screen_of_a_kernel_that_tells_less_has_no_zeros_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = {"VmSwap", "HugetlbPages", "Swap", "Private_Hugetlb", "Private_Clean"}

    def less(read: Callable[..., dict[str, T]]) -> Callable[..., dict[str, T]]:
        return lambda process: {name: value for name, value in read(process).items() if name not in hidden}

    monkeypatch.setattr(ranking, "read_status", less(read_status))
    monkeypatch.setattr(ranking, "read_rollup", less(read_rollup))
    monkeypatch.setattr(machine, "MEASURE_SECONDS", 60.0)
    with sparse(1 << 30, range(9_973)):
        assert main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert told["rows"]
    for row in told["rows"]:
        assert [row[name] for name in ("swap", "hugetlb", "top_kind", "top_share")] == [None] * 4
    assert any(row["pss"] and row["uss"] is None for row in told["rows"])
    assert any("no line VmSwap or HugetlbPages" in note for note in texts(told["notes"]))


def test_search_ends_when_nobody_left_can_be_larger() -> None:
    groups = grouped([facts(1, "a", anon=100), facts(2, "b", anon=80), facts(3, "c", anon=60), facts(4, "d", anon=10)])
    groups[0].measured = {1: measured(90)}
    assert not is_decided(groups, {1, 2, 3}, 2)
    groups[1].measured = {2: measured(50)}
    assert not is_decided(groups, {2, 3}, 2)  # c may have 60
    groups[2].measured = {3: measured(20)}

    assert is_decided(groups, {3}, 2)
    assert [group.name for group in largest(groups, 2)] == ["a", "b"]


def test_holder_of_swap_or_huge_pages_has_a_row_however_small() -> None:
    ordinary = [facts(pid, f"p{pid}", anon=1000) for pid in range(5)]
    groups = grouped([*ordinary, facts(8, "swapped", swap=17), facts(9, "pool", anon=1, hugetlb=8)])

    assert [group.name for group in groups[:2]] == ["swapped", "pool"]
    assert not is_decided(groups, {1}, 2)
    assert {"swapped", "pool"} < {group.name for group in largest(groups, 3)}
    assert holders(grouped(ordinary)) == []


def test_who_ended_meanwhile_is_left_out() -> None:
    group, other = Group([facts(1, anon=5), facts(2, anon=5)]), Group([facts(3, "gone", anon=9)])
    group.forget(1)
    other.forget(3)
    group.measured = {2: measured(4)}

    assert (group.is_measured, group.pss, other.amount) == (True, 4 * MIB, 0)
    assert largest([group, other], 5) == [group]


def test_holders_take_the_last_rows_and_never_the_first() -> None:
    ordinary = [facts(pid, f"p{pid}", anon=1000 - pid) for pid in range(5)]
    groups = grouped([*ordinary, facts(8, "swapped", swap=17), facts(9, "pool", anon=1, hugetlb=8)])

    assert [group.name for group in largest(groups, 5)] == ["p0", "p1", "p2", "swapped", "pool"]
    assert [group.name for group in largest(groups, 1)] == ["p0"]
    assert [group.name for group in largest(groups, 5, "rss")] == [f"p{pid}" for pid in range(5)]


def test_order_that_is_asked_for_is_by_that_alone() -> None:
    groups = grouped([facts(1, "own", anon=40), facts(2, "shared", file=90), facts(3, "swapped", anon=1, swap=70)])
    found = {1: measured(40, 40), 2: measured(30, 2), 3: measured(1, 1, swap=70, swap_pss=70)}
    for group in groups:
        group.measured = {group.pid: found[group.pid]}

    assert [group.name for group in largest(groups, 3)] == ["swapped", "own", "shared"]
    orders = {by: [group.name for group in largest(groups, 3, by)] for by in SORTS}
    assert orders["uss"] == orders["pss"] == ["own", "shared", "swapped"]
    assert orders["rss"] == ["shared", "own", "swapped"]
    assert orders["swap"][0] == "swapped"


def test_search_by_another_amount_ends_by_what_that_can_be() -> None:
    # By RSS nothing has to be measured; by USS the second may still have all of what it has.
    groups = grouped([facts(1, "a", anon=50), facts(2, "b", file=90)], "uss")
    assert [group.name for group in groups] == ["b", "a"]
    groups[0].measured = {2: measured(60, 10)}

    assert not is_decided(groups, {1}, 1, "uss")
    assert is_decided(groups, {1}, 1, "rss")
    groups[0].measured = {2: measured(60, 55)}
    assert is_decided(groups, {1}, 1, "uss")


def test_processes_without_a_row_are_what_is_left() -> None:
    groups = grouped([facts(1, "a", anon=50), facts(2, "b", anon=40), facts(3, "b", anon=30), facts(4, "c", anon=9)])
    shown = largest(groups, 2)
    groups[0].measured = {2: measured(20), 3: measured(20)}
    ram = account({"AnonPages": 100 * MIB, "Mapped": 7 * MIB})

    rest = others_of(groups, shown, ram, True)
    assert (rest.nr_processes, rest.rss, rest.pss) == (2, 9 * MIB, (107 - 40) * MIB)
    assert (rest.nr_unknown, rest.has_more) == (1, True)
    assert others_of(groups, shown, account({}), False).pss is None
    assert others_of(groups, shown, account({"AnonPages": 1, "Mapped": 0}), False).pss == 0

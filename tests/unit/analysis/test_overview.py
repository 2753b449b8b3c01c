"""Who uses the most: processes in groups, what they share once, and no more of them measured than it takes."""

from __future__ import annotations

import json
import os

import pytest

from helpers import sparse, texts
from mematlas.analysis.file_parts import MOST_PARTS, bounded, together
from mematlas.analysis.overview import SHARE, Facts, Group, Measured
from mematlas.analysis.ram import account
from mematlas.analysis.ranking import SORTS, Search, grouped, holders, largest, others_of
from mematlas.cli import main
from mematlas.errors import FormatError
from mematlas.frozen import replace
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.smaps_rollup import read_rollup
from mematlas.kernel.status import MemoryCounters, read_memory_counters, read_stat
from mematlas.observe import machine, measuring, ranking
from mematlas.views.overview import estimates, target_text, to_try

MIB = 1 << 20
Part = tuple[str, int, int, int, int]


def facts(pid: int, name: str = "one", uid: int = 0, cgroup: str = "0::/", **sizes: int) -> Facts:
    """Return the counters of a process; sizes are in MiB."""
    parts = {key: sizes.get(key, 0) * MIB for key in ("anon", "file", "shmem", "swap", "hugetlb")}
    return Facts(pid, 7, name, uid, cgroup, parts["anon"] + parts["file"] + parts["shmem"], **parts)


def measured(
    pss: int,
    uss: int = 0,
    swap_pss: int = 0,
    own: int = 0,
    swap_parts: tuple[Part, ...] = (),
    hugetlb_parts: tuple[Part, ...] = (),
) -> Measured:
    """Return what was measured of a process, in MiB."""
    return Measured(pss * MIB, uss * MIB, swap_pss * MIB, own * MIB, swap_parts, hugetlb_parts)


def part(inode: int, start: int, end: int, size: int | None = None) -> Part:
    """Return a part of a file, in MiB; all of it is meant unless a size is given."""
    return "0:1", inode, start * MIB, end * MIB, (end - start if size is None else size) * MIB


def test_group_has_one_name_whoever_runs_it_and_wherever() -> None:
    everybody = [facts(1, "a", 0, "0::/x"), facts(2, "a", 1, "0::/x"), facts(3, "a", 0, "0::/y"), facts(4, "b")]
    groups = {group.name: group for group in grouped(everybody)}

    assert {name: len(group.members) for name, group in groups.items()} == {"a": 3, "b": 1}
    assert (groups["a"].uid, groups["b"].uid) == (None, 0)


def test_processes_of_a_container_are_one_group_whatever_they_are_called() -> None:
    first, second = (f"0::/system.slice/docker-{digit * 64}.scope\n" for digit in "ab")
    inside = [facts(1, "init", cgroup=first), facts(2, "java", cgroup=first), facts(3, "java", cgroup=second)]
    groups = grouped([*inside, facts(4, "java", anon=1, cgroup="0::/\n")])

    found = {(group.container and group.container.runtime, group.name): len(group.members) for group in groups}
    assert found == {("docker", "a" * 12): 2, ("docker", "b" * 12): 1, (None, "java"): 1}


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
    each = measured(1, 1, swap_pss=1, own=2, swap_parts=(part(7, 0, 600, 9),), hugetlb_parts=(part(8, 0, 638),))
    group.measured = dict.fromkeys(range(4), each)
    assert (group.swap, group.hugetlb) == ((4 + 9) * MIB, (8 + 638) * MIB)


def test_huge_pages_that_each_has_touched_count_where_no_two_touched_the_same() -> None:
    group = Group(facts(pid, hugetlb=10) for pid in range(3))
    group.measured = {pid: measured(0, hugetlb_parts=(part(8, 10 * pid, 10 * pid + 10),)) for pid in range(3)}
    assert group.hugetlb == 30 * MIB

    del group.measured[2]  # it could not be looked at: what others are known to hold is the least
    assert group.hugetlb == 20 * MIB


def test_two_files_of_one_container_count_both() -> None:
    group = Group([facts(1, "a", swap=1), facts(2, "b")])
    group.measured = {
        1: measured(0, swap_pss=1, swap_parts=(part(7, 0, 4),)),
        2: measured(0, swap_parts=(part(8, 0, 3),)),
    }
    assert group.swap == (1 + 4 + 3) * MIB


def test_swap_of_a_part_of_a_group_is_an_estimate_for_all() -> None:
    # A hundred forks of one process: each counts the 10 MiB that all share.
    group = Group(facts(pid, swap=10) for pid in range(100))
    group.measured = {pid: replace(measured(0), swap_pss=MIB // 10) for pid in range(4)}

    assert group.swap is not None
    assert abs(group.swap - 10 * MIB) < MIB // 1000


def test_parts_that_overlap_count_once() -> None:
    assert together([]) == 0
    assert together([part(7, 0, 8), part(7, 4, 16), part(9, 0, 8)]) == 24 * MIB
    assert together([part(7, 0, 8, 2), part(7, 0, 8, 4), part(7, 2, 4, 2)]) == 5 * MIB  # half of it, but 2 MiB whole
    assert together([part(7, 0, 0)]) == 0


def test_parts_of_a_process_are_bounded_and_none_is_lost() -> None:
    few = [part(7, page, page + 1) for page in range(0, 100, 2)]
    assert bounded(few, 1) == few

    of_one = [part(7, page, page + 1) for page in range(0, 3000, 2)]
    assert bounded(of_one, 1) == [part(7, 0, 2999, 1500)]
    of_many = [part(inode, 0, 1) for inode in range(1000)]
    assert len(bounded(of_many, 1)) == MOST_PARTS
    assert together(bounded(of_many, 1)) == 1000 * MIB


def test_what_to_try_is_a_process_that_may_be_looked_at() -> None:
    hidden, sampled, seen = (Group(facts(pid, anon=20 - pid) for pid in pids) for pids in ([1], [2, 3], [4, 5]))
    sampled.measured, seen.measured = {3: measured(1)}, {5: measured(1), 4: measured(1)}

    assert to_try([hidden, sampled, seen]) == ("name:one", "3")
    assert to_try([hidden, seen]) == ("name:one", "4")
    assert to_try([hidden]) == to_try([]) == ("self", "self")


@pytest.mark.parametrize(
    ("name", "target"), [("a b", None), ("x;id", None), ("\x1b", None), ("kworker.x", "name:kworker.x")]
)
def test_name_that_a_shell_would_read_otherwise_is_not_a_line_to_type(name: str, target: str | None) -> None:
    assert target_text(Group([facts(1, name), facts(2, name)])) == target


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
    group.measured = {pid: measured(4, own=2, hugetlb_parts=(part(7, 0, 6),)) for pid in (1, 2)}
    assert group.hugetlb == (2 + 2 + 6) * MIB

    group.measured[1] = replace(group.measured[1], own_hugetlb=None)
    assert group.hugetlb is None


def test_screen_of_a_kernel_that_tells_less_has_no_zeros_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = {"Swap", "Private_Hugetlb", "Private_Clean"}

    def less(process: ProcessDir) -> dict[str, int]:
        return {name: value for name, value in read_rollup(process).items() if name not in hidden}

    def fewer(process: ProcessDir) -> MemoryCounters:
        return replace(read_memory_counters(process), swap=None, hugetlb=None)

    monkeypatch.setattr(ranking, "read_memory_counters", fewer)
    monkeypatch.setattr(measuring, "read_rollup", less)
    monkeypatch.setattr(measuring, "MAX_STALL", 60.0)
    monkeypatch.setattr(machine, "MEASURE_SECONDS", 60.0)
    with sparse(1 << 30, range(9_973)):
        assert main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert told["rows"]
    for row in told["rows"]:
        assert [row[name] for name in ("swap", "hugetlb", "top_kind", "top_share")] == [None] * 4
    assert any(row["pss"] and row["uss"] is None for row in told["rows"])
    assert any("no line VmSwap or HugetlbPages" in note for note in texts(told["notes"]))


def settled(groups: list[Group], pss: list[int], count: int, by: str | None = None, swapped: int = 0) -> Search:
    """Return a search of which the first groups are measured, with so many MiB each."""
    search = Search(groups, count, by, swapped * MIB)
    for index, size in enumerate(pss):
        for each in groups[index].members:
            groups[index].measured[each.pid] = replace(measured(size, size // 2), swap_pss=each.swap)
        search.settle(index)
    return search


def test_search_ends_when_nobody_left_can_be_larger() -> None:
    groups = grouped([facts(1, "a", anon=100), facts(2, "b", anon=80), facts(3, "c", anon=60), facts(4, "d", anon=10)])

    assert not settled(groups, [90], 2).is_decided
    assert not settled(groups, [90, 50], 2).is_decided  # c may have 60
    assert settled(groups, [90, 50, 20], 2).is_decided
    assert settled(groups, [90, 50, 20, 10], 9).is_decided
    assert [group.name for group in largest(groups, 2)] == ["a", "b"]


def test_search_goes_on_for_what_is_in_swap_and_in_no_counter() -> None:
    everybody = [facts(1, "a", anon=100, swap=7), facts(2, "b", anon=80), facts(3, "c", anon=1)]
    groups = grouped(everybody)

    assert settled(groups, [100, 80], 2, swapped=7).is_decided
    search = settled(groups, [100, 80], 2, swapped=40)  # of shared memory, perhaps c's: it would be the largest holder
    assert (search.is_ranked, search.is_decided, search.unseen) == (True, False, 33 * MIB)
    groups[2].measured = {3: measured(1, swap_parts=(part(7, 0, 33),))}
    search.settle(2)
    assert search.is_decided
    assert [group.name for group in largest(groups, 2)] == ["a", "c"]

    groups = grouped(everybody)
    assert not settled(groups, [100, 80], 1, "swap", swapped=40).is_decided
    assert settled(groups, [100, 80], 2, "pss", swapped=40).is_decided


def test_holder_of_swap_or_huge_pages_has_a_row_however_small() -> None:
    ordinary = [facts(pid, f"p{pid}", anon=1000) for pid in range(5)]
    groups = grouped([*ordinary, facts(8, "swapped", swap=17), facts(9, "pool", anon=1, hugetlb=8)])

    assert [group.name for group in groups[:2]] == ["swapped", "pool"]
    assert not settled(groups, [0], 1).is_decided
    assert {"swapped", "pool"} < {group.name for group in largest(groups, 3)}
    assert holders(grouped(ordinary)) == []


def test_who_cannot_be_read_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(_: ProcessDir) -> dict[str, int]:
        raise FormatError("smaps_rollup", "odd")

    monkeypatch.setattr(measuring, "read_rollup", odd)
    own = ProcFS().process(os.getpid())
    group = Group([replace(facts(own.pid, anon=2), start_time=read_stat(own).start_time)])

    ranking.measure_groups([group], ProcFS(), float("inf"), 1)

    assert [one.pid for one in group.members] == [os.getpid()]
    assert group.pss is None


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
    found = {1: measured(40, 40), 2: measured(30, 2), 3: measured(1, 1, swap_pss=70)}
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
    assert not settled(groups, [60], 1, "uss").is_decided
    assert settled(groups, [60], 1, "rss").is_decided
    assert settled(groups, [110], 1, "uss").is_decided


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

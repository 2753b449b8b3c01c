"""Processes as a table, compared whole: rows, totals, what is given up on a narrow screen, and notes."""

from __future__ import annotations

from typing import Any

from mematlas.analysis.listing import DistinctFrames, GroupsResult, ProcessesResult, ProcessUsage, group_of, members_by
from mematlas.notes import Note
from mematlas.views.frames import table_of
from mematlas.views.processes import Wanted, groups_table, processes_table
from mematlas.views.since import Since

MIB = 1 << 20
ID = "0123456789abcdef" * 4


def usage(pid: int, name: str, rss: int, pss: int | None, uss: int | None, **more: Any) -> ProcessUsage:
    fields: dict[str, Any] = {
        "pid": pid,
        "name": name,
        "start_time": pid,
        "parent": 1,
        "uid": 0,
        "user": "root",
        "cgroup": "/a",
        **dict.fromkeys(("container", "pod", "unit", "exe")),
        "rss": rss * MIB,
        "pss": pss and pss * MIB,
        "uss": uss and uss * MIB,
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


SHOP = [usage(812, "shop", 70, 40, 30), usage(813, "shop", 60, 30, 20, user="ann", swap=MIB, swap_pss=MIB)]
HIDDEN = usage(7, "a\x1b", 3, None, None, thp=None, source=None, cgroup=f"/docker/{ID}", container=ID)
SKIPPED: dict[str, tuple[int, ...]] = {"refused": (7,), "unanswered": (), "late": ()}


def result(*processes: ProcessUsage, whole: bool = True, **more: Any) -> ProcessesResult:
    fields: dict[str, Any] = {"skipped": SKIPPED, "sharing": {}, "duration_s": 0.125, "notes": ()}
    return ProcessesResult(processes=processes, is_whole=whole, **fields | more)


ALL = result(HIDDEN, *SHOP)


def test_processes_are_a_row_each_the_largest_first_and_what_is_hidden_last() -> None:
    assert list(processes_table(ALL, Wanted()).lines()) == [
        "  PID  USER  NAME      RSS     PSS     USS   SWAP  SHARED  THP  TABLES  CGROUP",
        "  812  root  shop   70 MiB  40 MiB  30 MiB      0  40 MiB    0   4 KiB  /a",
        "  813  ann   shop   60 MiB  30 MiB  20 MiB  1 MiB  40 MiB    0   4 KiB  /a",
        f"    7  root  a\\x1b   3 MiB       -       -      0       -    -   4 KiB  /docker/{ID}",
        "total                       70 MiB  50 MiB  1 MiB               12 KiB",
    ]


def test_screen_of_80_columns_has_what_most_look_for() -> None:
    lines = list(processes_table(ALL, Wanted(), "sudo -- mematlas ps").lines(width=80))

    assert lines[0].split()[:7] == ["PID", "USER", "NAME", "RSS", "PSS", "USS", "SWAP"]
    assert max(map(len, lines)) <= 80


def test_columns_are_those_that_were_chosen_in_their_order() -> None:
    table = processes_table(ALL, Wanted(columns=("container", "pid", "rss"), sort="rss"))

    assert list(table.lines()) == [
        "CONTAINER     PID     RSS",
        "-             812  70 MiB",
        "-             813  60 MiB",
        "0123456789ab    7   3 MiB",
    ]
    assert [row["container"] for row in table.records()] == [None, None, ID]


def test_rows_beyond_the_limit_are_summed_up() -> None:
    lines = list(processes_table(ALL, Wanted(columns=("pid", "pss"), sort="pss", limit=1)).lines())

    assert lines == ["   PID     PSS", "   812  40 MiB", "others  30 MiB", " total  70 MiB"]


def test_rows_by_pid_are_in_its_order() -> None:
    assert [row["pid"] for row in processes_table(ALL, Wanted(sort="pid")).records()] == [7, 812, 813]


def test_groups_are_a_row_each_with_what_the_sum_of_rss_claims() -> None:
    groups = tuple(group_of("name", *pair) for pair in members_by("name", ALL.processes).items())
    table = groups_table(GroupsResult(by="name", groups=groups, processes=ALL), Wanted())

    assert list(table.lines()) == [
        "  PID  PROCS     PSS     USS   SWAP  TABLES  SUM OF RSS  NAME",
        "  812      2  70 MiB  50 MiB  1 MiB   8 KiB     130 MiB  shop",
        "    7      1       -       -      0   4 KiB       3 MiB  a\\x1b",
        "total      3  70 MiB  50 MiB         12 KiB",
    ]


def test_containers_are_known_by_the_first_digits_of_their_ids() -> None:
    groups = tuple(group_of("container", *pair) for pair in members_by("container", ALL.processes).items())
    table = groups_table(GroupsResult(by="container", groups=groups, processes=ALL), Wanted(columns=("name",)))

    assert list(table.lines()) == ["CONTAINER", "(none)", "0123456789ab"]
    assert [row["name"] for row in table.records()] == ["(none)", ID]


def test_frames_that_were_counted_are_the_total_of_all_and_of_fewer_it_is_not_known() -> None:
    frames = DistinctFrames(rss=90 * MIB, uss=80 * MIB, swap=4096, hugetlb=0)
    table = processes_table(result(*SHOP, distinct=frames), Wanted(columns=("pid", "rss", "uss", "swap"), limit=1))

    assert list(table.lines()) == [
        "   PID     RSS     USS   SWAP",
        "   812  70 MiB  30 MiB      0",
        "others       -       -      -",
        " total  90 MiB  80 MiB  4 KiB",
    ]


def test_notes_say_who_is_in_no_total() -> None:
    skipped = {"refused": (7,), "unanswered": (9,), "late": (10, 11), "unreadable": (12,)}
    silent = usage(9, "stuck", 1, None, None, source=None)
    partly = result(HIDDEN, silent, *SHOP, whole=False, skipped=skipped, sharing={15: 14}, notes=(Note("a", "b"),))

    assert [note.text for note in processes_table(partly, Wanted(), "sudo -- mematlas ps").notes] == [
        "b",
        "PID 15 runs in the address space of 14 (CLONE_VM, vfork): that memory exists once, and is freed with the last"
        " of them",
        "PSS and USS of 1 process are hidden from you; to see all: sudo -- mematlas ps",
        "9 (stuck): PSS and USS unknown: reading their memory blocks",
        "10, 11: PSS and USS unknown: no time left, or no room for a child",
        "12: unknown, in part or all of it: a file of /proc is not as mematlas knows it (usage PID says which)",
        "the totals are of 2 of 4 processes",
        "the totals are of these processes alone: of a page that others map too, PSS is a part",
    ]


def test_whole_list_of_which_all_is_known_needs_no_note() -> None:
    assert not processes_table(result(*SHOP, skipped={}), Wanted()).notes


def test_who_was_asked_for_and_has_no_memory_is_named() -> None:
    skipped = {"ended": (9, 12), "kernel thread": (2,)}
    texts = [note.text for note in processes_table(result(*SHOP, whole=False, skipped=skipped), Wanted()).notes]

    assert texts[:2] == [
        "left out, since they ended: PID 9, 12",
        "left out, since threads of the kernel have no memory of their own: PID 2",
    ]
    assert not processes_table(result(*SHOP, skipped=skipped), Wanted()).notes


def test_of_totals_that_are_not_shown_nothing_is_said() -> None:
    some = result(*SHOP, whole=False, skipped={})

    assert not processes_table(some, Wanted(columns=("pid", "rss"))).notes
    assert [note.code for note in processes_table(some, Wanted(columns=("pid", "pss"))).notes] == ["sum-of-chosen"]
    assert not processes_table(result(SHOP[0], whole=False, skipped={}), Wanted()).notes


def test_what_has_changed_is_known_of_the_same_process_alone() -> None:
    since = Since()
    wanted = Wanted(columns=("pid", "change"), since=since)
    list(processes_table(result(*SHOP), wanted).records())
    later = [usage(812, "shop", 75, 40, 30), usage(813, "other", 4, 3, 2, start_time=99)]
    since.seconds = 1.0

    rows = list(processes_table(result(*later), wanted).records())
    assert [(row["pid"], row["change"]) for row in rows] == [(812, 5 * MIB), (813, 4 * MIB)]


def test_change_of_groups_is_summed_as_far_as_it_is_known() -> None:
    since = Since()
    wanted = Wanted(columns=("name", "change"), since=since)
    groups = tuple(group_of("name", *pair) for pair in members_by("name", ALL.processes).items())
    table = groups_table(GroupsResult(by="name", groups=groups, processes=ALL), wanted)

    assert list(table.lines()) == ["NAME   CHANGE", "shop        0", "a\\x1b       -", "total       0"]


def test_results_are_tables_of_other_libraries_too() -> None:
    groups = tuple(group_of("name", *pair) for pair in members_by("name", ALL.processes).items())

    assert len(list(table_of(ALL).records())) == 3
    assert len(list(table_of(GroupsResult(by="name", groups=groups, processes=ALL)).records())) == 2

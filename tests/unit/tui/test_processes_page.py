"""The page of processes: what it lists in which order and shape, what its lines come to, and what keys do to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from histories import seen, write
from mematlas.errors import FormatError
from mematlas.frozen import replace
from mematlas.model.who import NOT_KNOWN, Who, WhoFinder
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.recorded_timeline import RecordedTimeline
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import Files, Look, Seen
from mematlas.tui.past import Past
from mematlas.tui.process_lines import what_of, words_of_kind
from mematlas.tui.processes import BY, ProcessesPage
from mematlas.tui.viewing import Viewing
from screens import ScriptedWatch, assert_fits, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.timeline.timeline import Moments

MIB = 1 << 20
ROOT = Who(1, 0, "root", "/system.slice/shop.service", None, None, "shop.service")


def process(pid: int, pss: int | None, name: str = "shop", who: Who = ROOT, start: int = 77, **amounts: Any) -> Seen:
    """Return a process with so much PSS, half of it its own, and twice that resident."""
    known = {"pss": pss, "uss": None if pss is None else pss // 2, "rss": None if pss is None else 2 * pss, "swap": 0}
    made = replace(seen(pid, [], name), vmas=None, start_time=start, who=who)
    return replace(made, usage=replace(made.usage, usage=replace(made.usage.usage, **known | amounts)))


def moments_of(looks: Sequence[Sequence[Seen]], step: float, **more: Any) -> list[Snapshot[Look]]:
    return [
        Snapshot(1e9 + step * number, step * number, Look(tuple(there), (), {}, **more), Cost(0.0, 0.0))
        for number, there in enumerate(looks)
    ]


def live(*looks: Sequence[Seen], step: float = 60.0, **more: Any) -> LiveTimeline:
    """Return a timeline of looks that are a minute apart."""
    timeline = LiveTimeline(ScriptedWatch([]), keep=1e9)
    timeline.sampler = moments_of(looks, step, **more)  # type: ignore[assignment]
    timeline.watch = ScriptedWatch(())
    for _ in timeline:
        pass
    return timeline


def page_of(*looks: Sequence[Seen], **more: Any) -> ProcessesPage:
    viewing = Viewing()
    viewing.everybody = live(*looks, **more)
    return ProcessesPage(viewing)


def drawn(page: ProcessesPage, width: int = 120, height: int = 40) -> list[str]:
    return text_of(page.draw(width, height))


def pids(page: ProcessesPage) -> list[int]:
    """Return the PIDs of the lines, in order."""
    page.draw(200, 60)
    return [line.pid for line in page.list.items]


def cells_of(page: ProcessesPage, pid: int, width: int = 200) -> dict[str, str]:
    """Return what stands in the columns of a process."""
    row = next(row for row in drawn(page, width) if str(pid) in row.split()[:2] or f"*{pid:>7}" in row)
    cells, at = {}, 0
    for key, _, size, _ in page.heading.columns:
        cells[key] = row[at : at + size].strip()
        at += size + 1
    return cells


FAMILY = [
    process(10, 30 * MIB, "parent", replace(ROOT, parent=1)),
    process(11, 10 * MIB, "small", replace(ROOT, parent=10, user="ann", uid=7)),
    process(12, 20 * MIB, "large", replace(ROOT, parent=10, unit="till.service")),
    process(13, 500 * MIB, "grandchild", replace(ROOT, parent=11)),
    process(14, 40 * MIB, "stranger", replace(ROOT, parent=999)),
]


@pytest.mark.parametrize("keys", ["", "t", "g", "g+", "gg", "ggg", "gggg"])
def test_every_row_fits(keys: str) -> None:
    page = page_of(FAMILY, [*FAMILY, process(15, 1, "name that is long" * 9)])
    for key in keys:
        page.draw(80, 24)
        page.press(key)
    assert_fits(page)
    page.viewing.compared = 0.0
    page.press("space")
    assert_fits(page)


def test_the_largest_come_first_and_what_is_not_known_last() -> None:
    page = page_of([process(1, 5 * MIB), process(2, None), process(3, 9 * MIB)])
    assert pids(page) == [3, 1, 2]
    assert cells_of(page, 2)["pss"] == "-"
    page.press("I")
    assert pids(page) == [1, 3, 2]


@pytest.mark.parametrize("sort", ["pid", "name", "uss", "pss", "rss", "swap", "change", "spark", "bar", "what", "user"])
def test_every_column_can_be_sorted_by_and_the_other_way_round(sort: str) -> None:
    page = page_of(FAMILY, FAMILY)
    page.heading.sort = sort
    one_way = pids(page)
    page.press("I")
    other_way = pids(page)
    assert sorted(one_way) == sorted(other_way) == [10, 11, 12, 13, 14]
    values = [page._value(line) for line in page.list.items]
    assert values == sorted(values, reverse=sort in ("pid", "name", "user") or sort == "what") or len(set(values)) == 1
    assert one_way == other_way[::-1] or len(set(values)) < len(values)


def test_names_go_from_a_to_z() -> None:
    page = page_of(FAMILY)
    page.heading.sort = "name"
    assert [page.list.items[0].name for _ in [pids(page)]] == ["grandchild"]


def test_keys_and_clicks_choose_the_column_that_is_sorted_by() -> None:
    page = page_of(FAMILY)
    drawn(page)
    for key, sort in ((">", "rss"), ("f6", "swap"), ("<", "rss")):
        assert page.press(key)
        assert page.heading.sort == sort
    page.click(0, 0, is_double=False)
    assert page.heading.sort == "pid"
    assert drawn(page)[0].split()[0] == "▾PID"


def test_who_sorts_sees_the_first_ones() -> None:
    page = page_of(FAMILY)
    drawn(page)
    page.press("end")
    page.press("I")
    drawn(page)
    assert page.list.index == 0
    page.press("end")
    page.click(0, 0, is_double=False)
    drawn(page)
    assert page.list.index == 0


def test_the_column_that_is_sorted_by_stays_on_a_narrow_screen() -> None:
    page = page_of(FAMILY)
    page.heading.sort = "swap"
    page.draw(40, 10)
    assert "swap" in [key for key, *_ in page.heading.columns]


def test_columns_go_by_what_they_matter() -> None:
    page = page_of(FAMILY)
    shown = {}
    for width in (80, 120, 200):
        page.draw(width, 24)
        shown[width] = [key for key, *_ in page.heading.columns]
    assert shown[80] == ["pid", "name", "uss", "pss", "rss", "swap", "change", "spark"]
    assert shown[120] == [*shown[80], "bar", "what"]
    assert shown[200] == [*shown[120], "user", "where"]


def test_the_cursor_stays_on_its_process() -> None:
    page = page_of(FAMILY, [*FAMILY[1:], process(10, 900 * MIB, "parent")])
    page.viewing.at = 0.0
    assert pids(page)[0] == 13
    page.press("down")
    assert page.list.current is not None
    assert page.list.current.pid == 14
    page.viewing.at = None
    assert pids(page)[0] == 10
    assert page.list.current.pid == 14


# What they come to


def test_the_total_has_each_page_once_where_all_are_seen() -> None:
    last = drawn(page_of(FAMILY, unseen={"refused": 0, "unanswered": 0}))[-1]
    assert "5 processes · each page once 600 MiB · plain sum of RSS 1.17 GiB" in last


def test_the_total_is_a_part_where_nobody_knows_who_else_there_was() -> None:
    assert "5 processes · PSS together 600 MiB" in drawn(page_of(FAMILY))[-1]


def test_the_total_is_a_part_where_some_are_hidden() -> None:
    page = page_of(FAMILY, unseen={"refused": 12, "unanswered": 1})
    assert "PSS together 600 MiB" in drawn(page)[-1]
    assert "12 hidden: needs CAP_SYS_PTRACE · 1 without an answer" in drawn(page)[-1]
    assert "12 hidden" in drawn(page, 80, 24)[-1]


def test_the_total_of_tagged_ones_is_theirs() -> None:
    page = page_of(FAMILY)
    drawn(page)
    page.press("space")
    page.press("space")
    last = drawn(page)[-1]
    assert "* 2 tagged · PSS 540 MiB · USS at least 270 MiB · plain sum of RSS 1.05 GiB" in last
    assert [row[0] for row in drawn(page)[1:3]] == ["*", "*"]
    assert page.press("escape")
    assert "tagged" not in drawn(page)[-1]


def test_bars_are_on_one_scale_that_the_heading_says() -> None:
    page = page_of(FAMILY)
    assert "PSS of 500 MiB" in drawn(page)[0]
    size = next(size for key, _, size, _ in page.heading.columns if key == "bar")
    assert cells_of(page, 13, 120)["bar"] == "█" * size
    assert len(cells_of(page, 14, 120)["bar"]) == -(-size * 40 // 500)


def test_what_it_mostly_is() -> None:
    assert words_of_kind(what_of([process(1, MIB, anon=2 * MIB, file=0, shmem=0)])) == "anon 100%"
    assert words_of_kind(what_of([process(1, MIB, anon=MIB // 2, file=None, shmem=None)])) == "file+shm 75%"
    assert words_of_kind(what_of([process(1, MIB, anon=0, file=MIB // 2, shmem=3 * MIB // 2)])) == "shmem 75%"
    assert words_of_kind(what_of([process(1, None, anon=None)])) == "-"


# Changes


def test_the_change_is_since_a_minute_before() -> None:
    page = page_of([process(1, 10 * MIB)], [process(1, 10 * MIB)], [process(1, 30 * MIB), process(2, 6 * MIB)])
    assert "ΔUSS 1 min" in drawn(page)[0]
    assert [cells_of(page, pid)["change"] for pid in (1, 2)] == ["+10 MiB", "+3 MiB"]


def test_the_change_is_not_known_at_the_first_moment() -> None:
    page = page_of([process(1, 10 * MIB)])
    assert cells_of(page, 1)["change"] == "-"


def test_the_change_is_of_pss_where_uss_is_not_known() -> None:
    page = page_of([process(1, 10 * MIB, uss=None)], [process(1, 11 * MIB, uss=None)])
    assert "ΔPSS 1 min" in drawn(page)[0]
    assert cells_of(page, 1)["change"] == "+1 MiB"


def test_curves_are_of_ten_minutes_each_on_its_own_scale() -> None:
    looks = [[process(1, MIB << number), process(2, MIB)] for number in range(11)]
    page = page_of(*looks)
    assert cells_of(page, 1)["spark"][-1] == "█"
    assert cells_of(page, 1)["spark"][0] == "▁"
    assert set(cells_of(page, 2)["spark"]) == {"█"}


def test_against_a_snapshot_new_ones_and_ended_ones_are_marked() -> None:
    page = page_of(
        [process(1, 10 * MIB), process(2, 4 * MIB)], [process(1, 10 * MIB)], [process(1, 12 * MIB), process(3, MIB)]
    )
    page.viewing.compared = 0.0
    rows = drawn(page)
    assert [row[0] for row in rows[1:4]] == [" ", "-", "+"]
    assert [cells_of(page, pid)["change"] for pid in (1, 3)] == ["+1 MiB", "+512 KiB"]
    ended = next(line for line in page.list.items if line.is_ended)
    assert (ended.pid, ended.change) == (2, -2 * MIB)
    assert {role for _, role in page._row(ended)} == {"muted"}
    assert "2 processes · PSS together 13 MiB" in rows[-1]
    page.viewing.compared = -5.0
    assert "the snapshot is no longer held" in drawn(page)[-1]


# Shapes


def test_a_tree_has_children_below_their_parents_the_largest_first() -> None:
    page = page_of(FAMILY)
    page.press("f5")
    names = [row.split()[1] for row in drawn(page)[1:6]]
    assert names == ["parent", "├─small", "│", "└─large", "stranger"]
    assert pids(page) == [10, 11, 13, 12, 14]
    assert page.press("t")
    assert pids(page) == [13, 14, 10, 12, 11]


def test_what_is_folded_is_one_line_that_has_all_of_it() -> None:
    page = page_of(FAMILY)
    page.press("t")
    drawn(page)
    page.press("left")
    assert pids(page) == [10, 14]
    assert page.list.items[0].sizes["pss"] == 560 * MIB
    assert "▸ parent (4)" in drawn(page)[1]
    page.press("+")
    assert pids(page) == [10, 11, 13, 12, 14]
    page.press("down")
    page.press("down")
    page.press("left")
    assert page.list.current is not None
    assert page.list.current.pid == 11


def test_parents_that_go_round_keep_nobody_from_being_listed() -> None:
    round_and_round = [process(pid, MIB, who=replace(ROOT, parent=pid % 3 + 1)) for pid in (1, 2, 3)]
    page = page_of([*round_and_round, process(4, MIB, who=replace(ROOT, parent=2))])
    page.press("t")
    assert sorted(pids(page)) == [1, 2, 3, 4]


def test_who_has_the_number_of_a_parent_now_is_none() -> None:
    page = page_of([process(10, MIB, start=900), process(11, 2 * MIB, who=replace(ROOT, parent=10), start=5)])
    page.press("t")
    drawn(page)
    assert [line.lead for line in page.list.items] == ["", ""]


def test_groups_add_up_pss_and_say_that_the_rest_is_no_sum() -> None:
    page = page_of([*FAMILY, process(15, 8 * MIB, "small")])
    page.press("g")
    head, *rows = drawn(page)
    assert [word for word in ("N / PID", "NAME", "≥USS", "PSS", "ΣRSS", "ΣSWAP") if word not in head] == []
    small = next(row for row in rows if "small" in row)
    assert small.split()[:9] == ["2", "▸", "small", "9", "MiB", "18", "MiB", "36", "MiB"]
    assert "of several: USS at least, RSS and SWAP plain sums" in rows[-1]


def test_groups_are_by_one_thing_after_the_other_and_then_none() -> None:
    page = page_of(FAMILY)
    headings = []
    for _ in BY:
        page.press("g")
        headings.append(drawn(page)[0].split()[3])
        assert sum(len(line.members) for line in page.list.items) == len(FAMILY)
    assert headings == ["NAME", "CONTAINER", "UNIT", "USER"]
    page.press("g")
    assert pids(page) == [13, 14, 10, 12, 11]


def test_enter_opens_a_group_and_then_leads_to_a_map() -> None:
    page = page_of(FAMILY)
    for _ in range(4):
        page.press("g")
    drawn(page)
    assert page.keys[0] == ("Enter", "open")
    page.press("enter")
    drawn(page)
    assert page.keys[0] == ("Enter", "close")
    assert [line.pid for _ in [pids(page)] for line in page.list.items if not line.is_group] == [13, 14, 10, 12]
    assert page.viewing.leads_to == ""
    page.press("down")
    assert page.keys[0] == ("Enter", "map")
    page.press("enter")
    assert (page.viewing.focus, page.viewing.leads_to) == ((13, 77), "Map")


def test_enter_on_one_that_has_ended_says_so() -> None:
    page = page_of([process(1, 9 * MIB)], [process(2, MIB)])
    page.viewing.compared = 0.0
    drawn(page)
    page.press("enter")
    assert "process 1 has ended" in page.viewing.said
    assert page.viewing.leads_to == ""


# Filter and search


@pytest.mark.parametrize(
    ("text", "found"), [("LARGE", [12]), ("13", [13]), ("ann", [11]), ("till", [12]), ("nobody has this", [])]
)
def test_a_filter_is_by_name_number_user_or_group(text: str, found: list[int]) -> None:
    page = page_of(FAMILY)
    page.filter(text)
    assert pids(page) == found
    assert f"{len(found)} of 5 with" in drawn(page)[-1]
    assert page.press("escape")
    assert len(pids(page)) == 5


def test_a_search_goes_on_to_the_next_one() -> None:
    page = page_of(FAMILY)
    drawn(page)
    assert page.search("shop.service")
    assert page.list.index == 1
    assert page.search("small")
    assert page.list.current is not None
    assert page.list.current.pid == 11
    assert not page.search("nobody has this")


def test_nothing_to_list_is_said_in_a_sentence() -> None:
    viewing = Viewing()
    assert "looking at all processes" in " ".join(drawn(ProcessesPage(viewing)))
    assert "run it as root" in " ".join(drawn(page_of([], unseen={"refused": 3, "unanswered": 0})))


# Recordings


def recorded(path: Path, what: str, *looks: Sequence[Seen]) -> RecordedTimeline:
    encoder = Encoder()
    rows = [encoder.rows_of(moment) for moment in moments_of(looks, 60.0)]
    timeline = RecordedTimeline(Recording(str(write(path / "x.mematlas", rows))))
    timeline.recording.facts["what"] = what
    return timeline


def test_what_was_recorded_is_drawn_as_it_was_seen(tmp_path: Path) -> None:
    looks = [[replace(one, who=NOT_KNOWN) for one in FAMILY[:number]] for number in (3, 4, 5)]
    of_file = recorded(tmp_path, '["usage"]', *looks)
    timelines: list[Moments] = [live(*looks), of_file]
    pictures = []
    for timeline, key in itertools.product(timelines, ("", "t", "g")):
        viewing = Viewing()
        viewing.everybody = timeline
        page = ProcessesPage(viewing)
        page.press(key)
        pictures.append(drawn(page))
    assert pictures[:3] == pictures[3:]
    of_file.recording.close()


def test_who_was_not_recorded_is_not_guessed(tmp_path: Path) -> None:
    viewing = Viewing()
    viewing.is_live, viewing.place = False, "x.mematlas"
    viewing.everybody = timeline = recorded(tmp_path, '["usage"]', FAMILY)
    page = ProcessesPage(viewing)
    for key in "gg":
        page.press(key)
    assert "not recorded: record --what pages" in " ".join(drawn(page))
    assert page.command() == "mematlas report x.mematlas"
    timeline.recording.close()


def test_files_that_were_recorded_tell_who_it_was(tmp_path: Path) -> None:
    status = b"Name:\tshop\nPPid:\t7\nUid:\t4000000000\t0\t0\t0\n"
    files = Files({"status": status, "cgroup": b"0::/system.slice/shop.service\n"}, {})
    timeline = recorded(tmp_path, '["usage", "pages"]', [replace(process(1, MIB), files=files)])
    who = timeline.at(0).found.seen[0].who
    assert (who.parent, who.user, who.unit) == (7, "4000000000", "shop.service")
    timeline.recording.close()


def test_a_status_without_names_tells_nothing_of_parents() -> None:
    assert WhoFinder().of_status(b"Name:\tredacted\nPid:\t3\n", None) == NOT_KNOWN


def test_files_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    files = Files({"status": b"Name:\tshop\nPPid:\tseven\n"}, {})
    timeline = recorded(tmp_path, '["usage", "pages"]', [replace(process(1, MIB), files=files)])
    with pytest.raises(FormatError, match="PPid"):
        timeline.at(0)
    timeline.recording.close()


# What is asked of the timeline


def test_each_step_of_a_curve_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = live(*([process(1, MIB)] for _ in range(100)), step=1.0)
    asked: list[float] = []
    amounts = timeline.amounts

    def counted(measure: str, times: Sequence[float]) -> list[Any]:
        asked.extend(times)
        return amounts(measure, times)

    monkeypatch.setattr(timeline, "amounts", counted)
    past = Past()
    for at in range(100):
        past.look(timeline, "uss", float(at), 10)
    # Nine steps back, one more when the first is over, and the moment itself each time.
    assert len(asked) == 9 + 1 + 100
    assert past.curve([(1, 77)])[-2:] == [MIB // 2, MIB // 2]


@pytest.mark.parametrize(
    ("keys", "line"), [("", "mematlas ps --sort pss"), ("gggg", "mematlas ps --by user --sort pss")]
)
def test_the_command_shows_the_same(keys: str, line: str) -> None:
    page = page_of(FAMILY)
    for key in keys:
        page.press(key)
    assert page.command() == line

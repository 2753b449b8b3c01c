"""The page of page tables: constructed tables, whose numbers are known, drawn as a tree and moved through."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from constructed_pagetables import MODE, PATH, START, map_page, plain_tables
from histories import seen, vma_at
from mematlas.analysis.pagetables.results import MappedTables, Origin, RawTable, WalkReading
from mematlas.analysis.pagetables.summary import summarize
from mematlas.analysis.pagetables.tables import map_of
from mematlas.errors import NotSupported, PermissionDenied
from mematlas.frozen import replace
from mematlas.model.pagetables.walk import walk, walk_parts
from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import Look, Watch
from mematlas.tui.drawing import width_of_row
from mematlas.tui.tables import RAW, TABLES, TablesPage
from mematlas.tui.viewing import Viewing

PID, BEGAN = 7, 77
SIZES = [(80, 21), (120, 37), (200, 57), (20, 4), (20, 1), (3, 3)]


class Clock:
    """A clock that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Still(Watch):
    """A process that is watched, with one VMA named so."""

    def __init__(self, name: str) -> None:
        item = vma_at(Random(1), 1)
        vma = replace(item.vma, start=START, end=START + (8 << 20), path=name, kind="anon")
        self.one = seen(PID, [replace(item, vma=vma)])

    def look(self) -> Look:
        return Look((self.one,), (), {})

    @property
    def is_over(self) -> bool:
        return True


def found_in(tables: Any, duration: float = 0.01) -> MappedTables:
    reading = WalkReading(Origin("bpf", MODE, "user", 0x1000, 1 << 40), duration, torn=False)
    return MappedTables(map_of([walk(tables, MODE, 0x1000)]), reading)


class Screen:
    """The page, with a process whose tables are those that are given."""

    def __init__(self, tables: Any = None, duration: float = 0.01) -> None:
        self.viewing = Viewing()
        self.viewing.focus = PID, BEGAN
        timeline = LiveTimeline(Still("[shop]"), rest=lambda _: None)
        list(timeline)
        self.viewing.closely = timeline
        self.tables = tables or plain_tables()
        self.duration = duration
        self.asked: list[str] = []
        self.viewing.ask = self.ask
        self.clock = Clock()
        self.page = TablesPage(self.viewing, self.clock)

    def ask(self, name: str, question: Callable[[Any], Any]) -> None:
        raise NotImplementedError

    # What is asked of a live timeline

    def tables_of(self) -> MappedTables:
        return found_in(self.tables, self.duration)

    def raw_tables(self, pid: int, addresses: list[int]) -> dict[int, RawTable]:
        assert pid == PID
        level = walk(self.tables, MODE, 0x1000).levels[3]
        rows = {int(address): row for row, address in enumerate(level.addresses)}
        return {
            address: RawTable(3, None, address, int(level.tables[rows[address]]), level.entries[rows[address]])
            for address in addresses
            if address in rows
        }

    def lines(self, width: int = 120, height: int = 30) -> list[str]:
        rows = self.page.draw(width, height)
        assert len(rows) <= height
        assert all(width_of_row(row) <= width for row in rows)
        return ["".join(text for text, _ in row).rstrip() for row in rows]

    def press(self, *keys: str) -> None:
        for key in keys:
            assert self.page.press(key)
            self.lines()


class Answering(Screen):
    """The same, as a timeline is asked."""

    def ask(self, name: str, question: Callable[[Any], Any]) -> None:
        screen = self

        class Timeline:
            def tables(self, pid: int) -> MappedTables:
                assert pid == PID
                return screen.tables_of()

            raw_tables = staticmethod(screen.raw_tables)

        self.asked.append(name)
        self.viewing.answers[name] = question(Timeline())


class Refusing(Screen):
    """The same, without rights."""

    def ask(self, name: str, question: Callable[[Any], Any]) -> None:
        self.viewing.answers[name] = PermissionDenied("bpf(2)", "CAP_BPF")


def shown(screen: Screen) -> Screen:
    """Return a screen that has its answer: it is asked for while the page is drawn first."""
    screen.lines()
    screen.lines()
    return screen


def place_of(screen: Screen) -> tuple[int, int]:
    """Return the level and the address of what the cursor is on."""
    here = screen.page.list.current
    assert here
    return here.level, here.address


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_row_fits(width: int, height: int) -> None:
    screen = shown(Answering())
    screen.press("*", "end", "enter")
    screen.lines(width, height)


def test_tables_are_counted_and_added_up() -> None:
    screen = shown(Answering())
    screen.press("home", "*")
    text = "\n".join(screen.lines())
    assert "4 tables, 16 KiB for 2.04 MiB" in text
    rows = [line for line in screen.lines() if "▸" in line or "▾" in line or "■" in line]
    assert [line.split()[:2] for line in rows] == [["▾", "pgd"], ["▾", "pud"], ["▾", "pmd"], ["▸", "pte"], ["■", "2"]]
    pte = rows[3]
    assert "11/512" in pte
    assert "36 KiB" in pte
    assert "[shop]" in pte
    assert "1 × 2 MiB" in rows[2]


def test_what_is_closed_is_not_shown_and_comes_back_as_it_was() -> None:
    screen = shown(Answering())
    screen.press("home", "*", "left")
    assert sum("pmd" in line for line in screen.lines()[3:-1]) == 0
    screen.press("right")
    assert any("■ 2 MiB" in line for line in screen.lines())


def test_left_leads_to_the_table_that_points_there() -> None:
    screen = shown(Answering())
    screen.press("home", "*", "end")
    assert any("■" in line for line in screen.lines())
    for level in ("pmd", "pud", "pgd"):
        screen.press("left")
        if level == "pmd":
            assert place_of(screen) == (2, START)
        else:
            screen.press("left")
    assert place_of(screen) == (0, 0)


def test_a_table_of_the_last_level_opens_to_its_entries_decoded() -> None:
    screen = shown(Answering())
    screen.press("home", "*", "down", "down", "down", "enter")
    assert screen.asked.count(RAW) == 1
    lines = screen.lines()
    first = next(line for line in lines if line.split()[:1] == ["0"])
    assert f"{0x700025:#018x}" in first
    assert "pfn 0x700" in first
    assert "-xua--" in first
    assert any(" ·" in line and line.split()[0] == "3" for line in lines if line.split())
    screen.press("down")
    assert "entry 0 of pte: present" in screen.lines()[-1]


def test_what_is_opened_stays_so_when_tables_are_others() -> None:
    screen = shown(Answering())
    screen.press("home", "*", "end")
    before = screen.page.list.current
    map_page(screen.tables, START + 0x30000, 0xA00000 | 0x67)
    screen.press("u")
    assert any("12/512" in line for line in screen.lines())
    assert screen.page.list.current == before


def test_tables_are_read_no_more_often_than_a_hundredth_of_a_core_allows() -> None:
    screen = shown(Answering(duration=0.5))
    assert screen.asked.count(TABLES) == 1
    screen.clock.now += 49
    screen.lines()
    assert screen.asked.count(TABLES) == 1
    screen.clock.now += 1
    screen.lines()
    assert screen.asked.count(TABLES) == 2
    quick = shown(Answering(duration=0.001))
    quick.clock.now += 2.9
    quick.lines()
    assert quick.asked.count(TABLES) == 1


def test_frozen_nothing_is_read() -> None:
    screen = shown(Answering())
    screen.viewing.is_frozen = True
    screen.clock.now += 1000
    screen.lines()
    assert screen.asked.count(TABLES) == 1
    assert any("earlier ones are not kept" in line for line in screen.lines())


def test_without_rights_it_says_what_is_missing() -> None:
    screen = Refusing()
    text = " ".join(" ".join(shown(screen).lines(80, 20)).split())
    assert "Page tables of process 7 cannot be read: bpf(2): permission denied (needs CAP_BPF)" in text


def test_an_address_is_found_and_names_are_searched_for() -> None:
    screen = shown(Answering())
    assert screen.page.search(hex(START + 0x11000))
    assert place_of(screen) == (3, START)
    assert screen.page.search("SHOP")
    assert not screen.page.search("nowhere")


def test_a_filter_leaves_tables_of_vmas_that_have_it_in_their_names() -> None:
    screen = shown(Answering())
    screen.tables.map(START + (4 << 30), [*PATH[:2], 0x5000, 0x6000], 0x67, 0xB00000 | 0x67)
    screen.press("u", "home", "*")
    assert sum(" pte " in line for line in screen.lines()[4:-1]) == 2
    screen.page.filter("shop")
    assert sum(" pte " in line for line in screen.lines()[4:-1]) == 1
    screen.page.filter("")
    assert sum(" pte " in line for line in screen.lines()[4:-1]) == 2


def test_m_leads_to_the_map_there() -> None:
    screen = shown(Answering())
    screen.press("home", "*", "end", "m")
    assert screen.viewing.leads_to == "Map"
    assert screen.viewing.address == START + (4 << 20)
    assert screen.page.command() == f"mematlas tables {PID} {START + (4 << 20):#x}"


def test_the_cursor_of_the_map_is_gone_to() -> None:
    screen = shown(Answering())
    screen.press(".")
    assert "no place is chosen" in screen.viewing.said
    screen.viewing.address = START + (4 << 20) + 4096
    screen.press(".")
    assert place_of(screen) == (2, START + (4 << 20))


def test_of_a_recording_each_level_is_shown_or_that_it_is_not_recorded() -> None:
    from mematlas.analysis.pagetables.results import SummaryResult

    counted = summarize([walk(plain_tables(), MODE, 0x1000)])
    result = SummaryResult(counted, 8192, None, found_in(plain_tables()).reading)

    class Recorded(LiveTimeline):
        holds = True

        def tables_at(self, seconds: float, pid: int) -> SummaryResult:
            if self.holds:
                return result
            raise NotSupported("page tables", "record --what tables")

    screen = Answering()
    timeline = Recorded(Still("x"), rest=lambda _: None)
    list(timeline)
    screen.viewing.closely, screen.viewing.is_live = timeline, False
    screen.viewing.place = "x.mematlas"
    text = "\n".join(screen.lines())
    assert "4 tables, 16 KiB for 2.04 MiB" in text
    assert "8 KiB more in reserve" in text
    for width, height in SIZES:
        screen.lines(width, height)
    timeline.holds = False
    assert "record --what tables" in " ".join(" ".join(screen.lines(80, 20)).split())


def test_nobody_is_looked_at_to_begin_with() -> None:
    screen = Answering()
    screen.viewing.focus = None
    assert "No process is looked at" in " ".join(screen.lines())


@pytest.mark.parametrize("nr_tables", [1, 64])
def test_parts_of_a_walk_make_the_same_columns(nr_tables: int) -> None:
    tables = plain_tables()
    tables.map(START + (1 << 30), [*PATH[:2], 0x5000, 0x6000], 0x67, 0xB00000 | 0x67)
    whole = map_of([walk(tables, MODE, 0x1000)])
    parts = map_of(walk_parts(tables, MODE, 0x1000, nr_tables=nr_tables))
    for one, other in zip(whole.levels, parts.levels, strict=True):
        for name in one.__match_args__:
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_of_more_tables_than_asked_for_the_first_ones_are_mapped() -> None:
    tables = plain_tables()
    tables.map(START + (1 << 30), [*PATH[:2], 0x5000, 0x6000], 0x67, 0xB00000 | 0x67)
    found = map_of(walk_parts(tables, MODE, 0x1000, nr_tables=1), most=1)
    assert found.is_cut
    assert len(found.levels[3]) == 1

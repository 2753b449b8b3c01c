"""The page map: what is drawn of pages that are known, where the cursor goes, what is said where nothing is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histories import NOTHING, seen, write
from mematlas.analysis.frame_owners import NO_DETAIL, FrameMapper, FrameOwners, OwnedFrames
from mematlas.analysis.page_cells import Segments, space_of
from mematlas.analysis.pagetables.results import WalkedAddress
from mematlas.analysis.results import Reading, VmaUsage
from mematlas.analysis.translation import Translation
from mematlas.errors import NotSupported
from mematlas.frozen import replace
from mematlas.kernel.maps import Vma
from mematlas.kernel.nodes import NodeMap
from mematlas.model.pagetables.walk import WalkStep
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.recorded_timeline import RecordedTimeline
from mematlas.timeline.recording import Recording
from mematlas.timeline.sampler import Cost, Snapshot
from mematlas.timeline.timeline import Detail
from mematlas.timeline.watch import Files, Look
from mematlas.timeline.words import Sparse
from mematlas.tui.colours import Colours
from mematlas.tui.drawing import width_of_row
from mematlas.tui.map import MapPage
from mematlas.tui.map_detail import detail_rows
from mematlas.tui.palettes import Fading, Painted, Strokes
from mematlas.tui.viewing import PALETTES, Viewing
from mematlas.words import Kind
from screens import assert_fits, look_of, text_of, timeline_of

PAGE = 4096
OWN, SHARED, SWAPPED, HUGE = 0x81 << 56, 0x80 << 56, 0x40 << 56, 0x91 << 56
HEAP, LIBRARY, STACK = 0x1000, 0x70_0000, 0x7F_0000
"""Numbers of pages."""


def vma(first: int, nr_pages: int, kind: Kind = "anon", path: str = "", **amounts: Any) -> VmaUsage:
    usage = replace(NOTHING, nr_pages=nr_pages, **amounts)
    return VmaUsage(Vma(first * PAGE, (first + nr_pages) * PAGE, "rw-p", 0, "00:00", 0, path, kind), usage, None, None)


def vmas(**amounts: Any) -> list[VmaUsage]:
    return [
        vma(HEAP, 300, "heap", "[heap]", **amounts),
        vma(LIBRARY, 40, "file", "/usr/lib/libshop.so.3", **amounts),
        vma(STACK, 33, "stack", "[stack]", **amounts),
    ]


def pages(more: dict[int, int] | None = None) -> dict[int, int]:
    """Return the words of pages: 100 of the heap are own, 40 of a library shared, one of the stack swapped."""
    found = {HEAP + number: OWN for number in range(100)}
    found |= {LIBRARY + number: SHARED for number in range(40)}
    return found | {STACK + 32: SWAPPED} | (more or {})


def look(words: dict[int, int] | None, items: list[VmaUsage] | None = None) -> Look:
    if words is None:
        return look_of(seen(7, items or vmas()))
    sparse = Sparse(np.array(sorted(words), np.uint64), np.array([words[page] for page in sorted(words)], np.uint64))
    return look_of(seen(7, items or vmas(), files=Files({}, {"pagemap": sparse})))


def page_of(*looks: Look) -> MapPage:
    """Return the map of what was seen at some looks."""
    viewing = Viewing()
    viewing.closely = timeline_of(looks)
    viewing.focus = 7, 77
    return MapPage(viewing)


def recorded(path: Path, looks: Sequence[Look]) -> Recording:
    """Return a recording of looks, a millisecond apart."""
    encoder = Encoder()
    moments = [Snapshot(1e9 + at / 1000, at / 1000, found, Cost(0.0, 0.0)) for at, found in enumerate(looks)]
    recording = Recording(str(write(path / "x.mematlas", [encoder.rows_of(moment) for moment in moments])))
    recording.facts["what"] = '["usage", "vmas", "pages"]'
    return recording


def drawn(page: MapPage, width: int = 120, height: int = 30) -> list[str]:
    return text_of(page.draw(width, height))


def marked(page: MapPage, mark: str, width: int = 120) -> str:
    """Return the characters that are marked."""
    rows = page.draw(width, 30)
    return "".join(text for row in rows for text, role in row if role.endswith(f"+{mark}"))


def cells_of(row: str) -> str:
    """Return what stands behind the margin of a row, the cursor not told from others."""
    cells = re.sub(r"^.{18}0x[0-9a-f]+ +", "", row).partition("  ")[0].partition(" │")[0].rstrip()
    return cells.replace("@", "█")


def test_each_page_is_a_character_where_there_is_room() -> None:
    rows = drawn(page_of(look(pages())), width=99)

    heap = [row for row in rows if "[heap]" in row]
    assert "0x000001000000" in heap[0]
    assert cells_of(heap[0]) == "█" * 64
    assert cells_of(rows[2]).startswith("█" * 36 + "[")
    assert any("libshop.so.3" in row and cells_of(row).startswith("#" * 40) for row in rows)
    assert any("[stack]" in row and cells_of(row).endswith("·" * 32 + "S") for row in rows)


def test_runs_and_gaps_are_folded_with_their_sizes() -> None:
    text = "\n".join(drawn(page_of(look(pages())), width=99))

    between_heap_and_library = LIBRARY - HEAP - 100
    assert f"[{between_heap_and_library * PAGE / (1 << 30):.1f}G]" in text


def test_the_legend_counts_all_pages_of_the_process() -> None:
    (legend,) = [row for row in drawn(page_of(look(pages())), width=80, height=24) if "own" in row and "absent" in row]

    assert re.findall(r"(\w+) ([\d,]+)", legend) == [
        ("own", "100"),
        ("shared", "40"),
        ("swapped", "1"),
        ("absent", str(300 + 40 + 33 - 141)),
    ]


def test_the_legend_counts_what_nothing_is_known_of_apart() -> None:
    hidden = vma(STACK + 100, 2, "vvar", "[vvar]", nr_present=None)
    rows = drawn(page_of(look(pages(), [*vmas(), hidden])), 200)
    (legend,) = [row for row in rows if "own" in row and "absent" in row]

    assert re.findall(r"(absent|unknown) ([\d,]+)", legend) == [("absent", str(300 + 40 + 33 - 141)), ("unknown", "2")]


@pytest.mark.parametrize("palette", PALETTES)
def test_every_palette_fits_every_screen(palette: str) -> None:
    page = page_of(look(pages()), look(pages({HEAP + 200: OWN, HEAP + 7: HUGE})))
    page.viewing.palette = palette
    assert_fits(page)
    page.press("i")
    assert_fits(page)
    for key in ("+", "-", "end", "pageup"):
        page.press(key)
        assert_fits(page)


def test_forty_thousand_vmas_and_a_tebibyte_of_holes_fit() -> None:
    many = [vma(3 * number, 1) for number in range(1, 40_001)]
    for items, words in (
        (many, {3 * number: OWN for number in range(1, 40_001)}),
        ([vma(0x1000, 1 << 28)], {0x1000 + (number << 14): OWN for number in range(1 << 14)}),
    ):
        page = page_of(look(words, items))
        assert_fits(page)
        assert "all" in drawn(page)[0]
        for _ in range(20):
            page.press("+")
            page.draw(120, 40)
        assert page.rows is not None
        assert page.rows.cell_pages == 1
        page.press("end")
        assert_fits(page)


def test_what_has_changed_is_reversed_for_that_moment() -> None:
    page = page_of(look(pages()), look(pages({HEAP + 200: OWN, LIBRARY: OWN})), look(pages({HEAP + 200: OWN})))

    times = page.viewing.closely.times if page.viewing.closely else []
    page.viewing.at = times[1]
    assert marked(page, "changed") == "@@"
    page.viewing.at = times[0]
    assert marked(page, "changed") == ""
    page.viewing.at = None
    assert marked(page, "changed") == "#"


def test_with_a_snapshot_what_is_other_than_in_it_is_reversed() -> None:
    page = page_of(look(pages()), look(pages({HEAP + 200: OWN})), look(pages({HEAP + 200: OWN})))
    assert marked(page, "changed") == ""
    page.viewing.compared = 0.0
    assert marked(page, "changed") == "@"


def test_the_cursor_goes_from_cell_to_cell() -> None:
    page = page_of(look(pages()))
    page.draw(99, 30)
    steps = {"right": 1, "l": 1, "left": -1, "h": -1, "down": 64, "j": 64, "up": -64, "k": -64}
    expected = HEAP
    for key in ("right", "l", "left", "down", "up", "j", "right", "k", "h", "right"):
        assert page.press(key)
        expected = max(expected + steps[key], HEAP)
        assert page.viewing.address == expected * PAGE, key
        page.draw(99, 30)
    page.press("end")
    assert page.viewing.address == (STACK + 32) * PAGE
    page.press("home")
    assert page.viewing.address == HEAP * PAGE


def test_the_cursor_can_be_on_what_is_folded() -> None:
    page = page_of(look(pages()))
    page.viewing.address = (HEAP + 150) * PAGE

    text = "\n".join(drawn(page))

    assert "folded" in text
    assert "800 KiB untouched, of 1 VMA" in text
    assert re.fullmatch(r"\[[\d.]+G\]", marked(page, "cursor"))


def test_zoom_keeps_the_page_and_its_row() -> None:
    words = {HEAP + number: OWN for number in range(17_500)}
    page = page_of(look(words, [vma(HEAP, 17_500, "heap", "[heap]")]))

    def row() -> int:
        rows = page.draw(120, 30)
        return next(y for y, row in enumerate(rows) for _, role in row if role == "text+cursor")

    page.viewing.address = (HEAP + 8001) * PAGE
    before = row()
    sizes = []
    for key in "+++++--":
        page.press(key)
        page.draw(120, 30)
        assert page.rows is not None
        sizes.append(page.rows.cell_pages)
        assert page.viewing.address == (HEAP + 8001) * PAGE
        assert row() == before
    assert sizes == [8, 4, 2, 1, 1, 2, 4]
    for _ in range(5):
        page.press("-")
        page.draw(120, 30)
    assert page.cell_pages is None
    assert page.command() == "mematlas map 7"


def test_the_wheel_zooms_to_what_is_under_the_pointer() -> None:
    words = {HEAP + number: OWN for number in range(17_500)}
    page = page_of(look(words, [vma(HEAP, 17_500, "heap", "[heap]")]))
    page.draw(120, 30)
    page.wheel(33 + 5, 1 + 3, -1)
    page.draw(120, 30)

    assert page.rows is not None
    assert page.viewing.address == (HEAP + (3 * page.rows.columns + 5) * 16) * PAGE
    assert page.command() == "mematlas map 7 --cell 8"


def test_a_click_puts_the_cursor_there_and_none_beside_the_cells() -> None:
    page = page_of(look(pages()))
    page.draw(99, 30)
    page.click(33 + 9, 1, is_double=False)
    assert page.viewing.address == (HEAP + 9) * PAGE
    for x, y in ((3, 1), (40, 0), (40, 29)):
        page.click(x, y, is_double=True)
    assert (page.viewing.address, page.is_open) == ((HEAP + 9) * PAGE, False)


def test_follow_goes_to_where_most_has_changed() -> None:
    more = {LIBRARY + number: OWN for number in (3, 4, 5)} | {HEAP + 2: SHARED}
    large = {0x10_0000 + number: OWN for number in range(17_500)}
    items = sorted([*vmas(), vma(0x10_0000, 17_500)], key=lambda item: item.start)
    page = page_of(look(pages(large), items), look(pages(large | more), items))
    page.viewing.at = 0.0
    page.draw(120, 30)
    page.press("f")
    page.viewing.at = None
    assert "following" in drawn(page)[0]
    assert page.viewing.address in {(LIBRARY + number) * PAGE for number in (3, 4, 5)}
    page.press("left")
    assert not page.is_following


def test_a_text_leads_to_a_vma_and_an_address_to_itself() -> None:
    page = page_of(look(pages()))
    page.draw(120, 30)
    assert page.search("LIBSHOP")
    assert page.viewing.address == LIBRARY * PAGE
    assert page.search("[", 1)
    assert page.viewing.address == STACK * PAGE
    assert page.search("[", -1)
    assert page.viewing.address == HEAP * PAGE
    assert page.search(hex((HEAP + 5) * PAGE + 17))
    assert page.viewing.address == (HEAP + 5) * PAGE
    for nowhere in ("0x1", "0xnothing", "libother"):
        assert not page.search(nowhere)


def test_what_the_cursor_is_on_stands_beside_the_cells() -> None:
    page = page_of(look(pages()))
    page.viewing.address = (LIBRARY + 2) * PAGE

    side = [row[80:] for row in drawn(page)]

    assert f"{(LIBRARY + 2) * PAGE:#014x} to {(LIBRARY + 3) * PAGE:#014x}" in side[1]
    assert [row for row in side if "/usr/lib/libshop.so.3" in row]
    assert [row for row in side if re.search(r"shared +1 █", row)]
    assert [row for row in side if re.search(r"state +present", row)]


def test_where_it_is_narrow_one_row_says_it_and_a_key_says_more() -> None:
    page = page_of(look(pages()))
    page.viewing.address = (STACK + 32) * PAGE

    brief = drawn(page, 80, 24)
    assert (
        brief[22].split() == ["0x0000007f0020", "4", "KiB", "[stack]", "rw-p", "swapped", "1"]
        or "[stack] rw-p" in brief[22]
    )
    assert not any("page 0x" in row for row in brief)
    page.press("enter")
    assert any("page 0x" in row for row in drawn(page, 80, 24))
    page.press("escape")
    assert drawn(page, 80, 24) == brief


def test_the_page_is_looked_up_once_the_cursor_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("mematlas.tui.map.time.monotonic", lambda: clock[0])
    page = page_of(look(pages()))
    asked: list[str] = []
    page.viewing.ask = lambda name, _: asked.append(name)
    page.draw(120, 30)
    clock[0] += 0.2
    page.press("right")
    page.draw(120, 30)
    clock[0] += 0.2
    page.draw(120, 30)
    assert asked == []
    clock[0] += 0.2
    page.draw(120, 30)
    page.draw(120, 30)
    assert asked == ["detail"]
    page.viewing.answers["detail"] = NotSupported("page tables of this", "a moon")
    assert any("needs a moon" in row for row in drawn(page))
    page.viewing.at = 0.0
    clock[0] += 5
    page.press("left")
    assert any("not recorded" in row for row in drawn(page)) or len(asked) == 2


def test_a_detail_says_what_is_hidden() -> None:
    page = page_of(look(pages()))
    page.draw(120, 30)
    moment = page.moment()
    where = Translation(HEAP * PAGE, moment.vmas.items[0].vma, "present", None, None, None, None, None, (), hidden=True)
    rows = text_of(list(detail_rows(Detail(where, None, None, ()), moment, 39)))

    assert [row.split() for row in rows] == [["frame", "hidden:", "needs", "CAP_SYS_ADMIN"]]


def test_who_has_a_page_without_a_frame_cannot_be_told_and_why() -> None:
    page = page_of(look(pages()))
    page.draw(120, 30)
    page.viewing.ask_aside = lambda *_: False
    said = []
    where = Translation(
        HEAP * PAGE, page.moment().vmas.items[0].vma, "swapped", None, None, None, None, None, (), hidden=False
    )
    for detail in (None, Detail(where, None, None, ()), Detail(replace(where, hidden=True), None, None, ())):
        page.viewing.answers["detail"] = detail
        page.press("o")
        said.append(page.viewing.said)
    page.viewing.at = 0.0
    page.press("o")
    said.append(page.viewing.said)
    for text, word in zip(said, ("looked up first", "nobody has it", "CAP_SYS_ADMIN", "not recorded"), strict=True):
        assert word in text
        assert len(text) < 80


def test_who_has_a_page_is_seen_on_a_narrow_screen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("mematlas.tui.map.time.monotonic", lambda: clock[0])
    page = page_of(look(pages()))
    viewing = page.viewing
    viewing.ask, viewing.ask_aside = lambda *_: None, lambda *_: True
    page.press("i")
    page.draw(80, 21)
    clock[0] += 5
    page.draw(80, 21)
    vma = page.moment().vmas.items[0].vma
    place = Translation(viewing.address or 0, vma, "present", 4660, None, None, None, None, (), hidden=False)
    steps = [WalkStep(level, 7, 0, 0x67, "table", 0, (), PAGE) for level in ("pgd", "p4d", "pud", "pmd", "pte")]
    viewing.answers["detail"] = Detail(place, WalkedAddress(place.address, tuple(steps), None, None, ""), None, ())
    page.press("o")
    assert any("looking through all processes" in row for row in drawn(page, 80, 21))
    mappers = [FrameMapper(pid, name, 7, vma) for pid, name in ((5000, "shop"), (5004, "till"))]
    items = [OwnedFrames(4660, 1, "file", ("lru",), 2, 0, None, 0, one, vma.start, NO_DETAIL) for one in mappers]
    viewing.answers["owners"] = FrameOwners(tuple(items), PAGE, 0, {}, Reading("pagemap", 0.25, torn=False, notes=()))
    rows = drawn(page, 80, 21)
    assert any("5000 shop" in row for row in rows)
    assert any("5004 till" in row for row in rows)


def test_a_palette_that_is_not_known_says_why_and_shows_states() -> None:
    page = page_of(look(pages(), vmas(nr_present=1, thp=PAGE)))
    states = drawn(page)[1:-1]
    for palette in ("accessed", "huge", "node"):
        page.viewing.palette = palette
        rows = drawn(page)
        assert rows[1:-1] == states
        assert rows[-1].startswith(f" {palette} is not known here, state is shown: ")


def test_accessed_is_shown_by_vma_where_that_is_known() -> None:
    items = vmas(nr_present=100)
    items = [replace(items[0], nr_accessed=100), replace(items[1], nr_accessed=0), items[2]]
    page = page_of(look(pages({STACK: OWN}), items))
    page.viewing.palette = "accessed"
    rows = drawn(page)

    assert cells_of(next(row for row in rows if "[heap]" in row)).startswith("█" * 40)
    assert cells_of(next(row for row in rows if "libshop" in row)).startswith("i" * 40)
    assert cells_of(next(row for row in rows if "[stack]" in row)).startswith("?·")
    assert "50% of all" in rows[-1]


def test_accessed_is_shown_of_single_pages_of_the_newest_look() -> None:
    page = page_of(look(pages()), look(pages()))
    asked: list[str] = []
    page.viewing.ask = lambda name, question, is_each_time: asked.append(name)
    drawn(page)
    assert not asked
    page.viewing.palette = "accessed"
    assert "accessed is not known here" in drawn(page)[-1]
    drawn(page)
    assert asked == ["accessed"]
    moment = page.moment()
    answer = moment.elapsed, np.array([HEAP, HEAP + 1, HEAP + 7, LIBRARY], np.uint64)
    page.viewing.answers["accessed"] = answer
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "██iiiii█" + "i" * 56
    assert cells_of(next(row for row in rows if "libshop" in row)).startswith("█" + "i" * 39)
    assert cells_of(next(row for row in rows if "[stack]" in row)).startswith("·" * 33)
    assert rows[-1].split()[:6] == ["░▒▓█", "accessed", "4", "i", "idle", "136"]
    heap = cells_of(next(row for row in drawn(page, 99, 5) if "[heap]" in row))
    assert page.rows is not None
    assert page.rows.cell_pages == 2
    assert heap.startswith("█ii▒i")

    page.viewing.at = page.viewing.closely.times[0] if page.viewing.closely else None
    assert "accessed is not known here" in drawn(page)[-1]
    assert asked == ["accessed"]


def test_the_node_that_most_of_a_cell_is_on_is_shown() -> None:
    frames = {HEAP + number: OWN | (number + 1 if number < 36 else 200 + number) for number in range(100)}
    page = page_of(look(pages({**frames, LIBRARY: SHARED | 1000, LIBRARY + 1: SHARED | 0})))
    page.viewing.palette = "node"
    page.viewing.find_nodes = lambda: NodeMap((0, 11), [(0, 200, 0), (200, 300, 11)])
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "0" * 36 + "b" * 28
    assert cells_of(next(row for row in rows if "libshop" in row)).startswith("?" * 40)
    assert rows[-1].split()[:11] == ["0", "node", "0", "36", "b", "node", "11", "64", "?", "not", "known"]
    heap = cells_of(next(row for row in drawn(page, 99, 5) if "[heap]" in row))
    assert heap.startswith("0" * 18 + "b" * 32)


def test_of_several_nodes_frames_are_asked_for_where_pages_come_without() -> None:
    page = page_of(look(pages()), look(pages()))
    asked: list[str] = []
    page.viewing.ask = lambda name, question, is_each_time=False: asked.append(name)
    page.viewing.find_nodes = lambda: NodeMap((0, 1), [(0, 200, 0), (200, 300, 1)])
    page.viewing.palette = "node"
    assert "frames of pages" in drawn(page)[-1]
    drawn(page)
    assert asked == ["node"]
    words = {HEAP + number: OWN | (number + 1 if number < 36 else 200 + number) for number in range(100)}
    found = Sparse(np.array(sorted(words), np.uint64), np.array([words[at] for at in sorted(words)], np.uint64))
    page.viewing.answers["node"] = page.moment().elapsed, found
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "0" * 36 + "1" * 28
    assert rows[-1].split()[:8] == ["0", "node", "0", "36", "1", "node", "1", "64"]


def test_of_one_node_alone_all_is_on_that_whether_frames_are_known_or_not() -> None:
    page = page_of(look(pages()))
    page.viewing.palette = "node"
    page.viewing.find_nodes = lambda: NodeMap((0,), (), only=0)
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "0" * 64
    assert cells_of(next(row for row in rows if "[stack]" in row)).startswith("·" * 33)
    assert rows[-1].split()[:4] == ["0", "node", "0", "140"]


def test_why_nodes_are_not_known_is_said() -> None:
    def refuse() -> NodeMap:
        raise NotSupported("nodes", "CONFIG_NUMA")

    for find, why in ((refuse, "CONFIG_NUMA"), (lambda: NodeMap((0, 1), [(0, 8, 0), (8, 9, 1)]), "frames of pages")):
        page = page_of(look(pages()))
        page.viewing.palette = "node"
        page.viewing.find_nodes = find
        assert why in drawn(page)[-1]


def test_huge_and_small_pages_are_told_apart() -> None:
    page = page_of(look(pages({HEAP + number: HUGE for number in range(64)})))
    page.viewing.palette = "huge"
    rows = drawn(page, 99)

    assert cells_of(next(row for row in rows if "[heap]" in row)) == "H" * 64
    assert "64" in rows[-1]
    assert "76" in rows[-1]


def test_shared_is_by_the_part_that_others_map() -> None:
    page = page_of(look(pages({HEAP: SHARED})))
    page.viewing.palette = "shared"
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "#" + "█" * 63


def test_the_age_of_changes_is_of_the_last_one() -> None:
    page = page_of(look(pages()), look(pages({HEAP + 2: SHARED})))
    page.viewing.palette = "changed"
    rows = drawn(page, 99)
    assert cells_of(next(row for row in rows if "[heap]" in row)) == "--█" + "-" * 61
    assert "<1 s 1 " in rows[-1]


def test_c_goes_through_all_palettes() -> None:
    page = page_of(look(pages()))
    shown = []
    for _ in PALETTES:
        page.press("c")
        shown.append(page.viewing.palette)
    assert sorted(shown) == sorted(PALETTES)


def test_a_recording_is_drawn_as_what_was_seen(tmp_path: Path) -> None:
    looks = [look(pages()), look(pages({HEAP + 200: OWN})), look(pages({HEAP + 200: OWN, LIBRARY: OWN}))]
    page = page_of(*looks)
    with recorded(tmp_path, looks) as recording:
        viewing = Viewing()
        viewing.closely, viewing.focus, viewing.is_live = RecordedTimeline(recording), (7, 77), False
        other = MapPage(viewing)
        for palette in PALETTES:
            page.viewing.palette = viewing.palette = palette
            # What is beside the cells differs: live, more can be asked.
            assert [row[:78] for row in drawn(page)][1:-1] == [row[:78] for row in drawn(other)][1:-1], palette
            assert drawn(page)[-1] == drawn(other)[-1]
        assert any("not recorded" in row for row in drawn(other))


def test_one_that_has_ended_stays_as_it_was_last() -> None:
    page = page_of(look(pages()), look(pages({HEAP + 200: OWN})), look_of())
    assert any("[heap]" in row for row in drawn(page))
    assert marked(page, "changed") == "@"


def test_what_is_not_there_is_said() -> None:
    page = page_of(look(None))
    assert "single pages of process 7" in " ".join(" ".join(drawn(page)).split())
    page = MapPage(Viewing())
    assert "1 leads to the list of all" in " ".join(drawn(page))
    page.viewing.focus = 7, 77
    assert "looking at the pages of process 7" in " ".join(drawn(page))
    for width, height in ((80, 24), (20, 4)):
        assert all(width_of_row(row) <= width for row in page.draw(width, height))


def test_what_has_changed_fades_where_the_cells_are_the_same() -> None:
    segments = Segments(space_of(np.array([0]), np.array([3]), np.arange(3, dtype=np.uint64)), 1)
    pieces, others = (segments.pieces([0], [0], [3]) for _ in range(2))
    fading = Fading()
    first, second, none = (np.array(flags, np.bool_) for flags in ([1, 0, 0], [0, 1, 0], [0, 0, 0]))
    assert fading.after(1.0, pieces, first).tolist() == [False, False, False]
    assert fading.after(1.5, pieces, second).tolist() == [True, False, False]
    assert fading.after(1.5, pieces, second).tolist() == [True, False, False]
    assert fading.after(3.25, pieces, none).tolist() == [False, True, False]
    assert fading.after(1.25, pieces, none).tolist() == [True, False, False]
    assert fading.after(3.5, others, none).tolist() == [False, False, False]
    assert fading.after(9.0, pieces, none).tolist() == [False, False, False]

    painted = Painted(np.array(list("█░#")), np.array([0, 0, 1]), ())
    row = Strokes(painted, np.array([True, False, False]), np.array([True, True, False])).spans(0, 3)
    assert row == [("@", "own+changed"), ("o", "own+faded"), ("#", "shared")]
    assert Colours(0, light=False)["own+faded"].bold
    assert not Colours(0, light=False)["own+faded"].reverse

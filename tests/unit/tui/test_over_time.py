"""The page of time: curves and heatmap tell what was, one cursor moves through both, live and recorded alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import EXEC, EXIT, Happening, Look
from mematlas.tui.over_time import TimePage
from mematlas.tui.samples import Samples
from mematlas.tui.time_axis import TimeAxis
from moments_on_screen import PAGE, SIZES, WHO, held, look, recorded, roles, texts, viewing_of, vma


def growing(nr: int = 30) -> list[Look]:
    """Return looks at a heap that grows by a page each, beside a file that stays as it is, and memory that swaps."""
    file = vma(0x700000, 8, rss=8, path="/usr/lib/libc.so.6", kind="file")
    looks = []
    for number in range(nr):
        heap = vma(0x10000, 64, rss=number, path="[heap]", kind="heap", nr_accessed=number // 2)
        out = vma(0x7F0000000000, 32, rss=max(16 - number, 0), swap=min(number, 16))
        happenings = (Happening(*WHO, EXEC, "started another program"),) if number == 12 else ()
        looks.append(look([heap, file, out], *happenings))
    return looks


def page_of(looks: list[Look] | None = None) -> TimePage:
    return TimePage(viewing_of(held(looks or growing())))


def row_with(page: TimePage, word: str) -> str:
    return next(row for row in texts(page) if row.startswith(f" {word}"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("nr", [1, 2, 30, 300])
def test_every_row_fits_whatever_the_size(size: tuple[int, int], nr: int) -> None:
    page = page_of(growing(nr))
    for key in ("c", "v", "+", "-", "-", "-", "left", "left", "home", "+", "right", "v", "v", "end", "down", "c"):
        texts(page, *size)
        page.press(key)
    texts(page, *size)


def test_amounts_at_the_cursor_are_those_of_its_moment() -> None:
    page = page_of()
    assert "RSS 148 KiB" in texts(page)[1]  # 29 pages of heap, 8 of the file
    assert "swap 64 KiB" in texts(page)[1]
    page.press("home")
    assert "RSS 96 KiB" in texts(page)[1]  # 8 of the file, 16 that were not in swap yet
    assert page.viewing.at == 0.0


def test_the_cursor_moves_by_columns_and_follows_the_newest_again() -> None:
    page = page_of()
    texts(page)
    step = page.axis.step
    page.press("left")
    assert page.viewing.at == pytest.approx(29 - max(step, 1), abs=1)
    assert len(roles(page, "+cursor")) > 5
    for _ in range(60):
        page.press("right")
    assert page.viewing.at is None


def test_a_moment_is_chosen_by_the_clock_of_the_screen() -> None:
    page = page_of()
    timeline = page.viewing.closely
    page.viewing.shifts[id(timeline)] = 100.0
    texts(page)
    page.press("home")
    assert page.viewing.at == 100.0
    assert "at 100.0 s" in texts(page)[0]


def test_what_is_frozen_stays_where_it_is() -> None:
    page = page_of()
    texts(page)
    page.viewing.is_frozen = True
    page.press("end")
    assert page.viewing.at == 29.0


def test_zoom_ends_at_ten_seconds_and_at_all_that_is_held() -> None:
    page = page_of(growing(300))
    for _ in range(20):
        texts(page)
        page.press("-")
    assert page.axis.step * page.axis.width >= 299
    for _ in range(20):
        page.press("+")
        texts(page)
    assert 10 <= page.axis.step * page.axis.width <= 25


def test_the_cursor_stays_in_sight_when_zoomed() -> None:
    page = page_of(growing(300))
    texts(page)
    for key in ("home", "+", "+", "right", "-", "-", "end", "left", "+", "+", "home"):
        page.press(key)
        assert roles(page, "+cursor"), key
        at = page.viewing.at
        here = page.axis.number(299.0 if at is None else at)
        assert page._left <= here < page._left + page.axis.width, key


def test_curves_are_as_high_as_the_most_in_sight() -> None:
    page = page_of()
    rows = texts(page)
    assert rows[2].split()[0:2] == ["212", "KiB"]  # 53 pages: 29, 8 and 16 in swap
    assert any(row.strip().startswith("0 ") for row in rows)
    for word in ("anon", "RSS", "USS", "PSS", "swap", "USS in RSS"):
        page.press("c")
        assert f"· {word}" in texts(page)[0]


def test_shades_say_how_much_is_in_ram_and_what_went_to_swap() -> None:
    page = page_of()
    file = row_with(page, "libc")
    assert "█" * 30 in file or "█" * 20 in file
    heap = row_with(page, "[heap]")
    assert "·" in heap
    assert "░" in heap
    assert "█" not in heap
    assert "s" in row_with(page, "anon")[20:]


def test_what_has_changed_is_shaded_where_it_did() -> None:
    page = page_of()
    texts(page)
    while page.mode != "change":
        page.press("v")
    shares = row_with(page, "[heap]")
    assert "░" in shares  # a page of 64 each second
    assert not any("libc" in row and "░" in row for row in texts(page))


def test_use_that_is_not_known_is_said() -> None:
    page = page_of([look([vma(0x1000, 4, rss=4)]), look([vma(0x1000, 4, rss=3)])])
    texts(page)
    while page.mode != "accessed":
        page.press("v")
    assert any("accessed pages are not recorded" in row for row in texts(page))


def test_the_largest_are_shown_where_not_all_fit() -> None:
    looks = [look([vma((number + 1) << 30, 64, rss=number + 1) for number in range(50)]) for _ in range(3)]
    page = page_of(looks)
    rows = texts(page, 120, 30)
    more = next(row for row in rows if row.startswith(" and "))
    nr = int(more.split()[1])
    assert nr + len(page._rows) == 50
    assert f"with {sum(range(1, nr + 1)) * PAGE >> 10} KiB together".replace(",", "") in more or "MiB" in more


def test_what_has_happened_stands_below_its_column() -> None:
    page = page_of()
    happened = next(row for row in texts(page) if "started another program" in row)
    place = happened.index("E exec") - page._gutter
    assert page.axis.number(12.0) - page._left == place


def test_a_vma_is_chosen_for_all_pages() -> None:
    page = page_of()
    texts(page)
    page.press("down")
    first = page.viewing.address
    page.press("down")
    page.press("enter")
    assert (first, page.viewing.address, page.viewing.leads_to) == (0x10000, 0x700000, "Map")
    page.viewing.address = 0x7F0000000000 + PAGE
    assert any("7f0000000000" in text for text in roles(page, "title+cursor"))
    assert page.search("libc")
    assert page.viewing.address == 0x700000


def test_a_click_is_a_moment() -> None:
    page = page_of()
    texts(page)
    page.click(page._gutter, 5, False)
    assert page.viewing.at == page.axis.step * (page._left + 1) - 1 or page.viewing.at == 0.0


def test_a_recording_shows_the_same(tmp_path: Path) -> None:
    live = held(growing())
    with recorded(live, tmp_path) as again:
        pages = [TimePage(viewing_of(timeline)) for timeline in (live, again)]
        for page in pages:
            texts(page)
            page.axis.step = 1.0
        for at in (None, 0.0, 12.5):
            for page in pages:
                page.viewing.at = at
            for _ in range(20):  # what is added up takes a bounded time each
                found = [texts(page) for page in pages]
            assert found[0] == found[1]


def test_of_many_moments_one_a_column_is_asked_for() -> None:
    class Counted(LiveTimeline):
        nr_asked = 0

        def vmas(self, seconds: float, who: tuple[int, int]) -> object:  # type: ignore[override]
            self.nr_asked += 1
            return super().vmas(seconds, who)

    timeline = held(growing(2000), 0.1)
    timeline.__class__ = Counted
    assert isinstance(timeline, Counted)
    page = TimePage(viewing_of(timeline))
    for _ in range(10):
        texts(page, 100, 37)
    assert 0 < timeline.nr_asked <= page.axis.width + 2
    before = timeline.nr_asked
    page.press("left")
    texts(page, 100, 37)
    assert timeline.nr_asked <= before + 1


def test_what_nobody_looked_at_is_blank() -> None:
    timeline = held(growing(20))
    for moment in list(held(growing(20)).between(0, 20)):
        timeline._moments.append((type(moment)(moment.time, moment.elapsed + 100, moment.found, moment.cost), 1))
    samples = Samples(timeline, WHO)
    samples.look()
    assert samples.moment(10.0, 11.0) == 10.0
    assert samples.moment(50.0, 51.0) is None
    assert samples.moment(119.0, 120.0) == 119.0
    assert samples.moment(120.0, 121.0) is None


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    page = TimePage(viewing_of(None))
    assert any("looking at process 7 closely" in row for row in texts(page))
    page.viewing.focus = None
    assert any("no process is chosen" in row for row in texts(page))
    with recorded(held(growing()), tmp_path, '["usage"]') as again:
        assert any("record --what vmas" in row for row in texts(TimePage(viewing_of(again))))


def test_what_has_ended_stays_to_be_seen() -> None:
    page = page_of([*growing(5), look(None, Happening(*WHO, EXIT, "ended"))])
    rows = texts(page)
    assert any("X exit: ended" in row for row in rows)
    assert "RSS -" in rows[1]
    page.press("left")
    assert "RSS 80 KiB" in texts(page)[1] or "RSS 96 KiB" in texts(page)[1]


def test_marks_in_time_are_whole_and_in_one_unit() -> None:
    axis = TimeAxis()
    axis.step = 1.0
    axis.place(100, 0.0, 50.0, None)
    assert axis.ticks(0, 0.0)[:3] == [(0, "0 s"), (20, "20 s"), (40, "40 s")]
    assert axis.ticks(0, 5.0)[0] == (15, "20 s")


def test_amounts_that_there_is_no_room_for_are_left_out_whole() -> None:
    page = page_of()
    page.press("c")
    rows = {width: "".join(text for text, _ in page.draw(width, 21)[1]).split() for width in range(80, 121)}
    for row in rows.values():
        assert row[-1] in ("0", "KiB")
        assert not any("~" in word for word in row)
    assert "PSS" not in rows[80]
    assert "PSS" in rows[120]

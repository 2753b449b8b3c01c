"""The page of VMAs: sums are right, the list is sorted, filtered, grouped and compared, live and recorded alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from mematlas.analysis.vma_amounts import VmaAmounts, VmaChanges
from mematlas.timeline.watch import EXIT, Happening
from mematlas.tui.vmas import VmasPage
from moments_on_screen import PAGE, SIZES, WHO, held, look, recorded, roles, texts, viewing_of, vma

HEAP = vma(0x10000, 16, rss=8, path="[heap]", kind="heap", nr_dirty=2)
LIBC = vma(0x700000, 64, rss=4, path="/usr/lib/libc.so.6", kind="file", nr_dirty=0)
LIBC_DATA = vma(0x800000, 8, rss=8, path="/usr/lib/libc.so.6", kind="file", nr_dirty=0)
BIG = vma(0x900000, 256, rss=128, swap=64, nr_dirty=64)
GROWN = vma(0x10000, 16, rss=12, path="[heap]", kind="heap", nr_dirty=2)
NEW = vma(0xA00000, 32, rss=32, nr_dirty=0)
LOOKS = [look([HEAP, LIBC, LIBC_DATA, BIG]), look([GROWN, LIBC_DATA, BIG, NEW])]


def page_of(*looks: object) -> VmasPage:
    return VmasPage(viewing_of(held(looks or LOOKS)))  # type: ignore[arg-type]


def listed(page: VmasPage, width: int = 200) -> list[str]:
    """Return the first cell of each line of the list, with its mark."""
    rows = texts(page, width)
    return [row[:16].strip() for row in rows[page._list_top :] if row.strip()]


@pytest.mark.parametrize("size", SIZES)
def test_every_row_fits_whatever_the_size(size: tuple[int, int]) -> None:
    page = page_of()
    for key in ("g", "g", "g", ">", "I", "end", "down"):
        texts(page, *size)
        page.press(key)
        texts(page, *size)


def test_sums_by_kind_are_those_of_the_vmas() -> None:
    rows = texts(page_of(), 200)
    total = next(row for row in rows if row.startswith(" total")).split()
    heap = next(row for row in rows if row.startswith(" heap")).split()
    assert total[:4] == ["total", "4", "1.22", "MiB"]
    assert " ".join(total[4:6]) == "720 KiB"  # 12 + 8 + 128 + 32 pages
    assert total[10:14] == ["264", "KiB", "256", "KiB"]  # 66 dirty pages, 64 in swap
    assert heap[:6] == ["heap", "1", "64", "KiB", "48", "KiB"]


def test_what_is_not_known_is_a_dash() -> None:
    unknown = vma(0x1000, 4, rss=1)
    row = next(row for row in texts(page_of(look([unknown])), 200) if row.startswith(" total"))
    assert row.split()[10] == "-"


def test_the_largest_is_first_until_it_is_sorted_otherwise() -> None:
    page = page_of()
    assert listed(page)[0] == "0x000000900000"
    page.press("I")
    assert listed(page)[0] == "0x000000800000"
    page.heading.sort, page.heading.is_up = "start", False
    assert listed(page) == [
        "0x000000010000",
        "0x000000800000",
        "0x000000900000",
        "+0x000000a00000",
    ]


def test_every_column_can_be_sorted_by() -> None:
    page = page_of()
    texts(page, 200)
    for _ in range(30):
        page.press(">")
        assert len(listed(page)) == 4


def test_a_click_on_a_heading_sorts_by_it() -> None:
    page = page_of()
    rows = texts(page, 200)
    page.click(rows[page._list_top - 1].index("START") + 1, page._list_top - 1, False)
    assert page.heading.sort == "start"


def test_growth_is_since_the_snapshot_that_is_compared_with() -> None:
    page = page_of()
    page.viewing.compared = 0.0
    rows = texts(page, 200)
    assert "Δ 1 s" in rows[page._list_top - 1]
    assert "+16 KiB" in next(row for row in rows if "[heap]" in row)
    assert [row[:15] for row in rows if row.startswith("+")] == ["+0x000000a00000"]
    (gone,) = [row for row in rows if row.startswith("-")]
    assert "libc.so.6" in gone
    assert "-16 KiB" in gone


def test_a_filter_shows_what_has_a_text_in_name_kind_rights_or_address() -> None:
    page = page_of()
    for text, nr in (("libc", 1), ("HEAP", 1), ("rw-", 4), ("0x9000", 1), ("a00000", 2), ("", 4)):
        page.filter(text)
        assert len(listed(page)) == nr, text
    page.filter("nowhere")
    assert any("no VMA has 'nowhere'" in row for row in texts(page, 200))
    assert page.press("escape")
    assert len(listed(page)) == 4


def test_a_search_goes_from_one_to_the_next() -> None:
    page = page_of(look([HEAP, LIBC, LIBC_DATA, BIG]))
    texts(page, 200)
    found = []
    for _ in range(3):
        assert page.search("libc")
        found.append(page.viewing.address)
    assert found == [0x800000, 0x700000, 0x800000]
    assert page.search("libc", -1)
    assert page.viewing.address == 0x700000
    assert not page.search("nowhere")


def test_vmas_of_one_file_are_together_and_can_be_looked_into() -> None:
    page = page_of(look([HEAP, LIBC, LIBC_DATA, BIG]))
    texts(page, 200)
    page.press("g")
    rows = texts(page, 200)[page._list_top :]
    libc = next(row for row in rows if "libc" in row)
    assert libc.split()[0] == "2"
    assert "288 KiB" in libc
    assert page.search("libc")
    page.press("enter")
    assert listed(page) == ["0x000000800000", "0x000000700000"]
    page.press("backspace")
    assert len(listed(page)) == 3


def test_enter_leads_to_the_map_at_the_vma() -> None:
    page = page_of()
    texts(page)
    page.press("down")
    page.press("enter")
    assert (page.viewing.leads_to, page.viewing.address) == ("Map", 0xA00000)


def test_the_cursor_is_where_the_map_has_it() -> None:
    page = page_of()
    texts(page)
    page.viewing.address = 0x10000 + 3 * PAGE
    assert any("[heap]" in text for text in roles(page, "+row"))
    texts(page)
    assert page.viewing.address == 0x10000 + 3 * PAGE


def test_sorted_anew_the_cursor_is_on_the_first_and_the_map_goes_there() -> None:
    page = page_of()
    texts(page)
    page.viewing.address = 0x10000 + 3 * PAGE
    texts(page)
    page.press("I")
    texts(page)
    assert page.list.index == 0
    assert page.viewing.address == page.list.current != 0x10000 + 3 * PAGE


def test_a_recording_shows_the_same(tmp_path: Path) -> None:
    live = held(LOOKS)
    with recorded(live, tmp_path) as again:
        pages = [VmasPage(viewing_of(timeline)) for timeline in (live, again)]
        for at in (None, 0.0):
            for page in pages:
                page.viewing.at = at
            assert texts(pages[0], 200) == texts(pages[1], 200)


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    page = VmasPage(viewing_of(None))
    assert any("looking at process 7 closely" in row for row in texts(page))
    page.viewing.focus = None
    assert any("no process is chosen" in row for row in texts(page))
    page = page_of(look([HEAP]), look(None, Happening(*WHO, EXIT, "ended")))
    assert any("process 7 is not there at 1.0 s" in row for row in texts(page))
    with recorded(held(LOOKS), tmp_path, '["usage"]') as again:
        assert any("record --what vmas" in row for row in texts(VmasPage(viewing_of(again))))


def test_amounts_made_of_those_before_are_those_made_anew() -> None:
    first, then = [HEAP, LIBC, BIG], [GROWN, LIBC, NEW]
    again = VmaAmounts(then, VmaAmounts(first))
    anew = VmaAmounts(then)
    for measure in ("size", "rss", "swap", "nr_dirty", "nr_accessed"):
        assert again.of(measure).tolist() == anew.of(measure).tolist()
    assert (again.starts == anew.starts).all()
    assert [again.place(address) for address in (0, 0x10000, 0x20000, 0xA00000)] == [None, 0, None, 2]


def test_changes_add_up_to_what_there_is_more() -> None:
    before, now = VmaAmounts([HEAP, LIBC, BIG]), VmaAmounts([GROWN, BIG, NEW])
    changes = VmaChanges(before, now)
    gone = sum(item.rss or 0 for item in changes.gone)
    assert changes.of_rss.tolist() == [4 * PAGE, 0, 32 * PAGE]
    assert int(changes.of_rss.sum()) - gone == int(now.of("rss").sum() - before.of("rss").sum())
    assert changes.new == {NEW.start}


def test_the_command_line_shows_the_same() -> None:
    page = page_of()
    assert page.command() == "mematlas maps 7"
    page.press("g")
    assert page.command() == "mematlas maps 7 --by path"

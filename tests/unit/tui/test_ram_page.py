"""The page of all of RAM: made-up frames, files and counters, whose sums are known, drawn and searched."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mematlas.analysis.cached import CachedFile, CachedGroup, CacheResult
from mematlas.analysis.frames import MEMINFO, STRUCTS, USES, FrameGroup, FramesResult, FrameUse
from mematlas.analysis.results import Reading
from mematlas.frozen import replace
from mematlas.notes import Note
from mematlas.timeline.timeline import LiveTimeline
from mematlas.timeline.watch import Look, Watch
from mematlas.tui.drawing import MARK, width_of_row
from mematlas.tui.ram import RamPage
from mematlas.tui.ram_rows import whole_bar
from mematlas.tui.viewing import Viewing

MIB = 1 << 20
SIZES = [(80, 21), (120, 37), (200, 57), (20, 6), (20, 1), (3, 3)]
COUNTERS = {"MemTotal": 1024 * MIB, "MemFree": 512 * MIB, "AnonPages": 256 * MIB, "Cached": 128 * MIB, "Buffers": 0}
COUNTERS |= {"SwapTotal": 64 * MIB, "SwapFree": 48 * MIB, "pressure_some": 0, "pressure_full": 0, "pswpin": 0}
COUNTERS |= {"pswpout": 0, "pgsteal_kswapd": 0, "pgsteal_direct": 0, "allocstall": 0}


def ram_of(anon: int, *, by_meminfo: bool = False) -> FramesResult:
    """Return 1 GiB, of which so many MiB are of processes, half as much is of files, and the rest is free."""
    sizes = {"free": 1024 - anon - anon // 2, "anon": anon, "file": anon // 2}
    uses = [FrameUse(kind, nr << 8, nr * MIB, nr * MIB // 2, 0) for kind, nr in sizes.items()]
    if by_meminfo:
        uses = [FrameUse(use.kind, use.nr_pages, use.size, None, None) for use in uses]
    notes = (Note("no-frames", "these are the sums of meminfo"),) if by_meminfo else ()
    zone = FrameGroup("Normal", 1 << 18, 1024 * MIB, dict.fromkeys(USES, 0) | {"free": sizes["free"] * MIB}, node=0)
    return FramesResult(
        by="kind" if by_meminfo else "zone",
        uses=tuple(sorted(uses, key=lambda use: -use.size)),
        groups=() if by_meminfo else (zone,),
        nr_frames=1 << 18,
        size=1024 * MIB,
        free_blocks=(16, 0, 0, 0, 0, 0, 0, 0, 0, 3),
        page_size=4096,
        huge_size=2 * MIB,
        reading=Reading(MEMINFO if by_meminfo else STRUCTS, 0.1, torn=False, notes=notes),
    )


def cache_of(*sizes: int) -> CacheResult:
    files = tuple(
        CachedFile(f"/srv/file{number}", "fd:00", number, "ext4", size * MIB, size * MIB, 4096 * number, 0)
        for number, size in enumerate(sizes)
    )
    others = CachedGroup(None, 7, None, 5 * MIB, 0, 0)
    return CacheResult(files, Reading(STRUCTS, 0.1, torn=False, notes=()), others)


class Scripted(Watch):
    """Looks that were thought out."""

    def __init__(self, looks: list[Look]) -> None:
        self.looks = list(looks)
        self.at = 0

    def look(self) -> Look:
        self.at += 1
        return self.looks[self.at - 1]

    @property
    def is_over(self) -> bool:
        return self.at == len(self.looks)


def timeline_of(*looks: Look) -> LiveTimeline:
    timeline = LiveTimeline(Scripted(list(looks)), interval=0.01, budget=1)
    assert len(list(timeline)) == len(looks)
    return timeline


def page_of(*looks: Look) -> RamPage:
    viewing = Viewing()
    viewing.machine = timeline_of(*looks)
    return RamPage(viewing)


def lines_of(page: RamPage, width: int = 120, height: int = 37) -> list[str]:
    rows = page.draw(width, height)
    assert len(rows) <= height
    assert all(width_of_row(row) <= width for row in rows)
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def machine(anon: int = 200, files: tuple[int, ...] = (30, 20, 10), **counters: int) -> Look:
    return Look((), (), COUNTERS | counters, ram_of(anon), cache_of(*files))


@pytest.mark.parametrize("view", ["both", "uses", "files"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_row_fits(width: int, height: int, view: str) -> None:
    page = page_of(machine(), machine(220))
    page.view = view
    lines_of(page, width, height)
    empty = page_of(Look((), (), COUNTERS, ram_of(100, by_meminfo=True), None))
    lines_of(empty, width, height)


def test_kinds_are_those_of_ram_with_what_has_changed() -> None:
    text = lines_of(page_of(machine(200), machine(220)))
    rows = {line.split()[1]: line.split() for line in text if line[1:2] in "█▒·" and len(line.split()) > 5}
    assert rows["anon"][2:5] == ["220", "MiB", "21%"]
    assert "+20 MiB" in " ".join(rows["anon"])
    assert rows["file"][2:5] == ["110", "MiB", "11%"]
    assert "-30 MiB" in " ".join(rows["free"])


def test_changes_are_against_the_snapshot_where_there_is_one() -> None:
    page = page_of(machine(200), machine(220), machine(220))
    assert "+20 MiB" not in "\n".join(lines_of(page))
    page.viewing.compared = 0.0
    assert "+20 MiB" in "\n".join(lines_of(page))


@pytest.mark.parametrize("width", [2, 10, 97, 200])
def test_the_bar_shares_out_what_there_is(width: int) -> None:
    row = whole_bar([("anon", 25), ("slab", 25), ("free", 50)], 100, width)
    text = "".join(text for text, _ in row)
    assert len(text) == width
    used = width - 2
    assert abs(text.count("█") - used / 4) <= 1
    assert abs(text.count("░") - used / 4) <= 1


def test_kinds_without_room_are_added_up() -> None:
    page = page_of(machine())
    page.view = "uses"
    text = lines_of(page, 60, 4)
    assert "2 more" in text[-1]
    assert "300 MiB" in text[-1]


def test_files_are_sorted_filtered_and_found() -> None:
    page = page_of(machine(files=(10, 30, 20)), machine(files=(12, 30, 20)))

    def order() -> list[str]:
        return [line.rpartition("file")[2] for line in lines_of(page) if "/srv/" in line]

    assert order() == ["1", "2", "0"]
    assert page.press("I")
    assert order() == ["0", "2", "1"]
    assert page.press(">")
    assert order()[0] == "0"  # which has grown
    page.filter("FILE2")
    assert order() == ["2"]
    assert "1 of 3 have 'FILE2'" in "\n".join(lines_of(page))
    page.filter("")
    assert len(order()) == 3
    assert page.search("file1")
    assert page.list.current
    assert page.list.current.name == "/srv/file1"
    assert not page.search("nowhere")


def test_a_file_is_new_where_it_was_not_among_the_largest_before() -> None:
    assert "new" not in "\n".join(lines_of(page_of(machine(files=(30,)))))
    (line,) = [line for line in lines_of(page_of(machine(files=(30,)), machine(files=(30, 20)))) if " new " in line]
    assert line.endswith("/srv/file1")


def test_of_all_files_there_is_the_sum() -> None:
    assert "PAGE CACHE 65 MiB in 10 files, the largest 3" in "\n".join(lines_of(page_of(machine(files=(30, 20, 10)))))


def test_a_file_without_a_path_is_told_by_its_inode() -> None:
    file = CachedFile(None, "00:01", 99, "tmpfs", MIB, MIB, None, None, is_deleted=True)
    cache = CacheResult((file,), Reading(STRUCTS, 0.1, torn=False, notes=()))
    text = "\n".join(lines_of(page_of(Look((), (), COUNTERS, ram_of(100), cache))))
    assert "00:01, inode 99 (deleted)" in text


def test_before_frames_are_counted_there_are_counters() -> None:
    page = RamPage(Viewing())
    assert "Looking at all of RAM" in "\n".join(lines_of(page))
    page.viewing.everybody = timeline_of(Look((), (), COUNTERS))
    text = "\n".join(lines_of(page))
    assert "Counting what every frame of RAM is used for" in text
    assert "processes" in text
    assert "256 MiB" in text


def test_what_is_waited_for_and_swapped_is_a_rate() -> None:
    viewing = Viewing()
    viewing.machine = timeline_of(machine())
    viewing.everybody = timeline_of(*(Look((), (), COUNTERS | {"pressure_some": nr * 10**9}) for nr in range(3)))
    text = "\n".join(lines_of(RamPage(viewing)))
    assert "100% some" in text
    assert "SWAP     16 MiB of 64 MiB" in text
    assert "in 0" in text


def test_a_kernel_without_psi_says_so() -> None:
    counters = {name: value for name, value in COUNTERS.items() if not name.startswith("pressure")}
    text = "\n".join(lines_of(page_of(Look((), (), counters, ram_of(100), None))))
    assert "not counted by this kernel" in text


def test_free_blocks_are_parts_of_free_memory() -> None:
    text = lines_of(page_of(machine()))
    place = next(number for number, line in enumerate(text) if "FREE BLOCKS" in line)
    assert "6.06 MiB, room for 3 huge pages" in text[place]
    assert text[place + 1].split("│")[0].split()[::9] == ["4K", "2M"]
    assert text[place + 3].split("│")[0].split()[::9] == ["1%", "99%"]


def test_without_rights_sums_of_meminfo_are_shown_and_why() -> None:
    page = page_of(Look((), (), COUNTERS, ram_of(100, by_meminfo=True), CacheResult((), cache_of().reading)))
    text = "\n".join(lines_of(page))
    assert "these are the sums of meminfo" in text
    assert "No file of the page cache is to be seen" in text


def test_on_a_narrow_screen_it_is_read_to_its_end_where_there_are_no_files() -> None:
    counted = ram_of(100, by_meminfo=True)
    why = Note(
        "no-frames", "these are the sums of meminfo; what single frames are is not known: " + "/proc/kpageflags " * 3
    )
    reading = replace(counted.reading, notes=(why,))
    page = page_of(Look((), (), COUNTERS, replace(counted, reading=reading), CacheResult((), cache_of().reading)))
    text = " ".join(" ".join(lines_of(page, 80, 21)).split())
    assert " ".join(why.text.split()) in text
    assert "root sees all" in text


def test_files_are_new_where_others_were_known_before() -> None:
    first = page_of(machine(200))
    assert not any("new" in line.split() for line in lines_of(first))
    page = page_of(replace(machine(200), cache=cache_of(90)), replace(machine(220), cache=cache_of(90, 80)))
    rows = [line for line in lines_of(page) if "/srv/file" in line]
    assert ["new" in row.split() for row in rows] == [False, True]


def test_a_capture_has_no_ram_and_says_so() -> None:
    page = page_of(Look((), (), COUNTERS))
    page.viewing.captured = "saved"
    assert "not in a capture" in "\n".join(lines_of(page))


def test_a_recording_without_ram_says_how_to_record_it() -> None:
    page = page_of(Look((), (), COUNTERS))
    page.viewing.is_live = False
    page.viewing.place = "x.mematlas"
    text = " ".join(lines_of(page, 80, 21))
    assert "not recorded (record --what ram,files)" in text
    assert page.command() == "mematlas ram x.mematlas@0s"


def test_views_take_turns() -> None:
    page = page_of(machine())
    for view, has_kinds, has_files in (("uses", True, False), ("files", False, True), ("both", True, True)):
        assert page.press("v")
        text = "\n".join(lines_of(page))
        assert page.view == view
        assert ("KIND" in text, "/srv/" in text) == (has_kinds, has_files)
    assert page.command() == "mematlas ram"


def test_an_earlier_moment_is_shown_as_it_was() -> None:
    page = page_of(machine(200), machine(300))
    page.viewing.at = 0.0
    assert "200 MiB" in "\n".join(lines_of(page))
    assert all(one < other for one, other in pairwise(page.viewing.machine.times if page.viewing.machine else []))


@pytest.mark.parametrize(("width", "height"), [(80, 21), (80, 29), (200, 57)])
def test_of_many_reasons_it_is_marked_that_there_are_more(width: int, height: int) -> None:
    counted = ram_of(100, by_meminfo=True)
    notes = tuple(Note(f"reason-{number}", f"reason {number} " + "why " * 30) for number in range(9))
    reading = replace(counted.reading, notes=notes)
    page = page_of(Look((), (), COUNTERS, replace(counted, reading=reading), CacheResult((), cache_of().reading)))
    lines = lines_of(page, width, height)
    rows = [row for row, line in enumerate(lines) if line.startswith((" reason", " why"))]
    assert lines[rows[-1] + 1].startswith(MARK)
    assert not any("reason 8" in line for line in lines)

"""What a recording tells over time: tracks of VMAs, what grows, comes and goes; curves and the heatmap that show it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from constructed_recording import MIB, PAGE, item, write
from mematlas.analysis.growth import LEAK, SAWTOOTH
from mematlas.timeline.recording import Recording
from mematlas.timeline.summary import summary_of
from mematlas.timeline.tracks import (
    MOST_COLUMNS,
    MOST_FINE_COLUMNS,
    Point,
    churning,
    curves_of,
    growing,
    tracks_of,
)
from mematlas.views.format import width_of
from mematlas.views.report import summary_table
from mematlas.views.tracks import churn_table, curves_table, growth_table, heatmap_table, shares_of, stretches


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A heap that leaks; a cache that fills and is emptied; memory that goes to swap and half of it back; a library."""
    looks = []
    for number in range(40):
        swap = 0 if number < 10 else 8 * MIB if number < 20 else 4 * MIB
        looks.append(
            [
                item(0x10000000, 64 * MIB, MIB * (number + 1), "[heap]"),
                item(0x20000000, 32 * MIB, MIB * (1 + number % 10), ""),
                item(0x40000000, 8 * MIB, 8 * MIB - swap, "/dev/shm/x", swap),
                item(0x60000000, 2 * MIB, 2 * MIB, "/lib/x.so"),
            ]
        )
    return write(tmp_path / "x.mematlas", looks)


def test_what_grows_is_ranked_with_its_manner(path: str) -> None:
    with Recording(path) as recording:
        found = growing(tracks_of(recording))
        lines = list(growth_table(summary_of(recording), list(tracks_of(recording)), None).lines(width=100))

    assert [(one.track.path, one.growth.label) for one in found][:2] == [("[heap]", LEAK), ("", SAWTOOTH)]
    assert found[0].growth.slope.value == MIB
    assert "/lib/x.so" not in {one.track.path for one in found}
    assert any("+1 MiB/s" in line and "leak" in line for line in lines)


@pytest.mark.parametrize(
    ("vmas", "nr_looks", "growth", "churn"),
    [
        (True, 4, "growth takes 5 looks at a process, and there are 4: record longer, or with -i", "nothing has come"),
        (True, 5, "nothing has grown", "nothing has come or gone between two looks"),
        (False, 5, "no VMA is recorded (record --what vmas)", "no VMA is recorded (record --what vmas)"),
    ],
)
def test_why_nothing_is_shown_is_said(vmas: bool, nr_looks: int, growth: str, churn: str, tmp_path: Path) -> None:
    vma = item(0x10000000, MIB, MIB, "[heap]")
    path = write(tmp_path / "x.mematlas", [[vma] if vmas else []] * nr_looks)
    with Recording(path) as recording:
        summary, tracks = summary_of(recording), list(tracks_of(recording))
        last = [list(make(summary, tracks, None).lines())[-1] for make in (growth_table, churn_table)]

    assert last[0] == growth
    assert last[1].startswith(churn)


def test_what_comes_and_goes_is_added_up(path: str) -> None:
    with Recording(path) as recording:
        found = {one.track.path: one for one in churning(tracks_of(recording))}
        assert "BACK" in "\n".join(churn_table(summary_of(recording), list(tracks_of(recording)), 2).lines(width=100))

    heap, cache, swapped = found["[heap]"], found[""], found["/dev/shm/x"]
    assert (heap.came, heap.went, heap.out, heap.back) == (39 * MIB, 0, 0, 0)
    assert (cache.came, cache.went) == (36 * MIB, 27 * MIB)
    assert (swapped.came, swapped.went, swapped.out, swapped.back) == (0, 0, 8 * MIB, 4 * MIB)


def test_vmas_that_come_later_had_nothing_before(tmp_path: Path) -> None:
    one, other = item(0x10000000, MIB, MIB, "[heap]"), item(0x20000000, MIB, PAGE, "")
    with Recording(write(tmp_path / "x.mematlas", [[one], [one, other], [other]])) as recording:
        tracks = {track.path: [point.rss for point in track.points] for track in tracks_of(recording)}

    assert tracks == {"[heap]": [MIB, MIB, 0], "": [0, PAGE, PAGE]}


def test_a_picture_has_room_for_more_moments(tmp_path: Path) -> None:
    looks = [[item(0x10000000, MIB, PAGE * (number % 200), "[heap]")] for number in range(400)]
    with Recording(write(tmp_path / "x.mematlas", looks)) as recording:
        (coarse,), (fine,) = tracks_of(recording), tracks_of(recording, is_fine=True)

    assert (len(coarse.times), len(fine.times)) == (MOST_COLUMNS, MOST_FINE_COLUMNS)
    assert set(zip(coarse.times, coarse.points, strict=True)) <= {
        (float(number), Point(MIB, PAGE * (number % 200), 0, number % 200 // 2)) for number in range(400)
    }
    assert (fine.times[0], fine.times[-1]) == (0.0, 399.0)


def test_the_summary_says_of_what_its_changes_are(tmp_path: Path) -> None:
    looks = [[item(0x10000000, 64 * MIB, 8 * MIB, "[heap]")], [item(0x10000000, 64 * MIB, 6 * MIB, "[heap]", 9 * MIB)]]
    with Recording(write(tmp_path / "x.mematlas", looks)) as recording:
        lines = list(summary_table(summary_of(recording)).lines(width=200))
    at = lines.index("What changed in shop, PID 7 (RSS and swap; CHANGE above is of USS):")

    assert lines[at + 2].split() == ["+7", "MiB", "heap", "[heap]"]
    assert "-2 MiB" in lines[at - 2]


def test_long_names_in_the_heatmap_are_cut_in_the_middle_and_stay_apart(tmp_path: Path) -> None:
    modules = ("_json", "_ssl", "_multibytecodec", "_multiprocessing", "\u65e5\u672c")
    vmas = [
        item(0x10000000 + number * MIB, MIB, MIB, f"/usr/lib/{module}.cpython-311-x86_64-linux-gnu.so")
        for number, module in enumerate(modules)
    ]
    with Recording(write(tmp_path / "x.mematlas", [vmas] * 3)) as recording:
        lines = list(heatmap_table(summary_of(recording), list(tracks_of(recording)), "present", None, False).lines())
    names = [line.partition(" |")[0] for line in lines if " |" in line]

    assert all(any(name.startswith(module[:14]) for name in names) for module in modules)
    assert len(set(names)) == len(modules)
    assert all("..." in name and name.rstrip().endswith("-gnu.so") for name in names)
    assert {width_of(name) for name in names} == {30}


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_pictures_are_as_wide_as_the_screen(width: int, ascii_only: bool, path: str) -> None:
    with Recording(path) as recording:
        summary, tracks = summary_of(recording), list(tracks_of(recording))
        curves = list(curves_table(summary, curves_of(recording), None, ascii_only).lines(width=width))
        maps = [
            list(heatmap_table(summary, tracks, what, None, ascii_only).lines(width=width))
            for what in ("present", "change", "accessed")
        ]

    for lines in (curves, *maps):
        drawn = [line for line in lines if path not in line]
        assert all(len(line) <= width for line in drawn), [line for line in drawn if len(line) > width]
        assert not ascii_only or "".join(drawn).isascii()
    (heap,) = (line for line in maps[0] if line.startswith("[heap]"))
    cells = heap.split("|")[1]
    assert cells[0] != cells[-1]
    (library,) = (line for line in maps[0] if line.startswith("x.so"))
    assert set(library.split("|")[1]) == {"@" if ascii_only else "█"}
    (library,) = (line for line in maps[1] if line.startswith("x.so"))
    assert set(library.split("|")[1]) == {" "}


def test_a_share_that_is_not_known_is_none() -> None:
    points = [Point(4 * PAGE, PAGE, 0, None), Point(4 * PAGE, None, 0, 2), Point(0, 0, 0, 0)]

    assert list(shares_of(points, "present", PAGE)) == [0.25, None, 0.0]
    assert list(shares_of(points, "change", PAGE)) == [0.0, None, None]
    assert list(shares_of(points, "accessed", PAGE)) == [None, 0.5, 0.0]
    assert list(shares_of(points, "accessed", None)) == [None, None, 0.0]


@pytest.mark.parametrize("seed", range(20))
def test_every_moment_is_in_some_column(seed: int) -> None:
    random = Random(seed)
    nr, room = random.randrange(1, 500), random.randrange(1, 200)
    seen = {number for low, high in stretches(nr, room) for number in range(low, high)}

    assert len(list(stretches(nr, room))) == room
    assert seen == set(range(nr))


def test_what_came_and_went_between_any_two_of_many_moments_counts(tmp_path: Path) -> None:
    sizes = [10 * MIB, 90 * MIB]
    looks = [[item(0x10000000, 100 * MIB, sizes[number % 2], "[heap]")] for number in range(1191)]
    looks[501] = [item(0x10000000, 100 * MIB, 95 * MIB, "[heap]")]
    with Recording(write(tmp_path / "x.mematlas", looks)) as recording:
        (track,) = tracks_of(recording)
        (churn,) = churning([track])
        rss = next(curve for curve in curves_of(recording) if curve.measure == "rss")
    assert (churn.came, churn.went) == (595 * 80 * MIB + 5 * MIB, 595 * 80 * MIB + 5 * MIB)
    assert (track.peak, rss.peak, len(track.points)) == (95 * MIB, 95 * MIB, MOST_COLUMNS)


def test_of_the_first_moment_nothing_came(tmp_path: Path) -> None:
    looks = [[item(0x10000000, MIB, MIB, "[heap]")]] * 3
    with Recording(write(tmp_path / "x.mematlas", looks)) as recording:
        (track,) = tracks_of(recording)
    assert (track.moved, track.peak) == ((0, 0, 0, 0), MIB)

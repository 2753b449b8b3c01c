"""Curves as pictures, drawn by matplotlib, and what is said where that is missing."""

from __future__ import annotations

import importlib.util
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructed_recording import MIB, item, write_looks
from mematlas.errors import LibraryMissing
from mematlas.frozen import replace
from mematlas.timeline.recording import Recording
from mematlas.timeline.summary import Summary, summary_of
from mematlas.timeline.tracks import CURVES, Curve, curves_of
from mematlas.views.figures.curves import STYLES, Plotter
from mematlas.views.figures.page import WIDTH
from pictures import HOSTILE, SVG, texts_of

Found = tuple[Summary, list[Curve]]


@pytest.fixture(scope="module")
def svg() -> Plotter:
    return plotter("svg")


def plotter(form: str) -> Plotter:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs matplotlib")
    return Plotter(form, "x")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Give two processes, of which one ends and has something in swap."""
    looks = []
    for number in range(12):
        look = {(7, "shop"): [item(0x10000000, 64 * MIB, number * MIB, "[heap]")]}
        if number < 6:
            look[8, "worker"] = [item(0x10000000, MIB, MIB // 2, "[heap]", MIB // 4)]
        looks.append(look)
    with Recording(write_looks(tmp_path_factory.mktemp("x") / "x", looks)) as recording:
        return summary_of(recording), curves_of(recording)


def drawn(plotter: Plotter, found: Found, limit: int | None = None) -> ElementTree.Element:
    data = plotter.picture(*found, limit)
    assert data.startswith(b"<svg")
    return ElementTree.fromstring(data)


def test_every_measure_has_a_line_of_its_own() -> None:
    assert STYLES.keys() == set(CURVES)
    assert len({colour for colour, _, _ in STYLES.values()}) == len({str(how[1:]) for how in STYLES.values()}) == 5


def test_a_panel_says_whose_it_is_and_how_much_there_was(svg: Plotter, found: Found) -> None:
    texts = texts_of(drawn(svg, found))

    assert {"Memory over time", "shop, PID 7", "worker, PID 8, ended after 6.0 s", "2 processes on oak"} <= set(texts)
    assert {"15 MiB", "10 MiB", "0", "600 KiB", "10 s", "after the first look"} <= set(texts)
    assert [text for text in texts if text in CURVES] == ["rss", "anon", "swap"]


def test_a_limit_leaves_out_curves(svg: Plotter, found: Found) -> None:
    texts = texts_of(drawn(svg, found, limit=1))

    assert any(text.startswith("shop, PID 7 on oak") for text in texts)
    assert not any("worker" in text for text in texts)


def test_a_picture_is_the_same_each_time(svg: Plotter, found: Found) -> None:
    assert svg.picture(*found, None) == svg.picture(*found, None)


@settings(max_examples=30)
@given(st.just(HOSTILE) | st.text(st.characters(codec="utf-8")))
def test_any_name_is_a_text_of_well_formed_curves(svg: Plotter, found: Found, name: str) -> None:
    summary, curves = found
    process = replace(curves[0].process, name=name)
    root = drawn(svg, (summary, [replace(curves[0], process=process)]))

    assert "script" not in {one.tag.removeprefix(SVG) for one in root.iter()}
    references = {value for one in root.iter() for key, value in one.attrib.items() if key.endswith("href")}
    assert all(value.startswith("#") for value in references)
    assert any("PID 7" in text for text in texts_of(root))


def test_what_is_not_known_is_a_gap(svg: Plotter, found: Found) -> None:
    summary, (curve, *_) = found
    gap = replace(curve, amounts=(*curve.amounts[:4], None, *curve.amounts[5:]))

    def moves(curve: Curve) -> int:
        """Return how often the pen is put down for the curve itself."""
        root = drawn(svg, (summary, [curve]))
        lines = [one.attrib["d"] for one in root.iter(f"{SVG}path") if "stroke: #8a939f" in one.attrib.get("style", "")]
        return max(line.count("M") for line in lines)

    assert (moves(curve), moves(gap)) == (1, 2)


def test_one_moment_is_a_picture(svg: Plotter, found: Found) -> None:
    summary, (curve, *_) = found
    one = replace(curve, times=(0.0,), amounts=(0,))

    assert "0" in texts_of(drawn(svg, (replace(summary, seconds=5e-324, nr_moments=1), [one])))


def test_png_is_twice_as_wide_as_the_page(found: Found) -> None:
    data = plotter("png").picture(*found, None)

    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack_from(">I", data, 16) == (2 * WIDTH,)


def test_settings_of_the_user_change_nothing(svg: Plotter, found: Found) -> None:
    before = svg.picture(*found, None)
    rc = importlib.import_module("matplotlib").rcParams
    kept = rc["text.usetex"], rc["axes.facecolor"]
    try:
        rc["text.usetex"], rc["axes.facecolor"] = True, "red"
        assert svg.picture(*found, None) == before
    finally:
        rc["text.usetex"], rc["axes.facecolor"] = kept


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LibraryMissing, match=r"^x\.svg was not written: matplotlib is not installed$") as caught:
        Plotter("svg", "x.svg")

    assert (caught.value.package, caught.value.extra) == ("matplotlib", "plot")


def test_a_broken_matplotlib_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "matplotlib.py").write_text("raise OSError('libfreetype.so.6: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LibraryMissing, match=r"matplotlib cannot be loaded: libfreetype\.so\.6"):
        Plotter("svg", "x.svg")

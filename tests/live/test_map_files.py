"""The map of an address space as a file: a picture that says what the map says, or the table that would be printed."""

from __future__ import annotations

import json
import os
import stat
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import mematlas
from mematlas.views.colour import TONES
from mematlas.views.picture import LEGEND
from pictures import HOSTILE, SVG, pixels_of, texts_of
from victim import Victim, standing_still


@pytest.fixture(scope="module")
def stopped() -> Iterator[Victim]:
    with Victim("anon_full", "anon", "shared_anon", "private_file") as one, standing_still(one.pid):
        yield one


@pytest.fixture(scope="module")
def rows(stopped: Victim) -> list[dict[str, Any]]:
    run = mematlas("map", stopped.pid, "--json")
    assert run.returncode == 0, run.stderr
    found: list[dict[str, Any]] = json.loads(run.stdout)["rows"]
    return found


def test_the_picture_has_all_pages_that_the_map_has(stopped: Victim, tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    run = mematlas("map", stopped.pid, "-o", path, "--source", "pagemap")
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"{path}: ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    table = json.loads(mematlas("map", stopped.pid, "--json", "--source", "pagemap").stdout)["rows"]
    texts = texts_of(ElementTree.fromstring(path.read_bytes()))
    assert texts[0].startswith("The address space of py")
    assert texts[0].endswith(f", PID {stopped.pid}")
    for name, meaning in LEGEND.items():
        nr = sum(row[f"nr_{name}"] for row in table if not row["folded"])
        told = [text for text in texts if text.startswith(f"{meaning}: ")]
        # Which pages of the files of Python others map changes as these come and go.
        if name in ("own", "shared"):
            assert bool(told) == bool(nr)
        else:
            assert [text.split(":")[1].split(" page")[0].strip() for text in told] == ([f"{nr:,}"] if nr else [])


def test_pages_of_one_area_have_their_colours(stopped: Victim, tmp_path: Path) -> None:
    area = stopped["anon_full"]
    path = tmp_path / "map.svg"
    run = mematlas("map", stopped.pid, f"{area.address:#x}+{area.size}", "--cell", "1", "-o", path)
    assert run.returncode == 0, run.stderr
    root = ElementTree.fromstring(path.read_bytes())
    text = path.read_text(encoding="utf-8")
    assert TONES["own"][True][0] in text
    assert TONES["swapped"][True][0] not in text
    assert f"{area.address:#x}" in " ".join(texts_of(root))
    assert len(list(root.iter(f"{SVG}text"))) < 12


def test_a_png_is_a_picture_of_the_same_size(stopped: Victim, tmp_path: Path) -> None:
    assert mematlas("map", stopped.pid, "-o", tmp_path / "map.PNG").returncode == 0
    pixels = pixels_of((tmp_path / "map.PNG").read_bytes())
    assert pixels.shape[1] == 1920
    wanted = tuple(int(TONES["own"][True][0][at : at + 2], 16) for at in (1, 3, 5))
    assert (pixels.reshape(-1, 3) == wanted).all(axis=1).any()


@pytest.mark.parametrize("end", ["csv", "json", "jsonl"])
def test_a_table_in_a_file_has_the_cells_of_the_map(
    end: str, stopped: Victim, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / f"map.{end}"
    assert mematlas("map", stopped.pid, "-o", path).returncode == 0
    text = path.read_text(encoding="utf-8")
    assert text.count("0x") >= 2 * len(rows)
    assert all(row["start"] in text for row in rows)


def test_names_of_files_are_text_in_the_picture(tmp_path: Path) -> None:
    import mmap

    name = HOSTILE.replace("\x00", "").replace("/", "_")
    file = tmp_path / name
    file.write_bytes(bytes(1 << 20))
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as area:
        assert area[0] == 0
        run = mematlas("map", os.getpid(), "--path", str(tmp_path), "-o", tmp_path / "map.svg")
    assert run.returncode == 0, run.stderr
    root = ElementTree.fromstring((tmp_path / "map.svg").read_bytes())
    assert not list(root.iter(f"{SVG}script"))
    assert {element.tag for element in root.iter()} <= {f"{SVG}{tag}" for tag in TAGS}


TAGS = ("svg", "title", "text", "tspan", "path", "rect", "defs", "pattern", "g", "style")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("-o", "map.txt"), 2, "the name of a file ends in"),
        (("-o", "map.svg", "-i", "1s"), 2, "-o makes one file"),
        (("-o", "map.svg", "-n", "2"), 2, "-o makes one file"),
        (("-o", "map.svg", "--json"), 2, "not with --format json"),
        (("--force",), 2, "--force is for -o FILE"),
    ],
)
def test_what_says_nothing_together_is_refused(
    words: tuple[str, ...], code: int, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = mematlas("map", "self", *words)
    assert (run.returncode, run.stdout) == (code, ""), run.stderr
    assert text in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_where_that_is_asked_for(stopped: Victim, tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    path.write_text("mine")
    run = mematlas("map", stopped.pid, "-o", path)
    assert (run.returncode, path.read_text()) == (2, "mine")
    assert mematlas("map", stopped.pid, "-o", path, "--force").returncode == 0
    assert path.read_text().startswith("<")


def test_a_picture_of_very_many_cells_is_cut_with_a_mark(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "map.svg"
    with mmap.mmap(-1, 100_003 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[0] = 1
        run = mematlas("map", os.getpid(), "--reserved", "--cell", "1", "-o", path)
    assert run.returncode == 0, run.stderr
    root = ElementTree.fromstring(path.read_bytes())
    assert float(root.attrib["height"]) < 11_000
    assert "... and more: pick an AREA, or a larger --cell" in texts_of(root)

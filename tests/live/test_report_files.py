"""Reports as files, by the program: tables as they are printed, pictures, and what is refused."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from constructed_recording import MIB, item, write_looks
from helpers import mematlas
from mematlas.frozen import replace
from pictures import HOSTILE, pixels_of, texts_of
from victim import DEADLINE

KINDS = ("summary", "curves", "heatmap", "growth", "churn")
FORMS = {"json": "json", "jsonl": "jsonl", "ndjson": "jsonl"}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a recording of a process with a heap that grows and a name that is no good."""
    heap, other = 0x10000000, 0x20000000
    looks = [
        {
            (7, HOSTILE[-15:]): [
                item(heap, 64 * MIB, number * MIB, "[heap]"),
                item(other, MIB, MIB, f"/srv/{HOSTILE.replace('/', '')}"),
            ]
        }
        for number in range(9)
    ]
    return Path(write_looks(tmp_path / "x.mematlas", looks))


def report(recording: Path, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return mematlas("report", recording, *words, env=env)


def beside(recording: Path) -> set[str]:
    """Return the names of what else is in the directory of a recording."""
    return set(os.listdir(recording.parent)) - {recording.name}


@pytest.mark.parametrize(("kind", "end"), [*((kind, "csv") for kind in KINDS), *(("growth", end) for end in FORMS)])
def test_a_table_in_a_file_is_what_would_be_printed(kind: str, end: str, recording: Path) -> None:
    path = recording.with_suffix(f".{end}")
    run = report(recording, kind, "-o", path)
    printed = report(recording, kind, "--format", FORMS.get(end, end))

    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr.splitlines()[-1].startswith(f"{path}: ")
    assert path.read_text(encoding="utf-8") == printed.stdout != ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_heatmap_in_a_file_is_a_picture(recording: Path) -> None:
    svg, png = recording.with_suffix(".svg"), recording.with_suffix(".PNG")
    for path in (svg, png):
        run = report(recording, "heatmap", "--of", "change", "-o", path)
        assert (run.returncode, run.stdout) == (0, ""), run.stderr

    texts = texts_of(ElementTree.fromstring(svg.read_bytes()))
    assert any("[heap]" in text for text in texts)
    assert any("<script>" in text and "\\x00\\x1b" in text for text in texts)
    assert pixels_of(png.read_bytes()).shape[1] == 1920


def test_curves_in_a_file_are_a_picture(recording: Path, tmp_path: Path) -> None:
    needs_matplotlib()
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for place in (home, temporary):
        place.mkdir()
        place.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break
    path = recording.with_suffix(".svg")
    env = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home), "TMPDIR": str(temporary)}
    run = report(recording, "curves", "-o", path, env=env)

    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (0, "", 1), run.stderr
    assert any("PID 7" in text for text in texts_of(ElementTree.fromstring(path.read_bytes())))
    assert (os.listdir(home), os.listdir(temporary)) == ([], [])


def needs_matplotlib() -> str:
    """Return where matplotlib is; skip the test where it is not."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        pytest.skip("needs matplotlib")
    return str(Path(spec.origin).parent)


@pytest.mark.root("CAP_SYS_ADMIN")
def test_root_draws_curves_with_what_only_root_may_read(recording: Path, tmp_path: Path) -> None:
    """Its rights are left before the recording is read, and with them the way to the library's fonts."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    leave_out = shutil.ignore_patterns("tests", "sample_data", "images", "__pycache__")
    shutil.copytree(needs_matplotlib(), private / "matplotlib", ignore=leave_out)
    for end in ("svg", "png"):
        path = recording.with_suffix(f".{end}")
        run = report(recording, "curves", "-o", path, env={"PYTHONPATH": str(private)})
        assert run.returncode == 0, run.stderr
        assert path.stat().st_size > 5_000


@pytest.mark.parametrize("end", ["svg", "png"])
def test_without_matplotlib_there_are_the_curves_of_the_terminal(end: str, recording: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    error = "ModuleNotFoundError('No module named matplotlib', name='matplotlib')"
    (missing / "matplotlib.py").write_text(f"raise {error}")
    path = recording.with_suffix(f".{end}")
    run = report(recording, "curves", "-o", path, env={"PYTHONPATH": str(missing)})

    assert run.returncode == 5
    assert run.stdout == report(recording, "curves").stdout
    assert run.stderr.startswith(f"mematlas: {path} was not written: matplotlib is not installed: ")
    assert "matplotlib" in run.stderr.rpartition("install ")[2] or "mematlas[plot]" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert beside(recording) == {"missing"}

    run = mematlas("report", "self", "curves", "-d", "60s", "-o", path, env={"PYTHONPATH": str(missing)})
    assert (run.returncode, run.stdout) == (5, "")  # at once
    assert "matplotlib is not installed" in run.stderr


REFUSED = [
    (("heatmap", "-o", "x.pdf"), "ends in .svg, .png, .csv, .json, .jsonl or .ndjson"),
    (("heatmap", "-o", "x.svgz"), "did you mean .svg?"),
    (("heatmap", "-o", "svg"), "ends in .svg"),
    (("heatmap", "-o", ""), "ends in .svg"),
    (("heatmap", "-o", "x.csv", "--json"), "x.csv is csv: not with --format json"),
    (("heatmap", "-o", "x.svg", "--format", "csv"), "x.svg is svg: not with --format csv"),
    (("heatmap", "--force"), "--force is for -o FILE"),
    (("-o", "x.svg"), "no picture of summary: report FILE heatmap -o x.svg, or curves"),
    (("growth", "-o", "x.png"), "no picture of growth: report FILE heatmap -o x.png, or curves"),
    (("churn", "-o", "x.svg"), "no picture of churn"),
    (("growth", "--of", "change", "-o", "x.csv"), "--of is for the heatmap"),
    (("heatmap", "-o", "none/x.svg"), "none/x.svg: No such file or directory"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED, ids=lambda value: " ".join(value) if value else "")
def test_what_cannot_be_is_refused_and_nothing_is_made(words: tuple[str, ...], text: str, recording: Path) -> None:
    line = [sys.executable, "-m", "mematlas", "report", recording.name, *words]
    run = subprocess.run(line, cwd=recording.parent, capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert (run.returncode, run.stdout) == (2, "")
    assert text in run.stderr
    assert beside(recording) == set()


MISTAKEN = [
    ("x.mematlas -d 1s", 2, "x.mematlas is a recording already: mematlas report x.mematlas, without -d"),
    ("x.mematlas@1s -d 1s", 2, "x.mematlas is a recording already: mematlas report x.mematlas, without -d"),
    (
        "x.mematlas@1s",
        3,
        "report is of all moments: mematlas report x.mematlas; one moment: mematlas usage x.mematlas@1s",
    ),
    ("-d 3s -- sleep 1", 2, "a program is recorded by mematlas record -- sleep 1"),
    ("-d 3s -- sleep 1 2", 2, "a program is recorded by mematlas record -- sleep 1 2"),
    ("x.mematlas sumary", 2, "no report 'sumary' (did you mean summary?)"),
    (".", 2, ". is a directory: report takes a FILE of mematlas record"),
]


@pytest.mark.parametrize(("words", "code", "text"), MISTAKEN)
def test_what_was_mistaken_for_something_else_is_said(words: str, code: int, text: str, recording: Path) -> None:
    line = [sys.executable, "-m", "mematlas", "report", *words.replace("x.mematlas", recording.name).split()]
    run = subprocess.run(line, cwd=recording.parent, capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert (run.returncode, run.stdout) == (code, "")
    assert text.replace("x.mematlas", recording.name) in run.stderr


def test_what_is_there_is_kept_unless_somebody_says_otherwise(recording: Path) -> None:
    path = recording.with_suffix(".svg")
    path.write_text("before")
    run = report(recording, "heatmap", "-o", path)
    assert (run.returncode, path.read_text()) == (2, "before")
    assert "exists: give another name, or --force" in run.stderr

    run = report(recording, "heatmap", "-o", path, "--force")
    assert run.returncode == 0, run.stderr
    assert path.read_text().startswith("<svg")
    assert beside(recording) == {path.name}


def test_a_recording_is_not_replaced_by_what_is_said_of_it(recording: Path) -> None:
    named = recording.with_suffix(".csv")
    recording.rename(named)
    before = named.read_bytes()
    run = report(named, "growth", "-o", named, "--force")

    assert run.returncode == 2
    assert named.read_bytes() == before


def test_where_there_is_nothing_to_draw_there_is_no_file(tmp_path: Path) -> None:
    looks = [{(7, "shop"): [item(0x10000000, MIB, 0, "[heap]")]}] * 3
    recording = Path(write_looks(tmp_path / "x.mematlas", looks))
    for words, text in ((("heatmap",), "record --what vmas"), (("heatmap", "--of", "accessed"), "record --what vmas")):
        run = report(recording, *words, "-o", tmp_path / "x.svg")
        assert (run.returncode, run.stdout) == (5, "")
        assert text in run.stderr
    assert beside(recording) == set()


@pytest.mark.parametrize("words", [(), ("--json",), ("-o", "x.svg"), ("-o", "x.json")])
def test_accessed_pages_that_were_not_recorded_are_refused_in_all_forms(words: tuple[str, ...], tmp_path: Path) -> None:
    vma = replace(item(0x10000000, MIB, MIB, "[heap]"), nr_accessed=None)
    recording = write_looks(tmp_path / "x.mematlas", [{(7, "shop"): [vma]}] * 3)
    words = tuple(str(tmp_path / word) if "." in word else word for word in words)
    run = report(Path(recording), "heatmap", "--of", "accessed", *words)

    assert (run.returncode, run.stdout) == (5, "")
    assert "accessed pages are not recorded (record --source tables)" in run.stderr
    assert beside(Path(recording)) == set()


def test_a_file_that_finds_no_room_is_taken_away(recording: Path) -> None:
    path = recording.with_suffix(".svg")
    line = f"ulimit -f 1; exec {sys.executable} -m mematlas report {recording} heatmap -o {path}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert (run.returncode, run.stdout) == (1, "")
    assert "File too large" in run.stderr
    assert beside(recording) == set()


@pytest.mark.root("CAP_SYS_ADMIN")
def test_where_the_caller_may_not_write_nothing_is_written(recording: Path) -> None:
    recording.parent.chmod(0o755)
    path = recording.with_suffix(".svg")
    run = report(recording, "heatmap", "-o", path, env={"SUDO_UID": "65534", "SUDO_GID": "65534"})

    assert run.returncode == 2
    assert f"{path}: Permission denied" in run.stderr
    assert beside(recording) == set()

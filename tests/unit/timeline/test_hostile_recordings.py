"""Recordings that somebody made up, read by the commands: what was found by fuzzing, and is mended."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from random import Random

import pytest

from helpers import mematlas
from histories import History, seen, vma_at, write
from mematlas.cli import main
from mematlas.cli.convert import open_stream
from mematlas.errors import BadInput, FormatError
from mematlas.timeline.encoding import Encoder
from mematlas.timeline.recording import Recording
from mematlas.timeline.recording_files import RecordingFiles, copy
from mematlas.timeline.stream import frames
from mematlas.timeline.tracks import curves_of, tracks_of
from mematlas.timeline.writing import LOG

STREAM = Path(__file__).parents[2] / "fuzz" / "corpus" / "recordings" / "redacted.stream"
MIB = 1 << 20
HUGE = 1 << 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording of one process, at two moments."""
    history, encoder = History(), Encoder()
    vmas = [vma_at(Random(number), number) for number in (1, 2, 3)]
    for _ in range(2):
        history.add(encoder, [seen(7, vmas)])
    return write(tmp_path / "x.mematlas", history.rows)


def change(path: Path, *statements: str) -> None:
    """Change a recording."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize("words", [["maps"], ["maps", "--by", "kind"], ["usage"], ["diff"]])
def test_a_vma_that_is_said_to_have_other_pages_is_refused(
    words: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = [f"{path}@0s", f"{path}@1s"][: 1 + (words == ["diff"])]
    assert main([*words, *moments]) == 0
    change(path, "UPDATE vma_usage SET nr_pages = 0 WHERE vma = 2")
    assert main([*words, *moments]) == 1
    assert "expected amounts of the VMA at 0x2000000" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["'x'", "zeroblob(3)", "0.5"])
def test_changes_of_vmas_that_are_of_no_moment_are_refused(moment: str, path: Path) -> None:
    change(path, f"UPDATE vma_usage SET moment = {moment} WHERE vma = 2", "INSERT INTO vma_end VALUES (1, 2)")
    with Recording(str(path)) as recording, pytest.raises(FormatError, match="expected a moment"):
        list(tracks_of(recording))


@pytest.mark.parametrize(("first", "end"), [(0, None), (3, None), (2, 2), (2, 1), (1, 3)])
def test_a_process_that_was_never_there_is_refused(first: int, end: int | None, path: Path) -> None:
    change(path, f"UPDATE process SET moment = {first}")
    if end is not None:
        change(path, f"INSERT INTO process_end VALUES (1, {end}, '')")
    with Recording(str(path)) as recording, pytest.raises(FormatError, match="expected a process"):
        recording.processes()


def test_a_process_of_which_the_most_alone_is_said_has_no_curve(path: Path) -> None:
    change(path, "DELETE FROM usage", "INSERT INTO peak VALUES (1, 1, 4096, 1)")
    with Recording(str(path)) as recording:
        assert curves_of(recording) == []


def test_holes_are_copied_as_holes(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "made"
    places = {0: b"first", HUGE // 2 + 5: b"x" * 3 * MIB, HUGE - 4: b"last"}
    with open(source, "wb") as file:
        for place, data in places.items():
            os.pwrite(file.fileno(), data, place)
    with open(source, "rb") as file:
        copy(file.fileno(), str(made))
    status = made.stat()
    assert (status.st_size, status.st_blocks * 512 < 8 * MIB) == (HUGE, True)
    with open(made, "rb") as file:
        assert [os.pread(file.fileno(), len(data), place) for place, data in places.items()] == list(places.values())


@pytest.mark.parametrize("suffix", ["", LOG])
def test_a_recording_that_is_said_to_be_very_large_takes_no_room(suffix: str, path: Path) -> None:
    Path(f"{path}{LOG}").touch()
    os.truncate(f"{path}{suffix}", HUGE)
    with Recording(RecordingFiles(str(path)), is_private=True) as recording:
        assert recording.nr_moments == 2


def test_a_directory_is_no_stream_and_is_let_go(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BadInput, match="Is a directory"):
        open_stream(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_a_stream_that_cannot_be_read_is_said_to_be_that(tmp_path: Path) -> None:
    run = mematlas("convert", "/proc/self/mem", tmp_path / "x.mematlas")
    assert (run.returncode, run.stderr) == (2, "mematlas: /proc/self/mem: Input/output error\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A recording of a small program, with its frames."""
    with open(STREAM, "rb") as file:
        facts, *moments = frames(file, STREAM.name)
    return write(tmp_path / "real.mematlas", moments, dict(facts["recording"]))


def test_processes_of_which_no_frame_is_known_are_listed_without(
    real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ps", f"{real}@end", "--distinct"]) == 0
    assert "0 of 1" not in capsys.readouterr().err
    change(real, "DELETE FROM vma_end")  # two VMAs in one place
    assert main(["ps", f"{real}@end", "--distinct"]) == 0
    shown = capsys.readouterr()
    assert "the totals are of 0 of 1 processes" in shown.err
    assert "redacted" in shown.out

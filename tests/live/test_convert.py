"""Streams of recordings, made files; recordings without names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import mematlas, program
from mematlas.timeline.recording import Recording
from victim import DEADLINE

SLEEPER = "import sys\nprint(0, flush=True)"
FAST = ("-i", "100ms", "-d", "300ms", "--budget", "100%")


def recorded(pid: int, *words: str) -> bytes:
    line = [sys.executable, "-m", "mematlas", "record", str(pid), "-o", "-", *FAST, *words]
    return subprocess.run(line, capture_output=True, check=True).stdout


@pytest.mark.parametrize("what", ["vmas", "pages"])
def test_a_stream_becomes_the_recording_that_it_is(what: str, tmp_path: Path) -> None:
    with program(SLEEPER) as running:
        data = recorded(running.pid, "--what", what)
        (tmp_path / "stream").write_bytes(data)
        path = tmp_path / "x.mematlas"
        run = mematlas("convert", tmp_path / "stream", path)
        assert run.returncode == 0, run.stderr
        assert f"next: mematlas report {path}" in run.stderr
        assert path.stat().st_mode & 0o777 == 0o600
        moment = json.loads(mematlas("usage", f"{path}@0s", "--json").stdout)
        assert moment["target"]["pid"] == running.pid
        assert mematlas("map", f"{path}@0s").returncode == (0 if what == "pages" else 5)
    again = mematlas("convert", tmp_path / "stream", path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)


def test_a_stream_may_be_piped_in_and_may_end_too_soon(tmp_path: Path) -> None:
    with program(SLEEPER) as running:
        data = recorded(running.pid)
    line = [sys.executable, "-m", "mematlas", "convert", "-", str(tmp_path / "x.mematlas")]
    subprocess.run(line, input=data[:-7], check=True, capture_output=True)
    with Recording(str(tmp_path / "x.mematlas")) as recording:
        assert recording.nr_moments >= 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "from where, and where to?"),
        (["nothing-there", "x.mematlas"], 3, "no file nothing-there"),
        ([os.path.realpath(__file__), "x.mematlas"], 1, "expected a stream"),
    ],
)
def test_what_is_no_stream_is_refused_and_makes_no_file(
    words: list[str], code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = mematlas("convert", *words)
    assert (run.returncode, text in run.stderr) == (code, True), run.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_names_numbers_stay(tmp_path: Path) -> None:
    path, plain = tmp_path / "x.mematlas", tmp_path / "y.mematlas"
    with program(SLEEPER) as running:
        for file, more in ((path, ["--redact"]), (plain, [])):
            run = mematlas("record", running.pid, "-o", file, "--what", "pages", *FAST, *more)
            assert run.returncode == 0, run.stderr
        for file in (path, plain):
            with Recording(str(file)) as recording:
                (process,) = recording.processes()
                assert (process.name == "redacted") == (file == path)
                names = [item.vma.path for item in recording.vmas_at(process, 1)]
                texts = [
                    recording.text_at(process, name, 1) or b""
                    for name in recording.names_at(process, 1)
                    if name != "pagemap"
                ]
                everything = "\n".join([*names, *recording.facts.values(), *(text.decode("latin-1") for text in texts)])
                found = [word for word in ("python", "/lib") if word in everything]
                assert bool(found) == (file == plain), found
                assert (recording.machine["host"] is None) == (file == path)
        rows = [json.loads(mematlas("maps", f"{file}@0s", "--json").stdout)["rows"] for file in (path, plain)]
    assert [row["rss"] for row in rows[0]] == [row["rss"] for row in rows[1]]
    assert {row["path"] for row in rows[0]} >= {"[heap]", "[stack]"}


ODD = """
import mmap, os, sys
fd = os.memfd_create("secret\\nname")
os.ftruncate(fd, 1 << 16)
area = mmap.mmap(fd, 1 << 16)
area[0] = 1
print(0, flush=True)
"""


def test_a_name_with_a_newline_is_left_out_too(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    with program(ODD) as running:
        assert mematlas("record", running.pid, "-o", path, "--what", "pages", "--redact", *FAST).returncode == 0
    with Recording(str(path)) as recording:
        (process,) = recording.processes()
        assert b"secret" not in (recording.text_at(process, "machine.json", 1) or b"")
        assert not any("secret" in item.vma.path for item in recording.vmas_at(process, 1))


def test_a_name_that_means_something_to_sqlite_is_that_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with program(SLEEPER) as running:
        run = mematlas("record", running.pid, "-o", ":memory:", *FAST)
    assert run.returncode == 0, run.stderr
    assert mematlas("report", "./:memory:").returncode == 0
    assert [each.name for each in tmp_path.iterdir()] == [":memory:"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whatever_ends_it_takes_away_what_was_unpacked(number: int, tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    with program(SLEEPER) as running:
        assert mematlas("record", running.pid, "-o", path, *FAST).returncode == 0
    place = tmp_path / "place"
    place.mkdir()
    line = [sys.executable, "-m", "mematlas", "usage", f"{path}@0s", "-i", "50ms"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    ) as run:
        assert run.stdout
        run.stdout.readline()
        assert list(place.iterdir())
        run.send_signal(number)
        _, err = run.communicate(timeout=DEADLINE)
    assert (run.returncode, "Traceback" in err) == (128 + number, False)
    assert list(place.iterdir()) == []

"""pageout and willneed of files, on files whose cached pages are known: against mincore, before and after."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import PAGE, mematlas, program, steadily, texts
from mematlas.actions import files
from mematlas.actions.files import act_on_files, plan_files
from mematlas.actions.options import Options
from mematlas.errors import BadInput, Error, TargetNotFound
from mematlas.kernel.cachestat import call_mincore
from mematlas.views.format import format_size
from stuck import stuck
from victim import DEADLINE, wait_until

pytestmark = [pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"), pytest.mark.machine]

MAPS = """
import json, mmap, sys
path, pages = json.loads(sys.argv[-1])
with open(path, "rb") as file:
    area = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
area.madvise(1)  # no pages around those that are touched
for page in pages:
    area[page * mmap.PAGESIZE]
print(1, flush=True)
"""


def cached(path: Path) -> list[int]:
    """Return which pages of a file are in the page cache."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return [number for number, byte in enumerate(call_mincore(file.fileno(), 0, size, PAGE)) if byte & 1]


def make(path: Path, nr_pages: int, is_written: bool = True) -> Path:
    """Make a file all of whose pages are in the page cache, and on the disk if they are written."""
    with open(path, "wb") as file:
        file.write(b"".join(number.to_bytes(8, "little") * (PAGE // 8) for number in range(nr_pages)))
        if is_written:
            os.fsync(file.fileno())
    return path


@pytest.fixture
def place(disk_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=disk_path) as name:
        yield Path(name)


def test_a_file_leaves_the_page_cache_and_comes_back(place: Path) -> None:
    path = make(place / "file", 101)
    effect = act_on_files([str(path)], "pageout")
    (file,) = effect.files

    assert (file.nr_requested, file.nr_moved, file.reasons) == (101, 101, {})
    assert cached(path) == []

    effect = act_on_files([str(path)], "willneed")
    (file,) = effect.files
    assert (file.nr_requested, file.nr_moved, file.nr_reading, file.reasons) == (101, 101, 0, {})
    assert cached(path) == list(range(101))


def test_what_is_not_written_yet_is_written_and_not_lost(place: Path) -> None:
    path = make(place / "file", 53, is_written=False)
    before = path.read_bytes()
    planned = plan_files([str(path)], "pageout")
    effect = act_on_files([str(path)], "pageout")

    assert (planned.nr_movable, planned.reasons) == (53, {})
    assert (effect.nr_moved, effect.reasons) == (53, {})
    assert cached(path) == []
    assert path.read_bytes() == before


@steadily
def test_the_act_keeps_what_the_plan_says_of_pages_that_are_mapped(place: Path) -> None:
    path = make(place / "file", 211)
    with program(MAPS, [str(path), [0, 7, 120]]) as running:
        planned = plan_files([str(path)], "pageout")
        effect = act_on_files([str(path)], "pageout")
        left = cached(path)

    assert {0, 7, 120} <= set(left)
    assert planned.reasons == effect.reasons == {"mapped": len(left)}
    assert planned.nr_movable == effect.nr_moved == 211 - len(left)
    assert planned.files[0].mappers == effect.files[0].mappers == (running.pid,)


def test_a_plan_changes_nothing(place: Path) -> None:
    path = make(place / "file", 37)
    run = mematlas("pageout", f"file:{path}", "--dry-run", "--json")
    (row,) = json.loads(run.stdout)["rows"]

    assert (row["nr_requested"], row["nr_movable"], row["path"]) == (37, 37, str(path))
    assert cached(path) == list(range(37))


def test_files_of_tmpfs_stay() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        make(Path(file.name), 23)
        planned = plan_files([file.name], "pageout")
        effect = act_on_files([file.name], "pageout")

    assert (planned.nr_movable, planned.reasons) == (0, {"memory": 23})
    assert (effect.nr_moved, effect.reasons) == (0, {"memory": 23})


def test_a_file_of_holes_without_end_is_not_read_and_the_others_are() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        with open(f"{name}/endless", "wb") as file:
            file.truncate((1 << 63) - 1)
        make(Path(name, "file"), 11)
        effect = act_on_files([name], "willneed")
        with pytest.raises(Error, match=f"^{name}/endless: a file of more than 268,435,456 pages"):
            act_on_files([f"{name}/endless"], "willneed")

    assert [file.path for file in effect.files] == [f"{name}/file"]
    assert [note.code for note in effect.notes] == ["files-failed"]


def test_all_below_a_directory_is_meant_and_no_link_followed(place: Path) -> None:
    outside = make(place / "outside", 5)
    (place / "tree" / "deeper").mkdir(parents=True)
    inside = [make(place / "tree" / name, 13) for name in ("one", "deeper/two")]
    (place / "tree" / "link").symlink_to(outside)
    os.link(inside[0], place / "tree" / "again")
    effect = act_on_files([str(place / "tree")], "pageout")

    assert (len(effect.files), effect.nr_requested, effect.nr_moved) == (2, 26, 26)
    assert [cached(path) for path in inside] == [[], []]
    assert cached(outside) == list(range(5))


def test_no_touch_only_advises(place: Path) -> None:
    path = make(place / "file", 31)
    act_on_files([str(path)], "pageout")
    (file,) = act_on_files([str(path)], "willneed", Options(touch=False)).files

    assert file.nr_advised == file.nr_requested == 31
    assert file.nr_moved + sum(file.reasons.values()) == 31


def test_two_files_are_two_rows_and_a_total(place: Path) -> None:
    paths = [make(place / name, nr) for name, nr in (("a", 11), ("b", 19))]
    run = mematlas("pageout", *(f"file:{path}" for path in paths))

    assert run.returncode == 0
    assert run.stdout.splitlines()[0].startswith(f"pageout of 2 files: {format_size(30 * PAGE)} in ")
    assert "2 files" in run.stdout.splitlines()[-1]
    again = mematlas("willneed", f"file:{paths[0]}", "--json")
    assert json.loads(again.stdout)["rows"][0]["nr_moved"] == 11


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["pageout", "file:/nonexistent"], 3, "no such file"),
        (["pageout", "file:/dev/null"], 2, "a device"),
        (["pageout", "file:/etc", "1"], 2, "not both"),
        (["cold", "file:/etc/passwd"], 2, "pageout and willneed"),
        (["collapse", "file:/etc/passwd"], 2, "pageout and willneed"),
        (["pageout", "file:/etc/passwd", "--undo"], 2, "--undo is about the memory of a process"),
        (["willneed", "file:/etc/passwd", "--kind", "heap"], 2, "--kind is about the memory of a process"),
    ],
)
def test_what_cannot_be_done_is_refused(words: list[str], code: int, text: str) -> None:
    run = mematlas(*words)

    assert (run.returncode, run.stdout) == (code, "")
    assert text in run.stderr


def test_a_file_that_is_not_ours_is_refused(as_nobody: Callable[..., Outcome], place: Path) -> None:
    path = make(place / "file", 3)
    for directory in (place, *place.parents):
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 0o11)
    run = as_nobody(["pageout", f"file:{path}"])

    assert (run.code, run.stdout) == (4, "")
    assert cached(path) == [0, 1, 2]


@steadily  # on a busy machine others take as long
def test_a_file_system_that_does_not_answer_is_named(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 1.0)
    path = make(place / "file", 7)
    with stuck("mounted", tmp_path) as pid:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        hung = next(line.split(None, 5)[5] for line in lines if str(tmp_path) in line)
        effect = act_on_files([f"/proc/{pid}/root{hung}", str(path)], "pageout")

    assert [(file.path, file.nr_moved) for file in effect.files] == [(str(path), 7)]
    assert any("does not answer" in text for text in texts(effect.notes))
    assert cached(path) == []


def test_unknown_advice_and_no_files_are_refused(place: Path) -> None:
    for paths, advice, error in (
        ([str(place)], "cold", BadInput),
        ([], "pageout", BadInput),
        (["/no"], "pageout", TargetNotFound),
    ):
        with pytest.raises(error):
            plan_files(paths, advice)
    assert issubclass(BadInput, Error)


def test_nothing_is_done_where_one_of_the_paths_is_missing(place: Path) -> None:
    path = make(place / "file", 7)
    run = mematlas("pageout", f"file:{path}", "file:/nonexistent")

    assert (run.returncode, run.stdout) == (3, "")
    assert cached(path) == list(range(7))


def failing(monkeypatch: pytest.MonkeyPatch, name: str, inode: int) -> None:
    """Let a call of `os` fail for one file, as a disk does."""
    call = getattr(os, name)

    def fail(fd: int, *rest: int) -> None:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        call(fd, *rest)

    monkeypatch.setattr(os, name, fail)


def test_a_file_that_cannot_be_written_stays_for_it_may_be_all_there_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(place / "file", 7, is_written=False)
    failing(monkeypatch, "fdatasync", path.stat().st_ino)

    effect = act_on_files([str(path)], "pageout")

    assert [(file.nr_requested, file.nr_moved, file.reasons) for file in effect.files] == [(7, 0, {"unwritten": 7})]
    assert cached(path) == list(range(7))


def test_a_named_file_that_fails_is_an_error_and_what_was_done_before_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make(place / "first", 7), make(place / "second", 7)
    failing(monkeypatch, "posix_fadvise", second.stat().st_ino)

    effect = act_on_files([str(first), str(second)], "pageout")

    assert [(file.path, file.nr_moved) for file in effect.files] == [(str(first), 7)]
    assert f"left out: {second}: Input/output error" in texts(effect.notes)
    with pytest.raises(Error, match="Input/output error"):
        act_on_files([str(second)], "pageout")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_ctrl_c_reports_what_was_done(place: Path, unbuffered: str) -> None:
    paths = [make(place / f"{number:04}", 3, is_written=False) for number in range(1500)]
    os.sync()
    words = [sys.executable, "-m", "mematlas", "pageout", *(f"file:{path}" for path in paths), "--json"]
    run = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    wait_until(lambda: not cached(paths[2]) or run.poll() is not None, "it begins")
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to its children too
    out, err = run.communicate(timeout=DEADLINE)
    result = json.loads(out)
    moved = {row["path"] for row in result["rows"] if row["nr_moved"]}

    assert run.returncode == 130, err
    assert result["target"]["stopped"] == "interrupted"
    assert 2 <= len(moved) < len(paths)  # of the third it may be unknown
    assert all(not cached(Path(path)) for path in moved)
    assert sum(not cached(path) for path in paths) - len(moved) <= 1


def test_a_file_where_a_process_is_expected_is_told_how_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "data file"
    path.write_bytes(b"x")
    run = mematlas("pageout", str(path))
    assert run.returncode == 3
    assert f"mematlas pageout 'file:{path}'" in " ".join(run.stderr.split())
    assert "file:" not in mematlas("cold", str(path)).stderr

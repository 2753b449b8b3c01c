"""Rings: of every moment that is left all is as without one; they stay small, and are read while they turn."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from histories import FACTS, PAGE, History, Rows, feed, random_history, read_all, seen, vma_at, write, write_ring
from mematlas.errors import Error, FormatError, TargetNotFound
from mematlas.frozen import replace
from mematlas.timeline import recording_files, writing
from mematlas.timeline.encoding import MOST_DELTAS, Encoder
from mematlas.timeline.recording import Recording
from mematlas.timeline.recording_files import RecordingFiles
from mematlas.timeline.ring import SLACK, Kept, Ring
from mematlas.timeline.schema import KEYS
from mematlas.timeline.series import several_series
from mematlas.timeline.summary import summary_of
from mematlas.timeline.watch import HELD, Happening
from mematlas.timeline.words import Sparse
from mematlas.timeline.writing import LOG, MOST_LOG, RecordingWriter
from mematlas.views.report import summary_table
from victim import wait_until

SEEDS = range(50)
LONG = 3 * MOST_DELTAS
OF_PROCESS = ("process", "process_end", "usage", "vma", "file", "note", "event")
"""Tables whose rows are of a process."""


def as_known(value: object) -> object:
    """Return a file as something that can be compared."""
    return (value.indexes.tolist(), value.words.tolist()) if isinstance(value, Sparse) else value


def told_of(recording: Recording, moment: int) -> dict[int, Any]:
    """Return all that a recording tells of a moment, by process."""
    told: dict[int, Any] = {0: [recording.counter_at(name, moment) for name in ("pgfault", "MemFree", "MemTotal")]}
    for process in recording.processes_at(moment):
        names = sorted(recording.names_at(process, moment))
        read = {name: recording.words_at if name == "pagemap" else recording.text_at for name in names}
        told[process.pid] = (
            *(process.number, process.name, process.target, process.start_time, process.end),
            recording.usage_at(process, moment),
            recording.vmas_at(process, moment),
            {name: as_known(read_it(process, name, moment)) for name, read_it in read.items()},
        )
    return told


def rows_of(path: Path, sql: str) -> list[Any]:
    database = sqlite3.connect(path, isolation_level=None, timeout=0.1)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


# --- what is kept


@pytest.mark.parametrize("seed", SEEDS)
def test_of_every_moment_that_is_left_all_is_as_without_a_ring(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    history = random_history(random, random.choice([10, 30, LONG]))
    keep = random.randrange(2, 40)
    all_of_it = write(tmp_path / "all", history.rows)
    ring = write_ring(tmp_path / "ring", history.rows, keep)

    with Recording(str(all_of_it)) as whole, Recording(str(ring)) as kept:
        assert kept.last == whole.last == len(history.moments)
        assert kept.first == 1 or keep <= kept.seconds < SLACK * keep
        assert kept.seconds == whole.seconds - whole.elapsed(kept.first)
        for moment in range(kept.first, kept.last + 1):
            assert told_of(kept, moment) == told_of(whole, moment)
            assert kept.elapsed(moment) == whole.elapsed(moment) - whole.elapsed(kept.first)
            assert kept.when(moment)[1] == whole.when(moment)[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_row_is_of_what_was_taken_away(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    path = write_ring(tmp_path / "ring", random_history(random, LONG).rows, random.randrange(2, 20))

    for table in ("process", "process_end", "vma", "vma_end", "event", "note", *KEYS):
        assert rows_of(path, f"SELECT * FROM {table} WHERE moment NOT IN (SELECT id FROM moment)") == []
    for table in OF_PROCESS:
        column = "id" if table == "process" else "process"
        assert rows_of(path, f"SELECT * FROM {table} WHERE {column} NOT IN (SELECT id FROM process)") == []
    for table in ("vma_usage", "vma_end"):
        assert rows_of(path, f"SELECT * FROM {table} WHERE vma NOT IN (SELECT id FROM vma)") == []
    assert rows_of(path, "SELECT * FROM file WHERE base NOT IN (SELECT id FROM moment)") == []


def test_what_never_changes_is_there_for_ever(tmp_path: Path) -> None:
    history, encoder = History(), Encoder(with_peaks=False)
    vmas = [vma_at(Random(1), 1)]
    for _ in range(200):
        history.add(encoder, [seen(7, vmas)])
    with Recording(str(write_ring(tmp_path / "ring", history.rows, 5))) as recording:
        (process,) = recording.processes()
        assert recording.last == 200
        assert process.first == recording.first > 190
        assert [item.start for item in recording.vmas_at(process, 200)] == [vmas[0].start]


def test_where_looks_are_late_the_last_before_is_kept(tmp_path: Path) -> None:
    history, encoder = History(), Encoder(with_peaks=False)
    for _ in range(4):
        history.add(encoder, [seen(7, [vma_at(Random(1), 1)])])
    for rows, elapsed in zip(history.rows, (0.0, 100.0, 101.0, 300.0), strict=True):
        (number, at, _, *costs) = rows["moment"][0]
        rows["moment"] = [(number, at, elapsed, *costs)]
    with Recording(str(write_ring(tmp_path / "ring", history.rows, 10))) as recording:
        assert [recording.elapsed(moment) for moment in range(recording.first, 5)] == [0.0, 199.0]


def test_times_are_after_the_first_moment_that_is_there(tmp_path: Path) -> None:
    history, encoder = History(), Encoder(with_peaks=False)
    for number in range(100):
        history.add(encoder, [seen(7, [vma_at(Random(number), 1)])])
    path = write_ring(tmp_path / "ring", history.rows, 10)
    with Recording(str(path)) as recording:
        summary = summary_of(recording)
        (story,) = summary.stories
        first, *_, last = range(recording.first, recording.last + 1)
        assert (recording.began, recording.elapsed(first)) == (1e9 + first - 1, 0.0)
        assert [recording.moment_at(seconds) for seconds in (0, 3.2, recording.seconds)] == [first, first + 3, last]
        assert (story.began, story.peak_at) == (0.0, recording.peak_rss(story.process)[1])  # type: ignore[index]
        assert several_series(recording, story.process, ("uss",))[0] == [
            float(number) for number in range(recording.nr_moments)
        ]
        with pytest.raises(TargetNotFound, match=f"is {recording.seconds:.1f} s long"):
            recording.moment_at(99)
        lines = list(summary_table(summary).lines(width=80))
    assert "a ring: the last 10 s" in lines


def test_when_a_condition_holds_what_was_before_it_stays(tmp_path: Path) -> None:
    history, encoder = History(), Encoder(with_peaks=False)
    for number in range(100):
        held = [Happening(7, 77, HELD, "rss > 1")] if number == 50 else []
        history.add(encoder, [seen(7, [vma_at(Random(number), 1)])], held)
    path = write_ring(tmp_path / "ring", history.rows, 10, FACTS | {"when": '"rss > 1"'})
    with Recording(str(path)) as recording:
        before = recording.kept.held_at
        assert before is not None
        assert 10 <= before <= 10 * SLACK
        assert recording.kept == Kept(10.0, "rss > 1", before)
        assert recording.nr_moments == before + 50
        lines = list(summary_table(summary_of(recording)).lines(width=100))
    assert f"a ring: the 10 s before rss > 1 held, and all since; it held after {before:.1f} s" in lines


def test_a_ring_does_not_grow_for_ever(tmp_path: Path) -> None:
    keep, random = 20, Random(3)
    history, encoder = History(), Encoder(with_peaks=False)
    vmas = [vma_at(random, number) for number in range(1, 60)]
    for _ in range(20 * keep):
        vmas = [replace(item, usage=replace(item.usage, uss=random.randrange(1 << 30))) for item in vmas]
        vmas[random.randrange(59)] = vma_at(random, random.randrange(100, 1 << 20))
        vmas.sort(key=lambda item: item.start)
        history.add(encoder, [seen(7, list(vmas))])
    path = tmp_path / "ring"
    writing.make(str(path), force=False)
    database = sqlite3.connect(path, isolation_level=None)
    writing.prepare(database)
    ring, sizes, logs = Ring(keep), [], []
    for number in range(20):
        feed(database, ring, history.rows[number * keep : (number + 1) * keep])
        sizes.append(database.execute("PRAGMA page_count").fetchone()[0])
        logs.append(os.path.getsize(f"{path}{LOG}"))
    database.close()
    assert sizes[-1] <= 2 * sizes[1]
    assert max(logs) <= 2 * MOST_LOG


# --- while it turns


def turn(path: str) -> None:
    """Write a ring of moments that all say which they are, as fast as that goes."""
    vma = vma_at(Random(1), 1)
    encoder = Encoder(with_peaks=False)
    history = History()
    with RecordingWriter(path, FACTS | {"keep": "50.0"}, ring=Ring(50.0)) as writer:
        for number in range(1, 1 << 20):
            vmas = [
                replace(
                    vma,
                    vma=replace(vma.vma, start=at << 30, end=(at << 30) + PAGE),
                    usage=replace(vma.usage, rss=number),
                )
                for at in range(1, 40)
            ]
            history.add(encoder, [seen(7, vmas)])
            writer.add(history.rows.pop())


@contextmanager
def turning(path: Path) -> Iterator[int]:
    """Have a ring written by another process; it is killed at the end, and so is its child, which yields nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            turn(str(path))
        finally:
            os._exit(1)
    try:
        wait_until(lambda: path.exists() and first_of(path) > 1, "the ring turns")
        yield pid
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def first_of(path: Path) -> int:
    try:
        return int(rows_of(path, "SELECT min(id) FROM moment")[0][0] or 0)
    except sqlite3.Error:
        return 0


def check_numbers(recording: Recording) -> None:
    """Check that each moment is the one that it says."""
    (process,) = recording.processes()
    for moment in range(recording.first, recording.last + 1):
        assert {item.rss for item in recording.vmas_at(process, moment)} == {moment}
        usage = recording.usage_at(process, moment)
        assert usage is not None
        assert usage.amounts["rss"] == 39 * moment
    assert recording._rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("is_private", [False, True])
def test_who_reads_a_ring_while_it_turns_sees_one_time(is_private: bool, tmp_path: Path) -> None:
    path = tmp_path / "ring"
    firsts = set()
    with turning(path):
        for _ in range(12):
            with Recording(RecordingFiles(str(path)), is_private) as recording:
                time.sleep(0.05)
                check_numbers(recording)
                firsts.add(recording.first)
    assert len(firsts) > 2


def test_a_copy_that_takes_long_is_of_one_time_or_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, random, copy, refused = tmp_path / "ring", Random(7), recording_files.copy, []

    def copy_late(fd: int, to: str) -> None:
        time.sleep(random.uniform(0, 0.1))
        copy(fd, to)

    monkeypatch.setattr(recording_files, "copy", copy_late)
    monkeypatch.setattr(recording_files, "TRIES", 3)
    with turning(path):
        for _ in range(20):
            try:
                with Recording(RecordingFiles(str(path)), is_private=True) as recording:
                    check_numbers(recording)
            except Error as error:
                refused.append(str(error))
    assert all("changes faster than it can be copied" in text for text in refused)
    assert len(refused) < 20


@pytest.mark.parametrize("seed", range(5))
def test_a_ring_whose_writer_is_killed_is_whole(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "ring"
    with turning(path):
        time.sleep(Random(seed).uniform(0, 0.5))
    with Recording(str(path)) as recording:
        check_numbers(recording)
        assert recording.first > 1
        assert recording.seconds >= 50


def is_stopped_with_an_empty_log(path: Path, pid: int) -> bool:
    """Stop who writes a ring, and empty its log; where that was in the midst of something, let it go on."""
    os.killpg(pid, signal.SIGSTOP)
    if rows_of(path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]:
        return True
    os.killpg(pid, signal.SIGCONT)
    return False


def test_a_log_that_was_just_emptied_is_no_sign_that_nobody_writes(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    with turning(path) as pid:
        wait_until(lambda: is_stopped_with_an_empty_log(path, pid), "its log can be emptied")
        assert os.path.getsize(f"{path}{LOG}") == 0
        with Recording(str(path)) as recording:
            first = recording.first
            os.killpg(pid, signal.SIGCONT)
            wait_until(lambda: first_of(path) > first + 200, "the ring turns")
            check_numbers(recording)
            assert recording.first == first


# --- what is no ring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    random = Random(0)
    rows: list[Rows] = []
    while len(rows) < 2 * MOST_DELTAS:
        rows = random_history(random, LONG).rows
    return write_ring(tmp_path / "ring", rows, 20)


def changed(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


FIRST = "(SELECT min(id) FROM moment)"


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM moment WHERE id = {FIRST}",
        f"DELETE FROM moment WHERE id = {FIRST} + 3",
        "DELETE FROM recording WHERE key = 'keep'",
        *(f"UPDATE recording SET value = '{value}' WHERE key = 'keep'" for value in ("0", "-5", "1e999", '"9"', "NaN")),
        f"UPDATE moment SET id = id - {FIRST}",
        "UPDATE moment SET id = -id",
        f"UPDATE moment SET id = 1 WHERE id = {FIRST}",
        f"UPDATE moment SET elapsed = 1e9 WHERE id = {FIRST}",
        f"UPDATE moment SET elapsed = 'early' WHERE id = {FIRST}",
        f"UPDATE moment SET elapsed = 0 WHERE id > {FIRST}",
        "UPDATE process SET moment = 1",
        f"UPDATE process SET moment = {FIRST} - 1",
        "UPDATE file SET base = base - 1",
        "DELETE FROM file WHERE base IS NULL AND name = 'pagemap'",
    ],
)
def test_what_is_not_as_we_write_it_is_refused(statement: str, path: Path) -> None:
    assert read_all(path)
    changed(path, statement)
    with pytest.raises(FormatError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("statement", ["UPDATE usage SET moment = moment - 1000", "UPDATE vma SET moment = 1"])
def test_rows_of_moments_that_are_no_more_are_refused_or_hold(statement: str, path: Path) -> None:
    changed(path, statement)
    try:
        read_all(path)
    except Error:
        return


@pytest.mark.parametrize("event", ["'late', 'held'", "999999, 'held'", "NULL, 'held'"])
def test_a_condition_that_held_at_no_moment_is_refused(event: str, path: Path) -> None:
    changed(path, f"INSERT INTO event (moment, kind) VALUES ({event})")
    changed(path, "INSERT INTO recording VALUES ('when', '\"rss > 1\"')")
    if "NULL" in event:
        assert read_all(path)
        return
    with pytest.raises(FormatError):
        read_all(path)


@pytest.mark.parametrize("seed", range(60))
def test_bytes_that_are_changed_are_refused_or_read_and_never_a_traceback(seed: int, path: Path) -> None:
    random = Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 3, 30])):
        data[random.choice([random.randrange(len(data)), random.randrange(100)])] = random.randrange(256)
    path.write_bytes(data)
    try:
        read_all(path)
    except Error:
        return

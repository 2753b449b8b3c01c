"""Recordings: what is read of a moment is what was there, whatever happened before; what is no recording is refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from histories import FACTS, History, Rows, as_utf8, random_history, read_all, seen, vma_at, write
from mematlas.analysis.results import VmaUsage
from mematlas.errors import BadInput, Error, FormatError, PermissionDenied, TargetNotFound
from mematlas.frozen import as_dict, replace
from mematlas.notes import Note
from mematlas.timeline import recording as module
from mematlas.timeline import recording_files, stream, writing
from mematlas.timeline.encoding import MOST_DELTAS, Encoder
from mematlas.timeline.recorded_rows import some_of
from mematlas.timeline.recording import Recording
from mematlas.timeline.recording_files import RecordingFiles
from mematlas.timeline.sampler import Cost
from mematlas.timeline.schema import TABLES, fits, signed, statements, unsigned
from mematlas.timeline.series import several_series
from mematlas.timeline.stream import MAGIC, frame_of, frames, frames_of, parse_frame
from mematlas.timeline.watch import EXEC, EXIT, Files, Happening
from mematlas.timeline.words import Followed, Sparse, changes
from mematlas.timeline.writing import LOG, RecordingWriter


@pytest.mark.parametrize("seed", range(60))
def test_a_moment_is_what_it_was_whatever_happened_before(seed: int, tmp_path: Path) -> None:
    history = random_history(Random(seed))
    with Recording(str(write(tmp_path / "x.mematlas", history.rows))) as recording:
        assert recording.nr_moments == len(history.moments)
        found: list[dict[int, list[VmaUsage]]] = [{} for _ in history.moments]
        for process in recording.processes():
            for moment in range(process.first, recording.last_moment(process) + 1):
                found[moment - 1][process.pid] = recording.vmas_at(process, moment)
                assert recording.vmas_at(process, moment) == [
                    as_utf8(item) for item in history.moments[moment - 1][process.pid]
                ]
            times, series = several_series(recording, process, ("uss",))
            assert series["uss"] == [len(history.moments[int(time)][process.pid]) for time in times]
    assert [sorted(moment) for moment in found] == [sorted(moment) for moment in history.moments]


@pytest.mark.parametrize("nr_moments", [1, 63, 64, 65, 128, 200])
def test_the_most_rss_is_found_whether_it_was_recorded_of_several_moments_or_not(
    nr_moments: int, tmp_path: Path
) -> None:
    random = Random(nr_moments)
    history, encoder = History(), Encoder()
    told: dict[int, list[tuple[int, int]]] = {7: [], 8: [], 9: []}
    for number in range(nr_moments):
        there = []
        for pid, amounts in told.items():
            if pid == 9 and number > 70:
                continue
            one = seen(pid, [])
            rss = None if random.random() < 0.2 else random.randrange(1 << 40)
            if random.random() < 0.5 and amounts:
                rss = amounts[-1][0]
            if rss is not None:
                amounts.append((rss, number))
            there.append(replace(one, usage=replace(one.usage, usage=replace(one.usage.usage, rss=rss))))
        ended = [Happening(9, 77, EXIT, "ended")] if number == 71 else []
        history.add(encoder, there, ended)
    with Recording(str(write(tmp_path / "x.mematlas", history.rows))) as recording:
        found = {process.pid: recording.peak_rss(process) for process in recording.processes()}
    expected = {pid: max(amounts, key=lambda one: (one[0], -one[1]), default=None) for pid, amounts in told.items()}
    assert found == expected
    most = {pid: peak[0] if peak else 0 for pid, peak in expected.items()}
    assert list(found) == sorted(most, key=lambda pid: -most[pid])


def sparse(words: dict[int, int]) -> Sparse:
    at = sorted(words)
    return Sparse(np.array(at, np.uint64), np.array([words[index] for index in at], np.uint64))


@pytest.mark.parametrize("seed", range(6))
def test_pages_are_what_they_were_whether_changes_were_told_or_found(seed: int, tmp_path: Path) -> None:
    random, encoder, history = Random(seed), Encoder(), History()
    expected: list[dict[int, int]] = []
    words: dict[int, int] = {}
    number = 1
    for _ in range(MOST_DELTAS + 30):
        before, gap = dict(words), random.random() < 0.1
        for index in random.sample(range(3000), random.choice([0, 1, 40])):
            words[index] = random.choice([0, 1 << 63, 1 << 62 | index])
        words = {index: word for index, word in words.items() if word}
        number += 1 + gap  # of what happened in between nobody was told: the changes since are not all of them
        told = changes(sparse({} if gap else before), sparse(words))
        file: Sparse | Followed = Followed(number, told, lambda now=dict(words): sparse(now))  # type: ignore[misc]
        if random.random() < 0.1:
            file = sparse(words)
        files = Files({"stat": b"1"}, {"pagemap": file})
        history.add(encoder, [seen(7, [vma_at(Random(1), 1)], files=files)])
        expected.append(dict(words))
    with Recording(str(write(tmp_path / "x.mematlas", history.rows))) as recording:
        (process,) = recording.processes()
        for moment, then in enumerate(expected, 1):
            found = recording.words_at(process, "pagemap", moment)
            assert found is not None
            assert dict(zip(found.indexes.tolist(), found.words.tolist(), strict=True)) == then


def test_what_was_said_of_one_look_is_not_said_of_those_after_it(tmp_path: Path) -> None:
    history, encoder = History(), Encoder()
    lasting, passing = Note("zero-unknown", "zero pages unknown"), Note("torn", "torn")
    for number in range(4):
        one = seen(7, [], notes=(lasting, passing) if number == 1 else (lasting,))
        reading = replace(one.usage.reading, torn=number == 1)
        history.add(encoder, [replace(one, usage=replace(one.usage, reading=reading))])
    with Recording(str(write(tmp_path / "x.mematlas", history.rows))) as recording:
        (process,) = recording.processes()
        found = [recording.usage_at(process, moment) for moment in range(1, 5)]
    assert [[note.code for note in one.notes] for one in found if one] == [
        *(["zero-unknown"], ["zero-unknown", "torn"]),
        *(["zero-unknown"], ["zero-unknown"]),
    ]


def test_what_stays_the_same_has_no_row() -> None:
    history, encoder = History(), Encoder()
    vmas = [vma_at(Random(1), number) for number in (1, 2, 3)]
    note = Note("torn", "torn")
    for _ in range(3):
        history.add(encoder, [seen(7, vmas, notes=(note,))])
    assert set(history.rows[0]) == {"moment", "process", "usage", "note", "vma", "vma_usage"}
    assert [set(rows) for rows in history.rows[1:]] == [{"moment"}] * 2


def test_a_process_with_another_name_is_another_row_and_its_end_is_told() -> None:
    history, encoder = History(), Encoder()
    vmas = [vma_at(Random(1), 1)]
    history.add(encoder, [seen(7, vmas)])
    history.add(encoder, [seen(7, vmas, name="other")], [Happening(7, 77, EXEC, "started another program")])
    history.add(encoder, [], [Happening(7, 77, EXIT, "process 7 ended")])
    rows = history.rows[1]
    assert [row[:4] for row in rows["process"]] == [(2, 7, 77, "other")]
    assert rows["process_end"] == [(1, 2, "has another name now")]
    assert rows["event"] == [(2, 2, "exec", "started another program")]
    assert history.rows[2]["process_end"] == [(2, 3, "process 7 ended")]
    assert history.rows[2]["vma_end"] == [(2, 3)]


def test_every_row_is_one_of_its_table() -> None:
    for seed in range(20):
        for rows in random_history(Random(seed)).rows:
            assert all(fits(table, row) for table in rows for row in rows[table])


@pytest.mark.parametrize("number", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_numbers_keep_their_bits(number: int) -> None:
    assert -(1 << 63) <= signed(number) < 1 << 63
    assert unsigned(signed(number)) == number


def test_a_series_of_many_moments_has_some_of_them() -> None:
    chosen = list(some_of(5, 100_000))
    assert (chosen[0], chosen[-1], len(chosen)) == (5, 100_000, 300)
    assert chosen == sorted(set(chosen))


# --- the writer


def test_a_writer_makes_one_file_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.mematlas"
    history = random_history(Random(3))
    with RecordingWriter(str(path), FACTS) as writer:
        for rows in history.rows:
            writer.add(rows)
        assert (tmp_path / f"x.mematlas{LOG}").exists()
    assert os.listdir(tmp_path) == ["x.mematlas"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert writer.size == path.stat().st_size
    with Recording(str(path)) as recording:
        assert (recording.nr_moments, recording.facts) == (len(history.moments), FACTS)
        assert recording.machine["host"] == "oak"


@pytest.mark.parametrize("name", ["x.mematlas", "x.mematlas-wal", "x.mematlas-shm"])
def test_nothing_that_is_there_is_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(BadInput, match=f"{name} exists: give another name, or --force"):
        RecordingWriter(str(tmp_path / "x.mematlas"), FACTS)
    assert (tmp_path / name).read_bytes() == b"mine"
    assert os.listdir(tmp_path) == [name]


def test_a_link_is_not_followed_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "x.mematlas").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="exists"):
        RecordingWriter(str(tmp_path / "x.mematlas"), FACTS, force=True)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_with_force_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.mematlas").write_bytes(b"mine")
    history = History()
    history.add(Encoder(), [seen(7, [])])
    with RecordingWriter(str(tmp_path / "x.mematlas"), FACTS, force=True) as writer:
        writer.add(history.rows[0])
    with Recording(str(tmp_path / "x.mematlas")) as recording:
        assert recording.nr_moments == 1


def test_without_a_moment_there_is_no_file(tmp_path: Path) -> None:
    with RecordingWriter(str(tmp_path / "x.mematlas"), FACTS) as writer:
        pass
    assert writer.size == 0
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_made_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file or directory"):
        RecordingWriter(str(tmp_path / "none" / "x.mematlas"), FACTS)


def test_a_full_disk_is_said_and_nothing_before_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mematlas"
    history, encoder = History(), Encoder()
    for seed in range(200):
        random = Random(seed)
        history.add(encoder, [seen(7, [vma_at(random, number) for number in range(1, 12)])])
    prepare = writing.prepare

    def small(database: sqlite3.Connection) -> None:
        prepare(database)
        database.execute("PRAGMA max_page_count = 60").fetchall()

    monkeypatch.setattr(writing, "prepare", small)
    with pytest.raises(Error, match="full; what was recorded before is in it") as caught:
        feed(str(path), history.rows)
    assert "Traceback" not in str(caught.value)
    with Recording(str(path)) as recording:
        assert 10 < recording.nr_moments < 200
        (process,) = recording.processes()
        for moment in range(1, recording.nr_moments + 1):
            assert recording.vmas_at(process, moment) == [as_utf8(item) for item in history.moments[moment - 1][7]]


def feed(path: str, rows: list[Rows]) -> None:
    with RecordingWriter(path, FACTS) as writer:
        for moment in rows:
            writer.add(moment)


def test_who_still_reads_at_the_end_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.1)
    path = tmp_path / "x.mematlas"
    history = random_history(Random(3))
    reader = None
    with RecordingWriter(str(path), FACTS) as writer:
        for rows in history.rows:
            writer.add(rows)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM moment").fetchall()
    assert (tmp_path / f"x.mematlas{LOG}").exists()
    reader.close()
    with Recording(str(path)) as recording:
        assert recording.nr_moments == len(history.moments)
    assert os.listdir(tmp_path) == ["x.mematlas"]


# --- streams


def test_a_stream_has_what_a_file_has(tmp_path: Path) -> None:
    history = random_history(Random(5))
    path = tmp_path / "stream"
    path.write_bytes(MAGIC + b"".join(map(frame_of, history.rows)))
    with open(path, "rb") as file:
        assert [
            {table: list(map(tuple, rows)) for table, rows in moment.items()} for moment in frames(file, "stream")
        ] == history.rows


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a recording, by table."""
    tables = TABLES.keys() - {"recording"}
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {table: sorted(database.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}


def test_a_moment_of_several_frames_is_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = random_history(Random(7))
    whole = contents(write(tmp_path / "whole", history.rows))
    monkeypatch.setattr(stream, "LARGE", 100)
    assert all(len(list(frames_of(rows))) > 1 for rows in history.rows)
    with RecordingWriter(str(tmp_path / "parts"), FACTS) as writer:
        for rows in history.rows:
            writer.add(rows)
    assert contents(tmp_path / "parts") == whole


def test_a_moment_of_which_frames_are_missing_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = random_history(Random(7))
    before = contents(write(tmp_path / "before", history.rows[:-1]))
    monkeypatch.setattr(stream, "LARGE", 100)
    with RecordingWriter(str(tmp_path / "parts"), FACTS) as writer:
        for rows in history.rows[:-1]:
            writer.add(rows)
        for frame in list(frames_of(history.rows[-1]))[:-1]:
            writer._send(frame)
    assert contents(tmp_path / "parts") == before


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_stream_that_is_cut_short_is_whole_up_to_that(cut: int, tmp_path: Path) -> None:
    history = random_history(Random(5))
    path = tmp_path / "stream"
    path.write_bytes((MAGIC + b"".join(map(frame_of, history.rows)))[:-cut])
    with open(path, "rb") as file:
        assert len(list(frames(file, "stream"))) == len(history.rows) - 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"mematlas-stream\n\x02",
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + b"\x02\0\0\0[]",
        MAGIC + frame_of({"sqlite_master": []}),
        MAGIC + frame_of({"vma_end": [(1,)]}),
        MAGIC + frame_of({"vma_end": [(1, 1 << 64)]}),
        MAGIC + b"\x14\x27\0\0" + b"[" * 10_004,
    ],
)
def test_what_is_no_stream_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(data)
    with open(tmp_path / "stream", "rb") as file, pytest.raises(FormatError):
        list(frames(file, "stream"))


# --- what is no recording


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "x.mematlas", random_history(Random(11)).rows)


@pytest.mark.parametrize("is_empty", [True, False])
def test_another_programs_database_is_left_as_it_is(is_empty: bool, tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("CREATE TABLE places (name TEXT)")
    if not is_empty:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.execute("INSERT INTO places VALUES ('oak')")
    for name in (path, Path(f"{path}{LOG}")):
        (tmp_path / f"{name.name}.kept").write_bytes(name.read_bytes())
    database.close()
    for kept in tmp_path.glob("*.kept"):  # as after a kill
        kept.rename(tmp_path / kept.stem)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert "expected a recording of mematlas" in refused(path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_another_file_that_is_put_in_its_place_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite opens the name that a descriptor's link leads to."""
    other = write(path.with_name("y.mematlas"), random_history(Random(12)).rows)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda _, **more: connect(f"file:{other}?mode=ro&immutable=1", **more))
    files = RecordingFiles(str(path))
    with pytest.raises(FormatError, match="replaced just now"):
        files.connect_now()
    files.close()


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_all(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more (x)",
        "CREATE TRIGGER more AFTER INSERT ON vma BEGIN SELECT 1; END",
        "CREATE INDEX more ON vma (start)",
        "DROP TABLE note",
        "ALTER TABLE note ADD COLUMN more",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 2",
        "UPDATE process SET pid = 'x'",
        "UPDATE process SET name = x'ff'",
        "DELETE FROM moment WHERE id = 1",
        "UPDATE vma SET kind = 'more'",
        "UPDATE vma SET perms = '-1'",
        "UPDATE vma SET dev = '-1'",
        'UPDATE vma SET "end" = start',
        "UPDATE moment SET elapsed = 'late'",
        "UPDATE moment SET elapsed = 9e999",
        "UPDATE moment SET time = -1",
        "UPDATE vma_usage SET rss = 'much'",
        "UPDATE vma_usage SET rss = -1",
        "UPDATE usage SET rss = -1, uss = -1",
        "UPDATE file SET name = '../' || name",
        "UPDATE file SET data = 'text'",
        "UPDATE file SET data = x'00' WHERE name = 'pagemap'",
        "UPDATE file SET base = moment",
        "UPDATE file SET part = 1",
    ],
)
def test_what_is_not_as_we_write_it_is_refused(statement: str, path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()
    assert str(path) in refused(path)


def test_moments_of_one_time_have_no_growth(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE moment SET elapsed = 7")
    database.close()
    assert read_all(path)


@pytest.mark.parametrize("kinds", ["5", "null", "[]"])
def test_facts_that_are_none_are_refused(kinds: str, path: Path) -> None:
    database = sqlite3.connect(path)
    text = zlib.compress(f'{{"kinds": {kinds}}}'.encode())
    with database:
        database.execute("UPDATE file SET data = ? WHERE name = 'machine.json'", (text,))
    database.close()
    with pytest.raises(FormatError, match="kinds"):
        read_all(path)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1e999", '"\\ud800"', str(1 << 63)])
def test_values_that_cannot_be_kept_are_no_rows(value: str) -> None:
    assert parse_frame(f'{{"moment": [[1, {value}, 0.0, 0.0, 0.0]]}}'.encode()) is None
    assert parse_frame(f'{{"vma_end": [[1, 2]], "event": [[1, 1, "exit", {value}]]}}'.encode()) is None


def test_a_text_that_is_none_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE process SET name = cast(x'ff' AS TEXT)")
    database.close()
    refused(path)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(5000), b"x" * 5000])
def test_what_is_no_database_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x")


def test_links_pipes_and_directories_are_not_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(Error):
            Recording(str(tmp_path / name))
    with pytest.raises(TargetNotFound):
        Recording(str(tmp_path / "none"))


def test_a_question_that_takes_too_long_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", -1.0)
    monkeypatch.setattr(module, "STEPS", 1)
    with pytest.raises(Error, match="took longer"):
        Recording(str(path))


def test_nothing_can_be_written_through_it(path: Path) -> None:
    with Recording(str(path)) as recording, pytest.raises(FormatError, match="readonly"):
        recording._rows("DELETE FROM moment")


@pytest.mark.parametrize("seed", range(150))
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


# --- of a writer that was killed


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Callable[[list[Rows]], Path]]:
    """Return what leaves the files of a recording as a writer does that is killed."""
    held = []

    def leave(rows: list[Rows]) -> Path:
        made = write(tmp_path / "x.mematlas", [])
        database = sqlite3.connect(made, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        held.append(database)
        for moment in rows:
            writing.add(database, moment)
        folder = tmp_path / "left"
        folder.mkdir()
        for suffix in ("", LOG, "-shm"):
            (folder / f"x.mematlas{suffix}").write_bytes((tmp_path / f"x.mematlas{suffix}").read_bytes())
        return folder / "x.mematlas"

    yield leave
    for database in held:
        database.close()


def test_what_a_killed_writer_left_is_put_together(killed: Callable[[list[Rows]], Path]) -> None:
    history = random_history(Random(13))
    path = killed(history.rows)
    with Recording(str(path)) as recording:
        assert recording.nr_moments == len(history.moments)
    assert os.listdir(path.parent) == ["x.mematlas"]


def test_where_nothing_may_be_written_a_copy_is_read(killed: Callable[[list[Rows]], Path], as_nobody: Any) -> None:
    history = random_history(Random(13))
    path = killed(history.rows)
    for name in path.parent.iterdir():
        name.chmod(0o644)
    for folder in (path.parent, *path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break

    def read() -> int:
        return read_all(path)

    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    assert as_nobody(read).value == len(history.moments)
    assert {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} == before


def test_the_schema_is_what_the_documents_say() -> None:
    assert as_dict(Cost(1.0, 2.0)) == {"cpu_s": 1.0, "stall_s": 2.0}
    text = (Path(__file__).parents[3] / "docs" / "recording.md").read_text()
    for statement in statements():
        name = statement.split()[2]
        assert f"`{name}`" in text


def test_another_s_recording_needs_his_leave(path: Path, as_nobody: Any) -> None:
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break

    def read() -> str:
        try:
            with Recording(str(path)):
                return ""
        except PermissionDenied as error:
            return str(error)

    assert "needs leave to read it" in as_nobody(read).value


@pytest.fixture
def at_times(tmp_path: Path) -> Iterator[Recording]:
    """A recording with moments at odd times."""
    history, encoder = History(), Encoder()
    for _ in range(4):
        history.add(encoder, [seen(7, [])])
    path = write(tmp_path / "x.mematlas", history.rows)
    with sqlite3.connect(path) as database:
        for number, elapsed in enumerate((0.0, 4.0, 5.04, 8.96), 1):
            database.execute("UPDATE moment SET elapsed = ? WHERE id = ?", (elapsed, number))
    database.close()
    with Recording(str(path)) as recording:
        yield recording


@pytest.mark.parametrize(
    ("seconds", "moment"),
    [(0.0, 1), (3.95, 1), (4.0, 2), (4.99, 2), (5.0, 3), (5.03, 2), (5.04, 3), (8.95, 3), (8.96, 4), (9.0, 4)],
)
def test_a_time_in_tenths_is_that_of_a_look_as_it_is_shown_and_a_finer_one_is_meant_as_it_stands(
    seconds: float, moment: int, at_times: Recording
) -> None:
    assert at_times.moment_at(seconds) == moment


@pytest.mark.parametrize("seconds", [8.97, 9.1])
def test_a_time_after_the_last_moment_is_outside(seconds: float, at_times: Recording) -> None:
    with pytest.raises(TargetNotFound, match=f"{seconds} s is outside"):
        at_times.moment_at(seconds)


@pytest.mark.parametrize("column", ["minor_faults", "nr_pages"])
def test_an_amount_that_is_always_known_is_not_taken_for_0(column: str, tmp_path: Path) -> None:
    history = History()
    history.add(Encoder(), [seen(7, [])])
    path = write(tmp_path / "x.mematlas", history.rows)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE usage SET {column} = NULL")
    database.close()
    with Recording(str(path)) as recording:
        (process,) = recording.processes()
        with pytest.raises(FormatError, match="how a process was read"):
            recording.usage_at(process, 1)


def test_a_file_that_somebody_reads_at_the_end_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.0)
    path = tmp_path / "x.mematlas"
    history = History()
    history.add(Encoder(), [seen(7, [])])
    with RecordingWriter(str(path), FACTS) as writer:
        writer.add(history.rows[0])
        reader = sqlite3.connect(path)
        while not reader.execute("SELECT count(*) FROM moment").fetchone()[0]:
            pass
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM moment").fetchall()
        writer.close()
    assert not writer.is_one_file
    assert writer.size == path.stat().st_size
    assert writer.cpu_s > 0
    reader.close()


def test_what_sqlite_says_in_no_text_of_a_recording_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mematlas"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE shop (name)")

    def finish(_: sqlite3.Connection) -> bool:
        return bool(b"no such table: \xf9".decode())

    monkeypatch.setattr(recording_files, "finish", finish)
    with pytest.raises(FormatError, match="expected a recording"):
        recording_files.settle(str(path), "x.mematlas")

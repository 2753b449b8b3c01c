"""Changes to a recording are what they are said to be, and change nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from made_recordings import NAME, Base, all_bases, sealed
from mematlas.timeline.writing import LOG
from recording_changes import VERBS, change, changes, edit_log

MORE: dict[str, list[Any]] = {
    "edit": [0, 1, "ff"],
    "edit_log": [0, 1, "ff"],
    "exchange": [0, 4096],
    "cut": [1],
    "sql": ["CREATE TABLE more (a)"],
    "swell": [[1, "pagemap", 1, 0], 512, False],
    "mode": [0],
    "link": ["/"],
    "hard": [NAME],
    "device": [5],
    "sparse": [4096],
}
MISTAKES = ("syntax error", "no such column", "no such table", "no such function", "has no column", "values for")


@pytest.fixture(scope="module")
def bases() -> dict[str, Base]:
    return all_bases()


def moments_in(place: Path, base: Base, log: bytes) -> int:
    """Return how many moments a reader finds in a recording with another log."""
    for suffix, data in (base.files | {LOG: log}).items():
        (place / f"x{suffix}").write_bytes(data)
    with closing(sqlite3.connect(place / "x")) as database:
        return int(database.execute("SELECT count(*) FROM moment").fetchone()[0])


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_change_follows_a_link(verb: str, tmp_path: Path) -> None:
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "place"
    place.mkdir()
    elsewhere.write_text("precious")
    before = elsewhere.stat().st_mode
    change(place, "link", "", [str(elsewhere)])
    change(place, verb, "", MORE.get(verb, []))
    assert (elsewhere.read_text(), elsewhere.stat().st_mode) == ("precious", before)


def test_recordings_and_changes_are_the_same_each_time(bases: dict[str, Base]) -> None:
    assert all_bases() == bases
    seeds = [(f"{name} {seed}", base) for seed in range(40) for name, base in bases.items()]
    made = [[changes(Random(seed), base) for seed, base in seeds] for _ in range(2)]
    assert made[0] == made[1]
    assert {change[0] for some in made[0] for change in some} == VERBS.keys()


def test_no_statement_is_a_mistake_of_ours(bases: dict[str, Base], tmp_path: Path) -> None:
    refused = set()
    for seed in range(400):
        base = bases[("history-10", "redacted")[seed % 2]]
        for verb, _, *statements in changes(Random(seed), base):
            path = tmp_path / NAME
            path.write_bytes(base.files[""])
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                for statement in statements if verb == "sql" else ():
                    try:
                        database.execute(statement).fetchall()
                    except sqlite3.Error as error:
                        refused.add(f"{error}: {statement[:200]}")
    assert [text for text in refused if any(mistake in text for mistake in MISTAKES)] == []


def test_a_log_that_is_changed_and_sealed_is_read(bases: dict[str, Base], tmp_path: Path) -> None:
    base = bases["redacted-killed"]
    log = base.files[LOG]
    nr_moments = base.nr_rows["moment"]
    assert sealed(log) == log
    assert moments_in(tmp_path, base, log) == nr_moments
    assert moments_in(tmp_path, base, b"") < nr_moments
    place, other = len(log) - 1, log[-1] ^ 0xFF
    (tmp_path / "log").write_bytes(log)
    edit_log(tmp_path / "log", place, 1, bytes((other,)).hex())
    changed = (tmp_path / "log").read_bytes()
    assert (changed[place], len(changed)) == (other, len(log))
    assert moments_in(tmp_path, base, changed) == nr_moments
    assert moments_in(tmp_path, base, log[:place] + bytes((other,))) < nr_moments

"""The largest files in the page cache, as the first screen has them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import steadily
from mematlas import Machine
from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.kernel.procfs import ProcFS
from mematlas.observe import largest_files
from mematlas.observe.frames import open_decoder
from mematlas.observe.largest_files import LATE, LOST, LargestFiles
from victim import DEADLINE, wait_until

pytestmark = pytest.mark.root("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")


@pytest.fixture
def largest() -> Iterator[LargestFiles]:
    try:
        open_decoder(ProcFS()).close()
    except NotSupported as error:
        pytest.skip(f"struct pages cannot be read: {error}")
    with LargestFiles(ProcFS(), 3) as files:
        yield files


def nr_children() -> int:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


@steadily
def test_they_are_the_first_of_the_whole_page_cache_each_time(largest: LargestFiles) -> None:
    for _ in range(2):
        largest.ask()
        found = largest.answer(DEADLINE)
        whole = Machine().cache(limit=3, details=["path"])

        assert found is not None
        assert [(file.path, file.dev, file.inode) for file in found] == [
            (file.path, file.dev, file.inode) for file in whole.files
        ]
        assert [file.resident for file in found] == pytest.approx(
            [file.resident for file in whole.files], rel=0.05
        )  # it grows meanwhile


def test_who_asks_does_not_wait_for_ever_and_has_the_answer_the_next_time(largest: LargestFiles) -> None:
    largest.ask()
    assert (largest.answer(0), largest.why) == (None, LATE)
    largest.ask()
    assert len(largest.answer(DEADLINE) or ()) == 3
    assert largest.why == ""


@pytest.mark.parametrize("is_asked", [True, False])
def test_where_the_child_has_died_it_is_said_and_nobody_is_left(is_asked: bool, largest: LargestFiles) -> None:
    before = nr_children()
    largest.ask()
    assert largest.answer(DEADLINE)
    assert largest._child
    pid = largest._child.pid
    os.kill(pid, signal.SIGSTOP)
    if is_asked:
        largest.ask()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text(), "it has died")
    if not is_asked:
        largest.ask()
    largest.answer(DEADLINE)

    assert largest.why == LOST
    assert nr_children() == before
    largest.ask()
    assert largest.answer(DEADLINE) is None
    assert nr_children() == before


def test_first_screen_has_them_and_no_more_lines_than_fit(
    largest: LargestFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(largest_files, "LEAST", DEADLINE)
    monkeypatch.setattr(largest_files, "MOST", DEADLINE)
    assert main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(told["target"]["files"]) == 3
    assert lines[1].startswith("  RAM        |")
    assert any(line.startswith("  page cache largest: ") for line in lines)
    assert len(lines) <= 22


def test_who_looks_for_them_is_no_process_that_is_shown(largest: LargestFiles) -> None:
    largest.ask()
    assert largest.answer(DEADLINE)
    (pid,) = largest.pids

    assert pid in [facts.pid for facts in Machine().census()]
    assert pid not in [facts.pid for facts in Machine().census(without=largest.pids)]
    usage = Machine().usage(limit=100_000, without=largest.pids)
    assert not {pid, os.getpid()} & {facts.pid for group in usage.groups for facts in group.members}


def test_without_rights_they_are_unknown_and_a_note_says_why(as_nobody: Callable[..., Outcome]) -> None:
    told = json.loads(as_nobody(["--json"]).stdout)

    assert told["target"]["files"] is None
    assert [note["text"] for note in told["notes"] if note["code"] == "largest-unknown"] == [
        "the largest files in the page cache are unknown: struct pages cannot be read here, or not by us"
    ]

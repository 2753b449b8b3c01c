"""What a dry run promises, the act keeps: page for page, and line for line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amounts import DROPPABLE, LAZY, PINNED, UNPINNED
from helpers import PAGE, Program, mematlas, program, skip_without_tables, texts
from mematlas import Process, Selection
from mematlas.actions.acts import act
from mematlas.actions.plans import plan
from mematlas.actions.rooms import NO_SWAP, SwapRoom
from mematlas.actions.verbs import pageout, willneed
from mematlas.cli import main
from mematlas.errors import NotSupported
from mematlas.kernel.backing import has_cachestat
from mematlas.kernel.cachestat import call_mincore
from mematlas.kernel.swaps import SwapArea
from mematlas.observe.sources import Sources
from victim import Victim

pytestmark = pytest.mark.root("CAP_SYS_ADMIN")
Start = Callable[..., Victim]


def of(target: Program, nr_pages: int) -> Selection:
    return Selection(span=(target.told, target.told + nr_pages * PAGE))


def test_what_was_given_up_is_promised_to_be_freed_without_swap() -> None:
    with program(LAZY, [101, 37, 0]) as target, Process(target.pid) as process:
        planned = plan(process, "pageout", of(target, 138), room=NO_SWAP)
        effect = act(process, planned)

    assert (planned.nr_movable, planned.nr_given_up, planned.reasons) == (101, 101, {"no swap": 37})
    assert (effect.nr_moved, effect.nr_given_up, effect.reasons) == (101, 101, {"no swap": 37})


def test_what_was_given_up_is_not_promised_to_swap(swap: Path) -> None:
    with program(LAZY, [101, 37, 0]) as target, Process(target.pid) as process:
        planned = plan(process, "pageout", of(target, 138))
        effect = act(process, planned)

    assert (planned.nr_movable, planned.nr_needs_swap, planned.nr_given_up) == (138, 37, 101)
    assert (effect.nr_moved, effect.swap, effect.nr_given_up) == (138, 37 * PAGE, 101)


def test_droppable_memory_is_promised_to_be_freed() -> None:
    with program(DROPPABLE, 53) as target:
        if target.told is None:
            pytest.skip("needs Linux 6.11: MAP_DROPPABLE")
        with Process(target.pid) as process:
            planned = plan(process, "pageout", of(target, 53), room=NO_SWAP)
            effect = act(process, planned)

    assert (planned.nr_movable, planned.nr_given_up) == (effect.nr_moved, effect.nr_given_up) == (53, 53)


def test_dry_run_says_what_was_given_up() -> None:
    with program(LAZY, [101, 37, 0]) as target:
        run = mematlas("pageout", target.pid, f"{target.told:#x}+{138 * PAGE}", "--dry-run", "--json")

    found = json.loads(run.stdout)
    assert found["rows"][0]["nr_given_up"] == 101
    assert any(note.startswith("101 pages given up by the process") for note in texts(found["notes"]))


@pytest.fixture
def pinned() -> Any:
    with program(PINNED, 67) as target:
        if target.told is None:
            pytest.skip(UNPINNED)
        yield target


def test_pinned_pages_are_not_promised(pinned: Program, swap: Path) -> None:
    with Process(pinned.pid) as process:
        skip_without_tables(process)
        planned = plan(process, "pageout", of(pinned, 134))
        effect = act(process, planned)

    assert (planned.nr_movable, planned.reasons) == (67, {"pinned": 67})
    assert (effect.nr_moved, effect.reasons) == (67, {"pinned": 67})


def test_pinned_pages_that_cannot_be_found_are_warned_of(pinned: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise NotSupported("page tables", "BPF")

    monkeypatch.setattr(Sources, "page_table_access", refuse)
    with Process(pinned.pid) as process:
        planned = plan(process, "pageout", of(pinned, 134))

    assert any(note.startswith("up to 67 pages are pinned (VmPin) and will stay") for note in texts(planned.notes))


@pytest.mark.parametrize("room", [0, 7, 61, 1000])
def test_lines_of_a_plan_add_up_to_its_total(room: int, victim: Start) -> None:
    swap = SwapRoom((SwapArea(path="/swap", kind="file", size=room * PAGE, used=0, priority=-2),), {}, None)
    target = victim("anon", "anon_full", "private_file")
    with Process(target.pid) as process:
        planned = plan(process, "pageout", room=swap)

    assert planned.nr_movable == sum(item.nr_movable for item in planned.vmas)
    assert planned.nr_needs_swap == sum(item.nr_needs_swap for item in planned.vmas) <= room
    assert all(item.nr_requested == item.nr_movable + sum(item.reasons.values()) for item in planned.vmas)
    assert planned.nr_requested == planned.nr_movable + sum(planned.reasons.values())
    assert planned.reasons.get("no swap", 0) == planned.nr_without_swap
    assert (planned.nr_without_swap > 0) == (planned.nr_needs_swap == room)


# --- willneed


@pytest.fixture
def evicted(victim: Start) -> tuple[Victim, Selection]:
    """Return a process and a file of it that was paged out, which is in the page cache no more."""
    target = victim("shared_file")
    area = target["shared_file"]
    chosen = Selection(span=(area.address, area.end))
    with open(area.path, "rb") as file:
        os.fsync(file.fileno())
        with Process(target.pid) as process:
            pageout(process, chosen)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return target, chosen


@pytest.fixture(params=["cachestat", "mincore"])
def told_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What tells which pages the page cache has: mincore does before Linux 6.5."""
    if request.param == "cachestat" and not has_cachestat():
        pytest.skip("cachestat needs Linux 6.5")
    if request.param == "mincore":

        def lack(*args: object) -> None:
            raise NotSupported("cachestat", "Linux 6.5")

        monkeypatch.setattr("mematlas.kernel.backing.cachestat_counts", lack)
    return str(request.param)


@pytest.mark.usefixtures("way_back")
def test_pages_that_are_still_being_read_are_not_said_to_be_in_ram(
    evicted: tuple[Victim, Selection], told_by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, chosen = evicted
    assert chosen.span
    ask = call_mincore

    def slow_disk(fd: int, offset: int, size: int, page_size: int) -> bytes:
        return bytes((0,)) * 3 + ask(fd, offset, size, page_size)[3:]

    monkeypatch.setattr("mematlas.kernel.backing.call_mincore", slow_disk)
    assert main(["willneed", str(target.pid), f"{chosen.span[0]:#x}-{chosen.span[1]:#x}"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()

    if told_by == "mincore":  # which tells of a page that waits for the disk what it tells of one that is out
        (unread,) = (line.split() for line in lines if line.startswith("  unread"))
        assert int(unread[1]) >= 3
        return
    assert not head.endswith("/s)")
    assert any(line.endswith("in RAM, or being read") for line in lines)
    (reading,) = (line.split() for line in lines if line.startswith("  reading"))
    assert int(reading[1]) >= 1


@pytest.mark.usefixtures("way_back")
def test_what_is_read_is_in_ram_as_mincore_has_it(evicted: tuple[Victim, Selection]) -> None:
    target, chosen = evicted
    with Process(target.pid) as process:
        effect = willneed(process, chosen)

    assert effect.nr_moved > 0
    assert effect.nr_reading is not None
    assert 0 <= effect.nr_reading <= effect.nr_moved


@pytest.mark.usefixtures("way_back")
def test_who_may_not_ask_says_so(
    evicted: tuple[Victim, Selection], told_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, chosen = evicted
    monkeypatch.setattr("mematlas.kernel.backing.may_see", lambda fd: False)
    with Process(target.pid) as process:
        effect = willneed(process, chosen)

    if told_by == "cachestat":
        assert effect.nr_reading is None
    else:
        # Nor does anything tell what the page cache has: no page is said to have come in.
        assert (effect.nr_moved, effect.nr_reading) == (0, 0)
        assert any("mincore: permission denied" in note for note in texts(effect.notes))

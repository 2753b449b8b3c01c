"""Where pages can go: read once, and of a capture what its own machine had."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mematlas.actions import rooms
from mematlas.actions.rooms import NO_LIMIT, MemoryRoom, SwapRoom, read_memory_room, read_swap_room
from mematlas.kernel.memcg import Room
from mematlas.kernel.procfs import ProcessDir, ProcFS
from mematlas.kernel.swaps import SwapArea

MIB = 1 << 20
SWAPS = "Filename Type Size Used Priority\n/dev/zram0 partition 65536 16384 100\n/swap file 1024 0 -2\n"
AREAS = (
    SwapArea(path="/dev/zram0", kind="partition", size=64 * MIB, used=16 * MIB, priority=100),
    SwapArea(path="/swap", kind="file", size=MIB, used=0, priority=-2),
)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[ProcessDir]:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) S 1 1 1 0 -1 0 " + "0 " * 43 + "\n")
    (tmp_path / "machine.json").write_text(json.dumps({"page_size": 4096}))
    with ProcFS(str(tmp_path)).process(7) as process:
        yield process


def test_a_capture_has_the_swap_of_its_machine_and_no_limits_of_ours(captured: ProcessDir, tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text(SWAPS)
    assert read_swap_room(captured) == SwapRoom(AREAS, {}, None)
    assert read_memory_room(captured) == MemoryRoom(NO_LIMIT, "no memory")


def test_without_the_file_of_swaps_there_is_none(captured: ProcessDir) -> None:
    room = read_swap_room(captured)
    assert (room.areas, room.size, room.lacking) == ((), 0, "no swap")


@pytest.mark.parametrize(
    ("allowed", "size", "lacking"),
    [(None, 49 * MIB, "no swap"), (50 * MIB, 49 * MIB, "no swap"), (7 * MIB, 7 * MIB, "cgroup"), (0, 0, "cgroup")],
)
def test_the_narrower_limit_holds_and_is_named(allowed: int | None, size: int, lacking: str) -> None:
    room = SwapRoom(AREAS, {}, allowed)
    assert (room.size, room.lacking) == (size, lacking)


def test_more_swap_is_more_room_as_far_as_the_cgroup_allows() -> None:
    assert SwapRoom((), {}, None).with_more(8 * MIB).size == 8 * MIB
    assert SwapRoom((), {}, 3 * MIB).with_more(8 * MIB).size == 3 * MIB
    assert SwapRoom((), {}, None).with_more(0) == SwapRoom((), {}, None)


def test_some_memory_is_spared_and_what_limits_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "read_meminfo", lambda procfs: {"MemAvailable": 1024 * MIB})
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with ProcFS().process(os.getpid()) as process:
        page_size = process.procfs.page_size
        monkeypatch.setattr(rooms, "read_room", lambda process: Room(None, None))
        assert read_memory_room(process) == MemoryRoom(896 * MIB // page_size, "no memory")
        monkeypatch.setattr(rooms, "read_room", lambda process: Room(64 * MIB, None))
        assert read_memory_room(process) == MemoryRoom(56 * MIB // page_size, "cgroup")

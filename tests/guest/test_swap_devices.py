"""Swap on zram and on a loop device: slots by area, as pagemap and /proc/swaps name them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import libc, write_swap_header
from helpers import sparse, texts
from inside import Facts
from mematlas import Process
from mematlas.cli import main
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.swaps import read_swaps
from victim import Victim

pytestmark = pytest.mark.guest

SIZE = 64 << 20
LOOP_SET_FD, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C00, 0x4C01, 0x4C82  # include/uapi/linux/loop.h


@contextlib.contextmanager
def swapped_on(device: str) -> Iterator[str]:
    """Swap to a device. Those that come later have a lower priority."""
    with open(device, "r+b") as file:
        write_swap_header(file, SIZE)
    if libc.swapon(device.encode(), 0):
        raise OSError(ctypes.get_errno(), f"swapon {device}")
    try:
        yield device
    finally:
        assert libc.swapoff(device.encode()) == 0


@contextlib.contextmanager
def zram() -> Iterator[str]:
    Path("/sys/block/zram0/disksize").write_text(str(SIZE))
    try:
        with swapped_on("/dev/zram0") as device:
            yield device
    finally:
        Path("/sys/block/zram0/reset").write_text("1")


@contextlib.contextmanager
def loop() -> Iterator[str]:
    with open("/dev/shm/swap", "w+b") as backing, open("/dev/loop-control", "rb") as control:
        backing.truncate(SIZE)
        device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        with open(device, "r+b") as file:
            fcntl.ioctl(file, LOOP_SET_FD, backing.fileno())
            try:
                with swapped_on(device):
                    yield device
            finally:
                fcntl.ioctl(file, LOOP_CLR_FD, 0)
    os.unlink("/dev/shm/swap")


def read_rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


@pytest.mark.parametrize("make", [zram, loop])
def test_swapped_pages_name_their_area_and_slot(
    make: Callable[[], contextlib.AbstractContextManager[str]], victim: Callable[..., Victim]
) -> None:
    with make() as device:
        areas = [area.path for area in read_swaps(ProcFS())]
        assert areas == [device]
        target = victim("swapped")
        area = target["swapped"]
        with target.stopped(), Process(target.pid) as process:
            places = process.translate(area.page_address(page) for page in range(area.nr_pages))
            slots = [place.swap_offset for place in places if place.state == "swapped"]
            assert {place.swap_type for place in places if place.state == "swapped"} == {0}
            assert len(set(slots)) == len(slots) == area.nr_swapped > 0
            assert all(slot is not None and 0 < slot < SIZE // area.page_size for slot in slots)
            usage = process.usage("pagemap").usage
            told = read_rollup(target.pid)
            assert (usage.rss, usage.swap) == (told["Rss"], told["Swap"])
            assert usage.uss == told["Private_Clean"] + told["Private_Dirty"]
        target.close()


@pytest.mark.parametrize("make", [zram, loop])
def test_pageout_moves_and_willneed_brings_back(
    make: Callable[[], contextlib.AbstractContextManager[str]],
    victim: Callable[..., Victim],
    capsys: pytest.CaptureFixture[str],
    facts: Facts,
) -> None:
    def say(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    with make() as device:
        target = victim("anon_full", "shared_anon")
        area = target["anon_full"]
        place = f"{area.address:#x}-{area.end:#x}"
        planned = say("pageout", target.pid, place, "--dry-run")
        assert planned["rows"][0]["nr_movable"] == area.nr_pages
        assert [note for note in texts(planned["notes"]) if note.startswith(f"swap: {device}, ")]
        moved = say("pageout", target.pid, place)["rows"][0]
        assert (moved["nr_moved"], moved["swap"]) == (area.nr_pages, area.size)
        told = read_rollup(target.pid)
        with Process(target.pid) as process:
            assert process.usage("pagemap").usage.swap == told["Swap"] >= area.size
        if facts.has_tables:
            rows = say("tables", target.pid, "--list", "--flags", "swap", "--range", place)["rows"]
            with open(f"/proc/{target.pid}/pagemap", "rb") as file:
                words = memoryview(os.pread(file.fileno(), 8 * area.nr_pages, area.address >> 9)).cast("Q")
            slots = [(row["swap_type"], int(row["swap_offset"], 16)) for row in rows]
            assert slots == [(word & 31, word >> 5 & (1 << 50) - 1) for word in words]
        # What zram holds: it says how well that packs, once there is enough to tell by.
        with sparse(512 * area.page_size, range(509)) as more:
            say("pageout", more.pid, f"{more.told:#x}-{more.told + 512 * area.page_size:#x}")
            again = say("pageout", target.pid, f"{target['shared_anon'].address:#x}", "--dry-run")
        packs = [note for note in texts(again["notes"]) if note.endswith(":1 so far")]
        assert len(packs) == (make is zram)
        if facts.is_before("6.1"):
            assert main(["willneed", str(target.pid), place]) == 5
            assert "needs Linux 5.15" in capsys.readouterr().err
            target.close()
            return
        back = say("willneed", target.pid, place)["rows"][0]
        assert (back["nr_moved"], back["nr_stayed"]) == (area.nr_pages, 0)
        target.close()


def test_the_second_area_is_of_type_1(victim: Callable[..., Victim]) -> None:
    with zram(), loop() as second:
        # Into the first until it is switched off, so what is moved after that is in the second.
        assert [area.path for area in read_swaps(ProcFS())] == ["/dev/zram0", second]
        before, after = victim("anon_full"), victim("anon_full")
        for target, device in ((before, "/dev/zram0"), (after, second)):
            area = target["anon_full"]
            if device == second:
                assert libc.swapoff(b"/dev/zram0") == 0
            target.pageout("anon_full")
            with target.stopped(), Process(target.pid) as process:
                found = process.translate(map(area.page_address, range(area.nr_pages)))
                kinds = {place.swap_type for place in found if place.state == "swapped"}
            assert kinds == {0 if device == "/dev/zram0" else 1}
        assert libc.swapon(b"/dev/zram0", 0) == 0
        before.close()
        after.close()

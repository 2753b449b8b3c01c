"""Swap on zram and on a loop device: slots by area, as pagemap and /proc/swaps name them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import libc, write_swap_header
from mematlas import Process
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.swaps import read_swaps
from victim import Victim

pytestmark = pytest.mark.guest

SIZE = 64 << 20
LOOP_SET_FD, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C00, 0x4C01, 0x4C82  # include/uapi/linux/loop.h


@contextlib.contextmanager
def swapped_on(device: str) -> Iterator[str]:
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

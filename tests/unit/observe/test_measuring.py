"""Slots of swap, as parts of the areas that forks have in common: in whatever order the kernel gave them out."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Iterator
from typing import NoReturn

import pytest

from mematlas.errors import NotSupported
from mematlas.kernel.maps import parse_maps, read_maps
from mematlas.kernel.pagemap import Pagemap
from mematlas.kernel.procfs import ProcFS
from mematlas.observe import measuring
from mematlas.observe.measuring import MOST_PIECES, SWAP_AREA, slots_of

PAGE = os.sysconf("SC_PAGESIZE")
VMAS = parse_maps([b"7f1000000000-7f1008000000 rw-p 00000000 00:00 0"])
NR_SLOTS = 7919


def parts(slots: list[int], monkeypatch: pytest.MonkeyPatch) -> measuring.Parts | None:
    def told(*_: object) -> Iterator[tuple[int, int]]:
        return ((1, slot) for slot in slots)

    monkeypatch.setattr(measuring, "slots_in", told)
    with ProcFS().process(os.getpid()) as process:
        return slots_of(process, VMAS)


def test_parts_that_are_touched_are_told_without_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise NotSupported("PAGEMAP_SCAN")

    with mmap.mmap(-1, 9973 * PAGE) as area, ProcFS().process(os.getpid()) as process:
        for first, last in ((0, 3), (7, 8), (8190, 8200), (9972, 9973)):
            area[first * PAGE : last * PAGE] = b"x" * ((last - first) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        (vma,) = (vma for vma in read_maps(process) if vma.start <= start < vma.end)
        monkeypatch.setattr(Pagemap, "scanner", property(refuse))
        told = measuring.present_parts(process, vma)
        monkeypatch.setattr(measuring, "MOST_BY_ENTRIES", vma.size - 1)
        nothing = measuring.present_parts(process, vma)

    move = start - vma.start + vma.offset
    pages = [((low - move) // PAGE, (high - move) // PAGE) for _, _, low, high, _ in told]
    assert pages == [(0, 3), (7, 8), (8190, 8200), (9972, 9973)]
    assert nothing == []


@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_slots_that_lie_side_by_side_are_one_part(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = list(range(3, 3 + NR_SLOTS))
    if order == "down":
        slots.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(slots)

    assert parts(slots, monkeypatch) == ((SWAP_AREA, 1, 3 * PAGE, (3 + NR_SLOTS) * PAGE, NR_SLOTS * PAGE),)


def test_many_loose_slots_take_little_memory_and_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MOST_LOOSE", 64)
    assert parts(list(range(3 + NR_SLOTS, 3, -1)), monkeypatch) == (
        (SWAP_AREA, 1, 4 * PAGE, (4 + NR_SLOTS) * PAGE, NR_SLOTS * PAGE),
    )


@pytest.mark.parametrize("slots", [list(range(1, 2 * MOST_PIECES + 3, 2)), [0, 1, 2]], ids=["in pieces", "hidden"])
def test_slots_in_too_many_pieces_or_hidden_are_not_told(slots: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts(slots, monkeypatch) is None

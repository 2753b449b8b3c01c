"""What every frame of RAM is: huge pages of both sizes, with and without their struct pages (HVO), merged pages, memory
that is offline. By struct pages where they can be read, else by the kernel's own files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PAGE, program
from inside import Facts
from mematlas import Frames, FramesResult
from mematlas.kernel.kpage import tells_ksm
from mematlas.kernel.procfs import ProcFS

pytestmark = pytest.mark.guest

GIB, MIB2 = 1 << 30, 2 << 20
SYS = Path("/sys/kernel/mm")
POOL = SYS / "hugepages" / "hugepages-2048kB" / "nr_hugepages"
HVO = Path("/proc/sys/vm/hugetlb_optimize_vmemmap")
BLOCKS = Path("/sys/devices/system/memory")
NR_MERGED = 1009
DEADLINE = 120.0

ALIKE = f"""
import json, mmap, sys
area = mmap.mmap(-1, {NR_MERGED} * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
area.madvise(mmap.MADV_MERGEABLE)
area[:] = b"alike" * (len(area) // 5) + b"x" * (len(area) % 5)
print(json.dumps(1), flush=True)
"""


@pytest.fixture
def frames(facts: Facts) -> Iterator[Frames]:
    with Frames(ProcFS()) as frames:
        expects_structs = facts.has_tables and facts.kernel in ("6.12", "7", "own")
        assert (frames.source == "struct pages") == expects_structs
        yield frames


def size_of(result: FramesResult, kind: str) -> int:
    return sum(use.size for use in result.uses if use.kind == kind)


def disagreements(frames: Frames) -> list[str]:
    """Return what is not as meminfo and kpageflags have it; of another moment if need be: others use memory too."""
    for _ in range(3):
        check = frames.check()
        wrong = [balance.name for balance in check.balances if not balance.explained]
        if (agreement := check.agreement) and agreement.nr_kinds_differ + agreement.nr_states_differ:
            wrong.append(repr(agreement))
        if not wrong:
            break
    return wrong


@contextlib.contextmanager
def written(path: Path, value: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def test_every_frame_is_what_the_kernels_own_files_say(frames: Frames) -> None:
    assert disagreements(frames) == []
    result = frames.look()
    assert sum(use.nr_pages for use in result.uses) == result.nr_frames


@pytest.mark.parametrize("hvo", ["0", "1"])
def test_huge_pages_of_a_pool_are_all_of_it(frames: Frames, facts: Facts, hvo: str) -> None:
    before = size_of(frames.look(), "hugetlb")
    # Linux 6.12.117 calls pages bad that come back from such a pool ("Bad page state"), and leaves them as they are.
    has_hvo = HVO.exists() and facts.kernel == "7"
    with written(HVO, hvo) if has_hvo else contextlib.nullcontext(), written(POOL, "7"):
        nr = int(POOL.read_text())
        assert nr > 0
        result = frames.look("order")
        huge = {group.order: group.uses["hugetlb"] for group in result.groups if group.uses["hugetlb"]}
        assert sum(huge.values()) == before + nr * MIB2
        assert huge[(MIB2 // PAGE).bit_length() - 1] == nr * MIB2
        assert disagreements(frames) == []


def test_merged_pages_are_one(frames: Frames) -> None:
    with written(SYS / "ksm" / "pages_to_scan", "4000"), written(SYS / "ksm" / "run", "1"), program(ALIKE):
        end = time.monotonic() + DEADLINE
        while int((SYS / "ksm" / "pages_sharing").read_text()) < NR_MERGED // 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        merged = [use for use in frames.look().uses if use.kind == "ksm"]
        if frames.source == "struct pages" or tells_ksm(ProcFS()):
            (use,) = merged
            assert use.shared
            assert use.nr_pages < NR_MERGED // 2
        else:
            assert merged == []  # kpageflags of Linux 6.12 has the flag on all anonymous memory
        assert disagreements(frames) == []


def test_memory_that_is_switched_off_is_offline(frames: Frames) -> None:
    size = int((BLOCKS / "block_size_bytes").read_text(), 16)
    before = frames.look()
    states = sorted(BLOCKS.glob("memory[0-9]*/state"), key=lambda path: -int(path.parent.name[6:]))
    for state in states:
        try:
            state.write_text("offline")
        except OSError:
            continue  # something in it cannot be moved
        break
    else:
        # arm64 keeps what it was booted with (arch/arm64/mm/mmu.c, prevent_bootmem_remove_notifier()).
        pytest.skip("needs memory that can be switched off")
    try:
        with Frames(ProcFS()) as again:
            result = again.look()
            assert size_of(result, "offline") == size_of(before, "offline") + size
            assert result.nr_frames == before.nr_frames
            assert disagreements(again) == []
    finally:
        state.write_text("online")

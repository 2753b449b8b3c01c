"""Which pages are the coldest: by the idle page bitmap where there is one, by the flags of frames, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import texts
from inside import Facts
from mematlas import Process
from mematlas.cli import main
from mematlas.kernel.madvise import drain_batches
from mematlas.kernel.page_idle import BITMAP, LRU_GEN, idle_frames, is_multigen
from test_swap_devices import zram
from victim import Area, Victim

pytestmark = pytest.mark.guest

NR_PAGES = 97
USED = (*range(10), 40, 41, 42, 96)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=["ordinary", "multi-gen"])
def lru(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have the kernel sort its pages in this way."""
    path = Path(LRU_GEN)
    if not path.exists() and request.param == "ordinary":
        yield request.param
        return
    if not path.exists():
        pytest.skip("a multi-gen LRU needs Linux 6.1")
    before = path.read_text()
    path.write_text("y" if request.param == "multi-gen" else "n")
    assert is_multigen() == (request.param == "multi-gen")
    yield request.param
    path.write_text(before)


def words(area: Area, *more: object) -> list[str]:
    return ["pageout", str(area.pid), f"{area.address:#x}-{area.end:#x}", *map(str, more)]


def frames_of(area: Area) -> list[int]:
    with open(f"/proc/{area.pid}/pagemap", "rb", buffering=0) as file:
        data = os.pread(file.fileno(), 8 * area.nr_pages, area.address >> 9)
    return [entry & (1 << 55) - 1 for entry in memoryview(data).cast("Q")]


def mark_idle(frames: list[int]) -> None:
    """Mark frames idle; bits that are 0 leave the other frames of their word alone."""
    # A page that waits in a processor's batch is on no list, and cannot be marked.
    drain_batches()
    with open(BITMAP, "r+b", buffering=0) as file:
        for frame in frames:
            assert os.pwrite(file.fileno(), (1 << frame % 64).to_bytes(8, "little"), frame // 64 * 8) == 8


def moved_pages(area: Area) -> list[int]:
    with Process(area.pid) as process:
        states = [found.state for found in process.translate(map(area.page_address, range(area.nr_pages)))]
    return [page for page, state in enumerate(states) if state == "swapped"]


def read_by_the_kernel(area: Area, pages: tuple[int, ...]) -> None:
    """Have the kernel note an access: reading another's memory counts, as folio_mark_accessed()."""
    with open(f"/proc/{area.pid}/mem", "rb", buffering=0) as memory:
        for page in pages:
            os.pread(memory.fileno(), 1, area.page_address(page))


def test_there_is_a_bitmap_in_the_own_kernel_alone(facts: Facts) -> None:
    assert os.path.exists(BITMAP) == (facts.kernel == "own")


def test_idle_pages_go_first(lru: str, facts: Facts, victim: Callable[..., Victim], capsys: Capture) -> None:
    if facts.kernel != "own":
        pytest.skip("needs CONFIG_IDLE_PAGE_TRACKING")
    with zram():
        target = victim("anon_full")
        area = target["anon_full"]
        frames = frames_of(area)
        mark_idle(frames)
        assert idle_frames(frames) == set(frames)
        for page in USED:
            target.touch("anon_full", page)
        idle = [page for page in range(NR_PAGES) if page not in USED]
        assert idle_frames(frames) == {frames[page] for page in idle}
        assert main(words(area, "--coldest", 50, "--json")) == 0
        told = json.loads(capsys.readouterr().out)
        (note,) = (note for note in texts(told["notes"]) if note.startswith("the coldest"))
        assert note.startswith(
            f"the coldest 50 of {NR_PAGES} pages, by the idle page bitmap, then kpageflags (83 idle,"
        )
        assert moved_pages(area) == idle[:50]
        target.close()


def test_flags_of_frames_tell_only_without_generations(
    lru: str, facts: Facts, victim: Callable[..., Victim], capsys: Capture
) -> None:
    with zram():
        target = victim("anon_full")
        area = target["anon_full"]
        read_by_the_kernel(area, USED)
        code = main(words(area, "--coldest", f"{50 * area.page_size // 1024}K", "--json"))
        out, err = capsys.readouterr()
        if lru == "multi-gen":
            assert code == 5
            assert "the multi-gen LRU does not expose its generations" in err
            assert moved_pages(area) == []
        else:
            assert code == 0
            assert ", by kpageflags (" in out
            assert moved_pages(area) == [page for page in range(NR_PAGES) if page not in USED][:50]
        # Whoever wants all of them needs no order.
        assert main(words(area, "--coldest", NR_PAGES, "--json")) == 0
        target.close()

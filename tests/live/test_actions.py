"""Acts on processes of our own, held to the pages themselves, to smaps, and to what the process still holds."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from conftest import Outcome
from helpers import Program, program, sparse, tells_huge_pages, texts
from mematlas.actions.acts import act, chunks
from mematlas.actions.advice import ADVICE
from mematlas.actions.effects import Effect
from mematlas.actions.options import Options
from mematlas.actions.plans import plan
from mematlas.actions.refaults import watch_refaults
from mematlas.actions.refusals import check_target
from mematlas.actions.rooms import NO_SWAP, SwapRoom
from mematlas.actions.swap_cache import free_frames
from mematlas.actions.verbs import cold, collapse, pageout, undo, willneed
from mematlas.analysis.movable import REASONS, Choice, Rules, parse_states
from mematlas.errors import BadInput, NotSupported, PermissionDenied, ProcessGone, TargetRefused
from mematlas.kernel.directory import LiveFile
from mematlas.kernel.madvise import MADV_COLLAPSE, takes
from mematlas.kernel.pagemap import PRESENT
from mematlas.kernel.procfs import ProcessDir
from mematlas.kernel.smaps import read_vm_flags
from mematlas.kernel.status import read_faults, read_status
from mematlas.kernel.swapfile import TemporarySwap
from mematlas.kernel.swaps import SwapArea, read_swaps
from mematlas.model.address_space import Selection
from mematlas.model.page_set import PageSet
from mematlas.observe.process import Process
from victim import Area, Victim, wait_until

if TYPE_CHECKING:
    from mematlas.kernel.madvise import AdviceName

pytestmark = pytest.mark.root("CAP_SYS_NICE", "CAP_SYS_ADMIN")

PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20
MANY = 5003
"""Pages of a large victim: 19.5 MiB, ten calls."""

SCRIPTED = """
import ctypes, json, mmap, os, sys
nr_pages, PAGE = json.loads(sys.argv[1]), mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
pointer, size_of = ctypes.c_void_p, ctypes.c_size_t
libc.mmap.restype = pointer
# Where a block of entries begins, so that blocks fall the same way each time; with MAP_FIXED_NOREPLACE.
address = libc.mmap(pointer(1 << 40), size_of(nr_pages * PAGE), 3, 0x100022, -1, ctypes.c_long(0))
assert address == 1 << 40
libc.madvise(pointer(address), size_of(nr_pages * PAGE), 15)
area = memoryview((ctypes.c_char * (nr_pages * PAGE)).from_address(address)).cast("B")
for page in range(nr_pages):
    area[page * PAGE:page * PAGE + 8] = page.to_bytes(8, "little")
print(json.dumps(address), flush=True)
"""
OBEY = """
for line in sys.stdin:
    word, *numbers = line.split()
    first, count = (numbers + [0, nr_pages])[:2] if not numbers else map(int, numbers)
    start, size = pointer(address + first * PAGE), size_of(count * PAGE)
    if word == "exec":
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "print('exec', flush=True); input()"])
    code = {
        "unmap": lambda: libc.munmap(start, size),
        "lock": lambda: libc.mlock(start, size),
        "lockall": lambda: libc.mlockall(3),
        "protect": lambda: libc.mprotect(start, size, 1),
        "renew": lambda: libc.madvise(start, size, 4) or [
            area.__setitem__(slice(page * PAGE, page * PAGE + 8), page.to_bytes(8, "little"))
            for page in range(first, first + count)
        ] and 0,
        # MAP_FIXED | MAP_ANONYMOUS | MAP_SHARED
        "share": lambda: libc.mmap(start, size, 3, 0x31, -1, ctypes.c_long(0)) - start.value,
        "drop": lambda: libc.madvise(start, size, 4),
        "free": lambda: libc.madvise(start, size, 8),
        "touch": lambda: [area.__setitem__(page * PAGE + 9, 1) for page in range(first, first + count)] and 0,
        "check": lambda: sum(
            area[page * PAGE:page * PAGE + 8] != page.to_bytes(8, "little") for page in range(first, first + count)
        ),
    }[word]()
    print(code, flush=True)
"""


HUGE = """
import ctypes, json, mmap, sys
nr_huge, nr_less, is_small = json.loads(sys.argv[1])
huge = mmap.PAGESIZE ** 2 // 8
libc = ctypes.CDLL(None, use_errno=True)
pointer, size_of = ctypes.c_void_p, ctypes.c_size_t
libc.mmap.restype = pointer
start = -(-libc.mmap(None, size_of((nr_huge + 1) * huge), 3, 0x22, -1, ctypes.c_long(0)) // huge) * huge
address, size = start + nr_less * mmap.PAGESIZE, nr_huge * huge - nr_less * mmap.PAGESIZE
libc.munmap(pointer(start), size_of(address - start))
libc.madvise(pointer(address), size_of(size), 15 if is_small else 14)
ctypes.memset(address, 1, size)
libc.madvise(pointer(address), size_of(size), 14)
print(json.dumps([address, size]), flush=True)
"""
"""Maps huge pages but for some small ones at the beginning, with huge entries or with small ones; tells where."""


@contextmanager
def scripted(nr_pages: int = MANY) -> Iterator[Program]:
    """Run a program that holds pages with known contents, and does as it is told."""
    with program(SCRIPTED, nr_pages, wait=OBEY) as running:
        yield running


def tell(running: Program, line: str) -> str:
    """Have the scripted program do something; return its answer."""
    assert running.process.stdin
    assert running.process.stdout
    running.process.stdin.write(line + "\n")
    running.process.stdin.flush()
    return running.process.stdout.readline().strip()


def at(area: Area) -> Selection:
    """Return the selection of one area of a victim."""
    return Selection(span=(area.address, area.end))


def of(running: Program, nr_pages: int = MANY) -> Selection:
    """Return the selection of the memory of a scripted program."""
    return Selection(span=(running.told, running.told + nr_pages * PAGE))


def smaps_field(pid: int, address: int, name: str) -> int:
    """Return a field of smaps in pages, of the VMA that begins at an address."""
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = int(line.split("-", 1)[0], 16) == address
        elif ours and line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 // PAGE
    raise AssertionError(f"no {name} at {address:#x}")


def is_whole(effect: Effect) -> None:
    """Check that every page asked for is accounted for, once."""
    assert effect.nr_stayed == sum(effect.reasons.values())
    assert set(effect.reasons) <= set(REASONS)
    assert effect.nr_moved == sum(item.nr_moved for item in effect.vmas)
    assert effect.advice == "cold" or effect.moved.nr_pages == effect.nr_moved


# --- what moves


@pytest.mark.parametrize("kind", ["anon", "anon_full", "zero", "guard", "shared_anon", "tmpfs", "memfd", "thp"])
def test_what_a_process_has_alone_is_paged_out(victim: Callable[..., Victim], swap: Path, kind: str) -> None:
    one = victim(kind)
    area = one[kind]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
    is_whole(effect)
    assert effect.nr_moved == area.nr_resident
    assert effect.swap == area.nr_resident * PAGE
    assert effect.reasons == {
        key: number for key, number in (("zero", area.nr_zero), ("guard", area.nr_guard)) if number
    }
    assert effect.swap_cached is not None
    assert 0 <= effect.swap_cached <= effect.swap
    assert effect.nr_freed == effect.nr_moved - effect.swap_cached // PAGE
    assert smaps_field(one.pid, area.address, "Rss") == 0


@pytest.mark.usefixtures("way_back")
def test_contents_survive_the_way_out_and_back(swap: Path) -> None:
    with scripted() as running, Process(running.pid) as process:
        effect = pageout(process, of(running))
        assert effect.nr_moved == MANY
        assert smaps_field(running.pid, running.told, "Swap") == MANY
        back = undo(process, effect)
        assert back.nr_moved == back.nr_requested == MANY
        assert smaps_field(running.pid, running.told, "Rss") == MANY
        assert tell(running, "check") == "0"


def nr_major_faults(running: Program) -> int:
    with Process(running.pid) as process:
        return read_faults(process.dir).major


@pytest.mark.usefixtures("way_back")
def test_freed_pages_are_clean_out_of_ram_and_come_back_from_swap(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009), free=True)
        is_whole(effect)
        assert effect.nr_moved == 1009
        assert smaps_field(running.pid, running.told, "Swap") == 1009
        assert effect.freed is not None
        assert effect.freed.nr_freed == effect.freed.nr_kept
        assert (effect.swap, effect.swap_cached, effect.nr_freed) == (1009 * PAGE, 0, 1009)
        before = nr_major_faults(running)
        assert tell(running, "check") == "0"
        if effect.freed.nr_kept:  # compressed swap in RAM keeps nothing
            assert nr_major_faults(running) > before


def test_what_the_swap_cache_keeps_is_counted_page_by_page(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = act(process, plan(process, "pageout", of(running, 1009)), Options(exact=True))
        assert effect.kept is not None
        assert effect.swap_cached == effect.kept.nr_pages * PAGE
        before = nr_major_faults(running)
        assert tell(running, "check") == "0"
        # What is in the swap cache comes back without reading.
        assert nr_major_faults(running) - before <= 1009 - effect.kept.nr_pages


@pytest.mark.usefixtures("way_back")
def test_shared_memory_cannot_be_freed_by_reading_it(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("shared_anon")
    area = one["shared_anon"]
    with Process(one.pid) as process:
        effect = pageout(process, at(area), free=True)
    assert effect.freed is not None
    assert effect.nr_moved == area.nr_resident
    assert effect.freed.nr_freed == 0
    assert any("shared memory stay" in note for note in texts(effect.notes)) == bool(effect.freed.nr_kept)


@pytest.mark.usefixtures("way_back")
def test_freeing_stops_when_asked_and_leaves_out_what_it_brought_back(swap: Path) -> None:
    calls = []

    def stop() -> bool:
        calls.append(0)
        return len(calls) > nr_calls

    with scripted() as running, Process(running.pid) as process:
        effect = act(process, plan(process, "pageout", of(running)), Options(exact=True))
        nr_calls = 4
        freed = free_frames(process, effect, Options(stop=stop))
        is_whole(freed)
        assert freed.stopped == "interrupted"
        assert smaps_field(running.pid, running.told, "Swap") == freed.nr_moved
        assert tell(running, "check") == "0"


@pytest.mark.usefixtures("way_back")
def test_process_that_ends_before_it_is_freed_keeps_its_report(swap: Path) -> None:
    with scripted(23) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 23))
        running.kill()
        freed = free_frames(process, effect)
    assert freed.gone
    assert freed.nr_moved == effect.nr_moved


def test_pages_of_another_processors_batch_move_in_a_later_pass(swap: Path) -> None:
    passes = set()
    for _ in range(5):
        with scripted(1009) as running, Process(running.pid) as process:
            tell(running, "touch")
            effect = pageout(process, of(running, 1009))
            assert effect.nr_moved == 1009
            passes.add(effect.passes)
    assert max(passes) <= 3


def test_one_pass_is_all_that_one_pass_does(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009), passes=1)
    is_whole(effect)
    assert effect.passes == 1
    assert set(effect.reasons) <= {"busy"}


@pytest.mark.usefixtures("way_back")
@pytest.mark.parametrize("kind", ["anon_full", "shared_anon", "tmpfs"])
def test_undo_brings_back_what_moved(victim: Callable[..., Victim], swap: Path, kind: str) -> None:
    one = victim(kind)
    area = one[kind]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
        back = undo(process, effect)
    assert back.nr_requested == effect.nr_moved
    assert back.nr_moved == effect.nr_moved
    assert smaps_field(one.pid, area.address, "Rss") == area.nr_resident


@pytest.mark.usefixtures("way_back")
def test_undo_leaves_alone_what_this_run_did_not_move(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("swapped")  # 53 pages of 73 are out already
    area = one["swapped"]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
        assert effect.nr_moved == area.nr_present == 20
        undo(process, effect)
    assert smaps_field(one.pid, area.address, "Swap") == area.nr_swapped == 53


@pytest.mark.usefixtures("way_back")
def test_advice_alone_leaves_pages_in_the_swap_cache(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("swapped")
    area = one["swapped"]
    with Process(one.pid) as process:
        effect = willneed(process, at(area), touch=False)
        assert (effect.nr_moved, effect.reasons) == (0, {"untouched": area.nr_swapped})
        effect = willneed(process, at(area))
    assert effect.nr_moved == area.nr_swapped


@pytest.mark.usefixtures("way_back")
def test_shared_memory_that_may_not_be_asked_about_is_not_found_and_comes_back(
    victim: Callable[..., Victim], swap: Path, as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("shared_anon", uid=65534)
    area = one["shared_anon"]

    def work() -> object:
        with Process(one.pid) as process:
            effect = pageout(process, at(area))
            is_whole(effect)
            back = undo(process, effect)
        told = [note for note in texts(effect.notes) if "cannot tell" in note]
        return effect.nr_moved, effect.swap, effect.swap_cached, effect.nr_freed, len(told), back.nr_moved

    moved, *unknown, nr_notes, back = as_nobody(work, caps=["CAP_SYS_NICE"]).value
    assert moved == back == area.nr_resident
    assert unknown == [None, None, None]
    assert nr_notes == 1
    assert smaps_field(one.pid, area.address, "Rss") == area.nr_resident


@pytest.mark.usefixtures("way_back")
def test_private_memory_in_swap_is_found_without_the_right_to_see_frames(
    victim: Callable[..., Victim], swap: Path, as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("anon_full", uid=65534)
    area = one["anon_full"]

    def work() -> object:
        with Process(one.pid) as process:
            effect = pageout(process, at(area), free=True)
        return effect.nr_moved, effect.swap, effect.swap_cached, effect.freed and effect.freed.nr_freed

    assert as_nobody(work, caps=["CAP_SYS_NICE"]).value == (area.nr_pages, area.nr_pages * PAGE, None, None)


def test_large_folios_shared_in_part_are_reported_or_said_to_be_hidden(as_nobody: Callable[..., Outcome]) -> None:
    """Ours of which pages that a child maps too lie beside pages of our own."""

    def work() -> object:
        with shared_in_part() as span, Process(os.getpid()) as process:
            planned = plan(process, "pageout", Selection(span=span))
        return planned.reasons["shared"], [note for note in texts(planned.notes) if "large folio" in note]

    nr_shared, (note,) = as_nobody(work).value
    assert nr_shared == 38
    assert "CAP_SYS_ADMIN" in note
    (note,) = as_nobody(work, caps=["CAP_SYS_ADMIN"]).value[1]
    assert "kpageflags" in note
    assert as_nobody(work, caps=["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]).value == (38, [])


@contextmanager
def shared_in_part() -> Iterator[tuple[int, int]]:
    """Yield the addresses of 61 small pages, of which a child maps 38."""
    with mmap.mmap(-1, 61 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        area[:] = bytes(range(61)) * PAGE
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        try:
            for page in range(23):
                area[page * PAGE] = 1
            pinned = ctypes.c_char.from_buffer(area)
            address = ctypes.addressof(pinned)
            del pinned
            yield address, address + len(area)
        finally:
            os.close(write)
            os.close(read)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("untold", ["VmPin", "VmLck"])
def test_pages_that_a_kernel_does_not_count_may_be_there(untold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def less(process: ProcessDir) -> dict[str, str]:
        return {name: value for name, value in read_status(process).items() if name != untold}

    monkeypatch.setattr("mematlas.actions.advice.base.read_status", less)
    monkeypatch.setattr(Process, "page_table_access", lambda self: needs_more())
    with scripted(61) as running:
        assert tell(running, "lock 7 31") == "0"
        with Process(running.pid) as process:
            planned = plan(process, "pageout", of(running, 61))

    assert planned.reasons["mlocked"] == 31
    assert [note[:16] for note in texts(planned.notes) if "pinned" in note] == ["pages may be pin"] * (
        untold == "VmPin"
    )


def needs_more() -> NoReturn:
    raise PermissionDenied("page tables", "CAP_BPF")


def test_files_that_we_neither_own_nor_may_write_to_stay(
    victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]
) -> None:
    one = victim(uid=65534)

    def work() -> object:
        with Process(one.pid) as process:
            planned = plan(process, "pageout", Selection(path="libc.so"), choice=Choice(file=True))
            effect = act(process, planned)
            is_whole(effect)
            return planned.reasons, effect.nr_moved, effect.reasons

    planned, nr_moved, reasons = as_nobody(work, caps=["CAP_SYS_NICE"]).value
    assert nr_moved == 0
    assert set(planned) == set(reasons) <= {"shared", "not ours"}


def test_memory_that_was_given_up_is_freed_and_kept_nowhere(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        assert tell(running, "free") == "0"
        effect = pageout(process, of(running, 1009))
        is_whole(effect)
        # A few may wait to be given up, in the batch of a processor: those are swapped out.
        assert effect.swap is not None
        assert effect.nr_moved == effect.nr_given_up + effect.swap // PAGE == 1009
        assert effect.nr_given_up > 900
        assert effect.nr_freed is not None
        assert effect.nr_freed >= effect.nr_given_up
        assert smaps_field(running.pid, running.told, "Rss") == 0
        assert undo(process, effect).nr_requested == effect.swap // PAGE


@pytest.mark.usefixtures("way_back")
def test_clean_pages_of_a_file_leave_and_come_back(victim: Callable[..., Victim]) -> None:
    one = victim("shared_file")
    area = one["shared_file"]
    with open(area.path, "rb") as file:
        os.fsync(file.fileno())
    with Process(one.pid) as process:
        planned = plan(process, "pageout", at(area))
        assert (planned.nr_requested, planned.nr_needs_swap) == (area.nr_resident, 0)
        effect = act(process, planned)
        is_whole(effect)
        # What the process wrote through its mapping became dirty again: unmapped, and still cached.
        assert effect.nr_moved == area.nr_resident
        assert effect.nr_freed is not None
        assert effect.nr_freed >= 13
        back = willneed(process, at(area))
        is_whole(back)
    assert back.nr_moved >= effect.nr_freed
    assert not set(back.reasons) - {"unread"}


def test_dirty_pages_of_a_file_leave_the_process_and_not_ram(victim: Callable[..., Victim]) -> None:
    one = victim("shared_file")  # written a moment ago, to a disk that takes seconds
    area = one["shared_file"]
    one.touch("shared_file", *range(3, 20))
    with Process(one.pid) as process:
        planned = plan(process, "pageout", at(area))
        effect = act(process, planned)
    is_whole(effect)
    assert planned.nr_dirty is not None
    assert planned.nr_dirty >= 17
    assert effect.page_cached is not None
    nr_stayed = sum(effect.reasons.get(key, 0) for key in ("dirty", "busy"))
    assert effect.page_cached // PAGE + nr_stayed >= 17
    assert effect.nr_freed == effect.nr_moved - effect.page_cached // PAGE
    assert smaps_field(one.pid, area.address, "Rss") == effect.nr_stayed


def test_cold_pages_are_no_longer_referenced(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    with Process(one.pid) as process:
        effect = cold(process, at(area))
        is_whole(effect)
        assert effect.nr_moved == area.nr_pages
        assert smaps_field(one.pid, area.address, "Referenced") == 0
        assert smaps_field(one.pid, area.address, "Rss") == area.nr_pages
        again = cold(process, at(area))
    assert (again.nr_moved, again.reasons) == (0, {"idle": area.nr_pages})


def test_small_pages_collapse_into_huge_ones(victim: Callable[..., Victim], swap: Path) -> None:
    if not takes(MADV_COLLAPSE):
        pytest.skip("needs Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE")
    one = victim("thp")
    area = one["thp"]
    with Process(one.pid) as process:
        # Through swap and back, huge pages become small ones.
        undo(process, pageout(process, at(area)))
        if smaps_field(one.pid, area.address, "AnonHugePages"):
            pytest.skip("this kernel swaps huge pages in whole")
        effect = collapse(process, at(area))
        is_whole(effect)
        assert effect.nr_moved == smaps_field(one.pid, area.address, "AnonHugePages")
        assert effect.nr_moved + effect.reasons.get("no memory", 0) == area.nr_resident
        again = collapse(process, at(area))
    assert again.reasons.get("huge", 0) == effect.nr_moved


def test_collapse_is_asked_for_whole_huge_pages_whatever_is_advised_at_a_time() -> None:
    if not takes(MADV_COLLAPSE):
        pytest.skip("needs Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE")
    with program(HUGE, [3, 0, True]) as running, Process(running.pid) as process:
        address, size = running.told
        effect = collapse(process, Selection(span=(address, address + size)), chunk_size=3 * MIB)
    assert effect.nr_moved + effect.reasons.get("no memory", 0) == size // PAGE
    if not effect.nr_moved:
        pytest.skip("no huge page was to be had")


def test_cold_huge_pages_stay_whole_where_the_vma_begins_in_the_middle_of_one() -> None:
    with program(HUGE, [4, 7, False]) as running, Process(running.pid) as process:
        address, size = running.told
        before = smaps_field(running.pid, address, "AnonHugePages")
        if not before:
            pytest.skip("no huge page was to be had")
        effect = cold(process, Selection(span=(address, address + size)))
        assert smaps_field(running.pid, address, "AnonHugePages") == before
    assert effect.nr_advised == size // PAGE


# --- what stays, and why


def test_less_than_a_huge_page_is_unaligned(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    with Process(one.pid) as process:
        effect = collapse(process, at(area))
    assert (effect.nr_advised, effect.reasons) == (0, {"unaligned": area.nr_pages})


def test_where_huge_pages_are_not_allowed_collapse_is_refused() -> None:
    with scripted() as running, Process(running.pid) as process:
        effect = collapse(process, of(running))
    is_whole(effect)
    assert effect.nr_advised == 0
    assert set(effect.reasons) == {"refused", "unaligned"}


def test_mlocked_memory_stays(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("locked")
    area = one["locked"]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
    assert (effect.nr_advised, effect.nr_moved, effect.reasons) == (0, 0, {"mlocked": area.nr_pages})


def test_hugetlb_pages_stay(victim: Callable[..., Victim], hugetlb_pages: int) -> None:
    one = victim("hugetlb")
    area = one["hugetlb"]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
    assert effect.reasons == {"hugetlb": area.nr_hugetlb}


def test_process_with_mlockall_stays_whole(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        assert tell(running, "lockall") == "0"
        flags = read_vm_flags(process.dir)
        effect = pageout(process)
        is_whole(effect)
        # What may be dropped is never locked (mm/mlock.c, mlock_fixup()): glibc 2.41 keeps getrandom's state so.
        moved = [item.vma.start for item in effect.vmas if item.nr_moved]
        assert [start for start in moved if "dp" not in flags[start]] == []
        assert set(effect.reasons) <= {"mlocked", "kernel", "shared", "zero"}
        assert effect.reasons["mlocked"] >= 1009
        assert tell(running, "check") == "0"


def test_forked_pair_keeps_what_it_shares_even_when_both_are_advised(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("forked")
    child = one.fork()
    area = one["forked"]
    with Process(one.pid) as process, Process(child.pid) as other:
        for _ in range(2):
            for each in (process, other):
                effect = pageout(each, at(area))
                assert (effect.nr_moved, effect.reasons) == (0, {"shared": area.nr_resident})
        one.rewrite_half()
        area = one["forked"]
        assert pageout(process, at(area)).nr_moved == area.nr_exclusive
        assert pageout(other, at(area)).nr_moved == child.nr_pages - child.count("absent") - area.count("shared")


def test_pair_that_shares_moves_when_one_of_it_ends(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("forked")
    one.fork()
    area = one["forked"]
    nr_resident = area.nr_resident
    one._kill_child()
    with Process(one.pid) as process:
        wait_until(lambda: plan(process, "pageout", at(area)).nr_movable == nr_resident, "the child's memory is freed")
        assert pageout(process, at(area)).nr_moved == nr_resident


def test_without_swap_only_files_can_move(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full", "private_file")
    area, file = one["anon_full"], one["private_file"]
    with Process(one.pid) as process:
        planned = plan(process, "pageout", at(area), room=NO_SWAP)
        assert (planned.nr_movable, planned.reasons) == (0, {"no swap": area.nr_pages})
        effect = act(process, planned)
        assert (effect.nr_advised, effect.reasons) == (0, {"no swap": area.nr_pages})
        planned = plan(process, "pageout", at(file), room=NO_SWAP)
        assert planned.nr_without_swap == file.facts["nr_anon"]
        assert planned.nr_movable == file.nr_exclusive - file.facts["nr_anon"]


def test_swap_that_fills_up_half_way_is_reported(swap: Path) -> None:
    # More than there is, not than is free: others may give some back meanwhile.
    total = sum(area.size for area in read_swaps_of_us())
    nr_pages = total // PAGE + 1511
    if nr_pages * PAGE > 512 * MIB:
        pytest.skip(f"there are {total >> 20} MiB of swap here: too much to fill")
    with scripted(nr_pages) as running, Process(running.pid) as process:
        planned = plan(process, "pageout", of(running, nr_pages))
        assert planned.nr_without_swap == nr_pages - planned.room.size // PAGE
        effect = act(process, planned)
        is_whole(effect)
        assert effect.nr_moved > nr_pages // 2
        assert effect.reasons.get("no swap", 0) >= 1000
        assert not set(effect.reasons) - {"no swap", "busy"}
        assert smaps_field(running.pid, running.told, "Swap") == effect.nr_moved
        assert tell(running, "check") == "0"


def read_swaps_of_us() -> list[SwapArea]:
    with Process(os.getpid()) as process:
        return read_swaps(process.procfs)


def test_no_more_is_brought_back_than_the_memory_cgroup_allows(swap: Path) -> None:
    base = Path("/sys/fs/cgroup/memory")
    if not (base / "memory.limit_in_bytes").exists():
        pytest.skip("needs the memory controller of cgroup version 1")
    group = base / f"mematlas-test-{os.getpid()}"
    group.mkdir()
    try:
        with scripted() as running, Process(running.pid) as process:
            # Pages belong to the group that their process was in when it touched them first.
            (group / "cgroup.procs").write_text(str(running.pid))
            assert tell(running, "renew") == "0"
            effect = pageout(process, of(running))
            assert effect.nr_moved == MANY
            (group / "memory.limit_in_bytes").write_text(str(8 * MIB))
            back = undo(process, effect)
            is_whole(back)
            assert back.nr_requested == MANY
            assert 0 < back.nr_moved <= 8 * MIB // PAGE
            # More would have the kernel kill the process.
            assert back.reasons.pop("cgroup") >= MANY - 8 * MIB // PAGE
            assert set(back.reasons) <= {"busy"}
            assert tell(running, "touch 0 1") == "0"
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


@pytest.mark.usefixtures("way_back")
def test_no_more_is_brought_back_than_there_is_memory(
    victim: Callable[..., Victim], swap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = victim("swapped")
    area = one["swapped"]
    spare = 64 * (os.cpu_count() or 1)
    monkeypatch.setattr("mematlas.actions.rooms.read_meminfo", lambda procfs: {"MemAvailable": (spare + 13) * PAGE})
    with Process(one.pid) as process:
        planned = plan(process, "willneed", at(area))
        assert (planned.nr_movable, planned.reasons) == (13, {"no memory": area.nr_swapped - 13})
        effect = act(process, planned)
    assert (effect.nr_moved, effect.reasons) == (13, {"no memory": area.nr_swapped - 13})


def test_plan_and_act_name_the_cgroup_when_that_is_what_lacks() -> None:
    areas = (SwapArea(path="/swap", kind="file", size=100 * PAGE, used=0, priority=-2),)
    with scripted(23) as running, Process(running.pid) as process:
        planned = plan(process, "pageout", of(running, 23), room=SwapRoom(areas, {}, 7 * PAGE))
        nothing = plan(process, "pageout", of(running, 23), room=SwapRoom(areas, {}, 0))
        effect = act(process, nothing)
    assert (planned.nr_movable, planned.reasons) == (7, {"cgroup": 16})
    assert nothing.reasons == effect.reasons == {"cgroup": 23}
    assert effect.nr_advised == 0


# --- what changes under our hands


def test_target_that_ends_in_the_middle_gives_a_report(swap: Path) -> None:
    calls = []
    with scripted(2 * MANY) as running, Process(running.pid) as process:

        def stop() -> bool:
            calls.append(0)
            if len(calls) == 7:
                running.kill()
            return False

        effect = pageout(process, of(running, 2 * MANY), stop=stop)
    is_whole(effect)
    assert effect.gone
    assert "ended" in effect.stopped
    assert effect.nr_requested == 2 * MANY
    assert effect.reasons["unfinished"] == effect.nr_stayed
    assert (effect.swap_cached, effect.nr_freed) == (None, None)
    assert any("still in RAM: the process is gone" in note for note in texts(effect.notes))


def test_target_that_execs_in_the_middle_is_left_alone(swap: Path) -> None:
    calls = []
    with scripted(2 * MANY) as running, Process(running.pid) as process:

        def stop() -> bool:
            calls.append(0)
            if len(calls) == 7:
                assert tell(running, "exec") == "exec"
            return False

        effect = pageout(process, of(running, 2 * MANY), stop=stop)
        assert len(calls) == 7
        with Process(running.pid) as new:
            assert plan(new, "willneed", Selection(kinds=frozenset(("heap", "stack", "anon")))).nr_requested == 0
    is_whole(effect)
    assert effect.gone
    assert "another program" in effect.stopped


def test_target_that_ended_before_is_an_error() -> None:
    with scripted(23) as running, Process(running.pid) as process:
        planned = plan(process, "pageout", of(running, 23))
        running.kill()
        with pytest.raises(ProcessGone):
            act(process, planned)


def test_vmas_that_change_between_plan_and_act_count_as_they_are(swap: Path) -> None:
    with scripted() as running, Process(running.pid) as process:
        planned = plan(process, "pageout", of(running))
        assert planned.nr_movable == MANY
        assert tell(running, "unmap 100 1000") == "0"
        assert tell(running, "protect 3000 10") == "0"
        assert tell(running, "lock 4000 50") == "0"
        effect = act(process, planned)
    is_whole(effect)
    assert effect.nr_requested == MANY - 1000
    assert effect.reasons == {"mlocked": 50}
    assert any("VMAs changed" in note for note in texts(effect.notes))


def test_vma_that_was_chosen_and_became_another_is_left_alone(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        chosen = Selection(span=of(running, 1009).span, kinds=frozenset(("anon",)), perms="rw-p")
        planned = plan(process, "pageout", chosen)
        assert planned.nr_movable == 1009
        assert tell(running, "share 0 1009") == "0"
        assert tell(running, "touch") == "0"
        effect = act(process, planned)
    assert (effect.nr_requested, effect.vmas) == (0, ())
    assert any("VMAs changed" in note for note in texts(effect.notes))


def test_vma_that_is_unmapped_during_the_act_is_gone(swap: Path) -> None:
    calls = []
    with scripted() as running, Process(running.pid) as process:

        def stop() -> bool:
            calls.append(0)
            if len(calls) == 3:
                assert tell(running, "unmap 2000 1000") == "0"
            return False

        effect = pageout(process, of(running), stop=stop)
        assert tell(running, "check 0 2000") == "0"
    is_whole(effect)
    assert effect.nr_moved == MANY - 1000
    assert effect.reasons == {"gone": 1000}


def test_vma_that_is_locked_during_the_act_is_refused(swap: Path) -> None:
    calls = []
    with scripted() as running, Process(running.pid) as process:

        def stop() -> bool:
            calls.append(0)
            if len(calls) == 3:
                assert tell(running, "lock") == "0"
            return False

        effect = pageout(process, of(running), stop=stop)
    is_whole(effect)
    # Locking brings back what was out already.
    assert (effect.nr_moved, effect.reasons) == (0, {"refused": MANY})


def test_stopping_gives_a_report_of_what_was_done(swap: Path) -> None:
    calls = []

    def stop() -> bool:
        calls.append(0)
        return len(calls) > 4

    with scripted() as running, Process(running.pid) as process:
        effect = pageout(process, of(running), stop=stop)
        is_whole(effect)
        assert effect.stopped == "interrupted"
        assert not effect.gone
        assert 0 < effect.nr_moved < MANY
        assert set(effect.reasons) == {"unfinished"}
        assert smaps_field(running.pid, running.told, "Swap") == effect.nr_moved


def test_progress_ends_at_everything(swap: Path) -> None:
    seen = []
    with scripted() as running, Process(running.pid) as process:
        pageout(process, of(running), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (MANY, MANY)


# --- which pages


def test_range_of_addresses_means_these_pages_alone(swap: Path) -> None:
    with scripted() as running, Process(running.pid) as process:
        span = Selection(span=(running.told + 7 * PAGE, running.told + 18 * PAGE))
        effect = pageout(process, span)
        assert effect.nr_requested == effect.nr_moved == 11
        assert list(effect.moved.ranges()) == [(running.told + 7 * PAGE, running.told + 18 * PAGE)]
        assert smaps_field(running.pid, running.told, "Swap") == 11


def test_pages_are_chosen_by_state_and_kind(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("private_file")
    area = one["private_file"]
    nr_anon = area.facts["nr_anon"]
    with Process(one.pid) as process:
        for choice, number in (
            (Choice(anon=True), nr_anon),
            (Choice(file=True), area.nr_exclusive - nr_anon),
            (Choice(frozenset(("present",))), area.nr_exclusive),
            (Choice(frozenset(("swapped",))), 0),
        ):
            assert plan(process, "pageout", at(area), choice=choice).nr_movable == number
        effect = act(process, plan(process, "pageout", at(area), choice=Choice(anon=True)))
    assert effect.nr_moved == nr_anon
    assert smaps_field(one.pid, area.address, "Rss") == area.nr_exclusive - nr_anon


def test_plan_changes_nothing(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    with Process(one.pid) as process:
        for advice in ("pageout", "cold", "willneed", "collapse"):
            plan(process, advice, at(area))
    assert smaps_field(one.pid, area.address, "Rss") == area.nr_pages
    assert smaps_field(one.pid, area.address, "Referenced") == area.nr_pages


def test_sparse_memory_is_not_walked(swap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tells_huge_pages():
        pytest.skip("needs Linux 6.7: PAGEMAP_SCAN")
    sizes: list[int] = []

    def read_into(file: LiveFile, buffer: memoryview, offset: int) -> int:
        sizes.append(len(buffer))
        return os.preadv(file.fd, [buffer], offset)

    monkeypatch.setattr(LiveFile, "read_into", read_into)
    size = (1 << 28) * PAGE
    pages = [0, 99_991, 200_000_003, (1 << 28) - 1]
    with sparse(size, pages) as running, Process(running.pid) as process:
        effect = pageout(process, Selection(span=(running.told, running.told + size)))
    assert effect.nr_moved == len(pages)
    # All its entries are 2 GiB.
    assert sum(sizes) < 1 << 24
    assert [start for start, _ in effect.moved.ranges()] == [running.told + page * PAGE for page in pages]


@pytest.mark.parametrize("advice", ["pageout", "cold", "willneed", "collapse"])
@pytest.mark.parametrize("kind", ["anon", "file", "shmem", "hugetlb", "vdso"])
def test_page_that_cannot_move_has_a_reason_that_is_explained(advice: AdviceName, kind: str) -> None:
    rules = Rules(ADVICE[advice], kind)
    assert set(rules.reasons.values()) <= set(REASONS)
    for byte in range(256):
        assert bool(rules.movable[byte]) == (bool(rules.wanted[byte]) and byte not in rules.reasons)
        assert advice == "willneed" or byte & PRESENT or not rules.movable[byte]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInput, match="no such state: hot"):
        parse_states("present,hot")
    with Process(os.getpid()) as process:
        with pytest.raises(BadInput, match="no advice 'dontneed'"):
            plan(process, "dontneed")  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="chunk size"):
            pageout(process, Selection(name="stack"), chunk_size=1)


def test_ranges_are_cut_and_grouped_to_the_size_of_a_call() -> None:
    spans = [(0, 5), (7, 8), (10, 11), (20, 29)]
    groups = list(chunks(spans, 4, []))
    assert [sum(end - start for start, end in group) for group in groups] == [4, 4, 4, 4]
    assert [page for group in groups for start, end in group for page in range(start, end)] == [
        page for start, end in spans for page in range(start, end)
    ]


# --- whom


def test_init_ourselves_and_our_ancestors_are_refused() -> None:
    for pid in (1, os.getpid(), os.getppid()):
        with Process(pid) as process, pytest.raises(TargetRefused, match="use --force to act on it anyway"):
            check_target(process)


def test_other_processes_are_not_refused(victim: Callable[..., Victim]) -> None:
    with Process(victim().pid) as process:
        check_target(process)


def test_page_out_without_the_right_says_which(
    victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("anon_full", uid=65534)
    area = one["anon_full"]

    def work() -> str:
        try:
            with Process(one.pid) as process:
                cold(process, at(area))
        except PermissionDenied as error:
            return error.text
        return "done"

    assert as_nobody(work).value == "CAP_SYS_NICE"
    assert as_nobody(work, caps=["CAP_SYS_NICE"]).value == "done"


# --- what comes back


def test_pages_that_are_touched_return_and_the_others_never_do(swap: Path) -> None:
    with scripted() as running, Process(running.pid) as process:
        effect = pageout(process, of(running))
        looks = []

        def touch_after_two_looks(gone: float, nr_back: int) -> None:
            looks.append(nr_back)
            if len(looks) == 2:
                tell(running, "touch 10 997")

        found = watch_refaults(process, effect.moved, 0.6, interval=0.05, progress=touch_after_two_looks)
    assert (found.nr_moved, found.nr_returned, found.nr_never) == (MANY, 997, MANY - 997)
    assert looks[:2] == [0, 0]
    assert looks[-1] == 997
    assert [number for _, number in found.curve] == [997]
    assert list(found.never.ranges()) == [
        (running.told, running.told + 10 * PAGE),
        (running.told + 1007 * PAGE, running.told + MANY * PAGE),
    ]
    (item,) = found.vmas
    assert (item.nr_moved, item.nr_returned, item.first_s) == (MANY, 997, item.last_s)
    assert found.is_whole


@pytest.mark.parametrize("how", ["drop", "unmap"])
def test_pages_that_are_given_back_are_gone_and_not_cold(swap: Path, how: str) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009))
        lines = [f"{how} 10 97"]

        def give_back(gone: float, nr_back: int) -> None:
            if lines:
                assert tell(running, lines.pop()) == "0"

        found = watch_refaults(process, effect.moved, 0.2, interval=0.05, progress=give_back)
    assert (found.nr_returned, found.nr_gone, found.nr_never) == (0, 97, 1009 - 97)
    assert found.never.nr_pages == 1009 - 97
    assert sum(item.nr_gone for item in found.vmas) == 97


def test_shared_memory_that_is_punched_out_is_gone(victim: Callable[..., Victim], swap: Path) -> None:
    one = victim("tmpfs")
    area = one["tmpfs"]
    with Process(one.pid) as process:
        effect = pageout(process, at(area))
        assert effect.nr_moved == area.nr_present
        os.truncate(area.path, 0)
        found = watch_refaults(process, effect.moved, 0)
    assert (found.nr_gone, found.nr_never) == (area.nr_present, 0)


def test_unmapped_before_the_watch_is_gone(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009))
        assert tell(running, "unmap 0 9") == "0"
        found = watch_refaults(process, effect.moved, 0)
    assert (found.nr_gone, found.nr_never) == (9, 1000)


def test_watch_of_a_process_that_ends_tells_so(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009))
        found = watch_refaults(process, effect.moved, 30, interval=0.01, progress=lambda gone, back: running.kill())
    assert "ended" in found.stopped
    assert found.seconds < 30
    assert not found.is_whole
    assert (found.nr_gone, found.nr_never) == (1009, 0)


def test_process_that_ended_before_the_watch_is_reported_and_what_moved_is_not_lost(swap: Path) -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 1009))
        running.kill()
        found = watch_refaults(process, effect.moved, 30)
    assert found.gone
    assert (found.nr_moved, found.nr_returned, found.nr_gone, found.nr_never) == (1009, 0, 1009, 0)


def test_watch_can_be_stopped(swap: Path) -> None:
    with scripted(23) as running, Process(running.pid) as process:
        effect = pageout(process, of(running, 23))
        found = watch_refaults(process, effect.moved, 30, stop=lambda: True)
    assert (found.stopped, found.nr_returned, found.nr_gone) == ("interrupted", 0, 0)
    assert not found.is_whole


def test_nothing_moved_is_nothing_to_watch() -> None:
    with Process(os.getpid()) as process:
        found = watch_refaults(process, PageSet(PAGE), 0)
    assert (found.nr_moved, found.curve, found.vmas) == (0, (), ())


# --- swap for a while


def is_swapped_to(path: str) -> bool:
    return any(area.path == path for area in read_swaps_of_us())


@pytest.mark.machine
def test_temporary_swap_is_there_and_then_gone() -> None:
    with TemporarySwap(16 * MIB) as swap:
        assert is_swapped_to(swap.path)
        assert os.stat(swap.path).st_mode & 0o777 == 0o600
    assert not is_swapped_to(swap.path)
    assert not os.path.exists(os.path.dirname(swap.path))


@pytest.mark.machine
def test_temporary_swap_gives_back_what_is_in_it() -> None:
    with scripted(1009) as running, Process(running.pid) as process:
        with TemporarySwap(16 * MIB):
            assert pageout(process, of(running, 1009)).nr_moved == 1009
        # Swap of others that has the highest priority too is used in turn with it.
        assert smaps_field(running.pid, running.told, "Swap") == 0 or read_swaps_of_us()
        assert tell(running, "check") == "0"


@pytest.mark.machine
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_temporary_swap_goes_with_a_maker_that_is_killed(number: int) -> None:
    code = (
        "import json, sys\n"
        f"sys.path[:0] = {list(filter(None, __import__('sys').path))!r}\n"
        "from mematlas.kernel.swapfile import TemporarySwap\n"
        "swap = TemporarySwap(16 << 20)\n"
        "print(json.dumps(swap.path), flush=True)\n"
    )
    with program(code) as running:
        assert is_swapped_to(running.told)
        os.kill(running.pid, number)
        wait_until(lambda: not os.path.exists(running.told), "the swap file is gone")
        assert not is_swapped_to(running.told)


@pytest.mark.machine
def test_temporary_swap_leaves_nothing_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="too small"):
        TemporarySwap(4096)
    with pytest.raises(NotSupported, match="/dev/shm: "):
        TemporarySwap(16 * MIB, ("/dev/shm",))
    with pytest.raises(NotSupported, match="/nowhere: "):
        TemporarySwap(16 * MIB, ("/nowhere",))
    with pytest.raises(
        NotSupported, match=r"of 1073741824 MiB: .*needs 1073742848 MiB free .*; /var/tmp: \d+ MiB free\)"
    ):
        TemporarySwap(1 << 50, ("/var/tmp",))
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("mematlas-swap-")]


@pytest.mark.machine
def test_temporary_swap_needs_a_right(as_nobody: Callable[..., Outcome]) -> None:
    def work() -> str:
        try:
            TemporarySwap(16 * MIB, ("/var/tmp",))
        except PermissionDenied as error:
            return error.text
        return "made"

    assert as_nobody(work).value == "CAP_SYS_ADMIN"

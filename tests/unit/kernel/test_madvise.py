"""process_madvise on processes of our own: what it takes, what it refuses, and what that means."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome
from helpers import program
from mematlas.errors import NotSupported, PermissionDenied, ProcessGone
from mematlas.kernel import hugepage, madvise
from mematlas.kernel.madvise import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_PAGEOUT,
    MADV_WILLNEED,
    MAX_RANGES,
    Advisor,
    drain_batches,
    name_of,
    takes,
)
from mematlas.kernel.procfs import ProcFS
from mematlas.kernel.smaps import parse_vm_flags
from mematlas.model.page_set import PageSet, both, either, first_pages, masked, runs, without
from mematlas.observe.process import Process
from victim import Victim, wait_until

MADV_NONSENSE = 9999

pytestmark = pytest.mark.root("CAP_SYS_NICE")


def fake_call(*answers: int) -> Callable[..., int]:
    """Return a system call that gives these answers in turn: bytes, or an errno when below zero."""
    queue = list(answers)
    return lambda *asked: queue.pop(0)


ADVICE = [MADV_COLD, MADV_PAGEOUT, pytest.param(MADV_WILLNEED, id="willneed")]


@pytest.mark.parametrize("advice", ADVICE)
def test_bytes_taken_are_those_of_the_ranges(victim: Callable[..., Victim], advice: int) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        assert advisor.advise([(area.address, area.end)], advice) == (area.size, [])
        assert advisor.seconds > 0


def test_more_ranges_than_one_call_takes(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    ranges = [(area.page_address(0), area.page_address(1))] * (2 * MAX_RANGES + 7)
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        assert advisor.advise(ranges, MADV_COLD) == (len(ranges) * area.page_size, [])


def test_short_return_is_continued_and_an_interruption_repeated(
    victim: Callable[..., Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = victim()
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        monkeypatch.setattr(madvise, "call_madvise", fake_call(3 * 4096, -errno.EINTR, 4096, 4096))
        assert advisor.advise([(0, 2 * 4096), (9 * 4096, 12 * 4096)], MADV_COLD) == (5 * 4096, [])


def test_empty_ranges_are_left_out(victim: Callable[..., Victim]) -> None:
    one = victim()
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        assert advisor.advise([(4096, 4096)], MADV_COLD) == (0, [])


def test_hole_refuses_its_range_alone(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    unmapped = (mmap.PAGESIZE, 2 * mmap.PAGESIZE)
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        taken = advisor.advise([unmapped, (area.address, area.end)], MADV_COLD)
    assert taken == (area.size, [(*unmapped, errno.ENOMEM)])


def test_mlocked_range_is_refused_alone(victim: Callable[..., Victim]) -> None:
    one = victim("locked", "anon_full")
    locked, area = one["locked"], one["anon_full"]
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        taken = advisor.advise([(locked.address, locked.end), (area.address, area.end)], MADV_PAGEOUT)
    assert taken == (area.size, [(locked.address, locked.end, errno.EINVAL)])


def test_less_than_a_huge_page_is_a_refused_range_not_a_missing_advice(victim: Callable[..., Victim]) -> None:
    if not takes(MADV_COLLAPSE):
        pytest.skip("needs Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE")
    one = victim("anon_full")
    area = one["anon_full"]
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        taken = advisor.advise([(area.address, area.end)], MADV_COLLAPSE)
    assert taken == (0, [(area.address, area.end, errno.EINVAL)])


def test_unknown_advice_is_not_supported(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    assert not takes(MADV_NONSENSE)
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor, pytest.raises(NotSupported):
        advisor.advise([(area.address, area.end)], MADV_NONSENSE)


def test_kernel_without_the_call_is_not_supported(
    victim: Callable[..., Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = victim()
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        monkeypatch.setattr(madvise, "call_madvise", fake_call(-errno.ENOSYS))
        with pytest.raises(NotSupported, match=r"Linux 5\.10"):
            advisor.advise([(4096, 8192)], MADV_COLD)


@pytest.mark.parametrize("advice", ADVICE)
def test_this_kernel_takes_the_three_old_ones(advice: int) -> None:
    assert takes(advice)


def test_probing_does_not_need_the_kernel_to_tell_its_huge_page_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepage, "HUGE_SIZE_FILE", "/nowhere")
    assert hugepage.huge_size() == mmap.PAGESIZE // 8 * mmap.PAGESIZE
    assert takes(MADV_COLD)


def test_ended_process_is_gone(victim: Callable[..., Victim]) -> None:
    one = victim("anon_full")
    area = one["anon_full"]
    with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
        one.exit()
        with pytest.raises(ProcessGone):
            advisor.advise([(area.address, area.end)], MADV_COLD)
        with pytest.raises(ProcessGone):
            Advisor(process)


IN_A_NAMESPACE = """
import json, os, signal, sys
target, sys.path[:] = int(sys.argv[1]), json.loads(sys.argv[2])
from mematlas.errors import NotSupported
from mematlas.kernel.madvise import Advisor
from mematlas.kernel.procfs import ProcFS
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(target - 1))
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, os.readlink("/proc/self").encode())
    signal.pause()
outer = int(os.read(told, 20))

def reached(number):
    with ProcFS().process(number) as process:
        try:
            with Advisor(process) as advisor:
                lines = open(f"/proc/self/fdinfo/{advisor.pidfd}").read().split()
                return int(lines[lines.index("Pid:") + 1])
        except NotSupported as error:
            return str(error)

print(json.dumps([child, outer, reached(target), reached(outer)]))
"""


def test_namesake_in_our_pid_namespace_is_not_taken_for_the_target(victim: Callable[..., Victim]) -> None:
    target = victim().pid
    words = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", IN_A_NAMESPACE]
    try:
        run = subprocess.run(
            [*words, str(target), json.dumps(sys.path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    if "unshare" in run.stderr or "ns_last_pid" in run.stderr:
        pytest.skip(f"no PID namespace here: {run.stderr}")
    child, outer, reached_target, reached_child = json.loads(run.stdout or run.stderr)
    assert child == target, "in the namespace, another process has the PID of the target"
    assert outer != target
    assert "PID namespace" in reached_target
    assert reached_child == outer


FIRST_ENDED = """
import ctypes, json, mmap, sys, threading
lib = ctypes.CDLL(None)
area = mmap.mmap(-1, 4096)
def live():
    print("null", flush=True)
    sys.stdin.read()
    lib._exit(0)
threading.Thread(target=live).start()
lib.pthread_exit(None)
"""


def test_process_whose_first_thread_has_ended_cannot_be_reached_and_has_not_ended() -> None:
    with program(FIRST_ENDED, wait="") as running:
        wait_until(lambda: ") Z " in Path(f"/proc/{running.pid}/stat").read_text(), "the first thread has ended")
        with Process(running.pid) as process:
            # Which devices are memory is read in the folder of the process, through a thread that lives.
            assert "shmem" in {vma.kind for vma in process.address_space().vmas}
            # kernel/pid.c, pidfd_get_task() takes the pidfd of a first thread, and that has no memory any more.
            with pytest.raises(NotSupported, match=f"of {running.pid}: .*first thread"):
                Advisor(process.dir)
            with ProcFS().process(running.pid) as first, Advisor(first) as advisor:
                vma = process.address_space().vmas[0]
                with pytest.raises(NotSupported, match=f"of {running.pid}: .*first thread"):
                    advisor.advise([(vma.start, vma.end)], MADV_COLD)


def test_missing_right_is_named(victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]) -> None:
    one = victim("anon_full", uid=65534)
    area = one["anon_full"]

    def work() -> str:
        with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
            try:
                advisor.advise([(area.address, area.end)], MADV_COLD)
            except PermissionDenied as error:
                return error.text
        return "nothing"

    assert as_nobody(work).value == "CAP_SYS_NICE"
    assert as_nobody(work, caps=["CAP_SYS_NICE"]).value == "nothing"


def test_process_of_another_user_needs_ptrace_too(
    victim: Callable[..., Victim], as_nobody: Callable[..., Outcome]
) -> None:
    one = victim("anon_full")
    area = one["anon_full"]

    def work() -> str:
        with ProcFS().process(one.pid) as process, Advisor(process) as advisor:
            try:
                advisor.advise([(area.address, area.end)], MADV_COLD)
            except PermissionDenied as error:
                return error.text
        return "nothing"

    outcome = as_nobody(work, caps=["CAP_SYS_NICE"])
    assert outcome.value == "CAP_SYS_PTRACE and CAP_SYS_NICE"


def test_capture_takes_no_advice(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text('{"page_size": 4096}')
    (tmp_path / "7").mkdir()
    with ProcFS(str(tmp_path)).process(7) as process, pytest.raises(NotSupported, match="capture"):
        Advisor(process)


def test_draining_leaves_our_processors_as_they_were() -> None:
    before = os.sched_getaffinity(0)
    drain_batches()
    assert os.sched_getaffinity(0) == before


def test_advice_has_the_name_that_the_kernel_gives_it() -> None:
    assert [name_of(number) for number in (3, 20, 21, 25)] == [
        "MADV_WILLNEED",
        "MADV_COLD",
        "MADV_PAGEOUT",
        "MADV_COLLAPSE",
    ]
    if hasattr(mmap, "MADV_WILLNEED"):
        assert mmap.MADV_WILLNEED == MADV_WILLNEED


# --- what is read along with it


def test_flags_of_a_vma_are_found_by_its_start() -> None:
    text = b"1000-2000 rw-p 0 00:00 0 \nRss: 4 kB\nVmFlags: rd wr lo \n2000-3000 r--p 0 00:00 0 \nVmFlags: rd \n"
    assert parse_vm_flags(text.split(b"\n")) == {0x1000: {"rd", "wr", "lo"}, 0x2000: {"rd"}}


# --- sets of pages


def test_masks_are_combined_page_by_page() -> None:
    one, other = bytes((1, 1, 0, 0)), bytes((1, 0, 1, 0))
    assert both(one, other) == bytes((1, 0, 0, 0))
    assert either(one, other) == bytes((1, 1, 1, 0))
    assert without(one, other) == bytes((0, 1, 0, 0))
    assert masked(bytes((0x81, 0x40, 0x08, 0xFF)), other) == bytes((0x81, 0, 0x08, 0))


@pytest.mark.parametrize("count", range(5))
def test_first_pages_of_a_mask(count: int) -> None:
    mask = b"\0\1\1\0\1\0"
    assert first_pages(mask, count) == bytes(1 if page in [1, 2, 4][:count] else 0 for page in range(6))


@pytest.mark.parametrize("mask", [b"", b"\0", b"\1", b"\0\1\1\0\1", b"\1\0\0\1"])
def test_runs_are_the_pages_of_the_mask(mask: bytes) -> None:
    assert [page for first, end in runs(mask) for page in range(first, end)] == [i for i, b in enumerate(mask) if b]


def test_set_of_pages_gives_back_what_was_put_in() -> None:
    pages = PageSet(4096)
    pages.add(0x8000, b"\1\0\1")
    pages.add(0x1000, b"\1\1")
    pages.add(0x3000, b"\1")
    pages.add(0x8000, b"\0\1\0")
    pages.add(0x20000, b"\0\0")
    assert pages.nr_pages == 6
    assert list(pages.ranges()) == [(0x1000, 0x4000), (0x8000, 0xB000)]
    assert pages.mask(0x2000, 0xA000) == bytes((1, 1, 0, 0, 0, 0, 1, 1))
    assert not PageSet(4096)

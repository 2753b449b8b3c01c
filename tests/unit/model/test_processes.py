"""The one loop over all processes: everybody is looked at, or passed over for a reason that is kept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers import make_process, program
from mematlas.errors import NotSupported
from mematlas.kernel.procfs import ProcFS
from mematlas.model.processes import ENDED, KERNEL_THREAD, REFUSED, UNREADABLE, Processes
from victim import process_state, wait_until

PF_KTHREAD = 0x00200000


def test_everybody_is_looked_at_or_passed_over_for_a_reason() -> None:
    everybody = Processes(ProcFS())
    seen = [process.pid for process, _ in everybody]
    passed_over = [pid for pids in everybody.skipped.values() for pid in pids]

    assert sorted([*seen, *passed_over]) == everybody.pids
    assert not everybody.skipped[UNREADABLE]


def test_we_are_left_out_unless_asked_for() -> None:
    assert os.getpid() not in Processes(ProcFS()).pids
    assert os.getpid() in Processes(ProcFS(), without=()).pids
    assert os.getppid() in [process.pid for process, _ in Processes(ProcFS())]


def test_threads_of_the_kernel_are_passed_over_and_nobody_else_as_such() -> None:
    everybody = Processes(ProcFS())
    seen = [stat.pid for _, stat in everybody]

    assert not any(is_kernel_thread(pid) for pid in seen)
    assert all(is_kernel_thread(pid) is not False for pid in everybody.skipped[KERNEL_THREAD])


def is_kernel_thread(pid: int) -> bool | None:
    """Return what the flags in stat say; None when it has ended."""
    try:
        return bool(int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[6]) & PF_KTHREAD)
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_zombie_and_a_number_that_nobody_has_count_as_ended() -> None:
    with subprocess.Popen(["true"]) as child:
        wait_until(lambda: process_state(child.pid) == "Z", "it has ended")
        nobody = int(Path("/proc/sys/kernel/pid_max").read_text())
        processes = Processes(ProcFS(), [child.pid, nobody])

        assert list(processes) == []
        assert processes.skipped[ENDED] == [child.pid, nobody]


def test_what_is_no_process_file_is_unreadable_and_the_rest_goes_on(tmp_path: Path) -> None:
    for pid in (3, 4, 5):
        make_process(tmp_path, pid)
    (tmp_path / "4" / "stat").write_text("nonsense")
    processes = Processes(ProcFS(str(tmp_path)))

    assert [process.pid for process, _ in processes] == [3, 5]
    assert processes.skipped == {ENDED: [], KERNEL_THREAD: [], REFUSED: [], UNREADABLE: [4]}


def test_after_the_deadline_the_others_are_counted(tmp_path: Path) -> None:
    for pid in (3, 4, 5):
        make_process(tmp_path, pid)
    processes = Processes(ProcFS(str(tmp_path)), deadline=0)

    assert list(processes) == []
    assert processes.nr_late == 3


def test_each_is_open_until_the_next() -> None:
    with program("import sys; print(1, flush=True)") as one, program("import sys; print(1, flush=True)") as other:
        processes = Processes(ProcFS(), [one.pid, other.pid])
        first, second = (process for process, _ in processes)

    assert (first.pid, second.pid) == (one.pid, other.pid)
    assert (first.fd, second.fd) == (-1, -1)


def test_directory_without_a_proc_on_it_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="proc mounted there"):
        Processes(ProcFS(str(tmp_path)))
